"""Finds the readable scans under a path, and says what is wrong with the rest.

Facts about data files are found out once: one JSON file a data folder, in the user's cache folder
(data folders may be read-only), keyed by the files' names, sizes and modification times. Losing it
costs time alone: a bad cache is rebuilt, and where nothing can be written all goes on without.
"""

import hashlib
import json
import logging
import os
import time
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from activemri.data.cache import cache_folder
from activemri.data.formats.registry import reader_for
from activemri.data.isolation import Run, here
from activemri.data.readers import Container, Reader, UnreadableError, Volume, guarded
from activemri.files import digest, read_json, replacing
from activemri.progress import track

FORMAT = 5  # raise it when readers give other results for the same files
SAVE_INTERVAL = 5.0  # seconds; what an interruption may cost

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """A file with a scan in it; its name is relative to the index's root."""

    file: str
    reader: Reader
    volume: Volume


@dataclass(frozen=True)
class Index:
    """The scans under a path, known by their headers."""

    root: Path  # the folder, or that of the file
    entries: tuple[Entry, ...]  # sorted by name
    problems: Mapping[str, str]  # files that are left out, and the reasons


def index_path(path: Path, readers: tuple[Reader, ...], *, run: Run = here) -> Index:
    """Index a file, or all files of the readers' formats under a folder, by their headers.

    The second time only changed files are opened. `run` runs the functions that open them.

    Raises:
        FileNotFoundError: if there is nothing at the path.
        UnreadableError: if there is nothing usable, with the first few reasons.
    """
    kinds = list(dict.fromkeys(reader.container for reader in readers))
    problems: dict[str, str] = {}
    *others, last = (suffix for kind in kinds for suffix in kind.suffixes)
    suffixes = f"{', '.join(others)} or {last}"
    if path.is_dir():
        root, files = path, _scans_below(path, kinds, run, problems)
        if not files and not problems:
            raise UnreadableError(f"expected files ending in {suffixes} under {path}; got none")
    elif path.exists():
        root, files = path.parent, [path.name]
    else:
        raise FileNotFoundError(f"expected a scan or a folder of scans; nothing is at {path}")
    cache = FileFacts(root, f"headers {readers}")
    entries: list[Entry] = []
    try:
        for name in track(files, "index", unit="file"):
            kind = next((kind for kind in kinds if kind.holds(name)), None)
            try:
                if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
                    raise UnreadableError("expected a name in UTF-8, without control characters")
                if kind is None:
                    raise UnreadableError(f"expected a name ending in {suffixes}")
                suitable = [reader for reader in readers if reader.container == kind]
                entries.append(_describe(root, name, suitable, cache, run))
            except (UnreadableError, OSError) as error:
                # Problems are not cached: they may be gone with the next try or a newer reader.
                problems[name] = str(error)
    finally:
        cache.save()
    if not entries:
        first = [f"{name}: {reason}" for name, reason in problems.items()][:5]
        rest = [f"and {len(problems) - 5} more"] if len(problems) > 5 else []
        raise UnreadableError(f"nothing usable in {path}: {'; '.join(first + rest)}")
    # Volumes that would share a name get their folder into it.
    names = Counter(entry.volume.name for entry in entries)
    for place, entry in enumerate(entries):
        if names[entry.volume.name] > 1:
            name = entry.reader.container.stem(entry.file)
            entries[place] = replace(entry, volume=replace(entry.volume, name=name))
    return Index(root, tuple(entries), problems)


class FileFacts:
    """Cached facts about the files of one folder, forgotten when a file changes.

    Other `settings`, text that says how the facts were found out, have other facts.
    """

    def __init__(self, root: Path, settings: str) -> None:
        key = hashlib.blake2b(
            os.fsencode(f"{FORMAT}\n{root.resolve()}\n{settings}"), digest_size=12
        )
        folder = cache_folder()
        self.path = None if folder is None else folder / f"index-{key.hexdigest()}.json"
        self._files: dict[str, Any] = {}
        self._changed = False
        self._saved = time.monotonic()
        if self.path is None:
            return
        try:
            content = read_json(self.path, {"files": dict, "sum": str})
            if content["sum"] != digest(json.dumps(content["files"])):
                raise ValueError("it was changed by something else")
            self._files = content["files"]
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            log.warning("rebuilding the index cache %s: %s", self.path, error)

    def of(self, name: str, status: os.stat_result) -> dict[str, Any]:
        """Facts about a file in its present state: JSON values, empty if nothing is known."""
        known = self._files.get(name)
        if isinstance(known, dict) and known.get("state") == [status.st_size, status.st_mtime_ns]:
            return known["facts"] if isinstance(known.get("facts"), dict) else {}
        return {}

    def keep(self, name: str, status: os.stat_result, facts: dict[str, Any]) -> None:
        """Remember facts about a file; saved every few seconds."""
        self._files[name] = {"state": [status.st_size, status.st_mtime_ns], "facts": facts}
        self._changed = True
        if time.monotonic() - self._saved > SAVE_INTERVAL:
            self.save()

    def save(self) -> None:
        """Write to disk, all or nothing. An unwritable folder is logged, not an error."""
        if not self._changed or self.path is None:
            return
        try:
            with replacing(self.path) as partial:
                own = digest(json.dumps(self._files))
                content = json.dumps({"format": FORMAT, "sum": own, "files": self._files})
                partial.write_text(content, encoding="utf-8")
        except OSError as error:
            log.warning("working without an index cache: %s", error)
        self._changed = False
        self._saved = time.monotonic()


def _scans_below(
    root: Path, kinds: Sequence[Container], run: Run, problems: dict[str, str]
) -> list[str]:
    """Names of files, relative to the root; links are followed, in circles only once.

    Folders that cannot be listed are added to the problems.
    """

    def add(error: OSError) -> None:
        folder = Path(str(error.filename)).relative_to(root).as_posix()
        problems[folder] = f"the folder cannot be listed: {error.strerror}"

    seen: set[str] = set()
    files = []
    for folder, below, names in os.walk(root, onerror=add, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        for kind in kinds:
            held: Sequence[str] = [name for name in names if kind.holds(name)]
            try:
                found = run(kind.scans, Path(folder), held)
            except UnreadableError:  # opening each of them will say why
                found = held
            files += [(Path(folder) / name).relative_to(root).as_posix() for name in found]
    return sorted(files)


def _describe(
    root: Path, name: str, readers: Sequence[Reader], cache: FileFacts, run: Run
) -> Entry:
    """The scan in a file, as cached or read from its header, or UnreadableError or OSError."""
    status = (root / name).stat()
    facts = cache.of(name, status)
    for reader in readers:
        if reader.name == facts.get("reader"):
            with suppress(KeyError, TypeError, AttributeError):  # facts of another version
                fields = facts["volume"].items()
                lists = {key: tuple(value) for key, value in fields if isinstance(value, list)}
                return Entry(name, reader, Volume(**(facts["volume"] | lists)))
    reader, volume = run(_read_header, root / name, readers)
    cache.keep(name, status, {"reader": reader.name, "volume": asdict(volume)})
    return Entry(name, reader, volume)


def _read_header(path: Path, readers: Sequence[Reader]) -> tuple[Reader, Volume]:
    kind = readers[0].container
    with guarded(f"damaged or not {kind.name}: "), kind.open(path) as file:
        reader = reader_for(file, readers)
        return reader, reader.describe(file)
