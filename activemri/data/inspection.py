"""The contents of a folder of scans, as text (`data inspect`) or as a Markdown card (`data card`).

The card tells what somebody must know before training on a data set.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional, arg

from activemri import files
from activemri.data.formats.registry import all_readers
from activemri.data.index import Entry, index_path
from activemri.data.isolation import Isolation
from activemri.data.readers import one_line
from activemri.data.splits import assign_splits, read_split_file, usual_order
from activemri.data.volumes import Survey, survey
from activemri.tables import Table

MAX_FILES = 24  # more files than this are shown in groups
MAX_PROBLEMS = 12
MAX_PROBLEMS_OF_CARD = 30
SPLIT_HEADER = ("split", "subjects", "files", "slices")
PROPERTIES = ("slices", "height x width", "reference", "coils", "tesla", "empty columns", "kind")

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
    isolation: OmitArgPrefixes[Isolation] = Isolation()


@dataclass(frozen=True)
class CardSettings:
    """Write a data-set card in Markdown: subjects, contrasts, field strengths, splits, problems."""

    path: Positional[Path]
    """A folder of scans, or one file."""
    out: Annotated[Path | None, arg(metavar="PATH")] = None
    """Where to write; None prints it."""
    overwrite: FlagCreatePairsOff[bool] = False
    """Replace the file where it is there already."""
    split_file: Annotated[Path | None, arg(metavar="PATH")] = None
    """JSON or CSV file with the split of every subject."""
    isolation: OmitArgPrefixes[Isolation] = Isolation()


@dataclass(frozen=True)
class Row:
    """A file, facts from reading it, its subject's split ("?" if they contradict), its bytes."""

    entry: Entry
    survey: Survey
    split: str
    n_bytes: int


def inspect(
    path: Path, split_file: Path | None, isolation: Isolation
) -> tuple[list[Row], list[str], str | None]:
    """Index a path and read all its samples once.

    Gives the readable files, a line for all that is left out, and a contradiction between splits.

    Raises:
        FileNotFoundError: if there is nothing at the path.
        UnreadableError: if nothing is usable, with the first few reasons.
        ValueError: a split file is given that cannot be read.
    """
    split_file = None if split_file is None else files.expanded(split_file)
    if split_file is not None:  # at once, and not after all samples
        read_split_file(split_file)
    with isolation.reading() as run:
        index = index_path(files.expanded(path), all_readers(), run=run)
        surveys = survey(index.root, index.entries, run=run)
    splits: dict[str, str] = {}
    problems, split_problem = [], None
    try:
        splits = assign_splits(index.entries, index.root, split_file=split_file)
    except ValueError as error:
        split_problem = str(error)
        problems.append(f"splits: {split_problem}")
    problems += [one_line(f"{file}: {reason}") for file, reason in index.problems.items()]
    rows = []
    for entry, found in zip(index.entries, surveys, strict=True):
        n_bytes = (index.root / entry.file).stat().st_size
        rows.append(Row(entry, found, splits.get(entry.volume.subject, "?"), n_bytes))
        for reason, members in _grouped(found.problems, lambda problem: problem[1]).items():
            which = ", ".join(str(position) for position, _ in members[:8])
            more = f" and {len(members) - 8} more" if len(members) > 8 else ""
            noun = "slice" if len(members) == 1 else "slices"
            problems.append(f"{entry.file}, {noun} {which}{more}: {reason}")
    return rows, problems, split_problem


