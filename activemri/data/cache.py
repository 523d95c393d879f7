"""A folder of the user's with what took long to make and can be made again at any time.

It is `$ACTIVEMRI_CACHE`, by default the platform's folder for caches; set to nothing (or by
``--no-cache`` at the command line), nothing is kept. Losing it costs time alone: what is damaged
is made anew, and where nothing can be written all goes on without.
"""

import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from activemri.files import NEXT, digest, expanded, replacing

FOLDER, SIZE = "ACTIVEMRI_CACHE", "ACTIVEMRI_CACHE_GIB"  # environment variables
USUAL_GIB = 2.0
ABANDONED = 3600.0  # seconds until a file that was never finished is taken away

_NAMES = "names of arrays"

Arrays = Mapping[str, NDArray[Any]]

log = logging.getLogger(__name__)


def cached(kind: str, settings: object, make: Callable[[], Arrays]) -> Arrays:
    """The arrays that `make` gives, from the cache if it gave them before.

    Settings are compared by their ``repr``: they hold all that the arrays depend on, the version of
    the code among it. `kind` is a word for the file's name. When the cache has grown over
    `$ACTIVEMRI_CACHE_GIB` (by default 2), what was not used for longest is dropped.

    Raises:
        ValueError: if that is not a number of at least 0.
    """
    folder = cache_folder()
    if folder is None:
        return make()
    path = folder / "made" / f"{kind}-{digest(repr(settings))[:32]}.npz"
    try:
        with path.open("rb") as stream, np.load(stream) as file:  # checks the sums in the file
            arrays = {name: file[name] for name in file.files}
        if arrays.pop(_NAMES).tolist() != list(arrays):  # the list of members has no sum
            raise ValueError("arrays are missing")
        with suppress(OSError):  # read-only
            os.utime(path)
        return arrays
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        _pass_by(folder, error)
    except Exception as error:  # a damaged file may fail in any way
        log.warning("making anew what is damaged in the cache, %s: %s", path, error)
    arrays = dict(make())
    try:
        _keep(path, arrays)
    except OSError as error:
        _pass_by(folder, error)
    return arrays


def cache_folder() -> Path | None:
    """The folder, or None if nothing is to be kept."""
    own = os.environ.get(FOLDER)
    if own is not None:
        return expanded(own) if own else None
    if root := os.environ.get("XDG_CACHE_HOME"):
        return Path(root) / "activemri"
    if sys.platform == "win32" and (root := os.environ.get("LOCALAPPDATA")):
        return Path(root) / "activemri" / "Cache"
    try:
        home = Path.home()
    except RuntimeError:  # a user without a home
        return None
    return home / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "activemri"


_unchecked: dict[Path, int] = {}  # bytes that this process wrote since it looked at a folder's size


def _keep(path: Path, arrays: Arrays) -> None:
    limit, size = _limit(), sum(array.nbytes for array in arrays.values())
    if size > limit:
        return
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez(file, **arrays, **{_NAMES: np.array(list(arrays))})  # type: ignore[arg-type]  # they are no flag
    # Looking at every file takes milliseconds: at first, and when much has come since.
    folder = path.parent
    _unchecked[folder] = _unchecked.get(folder, limit) + size
    if _unchecked[folder] > limit // 32:
        _unchecked[folder] = 0
        _drop_oldest(folder, limit)


def _drop_oldest(folder: Path, limit: int) -> None:
    found = []
    for entry in os.scandir(folder):
        with suppress(OSError):  # another process took it away
            status = entry.stat()
            if not entry.name.endswith(NEXT):
                found.append((status.st_mtime, status.st_size, entry.path))
            elif time.time() - status.st_mtime > ABANDONED:
                os.unlink(entry.path)
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= limit:
            break
        with suppress(OSError):
            os.unlink(path)
        total -= size


def _limit() -> int:
    """Bytes that the cache may hold."""
    given = os.environ.get(SIZE, "")
    try:
        size = float(given or USUAL_GIB)
        if not 0 <= size < float("inf"):
            raise ValueError
    except ValueError:
        raise ValueError(f"{SIZE}: expected GiB, a number of at least 0; got {given!r}") from None
    return round(size * 2**30)


_passed_by: set[Path] = set()  # folders that a word was said about


def _pass_by(folder: Path, error: OSError) -> None:
    if folder not in _passed_by:
        _passed_by.add(folder)
        log.warning("working without the cache %s: %s", folder, error.strerror or error)
