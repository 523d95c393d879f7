"""Kinds of files that scans come in, and how to open them. Layouts within them have readers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py


def every_file(folder: Path, names: Sequence[str]) -> list[str]:
    """Every file is a scan of its own."""
    return list(names)


@dataclass(frozen=True)
class Container:
    """One kind of file.

    Attributes:
        name: as users call it.
        suffixes: how names of such files end, in lower case and with the dot.
        open: opens a file for reading. What it returns is a context manager with a method
            `close`, and is handed to the readers of this kind. Raises
            :class:`activemri.data.readers.UnreadableError` or OSError.
        scans: given a folder and the names of its files of this kind, those that stand for a
            scan, where a scan has several files. Failures to read belong to `open`, not here.
    """

    name: str
    suffixes: tuple[str, ...]
    open: Callable[[Path], Any]
    scans: Callable[[Path, Sequence[str]], list[str]] = every_file

    def holds(self, name: str) -> bool:
        """Whether a file of this name is of this kind."""
        return name.lower().endswith(self.suffixes) and not name.startswith(".")

    def stem(self, name: str) -> str:
        """A file's name without its suffix; folders stay."""
        ending = max((end for end in self.suffixes if name.lower().endswith(end)), key=len)
        return name[: -len(ending)]


def _open_hdf5(path: Path) -> h5py.File:
    return h5py.File(path, "r")


#: MATLAB's files are HDF5 from version 7.3 on, ISMRMRD's (.mrd) always.
HDF5 = Container("HDF5", (".h5", ".hdf5", ".mrd", ".mat"), _open_hdf5)
