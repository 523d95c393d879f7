"""Kinds of files that scans come in, and the contract of a reader of one layout within them.

Files may come from anybody: what they declare is held against limits before anything is read, and
whatever goes wrong with their content is an :class:`UnreadableError`.
"""

import math
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import h5py
import numpy as np
from torch import Tensor

from activemri.data.slices import ACQUIRED, Slice, measured_samples
from activemri.data.standard import magnitude_reference

#: Environment variables, and what they are by default: slices of a volume, pixels of a slice, and
#: GiB that are read in one piece (a slice of all coils as complex64, a chunk, a compressed file).
MAX_SLICES = ("ACTIVEMRI_MAX_SLICES", 1e6)
MAX_PIXELS = ("ACTIVEMRI_MAX_PIXELS", 2.0**26)
MAX_GIB = ("ACTIVEMRI_MAX_GIB", 8.0)
MOST_PIECES = 256  # of that size in a volume
MOST_OBJECTS = 10_000  # in an HDF5 file
MOST_TEXT = 1 << 24  # bytes of a header
MOST_HEAPS = 1 << 26  # bytes that are looked through for heaps of texts
#: No compression makes data with noise so much smaller. What is larger was never written.
MOST_COMPRESSED = 4096

#: What libraries raise out of C for damaged content, as if it came from the line that calls them.
_FAILURES = (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError)


class UnreadableError(ValueError):
    """A file or slice that cannot be used; the message is the reason, without the file's name."""

    def __init__(self, reason: str) -> None:
        super().__init__(one_line(reason))


def one_line(text: str, most: int = 1000) -> str:
    """A text of a file, or about it, as it can be shown: cut in its middle if it is long."""
    shown = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * most]).split())
    return shown if len(shown) <= most else f"{shown[: most // 2]} ... {shown[-most // 3 :]}"


@contextmanager
def guarded(what: str = "") -> Iterator[None]:
    """Failures on the content of a file as an UnreadableError, whose reason begins with `what`.

    Libraries fail on damaged content in any way. Other errors that arise in this package itself
    are mistakes of ours and stay what they are.
    """
    try:
        yield
    except UnreadableError:
        raise
    except Exception as error:
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        module = "" if trace is None else str(trace.tb_frame.f_globals.get("__name__"))
        if module.split(".")[0] == "activemri" and not isinstance(error, _FAILURES):
            raise
        reason = "not enough memory" if isinstance(error, MemoryError) else str(error)
        raise UnreadableError(what + (reason or type(error).__name__)) from error


def require_regular(path: Path) -> None:
    """Refuse all but regular files and links to them: opening a pipe or a device may block."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise UnreadableError(f"expected a regular file; {path.name} is none (a pipe, a device?)")


def require_size(n_slices: int, shape: Sequence[int], n_coils: int = 1) -> None:
    """Refuse declared sizes beyond the limits. Call it before anything of them is read.

    Args:
        n_slices: of the volume.
        shape: of k-space of one coil in one slice, (height, width) or (spoke, sample).
        n_coils: that are read together.
    """
    pixels = math.prod(shape)
    _require(n_slices, MAX_SLICES, "slices")
    _require(pixels, MAX_PIXELS, "pixels in a slice")
    size = 8 * pixels * n_coils
    require_bytes(size, f"a slice of {n_coils:,} coil(s)")
    require_bytes(n_slices * size / MOST_PIECES, f"a part in {MOST_PIECES} of the volume")


def require_bytes(size: float, what: str) -> None:
    """Refuse what is declared to take too many bytes, before it is read in one piece."""
    _require(size / 2**30, MAX_GIB, f"GiB for {what}")


def _require(declared: float, limit: tuple[str, float], what: str) -> None:
    name, usual = limit
    given = os.environ.get(name, "")
    try:
        most = float(given or usual)
        if not 0 < most < math.inf:
            raise ValueError
    except ValueError:
        raise ValueError(f"{name}: expected a number above 0; got {given!r}") from None
    if declared > most:
        raise UnreadableError(
            f"declares {declared:,.6g} {what}, more than {most:,.6g}; if that is right, set {name}"
        )


def _every(folder: Path, names: Sequence[str]) -> Sequence[str]:
    return names


@dataclass(frozen=True)
class Container:
    """One kind of file."""

    name: str  # as users call it
    suffixes: tuple[str, ...]  # in lower case and with the dot
    opener: Callable[[Path], Any]  # gives what readers take, a context manager with `close`
    #: Of the names of a folder's files of this kind those that stand for a scan. Reads no content.
    scans: Callable[[Path, Sequence[str]], Sequence[str]] = _every
    #: All files that hold a part of the scan that a file stands for.
    parts: Callable[[Path], Sequence[Path]] = lambda path: (path,)

    def open(self, path: Path) -> Any:
        """An open file as readers take it; an UnreadableError or, from asking for it, OSError."""
        require_regular(path)
        with guarded(f"damaged or not {self.name}: "):
            return self.opener(path)

    def holds(self, name: str) -> bool:
        """True for the name of a file of this kind."""
        return name.lower().endswith(self.suffixes) and not name.startswith(".")

    def stem(self, name: str) -> str:
        """A file's name without its suffix; folders stay."""
        ending = max((end for end in self.suffixes if name.lower().endswith(end)), key=len)
        return name[: -len(ending)]


