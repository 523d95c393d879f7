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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import torch
from numpy.typing import NDArray

from activemri import files
from activemri.agents.order import Order
from activemri.agents.policy import Policy
from activemri.agents.rollout import Episodes, rollout, start_scans
from activemri.benchmark.cost import Costs, announcement
from activemri.benchmark.plan import BenchmarkSettings, Plan, PolicyLike, ReconstructorLike, Shard
from activemri.benchmark.report import Report, report
from activemri.benchmark.savings import FEATURE, FittedRule, curves_of
from activemri.benchmark.statistics import CEILING, RETURN, TRAITS, higher_is_better
from activemri.benchmark.tuning import Tuning
from activemri.data.slices import SliceInfo
from activemri.envs.protocol import ScanProtocol
from activemri.envs.scan import State
from activemri.envs.scanner import IDEAL
from activemri.metrics import METRICS
from activemri.options import Compute, RunOptions
from activemri.progress import Progress
from activemri.stopping import RuleError
from activemri.stopping.features import Curves, play_recorded
from activemri.stopping.rule import RuleKind, StoppingRule, fit_rule

_SETTINGS = "settings.json"
_WRITTEN = (
    _SETTINGS, "parts", "ceilings", "quality", "orders", "tuning", "rules", "results.parquet",
    "summary.json", "report.html", "episode.gif",
)  # fmt: skip

Item = TypeVar("Item")
Tell = Callable[[float], object]  # takes the share of an item's work that was done
Work = Callable[[Plan, Item, Tell], object]

#: Settings that change neither an episode nor its place in the table. Policies and reconstructors
#: are told by their fingerprints; which ones are compared is free.
_FREE = (
    "run", "compute", "reference", "workers", "verify_data", "stop", "policies", "reconstructors"
)  # fmt: skip
_TYPES = {
    **dict.fromkeys(["policy", "reconstructor", "volume", "subject", "contrast"], "string"),
    **dict.fromkeys(["slice", "step", "n_acquired", "action", "seed"], "int64"),
    **{"metric": "string", "value": "double"},
}
_OF_SCAN = ["policy", "reconstructor", "seed", "volume", "slice", "subject", "contrast"]
_PLAYERS = ("policy ", "reconstructor ", "evaluator ")


@dataclass(frozen=True, eq=False)
class Outcome:
    """A finished benchmark: the long table, the report, the folder of its files."""

    table: pd.DataFrame
    report: Report
    out: Path

    def __str__(self) -> str:
        """The tables that the command prints, and the places of the files."""
        return f"{self.report.text()}\n\n{self.out}/results.parquet, summary.json, report.html"


def run_benchmark(settings: BenchmarkSettings) -> Outcome:
    """Run, or continue, and write results.parquet, summary.json and report.html.

    Raises:
        ValueError: for unknown names, a folder that holds a benchmark of other settings, or scans
            that have changed since.
        OSError: if the folder cannot be written.
    """
    out = settings.run.out
    files.require_claimable(out, "benchmark")
    plan = Plan(settings)
    played = plan.contents(anew=settings.verify_data)
    manifest = _manifest(plan, played)
    # Only now, so that a mistake in the settings does not take the folder.
    with files.claimed(out, "benchmark", overwrite=_WRITTEN if settings.run.overwrite else ()):
        files.write_json(out / _SETTINGS, manifest)
        table = _play(plan)
        _require_same(plan.contents(), played, f"while {out} was made")
        _write_parquet(table, out / "results.parquet")
        rules = _fit_rules(plan) if plan.stopping else []
        with Progress("sum up", 1, unit="") as progress:
            tunings = [_tune(plan, key, lambda share: None) for key in plan.tuned()]
            found = report(plan, table, rules=rules, tunings=tunings)
            progress(0.7)
            files.write_json(out / "summary.json", {**found.content, "scans": played})
            command = shlex.join(["activemri", *sys.argv[1:]])
            files.write(out / "report.html", found.html(command=command))
            progress(1)
    return Outcome(table, found, out)


