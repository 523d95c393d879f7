"""The texts of `activemri data inspect` and `activemri data card`."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from activemri.cli import main
from activemri.data import inspection
from activemri.data.inspection import InspectSettings, run_inspection
from activemri.data.readers import UnreadableError
from tests.data.files import write_fastmri, write_image, write_kspace


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "scans"
    write_image(root / "a.h5", subject_id="anna", split="train", contrast="T1-weighted")
    write_kspace(
        root / "b.h5",
        shape=(2, 3, 16, 10),
        subject_id="bert",
        split="ood",
        contrast="FLAIR",
        readout_oversampling=2,
    )
    write_fastmri(root / "singlecoil_val" / "c.h5", patient="carl", padding=(2, 1))
    (root / "broken.h5").write_text("not HDF5")
    with h5py.File(root / "b.h5", "a") as file:
        file["kspace"][1] = 0
    return root


def cells(text: str, first: str) -> list[str]:
    """The cells of the line that starts with a word."""
    line = next(line for line in text.splitlines() if line.split()[:1] == [first])
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def test_all_that_was_found_is_listed(folder: Path) -> None:
    text = run_inspection(InspectSettings(folder))
    assert text.splitlines()[0] == str(folder)
    assert "3 files, 3 subjects, 6 usable slices" in text
    assert cells(text, "val") == ["val", "1", "1", "3"]
    assert cells(text, "ood") == ["ood", "1", "1", "1"]
    assert cells(text, "a.h5") == (
        "a.h5,anna,train,T1,2,8 x 10,same,1,-,0,hdf5 (magnitude with synthetic phase)".split(",")
    )
    assert cells(text, "b.h5") == (
        "b.h5,bert,ood,FLAIR,1,16 x 10,8 x 10,3,-,0,hdf5 (acquired complex)".split(",")
    )
    assert cells(text, "singlecoil_val/c.h5") == [
        *"singlecoil_val/c.h5,carl,val,AXFLAIR,3,20 x 14,10 x 10,1,2.89,3".split(","),
        "fastmri (acquired complex)",
    ]
    assert "2 problems, left out:" in text
    assert "  b.h5, slice 1: k-space is all zero" in text
    assert "  broken.h5: damaged or not HDF5" in text


def test_columns_are_aligned(folder: Path) -> None:
    lines = run_inspection(InspectSettings(folder)).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("file "))
    column = lines[start].index("height x width")
    for line in lines[start + 2 : start + 5]:
        assert line[column - 2 : column] == "  " and line[column].isdigit()


def test_many_files_are_grouped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "MAX_FILES", 2)
    write_image(folder / "a2.h5", shape=(3, 9, 12), subject_id="anna", split="train", contrast="T1")
    text = run_inspection(InspectSettings(folder))
    assert cells(text, "T1")[:5] == ["T1", "2", "1", "5", "8-9 x 10-12"]
    assert "a2.h5" not in text
    assert "These are 4 files in groups; --files lists every one with its subject." in text


def test_many_files_are_listed_one_by_one_if_asked_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = run_inspection(InspectSettings(folder))
    assert "--files" not in few
    monkeypatch.setattr(inspection, "MAX_FILES", 2)
    assert run_inspection(InspectSettings(folder, files=True)) == few
    assert cells(few, "singlecoil_val/c.h5")[:2] == ["singlecoil_val/c.h5", "carl"]


def test_contradicting_splits_are_shown_and_not_fatal(folder: Path) -> None:
    write_image(folder / "a2.h5", subject_id="anna", split="test")
    text = run_inspection(InspectSettings(folder))
    assert "splits: subject 'anna' is in two splits" in text
    assert cells(text, "?")[-2:] == ["4", "8"]


def test_many_problems_are_cut_short_with_their_number(folder: Path) -> None:
    for number in range(20):
        (folder / f"bad{number:02}.h5").write_text("not HDF5")
    text = run_inspection(InspectSettings(folder))
    assert "22 problems, left out:" in text
    assert text.splitlines()[-1] == "  and 10 more"


def test_suspicious_references_are_shown(folder: Path) -> None:
    with h5py.File(folder / "singlecoil_val" / "c.h5", "a") as file:
        file["reconstruction_esc"][...] *= 2
    text = run_inspection(InspectSettings(folder))
    assert "1 warning:" in text and "c.h5: the stored reference differs" in text


def test_a_clean_folder_has_no_problems(tmp_path: Path) -> None:
    write_kspace(tmp_path / "a.h5")
    assert run_inspection(InspectSettings(tmp_path)).endswith("No problems.")


def test_nothing_usable_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_text("not HDF5")
    with pytest.raises(UnreadableError, match="nothing usable"):
        run_inspection(InspectSettings(tmp_path))


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    root = tmp_path / "study"
    write_fastmri(root / "a_train" / "one.h5", n_coils=3, padding=(4, 3), patient="p1")
    write_image(
        root / "a_train" / "two.h5", shape=(4, 12, 10), subject_id="p2", contrast="T1 | gre"
    )
    write_kspace(root / "a_val" / "three.h5", shape=(2, 3, 24, 10), subject_id="p3")
    with h5py.File(root / "a_val" / "three.h5", "a") as file:
        file["kspace"][1] = np.nan
    (root / "foreign.h5").write_text("text")
    return root


def card(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["data", "card", *arguments]) == 0
    return capsys.readouterr().out


def test_a_card_counts_subjects_and_slices_of_every_stratum(
    scans: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = card(capsys, str(scans))
    assert text.startswith("# study\n")
    assert "| subjects | 3 |" in text
    assert "| usable slices | 8 |" in text
    assert "| train | 2 | 2 | 7 |" in text and "| val | 1 | 1 | 1 |" in text
    assert "| AXFLAIR | 3 (1) | - | 3 (1) |" in text
    assert "| T1 | 4 (1) | - | 4 (1) |" in text
    assert "| 2.89 | 3 (1) | - | 3 (1) |" in text
    assert "| SIEMENS Prisma_fit | 3 (1) | - | 3 (1) |" in text
    assert "| never acquired | 0% to 50% of columns |" in text


def test_a_card_warns_of_what_flatters_and_names_what_is_left_out(
    scans: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = card(capsys, str(scans))
    assert "1 of 3 files are magnitude-only" in text and "half of all lines" in text
    assert "never acquired: 1 of 3" in text
    assert "- foreign.h5: damaged or not HDF5" in text
    assert "- a_val/three.h5, slice 1: NaN or Inf in k-space" in text


def test_a_card_is_written_once(scans: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = scans / "cards" / "card.md"
    assert card(capsys, str(scans), "--out", str(out)).strip() == str(out)
    assert out.read_text(encoding="utf-8").startswith("# study")
    out.write_text("mine", encoding="utf-8")
    assert main(["data", "card", str(scans), "--out", str(out)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert out.read_text(encoding="utf-8") == "mine"


def test_contradicting_splits_are_told(scans: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_kspace(scans / "a_test" / "four.h5", shape=(2, 3, 24, 10), subject_id="p3")
    assert "contradict each other" in card(capsys, str(scans))
