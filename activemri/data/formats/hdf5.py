"""The generic HDF5 layout: a data set `image` or `kspace`, and a few attributes."""

from contextlib import suppress
from dataclasses import dataclass

import h5py
import torch
from torch import Tensor

from activemri.data.formats import stored
from activemri.data.formats.radial import refuse_incomplete, resample
from activemri.data.images import contrast_of, largest_magnitude, slice_of_image
from activemri.data.readers import Reader, UnreadableError, Volume, guarded, require_size
from activemri.data.slices import ACQUIRED, BARE, COMBINED, SYNTHETIC, Slice
from activemri.files import parse_json

IMAGE_AXES = "(slice, height, width)"
KSPACE_AXES = "(slice, coil, height, width)"
RADIAL_AXES = "(frame, coil, spoke, sample)"
TRAJECTORY_AXES = "(frame, spoke, sample, 2)"


@dataclass(frozen=True)
class HDF5Reader(Reader):
    """Reads volumes of images or raw k-space.

    Data sets, one of:

    - `image` (slice, height, width), float (magnitude) or complex: one coil, whose k-space is the
      centred orthonormal Fourier transform of the image.
    - `kspace` (slice, coil, height, width), complex, centred; height is the readout. The reference
      is the image of all coils, see :func:`activemri.data.standard.magnitude_reference`.

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
    slice, of as many pixels in each direction as spokes have samples over `readout_oversampling`,
    resampled onto a grid by :mod:`activemri.data.formats.radial`.
    """

    synthetic_phase: bool = True  # give magnitude-only images a phase and noise
    name: str = "hdf5"

    def recognises(self, file: h5py.File) -> bool:
        return "image" in file or "kspace" in file

    def describe(self, file: h5py.File) -> Volume:
        n_coils, largest = 1, None
        if "trajectory" in file:
            kspace, trajectory = _radial_data_sets(file)
            n_slices, n_coils, n_spokes, n_samples = kspace.shape
            require_size(n_slices, (n_spokes, n_samples), n_coils)
            side, _ = _without_oversampling(file, (n_samples, n_samples))
            target_shape = shape = (side, side)
            require_size(n_slices, shape, n_coils)
            stored.require_one_slice(lambda i: refuse_incomplete(trajectory[i], shape), n_slices)
        elif "kspace" in file:
            kspace = stored.samples(file, "kspace", ndim=(4,), axes=KSPACE_AXES, kind="complex")
            n_slices, n_coils, *sizes = kspace.shape
            shape = sizes[0], sizes[1]
            target_shape = _stored_target_shape(file) or _without_oversampling(file, shape)
        else:
            image = stored.samples(file, "image", ndim=(3,), axes=IMAGE_AXES)
            n_slices, *sizes = image.shape
            shape = sizes[0], sizes[1]
            require_size(n_slices, shape)
            target_shape = _without_oversampling(file, shape)
            if image.dtype.kind != "c" or stored.text(file, "phase") == "magnitude only":
                largest = 0.0
                for index in range(n_slices):
                    with suppress(UnreadableError), guarded():  # read() will name this slice
                        largest = max(largest, largest_magnitude(image[index]))
        contrast, simulated = stored.text(file, "contrast"), stored.text(file, "simulated")
        phase = ACQUIRED
        if largest is not None or "phase" in (simulated or ""):
            phase = SYNTHETIC if largest is None or self.synthetic_phase else BARE
        if "converted_from" not in file.attrs:  # else it is the short name already
            contrast = contrast_of(contrast)
        return Volume(
            name=stored.stem(file),
            subject=stored.text(file, "subject_id") or stored.stem(file),
            n_slices=n_slices,
            shape=shape,
            target_shape=target_shape,
            n_coils=n_coils,
            contrast=contrast or "unknown",
            field_strength=stored.tesla(stored.text(file, "field_strength")),
            scanner=stored.text(file, "scanner") or "unknown",
            split=stored.text(file, "split"),
            magnitude_only=largest is not None,
            phase=phase,
            simulated=simulated,
            largest=largest,
            target="own" if "kspace" in file and "target" in file else COMBINED,
        )

    def read(self, file: h5py.File, volume: Volume, index: int) -> Slice:
        # The steps that the file names. Free text of other programs is one step.
        named = stored.text(file, "processing")
        try:
            steps = [] if named is None else parse_json(named, "'processing'")
        except ValueError:
            steps = named
        processing = tuple(map(str, steps if isinstance(steps, list) else [steps]))
        if "trajectory" in file:
            dataset, trajectory = _radial_data_sets(file)
            samples = stored.read(dataset, index)
            kspace, inside, done = resample(samples, trajectory[index], volume.shape)
            processing += done
            return volume.slice(index, kspace=kspace, measured=inside, processing=processing)
        if "kspace" in file:

            def beside(key: str) -> Tensor | None:
                return stored.read(file[key], index) if key in file else None

            measured = (
                torch.from_numpy(file["measured"][index] != 0) if "measured" in file else None
            )
            return volume.slice(
                index,
                kspace=stored.read(file["kspace"], index),
                target=beside("target"),
                measured=measured,
                sensitivity=beside("sensitivity"),
                label=torch.as_tensor(file["label"][index]) if "label" in file else None,
                processing=processing,
            )
        return slice_of_image(
            volume,
            index,
            stored.read(file["image"], index),
            file=stored.stem(file),
            synthetic_phase=self.synthetic_phase,
            processing=processing,
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


def _stored_target_shape(file: h5py.File) -> tuple[int, int] | None:
    """Size of the stored reference, if there is one; all that is stored must fit together."""
    kspace = file["kspace"].shape
    n_slices, _, height, width = kspace
    for key, shape in {"sensitivity": kspace, "measured": (n_slices, height, width)}.items():
        if key in file:
            stored.require_shape(file, key, shape)
    if "label" in file:
        label = file["label"]
        if not isinstance(label, h5py.Dataset) or label.shape[:1] != (n_slices,):
            raise UnreadableError(
                f"'label' must have {n_slices} slices, as 'kspace'; got {label!r}"
            )
        require_size(n_slices, label.shape[1:])
    if "target" not in file:
        return None
    target = stored.samples(file, "target", ndim=(3,), axes=IMAGE_AXES)
    if len(target) != n_slices or target.shape[1] > height or target.shape[2] > width:
        raise UnreadableError(
            f"'target' must fit into 'kspace' {kspace}; got the shape {target.shape}"
        )
    return target.shape[1], target.shape[2]


def _without_oversampling(file: h5py.File, shape: tuple[int, int]) -> tuple[int, int]:
    value = stored.text(file, "readout_oversampling") or "1"
    try:
        factor = float(value)
    except ValueError:
        factor = float("nan")
    if not 1 <= factor <= 16:
        raise UnreadableError(f"'readout_oversampling' must be a number of 1 or more; got {value}")
    return round(shape[0] / factor), shape[1]
