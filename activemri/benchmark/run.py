"""Run a benchmark: play every episode, keep one long table, sum it up.

The work is a list of independent shards. Each finished shard is a small file of its own, written
completely or not at all, so that an interrupted benchmark continues where it stopped, and the
table that comes out is the same in every bit.
"""

import json
import multiprocessing
import shlex
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet

from activemri import files
from activemri.agents.order import Order
from activemri.agents.rollout import Episodes, rollout
from activemri.benchmark import savings
from activemri.benchmark.plan import BenchmarkSettings, Plan, Shard
from activemri.benchmark.report import Report, report
from activemri.benchmark.savings import FEATURE, FittedRule
from activemri.benchmark.statistics import COLUMNS, RETURN, TRAITS, higher_is_better
from activemri.envs.protocol import ScanProtocol
from activemri.envs.scan import State
from activemri.metrics import METRICS
from activemri.options import Compute, RunOptions
from activemri.progress import Progress
from activemri.stopping.features import Curves, Features, play_recorded

if TYPE_CHECKING:
    from activemri.benchmark.plan import PolicyLike, ReconstructorLike

_SETTINGS = "settings.json"

Item = TypeVar("Item")

#: Settings that change neither an episode nor its place in the table. Policies and reconstructors
#: are told by their fingerprints; which ones are compared is free.
_FREE = (
    "run", "compute", "reference", "n_bootstrap", "workers", "stop", "policies", "reconstructors"
)  # fmt: skip
_ORACLE_COST = 50.0  # of an oracle's episode, others cost 1: for the time that is left
_PLAYERS = ("policy ", "reconstructor ", "evaluator ")


@dataclass(frozen=True, eq=False)
class Outcome:
    """A finished benchmark.

    Attributes:
        table: the long table.
        report: tables of results.
        out: folder of the files.
    """

    table: pd.DataFrame
    report: Report
    out: Path

    def __str__(self) -> str:
        """The tables that the command prints, and the places of the files."""
        return f"{self.report.text()}\n\n{self.out}/results.parquet, summary.json, report.html"


def run_benchmark(settings: BenchmarkSettings) -> Outcome:
    """Run, or continue, and write results.parquet, summary.json and report.html.

    Raises:
        ValueError: for unknown names, or a folder that holds a benchmark of other settings.
        OSError: if the folder cannot be written.
    """
    out = settings.run.out
    files.require_writable(out)
    plan = Plan(settings)
    manifest = _manifest(plan)
    known = _refuse_other_settings(out, manifest)
    # Only now, so that a mistake in the settings does not take the folder.
    files.make_writable(out)
    files.write_json(out / _SETTINGS, known | manifest)
    table = _play(plan)
    _write_parquet(table, out / "results.parquet")
    rules = _fit_rules(plan)
    with Progress("sum up", 1, unit="") as progress:
        found = report(plan, table, rules=rules)
        progress(0.7)
        files.write_json(out / "summary.json", found.content)
        command = shlex.join(["activemri", *sys.argv[1:]])
        files.write(out / "report.html", found.html(command=command))
        progress(1)
    return Outcome(table, found, out)


def benchmark(
    protocol: ScanProtocol,
    *,
    policies: Sequence["PolicyLike"],
    reconstructors: Sequence["ReconstructorLike"] = (),
    split: str = "test",
    metric: str | None = None,
    max_slices: int | None = None,
    max_oracle_slices: int | None = None,
    slices_per_volume: int | None = None,
    n_seeds: int = 1,
    n_fit_scans: int | None = 64,
    max_fit_slices: int | None = 256,
    seed: int = 0,
    device: str = "cpu",
    workers: int = 1,
) -> pd.DataFrame:
    """Play policies with reconstructors on the scans of one split, in memory.

    As the command ``activemri benchmark``, but policies and reconstructors may be objects, and no
    folder is left. :func:`activemri.benchmark.statistics.summarise` and the other functions of
    that module, :mod:`activemri.benchmark.adaptivity` and :mod:`activemri.benchmark.figures` take
    the table::

        import activemri as am
        from activemri.benchmark.statistics import summarise

        protocol = am.ScanProtocol(budget=24, reconstructor="cresnet")
        table = am.benchmark(protocol, policies=["random", my_policy], max_slices=20)
        rows = summarise(table)

    Args:
        protocol: of the scans.
        policies: objects, names, paths, or "package.module:object".
        reconstructors: objects, names, paths, or "package.module:object"; none takes the
            protocol's.
        split: subjects.
        metric: score that greedy policies maximise; None takes the one that the reward is about.
        max_slices: at most so many, spread evenly; None takes all.
        max_oracle_slices: the same for oracles, which try every action.
        slices_per_volume: evenly spaced ones; None takes all.
        n_seeds: of policies that draw at random.
        n_fit_scans: train scans behind each step of a learned order; None takes all.
        max_fit_slices: train scans that learned orders see at all; None takes all.
        seed: of all that is drawn at random.
        device: of all computations.
        workers: processes side by side; objects must then be picklable.

    Returns:
        One row for each policy, reconstructor, scan, seed, step and metric; see
        :func:`long_rows`.

    Raises:
        ValueError: for names and parts that make no sense or do not fit together.
    """
    with TemporaryDirectory(prefix="activemri-") as folder:
        settings = BenchmarkSettings(
            protocol=replace(protocol, split=split),
            run=RunOptions(out=Path(folder), seed=seed),
            compute=Compute(device=device, threads=None if workers == 1 else 1),
            policies=tuple(policies),
            reconstructors=tuple(reconstructors),
            metric=metric,
            max_slices=max_slices,
            max_oracle_slices=max_oracle_slices,
            slices_per_volume=slices_per_volume,
            n_seeds=n_seeds,
            n_fit_scans=n_fit_scans,
            max_fit_slices=max_fit_slices,
            reference="lbcs",
            workers=workers,
        )
        return _play(Plan(settings))


