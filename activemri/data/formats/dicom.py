"""DICOM: series of magnitude images as hospitals keep them."""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from activemri.data.formats import stored
from activemri.data.formats.nifti import GZIP
from activemri.data.images import contrast_of, largest_magnitude, slice_of_image
from activemri.data.readers import (
    Container,
    OpenedFile,
    Reader,
    UnreadableError,
    Volume,
    cached_by_file,
    guarded,
    require_bytes,
    require_regular,
    require_size,
)
from activemri.data.slices import BARE, SYNTHETIC, Slice

#: Parts of complex images; only magnitudes are read.
NO_MAGNITUDE = {"P", "PHASE", "PHASE MAP", "R", "REAL", "I", "IMAGINARY"}
DEFLATED = 1 << 16  # bytes of a file from which on it matters how much a deflated one inflates


def _series(folder: Path, names: Sequence[str]) -> list[str]:
    """The first file of every series, and the files that belong to none, to be named."""
    return sorted(members[0] for members in _grouped(folder)) if names else []


def _members(path: Path) -> list[Path]:
    """The files of the series that a file belongs to."""
    groups = _grouped(path.parent)
    group = next((group for group in groups if path.name in group), [path.name])
    return [path.parent / name for name in group]


DICOM = Container("DICOM", (".dcm", ".ima"), lambda path: DICOMSeries(path), _series, _members)


@dataclass(frozen=True)
class DICOMReader(Reader):
    """Reads series of magnitude images; see :mod:`activemri.data.images`.

    A series, the files of one folder with one SeriesInstanceUID, is a volume, named like the first
    of them. Slices are sorted by echo, time and position along their normal. Values are rescaled as
    the files say. The subject is the PatientID, else the study.
    """

    synthetic_phase: bool = True  # give magnitude-only images a phase and noise
    name: str = "dicom"
    container = DICOM

    def describe(self, file: "DICOMSeries") -> Volume:
        stored.require_one_slice(file.image, len(file.images))
        largest = 0.0
        for index in range(len(file.images)):
            with suppress(UnreadableError):  # read() will name this slice
                largest = max(largest, largest_magnitude(file.image(index)))
        if largest == 0:
            raise UnreadableError("the images are all zero")
        first = file.header
        maker = (first.get("Manufacturer"), first.get("ManufacturerModelName"))
        strength = first.get("MagneticFieldStrength")
        description = str(first.get("SeriesDescription", "")).replace("_", " ").strip()
        shape = (int(first.Rows), int(first.Columns))
        return Volume(
            name=DICOM.stem(file.path.name),
            subject=str(first.get("PatientID") or first.get("StudyInstanceUID") or "unknown"),
            n_slices=len(file.images),
            shape=shape,
            target_shape=shape,
            contrast=contrast_of(description or None),
            field_strength=float(strength) if strength else None,
            scanner=" ".join(str(name).strip() for name in maker if name) or "unknown",
            magnitude_only=True,
            phase=SYNTHETIC if self.synthetic_phase else BARE,
            largest=largest,
        )

    def read(self, file: "DICOMSeries", volume: Volume, index: int) -> Slice:
        assert volume.largest is not None  # describe() sets it
        image = torch.from_numpy(file.image(index)) / volume.largest
        return slice_of_image(
            replace(volume, largest=1.0),
            index,
            image,
            file=DICOM.stem(file.path.name),
            synthetic_phase=self.synthetic_phase,
            processing=("divided by the volume's largest magnitude",),
        )


