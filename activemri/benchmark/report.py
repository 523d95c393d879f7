"""Report of a benchmark: its tables as text for a terminal, as JSON, and as one HTML page.

The page loads nothing from elsewhere (its own content policy forbids it), follows the reader's
light or dark mode, and can be read on a phone. Its look is in ``report.html`` beside this file.
"""

import base64
import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from importlib import resources
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
from activemri.benchmark.savings import FittedRule
from activemri.benchmark.statistics import direction, formatted, higher_is_better, metric_name
from activemri.envs import rendering
from activemri.envs.rendering import frame_of
from activemri.tables import Cell, Column, Table

Row = Mapping[str, Any]
NameCell = Callable[[str], Cell]

#: Size that all frames of the episodes may take together, before base64.
FRAME_BYTES = 3_500_000

_PANEL = 176  # side of a panel of the example frames, in pixels
_QUANTITIES = {"auc": "area", "final": "final"}
#: (quality, scale) of the frames: the first that fits into FRAME_BYTES.
_ENCODINGS = ((80, 1.0), (65, 1.0), (50, 1.0), (50, 0.75), (40, 0.6), (30, 0.5))
_NONE = "\u2013"


@dataclass(frozen=True, eq=False)
class Episode:
    """The example scan as one policy acquired it.

    Attributes:
        policy: its label.
        frames: one per step, the first before any action; uint8 (height, width, 3), see
            :func:`activemri.envs.rendering.draw`.
        scores: one per frame.
        score_name: e.g. "SSIM".
    """

    policy: str
    frames: Sequence[NDArray[np.uint8]]
    scores: Sequence[float]
    score_name: str


@dataclass(frozen=True, eq=False)
class Section:
    """A section of the page.

    Attributes:
        title: its heading.
        blocks: paragraphs, tables and figures, in order.
        folded: tables that are shown when they are opened, under the last words.
        more: those words.
    """

    title: str
    blocks: Sequence[str | Table | ReportFigure]
    folded: Sequence[Table] = ()
    more: str = "Other metrics"


