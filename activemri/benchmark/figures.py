"""Figures of a benchmark, as SVG text with heading and caption, from its tables.

A policy has the same colour in every figure (``palette``); bounds are dashed and grey. Text and
axes take the colour of the page that the SVG is put into, which may be light or dark.
"""

import hashlib
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from activemri.benchmark.savings import TradeOff, cheapest
from activemri.benchmark.statistics import higher_is_better, metric_name
from activemri.stopping.rule import StopSettings

# Okabe and Ito's colours for all kinds of colour vision (yellow darkened to be seen on white),
# and three more that differ from them in brightness.
_COLOURS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#a89a00",
    "#9268bd", "#a0612f", "#4d8076", "#b0506e",
)  # fmt: skip
_BOUND_COLOURS = ("#7f8288", "#a3a6ad")
# Worse and better than the reference, told apart by all kinds of colour vision; text stays legible.
_DIFFERENCE = LinearSegmentedColormap.from_list("difference", ["#e8a96a", "#f4f4f2", "#7fb8dd"])
_DARK = "#111418"  # text on any of these colours, in light mode and in dark mode
# From nothing to every scan, to be told apart on light and on dark ground, and grey for what is
# there from the start.
_SHARES = LinearSegmentedColormap.from_list(
    "shares", ["#eef0f3", "#9fc6e6", "#3f8fc9", "#0b4f8a", "#08223f"]
).with_extremes(bad="#c9ccd2")
_GREY, _ACCENT, _ALARM = "#7f8288", "#0072b2", "#d55e00"
_RULES = {"predicted-score": _ACCENT, "interval-length": "#009e73", "fixed-budget": _GREY}

_QUANTITIES = {"auc": "area", "final": "final score"}

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
    "grid.color": INK,
    "grid.alpha": 0.12,
    "figure.constrained_layout.use": True,
}


@dataclass(frozen=True, eq=False)
class ReportFigure:
    """A figure of a page, with its heading and a reading aid."""

    title: str
    svg: str
    caption: str = ""


def colours(policies: Sequence[str], *, bounds: Collection[str] = ()) -> dict[str, str]:
    """A colour for each policy, by its place in the list; bounds are grey."""
    rivals = [policy for policy in policies if policy not in bounds]
    grey = [policy for policy in policies if policy in bounds]
    return {
        policy: palette[place % len(palette)]
        for group, palette in ((rivals, _COLOURS), (grey, _BOUND_COLOURS))
        for place, policy in enumerate(group)
    }


@mpl.rc_context(STYLE)
def score_figure(
    curves: pd.DataFrame,
    *,
    metric: str,
    reconstructor: str,
    palette: Mapping[str, str],
    bounds: Collection[str] = (),
) -> ReportFigure:
    """Mean score of :func:`activemri.benchmark.statistics.score_curves` against acquired lines.

    One line a policy, named at its end, bounds dashed, colours that are used again dotted. Up to
    `MOST_BANDS` policies have bands, their intervals.
    """
    chosen = curves[(curves["metric"] == metric) & (curves["reconstructor"] == reconstructor)]
    figure = Figure(figsize=(7.6, 4.4))
    axes = figure.subplots()
    ends: dict[str, float] = {}
    drawn: set[str] = set()
    with_bands = chosen["policy"].nunique() <= MOST_BANDS
    for policy, part in chosen.groupby("policy", sort=False, observed=True):
        name = str(policy)
        dashed, colour, x = name in bounds, palette[name], part["n_acquired"]
        if with_bands:
            axes.fill_between(x, part["lo"], part["hi"], color=colour, alpha=0.13, lw=0)
        axes.plot(
            x,
            part["score"],
            color=colour,
            lw=1.5 if dashed else 2,
            ls=(0, (4, 2)) if dashed else (0, (1, 1)) if colour in drawn else "-",
            zorder=2 if dashed else 3,
        )
        drawn.add(colour)
        ends[name] = float(part["score"].iloc[-1])
    axes.margins(x=0.01)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("acquired lines")
    axes.set_ylabel(_axis_name(metric))
    axes.grid(axis="y")
    # Names right of the curves, apart from each other, with a thin link.
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    names = sorted(ends, key=lambda policy: ends[policy])
    places = (np.array([ends[name] for name in names]) - low) / (high - low)
    for name, end, height in zip(names, places, kept_apart(places, gap=0.055), strict=True):
        colour, where = palette[name], axes.transAxes
        axes.plot([0.995, 1.035], [end, height], c=colour, lw=0.8, transform=where, clip_on=False)
        words = f"{name} (bound)" if name in bounds else name
        axes.text(1.045, height, words, color=colour, va="center", transform=where)
    return ReportFigure(
        f"{metric_name(metric)} against acquired lines, {reconstructor}",
        _svg(figure, f"{metric}{reconstructor}"),
        f"Mean of subjects' means{'; bands: 95 % intervals over subjects' if with_bands else ''}. "
        "Bounds are dashed.",
    )


