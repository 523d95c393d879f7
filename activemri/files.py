"""Files written completely or not at all, JSON, digests, locks: once for the whole package."""

import csv
import errno
import hashlib
import json
import math
import os
import secrets
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

from activemri import __version__

NEXT = ".next"  # ending of a file that is not written completely yet
MOST_JSON = 256 << 20  # bytes
MARKER = "activemri.json"  # tells whose an output folder is
_FORMAT = 1  # of it
#: Files that do not make a folder taken, e.g. what a shell wrote a command's output to.
_NO_RESULTS = (".log", ".txt", ".out", ".err")
_JSON_WORDS: dict[type, str] = {
    dict: "an object", list: "a list", str: "text", bool: "true or false",
    int: "a whole number", float: "a number",
}  # fmt: skip


def write_together(files: Mapping[Path, bytes]) -> None:
    """Write files beside the old ones, force them to disk, then rename one after the other.

    Missing folders are made. After an OSError files that were there before are intact.
    """
    written: list[Path] = []
    try:
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            written.append(path.with_name(path.name + NEXT))
            with named(path, written[-1]), written[-1].open("wb") as stream:
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
        with named(path, partial):
            yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def named(path: Path, partial: Path) -> Iterator[None]:
    """Give errors of the system the name of a file that is being written: a full disk has none.

    Libraries for HDF5 and Parquet tell of one by text alone, the former at times by a RuntimeError.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        if (full := os.strerror(errno.ENOSPC)) in str(error):
            raise OSError(errno.ENOSPC, full, str(path)) from error
        if isinstance(error, OSError) and error.filename in (None, str(partial)):
            error.filename = str(path)
        raise


def expanded(path: str | Path) -> Path:
    """The path, where a leading ~ or ~USER stands for a home folder; a ValueError without one."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{path}: expected a user with a home folder after ~") from error


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


def read_csv(path: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Lines of a table with a header that names at least these columns: number, and its cells.

    Raises:
        ValueError: a column is missing, a line has too many cells, or it is no table of text.
        OSError: the file cannot be read.
    """
    lines: list[tuple[int, dict[str, str]]] = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file, restval="", strict=True)
            missing = [name for name in columns if name not in (rows.fieldnames or ())]
            if missing:
                raise ValueError(
                    f"expected the columns {', '.join(columns)}; {', '.join(missing)} missing"
                )
            for row in rows:
                if None in row:
                    raise ValueError(f"line {rows.line_num} has more cells than the header")
                lines.append((rows.line_num, row))
    except (csv.Error, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    return lines


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


def digest_of(stream: BufferedReader) -> str:
    """The same of all that a file holds."""
    return hashlib.file_digest(stream, "sha256").hexdigest()


def require_writable(folder: Path) -> None:
    """Refuse a folder that cannot be made or written by an OSError, without making it."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise OSError(f"the output folder {folder} cannot be written: {existing} is a file")
    if not os.access(existing, os.W_OK):
        raise OSError(f"the output folder {folder} cannot be written: no permission in {existing}")


def require_claimable(folder: Path, kind: str) -> bool:
    """Refuse a folder that :func:`claimed` would refuse, as one look shows it; makes nothing.

    Returns True if an earlier run of the same kind has claimed it.
    """
    require_writable(folder)
    marker = folder / MARKER
    if marker.exists():
        found = read_json(marker, {"kind": str, "format": int})
        if found["format"] > _FORMAT:
            raise ValueError(f"{folder} was written by a newer version of activemri; install it")
        if found["kind"] != kind:
            raise ValueError(
                f"{folder} holds results of 'activemri {found['kind']}', and those of "
                f"'activemri {kind}' need a folder of their own; choose another --out"
            )
        return True
    names = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    others = [n for n in names if not n.startswith(".") and not n.endswith((NEXT, *_NO_RESULTS))]
    if others:
        raise ValueError(
            f"{folder} holds files that 'activemri {kind}' has not made, e.g. {others[0]}; "
            "expected an empty or a new folder: choose another --out"
        )
    return False


@contextmanager
def claimed(
    folder: Path, kind: str, *, overwrite: Sequence[str] = (), shared: bool = False
) -> Iterator[None]:
    """Own an output folder during the block: no other process, and no other command, writes to it.

    A marker in the folder says which command it belongs to, by the command's name, its format and
    the version of the package. The folder is made if missing.

    Args:
        folder: where results go.
        kind: name of the command.
        overwrite: names, with wildcards, of what an earlier run of the same command left: deleted.
        shared: of a command whose processes write at the same time: wait for the one that has it,
            and leave what is unfinished to them. The block is then for what they do in turn.

    Raises:
        ValueError: it belongs to another command, holds files that none has made, or another
            process is writing to it.
        OSError: it cannot be written.
    """
    require_claimable(folder, kind)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock", wait=shared) as alone:
        if not alone:
            raise ValueError(
                f"another process is writing to {folder}; wait until it has ended, or choose "
                "another --out"
            )
        if not require_claimable(folder, kind):
            made = {"kind": kind, "format": _FORMAT, "version": __version__}
            write_json(folder / MARKER, made)
        unfinished = () if shared else (f"**/.*{NEXT}",)  # what killed processes left
        for path in [path for name in (*unfinished, *overwrite) for path in folder.glob(name)]:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        yield


def require_free(path: Path, *, overwrite: bool) -> None:
    """Refuse to write a file that is there already, or that cannot be written.

    Raises:
        ValueError: it is there, and shall not be overwritten, or is a folder.
        OSError: its folder cannot be made or written.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder; expected the name of a file to write")
    if path.exists() and not overwrite:
        raise ValueError(
            f"{path} is there already; add --overwrite to replace it, or choose another name"
        )
    require_writable(path.parent)


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
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            # A file system without locks: nothing tells that another process writes.
        return True
