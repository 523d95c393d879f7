"""What a reader of a file format has to answer. The formats are in `formats.py`."""

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from activemri.data.containers import Container
from activemri.data.slices import Slice, measured_samples

#: What h5py raises for truncated, damaged or foreign files, and readers for unusable ones.
READ_FAILURES = (OSError, RuntimeError, KeyError, ValueError, TypeError)


class UnreadableError(ValueError):
    """A file or slice that cannot be used; the message is the reason, without the file's name."""


@dataclass(frozen=True)
class Volume:
    """What a file says about the scan in it. Kept in the index.

    Attributes:
        name: the file's stem; the index adds folders where two files would have one name.
        subject: who was scanned.
        n_slices: slices stored, usable or not.
        shape: (height, width) of k-space.
        target_shape: (height, width) of the reference.
        n_coils: number of coils.
        contrast: e.g. "T2"; "unknown" where the file does not say.
        field_strength: in tesla, or None.
        scanner: maker and model; "unknown" where the file does not say.
        split: the split that the file itself names, or None.
        magnitude_only: the file holds no phase.
        simulated: what of the samples no scanner has measured, e.g. "coils", or None.
        largest: largest stored magnitude, where the reader needs it, or None.
        encoded_columns: first and one past the last column that the header calls acquired, or
            None where there is no such header.
    """

    name: str
    subject: str
    n_slices: int
    shape: tuple[int, int]
    target_shape: tuple[int, int]
    n_coils: int
    contrast: str = "unknown"
    field_strength: float | None = None
    scanner: str = "unknown"
    split: str | None = None
    magnitude_only: bool = False
    simulated: str | None = None
    largest: float | None = None
    encoded_columns: tuple[int, int] | None = None

    def slice(
        self,
        index: int,
        *,
        kspace: Tensor,
        target: Tensor,
        processing: tuple[str, ...] = (),
        measured: Tensor | None = None,
        sensitivity: Tensor | None = None,
        label: Tensor | None = None,
    ) -> Slice:
        """A slice of this volume, with its labels."""
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


class Reader(Protocol):
    """One file format. Readers are frozen dataclasses: their fields are their settings.

    `file` is what the container's `open` returns: an `h5py.File` for HDF5.

    Attributes:
        name: short name of the format; the index remembers by it who reads a file.
        container: the kind of file that it is in.
    """

    @property
    def name(self) -> str: ...

    @property
    def container(self) -> Container: ...

    def recognises(self, file: Any) -> bool:
        """Whether the file is of this format, even if it turns out to be damaged."""
        ...

    def describe(self, file: Any) -> Volume:
        """What the file holds, as far as possible without reading its samples.

        Raises:
            UnreadableError: if nothing in the file can be used.
        """
        ...

    def read(self, file: Any, volume: Volume, index: int) -> Slice:
        """Read one slice. The result depends on the file, the index and the settings only.

        `volume_max` of the result is the largest value of this slice's own target; data sets
        replace it by that of the volume, which takes reading all of its slices. NaN, Inf and
        slices of zeros need no look here: the survey finds them.

        Raises:
            UnreadableError: if the slice cannot be read.
        """
        ...
