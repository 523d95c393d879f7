"""Raw data as scanners give them, in the ISMRMRD format (Inati et al., MRM 77:411, 2017)."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from activemri.data.formats import stored
from activemri.data.formats.radial import refuse_incomplete, resample
from activemri.data.formats.stored import header_number, header_text
from activemri.data.readers import (
    HDF5,
    Reader,
    UnreadableError,
    Volume,
    cached_by_file,
    require_bytes,
)
from activemri.data.slices import Slice
from activemri.mri import fourier
from activemri.mri.coils import mix_coils, noise_covariance, whitening

#: What de-identified files hold in place of a patient.
NOBODY = re.compile(r"anon|unknown|none|n/?a$|[x0\W_]*$", flags=re.IGNORECASE)
#: Trajectories of spokes, by the names that headers have for them.
RADIAL = ("radial", "goldenangle")

#: Flags of an acquisition; the format counts them from 1.
NOISE, CALIBRATION, CALIBRATION_AND_IMAGING, REVERSE = 1 << 18, 1 << 19, 1 << 20, 1 << 21
#: Noise, navigators, phase correction, feedback, dummy and surface coil scans, phase stabilization.
NO_IMAGE = sum(1 << (flag - 1) for flag in (19, 23, 24, 26, 27, 28, 29, 30, 31))

#: Counters that tell images apart, in the order in which they become slices of the volume.
IMAGE_COUNTERS = ("slice", "contrast", "phase", "repetition", "set")
SCALES = {"siemens": 4096.0}  # whose images have values around 1e-4

#: Odd and even lines show the same object along the readout. Read backwards, one of them shows it
#: mirrored: if mirroring leaves less than this share of their difference, a flag is wrong. Sound
#: raw scans of head, knee and body have 1.9 to 11, with every other line reversed 0.09 to 0.53.
MIRRORED = 0.6

#: The format leaves the unit of trajectories open. Of the usual ones, cycles per pixel reach 0.5,
#: cycles per field of view half of its pixels. This share of either is taken for the whole.
REACHED = 0.85

#: Whole numbers that every acquisition has.
HEAD = (
    "flags active_channels number_of_samples center_sample discard_pre discard_post "
    "encoding_space_ref trajectory_dimensions"
).split()
COUNTERS = [*IMAGE_COUNTERS, "kspace_encode_step_1", "kspace_encode_step_2"]

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class ISMRMRDReader(Reader):
    """Reads fully sampled two-dimensional scans, Cartesian and radial ones.

    Every combination of :data:`IMAGE_COUNTERS` is a slice. The height of Cartesian scans is the
    readout; the reference is cropped to the field of view that is to be reconstructed. Lines are
    placed by `center_sample` and by the centre of the encoding limits; what came several times is
    averaged. Radial scans are resampled onto a grid, see :mod:`activemri.data.formats.radial`; the
    first component of their trajectory is along the height.

    Where there are noise scans, coils are prewhitened: noise then is independent and of variance
    one, up to the ratio of the bandwidths and what resampling does to it.

    Refused: undersampled scans (no truth), 3-D and simultaneous multi-slice scans, other
    trajectories (echo-planar, spiral), and scans whose every other line seems to be read backwards
    against what its flag says.
    """

    name: str = "ismrmrd"

    def recognises(self, file: h5py.File) -> bool:
        return bool(_groups(file))

    def describe(self, file: h5py.File) -> Volume:
        scan, acquired = _scan(Path(file.filename)), _acquisitions(file)

        def check(index: int) -> None:
            if scan.columns is None:
                refuse_incomplete(_trajectory(scan, acquired, index)[0], scan.volume.shape)
            else:
                _refuse_incomplete_lines(scan, index)

        stored.require_one_slice(check, scan.volume.n_slices)
        return scan.volume

    def read(self, file: h5py.File, volume: Volume, index: int) -> Slice:
        scan, acquired = _scan(Path(file.filename)), _acquisitions(file)
        if scan.columns is None:
            positions, kept = _trajectory(scan, acquired, index)
            spokes = [_samples(acquired, scan.lines[i], scan.heads[i]) for i in scan.images[index]]
            samples = torch.from_numpy(np.stack(spokes, axis=1)[..., kept])
            kspace, measured, processing = resample(samples, positions, volume.shape)
        else:
            _refuse_incomplete_lines(scan, index)
            kspace, measured, processing = _on_grid(scan, acquired, index)
        scale = SCALES.get(volume.scanner.split(" ")[0].lower(), 1.0)
        if scan.whitening is not None:
            kspace, scale = mix_coils(kspace, scan.whitening).contiguous(), 1.0
            processing += ("prewhitened with the scan's own noise measurement",)
        return volume.slice(
            index, kspace=kspace, scale=scale, measured=measured, processing=processing
        )


@dataclass(frozen=True, eq=False)
class Scan:
    """All headers of a file."""

    volume: Volume
    encoded: int  # pixels along the readout of the encoded space
    chopped: bool  # every other line has to change its sign (GE, parameter ChopY of 0)
    lines: Integers  # places of the imaging lines in the file
    heads: NDArray[Any]  # their own headers, (line,)
    images: tuple[Integers, ...]  # which of them belong to each slice of the volume
    whitening: Tensor | None  # complex (coil, coil), of noise scans
    columns: Integers | None  # of the k-space grid, (line,); None for spokes


@cached_by_file(8)
def _scan(path: Path) -> Scan:
    """Headers of the only measurement, of its first encoding, which imaging lines use."""
    with HDF5.open(path) as file:
        groups = _groups(file)
        if len(groups) > 1:
            raise UnreadableError(f"several measurements ({', '.join(groups)}); split the file")
        header = stored.read_header(file, f"{groups[0]}/xml")
        encoding = header.find("{*}encoding")
        if encoding is None:
            raise UnreadableError("the ISMRMRD header has no 'encoding'")
        if encoding.find("{*}multiband") is not None:
            raise UnreadableError("slices excited together (multiband); expected one at a time")
        factors = "parallelImaging/accelerationFactor/kspace_encoding_step_"
        first, second = (header_number(encoding, f"{factors}{axis}") or 1 for axis in (1, 2))
        if first * second > 1:
            raise UnreadableError(
                f"undersampled (acceleration factor {first * second} in the header): no fully "
                "sampled truth"
            )
        trajectory = (header_text(encoding, "trajectory") or "not stated").lower()
        radial = trajectory in RADIAL
        encoded, shown = _sizes(encoding, radial=radial)
        if not radial and trajectory != "cartesian":
            raise UnreadableError(
                f"not Cartesian: the header's trajectory is {trajectory!r}; expected k-space on a "
                "grid, or 'radial'"
            )
        acquired = _acquisitions(file)
        require_bytes(len(acquired) * acquired.dtype["head"].itemsize, "the acquisitions' headers")
        heads = acquired.fields("head")[:]
        lines, images = _imaging_lines(heads)
        n_coils = _one_value(heads["active_channels"][lines], "channels")
        mixing = None
        if len(noise := np.flatnonzero(heads["flags"] & NOISE)):
            channels = _one_value(heads["active_channels"][noise], "channels of the noise scans")
            if channels != n_coils:
                raise UnreadableError(
                    f"noise scans have {channels} channels, imaging lines {n_coils}"
                )
            samples = np.concatenate([_samples(acquired, int(i), heads[i]) for i in noise], axis=1)
            try:
                mixing = whitening(noise_covariance(torch.from_numpy(samples)))
            except ValueError as error:
                raise UnreadableError(f"noise scans cannot be used: {error}") from error
    chopped = [
        header_text(parameter, "value") == "0"
        for parameter in header.iterfind("{*}userParameters/{*}userParameterLong")
        if header_text(parameter, "name") == "ChopY"
    ][:1] == [True]
    heads = heads[lines]
    columns, place = None, None
    if not radial:
        columns = _columns(heads, encoding, width=encoded[1])
        place = int(columns.min()), int(columns.max()) + 1
    patient = header_text(header, "subjectInformation/patientID")
    return Scan(
        volume=Volume(
            name=path.stem,
            subject=path.stem if patient is None or NOBODY.match(patient) else patient,
            n_slices=len(images),
            shape=shown if radial else encoded,
            target_shape=shown,
            n_coils=n_coils,
            contrast=header_text(header, "measurementInformation/protocolName") or "unknown",
            encoded_columns=place,
            **stored.scanner(header),
        ),
        encoded=encoded[0],
        chopped=chopped,
        lines=lines,
        heads=heads,
        images=images,
        whitening=mixing,
        columns=columns,
    )


def _groups(file: h5py.File) -> list[str]:
    """Groups that hold a header; the format's own name for them is `dataset`."""
    return [k for k in file if isinstance(file.get(k), h5py.Group) and "xml" in file[k]]


