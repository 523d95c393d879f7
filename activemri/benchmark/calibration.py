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
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from numpy.typing import NDArray

from activemri.benchmark import resampling
from activemri.benchmark.resampling import Codes, Floats, Interval
from activemri.files import replacing
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


@dataclass(frozen=True, eq=False)
class Case:
    """Pixels of one scan after `step` lines: relative deviations and absolute errors, (n_pixels,).

    Errors are those of the magnitude.
    """

    volume: str
    slice: int
    subject: str
    step: int
    predicted: Floats
    error: Floats


@dataclass(frozen=True, eq=False)
class Calibration:
    """Quality of uncertainties.

    Attributes:
        numbers: by name, see :data:`NUMBERS`.
        reliability: real errors where a certain size was predicted, over all pixels, (bin,) each:
            root of the mean "predicted" variance, "observed" root mean squared error with the ends
            "low" and "high" of its interval (NaN with too few subjects), and "share" of the pixels.
        sparsification: mean absolute error of the pixels that are left after the most uncertain
            FRACTIONS have been left out, relative to that of all; mean over cases.
        oracle: the same where the largest errors are left out: no order is better.
        spearman: of each case; NaN where it is not defined.
    """

    numbers: dict[str, Interval]
    reliability: dict[str, Floats]
    sparsification: Floats
    oracle: Floats
    spearman: Floats


def foreground(target: NDArray[np.floating], *, fraction: float = FOREGROUND) -> NDArray[np.bool_]:
    """Pixels above a fraction of the target's maximum: bool of the target's shape."""
    found: NDArray[np.bool_] = target > fraction * target.max()
    return found


def measure(cases: Sequence[Case], *, seed: int = 0) -> Calibration:
    """All numbers and curves; without cases a ValueError.

    Reliability bins hold equally many pixels. The expected calibration error is the mean over
    pixels of |root mean squared error - root mean predicted variance| of their bin. The seed draws
    the errors that Gaussian ones would have been.
    """
    if not cases:
        raise ValueError("there are no scans to measure calibration on")
    of_case = np.unique([case.subject for case in cases], return_inverse=True)[1]
    of_pixel = np.repeat(of_case, [len(case.error) for case in cases])
    n_subjects = int(of_case.max()) + 1
    predicted = np.concatenate([case.predicted for case in cases])
    error = np.concatenate([case.error for case in cases])

    def mean(values: Sequence[float] | Floats) -> Interval:
        """Mean over the cases where the value is defined."""
        column = np.asarray(values)
        defined = np.isfinite(column)
        if not defined.any():
            return Interval(float("nan"), None, None, "not defined for any scan")
        subjects = np.unique(of_case[defined], return_inverse=True)[1]
        return resampling.mean_intervals(column[defined, None], subjects)[0]

    def pooled(
        statistic: Callable[[Floats], Floats], cells: Codes, n_cells: int, *values: Floats
    ) -> list[Interval]:
        """Of sums of values over the pixels of each cell, (weighting, value * cell)."""
        place, n_places = of_pixel * n_cells + cells, n_subjects * n_cells
        sums = np.concatenate(
            [np.bincount(place, each, n_places).reshape(n_subjects, n_cells) for each in values],
            axis=1,
        )
        found = statistic(resampling.leave_one_out(n_subjects) @ sums)
        # Others without any pixel in a bin say nothing about it.
        return resampling.intervals(np.where(np.isnan(found), found[0], found))

    def reliability(sums: Floats) -> Floats:
        count, variance, squared = np.split(sums, 3, axis=1)
        with np.errstate(invalid="ignore"):
            sizes = np.sqrt(variance / count), np.sqrt(squared / count)
        apart = np.nansum(count * np.abs(sizes[0] - sizes[1]), axis=1) / count.sum(axis=1)
        return np.concatenate([apart[:, None], *sizes, count], axis=1)

    def overall(sums: Floats) -> Floats:
        means = sums[:, 1:] / sums[:, :1]
        return np.concatenate([np.sqrt(means[:, :2]), means[:, 2:]], axis=1)

    ones = np.ones_like(error)
    by_rank = np.array([spearman(case.predicted, case.error) for case in cases])
    if_gaussian = []  # chance alone keeps the rank correlation of exact predictions below 1
    for number, case in enumerate(cases):
        noise = np.random.default_rng([seed, number]).standard_normal(len(case.predicted))
        if_gaussian.append(spearman(case.predicted, np.abs(noise) * case.predicted))
    ranks = _bins(predicted, _RANKS) * _RANKS + _bins(error, _RANKS)
    bins = np.unique(_bins(predicted, N_BINS), return_inverse=True)[1]
    n_bins = int(bins.max()) + 1
    squares = predicted**2, error**2
    ece, *others = pooled(reliability, bins, n_bins, ones, *squares)
    sizes, observed, counts = (others[i * n_bins : (i + 1) * n_bins] for i in range(3))
    within = [(error <= n * predicted).astype(np.float64) for n in (1, 2)]
    names = ("rms_predicted", "rms_error", "coverage_1sd", "coverage_2sd")
    whole = pooled(overall, np.zeros_like(of_pixel), 1, ones, *squares, *within)
    curves = [sparsification(case.predicted, case.error) for case in cases]
    oracles = [sparsification(case.error, case.error) for case in cases]
    numbers = {
        "spearman": mean(by_rank),
        "spearman_if_gaussian": mean(if_gaussian),
        "spearman_pooled": pooled(_grouped_spearman, ranks, _RANKS**2, ones)[0],
        "ece": ece,
        **dict(zip(names, whole, strict=True)),
        "ause": mean([area(a - b) for a, b in zip(curves, oracles, strict=True)]),
        "gain_over_random": mean([area(1 - curve) for curve in curves]),
    }
    defined = [i for i, curve in enumerate(curves) if np.isfinite(curve).all()]
    nothing = np.full(len(FRACTIONS), np.nan)
    return Calibration(
        numbers,
        {
            "predicted": np.array([one.value for one in sizes]),
            "observed": np.array([one.value for one in observed]),
            "low": np.array([one.low for one in observed], dtype=np.float64),
            "high": np.array([one.high for one in observed], dtype=np.float64),
            "share": np.array([one.value for one in counts]) / len(error),
        },
        np.mean([curves[i] for i in defined], axis=0) if defined else nothing,
        np.mean([oracles[i] for i in defined], axis=0) if defined else nothing,
        by_rank,
    )


