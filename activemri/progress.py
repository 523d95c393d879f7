"""Progress: a bar that moves in a terminal, a line now and then in a log file."""

import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

LINE_EVERY_S = 5.0  # between lines in a log file
DELAY_S = 1.0  # of work that is done before it is worth a word


class Progress:
    """Progress of something that takes a while, on stderr; a context manager.

    Call it as often as anything has moved. Where stderr is no terminal it writes lines. An empty
    unit shows percents: "acquire: 43 %, 0:12, about 0:16 left, 40 of 120 scans".
    """

    def __init__(
        self, label: str, total: float, *, done: float = 0, unit: str = "step", show: bool = True
    ) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.at = self._first = done
        self._shown: dict[str, float] = {}
        self._note = ""
        self._printed = -1.0
        self._started = self._last = time.monotonic()
        self._lines = show and not sys.stderr.isatty()
        percent = "{desc}: {percentage:3.0f}%|{bar}| [{elapsed}<{remaining}{postfix}]"
        self._bar: tqdm[Any] = tqdm(
            total=total,
            initial=done,
            desc=label,
            unit=unit,
            delay=DELAY_S,
            disable=not show or self._lines,
            bar_format=None if unit else percent,
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._bar.close()
        spent = time.monotonic() - self._started
        if self._lines and kind is None and spent > DELAY_S and self._printed < self.at:
            self._print()

    def __call__(self, at: float, **numbers: float) -> None:
        """Show that `at` units are done from the very beginning, and numbers, which stay."""
        self._shown |= numbers
        if self._bar.disable:
            self.at = at
            if self._lines and time.monotonic() - self._last >= LINE_EVERY_S:
                self._print()
            return
        self._bar.set_postfix_str(self._words(), refresh=False)
        if at == self.at:
            now = time.monotonic()
            if now - self._last > 0.1:  # numbers move, units do not
                self._last = now
                self._bar.refresh()
        self._bar.update(at - self.at)
        self.at = at

    def note(self, words: str) -> None:
        """Show words beside the numbers from the next call on."""
        self._note = words

    def _print(self) -> None:
        self._last, self._printed = time.monotonic(), self.at
        spent = self._last - self._started
        moved = self.at - self._first
        count = f"{100 * self.at / self.total:.0f} %" if self.total else "100 %"
        if self.unit:
            plural = f"{self.unit[:-1]}ies" if self.unit.endswith("y") else f"{self.unit}s"
            count = f"{self.at:g} of {self.total:g} {plural}"
        words = [f"{self.label}: {count}", duration(spent)]
        if moved > 0 and self.at < self.total:
            words.append(f"about {duration(spent / moved * (self.total - self.at))} left")
        sys.stderr.write(", ".join([*words, *filter(None, [self._words()])]) + "\n")
        sys.stderr.flush()

    def _words(self) -> str:
        numbers = (
            f"{name} {value:,}" if isinstance(value, int) else f"{name} {value:.4g}"
            for name, value in self._shown.items()
        )
        return ", ".join([*numbers, *filter(None, [self._note])])


def track(items: Sequence[Item], label: str, *, unit: str, show: bool = True) -> Iterator[Item]:
    """The items, with their progress."""
    with Progress(label, len(items), unit=unit, show=show) as progress:
        for number, item in enumerate(items, start=1):
            yield item
            progress(number)


def duration(seconds: float) -> str:
    """Hours, minutes and seconds: 1:02:03, or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
