"""Marks of what scans consist of: of every file that has a part in them, and of nothing else."""

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest

from activemri import files
from activemri.data.contents import contents
from activemri.data.slices import SliceDataset, SliceList
from activemri.data.sources import open_dataset
from activemri.data.views import oriented, pooled, with_region
from tests.data.files import write_image
from tests.data.image_files import bart_kspace, write_bart, write_series
from tests.envs.scans import equal_scans


def opened(path: Path, **options: object) -> SliceDataset:
    return open_dataset(path, split="all", **options)  # type: ignore[arg-type]


def marks(dataset: SliceDataset, *, anew: bool = False) -> dict[str, str]:
    return contents(dataset, range(len(dataset)), anew=anew)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(3):
        write_image(tmp_path / "scans" / f"{number}.h5", shape=(2, 16, 16), seed=number)
    return tmp_path / "scans"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files whose content has been looked at."""
    names: list[str] = []
    real = files.digest_of

    def noted(stream: object) -> str:
        names.append(Path(stream.name).name)  # type: ignore[attr-defined]
        return real(stream)  # type: ignore[arg-type]

    monkeypatch.setattr(files, "digest_of", noted)
    return names


def test_the_mark_of_a_file_is_its_sha_256_and_is_found_out_once(
    folder: Path, read: list[str]
) -> None:
    expected = {
        path.stem: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()
    }
    assert marks(opened(folder)) == expected
    assert sorted(read) == ["0.h5", "1.h5", "2.h5"]
    assert marks(oriented(with_region(opened(folder), "center"), "mixed")) == expected
    assert len(read) == 3
    assert marks(opened(folder), anew=True) == expected
    assert len(read) == 6


def test_a_changed_file_is_read_again_and_one_that_keeps_size_and_time_on_request(
    folder: Path, read: list[str]
) -> None:
    before, path = marks(opened(folder)), folder / "1.h5"
    dataset, status = opened(folder), path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    read.clear()
    assert marks(dataset) == before and read == []
    changed = marks(dataset, anew=True)
    assert [name for name in before if changed[name] != before[name]] == ["1"]
    path.write_bytes(content)
    read.clear()
    assert marks(dataset) == changed and read == ["1.h5"]


@pytest.mark.parametrize("part", ["header", "image"])
def test_every_file_of_a_scan_counts(part: str, tmp_path: Path) -> None:
    if part == "header":
        write_bart(tmp_path / "scans" / "kspace.cfl", bart_kspace())
        changed = tmp_path / "scans" / "kspace.hdr"
    else:
        write_series(tmp_path / "scans" / "a.dcm")
        changed = tmp_path / "scans" / "a_2.dcm"
    dataset = opened(tmp_path / "scans")
    before = marks(dataset)
    changed.write_bytes(changed.read_bytes() + b"\n")
    assert marks(dataset) != before


def test_phantoms_are_told_apart_by_their_settings() -> None:
    def of(**options: object) -> dict[str, str]:
        return marks(open_dataset("phantom", split="val", n_subjects=2, **options))  # type: ignore[arg-type]

    assert of() == of() == of(preload=False)
    assert of(matrix_size=64).keys() == of().keys()
    assert all(mark != of()[name] for name, mark in of(matrix_size=64).items())
    assert len(set(of().values())) == 2


def test_samples_in_memory_are_their_own_mark() -> None:
    scans = equal_scans(2)
    other = SliceList([scans[0], replace(scans[1], target=scans[1].target * 2)], name="equal")
    before, after = marks(scans), marks(other)
    assert before[scans[0].volume] == after[scans[0].volume]
    assert before[scans[1].volume] != after[scans[1].volume]
    both = marks(pooled([scans, other], name="both"))
    assert both[scans[0].volume] == before[scans[0].volume]
    assert both[scans[1].volume] not in (before[scans[1].volume], after[scans[1].volume])
