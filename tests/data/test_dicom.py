"""DICOM series."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from activemri.data.formats.dicom import DICOM, DICOMReader
from activemri.data.formats.registry import all_readers
from activemri.data.index import index_path
from activemri.data.readers import Volume
from activemri.data.slices import Slice
from tests.data.files import refused
from tests.data.image_files import write_dicom, write_series

BARE = DICOMReader(synthetic_phase=False)
PIXELS = np.arange(1, 81, dtype=np.uint16).reshape(8, 10)


def read(path: Path, index: int = 0) -> tuple[Volume, Slice]:
    with DICOM.open(path) as file:
        volume = BARE.describe(file)
        return volume, BARE.read(file, volume, index)


def test_a_series_is_sorted_by_position_and_scaled(tmp_path: Path) -> None:
    images = write_series(tmp_path / "z.dcm")
    for index in range(3):
        volume, scan = read(tmp_path / "z.dcm", index)
        np.testing.assert_allclose(scan.target, images[index] / images.max(), rtol=1e-6)
    assert (volume.n_slices, volume.subject, volume.contrast) == (3, "patient-7", "T2")
    assert (volume.field_strength, volume.scanner) == (3.0, "SIEMENS Skyra")
    assert volume.magnitude_only


def test_the_order_of_names_and_numbers_does_not_matter(tmp_path: Path) -> None:
    for number, position in enumerate([4.0, -4.0, 0.0]):
        pixels = (PIXELS + 100 * number).astype(np.uint16)
        write_dicom(
            tmp_path / f"{number}.dcm", pixels, series="1.5", position=position, number=number
        )
    corners = [float(read(tmp_path / "0.dcm", index)[1].target[0, 0]) * 280 for index in range(3)]
    np.testing.assert_allclose(corners, [101, 201, 1], rtol=1e-5)


def test_echoes_follow_one_another(tmp_path: Path) -> None:
    for number in range(4):
        write_dicom(
            tmp_path / f"{number}.dcm",
            (PIXELS + 100 * number).astype(np.uint16),
            series="1.5",
            position=float(number // 2),
            EchoTime=str(10.0 * (number % 2 + 1)),
        )
    corners = [float(read(tmp_path / "0.dcm", index)[1].target[0, 0]) * 380 for index in range(4)]
    np.testing.assert_allclose(corners, [1, 201, 101, 301], rtol=1e-5)


def test_values_are_rescaled_as_the_file_says(tmp_path: Path) -> None:
    write_dicom(tmp_path / "a.dcm", PIXELS, series="1.5", RescaleSlope="2", RescaleIntercept="10")
    _, scan = read(tmp_path / "a.dcm")
    np.testing.assert_allclose(scan.target, (2 * PIXELS + 10.0) / 170, rtol=1e-6)


def test_each_series_of_a_folder_is_a_volume(tmp_path: Path) -> None:
    write_series(tmp_path / "a.dcm")
    write_dicom(tmp_path / "b.IMA", PIXELS, series="9.9", PatientID="other")
    write_series(tmp_path / "deeper" / "a.dcm")
    index = index_path(tmp_path, all_readers())
    assert [(e.file, e.volume.n_slices) for e in index.entries] == [
        ("a.dcm", 3),
        ("b.IMA", 1),
        ("deeper/a.dcm", 3),
    ]
    assert not index.problems


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"Modality": "CT"}, "expected the modality MR; got CT"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]}, "the image type says P"),
        ({"ComplexImageComponent": "PHASE"}, "the image type says PHASE"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "grey values"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "grey values"),
        ({"PixelData": None}, "cannot be decoded"),
        ({"PixelData": b"\1\2" * 7}, "cannot be decoded"),
        ({"PixelData": b"\0" * 160}, "all zero"),
        ({"Rows": None}, "a report or another document"),
    ],
)
def test_what_is_no_magnitude_image_is_refused(
    tmp_path: Path, elements: dict[str, Any], reason: str
) -> None:
    write_dicom(tmp_path / "a.dcm", PIXELS, series="1.5", **elements)
    refused(tmp_path / "a.dcm", reason)


def test_compressed_files_that_cannot_be_decoded_say_which(tmp_path: Path) -> None:
    write_dicom(tmp_path / "a.dcm", PIXELS, series="1.5", compressed=True)
    refused(tmp_path / "a.dcm", "JPEG 2000")


def test_sizes_must_not_be_mixed(tmp_path: Path) -> None:
    write_dicom(tmp_path / "a.dcm", PIXELS, series="1.5")
    write_dicom(tmp_path / "b.dcm", PIXELS[:, :6], series="1.5")
    refused(tmp_path / "a.dcm", "several sizes in one series: 8 x 6, 8 x 10")


def test_damaged_files_are_named_and_the_rest_is_read(tmp_path: Path) -> None:
    write_series(tmp_path / "a.dcm")
    whole = (tmp_path / "a.dcm").read_bytes()
    (tmp_path / "foreign.dcm").write_bytes(b"no image" * 100)
    (tmp_path / "empty.dcm").write_bytes(b"")
    (tmp_path / "cut.dcm").write_bytes(whole[:200])
    index = index_path(tmp_path, all_readers())
    assert [entry.file for entry in index.entries] == ["a.dcm"]
    assert sorted(index.problems) == ["cut.dcm", "empty.dcm", "foreign.dcm"]
