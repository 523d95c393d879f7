"""The data-set card says what is in a folder."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from activemri.cli import main
from tests.data.files import write_fastmri, write_image, write_kspace


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