def _sizes(encoding: Element, *, radial: bool) -> tuple[tuple[int, int], tuple[int, int]]:
    """(readout, phase encodes) of the encoded space, and of the reconstructed field of view.

    For radial scans, whose encoded grid may have as many columns as spokes, pixels are square.
    """

    def size(space: str, axis: str) -> int:
        found = header_number(encoding, f"{space}/matrixSize/{axis}")
        if found is None or found < 1:
            raise UnreadableError(f"the ISMRMRD header has no {space} matrixSize {axis}")
        return found

    def millimetres(space: str, axis: str) -> float:
        try:
            return float(header_text(encoding, f"{space}/fieldOfView_mm/{axis}") or 0)
        except ValueError:
            return 0.0

    height, width = (size("encodedSpace", axis) for axis in "xy")
    shown = []
    for axis, pixels in zip("xy", (height, height if radial else width), strict=True):
        whole = millimetres("encodedSpace", "x" if radial else axis)
        part = millimetres("reconSpace", axis)
        known = min(whole, part) > 0 and max(whole, part) < math.inf
        found = round(pixels * part / whole) if known else size("reconSpace", axis)
        shown.append(max(1, found if radial else min(found, pixels)))
    return (height, width), (shown[0], shown[1])


def _imaging_lines(heads: NDArray[Any]) -> tuple[Integers, tuple[Integers, ...]]:
    """Acquisitions that are lines of images, and those of each slice."""
    flags = heads["flags"]
    calibrating = (flags & CALIBRATION != 0) & (flags & CALIBRATION_AND_IMAGING == 0)
    aside = (flags & NO_IMAGE != 0) | calibrating
    lines = np.flatnonzero(~aside & (heads["encoding_space_ref"] == 0))
    if len(lines) == 0:
        raise UnreadableError(f"no imaging lines among {len(heads)} acquisitions")
    counters = heads["idx"][lines]
    partitions = len(np.unique(counters["kspace_encode_step_2"]))
    if partitions > 1:
        raise UnreadableError(
            f"3-D: {partitions} values of kspace_encode_step_2; expected a 2-D scan (convert it: "
            "Fourier transform one axis and store the others as slices of 'kspace')"
        )
    keys = np.stack([counters[name] for name in IMAGE_COUNTERS], axis=1)
    which = np.unique(keys, axis=0, return_inverse=True)[1].ravel()
    order = np.argsort(which, kind="stable")
    images = np.split(order, np.flatnonzero(np.diff(which[order])) + 1)
    return lines, tuple(images)


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
    head: Any = found.dtype["head"]
    counters: Any = head["idx"] if "idx" in (head.names or ()) else np.dtype(int)
    for kind, fields in ((head, HEAD), (counters, COUNTERS)):
        missing = [name for name in fields if name not in (kind.names or ())]
        if missing or any(kind[name].kind not in "iu" for name in fields):
            raise UnreadableError(f"headers of acquisitions lack whole numbers {missing or fields}")
    return found


