"""Finds the readable scans under a path, and says what is wrong with the rest."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import h5py
from tqdm import tqdm

from activemri.data.cache import FileFacts
from activemri.data.readers import Reader, UnreadableError, Volume, reader_for
from activemri.data.slices import Slice
from activemri.data.standard import to_matrix
from activemri.data.stored import refuse_unusable

SUFFIXES = (".h5", ".hdf5")

#: What h5py raises for truncated, damaged or foreign files, and readers for unusable ones.
READ_FAILURES = (OSError, RuntimeError, KeyError, ValueError, TypeError)

Item = TypeVar("Item")


@dataclass(frozen=True)
class Problem:
    """A file, or a slice of a file, that is left out, and why."""

    file: str
    reason: str
    index: int | None = None

    def __str__(self) -> str:
        where = self.file if self.index is None else f"{self.file}, slice {self.index}"
        return f"{where}: {self.reason}"


@dataclass(frozen=True)
class Entry:
    """A file with a scan in it. `file` is relative to the index's root."""

    file: str
    reader: Reader
    volume: Volume


@dataclass(frozen=True)
class Index:
    """The scans under a path, known by their headers.

    Attributes:
        root: the folder (of the file, if the path was a file).
        entries: the readable files, sorted by name.
        problems: what is left out.
    """

    root: Path
    entries: tuple[Entry, ...]
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class Survey:
    """What reading all slices of a volume has shown.

    Attributes:
        volume_max: largest value of the target in the volume.
        usable: positions of the usable slices.
        problems: position and reason of each unusable slice.
        never_acquired: number of columns that were never acquired, the most in any slice.
    """

    volume_max: float
    usable: tuple[int, ...]
    problems: tuple[tuple[int, str], ...]
    never_acquired: int


def index_path(path: Path, readers: tuple[Reader, ...]) -> Index:
    """Index a file, or all HDF5 files under a folder, by their headers.

    What was found is cached by file size and modification time: the second time only changed
    files are opened.

    Raises:
        FileNotFoundError: if there is nothing at the path.
        UnreadableError: if there is nothing usable, with the first few reasons.
    """
    root, files = _find_files(path)
    cache = FileFacts(root, f"headers {readers}")
    entries: list[Entry] = []
    problems: list[Problem] = []
    try:
        for name in progress(files, "Indexing", unit="file"):
            match _describe(root, name, readers, cache):
                case Entry() as entry:
                    entries.append(entry)
                case problem:
                    problems.append(problem)
    finally:
        cache.save()
    if not entries:
        raise UnreadableError(f"nothing usable in {path}: {_first(problems)}")
    return Index(root, _distinct_names(entries), tuple(problems))


def survey(
    root: Path, entries: Sequence[Entry], *, matrix_size: tuple[int, int] | None = None
) -> list[Survey]:
    """Read every slice once, to find the unusable ones and each volume's largest value.

    Cached like the index, for each matrix size.
    """
    readers = sorted({repr(entry.reader) for entry in entries})
    cache = FileFacts(root, f"samples {readers} {matrix_size}")
    sizes = [(root / entry.file).stat().st_size for entry in entries]
    surveys: list[Survey] = []
    try:
        with tqdm(
            total=sum(sizes), desc="Checking", unit="B", unit_scale=True, delay=1, disable=None
        ) as bar:
            for entry, size in zip(entries, sizes, strict=True):
                surveys.append(_survey(root, entry, matrix_size, cache))
                bar.update(size)
    finally:
        cache.save()
    return surveys


def read_slice(
    file: h5py.File, entry: Entry, index: int, *, matrix_size: tuple[int, int] | None
) -> Slice:
    """A slice in the form asked for.

    Raises:
        UnreadableError: if it cannot be used.
    """
    scan = entry.reader.read(file, entry.volume, index)
    if matrix_size is not None:
        scan = to_matrix(scan, matrix_size)
    refuse_unusable(scan.target, "the reference")
    return scan


def progress(items: Sequence[Item], what: str, *, unit: str) -> Iterator[Item]:
    """The items, with a progress bar on a terminal if it takes more than a second."""
    yield from tqdm(items, desc=what, unit=unit, delay=1, disable=None)


