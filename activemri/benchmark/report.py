"""Report of a benchmark: its tables as text for a terminal, as JSON, and as one HTML page.

The page loads nothing from elsewhere (its own content policy forbids it), follows the reader's
light or dark mode, and can be read on a phone. Its look is in ``report.html`` beside this file.
"""

import base64
import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image

from activemri.agents.rollout import start_scans
from activemri.benchmark import adaptivity, figures, savings, statistics
from activemri.benchmark.figures import ReportFigure
from activemri.benchmark.plan import Plan
from activemri.benchmark.resampling import EXACT_SUBJECTS, FEWEST_SUBJECTS, TOO_FEW
from activemri.benchmark.savings import FittedRule
from activemri.benchmark.statistics import (
    CEILING,
    direction,
    formatted,
    higher_is_better,
    metric_name,
)
from activemri.benchmark.tuning import Tuning, tuning_table
from activemri.envs import rendering
from activemri.envs.rendering import frame_of
from activemri.tables import Cell, Table

Row = Mapping[str, Any]
NameCell = Callable[[str], Cell]

#: Size that all frames of the episodes may take together, before base64.
FRAME_BYTES = 3_500_000

_PANEL = 176  # side of a panel of the example frames, in pixels
_QUANTITIES = {"auc": "area", "final": "final"}
_MANY_SUBJECTS = 8  # of so many the spread is known well enough to say nothing about it
#: (quality, scale) of the frames: the first that fits into FRAME_BYTES.
_ENCODINGS = ((80, 1.0), (65, 1.0), (50, 1.0), (50, 0.75), (40, 0.6), (30, 0.5))
_NONE = "\u2013"


@dataclass(frozen=True, eq=False)
class Episode:
    """The example scan as one policy acquired it, before any action and after each.

    Frames are uint8 (height, width, 3), see :func:`activemri.envs.rendering.draw`.
    """

    policy: str
    frames: Sequence[NDArray[np.uint8]]
    scores: Sequence[float]
    score_name: str


@dataclass(frozen=True, eq=False)
class Section:
    """A section of the page: blocks in order, and tables of other metrics to be opened."""

    title: str
    blocks: Sequence[str | Table | ReportFigure]
    folded: Sequence[Table] = ()


