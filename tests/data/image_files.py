"""Writes small images in the formats of scanners and of other programs."""

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from tests.data.files import random_kspace, to_image


def random_images(shape: tuple[int, ...], seed: int = 0) -> NDArray[np.complexfloating]:
    return to_image(random_kspace(shape, seed))


def write_nifti(
    path: Path,
    values: NDArray[Any] | None = None,
    *,
    spacing: tuple[float, float, float] = (1, 1, 3),
    affine: NDArray[np.floating] | None = None,
    sidecar: dict[str, object] | None = None,
) -> NDArray[Any]:
    """A file with the axes right, anterior, superior unless an affine says otherwise."""
    if values is None:
        values = np.abs(random_images((8, 10, 3))).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    if affine is None:
        affine = np.diag([*spacing, 1.0])
    image: Any = nibabel.Nifti1Image(values, affine)  # type: ignore[no-untyped-call]
    nibabel.save(image, path)
    if sidecar is not None:
        stem = path.name.removesuffix(".gz").removesuffix(".nii")
        path.with_name(f"{stem}.json").write_text(json.dumps(sidecar), encoding="utf-8")
    return values


def write_dicom(
    path: Path,
    pixels: NDArray[np.unsignedinteger],
    *,
    series: str,
    position: float = 0.0,
    number: int = 1,
    compressed: bool = False,
    **elements: object,
) -> None:
    """One file of a series, as a scanner exports it; elements are set or, by None, left out."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[series, path.name])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    values: dict[str, object] = {
        "SOPClassUID": MRImageStorage,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "Modality": "MR",
        "PatientID": "patient-7",
        "StudyInstanceUID": "1.2.3",
        "SeriesInstanceUID": series,
        "SeriesDescription": "t2_tse_tra",
        "ImageType": ["ORIGINAL", "PRIMARY", "M", "ND"],
        "Manufacturer": "SIEMENS",
        "ManufacturerModelName": "Skyra",
        "MagneticFieldStrength": "3",
        "ImagePositionPatient": [0, 0, position],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "InstanceNumber": number,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": pixels.shape[-2],
        "Columns": pixels.shape[-1],
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
        "PixelData": pixels.astype("<u2").tobytes(),
    }
    if pixels.ndim == 3:
        values["NumberOfFrames"] = len(pixels)
    for name, value in (values | elements).items():
        if value is not None:
            setattr(dataset, name, value)
    if compressed:
        meta.TransferSyntaxUID = pydicom.uid.JPEG2000Lossless
        dataset.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f\xff\x51 not an image"])
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


def write_series(path: Path, *, n_slices: int = 3, **elements: Any) -> NDArray[np.uint16]:
    """A series whose first file has that name; returns its images by position."""
    rng = np.random.default_rng(0)
    images = rng.integers(1, 2000, (n_slices, 8, 10)).astype(np.uint16)
    for index, image in enumerate(images):
        name = path if index == 0 else path.with_name(f"{path.stem}_{index}{path.suffix}")
        write_dicom(
            name, image, series="1.2.3.4", position=5.0 * index, number=index + 1, **elements
        )
    return images


def write_bart(
    path: Path, values: NDArray[Any], *, header: str | None = None
) -> NDArray[np.complex64]:
    """A pair of files; axes of `values` are BART's, the first the fastest."""
    values = values.astype(np.complex64)
    path.parent.mkdir(parents=True, exist_ok=True)
    sizes = [*values.shape, *[1] * (16 - values.ndim)]
    if header is None:
        header = "# Dimensions\n" + " ".join(map(str, sizes)) + " \n# Command\nfft 3 a b\n"
    path.with_suffix(".hdr").write_text(header, encoding="utf-8")
    path.write_bytes(values.tobytes(order="F"))
    return values


def bart_kspace(*, n_coils: int = 2, n_slices: int = 3) -> NDArray[np.complexfloating]:
    """(8, 10, 1, coil, ..., slice), of BART's scale."""
    kspace = random_kspace((n_slices, n_coils, 8, 10)) * 1e4
    shape = [8, 10, 1, n_coils, *[1] * 9, n_slices]
    return np.moveaxis(kspace, 0, -1).transpose(1, 2, 0, 3).reshape(shape)
