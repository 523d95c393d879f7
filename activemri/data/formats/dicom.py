"""DICOM: series of magnitude images as hospitals keep them."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray

from activemri.data.containers import Container
from activemri.data.formats.images import contrast_of, largest_magnitude, slice_of_image
from activemri.data.readers import UnreadableError, Volume
from activemri.data.slices import Slice

#: Parts of complex images; only magnitudes are read.
NO_MAGNITUDE = {"P", "PHASE", "PHASE MAP", "R", "REAL", "I", "IMAGINARY"}

REMEMBERED = 64  # folders whose series are kept


def _open(path: Path) -> "DICOMSeries":
    return DICOMSeries(path)


def _series(folder: Path, names: Sequence[str]) -> list[str]:
    """The first file of every series, and the files that belong to none: to be named."""
    groups = _grouped(folder, tuple(sorted(names)))
    return sorted(members[0] for members in groups)


DICOM = Container("DICOM", (".dcm", ".ima"), _open, _series)


@dataclass(frozen=True)
class DICOMReader:
    """Reads series of magnitude images; see :mod:`activemri.data.formats.images`.

    A series, the files of one folder with one SeriesInstanceUID, is a volume, named like the first
    of them. Slices are sorted by echo, time and position along their normal. Values are rescaled as
    the files say and then divided by the largest of the volume.

    The subject is the PatientID, else the study: de-identify the files first, as reports name
    subjects. The contrast is that of the series' description.

    Other modalities, colours, phase images and series of mixed sizes are refused, as are
    compressed files that pydicom cannot decode with what is installed.

    Attributes:
        synthetic_phase: give magnitude-only images a phase and noise.
    """

    synthetic_phase: bool = True
    name: str = "dicom"
    container: ClassVar[Container] = DICOM

    def recognises(self, file: "DICOMSeries") -> bool:
        return True

    def describe(self, file: "DICOMSeries") -> Volume:
        largest = max(largest_magnitude(file.image(index)) for index in range(len(file)))
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
            n_slices=len(file),
            shape=shape,
            target_shape=shape,
            n_coils=1,
            contrast=contrast_of(description or None),
            field_strength=float(strength) if strength else None,
            scanner=" ".join(str(name).strip() for name in maker if name) or "unknown",
            magnitude_only=True,
            largest=largest,
        )

    def read(self, file: "DICOMSeries", volume: Volume, index: int) -> Slice:
        assert volume.largest is not None  # describe() sets it
        return slice_of_image(
            replace(volume, largest=1.0),
            index,
            torch.from_numpy(file.image(index)) / volume.largest,
            file=DICOM.stem(file.path.name),
            synthetic_phase=self.synthetic_phase,
            processing=("divided by the volume's largest magnitude",),
        )


class DICOMSeries:
    """The images of the series that a file belongs to.

    Attributes:
        path: of the file that stands for the series.
        header: of the first image.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        names = (p.name for p in path.parent.iterdir() if DICOM.holds(p.name))
        groups = _grouped(path.parent, tuple(sorted(names)))
        members = next(group for group in groups if path.name in group)
        headers = {name: _header(path.parent / name) for name in members}
        for header in headers.values():
            _refuse_no_magnitude(header)
        sizes = {(header.Rows, header.Columns) for header in headers.values()}
        if len(sizes) > 1:
            shown = ", ".join(f"{rows} x {columns}" for rows, columns in sorted(sizes))
            raise UnreadableError(f"images of several sizes in one series: {shown}")
        images = [
            (_place(header, frame), name, frame)
            for name, header in headers.items()
            for frame in range(int(header.get("NumberOfFrames", 1) or 1))
        ]
        self._images = [(name, frame) for _, name, frame in sorted(images)]
        self.header = headers[self._images[0][0]]
        self._decoded: tuple[str, NDArray[np.float32]] | None = None

    def __len__(self) -> int:
        return len(self._images)

    def image(self, index: int) -> NDArray[np.float32]:
        """One image in the units that the file says, (height, width)."""
        name, frame = self._images[index]
        if self._decoded is None or self._decoded[0] != name:
            self._decoded = (name, _pixels(self.path.parent / name))
        image: NDArray[np.float32] = self._decoded[1][frame]
        return image

    def close(self) -> None:
        """Nothing stays open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


_GROUPS: OrderedDict[tuple[str, int, tuple[str, ...]], list[list[str]]] = OrderedDict()


def _grouped(folder: Path, names: tuple[str, ...]) -> list[list[str]]:
    """File names of one series together; what cannot be read stands alone."""
    if not names:
        return []
    key = (str(folder.resolve()), folder.stat().st_mtime_ns, names)
    groups = _GROUPS.pop(key, None)
    if groups is None:
        series: dict[str, list[str]] = {}
        for name in names:
            try:
                uid = str(_header(folder / name, only="SeriesInstanceUID").SeriesInstanceUID)
            except (UnreadableError, AttributeError):  # opening it will say why
                uid = f"file {name}"
            series.setdefault(uid, []).append(name)
        groups = list(series.values())
    _GROUPS[key] = groups
    if len(_GROUPS) > REMEMBERED:
        _GROUPS.popitem(last=False)
    return groups


def _header(path: Path, *, only: str | None = None) -> Any:
    pydicom = _pydicom()
    with _failures_named():
        return pydicom.dcmread(
            path, stop_before_pixels=True, specific_tags=None if only is None else [only]
        )


def _pydicom() -> Any:
    try:
        import pydicom
    except ModuleNotFoundError as error:
        raise UnreadableError('DICOM files need pydicom: pip install "activemri[formats]"') from (
            error
        )
    return pydicom


@contextmanager
def _failures_named() -> Iterator[None]:
    """What pydicom raises for damaged files, as the error that readers raise."""
    from pydicom.errors import InvalidDicomError

    try:
        yield
    except (InvalidDicomError, EOFError, OSError, ValueError, KeyError, AttributeError) as error:
        raise UnreadableError(f"damaged or not DICOM: {error}") from error


def _refuse_no_magnitude(header: Any) -> None:
    if (modality := header.get("Modality")) != "MR":
        raise UnreadableError(f"expected the modality MR; got {modality}")
    if "Rows" not in header or "Columns" not in header:
        raise UnreadableError("no images: a report or another document")
    if header.get("SamplesPerPixel", 1) != 1 or header.get("PhotometricInterpretation") not in (
        None,
        "MONOCHROME2",
    ):
        raise UnreadableError(
            "expected grey values (MONOCHROME2); got "
            f"{header.get('PhotometricInterpretation')}, {header.get('SamplesPerPixel')} a pixel"
        )
    kinds = {str(kind).upper() for kind in header.get("ImageType", [])[2:]}
    kinds.add(str(header.get("ComplexImageComponent", "MAGNITUDE")).upper())
    if found := kinds & NO_MAGNITUDE:
        raise UnreadableError(f"expected magnitude images; the image type says {found.pop()}")


def _place(header: Any, frame: int) -> tuple[float, float, float, float]:
    """Echo, time, position along the normal, number: what slices are sorted by."""
    frames = header.get("PerFrameFunctionalGroupsSequence")
    own = frames[frame] if frames is not None and frame < len(frames) else None
    position = _of_frame(own, "PlanePositionSequence", "ImagePositionPatient")
    shared = header.get("SharedFunctionalGroupsSequence")
    orientation = _of_frame(own, "PlaneOrientationSequence", "ImageOrientationPatient")
    if orientation is None and shared:
        orientation = _of_frame(shared[0], "PlaneOrientationSequence", "ImageOrientationPatient")
    position = header.get("ImagePositionPatient") if position is None else position
    orientation = header.get("ImageOrientationPatient") if orientation is None else orientation
    along = 0.0
    if position is not None and orientation is not None:
        rows, columns = np.array(orientation, float).reshape(2, 3)
        along = round(float(np.cross(rows, columns) @ np.array(position, float)), 3)
    time = header.get("TemporalPositionIdentifier") or header.get("AcquisitionNumber")
    number = float(header.get("InstanceNumber") or 0) + frame
    return float(header.get("EchoTime") or 0), float(time or 0), along, number


def _of_frame(frame: Any, sequence: str, name: str) -> Any:
    found = None if frame is None else frame.get(sequence)
    return found[0].get(name) if found else None


def _pixels(path: Path) -> NDArray[np.float32]:
    """All frames of a file, rescaled: float32 (frame, height, width)."""
    pydicom = _pydicom()
    with _failures_named():
        header = pydicom.dcmread(path)
    syntax = header.file_meta.get("TransferSyntaxUID") if hasattr(header, "file_meta") else None
    try:
        pixels = header.pixel_array
    except (AttributeError, RuntimeError, NotImplementedError, ValueError, TypeError) as error:
        name = getattr(syntax, "name", "unknown transfer syntax")
        raise UnreadableError(
            f"{path.name} cannot be decoded ({name}): {error}; convert it to an uncompressed file"
        ) from error
    slope, intercept = header.get("RescaleSlope", 1), header.get("RescaleIntercept", 0)
    values: NDArray[np.float32] = pixels.astype(np.float32)
    values = values * np.float32(slope) + np.float32(intercept)
    return values if values.ndim == 3 else values[None]