def long_rows(
    episodes: Episodes, shard: Shard, *, metric: str, step_cost: float = 0.0
) -> pd.DataFrame:
    """Rows of the long table: one for each scan, step and metric.

    With a price of actions the metric "return" is what a scan gained in a score less what its
    actions cost; it is 0 before the first action.

    Columns: policy, reconstructor, volume, slice, subject, contrast, step, n_acquired, action (-1
    before the first), metric, value, seed. An episode's rows end with the episode.
    """
    # The mean uncertainty is no score.
    scores = {name: values for name, values in episodes.scores.items() if name in METRICS}
    if step_cost > 0:
        sign = 1.0 if higher_is_better(metric) else -1.0
        scores[RETURN] = sign * (scores[metric] - scores[metric][:, :1])
        scores[RETURN][:, 1:] -= step_cost * (episodes.actions >= 0).cumsum(dim=1).double()
    return _rows(episodes, shard, {name: values.numpy() for name, values in scores.items()})


def _rows(episodes: Episodes, shard: Shard, values: dict[str, Any]) -> pd.DataFrame:
    """Rows of values (batch, steps + 1) by metric."""
    blocks = []
    for row, scan in enumerate(episodes.scans):
        n_steps = int(episodes.n_steps[row])
        actions = episodes.actions[row, :n_steps].numpy()
        for metric, curves in values.items():
            blocks.append(
                pd.DataFrame(
                    {
                        "policy": shard.policy,
                        "reconstructor": shard.reconstructor,
                        "volume": scan.volume,
                        "slice": scan.index,
                        "subject": scan.subject,
                        "contrast": scan.contrast,
                        "step": np.arange(n_steps + 1),
                        "n_acquired": episodes.n_acquired[row, : n_steps + 1].numpy(),
                        "action": np.concatenate([[-1], actions]),
                        "metric": metric,
                        "value": curves[row, : n_steps + 1],
                        "seed": shard.seed,
                    }
                )
            )
    return pd.concat(blocks, ignore_index=True)


def _play(plan: Plan) -> pd.DataFrame:
    """Every shard's rows, in the order of the shards; what was played before is only read."""
    scored = list(plan.shards())
    shards = [*scored, *plan.stopping_shards()]
    missing = [shard for shard in shards if not _is_whole(plan, shard)]
    orders = dict.fromkeys(
        (kind, shard.reconstructor)
        for shard in missing
        for kind in plan.orders_needed(shard.policy)
    )
    cost = {label: _ORACLE_COST if t.is_oracle else 1.0 for label, t in plan.traits.items()}

    def work(some: Iterable[Shard]) -> float:
        return sum(cost[shard.policy] * len(shard.positions) for shard in some)

    n_scans = sum(len(shard.positions) for shard in shards)
    n_done = n_scans - sum(len(shard.positions) for shard in missing)
    before = work(shards) - work(missing)
    with _processes(plan, len(missing)) as processes:
        with Progress("learn orders", len(orders), unit="", show=bool(orders)) as progress:
            for _ in processes.run(_learn_order, list(orders), [1.0] * len(orders), progress):
                pass  # first: several shards need the same one
        with Progress("acquire", work(shards), done=before, unit="") as progress:
            progress.note(f"{n_done} of {n_scans} scans")
            costs = [work([shard]) for shard in missing]
            for shard in processes.run(_play_shard, missing, costs, progress):
                n_done += len(shard.positions)
                progress.note(f"{n_done} of {n_scans} scans")
    table = pd.concat([_read(plan.part(shard)) for shard in scored], ignore_index=True)
    for name in TRAITS:
        table[name] = table["policy"].map({p: getattr(t, name) for p, t in plan.traits.items()})
    return table