def benchmark(
    protocol: ScanProtocol,
    *,
    policies: Sequence[PolicyLike],
    reconstructors: Sequence[ReconstructorLike] = (),
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

    The arguments are options of the command ``activemri benchmark``
    (:class:`activemri.benchmark.plan.BenchmarkSettings`), but policies and reconstructors may be
    objects; with several workers they must be picklable. The table, of :func:`long_rows`, is what
    :func:`activemri.benchmark.statistics.summarise` and the other functions of that module,
    :mod:`activemri.benchmark.adaptivity` and :mod:`activemri.benchmark.figures` take; further
    columns are ``ceiling``, the score with all readouts, ``phase`` of the slice, and ``content``
    and ``protocol``, marks by which rows of other scans or processing are refused::

        import activemri as am
        from activemri.benchmark.statistics import summarise

        protocol = am.ScanProtocol(budget=24, reconstructor="cresnet")
        table = am.benchmark(protocol, policies=["random", my_policy], max_slices=20)
        rows = summarise(table)

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
            workers=workers,
        )
        return _play(Plan(settings))


def long_rows(
    episodes: Episodes,
    shard: Shard,
    *,
    metric: str,
    step_cost: float = 0.0,
    features: Mapping[str, NDArray[np.float64]] | None = None,
) -> pd.DataFrame:
    """Rows of the long table: one for each scan, step and metric.

    Columns: policy, reconstructor, volume, slice, subject, contrast, step, n_acquired, action (-1
    before the first), metric, value, seed. An episode's rows end with the episode.

    With a price of actions the metric "return" is what a scan gained in a score (`metric`) less
    what its actions cost; it is 0 before the first action. Features, (scan, step) by name, become
    metrics named "feature ...".
    """
    # The mean uncertainty is no score.
    values = {name: curve.numpy() for name, curve in episodes.scores.items() if name in METRICS}
    if step_cost > 0:
        sign = 1.0 if higher_is_better(metric) else -1.0
        values[RETURN] = sign * (values[metric] - values[metric][:, :1])
        n_taken = (episodes.actions >= 0).cumsum(dim=1).double().numpy()
        values[RETURN][:, 1:] -= step_cost * n_taken
    values |= {FEATURE + name: curve for name, curve in (features or {}).items()}
    blocks = []
    for row, scan in enumerate(episodes.scans):
        n_steps = int(episodes.n_steps[row])
        actions = episodes.actions[row, :n_steps].numpy()
        for name, curves in values.items():
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
                        "metric": name,
                        "value": curves[row, : n_steps + 1],
                        "seed": shard.seed,
                    }
                )
            )
    return pd.concat(blocks, ignore_index=True)


def _play(plan: Plan) -> pd.DataFrame:
    """Every shard's rows, in the order of the shards; what was played before is only read."""

    def is_whole(shard: Shard) -> bool:
        """True where a shard's files are there and can be read; others are played again."""
        try:
            for path in filter(None, (shard.part, shard.quality)):
                pyarrow.parquet.read_metadata(path)
        except (OSError, pyarrow.ArrowException):
            return False
        return True

    scored = list(plan.shards())
    shards = [*scored, *(shard for split in plan.stopping for shard in plan.shards(split))]
    missing = [shard for shard in shards if not is_whole(shard)]
    orders = dict.fromkeys(
        (plan.orders[shard.policy], shard.reconstructor)
        for shard in missing
        if shard.policy in plan.orders
    )
    play = dict[Shard, float]()  # seconds
    learn, tune = dict[tuple[str, str], float](), dict[tuple[str, str], float]()
    played = {(shard.policy, shard.reconstructor) for shard in missing}
    tunings = [key for key in plan.tuned() if key in played]
    if missing:
        costs = Costs(plan)
        sys.stderr.write(announcement(costs, missing, orders, tunings) + "\n")
        # Cheap policies first, so that they are whole where the benchmark is interrupted.
        missing.sort(
            key=lambda one: (costs.rank(one), one.split, one.reconstructor, one.positions, one.seed)
        )
        play = {shard: costs.shard(shard).seconds for shard in missing}
        learn = {key: costs.order(*key).seconds for key in orders}
        tune = {key: costs.tuning(*key).seconds for key in tunings}
    with Progress("learn orders", sum(learn.values()), unit="", show=bool(learn)) as progress:
        for _ in _in_processes(plan, _learn_order, learn, progress):
            pass  # first: several shards need the same one
    with Progress("tune", sum(tune.values()), unit="", show=bool(tune)) as progress:
        for _ in _in_processes(plan, _tune, tune, progress):
            pass
    n_scans = sum(len(shard.positions) for shard in shards)
    n_done = n_scans - sum(len(shard.positions) for shard in missing)
    with Progress("acquire", sum(play.values()), unit="") as progress:
        progress.note(f"{n_done} of {n_scans} scans")
        for shard in _in_processes(plan, _play_shard, play, progress):
            n_done += len(shard.positions)
            progress.note(f"{n_done} of {n_scans} scans")
    ceilings = list(plan.ceilings())
    missing = [shard for shard in ceilings if not is_whole(shard)]
    n_left = sum(len(shard.positions) for shard in missing)
    with Progress("ceilings", n_left, unit="scan", show=bool(missing)) as progress:
        for shard in missing:
            assert shard.part is not None
            _write_parquet(long_rows(_ceiling(plan, shard), shard, metric=plan.metric), shard.part)
            progress(progress.at + len(shard.positions))
    table, highest = (
        pd.concat([read_rows(s.part, s, plan.described(s)) for s in own if s.part])
        for own in (scored, ceilings)
    )
    keys = ["reconstructor", "metric", "volume", "slice"]
    highest = highest[[*keys, "value"]].rename(columns={"value": "ceiling"})
    table = table.merge(highest, on=keys, how="left")
    marks = plan.contents()
    scans = pd.DataFrame(
        [(s.volume, s.index, s.phase, marks[s.volume]) for s in plan.scored.describe()],
        columns=["volume", "slice", "phase", "content"],
    )
    table = table.merge(scans, on=["volume", "slice"], how="left")
    table["protocol"] = plan.described_protocol
    for name in TRAITS:
        table[name] = table["policy"].map({p: getattr(t, name) for p, t in plan.traits.items()})
    return table


