"""Raw data as scanners give them, in the ISMRMRD format (Inati et al., MRM 77:411, 2017)."""

from collections import OrderedDict
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from activemri.data import stored
from activemri.data.containers import HDF5, Container
from activemri.data.ismrmrd_header import Header, parse_header
from activemri.data.readers import UnreadableError, Volume
from activemri.data.reference import magnitude_reference
from activemri.data.slices import Slice
from activemri.mri import fourier
from activemri.mri.compression import mix_coils, noise_covariance, whitening

#: Flags of an acquisition; flag n is bit n - 1.
NOISE, CALIBRATION, CALIBRATION_AND_IMAGING, REVERSE = 19, 20, 21, 22
#: Noise, navigators, phase correction, feedback, dummy and surface coil scans, phase stabilization.
NO_IMAGE = (NOISE, 23, 24, 26, 27, 28, 29, 30, 31)

#: Counters that tell images apart, in the order in which they become slices of the volume.
IMAGE_COUNTERS = ("slice", "contrast", "phase", "repetition", "set")

#: Siemens stores values around 1e-4 (fastMRI has them unchanged), where squares get lost in
#: float32. A constant power of two, exact; scans with noise measurements need none.
SCALES = {"siemens": 4096.0}

#: Odd and even lines show the same object along the readout. Read backwards, one of them shows it
#: mirrored: if mirroring leaves less than this share of their difference, a flag is wrong. Sound
#: raw scans of head, knee and body have 1.9 to 11, with every other line reversed 0.09 to 0.53.
MIRRORED = 0.6

REMEMBERED = 8  # files whose acquisition headers are kept

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class ISMRMRDReader:
    """Reads fully sampled two-dimensional Cartesian scans.

    A slice of the volume is one combination of :data:`IMAGE_COUNTERS`. Its k-space has the encoded
    matrix size; height is the readout, and the reference is cropped to the field of view that is
    to be reconstructed (readout oversampling). Lines are placed by `center_sample` and by the
    centre of the encoding limits. What never came, by partial Fourier or zero padding, is zero and
    False in `Slice.measured`. Lines that came several times are averaged, reversed ones mirrored.
    Noise, navigator, calibration-only and dummy lines are left out, as are lines of a second
    encoding.

    Where there are noise scans, coils are prewhitened: noise then is independent and of variance
    one, up to the ratio of the bandwidths. Other Siemens data are multiplied by a constant.

    Refused: undersampled scans (no truth), 3-D and simultaneous multi-slice scans, trajectories
    that are not Cartesian (echo-planar ones too), and scans whose every other line seems to be
    read backwards against what its flag says.
    """

    name: str = "ismrmrd"
    container: ClassVar[Container] = HDF5

    def recognises(self, file: h5py.File) -> bool:
        return bool(_groups(file))

    def describe(self, file: h5py.File) -> Volume:
        scan = _scan(file)
        problems = [_incomplete(scan, index) for index in range(len(scan.images))]
        if None not in problems:
            raise UnreadableError(str(problems[0]))
        header = scan.header
        return Volume(
            name=stored.stem(file),
            subject=header.patient or stored.stem(file),
            n_slices=len(scan.images),
            shape=header.shape,
            target_shape=header.target_shape,
            n_coils=scan.n_coils,
            contrast=header.contrast,
            field_strength=header.field_strength,
            scanner=header.scanner,
            encoded_columns=(int(scan.columns.min()), int(scan.columns.max()) + 1),
        )

    def read(self, file: h5py.File, volume: Volume, index: int) -> Slice:
        scan = _scan(file)
        if (problem := _incomplete(scan, index)) is not None:
            raise UnreadableError(problem)
        samples, repeats = _on_grid(file, scan, scan.images[index])
        kspace, processing = torch.from_numpy(samples), list[str]()
        stored.refuse_unusable(kspace, "k-space")
        _refuse_unflagged_reversal(kspace)
        if scan.header.chopped:
            kspace[:, :, 1::2] *= -1
            processing.append("sign of every other line changed")
        if repeats.max() > 1:
            processing.append(f"mean of up to {repeats.max()} repeated lines")
        if scan.whitening is not None:
            kspace = mix_coils(kspace, scan.whitening).contiguous()
            processing.append("prewhitened with the scan's own noise measurement")
        elif (scale := _scale(scan.header)) != 1:
            kspace *= scale
            processing.append(f"multiplied by {scale:g}")
        return volume.slice(
            index,
            kspace=kspace,
            target=magnitude_reference(kspace, volume.target_shape),
            measured=torch.from_numpy(repeats > 0),
            processing=tuple(processing),
        )


