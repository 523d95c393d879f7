"""Times of several ways of doing one thing, taken in turn, so that their ratios can be trusted."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

Work = Callable[[], float]  # does some units of work (frames, decisions) and returns how many
Clock = Callable[[], float]  # seconds

_ROUNDS = 7  # each way is timed so often


@dataclass(frozen=True)
class Ways:
    """Ways of doing one thing.

    Attributes:
        ours, baseline, copy: timed in turn.
        prepare: what has to happen before each call of ours, not timed.
        facts: further numbers, asked for when the times are known.
    """

    ours: Work
    baseline: Work | None = None
    copy: Work | None = None
    prepare: Callable[[], object] | None = None
    facts: Callable[[Mapping[str, float]], Mapping[str, float]] = lambda times: {}


def clock_of(device: str, n_threads: int) -> Clock:
    """Seconds of this thread, which are the same whatever else the machine does.

    Where others compute for it, a graphics card or more threads, those of the clock on the wall.
    """
    waits = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}
    wait = waits.get(torch.device(device).type)
    if wait is not None:

        def synchronised() -> float:
            wait()
            return time.perf_counter()

        return synchronised
    is_fine = time.get_clock_info("thread_time").resolution < 1e-5
    return time.thread_time if n_threads == 1 and is_fine else time.perf_counter


def timed(ways: Ways, seconds: float, clock: Clock, *, spread: bool = False) -> dict[str, float]:
    """Time ways in turn.

    Args:
        ways: each is called once before, which does not count unless it took so long.
        seconds: for each way. No round is begun after three times as long on the wall's clock.
        clock: what counts.
        spread: time every call by itself.

    Returns:
        Medians over rounds: `seconds`, `baseline_seconds` and `copy_seconds` of a unit of work;
        `ratio`, how many times as long as ours the baseline takes, and `copies`, how many copies
        could be made in our time. `p99_seconds` of calls, if they are spread. And the facts.
    """
    works = {"ours": ways.ours, "baseline": ways.baseline, "copy": ways.copy}
    given = {name: work for name, work in works.items() if work is not None}

    def turn(share: float) -> tuple[list[float], float]:
        """Seconds of a unit for each way, and the longest that one took."""
        found, longest = list[float](), 0.0
        for name, work in given.items():
            done = spent = 0.0
            while spent < share or not done:
                if name == "ours" and ways.prepare is not None:
                    ways.prepare()
                start = clock()
                done += work()
                spent += clock() - start
            found.append(spent / done)
            longest = max(longest, spent)
        return found, longest

    begun = time.monotonic()
    first, longest = turn(0.0)
    rounds = [first] if longest > seconds else []
    if not rounds:
        begun = time.monotonic()
    end = begun + 3 * seconds * len(given)
    while not rounds or (time.monotonic() < end and (spread or len(rounds) < _ROUNDS)):
        rounds.append(turn(0.0 if spread else seconds / _ROUNDS)[0])
    spans = dict(zip(given, np.transpose(rounds), strict=True))
    ours = spans["ours"]
    times = {"seconds": np.median(ours)}
    if spread:
        times["p99_seconds"] = np.quantile(ours, 0.99)
    if "baseline" in spans:
        times["baseline_seconds"] = np.median(spans["baseline"])
        times["ratio"] = np.median(spans["baseline"] / ours)
    if "copy" in spans:
        times["copy_seconds"] = np.median(spans["copy"])
        times["copies"] = np.median(ours / spans["copy"])
    known = {name: float(value) for name, value in times.items()}
    return known | dict(ways.facts(known))
