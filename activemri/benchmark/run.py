"""Run a benchmark: play every episode, keep one long table, sum it up.

The work is a list of independent pieces. Each finished piece is a small file of its own, written
completely or not at all, so that an interrupted benchmark continues where it stopped, and the
table that comes out is the same to the bit.
"""

import json
import multiprocessing
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import torch
from tqdm import tqdm

from activemri.agents.curves import Curves, Recorder
from activemri.agents.order import Order
from activemri.agents.rollout import Episodes, rollout
from activemri.benchmark import results, stopping, stopping_report
from activemri.benchmark.free_budget import Returns
from activemri.benchmark.plan import Piece, Plan
from activemri.benchmark.statistics import RETURN, TRAITS
from activemri.benchmark.stopping import Verdict
from activemri.metrics import METRICS
from activemri.settings import BenchmarkSettings

_SETTINGS = "settings.json"

Item = TypeVar("Item")

#: Settings that change neither an episode nor its place in the table. What policies and
#: reconstructors are is told by their fingerprints; which ones are compared is free.
_FREE = (
    "out", "reference", "n_bootstrap", "threads", "workers", "stop", "policies", "reconstructors"
)  # fmt: skip
_PLAYERS = ("policy ", "reconstructor ", "evaluator ")


@dataclass(frozen=True, eq=False)
class Outcome:
    """A finished benchmark.

    Attributes:
        plan: what was run.
        table: the long table.
        verdicts: stopping rules and what they do, where they are asked for.
    """

    plan: Plan
    table: pd.DataFrame
    verdicts: tuple[Verdict, ...] = ()

    def text(self) -> str:
        """What the command prints: the headline table and where the files are."""
        table = results.text_table(self.plan, self.table)
        out = self.plan.settings.out
        if self.plan.stopping is not None:
            rows = results.stopping_rows(self.plan, self.verdicts)
            table += "\n\n" + stopping_report.stopping_text(rows, self.plan.stopping)
        return f"{table}\n\n{out}/results.parquet, summary.json, report.html"


def run_benchmark(settings: BenchmarkSettings) -> Outcome:
    """Run, or continue, and write results.parquet, summary.json and report.html.

    Raises:
        ValueError: for unknown names, or a folder that holds a benchmark of other settings.
        OSError: if the folder cannot be written.
    """
    _open_folder(settings.out)
    torch.set_num_threads(settings.threads)
    plan = Plan(settings)
    manifest = _plain(plan) | plan.fingerprint
    known = _refuse_other_settings(settings.out, manifest)
    # Only now, so that a mistake in the settings does not take the folder.
    results.write_json(settings.out / _SETTINGS, known | manifest)
    table = _play(plan)
    path = settings.out / "results.parquet"
    _write_parquet(table, path)
    verdicts = _verdicts(plan)
    results.publish(plan, table, command=_command(), verdicts=verdicts)
    return Outcome(plan, table, verdicts)


def _play(plan: Plan) -> pd.DataFrame:
    """Every piece's rows, in the order of the pieces; what was played before is only read."""
    scored = list(plan.pieces())
    pieces = [*scored, *plan.stopping_pieces()]
    missing = [piece for piece in pieces if not _is_whole(plan, piece)]
    orders = list(
        dict.fromkeys(
            (kind, piece.reconstructor)
            for piece in missing
            for kind in plan.orders_needed(piece.policy)
        )
    )
    total = sum(len(piece.positions) for piece in pieces)
    done = total - sum(len(piece.positions) for piece in missing)
    with _pool(plan, len(missing)) as pool:
        learned = _each(pool, _learn_order, orders)  # first: several pieces need the same one
        hidden = True if pool is None else None  # alone, each order has its own bar
        for _ in tqdm(learned, "Learning orders", len(orders), unit="order", disable=hidden):
            pass
        with tqdm(total=total, initial=done, unit="scan", desc="Acquiring", disable=None) as bar:
            for piece in _each(pool, _play_piece, missing):
                bar.set_postfix_str(f"{piece.policy}, {piece.reconstructor}")
                bar.update(len(piece.positions))
    parts = [plan.part(piece) for piece in scored]
    table = pd.concat([pd.read_parquet(part) for part in parts], ignore_index=True)
    for name in TRAITS:
        table[name] = table["policy"].map({p: getattr(t, name) for p, t in plan.traits.items()})
    return table