@dataclass(frozen=True, eq=False)
class Report:
    """All that a benchmark says.

    Attributes:
        title: heading of the page.
        subtitle: below it.
        warning: of too few subjects; empty without.
        headline: tables that the command prints.
        sections: of the page, in order.
        content: of summary.json.
        settings: listed at the end of the page.
        episodes: the same scan by several policies; none leaves the player out.
        episode_title: names that scan.
    """

    title: str
    subtitle: str
    warning: str
    headline: Sequence[Table]
    sections: Sequence[Section]
    content: Mapping[str, Any]
    settings: Mapping[str, object]
    episodes: Sequence[Episode] = ()
    episode_title: str = ""

    def text(self) -> str:
        """The headline tables for the terminal."""
        return "\n\n".join(table.text() for table in self.headline)

    def json(self) -> dict[str, Any]:
        """All numbers."""
        return dict(self.content)

    def html(self, *, command: str = "") -> str:
        """The page.

        Args:
            command: the command line that makes the results again.
        """
        text = resources.files("activemri.benchmark").joinpath("report.html").read_text("utf-8")
        environment = jinja2.Environment(
            autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        environment.tests["figure"] = lambda block: isinstance(block, ReportFigure)
        gif = self.gif()
        return environment.from_string(text).render(
            report=self,
            command=command,
            episodes=_packed(self.episodes),
            gif=_data_url(gif, "image/gif") if gif else "",
        )

    def gif(self) -> bytes:
        """The first of the episodes as an animation; empty without any."""
        return rendering.gif_bytes(self.episodes[0].frames, fps=4) if self.episodes else b""


def report(plan: Plan, table: pd.DataFrame, *, rules: Sequence[FittedRule] = ()) -> Report:
    """Sum up a finished benchmark.

    Args:
        plan: of the benchmark.
        table: the long table.
        rules: stopping rules, if any.

    Raises:
        ValueError: the table has no rows, or lacks columns.
    """
    settings, metric = plan.settings, plan.metric
    options: dict[str, Any] = {"seed": settings.run.seed, "n_resamples": settings.n_bootstrap}
    bounds = statistics.policies_that(table, "is_oracle")
    palette = figures.colours(list(plan.policies), bounds=bounds)
    name = partial(_name_cell, palette=palette, bounds=bounds)
    summary = statistics.summarise(table, **options)
    found = adaptivity.worth(table, metric, **options)
    several = settings.reference in plan.policies and len(plan.policies) > 1
    comparisons = statistics.compare(table, settings.reference, **options) if several else []
    stops = [savings.savings(rule, plan.stop, **options) for rule in rules]
    main = [one for one in dict.fromkeys((metric, "psnr", "nmse")) if _of_metric(summary, one)]
    worth = {
        label: adaptivity.worth_table(table, found, label, metric=metric, name_cell=name)
        for label in plan.reconstructors
    }
    words: list[str] = []
    if rules:
        words = savings.promises(
            plan.stop,
            n_units=rules[0].n_units,
            n_subjects=rules[0].n_subjects,
            is_trained=any(one != "zero-filled" for one in plan.reconstructors.values()),
        )
    stopping = savings.stopping_table(stops, plan.stop, words=words) if rules else None
    content: dict[str, Any] = {
        "task": _task(plan),
        "results": summary,
        "traits": {
            label: asdict(traits) | {"needs": sorted(traits.needs)}
            for label, traits in plan.traits.items()
        },
        "adaptivity": {**found, "words": list(adaptivity.WORDS)},
    }
    sections = [
        _results(table, summary, main, name=name),
        Section("Curves", list(_curves(plan, table, summary, palette, bounds))),
        _adaptivity(plan, table, found, worth, palette=palette, bounds=bounds),
    ]
    if stopping is not None:
        content["stopping"] = {"rules": stops, "words": words}
        sections.append(_stopping(plan, rules, stopping))
    if comparisons:
        sections.append(_comparisons(comparisons, main, settings.reference, name=name))
    sections.append(_reach(plan, table, name=name))
    if table["contrast"].nunique() > 1:
        own = table[table["metric"] == metric]
        by_contrast = statistics.summarise(own, by=("contrast",), **options)
        sections.append(_contrasts(by_contrast, metric, name=name))
    subjects, slices = (max(int(str(r[n])) for r in summary) for n in ("n_subjects", "n_slices"))
    area = (
        "Brackets: 95 % interval over subjects. Area: mean height of the curve over steps. Final: "
        "score at the end of the budget."
    )
    counted = f"{_count(slices, 'slice')} of {_count(subjects, 'subject')}"
    shown = result_table(summary, metric=metric, name=name, notes=[area], subtitle=counted)
    headline = [shown, *worth.values()]
    episodes = _episodes(plan, table, first=[settings.reference, *bounds])
    info = plan.scored.dataset.describe(_example(plan))
    return Report(
        title=f"Active acquisition on {plan.scored.dataset.name}",
        subtitle=counted,
        warning=_coverage(min(int(str(row["n_subjects"])) for row in summary)),
        headline=[*headline, *([stopping] if stopping else [])],
        sections=[section for section in sections if section.blocks],
        content=content,
        settings=content["task"],
        episodes=episodes,
        episode_title=(
            f"{info.volume}, slice {info.index} ({info.contrast}), {list(plan.reconstructors)[-1]}"
        ),
    )


def result_table(
    summary: Sequence[Row],
    *,
    metric: str,
    name: NameCell,
    title: str = "",
    subtitle: str = "",
    notes: Sequence[str] = (),
) -> Table:
    """Area and final score of every policy; the best competitor of each column is marked.

    Args:
        summary: of :func:`activemri.benchmark.statistics.summarise`.
        metric: of the rows to show.
        name: label of a policy to its cell.
        title: instead of the metric's name.
        subtitle: instead of the direction of better scores.
        notes: sentences below.
    """
    found = _of_metric(summary, metric)
    labels = list(dict.fromkeys(row["reconstructor"] for row in found))
    rows = sorted(found, key=lambda row: labels.index(row["reconstructor"]))
    counts = {row["n_slices"] for row in rows}
    best = {
        (row["reconstructor"], quantity): _best(rows, str(row["reconstructor"]), quantity)
        for row in rows
        for quantity in _QUANTITIES
    }

    def score(row: Row, quantity: str) -> Cell:
        is_best = row["policy"] in best[row["reconstructor"], quantity]
        return Cell(
            formatted(row[quantity], metric),
            _interval(row, f"{quantity}_", metric),
            style="best" if is_best else "",
        )

    heading = metric_name(metric)
    return Table(
        rows,
        [
            Column("policy", lambda row: name(str(row["policy"]))),
            *_of_reconstructors(rows),
            *(
                Column(f"{heading} {word}", partial(score, quantity=quantity))
                for quantity, word in _QUANTITIES.items()
            ),
            *([Column("slices", lambda row: row["n_slices"])] if len(counts) > 1 else []),
        ],
        title=title or heading,
        subtitle=subtitle or direction(metric),
        notes=notes,
    )


def comparison_table(comparisons: Sequence[Row], *, metric: str, name: NameCell) -> Table:
    """Paired comparisons in one metric: differences of area and final score with their tests.

    Args:
        comparisons: of :func:`activemri.benchmark.statistics.compare`.
        metric: of the rows to show.
        name: label of a policy to its cell.
    """
    rows = _of_metric(comparisons, metric)
    pairs: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        key = str(row["reconstructor"]), str(row["policy"])
        pairs.setdefault(key, {"reconstructor": key[0], "policy": key[1]})[row["quantity"]] = row
    # Holm multiplies the smallest p by the number of policies that it was picked from.
    most = max(Counter(reconstructor for reconstructor, _ in pairs).values(), default=1)
    smallest = min(max((row["p_smallest"] for row in rows), default=0) * most, 1)
    notes = [
        f"So few subjects, with so many policies, can give no p below {smallest:.3g}: nothing can "
        "be called significant here."
    ]

    def difference(pair: Row, quantity: str) -> Cell:
        row = pair[quantity]
        value = formatted(row["difference"], metric, signed=True)
        return Cell(value, _interval(row, "", metric, signed=True))

    def chance(pair: Row, quantity: str) -> Cell:
        row = pair[quantity]
        if row["p_holm"] is None:  # a bound
            return Cell(_NONE)
        p = row["p_holm"]
        clear = p < 0.05 and row["better"] is not None
        word = ("better" if row["better"] else "worse") if clear else ""
        return Cell("< 0.001" if p < 0.001 else f"{p:.3f}", small=(word,), style=word)

    return Table(
        list(pairs.values()),
        [
            Column("policy", lambda pair: name(str(pair["policy"]))),
            *_of_reconstructors(list(pairs.values())),
            *(
                column
                for quantity, word in _QUANTITIES.items()
                for column in (
                    Column(word, partial(difference, quantity=quantity)),
                    Column("p", partial(chance, quantity=quantity)),
                )
            ),
        ],
        title=metric_name(metric),
        subtitle=direction(metric),
        notes=notes if smallest >= 0.05 else (),
    )


def reach_table(rows: Sequence[Row], *, name: NameCell) -> Table:
    """Rows of :func:`activemri.benchmark.statistics.lines_to_reach`."""

    def mean(row: Row) -> Cell:
        value = f"{row['mean_at_least']:.1f}"
        return Cell(value if row["share"] == 1 else f"at least {value}")

    return Table(
        rows,
        [
            Column("policy", lambda row: name(str(row["policy"]))),
            *_of_reconstructors(rows),
            Column(
                "score",
                lambda row: Cell(
                    f"{metric_name(row['metric'])} {formatted(row['score'], row['metric'])}"
                ),
            ),
            Column("reached by", lambda row: Cell(f"{100 * row['share']:.0f} %")),
            Column(
                "median lines",
                lambda row: Cell("not reached" if row["median"] is None else f"{row['median']:g}"),
            ),
            Column("mean lines", mean),
        ],
    )


def _results(
    table: pd.DataFrame, summary: Sequence[Row], main: Sequence[str], *, name: NameCell
) -> Section:
    tables = {
        metric: result_table(summary, metric=metric, name=name)
        for metric in map(str, table["metric"].unique())
    }
    intro = (
        "Area: mean score over the steps. Final: score at the end of the budget. Small print: 95 % "
        "interval over subjects. The best competitor of each column is marked. Bounds look at the "
        "fully sampled scan: no policy can be expected to reach them."
    )
    first, *others = sorted(tables, key=lambda one: main.index(one) if one in main else len(main))
    return Section("Results", [intro, tables[first]], [tables[one] for one in others])


def _adaptivity(
    plan: Plan,
    table: pd.DataFrame,
    found: Mapping[str, Sequence[Row]],
    worth: Mapping[str, Table],
    *,
    palette: Mapping[str, str],
    bounds: Sequence[str],
) -> Section:
    blocks: list[str | Table | ReportFigure] = []
    actions = adaptivity.actions_of(table)
    for label, own in worth.items():
        blocks.append(own)
        geometry = plan.acquisitions[label].geometry
        start = geometry.by_action(geometry.center_lines(plan.protocol.n_center_lines), "all")
        rows = [row for row in found["actions"] if row["reconstructor"] == label]
        maps = figures.action_map_figure(
            actions[actions["reconstructor"] == label],
            n_actions=geometry.n_actions,
            initial=start.cpu().numpy(),
            notes={str(row["policy"]): _action_note(row) for row in rows},
        )
        blocks.append(
            ReportFigure(
                f"Actions by step, {label}",
                maps,
                "Share of scans in which an action was taken at a step; grey ones are there from "
                "the start. A fixed order is one dark dot a step; a policy that looks at the scan "
                "spreads out.",
            )
        )
        bits = figures.information_figure(rows, palette=palette, bounds=bounds, name=label)
        if bits is not None:
            blocks.append(
                ReportFigure(
                    f"Dependence of the action on the scan, {label}",
                    bits,
                    "Mutual information of scan and action at each step. Policies without any are "
                    "not drawn, nor are those that draw at random.",
                )
            )
    return Section("Adaptivity", [*blocks, *adaptivity.WORDS])


def _action_note(row: Row) -> str:
    bits, shared = adaptivity.action_cells(row)
    words = "" if bits.value == _NONE else f"{bits.value} bits, "
    return f"{words}{shared.value} shared"


def _stopping(plan: Plan, rules: Sequence[FittedRule], table: Table) -> Section:
    stop = plan.stop
    intro = (
        "Each policy stops a scan when its predicted score is good enough for "
        f"{metric_name(str(stop.metric))} {stop.target:g} ({direction(str(stop.metric))}). The "
        f"predictor ({stop.predictor}) sees only the scan; its threshold was chosen on "
        f"{rules[0].n_units} {stop.unit}s of other subjects so that at most alpha = {stop.alpha:g} "
        "of new scans stop below the target."
    )
    blocks: list[str | Table | ReportFigure] = [intro, table]
    for label in plan.reconstructors:
        own = [rule for rule in rules if rule.reconstructor == label]
        found = {rule.policy: savings.trade_off(rule, stop) for rule in own}
        panels = {policy: one for policy, one in found.items() if one is not None}
        if panels:
            blocks.append(
                ReportFigure(
                    f"Lines against misses, {label}",
                    figures.trade_off_figure(panels, stop, name=label),
                    "Further down and left is better. The rule at all thresholds; its dot is the "
                    "calibrated one.",
                )
            )
    return Section("Stopping", blocks)


def _comparisons(
    comparisons: Sequence[Row], main: Sequence[str], reference: str, *, name: NameCell
) -> Section:
    intro = (
        f"Differences on the same slices, policy minus {reference}, with 95 % intervals over "
        "subjects. p comes from flipping the signs of the subjects' mean differences, corrected "
        "for the number of policies (Holm)."
    )
    first, *others = [comparison_table(comparisons, metric=one, name=name) for one in main]
    return Section(f"Compared with {reference}", [intro, first], others)


def _reach(plan: Plan, table: pd.DataFrame, *, name: NameCell) -> Section:
    """Lines to reach the reference's score at half of its budget and at the end of it."""
    given = plan.settings.reference
    reference = given if given in plan.policies else next(iter(plan.policies))
    own = table[(table["policy"] == reference) & (table["metric"] == plan.metric)]
    last = int(own["step"].max())
    levels = {round(float(own[own["step"] == s]["value"].mean()), 2) for s in (last // 2, last)}
    rows = [
        row
        for level in sorted(levels)
        for row in statistics.lines_to_reach(table, {plan.metric: level})
    ]
    intro = (
        "An episode that never reached the score counts as more than any other in the median, and "
        "with all the lines it had acquired in the mean, which is then a lower bound."
    )
    return Section("Lines to reach a score", [intro, reach_table(rows, name=name)])


def _contrasts(by_contrast: Sequence[Row], metric: str, *, name: NameCell) -> Section:
    parts: dict[str, list[Row]] = {}
    for row in by_contrast:
        parts.setdefault(str(row["contrast"]), []).append(row)
    return Section(
        "By contrast",
        [
            result_table(rows, metric=metric, name=name, title=contrast)
            for contrast, rows in parts.items()
        ],
    )


def _curves(
    plan: Plan,
    table: pd.DataFrame,
    summary: Sequence[Row],
    palette: Mapping[str, str],
    bounds: Sequence[str],
) -> Iterator[ReportFigure]:
    settings, metric = plan.settings, plan.metric
    own = table[table["metric"] == metric]
    means = statistics.score_curves(own, seed=settings.run.seed, n_resamples=settings.n_bootstrap)
    few = len(plan.policies) <= figures.MOST_BANDS
    bands = "; bands are 95 % intervals over subjects" if few else ""
    for label in plan.reconstructors:
        yield ReportFigure(
            f"{metric_name(metric)} against acquired lines, {label}",
            figures.score_figure(
                means, metric=metric, reconstructor=label, palette=palette, bounds=bounds
            ),
            f"Mean over slices{bands}. Bounds are dashed.",
        )
    if settings.reference in plan.policies and len(plan.policies) > 1:
        gains = statistics.differences(own, settings.reference)
        for label in plan.reconstructors:
            yield ReportFigure(
                f"Gain of each subject over {settings.reference}, {label}",
                figures.difference_figure(
                    gains,
                    metric=metric,
                    reconstructor=label,
                    reference=settings.reference,
                    palette=palette,
                ),
                "Difference of the area under the curve; a dot is a subject.",
            )
    if len(plan.reconstructors) > 1 and len(plan.policies) > 1:
        for quantity, word in (("auc", "area"), ("final", "final score")):
            yield ReportFigure(
                f"Every policy with every reconstructor, {word}",
                figures.transfer_figure(
                    summary, metric=metric, reference=settings.reference, quantity=quantity
                ),
                "Mean over slices. Colours compare within a column; blue is better.",
            )


def _task(plan: Plan) -> dict[str, object]:
    """Settings and scans, for summary.json and the end of the page."""
    settings, infos = plan.settings, plan.scored.describe()
    given = {
        one.name: getattr(settings, one.name)
        for one in fields(settings)
        if one.name not in ("protocol", "run", "compute", "stop")
    }
    protocol = {one.name: getattr(plan.protocol, one.name) for one in fields(plan.protocol)}
    return {
        **protocol,
        "budget": plan.budget,
        **given,
        "reconstructors": list(plan.reconstructors.values()),
        "metric": plan.metric,
        "stop": asdict(plan.stop) if plan.stopping else None,
        "seed": settings.run.seed,
        "n_slices": len(infos),
        "n_subjects": len({info.subject for info in infos}),
        "frame": list(plan.scored.dataset.shape),
        "auc": "trapezoid of the score over steps, divided by the number of steps",
        "final": "score when the budget is spent",
        "interval": "95 %, percentile bootstrap over subjects",
    }


def _example(plan: Plan) -> int:
    """Position of the scan that all policies have acquired and that is shown."""
    found = {shard.policy: shard.positions for shard in plan.shards()}
    fewest = min(found.values(), key=len)
    return fewest[len(fewest) // 2]


def _episodes(plan: Plan, table: pd.DataFrame, *, first: Sequence[str]) -> list[Episode]:
    """One scan, acquired by every policy with the last reconstructor, drawn step by step."""
    reconstructor = list(plan.reconstructors)[-1]
    acquisition = plan.acquisitions[reconstructor]
    scan, seed = plan.scored.dataset[_example(plan)], plan.settings.run.seed
    own = table[
        (table["reconstructor"] == reconstructor)
        & (table["volume"] == scan.volume)
        & (table["slice"] == scan.index)
        & (table["metric"] == plan.metric)
        & (table["seed"] == seed)
    ]
    episodes = []
    for policy, part in own.groupby("policy", sort=False, observed=True):
        actions = part.sort_values("step")["action"].tolist()[1:]
        scores = part.sort_values("step")["value"].tolist()
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
            frames.append(rendering.draw(picture, size=_PANEL))
        episodes.append(Episode(str(policy), frames, scores, metric_name(plan.metric)))
    # The page opens with the first two: what is to be beaten, and how far one can get.
    leading = list(first)[:2]
    return sorted(episodes, key=lambda e: leading.index(e.policy) if e.policy in leading else 2)


def _name_cell(policy: str, *, palette: Mapping[str, str], bounds: Sequence[str]) -> Cell:
    tag = "bound" if policy in bounds else ""
    return Cell(policy, tag=tag, colour=palette.get(policy, "#888888"))


def _of_metric(rows: Sequence[Row], metric: str) -> list[Row]:
    return [row for row in rows if row["metric"] == metric]


def _of_reconstructors(rows: Sequence[Row]) -> list[Column]:
    """A column of reconstructors, where there are several."""
    several = len({row["reconstructor"] for row in rows}) > 1
    return [Column("reconstructor", lambda row: row["reconstructor"])] if several else []


def _best(rows: Sequence[Row], reconstructor: str, quantity: str) -> set[str]:
    """The best competitors."""
    rivals = [row for row in rows if row["reconstructor"] == reconstructor and not row["bound"]]
    if len(rivals) < 2:
        return set()
    top = (max if higher_is_better(str(rows[0]["metric"])) else min)(r[quantity] for r in rivals)
    return {str(row["policy"]) for row in rivals if row[quantity] == top}


def _interval(row: Row, prefix: str, metric: str, *, signed: bool = False) -> str:
    low, high = row[f"{prefix}lo"], row[f"{prefix}hi"]
    if low is None or high is None:
        return "one subject"
    return f"{formatted(low, metric, signed=signed)}, {formatted(high, metric, signed=signed)}"


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _coverage(n_subjects: int) -> str:
    """A warning where percentile intervals of so few subjects cover less than they say."""
    covered = {3: 75, 4: 80, 7: 87, 12: 90}  # simulated: see resampling.percentile_intervals
    share = next((share for most, share in covered.items() if n_subjects <= most), None)
    if n_subjects == 1:
        return "With one subject there are no intervals: there is nobody else to draw."
    if share is None:
        return ""
    return (
        f"With {n_subjects} subjects the intervals are too narrow: those meant to hold the truth "
        f"in 95 % of studies hold it in about {share} % or less. Look at the subjects themselves."
    )


def _packed(episodes: Sequence[Episode]) -> list[dict[str, object]]:
    """Episodes as the page's script wants them, pictures small enough for FRAME_BYTES."""
    frames = [frame for episode in episodes for frame in episode.frames]
    if not frames:
        return []
    samples = frames[:: max(len(frames) // 8, 1)]
    quality, scale = _ENCODINGS[-1]
    for quality, scale in _ENCODINGS:
        size = np.mean([len(_webp(frame, quality=quality, scale=scale)) for frame in samples])
        if size * len(frames) <= FRAME_BYTES:
            break
    return [
        {
            "policy": episode.policy,
            "name": episode.score_name,
            "scores": [float(score) for score in episode.scores],
            "frames": [
                _data_url(_webp(frame, quality=quality, scale=scale), "image/webp")
                for frame in episode.frames
            ],
        }
        for episode in episodes
    ]


def _webp(frame: NDArray[np.uint8], *, quality: int, scale: float) -> bytes:
    picture = Image.fromarray(frame)
    if scale != 1:
        picture = picture.resize((round(picture.width * scale), round(picture.height * scale)))
    stream = io.BytesIO()
    picture.save(stream, format="WebP", quality=quality, method=2)
    return stream.getvalue()


def _data_url(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
