"""One self-contained HTML page about a benchmark: tables, curves, an episode to scrub through.

The page loads nothing from elsewhere (its own content policy forbids it), follows the reader's
light or dark mode, and can be read on a phone. What it says comes from the lists of
:mod:`activemri.benchmark.statistics`; how it looks is in ``report.html`` beside this file.
"""

import base64
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import jinja2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from activemri.benchmark.curves import colours, metric_name
from activemri.benchmark.statistics import higher_is_better

Row = Mapping[str, object]

#: Metrics of the headline table, where the results have them; the others are folded away.
HEADLINE = ("ssim", "psnr", "nmse")

#: Size that all frames of the episodes may take together, before base64.
FRAME_BYTES = 3_500_000

_QUANTITIES = {"auc": "area", "final": "final"}
#: (quality, scale) of the frames: the first that fits into FRAME_BYTES.
_ENCODINGS = ((80, 1.0), (65, 1.0), (50, 1.0), (50, 0.75), (40, 0.6), (30, 0.5))


@dataclass(frozen=True, eq=False)
class ReportFigure:
    """A figure of the page.

    Attributes:
        title: its heading.
        svg: of :mod:`activemri.benchmark.curves`; put into the page as it is.
        caption: what to see in it.
        folded: True to show only the heading until it is opened.
    """

    title: str
    svg: str
    caption: str = ""
    folded: bool = False


@dataclass(frozen=True, eq=False)
class Episode:
    """How one policy acquired the example scan.

    Attributes:
        policy: its name.
        frames: one per step, the first before any action; uint8 (height, width, 3), see
            :func:`activemri.envs.rendering.draw`.
        scores: one per frame.
        score_name: e.g. "SSIM".
    """

    policy: str
    frames: Sequence[NDArray[np.uint8]]
    scores: Sequence[float]
    score_name: str


def write_report(
    path: Path,
    *,
    title: str,
    settings: Mapping[str, object],
    summary: Sequence[Row],
    comparisons: Sequence[Row] = (),
    by_contrast: Sequence[Row] = (),
    reach: Sequence[Row] = (),
    figures: Sequence[ReportFigure] = (),
    episodes: Sequence[Episode] = (),
    episode_title: str = "",
    gif: bytes | None = None,
    command: str = "",
    headline: Sequence[str] = HEADLINE,
    stopping: Mapping[str, object] | None = None,
    adaptivity: Mapping[str, object] | None = None,
) -> None:
    """Write the page. Arguments that are empty leave their section out.

    Args:
        path: file to write.
        title: heading of the page.
        settings: what was run, name to value; listed at the end.
        summary: of :func:`activemri.benchmark.statistics.summarise`.
        comparisons: of :func:`activemri.benchmark.statistics.compare`.
        by_contrast: of ``summarise(table, by=("contrast",))``; shown if there are several.
        reach: of :func:`activemri.benchmark.statistics.lines_to_reach`.
        figures: in order.
        episodes: the same scan by several policies.
        episode_title: which scan that is.
        gif: an animation, shown beside a note on how to save it.
        command: the command line that makes the results again.
        headline: metrics of the first tables.
        stopping: of :func:`activemri.benchmark.stopping_report.stopping_section`.
        adaptivity: of :func:`activemri.benchmark.adaptivity_report.adaptivity_section`.

    Raises:
        ValueError: the summary is empty.
        OSError: the file cannot be written.
    """
    if not summary:
        raise ValueError("a report needs at least one row of results; the summary is empty")
    contrasts = list(dict.fromkeys(str(row["contrast"]) for row in by_contrast))
    metrics = list(dict.fromkeys(str(row["metric"]) for row in summary))
    first = [metric for metric in headline if metric in metrics] or metrics[:3]
    bounds = {str(row["policy"]) for row in summary if row["bound"]}
    policies = list(dict.fromkeys(str(row["policy"]) for row in summary))
    page = _template().render(
        title=title,
        settings=settings,
        command=command,
        palette=colours(policies, bounds=bounds),
        subjects=sorted({_integer(row["n_subjects"]) for row in summary}),
        slices=sorted({_integer(row["n_slices"]) for row in summary}),
        coverage=_coverage(min(_integer(row["n_subjects"]) for row in summary)),
        tables=[result_table(summary, metric=metric) for metric in first],
        more_tables=[result_table(summary, metric=m) for m in metrics if m not in first],
        comparisons=[comparison_table(comparisons, metric=m) for m in first if comparisons],
        reference=comparisons[0]["reference"] if comparisons else "",
        contrast_tables=[
            result_table(
                [row for row in by_contrast if row["contrast"] == contrast],
                metric=first[0],
                heading=contrast,
            )
            for contrast in contrasts
            if len(contrasts) > 1
        ],
        reach=[_reach_row(row, bounds) for row in reach],
        figures=figures,
        episodes=_packed(episodes),
        episode_title=episode_title,
        gif=_data_url(gif, "image/gif") if gif else "",
        stopping=stopping,
        adaptivity=adaptivity,
    )
    Path(path).write_text(page, encoding="utf-8")


