"""Drawing a split file."""

import json
from pathlib import Path

import pytest

from activemri.data.sources import open_dataset
from activemri.data.splits import SplitSettings, draw_split_file
from tests.data.files import write_image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six subjects with T1, three with T2 and twice the slices."""
    for number in range(9):
        shape = (4, 8, 10) if number < 3 else (2, 8, 10)
        write_image(
            tmp_path / "data" / f"{number}.h5",
            shape=shape,
            seed=number,
            subject_id=f"s{number}",
            contrast="T2" if number < 3 else "T1",
        )
    return tmp_path / "data"


def test_the_file_is_found_by_every_command_and_balances_the_contrasts(folder: Path) -> None:
    text = draw_split_file(SplitSettings(folder, stratify="contrast"))
    splits = json.loads((folder / "splits.json").read_text())
    assert sorted(splits) == [f"s{number}" for number in range(9)]
    for split, n_subjects in (("train", 7), ("val", 1), ("test", 1)):
        dataset = open_dataset(folder, split=split)
        found = {dataset.describe(i).subject for i in range(len(dataset))}
        assert found == {subject for subject, name in splits.items() if name == split}
        assert len(found) == n_subjects
    assert text.splitlines()[0].split() == ["split", "subjects", "T1", "T2"]
    assert text.splitlines()[2].split()[:2] == ["train", "7"]


def test_without_strata_the_table_counts_slices(folder: Path) -> None:
    out = folder.parent / "new" / "mine.json"
    text = draw_split_file(SplitSettings(folder, out=out, seed=3))
    rows = [line.split() for line in text.splitlines()]
    assert rows[0] == ["split", "subjects", "slices"]
    assert sum(int(row[2]) for row in rows[2:5]) == 3 * 4 + 6 * 2
    assert text.splitlines()[-1] == str(out)
    assert out.is_file()


def test_an_existing_file_is_not_overwritten(folder: Path) -> None:
    draw_split_file(SplitSettings(folder))
    before = (folder / "splits.json").read_bytes()
    with pytest.raises(ValueError, match=r"splits\.json is there already; remove it, or choose"):
        draw_split_file(SplitSettings(folder, redraw=True, seed=1))
    assert (folder / "splits.json").read_bytes() == before


def test_splits_that_the_data_name_are_kept_unless_asked_otherwise(folder: Path) -> None:
    write_image(folder / "x_val.h5", subject_id="x")
    with pytest.raises(ValueError, match=r"name splits themselves \(x_val.h5: val\); --redraw"):
        draw_split_file(SplitSettings(folder))
    (folder / "splits.csv").write_text("subject,split\nx,test\n")
    out = folder.parent / "mine.json"
    with pytest.raises(ValueError, match=r"have splits already: .*splits\.csv; --redraw"):
        draw_split_file(SplitSettings(folder, out=out))
    draw_split_file(SplitSettings(folder, out=out, redraw=True))
    assert len(json.loads(out.read_text())) == 10


def test_a_file_or_nothing_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"expected a folder of scans; .*0\.h5 is a file"):
        draw_split_file(SplitSettings(folder / "0.h5"))
    with pytest.raises(FileNotFoundError, match="nothing is at"):
        draw_split_file(SplitSettings(folder / "nowhere"))
