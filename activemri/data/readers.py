"""Kinds of files that scans come in, and the contract of a reader of one layout within them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import h5py
from torch import Tensor

from activemri.data.slices import Slice, measured_samples
from activemri.data.standard import magnitude_reference

#: What h5py raises for truncated, damaged or foreign files, and readers for unusable ones.
READ_FAILURES = (OSError, RuntimeError, KeyError, ValueError, TypeError)


class UnreadableError(ValueError):
    """A file or slice that cannot be used; the message is the reason, without the file's name."""


@dataclass(frozen=True)
class Container:
    """One kind of file."""

    name: str  # as users call it
    suffixes: tuple[str, ...]  # in lower case and with the dot
    #: Gives what readers take, a context manager with `close`; or UnreadableError, OSError.
    open: Callable[[Path], Any]
    #: Of the names of a folder's files of this kind those that stand for a scan. Reads no content.
    scans: Callable[[Path, Sequence[str]], Sequence[str]] = lambda folder, names: names
    #: All files that hold a part of the scan that a file stands for.
    parts: Callable[[Path], Sequence[Path]] = lambda path: (path,)

    def holds(self, name: str) -> bool:
        """True for the name of a file of this kind."""
        return name.lower().endswith(self.suffixes) and not name.startswith(".")

    def stem(self, name: str) -> str:
        """A file's name without its suffix; folders stay."""
        ending = max((end for end in self.suffixes if name.lower().endswith(end)), key=len)
        return name[: -len(ending)]


#: MATLAB's files are HDF5 from version 7.3 on, ISMRMRD's (.mrd) always.
HDF5 = Container("HDF5", (".h5", ".hdf5", ".mrd", ".mat"), lambda path: h5py.File(path, "r"))


T = TypeVar("T")


def cached_by_file(n_files: int) -> Callable[[Callable[[Path], T]], Callable[[Path], T]]:
    """Decorator: keep results of a function of a path until the file changes."""

    def decorate(function: Callable[[Path], T]) -> Callable[[Path], T]:
        @lru_cache(n_files)
        def known(path: Path, modified_ns: int, size: int) -> T:
            return function(path)

        def call(path: Path) -> T:
            status = path.stat()
            return known(path.resolve(), status.st_mtime_ns, status.st_size)

        return call

    return decorate


class OpenedFile(ExitStack):
    """A file without a handle: there is nothing to close."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path


@dataclass(frozen=True)
class Volume:
    """Labels and sizes of the scan in a file, where it says them. Kept in the index."""

    name: str  # the file's stem; the index adds folders where two files would have one name
    subject: str
    n_slices: int  # that are stored, usable or not
    shape: tuple[int, int]  # (height, width) of k-space
    target_shape: tuple[int, int]
    n_coils: int = 1
    contrast: str = "unknown"
    field_strength: float | None = None  # in tesla
    scanner: str = "unknown"  # maker and model
    split: str | None = None  # that the file itself names
    magnitude_only: bool = False
    simulated: str | None = None  # what of the samples no scanner has measured, e.g. "coils"
    largest: float | None = None  # stored magnitude, where the reader needs it
    encoded_columns: tuple[int, int] | None = None  # first and one past the last acquired one

    def slice(
        self,
        index: int,
        *,
        kspace: Tensor,
        target: Tensor | None = None,
        scale: float = 1.0,
        processing: tuple[str, ...] = (),
        measured: Tensor | None = None,
        sensitivity: Tensor | None = None,
        label: Tensor | None = None,
    ) -> Slice:
        """A slice of this volume, with its labels; by default the target is computed.

        Scanners store values whose squares get lost in float32. All samples and the target are
        multiplied by a `scale`, in place: a power of two, which is exact, and the same for all
        files, so that nothing depends on samples that an agent has not acquired.
        """
        if scale != 1:
            kspace *= scale
            target = None if target is None else target * scale
            processing += (f"multiplied by {scale:g}",)
        if target is None:
            target = magnitude_reference(kspace, self.target_shape, sensitivity=sensitivity)
        return Slice(
            kspace=kspace,
            target=target,
            volume=self.name,
            index=index,
            subject=self.subject,
            volume_max=float(target.max()),
            contrast=self.contrast,
            field_strength=self.field_strength,
            scanner=self.scanner,
            measured=measured_samples(kspace) if measured is None else measured,
            processing=processing,
            sensitivity=sensitivity,
            label=label,
        )


@dataclass(frozen=True)
class Reader(ABC):
    """One file format: a frozen dataclass whose fields are its settings.

    `file` is what the container's `open` returns: an `h5py.File` for HDF5. The index remembers by
    `name` who reads a file.
    """

    name: str
    container: ClassVar[Container] = HDF5

    def recognises(self, file: Any) -> bool:
        """True for files of this format, even damaged ones; by default for all."""
        return True

    @abstractmethod
    def describe(self, file: Any) -> Volume:
        """Labels and sizes, as far as possible without reading samples.

        Raises:
            UnreadableError: if nothing in the file can be used.
        """

    @abstractmethod
    def read(self, file: Any, volume: Volume, index: int) -> Slice:
        """Read one slice. The result depends on the file, the index and the settings only.

        `volume_max` of the result is that of this slice alone. NaN, Inf and slices of zeros need
        no look here: the survey of the volume finds them, and its largest value.

        Raises:
            UnreadableError: if the slice cannot be read.
        """
