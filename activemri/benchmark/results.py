"""What comes out of a benchmark: summary.json, report.html and a table for the terminal."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from activemri.agents.policy import Traits
from activemri.agents.rollout import start_scans
from activemri.benchmark import (
    adaptivity_report,
    curves,
    savings,
    statistics,
    stopping_report,
    transfer,
)
from activemri.benchmark.plan import Plan
from activemri.benchmark.report import Episode, ReportFigure, Row, write_report
from activemri.benchmark.stopping import Verdict
from activemri.envs import rendering
from activemri.envs.picture import scan_picture

_PANEL = 176  # side of a panel of the example frames, in pixels


def publish(
    plan: Plan, table: pd.DataFrame, *, command: str, verdicts: Sequence[Verdict] = ()
) -> None:
    """Write summary.json and report.html."""
    settings = plan.settings
    stops = stopping_rows(plan, verdicts)
    with tqdm(total=3, desc="Summing up", disable=None) as bar:
        summary = statistics.summarise(
            table,
            seed=settings.seed,
            n_resamples=settings.n_bootstrap,
        )
        content: dict[str, object] = {"task": task(plan), "results": summary}
        content["traits"] = {label: plain_traits(one) for label, one in plan.traits.items()}
        findings = adaptivity_report.find(plan, table)
        content["adaptivity"] = findings.plain
        if plan.stopping is not None:
            words = stopping_report.promises(plan.stopping)
            content["stopping"] = {"rules": stops, "words": words}
        write_json(settings.out / "summary.json", content)
        bar.update()
        example = _example(plan, table)
        bar.update()
        write_report(
            settings.out / "report.html",
            title=f"Active acquisition on {plan.dataset.name}",
            settings=asdict(settings) | plan.scenario.described,
            summary=summary,
            comparisons=_comparisons(plan, table),
            by_contrast=_by_contrast(plan, table),
            reach=_reach(plan, table),
            figures=_figures(plan, table, summary),
            episodes=example,
            episode_title=_example_title(plan),
            gif=_gif(example),
            command=command,
            headline=tuple(dict.fromkeys((plan.metric, "psnr", "nmse"))),
            stopping=_stopping_section(plan, verdicts, stops),
            adaptivity=adaptivity_report.adaptivity_section(
                findings, plan, table, palette=_palette(plan)
            ),
        )
        bar.update()


def stopping_rows(plan: Plan, verdicts: Sequence[Verdict]) -> list[dict[str, object]]:
    """What every rule saves and misses."""
    if plan.stopping is None:
        return []
    settings = plan.settings
    return [
        savings.savings(
            verdict, plan.stopping.stop, seed=settings.seed, n_resamples=settings.n_bootstrap
        )
        for verdict in verdicts
    ]


def _stopping_section(
    plan: Plan, verdicts: Sequence[Verdict], rows: Sequence[dict[str, object]]
) -> dict[str, object] | None:
    if plan.stopping is None:
        return None
    stop, figures = plan.stopping.stop, []
    for reconstructor in plan.reconstructors:
        own = [verdict for verdict in verdicts if verdict.reconstructor == reconstructor]
        found = {verdict.policy: savings.trade_off(verdict, stop) for verdict in own}
        panels = {policy: one for policy, one in found.items() if one is not None}
        if panels:
            figures.append(
                ReportFigure(
                    f"Lines against misses, {reconstructor}",
                    stopping_report.trade_off_figure(panels, stop, name=reconstructor),
                    "Further down and left is better. The rule at all thresholds; its dot is the "
                    "calibrated one.",
                )
            )
    return stopping_report.stopping_section(rows, figures, plan.stopping)


def task(plan: Plan) -> dict[str, object]:
    """What was run, for summary.json."""
    infos = plan.describe()
    settings = asdict(plan.settings) | plan.scenario.described
    del settings["out"]
    return {
        **settings,
        "n_slices": len(infos),
        "n_subjects": len({info.subject for info in infos}),
        "frame": list(plan.dataset.shape),
        "auc": "trapezoid of the score over steps, divided by the number of steps",
        "final": "score when the budget is spent",
        "interval": "95 %, percentile bootstrap over subjects",
    }


def text_table(plan: Plan, table: pd.DataFrame) -> str:
    """The headline table for the terminal: area and final score with intervals."""
    settings = plan.settings
    summary = statistics.summarise(
        table[table["metric"] == plan.metric],
        seed=settings.seed,
        n_resamples=settings.n_bootstrap,
    )
    several = len(plan.reconstructors) > 1
    width = max(len(str(row["policy"])) for row in summary) + 2
    name = curves.metric_name(plan.metric)
    cell = max(25, len(name) + 8)
    lines: list[str] = []
    for reconstructor in plan.reconstructors:
        rows = [row for row in summary if row["reconstructor"] == reconstructor]
        heading = (
            f"{rows[0]['n_slices']} slices of {rows[0]['n_subjects']} subjects, {reconstructor}"
        )
        lines += ["", heading] if several and lines else [heading]
        lines.append(f"{'policy':{width}}{name + ' area':>{cell}}{name + ' final':>{cell}}")
        lines += [
            f"{row['policy']!s:{width}}{_cell(row, 'auc'):>{cell}}{_cell(row, 'final'):>{cell}}"
            + ("  (bound)" if row["bound"] else "")
            for row in rows
        ]
    findings = adaptivity_report.find(plan, table)
    lines.append(
        "Brackets: 95 % interval over subjects. Area: mean height of the curve over steps."
    )
    return "\n".join([*lines, "", adaptivity_report.adaptivity_text(findings, plan)])


def example_gif(plan: Plan, table: pd.DataFrame) -> bytes:
    """The example episode of the reference policy as an animation."""
    return _gif(_example(plan, table))


def write_json(path: Path, value: object) -> None:
    """Strict JSON (no NaN), written completely or not at all."""
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_text(
        json.dumps(value, indent=1, allow_nan=False, default=str), encoding="utf-8"
    )
    os.replace(unfinished, path)


def _cell(row: dict[str, object], quantity: str) -> str:
    low, high = row[f"{quantity}_lo"], row[f"{quantity}_hi"]
    value = f"{row[quantity]:.4f}"
    return f"{value} [{low:.4f}, {high:.4f}]" if low is not None else f"{value} [one subject]"


def _bounds(plan: Plan) -> frozenset[str]:
    """Labels of the policies that use the target."""
    return frozenset(label for label, traits in plan.traits.items() if traits.is_oracle)


def plain_traits(traits: Traits) -> dict[str, object]:
    """Traits of a policy as JSON holds them."""
    return asdict(traits) | {"needs": sorted(traits.needs)}


def _comparisons(plan: Plan, table: pd.DataFrame) -> list[dict[str, object]]:
    settings = plan.settings
    if settings.reference not in plan.policies or len(plan.policies) < 2:
        return []
    return statistics.compare(
        table,
        settings.reference,
        seed=settings.seed,
        n_resamples=settings.n_bootstrap,
    )


def _by_contrast(plan: Plan, table: pd.DataFrame) -> list[dict[str, object]]:
    if table["contrast"].nunique() < 2:
        return []
    return statistics.summarise(
        table[table["metric"] == plan.metric],
        by=("contrast",),
        seed=plan.settings.seed,
        n_resamples=plan.settings.n_bootstrap,
    )


def _reach(plan: Plan, table: pd.DataFrame) -> list[dict[str, object]]:
    """Lines to reach what the reference has at half of its budget and at the end of it."""
    settings = plan.settings
    reference = (
        settings.reference if settings.reference in plan.policies else next(iter(plan.policies))
    )
    own = table[(table["policy"] == reference) & (table["metric"] == plan.metric)]
    last = int(own["step"].max())
    levels = {round(float(own[own["step"] == s]["value"].mean()), 2) for s in (last // 2, last)}
    return [
        row
        for level in sorted(levels)
        for row in statistics.lines_to_reach(table, {plan.metric: level})
    ]


def _figures(plan: Plan, table: pd.DataFrame, summary: Sequence[Row]) -> list[ReportFigure]:
    own = table[table["metric"] == plan.metric]
    palette = _palette(plan)
    return [
        *_score_figures(plan, own, palette),
        *_gain_figures(plan, own, palette),
        *_transfer_figures(plan, summary),
    ]


def _transfer_figures(plan: Plan, summary: Sequence[Row]) -> Iterator[ReportFigure]:
    if len(plan.reconstructors) < 2 or len(plan.policies) < 2:
        return
    for quantity in ("auc", "final"):
        yield ReportFigure(
            "Every policy with every reconstructor, "
            + ("area" if quantity == "auc" else "final score"),
            transfer.transfer_figure(
                summary,
                metric=plan.metric,
                reference=plan.settings.reference,
                quantity=quantity,
            ),
            "Mean over slices. Colours compare within a column; blue is better.",
        )


def _palette(plan: Plan) -> dict[str, str]:
    return curves.colours(list(plan.policies), bounds=_bounds(plan))


def _score_figures(
    plan: Plan, table: pd.DataFrame, palette: dict[str, str]
) -> Iterator[ReportFigure]:
    settings = plan.settings
    means = statistics.score_curves(table, seed=settings.seed, n_resamples=settings.n_bootstrap)
    few = len(plan.policies) <= curves.MOST_BANDS
    bands = "; bands are 95 % intervals over subjects" if few else ""
    for reconstructor in plan.reconstructors:
        yield ReportFigure(
            f"{curves.metric_name(plan.metric)} against acquired lines, {reconstructor}",
            curves.score_figure(
                means,
                metric=plan.metric,
                reconstructor=reconstructor,
                palette=palette,
                bounds=_bounds(plan),
            ),
            f"Mean over slices{bands}. Bounds are dashed.",
        )


def _gain_figures(
    plan: Plan, table: pd.DataFrame, palette: dict[str, str]
) -> Iterator[ReportFigure]:
    settings = plan.settings
    if settings.reference not in plan.policies or len(plan.policies) < 2:
        return
    gains = statistics.differences(table, settings.reference)
    for reconstructor in plan.reconstructors:
        yield ReportFigure(
            f"Gain of each subject over {settings.reference}, {reconstructor}",
            curves.difference_figure(
                gains,
                metric=plan.metric,
                reconstructor=reconstructor,
                reference=settings.reference,
                palette=palette,
            ),
            "Difference of the area under the curve; a dot is a subject.",
        )


def _example_position(plan: Plan) -> int:
    return plan.positions[len(plan.positions) // 2]


def _example_title(plan: Plan) -> str:
    info = plan.dataset.describe(_example_position(plan))
    reconstructor = list(plan.reconstructors)[-1]
    return f"{info.volume}, slice {info.index} ({info.contrast}), {reconstructor}"


def _example(plan: Plan, table: pd.DataFrame) -> list[Episode]:
    """One scan, acquired by every policy with the last reconstructor, drawn step by step."""
    reconstructor = list(plan.reconstructors)[-1]
    acquisition = plan.acquisitions[reconstructor]
    scan = plan.dataset[_example_position(plan)]
    name = plan.metric
    episodes = []
    for label in plan.policies:
        own = table[
            (table["policy"] == label)
            & (table["reconstructor"] == reconstructor)
            & (table["volume"] == scan.volume)
            & (table["slice"] == scan.index)
            & (table["metric"] == name)
            & (table["seed"] == plan.settings.seed)
        ].sort_values("step")
        actions, scores = own["action"].tolist()[1:], own["value"].tolist()
        frames = []
        state = start_scans(acquisition, [scan], seed=plan.settings.seed)
        for step in range(len(scores)):
            if step:
                state = acquisition.acquire(state, torch.tensor([actions[step - 1]]))
            frame = scan_picture(
                acquisition.view(state),
                scan,
                actions=actions[:step],
                scores=scores[: step + 1],
                score_name=name,
            )
            frames.append(rendering.draw(frame, size=_PANEL))
        episodes.append(Episode(label, frames, scores, curves.metric_name(name)))
    # The page opens with the first two: what is to be beaten, and how far one can get.
    first = [plan.settings.reference, *(name for name in plan.policies if name in _bounds(plan))][
        :2
    ]
    return sorted(episodes, key=lambda e: first.index(e.policy) if e.policy in first else 2)


def _gif(episodes: list[Episode]) -> bytes:
    return rendering.gif_bytes(episodes[0].frames, fps=4)