def _verdicts(plan: Plan) -> tuple[Verdict, ...]:
    """Stopping rules made from what was played; each is saved in the folder `rules`."""
    if plan.stopping is None:
        return ()
    scored, played = _curves(plan, plan.pieces()), _curves(plan, plan.stopping_pieces())
    verdicts = []
    for reconstructor, policy, _ in scored:
        by_split = {split: played[reconstructor, policy, split] for split in plan.stopping.by_split}
        verdict = stopping.judge(
            plan.stopping,
            by_split,
            scored[reconstructor, policy, ""],
            policy=policy,
            reconstructor=reconstructor,
        )
        path = plan.settings.out / "rules" / f"{policy}-{reconstructor}.json"
        if verdict.rule is not None:
            verdict.rule.save(path)
        else:
            path.unlink(missing_ok=True)  # a rule for another target would be taken for this one
        verdicts.append(verdict)
    return tuple(verdicts)


def _curves(plan: Plan, pieces: Iterable[Piece]) -> dict[tuple[str, str, str], Curves]:
    """What was recorded, by reconstructor, policy and split."""
    found: dict[tuple[str, str, str], list[Curves]] = {}
    for piece in pieces:
        path, dataset = plan.quality_part(piece), plan.scans_of(piece)
        if path is not None:
            scans = [dataset.describe(position) for position in piece.positions]
            curves = stopping.from_table(pd.read_parquet(path), scans)
            key = (piece.reconstructor, piece.policy, piece.split)
            found.setdefault(key, []).append(curves)
    return {key: Curves.join(parts) for key, parts in found.items()}


def _is_whole(plan: Plan, piece: Piece) -> bool:
    """Whether a piece's files are there and can be read; what cannot is played again."""
    try:
        for path in (plan.part(piece), plan.quality_part(piece)):
            if path is not None:
                pyarrow.parquet.read_metadata(path)
    except (FileNotFoundError, pyarrow.ArrowInvalid):
        return False
    return True


@contextmanager
def _pool(plan: Plan, n_pieces: int) -> Iterator[ProcessPoolExecutor | None]:
    """Worker processes, each with a plan of its own; None where this process does the work."""
    if plan.settings.workers == 1 or n_pieces < 2:
        _plan_here[:] = [plan]
        yield None
        return
    pool = ProcessPoolExecutor(
        plan.settings.workers,
        # Forked processes would inherit the locks of torch's threads.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_prepare_worker,
        initargs=(plan.settings,),
    )
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _each(
    pool: ProcessPoolExecutor | None, work: Callable[[Item], None], items: Sequence[Item]
) -> Iterator[Item]:
    """Do some work for every item, here or in the pool, and tell which are done."""
    if pool is None:
        for item in items:
            work(item)
            yield item
        return
    items_of = {pool.submit(work, item): item for item in items}
    for future in as_completed(items_of):
        future.result()
        yield items_of[future]


_plan_here: list[Plan] = []  # of this process: prepared once, used for every piece


def _prepare_worker(settings: BenchmarkSettings) -> None:
    # Ctrl-C reaches the workers too: they end at once, and what they had not finished is lost.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    torch.set_num_threads(settings.threads)
    _plan_here[:] = [Plan(settings)]


def _learn_order(key: tuple[str, str]) -> None:
    _order(_plan_here[0], *key)


