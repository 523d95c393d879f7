"""NIfTI files: orientation, scale, labels, and everything that can be wrong with them."""

import builtins
import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from activemri.data.formats.nifti import NIFTI, NIfTIReader
from activemri.data.formats.registry import all_readers
from activemri.data.index import index_path
from activemri.data.readers import Volume
from activemri.data.slices import Slice
from activemri.data.sources import open_dataset
from tests.data.files import refused, write_kspace
from tests.data.image_files import random_images, write_nifti

BARE = NIfTIReader(synthetic_phase=False)


def read(path: Path, index: int = 0, reader: NIfTIReader = BARE) -> tuple[Volume, Slice]:
    with NIFTI.open(path) as file:
        volume = reader.describe(file)
        return volume, reader.read(file, volume, index)


def numbered(shape: tuple[int, ...]) -> np.ndarray:
    return np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(shape)


def test_axial_slices_have_anterior_up_and_right_at_the_left(tmp_path: Path) -> None:
    values = write_nifti(tmp_path / "a.nii", numbered((4, 5, 3)))
    volume, scan = read(tmp_path / "a.nii", 1)
    assert (volume.n_slices, volume.shape) == (3, (5, 4))
    expected = values[::-1, ::-1, 1].T / 60
    np.testing.assert_allclose(scan.target, expected, rtol=1e-6)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, -1), (-1, -1, 1)])
def test_slices_do_not_depend_on_how_the_axes_are_stored(
    tmp_path: Path, suffix: str, axes: tuple[int, int, int], flips: tuple[int, int, int]
) -> None:
    values = numbered((4, 5, 3))
    write_nifti(tmp_path / "a.nii", values)
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for place, axis in enumerate(axes):
        affine[axis, place] = flips[place] * (1, 1, 3)[axis]
    stored = values.transpose(axes)[:: flips[0], :: flips[1], :: flips[2]]
    write_nifti(tmp_path / f"b{suffix}", np.ascontiguousarray(stored), affine=affine)
    for index in range(3):
        one, other = read(tmp_path / "a.nii", index)[1], read(tmp_path / f"b{suffix}", index)[1]
        assert torch.equal(one.target, other.target)


def test_slices_lie_along_the_coarsest_voxels(tmp_path: Path) -> None:
    values = write_nifti(tmp_path / "a.nii", numbered((4, 5, 6)), spacing=(5, 1, 1))
    volume, scan = read(tmp_path / "a.nii", 2)
    assert (volume.n_slices, volume.shape) == (4, (6, 5))
    np.testing.assert_allclose(scan.target, values[2, ::-1, ::-1].T / 120, rtol=1e-6)


def test_equal_voxels_give_axial_slices_and_one_slice_is_one(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a.nii", numbered((4, 5, 6)), spacing=(1, 1, 1))
    assert read(tmp_path / "a.nii")[0].n_slices == 6
    write_nifti(tmp_path / "b.nii", numbered((4, 1, 6)), spacing=(1, 1, 4))
    volume, _ = read(tmp_path / "b.nii")
    assert (volume.n_slices, volume.shape) == (1, (6, 4))


def test_volumes_along_the_fourth_axis_follow_one_another(tmp_path: Path) -> None:
    values = write_nifti(tmp_path / "a.nii", numbered((4, 5, 3, 2)))
    volume, scan = read(tmp_path / "a.nii", 4)
    assert volume.n_slices == 6
    np.testing.assert_allclose(scan.target, values[::-1, ::-1, 1, 1].T / 120, rtol=1e-6)


def test_complex_images_keep_their_phase(tmp_path: Path) -> None:
    values = write_nifti(tmp_path / "a.nii", random_images((8, 10, 3)).astype(np.complex64))
    volume, scan = read(tmp_path / "a.nii", 1, NIfTIReader())
    assert not volume.magnitude_only
    image = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(scan.kspace[0].numpy()), norm="ortho"))
    expected = values[::-1, ::-1, 1].T / np.abs(values).max()
    np.testing.assert_allclose(image, expected, atol=1e-6)


