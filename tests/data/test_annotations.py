"""Boxes in the layout of fastMRI+."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from activemri.data.regions import read_findings, region_of, upright
from activemri.data.sources import open_dataset
from activemri.envs.env import ActiveMRIEnv
from tests.data.files import write_fastmri

HEADER = "file,slice,study_level,x,y,width,height,label\n"


def written(path: Path, *rows: str, header: str = HEADER) -> Path:
    path.write_text(header + "".join(f"{row}\n" for row in rows))
    return path


def test_findings_are_read_by_volume_and_slice(tmp_path: Path) -> None:
    path = written(
        tmp_path / "knee.csv",
        "file1,3,No,91,132,7,6,Meniscus Tear",
        'file1,3,No,10,20,30,40,"Bone, subchondral edema"',
        "file2,0,Yes,,,,,Normal for age",
        "file2.h5,1,No,1.0,2.0,3.0,4.0,Cyst",
    )
    assert read_findings(path) == {
        ("file1", 3): ((132, 91, 6, 7), (20, 10, 40, 30)),
        ("file2", 1): ((2, 1, 4, 3),),
    }


def test_a_box_marks_what_it_marked_in_the_image_turned_upside_down() -> None:
    image = np.zeros((12, 10))
    image[2:5, 6:8] = 1  # a finding in the stored image
    seen = image[::-1]  # what the radiologist saw
    top, left = (int(index.min()) for index in seen.nonzero())
    box = upright((top, left, 3, 2), 12)
    assert torch.equal(region_of([box], (12, 10)), torch.from_numpy(image > 0))


def test_tables_of_another_layout_are_refused_with_the_place(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with pytest.raises(FileNotFoundError):
        read_findings(path)
    with pytest.raises(ValueError, match=r"expected the columns file.*width, height missing"):
        read_findings(written(path, "a,1,2,3", header="file,slice,x,y\n"))
    with pytest.raises(
        ValueError, match=r"line 3: expected numbers.*got '1', '2', 'two', '3', '4'"
    ):
        read_findings(written(path, "a,1,No,2,2,3,4,L", "a,1,No,2,two,3,4,L"))
    with pytest.raises(ValueError, match=r"line 2: expected numbers.*None"):
        read_findings(written(path, "a,1,No,2"))
    with pytest.raises(ValueError, match="at least one row with a box"):
        read_findings(written(path, "a,0,Yes,,,,,Normal"))


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    for name in ("file1", "file2"):
        write_fastmri(
            tmp_path / "data" / f"{name}.h5", shape=(24, 20), recon=(12, 14), patient=name
        )
    return tmp_path / "data"


def test_only_slices_with_a_finding_are_opened_and_it_is_their_region(
    scans: Path, tmp_path: Path
) -> None:
    path = written(
        tmp_path / "a.csv", "file1,2,No,4,5,3,2,L", "file1,2,No,0,0,1,1,L", "other,0,No,1,1,2,2,L"
    )
    dataset = open_dataset(scans, split="all", annotations=path)
    assert [(one.volume, one.index) for one in map(dataset.describe, range(len(dataset)))] == [
        ("file1", 2)
    ]
    roi = dataset[0].roi
    assert roi is not None
    assert torch.equal(roi, region_of([(5, 4, 2, 3), (11, 0, 1, 1)], (12, 14)))
    assert open_dataset(scans, split="all")[2].roi is None
    small = open_dataset(scans, split="all", annotations=path, matrix_size=16)[0].roi
    assert small is not None
    assert small.shape == (16, 16)


def test_annotations_for_other_scans_are_refused_with_names_of_both(
    scans: Path, tmp_path: Path
) -> None:
    path = written(tmp_path / "a.csv", "file9,2,No,4,5,3,2,L")
    with pytest.raises(ValueError, match=r"none of the slices.*'file1'.*\('file9', 2\)"):
        open_dataset(scans, split="all", annotations=path)
    with pytest.raises(ValueError, match="annotations are for files; got phantom"):
        open_dataset("phantom", annotations=path)


def test_an_environment_is_rewarded_within_the_boxes(scans: Path, tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "file1,1,No,4,4,6,4,L")
    env = ActiveMRIEnv(
        data=scans, split="all", annotations=path, n_center_lines=4, reward="delta_roi_ssim"
    )
    _, before = env.reset(seed=0)
    assert (before["volume"], before["slice"]) == ("file1", 1)
    _, reward, _, _, after = env.step(int(before["action_mask"].argmax()))
    assert reward == pytest.approx(after["roi_ssim"] - before["roi_ssim"])
    assert "roi_nmse" in after
    with h5py.File(scans / "file1.h5") as file:
        target = file["reconstruction_esc"][1]
    assert env.episodes.buckets[0].state.secret.reference.target.shape[1:] == target.shape