def _samples(acquired: h5py.Dataset, line: int, head: NDArray[Any]) -> NDArray[np.complex64]:
    n_coils, size = int(head["active_channels"]), int(head["number_of_samples"])
    flat = np.asarray(acquired.fields("data")[line], np.float32)
    if flat.shape != (2 * n_coils * size,):
        raise UnreadableError(
            f"acquisition {line} holds {flat.size} numbers; expected 2 x {n_coils} channels x "
            f"{size} samples"
        )
    return flat.view(np.complex64).reshape(n_coils, size)


def _one_value(values: NDArray[Any], what: str) -> int:
    """The number above 0 that all lines share."""
    found = np.unique(values)
    if len(found) > 1 or found[0] == 0:
        raise UnreadableError(f"lines differ in their {what}, or have none: {found.tolist()}")
    return int(found[0])


def _columns(heads: NDArray[Any], encoding: Element, *, width: int) -> Integers:
    """Columns of lines, by their counters: the header's centre comes to the centre of the grid."""
    steps = heads["idx"]["kspace_encode_step_1"].astype(np.int64)
    center = header_number(encoding, "encodingLimits/kspace_encoding_step_1/center")
    last = header_number(encoding, "encodingLimits/kspace_encoding_step_1/maximum") or steps.max()
    if steps.max() > last:
        raise UnreadableError(
            f"lines up to number {steps.max()}, but the header's last is {last}: those beyond may "
            "calibrate echo trains, which cannot be corrected here"
        )
    if center is None:
        if len(np.unique(steps)) != width:
            raise UnreadableError("the header has no encodingLimits of kspace_encoding_step_1")
        center = width // 2
    columns: Integers = width // 2 + steps - center
    if columns.min() < 0 or columns.max() >= width:
        raise UnreadableError(
            f"lines {steps.min()} to {steps.max()} with the centre at {center} do not fit into "
            f"{width} phase encodes"
        )
    return columns


