"""Progress of long work: a bar on a terminal, plain lines in a log file."""

import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeVar

Item = TypeVar("Item")

_EVERY = 5.0  # seconds between lines of a log file
_DELAY = 1.0  # seconds of work that need no word


class Progress(Protocol):
    """Counts what is done; a context manager."""

    def update(self, n: float = 1, /) -> object: ...
    def set_postfix_str(self, s: str = "", /) -> object: ...
    def __enter__(self) -> "Progress": ...
    def __exit__(self, *error: Any) -> object: ...


def progress(
    total: float | None, what: str, *, unit: str = "", initial: float = 0, shown: bool = True
) -> Progress:
    """Show how much is done, on stderr, if it takes more than a second.

    On a terminal it is a bar. Elsewhere a line every five seconds says the count, the time taken
    and the time that is left::

        Acquiring: 40 of 120 scans, 0:12, about 0:25 left (oracle, cresnet)

    Args:
        total: what there is to do; None if that is unknown.
        what: the work in a word or two.
        unit: what is counted, in the singular; nothing shows percents alone.
        initial: what was done before.
        shown: False shows nothing.
    """
    if not shown:
        return _Lines(total, what, unit=unit, initial=initial, every=float("inf"))
    if sys.stderr.isatty():
        from tqdm import tqdm

        counts = "" if unit else "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
        bar: Progress = tqdm(
            total=total,
            desc=what,
            unit=unit or "it",
            initial=initial,
            delay=_DELAY,
            bar_format=counts or None,
        )
        return bar
    return _Lines(total, what, unit=unit, initial=initial)


def tracked(items: Sequence[Item], what: str, *, unit: str, shown: bool = True) -> Iterator[Item]:
    """The items, with :func:`progress`."""
    with progress(len(items), what, unit=unit, shown=shown) as bar:
        for item in items:
            yield item
            bar.update()


class _Lines:
    """Progress as lines of a log file."""

    def __init__(
        self, total: float | None, what: str, *, unit: str, initial: float, every: float = _EVERY
    ) -> None:
        self.total, self.what, self.unit, self.every = total, what, unit, every
        self.initial, self.done, self.note = initial, initial, ""
        self.begun = self.said = time.monotonic()
        self.spoke = False

    def update(self, n: float = 1, /) -> None:
        self.done += n
        if time.monotonic() - self.said >= self.every:
            self._say()

    def set_postfix_str(self, s: str = "", /) -> None:
        self.note = s

    def __enter__(self) -> "_Lines":
        return self

    def __exit__(self, *error: Any) -> None:
        if self.spoke and error[0] is None:
            self._say()

    def _say(self) -> None:
        self.said = time.monotonic()
        self.spoke = True
        taken, done = self.said - self.begun, self.done - self.initial
        words = [f"{self.what}: {self._count()}", _clock(taken)]
        if self.total and done > 0 and self.done < self.total:
            words.append(f"about {_clock(taken * (self.total - self.done) / done)} left")
        note = f" ({self.note})" if self.note else ""
        sys.stderr.write(", ".join(words) + note + "\n")
        sys.stderr.flush()

    def _count(self) -> str:
        if self.total and not self.unit:
            return f"{100 * self.done / self.total:.0f} %"
        of = f" of {self.total:g}" if self.total else ""
        number = self.total or self.done
        return f"{self.done:g}{of} {self.unit}{'' if number == 1 else 's'}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
