"""The generic HDF5 layout: a data set `image` or `kspace`, and a few attributes."""

import json
from dataclasses import dataclass, replace
from typing import ClassVar

import h5py
import numpy as np
import torch

from activemri.data.formats import stored
from activemri.data.formats.radial import refuse_incomplete, resample
from activemri.data.images import NOISE, contrast_of, largest_magnitude, slice_of_image
from activemri.data.readers import HDF5, Container, UnreadableError, Volume
from activemri.data.slices import Slice

IMAGE_AXES = "(slice, height, width)"
KSPACE_AXES = "(slice, coil, height, width)"
RADIAL_AXES = "(frame, coil, spoke, sample)"
TRAJECTORY_AXES = "(frame, spoke, sample, 2)"


@dataclass(frozen=True)
class HDF5Reader:
    """Reads volumes of images or raw k-space.

    Data sets, one of:

    - `image` (slice, height, width), float (magnitude) or complex: one coil, whose k-space is the
      centred orthonormal Fourier transform of the image.
    - `kspace` (slice, coil, height, width), complex, centred; height is the readout. The reference
      is the root of the sum of squares over the coils, orthonormal.

    Beside `kspace`, all optional and each for all slices: `target` (slice, height, width), the
    magnitude reference, at most as large as k-space; `sensitivity`, coil maps like `kspace`;
    `measured` (slice, height, width), bool, False where the scanner never sampled; `label`
    (slice, ...), what a downstream network should find.

    Attributes of the file, all optional: `subject_id` (default: the file's stem), `split`,
    `contrast`, `field_strength` (number or text such as "3T (per the authors)"), `scanner` (maker
    and model), `phase` ("magnitude only"), `readout_oversampling` (2: the field of view is doubled
    along the readout, and the reference is its central half), `processing` (JSON list of texts:
    what was done to the data before), `simulated` (what no scanner has measured, e.g. "coils").

    Magnitude-only images get a smooth phase and noise by default, see
    :func:`activemri.data.images.slice_of_image`.

    With `trajectory` (frame, spoke, sample, 2), real, beside `kspace` (frame, coil, spoke, sample)
    the scan is radial. Positions are in cycles per pixel, along the height first. A frame is a
    slice, of as many pixels in each direction as spokes have samples over `readout_oversampling`.
    Fully sampled frames are resampled onto a grid, see :mod:`activemri.data.formats.radial`;
    further data sets are not read. Other trajectories are refused.

    Attributes:
        synthetic_phase: give magnitude-only images a phase and noise.
        noise: standard deviation of that noise as a share of the largest magnitude of the volume.
    """

    synthetic_phase: bool = True
    noise: float = NOISE
    name: str = "hdf5"
    container: ClassVar[Container] = HDF5

    def recognises(self, file: h5py.File) -> bool:
        return "image" in file or "kspace" in file

    def describe(self, file: h5py.File) -> Volume:
        if "trajectory" in file:
            kspace, trajectory = _radial_data_sets(file)
            shape = (round(kspace.shape[3] / _oversampling(file)),) * 2
            n_frames, n_coils = kspace.shape[:2]
            reasons = []
            for frame in trajectory:  # one that is fully sampled is enough
                try:
                    refuse_incomplete(frame.astype(np.float64), shape)
                    break
                except UnreadableError as error:
                    reasons.append(error)
            else:
                raise reasons[0]
            return _describe(
                file, shape=shape, n_slices=n_frames, n_coils=n_coils, target_shape=shape
            )
        if "kspace" in file:
            kspace = stored.samples(file, "kspace", ndim=(4,), axes=KSPACE_AXES, kind="complex")
            n_slices, n_coils, *shape = kspace.shape
            return _describe(
                file,
                shape=tuple(shape),
                n_slices=n_slices,
                n_coils=n_coils,
                target_shape=_stored_target_shape(file, kspace.shape),
            )
        image = stored.samples(file, "image", ndim=(3,), axes=IMAGE_AXES)
        magnitude_only = image.dtype.kind != "c" or stored.text(file, "phase") == "magnitude only"
        volume = _describe(file, shape=image.shape[1:], n_slices=image.shape[0])
        return replace(
            volume,
            magnitude_only=magnitude_only,
            largest=_largest(image) if magnitude_only else None,
        )

    def read(self, file: h5py.File, volume: Volume, index: int) -> Slice:
        if "trajectory" in file:
            samples, trajectory = _radial_data_sets(file)
            spokes = stored.read(samples, index)
            positions = np.asarray(trajectory[index], np.float64)
            kspace, measured, done = resample(spokes, positions, volume.shape)
            processing = (*_processing(file), *done)
            return volume.slice(index, kspace=kspace, measured=measured, processing=processing)
        if "kspace" in file:
            return _read_kspace(file, volume, index)
        return slice_of_image(
            volume,
            index,
            stored.read(file["image"], index),
            file=stored.stem(file),
            synthetic_phase=self.synthetic_phase,
            noise=self.noise,
            processing=_processing(file),
        )