def _find_files(path: Path) -> tuple[Path, list[str]]:
    if path.is_file():
        return path.parent, [path.name]
    if not path.is_dir():
        raise FileNotFoundError(f"expected an HDF5 file or a folder of them; nothing is at {path}")
    names = (
        os.path.relpath(os.path.join(folder, name), path)
        for folder, _, names in os.walk(path, followlinks=True)
        for name in names
        if name.lower().endswith(SUFFIXES) and not name.startswith(".")
    )
    files = sorted(Path(name).as_posix() for name in names)
    if not files:
        raise UnreadableError(
            f"expected files ending in {' or '.join(SUFFIXES)} under {path}; got none"
        )
    return path, files


def _describe(
    root: Path, name: str, readers: tuple[Reader, ...], cache: FileFacts
) -> Entry | Problem:
    try:
        status = (root / name).stat()
    except OSError as error:
        return Problem(name, str(error))
    facts = cache.of(name, status)
    if not facts:
        # Problems are not remembered: they may be gone with the next try or a newer reader.
        try:
            facts = _describe_anew(root / name, readers)
        except UnreadableError as error:
            return Problem(name, str(error))
        except READ_FAILURES as error:
            return Problem(name, f"damaged or not HDF5: {error}")
        cache.keep(name, status, facts)
    by_name = {reader.name: reader for reader in readers}
    return Entry(name, by_name[facts["reader"]], _volume_from_json(facts["volume"]))


def _describe_anew(path: Path, readers: tuple[Reader, ...]) -> dict[str, Any]:
    with h5py.File(path, "r") as file:
        reader = reader_for(file, readers)
        return {"reader": reader.name, "volume": asdict(reader.describe(file))}


def _volume_from_json(fields: dict[str, Any]) -> Volume:
    pairs = {key: tuple(value) for key, value in fields.items() if isinstance(value, list)}
    return Volume(**(fields | pairs))


def _distinct_names(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """Put the folder into the name of volumes that would share it."""
    names = Counter(entry.volume.name for entry in entries)
    return tuple(
        replace(entry, volume=replace(entry.volume, name=entry.file.rpartition(".")[0]))
        if names[entry.volume.name] > 1
        else entry
        for entry in entries
    )


def _survey(
    root: Path, entry: Entry, matrix_size: tuple[int, int] | None, cache: FileFacts
) -> Survey:
    status = (root / entry.file).stat()
    facts = cache.of(entry.file, status)
    if not facts:
        try:
            found, lasting = _survey_anew(root, entry, matrix_size)
        except READ_FAILURES as error:
            every = range(entry.volume.n_slices)
            return Survey(0.0, (), tuple((index, str(error)) for index in every), 0)
        if not lasting:
            return found
        facts = asdict(found)
        cache.keep(entry.file, status, facts)
    return Survey(
        volume_max=facts["volume_max"],
        usable=tuple(facts["usable"]),
        problems=tuple((index, reason) for index, reason in facts["problems"]),
        never_acquired=facts["never_acquired"],
    )


def _survey_anew(
    root: Path, entry: Entry, matrix_size: tuple[int, int] | None
) -> tuple[Survey, bool]:
    """The survey, and whether it would come out the same next time (no failed reads)."""
    largest, never_acquired, lasting = 0.0, 0, True
    usable: list[int] = []
    problems: list[tuple[int, str]] = []
    with h5py.File(root / entry.file, "r") as file:
        for index in range(entry.volume.n_slices):
            try:
                scan = read_slice(file, entry, index, matrix_size=matrix_size)
            except READ_FAILURES as error:
                problems.append((index, str(error)))
                lasting = lasting and isinstance(error, UnreadableError)
                continue
            usable.append(index)
            largest = max(largest, float(scan.target.max()))
            columns = scan.measured.any(dim=0)
            never_acquired = max(never_acquired, int((~columns).sum()))
    return Survey(largest, tuple(usable), tuple(problems), never_acquired), lasting


def _first(problems: Sequence[Problem], count: int = 5) -> str:
    lines = [str(problem) for problem in problems[:count]]
    rest = len(problems) - count
    return "; ".join(lines) + (f"; and {rest} more" if rest > 0 else "")