class DICOMSeries(OpenedFile):
    """The images of the series that a file belongs to: file names and frames, in order.

    `header` is that of the first image.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        headers = {one.name: _parsed(one, stop_before_pixels=True) for one in _members(path)}
        images: list[tuple[tuple[float, ...], str, int]] = []
        for name, header in headers.items():
            try:
                n_frames = _frames_of_magnitudes(header, len(images))
            except UnreadableError as error:
                which = f"{name}: " if len(headers) > 1 else ""
                raise UnreadableError(f"{which}{error}") from None
            images += [(_place(header, frame), name, frame) for frame in range(n_frames)]
        sizes = {(header.Rows, header.Columns) for header in headers.values()}
        if len(sizes) > 1:
            shown = ", ".join(f"{rows} x {columns}" for rows, columns in sorted(sizes))
            raise UnreadableError(f"images of several sizes in one series: {shown}")
        self.images = [(name, frame) for _, name, frame in sorted(images)]
        self.header = headers[self.images[0][0]]

    def image(self, index: int) -> NDArray[np.float32]:
        """One image in the units that the file says, (height, width)."""
        name, frame = self.images[index]
        image: NDArray[np.float32] = _pixels(self.path.parent / name)[frame]
        return image


@cached_by_file(64)
def _grouped(folder: Path) -> list[list[str]]:
    """File names of one series together; what cannot be read stands alone."""
    series: dict[str, list[str]] = {}
    files = (path.name for path in folder.iterdir() if DICOM.holds(path.name) and not path.is_dir())
    for name in sorted(files):
        try:
            tag = "SeriesInstanceUID"
            with guarded():
                found = _parsed(folder / name, stop_before_pixels=True, specific_tags=[tag])
                uid = str(found.SeriesInstanceUID)
        except UnreadableError:  # opening it will say why
            uid = f"file {name}"
        series.setdefault(uid, []).append(name)
    return list(series.values())


def _parsed(path: Path, **options: Any) -> Any:
    """The parsed file."""
    try:
        import pydicom
    except ModuleNotFoundError as error:
        reason = 'DICOM files need pydicom: pip install "activemri[formats]"'
        raise UnreadableError(reason) from error
    require_regular(path)
    with guarded("damaged or not DICOM: "):
        if (n_bytes := path.stat().st_size) > DEFLATED:
            syntax = pydicom.filereader.read_file_meta_info(path).get("TransferSyntaxUID")
            if syntax == pydicom.uid.DeflatedExplicitVRLittleEndian:
                require_bytes(GZIP * n_bytes, "the inflated file")
        return pydicom.dcmread(path, **options)


def _frames_of_magnitudes(header: Any, n_before: int) -> int:
    """The number of frames in a file, of which as many came before, or UnreadableError."""
    if (modality := header.get("Modality")) != "MR":
        raise UnreadableError(f"expected the modality MR; got {modality}")
    if "Rows" not in header or "Columns" not in header:
        raise UnreadableError("no images: a report or another document")
    colours = header.get("PhotometricInterpretation")
    n_samples = header.get("SamplesPerPixel", 1)
    if n_samples != 1 or colours not in (None, "MONOCHROME2"):
        raise UnreadableError(
            f"expected grey values (MONOCHROME2); got {colours}, {n_samples} a pixel"
        )
    kinds = {str(kind).upper() for kind in header.get("ImageType", [])[2:]}
    kinds.add(str(header.get("ComplexImageComponent", "MAGNITUDE")).upper())
    if found := kinds & NO_MAGNITUDE:
        raise UnreadableError(f"expected magnitudes; the image type says {found.pop()}")
    shape, n_frames = (int(header.Rows), int(header.Columns)), _n_frames(header)
    if min(*shape, n_frames) < 1:
        raise UnreadableError(f"{n_frames} frames of {shape[0]} x {shape[1]}; expected some")
    require_size(n_before + n_frames, shape)
    require_bytes(4 * n_frames * math.prod(shape), "the frames of a file")
    return n_frames


def _n_frames(header: Any) -> int:
    return int(header.get("NumberOfFrames", 1) or 1)


def _items(group: Any, name: str) -> Sequence[Any]:
    """The items of a sequence of a header, none where something else is stored."""
    import pydicom

    found = group.get(name)
    return found if isinstance(found, pydicom.sequence.Sequence) else []


def _place(header: Any, frame: int) -> tuple[float, float, float, float]:
    """Echo, time, position along the normal, number: the order of slices.

    Enhanced files say it for each frame, for all frames, or as ordinary files do.
    """
    frames = _items(header, "PerFrameFunctionalGroupsSequence")
    own = frames[frame] if frame < len(frames) else {}
    shared = (_items(header, "SharedFunctionalGroupsSequence") or [{}])[0]

    def known(sequence: str, name: str, *groups: Any) -> Any:
        found = [each[0].get(name) for group in groups if (each := _items(group, sequence))]
        return next((value for value in [*found, header.get(name)] if value is not None), None)

    position = known("PlanePositionSequence", "ImagePositionPatient", own)
    orientation = known("PlaneOrientationSequence", "ImageOrientationPatient", own, shared)
    along = 0.0
    if position is not None and orientation is not None:
        rows, columns = np.array(orientation, float).reshape(2, 3)
        along = round(float(np.cross(rows, columns) @ np.array(position, float)), 3)
    time = header.get("TemporalPositionIdentifier") or header.get("AcquisitionNumber")
    number = float(header.get("InstanceNumber") or 0) + frame
    return float(header.get("EchoTime") or 0), float(time or 0), along, number


@cached_by_file(4)
def _pixels(path: Path) -> NDArray[np.float32]:
    """All frames of a file, rescaled: float32 (frame, height, width)."""
    header = _parsed(path)
    try:
        pixels = header.pixel_array
    except (AttributeError, RuntimeError, NotImplementedError, ValueError, TypeError) as error:
        syntax = getattr(header, "file_meta", {}).get("TransferSyntaxUID")
        name = getattr(syntax, "name", "unknown transfer syntax")
        raise UnreadableError(
            f"{path.name} cannot be decoded ({name}): {error}; convert it to an uncompressed file"
        ) from error
    slope, intercept = header.get("RescaleSlope", 1), header.get("RescaleIntercept", 0)
    expected = (_n_frames(header), int(header.Rows), int(header.Columns))
    if pixels.shape not in (expected, expected[1:]):
        raise UnreadableError(f"{path.name} holds pixels of {pixels.shape}; expected {expected}")
    with np.errstate(over="ignore", invalid="ignore"):  # the survey finds NaN and Inf
        values: NDArray[np.float32] = pixels.astype(np.float32)
        values = values * np.float32(slope) + np.float32(intercept)
    return values.reshape(expected)