@dataclass(frozen=True, eq=False)
class _Scan:
    """What the headers of all lines say. Arrays have an entry for each imaging line.

    Attributes:
        header: the XML header.
        n_coils: the same for all lines.
        lines: positions in the file.
        columns: of the k-space grid.
        centers: the sample at the centre of k-space.
        sizes: numbers of samples.
        kept: first and one past the last sample that is not to be discarded, (line, 2).
        reverse: bool, read backwards.
        images: for each slice of the volume, which entries belong to it.
        whitening: complex (coil, coil), or None without noise scans.
    """

    header: Header
    n_coils: int
    lines: Integers
    columns: Integers
    centers: Integers
    sizes: Integers
    kept: Integers
    reverse: NDArray[np.bool_]
    images: tuple[Integers, ...]
    whitening: Tensor | None


_REMEMBERED: OrderedDict[tuple[str, int, int], _Scan] = OrderedDict()


def _scan(file: h5py.File) -> _Scan:
    """The headers of all lines, read once for each file and not for each slice."""
    status = Path(file.filename).stat()
    key = (str(Path(file.filename).resolve()), status.st_mtime_ns, status.st_size)
    scan = _REMEMBERED.pop(key, None)
    if scan is None:
        scan = _read_scan(file)
    _REMEMBERED[key] = scan
    if len(_REMEMBERED) > REMEMBERED:
        _REMEMBERED.popitem(last=False)
    return scan


def _read_scan(file: h5py.File) -> _Scan:
    header = _read_header(file)
    heads = _acquisitions(file).fields("head")[:]
    flagged = _flags(heads["flags"])
    calibrating = flagged(CALIBRATION) & ~flagged(CALIBRATION_AND_IMAGING)
    aside = reduce(np.logical_or, (flagged(flag) for flag in NO_IMAGE), calibrating)
    lines = np.flatnonzero(~aside & (heads["encoding_space_ref"] == 0))
    if len(lines) == 0:
        raise UnreadableError(f"no imaging lines among {len(heads)} acquisitions")
    chosen = heads[lines]
    _refuse_3d(chosen["idx"])
    n_coils = _one_value(chosen["active_channels"], "channels")
    sizes = chosen["number_of_samples"].astype(np.int64)
    return _Scan(
        header=header,
        n_coils=n_coils,
        lines=lines,
        columns=_columns(chosen["idx"]["kspace_encode_step_1"].astype(np.int64), header),
        centers=_centers(chosen, header),
        sizes=sizes,
        kept=np.stack([chosen["discard_pre"], sizes - chosen["discard_post"]], axis=1),
        reverse=flagged(REVERSE)[lines],
        images=_images(chosen["idx"]),
        whitening=_whitening(file, np.flatnonzero(flagged(NOISE)), heads, n_coils),
    )


def _groups(file: h5py.File) -> list[str]:
    """Groups that hold a header; the format's own name for them is `dataset`."""
    return [k for k in file if isinstance(file.get(k), h5py.Group) and "xml" in file[k]]


