"""Files read in a process of their own, so that what one of them does to it ends there.

A crash, a hang or a hunger for memory of the libraries that read a file becomes the reason why that
file is left out. It is no sandbox: the process may do all that its user may.
"""

import multiprocessing
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeVar

from tyro.conf import FlagCreatePairsOff

from activemri.data.readers import UnreadableError
from activemri.options import require_positive

STARTING_S = 300.0  # for a process to start; imports take seconds, many on a busy machine

P = ParamSpec("P")
T = TypeVar("T")


class Run(Protocol):
    """Runs a function of a module with arguments that can be pickled; see :func:`here`."""

    def __call__(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...


def here(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a function in this process."""
    return function(*args, **kwargs)


@dataclass(frozen=True, kw_only=True)
class Isolation:
    """The process that reads files, for folders of people whom you do not know."""

    isolate: FlagCreatePairsOff[bool] = False
    """Read files in another process; one that crashes, hangs or exhausts it is left out."""
    max_seconds: float = 600.0
    """With --isolate: the longest that reading a file may take."""
    max_memory_gib: float = 16.0
    """With --isolate: the most memory that reading may take (where the system has such limits)."""

    def __post_init__(self) -> None:
        require_positive(max_seconds=self.max_seconds, max_memory_gib=self.max_memory_gib)

    @contextmanager
    def reading(self) -> Iterator[Run]:
        """A runner of the functions that read."""
        if not self.isolate:
            yield here
            return
        isolated = Isolated(self.max_seconds, self.max_memory_gib)
        try:
            yield isolated
        finally:
            isolated.stop()


class Isolated:
    """Runs functions in another process, which is started anew when it ends.

    Args:
        seconds: that a call may take.
        gib: of memory that all calls may take beyond what the process starts with.
    """

    def __init__(self, seconds: float, gib: float) -> None:
        self._seconds, self._gib = seconds, gib
        self._process: Any = None
        self._pipe: Any = None

    def __call__(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of a function, or what it raises.

        Raises:
            UnreadableError: if it took too long, or ended the process.
        """
        if self._process is None or not self._process.is_alive():
            self._start()
        try:
            self._pipe.send((function, args, kwargs))
            if not self._pipe.poll(self._seconds):
                raise UnreadableError(
                    f"reading it takes more than {self._seconds:g} s (--max-seconds)"
                )
            has_failed, result = self._pipe.recv()
        except (EOFError, ConnectionError) as error:
            self._process.join()
            code = self._process.exitcode
            how = signal.Signals(-code).name if code < 0 else f"status {code}"
            raise UnreadableError(f"reading it ended the process that did so ({how})") from error
        except BaseException:  # it still works
            self.stop()
            raise
        if has_failed:
            raise result
        return result  # type: ignore[no-any-return]

    def stop(self) -> None:
        """End the process; a further call starts another."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process = None

    def _start(self) -> None:
        self.stop()
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._gib), daemon=True)
        self._process.start()
        theirs.close()
        try:
            started = self._pipe.poll(STARTING_S) and self._pipe.recv()
        except (EOFError, ConnectionError):
            started = False
        if not started:
            raise OSError("the process that reads files (--isolate) cannot be started")


def _serve(pipe: Connection, gib: float) -> None:
    """Run what is sent until nobody sends any more."""
    import activemri.data.volumes  # noqa: F401  # all that reads, before time is taken

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started this process ends it
    _limit_memory(gib)
    pipe.send(True)
    while True:
        try:
            function, args, kwargs = pipe.recv()
        except EOFError:
            return
        try:
            answer = False, function(*args, **kwargs)
        except Exception as error:
            if not isinstance(error, UnreadableError):
                error.add_note("".join(traceback.format_exception(error)))
            answer = True, error
        pipe.send(answer)


def _limit_memory(gib: float) -> None:
    """Allow so much address space beyond what is taken; nothing where systems cannot tell."""
    if sys.platform != "linux":
        return
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + round(gib * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
