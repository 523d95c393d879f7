"""Many cases, in processes with limits of time and memory, counted in a folder.

A process that hangs or dies is a defect of the case that it was at, and another takes its place.
"""

import logging
import multiprocessing
import os
import queue
import resource
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from activemri import files
from activemri.progress import Progress
from activemri.tables import Table

LIMIT_S = 20.0  # for one case; a sound one takes milliseconds
WARM_UP_S = 600.0  # for a process to start, and for compilers
LIMIT_BYTES = 2 << 30  # beyond what a process takes when it has started
SAVE_EVERY = 2000  # cases

Job = tuple[str, int, int]  # target, first number, one past the last


@dataclass
class Tally:
    """Cases of one target: from number 0 up to `done`.

    `defects` holds the number of each kind, `first` the lowest number of a case that shows it.
    """

    done: int = 0
    accepted: int = 0
    refused: int = 0
    defects: dict[str, int] = field(default_factory=dict)
    first: dict[str, int] = field(default_factory=dict)

    def add(self, seed: int, kind: str, words: str) -> None:
        self.done = seed + 1
        if kind in ("accepted", "refused"):
            setattr(self, kind, getattr(self, kind) + 1)
            return
        name = f"{kind}: {words:.120}" if words else kind
        self.defects[name] = self.defects.get(name, 0) + 1
        self.first.setdefault(name, seed)


def campaign(names: Sequence[str], count: int, out: Path, *, workers: int = 1) -> dict[str, Tally]:
    """Run `count` cases, the same number of each target; those that the folder counts are done."""
    tallies = {name: Tally() for name in names}
    kept = out / "fuzz.json"
    if kept.exists():
        for name, own in files.read_json(kept).items():
            tallies[name] = Tally(**own)
    jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
    for place, name in enumerate(names):
        wanted = count // len(names) + (place < count % len(names))
        if tallies[name].done < wanted:
            jobs.put((name, tallies[name].done, wanted))
    done = sum(tallies[name].done for name in names)
    found: queue.SimpleQueue[tuple[str, int, str, str] | BaseException | None] = queue.SimpleQueue()

    def work() -> None:
        try:
            with tempfile.TemporaryDirectory(dir=_memory()) as folder:
                worker = Worker(Path(folder))
                try:
                    while True:
                        name, first, last = jobs.get_nowait()
                        for outcome in worker.outcomes(name, first, last):
                            found.put((name, *outcome))
                finally:
                    worker.stop()
        except queue.Empty:
            found.put(None)
        except BaseException as error:
            found.put(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(workers)]
    out.mkdir(parents=True, exist_ok=True)

    def save() -> None:
        files.write_json(kept, {name: asdict(tally) for name, tally in tallies.items()})

    with Progress("fuzz", max(count, done), done=done, unit="input") as progress:
        for thread in threads:
            thread.start()
        running = len(threads)
        try:
            while running:
                one = found.get()
                if isinstance(one, BaseException):
                    raise one
                if one is None:
                    running -= 1
                    continue
                name, seed, kind, words = one
                tallies[name].add(seed, kind, words)
                done += 1
                progress(done, defects=sum(sum(t.defects.values()) for t in tallies.values()))
                if done % SAVE_EVERY == 0:
                    save()
        finally:
            save()
    return tallies


class Worker:
    """A process that runs cases in a folder; another is started where it hangs or dies."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process: Any = None
        self._there: Any = None

    def outcomes(self, name: str, first: int, last: int) -> Iterator[tuple[int, str, str]]:
        """Number, kind of outcome and words of each case of a target."""
        seed = first
        while seed < last:
            if self._process is None:
                self._start()
            self._there.send((name, seed, last))
            limit, ended = WARM_UP_S, ""
            try:
                while seed < last and not ended:
                    if not self._there.poll(limit):
                        ended = "hang"
                    elif (message := self._there.recv()) is not None:
                        yield message
                        seed = message[0] + 1
                    else:
                        limit = LIMIT_S
            except (EOFError, ConnectionError):
                self._process.join()
                ended = f"crash with status {self._process.exitcode}"
            if ended:
                self.stop()
                if limit == WARM_UP_S:
                    raise RuntimeError(f"{name}: sound files could not be used")
                yield seed, ended, ""
                seed += 1

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._there, there = context.Pipe()
        self._process = context.Process(target=_work, args=(there, self.folder), daemon=True)
        self._process.start()
        there.close()

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._there.close()
            self._process = None


def _work(there: Connection, folder: Path) -> None:
    os.environ |= {"ACTIVEMRI_CACHE": "", "ACTIVEMRI_MAX_GIB": "0.25"}
    from tests.fuzz import cases

    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    while True:
        name, first, last = there.recv()
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        target = cases.known()[name]
        for sound in target.seeds():  # whatever is compiled is compiled by these
            outcome = cases.used(target, cases.put(sound, folder / "case"))
            if outcome.kind != cases.ACCEPTED:
                raise RuntimeError(f"{name}: a sound file is not accepted: {outcome}")
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + LIMIT_BYTES, most))
        there.send(None)
        for seed in range(first, last):
            outcome = cases.run(target, seed, folder / "case")
            there.send((seed, outcome.kind, outcome.words))


def _memory() -> str | None:
    """A folder in memory, where there is one: cases write thousands of small files."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def table(tallies: dict[str, Tally]) -> Table:
    """Inputs by target, and what became of them."""
    lines: list[tuple[Any, ...]] = [
        (name, tally.done, tally.accepted, tally.refused, sum(tally.defects.values()))
        for name, tally in tallies.items()
    ]
    lines.append(("all", *(sum(line[i] for line in lines) for i in range(1, 5))))
    notes = [
        f"{number} x {kind}; python -m tests.fuzz --target {name!r} --seed {tally.first[kind]}"
        for name, tally in tallies.items()
        for kind, number in tally.defects.items()
    ]
    header = ("target", "inputs", "accepted", "refused", "defects")
    return Table(header, lines, notes=["", *(notes or ["No defects."])])
