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

import numpy as np
from numpy.typing import NDArray

from activemri.stopping import RuleError

Floats = NDArray[np.float64]

#: Thresholds that are tried; more only cost memory.
_MOST = 4000


def check_units(n_units: int, alpha: float, *, unit: str = "unit") -> None:
    """Refuse by a RuleError to promise what so few units cannot show: 1 / alpha - 1 are needed."""
    needed = math.ceil(round(1 / alpha - 1, 9))
    if n_units < needed:
        raise RuleError(
            f"alpha={alpha:g} needs at least {needed} calibration {unit}s (1/alpha - 1); there are "
            f"{n_units}. Choose alpha of at least {math.ceil(1000 / (n_units + 1)) / 1000:g}, or "
            "calibrate on more: another --stop.calibration, --stop.calibration-subjects for "
            "phantoms, --stop.calibration crossfit, or --stop.unit slice"
        )


def losses(
    predictions: Floats, missed: NDArray[np.bool_], units: NDArray[np.intp]
) -> tuple[Floats, Floats]:
    """Monotonised losses of units at all thresholds at which anything changes.

    A slice stops at the first step whose prediction is at least the threshold, at the last step if
    there is none. Predictions, higher being better, and whether the true score is below the target
    are (slice, step), units 0 .. n - 1 (slice,). Returns rising thresholds, the last infinite
    (never stop before the end), and losses (unit, threshold), which fall along them.
    """
    # What cannot be predicted does not stop a scan.
    predictions = np.where(np.isnan(predictions), -np.inf, predictions)
    best_so_far = np.maximum.accumulate(predictions, axis=1)
    thresholds = np.unique(best_so_far)
    if len(thresholds) > _MOST:  # what lies between is rounded up, which is safe
        places = np.linspace(0, len(thresholds) - 1, _MOST).round().astype(int)
        thresholds = thresholds[places]
    thresholds = np.append(thresholds, np.inf)
    values = np.empty((units.max() + 1, len(thresholds)))
    for unit, row in enumerate(values):
        best, miss = best_so_far[units == unit], missed[units == unit]
        own = np.append(np.unique(best), np.inf)  # nothing changes in between
        stop = np.stack([np.searchsorted(curve, own) for curve in best])
        stop = np.minimum(stop, missed.shape[1] - 1)
        share = np.take_along_axis(miss, stop, axis=1).mean(axis=0)
        largest = np.maximum.accumulate(share[::-1])[::-1]
        row[:] = largest[np.searchsorted(own, thresholds)]
    return thresholds, values


def choose_threshold(
    thresholds: Floats, values: Floats, *, alpha: float, unit: str = "unit"
) -> float:
    """The most permissive of the thresholds, with their :func:`losses`, that is safe.

    Raises:
        RuleError: too few units, or even the whole budget misses too often.
    """
    n_units = len(values)
    check_units(n_units, alpha, unit=unit)
    safe = (values.sum(axis=0) + 1) / (n_units + 1) <= alpha + 1e-12
    if not safe[-1]:
        raise RuleError(
            f"no threshold keeps misses below alpha={alpha:g}: at the end of the budget "
            f"{100 * float(values[:, -1].mean()):.1f} % of the calibration slices still miss "
            "the target. Allow more lines (--budget None for all), or lower the target"
        )
    # The bound falls: from the first safe threshold on, all are.
    return float(thresholds[int(np.argmax(safe))])
