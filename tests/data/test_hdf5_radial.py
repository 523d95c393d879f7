"""Radial scans of the generic HDF5 layout."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from activemri.data.formats.hdf5 import HDF5Reader
from activemri.data.formats.registry import all_readers
from activemri.data.index import index_path
from activemri.data.readers import UnreadableError, Volume
from activemri.data.slices import Slice
from activemri.data.volumes import survey
from tests.data.files import rss
from tests.data.radial_scans import GOLDEN, cartesian, spectrum, spokes, write_radial

READER = HDF5Reader()


def read(path: Path, index: int = 0) -> tuple[Volume, Slice]:
    with h5py.File(path) as file:
        volume = READER.describe(file)
        return volume, READER.read(file, volume, index)


def replace(path: Path, key: str, values: NDArray[np.generic] | None) -> None:
    with h5py.File(path, "a") as file:
        del file[key]
        if values is not None:
            file[key] = values


def test_frames_are_slices_with_as_many_pixels_as_spokes_have_samples(tmp_path: Path) -> None:
    write_radial(tmp_path / "a.h5", n_frames=3, n_coils=4, subject_id="s1", contrast="T2")
    volume, scan = read(tmp_path / "a.h5", 1)
    assert (volume.shape, volume.target_shape) == ((24, 24), (24, 24))
    assert (volume.n_slices, volume.n_coils) == (3, 4)
    assert (volume.subject, volume.contrast) == ("s1", "T2")
    expected = cartesian(n_coils=4) * scan.measured.numpy() / 2
    assert np.linalg.norm(scan.kspace.numpy() - expected) < 0.015 * np.linalg.norm(expected)


def test_oversampled_readouts_give_no_more_pixels(tmp_path: Path) -> None:
    trajectory = spokes(samples=48, step=GOLDEN)
    write_radial(tmp_path / "a.h5", trajectory=trajectory, readout_oversampling=2)
    volume, scan = read(tmp_path / "a.h5")
    assert volume.shape == volume.target_shape == (24, 24)
    expected = rss(cartesian())
    assert np.linalg.norm(scan.target.numpy() - expected) < 0.015 * np.linalg.norm(expected)


def test_resampling_is_recorded_after_what_the_file_says(tmp_path: Path) -> None:
    write_radial(tmp_path / "a.h5", processing='["compressed to 2 coils"]')
    _, scan = read(tmp_path / "a.h5")
    assert scan.processing == (
        "compressed to 2 coils",
        "resampled from 40 radial spokes onto a grid",
    )
    assert not scan.measured[0, 0] and scan.measured[12, 12]


def test_undersampled_files_are_refused_with_the_numbers(tmp_path: Path) -> None:
    write_radial(tmp_path / "a.h5", trajectory=spokes(30, samples=24))
    with pytest.raises(
        UnreadableError, match=r"undersampled: 30 spokes .* of 24 x 24 has at least 37"
    ):
        read(tmp_path / "a.h5")


def test_only_the_frames_that_are_incomplete_are_left_out(tmp_path: Path) -> None:
    trajectory = write_radial(tmp_path / "a.h5")
    half = trajectory[np.arange(40) // 2 * 2]
    replace(tmp_path / "a.h5", "trajectory", np.stack([half, trajectory]))
    index = index_path(tmp_path, all_readers())
    (found,) = survey(index.root, index.entries)
    ((position, reason),) = found.problems
    assert (position, found.usable) == (0, (1,)) and "undersampled: 20 spokes" in reason


@pytest.mark.parametrize(
    ("key", "values", "message"),
    [
        ("trajectory", np.zeros((2, 40, 24), np.float32), r"axes \(frame, spoke, sample, 2\)"),
        ("trajectory", np.zeros((2, 40, 23, 2), np.float32), r"\(2, 40, 24, 2\) as 'kspace' has"),
        ("trajectory", np.zeros((1, 40, 24, 2), np.float32), r"\(2, 40, 24, 2\) as 'kspace' has"),
        ("trajectory", np.zeros((2, 40, 24, 3), np.float32), r"\(2, 40, 24, 2\) as 'kspace' has"),
        ("trajectory", np.zeros((2, 40, 24, 2), np.complex64), "must be real .* got complex64"),
        ("trajectory", np.zeros((2, 40, 24, 2), np.float32), "never leaves the centre"),
        ("trajectory", np.full((2, 40, 24, 2), np.nan), "NaN or Inf in the trajectory"),
        ("trajectory", np.array([b"text"]), "'trajectory' must be a numeric array"),
        ("kspace", None, "no data set 'kspace'"),
        ("kspace", np.zeros((2, 2, 40, 24), np.float32), "'kspace' must be complex"),
        ("kspace", np.zeros((2, 40, 24), np.complex64), r"axes \(frame, coil, spoke, sample\)"),
    ],
)
def test_unusable_data_sets_are_named(
    tmp_path: Path, key: str, values: NDArray[np.generic] | None, message: str
) -> None:
    write_radial(tmp_path / "a.h5")
    replace(tmp_path / "a.h5", key, values)
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file.require_dataset("image", (2, 8, 10), np.float32)
    with pytest.raises(UnreadableError, match=message):
        read(tmp_path / "a.h5")


@pytest.mark.parametrize(("value", "message"), [(np.nan, "NaN or Inf"), (0, "all zero")])
def test_unusable_frames_are_named(tmp_path: Path, value: float, message: str) -> None:
    trajectory = write_radial(tmp_path / "a.h5")
    samples = np.stack([spectrum(trajectory)] * 2)
    samples[0] = value
    replace(tmp_path / "a.h5", "kspace", samples)
    with pytest.raises(UnreadableError, match=message):
        read(tmp_path / "a.h5")
    assert read(tmp_path / "a.h5", 1)[1].target.any()


def test_the_radial_scan_of_a_beating_heart_is_undersampled(real_data: Path) -> None:
    path = real_data / "unstated" / "utah_cardiac_radial_3ch.h5"
    if not path.is_file():
        pytest.skip(f"no real scan at {path}")
    with pytest.raises(
        UnreadableError, match=r"undersampled: 30 spokes .* of 288 x 288 has at least 452"
    ):
        read(path)
