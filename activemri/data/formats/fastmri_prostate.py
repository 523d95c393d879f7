"""The T2 scans of fastMRI prostate, in three interleaved averages (Tibrewala et al. 2024)."""

import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from typing import ClassVar

import h5py
import torch
from torch import Tensor

from activemri.data.containers import HDF5, Container
from activemri.data.formats import stored
from activemri.data.formats.fastmri import SCALE
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
from activemri.data.slices import Slice

KSPACE_AXES = "(average, slice, coil, readout, phase encode)"


@dataclass(frozen=True)
class FastMRIProstateReader:
    """Reads the T2-weighted files of fastMRI prostate.

    `kspace` is (average, slice, coil, readout, phase encode). Each of the three averages has every
    second line only: two have the odd lines, one the even ones. Together they are complete: every
    line becomes the mean of the averages that have it. A file in which a line is in no average is
    refused. Motion between the averages, and that odd lines have less noise than even ones, stay.

    The lines are put where the header says that they belong in the encoded matrix; columns beyond
    were never measured.

    The reference is the root of the sum of squares of this k-space, as large as the stored
    `reconstruction_rss` or the header's matrix. The stored image is not used: it is flipped, and
    was made by filling in lines of each average with GRAPPA.

    Diffusion-weighted files are refused: echo-planar readouts sampled on gradient ramps, and every
    second line in no average.

    Values are multiplied by the same constant as those of fastMRI.
    """

    name: str = "fastmri-prostate"
    container: ClassVar[Container] = HDF5

    def recognises(self, file: h5py.File) -> bool:
        return "kspace" in file and "calibration_data" in file

    def describe(self, file: h5py.File) -> Volume:
        if "coil_sens_maps" in file:
            raise UnreadableError(
                "diffusion-weighted scan of fastMRI prostate: its echo-planar k-space is not on a "
                "grid and undersampled; expected a T2 scan (file_prostate_AXT2_...)"
            )
        kspace = stored.samples(file, "kspace", ndim=(5,), axes=KSPACE_AXES)
        if kspace.dtype.kind != "c":
            raise UnreadableError(f"'kspace' must be complex; got {kspace.dtype}")
        _, n_slices, n_coils, height, n_lines = kspace.shape
        header = read_header(file)
        first, end, width = _place(header, n_lines)
        middle = stored.read_part(kspace, (slice(None), n_slices // 2, slice(0, 1)))
        _averages_of_lines(middle)
        return Volume(
            name=stored.stem(file),
            subject=stored.text(file, "patient_id") or stored.stem(file),
            n_slices=n_slices,
            shape=(height, width),
            target_shape=_target_shape(file, header, (height, width)),
            n_coils=n_coils,
            contrast=stored.text(file, "acquisition") or "unknown",
            field_strength=stored.tesla(header_text(header, FIELD_STRENGTH)),
            scanner=scanner(header),
            encoded_columns=(first, end),
        )

    def read(self, file: h5py.File, volume: Volume, index: int) -> Slice:
        averages = stored.read_part(file["kspace"], (slice(None), index))
        count = _averages_of_lines(averages)
        assert volume.encoded_columns is not None  # describe() sets it
        first, end = volume.encoded_columns
        kspace = averages.new_zeros((volume.n_coils, *volume.shape))
        kspace[..., first:end] = averages.sum(dim=0) / count.clamp_min(1) * SCALE
        measured = torch.zeros(volume.shape, dtype=torch.bool)
        measured[:, first:end] = count > 0
        return volume.slice(
            index,
            kspace=kspace,
            target=magnitude_reference(kspace, volume.target_shape),
            measured=measured,
            processing=(
                f"lines averaged over the {len(averages)} interleaved averages that have them",
                f"multiplied by {SCALE:g}",
            ),
        )


def _place(header: ElementTree.Element, n_lines: int) -> tuple[int, int, int]:
    """First column, one past the last, and number of columns of the encoded matrix."""
    width = header_number(header, f"{ENCODED}/y")
    center = header_number(header, f"{LIMITS}/center")
    last = header_number(header, f"{LIMITS}/maximum")
    if width is None or center is None or last is None:
        raise UnreadableError(
            "ismrmrd_header: expected encodedSpace matrixSize y, and center and maximum of "
            "kspace_encoding_step_1, to place the lines"
        )
    first = width // 2 - center
    if last + 1 != n_lines or first < 0 or first + n_lines > width:
        raise UnreadableError(
            f"{n_lines} lines do not fit the header: lines 0 to {last} around {center} in a "
            f"matrix of {width}"
        )
    return first, first + n_lines, width


def _averages_of_lines(averages: Tensor) -> Tensor:
    """How many averages have each line; averages are (average, coil, readout, phase encode).

    Raises:
        UnreadableError: if a line between others is in none.
    """
    count = (averages != 0).any(dim=1).any(dim=1).sum(dim=0)
    present = (count > 0).nonzero()
    extent = int(present[-1] - present[0]) + 1 if len(present) else 0
    if extent > len(present):
        raise UnreadableError(
            f"undersampled: {extent - len(present)} of {extent} lines are in none of the "
            f"{len(averages)} averages; filling them in (GRAPPA) would be no measurement"
        )
    return count


def _target_shape(
    file: h5py.File, header: ElementTree.Element, shape: tuple[int, int]
) -> tuple[int, int]:
    if "reconstruction_rss" in file:
        image = stored.samples(file, "reconstruction_rss", ndim=(3,), axes="(slice, height, width)")
        height, width = image.shape[1:]
    else:
        height, width = (header_number(header, f"{FRAME}/{axis}") or 0 for axis in "xy")
    if min(height, width) < 1:
        raise UnreadableError("ismrmrd_header: no reconSpace matrixSize, and no reference stored")
    return min(height, shape[0]), min(width, shape[1])