def test_magnitudes_get_a_phase_that_is_on_record(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a.nii")
    volume, scan = read(tmp_path / "a.nii", 1, NIfTIReader())
    assert volume.magnitude_only
    assert any("synthetic smooth phase" in step for step in scan.processing)
    mirrored = scan.kspace.flip(-1, -2).roll((1, 1), (-1, -2)).conj()
    assert (scan.kspace - mirrored).norm() > 0.1 * scan.kspace.norm()


@pytest.mark.parametrize(
    ("name", "subject", "contrast"),
    [
        ("sub-07_ses-1_T1w", "07", "T1"),
        ("sub-07_acq-tse_T2w", "07", "T2"),
        ("sub-ab12_FLAIR", "ab12", "FLAIR"),
        ("IXI002-Guys-0828-T2", "IXI002-Guys-0828", "T2"),
        ("IXI002-Guys-0828-PD", "IXI002-Guys-0828", "PD"),
        ("OAS1_0001_MR1_mpr-1_anon", "OAS1_0001", "unknown"),
        ("heart", "heart", "unknown"),
    ],
)
def test_names_tell_subject_and_contrast(
    tmp_path: Path, name: str, subject: str, contrast: str
) -> None:
    write_nifti(tmp_path / f"{name}.nii.gz")
    volume, _ = read(tmp_path / f"{name}.nii.gz")
    assert (volume.name, volume.subject, volume.contrast) == (name, subject, contrast)


def test_the_file_beside_tells_field_strength_and_scanner(tmp_path: Path) -> None:
    labels = {"MagneticFieldStrength": 3, "Manufacturer": "GE", "ManufacturersModelName": "MR750"}
    write_nifti(tmp_path / "a.nii.gz", sidecar=dict(labels))
    volume, _ = read(tmp_path / "a.nii.gz")
    assert (volume.field_strength, volume.scanner) == (3.0, "GE MR750")
    (tmp_path / "a.json").write_text("{", encoding="utf-8")
    refused(tmp_path / "a.nii.gz", r"a\.json beside it is no JSON")


@pytest.mark.parametrize("name", ["sub-1_mask", "sub-1_T1w_dseg", "labels", "sub-1_part-phase_T1w"])
def test_files_that_hold_no_images_are_refused_by_name(tmp_path: Path, name: str) -> None:
    write_nifti(tmp_path / f"{name}.nii")
    refused(tmp_path / f"{name}.nii", "expected images, not masks or phases")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.zeros((8, 10, 3), np.float32), "all zero"),
        (numbered((8, 10, 3)) - 120, "expected magnitudes, not phases or CT"),
        (numbered((8, 10)), "expected three or four axes"),
        (numbered((4, 5, 3, 2, 2)), "expected three or four axes"),
        (np.zeros((4, 5, 3), [("R", "u1"), ("G", "u1"), ("B", "u1")]), "expected numbers"),
    ],
)
def test_what_is_no_image_is_refused(tmp_path: Path, values: np.ndarray, reason: str) -> None:
    write_nifti(tmp_path / "a.nii", values)
    refused(tmp_path / "a.nii", reason)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    write_nifti(tmp_path / "good.nii.gz", numbered((16, 20, 3)))
    noise = np.random.default_rng(0).random((16, 20, 3), dtype=np.float32)
    write_nifti(tmp_path / "cut.nii", noise)
    whole = (tmp_path / "cut.nii").read_bytes()
    (tmp_path / "cut.nii").write_bytes(whole[:-50])
    (tmp_path / "foreign.nii").write_bytes(b"not an image" * 50)
    (tmp_path / "empty.nii").write_bytes(b"")
    packed = gzip.compress(whole)
    (tmp_path / "cutgz.nii.gz").write_bytes(packed[: len(packed) // 2])
    (tmp_path / "flipped.nii.gz").write_bytes(packed[:600] + b"\xff" * 40 + packed[640:])
    index = index_path(tmp_path, all_readers())
    assert [entry.file for entry in index.entries] == ["good.nii.gz"]
    assert len(index.problems) == 5
    assert all("damaged or not NIfTI" in reason for reason in index.problems.values())


def test_slices_that_are_empty_or_not_numbers_are_left_out(tmp_path: Path) -> None:
    values = numbered((16, 20, 4))
    values[..., 1] = 0
    values[3, 3, 2] = np.nan
    write_nifti(tmp_path / "a.nii", values)
    dataset = open_dataset(tmp_path, split="all")
    assert [dataset[i].index for i in range(len(dataset))] == [0, 3]


def test_without_nibabel_only_these_files_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_nifti(tmp_path / "a.nii")
    write_kspace(tmp_path / "b.h5", shape=(2, 2, 16, 16))
    original = builtins.__import__

    def missing(name: str, *arguments: object, **more: object) -> object:
        if name == "nibabel":
            raise ModuleNotFoundError("No module named 'nibabel'", name="nibabel")
        return original(name, *arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", missing)
    index = index_path(tmp_path, all_readers())
    assert [entry.file for entry in index.entries] == ["b.h5"]
    assert 'pip install "activemri[formats]"' in next(iter(index.problems.values()))
