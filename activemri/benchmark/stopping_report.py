"""Stopping rules in words, as a table for the terminal, and as a section of the report."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from activemri.benchmark.curves import INK, STYLE, as_svg, metric_name
from activemri.benchmark.report import ReportFigure, direction
from activemri.benchmark.savings import TradeOff, cheapest
from activemri.benchmark.stopping import StoppingScans
from activemri.settings.stopping import StopSettings

Row = Mapping[str, Any]

_GREY = "#7f8288"
_ACCENT = "#0072b2"
_ALARM = "#d55e00"


def stopping_text(rows: Sequence[Row], scans: StoppingScans) -> str:
    """The table for the terminal."""
    stop = scans.stop
    several = len({row["reconstructor"] for row in rows}) > 1
    names = [f"{r['policy']}, {r['reconstructor']}" if several else r["policy"] for r in rows]
    width = max([len(name) for name in names] + [len("policy")]) + 2
    lines = [
        f"Stop at {aim(stop)}, alpha {stop.alpha:g}",
        f"{'policy':{width}}{'missed':>22}{'lines':>8}{'5-95 %':>10}{'fixed':>8}"
        f"{'saved':>22}{'oracle':>8}{'share':>8}",
    ]
    for name, row in zip(names, rows, strict=True):
        if row["refused"]:
            lines.append(f"{name:{width}}no rule: {row['refused']}")
            continue
        cells = cells_of(row)
        lines.append(
            f"{name:{width}}{cells['miss'] + ' ' + cells['miss_interval']:>22}{cells['lines']:>8}"
            f"{cells['range']:>10}{cells['fixed']:>8}"
            f"{cells['saved'] + ' ' + cells['saved_interval']:>22}"
            f"{cells['oracle']:>8}{cells['share']:>8}"
        )
    lines += [
        "Fixed: smallest budget that misses no more often on these scans. Oracle: stops when the "
        "target is truly reached. Share: of what the oracle saves.",
        *promises(scans),
    ]
    return "\n".join(lines)


def stopping_section(
    rows: Sequence[Row], figures: Sequence[ReportFigure], scans: StoppingScans
) -> dict[str, object]:
    """What the page shows."""
    stop = scans.stop
    return {
        "aim": f"{aim(stop)} ({direction(stop.metric)})",
        "alpha": f"{stop.alpha:g}",
        "predictor": stop.predictor,
        "calibration": f"{scans.n_units} {stop.unit}s",
        "rows": [
            {"policy": row["policy"], "reconstructor": row["reconstructor"], "bound": False}
            | {"refused": row["refused"]}
            | ({} if row["refused"] else cells_of(row))
            for row in rows
        ],
        "words": promises(scans),
        "figures": figures,
    }


def aim(stop: StopSettings) -> str:
    """The target in words."""
    return f"{metric_name(stop.metric)} {stop.target:g}"


def promises(scans: StoppingScans) -> list[str]:
    """What is guaranteed for the chosen unit, and what is not."""
    stop, units = scans.stop, f"{scans.n_units} calibration {scans.stop.unit}s"
    alone = scans.n_units == scans.n_subjects  # then a volume or slice stands for its subject
    said = {
        "subject": (
            f"Promised: of a new subject's slices, on average at most {100 * stop.alpha:g} % stop "
            f"below the target, if new subjects are exchangeable with the {units}: the same kind "
            "of people, scanner and protocol."
        ),
        "volume": (
            f"Promised: of a new volume's slices, on average at most {100 * stop.alpha:g} % stop "
            f"below the target, if new volumes are exchangeable with the {units}. These are of "
            f"only {scans.n_subjects} subjects, whose volumes resemble each other: for new "
            "subjects nothing is promised."
        ),
        "slice": (
            f"Promised: a new slice stops below the target with a chance of at most "
            f"{100 * stop.alpha:g} %, if new slices are exchangeable with the {units}. These are "
            f"of only {scans.n_subjects} subjects, whose slices resemble each other: for slices "
            "of new subjects nothing is promised."
        ),
    }["subject" if alone else stop.unit]
    caution = (
        "The average is over calibration sets as well: one calibration can come out above, and so "
        "can one subject, one contrast, or one target chosen after looking. Nothing is promised "
        "if checkpoints were chosen on the calibration subjects, which makes them easier than new "
        "ones."
    )
    names = scans.scenario.reconstructors
    trained = any(name != "zero-filled" for name in names)  # and weights are chosen on val
    if (
        stop.is_crossfit
        or not (alone or stop.unit == "subject")
        or (trained and stop.calibration in ("train", "val"))
    ):
        said = said.replace("Promised", "Aimed at, not promised", 1)
    if stop.is_crossfit:
        caution += (
            " Cross-fitting: predictions for calibration came from predictors fitted to the other "
            "folds, the rule uses one fitted to all, so that the bound is only approximate; and "
            "reconstructors and orders learned from these subjects suit them better than new ones."
        )
    return [said, caution]


def cells_of(row: Row) -> dict[str, str]:
    """Numbers of a row with a rule, as they are shown."""
    none = "–"
    share = row["share"]
    return {
        "miss": f"{row['miss']:.3f}",
        "miss_interval": _interval(row["miss_lo"], row["miss_hi"], 3),
        "holds": {True: "not above", False: "above", None: ""}[row["holds"]],
        "lines": f"{row['lines']:.1f}",
        "range": f"{row['lines_q05']:.0f}-{row['lines_q95']:.0f}",
        "fixed": f"{row['fixed_lines']:.1f}" if row["fixed_miss"] is not None else none,
        "saved": none if row["saved"] is None else f"{row['saved']:+.1f}".replace("-", "\u2212"),
        "saved_interval": ""
        if row["saved"] is None
        else _interval(row["saved_lo"], row["saved_hi"], 1),
        "oracle": f"{row['oracle_lines']:.1f}",
        "share": none if share is None else f"{100 * share:.0f} %".replace("-", "\u2212"),
        "threshold": none if row["threshold"] is None else f"{row['threshold']:.4g}",
        "error": f"{row['error']:.3g}",
        "rank": none if row["rank"] is None else f"{row['rank']:.2f}",
    }


def trade_off_figure(panels: Mapping[str, TradeOff], stop: StopSettings, *, name: str) -> str:
    """Mean lines against miss rate, a panel a policy.

    Args:
        panels: trade-offs by policy.
        stop: what was asked for.
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
        figure.supylabel(f"miss rate: share below {aim(stop)}", fontsize=10)
        return as_svg(figure, f"trade-off{name}")