def result_table(summary: Sequence[Row], *, metric: str, heading: str = "") -> dict[str, object]:
    """What the page shows of a metric: policies down, area and final of each reconstructor across.

    The best competitor of each column is marked; bounds cannot be best.
    """
    rows = [row for row in summary if row["metric"] == metric]
    columns = [
        (metric, reconstructor, quantity)
        for reconstructor in dict.fromkeys(str(row["reconstructor"]) for row in rows)
        for quantity in _QUANTITIES
    ]
    by_key = {(r["policy"], r["metric"], r["reconstructor"]): r for r in rows}
    best = {column: _best(rows, column) for column in columns}
    bound = {str(row["policy"]): row["bound"] for row in rows}
    return {
        "heading": heading or metric_name(metric),
        "direction": f"{metric_name(metric)}, {direction(metric)}"
        if heading
        else direction(metric),
        "groups": list(dict.fromkeys(column[1] for column in columns)),
        "columns": [_QUANTITIES[column[2]] for column in columns],
        "rows": [
            {
                "policy": policy,
                "bound": bound[policy],
                "cells": [
                    _cell(by_key.get((policy, *column[:2])), column, policy in best[column])
                    for column in columns
                ],
            }
            for policy in bound
        ],
    }


def comparison_table(comparisons: Sequence[Row], *, metric: str) -> dict[str, object]:
    """What the page shows of the paired comparisons in one metric."""
    rows = [row for row in comparisons if row["metric"] == metric]
    keys = list(dict.fromkeys((str(r["reconstructor"]), str(r["policy"])) for r in rows))
    found = {(str(r["reconstructor"]), str(r["policy"]), r["quantity"]): r for r in rows}
    return {
        "heading": metric_name(metric),
        "direction": direction(metric),
        # Holm multiplies the smallest p by the number of policies it was picked from.
        "smallest": max((_number(row["p_smallest"]) for row in rows), default=0)
        * max(Counter(reconstructor for reconstructor, _ in keys).values(), default=1),
        "rows": [
            {
                "policy": policy,
                "reconstructor": reconstructor,
                "bound": found[(reconstructor, policy, "auc")]["bound"],
                "cells": [
                    _difference_cell(found[(reconstructor, policy, quantity)])
                    for quantity in _QUANTITIES
                ],
            }
            for reconstructor, policy in keys
        ],
    }


def direction(metric: str) -> str:
    """In words, with the unit where there is one."""
    words = "higher is better" if higher_is_better(metric) else "lower is better"
    return f"dB, {words}" if metric.startswith("psnr") else words


def formatted(value: object, metric: str, *, signed: bool = False) -> str:
    """A number with the digits that suit its metric, a dash for None."""
    if value is None:
        return "–"
    number = _number(value)
    sign = "+" if signed else ""
    kind = metric.removeprefix("roi_").split("_")[0]
    if kind in {"psnr", "ssim"}:
        return f"{number:{sign}.{2 if kind == 'psnr' else 4}f}".replace("-", "\u2212")
    return f"{number:{sign}#.3g}".rstrip(".").replace("-", "\u2212")


def _best(rows: Sequence[Row], column: tuple[str, str, str]) -> set[str]:
    metric, reconstructor, quantity = column
    scores = {
        str(row["policy"]): _number(row[quantity])
        for row in rows
        if (row["metric"], row["reconstructor"]) == (metric, reconstructor) and not row["bound"]
    }
    if len(scores) < 2:
        return set()
    top = (max if higher_is_better(metric) else min)(scores.values())
    return {policy for policy, score in scores.items() if score == top}


def _cell(row: Row | None, column: tuple[str, str, str], best: bool) -> dict[str, object]:
    metric, _, quantity = column
    if row is None:
        return {"value": "–", "interval": "", "best": False}
    value = formatted(row[quantity], metric)
    return {"value": value, "interval": _interval(row, f"{quantity}_", metric), "best": best}


def _difference_cell(row: Row) -> dict[str, object]:
    metric = str(row["metric"])
    cell: dict[str, object] = {
        "value": formatted(row["difference"], metric, signed=True),
        "interval": _interval(row, "", metric, signed=True),
    }
    if row["p_holm"] is None:  # a bound
        return cell | {"p": "–", "verdict": ""}
    p = _number(row["p_holm"])
    clear = p < 0.05 and row["better"] is not None
    return cell | {
        "p": "< 0.001" if p < 0.001 else f"{p:.3f}",
        "verdict": ("better" if row["better"] else "worse") if clear else "",
    }


def _interval(row: Row, prefix: str, metric: str, *, signed: bool = False) -> str:
    low, high = row[f"{prefix}lo"], row[f"{prefix}hi"]
    if low is None or high is None:
        return "no interval"
    return f"{formatted(low, metric, signed=signed)} to {formatted(high, metric, signed=signed)}"


def _reach_row(row: Row, bounds: set[str]) -> dict[str, object]:
    metric, share = str(row["metric"]), _number(row["share"])
    mean = f"{_number(row['mean_at_least']):.1f}"
    return {
        "policy": row["policy"],
        "reconstructor": row["reconstructor"],
        "bound": row["policy"] in bounds,
        "score": f"{metric_name(metric)} {formatted(row['score'], metric)}",
        "share": f"{100 * share:.0f} %",
        "median": "not reached" if row["median"] is None else f"{_number(row['median']):g}",
        "mean": mean if share == 1 else f"at least {mean}",
    }


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


def _template() -> jinja2.Template:
    text = resources.files("activemri.benchmark").joinpath("report.html").read_text("utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(text)


def _number(value: object) -> float:
    if not isinstance(value, int | float):
        raise TypeError(f"a result must be a number; got {value!r}")
    return float(value)


def _integer(value: object) -> int:
    return int(_number(value))
