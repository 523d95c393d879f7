"""Commands of the package in forked processes, which can be killed at any moment.

What is imported already need not be imported again by every one of thousands of short runs. A run
counts its moments: the times that Python code in it is about to open a file of its folder for
writing, or to rename, remove or make one there (audit events, PEP 578).
"""

import atexit
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

NOBODY = 65534
HANGS = 120.0  # seconds after which a run is taken to hang
_LINGERS = 5.0  # seconds that the processes of a killed run have to end by themselves

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_MOMENTS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")

#: Called in the run at every moment, with its number.
AtMoment = Callable[[int], None]


@dataclass(frozen=True)
class Ended:
    """A run that has ended; the status is None if it was killed."""

    status: int | None
    text: str
    seconds: float
    hung: bool = False
    n_left: int = 0  # processes that it left running

    @property
    def printed(self) -> str:
        """All but progress and warnings, which are lines before the first empty one."""
        return self.text[self.text.find("\n\n") :]

    @property
    def last_line(self) -> str:
        return next(iter(self.text.strip().splitlines()[::-1]), "")

    @property
    def defect(self) -> str:
        """Why a run that was not killed must not have ended like this, or nothing."""
        if self.hung:
            return f"hangs for {HANGS:.0f} s"
        if self.n_left:
            return f"leaves {self.n_left} process(es) behind"
        if "Traceback" in self.text or self.status not in (None, 0, 2):
            return f"status {self.status}, {self.last_line}"
        return ""


class Run:
    """A command that runs in a folder, its standard output and errors in a file."""

    def __init__(
        self,
        arguments: Sequence[str],
        folder: Path,
        log: Path,
        *,
        at_moment: AtMoment | None = None,
        as_nobody: bool = False,
    ) -> None:
        self.log, self._started = log, time.monotonic()
        log.write_bytes(b"")
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _run(arguments, folder, log, at_moment, as_nobody)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    @property
    def has_ended(self) -> bool:
        """True once it has; it is still to be waited for."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def wait(self, *, kill_after: float | None = None) -> Ended:
        """Wait for its end; kill it after so many seconds, or when it hangs."""
        hung = killed = False
        while True:
            done, status, _ = os.wait4(self.pid, os.WNOHANG)
            spent = time.monotonic() - self._started
            if done:
                break
            if kill_after is not None and spent >= kill_after and not killed:
                self.kill()
                killed = True
            if spent > HANGS and not hung:
                os.killpg(self.pid, signal.SIGKILL)
                hung = True
            time.sleep(0.002)
        until = time.monotonic() + _LINGERS
        while (left := _members(self.pid)) and time.monotonic() < until:
            time.sleep(0.01)
        if left:
            os.killpg(self.pid, signal.SIGKILL)
        code = None if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        text = self.log.read_text(encoding="utf-8", errors="replace")
        return Ended(code, text, spent, hung, len(left))


def kill_at(number: int) -> AtMoment:
    """Kills the run at one of its moments."""

    def act(moment: int) -> None:
        if moment == number:
            os.kill(os.getpid(), signal.SIGKILL)

    return act


def count_into(path: Path) -> AtMoment:
    """Leaves the number of moments so far in a file."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def act(moment: int) -> None:
        os.pwrite(handle, f"{moment + 1:12}".encode(), 0)

    return act


def _run(
    arguments: Sequence[str],
    folder: Path,
    log: Path,
    at_moment: AtMoment | None,
    as_nobody: bool,
) -> None:
    """All that the forked process does."""
    status = 1
    try:
        os.setsid()
        handle = os.open(log, os.O_WRONLY | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(handle, stream)
        sys.stdout = sys.stderr = open(1, "w", encoding="utf-8", buffering=1)  # noqa: SIM115
        os.chdir(folder)
        os.environ["ACTIVEMRI_CACHE"] = str(folder / "cache")
        sys.argv = ["activemri", *arguments]
        random.seed()  # what draws from unseeded generators must not repeat by the fork
        import numpy as np
        import torch

        np.random.seed()  # noqa: NPY002
        torch.seed()
        if as_nobody:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        if at_moment is not None:
            _listen(folder, at_moment)
        from activemri.cli import main

        status = main(list(arguments))
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()  # as an interpreter does, which os._exit leaves out
        sys.stdout.flush()
        os._exit(status)


def _listen(folder: Path, at_moment: AtMoment) -> None:
    inside, n_moments, busy = f"{folder}{os.sep}", 0, False

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal n_moments, busy
        if event == "open":
            flags = arguments[2]
            if not isinstance(flags, int) or not flags & _WRITES:
                return
        elif event not in _MOMENTS:
            return
        path = os.fsdecode(arguments[0]) if isinstance(arguments[0], str | bytes) else ""
        if busy or not path or (os.path.isabs(path) and not path.startswith(inside)):
            return
        busy = True
        try:
            at_moment(n_moments)
            n_moments += 1
        finally:
            busy = False

    sys.addaudithook(hook)


def _members(group: int) -> list[int]:
    """Processes of a process group that are no zombies."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                fields = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has just ended
                continue
            if int(fields[2]) == group and fields[0] != "Z":
                found.append(int(entry.name))
    return found
