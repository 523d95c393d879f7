"""The contents of a folder of scans, as text (`data inspect`) or as a Markdown card (`data card`).

The card tells what somebody must know before training on a data set.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

from tyro.conf import FlagCreatePairsOff, Positional, arg

from activemri.data.formats.registry import all_readers
from activemri.data.index import Entry, index_path
from activemri.data.splits import assign_splits, usual_order
from activemri.data.volumes import Survey, survey
from activemri.tables import format_markdown, format_table

MAX_FILES = 24  # more files than this are shown in groups
MAX_PROBLEMS = 12
MAX_PROBLEMS_OF_CARD = 30
SPLIT_HEADER = ("split", "subjects", "files", "slices")

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

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class InspectSettings:
    """List the files, subjects, shapes, contrasts, empty columns and problems of a data folder."""

    path: Positional[Path]
    """A folder of scans, or one file."""
    split_file: Annotated[Path | None, arg(metavar="PATH")] = None
    """JSON or CSV file with the split of every subject."""
    files: FlagCreatePairsOff[bool] = False
    """List every file with its subject, however many there are."""


@dataclass(frozen=True)
class CardSettings:
    """Write a data-set card in Markdown: subjects, contrasts, field strengths, splits, problems."""

    path: Positional[Path]
    """A folder of scans, or one file."""
    out: Annotated[Path | None, arg(metavar="PATH")] = None
    """Where to write; None prints it."""
    split_file: Annotated[Path | None, arg(metavar="PATH")] = None
    """JSON or CSV file with the split of every subject."""


@dataclass(frozen=True)
class Row:
    """A file, facts from reading it, its subject's split ("?" if they contradict), its bytes."""

    entry: Entry
    survey: Survey
    split: str
    n_bytes: int


@dataclass(frozen=True)
class Inspection:
    """Everything that was found under a path.

    Attributes:
        path: as it was asked for.
        rows: the readable files.
        problems: files and slices that are left out, a line each.
        warnings: suspicious files, a line each.
        split_problem: a contradiction between the splits, or None.
    """

    path: Path
    rows: list[Row]
    problems: list[str]
    warnings: list[str]
    split_problem: str | None


def inspect(path: str | Path, *, split_file: str | Path | None = None) -> Inspection:
    """Index a path and read all its samples once.

    Raises:
        FileNotFoundError: if there is nothing at the path.
        UnreadableError: if nothing is usable, with the first few reasons.
    """
    path = Path(path).expanduser()
    index = index_path(path, all_readers())
    surveys = survey(index.root, index.entries)
    splits: dict[str, str] = {}
    problems, split_problem = [], None
    try:
        listed = None if split_file is None else Path(split_file)
        splits = assign_splits(index.entries, index.root, split_file=listed)
    except ValueError as error:
        split_problem = str(error)
        problems.append(f"splits: {split_problem}")
    problems += [f"{file}: {reason}" for file, reason in index.problems.items()]
    rows, warnings = [], []
    for entry, found in zip(index.entries, surveys, strict=True):
        n_bytes = (index.root / entry.file).stat().st_size
        rows.append(Row(entry, found, splits.get(entry.volume.subject, "?"), n_bytes))
        for reason, members in grouped(found.problems, lambda problem: problem[1]).items():
            which = ", ".join(str(position) for position, _ in members[:8])
            more = f" and {len(members) - 8} more" if len(members) > 8 else ""
            noun = "slice" if len(members) == 1 else "slices"
            problems.append(f"{entry.file}, {noun} {which}{more}: {reason}")
        if found.warning is not None:
            warnings.append(f"{entry.file}: {found.warning}")
    return Inspection(path, rows, problems, warnings, split_problem)


def run_inspection(settings: InspectSettings) -> str:
    """`activemri data inspect`."""
    found = inspect(settings.path, split_file=settings.split_file)
    return format_inspection(found, files=settings.files)


