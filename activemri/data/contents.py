"""Marks of what scans consist of: results of other samples under the same names are told apart."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from activemri import files
from activemri.data.index import FileFacts
from activemri.data.slices import SliceDataset
from activemri.progress import Progress


def contents(
    dataset: SliceDataset, positions: Sequence[int], *, anew: bool = False
) -> dict[str, str]:
    """Marks of some scans by volume: of files their SHA-256, of all else a digest of its making.

    A file's is remembered by size and time of change, so that only new and changed files are read;
    `anew` reads all of them.
    """
    marks: dict[str, set[str]] = {}
    for position, mark in zip(positions, marks_of(dataset, positions, anew=anew), strict=True):
        marks.setdefault(dataset.describe(position).volume, set()).add(mark)
    return {volume: _joined(sorted(own)) for volume, own in marks.items()}


def marks_of(dataset: SliceDataset, positions: Sequence[int], *, anew: bool) -> list[str]:
    """A mark of every slice: what the data set knows by itself, or a digest of the samples."""
    known: Any = getattr(dataset, "marks", None)
    if known is not None:
        own: list[str] = known(positions, anew=anew)
        return own
    scans = (dataset[position] for position in positions)
    return [
        files.digest(b"".join(np.ascontiguousarray(v).tobytes() for v in (s.kspace, s.target)))
        for s in scans
    ]


def marks_of_files(
    root: Path, parts: Sequence[Sequence[Path]], facts: FileFacts, *, anew: bool
) -> list[str]:
    """A mark for each group of files below a root, from what is known or by reading them."""
    sizes = {path: path.stat() for group in parts for path in group}
    found: dict[Path, str] = {}
    with Progress("hash", sum(status.st_size for status in sizes.values()), unit="") as progress:
        for path, status in sizes.items():
            name = path.relative_to(root).as_posix()
            mark = None if anew else facts.of(name, status).get("sha256")
            if not isinstance(mark, str):
                with path.open("rb") as stream:
                    mark = files.digest_of(stream)
                facts.keep(name, status, {"sha256": mark})
            found[path] = mark
            progress(progress.at + status.st_size)
    facts.save()
    return [_joined([found[path] for path in group]) for group in parts]


def _joined(marks: Sequence[str]) -> str:
    return marks[0] if len(marks) == 1 else files.digest(" ".join(marks))
