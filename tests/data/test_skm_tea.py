"""The SKM-TEA layout."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from activemri.data.formats.registry import all_readers, reader_for
from activemri.data.formats.skm_tea import SCALE, SKMTEAReader
from activemri.data.index import index_path
from activemri.data.volumes import survey
from tests.data.files import Array, edit, read, refused, to_image, write_kspace
from tests.data.image_files import write_nifti
from tests.data.published_files import write_skm_tea

READER = SKMTEAReader()


def test_the_echoes_follow_each_other_along_x(tmp_path: Path) -> None:
    kspace, _ = write_skm_tea(tmp_path / "MTR_013.h5")
    volume, _ = read(tmp_path / "MTR_013.h5")
    assert (volume.n_slices, volume.shape, volume.n_coils) == (6, (12, 10), 4)
    for index, (echo, x) in enumerate([(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]):
        _, scan = read(tmp_path / "MTR_013.h5", index)
        expected = kspace[x, :, :, echo].transpose(2, 0, 1) * np.float32(SCALE)
        assert np.array_equal(scan.kspace.numpy(), expected)


def test_labels_are_those_of_the_collection(tmp_path: Path) -> None:
    write_skm_tea(tmp_path / "MTR_013.h5")
    volume, scan = read(tmp_path / "MTR_013.h5")
    assert (volume.name, volume.subject, volume.contrast) == ("MTR_013", "MTR_013", "qDESS")
    assert any("ARC" in step for step in scan.processing)


def test_maps_get_unit_norm_and_stay_zero_where_they_are_zero(tmp_path: Path) -> None:
    write_skm_tea(tmp_path / "a.h5", norm=0.3)
    _, scan = read(tmp_path / "a.h5", 4)
    assert scan.sensitivity is not None
    norm = torch.linalg.vector_norm(scan.sensitivity, dim=0)
    expected = torch.ones(12, 10)
    expected[:2, :2] = 0
    torch.testing.assert_close(norm, expected)


def test_the_reference_is_the_image_combined_with_the_maps(tmp_path: Path) -> None:
    kspace, maps = write_skm_tea(tmp_path / "a.h5", norm=1.0)
    _, scan = read(tmp_path / "a.h5", 5)
    images = to_image(kspace[2, :, :, 1].transpose(2, 0, 1) * SCALE)
    combined = np.abs((maps[2, ..., 0].transpose(2, 0, 1).conj() * images).sum(axis=0))
    np.testing.assert_allclose(scan.target, combined, rtol=1e-4, atol=1e-4)
    with h5py.File(tmp_path / "a.h5") as file:
        stored = np.abs(file["target"][2, :, :, 1, 0]) * SCALE
    np.testing.assert_allclose(scan.target, stored, rtol=1e-4, atol=1e-4)


def test_corners_and_padding_were_never_measured(tmp_path: Path) -> None:
    kspace, _ = write_skm_tea(tmp_path / "a.h5", padding=2)
    _, scan = read(tmp_path / "a.h5", 1)
    assert np.array_equal(scan.measured.numpy(), (kspace[1, :, :, 0] != 0).any(axis=-1))
    assert not scan.measured[0].any() and not scan.measured[:, 0].any()  # padding
    inside = scan.measured.any(dim=1, keepdim=True) & scan.measured.any(dim=0, keepdim=True)
    assert bool((inside & ~scan.measured).any())  # corners


def test_a_file_without_its_image_is_read(tmp_path: Path) -> None:
    write_skm_tea(tmp_path / "with.h5")
    write_skm_tea(tmp_path / "without.h5", target=False)
    assert torch.equal(
        read(tmp_path / "with.h5", 1)[1].target, read(tmp_path / "without.h5", 1)[1].target
    )


def segmentation(shape: tuple[int, int, int] = (3, 12, 10)) -> Array:
    """Tissues 0 to 6, (x, ky, kz)."""
    return np.random.default_rng(0).integers(0, 7, shape).astype(np.uint8)


def write_segmentation(scan: Path, values: Array) -> Path:
    """Where the collection has that of a scan. Segmentations are used along their stored axes."""
    path = scan.parent.parent / "segmentation_masks" / "raw-data-track" / f"{scan.stem}.nii.gz"
    path.parent.mkdir(parents=True)
    write_nifti(path, values, affine=np.diag([-1.0, -1.0, 1.0, 1.0])[[2, 1, 0, 3]])
    return path


def test_the_segmentation_is_the_label_of_both_echoes(tmp_path: Path) -> None:
    write_skm_tea(tmp_path / "files" / "MTR_013.h5")
    tissues = segmentation()
    write_segmentation(tmp_path / "files" / "MTR_013.h5", tissues)
    for index, x in enumerate([0, 1, 2, 0, 1, 2]):
        label = read(tmp_path / "files" / "MTR_013.h5", index)[1].label
        assert label is not None and label.dtype == torch.int64
        assert np.array_equal(label.numpy(), tissues[x])


def test_scans_without_a_segmentation_have_no_label(tmp_path: Path) -> None:
    write_skm_tea(tmp_path / "files" / "MTR_013.h5")
    write_skm_tea(tmp_path / "files" / "MTR_014.h5")
    write_segmentation(tmp_path / "files" / "MTR_013.h5", segmentation())
    assert read(tmp_path / "files" / "MTR_014.h5")[1].label is None


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (segmentation((3, 12, 9)), r"MTR_013.nii.gz: expected the shape \(3, 12, 10\)"),
        (segmentation() + np.uint8(4), "whole numbers from 0 to 6"),
        (segmentation() / np.float32(2), "whole numbers from 0 to 6"),
    ],
    ids=["another shape", "unknown tissues", "fractions"],
)
def test_segmentations_of_something_else_are_refused(
    tmp_path: Path, values: Array, told: str
) -> None:
    write_skm_tea(tmp_path / "files" / "MTR_013.h5")
    write_segmentation(tmp_path / "files" / "MTR_013.h5", values)
    refused(tmp_path / "files" / "MTR_013.h5", told)


def test_a_truncated_segmentation_is_refused(tmp_path: Path) -> None:
    write_skm_tea(tmp_path / "files" / "MTR_013.h5")
    path = write_segmentation(tmp_path / "files" / "MTR_013.h5", segmentation())
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused(tmp_path / "files" / "MTR_013.h5", r"segmentation MTR_013.nii.gz: damaged")


def test_segmentations_are_no_images(tmp_path: Path) -> None:
    write_skm_tea(tmp_path / "files" / "MTR_013.h5")
    path = write_segmentation(tmp_path / "files" / "MTR_013.h5", segmentation())
    index = index_path(tmp_path, all_readers())
    assert [entry.file for entry in index.entries] == ["files/MTR_013.h5"]
    [(file, reason)] = index.problems.items()
    assert file.endswith(path.name) and "segmentation_masks" in reason


def test_the_survey_finds_nothing_suspicious(tmp_path: Path) -> None:
    write_skm_tea(tmp_path / "MTR_013.h5", shape=(2, 20, 16, 2, 3))
    index = index_path(tmp_path, all_readers())
    [found] = survey(index.root, index.entries)
    assert (found.usable, found.warning) == ((0, 1, 2, 3), None)


def test_generic_files_are_left_to_the_generic_reader(tmp_path: Path) -> None:
    write_kspace(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5") as file:
        assert reader_for(file, all_readers()).name == "hdf5"


def test_maps_of_zeros_are_refused(tmp_path: Path) -> None:
    write_skm_tea(tmp_path / "a.h5", target=False)
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["maps"][0] = 0
    read(tmp_path / "a.h5", 1)
    refused(tmp_path / "a.h5", "maps are all zero", 0)


@pytest.mark.parametrize("axis", [1, 2])
def test_kspace_that_was_not_filled_in_is_refused(tmp_path: Path, axis: int) -> None:
    kspace, _ = write_skm_tea(tmp_path / "a.h5", target=False)
    kspace[(slice(None),) * axis + (slice(None, None, 2),)] = 0
    edit(tmp_path / "a.h5", kspace=kspace)
    refused(tmp_path / "a.h5", "undersampled")


def test_another_fourier_convention_is_refused(tmp_path: Path) -> None:
    kspace, _ = write_skm_tea(tmp_path / "a.h5", shape=(3, 24, 20, 2, 4))
    edit(tmp_path / "a.h5", kspace=kspace.conj())
    refused(tmp_path / "a.h5", "centred Fourier transform")


@pytest.mark.parametrize(
    ("key", "shape", "message"),
    [
        ("kspace", (3, 12, 10, 4), r"must have the axes \(x, ky, kz, echo, coil\)"),
        ("kspace", (0, 12, 10, 2, 4), "no slices"),
        ("maps", (3, 12, 10, 4), r"must have the axes \(x, ky, kz, coil, map\)"),
        ("maps", (3, 12, 10, 5, 1), r"'maps' must have the shape \(3, 12, 10, 4, 1\)"),
        ("maps", (3, 12, 10, 4, 2), r"'maps' must have the shape \(3, 12, 10, 4, 1\)"),
        ("target", (3, 12, 10, 1, 1), r"'target' must have the shape \(3, 12, 10, 2, 1\)"),
    ],
)
def test_wrong_axes_are_named(
    tmp_path: Path, key: str, shape: tuple[int, ...], message: str
) -> None:
    write_skm_tea(tmp_path / "a.h5")
    edit(tmp_path / "a.h5", **{key: np.ones(shape, np.complex64)})
    refused(tmp_path / "a.h5", message)


def test_values_that_are_not_complex_are_refused(tmp_path: Path) -> None:
    write_skm_tea(tmp_path / "a.h5")
    edit(tmp_path / "a.h5", kspace=np.ones((3, 12, 10, 2, 4), np.float32))
    refused(tmp_path / "a.h5", "must be complex")