def _play_piece(piece: Piece) -> None:
    """Play one piece and keep its rows of the long table."""
    plan = _plan_here[0]
    orders = [_order(plan, kind, piece.reconstructor) for kind in plan.orders_needed(piece.policy)]
    order = orders[0] if orders else None
    policy = plan.policy(piece.policy, piece.reconstructor, order=order, seed=piece.seed)
    dataset = plan.scans_of(piece)
    scans = [dataset[position] for position in piece.positions]
    acquisition = plan.acquisitions[piece.reconstructor]
    part, quality_part = plan.part(piece), plan.quality_part(piece)
    recorder = Recorder(acquisition, plan.features(piece.reconstructor)) if quality_part else None
    on_step = None if recorder is None else recorder.record
    episodes = rollout(acquisition, policy, scans, seed=piece.seed, on_step=on_step)
    if recorder is not None and quality_part is not None:
        _write_parquet(stopping.to_table(recorder.curves(episodes)), quality_part)
    if part is not None:
        _write_parquet(long_rows(episodes, piece, returns=plan.returns), part)


def long_rows(episodes: Episodes, piece: Piece, *, returns: Returns | None = None) -> pd.DataFrame:
    """Rows of the long table: one for each scan, step and metric.

    With a price of actions the returns are one more metric.

    Columns: policy, reconstructor, volume, slice, subject, contrast, step, n_acquired, action (-1
    before the first), metric, value, seed. An episode's rows end with the episode.
    """
    blocks = []
    # The mean uncertainty is no score.
    scores = {name: values for name, values in episodes.scores.items() if name in METRICS}
    if returns is not None:
        scores[RETURN] = returns.of(episodes)
    for row, scan in enumerate(episodes.scans):
        n_steps = int(episodes.n_steps[row])
        actions = episodes.actions[row, :n_steps].numpy()
        for metric, values in scores.items():
            blocks.append(
                pd.DataFrame(
                    {
                        "policy": piece.policy,
                        "reconstructor": piece.reconstructor,
                        "volume": scan.volume,
                        "slice": scan.index,
                        "subject": scan.subject,
                        "contrast": scan.contrast,
                        "step": np.arange(n_steps + 1),
                        "n_acquired": episodes.n_acquired[row, : n_steps + 1].numpy(),
                        "action": np.concatenate([[-1], actions]),
                        "metric": metric,
                        "value": values[row, : n_steps + 1].numpy(),
                        "seed": piece.seed,
                    }
                )
            )
    return pd.concat(blocks, ignore_index=True)


def _order(plan: Plan, kind: str, reconstructor: str) -> Order:
    """A learned order, from the benchmark's folder or learned now."""
    path = plan.settings.out / "orders" / f"{kind}-{reconstructor}.json"
    if not path.exists():
        plan.learn_order(kind, reconstructor).save(path)
    return Order.load(path)


def _refuse_other_settings(out: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """Make sure that what the folder holds, if anything, was run with these settings.

    Policies and reconstructors may come and go; those of the same name must be the same. Gives
    back all that have been played there.
    """
    path = out / _SETTINGS
    parts = [path for name in ("parts", "quality") for path in (out / name).rglob("*.parquet")]
    played = [*parts, *(out / "orders").glob("*.json")]
    if not path.exists() or not played:
        return {}
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    changed = [
        name
        for name in wanted
        if found.get(name) != wanted[name] and (name in found or not name.startswith(_PLAYERS))
    ]
    if changed:
        raise ValueError(
            f"{out} holds a benchmark with other settings: "
            + "; ".join(f"{n} was {found.get(n)}, now {wanted[n]}" for n in changed)
            + ". Choose another --out, or delete that folder"
        )
    return {name: mark for name, mark in found.items() if name.startswith(_PLAYERS)}


def _open_folder(out: Path) -> None:
    """Make sure, before hours of work, that results can be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "parts").mkdir(exist_ok=True)
    except OSError as error:
        raise OSError(f"cannot write into {out}: {error.strerror or error}") from error


def _plain(plan: Plan) -> dict[str, Any]:
    """Settings that decide about the table, as JSON gives them back."""
    settings = asdict(plan.settings) | plan.scenario.described
    plain: dict[str, Any] = json.loads(json.dumps(settings, default=str))
    return {name: value for name, value in plain.items() if name not in _FREE}


def _write_parquet(table: pd.DataFrame, path: Path) -> None:
    """Completely or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    table.to_parquet(unfinished, index=False)
    os.replace(unfinished, path)


def _command() -> str:
    return shlex.join(["activemri", *sys.argv[1:]])