def _refuse_incomplete_lines(scan: Scan, index: int) -> None:
    """Refuse a slice of a Cartesian scan that has no fully sampled truth."""
    assert scan.columns is not None
    came, all_lines = np.unique(scan.columns[scan.images[index]]), len(np.unique(scan.columns))
    first, last, center = came[0], came[-1], scan.volume.shape[1] // 2
    extent = last - first + 1
    if extent > len(came):
        raise UnreadableError(
            f"undersampled ({extent - len(came)} of {extent} lines within the acquired range never "
            "came): no fully sampled truth"
        )
    if len(came) < all_lines:
        raise UnreadableError(f"incomplete: {len(came)} of {all_lines} lines came")
    if not first <= center <= last:
        raise UnreadableError(
            f"incomplete: the centre of k-space never came (columns {first} to {last} did)"
        )


def _on_grid(
    scan: Scan, acquired: h5py.Dataset, index: int
) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """k-space (coil, height, width) of lines, where it was measured, and what was done."""
    assert scan.columns is not None
    height, width = scan.volume.shape
    grid = np.zeros((scan.volume.n_coils, height, width), np.complex64)
    repeats = np.zeros((height, width), np.int64)
    for entry in scan.images[index]:
        head, column = scan.heads[entry], scan.columns[entry]
        samples, center = _samples(acquired, scan.lines[entry], head), int(head["center_sample"])
        size = samples.shape[1]
        if center == 0 and size == height:  # full lines that do not say so are centred
            center = size // 2
        steps = np.arange(size) - center
        rows = height // 2 + (-steps if int(head["flags"]) & REVERSE else steps)
        inside = (rows >= 0) & (rows < height)
        if size - inside.sum() > 1:  # one hangs over where an even number is mirrored
            raise UnreadableError(
                f"{size} samples with the centre at {center} do not fit into a readout of {height}"
            )
        inside[: head["discard_pre"]] = inside[max(size - int(head["discard_post"]), 0) :] = False
        grid[:, rows[inside], column] += samples[:, inside]
        repeats[rows[inside], column] += 1
    grid /= np.maximum(repeats, 1).astype(np.float32)
    kspace, processing = torch.from_numpy(grid), list[str]()
    stored.refuse_unusable(kspace, "k-space")

    profiles = fourier.ifft(kspace, (-2,)).abs().square().double()  # of the object, by coil
    profiles = profiles[:, :, profiles.any(dim=(0, 1))]
    profiles /= profiles.sum(dim=(0, 1))
    totals = [profiles[:, :, start::2].sum(dim=-1) for start in (0, 1)]
    even, odd = (total / total.norm() for total in totals)
    mirrored = odd.flip(-1).roll(1 - odd.shape[-1] % 2, -1)
    if (even - mirrored).norm() < MIRRORED * (even - odd).norm():
        raise UnreadableError(
            "odd and even lines show the object mirrored: every other line seems to be read "
            "backwards without the flag ACQ_IS_REVERSE, or to be reversed already despite it"
        )

    if scan.chopped:
        kspace[:, :, 1::2] *= -1
        processing.append("sign of every other line changed")
    if repeats.max() > 1:
        processing.append(f"mean of up to {repeats.max()} repeated lines")
    return kspace, torch.from_numpy(repeats > 0), tuple(processing)