def run_inspection(settings: InspectSettings) -> str:
    """`activemri data inspect`: a summary, the splits, the files, and the problems."""
    rows, problems, _ = inspect(settings.path, settings.split_file, settings.isolation)
    n_subjects, n_files, n_slices = _counts(rows)
    size = sum(row.n_bytes for row in rows) / 1e6
    counts = [
        _plural(n_files, "file"),
        _plural(n_subjects, "subject"),
        _plural(n_slices, "usable slice"),
        f"{size:,.0f} MB" if size >= 1 else f"{size * 1e3:,.0f} kB",
    ]
    if settings.files or n_files <= MAX_FILES:
        names: tuple[str, ...] = ("file", "subject", "split", "contrast")
        groups, hint = [[row] for row in rows], ""
    else:  # one line for the files of one contrast, format, number of coils and kind
        names = ("contrast", "files", "subjects")
        alike = _grouped(
            rows, lambda r: (r.entry.volume.contrast, _kind(r), r.entry.volume.n_coils)
        )
        groups = sorted(alike.values(), key=lambda g: (g[0].entry.volume.contrast, -len(g)))
        hint = f"\nThese are {n_files:,} files in groups; --files lists every one with its subject."
    lines: list[tuple[object, ...]] = []
    for group in groups:
        n_subjects, n_files, n_slices = _counts(group)
        first, volumes = group[0], [row.entry.volume for row in group]
        same_frame = all(volume.shape == volume.target_shape for volume in volumes)
        tesla = sorted({v.field_strength for v in volumes if v.field_strength is not None})
        cells: tuple[object, ...] = (volumes[0].contrast, n_files, n_subjects)
        if not hint:
            cells = (first.entry.file, volumes[0].subject, first.split, volumes[0].contrast)
        properties = (
            n_slices,
            _shapes(volume.shape for volume in volumes),
            "same" if same_frame else _shapes(volume.target_shape for volume in volumes),
            _span(volume.n_coils for volume in volumes),
            ", ".join(f"{strength:.3g}" for strength in tesla) or "-",
            _span(row.survey.never_acquired for row in group),
            _kind(first),
        )
        lines.append((*cells, *properties))
    listed = []
    for noun, found in (("problem", problems), ("warning", _warnings(rows))):
        if found:
            left_out = ", left out" if noun == "problem" else ""
            listed.append(f"{_plural(len(found), noun)}{left_out}:")
            listed += [f"  {line}" for line in _cut_short(found, MAX_PROBLEMS)]
    parts = [
        f"{files.expanded(settings.path)}\n{', '.join(counts)}",
        Table(SPLIT_HEADER, _split_lines(rows)).text(),
        Table((*names, *PROPERTIES), lines).text() + hint,
        "\n".join(listed) or "No problems.",
    ]
    return "\n\n".join(parts)


def write_card(settings: CardSettings) -> str:
    """Write the card of a folder, and give the card or where it is; errors as of :func:`inspect`.

    Raises:
        ValueError: if the file to write is there already.
    """
    out = None if settings.out is None else files.expanded(settings.out)
    if out is not None:
        files.require_free(out, overwrite=settings.overwrite)
    rows, problems, split_problem = inspect(settings.path, settings.split_file, settings.isolation)
    volumes = [row.entry.volume for row in rows]
    n_subjects, n_files, n_slices = _counts(rows)
    # Columns that no scan can measure, the least and the most of a file.
    shares = [row.survey.never_acquired / row.entry.volume.shape[1] for row in rows]
    least, most = f"{min(shares):.0%}", f"{max(shares):.0%}"
    padded = least if min(shares) == max(shares) else f"{least} to {most}"
    overview = [
        ("subjects", f"{n_subjects:,}"),
        ("files", f"{n_files:,} ({sum(row.n_bytes for row in rows) / 1e6:,.1f} MB)"),
        ("usable slices", f"{n_slices:,}"),
        ("formats", ", ".join(sorted({row.entry.reader.name for row in rows}))),
        ("height x width", _shapes(volume.shape for volume in volumes)),
        ("reference", _shapes(volume.target_shape for volume in volumes)),
        ("coils", _span(volume.n_coils for volume in volumes)),
        ("never acquired", f"{padded} of columns"),
    ]
    splits = Table(SPLIT_HEADER, _split_lines(rows)).markdown()
    if split_problem is not None:
        splits = f"These contradict each other: {split_problem}"

    def tesla(row: Row) -> str:
        strength = row.entry.volume.field_strength
        return "unknown" if strength is None else f"{strength:.3g}"

    left_out = [*problems, *(f"Suspicious, but used: {each}" for each in _warnings(rows))]
    left_out = [f"- {line}" for line in _cut_short(left_out, MAX_PROBLEMS_OF_CARD)]
    parts = [
        f"# {files.expanded(settings.path).resolve().name}",
        Table(("", "all files"), overview).markdown(),
        "## Splits\n\n" + splits,
        "## Contrasts\n\n" + _stratification(rows, "contrast", lambda r: r.entry.volume.contrast),
        "## Field strengths\n\n" + _stratification(rows, "tesla", tesla),
        "## Scanners\n\n" + _stratification(rows, "scanner", lambda r: r.entry.volume.scanner),
        "## Phase\n\n" + _stratification(rows, "phase", lambda r: r.entry.volume.phase),
        "## Before you train\n\n" + _advice(rows),
        "## Left out\n\n" + ("\n".join(left_out) or "Nothing."),
    ]
    card = "\n\n".join(parts)
    if out is None:
        return card
    files.write(out, card + "\n")
    return str(out)


