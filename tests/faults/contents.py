"""Contents of a folder of results, so that two of them can be compared: without times."""

import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from activemri.files import NEXT, digest

#: Entries of files that tell how long something took.
TIMES = ("seconds", "duration", "seconds_of_training")

_NOT_RESULTS = ("lock", ".lock", "study.log")


def contents(folder: Path) -> dict[str, Any]:
    """Contents of finished files by name, without locks and journals."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not is_left_over(path) and path.name not in _NOT_RESULTS:
            found[name] = content(path)
    return found


def left_over(folder: Path) -> list[str]:
    """Files that were never finished; caches may hold some for an hour."""
    names = (
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if is_left_over(path)
    )
    return sorted(name for name in names if not name.startswith("cache/"))


def is_left_over(path: Path) -> bool:
    return path.name.endswith((NEXT, ".partial"))


def differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Names of files that are not the same, and what is wrong."""
    wrong = [f"{name} is missing" for name in expected if name not in found]
    wrong += [f"{name} is there as well" for name in found if name not in expected]
    wrong += [
        f"{name} differs" for name in expected if name in found and found[name] != expected[name]
    ]
    return wrong


def content(path: Path) -> Any:
    """Contents of a file in a form that can be compared."""
    read = _READERS.get(path.suffix)
    try:
        return digest(path.read_bytes()) if read is None else read(path)
    except Exception as error:  # a damaged file may fail in any way
        return f"damaged: {error!r}"


def _json(path: Path) -> Any:
    return _timeless(json.loads(path.read_text(encoding="utf-8")))


def _lines(path: Path) -> Any:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [_timeless(json.loads(line)) for line in lines]


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _timeless(one) for name, one in value.items() if name not in TIMES}
    return [_timeless(one) for one in value] if isinstance(value, list) else value


def _html(path: Path) -> str:
    """Text without the time of day and the command, which may have been another one at last."""
    text = path.read_text(encoding="utf-8")
    return re.sub(r"\d{4}-\d\d-\d\d[ T][\d:]+|activemri [^<]*", "", text)


def _torch(path: Path) -> Any:
    import torch

    return _plain(torch.load(io.BytesIO(path.read_bytes()), weights_only=True))


def _plain(value: Any) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), digest(value.contiguous().numpy().tobytes())
    if isinstance(value, dict):
        return {str(name): _plain(one) for name, one in value.items() if name not in TIMES}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else repr(value)


def _parquet(path: Path) -> Any:
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path)
    return str(table.schema.metadata), table.to_pydict()


def _hdf5(path: Path) -> Any:
    import h5py

    found: dict[str, Any] = {}
    with h5py.File(path, "r") as file:
        found[""] = {name: repr(value) for name, value in file.attrs.items()}
        for name, data in file.items():
            found[name] = str(data.dtype), data.shape, digest(data[()].tobytes())
    return found


_READERS = {
    ".json": _json,
    ".jsonl": _lines,
    ".html": _html,
    ".pt": _torch,
    ".parquet": _parquet,
    ".h5": _hdf5,
}
