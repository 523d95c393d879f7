"""Whether uncertainties mean something: do they rank errors, and have they their size?

Everything is measured on the pixels of a :class:`Case`, usually the foreground
(:func:`foreground`; judging may look at the target), in units of the root mean square of the
reconstructed image, and comes with an interval over subjects. All functions are pure; the same
seed gives the same numbers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from activemri.benchmark.resampling import (
    Codes,
    Floats,
    Interval,
    mean_intervals,
    percentile_intervals,
    resampling_weights,
)
from activemri.metrics import spearman

#: Pixels of the target above this share of its maximum are foreground.
FOREGROUND = 0.1
#: Shares of the pixels that a sparsification curve leaves out.
FRACTIONS: Floats = np.arange(20) / 20
N_BINS = 20  # of a reliability curve
_RANKS = 64  # groups of ranks behind pooled rank correlations: off by less than 0.001

Statistic = Callable[[Floats], Floats]


@dataclass(frozen=True, eq=False)
class Case:
    """Pixels of one scan at one moment of its episode.

    Attributes:
        volume: name of the volume.
        slice: position within the volume.
        subject: who was scanned.
        step: lines acquired since the start.
        predicted: relative standard deviations, (n_pixels,).
        error: relative absolute errors of the magnitude, (n_pixels,).
    """

    volume: str
    slice: int
    subject: str
    step: int
    predicted: Floats
    error: Floats


@dataclass(frozen=True, eq=False)
class Reliability:
    """What errors really were where a certain size was predicted; one value for each bin.

    Attributes:
        predicted: root of the mean predicted variance.
        observed: root mean squared error.
        low: lower ends of the intervals of `observed`, NaN with one subject.
        high: upper ends.
        share: of the pixels.
    """

    predicted: Floats
    observed: Floats
    low: Floats
    high: Floats
    share: Floats


@dataclass(frozen=True, eq=False)
class Calibration:
    """How good uncertainties are.

    Attributes:
        numbers: by name, see :data:`NUMBERS`.
        reliability: over all pixels.
        sparsification: mean absolute error of the pixels that are left after the most uncertain
            FRACTIONS have been left out, relative to that of all; mean over cases.
        oracle: the same where the largest errors are left out: no order is better.
        spearman: of each case; NaN where it is not defined.
    """

    numbers: dict[str, Interval]
    reliability: Reliability
    sparsification: Floats
    oracle: Floats
    spearman: Floats


#: What :func:`measure` finds, and what would be ideal.
NUMBERS = {
    "spearman": ("Spearman(uncertainty, |error|), mean over scans", "1"),
    "spearman_if_gaussian": ("the same if errors were Gaussian of that size", ""),
    "spearman_pooled": ("Spearman(uncertainty, |error|), all pixels", "1"),
    "ece": ("expected calibration error", "0"),
    "rms_predicted": ("root mean predicted variance", "= error"),
    "rms_error": ("root mean squared error", ""),
    "coverage_1sd": ("errors within 1 standard deviation", "0.683"),
    "coverage_2sd": ("errors within 2 standard deviations", "0.954"),
    "ause": ("area under the sparsification error", "0"),
    "gain_over_random": ("area between random and sparsification", "large"),
}


def foreground(target: NDArray[np.floating], *, fraction: float = FOREGROUND) -> NDArray[np.bool_]:
    """Pixels above a fraction of the target's maximum: bool of the target's shape."""
    found: NDArray[np.bool_] = target > fraction * target.max()
    return found


def measure(cases: Sequence[Case], *, seed: int = 0, n_resamples: int = 1000) -> Calibration:
    """All numbers and curves.

    Args:
        cases: scans at moments.
        seed: of the resampled subjects.
        n_resamples: how often subjects are drawn anew.

    Raises:
        ValueError: there are no cases.
    """
    if not cases:
        raise ValueError("there are no scans to measure calibration on")
    of_case = np.unique([case.subject for case in cases], return_inverse=True)[1]
    predicted = np.concatenate([case.predicted for case in cases])
    error = np.concatenate([case.error for case in cases])
    pooled = Pooled(
        np.repeat(of_case, [len(case.error) for case in cases]),
        _weights(of_case, seed=seed, n_resamples=n_resamples),
    )
    by_rank = np.array([spearman(case.predicted, case.error) for case in cases])
    if_gaussian = [_spearman_if_gaussian(case, [seed, i]) for i, case in enumerate(cases)]
    curves = [sparsification(case.predicted, case.error) for case in cases]
    oracles = [sparsification(case.error, case.error) for case in cases]
    ause = [area(a - b) for a, b in zip(curves, oracles, strict=True)]
    gain = [area(1 - curve) for curve in curves]
    reliability, calibration_error = reliability_curve(predicted, error, pooled)

    def mean(values: Sequence[float] | Floats) -> Interval:
        return _mean(np.asarray(values), of_case, seed=seed, n_resamples=n_resamples)

    numbers = {
        "spearman": mean(by_rank),
        "spearman_if_gaussian": mean(if_gaussian),
        "spearman_pooled": pooled_spearman(predicted, error, pooled),
        "ece": calibration_error,
        **_sizes(predicted, error, pooled),
        "ause": mean(ause),
        "gain_over_random": mean(gain),
    }
    return Calibration(
        {name: numbers[name] for name in NUMBERS},
        reliability,
        _mean_curve(curves),
        _mean_curve(oracles),
        by_rank,
    )


def _spearman_if_gaussian(case: Case, seed: list[int]) -> float:
    """What rank correlation can be had: chance alone keeps it below 1 for exact predictions."""
    drawn = np.random.default_rng(seed).standard_normal(len(case.predicted))
    return spearman(case.predicted, np.abs(drawn) * case.predicted)


def sparsification(score: Floats, error: Floats) -> Floats:
    """What is left of the mean absolute error without the pixels of highest score.

    Pixels of equal score leave in random order; the curve is the mean over those orders.

    Args:
        score: (n_pixels,); the error itself gives the oracle's curve.
        error: absolute errors of the same pixels.

    Returns:
        Relative to the mean error of all pixels, for each of FRACTIONS; NaN without any error.
    """
    if not error.any():
        return np.full(len(FRACTIONS), np.nan)
    group = np.unique(score, return_inverse=True)[1]
    expected = np.bincount(group, weights=error) / np.bincount(group)
    rising = expected[np.sort(group)]
    left = np.maximum(np.round((1 - FRACTIONS) * len(error)).astype(np.intp), 1)
    relative: Floats = np.cumsum(rising)[left - 1] / left / error.mean()
    return relative


def area(curve: Floats) -> float:
    """Mean height over FRACTIONS (trapezoid rule)."""
    return float((curve[1:] + curve[:-1]).mean() / 2)


@dataclass(frozen=True, eq=False)
class Pooled:
    """Pixels of several subjects, and draws of these subjects.

    Attributes:
        subjects: of each pixel.
        weights: see `resampling_weights`; None with one subject.
    """

    subjects: Codes
    weights: Floats | None

    def intervals(
        self, cells: Codes, n_cells: int, *, of: Statistic, values: Floats
    ) -> list[Interval]:
        """Intervals of a statistic of sums.

        Args:
            cells: of each pixel.
            n_cells: how many there are.
            of: sums (n_draws, n_cells * n_values) to statistics (n_draws, n_statistics).
            values: to be summed in each cell, (n_values, n_pixels).
        """
        n_subjects = int(self.subjects.max()) + 1
        place = self.subjects * n_cells + cells
        sums = np.concatenate(
            [
                np.bincount(place, weights=row, minlength=n_subjects * n_cells).reshape(-1, n_cells)
                for row in values
            ],
            axis=1,
        )
        found = of(sums.sum(axis=0, keepdims=True))[0]
        if self.weights is None:
            reason = "one subject: there is nobody else to draw"
            return [Interval(float(value), None, None, reason) for value in found]
        drawn = of(self.weights @ sums)
        # A draw without any pixel in a bin says nothing about it.
        return percentile_intervals(found, np.where(np.isnan(drawn), found, drawn))


def pooled_spearman(predicted: Floats, error: Floats, pooled: Pooled) -> Interval:
    """Rank correlation over the pixels of all scans, from a table of grouped ranks."""
    cells = _bins(predicted, _RANKS) * _RANKS + _bins(error, _RANKS)
    (found,) = pooled.intervals(
        cells, _RANKS**2, of=_grouped_spearman, values=np.ones((1, len(error)))
    )
    return found


def reliability_curve(
    predicted: Floats, error: Floats, pooled: Pooled, *, n_bins: int = N_BINS
) -> tuple[Reliability, Interval]:
    """Root mean squared error by predicted standard deviation, and how far the two are apart.

    Bins hold equally many pixels. The expected calibration error is the mean over pixels of
    |root mean squared error - root mean predicted variance| of their bin. It cannot be negative,
    so where it is small resampled subjects make it larger more often than smaller.
    """
    bins = np.unique(_bins(predicted, n_bins), return_inverse=True)[1]
    n_found = int(bins.max()) + 1

    def statistic(sums: Floats) -> Floats:
        count, variance, squared = np.split(sums, 3, axis=1)
        with np.errstate(invalid="ignore"):
            sizes = np.sqrt(variance / count), np.sqrt(squared / count)
        apart = np.nansum(count * np.abs(sizes[0] - sizes[1]), axis=1) / count.sum(axis=1)
        return np.concatenate([apart[:, None], *sizes, count], axis=1)

    values = np.stack([np.ones_like(error), predicted**2, error**2])
    first, *others = pooled.intervals(bins, n_found, of=statistic, values=values)
    sizes, observed, count = (others[i * n_found : (i + 1) * n_found] for i in range(3))
    curve = Reliability(
        np.array([one.value for one in sizes]),
        np.array([one.value for one in observed]),
        np.array([one.low for one in observed], dtype=np.float64),
        np.array([one.high for one in observed], dtype=np.float64),
        np.array([one.value for one in count]) / len(error),
    )
    return curve, first


def _sizes(predicted: Floats, error: Floats, pooled: Pooled) -> dict[str, Interval]:
    """Root mean squares, and how many errors lie within one and two standard deviations."""
    values = np.stack(
        [
            np.ones_like(error),
            predicted**2,
            error**2,
            (error <= predicted).astype(np.float64),
            (error <= 2 * predicted).astype(np.float64),
        ]
    )

    def statistic(sums: Floats) -> Floats:
        means = sums[:, 1:] / sums[:, :1]
        return np.concatenate([np.sqrt(means[:, :2]), means[:, 2:]], axis=1)

    names = ("rms_predicted", "rms_error", "coverage_1sd", "coverage_2sd")
    everywhere = np.zeros(len(error), dtype=np.intp)
    found = pooled.intervals(everywhere, 1, of=statistic, values=values)
    return dict(zip(names, found, strict=True))


def _grouped_spearman(counts: Floats) -> Floats:
    """Of tables (n_draws, _RANKS ** 2): (n_draws, 1)."""
    table = counts.reshape(-1, _RANKS, _RANKS) / counts.sum(axis=1)[:, None, None]
    shares = table.sum(axis=2), table.sum(axis=1)
    x, y = (np.cumsum(share, axis=1) - share / 2 - 0.5 for share in shares)
    covariance = np.einsum("nij,ni,nj->n", table, x, y, optimize=True)
    variances = [(share * rank**2).sum(axis=1) for share, rank in zip(shares, (x, y), strict=True)]
    with np.errstate(invalid="ignore"):
        correlation: Floats = covariance / np.sqrt(variances[0] * variances[1])
    return correlation[:, None]


def _bins(values: Floats, n: int) -> Codes:
    """Groups of equally many pixels; equal values share a group."""
    edges = np.unique(np.quantile(values, np.arange(1, n) / n))
    return np.searchsorted(edges, values, side="right")


def _weights(of_case: Codes, *, seed: int, n_resamples: int) -> Floats | None:
    n_subjects = int(of_case.max()) + 1
    if n_subjects < 2:
        return None
    return resampling_weights(n_subjects, rng=np.random.default_rng(seed), n_resamples=n_resamples)


def _mean(values: Floats, of_case: Codes, *, seed: int, n_resamples: int) -> Interval:
    """Mean over the cases where the value is defined."""
    defined = np.isfinite(values)
    if not defined.any():
        return Interval(float("nan"), None, None, "not defined for any scan")
    subjects = np.unique(of_case[defined], return_inverse=True)[1]
    rng = np.random.default_rng(seed)
    (found,) = mean_intervals(values[defined, None], subjects, rng=rng, n_resamples=n_resamples)
    return found


def _mean_curve(curves: Sequence[Floats]) -> Floats:
    defined = [curve for curve in curves if np.isfinite(curve).all()]
    mean: Floats = np.mean(defined, axis=0) if defined else np.full(len(FRACTIONS), np.nan)
    return mean
