"""Figures of the benchmark: scores against lines, gains by subject.

Each function takes tables of :mod:`activemri.benchmark.statistics` and returns an SVG as text,
made without any global plotting state. A policy has the same colour in every figure; bounds are
dashed and grey. Text and axes take the colour of the page that the SVG is put into, so that the
figures serve on light and on dark ground.
"""

import hashlib
import io
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from activemri.benchmark.statistics import higher_is_better

# Okabe and Ito's colours for all kinds of colour vision (yellow darkened to be seen on white),
# and three more that differ from them in brightness.
_COLOURS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#a89a00",
    "#9268bd", "#a0612f", "#4d8076", "#b0506e",
)  # fmt: skip
_BOUND_COLOURS = ("#7f8288", "#a3a6ad")
#: With more curves than this their bands would hide each other.
MOST_BANDS = 6
INK = "#010203"  #: stands for the page's own text colour
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "font.family": "sans-serif",
    "text.parse_math": False,  # a $ in a name is a $
    "svg.fonttype": "none",  # text stays text: sharp, small, found by a search
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.axisbelow": True,
}


def colours(policies: Sequence[str], *, bounds: Collection[str] = ()) -> dict[str, str]:
    """A colour for each policy, by its place in the list; bounds are grey."""
    rivals = [policy for policy in policies if policy not in bounds]
    grey = [policy for policy in policies if policy in bounds]
    return {
        policy: palette[place % len(palette)]
        for group, palette in ((rivals, _COLOURS), (grey, _BOUND_COLOURS))
        for place, policy in enumerate(group)
    }


def score_figure(
    curves: pd.DataFrame,
    *,
    metric: str,
    reconstructor: str,
    palette: Mapping[str, str],
    bounds: Collection[str] = (),
) -> str:
    """Mean score against acquired lines, one line a policy, named at its end.

    Up to `MOST_BANDS` policies have bands, their intervals. Colours that are used again are dotted.

    Args:
        curves: of :func:`activemri.benchmark.statistics.score_curves`.
        metric: which one to draw.
        reconstructor: which one to draw.
        palette: of :func:`colours`.
        bounds: policies to dash.
    """
    chosen = curves[(curves["metric"] == metric) & (curves["reconstructor"] == reconstructor)]
    with mpl.rc_context(STYLE):
        figure, axes = canvas(7.6, 4.4)
        ends: dict[str, float] = {}
        drawn: set[str] = set()
        for policy, part in chosen.groupby("policy", sort=False, observed=True):
            name = str(policy)
            dashed, colour, x = name in bounds, palette[name], part["n_acquired"]
            if chosen["policy"].nunique() <= MOST_BANDS:
                axes.fill_between(x, part["lo"], part["hi"], color=colour, alpha=0.13, lw=0)
            dotted = not dashed and colour in drawn
            axes.plot(
                x,
                part["score"],
                color=colour,
                lw=1.5 if dashed else 2,
                ls=(0, (4, 2)) if dashed else (0, (1, 1)) if dotted else "-",
                zorder=2 if dashed else 3,
            )
            drawn.add(colour)
            ends[name] = float(part["score"].iloc[-1])
        axes.margins(x=0.01)
        axes.set_xlabel("acquired lines")
        axes.set_ylabel(_axis_name(metric))
        axes.grid(axis="y", color=INK, alpha=0.12, lw=0.8)
        name_ends(axes, ends, palette=palette, bounds=bounds)
        return as_svg(figure, f"{metric}{reconstructor}")