def format_inspection(inspection: Inspection, *, files: bool = False) -> str:
    """A summary, the splits, the files, and the problems.

    Args:
        inspection: of a path.
        files: list every file with its subject; else many files are shown in groups.
    """
    rows = inspection.rows
    size = sum(row.n_bytes for row in rows) / 1e6
    counts = [
        count(len(rows), "file"),
        count(_n_subjects(rows), "subject"),
        count(usable(rows), "usable slice"),
        f"{size:,.0f} MB" if size >= 1 else f"{size * 1e3:,.0f} kB",
    ]
    parts = [
        f"{inspection.path}\n{', '.join(counts)}",
        format_table(SPLIT_HEADER, _split_lines(rows)),
    ]
    if files or len(rows) <= MAX_FILES:
        parts.append(_file_table(rows))
    else:
        hint = f"These are {len(rows):,} files in groups; --files lists every one with its subject."
        parts.append(f"{_group_table(rows)}\n{hint}")
    found, warnings = inspection.problems, inspection.warnings
    listed = [
        *_listed(f"{count(len(found), 'problem')}, left out:", found),
        *_listed(f"{count(len(warnings), 'warning')}:", warnings),
    ]
    return "\n\n".join([*parts, "\n".join(listed) or "No problems."])


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
    """The card of a folder, in Markdown."""
    rows = inspection.rows
    volumes = [row.entry.volume for row in rows]
    # Columns that no scan can measure, the least and the most of a file.
    shares = [row.survey.never_acquired / row.entry.volume.shape[1] for row in rows]
    least, most = f"{min(shares):.0%}", f"{max(shares):.0%}"
    overview = [
        ("subjects", f"{_n_subjects(rows):,}"),
        ("files", f"{len(rows):,} ({sum(row.n_bytes for row in rows) / 1e6:,.1f} MB)"),
        ("usable slices", f"{usable(rows):,}"),
        ("formats", ", ".join(sorted({row.entry.reader.name for row in rows}))),
        ("height x width", shapes(volume.shape for volume in volumes)),
        ("reference", shapes(volume.target_shape for volume in volumes)),
        ("coils", span(volume.n_coils for volume in volumes)),
        (
            "never acquired",
            f"{least if min(shares) == max(shares) else f'{least} to {most}'} of columns",
        ),
    ]
    splits = format_markdown(SPLIT_HEADER, _split_lines(rows))
    if inspection.split_problem is not None:
        splits = f"These contradict each other: {inspection.split_problem}"

    def tesla(row: Row) -> str:
        strength = row.entry.volume.field_strength
        return "unknown" if strength is None else f"{strength:.3g}"

    left_out = [f"- {line}" for line in inspection.problems]
    left_out += [f"- Suspicious, but used: {warning}" for warning in inspection.warnings]
    rest = len(left_out) - MAX_PROBLEMS_OF_CARD
    left_out = left_out[:MAX_PROBLEMS_OF_CARD] + ([f"- and {rest} more"] if rest > 0 else [])
    parts = [
        f"# {inspection.path.resolve().name}",
        format_markdown(("", "all files"), overview),
        "## Splits\n\n" + splits,
        "## Contrasts\n\n" + _stratification(rows, "contrast", lambda r: r.entry.volume.contrast),
        "## Field strengths\n\n" + _stratification(rows, "tesla", tesla),
        "## Scanners\n\n" + _stratification(rows, "scanner", lambda r: r.entry.volume.scanner),
        "## Before you train\n\n" + _advice(rows),
        "## Left out\n\n" + ("\n".join(left_out) or "Nothing."),
    ]
    return "\n\n".join(parts)


def _split_lines(rows: Sequence[Row]) -> list[tuple[str, int, int, int]]:
    """Subjects, files and usable slices of every split."""
    groups = grouped(rows, lambda row: row.split)
    return [
        (split, _n_subjects(groups[split]), len(groups[split]), usable(groups[split]))
        for split in sorted(groups, key=usual_order)
    ]


def _file_table(rows: Sequence[Row]) -> str:
    header = ("file", "subject", "split", "contrast", "slices", *_PROPERTIES)
    lines = []
    for row in rows:
        volume = row.entry.volume
        named = row.entry.file, volume.subject, row.split, volume.contrast
        lines.append((*named, len(row.survey.usable), *_properties([row])))
    return format_table(header, lines)