@mpl.rc_context(STYLE)
def difference_figure(
    gains: pd.DataFrame,
    *,
    metric: str,
    reconstructor: str,
    reference: str,
    palette: Mapping[str, str],
) -> ReportFigure:
    """Area that each subject gains over the reference policy: a dot a subject, a bar at the mean.

    ``gains`` are of :func:`activemri.benchmark.statistics.differences`.
    """
    chosen = gains[(gains["metric"] == metric) & (gains["reconstructor"] == reconstructor)]
    policies = [str(policy) for policy in chosen["policy"].unique()]
    figure = Figure(figsize=(7.6, 0.9 + 0.34 * len(policies)))
    axes = figure.subplots()
    axes.axvline(0, color=INK, lw=1, alpha=0.5)
    for row, policy in enumerate(policies):
        part, colour = chosen[chosen["policy"] == policy], palette[policy]
        dots = part.groupby("subject", observed=True)["auc"].mean().to_numpy()
        # Small vertical shifts keep neighbouring dots apart.
        shifts = np.array([0.0, 0.16, -0.16])[np.argsort(np.argsort(dots)) % 3]
        axes.plot(dots, row + shifts, "o", ms=4.5, mew=0, alpha=0.6, c=colour)
        axes.plot([dots.mean()] * 2, [row - 0.32, row + 0.32], lw=2.5, c=colour)
    axes.set_yticks(range(len(policies)), policies)
    axes.set_ylim(len(policies) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    axes.set_xlabel(f"{_axis_name(metric)}, area: minus {reference}")
    return ReportFigure(
        f"Gain of each subject over {reference}, {reconstructor}",
        _svg(figure, f"difference{metric}{reconstructor}"),
        "Difference of the area under the curve; a dot is a subject.",
    )


@mpl.rc_context(STYLE)
def transfer_figure(
    summary: Sequence[Mapping[str, object]], *, metric: str, reference: str, quantity: str = "auc"
) -> ReportFigure:
    """Scores of policies (rows) with reconstructors (columns), "auc" or "final".

    ``summary`` is of :func:`activemri.benchmark.statistics.summarise`. Colours compare within a
    column: by how much a policy is better than the reference (the first one where that was not
    run) with the same reconstructor. Between columns scores say more about the reconstructors.

    Raises:
        ValueError: the summary has no such rows.
    """
    own = pd.DataFrame([row for row in summary if row["metric"] == metric])
    if own.empty:
        raise ValueError(f"the summary has no rows of the metric {metric!r}")
    wide = own.pivot_table(
        index="policy", columns="reconstructor", values=quantity, sort=False, dropna=False
    )
    policies, reconstructors, scores = list(wide.index), list(wide), wide.to_numpy(np.float64)
    place = policies.index(reference) if reference in policies else 0
    gains = (1 if higher_is_better(metric) else -1) * (scores - scores[place])
    largest = float(np.nanmax(np.abs(gains))) or 1.0
    figure = Figure(figsize=(3.2 + 1.25 * len(reconstructors), 1.3 + 0.34 * len(policies)))
    axes = figure.subplots()
    axes.imshow(gains, cmap=_DIFFERENCE, vmin=-largest, vmax=largest, aspect="auto")
    for row, column in np.argwhere(np.isfinite(scores)):
        text = f"{scores[row, column]:.3f}"
        axes.text(column, row, text, ha="center", va="center", color=_DARK, fontsize=9)
    axes.set_xticks(range(len(reconstructors)), reconstructors)
    axes.set_yticks(range(len(policies)), policies)
    axes.tick_params(length=0, top=False)
    axes.xaxis.tick_top()
    axes.spines[:].set_visible(False)
    words = f"{metric_name(metric)}, {_QUANTITIES[quantity]}; colour: against {policies[place]}"
    axes.set_title(words, fontsize=10, loc="left")
    return ReportFigure(
        f"Every policy with every reconstructor, {_QUANTITIES[quantity]}",
        _svg(figure, f"transfer-{metric}-{quantity}"),
        "Mean over slices. Colours compare within a column; blue is better.",
    )


@mpl.rc_context(STYLE)
def action_map_figure(
    actions: pd.DataFrame,
    *,
    reconstructor: str,
    initial: NDArray[np.bool_],
    notes: Mapping[str, str],
) -> ReportFigure:
    """The share of scans in which each line was taken at each step, one map a policy.

    ``actions`` are of :func:`activemri.benchmark.adaptivity.actions_of`, initial ones those that
    scans start with, bool (n_actions,). Notes stand below a policy's name.
    """
    actions = actions[actions["reconstructor"] == reconstructor]
    policies, n_actions = [str(policy) for policy in actions["policy"].unique()], len(initial)
    n_columns = min(len(policies), 3)
    n_rows = -(-len(policies) // n_columns)
    n_steps = int(actions["step"].max())
    figure = Figure(figsize=(7.6, 0.6 + 2.1 * n_rows))
    grid = figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False)
    for axes, policy in zip(grid.flat, policies, strict=False):
        share = taken_share(actions[actions["policy"] == policy], n_actions=n_actions)
        shown = np.zeros((n_steps, n_actions))
        shown[: len(share)] = share
        shown[:, initial] = np.nan
        image = axes.imshow(
            np.sqrt(shown).T,  # a single scan of a hundred must be seen
            aspect="auto",
            cmap=_SHARES,
            vmin=0,
            vmax=1,
            interpolation="none",  # so that the browser draws all lines equally thick
            extent=(0.5, n_steps + 0.5, n_actions - 0.5, -0.5),
        )
        words = f"{policy}\n{notes[policy]}" if policy in notes else policy
        axes.set_title(words, fontsize=8.5, loc="left")
    for axes in grid.flat[len(policies) :]:
        axes.set_visible(False)
    grid[-1, 0].xaxis.set_major_locator(MaxNLocator(4, integer=True))
    bar = figure.colorbar(image, ax=grid, shrink=0.9 / n_rows**0.5, aspect=24, pad=0.02)
    bar.set_ticks([0, 0.1, 0.1**0.5, 0.5, 0.5**0.5, 1], labels="0 0.01 0.1 0.25 0.5 1".split())
    bar.set_label("share of scans", fontsize=9)
    bar.outline.set_visible(False)
    figure.supxlabel("step", fontsize=10)
    figure.supylabel("line", fontsize=10)
    return ReportFigure(
        f"Actions by step, {reconstructor}",
        _svg(figure, f"action-map{reconstructor}"),
        "Share of scans in which an action was taken at a step; grey ones are there from the "
        "start. A fixed order is one dark dot a step; a policy that looks at the scan spreads out.",
    )


def taken_share(actions: pd.DataFrame, *, n_actions: int) -> NDArray[np.float64]:
    """Share of the episodes that took each action at each step, (n_steps, n_actions)."""
    n_episodes = len(actions[["volume", "slice", "seed", "reconstructor"]].drop_duplicates())
    counts = np.zeros((int(actions["step"].max()), n_actions))
    np.add.at(counts, (actions["step"].to_numpy() - 1, actions["action"].to_numpy()), 1)
    return counts / n_episodes


@mpl.rc_context(STYLE)
def trade_off_figure(
    panels: Mapping[str, Mapping[str, TradeOff]], stop: StopSettings, *, reconstructor: str
) -> ReportFigure:
    """Mean lines against miss rate, a panel a policy, of several rules by kind."""
    n_columns = min(len(panels), 2)
    n_rows = -(-len(panels) // n_columns)
    figure = Figure(figsize=(7.6, 0.3 + 3.1 * n_rows))
    grid = figure.subplots(n_rows, n_columns, sharey=True, squeeze=False)
    for axes, (policy, rules) in zip(grid.flat, panels.items(), strict=False):
        found = next(iter(rules.values()))  # the others are its rivals
        budgets, missed = found["fixed"]
        curves = {"fixed-budget": found["fixed"]} | {kind: r["rule"] for kind, r in rules.items()}
        lines, miss = (float(value[0]) for value in found["chosen"])
        axes.axhline(stop.alpha, color=_ALARM, lw=1, ls=(0, (1, 2)), label=f"alpha {stop.alpha:g}")
        dot: dict[str, Any] = {"ms": 9, "mec": "white", "mew": 1.2, "zorder": 4}
        for kind, curve in curves.items():
            axes.plot(*curve, color=_RULES[kind], lw=2, label=kind)
        for kind, one in rules.items():
            axes.plot(*one["chosen"], "o", color=_RULES[kind], **dot)
        axes.plot(*found["oracle"], "*", color=_GREY, ms=12, mew=0, label="oracle stop")
        # From the calibrated rule to the fixed budget that misses no more often.
        same = float(budgets[cheapest(missed[None], found["chosen"][1])[0]])
        if same > lines:
            axes.plot([lines, same], [miss, miss], color=INK, lw=1, marker="|", ms=7)
            words, end = f"{same - lines:.1f} saved", (same, miss)
            axes.annotate(words, end, (4, 4), textcoords="offset points", fontsize=9)
        highest = max(2.5 * stop.alpha, 1.3 * miss, 0.15)
        axes.set_ylim(-0.04 * highest, min(1.02, highest))
        seen = [found["oracle"][0], *(x[y <= highest] for x, y in curves.values())]
        left = min(x[0] for x in seen if len(x))
        right = max([lines, *(x[y.argmin()] for x, y in curves.values())])
        margin = 0.06 * (right - left) + 0.5
        axes.set_xlim(left - margin, right + 2 * margin)
        axes.grid()
        axes.set_title(policy, fontsize=10, loc="left")
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    style: dict[str, Any] = {"ncols": len(handles), "frameon": False, "columnspacing": 1.2}
    figure.legend(handles, labels, loc="outside upper center", fontsize=9, **style)
    words = f"miss rate: share below {metric_name(str(stop.metric))} {stop.target:g}"
    figure.supxlabel("mean acquired lines", fontsize=10)
    figure.supylabel(words, fontsize=10)
    return ReportFigure(
        f"Lines against misses, {reconstructor}",
        _svg(figure, f"trade-off{reconstructor}"),
        "Further down and left is better. Rules at all thresholds; their dots are the calibrated "
        "ones.",
    )


def kept_apart(places: NDArray[np.float64], *, gap: float) -> NDArray[np.float64]:
    """Sorted places, moved as little as need be (in pools that share their shift) to keep a gap."""
    ranks = gap * np.arange(len(places))
    return np.asarray(isotonic_regression(places - ranks).x + ranks)


def _axis_name(metric: str) -> str:
    words = metric_name(metric) + (" in dB" if metric.startswith("psnr") else "")
    return words if higher_is_better(metric) else f"{words} (less is better)"


def _svg(figure: Figure, name: str) -> str:
    """The figure as text, in the page's text colour; names differ between figures of a page."""
    stream = io.StringIO()
    # Parts are named by a hash: with another salt a figure, two of one page never share a name.
    with mpl.rc_context({"svg.hashsalt": hashlib.sha256(name.encode()).hexdigest()}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    text = stream.getvalue()
    return text[text.index("<svg") :].replace(INK, "currentColor")
