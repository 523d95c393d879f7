"""The M4Raw layout."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from activemri.data.formats.fastmri import M4RawReader
from activemri.data.formats.registry import all_readers, reader_for
from activemri.data.index import index_path
from activemri.data.splits import assign_splits
from tests.data.files import edit, random_kspace, read, refused, rss, write_fastmri
from tests.data.published_files import write_m4raw

READER = M4RawReader()


def test_labels_come_from_header_and_attributes(tmp_path: Path) -> None:
    write_m4raw(tmp_path / "2022061003_T201.h5")
    volume, _ = read(tmp_path / "2022061003_T201.h5")
    assert (volume.name, volume.subject, volume.contrast) == ("2022061003_T201", "2022061003", "T2")
    assert (volume.field_strength, volume.n_coils) == (0.3, 4)
    assert volume.scanner == "XinGaoYi Medical Equipment Co.,Ltd. XGY OPER-0.3"


@pytest.mark.parametrize(("stored", "contrast"), [("AXT1", "T1"), ("AXFLAIR", "FLAIR")])
def test_contrasts_get_their_usual_names(tmp_path: Path, stored: str, contrast: str) -> None:
    write_m4raw(tmp_path / "scan.h5", acquisition=stored)
    assert read(tmp_path / "scan.h5")[0].contrast == contrast


def test_names_stand_in_for_missing_labels(tmp_path: Path) -> None:
    path = tmp_path / "2022061003_FLAIR02.h5"
    write_m4raw(path, study="")
    with h5py.File(path, "a") as file:
        del file.attrs["acquisition"]
    volume, _ = read(path)
    assert (volume.subject, volume.contrast) == ("2022061003", "FLAIR")


def test_values_stay_as_they_are_stored(tmp_path: Path) -> None:
    kspace = write_m4raw(tmp_path / "scan.h5")
    _, scan = read(tmp_path / "scan.h5", 2)
    assert np.array_equal(scan.kspace.numpy(), kspace[2])
    np.testing.assert_allclose(scan.target, rss(kspace[2]), rtol=1e-5)
    assert scan.processing == ()


def test_columns_are_acquired_where_the_samples_say_so(tmp_path: Path) -> None:
    write_m4raw(tmp_path / "scan.h5", padding=(2, 1))
    _, scan = read(tmp_path / "scan.h5")
    assert scan.measured.any(dim=0).tolist() == [False] * 2 + [True] * 11 + [False]
    assert scan.measured.any(dim=1).all()


def test_all_files_of_a_person_are_in_one_split(tmp_path: Path) -> None:
    for person in range(5):
        for repetition, kind in enumerate(("T101", "T102", "FLAIR01")):
            study = f"202206100{person}"
            write_m4raw(
                tmp_path / f"{study}_{kind}.h5",
                study=study,
                acquisition=f"AX{kind[:-2]}",
                patient=f"hash-{person}-{repetition}",
            )
    index = index_path(tmp_path, all_readers())
    assert len(index.entries) == 15
    assert {entry.reader.name for entry in index.entries} == {"m4raw"}
    splits = assign_splits(index.entries, index.root)
    assert set(splits) == {f"202206100{person}" for person in range(5)}


@pytest.mark.parametrize("name", ["2022061003_T201.h5", "renamed.h5"])
def test_files_are_known_by_their_name_or_their_scanner(tmp_path: Path, name: str) -> None:
    write_m4raw(tmp_path / name)
    with h5py.File(tmp_path / name) as file:
        assert reader_for(file, all_readers()) == READER


def test_files_of_fastmri_are_left_to_its_reader(tmp_path: Path) -> None:
    write_fastmri(tmp_path / "file_brain_AXT2_200_2000019.h5", n_coils=4, acquisition="AXT2")
    with h5py.File(tmp_path / "file_brain_AXT2_200_2000019.h5") as file:
        assert not READER.recognises(file)
        assert reader_for(file, all_readers()).name == "fastmri"


def test_a_file_that_does_not_say_who_was_scanned_is_refused(tmp_path: Path) -> None:
    write_m4raw(tmp_path / "renamed.h5", study="")
    refused(tmp_path / "renamed.h5", "who was scanned")


@pytest.mark.parametrize("stored", ["AXGRE", None])
def test_gradient_echo_files_are_refused_with_the_reason(
    tmp_path: Path, stored: str | None
) -> None:
    path = tmp_path / "2022061003_GRE01.h5"
    write_m4raw(path, acquisition=stored or "")
    refused(path, "readout lies along the width")


def test_padding_along_the_height_is_refused(tmp_path: Path) -> None:
    write_m4raw(tmp_path / "scan.h5", padding=(0, 0))
    with h5py.File(tmp_path / "scan.h5", "a") as file:
        file["kspace"][..., :3, :] = 0
    refused(tmp_path / "scan.h5", "along the height alone")


def test_broken_headers_and_arrays_are_named(tmp_path: Path) -> None:
    path = tmp_path / "2022061003_T101.h5"
    write_m4raw(path)
    with h5py.File(path, "a") as file:
        del file["ismrmrd_header"]
        file["ismrmrd_header"] = b"<ismrmrdHeader"
        assert READER.recognises(file)
    refused(path, "not XML")
    write_m4raw(path)
    edit(path, kspace=random_kspace((12, 14)))
    refused(path, "must have the axes")
