"""NIfTI: volumes of images, as most public collections of brains publish them."""

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from activemri.data.images import contrast_of, largest_magnitude, slice_of_image
from activemri.data.readers import (
    Container,
    OpenedFile,
    Reader,
    UnreadableError,
    Volume,
    cached_by_file,
    require_bytes,
    require_size,
)
from activemri.data.slices import ACQUIRED, BARE, SYNTHETIC, Slice
from activemri.files import read_json

#: Names of files that hold masks, segmentations, phase.
NO_IMAGE = re.compile(r"(^|[_\-.])(mask|dseg|probseg|seg|aseg|labels?|part-phase|phase)([_\-.]|$)")
#: Who was scanned: BIDS, OASIS-1; other names are cut before the contrast at their end.
SUBJECTS = (re.compile(r"sub-([A-Za-z0-9]+)"), re.compile(r"(OAS\d_\d{4,})"))
CONTRAST_AT_END = re.compile(r"[_\-. ](T1|T2|T1w|T2w|T2\*w?|FLAIR|PD|PDw|T1ce|T1gd|MRA)$", re.I)
#: A magnitude has no negative values but those that interpolation leaves.
MOST_NEGATIVE = 0.1
#: The most that gzip can shrink anything.
GZIP = 1032

NIFTI = Container("NIfTI", (".nii.gz", ".nii"), lambda path: NIfTIFile(path))


@dataclass(frozen=True)
class NIfTIReader(Reader):
    """Reads images, magnitude or complex, of one coil; see :mod:`activemri.data.images`.

    Slices lie along the axis of the coarsest voxels; if all are alike, they are axial. They are
    shown as a radiologist sees them: anterior or superior up, the patient's right (or anterior, in
    sagittal slices) at the left. Volumes along a fourth axis (times, echoes) follow one another.

    The subject is the `sub-` of BIDS names, else the file's name without the contrast at its end;
    field strength and scanner are those of the JSON file of the same name, if there is one.
    """

    synthetic_phase: bool = True  # give magnitude-only images a phase and noise
    name: str = "nifti"
    container = NIFTI

    def describe(self, file: "NIfTIFile") -> Volume:
        stem = NIFTI.stem(file.path.name)
        if found := NO_IMAGE.search(stem.lower()):
            raise UnreadableError(f"named {found.group(2)!r}; expected images, not masks or phases")
        if "segmentation_masks" in file.path.parts:  # SKM-TEA's
            raise UnreadableError("in the folder 'segmentation_masks'; expected images")
        largest = lowest = 0.0
        for index in range(file.n_volumes):
            part = file.stored((slice(None),) * 3, index)
            largest = max(largest, largest_magnitude(part))
            if not file.is_complex:
                lowest = min(lowest, float(part.min(where=np.isfinite(part), initial=0)))
        if largest == 0:
            raise UnreadableError("the image is all zero")
        if lowest < -MOST_NEGATIVE * largest:
            raise UnreadableError(
                f"values from {lowest:g} to {largest:g}; expected magnitudes, not phases or CT"
            )
        named = (pattern.search(stem) for pattern in SUBJECTS)
        subject = next((found.group(1) for found in named if found), None)
        words = re.sub(r"[_\-.]", " ", stem)
        contrast = contrast_of(words)
        beside = file.path.with_name(f"{stem}.json")  # as BIDS has them
        try:
            labels = read_json(beside) if beside.is_file() else {}
        except (ValueError, OSError) as error:
            raise UnreadableError(f"{beside.name} beside it is no JSON object: {error}") from error
        maker = (labels.get("Manufacturer"), labels.get("ManufacturersModelName"))
        strength = labels.get("MagneticFieldStrength")
        return Volume(
            name=stem,
            subject=subject or CONTRAST_AT_END.sub("", stem) or stem,
            n_slices=file.n_volumes * file.n_positions,
            shape=file.shape,
            target_shape=file.shape,
            contrast="unknown" if contrast == words else contrast,
            field_strength=float(strength) if isinstance(strength, int | float) else None,
            scanner=" ".join(str(name) for name in maker if name) or "unknown",
            magnitude_only=not file.is_complex,
            phase=ACQUIRED if file.is_complex else SYNTHETIC if self.synthetic_phase else BARE,
            largest=largest,
        )

    def read(self, file: "NIfTIFile", volume: Volume, index: int) -> Slice:
        assert volume.largest is not None  # describe() sets it
        image = torch.from_numpy(file.plane(index)) / volume.largest
        return slice_of_image(
            replace(volume, largest=1.0),
            index,
            image,
            file=NIFTI.stem(file.path.name),
            synthetic_phase=self.synthetic_phase,
            processing=("divided by the volume's largest magnitude",),
        )