def sparsification(score: Floats, error: Floats) -> Floats:
    """Rest of the mean absolute error without FRACTIONS of (n_pixels,), those of highest score.

    Relative to that of all pixels; NaN without any error. Pixels of equal score leave in random
    order; the curve is the mean over those orders. The error itself as score gives the oracle's.
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


def write_plot(
    path: Path,
    before: Calibration,
    after: Calibration,
    *,
    cases: Sequence[Case],
    title: str,
    images: tuple[Floats, Floats, Floats],
) -> None:
    """Reliability, sparsification, rank correlation by scan, of `cases` before recalibration.

    Below them one scan and its title: magnitude, and absolute error and recalibrated uncertainty in
    units of the image's root mean square, (height, width) each.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(10.5, 7.2), layout="constrained")
        FigureCanvasAgg(figure)
        rows: Any = figure.subfigures(2, 1, height_ratios=[1, 1.05], hspace=0.06)
        axes, sparse, ranks = rows[0].subplots(1, 3)

        for found, colour, name in ((before, _BEFORE, "before"), (after, _AFTER, "after")):
            curve = found.reliability
            sizes = curve["predicted"]
            label = f"{name} recalibration (ECE {found.numbers['ece'].value:.3f})"
            axes.fill_between(sizes, curve["low"], curve["high"], color=colour, alpha=0.18, lw=0)
            form = "o-" if found is after else "s-"
            axes.plot(sizes, curve["observed"], form, ms=3.5, lw=1.3, c=colour, label=label)
        axes.set(xscale="log", yscale="log")
        low = min(axes.get_xlim()[0], axes.get_ylim()[0])
        high = max(axes.get_xlim()[1], axes.get_ylim()[1])
        axes.plot([low, high], [low, high], c=_GREY, lw=1, ls=(0, (4, 2)), label="ideal", zorder=1)
        axes.set(xlim=(low, high), ylim=(low, high))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 20 * low else (1.0,)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_locator(NullLocator())
        axes.set(
            title="Reliability",
            xlabel="predicted standard deviation / image RMS",
            ylabel="root mean squared error / image RMS",
        )
        axes.legend(loc="lower right")

        percent, least, most = 100 * FRACTIONS, before.oracle, before.sparsification
        sparse.axhline(1, c=_GREY, lw=1.3, ls=(0, (4, 2)), label="at random")
        sparse.plot(percent, most, c=_BEFORE, lw=1.6, label="most uncertain first")
        sparse.plot(percent, least, c=_ORACLE, lw=1.6, ls=":", label="largest errors first")
        sparse.fill_between(percent, least, most, color=_BEFORE, alpha=0.12, lw=0)
        sparse.set(
            ylim=(0, 1.08),
            xlim=(0, 95),
            title=f"Sparsification (area between: {before.numbers['ause'].value:.3f})",
            xlabel="pixels left out (%)",
            ylabel="mean error of the rest / of all",
        )
        sparse.legend(loc="lower left")

        steps = sorted({case.step for case in cases})
        of_step = [np.array([case.step == step for case in cases]) for step in steps]
        values = [before.spearman[own & np.isfinite(before.spearman)] for own in of_step]
        lowest = float(np.min(np.concatenate(values), initial=0.0))
        edges = np.linspace(min(0.0, lowest), 1, 26)
        shades = mpl.colormaps["cividis"](np.linspace(0.1, 0.9, len(steps)))
        labels = [f"+{step}" for step in steps]
        ranks.hist(values, bins=list(edges), stacked=True, color=list(shades), label=labels)
        mean = before.numbers["spearman"].value
        ranks.axvline(mean, c="black", lw=1.2)
        ranks.set(
            xlim=(edges[0], 1),
            title=f"Rank correlation by scan (mean {mean:.2f})",
            xlabel="Spearman(uncertainty, |error|)",
            ylabel="scans",
        )
        ranks.legend(title="lines after start", loc="best", title_fontsize=8.5)

        rows[1].suptitle(title, fontsize=10, parse_math=False)  # a $ in a name is a $
        panels = rows[1].subplots(1, 3)
        white = float(np.quantile(images[0], 0.998)) or 1.0
        panels[0].imshow(images[0], cmap="gray", vmin=0, vmax=white)
        # One scale for both: a map of the right size is as bright as the error is on average.
        top = float(np.quantile(images[1], 0.995)) or 1.0
        for panel, image in zip(panels[1:], images[1:], strict=True):
            shown = panel.imshow(image, cmap="inferno", vmin=0, vmax=top)
        heads = ("reconstruction", "|error|", "uncertainty (recalibrated)")
        for panel, head in zip(panels, heads, strict=True):
            panel.set_title(head)
            panel.set_axis_off()
        bar = rows[1].colorbar(shown, ax=list(panels[1:]), shrink=0.85, pad=0.02, extend="max")
        bar.set_label("in units of the image's RMS")
        with replacing(path) as partial:
            figure.savefig(partial, format="png", dpi=150, metadata={"Software": None})


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