def _draw_trade_off(axes: Axes, found: TradeOff, stop: StopSettings) -> None:
    axes.axhline(stop.alpha, color=_ALARM, lw=1, ls=(0, (1, 2)), label=f"alpha {stop.alpha:g}")
    axes.plot(found.fixed.lines, found.fixed.misses, color=_GREY, lw=1.8, label="fixed budget")
    axes.plot(found.rule.lines, found.rule.misses, color=_ACCENT, lw=2, label="stopping rule")
    axes.plot(
        found.chosen.lines,
        found.chosen.misses,
        "o",
        color=_ACCENT,
        ms=9,
        mec="white",
        mew=1.2,
        zorder=4,
        label="calibrated",
    )
    axes.plot(
        found.oracle.lines, found.oracle.misses, "*", color=_GREY, ms=12, mew=0, label="oracle stop"
    )
    _draw_saving(axes, found)
    highest = max(2.5 * stop.alpha, 1.3 * float(found.chosen.misses[0]), 0.15)
    axes.set_ylim(-0.04 * highest, min(1.02, highest))
    shown = [curve.lines[curve.misses <= highest] for curve in (found.rule, found.fixed)]
    lowest = [curve.lines[int(np.argmin(curve.misses))] for curve in (found.rule, found.fixed)]
    left = min([float(found.oracle.lines[0]), *(lines[0] for lines in shown if len(lines))])
    right = max(float(found.chosen.lines[0]), *map(float, lowest))
    margin = 0.06 * (right - left) + 0.5
    axes.set_xlim(left - margin, right + 2 * margin)
    axes.grid(color=INK, alpha=0.12, lw=0.8)


def _draw_saving(axes: Axes, found: TradeOff) -> None:
    """From the calibrated rule to the fixed budget that misses no more often."""
    lines, miss = float(found.chosen.lines[0]), float(found.chosen.misses[0])
    fixed = float(found.fixed.lines[cheapest(found.fixed.misses[None], found.chosen.misses)[0]])
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


def _interval(low: float | None, high: float | None, digits: int) -> str:
    if low is None or high is None:
        return "[one subject]"
    return f"[{low:.{digits}f}, {high:.{digits}f}]".replace("-", "\u2212")
