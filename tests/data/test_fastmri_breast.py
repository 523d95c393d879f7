"""fastMRI breast is refused with what to do."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from activemri.data.formats.fastmri import FastMRIBreastReader
from activemri.data.formats.registry import all_readers, reader_for
from activemri.data.index import index_path
from activemri.data.readers import UnreadableError
from tests.data.collection_files import write_breast, write_m4raw, write_prostate, write_skm_tea
from tests.data.files import write_fastmri, write_kspace


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
        with h5py.File(path, "a") as file:
            del file["kspace"]
            file["kspace"] = np.ones((5, 8, 3, 4), np.complex64)
    with h5py.File(path) as file:
        reader = reader_for(file, all_readers())
        assert reader == FastMRIBreastReader()
        with pytest.raises(UnreadableError, match="not Cartesian"):
            reader.describe(file)


@pytest.mark.parametrize(
    "write", [write_fastmri, write_kspace, write_m4raw, write_prostate, write_skm_tea]
)
def test_no_other_file_is_taken_for_one(tmp_path: Path, write) -> None:  # type: ignore[no-untyped-def]
    write(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5") as file:
        assert not FastMRIBreastReader().recognises(file)
