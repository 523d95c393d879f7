"""The fastMRI data set: knee and brain, single- and multi-coil (Zbontar et al. 2018)."""

import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from typing import ClassVar

import h5py
import torch
from torch import Tensor

from activemri.data.containers import HDF5, Container
from activemri.data.formats import stored
from activemri.data.formats.headers import (
    ENCODED,
    FIELD_STRENGTH,
    FRAME,
    LIMITS,
    header_number,
    header_text,
    read_header,
    scanner,
)
from activemri.data.readers import UnreadableError, Volume
from activemri.data.reference import magnitude_reference
from activemri.data.slices import Slice, measured_samples

KSPACE_AXES = "(slice, height, width) or (slice, coil, height, width)"

#: fastMRI images have values around 1e-4, near where squares and the constants of optimisers get
#: lost in float32. All samples are multiplied by this power of two, which is exact. It is the
#: same for every file, so that nothing depends on samples that an agent has not acquired.
SCALE = 4096.0

#: A column beyond the header's limits counts as padding if its energy is below this share of the
#: strongest column's: remainders of scanner filters. Above it the data are believed.
PADDING_ENERGY = 1e-6


@dataclass(frozen=True)
class FastMRIReader:
    """Reads fastMRI HDF5 files, in which k-space is centred and orthonormal as here.

    The reference is `reconstruction_rss` (several coils) or `reconstruction_esc` (one coil). Where
    a file has none, or one that does not fit into the image, it is the magnitude (root of the sum
    of squares) of the fully sampled k-space, cropped to the matrix size that the header gives.
    Undersampled files (the public test sets, which hold a `mask`) have no truth and are refused.

    Padding: columns of exact zeros, and columns beyond the header's encoding limits that hold next
    to nothing, were never acquired: False in `Slice.measured`.

    All values are multiplied by a constant; no metric that is relative to the data range changes.

    Attributes:
        scale: that constant.
    """

    scale: float = SCALE
    name: str = "fastmri"
    container: ClassVar[Container] = HDF5

    def recognises(self, file: h5py.File) -> bool:
        signs = (
            "ismrmrd_header" in file,
            "reconstruction_esc" in file,
            "acquisition" in file.attrs,
        )
        return "kspace" in file and any(signs)

    def describe(self, file: h5py.File) -> Volume:
        kspace = stored.samples(file, "kspace", ndim=(3, 4), axes=KSPACE_AXES)
        if kspace.dtype.kind != "c":
            raise UnreadableError(f"'kspace' must be complex; got {kspace.dtype}")
        if "mask" in file:
            raise UnreadableError("undersampled (the file holds a mask): no fully sampled truth")
        header = read_header(file)
        height, width = kspace.shape[-2:]
        return Volume(
            name=stored.stem(file),
            subject=stored.text(file, "patient_id") or stored.stem(file),
            n_slices=kspace.shape[0],
            shape=(height, width),
            target_shape=_target_shape(file, header, (height, width)),
            n_coils=kspace.shape[1] if kspace.ndim == 4 else 1,
            contrast=stored.text(file, "acquisition") or "unknown",
            field_strength=stored.tesla(header_text(header, FIELD_STRENGTH)),
            scanner=scanner(header),
            encoded_columns=_encoded_columns(header, width),
        )

    def read(self, file: h5py.File, volume: Volume, index: int) -> Slice:
        kspace = stored.read_slice(file["kspace"], index)
        kspace = kspace.unsqueeze(0) if kspace.ndim == 2 else kspace
        kspace *= self.scale
        key = _reference_key(file)
        if key is None:
            target = magnitude_reference(kspace, volume.target_shape)
        else:
            target = stored.read_slice(file[key], index) * self.scale
        return volume.slice(
            index,
            kspace=kspace,
            target=target,
            measured=_measured(kspace, volume.encoded_columns),
            processing=(f"multiplied by {self.scale:g}",) if self.scale != 1 else (),
        )


def _reference_key(file: h5py.File) -> str | None:
    """The stored reference that belongs to this k-space and fits into its image."""
    kspace = file["kspace"]
    key = "reconstruction_rss" if kspace.ndim == 4 else "reconstruction_esc"
    if key not in file:
        return None
    stored.samples(file, key, ndim=(3,), axes="(slice, height, width)")
    n_slices, height, width = file[key].shape
    if n_slices != kspace.shape[0]:
        raise UnreadableError(f"{key} has {n_slices} slices, k-space has {kspace.shape[0]}")
    frame = kspace.shape[-2:]
    return key if _fits(height, frame[0]) and _fits(width, frame[1]) else None


def _fits(size: int, frame: int) -> bool:
    """Whether fastMRI's central crop and ours, which keeps n // 2 at n // 2, are the same."""
    return size <= frame and (frame - size) // 2 == frame // 2 - size // 2


def _target_shape(
    file: h5py.File, header: ElementTree.Element, shape: tuple[int, int]
) -> tuple[int, int]:
    key = _reference_key(file)
    if key is not None:
        return file[key].shape[1], file[key].shape[2]
    height, width = (header_number(header, f"{FRAME}/{axis}") for axis in "xy")
    if height is None or width is None or min(height, width) < 1:
        raise UnreadableError("ismrmrd_header: no reconSpace matrixSize, and no reference stored")
    return min(height, shape[0]), min(width, shape[1])


def _encoded_columns(header: ElementTree.Element, width: int) -> tuple[int, int] | None:
    """Columns that the header calls acquired, as (first, one past the last)."""
    encoded = header_number(header, f"{ENCODED}/y")
    center = header_number(header, f"{LIMITS}/center")
    last = header_number(header, f"{LIMITS}/maximum")
    if encoded is None or center is None or last is None or encoded != width:
        return None
    first = encoded // 2 - center
    return max(first, 0), min(first + last + 1, width)


def _measured(kspace: Tensor, encoded: tuple[int, int] | None) -> Tensor:
    measured = measured_samples(kspace)
    if encoded is None:
        return measured
    energy = kspace.abs().square().sum(dim=(0, 1))
    beyond = torch.ones_like(energy, dtype=torch.bool)
    beyond[encoded[0] : encoded[1]] = False
    return measured & ~(beyond & (energy < PADDING_ENERGY * energy.max()))