def _radial_data_sets(file: h5py.File) -> tuple[h5py.Dataset, h5py.Dataset]:
    kspace = stored.samples(file, "kspace", ndim=(4,), axes=RADIAL_AXES, kind="complex")
    trajectory = stored.samples(file, "trajectory", ndim=(4,), axes=TRAJECTORY_AXES)
    expected = (kspace.shape[0], *kspace.shape[2:], 2)
    if trajectory.shape != expected or trajectory.dtype.kind == "c":
        raise UnreadableError(
            f"'trajectory' must be real with the axes {TRAJECTORY_AXES}, {expected} as 'kspace' "
            f"has {kspace.shape}; got {trajectory.dtype} {trajectory.shape}"
        )
    return kspace, trajectory


def _stored_target_shape(file: h5py.File, kspace: tuple[int, ...]) -> tuple[int, int] | None:
    """Size of the stored reference, if there is one; all that is stored must fit together."""
    n_slices, _, height, width = kspace
    expected = {"sensitivity": kspace, "measured": (n_slices, height, width)}
    for key, shape in expected.items():
        if key in file and file[key].shape != shape:
            raise UnreadableError(
                f"{key!r} must have the shape {shape}, as 'kspace' has {kspace}; "
                f"got {file[key].shape}"
            )
    if "label" in file and len(file["label"]) != n_slices:
        raise UnreadableError(f"'label' has {len(file['label'])} slices, 'kspace' has {n_slices}")
    if "target" not in file:
        return None
    target = stored.samples(file, "target", ndim=(3,), axes=IMAGE_AXES)
    if len(target) != n_slices or target.shape[1] > height or target.shape[2] > width:
        raise UnreadableError(
            f"'target' must fit into 'kspace' {kspace}; got the shape {target.shape}"
        )
    return target.shape[1], target.shape[2]


def _describe(
    file: h5py.File,
    *,
    shape: tuple[int, int],
    n_slices: int,
    n_coils: int = 1,
    target_shape: tuple[int, int] | None = None,
) -> Volume:
    # Files that `activemri data convert` wrote hold the contrast's short name already.
    contrast = stored.text(file, "contrast")
    if "converted_from" not in file.attrs:
        contrast = contrast_of(contrast)
    return Volume(
        name=stored.stem(file),
        subject=stored.text(file, "subject_id") or stored.stem(file),
        n_slices=n_slices,
        shape=shape,
        target_shape=target_shape or (round(shape[0] / _oversampling(file)), shape[1]),
        n_coils=n_coils,
        contrast=contrast or "unknown",
        field_strength=stored.tesla(stored.text(file, "field_strength")),
        scanner=stored.text(file, "scanner") or "unknown",
        split=stored.text(file, "split"),
        simulated=stored.text(file, "simulated"),
    )


def _read_kspace(file: h5py.File, volume: Volume, index: int) -> Slice:
    kspace = stored.read(file["kspace"], index)
    maps = stored.read(file["sensitivity"], index) if "sensitivity" in file else None
    target = stored.read(file["target"], index) if "target" in file else None
    measured = torch.from_numpy(file["measured"][index] != 0) if "measured" in file else None
    return volume.slice(
        index,
        kspace=kspace,
        target=target,
        measured=measured,
        sensitivity=maps,
        label=torch.as_tensor(file["label"][index]) if "label" in file else None,
        processing=_processing(file),
    )


def _processing(file: h5py.File) -> tuple[str, ...]:
    """The steps that the file names. Free text of other programs is one step."""
    value = stored.text(file, "processing")
    if value is None:
        return ()
    try:
        steps = json.loads(value)
    except ValueError:
        steps = value
    return tuple(str(step) for step in steps) if isinstance(steps, list) else (str(steps),)


def _oversampling(file: h5py.File) -> float:
    value = stored.text(file, "readout_oversampling") or "1"
    try:
        factor = float(value)
    except ValueError:
        factor = float("nan")
    if not 1 <= factor <= 16:
        raise UnreadableError(f"'readout_oversampling' must be a number of 1 or more; got {value}")
    return factor


def _largest(image: h5py.Dataset) -> float:
    """Largest finite magnitude of the volume, read slice by slice."""
    largest = 0.0
    for index in range(len(image)):
        try:
            largest = max(largest, largest_magnitude(image[index]))
        except OSError:  # a damaged chunk: read() will name this slice
            continue
    return largest
