"""Faults that a job meets: kills, a full disk, a folder that is read-only, another process."""

import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults import runs
from tests.faults.contents import contents, differences, left_over
from tests.faults.jobs import OUT, Job
from tests.faults.runs import HANGS, Ended, Run

SAME, DEFECT = "same result", "DEFECT"
_ROOT = Path(__file__).parents[2]
SHARES = (0.0, 0.4, 0.8)  # of the bytes that a job needs, at which the disk is full
_PAGE = 4096
_NO_SPACE = re.compile(r"activemri: error: [^ ]*\w: No space left.*")
_DISK = 64 * 1024 * 1024  # bytes of the small disk


@dataclass(frozen=True)
class Outcome:
    """Outcome of a fault; a defect must not happen."""

    text: str
    is_defect: bool = False

    def __str__(self) -> str:
        return f"{DEFECT}: {self.text}" if self.is_defect else self.text


@dataclass(frozen=True)
class Whole:
    """A job as it goes without faults: its results, length, and moments."""

    results: dict[str, Any]
    seconds: float
    n_moments: int
    n_bytes: int


class Place:
    """A job in a folder of its own, new for each attempt."""

    def __init__(self, job: Job, root: Path, *, data: Path, network: Path) -> None:
        self.job, self.root, self.data = job, root, data
        self.log = root.with_name(f"{root.name}.log")
        given = {"{data}": str(data), "{network}": str(network)}
        self.arguments = [given.get(word, word) for word in job.arguments]

    def empty(self) -> Path:
        """The folder, with nothing in it."""
        shutil.rmtree(self.root, ignore_errors=True)
        self.root.mkdir(parents=True)
        return self.root

    def start(self, *words: str, **options: Any) -> Run:
        """Start the job with some more words, which come first: a sweep ends with a command."""
        n = len(self.job.command.split())
        arguments = [*self.arguments[:n], *words, *self.arguments[n:]]
        return Run(arguments, self.root, self.log, **options)

    def again(self, *, kill_after: float | None = None, **options: Any) -> Ended:
        """Start the job as a user would after an interruption, with --resume where there is one."""
        words = ["--resume"] if self.job.resumes else []
        ended = self.start(*words, **options).wait(kill_after=kill_after)
        # Do what the refusal asks for.
        if ended.status == 2 and "leave --resume out" in ended.last_line:
            ended = self.start(**options).wait(kill_after=kill_after)
        if ended.status == 2 and "add --overwrite" in ended.last_line:
            ended = self.start("--overwrite", **options).wait(kill_after=kill_after)
        return ended

    def results(self, ended: Ended | None = None) -> dict[str, Any]:
        found = {
            name: value
            for name, value in contents(self.root).items()
            if name.split("/")[0] not in ("cache", "filler")
        }
        if ended is not None and not self.job.writes:
            found["printed"] = ended.printed
        return found


def whole(place: Place) -> Whole:
    """The job without faults, in a new interpreter and then, with the same results, in a fork."""
    environment = {**os.environ, "ACTIVEMRI_CACHE": str(place.empty() / "cache")}
    environment["PYTHONPATH"] = str(_ROOT)
    command = [sys.executable, "-m", "activemri", *place.arguments]
    first = subprocess.run(
        command, cwd=place.root, env=environment, capture_output=True, text=True, check=False
    )
    if first.returncode:
        raise RuntimeError(f"{place.job.name} does not run: {first.stderr.strip()}")
    text = first.stdout if not place.job.writes else ""
    expected = place.results(Ended(0, text, 0.0))
    place.empty()
    counted = place.root.with_name(f"{place.root.name}.moments")
    ended = place.start(at_moment=runs.count_into(counted)).wait()
    n_bytes = sum(path.stat().st_size for path in place.root.rglob("*") if path.is_file())
    found = Whole(expected, ended.seconds, int(counted.read_text() or 0), n_bytes)
    outcome = _judged(ended, place, found)
    if outcome.text != SAME:
        raise RuntimeError(f"{place.job.name} is not the same the second time: {outcome}")
    return found


def kills(place: Place, found: Whole, *, n: int, rng: random.Random) -> Outcome:
    """Kill a job n times, half of them between two operations on files, and let it end each time.

    A job is killed several times in a row, until a run of it ends before it is killed.
    """
    n_done = n_chains = 0
    while n_done < n:
        place.empty()
        n_chains += 1
        first, chain = True, 0
        while True:
            by_moment = rng.random() < 0.5 and found.n_moments > 0
            moment = rng.randrange(max(1, found.n_moments))
            after = rng.random() * found.seconds
            options: dict[str, Any] = {"kill_after": None if by_moment else after}
            if by_moment:
                options["at_moment"] = runs.kill_at(moment)
            if n_done + chain >= n:
                options = {}
            if first:
                after_s = options.pop("kill_after", None)
                ended = place.start(**options).wait(kill_after=after_s)
            else:
                ended = place.again(**options)
            first = False
            if ended.status is not None or ended.defect:
                break
            chain += 1
        n_done += chain
        outcome = _judged(ended, place, found)
        if outcome.is_defect or outcome.text != SAME:
            return Outcome(f"after {chain} kills: {outcome.text}", True)
        if not chain and n_chains > 4 * n:
            return Outcome("ends before it can be killed", True)
    return Outcome(f"{SAME} ({n_done})")


