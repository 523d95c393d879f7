"""Files written completely or not at all, JSON, digests, locks: once for the whole package."""

import hashlib
import json
import math
import os
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NEXT = ".next"  # ending of a file that is not written completely yet
MOST_JSON = 256 << 20  # bytes
_JSON_WORDS: dict[type, str] = {
    dict: "an object", list: "a list", str: "text", bool: "true or false",
    int: "a whole number", float: "a number",
}  # fmt: skip


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
    """Replace a file with :func:`json_text`."""
    write(path, json_text(content, indent=2) + "\n")


def json_text(content: object, *, indent: int | None = None) -> str:
    """Strict JSON: arrays as lists, NaN and infinities as null, what JSON does not know as text."""
    return json.dumps(_plain(content), indent=indent, allow_nan=False, default=str)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):  # arrays and numbers of numpy
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path, fields: Mapping[str, type] | None = None) -> dict[str, Any]:
    """The object in a JSON file that holds certain fields of certain types.

    Raises:
        ValueError: see :func:`parse_json`.
        OSError: the file cannot be read.
    """
    if path.stat().st_size > MOST_JSON:
        raise ValueError(
            f"{path} cannot be read: expected at most {MOST_JSON >> 20} MiB of JSON; got "
            f"{path.stat().st_size >> 20}"
        )
    content = parse_json(path.read_bytes(), str(path))
    if not isinstance(content, dict):
        raise ValueError(f"{path} cannot be read: expected a JSON object; got {_kind(content)}")
    for name, kind in (fields or {}).items():
        value = content.get(name)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            found = "none" if name not in content else _kind(value)
            raise ValueError(
                f"{path} cannot be read: expected {name!r} to be {_JSON_WORDS[kind]}; got {found}"
            )
    return content


def parse_json(text: bytes | str, what: str, *, pairs: bool = False) -> Any:
    """Strict JSON from anywhere; with `pairs` objects are lists of their entries.

    Raises:
        ValueError: no JSON, nested too deeply, or with a number that is not finite or that 64 bits
            cannot hold; the message begins with `what`.
    """
    try:
        return json.loads(
            text.decode("utf-8-sig") if isinstance(text, bytes) else text,
            parse_constant=_refuse_number,
            parse_float=_finite,
            parse_int=_whole,
            object_pairs_hook=list if pairs else None,
        )
    except RecursionError:
        raise ValueError(f"{what} cannot be read: its JSON is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{what} cannot be read: expected JSON; {error}") from error


def _refuse_number(text: str) -> Any:
    raise ValueError(f"{text[:20]} is no number that can be used")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse_number(text)


def _whole(text: str) -> int:
    return int(text) if len(text) < 20 and abs(int(text)) < 1 << 63 else _refuse_number(text)


def _kind(value: object) -> str:
    return _JSON_WORDS.get(type(value), "nothing")


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
