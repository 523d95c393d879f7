"""Intervals and tests on plain arrays whose values come in groups: the slices of one subject.

Slices of one subject resemble each other, so the subject is the unit: a mean is the mean of the
subjects' means, whatever their numbers of slices; subjects are left out (jackknife), and their
signs flipped (permutation test). Everything is vectorised over these. An interval needs no random
numbers; permutation tests of many subjects take a generator.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

Floats = NDArray[np.float64]
Codes = NDArray[np.intp]

#: Outside of an interval lies the truth in this share of studies, on either side.
TAIL = (1 - 0.95) / 2

#: Intervals of fewer subjects would say nothing.
FEWEST_SUBJECTS = 3
TOO_FEW = "too few subjects"

#: Up to this many subjects every sign pattern is tried (65536 of them), above it random ones.
EXACT_SUBJECTS = 16
_N_FLIPS = 20000  # random sign patterns


@dataclass(frozen=True)
class Interval:
    """An estimate with the ends of its interval, or the reason why there is none."""

    value: float
    low: float | None
    high: float | None
    reason: str | None = None

    def within(self, limits: tuple[float, float]) -> "Interval":
        """Cut off at the lowest and highest value that there can be."""
        if self.low is None or self.high is None:
            return self
        return replace(self, low=max(self.low, limits[0]), high=min(self.high, limits[1]))

    def named(self, name: str) -> dict[str, object]:
        """Three entries of a row: name, name_lo, name_hi."""
        return {name: self.value, f"{name}_lo": self.low, f"{name}_hi": self.high}


def leave_one_out(n_subjects: int) -> Floats:
    """Weights of subjects: first all of them, then all but one, (1 + n_subjects, n_subjects).

    With fewer than ``FEWEST_SUBJECTS``, all of them only, (1, n_subjects).
    """
    everybody = np.ones((1, n_subjects))
    return (
        everybody
        if n_subjects < FEWEST_SUBJECTS
        else np.vstack([everybody, 1 - np.eye(n_subjects)])
    )


def weighted_means(values: Floats, subjects: Codes, *, weights: Floats) -> Floats:
    """Mean of the subjects' means for each weighting of the subjects, (n_weightings, n_columns).

    Of values (n_slices, n_columns), subjects 0 .. n_subjects - 1, (n_slices,), and weights
    (n_weightings, n_subjects), such as :func:`leave_one_out`.
    """
    own_weights = slice_weights(subjects, weights=weights)
    means: Floats = (own_weights @ values) / own_weights.sum(axis=1, keepdims=True)
    return means


def slice_weights(subjects: Codes, *, weights: Floats) -> Floats:
    """Weights of slices, a subject's own shared evenly among its slices: (n_weightings, n_slices).

    Arguments as of :func:`weighted_means`.
    """
    counts = np.bincount(subjects, minlength=weights.shape[1])
    return np.asarray((weights / counts)[:, subjects], np.float64)


def subject_means(values: Floats, subjects: Codes) -> Floats:
    """Mean of the subjects' means of each column, (n_columns,), of all subjects."""
    everybody = np.ones((1, int(subjects.max()) + 1))
    means: Floats = weighted_means(values, subjects, weights=everybody)[0]
    return means


def interquartile_means(values: Floats, weights: Floats) -> Floats:
    """Mean of the middle half of each column, (n_weightings, n_columns); edges count in part.

    With equal weights and a multiple of four values this is ``scipy.stats.trim_mean(values, 1/4)``.
    Values are (n_slices, n_columns), weights (n_weightings, n_slices), each row of positive sum.
    """
    means = np.empty((len(weights), values.shape[1]))
    for place, column in enumerate(values.T):
        order = np.argsort(column, kind="stable")
        upper = np.cumsum(weights[:, order], axis=1)
        upper /= upper[:, -1:]
        np.clip(upper, 0.25, 0.75, out=upper)
        # What lies between two neighbours of the clipped, cumulated weights is a value's share.
        means[:, place] = np.diff(upper, axis=1, prepend=0.25) @ column[order] / 0.5
    return means