def _trajectory(
    scan: Scan, acquired: h5py.Dataset, index: int
) -> tuple[NDArray[np.float64], slice]:
    """Cycles per pixel of an image's samples, (spoke, sample, 2), and their places on a spoke."""
    n_samples = _one_value(scan.heads["number_of_samples"], "samples")
    axes = np.unique(scan.heads["trajectory_dimensions"])
    if axes[0] == 0:
        raise UnreadableError(
            "missing trajectory: trajectory_dimensions is 0, and the header does not say where "
            "radial samples lie; store it in 'traj' (two components a sample, in cycles per pixel)"
        )
    if len(axes) > 1 or axes[0] not in (2, 3):
        raise UnreadableError(
            f"trajectory_dimensions must be 2, or 3 with a density, for all spokes; got "
            f"{axes.tolist()}"
        )
    if scan.chopped:
        raise UnreadableError(
            "signs of every other line are to be changed (ChopY is 0), which is done for Cartesian "
            "scans only"
        )
    if "traj" not in acquired.dtype.names:
        raise UnreadableError("missing trajectory: acquisitions have no field 'traj'")
    n_axes, spokes = int(axes[0]), []
    for line in scan.lines[scan.images[index]]:
        flat = np.asarray(acquired.fields("traj")[line], np.float64)
        if flat.shape != (n_samples * n_axes,):
            raise UnreadableError(
                f"missing trajectory: acquisition {line} holds {flat.size} numbers of it; expected "
                f"{n_samples} samples x {n_axes}"
            )
        spokes.append(flat.reshape(n_samples, n_axes))
    positions = np.stack(spokes)
    if (positions[..., 2:] < 0).any():
        raise UnreadableError(
            "3-D: the trajectory's third component has negative values and thus is no density; "
            "expected a 2-D scan"
        )
    heads = scan.heads[scan.images[index]]
    discarded = np.unique(np.stack([heads["discard_pre"], heads["discard_post"]], axis=1), axis=0)
    if len(discarded) > 1:
        raise UnreadableError(
            f"spokes differ in the samples that are to be discarded: {discarded.tolist()} at their "
            "beginnings and ends"
        )
    kept = slice(int(discarded[0, 0]), max(n_samples - int(discarded[0, 1]), 0))
    positions = positions[:, kept, :2]
    if not np.isfinite(positions).all():
        raise UnreadableError("NaN or Inf in the trajectory")
    reach = float(np.linalg.norm(positions, axis=-1).max(initial=0))
    if reach == 0:
        raise UnreadableError("missing trajectory: all of its values are zero")
    # Units: half of the pixels of the encoded or of the final image.
    wholes = sorted(n / 2 for n in {scan.encoded, max(scan.volume.shape)})
    fitting = [whole for whole in (0.5, *wholes) if REACHED * whole <= reach <= 1.001 * whole]
    if len(fitting) != 1:
        raise UnreadableError(
            f"the unit of the trajectory cannot be told: it reaches {reach:.4g}; expected about "
            f"0.5 (cycles per pixel) or about {' or '.join(f'{whole:g}' for whole in wholes)} "
            "(cycles per field of view)"
        )
    return positions * (0.5 / fitting[0]), kept
