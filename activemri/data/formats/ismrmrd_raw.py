"""Raw data as scanners give them, in the ISMRMRD format (Inati et al., MRM 77:411, 2017)."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import h5py

from activemri.data.containers import HDF5, Container
from activemri.data.formats import stored
from activemri.data.formats.ismrmrd_acquisitions import (
    Acquisitions,
    groups,
    read_acquisitions,
    read_header,
)
from activemri.data.formats.ismrmrd_cartesian import CartesianLines, cartesian_lines
from activemri.data.formats.ismrmrd_header import Header
from activemri.data.formats.ismrmrd_radial import Spokes, spokes
from activemri.data.readers import UnreadableError, Volume
from activemri.data.reference import magnitude_reference
from activemri.data.slices import Slice
from activemri.mri.compression import mix_coils

#: Siemens stores values around 1e-4 (fastMRI has them unchanged), where squares get lost in
#: float32. A constant power of two, exact; scans with noise measurements need none.
SCALES = {"siemens": 4096.0}

#: How the lines of a trajectory are placed, by the name that headers have for it.
TRAJECTORIES: dict[str, Callable[[Acquisitions], CartesianLines | Spokes]] = {
    "cartesian": cartesian_lines,
    "radial": spokes,
    "goldenangle": spokes,
}

REMEMBERED = 8  # files whose acquisition headers are kept


@dataclass(frozen=True)
class ISMRMRDReader:
    """Reads fully sampled two-dimensional scans, Cartesian and radial ones.

    A slice of the volume is one combination of the counters slice, contrast, phase, repetition and
    set. Noise, navigator, calibration-only and dummy lines are left out, as are lines of a second
    encoding.

    Cartesian scans have the encoded matrix size; height is the readout, and the reference is
    cropped to the field of view that is to be reconstructed (readout oversampling). Lines are
    placed by `center_sample` and by the centre of the encoding limits. What never came, by partial
    Fourier or zero padding, is zero and False in `Slice.measured`. Lines that came several times
    are averaged, reversed ones mirrored.

    Radial scans are resampled onto a grid of that field of view, see
    :mod:`activemri.data.formats.radial`, from where the trajectories of their spokes say.

    Where there are noise scans, coils are prewhitened: noise then is independent and of variance
    one, up to the ratio of the bandwidths and what resampling does to it. Other Siemens data are
    multiplied by a constant.

    Refused: undersampled scans (no truth), 3-D and simultaneous multi-slice scans, other
    trajectories (echo-planar, spiral), radial scans without a trajectory, and scans whose every
    other line seems to be read backwards against what its flag says.
    """

    name: str = "ismrmrd"
    container: ClassVar[Container] = HDF5

    def recognises(self, file: h5py.File) -> bool:
        return bool(groups(file))

    def describe(self, file: h5py.File) -> Volume:
        lines = _lines(file)
        scan, header = lines.scan, lines.scan.header
        _refuse_without_complete(file, lines)
        return Volume(
            name=stored.stem(file),
            subject=header.patient or stored.stem(file),
            n_slices=len(scan.images),
            shape=lines.shape,
            target_shape=lines.target_shape,
            n_coils=scan.n_coils,
            contrast=header.contrast,
            field_strength=header.field_strength,
            scanner=header.scanner,
            encoded_columns=lines.encoded_columns,
        )

    def read(self, file: h5py.File, volume: Volume, index: int) -> Slice:
        lines = _lines(file)
        kspace, measured, processing = lines.read(file, index)
        if lines.scan.whitening is not None:
            kspace = mix_coils(kspace, lines.scan.whitening).contiguous()
            processing += ("prewhitened with the scan's own noise measurement",)
        elif (scale := _scale(lines.scan.header)) != 1:
            kspace *= scale
            processing += (f"multiplied by {scale:g}",)
        return volume.slice(
            index,
            kspace=kspace,
            target=magnitude_reference(kspace, volume.target_shape),
            measured=measured,
            processing=processing,
        )


_REMEMBERED: OrderedDict[tuple[str, int, int], CartesianLines | Spokes] = OrderedDict()


def _lines(file: h5py.File) -> CartesianLines | Spokes:
    """The headers of all lines, read once for each file and not for each slice."""
    status = Path(file.filename).stat()
    key = (str(Path(file.filename).resolve()), status.st_mtime_ns, status.st_size)
    lines = _REMEMBERED.pop(key, None)
    if lines is None:
        lines = _read_lines(file)
    _REMEMBERED[key] = lines
    if len(_REMEMBERED) > REMEMBERED:
        _REMEMBERED.popitem(last=False)
    return lines


def _read_lines(file: h5py.File) -> CartesianLines | Spokes:
    header = read_header(file)
    place = TRAJECTORIES.get(header.trajectory)
    if place is None:
        raise UnreadableError(
            f"not Cartesian: the header's trajectory is {header.trajectory!r}; expected k-space "
            "on a grid, or 'radial'"
        )
    return place(read_acquisitions(file, header))


def _refuse_without_complete(file: h5py.File, lines: CartesianLines | Spokes) -> None:
    """Refuse a file none of whose slices is complete, with the reason of the first."""
    first = None
    for index in range(len(lines.scan.images)):
        if (problem := lines.problem(file, index)) is None:
            return
        first = first or problem
    raise UnreadableError(str(first))


def _scale(header: Header) -> float:
    vendor = header.scanner.split(" ")[0].lower()
    return SCALES.get(vendor, 1.0)