def _open_hdf5(path: Path) -> h5py.File:
    file = h5py.File(path, "r")
    try:
        samples = _refuse_foreign(file, path.stat().st_size)
        _refuse_endless_heaps(path, samples)
    except BaseException:
        file.close()
        raise
    return file


def _refuse_foreign(file: h5py.File, n_bytes: int) -> list[tuple[int, int]]:
    """Refuse what lies in other files, of which a scan could show any, or was never written.

    Gives where samples lie in the file: places and numbers of bytes.
    """
    pending, seen, samples = [file], set[int](), list[tuple[int, int]]()
    while pending:
        group = pending.pop()
        if len(seen) + len(group) > MOST_OBJECTS:
            raise UnreadableError(f"expected at most {MOST_OBJECTS:,} objects in an HDF5 file")
        for key in group:
            name = f"{group.name.rstrip('/')}/{key}"
            link = group.get(key, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                raise UnreadableError(f"{name} is a link to another file; copy what it shows")
            if not isinstance(link, h5py.HardLink):
                continue  # a soft link leads to what is looked at in its own place
            found = group[key]
            address = h5py.h5o.get_info(found.id).addr
            if address in seen:
                continue
            seen.add(address)
            if isinstance(found, h5py.Group):
                pending.append(found)
            elif isinstance(found, h5py.Dataset):
                _refuse_storage(found, name, n_bytes)
                samples += _extents(found.id)
    return samples


def _extents(dataset: h5py.h5d.DatasetID) -> list[tuple[int, int]]:
    """Places and numbers of bytes of a data set's samples, as far as they are quickly found."""
    if (start := dataset.get_offset()) is not None:
        return [(start, dataset.get_storage_size())]
    if dataset.get_create_plist().get_layout() != h5py.h5d.CHUNKED or not dataset.get_space().shape:
        return []
    n_chunks = dataset.get_num_chunks()
    chunks = map(dataset.get_chunk_info, range(n_chunks if n_chunks <= MOST_OBJECTS else 0))
    return [(chunk.byte_offset, chunk.size) for chunk in chunks]


def _refuse_endless_heaps(path: Path, samples: Sequence[tuple[int, int]]) -> None:
    """Refuse heaps of texts with impossible sizes: the HDF5 library may never leave them.

    Looked at are the first MOST_HEAPS bytes that hold no samples. The format: HDF5 File Format
    Specification 3.0, III.E, Global Heap.
    """
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
        at, left = 0, MOST_HEAPS
        for start, size in sorted([*samples, (len(content), 0)]):
            end = min(start, at + left)
            left -= max(end - at, 0)
            while (at := content.find(b"GCOL", at, max(end, at))) >= 0:
                place, last = at + 16, at + int.from_bytes(content[at + 8 : at + 16], "little")
                while content[at + 4] == 1 and place + 16 <= min(last, len(content)):
                    is_gap = content[place : place + 2] == b"\0\0"
                    length = int.from_bytes(content[place + 8 : place + 16], "little")
                    if (is_gap and length == 0) or length > last - place:
                        raise UnreadableError("damaged: a heap of its texts has no end")
                    place += length if is_gap else 16 + -(-length // 8) * 8
                at += 4
            at = max(start + size, end)


def _refuse_storage(found: h5py.Dataset, name: str, n_bytes: int) -> None:
    made, size = found.id.get_create_plist(), found.id.get_type().get_size()
    if made.get_layout() == h5py.h5d.VIRTUAL or made.get_external_count() > 0:
        raise UnreadableError(f"{name} takes its samples from other files; copy them into this one")
    declared, shape = math.prod(found.shape or (0,)) * size, found.shape or ()
    chunk = made.get_chunk() if made.get_layout() == h5py.h5d.CHUNKED else None
    require_bytes(math.prod(chunk or ()) * size, f"a chunk of {name}")
    # The survey finds zeros in place of what was never written, but no other values.
    filled = made.fill_value_defined() == h5py.h5d.FILL_VALUE_USER_DEFINED
    if filled and np.asarray(found.fillvalue).tobytes().strip(b"\0"):
        n_chunks = math.prod(-(-n // part) for n, part in zip(shape, chunk or (), strict=False))
        missing = found.id.get_num_chunks() < n_chunks if chunk else not found.id.get_storage_size()
    else:
        missing = declared > MOST_COMPRESSED * n_bytes
    if missing:
        raise UnreadableError(
            f"{name} declares {declared:,} bytes in a file of {n_bytes:,}: some were never written"
        )


#: MATLAB's files are HDF5 from version 7.3 on, ISMRMRD's (.mrd) always.
HDF5 = Container("HDF5", (".h5", ".hdf5", ".mrd", ".mat"), _open_hdf5)


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
    phase: str = ACQUIRED  # as of slices
    simulated: str | None = None  # what of the samples no scanner has measured, e.g. "coils"
    largest: float | None = None  # stored magnitude, where the reader needs it
    target: str = "combined"  # what references are, one of `data.slices.TARGETS`; "own": others
    encoded_columns: tuple[int, int] | None = None  # first and one past the last acquired one

    def __post_init__(self) -> None:
        require_size(self.n_slices, self.shape, self.n_coils)
        for field in ("name", "subject", "contrast", "scanner", "split", "simulated"):
            text = getattr(self, field)  # of the file, as tables show it
            object.__setattr__(self, field, None if text is None else one_line(text))
        strength = self.field_strength
        if strength is not None and not 0 < strength < math.inf:
            object.__setattr__(self, "field_strength", None)

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
            phase=self.phase,
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
