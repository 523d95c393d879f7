"""Finds the readable scans under a path, and says what is wrong with the rest."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from activemri.data.cache import FileFacts
from activemri.data.containers import Container
from activemri.data.formats.registry import containers, reader_for
from activemri.data.readers import READ_FAILURES, Reader, UnreadableError, Volume
from activemri.progress import track


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


def index_path(path: Path, readers: tuple[Reader, ...]) -> Index:
    """Index a file, or all files of the readers' formats under a folder, by their headers.

    What was found is cached by file size and modification time: the second time only changed
    files are opened.

    Raises:
        FileNotFoundError: if there is nothing at the path.
        UnreadableError: if there is nothing usable, with the first few reasons.
    """
    root, files = _find_files(path, containers(readers))
    cache = FileFacts(root, f"headers {readers}")
    entries: list[Entry] = []
    problems: list[Problem] = []
    try:
        for name in track(files, "index", unit="file"):
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


def _find_files(path: Path, kinds: Sequence[Container]) -> tuple[Path, list[str]]:
    if path.is_file():
        return path.parent, [path.name]
    if not path.is_dir():
        raise FileNotFoundError(f"expected a scan or a folder of scans; nothing is at {path}")
    files = sorted(
        (folder / name).relative_to(path).as_posix()
        for folder, names in _walk(path)
        for kind in kinds
        for name in kind.scans(folder, [name for name in names if kind.holds(name)])
    )
    if not files:
        raise UnreadableError(f"expected files ending in {_suffixes(kinds)} under {path}; got none")
    return path, files


def _suffixes(kinds: Sequence[Container]) -> str:
    *others, last = (suffix for kind in kinds for suffix in kind.suffixes)
    return f"{', '.join(others)} or {last}"


def _walk(path: Path) -> Iterator[tuple[Path, list[str]]]:
    """Every folder below a path with its files; links are followed, in circles only once."""
    seen: set[str] = set()
    for folder, below, names in os.walk(path, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        yield Path(folder), names


def _describe(
    root: Path, name: str, readers: tuple[Reader, ...], cache: FileFacts
) -> Entry | Problem:
    try:
        status = (root / name).stat()
    except OSError as error:
        return Problem(name, str(error))
    if (known := _from_json(name, cache.of(name, status), readers)) is not None:
        return known
    # Problems are not remembered: they may be gone with the next try or a newer reader.
    kind = next((kind for kind in containers(readers) if kind.holds(name)), None)
    if kind is None:
        return Problem(name, f"expected a name ending in {_suffixes(containers(readers))}")
    try:
        with kind.open(root / name) as file:
            reader = reader_for(file, [reader for reader in readers if reader.container == kind])
            volume = reader.describe(file)
    except UnreadableError as error:
        return Problem(name, str(error))
    except READ_FAILURES as error:
        return Problem(name, f"damaged or not {kind.name}: {error}")
    cache.keep(name, status, {"reader": reader.name, "volume": asdict(volume)})
    return Entry(name, reader, volume)


def _from_json(name: str, facts: dict[str, Any], readers: tuple[Reader, ...]) -> Entry | None:
    """What was remembered of a file; None if that is nothing, or of another version."""
    reader = next((reader for reader in readers if reader.name == facts.get("reader")), None)
    try:
        return None if reader is None else Entry(name, reader, _volume_from_json(facts["volume"]))
    except (KeyError, TypeError, AttributeError):
        return None


def _volume_from_json(fields: dict[str, Any]) -> Volume:
    pairs = {key: tuple(value) for key, value in fields.items() if isinstance(value, list)}
    return Volume(**(fields | pairs))


def _distinct_names(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """Put the folder into the name of volumes that would share it."""
    names = Counter(entry.volume.name for entry in entries)
    return tuple(
        replace(entry, volume=replace(entry.volume, name=entry.reader.container.stem(entry.file)))
        if names[entry.volume.name] > 1
        else entry
        for entry in entries
    )


def _first(problems: Sequence[Problem], count: int = 5) -> str:
    lines = [str(problem) for problem in problems[:count]]
    rest = len(problems) - count
    return "; ".join(lines) + (f"; and {rest} more" if rest > 0 else "")
