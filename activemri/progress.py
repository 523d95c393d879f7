"""Progress of long work on stderr: a bar on a terminal, plain lines in a log file."""

import sys
import time
from collections.abc import Iterator, Sequence
from typing import Self, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

_DELAY = 1.0  # seconds of work that need no word


class Progress:
    """Counts what is done, and shows it if the work takes more than a second; a context manager.

    Where stderr is no terminal, a line every few seconds says the count, the time taken and the
    time that is left::

        Acquiring: 40 of 120 scans, 0:12, about 0:25 left (oracle)

    Args:
        total: what there is to do; None if that is unknown.
        what: the work in a word or two.
        unit: what is counted, in the singular; without it progress is told in percent.
        done: what was done before.
        shown: False shows nothing.
        every: seconds between the lines.
    """

    def __init__(
        self,
        total: float | None,
        what: str,
        *,
        unit: str = "",
        done: float = 0,
        shown: bool = True,
        every: float = 5.0,
    ) -> None:
        self.total, self.what, self.unit = total, what, unit
        self.done = self.before = done
        self.every = every if shown else float("inf")
        self.begun = self.shown = time.monotonic()
        self.note = ""
        self._bar: tqdm[None] | None = None
        self._said: float | None = None  # what the last line counted
        if shown and sys.stderr.isatty():
            percent = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
            self._bar = tqdm(
                total=total,
                desc=what,
                unit=unit or "it",
                initial=done,
                delay=_DELAY,
                bar_format=None if unit else percent,
            )

    def update(self, n: float = 1, *, note: str | None = None) -> None:
        """Count n more; the note says what is under way."""
        self.done += n
        self.note = self.note if note is None else note
        if self._bar is not None:
            self._bar.set_postfix_str(self.note, refresh=False)
            self._bar.update(n)
        elif time.monotonic() - self.shown >= self.every:
            self._write_line()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._said not in (None, self.done) and error[0] is None:
            self._write_line()

    def _write_line(self) -> None:
        self.shown, self._said = time.monotonic(), self.done
        taken, gained = self.shown - self.begun, self.done - self.before
        words = [f"{self.what}: {self._count()}", _clock(taken)]
        if self.total and gained > 0 and self.done < self.total:
            words.append(f"about {_clock(taken * (self.total - self.done) / gained)} left")
        note = f" ({self.note})" if self.note else ""
        sys.stderr.write(f"{', '.join(words)}{note}\n")
        sys.stderr.flush()

    def _count(self) -> str:
        if self.total and not self.unit:
            return f"{100 * self.done / self.total:.0f} %"
        total = f" of {self.total:g}" if self.total else ""
        plural = "" if (self.total or self.done) == 1 else "s"
        return f"{self.done:g}{total} {self.unit}{plural}"


def tracked(items: Sequence[Item], what: str, *, unit: str, shown: bool = True) -> Iterator[Item]:
    """The items, with :class:`Progress`."""
    with Progress(len(items), what, unit=unit, shown=shown) as progress:
        for item in items:
            yield item
            progress.update()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
