"""Worth of uncertainties: do they rank errors, and have they their size? Numbers and a figure.

Everything is measured on the pixels of a :class:`Case`, usually the foreground
(:func:`foreground`; judging may look at the target), in units of the root mean square of the
reconstructed image, and comes with an interval over subjects. All functions are pure; the same
seed gives the same numbers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import LogLocator, NullLocator
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

# Okabe and Ito's blue, vermilion and green, told apart by all kinds of colour vision.
_BEFORE, _AFTER, _ORACLE, _GREY = "#d55e00", "#0072b2", "#009e73", "#7f8288"
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}

Statistic = Callable[[Floats], Floats]


@dataclass(frozen=True, eq=False)
class Case:
    """Pixels of one scan at one moment of its episode.

    Attributes:
        volume: name of the volume.
        slice: position within the volume.
        subject: of the scan.
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
    """Real errors where a certain size was predicted; one value for each bin.

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
    """Quality of uncertainties.

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


#: Numbers of :func:`measure`, and their ideal values.
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
        n_resamples: draws of subjects.

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


@dataclass(frozen=True, eq=False)
class Example:
    """One scan to look at.

    Attributes:
        name: of volume and slice.
        n_acquired: lines.
        ssim: of the reconstruction.
        spearman: of uncertainty and error.
        image: reconstructed magnitude, (height, width).
        error: absolute, relative to the image's root mean square.
        uncertainty: recalibrated, in the same unit.
    """

    name: str
    n_acquired: int
    ssim: float
    spearman: float
    image: Floats
    error: Floats
    uncertainty: Floats


def write_plot(
    path: Path,
    before: Calibration,
    after: Calibration,
    *,
    example: Example,
    cases: Sequence[Case],
) -> None:
    """Reliability, sparsification, rank correlation by scan; below, one scan."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(10.5, 7.2), layout="constrained")
        FigureCanvasAgg(figure)
        rows: Any = figure.subfigures(2, 1, height_ratios=[1, 1.05], hspace=0.06)
        panels = rows[0].subplots(1, 3)
        _reliability(panels[0], before, after)
        _sparsification(panels[1], before)
        _correlations(panels[2], before, cases)
        _pictures(rows[1], example)
        figure.savefig(path, dpi=150, metadata={"Software": None})


def _spearman_if_gaussian(case: Case, seed: list[int]) -> float:
    """Best rank correlation: chance alone keeps it below 1 for exact predictions."""
    drawn = np.random.default_rng(seed).standard_normal(len(case.predicted))
    return spearman(case.predicted, np.abs(drawn) * case.predicted)


def sparsification(score: Floats, error: Floats) -> Floats:
    """Rest of the mean absolute error without the pixels of highest score.

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
            n_cells: number of cells.
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


def _reliability(axes: Axes, before: Calibration, after: Calibration) -> None:
    for found, colour, name in ((before, _BEFORE, "before"), (after, _AFTER, "after")):
        curve = found.reliability
        label = f"{name} recalibration (ECE {found.numbers['ece'].value:.3f})"
        axes.fill_between(curve.predicted, curve.low, curve.high, color=colour, alpha=0.18, lw=0)
        marker = "o" if found is after else "s"
        axes.plot(
            curve.predicted, curve.observed, marker + "-", ms=3.5, lw=1.3, c=colour, label=label
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    low = min(axes.get_xlim()[0], axes.get_ylim()[0])
    high = max(axes.get_xlim()[1], axes.get_ylim()[1])
    axes.plot([low, high], [low, high], c=_GREY, lw=1, ls=(0, (4, 2)), label="ideal", zorder=1)
    for axis, limits in ((axes.xaxis, axes.set_xlim), (axes.yaxis, axes.set_ylim)):
        limits(low, high)
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 20 * low else (1.0,)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())
    axes.set_title("Reliability")
    axes.set_xlabel("predicted standard deviation / image RMS")
    axes.set_ylabel("root mean squared error / image RMS")
    axes.legend(loc="lower right")


def _sparsification(axes: Axes, found: Calibration) -> None:
    percent = 100 * FRACTIONS
    axes.axhline(1, c=_GREY, lw=1.3, ls=(0, (4, 2)), label="at random")
    ause = found.numbers["ause"].value
    axes.plot(percent, found.sparsification, c=_BEFORE, lw=1.6, label="most uncertain first")
    axes.plot(percent, found.oracle, c=_ORACLE, lw=1.6, ls=":", label="largest errors first")
    axes.fill_between(percent, found.oracle, found.sparsification, color=_BEFORE, alpha=0.12, lw=0)
    axes.set_ylim(0, 1.08)
    axes.set_xlim(0, 95)
    axes.set_title(f"Sparsification (area between: {ause:.3f})")
    axes.set_xlabel("pixels left out (%)")
    axes.set_ylabel("mean error of the rest / of all")
    axes.legend(loc="lower left")


def _correlations(axes: Axes, found: Calibration, cases: Sequence[Case]) -> None:
    steps = sorted({case.step for case in cases})
    values = [
        found.spearman[[i for i, case in enumerate(cases) if case.step == step]] for step in steps
    ]
    values = [part[np.isfinite(part)] for part in values]
    everything = np.concatenate(values)
    edges = np.linspace(min(0.0, float(np.min(everything, initial=0.0))), 1, 26)
    shades = mpl.colormaps["cividis"](np.linspace(0.1, 0.9, len(steps)))
    axes.hist(
        values, bins=list(edges), stacked=True, color=list(shades), label=[f"+{s}" for s in steps]
    )
    mean = found.numbers["spearman"].value
    axes.axvline(mean, c="black", lw=1.2)
    axes.set_xlim(edges[0], 1)
    axes.set_title(f"Rank correlation by scan (mean {mean:.2f})")
    axes.set_xlabel("Spearman(uncertainty, |error|)")
    axes.set_ylabel("scans")
    axes.legend(title="lines after start", loc="best", title_fontsize=8.5)


def _pictures(figure: SubFigure, example: Example) -> None:
    figure.suptitle(
        f"{example.name}: {example.n_acquired} lines, SSIM {example.ssim:.3f}, "
        f"Spearman {example.spearman:.2f}",
        fontsize=10,
        parse_math=False,  # a $ in a name is a $
    )
    panels = figure.subplots(1, 3)
    white = float(np.quantile(example.image, 0.998)) or 1.0
    panels[0].imshow(example.image, cmap="gray", vmin=0, vmax=white)
    panels[0].set_title("reconstruction")
    # One scale for both: a map of the right size is as bright as the error is on average.
    top = float(np.quantile(example.error, 0.995)) or 1.0
    for axes, values, title in (
        (panels[1], example.error, "|error|"),
        (panels[2], example.uncertainty, "uncertainty (recalibrated)"),
    ):
        shown = axes.imshow(values, cmap="inferno", vmin=0, vmax=top)
        axes.set_title(title)
    bar = figure.colorbar(shown, ax=list(panels[1:]), shrink=0.85, pad=0.02, extend="max")
    bar.set_label("in units of the image's RMS")
    for axes in panels:
        axes.set_axis_off()
