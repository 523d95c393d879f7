"""Spokes of an ISMRMRD file, resampled onto a grid from where their trajectories say."""

from dataclasses import dataclass

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from activemri.data.formats.ismrmrd_acquisitions import (
    Acquisitions,
    Integers,
    acquisitions,
    one_value,
)
from activemri.data.formats.radial import refuse_incomplete, resample
from activemri.data.readers import UnreadableError

#: The format leaves the unit of trajectories open. Of the usual ones, cycles per pixel reach 0.5,
#: cycles per field of view half of its pixels. This share of either is taken for the whole.
REACHED = 0.85


@dataclass(frozen=True, eq=False)
class Spokes:
    """The spokes of a scan; where they lie is read with their samples.

    The file's first component is along the height, as the readout of Cartesian scans is.

    Attributes:
        scan: the lines.
    """

    scan: Acquisitions

    @property
    def shape(self) -> tuple[int, int]:
        return self.scan.header.square_shape

    @property
    def target_shape(self) -> tuple[int, int]:
        return self.shape

    @property
    def encoded_columns(self) -> None:
        """There are no columns."""
        return None

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
        found = resample(
            torch.from_numpy(samples[:, :, first:end]), self._trajectory(file, index), self.shape
        )
        return found.kspace, found.measured, found.processing

    def _trajectory(self, file: h5py.File, index: int) -> NDArray[np.float64]:
        """In cycles per pixel, (spoke, sample, 2)."""
        entries = self.scan.images[index]
        stored = np.stack([_positions(file, self.scan, int(entry)) for entry in entries])
        first, end = self._kept(entries)
        pixels = {self.scan.header.shape[0], max(self.shape)}  # of the encoded, the final image
        return _in_cycles_per_pixel(stored[:, first:end], pixels)

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


def _in_cycles_per_pixel(positions: NDArray[np.float64], pixels: set[int]) -> NDArray[np.float64]:
    if not np.isfinite(positions).all():
        raise UnreadableError("NaN or Inf in the trajectory")
    reach = float(np.linalg.norm(positions, axis=-1).max(initial=0))
    if reach == 0:
        raise UnreadableError("missing trajectory: all of its values are zero")
    wholes = sorted(n / 2 for n in pixels)
    fitting = [whole for whole in (0.5, *wholes) if REACHED * whole <= reach <= 1.001 * whole]
    if len(fitting) != 1:
        raise UnreadableError(
            f"the unit of the trajectory cannot be told: it reaches {reach:.4g}; expected about "
            f"0.5 (cycles per pixel) or about {' or '.join(f'{whole:g}' for whole in wholes)} "
            "(cycles per field of view)"
        )
    return positions * (0.5 / fitting[0])
