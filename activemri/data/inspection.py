"""What a folder of scans holds, as a text for people: `activemri data inspect PATH`."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

from tyro.conf import FlagCreatePairsOff, Positional, arg

from activemri.data.formats.registry import all_readers
from activemri.data.index import Entry, Index, index_path
from activemri.data.splits import assign_splits, usual_order
from activemri.data.survey import Survey, survey
from activemri.tables import format_table

MAX_FILES = 24  # more files than this are shown in groups
MAX_PROBLEMS = 12

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
class Inspection:
    """Everything that was found under a path.

    Attributes:
        path: as it was asked for.
        index: files and their headers.
        surveys: what reading all samples has shown, one an entry of the index.
        splits: subject -> split; empty if the splits contradict each other.
        split_problem: what is wrong with the splits, or None.
    """

    path: Path
    index: Index
    surveys: tuple[Survey, ...]
    splits: dict[str, str]
    split_problem: str | None


@dataclass(frozen=True)
class Row:
    """A file, what reading it has shown, and its subject's split ("?" if they contradict)."""

    entry: Entry
    survey: Survey
    split: str


def inspect(path: str | Path, *, split_file: str | Path | None = None) -> Inspection:
    """Index a path and read all its samples once.

    Raises:
        FileNotFoundError: if there is nothing at the path.
        UnreadableError: if nothing is usable, with the first few reasons.
    """
    path = Path(path).expanduser()
    index = index_path(path, all_readers())
    surveys = tuple(survey(index.root, index.entries))
    splits: dict[str, str] = {}
    split_problem = None
    try:
        splits = assign_splits(
            index.entries, index.root, split_file=None if split_file is None else Path(split_file)
        )
    except ValueError as error:
        split_problem = str(error)
    return Inspection(path, index, surveys, splits, split_problem)


def run_inspection(settings: InspectSettings) -> str:
    """`activemri data inspect`."""
    found = inspect(settings.path, split_file=settings.split_file)
    return format_inspection(found, files=settings.files)


def format_inspection(inspection: Inspection, *, files: bool = False) -> str:
    """A summary, the splits, the files, and the problems.

    Args:
        inspection: what was found.
        files: list every file with its subject; else many files are shown in groups.
    """
    rows = rows_of(inspection)
    parts = [_summary(inspection, rows), _split_table(rows)]
    if files or len(rows) <= MAX_FILES:
        parts.append(_file_table(rows))
    else:
        hint = f"These are {len(rows):,} files in groups; --files lists every one with its subject."
        parts.append(f"{_group_table(rows)}\n{hint}")
    return "\n\n".join([*parts, _problem_list(inspection, rows)])


def rows_of(inspection: Inspection) -> list[Row]:
    """One row a file."""
    return [
        Row(entry, found, inspection.splits.get(entry.volume.subject, "?"))
        for entry, found in zip(inspection.index.entries, inspection.surveys, strict=True)
    ]


def _summary(inspection: Inspection, rows: Sequence[Row]) -> str:
    size = sum((inspection.index.root / row.entry.file).stat().st_size for row in rows) / 1e6
    subjects = {row.entry.volume.subject for row in rows}
    counts = [
        count(len(rows), "file"),
        count(len(subjects), "subject"),
        count(usable(rows), "usable slice"),
        f"{size:,.0f} MB" if size >= 1 else f"{size * 1e3:,.0f} kB",
    ]
    return f"{inspection.path}\n{', '.join(counts)}"


def _split_table(rows: Sequence[Row]) -> str:
    groups = grouped(rows, lambda row: row.split)
    lines = [
        (
            split,
            len({row.entry.volume.subject for row in groups[split]}),
            len(groups[split]),
            usable(groups[split]),
        )
        for split in sorted(groups, key=usual_order)
    ]
    return format_table(("split", "subjects", "files", "slices"), lines)


def _file_table(rows: Sequence[Row]) -> str:
    header = ("file", "subject", "split", "contrast", "slices", *_PROPERTIES)
    lines = [
        (
            row.entry.file,
            row.entry.volume.subject,
            row.split,
            row.entry.volume.contrast,
            len(row.survey.usable),
            *_properties([row]),
        )
        for row in rows
    ]
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
    lines = [
        (
            group[0].entry.volume.contrast,
            len(group),
            len({row.entry.volume.subject for row in group}),
            usable(group),
            *_properties(group),
        )
        for group in groups
    ]
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


def problems(inspection: Inspection, rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    """What is left out, and what is suspicious, a line each."""
    found = [str(problem) for problem in inspection.index.problems]
    for row in rows:
        for reason, indices in grouped(row.survey.problems, lambda problem: problem[1]).items():
            which = ", ".join(str(index) for index, _ in indices[:8])
            more = f" and {len(indices) - 8} more" if len(indices) > 8 else ""
            noun = "slice" if len(indices) == 1 else "slices"
            found.append(f"{row.entry.file}, {noun} {which}{more}: {reason}")
    if inspection.split_problem is not None:
        found.insert(0, f"splits: {inspection.split_problem}")
    warnings = [
        f"{row.entry.file}: {row.survey.warning}" for row in rows if row.survey.warning is not None
    ]
    return found, warnings


def _problem_list(inspection: Inspection, rows: Sequence[Row]) -> str:
    found, warnings = problems(inspection, rows)
    if not found and not warnings:
        return "No problems."
    left_out = _listed(f"{count(len(found), 'problem')}, left out:", found)
    return "\n".join([*left_out, *_listed(f"{count(len(warnings), 'warning')}:", warnings)])


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
