"""The readers on real scans; skipped where there are none."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from activemri.data.formats.registry import all_readers
from activemri.data.index import Index, index_path
from activemri.data.splits import assign_splits, select
from activemri.data.standard import with_target
from activemri.data.volumes import survey
from activemri.mri import fourier


@pytest.fixture(scope="module")
def index(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACTIVEMRI_CACHE", str(tmp_path_factory.mktemp("cache")))
        return index_path(real_data, all_readers())


def files_in(folder: Path) -> set[str]:
    """Whatever scans there are by now: more may be added at any time."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.h5")}


def test_everything_but_the_radial_scan_is_read(index: Index, real_data: Path) -> None:
    radial = "unstated/utah_cardiac_radial_3ch.h5"
    assert list(index.problems) == [radial]
    assert {entry.file for entry in index.entries} == files_in(real_data) - {radial}


def test_splits_are_those_of_the_files_and_divide_no_subject(index: Index, real_data: Path) -> None:
    splits = assign_splits(index.entries, index.root)
    assert set(splits.values()) >= {"train", "val", "test", "ood"}
    for split in set(splits.values()):
        for entry in select(index.entries, splits, split):
            with h5py.File(real_data / entry.file) as file:
                assert file.attrs["split"] == split
                assert file.attrs["subject_id"] == entry.volume.subject


def test_raw_scans_reconstruct_to_the_stored_images(index: Index, real_data: Path) -> None:
    checked = 0
    for entry in index.entries:
        with h5py.File(real_data / entry.file) as file:
            if "reconstruction_rss" not in file:
                continue
            scan = entry.reader.read(file, entry.volume, 0)
            image = torch.linalg.vector_norm(fourier.ifft2(scan.kspace), dim=0)
            stored = file["reconstruction_rss"][0]
            np.testing.assert_allclose(image, stored, atol=1e-5 * stored.max())
            rows = len(stored) // 2 if "readout_oversampling" in file.attrs else len(stored)
            top = (len(stored) - rows) // 2
            np.testing.assert_allclose(
                with_target(scan, "rss").target, stored[top : top + rows], atol=1e-5 * stored.max()
            )
            assert scan.measured.all()
            checked += 1
    with_image = 0
    for name in files_in(real_data) - set(index.problems):
        with h5py.File(real_data / name) as file:
            with_image += "reconstruction_rss" in file
    assert checked == with_image > 0


def test_magnitude_only_scans_get_a_phase_and_complex_ones_keep_theirs(
    index: Index, real_data: Path
) -> None:
    for entry in index.entries[::6]:
        with h5py.File(real_data / entry.file) as file:
            scan = entry.reader.read(file, entry.volume, entry.volume.n_slices // 2)
            assert entry.volume.magnitude_only == (file.attrs["phase"] == "magnitude only")
            synthetic = any("synthetic" in step for step in scan.processing)
            assert synthetic == entry.volume.magnitude_only
            if "image" in file and not entry.volume.magnitude_only:
                stored = file["image"][entry.volume.n_slices // 2]
                np.testing.assert_allclose(fourier.ifft2(scan.kspace)[0], stored, atol=1e-5)


def test_no_column_is_empty_where_the_publisher_found_none(index: Index, real_data: Path) -> None:
    entries = index.entries[::8]
    for entry, found in zip(entries, survey(real_data, entries), strict=True):
        with h5py.File(real_data / entry.file) as file:
            assert json.loads(file.attrs["kspace_occupancy_check"])["cols_empty"] == 0
        assert found.never_acquired == 0 and found.problems == ()
        assert len(found.usable) == entry.volume.n_slices
