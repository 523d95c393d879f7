"""Figures of a benchmark, as SVG text, from the tables of its other modules.

They are made without any global plotting state. A policy has the same colour in every figure;
bounds are dashed and grey. Text and axes take the colour of the page that the SVG is put into, so
that the figures serve on light and on dark ground.
"""

import hashlib
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

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
# From nothing to every scan, to be told apart on light and on dark ground; a single scan of a
# hundred must be seen, so that the scale rises as the square root of the share.
_SHARES = LinearSegmentedColormap.from_list(
    "shares", ["#eef0f3", "#9fc6e6", "#3f8fc9", "#0b4f8a", "#08223f"]
)
_START = "#c9ccd2"
_GREY, _ACCENT, _ALARM = "#7f8288", "#0072b2", "#d55e00"
Row = Mapping[str, object]

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


@dataclass(frozen=True, eq=False)
class ReportFigure:
    """A figure of a page.

    Attributes:
        title: its heading.
        svg: put into the page as it is.
        caption: reading aid.
    """

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
        metric: the one to draw.
        reconstructor: the one to draw.
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
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
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
    """Gain of each subject over the reference policy: a dot a subject, a bar at the mean.

    Args:
        gains: of :func:`activemri.benchmark.statistics.differences`.
        metric: the one to draw.
        reconstructor: the one to draw.
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


def transfer_figure(
    summary: Sequence[Row], *, metric: str, reference: str, quantity: str = "auc"
) -> str:
    """Scores of policies (rows) with reconstructors (columns).

    Colours compare within a column: by how much a policy is better than the reference with the same
    reconstructor. Between columns scores say more about the reconstructors.

    Args:
        summary: of :func:`activemri.benchmark.statistics.summarise`.
        metric: of the rows to draw.
        reference: policy to compare with; where it was not run, the first one.
        quantity: "auc" (area) or "final".

    Raises:
        ValueError: the summary has no such rows.
    """
    scores, policies, reconstructors = transfer_table(summary, metric=metric, quantity=quantity)
    place = policies.index(reference) if reference in policies else 0
    own = [row for row in summary if row["metric"] == metric]
    sign = 1 if own[0]["higher_is_better"] else -1
    gains = sign * (scores - scores[place])
    largest = float(np.nanmax(np.abs(gains))) or 1.0
    with mpl.rc_context(STYLE):
        height = 1.3 + 0.34 * len(policies)
        figure, axes = canvas(3.2 + 1.25 * len(reconstructors), height)
        axes.imshow(gains, cmap=_DIFFERENCE, vmin=-largest, vmax=largest, aspect="auto")
        for row, column in np.argwhere(np.isfinite(scores)):
            text = f"{scores[row, column]:.3f}"
            axes.text(column, row, text, ha="center", va="center", color=_DARK, fontsize=9)
        axes.set_xticks(range(len(reconstructors)), reconstructors)
        axes.set_yticks(range(len(policies)), policies)
        axes.tick_params(length=0, top=False)
        axes.xaxis.tick_top()
        axes.spines[:].set_visible(False)
        kind = "area" if quantity == "auc" else quantity
        axes.set_title(
            f"{metric_name(metric)}, {kind}; colour: against {policies[place]}",
            fontsize=10,
            loc="left",
        )
        return as_svg(figure, f"transfer-{metric}-{quantity}")


def transfer_table(
    summary: Sequence[Row], *, metric: str, quantity: str = "auc"
) -> tuple[NDArray[np.float64], list[str], list[str]]:
    """The same numbers: (policy, reconstructor), NaN where one was not run, and the names.

    Raises:
        ValueError: the summary has no rows of that metric.
    """
    own = [row for row in summary if row["metric"] == metric]
    if not own:
        raise ValueError(f"the summary has no rows of the metric {metric!r}")
    policies = list(dict.fromkeys(str(row["policy"]) for row in own))
    reconstructors = list(dict.fromkeys(str(row["reconstructor"]) for row in own))
    scores = np.full((len(policies), len(reconstructors)), np.nan)
    for row in own:
        place = policies.index(str(row["policy"])), reconstructors.index(str(row["reconstructor"]))
        scores[place] = float(str(row[quantity]))
    return scores, policies, reconstructors


def action_map_figure(
    actions: pd.DataFrame,
    *,
    n_actions: int,
    initial: NDArray[np.bool_] | None = None,
    notes: Mapping[str, str] | None = None,
) -> str:
    """The share of scans in which each line was taken at each step, one map a policy.

    A fixed order is one dark dot a step; a policy that looks at the scan spreads out.

    Args:
        actions: columns policy, volume, slice, step (1 = first action), action; seeds if any.
        n_actions: number of actions to choose from.
        initial: the actions that scans start with, bool (n_actions,), or None.
        notes: words below a policy's name.
    """
    policies = [str(policy) for policy in actions["policy"].unique()]
    n_columns = min(len(policies), 3)
    n_rows = -(-len(policies) // n_columns)
    n_steps = int(actions["step"].max())
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 0.6 + 2.1 * n_rows), layout="constrained")
        grid = figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False)
        for axes, policy in zip(grid.flat, policies, strict=False):
            share = taken_share(actions[actions["policy"] == policy], n_actions=n_actions)
            shown = np.zeros((n_steps, n_actions))
            shown[: len(share)] = share
            image = axes.imshow(
                np.sqrt(shown).T,
                aspect="auto",
                cmap=_SHARES,
                vmin=0,
                vmax=1,
                interpolation="none",  # so that the browser draws all lines equally thick
                extent=(0.5, n_steps + 0.5, n_actions - 0.5, -0.5),
            )
            for first, last in _runs(initial):
                axes.axhspan(first - 0.5, last + 0.5, color=_START, lw=0)
            note = (notes or {}).get(policy, "")
            axes.set_title(f"{policy}\n{note}" if note else policy, fontsize=8.5, loc="left")
        for axes in list(grid.flat)[len(policies) :]:
            axes.set_visible(False)
        grid[-1, 0].xaxis.set_major_locator(MaxNLocator(4, integer=True))
        bar = figure.colorbar(image, ax=grid, shrink=0.9 / n_rows**0.5, aspect=24, pad=0.02)
        bar.set_ticks([0, 0.1, 0.1**0.5, 0.5, 0.5**0.5, 1], labels="0 0.01 0.1 0.25 0.5 1".split())
        bar.set_label("share of scans", fontsize=9)
        bar.outline.set_visible(False)
        figure.supxlabel("step", fontsize=10)
        figure.supylabel("line", fontsize=10)
        return as_svg(figure, "action-map" + ",".join(policies))


def taken_share(actions: pd.DataFrame, *, n_actions: int) -> NDArray[np.float64]:
    """Share of the episodes that took each action at each step, (n_steps, n_actions)."""
    keys = [key for key in ("volume", "slice", "seed", "reconstructor") if key in actions]
    n_episodes = len(actions[keys].drop_duplicates())
    counts = np.zeros((int(actions["step"].max()), n_actions))
    np.add.at(counts, (actions["step"].to_numpy() - 1, actions["action"].to_numpy()), 1)
    return counts / n_episodes


def information_figure(
    rows: Sequence[Mapping[str, object]],
    *,
    palette: Mapping[str, str],
    bounds: Collection[str],
    name: str,
) -> str | None:
    """Bits that image and action share at every step, one line a policy; None if all are zero.

    Args:
        rows: of :func:`activemri.benchmark.adaptivity.adaptivity_of_actions`, one reconstructor.
        palette: colours of the policies.
        bounds: policies to dash.
        name: makes the parts of this figure differ from those of others on the page.
    """
    curves = {
        str(row["policy"]): np.array(row["bits"], np.float64)
        for row in rows
        if row["mean_bits"]  # neither None nor 0: orders would only draw a line at zero
    }
    if not curves:
        return None
    with mpl.rc_context(STYLE):
        figure, axes = canvas(7.6, 3.4)
        ceiling = max(float(str(row["ceiling"])) for row in rows)
        axes.axhline(ceiling, color=INK, lw=1, ls=(0, (1, 2)), alpha=0.7)
        axes.annotate(
            "all scans differ", (1, ceiling), (0, 3), textcoords="offset points", fontsize=8.5
        )
        ends: dict[str, float] = {}
        for policy, bits in curves.items():
            dashed = policy in bounds
            steps = np.arange(1, len(bits) + 1)
            style = (0, (4, 2)) if dashed else "-"
            axes.plot(steps, bits, color=palette[policy], lw=1.5 if dashed else 2, ls=style)
            ends[policy] = float(bits[np.isfinite(bits)][-1])
        axes.set_ylim(0, None)
        axes.margins(x=0.01)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("step")
        axes.set_ylabel("information in bits")
        axes.grid(axis="y", color=INK, alpha=0.12, lw=0.8)
        name_ends(axes, ends, palette=palette, bounds=bounds)
        return as_svg(figure, f"information{name}")


def _runs(chosen: NDArray[np.bool_] | None) -> list[tuple[int, int]]:
    """First and last of every run of True."""
    if chosen is None or not chosen.any():
        return []
    places = np.flatnonzero(chosen)
    parts = np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)
    return [(int(part[0]), int(part[-1])) for part in parts]


def trade_off_figure(panels: Mapping[str, TradeOff], stop: StopSettings, *, name: str) -> str:
    """Mean lines against miss rate, a panel a policy.

    Args:
        panels: trade-offs by policy.
        stop: settings of the rules.
        name: makes the parts of this figure differ from those of others on the page.
    """
    n_columns = min(len(panels), 2)
    n_rows = -(-len(panels) // n_columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 0.3 + 3.1 * n_rows), layout="constrained")
        grid = figure.subplots(n_rows, n_columns, sharey=True, squeeze=False)
        for axes, (policy, found) in zip(grid.flat, panels.items(), strict=False):
            _draw_trade_off(axes, found, stop)
            axes.set_title(policy, fontsize=10, loc="left")
        for axes in list(grid.flat)[len(panels) :]:
            axes.set_visible(False)
        handles, labels = grid.flat[0].get_legend_handles_labels()
        figure.legend(
            handles,
            labels,
            loc="outside upper center",
            ncols=len(handles),
            frameon=False,
            fontsize=9,
            columnspacing=1.2,
        )
        figure.supxlabel("mean acquired lines", fontsize=10)
        figure.supylabel(
            f"miss rate: share below {metric_name(str(stop.metric))} {stop.target:g}", fontsize=10
        )
        return as_svg(figure, f"trade-off{name}")


def _draw_trade_off(axes: Axes, found: TradeOff, stop: StopSettings) -> None:
    axes.axhline(stop.alpha, color=_ALARM, lw=1, ls=(0, (1, 2)), label=f"alpha {stop.alpha:g}")
    axes.plot(*found["fixed"], color=_GREY, lw=1.8, label="fixed budget")
    axes.plot(*found["rule"], color=_ACCENT, lw=2, label="stopping rule")
    axes.plot(
        *found["chosen"],
        "o",
        color=_ACCENT,
        ms=9,
        mec="white",
        mew=1.2,
        zorder=4,
        label="calibrated",
    )
    axes.plot(*found["oracle"], "*", color=_GREY, ms=12, mew=0, label="oracle stop")
    _draw_saving(axes, found)
    chosen, missed = (float(value[0]) for value in found["chosen"])
    highest = max(2.5 * stop.alpha, 1.3 * missed, 0.15)
    axes.set_ylim(-0.04 * highest, min(1.02, highest))
    shown = [lines[miss <= highest] for lines, miss in (found["rule"], found["fixed"])]
    lowest = [lines[int(np.argmin(miss))] for lines, miss in (found["rule"], found["fixed"])]
    left = min([float(found["oracle"][0][0]), *(lines[0] for lines in shown if len(lines))])
    right = max(chosen, *map(float, lowest))
    margin = 0.06 * (right - left) + 0.5
    axes.set_xlim(left - margin, right + 2 * margin)
    axes.grid(color=INK, alpha=0.12, lw=0.8)


def _draw_saving(axes: Axes, found: TradeOff) -> None:
    """From the calibrated rule to the fixed budget that misses no more often."""
    lines, miss = (float(value[0]) for value in found["chosen"])
    budgets, misses = found["fixed"]
    fixed = float(budgets[cheapest(misses[None], found["chosen"][1])[0]])
    if fixed <= lines:
        return
    axes.plot([lines, fixed], [miss, miss], color=INK, lw=1, marker="|", ms=7)
    axes.annotate(
        f"{fixed - lines:.1f} saved",
        (fixed, miss),
        (4, 4),
        textcoords="offset points",
        fontsize=9,
    )


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


def as_svg(figure: Figure, name: str) -> str:
    """The figure as text, in the page's text colour; names differ between figures of a page."""
    stream = io.StringIO()
    # Parts are named by a hash: with another salt a figure, two of one page never share a name.
    with mpl.rc_context({"svg.hashsalt": hashlib.sha256(name.encode()).hexdigest()}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    text = stream.getvalue()
    return text[text.index("<svg") :].replace(INK, "currentColor")