def _is_whole(plan: Plan, shard: Shard) -> bool:
    """True where a shard's files are there and can be read; others are played again."""
    try:
        for path in (plan.part(shard), plan.quality_part(shard)):
            if path is not None:
                pyarrow.parquet.read_metadata(path)
    except (FileNotFoundError, pyarrow.ArrowInvalid):
        return False
    return True


def _read(path: Path | None) -> pd.DataFrame:
    assert path is not None
    table = pd.read_parquet(path)
    if missing := [name for name in COLUMNS if name not in (*table.columns, *TRAITS)]:
        raise ValueError(
            f"{path} lacks the columns {', '.join(missing)}: it was written by another version. "
            "Choose another --out, or delete that folder"
        )
    return table


Tell = Callable[[float], object]  # takes the share of an item's work that was done
Work = Callable[[Plan, Item, Tell], None]


def _learn_order(plan: Plan, key: tuple[str, str], tell: Tell) -> None:
    _order(plan, *key, tell=tell)


def _play_shard(plan: Plan, shard: Shard, tell: Tell) -> None:
    """Play one shard and keep its rows of the long table."""
    orders = [_order(plan, kind, shard.reconstructor) for kind in plan.orders_needed(shard.policy)]
    policy = plan.policy(
        shard.policy, shard.reconstructor, order=orders[0] if orders else None, seed=shard.seed
    )
    dataset, acquisition = plan.scans_of(shard), plan.acquisitions[shard.reconstructor]
    scans = [dataset[position] for position in shard.positions]
    reported = 0.0

    def on_step(step: int, state: State) -> None:
        nonlocal reported
        share = 1 - float(state.view.budget.sum() / state.view.start_budget.sum().clamp(min=1))
        tell(share - reported)
        reported = share

    part, quality_part = plan.part(shard), plan.quality_part(shard)
    rows = partial(long_rows, shard=shard, metric=plan.metric, step_cost=plan.protocol.step_cost)
    if quality_part is None:
        episodes = rollout(acquisition, policy, scans, seed=shard.seed, on_step=on_step)
    else:
        episodes, curves = play_recorded(
            acquisition,
            policy,
            scans,
            features=Features(plan.evaluators[shard.reconstructor]),
            seed=shard.seed,
            on_step=on_step,
        )
        features = {FEATURE + name: values for name, values in curves.features.items()}
        whole = pd.concat([rows(episodes), _rows(episodes, shard, features)], ignore_index=True)
        _write_parquet(whole, quality_part)
    if part is not None:
        _write_parquet(rows(episodes), part)
    tell(1 - reported)


def _order(plan: Plan, kind: str, reconstructor: str, *, tell: Tell | None = None) -> Order:
    """A learned order, from the benchmark's folder or learned now."""
    path = plan.settings.run.out / "orders" / f"{kind}-{reconstructor}.json"
    if not path.exists():
        plan.learn_order(kind, reconstructor, on_step=tell).save(path)
    elif tell is not None:
        tell(1.0)
    return Order.load(path)


@dataclass(frozen=True, eq=False)
class _Processes:
    """Pool of processes that work is done in; without one this process does it."""

    plan: Plan
    pool: ProcessPoolExecutor | None = None
    done: Any = None  # cost of the work of all processes so far, shared

    def run(
        self, work: Work[Item], items: Sequence[Item], costs: Sequence[float], progress: Progress
    ) -> Iterator[Item]:
        """Do some work for every item; yields those that are done."""
        if self.pool is None:
            for item, cost in zip(items, costs, strict=True):
                work(self.plan, item, partial(_tell_here, progress, cost))
                yield item
            return
        seen = self.done.value
        futures = {
            self.pool.submit(_work_there, work, item, cost): item
            for item, cost in zip(items, costs, strict=True)
        }
        left = set(futures)
        while left:
            finished, left = wait(left, timeout=0.5, return_when=FIRST_COMPLETED)
            now = self.done.value
            progress(progress.at + now - seen)
            seen = now
            for future in finished:
                future.result()
                yield futures[future]


