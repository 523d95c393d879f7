"""Radial scans of the generic HDF5 layout: data sets `kspace` and `trajectory`."""

import h5py
import numpy as np
from numpy.typing import NDArray

from activemri.data.formats import stored
from activemri.data.formats.radial import Resampled, refuse_incomplete, resample
from activemri.data.readers import UnreadableError

KSPACE_AXES = "(frame, coil, spoke, sample)"
TRAJECTORY_AXES = "(frame, spoke, sample, 2)"


def is_radial(file: h5py.File) -> bool:
    """Whether the file has a trajectory, even if it turns out to be damaged."""
    return "trajectory" in file


def refuse_incomplete_frames(file: h5py.File, shape: tuple[int, int]) -> None:
    """Refuse a file none of whose frames is fully sampled.

    Args:
        file: the open file.
        shape: (height, width) of the images.

    Raises:
        UnreadableError: with the reason of the first frame, or if data sets do not fit together.
    """
    first: UnreadableError | None = None
    for index in range(len(_data_sets(file)[0])):
        try:
            return refuse_incomplete(_trajectory(file, index), shape)
        except UnreadableError as error:
            first = first or error
    if first is not None:
        raise first


def read_frame(file: h5py.File, index: int, shape: tuple[int, int]) -> Resampled:
    """One frame on a grid of (height, width).

    Raises:
        UnreadableError: as :func:`activemri.data.formats.radial.resample`.
    """
    samples = stored.read_slice(_data_sets(file)[0], index)
    return resample(samples, _trajectory(file, index), shape)


def _data_sets(file: h5py.File) -> tuple[h5py.Dataset, h5py.Dataset]:
    kspace = stored.samples(file, "kspace", ndim=(4,), axes=KSPACE_AXES)
    trajectory = stored.samples(file, "trajectory", ndim=(4,), axes=TRAJECTORY_AXES)
    expected = (kspace.shape[0], *kspace.shape[2:], 2)
    if trajectory.shape != expected or trajectory.dtype.kind == "c":
        raise UnreadableError(
            f"'trajectory' must be real with the axes {TRAJECTORY_AXES}, {expected} as 'kspace' "
            f"has {kspace.shape}; got {trajectory.dtype} {trajectory.shape}"
        )
    return kspace, trajectory


def _trajectory(file: h5py.File, index: int) -> NDArray[np.float64]:
    return np.asarray(_data_sets(file)[1][index], np.float64)