def _ceiling(plan: Plan, shard: Shard) -> Episodes:
    """Scores of a shard's scans with all of their readouts, as an ideal scanner measures them."""
    scan = replace(plan.acquisitions[shard.reconstructor], scanner=IDEAL, budget=None)
    slices = [plan.scored.dataset[position] for position in shard.positions]
    state = start_scans(scan, slices, seed=shard.seed)
    view = state.view
    return Episodes(
        policy=CEILING,
        scans=tuple(plan.described(shard)),
        start_mask=view.start_mask.cpu(),
        actions=torch.empty((len(slices), 0), dtype=torch.int64),
        n_acquired=view.n_measurable.cpu()[:, None],
        scores={k: v.cpu() for k, v in scan.preview_masks(state, view.measurable[:, None]).items()},
    )


def read_rows(path: Path, shard: Shard, scans: Sequence[SliceInfo]) -> pd.DataFrame:
    """Rows of the long table that an earlier run kept of a shard's scans.

    Raises:
        ValueError: the file is damaged, lacks columns, is about something else, or a score is none.
    """
    try:
        read = pyarrow.parquet.read_table(path, page_checksum_verification=True)
        if lacking := [name for name in _TYPES if name not in read.column_names]:
            raise ValueError(f"it lacks the columns {', '.join(lacking)}")
        for name, kind in _TYPES.items():
            column = read.column(name)
            found = str(column.type).removeprefix("large_")
            if found != kind or (column.null_count and name != "value"):
                raise ValueError(f"expected {kind} in the column {name}; got {found}")
        table: pd.DataFrame = read.replace_schema_metadata(None).to_pandas()
        scores = table.loc[~table["metric"].str.startswith(FEATURE), ["metric", "value"]]
        perfect = (scores["metric"] == "psnr") & (scores["value"] == np.inf)  # no error at all
        if not (np.isfinite(scores["value"]) | perfect).all():
            raise ValueError("expected a finite number for every score")
        about = table[_OF_SCAN].drop_duplicates().itertuples(index=False, name=None)
        played = (shard.policy, shard.reconstructor, shard.seed)
        scanned = {(*played, s.volume, s.index, s.subject, s.contrast) for s in scans}
        steps = table.groupby(["volume", "slice", "metric"])["step"].agg(["nunique", "size", "max"])
        whole = (steps["size"] == steps["nunique"]) & (steps["size"] == steps["max"] + 1)
        alike = steps.groupby(["volume", "slice"])["size"].nunique() == 1
        if set(about) != scanned or not (whole.all() and alike.all()):
            raise ValueError(f"expected each step of {len(scanned)} scans once, with {played}")
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be used: {error!s:.300}. Delete it, and its scans are played again"
        ) from error
    return table