class NIfTIFile(OpenedFile):
    """An open NIfTI file: volumes along the fourth axis, of `n_positions` slices of a `shape`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            import nibabel
        except ModuleNotFoundError as error:
            raise UnreadableError(
                'NIfTI files need nibabel: pip install "activemri[formats]"'
            ) from error
        image = _loaded(path)
        data_type = image.get_data_dtype()
        orientation = nibabel.io_orientation(image.affine)  # type: ignore[no-untyped-call]
        stored_spacing = [float(size) for size in image.header.get_zooms()[:3]]
        if data_type.kind not in "fiuc":
            raise UnreadableError(f"expected numbers; got {data_type} (colours?)")
        shape = tuple(image.shape)
        while len(shape) > 4 and shape[-1] == 1:
            shape = shape[:-1]
        if len(shape) not in (3, 4) or 0 in shape:
            raise UnreadableError(f"expected three or four axes; got the shape {image.shape}")
        self._image = image
        self.is_complex = data_type.kind == "c"
        self.n_volumes = shape[3] if len(shape) == 4 else 1
        self.stored_shape = shape[:3]
        # Which anatomical axis (right, anterior, superior) each stored one is, and if upwards.
        if np.isnan(orientation).any():
            orientation = np.array([[0, 1], [1, 1], [2, 1]])
        self._orientation = orientation
        self._axes = np.argsort(orientation[:, 0]).tolist()
        sizes = [shape[axis] for axis in self._axes]
        # Slices lie along the axis of one slice, else of the coarsest voxels, else foot to head.
        spacing = [stored_spacing[axis] for axis in self._axes]
        along = max(range(3), key=lambda axis: spacing[axis])
        if spacing[along] <= 1.01 * spacing[2]:
            along = 2
        self._along = max((axis for axis in range(3) if sizes[axis] == 1), default=along)
        self.n_positions = sizes[self._along]
        columns, rows = (axis for axis in range(3) if axis != self._along)
        self.shape = (sizes[rows], sizes[columns])
        require_size(self.n_volumes * self.n_positions, self.shape)
        stored, n_bytes = math.prod(shape) * data_type.itemsize, path.stat().st_size
        compressed = path.name.lower().endswith(".gz")
        if compressed:
            require_bytes(max(stored, 4 * math.prod(shape)), "the decoded file")
        if stored > n_bytes * (GZIP if compressed else 1):
            raise UnreadableError(
                f"declares {stored:,} bytes; a file of {n_bytes:,} cannot hold them"
            )

    def plane(self, index: int) -> NDArray[Any]:
        """One slice, (height, width)."""
        import nibabel

        volume, position = divmod(index, self.n_positions)
        axis = self._axes[self._along]
        place = position if self._orientation[axis, 1] > 0 else self.n_positions - 1 - position
        chosen = [slice(None)] * 3
        chosen[axis] = slice(place, place + 1)
        part = self.stored(tuple(chosen), volume)
        turned = nibabel.apply_orientation(part, self._orientation)  # type: ignore[no-untyped-call]
        # Now right, anterior and superior come last.
        return np.ascontiguousarray(turned.take(0, axis=self._along)[::-1, ::-1].T)

    def stored(self, chosen: tuple[slice | int, ...], volume: int = 0) -> NDArray[Any]:
        """Part of a volume along the axes as they are stored, float32 or complex64."""
        kind = np.complex64 if self.is_complex else np.float32
        compressed = self.path.name.lower().endswith(".gz")
        values = _decoded(self.path) if compressed else self._image.dataobj
        further = [volume, *[0] * (len(values.shape) - 4)] if len(values.shape) > 3 else []
        with np.errstate(over="ignore"):  # Inf is found by the survey
            return np.asarray(values[(*chosen, *further)]).astype(kind)


@cached_by_file(4)
def _decoded(path: Path) -> NDArray[Any]:
    """All volumes of a compressed file, float32 or complex64."""
    image = _loaded(path)
    kind = np.complex64 if image.get_data_dtype().kind == "c" else np.float32
    with np.errstate(over="ignore"):
        return np.asarray(image.dataobj).astype(kind)


def _loaded(path: Path) -> Any:
    """The header of a file, with its samples on disk; other kinds that nibabel knows are refused.

    CIFTI, which has XML in it, is NIfTI with more axes than an image.
    """
    import nibabel

    for kind in (nibabel.Nifti1Image, nibabel.Nifti2Image):
        if kind.path_maybe_image(path)[0]:
            return kind.from_filename(path)
    raise UnreadableError("damaged or not NIfTI: no header at its beginning")