def full_disk(place: Place, found: Whole) -> Outcome:
    """Let a disk run full after some of the bytes that a job needs; then make space and go on."""
    if not can_mount():
        return Outcome("not tried: no small disk can be mounted here")
    told = list[str]()
    for share in SHARES:
        place.empty()
        with _small_disk(place.root):
            filler = place.root / "filler"
            free = int(share * found.n_bytes) // _PAGE * _PAGE
            with filler.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(place.root).free - free)
            ended = place.start().wait()
            filler.unlink()
            if ended.status == 2:
                told.append(ended.last_line)
                if not _NO_SPACE.fullmatch(told[-1]):
                    return Outcome(f"says: {told[-1]}", True)
            elif ended.defect:
                return Outcome(ended.defect, True)
            ended = place.again()
            outcome = _judged(ended, place, found)
            if outcome.text != SAME:
                return Outcome(f"full after {free} bytes, then {outcome.text}", True)
    return Outcome(
        f"{SAME}; {len(told)} of {len(SHARES)} refused, e.g. {_short(told[-1])}" if told else SAME
    )


def read_only(place: Place, found: Whole) -> Outcome:
    """Start in a folder that cannot be written; root may write anywhere, so that nobody starts."""
    folder, is_root = place.empty(), os.geteuid() == 0
    if is_root and not all(parent.stat().st_mode & 1 for parent in folder.parents):
        return Outcome("not tried: others than root may not enter that folder")
    folder.chmod(0o555)
    try:
        ended = place.start(as_nobody=is_root).wait()
    finally:
        folder.chmod(0o755)
    if any(folder.iterdir()):
        return Outcome("writes all the same", True)
    if ended.status == 0 and place.job.writes:
        return Outcome("ends as if it had written", True)
    if ended.status and ended.seconds > 0.7 * found.seconds + 0.5:
        return Outcome(f"finds out after {ended.seconds:.1f} s: {ended.last_line}", True)
    outcome = _judged(ended, place, found)
    return Outcome(outcome.text.replace(str(folder), "."), outcome.is_defect)


def two_at_once(place: Place, found: Whole, *, n: int, rng: random.Random) -> Outcome:
    """Start the same command twice in one folder, the second a random moment later."""
    seen = set[str]()
    for _ in range(n):
        place.empty()
        first = place.start()
        time.sleep(rng.random() * 0.9 * found.seconds)
        second = Run(place.arguments, place.root, place.log.with_suffix(".second.log"))
        ends = sorted((first.wait(), second.wait()), key=lambda one: one.status or 0)
        refused = [one.last_line for one in ends if one.status]
        for ended in ends:
            if ended.defect:
                return Outcome(ended.defect, True)
        if len(refused) == 2:
            return Outcome(f"both refused: {refused[0]}", True)
        outcome = _judged(ends[0], place, found)
        if outcome.text != SAME:
            return outcome
        seen |= {f"one refused: {_short(line)}" for line in refused} or {"both end"}
    return Outcome(f"{SAME}; {', or '.join(sorted(seen))}")


def changing_scans(place: Place, *, n: int, rng: random.Random) -> Outcome:
    """Change, delete and add scans while a job reads them.

    Afterwards they stay as they are, and a run with the caches that were written meanwhile must
    print what one without them prints.
    """
    seen = Counter[str]()
    for _ in range(n):
        data = place.empty() / "scans"
        shutil.copytree(place.data, data)
        words = [str(data) if word == str(place.data) else word for word in place.arguments]
        if words == place.arguments:
            return Outcome("reads none")
        running = Run(words, place.root, place.log)
        until = time.monotonic() + HANGS
        while not running.has_ended and time.monotonic() < until:
            _change(data, place.data, rng)
            time.sleep(rng.random() * 0.03)
        ended = running.wait()
        if ended.defect:
            return Outcome(f"meanwhile {ended.defect}", True)
        seen["completed" if ended.status == 0 else "refused"] += 1
        printed = []
        for _ in ("with what is in the cache", "without it"):
            shutil.rmtree(place.root / OUT, ignore_errors=True)
            ended = Run(words, place.root, place.log).wait()
            if ended.defect:
                return Outcome(f"afterwards {ended.defect}", True)
            printed.append(ended.printed)
            shutil.rmtree(place.root / "cache", ignore_errors=True)
        if printed[0] != printed[1]:
            return Outcome("facts in the cache are wrong", True)
    return Outcome(", ".join(f"{count} {what}" for what, count in sorted(seen.items())))


def _change(data: Path, source: Path, rng: random.Random) -> None:
    names = sorted(path.name for path in source.iterdir())
    one, other = data / rng.choice(names), source / rng.choice(names)
    kind = rng.choice(("delete", "cut", "replace", "replace", "rewrite", "add"))
    if kind == "delete":
        one.unlink(missing_ok=True)
    elif kind == "cut" and one.exists():
        os.truncate(one, rng.randrange(other.stat().st_size))
    elif kind == "replace":
        shutil.copyfile(other, data / "new")
        os.replace(data / "new", one)
    elif kind == "rewrite":
        shutil.copyfile(other, one)
    elif kind == "add":
        shutil.copyfile(other, data / f"added-{rng.randrange(5)}.h5")


def _judged(ended: Ended, place: Place, found: Whole) -> Outcome:
    """The outcome of a run that has come to its end by itself."""
    if ended.defect:
        return Outcome(ended.defect, True)
    if ended.status:
        return Outcome(f"refused: {_short(ended.last_line)}")
    if wrong := differences(found.results, place.results(ended)):
        return Outcome("; ".join(wrong[:3]), True)
    if remains := left_over(place.root):
        return Outcome(f"{SAME}, but {remains[0]} is left", True)
    return Outcome(SAME)


def _short(line: str) -> str:
    return line.removeprefix("activemri: error: ")


@contextmanager
def _small_disk(folder: Path) -> Iterator[None]:
    command = ["mount", "-t", "tmpfs", "-o", f"size={_DISK}", "tmpfs", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def can_mount() -> bool:
    """True where a small disk can be made."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with _small_disk(Path(folder)):
                return True
        except (OSError, subprocess.CalledProcessError):
            return False