def _read_header(file: h5py.File) -> Header:
    groups = _groups(file)
    if len(groups) > 1:
        raise UnreadableError(
            f"several measurements in one file ({', '.join(groups)}); expected one: split the file"
        )
    stored_xml = np.asarray(file[groups[0]]["xml"][()]).ravel()
    header = parse_header(stored_xml[0] if len(stored_xml) else "")
    if header.trajectory != "cartesian":
        raise UnreadableError(
            f"not Cartesian: the header's trajectory is {header.trajectory!r}; expected k-space "
            "on a grid"
        )
    if header.multiband:
        raise UnreadableError("slices excited together (multiband); expected one at a time")
    if header.acceleration > 1:
        raise UnreadableError(
            f"undersampled (acceleration factor {header.acceleration} in the header): no fully "
            "sampled truth"
        )
    return header


def _acquisitions(file: h5py.File) -> h5py.Dataset:
    group = file[_groups(file)[0]]
    found = group.get("data")
    if found is None:
        raise UnreadableError(f"no acquisitions 'data'; found {', '.join(sorted(group))}")
    names = found.dtype.names if isinstance(found, h5py.Dataset) else None
    if names is None or not {"head", "data"} <= set(names) or found.ndim != 1:
        raise UnreadableError(
            f"'data' must be a list of acquisitions (head, traj, data); {found!r}"
        )
    return found


def _flags(words: NDArray[Any]) -> Any:
    return lambda flag: (words >> np.uint64(flag - 1)) & np.uint64(1) == 1


def _refuse_3d(counters: NDArray[Any]) -> None:
    partitions = len(np.unique(counters["kspace_encode_step_2"]))
    if partitions > 1:
        raise UnreadableError(
            f"3-D: {partitions} values of kspace_encode_step_2; expected a 2-D scan (convert it: "
            "Fourier transform one axis and store the others as slices of 'kspace')"
        )


def _one_value(values: NDArray[Any], what: str) -> int:
    found = np.unique(values)
    if len(found) > 1 or found[0] == 0:
        raise UnreadableError(f"lines differ in their {what}, or have none: {found.tolist()}")
    return int(found[0])


def _columns(steps: Integers, header: Header) -> Integers:
    """Where lines lie: the header's centre comes to the centre of the grid."""
    width = header.shape[1]
    center = header.center
    if header.last is not None and steps.max() > header.last:
        raise UnreadableError(
            f"lines up to number {steps.max()}, but the header's last is {header.last}: those "
            "beyond may calibrate echo trains, which cannot be corrected here"
        )
    if center is None and len(np.unique(steps)) == width:
        center = width // 2
    if center is None:
        raise UnreadableError("the header has no encodingLimits of kspace_encoding_step_1")
    columns = width // 2 + steps - center
    if columns.min() < 0 or columns.max() >= width:
        raise UnreadableError(
            f"lines {steps.min()} to {steps.max()} with the centre at {center} do not fit into "
            f"{width} phase encodes"
        )
    return columns


