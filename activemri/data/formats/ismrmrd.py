"""Raw data as scanners give them, in the ISMRMRD format (Inati et al., MRM 77:411, 2017)."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from activemri.data.formats import stored
from activemri.data.formats.ismrmrd_scan import (
    Acquisitions,
    Integers,
    acquisitions,
    groups,
    one_value,
    read_acquisitions,
    read_header,
)
from activemri.data.formats.radial import refuse_incomplete, resample
from activemri.data.readers import HDF5, Container, UnreadableError, Volume, cached_by_file
from activemri.data.slices import Slice
from activemri.mri import fourier
from activemri.mri.coils import mix_coils

#: Siemens stores values around 1e-4 (fastMRI has them unchanged), where squares get lost in
#: float32. A constant power of two, exact; scans with noise measurements need none.
SCALES = {"siemens": 4096.0}

#: Odd and even lines show the same object along the readout. Read backwards, one of them shows it
#: mirrored: if mirroring leaves less than this share of their difference, a flag is wrong. Sound
#: raw scans of head, knee and body have 1.9 to 11, with every other line reversed 0.09 to 0.53.
MIRRORED = 0.6

#: The format leaves the unit of trajectories open. Of the usual ones, cycles per pixel reach 0.5,
#: cycles per field of view half of its pixels. This share of either is taken for the whole.
REACHED = 0.85


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
        lines = _lines(Path(file.filename))
        scan, header = lines.scan, lines.scan.header
        problems = [lines.problem(file, index) for index in range(len(scan.images))]
        if None not in problems:  # no slice is complete
            raise UnreadableError(str(problems[0]))
        return Volume(
            name=stored.stem(file),
            subject=header.patient or stored.stem(file),
            n_slices=len(scan.images),
            n_coils=scan.n_coils,
            **lines.frame,
            **header.labels,
        )

    def read(self, file: h5py.File, volume: Volume, index: int) -> Slice:
        lines = _lines(Path(file.filename))
        kspace, measured, processing = lines.read(file, index)
        if lines.scan.whitening is not None:
            kspace = mix_coils(kspace, lines.scan.whitening).contiguous()
            processing += ("prewhitened with the scan's own noise measurement",)
        else:
            vendor = lines.scan.header.labels["scanner"].split(" ")[0].lower()
            if (scale := SCALES.get(vendor)) is not None:
                kspace *= scale
                processing += (f"multiplied by {scale:g}",)
        return volume.slice(index, kspace=kspace, measured=measured, processing=processing)


@dataclass(frozen=True, eq=False)
class CartesianLines:
    """Places of the lines of a Cartesian scan.

    Attributes:
        scan: the lines.
        columns: of the k-space grid, (line,).
        centers: the sample at the centre of k-space, (line,).
    """

    scan: Acquisitions
    columns: Integers
    centers: Integers

    @property
    def frame(self) -> dict[str, Any]:
        """Sizes and the columns that any image has, as fields of a volume."""
        header = self.scan.header
        columns = int(self.columns.min()), int(self.columns.max()) + 1
        return {
            "shape": header.shape,
            "target_shape": header.target_shape,
            "encoded_columns": columns,
        }

    def problem(self, file: h5py.File, index: int) -> str | None:
        """Why a slice has no fully sampled truth, or None."""
        came = np.unique(self.columns[self.scan.images[index]])
        first, last, center = came[0], came[-1], self.scan.header.shape[1] // 2
        if last - first + 1 > len(came):
            missing = last - first + 1 - len(came)
            return (
                f"undersampled ({missing} of {last - first + 1} lines within the acquired range "
                "never came): no fully sampled truth"
            )
        if len(came) < len(np.unique(self.columns)):
            return f"incomplete: {len(came)} of {len(np.unique(self.columns))} lines came"
        if not first <= center <= last:
            return f"incomplete: the centre of k-space never came (columns {first} to {last} did)"
        return None

    def read(self, file: h5py.File, index: int) -> tuple[Tensor, Tensor, tuple[str, ...]]:
        """k-space (coil, height, width), where it was measured, and what was done."""
        if (problem := self.problem(file, index)) is not None:
            raise UnreadableError(problem)
        scan, (height, width) = self.scan, self.scan.header.shape
        sizes, kept, reverse = scan.sizes, scan.kept, scan.reverse
        grid = np.zeros((scan.n_coils, height, width), np.complex64)
        repeats = np.zeros((height, width), np.int64)
        for entry in scan.images[index]:
            size, column, center = sizes[entry], self.columns[entry], self.centers[entry]
            steps = np.arange(size) - center
            rows = height // 2 + (-steps if reverse[entry] else steps)
            inside = (rows >= 0) & (rows < height)
            if size - inside.sum() > 1:  # one hangs over where an even number is mirrored
                raise UnreadableError(
                    f"{size} samples with the centre at {center} do not fit into a readout of "
                    f"{height}"
                )
            inside[: kept[entry, 0]] = inside[kept[entry, 1] :] = False
            grid[:, rows[inside], column] += scan.samples(file, int(entry))[:, inside]
            repeats[rows[inside], column] += 1
        grid /= np.maximum(repeats, 1).astype(np.float32)
        kspace, processing = torch.from_numpy(grid), list[str]()
        stored.refuse_unusable(kspace, "k-space")
        _refuse_unflagged_reversal(kspace)
        if scan.header.chopped:
            kspace[:, :, 1::2] *= -1
            processing.append("sign of every other line changed")
        if repeats.max() > 1:
            processing.append(f"mean of up to {repeats.max()} repeated lines")
        return kspace, torch.from_numpy(repeats > 0), tuple(processing)


def cartesian_lines(scan: Acquisitions) -> CartesianLines:
    """Place lines by their counters: the header's centre comes to the centre of the grid.

    Raises:
        UnreadableError: if they do not fit into the header's grid.
    """
    header = scan.header
    steps = scan.heads["idx"]["kspace_encode_step_1"].astype(np.int64)
    width, center = header.shape[1], header.center
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
    # Full lines that do not say which sample is at the centre are centred.
    centers = scan.heads["center_sample"].astype(np.int64)
    unset = (centers == 0) & (scan.sizes == header.shape[0])
    return CartesianLines(scan, columns, np.where(unset, scan.sizes // 2, centers))


def _refuse_unflagged_reversal(kspace: Tensor) -> None:
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


@dataclass(frozen=True, eq=False)
class Spokes:
    """The spokes of a scan; their trajectory is read with their samples.

    The file's first component is along the height, as the readout of Cartesian scans is.
    """

    scan: Acquisitions

    @property
    def shape(self) -> tuple[int, int]:
        return self.scan.header.square_shape

    @property
    def frame(self) -> dict[str, Any]:
        """Sizes, as fields of a volume."""
        return {"shape": self.shape, "target_shape": self.shape}

    def problem(self, file: h5py.File, index: int) -> str | None:
        """Why a slice has no fully sampled truth, or None."""
        try:
            refuse_incomplete(self._trajectory(file, index), self.shape)
        except UnreadableError as error:
            return str(error)
        return None

    def read(self, file: h5py.File, index: int) -> tuple[Tensor, Tensor, tuple[str, ...]]:
        """k-space (coil, height, width), where it was measured, and what was done."""
        entries = self.scan.images[index]
        samples = np.stack([self.scan.samples(file, int(entry)) for entry in entries], axis=1)
        first, end = self._kept(entries)
        kept = torch.from_numpy(samples[:, :, first:end])
        return resample(kept, self._trajectory(file, index), self.shape)

    def _trajectory(self, file: h5py.File, index: int) -> NDArray[np.float64]:
        """In cycles per pixel, (spoke, sample, 2)."""
        entries = self.scan.images[index]
        first, end = self._kept(entries)
        stored = np.stack([_positions(file, self.scan, int(entry)) for entry in entries])
        positions = stored[:, first:end]
        if not np.isfinite(positions).all():
            raise UnreadableError("NaN or Inf in the trajectory")
        reach = float(np.linalg.norm(positions, axis=-1).max(initial=0))
        if reach == 0:
            raise UnreadableError("missing trajectory: all of its values are zero")
        pixels = {self.scan.header.shape[0], max(self.shape)}  # of the encoded, the final image
        wholes = sorted(n / 2 for n in pixels)
        fitting = [whole for whole in (0.5, *wholes) if REACHED * whole <= reach <= 1.001 * whole]
        if len(fitting) != 1:
            raise UnreadableError(
                f"the unit of the trajectory cannot be told: it reaches {reach:.4g}; expected "
                "about 0.5 (cycles per pixel) or about "
                f"{' or '.join(f'{whole:g}' for whole in wholes)} (cycles per field of view)"
            )
        return positions * (0.5 / fitting[0])

    def _kept(self, entries: Integers) -> tuple[int, int]:
        """First and one past the last sample that is not to be discarded."""
        found = np.unique(self.scan.kept[entries], axis=0)
        if len(found) > 1:
            raise UnreadableError(
                f"spokes differ in the samples that are to be discarded: {found.tolist()} are kept"
            )
        return int(found[0, 0]), int(found[0, 1])


def spokes(scan: Acquisitions) -> Spokes:
    """Take lines for spokes.

    Raises:
        UnreadableError: if they differ in their samples, or have no trajectory.
    """
    one_value(scan.sizes, "samples")
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
    if scan.header.chopped:
        raise UnreadableError(
            "signs of every other line are to be changed (ChopY is 0), which is done for Cartesian "
            "scans only"
        )
    return Spokes(scan)


def _positions(file: h5py.File, scan: Acquisitions, entry: int) -> NDArray[np.float64]:
    """Two components of the trajectory of one spoke, as stored, (sample, 2)."""
    line, head = int(scan.lines[entry]), scan.heads[entry]
    n_samples, n_axes = int(head["number_of_samples"]), int(head["trajectory_dimensions"])
    found = acquisitions(file)
    if "traj" not in found.dtype.names:
        raise UnreadableError("missing trajectory: acquisitions have no field 'traj'")
    flat = np.asarray(found.fields("traj")[line], np.float64)
    if flat.shape != (n_samples * n_axes,):
        raise UnreadableError(
            f"missing trajectory: acquisition {line} holds {flat.size} numbers of it; expected "
            f"{n_samples} samples x {n_axes}"
        )
    positions = flat.reshape(n_samples, n_axes)
    if (positions[:, 2:] < 0).any():
        raise UnreadableError(
            "3-D: the trajectory's third component has negative values and thus is no density; "
            "expected a 2-D scan"
        )
    return positions[:, :2]


#: Functions that place the lines of a trajectory, by the name that headers have for it.
TRAJECTORIES: dict[str, Callable[[Acquisitions], CartesianLines | Spokes]] = {
    "cartesian": cartesian_lines,
    "radial": spokes,
    "goldenangle": spokes,
}


@cached_by_file(8)
def _lines(path: Path) -> CartesianLines | Spokes:
    """The headers of all lines, read once for each file and not for each slice."""
    with h5py.File(path, "r") as file:
        header = read_header(file)
        place = TRAJECTORIES.get(header.trajectory)
        if place is None:
            raise UnreadableError(
                f"not Cartesian: the header's trajectory is {header.trajectory!r}; expected "
                "k-space on a grid, or 'radial'"
            )
        return place(read_acquisitions(file, header))