def _group_table(rows: Sequence[Row]) -> str:
    """One line for the files of one contrast, format, number of coils and kind."""

    def kind(row: Row) -> Hashable:
        volume = row.entry.volume
        made = volume.magnitude_only, volume.simulated
        return volume.contrast, row.entry.reader.name, volume.n_coils, made

    header = ("contrast", "files", "subjects", "slices", *_PROPERTIES)
    groups = list(grouped(rows, kind).values())
    groups.sort(key=lambda group: (group[0].entry.volume.contrast, -len(group)))
    lines = []
    for group in groups:
        counts = len(group), _n_subjects(group), usable(group)
        lines.append((group[0].entry.volume.contrast, *counts, *_properties(group)))
    return format_table(header, lines)


_PROPERTIES = ("height x width", "reference", "coils", "tesla", "empty columns", "kind")


def _properties(rows: Sequence[Row]) -> tuple[str, ...]:
    volumes = [row.entry.volume for row in rows]
    same_frame = all(volume.shape == volume.target_shape for volume in volumes)
    field_strengths = sorted({v.field_strength for v in volumes if v.field_strength is not None})
    magnitude = " (magnitude only)" if volumes[0].magnitude_only else ""
    simulated = f" (simulated {volumes[0].simulated})" if volumes[0].simulated else ""
    return (
        shapes(volume.shape for volume in volumes),
        "same" if same_frame else shapes(volume.target_shape for volume in volumes),
        span(volume.n_coils for volume in volumes),
        ", ".join(f"{tesla:.3g}" for tesla in field_strengths) or "-",
        span(row.survey.never_acquired for row in rows),
        rows[0].entry.reader.name + magnitude + simulated,
    )


def _stratification(rows: Sequence[Row], name: str, label: Callable[[Row], str]) -> str:
    """Slices (and subjects) of every label in every split."""
    splits = sorted({row.split for row in rows}, key=usual_order)
    cells = grouped(rows, lambda row: (label(row), row.split))

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


def _n_subjects(rows: Sequence[Row]) -> int:
    return len({row.entry.volume.subject for row in rows})


def _advice(rows: Sequence[Row]) -> str:

    def files_are(n: int) -> str:
        return f"{'All' if n == len(rows) else f'{n} of {len(rows)}'} files are"

    points = []
    bare = [row for row in rows if row.entry.volume.magnitude_only]
    if bare:
        points.append(MAGNITUDE_ONLY.format(which=files_are(len(bare))))
    made = [row.entry.volume.simulated for row in rows if row.entry.volume.simulated is not None]
    if made:
        what = "; ".join(sorted({*made}))
        points.append(SIMULATED.format(which=files_are(len(made)), what=what))
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


def _listed(title: str, lines: Sequence[str]) -> list[str]:
    if not lines:
        return []
    shown = [title, *(f"  {line}" for line in lines[:MAX_PROBLEMS])]
    rest = len(lines) - MAX_PROBLEMS
    return [*shown, f"  and {rest} more"] if rest > 0 else shown


def grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """Items of one key together, keys in the order of their first items."""
    groups: dict[Key, list[Item]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return groups


def usable(rows: Sequence[Row]) -> int:
    """Number of usable slices."""
    return sum(len(row.survey.usable) for row in rows)


def count(number: int, noun: str) -> str:
    """A number and its noun, e.g. 2 files."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def span(numbers: Iterable[int]) -> str:
    """Smallest and largest of some numbers, e.g. 3-5."""
    found = sorted(set(numbers))
    return str(found[0]) if len(found) == 1 else f"{found[0]}-{found[-1]}"


def shapes(sizes: Iterable[tuple[int, int]]) -> str:
    """Heights and widths, e.g. 8-10 x 12."""
    heights, widths = zip(*sizes, strict=True)
    return f"{span(heights)} x {span(widths)}"