def _learn_order(plan: Plan, key: tuple[str, str], tell: Tell) -> Order:
    """The order of a kind for a reconstructor, from the benchmark's folder or learned now."""
    path = plan.settings.run.out / "orders" / f"{'-'.join(key)}.json"
    if not path.exists():
        plan.learn_order(*key, on_step=tell).save(path)
    else:
        tell(1.0)
    return Order.load(path)


def _policy(plan: Plan, key: tuple[str, str], *, seed: int | None = None) -> Policy:
    """The policy for a reconstructor, by their labels, with the order that it needs."""
    order = None
    if key[0] in plan.orders:
        order = _learn_order(plan, (plan.orders[key[0]], key[1]), lambda share: None)
    return plan.policy(*key, order=order, seed=seed)


def _tune(plan: Plan, key: tuple[str, str], tell: Tell) -> Tuning:
    """The tuning for a policy and a reconstructor, from the benchmark's folder or made now."""
    path = plan.settings.run.out / "tuning" / key[1] / f"{key[0]}.json"
    if not path.exists():
        files.write_json(path, asdict(plan.tune(_policy(plan, key), key, tell=tell)))
    else:
        tell(1.0)
    tuning = Tuning(**files.read_json(path, {"settings": dict, "trials": list, "metric": str}))
    plan.use(tuning)
    return tuning


def _play_shard(plan: Plan, shard: Shard, tell: Tell) -> None:
    """Play one shard and keep its rows of the long table."""
    key = shard.policy, shard.reconstructor
    if key in plan.tuned():
        _tune(plan, key, lambda share: None)
    policy, acquisition = _policy(plan, key, seed=shard.seed), plan.acquisition(*key)
    scans, starts = plan.started(shard)
    reported = 0.0

    def on_step(step: int, state: State) -> None:
        nonlocal reported
        share = 1 - float(state.view.budget.sum() / state.view.start_budget.sum().clamp(min=1))
        tell(share - reported)
        reported = share

    rows = partial(long_rows, shard=shard, metric=plan.metric, step_cost=plan.protocol.step_cost)
    if shard.quality is None:
        episodes = rollout(
            acquisition, policy, scans, seed=shard.seed, starts=starts, on_step=on_step
        )
    else:
        episodes, features = play_recorded(
            acquisition,
            policy,
            scans,
            evaluator=plan.evaluators[shard.reconstructor],
            seed=shard.seed,
            starts=starts,
            on_step=on_step,
        )
        _write_parquet(rows(episodes, features=features), shard.quality)
    if shard.part is not None:
        _write_parquet(rows(episodes), shard.part)
    tell(1 - reported)


def _in_processes(
    plan: Plan, work: Work[Item], costs: Mapping[Item, float], progress: Progress
) -> Iterator[Item]:
    """Do some work for every item, of a cost in units of the progress; yields those done."""
    if plan.settings.workers == 1 or len(costs) < 2:
        for item, cost in costs.items():

            def tell(share: float, cost: float = cost) -> None:
                progress(progress.at + share * cost)

            work(plan, item, tell)
            yield item
        return
    context = multiprocessing.get_context("spawn")  # forks would inherit locks of torch's threads
    done = context.Value("d", 0.0)  # cost of the work of all processes so far
    pool = ProcessPoolExecutor(
        plan.settings.workers,
        mp_context=context,
        initializer=_prepare_worker,
        initargs=(plan.settings, done),
    )
    before = progress.at
    try:
        futures = {pool.submit(_work_there, work, item, cost): item for item, cost in costs.items()}
        left = set(futures)
        while left:
            finished, left = wait(left, timeout=0.5, return_when=FIRST_COMPLETED)
            progress(before + done.value)
            for future in finished:
                future.result()
                yield futures[future]
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


def _fit_rules(plan: Plan) -> list[FittedRule]:
    """Stopping rules made from what was played; each is saved in the folder `rules`."""
    by_split = {split: _curves(plan, plan.shards(split)) for split in plan.stopping}
    scored, fitted = _curves(plan, plan.shards()), []
    n_rules = len(scored) * len(plan.stop.rules)
    with Progress("fit stopping rules", n_rules, unit="rule") as progress:
        for (reconstructor, policy), curves in scored.items():
            played = {split: own[reconstructor, policy] for split, own in by_split.items()}
            for kind in plan.stop.rules:
                fitted.append(_fit_rule(plan, kind, policy, reconstructor, played, curves))
                progress(len(fitted))
    return fitted