def _kind(row: Row) -> str:
    volume = row.entry.volume
    simulated = f" (simulated {volume.simulated})" if volume.simulated else ""
    return f"{row.entry.reader.name} ({volume.phase}){simulated}"


def _split_lines(rows: Sequence[Row]) -> list[tuple[str, int, int, int]]:
    groups = _grouped(rows, lambda row: row.split)
    return [(split, *_counts(groups[split])) for split in sorted(groups, key=usual_order)]


def _stratification(rows: Sequence[Row], name: str, label: Callable[[Row], str]) -> str:
    """Slices (and subjects) of every label in every split."""
    splits = sorted({row.split for row in rows}, key=usual_order)
    lines = []
    for value, members in sorted(_grouped(rows, label).items()):
        cells = []
        for chosen in [*([row for row in members if row.split == s] for s in splits), members]:
            n_subjects, _, n_slices = _counts(chosen)
            cells.append(f"{n_slices:,} ({n_subjects})" if chosen else "-")
        lines.append((value, *cells))
    table = Table((name, *splits, "all"), lines).markdown()
    return f"Slices, with the number of subjects in brackets.\n\n{table}"


def _advice(rows: Sequence[Row]) -> str:
    def files_are(n: int) -> str:
        return f"{'All' if n == len(rows) else f'{n} of {len(rows)}'} files are"

    points = []
    volumes = [row.entry.volume for row in rows]
    if n_bare := sum(volume.magnitude_only for volume in volumes):
        points.append(
            f"{files_are(n_bare)} magnitude-only. The k-space of a real image is "
            "conjugate-symmetric: every line tells its mirror image, and half of all lines are "
            "free information. Such images are given a smooth synthetic phase and noise, seeded by "
            "file and slice, unless `synthetic_phase` is off. Do not compare results on them with "
            "results on complex data."
        )
    if made := [volume.simulated for volume in volumes if volume.simulated is not None]:
        points.append(
            f"{files_are(len(made))} simulated in part ({'; '.join(sorted({*made}))}), only the "
            "rest is of scans. Do not mix results on them with results on raw data."
        )
    if n_padded := sum(row.survey.never_acquired > 0 for row in rows):
        points.append(
            f"Files with columns that the scanner never acquired: {n_padded} of {len(rows)}; "
            "no action can acquire them, and the reference lacks them too."
        )
    if len({volume.shape for volume in volumes}) > 1:
        points.append(
            "Sizes differ. Give a matrix size to bring all scans to one, so that they share "
            "their actions."
        )
    if n_unknown := sum(volume.contrast == "unknown" for volume in volumes):
        points.append(f"Files that name no contrast: {n_unknown} of {len(rows)}.")
    return "\n".join(f"- {point}" for point in points) or "Nothing special."


def _counts(rows: Sequence[Row]) -> tuple[int, int, int]:
    """Numbers of subjects, files and usable slices."""
    subjects = {row.entry.volume.subject for row in rows}
    return len(subjects), len(rows), sum(len(row.survey.usable) for row in rows)


def _warnings(rows: Sequence[Row]) -> list[str]:
    """Suspicious files, a line each."""
    return [f"{row.entry.file}: {row.survey.warning}" for row in rows if row.survey.warning]


def _grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """Items of one key together, keys in the order of their first items."""
    groups: dict[Key, list[Item]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return groups


def _cut_short(lines: Sequence[str], most: int) -> list[str]:
    return [*lines[:most], *([f"and {len(lines) - most} more"] if len(lines) > most else [])]


def _plural(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _span(numbers: Iterable[int]) -> str:
    """Smallest and largest of some numbers, e.g. 3-5."""
    found = sorted(set(numbers))
    return str(found[0]) if len(found) == 1 else f"{found[0]}-{found[-1]}"


def _shapes(sizes: Iterable[tuple[int, int]]) -> str:
    """Heights and widths, e.g. 8-10 x 12."""
    heights, widths = zip(*sizes, strict=True)
    return f"{_span(heights)} x {_span(widths)}"
