"""The layout of the Calgary-Campinas multi-channel raw data."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from activemri.data.formats.calgary_campinas import SCALE, CalgaryCampinasReader
from activemri.data.phantoms.dataset import PhantomDataset
from activemri.data.standard import with_target
from tests.data.files import random_kspace, read, refused, to_image
from tests.data.published_files import write_calgary, write_parts

READER = CalgaryCampinasReader()


def parts_of(kspace: NDArray[np.complexfloating]) -> NDArray[np.float32]:
    """k-space (slice, coil, height, width) as the data set stores it."""
    moved = kspace.transpose(0, 2, 3, 1)
    parts = np.stack([moved.real, moved.imag], axis=-1).reshape(*moved.shape[:3], -1)
    return parts.astype(np.float32)


def head() -> NDArray[np.complexfloating]:
    """A head (1, coil, 64, 48) whose FFT without shifts has it in the middle; 85 % of kz."""
    image = to_image(PhantomDataset(n_coils=4, matrix_size=(64, 48))[0].kspace.numpy())[None]
    kspace = np.fft.fftshift(np.fft.fft2(image), axes=(-2, -1))
    kspace[..., 41:] = 0
    return kspace


def test_labels_are_those_of_the_data_set_and_the_subject_is_the_exam(tmp_path: Path) -> None:
    write_calgary(tmp_path / "e14089s3_P53248.7.h5")
    volume, _ = read(tmp_path / "e14089s3_P53248.7.h5")
    assert (volume.name, volume.subject) == ("e14089s3_P53248.7", "e14089")
    assert (volume.contrast, volume.field_strength) == ("T1", 3.0)
    assert volume.scanner == "GE Discovery MR750"
    assert (volume.n_slices, volume.n_coils) == (3, 2)
    assert volume.shape == volume.target_shape == (22, 20)
    assert volume.encoded_columns == (0, 17)


def test_files_of_another_name_are_their_own_subject(tmp_path: Path) -> None:
    write_calgary(tmp_path / "brain.h5")
    assert read(tmp_path / "brain.h5")[0].subject == "brain"


@pytest.mark.parametrize("shape", [(2, 22, 20, 3), (2, 21, 20, 3), (2, 22, 19, 2), (3, 15, 17, 1)])
@pytest.mark.parametrize("dtype", ["<f4", "<f8"])
def test_images_are_those_of_the_published_transform(
    tmp_path: Path, shape: tuple[int, int, int, int], dtype: str
) -> None:
    images = write_calgary(tmp_path / "a.h5", shape=shape, dtype=dtype)
    factor = np.sqrt(shape[1] * shape[2]) * SCALE  # ours is orthonormal
    for index in range(shape[0]):
        _, scan = read(tmp_path / "a.h5", index)
        ours = np.abs(to_image(scan.kspace.numpy()))
        np.testing.assert_allclose(ours, factor * np.abs(images[index]), rtol=1e-4, atol=1e-5)
        expected = factor * np.linalg.norm(images[index], axis=0)
        np.testing.assert_allclose(with_target(scan, "rss").target, expected, rtol=1e-5)


def test_magnitudes_of_samples_are_kept(tmp_path: Path) -> None:
    write_calgary(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5") as file:
        stored = file["kspace"][1]
    _, scan = read(tmp_path / "a.h5", 1)
    ours = scan.kspace[1].numpy() / np.float32(SCALE)
    assert np.array_equal(np.abs(ours.real), np.abs(stored[..., 2]))
    assert np.array_equal(np.abs(ours.imag), np.abs(stored[..., 3]))


def test_the_end_of_kz_was_never_acquired(tmp_path: Path) -> None:
    write_calgary(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["kspace"][:, :, 17:] = 1e-3  # remainders of the scanner's processing
    _, scan = read(tmp_path / "a.h5")
    assert scan.measured.any(dim=0).tolist() == [True] * 17 + [False] * 3
    assert not scan.kspace[:, :, 17:].any()
    assert "beyond 85 % of kz set to zero" in scan.processing


@pytest.mark.parametrize(("n_encodes", "acquired"), [(170, 145), (180, 153), (20, 17)])
def test_the_share_is_rounded_up(tmp_path: Path, n_encodes: int, acquired: int) -> None:
    write_calgary(tmp_path / "a.h5", shape=(1, 8, n_encodes, 1))
    assert read(tmp_path / "a.h5")[0].encoded_columns == (0, acquired)


def test_corners_that_were_never_acquired_are_not_measured(tmp_path: Path) -> None:
    kspace = random_kspace((1, 2, 22, 20))
    kspace[..., :3, :3] = kspace[..., 17:] = 0
    write_parts(tmp_path / "a.h5", parts_of(kspace))
    _, scan = read(tmp_path / "a.h5")
    assert not scan.measured[:3, :3].any() and scan.measured[3:, :17].all()


def test_undersampled_test_sets_are_refused(tmp_path: Path) -> None:
    kspace = random_kspace((1, 2, 22, 20)) * (np.random.default_rng(0).random((22, 20)) < 0.2)
    kspace[..., 17:] = 0
    write_parts(tmp_path / "a.h5", parts_of(kspace))
    refused(tmp_path / "a.h5", "undersampled")


def test_a_head_in_the_middle_is_read_and_one_at_the_corners_refused(tmp_path: Path) -> None:
    write_parts(tmp_path / "a.h5", parts_of(head()))
    _, scan = read(tmp_path / "a.h5")
    middle = scan.target[16:48, 12:36].square().sum() / scan.target.square().sum()
    assert middle > 0.5
    signs = (-1.0) ** np.add.outer(np.arange(64), np.arange(48))  # half the field of view
    write_parts(tmp_path / "b.h5", parts_of(head() * signs))
    refused(tmp_path / "b.h5", "at the corners of the image")


def test_low_frequencies_at_the_corners_are_refused(tmp_path: Path) -> None:
    kspace = np.fft.ifftshift(random_kspace((1, 2, 22, 20)), axes=(-2, -1))
    write_parts(tmp_path / "a.h5", parts_of(kspace))
    refused(tmp_path / "a.h5", r"strongest sample .*at \(0, 0\)")


def test_samples_where_none_are_expected_are_refused(tmp_path: Path) -> None:
    write_parts(tmp_path / "a.h5", parts_of(random_kspace((1, 2, 22, 20))))
    refused(tmp_path / "a.h5", "the last 15 % of kz hold as much")


@pytest.mark.parametrize(
    "values",
    [
        np.ones((2, 3, 8, 10), np.float32),  # more parts than samples
        np.ones((2, 8, 10, 3), np.float32),  # an odd number of parts
        np.ones((2, 8, 10, 4), np.int16),
        np.ones((2, 8, 10, 4), np.complex64),
        np.ones((8, 10, 4), np.float32),
    ],
)
def test_other_layouts_are_left_to_other_readers(
    tmp_path: Path, values: NDArray[np.generic]
) -> None:
    write_parts(tmp_path / "a.h5", values)
    with h5py.File(tmp_path / "a.h5") as file:
        assert not READER.recognises(file)


def test_files_without_slices_are_refused(tmp_path: Path) -> None:
    write_parts(tmp_path / "a.h5", np.ones((0, 22, 20, 4), np.float32))
    refused(tmp_path / "a.h5", "no slices")


@pytest.mark.parametrize(("value", "message"), [(np.nan, "NaN or Inf"), (0, "all zero")])
@pytest.mark.parametrize("index", [0, 1])
def test_unusable_slices_are_named(tmp_path: Path, value: float, message: str, index: int) -> None:
    write_calgary(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["kspace"][index] = value
    assert read(tmp_path / "a.h5", 2)[1].target.any()
    refused(tmp_path / "a.h5", message, index)