def intervals(estimates: Floats) -> list[Interval]:
    """Intervals of 95 %: an estimate more or less some of its jackknife standard errors.

    Of estimates for the weights of :func:`leave_one_out`, (1 + n_subjects, n_columns). How many
    standard errors is Student's quantile, not with n - 1 degrees of freedom but with a third of
    n + 1: the fewer and the more skewed the subjects, the less is their spread known. That third
    was chosen by simulation. From 3 to 40 subjects with unequal numbers of slices, intervals of a
    mean hold the truth in 96 to 98 % of studies where subjects are normal, in at least 94.7 % with
    gamma (skewness 1.4), 93 % with exponential (2) and 90 % with log-normal ones (6). Percentile
    bootstrap intervals hold it in 68 to 94 % of these studies, bias-corrected ones (BCa) in 59 to
    94 %, Student's with n - 1 degrees in 84 to 95 %; studentised bootstrap ones are infinite with 3
    subjects and more than twice as wide as Student's with 4.
    """
    n_subjects, values = len(estimates) - 1, estimates[0].tolist()
    if n_subjects < FEWEST_SUBJECTS:
        return [Interval(value, None, None, TOO_FEW) for value in values]
    half = np.linalg.norm(_deviations(estimates), axis=0)
    ends = np.stack([estimates[0] - half, estimates[0] + half], axis=1)
    return [
        Interval(value, *own.tolist())
        if np.isfinite(own).all()
        else Interval(value, None, None, "not defined without one of the subjects")
        for value, own in zip(values, ends, strict=True)
    ]


def ratio_interval(estimates: Floats) -> Interval:
    """Interval of the first column of estimates over the second, as :func:`intervals` (Fieller).

    It holds all ratios r for which "first - r second" may be zero (Fieller 1954, J. R. Stat. Soc.
    B 16:175), and has ends where the second one is clearly not zero: where its interval is on one
    side of it.
    """
    (first, second), n_subjects = estimates[0].tolist(), len(estimates) - 1
    if n_subjects < FEWEST_SUBJECTS:
        return Interval(first / second, None, None, TOO_FEW)
    apart = _deviations(estimates)
    (of_first, of_both), (_, of_second) = (apart.T @ apart).tolist()
    a, b, c = second**2 - of_second, first * second - of_both, first**2 - of_first
    if not a > 0:
        return Interval(first / second, None, None, "the denominator may be zero")
    root = np.sqrt(max(b**2 - a * c, 0.0))
    return Interval(first / second, float(b - root) / a, float(b + root) / a)


def _deviations(estimates: Floats) -> Floats:
    """Part of each subject in a half width, (n_subjects, n_columns): half widths are norms."""
    n_subjects = len(estimates) - 1
    n_errors = stdtrit((n_subjects + 1) / 3, 1 - TAIL)
    with np.errstate(invalid="ignore"):  # what is not finite has no interval
        apart = estimates[1:] - estimates[0]
    scaled: Floats = n_errors * np.sqrt((n_subjects - 1) / n_subjects) * apart
    return scaled


def mean_intervals(values: Floats, subjects: Codes, *, of_middle: bool = False) -> list[Interval]:
    """Mean of subjects' means (`of_middle`: of the middle half) with its interval, by column.

    Values are (n_slices, n_columns), subjects 0 .. n_subjects - 1, (n_slices,).
    """
    weights = leave_one_out(int(subjects.max()) + 1)
    if of_middle:
        return intervals(interquartile_means(values, slice_weights(subjects, weights=weights)))
    return intervals(weighted_means(values, subjects, weights=weights))


def sign_flip_p_value(differences: Floats, *, rng: np.random.Generator) -> float:
    """Two-sided test that the mean of differences, one per subject, is zero.

    Each is as likely as its negative. Exact up to ``EXACT_SUBJECTS`` values: all 2^n sign patterns
    are tried, so that p is at least 2^-(n - 1) (one value: 1; five: 0.0625). Above, random patterns
    and the observed one are counted, so p is never zero.
    """
    n = len(differences)
    if n <= EXACT_SUBJECTS:
        # The negative of a pattern gives the same size: the last sign can stay.
        bits = (np.arange(2 ** (n - 1))[:, None] >> np.arange(n)) & 1
    else:
        bits = rng.integers(0, 2, size=(_N_FLIPS, n))
        bits[0] = 0  # the observed signs
    sums = np.abs((1 - 2 * bits) @ differences)
    observed = abs(float(differences.sum()))
    rounding = 1e-12 * float(np.abs(differences).sum())  # equal sums differ in their last bits
    return float(np.mean(sums >= observed - rounding))


def smallest_p_value(n_subjects: int) -> float:
    """Value of :func:`sign_flip_p_value` when every subject agrees."""
    return 2.0 ** -(n_subjects - 1) if n_subjects <= EXACT_SUBJECTS else 1 / _N_FLIPS


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for their number (Holm 1979, Scand. J. Stat. 6:65), in the given order."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return [float(value) for value in adjusted]