@dataclass(frozen=True, eq=False)
class Report:
    """All that a benchmark says.

    Attributes:
        warning: of too few subjects; empty without.
        headline: tables that the command prints.
        content: of summary.json; its task is listed at the end of the page.
        episodes: of one scan; none leaves the player out.
    """

    title: str
    subtitle: str
    warning: str
    headline: Sequence[Table]
    sections: Sequence[Section]
    content: Mapping[str, Any]
    episodes: Sequence[Episode] = ()
    episode_title: str = ""

    def text(self) -> str:
        """The headline tables for the terminal."""
        return "\n\n".join(table.text() for table in self.headline)

    def html(self, *, command: str = "") -> str:
        """The page, with the command line that makes the results again."""
        environment = jinja2.Environment(
            loader=jinja2.PackageLoader("activemri.benchmark", ""),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        frames = [frame for episode in self.episodes for frame in episode.frames]
        samples = frames[:: max(len(frames) // 8, 1)]
        for quality, scale in _ENCODINGS:
            size = sum(len(_webp(frame, quality=quality, scale=scale)) for frame in samples)
            if size * len(frames) <= FRAME_BYTES * len(samples):
                break
        packed = [
            {
                "policy": episode.policy,
                "name": episode.score_name,
                "scores": [float(score) for score in episode.scores],
                "frames": [
                    _data_url(_webp(frame, quality=quality, scale=scale), "image/webp")
                    for frame in episode.frames
                ],
            }
            for episode in self.episodes
        ]
        gif = _data_url(self.gif(), "image/gif") if packed else ""
        page = environment.get_template("report.html")
        return page.render(
            report=self,
            command=command,
            episodes=packed,
            gif=gif,
            exact_subjects=EXACT_SUBJECTS,
        )

    def gif(self) -> bytes:
        """The first of the episodes as an animation; empty without any."""
        return rendering.gif_bytes(self.episodes[0].frames, fps=4) if self.episodes else b""


def report(
    plan: Plan,
    table: pd.DataFrame,
    *,
    rules: Sequence[FittedRule] = (),
    tunings: Sequence[Tuning] = (),
) -> Report:
    """Sum up a finished benchmark, from its long table; a ValueError if that lacks anything."""
    settings, metric, reference = plan.settings, plan.metric, plan.settings.reference
    bounds = statistics.policies_that(table, "is_oracle")
    palette = figures.colours(list(plan.policies), bounds=bounds)

    def name(policy: str) -> Cell:
        tag = "bound" if policy in (*bounds, CEILING) else ""
        return Cell(policy, tag=tag, colour=palette.get(policy, "#888888"))

    own = table[table["metric"] == metric]
    summary: Sequence[Row] = statistics.summarise(table)
    trainings: Sequence[Row] = plan.trainings()
    ceilings: Sequence[Row] = statistics.ceilings(table)
    found = adaptivity.worth(table, metric)
    content: dict[str, Any] = {
        "task": _task(plan),
        "results": summary,
        "ceilings": ceilings,
        "training": trainings,
        "traits": {
            label: asdict(traits) | {"needs": sorted(traits.needs)}
            for label, traits in plan.traits.items()
        },
        "adaptivity": {**found, "words": list(adaptivity.WORDS)},
    }
    metrics = list(map(str, table["metric"].unique()))
    main = [one for one in dict.fromkeys((metric, "psnr", "nmse")) if one in metrics]
    results = [
        result_table(summary, metric=one, name=name, ceilings=ceilings)
        for one in dict.fromkeys((*main, *metrics))
    ]
    intro = (
        "Area: mean score over the steps. Final: score at the end of the budget. Means are means "
        "of subjects' means. Small print: 95 % interval over subjects. The best competitor of each "
        "column is marked. Bounds look at the fully sampled scan: no policy can be expected to "
        "reach them. The ceiling is what the reconstructor makes of all readouts without errors."
    )
    sections = [Section("Results", [intro, results[0]], results[1:])]
    tuned = [tuning_table(tunings)] if tunings else []
    if tuned:
        content["tuning"] = [asdict(one) for one in tunings]
        sections.append(Section("Tuning", [*tuned, *tuned[0].notes]))
    means, which = statistics.score_curves(own), list(plan.reconstructors)
    drawn: dict[str, Any] = {"metric": metric, "palette": palette}
    curves = [
        figures.score_figure(means, reconstructor=label, bounds=bounds, **drawn) for label in which
    ]
    compared = reference in plan.policies and len(plan.policies) > 1
    if compared:
        gains = statistics.differences(own, reference)
        curves += [
            figures.difference_figure(gains, reconstructor=label, reference=reference, **drawn)
            for label in which
        ]
    if len(which) > 1 and len(plan.policies) > 1:
        curves += [
            figures.transfer_figure(summary, metric=metric, reference=reference, quantity=quantity)
            for quantity in _QUANTITIES
        ]
    sections.append(Section("Curves", curves))
    actions, worth = adaptivity.actions_of(table), []
    blocks: list[Table | ReportFigure] = []
    for label in which:
        worth.append(adaptivity.worth_table(table, found, label, metric=metric, name_cell=name))
        geometry = plan.acquisitions[label].geometry
        start = geometry.by_action(geometry.center_lines(plan.protocol.n_center_lines), "all")
        maps = figures.action_map_figure(
            actions,
            reconstructor=label,
            initial=start.cpu().numpy(),
            notes={
                str(row["policy"]): f"{adaptivity.shared_words(row)} shared"
                for row in found["actions"]
                if row["reconstructor"] == label
            },
        )
        blocks += [worth[-1], maps]
    sections.append(Section("Adaptivity", [*blocks, *adaptivity.WORDS]))
    stopping = []
    if rules:
        stops = [savings.savings(rule, plan.stop) for rule in rules]
        words = savings.promises(
            plan.stop,
            n_units=rules[0].n_units,
            n_subjects=rules[0].n_subjects,
            is_trained=any(one != "zero-filled" for one in plan.reconstructors.values()),
        )
        stopping = [savings.stopping_table(stops, plan.stop, words=words)]
        content["stopping"] = {"rules": stops, "words": words}
        sections.append(Section("Stopping", [*_stopping(plan, rules, stopping[0])]))
    if compared:
        comparisons = statistics.compare(table, reference, seed=settings.run.seed)
        intro = (
            f"Differences on the same slices, policy minus {reference}, with 95 % intervals over "
            "subjects. p comes from flipping the signs of the subjects' mean differences "
            f"({'exact' if all(row['exact'] for row in comparisons) else 'random patterns'}), "
            "corrected for the number of policies (Holm)."
        )
        tables = [comparison_table(comparisons, metric=one, name=name) for one in main]
        sections.append(Section(f"Compared with {reference}", [intro, tables[0]], tables[1:]))
    if trainings:
        sections.append(Section("Training", [training_table(trainings, name=name)]))
    # Lines to reach the reference's score at half of its budget and at the end of it.
    first = reference if reference in plan.policies else next(iter(plan.policies))
    of_first = own[own["policy"] == first]
    means = of_first.groupby(["step", "subject"])["value"].mean().groupby("step").mean().to_numpy()
    levels = sorted({round(float(mean), 2) for mean in (means[(len(means) - 1) // 2], means[-1])})
    reached = [row for level in levels for row in statistics.lines_to_reach(table, {metric: level})]
    intro = (
        "An episode that never reached the score counts as more than any other in the median, and "
        "with all the lines it had acquired in the mean, which is then a lower bound."
    )
    sections.append(Section("Lines to reach a score", [intro, reach_table(reached, name=name)]))
    for column in ("contrast", "phase"):
        kinds = list(own.sort_values("volume")[column].unique())
        tables = []
        for part in (own[own[column] == kind] for kind in kinds):
            rows, tops = statistics.summarise(part), statistics.ceilings(part)
            shown = result_table(rows, metric=metric, name=name, ceilings=tops)
            tables.append(replace(shown, title=str(part[column].iloc[0])))
        if len(kinds) > 1:
            sections.append(Section(f"By {column}", tables))
    largest = {what: max(row[f"n_{what}s"] for row in summary) for what in ("slice", "subject")}
    counted = " of ".join(f"{n} {what}{'' if n == 1 else 's'}" for what, n in largest.items())
    area = (
        "Brackets: 95 % interval over subjects. Area: mean height of the curve over steps. Final: "
        "score at the end of the budget."
    )
    shown = replace(results[0], subtitle=counted, notes=[area, *results[0].notes])
    # One scan is shown that all policies have acquired.
    fewest = min({shard.policy: shard.positions for shard in plan.shards()}.values(), key=len)
    example = fewest[len(fewest) // 2]
    info = plan.scored.dataset.describe(example)
    return Report(
        title=f"Active acquisition on {plan.scored.dataset.name}",
        subtitle=counted,
        warning=_few_subjects(min(row["n_subjects"] for row in summary)),
        headline=[shown, *tuned, *worth, *stopping],
        sections=sections,
        content=content,
        episodes=_episodes(plan, own, example, first=[reference, *bounds]),
        episode_title=(
            f"{info.volume}, slice {info.index} ({info.contrast}), {list(plan.reconstructors)[-1]}"
        ),
    )


def result_table(
    summary: Sequence[Row], *, metric: str, name: NameCell, ceilings: Sequence[Row] = ()
) -> Table:
    """Rows of :func:`activemri.benchmark.statistics.summarise` in one metric, and of `ceilings`.

    The best competitor of each column is marked; what is above its ceiling is named.
    """
    rows = [row for row in (*summary, *ceilings) if row["metric"] == metric]
    labels = list(dict.fromkeys(row["reconstructor"] for row in rows))
    rows.sort(key=lambda row: labels.index(row["reconstructor"]))
    counted = len({row["n_slices"] for row in rows}) > 1
    top = max if higher_is_better(metric) else min
    header, lines = _players(rows, name)
    for row, line in zip(rows, lines, strict=True):
        same = [one for one in rows if one["reconstructor"] == row["reconstructor"]]
        for quantity in _QUANTITIES:
            rivals = [one[quantity] for one in same if not one["bound"]]
            is_best = not row["bound"] and len(rivals) > 1 and row[quantity] == top(rivals)
            value, known = formatted(row[quantity], metric), row[quantity] is not None
            ends = _interval(row, f"{quantity}_", metric) if known else ""
            line.append(Cell(value, ends, style="best" if is_best else ""))
        line += [row["n_slices"]] if counted else []
    heading = metric_name(metric)
    return Table(
        [
            *header,
            *(f"{heading} {word}" for word in _QUANTITIES.values()),
            *(["slices"] if counted else []),
        ],
        lines,
        title=heading,
        subtitle=direction(metric),
        notes=[
            f"{one['policy']}, {row['reconstructor']}: {_QUANTITIES[one['quantity']]} "
            f"{formatted(one['value'], metric)} is above the ceiling of its scans, "
            f"{formatted(one['ceiling'], metric)}: this reconstructor does better without some "
            "readouts than with all."
            for row in rows
            for one in row.get("above", ())
        ],
    )


def comparison_table(comparisons: Sequence[Row], *, metric: str, name: NameCell) -> Table:
    """Rows of :func:`activemri.benchmark.statistics.compare` in one metric."""
    rows = [row for row in comparisons if row["metric"] == metric]
    pairs = [row for row in rows if row["quantity"] == "auc"]
    tests = {(row["policy"], row["reconstructor"], row["quantity"]): row for row in rows}
    header, lines = _players(pairs, name)
    for pair, line in zip(pairs, lines, strict=True):
        for quantity in _QUANTITIES:
            row = tests[pair["policy"], pair["reconstructor"], quantity]
            value = formatted(row["difference"], metric, signed=True)
            line.append(Cell(value, _interval(row, "", metric, signed=True)))
            p = row["p_holm"]
            if p is None:  # a bound
                line.append(Cell(_NONE))
                continue
            clear = p < 0.05 and row["better"] is not None
            word = ("better" if row["better"] else "worse") if clear else ""
            line.append(Cell(_p_value(p), small=(word,), style=word))
    # Holm multiplies the smallest p by the number of policies that it was picked from; bounds are
    # not among them.
    tested = [row for row in pairs if row["p_holm"] is not None]
    n_tests = Counter(row["reconstructor"] for row in tested)
    reached = [row["p_smallest"] * n_tests[row["reconstructor"]] for row in tested]
    smallest = min([1.0, *reached])
    few = (
        f"So few subjects, with so many policies, can give no p below {_p_value(smallest)}: "
        "nothing can be called significant here."
    )
    return Table(
        [*header, *(head for word in _QUANTITIES.values() for head in (word, "p"))],
        lines,
        title=metric_name(metric),
        subtitle=direction(metric),
        notes=[few] if tested and smallest >= 0.05 else [],
    )


def training_table(rows: Sequence[Row], *, name: NameCell) -> Table:
    """Rows of :meth:`activemri.benchmark.plan.Plan.trainings`."""

    def number(value: float | None) -> Cell:
        return Cell(_NONE if value is None else f"{value:,.0f}" if value >= 10 else f"{value:g}")

    return Table(
        ["policy", "taught by", "actions", "training subjects", "seconds"],
        [
            [
                name(str(row["policy"])),
                row["taught_by"] or _NONE,
                *(number(row[entry]) for entry in ("actions", "subjects", "seconds")),
            ]
            for row in rows
        ],
        title="Cost of what was learned",
        notes=[
            "Actions: taken in the environment, or tried by an oracle. Seconds: wall clock of "
            "learning, without validations. A dash: the file has no record, or nothing acts to "
            "learn."
        ],
    )


def reach_table(rows: Sequence[Row], *, name: NameCell) -> Table:
    """Rows of :func:`activemri.benchmark.statistics.lines_to_reach`."""
    header, lines = _players(rows, name)
    for row, line in zip(rows, lines, strict=True):
        mean, metric = f"{row['mean_at_least']:.1f}", row["metric"]
        line += [
            Cell(f"{metric_name(metric)} {formatted(row['score'], metric)}"),
            Cell(f"{100 * row['share']:.0f} %"),
            Cell("not reached" if row["median"] is None else f"{row['median']:g}"),
            Cell(mean if row["share"] == 1 else f"at least {mean}"),
        ]
    return Table([*header, "score", "reached by", "median lines", "mean lines"], lines)


def _players(rows: Sequence[Row], name: NameCell) -> tuple[list[str], list[list[object]]]:
    """First columns: policies, and reconstructors where there are several."""
    several = len({row["reconstructor"] for row in rows}) > 1
    return ["policy", *(["reconstructor"] if several else [])], [
        [name(str(row["policy"])), *([row["reconstructor"]] if several else [])] for row in rows
    ]


def _stopping(
    plan: Plan, rules: Sequence[FittedRule], table: Table
) -> Iterator[str | Table | ReportFigure]:
    stop, n = plan.stop, rules[0].n_units
    of_others = f"{n} {stop.unit}s of other subjects"
    chosen_on = f"{n} other subjects" if stop.unit == "subject" else of_others
    yield (
        "Each policy stops a scan when a rule finds it good enough for "
        f"{metric_name(str(stop.metric))} {stop.target:g} ({direction(str(stop.metric))}). The "
        f"predictors ({stop.predictor}) see only the scan; each threshold was chosen on "
        f"{chosen_on} so that at most alpha = {stop.alpha:g} "
        "of new scans stop below the target."
    )
    yield table
    for label in plan.reconstructors:
        own = [rule for rule in rules if rule.reconstructor == label]
        panels: dict[str, dict[str, savings.TradeOff]] = {}
        for rule in own:
            if (found := savings.trade_off(rule, stop)) is not None:
                panels.setdefault(rule.policy, {})[rule.kind] = found
        if panels:
            yield figures.trade_off_figure(panels, stop, reconstructor=label)


def _task(plan: Plan) -> dict[str, object]:
    """Settings and scans, for summary.json and the end of the page."""
    settings, infos = plan.settings, plan.scored.describe()
    nested = ("protocol", "run", "compute", "stop")
    return {
        **vars(plan.protocol),
        "budget": plan.budget,
        **{name: value for name, value in vars(settings).items() if name not in nested},
        "reconstructors": list(plan.reconstructors.values()),
        "metric": plan.metric,
        "stop": asdict(plan.stop) if plan.stopping else None,
        "seed": settings.run.seed,
        "n_slices": len(infos),
        "n_subjects": len({info.subject for info in infos}),
        "frame": list(plan.scored.dataset.shape),
        "auc": "trapezoid of the score over steps, divided by the number of steps",
        "final": "score when the budget is spent",
        "interval": "95 %, jackknife over subjects",
    }


def _episodes(
    plan: Plan, table: pd.DataFrame, position: int, *, first: Sequence[str]
) -> list[Episode]:
    """One scan, acquired by every policy with the last reconstructor, drawn step by step."""
    reconstructor = list(plan.reconstructors)[-1]
    scan, seed = plan.scored.dataset[position], plan.settings.run.seed
    own = table[
        (table["reconstructor"] == reconstructor)
        & (table["volume"] == scan.volume)
        & (table["slice"] == scan.index)
        & (table["seed"] == seed)
    ]
    # One axis for all policies and steps, so that they can be compared by eye.
    span, episodes = (float(own["value"].min()), float(own["value"].max())), []
    for policy, part in own.groupby("policy", sort=False, observed=True):
        steps = part.sort_values("step")
        acquisition = plan.acquisition(str(policy), reconstructor)
        actions, scores = steps["action"].tolist()[1:], steps["value"].tolist()
        state = start_scans(acquisition, [scan], seed=seed)
        frames = []
        for step in range(len(scores)):
            if step:
                state = acquisition.acquire(state, torch.tensor([actions[step - 1]]))
            picture = frame_of(
                state.view,
                scan,
                actions=actions[:step],
                scores=scores[: step + 1],
                score_name=plan.metric,
            )
            frames.append(rendering.draw(replace(picture, span=span), size=_PANEL))
        episodes.append(Episode(str(policy), frames, scores, metric_name(plan.metric)))
    # The page opens with the first two: what is to be beaten, and how far one can get.
    leading = list(first)[:2]
    return sorted(episodes, key=lambda e: leading.index(e.policy) if e.policy in leading else 2)


def _p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _interval(row: Row, prefix: str, metric: str, *, signed: bool = False) -> str:
    low, high = row[f"{prefix}lo"], row[f"{prefix}hi"]
    if low is None or high is None:
        return TOO_FEW
    return f"{formatted(low, metric, signed=signed)}, {formatted(high, metric, signed=signed)}"


def _few_subjects(n_subjects: int) -> str:
    """A warning where intervals say little or nothing."""
    if n_subjects >= _MANY_SUBJECTS:
        return ""
    people = "one subject" if n_subjects == 1 else f"{n_subjects} subjects"
    if n_subjects < FEWEST_SUBJECTS:
        return f"With {people} there are no intervals: at least {FEWEST_SUBJECTS} are needed."
    return (
        f"With {people} intervals are wide, for their spread is hardly known, and still too narrow "
        "if one subject in many is far from all others. Look at the subjects themselves."
    )


def _webp(frame: NDArray[np.uint8], *, quality: int, scale: float) -> bytes:
    picture = Image.fromarray(frame)
    if scale != 1:
        picture = picture.resize((round(picture.width * scale), round(picture.height * scale)))
    stream = io.BytesIO()
    picture.save(stream, format="WebP", quality=quality, method=2)
    return stream.getvalue()


def _data_url(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
