"""What a calibration looks like: a table to print, numbers in JSON, one figure."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import LogLocator, NullLocator

from activemri import __version__
from activemri.benchmark.calibration import FRACTIONS, NUMBERS, Calibration, Case
from activemri.benchmark.resampling import Floats, Interval

Counts = Mapping[str, Mapping[str, int]]

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
_UNIT = "root mean square of the image"


@dataclass(frozen=True, eq=False)
class Example:
    """One scan to look at.

    Attributes:
        name: which one.
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


def table(
    before: Calibration,
    after: Calibration,
    *,
    name: str,
    counts: Counts,
    checkpoint: Path,
) -> str:
    """The numbers as text, with intervals where there are any."""
    (split, measured), (fit_split, fitted) = counts.items()
    rows = [("", "before", "after recalibration", "ideal")]
    for key, (label, ideal) in NUMBERS.items():
        rows.append((label, _text(before.numbers[key]), _text(after.numbers[key]), ideal))
    several = measured["subjects"] > 1
    intervals = "Brackets: 95 % over subjects." if several else "No intervals: one subject."
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        name,
        f"measured on {_words(measured)} ({split}),",
        f"recalibrated on {_words(fitted)} ({fit_split})",
        "",
        *("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows),
        "",
        f"Unit of deviations and errors: {_UNIT}. {intervals}",
        f"{checkpoint}.safetensors",
    ]
    return "\n".join(line.rstrip() for line in lines)


def write_json(
    path: Path,
    *,
    settings: Mapping[str, object],
    counts: Counts,
    before: Calibration,
    after: Calibration,
    knots: tuple[object, object],
    by_step: Mapping[int, tuple[Calibration, ...]],
) -> None:
    """All numbers and curves."""
    content = {
        "package_version": __version__,
        "settings": settings,
        "counts": counts,
        "unit": _UNIT,
        "ideal": {key: ideal for key, (_, ideal) in NUMBERS.items()},
        "before": _everything(before),
        "after": _everything(after),
        "by_lines_acquired": {
            str(step): {
                name: {key: asdict(one) for key, one in found.numbers.items()}
                for name, found in zip(("before", "after"), pair, strict=True)
            }
            for step, pair in by_step.items()
        },
        "recalibration": {"predicted": knots[0], "observed": knots[1]},
    }
    path.write_text(json.dumps(_plain(content), indent=2, allow_nan=False) + "\n", encoding="utf-8")


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


def _text(number: Interval) -> str:
    if math.isnan(number.value):
        return "-"
    if number.low is None or number.high is None:
        return f"{number.value:.3f}"
    return f"{number.value:.3f} [{number.low:.3f}, {number.high:.3f}]"


def _words(counts: Mapping[str, int]) -> str:
    moments = f" at {counts['moments']} moments"
    return f"{counts['slices']} slices of {counts['subjects']} subjects{moments}"


def _everything(found: Calibration) -> dict[str, object]:
    return {
        "numbers": {key: asdict(one) for key, one in found.numbers.items()},
        "reliability": asdict(found.reliability),
        "sparsification": {
            "left_out": FRACTIONS,
            "by_uncertainty": found.sparsification,
            "oracle": found.oracle,
        },
        "spearman_of_scans": found.spearman,
    }


def _plain(value: Any) -> Any:
    """For JSON: arrays as lists, NaN as null, paths as text."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):  # numpy's doubles are floats too
        return float(value) if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value
