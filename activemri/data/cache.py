"""What was found out about data files, kept on disk so that it is found out once.

One JSON file a data folder, in the user's cache folder (data folders may be read-only), keyed by
the files' names, sizes and modification times. Losing it costs time, never data: an unreadable
or foreign cache is rebuilt, and where nothing can be written all goes on without.
"""

import hashlib
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

from activemri.files import replacing

FORMAT = 3  # raise it when readers give other results for the same files
SAVE_INTERVAL = 5.0  # seconds; what an interruption may cost

log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """The platform's folder for caches: $XDG_CACHE_HOME, or what the system uses."""
    if root := os.environ.get("XDG_CACHE_HOME"):
        return Path(root) / "activemri"
    if sys.platform == "win32" and (root := os.environ.get("LOCALAPPDATA")):
        return Path(root) / "activemri" / "Cache"
    home = Path.home()
    return home / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "activemri"


class FileFacts:
    """Remembered facts about the files of one folder, forgotten when a file changes.

    Args:
        root: the data folder or file.
        settings: text that says how the facts were found out; other settings, other facts.
    """

    def __init__(self, root: Path, settings: str) -> None:
        key = hashlib.blake2b(f"{FORMAT}\n{root.resolve()}\n{settings}".encode(), digest_size=12)
        self.path = cache_folder() / f"index-{key.hexdigest()}.json"
        self._files = _load(self.path)
        self._changed = False
        self._saved = time.monotonic()

    def of(self, name: str, status: os.stat_result) -> dict[str, Any]:
        """Facts about a file in its present state: JSON values, empty if nothing is known."""
        known = self._files.get(name)
        if isinstance(known, dict) and known.get("state") == _state(status):
            facts = known.get("facts")
            if isinstance(facts, dict):
                return facts
        return {}

    def keep(self, name: str, status: os.stat_result, facts: dict[str, Any]) -> None:
        """Remember facts about a file; written to disk every few seconds and by :meth:`save`."""
        self._files[name] = {"state": _state(status), "facts": facts}
        self._changed = True
        if time.monotonic() - self._saved > SAVE_INTERVAL:
            self.save()

    def save(self) -> None:
        """Write to disk, all or nothing. An unwritable folder is logged, not an error."""
        if not self._changed:
            return
        try:
            with replacing(self.path) as partial:  # readers see the old file or the new one
                content = json.dumps({"format": FORMAT, "files": self._files})
                partial.write_text(content, encoding="utf-8")
        except OSError as error:
            log.warning("working without an index cache: %s", error)
        self._changed = False
        self._saved = time.monotonic()


def _state(status: os.stat_result) -> list[int]:
    return [status.st_size, status.st_mtime_ns]


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        files = content["files"]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError) as error:
        log.warning("rebuilding the index cache %s: %s", path, error)
        return {}
    return files if isinstance(files, dict) else {}