def _centers(heads: NDArray[Any], header: Header) -> Integers:
    """The sample at the centre of k-space; full lines that do not say it are centred."""
    sizes = heads["number_of_samples"].astype(np.int64)
    centers = heads["center_sample"].astype(np.int64)
    unset = (centers == 0) & (sizes == header.shape[0])
    return np.where(unset, sizes // 2, centers)


def _images(counters: NDArray[Any]) -> tuple[Integers, ...]:
    keys = np.stack([counters[name] for name in IMAGE_COUNTERS], axis=1)
    which = np.unique(keys, axis=0, return_inverse=True)[1].ravel()
    order = np.argsort(which, kind="stable")
    return tuple(np.split(order, np.flatnonzero(np.diff(which[order])) + 1))


def _whitening(
    file: h5py.File, lines: Integers, heads: NDArray[Any], n_coils: int
) -> Tensor | None:
    if len(lines) == 0:
        return None
    channels = _one_value(heads["active_channels"][lines], "channels of the noise scans")
    if channels != n_coils:
        raise UnreadableError(f"noise scans have {channels} channels, imaging lines {n_coils}")
    sizes = heads["number_of_samples"].astype(np.int64)
    noise = np.concatenate([_samples(file, i, n_coils, int(sizes[i])) for i in lines], axis=1)
    try:
        return whitening(noise_covariance(torch.from_numpy(noise)))
    except ValueError as error:
        raise UnreadableError(f"noise scans cannot be used: {error}") from error


def _incomplete(scan: _Scan, index: int) -> str | None:
    """Why a slice has no fully sampled truth, or None."""
    came = np.unique(scan.columns[scan.images[index]])
    first, last, center = came[0], came[-1], scan.header.shape[1] // 2
    if last - first + 1 > len(came):
        missing = last - first + 1 - len(came)
        return (
            f"undersampled ({missing} of {last - first + 1} lines within the acquired range never "
            "came): no fully sampled truth"
        )
    if len(came) < len(np.unique(scan.columns)):
        return f"incomplete: {len(came)} of {len(np.unique(scan.columns))} lines came"
    if not first <= center <= last:
        return f"incomplete: the centre of k-space never came (columns {first} to {last} did)"
    return None


def _on_grid(
    file: h5py.File, scan: _Scan, entries: Integers
) -> tuple[NDArray[np.complex64], Integers]:
    """The mean of all samples on the grid, and how many each place got."""
    height, width = scan.header.shape
    kspace = np.zeros((scan.n_coils, height, width), np.complex64)
    repeats = np.zeros((height, width), np.int64)
    for entry in entries:
        size, column = int(scan.sizes[entry]), scan.columns[entry]
        samples = _samples(file, int(scan.lines[entry]), scan.n_coils, size)
        steps = np.arange(size) - scan.centers[entry]
        rows = height // 2 + (-steps if scan.reverse[entry] else steps)
        inside = (rows >= 0) & (rows < height)
        if size - inside.sum() > 1:  # one hangs over where an even number is mirrored
            raise UnreadableError(
                f"{size} samples with the centre at {scan.centers[entry]} do not fit into a "
                f"readout of {height}"
            )
        inside[: scan.kept[entry, 0]] = inside[max(scan.kept[entry, 1], 0) :] = False
        kspace[:, rows[inside], column] += samples[:, inside]
        repeats[rows[inside], column] += 1
    kspace /= np.maximum(repeats, 1).astype(np.float32)
    return kspace, repeats


def _samples(file: h5py.File, line: int, n_coils: int, size: int) -> NDArray[np.complex64]:
    """The samples of one acquisition, (coil, sample)."""
    flat = np.asarray(_acquisitions(file).fields("data")[line], np.float32)
    if flat.shape != (2 * n_coils * size,):
        raise UnreadableError(
            f"acquisition {line} holds {flat.size} numbers; expected 2 x {n_coils} channels x "
            f"{size} samples"
        )
    return flat.view(np.complex64).reshape(n_coils, size)


def _refuse_unflagged_reversal(kspace: Tensor) -> None:
    profiles = fourier.ifft(kspace, (-2,)).abs().square().double()  # of the object, by coil
    profiles = profiles[:, :, profiles.any(dim=(0, 1))]
    profiles /= profiles.sum(dim=(0, 1))
    even, odd = (part / part.norm() for part in (_total(profiles, 0), _total(profiles, 1)))
    mirrored = odd.flip(-1).roll(1 - odd.shape[-1] % 2, -1)
    if (even - mirrored).norm() < MIRRORED * (even - odd).norm():
        raise UnreadableError(
            "odd and even lines show the object mirrored: every other line seems to be read "
            "backwards without the flag ACQ_IS_REVERSE, or to be reversed already despite it"
        )


def _total(profiles: Tensor, start: int) -> Tensor:
    return profiles[:, :, start::2].sum(dim=-1)


def _scale(header: Header) -> float:
    vendor = header.scanner.split(" ")[0].lower()
    return SCALES.get(vendor, 1.0)