def _fit_rule(
    plan: Plan,
    kind: RuleKind,
    policy: str,
    reconstructor: str,
    played: Mapping[str, Curves],
    scored: Curves,
) -> FittedRule:
    stop, name = plan.stop, "" if kind == "predicted-score" else f"-{kind}"
    path = plan.settings.run.out / "rules" / f"{policy}-{reconstructor}{name}.json"
    n_units, n_subjects = (
        sum(len(set(played[split].units(unit))) for split in stop.calibration_splits)
        for unit in (stop.unit, "subject")
    )
    rule, refusal = None, ""
    try:
        predictor, threshold = fit_rule(stop, played, kind=kind, seed=plan.settings.run.seed)
    except RuleError as error:
        refusal = str(error)
        path.unlink(missing_ok=True)  # a rule for another target would be taken for this one
    else:
        assert stop.target is not None
        rule = StoppingRule(
            predictor=predictor,
            target=stop.target,
            threshold=threshold,
            alpha=stop.alpha,
            unit=stop.unit,
            n_units=n_units,
            policy=policy,
            reconstructor=reconstructor,
            data=f"{plan.protocol.data} {' and '.join(stop.splits)}",
            n_center_lines=plan.protocol.n_center_lines,
            budget=plan.budget,
        )
        rule.save(path)
    return FittedRule(policy, reconstructor, scored, rule, refusal, n_units, n_subjects, kind)


def _curves(plan: Plan, shards: Iterable[Shard]) -> dict[tuple[str, str], Curves]:
    """Scores and features along episodes, by reconstructor and policy."""
    parts: dict[tuple[str, str], list[Curves]] = {}
    for shard in shards:
        if shard.quality is not None:
            scans = plan.described(shard)
            curves = curves_of(read_rows(shard.quality, shard, scans), scans)
            parts.setdefault((shard.reconstructor, shard.policy), []).append(curves)
    return {key: Curves.join(own) for key, own in parts.items()}


def _manifest(plan: Plan, played: Mapping[str, str]) -> dict[str, Any]:
    """Settings that decide about the table, as JSON gives them back, and all that have played.

    Refuses a folder of other settings, or of other scans under the same names; `played` are marks
    of their content. Policies and reconstructors may come and go; those of the same name must be
    the same.
    """
    out = plan.settings.run.out
    settings = {
        field.name: getattr(plan.settings, field.name)
        for field in fields(plan.settings)
        if field.name not in _FREE
    }
    settings |= {"protocol": plan.protocol.changes, "seed": plan.settings.run.seed}
    settings |= {"metric": plan.metric} | plan.fingerprint
    settings["protocol"].pop("reconstructor", None)  # its fingerprint tells it
    given: dict[str, Any] = json.loads(json.dumps(settings, default=str)) | {"contents": played}
    parts = [
        path
        for name in ("parts", "ceilings", "quality")
        for path in (out / name).rglob("*.parquet")
    ]
    parts += [path for name in ("orders", "tuning") for path in (out / name).rglob("*.json")]
    begun = (out / _SETTINGS).exists() and parts
    if plan.settings.run.overwrite or not begun:
        return given
    found = files.read_json(out / _SETTINGS)
    before = found.get("contents", {})
    given["contents"] = before | given["contents"]
    changed = {
        name: (found.get(name), value)
        for name, value in given.items()
        if found.get(name) != value and (name in found or not name.startswith(_PLAYERS))
        if name != "contents"
    }
    if changed:
        raise ValueError(
            f"{out} holds a benchmark with other settings: "
            + "; ".join(f"{name} was {was}, now {now}" for name, (was, now) in changed.items())
            + ". Choose another --out, or --overwrite it"
        )
    _require_same(played, before, f"since {out} was begun")
    return {name: mark for name, mark in found.items() if name.startswith(_PLAYERS)} | given


def _require_same(now: Mapping[str, str], before: Mapping[str, str], when: str) -> None:
    """Refuse scans whose content is not what it was, by a ValueError that names the first."""
    changed = [volume for volume, mark in now.items() if before.get(volume, mark) != mark]
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise ValueError(
            f"the scan {changed[0]}{more} has changed {when}: its results would be those of two "
            "different scans. Choose another --out, or --overwrite it"
        )


def _write_parquet(table: pd.DataFrame, path: Path) -> None:
    with files.replacing(path) as unfinished:
        table.to_parquet(unfinished, index=False, write_page_checksum=True)
