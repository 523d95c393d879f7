"""Conformal risk control: a threshold whose risk is bounded for new scans.

Angelopoulos, Bates, Fisch, Lei and Schuster, Conformal Risk Control, 2022 (arXiv 2208.02814).

A unit (a subject, a volume or a slice) has a loss in 0..1 for every threshold: the share of its
slices that stop below the target. A higher threshold is safer. The loss need not fall with the
threshold, since scores can fall as lines are added, so each unit's loss is replaced by its largest
value at this or any higher threshold. The threshold chosen is the lowest with

    n / (n + 1) * (mean loss of the n calibration units) + 1 / (n + 1) <= alpha.

Then the expected loss of a new unit is at most alpha, if it is exchangeable with the calibration
units. The expectation is over calibration and new units together. Where no threshold is safe there
is none to use; a loss that is not incurred only lowers the expectation.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: Thresholds that are tried; more only cost memory.
_MOST = 4000


class NoThresholdError(ValueError):
    """No threshold keeps the promise."""


@dataclass(frozen=True, eq=False)
class Losses:
    """Losses of units at each of some thresholds.

    Attributes:
        thresholds: rising; the last is infinite: never stop before the end.
        values: monotonised losses, (unit, threshold), falling along the thresholds.
    """

    thresholds: Floats
    values: Floats

    @property
    def bound(self) -> Floats:
        """The bound on the expected loss at each threshold, (threshold,)."""
        n = len(self.values)
        bound: Floats = (self.values.sum(axis=0) + 1) / (n + 1)
        return bound


def units_needed(alpha: float) -> int:
    """Fewest calibration units with which alpha can be promised at all: 1 / alpha - 1."""
    return math.ceil(round(1 / alpha - 1, 9))


def check_units(n_units: int, alpha: float, unit: str = "unit") -> None:
    """Refuse to promise what so few units cannot show.

    Raises:
        NoThresholdError: with how many there are and how many are needed.
    """
    needed = units_needed(alpha)
    if n_units < needed:
        raise NoThresholdError(
            f"alpha={alpha:g} needs at least {needed} calibration {unit}s (1/alpha - 1); there are "
            f"{n_units}. Choose alpha of at least {math.ceil(1000 / (n_units + 1)) / 1000:g}, or "
            "calibrate on more: another --stop.calibration, --stop.calibration-subjects for "
            "phantoms, --stop.calibration crossfit, or --stop.unit slice"
        )


def losses(predictions: Floats, missed: NDArray[np.bool_], units: Sequence[object]) -> Losses:
    """Monotonised losses of units at all thresholds at which anything changes.

    A slice stops at the first step whose prediction is at least the threshold, at the last step if
    there is none.

    Args:
        predictions: predicted quality, higher is better, (slice, step).
        missed: the true score is below the target, (slice, step).
        units: unit of each slice, (slice,).
    """
    # What cannot be predicted does not stop a scan.
    predictions = np.where(np.isnan(predictions), -np.inf, predictions)
    best_so_far = np.maximum.accumulate(predictions, axis=1)
    thresholds = np.append(_thinned(np.unique(best_so_far)), np.inf)
    labels = {unit: code for code, unit in enumerate(dict.fromkeys(units))}
    codes = np.array([labels[unit] for unit in units])
    members = [codes == code for code in range(len(labels))]
    values = [_largest_from(best_so_far[own], missed[own], thresholds) for own in members]
    return Losses(thresholds, np.stack(values))


def _largest_from(best_so_far: Floats, missed: NDArray[np.bool_], thresholds: Floats) -> Floats:
    """Of one unit: largest share of misses at each threshold or any above, also between them."""
    own = np.append(np.unique(best_so_far), np.inf)  # nothing changes in between
    stop = np.stack([np.searchsorted(row, own) for row in best_so_far])
    stop = np.minimum(stop, missed.shape[1] - 1)
    share = np.take_along_axis(missed, stop, axis=1).mean(axis=0)
    largest = np.maximum.accumulate(share[::-1])[::-1]
    return np.asarray(largest[np.searchsorted(own, thresholds)])


def choose_threshold(found: Losses, alpha: float, *, unit: str = "unit") -> float:
    """The most permissive threshold that is safe.

    Raises:
        NoThresholdError: too few units, or even the whole budget misses too often.
    """
    check_units(len(found.values), alpha, unit)
    safe = found.bound <= alpha + 1e-12
    if not safe[-1]:
        raise NoThresholdError(
            f"no threshold keeps misses below alpha={alpha:g}: at the end of the budget "
            f"{100 * float(found.values[:, -1].mean()):.1f} % of the calibration slices still miss "
            "the target. Allow more lines (--budget None for all), or lower the target"
        )
    # The bound falls: from the first safe threshold on, all are.
    return float(found.thresholds[int(np.argmax(safe))])


def _thinned(values: Floats) -> Floats:
    """At most _MOST of the values. What lies between is rounded up, which is safe."""
    if len(values) <= _MOST:
        return values
    return np.asarray(values[np.linspace(0, len(values) - 1, _MOST).round().astype(int)])
