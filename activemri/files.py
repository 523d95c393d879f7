"""Files written completely or not at all, JSON, digests, locks: once for the whole package."""

import hashlib
import json
import os
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NEXT = ".next"  # ending of a file that is not written completely yet


def write_together(files: Mapping[Path, bytes]) -> None:
    """Write files beside the old ones, force them to disk, then rename one after the other.

    After an OSError those that were there before are intact.
    """
    written: list[Path] = []
    try:
        for path, content in files.items():
            written.append(path.with_name(path.name + NEXT))
            with written[-1].open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
    except OSError:
        for path in written:
            path.unlink(missing_ok=True)
        raise
    for path, complete in zip(files, written, strict=True):
        os.replace(complete, path)


def write(path: Path, content: bytes | str) -> None:
    """Replace one file, all or nothing. Text is UTF-8."""
    write_together({path: content.encode() if isinstance(content, str) else content})


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Path to write to instead of `path`, renamed to it when the block ends without an error.

    The folder is made if missing; after an error nothing is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(6)}{NEXT}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, content: object) -> None:
    """Replace a file with strict JSON (no NaN); what JSON does not know is written as text."""
    write(path, json.dumps(content, indent=2, allow_nan=False, default=str) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; a ValueError where it holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: expected JSON; {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} cannot be read: expected a JSON object")
    return content


def digest(content: bytes | str) -> str:
    """SHA-256 in hexadecimal digits."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def require_writable(folder: Path) -> None:
    """Refuse a folder that cannot be made or written by an OSError, without making it."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise OSError(f"the output folder {folder} cannot be written: {existing} is a file")
    if not os.access(existing, os.W_OK):
        raise OSError(f"the output folder {folder} cannot be written: no permission in {existing}")


def make_writable(folder: Path) -> None:
    """Make a folder, and refuse one that cannot be written by an OSError."""
    require_writable(folder)
    folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold a lock file during the block; a process that is killed lets go of it.

    Waits until no other process holds it, or else yields False where one does.
    """
    with path.open("ab") as file:
        yield _lock(file.fileno(), wait=wait)


if sys.platform == "win32":
    import msvcrt

    def _lock(handle: int, *, wait: bool) -> bool:
        try:
            msvcrt.locking(handle, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
else:
    import fcntl

    def _lock(handle: int, *, wait: bool) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        return True