@contextmanager
def _processes(plan: Plan, n_shards: int) -> Iterator[_Processes]:
    """Worker processes, each with a plan of its own, where several are of use."""
    if plan.settings.workers == 1 or n_shards < 2:
        yield _Processes(plan)
        return
    context = multiprocessing.get_context("spawn")  # forks would inherit locks of torch's threads
    done = context.Value("d", 0.0)
    pool = ProcessPoolExecutor(
        plan.settings.workers,
        mp_context=context,
        initializer=_prepare_worker,
        initargs=(plan.settings, done),
    )
    try:
        yield _Processes(plan, pool, done)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_there: list[Any] = []  # in a worker: its plan, prepared once, and the shared number


def _prepare_worker(settings: BenchmarkSettings, done: Any) -> None:
    # Ctrl-C reaches the workers too: they end at once, and what they had not finished is lost.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _there[:] = [Plan(settings), done]


def _work_there(work: Work[Item], item: Item, cost: float) -> None:
    plan, done = _there

    def tell(share: float) -> None:
        with done.get_lock():
            done.value += share * cost

    work(plan, item, tell)


def _tell_here(progress: Progress, cost: float, share: float) -> None:
    progress(progress.at + share * cost)


def _fit_rules(plan: Plan) -> list[FittedRule]:
    """Stopping rules made from what was played; each is saved in the folder `rules`."""
    if not plan.stopping:
        return []
    scored = _curves(plan, plan.shards())
    played = _curves(plan, plan.stopping_shards())
    fitted = []
    for reconstructor, policy, _ in scored:
        found = savings.fit(
            plan.stop,
            {split: played[reconstructor, policy, split] for split in plan.stopping},
            scored[reconstructor, policy, ""],
            policy=policy,
            reconstructor=reconstructor,
            data=str(plan.protocol.data),
            n_center_lines=plan.protocol.n_center_lines,
            budget=plan.budget,
            seed=plan.settings.run.seed,
        )
        path = plan.settings.run.out / "rules" / f"{policy}-{reconstructor}.json"
        if found.rule is not None:
            found.rule.save(path)
        else:
            path.unlink(missing_ok=True)  # a rule for another target would be taken for this one
        fitted.append(found)
    return fitted


def _curves(plan: Plan, shards: Iterable[Shard]) -> dict[tuple[str, str, str], Curves]:
    """Scores and features along episodes, by reconstructor, policy and split."""
    parts: dict[tuple[str, str, str], list[Curves]] = {}
    for shard in shards:
        path, dataset = plan.quality_part(shard), plan.scans_of(shard)
        if path is not None:
            scans = [dataset.describe(position) for position in shard.positions]
            curves = savings.curves_of(pd.read_parquet(path), scans)
            key = (shard.reconstructor, shard.policy, shard.split)
            parts.setdefault(key, []).append(curves)
    return {key: Curves.join(own) for key, own in parts.items()}


def _refuse_other_settings(out: Path, given: dict[str, Any]) -> dict[str, Any]:
    """Make sure that a folder that holds anything was run with these settings.

    Policies and reconstructors may come and go; those of the same name must be the same. Gives
    back all that have been played there.
    """
    path = out / _SETTINGS
    parts = [path for name in ("parts", "quality") for path in (out / name).rglob("*.parquet")]
    played = [*parts, *(out / "orders").glob("*.json")]
    if not path.exists() or not played:
        return {}
    found = files.read_json(path)
    if "protocol" not in found:
        raise ValueError(
            f"{out} holds a benchmark of an earlier version of this package, which cannot be "
            "continued. Choose another --out, or delete that folder"
        )
    changed = {
        name: (found.get(name), value)
        for name, value in given.items()
        if found.get(name) != value and (name in found or not name.startswith(_PLAYERS))
    }
    if changed:
        raise ValueError(
            f"{out} holds a benchmark with other settings: "
            + "; ".join(f"{name} was {was}, now {now}" for name, (was, now) in changed.items())
            + ". Choose another --out, or delete that folder"
        )
    return {name: mark for name, mark in found.items() if name.startswith(_PLAYERS)}


def _manifest(plan: Plan) -> dict[str, Any]:
    """Settings that decide about the table, as JSON gives them back."""
    settings = {
        field.name: getattr(plan.settings, field.name)
        for field in fields(plan.settings)
        if field.name not in _FREE
    }
    settings |= {"protocol": plan.protocol.changes, "seed": plan.settings.run.seed}
    settings |= {"metric": plan.metric} | plan.fingerprint
    settings["protocol"].pop("reconstructor", None)  # its fingerprint tells it
    plain: dict[str, Any] = json.loads(json.dumps(settings, default=str))
    return plain


def _write_parquet(table: pd.DataFrame, path: Path) -> None:
    with files.replacing(path) as unfinished:
        table.to_parquet(unfinished, index=False)