def difference_figure(
    gains: pd.DataFrame,
    *,
    metric: str,
    reconstructor: str,
    reference: str,
    palette: Mapping[str, str],
    quantity: str = "auc",
) -> str:
    """What each subject gains over the reference policy: a dot a subject, a bar at the mean.

    Args:
        gains: of :func:`activemri.benchmark.statistics.differences`.
        metric: which one to draw.
        reconstructor: which one to draw.
        reference: name of the reference policy, for the axis.
        palette: of :func:`colours`.
        quantity: "auc" or "final".
    """
    chosen = gains[(gains["metric"] == metric) & (gains["reconstructor"] == reconstructor)]
    policies = [str(policy) for policy in chosen["policy"].unique()]
    with mpl.rc_context(STYLE):
        figure, axes = canvas(7.6, 0.9 + 0.34 * len(policies))
        axes.axvline(0, color=INK, lw=1, alpha=0.5)
        for row, policy in enumerate(policies):
            part = chosen[chosen["policy"] == policy]
            dots = part.groupby("subject", observed=True)[quantity].mean().to_numpy()
            mean = float(part[quantity].mean())
            axes.plot(dots, row + _spread(dots), "o", ms=4.5, mew=0, alpha=0.6, c=palette[policy])
            axes.plot([mean, mean], [row - 0.32, row + 0.32], lw=2.5, c=palette[policy])
        axes.set_yticks(range(len(policies)), policies)
        axes.set_ylim(len(policies) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x", color=INK, alpha=0.12, lw=0.8)
        name = {"auc": "area", "final": "final score"}[quantity]
        axes.set_xlabel(f"{_axis_name(metric)}, {name}: minus {reference}")
        return as_svg(figure, f"difference{metric}{reconstructor}{quantity}")


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of one panel, in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def name_ends(
    axes: Axes, ends: Mapping[str, float], *, palette: Mapping[str, str], bounds: Collection[str]
) -> None:
    """Write each policy's name right of its curve, apart from each other, with a thin link."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    order = sorted(ends, key=lambda policy: ends[policy])
    heights = _apart([(ends[policy] - low) / (high - low) for policy in order], gap=0.055)
    for policy, height in zip(order, heights, strict=True):
        colour, end = palette[policy], (ends[policy] - low) / (high - low)
        axes.plot(
            [0.995, 1.035], [end, height], c=colour, lw=0.8, transform=axes.transAxes, clip_on=False
        )
        name = f"{policy} (bound)" if policy in bounds else policy
        axes.text(1.045, height, name, color=colour, va="center", transform=axes.transAxes)


def _apart(places: Sequence[float], *, gap: float) -> list[float]:
    """Move sorted places as little as need be (in pools that share their shift) to keep a gap."""
    pools: list[list[float]] = []  # [mean of place minus its rank * gap, number of members]
    for rank, place in enumerate(places):
        pools.append([place - rank * gap, 1])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            mean, number = pools.pop()
            pools[-1][0] = (pools[-1][0] * pools[-1][1] + mean * number) / (pools[-1][1] + number)
            pools[-1][1] += number
    bases = [mean for mean, number in pools for _ in range(int(number))]
    return [base + rank * gap for rank, base in enumerate(bases)]


def _spread(values: NDArray[Any]) -> NDArray[np.float64]:
    """Small vertical shifts that keep neighbouring dots apart, always the same."""
    order = np.argsort(np.argsort(values))
    return np.array([0.0, 0.16, -0.16])[order % 3]


def _axis_name(metric: str) -> str:
    words = metric_name(metric) + (" in dB" if metric.startswith("psnr") else "")
    return words if higher_is_better(metric) else f"{words} (less is better)"


def metric_name(metric: str) -> str:
    """For people: ``psnr_volume`` becomes "PSNR (volume range)"."""
    first, _, second = metric.partition("_")
    if first == "roi":
        return f"{second.upper()} (region of interest)"
    return f"{first.upper()} ({second} range)" if second == "volume" else metric.upper()


def as_svg(figure: Figure, name: str) -> str:
    """The figure as text, in the page's text colour; names differ between figures of a page."""
    stream = io.StringIO()
    # Parts are named by a hash: with another salt a figure, two of one page never share a name.
    with mpl.rc_context({"svg.hashsalt": hashlib.sha256(name.encode()).hexdigest()}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    text = stream.getvalue()
    return text[text.index("<svg") :].replace(INK, "currentColor")
