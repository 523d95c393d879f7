"""fastMRI: knee and brain, prostate, breast."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from activemri.data.formats.fastmri import SCALE, FastMRIReader
from activemri.data.formats.registry import all_readers, reader_for
from activemri.data.index import index_path
from activemri.data.readers import UnreadableError
from activemri.data.standard import with_target
from tests.data.files import (
    edit,
    random_kspace,
    read,
    refused,
    rss,
    to_image,
    write_fastmri,
    write_kspace,
)
from tests.data.published_files import write_breast, write_prostate

READER = FastMRIReader()


def test_labels_come_from_attributes_and_header(tmp_path: Path) -> None:
    write_fastmri(tmp_path / "file_brain.h5", n_coils=3, patient="abc", acquisition="AXT2")
    volume, _ = read(tmp_path / "file_brain.h5")
    assert (volume.subject, volume.contrast, volume.n_coils) == ("abc", "AXT2", 3)
    assert volume.field_strength == pytest.approx(2.8936, abs=1e-4)
    assert volume.scanner == "SIEMENS Prisma_fit"
    assert (volume.shape, volume.target_shape) == ((20, 14), (10, 10))


def test_a_header_without_vendor_and_model_leaves_the_scanner_unknown(tmp_path: Path) -> None:
    write_fastmri(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        header = file["ismrmrd_header"][()]
        del file["ismrmrd_header"]
        bare = header.replace(b"<systemModel>Prisma_fit</systemModel>", b"")
        file["ismrmrd_header"] = bare
        assert READER.describe(file).scanner == "SIEMENS"
        del file["ismrmrd_header"]
        file["ismrmrd_header"] = bare.replace(b"<systemVendor>SIEMENS</systemVendor>", b"")
        assert READER.describe(file).scanner == "unknown"


def test_files_without_a_patient_are_their_own_subject(tmp_path: Path) -> None:
    write_fastmri(tmp_path / "file7.h5")
    with h5py.File(tmp_path / "file7.h5", "a") as file:
        del file.attrs["patient_id"]
    assert read(tmp_path / "file7.h5")[0].subject == "file7"


@pytest.mark.parametrize("n_coils", [None, 3])
def test_stored_and_computed_references_agree(tmp_path: Path, n_coils: int | None) -> None:
    kspace = write_fastmri(tmp_path / "with.h5", n_coils=n_coils)
    write_fastmri(tmp_path / "without.h5", n_coils=n_coils, reference=False)
    _, stored = read(tmp_path / "with.h5", 2)
    _, computed = read(tmp_path / "without.h5", 2)
    for scan in (with_target(stored, "rss"), with_target(computed, "rss")):
        torch.testing.assert_close(stored.target, scan.target, rtol=1e-5, atol=1e-6)
    image = rss(kspace[2]) if n_coils else np.abs(to_image(kspace[2]))
    np.testing.assert_allclose(stored.target, image[5:15, 2:12] * SCALE, rtol=1e-5)


def test_a_single_coil_file_ignores_the_multi_coil_reference(tmp_path: Path) -> None:
    write_fastmri(tmp_path / "knee.h5")
    _, before = read(tmp_path / "knee.h5")
    edit(tmp_path / "knee.h5", reconstruction_rss=np.full((3, 10, 10), 7, np.float32))
    assert torch.equal(read(tmp_path / "knee.h5")[1].target, before.target)


def test_a_reference_larger_than_the_image_is_computed_instead(tmp_path: Path) -> None:
    write_fastmri(tmp_path / "file_brain_AXFLAIR_203.h5", n_coils=2, shape=(20, 8))
    edit(
        tmp_path / "file_brain_AXFLAIR_203.h5", reconstruction_rss=np.ones((3, 10, 10), np.float32)
    )
    volume, scan = read(tmp_path / "file_brain_AXFLAIR_203.h5")
    assert volume.target_shape == (10, 8)
    assert scan.target.std() > 0


def test_scaling_is_exact_and_the_same_for_every_file(tmp_path: Path) -> None:
    kspace = write_fastmri(tmp_path / "scan.h5", n_coils=3)
    _, scan = read(tmp_path / "scan.h5", 1)
    assert np.array_equal(scan.kspace.numpy() / np.float32(SCALE), kspace[1])
    assert scan.processing == ("multiplied by 4096",)


def test_padding_is_never_acquired(tmp_path: Path) -> None:
    write_fastmri(tmp_path / "padded.h5", n_coils=2, padding=(3, 2))
    _, scan = read(tmp_path / "padded.h5")
    assert scan.measured.any(dim=0).tolist() == [False] * 3 + [True] * 9 + [False] * 2


def test_remainders_beyond_the_headers_limits_are_padding_but_samples_are_not(
    tmp_path: Path,
) -> None:
    write_fastmri(tmp_path / "padded.h5", padding=(3, 2))
    with h5py.File(tmp_path / "padded.h5", "a") as file:
        file["kspace"][0, :, 0] = 1e-12  # rounding left by a filter
        file["kspace"][0, :, 13] = 1e-6  # as strong as the acquired columns
    _, scan = read(tmp_path / "padded.h5")
    assert scan.measured.any(dim=0).tolist() == [False] * 3 + [True] * 9 + [False, True]


def test_undersampled_files_are_refused_with_the_reason(tmp_path: Path) -> None:
    write_fastmri(tmp_path / "test.h5", reference=False, mask=True)
    refused(tmp_path / "test.h5", "undersampled")


def test_a_missing_or_broken_header_is_named(tmp_path: Path) -> None:
    write_fastmri(tmp_path / "scan.h5")
    edit(tmp_path / "scan.h5", ismrmrd_header=None)
    refused(tmp_path / "scan.h5", "no data set 'ismrmrd_header'")
    edit(tmp_path / "scan.h5", ismrmrd_header=b"<ismrmrdHeader")
    refused(tmp_path / "scan.h5", "not XML")


@pytest.mark.parametrize("shape", [(20, 14), (1, 2, 3, 20, 14)])
def test_wrong_axes_are_named(tmp_path: Path, shape: tuple[int, ...]) -> None:
    write_fastmri(tmp_path / "scan.h5")
    edit(tmp_path / "scan.h5", kspace=random_kspace(shape))
    refused(tmp_path / "scan.h5", "must have the axes")


def test_a_reference_with_other_slices_than_kspace_is_refused(tmp_path: Path) -> None:
    write_fastmri(tmp_path / "scan.h5")
    edit(tmp_path / "scan.h5", reconstruction_esc=np.ones((2, 10, 10), np.float32))
    refused(tmp_path / "scan.h5", "2 slices, k-space has 3")


def test_fastmri_itself_reads_the_same(tmp_path: Path) -> None:
    from fastmri.data import SliceDataset

    write_fastmri(tmp_path / "set" / "scan.h5", n_coils=3, padding=(3, 2))
    theirs = SliceDataset(tmp_path / "set", challenge="multicoil")
    volume, _ = read(tmp_path / "set" / "scan.h5")
    kspace, _, target, facts, _, index = theirs[1]
    _, ours = read(tmp_path / "set" / "scan.h5", index)
    np.testing.assert_array_equal(ours.kspace.numpy(), kspace * SCALE)
    np.testing.assert_array_equal(ours.target.numpy(), target * SCALE)
    assert volume.encoded_columns == (facts["padding_left"], facts["padding_right"])


def test_labels_of_the_prostate_come_from_attributes_and_header(tmp_path: Path) -> None:
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
    np.testing.assert_allclose(
        with_target(scan, "rss").target, rss(padded)[5:15, 2:12] * SCALE, rtol=1e-5
    )


@pytest.mark.parametrize("averages", [1, 2])
def test_lines_in_no_average_are_refused_and_two_averages_suffice(
    tmp_path: Path, averages: int
) -> None:
    write_prostate(tmp_path / "a.h5", averages=averages)
    if averages == 2:
        read(tmp_path / "a.h5")
        return
    refused(tmp_path / "a.h5", r"3 of 7 lines are in none of the 1 averages")


def test_a_slice_that_lacks_lines_is_refused_alone(tmp_path: Path) -> None:
    write_prostate(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["kspace"][1, 0, ..., 4] = 0
    read(tmp_path / "a.h5", 2)
    refused(tmp_path / "a.h5", r"1 of 9 lines", 0)


def test_diffusion_weighted_files_are_a_named_problem(tmp_path: Path) -> None:
    write_prostate(tmp_path / "file_prostate_AXT2_001.h5")
    write_prostate(tmp_path / "file_prostate_AXDIFF_001.h5")
    edit(
        tmp_path / "file_prostate_AXDIFF_001.h5",
        coil_sens_maps=np.ones((3, 2, 20, 9), np.complex64),
    )
    index = index_path(tmp_path, all_readers())
    assert [entry.file for entry in index.entries] == ["file_prostate_AXT2_001.h5"]
    [(_file, reason)] = index.problems.items()
    assert "diffusion-weighted" in reason


def test_lines_that_do_not_fit_the_header_are_refused(tmp_path: Path) -> None:
    write_prostate(tmp_path / "a.h5", width=14, center=8)
    refused(tmp_path / "a.h5", "9 lines do not fit the header")
    write_prostate(tmp_path / "a.h5")
    edit(tmp_path / "a.h5", kspace=np.ones((3, 3, 2, 20, 11), np.complex64))
    refused(tmp_path / "a.h5", "11 lines do not fit the header")


def test_a_header_without_limits_is_refused(tmp_path: Path) -> None:
    write_prostate(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5") as file:
        header = file["ismrmrd_header"][()]
    bare = header.replace(b"kspace_encoding_step_1", b"other")
    edit(tmp_path / "a.h5", ismrmrd_header=bare)
    refused(tmp_path / "a.h5", "to place the lines")


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
    edit(tmp_path / "a.h5", kspace=values)
    refused(tmp_path / "a.h5", message)


def test_radial_files_are_a_named_problem_that_says_what_to_do(tmp_path: Path) -> None:
    write_breast(tmp_path / "fastMRI_breast_003_2.h5")
    write_kspace(tmp_path / "other.h5")
    [(file, reason)] = index_path(tmp_path, all_readers()).problems.items()
    assert file == "fastMRI_breast_003_2.h5"
    assert "not Cartesian" in reason and "Reconstruct images" in reason


@pytest.mark.parametrize("renamed", [True, False])
def test_files_are_known_by_their_layout_or_their_name(tmp_path: Path, renamed: bool) -> None:
    path = tmp_path / ("a.h5" if renamed else "fastMRI_breast_001_1.h5")
    write_breast(path)
    if not renamed:
        edit(path, kspace=np.ones((5, 8, 3, 4), np.complex64))
    with h5py.File(path) as file:
        reader = reader_for(file, all_readers())
        with pytest.raises(UnreadableError, match="not Cartesian"):
            reader.describe(file)
