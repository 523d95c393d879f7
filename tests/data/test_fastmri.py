"""The fastMRI layout."""

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from activemri.data.formats.fastmri import SCALE, FastMRIReader
from activemri.data.readers import UnreadableError, Volume
from activemri.data.slices import Slice
from tests.data.files import random_kspace, rss, to_image, write_fastmri

READER = FastMRIReader()


def read(path: Path, index: int = 0) -> tuple[Volume, Slice]:
    with h5py.File(path) as file:
        volume = READER.describe(file)
        return volume, READER.read(file, volume, index)


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
    torch.testing.assert_close(stored.target, computed.target, rtol=1e-5, atol=1e-6)
    image = rss(kspace[2]) if n_coils else np.abs(to_image(kspace[2]))
    np.testing.assert_allclose(stored.target, image[5:15, 2:12] * SCALE, rtol=1e-5)


def test_a_single_coil_file_ignores_the_multi_coil_reference(tmp_path: Path) -> None:
    write_fastmri(tmp_path / "knee.h5")
    _, before = read(tmp_path / "knee.h5")
    with h5py.File(tmp_path / "knee.h5", "a") as file:
        file["reconstruction_rss"] = np.full((3, 10, 10), 7, np.float32)
    assert torch.equal(read(tmp_path / "knee.h5")[1].target, before.target)


def test_a_reference_larger_than_the_image_is_computed_instead(tmp_path: Path) -> None:
    write_fastmri(tmp_path / "file_brain_AXFLAIR_203.h5", n_coils=2, shape=(20, 8))
    with h5py.File(tmp_path / "file_brain_AXFLAIR_203.h5", "a") as file:
        del file["reconstruction_rss"]
        file["reconstruction_rss"] = np.ones((3, 10, 10), np.float32)
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
    with pytest.raises(UnreadableError, match="undersampled"):
        read(tmp_path / "test.h5")


def test_a_missing_or_broken_header_is_named(tmp_path: Path) -> None:
    write_fastmri(tmp_path / "scan.h5")
    with h5py.File(tmp_path / "scan.h5", "a") as file:
        del file["ismrmrd_header"]
    with pytest.raises(UnreadableError, match="no data set 'ismrmrd_header'"):
        read(tmp_path / "scan.h5")
    with h5py.File(tmp_path / "scan.h5", "a") as file:
        file["ismrmrd_header"] = b"<ismrmrdHeader"
    with pytest.raises(UnreadableError, match="not XML"):
        read(tmp_path / "scan.h5")


@pytest.mark.parametrize("shape", [(20, 14), (1, 2, 3, 20, 14)])
def test_wrong_axes_are_named(tmp_path: Path, shape: tuple[int, ...]) -> None:
    write_fastmri(tmp_path / "scan.h5")
    with h5py.File(tmp_path / "scan.h5", "a") as file:
        del file["kspace"]
        file["kspace"] = random_kspace(shape)
    with pytest.raises(UnreadableError, match="must have the axes"):
        read(tmp_path / "scan.h5")


def test_a_reference_with_other_slices_than_kspace_is_refused(tmp_path: Path) -> None:
    write_fastmri(tmp_path / "scan.h5")
    with h5py.File(tmp_path / "scan.h5", "a") as file:
        del file["reconstruction_esc"]
        file["reconstruction_esc"] = np.ones((2, 10, 10), np.float32)
    with pytest.raises(UnreadableError, match="2 slices, k-space has 3"):
        read(tmp_path / "scan.h5")


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


def test_reading_imports_neither_torchvision_nor_lightning(tmp_path: Path) -> None:
    write_fastmri(tmp_path / "scan.h5")
    code = (
        "import sys; from activemri.data.sources import open_dataset; "
        f"open_dataset({str(tmp_path / 'scan.h5')!r}, split='all')[0]; "
        "assert not {'torchvision', 'pytorch_lightning'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
