"""The layout of the CMRxRecon data sets."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from activemri.data.formats.cmrxrecon import SCALE, CMRxReconReader
from activemri.data.standard import with_target
from tests.data.files import random_kspace, read, refused, rss, write_image, write_kspace
from tests.data.published_files import write_cmrxrecon, write_matlab

READER = CMRxReconReader()
FULL = Path("MultiCoil/Cine/TrainingSet/FullSample/P007/cine_sax.mat")


def test_labels_come_from_file_and_folders(tmp_path: Path) -> None:
    write_cmrxrecon(tmp_path / FULL)
    volume, _ = read(tmp_path / FULL)
    assert (volume.name, volume.contrast) == ("cine_sax", "cine_sax")
    assert volume.subject == "TrainingSet P007"
    assert (volume.shape, volume.target_shape) == ((20, 14), (20, 14))
    assert (volume.n_slices, volume.n_coils) == (8, 3)
    assert (volume.field_strength, volume.scanner) == (3.0, "SIEMENS MAGNETOM Vida")


def test_people_of_several_centres_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "Cine/TrainingSet/FullSample/Center005/UIH_15T_umr670/P001/cine_lax.mat"
    write_cmrxrecon(path, key="kspace")
    volume, _ = read(path)
    assert volume.subject == "TrainingSet Center005 UIH_15T_umr670 P001"
    assert (volume.field_strength, volume.scanner) == (1.5, "UIH umr670")


def test_files_outside_of_such_folders_are_their_own_subject(tmp_path: Path) -> None:
    write_cmrxrecon(tmp_path / "T1map.mat", key="kspace")
    volume, _ = read(tmp_path / "T1map.mat")
    assert (volume.subject, volume.contrast) == ("T1map", "T1map")
    assert (volume.field_strength, volume.scanner) == (None, "unknown")


@pytest.mark.parametrize("double", [False, True])
def test_slices_of_the_first_frame_come_first(tmp_path: Path, double: bool) -> None:
    kspace = write_cmrxrecon(tmp_path / FULL, double=double)  # (frame, slice, coil, kx, ky)
    for index in range(8):
        _, scan = read(tmp_path / FULL, index)
        expected = kspace[index // 2, index % 2]
        assert np.array_equal(scan.kspace.numpy() / np.float32(SCALE), expected)
        np.testing.assert_allclose(
            with_target(scan, "rss").target, SCALE * rss(expected), rtol=1e-5
        )
        assert scan.processing == ("multiplied by 4096",)


@pytest.mark.parametrize(
    ("key", "shape", "n_slices", "n_coils"),
    [
        ("kspace_full", (20, 14, 3, 2), 2, 3),
        ("kspace_full", (20, 14, 3), 1, 3),
        ("kspace_single_full", (20, 14, 2, 4), 8, 1),
        ("kspace_single_full", (20, 14, 2), 2, 1),
        ("kspace_single_full", (20, 14), 1, 1),
    ],
)
def test_axes_that_matlab_drops_may_be_missing(
    tmp_path: Path, key: str, shape: tuple[int, ...], n_slices: int, n_coils: int
) -> None:
    kspace = write_cmrxrecon(tmp_path / "a.mat", key=key, shape=shape)
    volume, scan = read(tmp_path / "a.mat", n_slices - 1)
    assert (volume.n_slices, volume.n_coils, volume.shape) == (n_slices, n_coils, (20, 14))
    expected = kspace.reshape(n_slices, n_coils, 20, 14)[-1]
    assert np.array_equal(scan.kspace.numpy() / np.float32(SCALE), expected)


def test_zero_padding_was_never_acquired(tmp_path: Path) -> None:
    kspace = random_kspace((3, 20, 14))
    kspace[:, :, :3] = kspace[:, 18:] = 0
    write_matlab(tmp_path / "a.mat", kspace_full=kspace.transpose(1, 2, 0))
    _, scan = read(tmp_path / "a.mat")
    assert scan.measured.any(dim=0).tolist() == [False] * 3 + [True] * 11
    assert scan.measured.any(dim=1).tolist() == [True] * 18 + [False] * 2


@pytest.mark.parametrize("key", ["kspace_sub04", "kspace_single_sub10", "kus"])
def test_undersampled_files_are_refused_by_name(tmp_path: Path, key: str) -> None:
    write_cmrxrecon(tmp_path / "cine_sax.mat", key=key)
    refused(tmp_path / "cine_sax.mat", f"undersampled \\('{key}'\\)")


def test_files_that_are_undersampled_without_saying_so_are_refused(tmp_path: Path) -> None:
    kspace = random_kspace((3, 20, 14))
    kspace[:, :, [1, 3, 11]] = 0
    write_matlab(tmp_path / "a.mat", kspace=kspace.transpose(1, 2, 0))
    refused(tmp_path / "a.mat", "undersampled \\(3 of 14 columns")


def test_one_undersampled_frame_does_not_spoil_the_others(tmp_path: Path) -> None:
    kspace = write_cmrxrecon(tmp_path / "a.mat")
    kspace[0, 1, :, :, 4] = 0
    write_matlab(tmp_path / "a.mat", kspace_full=kspace.transpose(3, 4, 2, 1, 0))
    read(tmp_path / "a.mat", 0)
    refused(tmp_path / "a.mat", "undersampled \\(1 of 14", 1)


def test_sampling_masks_are_named(tmp_path: Path) -> None:
    write_matlab(tmp_path / "cine_sax_mask.mat", mask04=np.ones((20, 14)))
    refused(tmp_path / "cine_sax_mask.mat", "a sampling mask without k-space; found mask04")


def test_several_kspaces_are_named(tmp_path: Path) -> None:
    kspace = random_kspace((3, 20, 14)).transpose(1, 2, 0)
    write_matlab(tmp_path / "a.mat", kspace_full=kspace, kspace_sub04=kspace)
    refused(tmp_path / "a.mat", r"several .*\(kspace_full, kspace_sub04\)")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"kspace_full": np.ones((20, 14, 3, 2, 4))}, "must have real and imaginary parts"),
        (
            {"kspace_full": np.ones((20, 14)) + 0j},
            r"axes \(frame, slice, coil, ky, kx\); got .*14, 20",
        ),
        ({"kspace_single_full": np.ones((9, 8, 3, 2, 4)) + 0j}, r"axes \(frame, slice, ky, kx\)"),
        ({"kspace_full": np.ones((20, 14, 3, 0)) + 0j}, "an empty axis"),
    ],
)
def test_other_axes_and_types_are_named(
    tmp_path: Path, arrays: dict[str, NDArray[np.generic]], message: str
) -> None:
    write_matlab(tmp_path / "a.mat", **arrays)
    refused(tmp_path / "a.mat", message)


@pytest.mark.parametrize(("value", "message"), [(np.nan, "NaN or Inf"), (0, "all zero")])
def test_unusable_slices_are_named(tmp_path: Path, value: float, message: str) -> None:
    kspace = write_cmrxrecon(tmp_path / "a.mat")
    kspace[0, 1] = value
    write_matlab(tmp_path / "a.mat", kspace_full=kspace.transpose(3, 4, 2, 1, 0))
    refused(tmp_path / "a.mat", message, 1)


def test_files_of_the_generic_layout_are_left_to_its_reader(tmp_path: Path) -> None:
    write_kspace(tmp_path / "a.h5")
    write_image(tmp_path / "b.h5")
    (tmp_path / "c.h5").touch()
    with h5py.File(tmp_path / "c.h5", "w"):
        pass
    for name in ("a.h5", "b.h5", "c.h5"):
        with h5py.File(tmp_path / name, "a") as file:
            assert not READER.recognises(file)
            if name != "c.h5":
                file["mask"] = np.ones(3)
                assert not READER.recognises(file)
