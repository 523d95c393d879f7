"""A data-set card: what somebody must know before training on a data set, in Markdown.

`activemri data card PATH`
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from activemri.data.inspection import (
    Inspection,
    Row,
    grouped,
    inspect,
    problems,
    rows_of,
    shapes,
    span,
    usable,
)
from activemri.data.splits import usual_order
from activemri.tables import format_markdown

MAX_PROBLEMS = 30

MAGNITUDE_ONLY = (
    "{which} magnitude-only. The k-space of a real image is conjugate-symmetric: every line tells "
    "its mirror image, and half of all lines are free information. Such images are given a smooth "
    "synthetic phase and noise, seeded by file and slice, unless `synthetic_phase` is off. Do not "
    "compare results on them with results on complex data."
)

SIMULATED = (
    "{which} simulated in part ({what}), only the rest is of scans. Do not mix results on them "
    "with results on raw data."
)


@dataclass(frozen=True)
class CardSettings:
    """Write a data-set card in Markdown: subjects, contrasts, field strengths, splits, problems."""

    path: Positional[Path]
    """A folder of scans, or one file."""
    out: Annotated[Path | None, arg(metavar="PATH")] = None
    """File to write; None prints it."""
    split_file: Annotated[Path | None, arg(metavar="PATH")] = None
    """JSON or CSV file with the split of every subject."""


def write_card(settings: CardSettings) -> str:
    """Write the card of a folder; returns the card, or where it was written.

    Raises:
        FileNotFoundError: if there is nothing at the path.
        UnreadableError: if nothing is usable.
        ValueError: if the file to write is there already.
    """
    out = None if settings.out is None else settings.out.expanduser()
    if out is not None and out.exists():
        raise ValueError(f"{out} is there already; remove it, or choose another --out")
    card = format_card(inspect(settings.path, split_file=settings.split_file))
    if out is None:
        return card
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(card + "\n", encoding="utf-8")
    return str(out)


def format_card(inspection: Inspection) -> str:
    """The card of what was found under a path."""
    rows = rows_of(inspection)
    parts = [
        f"# {inspection.path.resolve().name}",
        _overview(inspection, rows),
        "## Splits\n\n" + _splits(inspection, rows),
        "## Contrasts\n\n" + _stratification(rows, "contrast", lambda r: r.entry.volume.contrast),
        "## Field strengths\n\n" + _stratification(rows, "tesla", _tesla),
        "## Scanners\n\n" + _stratification(rows, "scanner", lambda r: r.entry.volume.scanner),
        "## Before you train\n\n" + _advice(rows),
        "## Left out\n\n" + _left_out(inspection, rows),
    ]
    return "\n\n".join(parts)


def _overview(inspection: Inspection, rows: Sequence[Row]) -> str:
    volumes = [row.entry.volume for row in rows]
    size = sum((inspection.index.root / row.entry.file).stat().st_size for row in rows)
    lines = [
        ("subjects", f"{len({volume.subject for volume in volumes}):,}"),
        ("files", f"{len(rows):,} ({size / 1e6:,.1f} MB)"),
        ("usable slices", f"{usable(rows):,}"),
        ("formats", ", ".join(sorted({row.entry.reader.name for row in rows}))),
        ("height x width", shapes(volume.shape for volume in volumes)),
        ("reference", shapes(volume.target_shape for volume in volumes)),
        ("coils", span(volume.n_coils for volume in volumes)),
        ("never acquired", _never_acquired(rows)),
    ]
    return format_markdown(("", "all files"), lines)


def _never_acquired(rows: Sequence[Row]) -> str:
    """Share of columns that no scan can measure, the least and the most of a file."""
    shares = [row.survey.never_acquired / row.entry.volume.shape[1] for row in rows]
    least, most = min(shares), max(shares)
    return f"{least:.0%} of columns" if least == most else f"{least:.0%} to {most:.0%} of columns"


def _splits(inspection: Inspection, rows: Sequence[Row]) -> str:
    if inspection.split_problem is not None:
        return f"These contradict each other: {inspection.split_problem}"
    groups = grouped(rows, lambda row: row.split)
    lines = [
        (split, _n_subjects(groups[split]), len(groups[split]), usable(groups[split]))
        for split in sorted(groups, key=usual_order)
    ]
    return format_markdown(("split", "subjects", "files", "slices"), lines)


def _stratification(rows: Sequence[Row], name: str, label: Callable[[Row], str]) -> str:
    """Slices (and subjects) of every label in every split."""
    splits = sorted({row.split for row in rows}, key=usual_order)
    cells: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        cells[label(row), row.split].append(row)

    def cell(members: Sequence[Row]) -> str:
        return f"{usable(members):,} ({_n_subjects(members)})" if members else "-"

    lines = [
        (
            value,
            *(cell(cells.get((value, split), [])) for split in splits),
            cell([row for row in rows if label(row) == value]),
        )
        for value in sorted({label(row) for row in rows})
    ]
    table = format_markdown((name, *splits, "all"), lines)
    return f"Slices, with the number of subjects in brackets.\n\n{table}"


def _tesla(row: Row) -> str:
    strength = row.entry.volume.field_strength
    return "unknown" if strength is None else f"{strength:.3g}"


def _n_subjects(rows: Sequence[Row]) -> int:
    return len({row.entry.volume.subject for row in rows})


def _advice(rows: Sequence[Row]) -> str:
    points = []
    bare = [row for row in rows if row.entry.volume.magnitude_only]
    if bare:
        points.append(MAGNITUDE_ONLY.format(which=_files_are(len(bare), rows)))
    made = [row.entry.volume.simulated for row in rows if row.entry.volume.simulated is not None]
    if made:
        what = "; ".join(sorted({*made}))
        points.append(SIMULATED.format(which=_files_are(len(made), rows), what=what))
    padded = sum(row.survey.never_acquired > 0 for row in rows)
    if padded:
        points.append(
            f"Files with columns that the scanner never acquired: {padded} of {len(rows)}; "
            "no action can acquire them, and the reference lacks them too."
        )
    if len({row.entry.volume.shape for row in rows}) > 1:
        points.append(
            "Sizes differ. Give a matrix size to bring all scans to one, so that they share "
            "their actions."
        )
    unknown = sum(row.entry.volume.contrast == "unknown" for row in rows)
    if unknown:
        points.append(f"Files that name no contrast: {unknown} of {len(rows)}.")
    return "\n".join(f"- {point}" for point in points) or "Nothing special."


def _files_are(n: int, rows: Sequence[Row]) -> str:
    return f"{'All' if n == len(rows) else f'{n} of {len(rows)}'} files are"


def _left_out(inspection: Inspection, rows: Sequence[Row]) -> str:
    found, warnings = problems(inspection, rows)
    lines = [f"- {line}" for line in found] + [f"- Suspicious, but used: {w}" for w in warnings]
    rest = len(lines) - MAX_PROBLEMS
    shown = lines[:MAX_PROBLEMS] + ([f"- and {rest} more"] if rest > 0 else [])
    return "\n".join(shown) or "Nothing."
