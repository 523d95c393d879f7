"""What adaptivity is worth, in summary.json, as a table for the terminal, and in the report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from activemri.benchmark import adaptivity, free_budget, information, seeds
from activemri.benchmark.action_maps import action_map_figure, information_figure
from activemri.benchmark.curves import metric_name
from activemri.benchmark.plan import Plan
from activemri.benchmark.report import ReportFigure, formatted
from activemri.benchmark.statistics import RETURN

Row = Mapping[str, Any]

#: What the tables show of gaps: metric ("" for the main one), quantity, heading.
_GAPS = (("", "auc", "area"), ("", "final", "final"), (RETURN, "final", "return"))

WORDS = (
    "Closed = (policy - best fixed order) / (oracle - best fixed order): 0 is what an order chosen "
    "before the scan gives, 1 what looking at the target gives. The area is held against the "
    "one-step oracle, the final score against the exchange oracle. The best order is chosen on "
    "these very scans, which favours it. Intervals draw subjects anew, with the choice and the "
    "ratio; they say nothing about other trainings: that is what seeds show.",
    "Bits = mutual information of scan and action, mean over steps (Miller-Madow): 0 where all "
    "scans get the same action at a step. With n scans no more than log2 n bits can show. Orders "
    "have more than 0 only where scans differ in size or start, which then adds to all policies. "
    "Shared = of the actions of a scan, those that another scan gets as well, mean over pairs.",
)


@dataclass(frozen=True, eq=False)
class Findings:
    """What adaptivity is worth in a finished benchmark; rows are ready for JSON.

    Attributes:
        gaps: of :func:`activemri.benchmark.adaptivity.gaps_closed`, and for returns.
        saved: of :func:`activemri.benchmark.free_budget.lines_saved`.
        actions: of :func:`activemri.benchmark.information.adaptivity_of_actions`.
        seeds: of :func:`activemri.benchmark.seeds.seed_spread`.
    """

    gaps: list[dict[str, object]]
    saved: list[dict[str, object]]
    actions: list[dict[str, object]]
    seeds: list[dict[str, object]]

    @property
    def plain(self) -> dict[str, object]:
        """For summary.json."""
        rows = {"gaps": self.gaps, "lines_saved": self.saved, "actions": self.actions}
        return {**rows, "seeds": self.seeds, "words": list(WORDS)}


def find(plan: Plan, table: pd.DataFrame) -> Findings:
    """All that a table tells of adaptivity, in the metric that the oracles maximised."""
    settings = plan.settings
    options: dict[str, Any] = {
        "seed": settings.seed,
        "n_resamples": settings.n_bootstrap,
    }
    own = table[table["metric"].isin([plan.metric, RETURN])]
    scored = own[own["metric"] == plan.metric]
    gaps = adaptivity.gaps_closed(scored, **options)
    return Findings(
        gaps=gaps + free_budget.returns_closed(own, **options),
        saved=free_budget.lines_saved(scored, plan.metric, **options),
        actions=information.adaptivity_of_actions(scored, drawn=plan.drawn),
        seeds=seeds.seed_spread(own),
    )


def adaptivity_text(findings: Findings, plan: Plan) -> str:
    """The table for the terminal."""
    lines: list[str] = []
    for reconstructor in plan.reconstructors:
        rows = table_rows(findings, plan, reconstructor)
        names = _quantities(rows)
        width = max(len(row["policy"]) for row in rows) + 2
        lines += ["", f"What adaptivity is worth ({metric_name(plan.metric)}, {reconstructor})"]
        heads = "".join(f"{name + ' closed':>26}" for name in names)
        lines.append(f"{'policy':{width}}{heads}{'bits':>8}{'shared':>15}")
        for row in rows:
            cells = "".join(f"{_in_line(row.get(name)):>26}" for name in names)
            lines.append(f"{row['policy']:{width}}{cells}{row['bits']:>8}{row['shared']:>15}")
        lines += notes(findings, plan, reconstructor)
    lines.append(
        "Closed: 0 % is the best fixed order, 100 % an oracle. Bits: 0 if all scans get the same "
        "action. Shared: actions of a scan that another one gets as well."
    )
    return "\n".join(lines[1:])


def adaptivity_section(
    findings: Findings, plan: Plan, table: pd.DataFrame, *, palette: Mapping[str, str]
) -> dict[str, object]:
    """What the page shows."""
    parts = []
    for reconstructor in plan.reconstructors:
        rows = table_rows(findings, plan, reconstructor)
        parts.append(
            {
                "reconstructor": reconstructor,
                "quantities": _quantities(rows),
                "rows": rows,
                "notes": notes(findings, plan, reconstructor),
                "figures": _figures(findings, plan, table, reconstructor, palette=palette),
            }
        )
    return {"parts": parts, "words": WORDS, "metric": metric_name(plan.metric)}


def notes(findings: Findings, plan: Plan, reconstructor: str) -> list[str]:
    """What the table does not say: the orders, lines saved, and how far trainings differ."""
    gaps = [row for row in findings.gaps if row["reconstructor"] == reconstructor]
    held = {
        name: (gap["order"], gap["oracle"], gap["why"])
        for metric, quantity, name in _GAPS
        for gap in gaps
        if (gap["metric"], gap["quantity"]) == (metric or plan.metric, quantity)
    }
    words = [
        f"Best fixed order, {name}: {order} ({why}); bound: {oracle}."
        for name, (order, oracle, why) in held.items()
    ]
    for row in findings.saved:
        if row["reconstructor"] == reconstructor:
            words.append(_saving(row))
    for gap in gaps:
        if gap["closed_seeds"] and gap["policy"] not in plan.drawn:
            name = next(n for m, q, n in _GAPS if (m or plan.metric, q) == _kind(gap))
            each = ", ".join(_bounded(share) for share in _numbers(gap["closed_seeds"]))
            words.append(f"{gap['policy']}, {name} closed by each seed: {each}.")
    return words


def table_rows(findings: Findings, plan: Plan, reconstructor: str) -> list[dict[str, Any]]:
    """What tables show: a row for each policy, cells as text; quantities without a gap lack."""
    names = {(metric or plan.metric, quantity): name for metric, quantity, name in _GAPS}
    rows = []
    for policy in plan.policies:
        own = {"policy": policy, "reconstructor": reconstructor}
        gaps = [gap for gap in findings.gaps if own.items() <= gap.items()]
        acted = next((row for row in findings.actions if own.items() <= row.items()), None)
        rows.append(
            {"policy": policy, "bound": policy not in plan.stoppable}
            | {names[_kind(gap)]: gap_cell(gap) for gap in gaps}
            | (_action_cells(acted) if acted is not None else {"bits": "–", "shared": "–"})
        )
    return rows


def gap_cell(gap: Row) -> dict[str, str]:
    """A share closed, its interval, and the gain behind it."""
    metric = str(gap["metric"])
    gain = formatted(gap["gain"], "ssim" if metric == RETURN else metric, signed=True)
    if gap["closed"] is None:
        return {"value": "no room", "ends": "", "reason": str(gap["reason"]), "gain": gain}
    low, high = gap["closed_lo"], gap["closed_hi"]
    if gap["closed"] < -1 and (high is None or high < 0):  # how far below says nothing more
        return {"value": "< \u2212100 %", "ends": "", "reason": "below the order", "gain": gain}
    return {
        "value": percent(gap["closed"]),
        "ends": "" if low is None or high is None else f"{percent(low)}, {percent(high)}",
        "reason": "" if gap["reason"] is None else str(gap["reason"]),
        "gain": gain,
    }


def percent(share: float) -> str:
    """A share in percent."""
    return f"{100 * share:.0f} %".replace("-", "\u2212")


def _quantities(rows: Sequence[Row]) -> list[str]:
    return [name for _, _, name in _GAPS if any(name in row for row in rows)]


def _kind(gap: Row) -> tuple[str, str]:
    return str(gap["metric"]), str(gap["quantity"])


def _in_line(cell: Mapping[str, str] | None) -> str:
    if cell is None or not cell["ends"]:
        return cell["value"] if cell else "–"
    return f"{cell['value']} [{cell['ends']}]"


def _action_cells(row: Row) -> dict[str, str]:
    bits, shared, taken = row["mean_bits"], row["shared"], row["taken"]
    return {
        "bits": "–" if bits is None else f"{bits:.2f}",
        "shared": "–" if shared is None else f"{shared:.1f} of {taken:.3g}",
    }


def _note(cell: Mapping[str, str]) -> str:
    bits = "" if cell["bits"] == "–" else f"{cell['bits']} bits, "
    return f"{bits}{cell['shared']} shared"


def _saving(row: Row) -> str:
    """A sentence on lines saved at equal quality."""
    order = f"{row['order']} takes {row['order_lines']:.1f} lines to the same mean score"
    if row["order_lines"] is None:
        order = "no fixed order reaches the same mean score with the lines that it was given"
    said = f"{row['policy']} takes {row['lines']:.1f} lines; {order}"
    if row["saved"] is None:
        return f"{said}."
    least = "at least " if row["order_lines"] is None else ""
    said += f": {least}{percent(row['saved'])} saved"
    if row["saved_lo"] is not None and row["saved_hi"] is not None:
        said += f" [{percent(row['saved_lo'])}, {percent(row['saved_hi'])}]"
    return f"{said}."


def _figures(
    findings: Findings,
    plan: Plan,
    table: pd.DataFrame,
    reconstructor: str,
    *,
    palette: Mapping[str, str],
) -> list[ReportFigure]:
    actions = information.actions_of(table)
    geometry = plan.acquisitions[reconstructor].geometry
    start = geometry.center_lines(plan.scenario.n_center_lines)[geometry.groups].all(dim=-1)
    rows = [row for row in findings.actions if row["reconstructor"] == reconstructor]
    cells = {str(row["policy"]): _action_cells(row) for row in rows}
    maps = action_map_figure(
        actions[actions["reconstructor"] == reconstructor],
        n_actions=geometry.n_actions,
        initial=start.cpu().numpy(),
        notes={policy: _note(cell) for policy, cell in cells.items()},
    )
    figures = [
        ReportFigure(
            f"Which line is taken when, {reconstructor}",
            maps,
            "Share of scans in which a line was taken at a step; grey lines are there from the "
            "start. A fixed order is one dark dot a step; a policy that looks at the scan spreads "
            "out.",
        )
    ]
    bits = information_figure(rows, palette=palette, bounds=_bounds(plan), name=reconstructor)
    if bits is not None:
        figures.append(
            ReportFigure(
                f"How much the action depends on the scan, {reconstructor}",
                bits,
                "Mutual information of scan and action at each step. Policies without any are not "
                "drawn, nor are those that draw at random.",
            )
        )
    return figures


def _bounds(plan: Plan) -> frozenset[str]:
    return frozenset(label for label, traits in plan.traits.items() if traits.is_oracle)


def _bounded(share: float) -> str:
    return percent(share) if share >= -1 else "< \u2212100 %"


def _numbers(values: object) -> list[float]:
    assert isinstance(values, list)
    return [float(value) for value in values]
