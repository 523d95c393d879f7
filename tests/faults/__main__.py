"""`python -m tests.faults --out FOLDER`: what becomes of long jobs when something happens to them.

Every job of :mod:`tests.faults.jobs` meets every fault of :mod:`tests.faults.faults`. Outcomes are
printed as a table, and written into a document on request; the status is 1 where one is a defect.
"""

import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Annotated

import tyro
from tqdm import tqdm

from activemri import cli, files
from activemri.progress import Progress, duration
from activemri.tables import Table
from docs.make_speed import put
from tests.faults import faults
from tests.faults.faults import Outcome, Place, Whole
from tests.faults.jobs import JOBS, make_network, make_scans

DOCUMENT = Path(__file__).parents[2] / "docs" / "robustness.md"
#: Also what nobody may not read later.
_IMPORTED_LATE = (
    "encodings.utf_8_sig",
    "torch._dynamo",
    "stable_baselines3",
    "sb3_contrib",
    "optuna",
    "matplotlib.pyplot",
)


@dataclass(frozen=True, kw_only=True)
class FaultSettings:
    """Let something happen to every long job of the command line, and compare its results."""

    out: Path | None = None
    """Folder to work in, empty or new, or that of such a run, whose jobs are not tried again; None
    takes one that is deleted afterwards."""
    kills: int = 50
    """Kills of every job; slow ones are killed a tenth as often."""
    jobs: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME [NAME ...]")] = ()
    """Jobs by the beginning of their names; all by default."""
    seed: int = 0
    """Seed of all moments."""
    document: bool = False
    """Write the table into docs/robustness.md."""


def main(settings: FaultSettings) -> int:
    """The whole table; gives the exit status."""
    # The usual lock is shared with forked processes: one that is killed while it holds it would
    # leave the others waiting for ever.
    tqdm.set_lock(threading.RLock())
    if settings.out is None:
        folder = Path(tempfile.mkdtemp())  # a TemporaryDirectory would be deleted by every fork
        try:
            folder.chmod(0o755)  # nobody may enter
            return main(replace(settings, out=folder))
        finally:
            shutil.rmtree(folder)
    out, started = settings.out.resolve(), time.monotonic()
    known, outcomes = out / "outcomes.json", dict[str, dict[str, str]]()
    if known.exists():
        outcomes = files.read_json(known)
    elif out.exists() and any(out.iterdir()):
        raise ValueError(f"--out {out}: expected an empty or a new folder, or one of such a run")
    else:
        make_scans(out / "scans")
        make_network(out / "network")
        files.write_json(known, {})
    for command in cli.COMMANDS.values():
        cli.load(command)
    for module in _IMPORTED_LATE:
        import_module(module)
    jobs = [job for job in JOBS if not settings.jobs or job.name.startswith(settings.jobs)]
    missing = [job for job in jobs if job.name not in outcomes]
    with Progress("faults", len(missing) * (1 + len(FAULTS)), unit="part") as progress:
        for job in missing:
            name = job.name.replace(",", "").replace(" ", "-")
            place = Place(job, out / "runs" / name, data=out / "scans", network=out / "network")
            progress.note(f"{job.name}: undisturbed")
            try:
                found = faults.whole(place)
            except RuntimeError as error:
                outcomes[job.name] = {"undisturbed": f"{faults.DEFECT}: {error}"}
                continue
            progress(progress.at + 1)
            met = dict[str, str]()
            for fault, meet in FAULTS.items():
                progress.note(f"{job.name}: {fault}")
                met[fault] = str(meet(place, found, settings))
                progress(progress.at + 1)
            outcomes[job.name] = met
            files.write_json(known, outcomes)
    lines = []
    for job in jobs:
        outcome = outcomes[job.name]
        lines.append(
            (job.name, *(outcome.get(fault, "") or outcome["undisturbed"] for fault in FAULTS))
        )
    n_defects = str(lines).count(faults.DEFECT)
    table, spent = Table(("job", *FAULTS), lines), duration(time.monotonic() - started)
    sys.stdout.write(f"{table.text()}\n{n_defects} defect(s), {spent}\n")
    if settings.document:
        put(DOCUMENT, table.markdown(), by="python -m tests.faults")
    return int(n_defects > 0)


def _kills(place: Place, found: Whole, settings: FaultSettings) -> Outcome:
    n = max(1, settings.kills // 10) if place.job.slow else settings.kills
    return faults.kills(place, found, n=n, rng=_drawn("kills", place, settings))


def _two_at_once(place: Place, found: Whole, settings: FaultSettings) -> Outcome:
    return faults.two_at_once(place, found, n=2, rng=_drawn("two", place, settings))


def _changing(place: Place, found: Whole, settings: FaultSettings) -> Outcome:
    if not place.job.surveys:
        return Outcome("-")
    return faults.changing_scans(place, n=5, rng=_drawn("scans", place, settings))


def _drawn(fault: str, place: Place, settings: FaultSettings) -> random.Random:
    return random.Random(f"{settings.seed} {fault} {place.job.name}")


FAULTS: dict[str, Callable[[Place, Whole, FaultSettings], Outcome]] = {
    "kill -9": _kills,
    "full disk": lambda place, found, _: faults.full_disk(place, found),
    "folder that is read-only": lambda place, found, _: faults.read_only(place, found),
    "two at once": _two_at_once,
    "scans that change": _changing,
}


if __name__ == "__main__":
    try:
        sys.exit(main(tyro.cli(FaultSettings)))
    except (ValueError, OSError) as error:
        sys.exit(f"faults: {error}")
