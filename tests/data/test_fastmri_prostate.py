"""The layout of fastMRI prostate."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from activemri.data.formats.fastmri import SCALE, FastMRIProstateReader
from activemri.data.formats.registry import all_readers
from activemri.data.index import index_path
from activemri.data.readers import UnreadableError, Volume
from activemri.data.slices import Slice
from tests.data.collection_files import write_prostate
from tests.data.files import rss

READER = FastMRIProstateReader()


def read(path: Path, index: int = 0) -> tuple[Volume, Slice]:
    with h5py.File(path) as file:
        volume = READER.describe(file)
        return volume, READER.read(file, volume, index)


def replaced(path: Path, key: str, values: object) -> None:
    with h5py.File(path, "a") as file:
        del file[key]
        file[key] = values


def test_labels_come_from_attributes_and_header(tmp_path: Path) -> None:
    write_prostate(tmp_path / "file_prostate_AXT2_001.h5", patient="abc")
    volume, _ = read(tmp_path / "file_prostate_AXT2_001.h5")
    assert (volume.name, volume.subject) == ("file_prostate_AXT2_001", "abc")
    assert (volume.contrast, volume.scanner) == ("AXT2", "SIEMENS Prisma_fit")
    assert volume.field_strength == pytest.approx(2.8936, abs=1e-4)
    assert (volume.n_slices, volume.n_coils, volume.shape) == (3, 2, (20, 14))


def test_the_averages_complete_each_other(tmp_path: Path) -> None:
    lines = write_prostate(tmp_path / "a.h5", width=14, center=5)
    _, scan = read(tmp_path / "a.h5", 1)
    assert np.array_equal(scan.kspace.numpy()[..., 2:11] / np.float32(SCALE), lines[1])
    assert not scan.kspace[..., :2].any() and not scan.kspace[..., 11:].any()


def test_lines_in_two_averages_become_their_mean(tmp_path: Path) -> None:
    lines = write_prostate(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["kspace"][2, 0, :, :, 1] = 3 * lines[0, :, :, 1]
    _, scan = read(tmp_path / "a.h5")
    np.testing.assert_allclose(scan.kspace[..., 3] / SCALE, 2 * lines[0, :, :, 1], rtol=1e-6)
    np.testing.assert_allclose(scan.kspace[..., 4] / SCALE, lines[0, :, :, 2], rtol=1e-6)


def test_the_center_of_the_header_is_the_center_of_kspace(tmp_path: Path) -> None:
    lines = write_prostate(tmp_path / "a.h5", width=16, center=4)
    _, scan = read(tmp_path / "a.h5")
    assert np.array_equal(scan.kspace.numpy()[..., 8] / np.float32(SCALE), lines[0, :, :, 4])


def test_columns_beyond_the_lines_were_never_measured(tmp_path: Path) -> None:
    write_prostate(tmp_path / "a.h5")
    _, scan = read(tmp_path / "a.h5")
    assert scan.measured.all(dim=0).tolist() == [False] * 2 + [True] * 9 + [False] * 3
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["kspace"][..., 0] = 0
    _, scan = read(tmp_path / "a.h5")
    assert scan.measured.any(dim=0).tolist() == [False] * 3 + [True] * 8 + [False] * 3


@pytest.mark.parametrize("reference", [True, False])
def test_the_reference_is_computed_in_the_size_of_the_published_one(
    tmp_path: Path, reference: bool
) -> None:
    lines = write_prostate(tmp_path / "a.h5", reference=reference)
    _, scan = read(tmp_path / "a.h5", 2)
    padded = np.pad(lines[2], ((0, 0), (0, 0), (2, 3)))
    np.testing.assert_allclose(scan.target, rss(padded)[5:15, 2:12] * SCALE, rtol=1e-5)


@pytest.mark.parametrize("averages", [1, 2])
def test_lines_in_no_average_are_refused_and_two_averages_suffice(
    tmp_path: Path, averages: int
) -> None:
    write_prostate(tmp_path / "a.h5", averages=averages)
    if averages == 2:
        read(tmp_path / "a.h5")
        return
    with pytest.raises(UnreadableError, match=r"3 of 7 lines are in none of the 1 averages"):
        read(tmp_path / "a.h5")


def test_a_slice_that_lacks_lines_is_refused_alone(tmp_path: Path) -> None:
    write_prostate(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["kspace"][1, 0, ..., 4] = 0
    read(tmp_path / "a.h5", 2)
    with pytest.raises(UnreadableError, match=r"1 of 9 lines"):
        read(tmp_path / "a.h5", 0)


def test_diffusion_weighted_files_are_a_named_problem(tmp_path: Path) -> None:
    write_prostate(tmp_path / "file_prostate_AXT2_001.h5")
    write_prostate(tmp_path / "file_prostate_AXDIFF_001.h5")
    with h5py.File(tmp_path / "file_prostate_AXDIFF_001.h5", "a") as file:
        file["coil_sens_maps"] = np.ones((3, 2, 20, 9), np.complex64)
    index = index_path(tmp_path, all_readers())
    assert [entry.file for entry in index.entries] == ["file_prostate_AXT2_001.h5"]
    [(file, reason)] = index.problems.items()
    assert "diffusion-weighted" in reason


def test_lines_that_do_not_fit_the_header_are_refused(tmp_path: Path) -> None:
    write_prostate(tmp_path / "a.h5", width=14, center=8)
    with pytest.raises(UnreadableError, match="9 lines do not fit the header"):
        read(tmp_path / "a.h5")
    write_prostate(tmp_path / "a.h5")
    replaced(tmp_path / "a.h5", "kspace", np.ones((3, 3, 2, 20, 11), np.complex64))
    with pytest.raises(UnreadableError, match="11 lines do not fit the header"):
        read(tmp_path / "a.h5")


def test_a_header_without_limits_is_refused(tmp_path: Path) -> None:
    write_prostate(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5") as file:
        header = file["ismrmrd_header"][()]
    bare = header.replace(b"kspace_encoding_step_1", b"other")
    replaced(tmp_path / "a.h5", "ismrmrd_header", bare)
    with pytest.raises(UnreadableError, match="to place the lines"):
        read(tmp_path / "a.h5")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones((3, 2, 20, 9), np.complex64), "must have the axes"),
        (np.ones((3, 0, 2, 20, 9), np.complex64), "empty axis"),
        (np.ones((3, 3, 2, 20, 9), np.float32), "must be complex"),
    ],
)
def test_unusable_arrays_are_named(tmp_path: Path, values: np.ndarray, message: str) -> None:
    write_prostate(tmp_path / "a.h5")
    replaced(tmp_path / "a.h5", "kspace", values)
    with pytest.raises(UnreadableError, match=message):
        read(tmp_path / "a.h5")
