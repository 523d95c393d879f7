"""Scans converted to the generic layout are the same scans."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from activemri.cli import main
from activemri.data.conversion import ConvertSettings, convert
from activemri.data.readers import UnreadableError
from activemri.data.slices import SliceDataset
from activemri.data.sources import open_dataset
from tests.data.files import random_kspace, write_fastmri, write_image, write_kspace
from tests.data.test_readers import CASES, WRITERS, reader_of


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    root = tmp_path / "scans"
    write_fastmri(root / "train" / "one.h5", n_coils=3, padding=(2, 1), patient="p1")
    write_fastmri(root / "val" / "two.h5", patient="p2", acquisition="CORPD_FBK")
    write_image(
        root / "train" / "magnitude.h5", shape=(2, 12, 10), subject_id="p3", field_strength="3T"
    )
    write_image(root / "train" / "complex.h5", shape=(2, 12, 10), subject_id="p4", magnitude=False)
    write_kspace(
        root / "train" / "raw.h5", shape=(2, 3, 24, 10), subject_id="p5", readout_oversampling=2.0
    )
    return root


def run(source: Path, out: Path) -> list[int]:
    """Numbers of written files, kept files and problems."""
    done = convert(ConvertSettings(source, out))
    return [len(done.written), len(done.kept), len(done.problems)]


def assert_same(one: SliceDataset, other: SliceDataset) -> None:
    assert len(one) == len(other)
    for position in range(len(one)):
        a, b = one[position], other[position]
        assert torch.equal(a.kspace, b.kspace)
        assert torch.equal(a.target, b.target)
        assert torch.equal(a.measured, b.measured)
        assert (a.volume, a.index, a.subject) == (b.volume, b.index, b.subject)
        assert (a.contrast, a.scanner) == (b.contrast, b.scanner)
        assert a.field_strength == b.field_strength
        assert (a.volume_max, a.processing) == (b.volume_max, b.processing)


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("synthetic_phase", [True, False])
def test_converted_scans_are_the_same(
    scans: Path, tmp_path: Path, split: str, synthetic_phase: bool
) -> None:
    assert run(scans, tmp_path / "out") == [5, 0, 0]
    assert_same(
        open_dataset(scans, split=split, synthetic_phase=synthetic_phase),
        open_dataset(tmp_path / "out", split=split, synthetic_phase=synthetic_phase),
    )


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_scans_of_every_format_are_the_same_when_converted(
    tmp_path: Path, name: str, kind: str
) -> None:
    suffix = reader_of(name).container.suffixes[0]
    WRITERS[name][kind](tmp_path / "scans" / f"scan{suffix}")
    run(tmp_path / "scans", tmp_path / "out")
    assert_same(
        open_dataset(tmp_path / "scans", split="all"), open_dataset(tmp_path / "out", split="all")
    )


def test_stored_maps_labels_and_padding_are_kept(tmp_path: Path) -> None:
    kspace = write_kspace(tmp_path / "scans" / "a.h5", shape=(2, 3, 12, 10))
    with h5py.File(tmp_path / "scans" / "a.h5", "a") as file:
        file["sensitivity"] = kspace / np.linalg.norm(kspace, axis=1, keepdims=True)
        file["label"] = np.arange(6).reshape(2, 3)
        measured = np.ones((2, 12, 10), bool)
        measured[1, :2, :2] = False
        file["measured"] = measured
    run(tmp_path / "scans", tmp_path / "out")
    before = open_dataset(tmp_path / "scans", split="all")
    after = open_dataset(tmp_path / "out", split="all")
    assert_same(before, after)
    for one, other in zip((before[0], before[1]), (after[0], after[1]), strict=True):
        assert one.sensitivity is not None and other.sensitivity is not None
        assert one.label is not None and other.label is not None
        assert torch.equal(one.sensitivity, other.sensitivity)
        assert torch.equal(one.label, other.label)


def test_a_second_run_keeps_what_is_done(scans: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(scans, out)
    (out / "train" / "raw.h5").unlink()
    first = (out / "val" / "two.h5").stat().st_mtime_ns
    assert run(scans, out) == [1, 4, 0]
    assert (out / "val" / "two.h5").stat().st_mtime_ns == first


def test_files_of_another_origin_are_refused_with_the_difference(
    scans: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(scans, out)
    write_kspace(scans / "train" / "raw.h5", shape=(3, 3, 24, 10), subject_id="p5")
    with pytest.raises(FileExistsError, match=r"bytes was \d+, is \d+"):
        run(scans, out)
    (out / "train" / "raw.h5").write_bytes(b"my thesis")
    with pytest.raises(FileExistsError, match="not made by this command"):
        run(scans, out)
    assert (out / "train" / "raw.h5").read_bytes() == b"my thesis"


def test_unreadable_files_and_slices_are_named_and_others_keep_their_numbers(
    scans: Path, tmp_path: Path
) -> None:
    (scans / "broken.h5").write_bytes(b"\x89HDF\r\n\x1a\n broken")
    with h5py.File(scans / "damaged.h5", "w") as file:
        kspace = file.create_dataset(
            "kspace", (3, 2, 16, 16), np.complex64, chunks=(1, 2, 16, 16), fletcher32=True
        )
        kspace[:] = random_kspace((3, 2, 16, 16))
        offset = kspace.id.get_chunk_info(1).byte_offset
    with (scans / "damaged.h5").open("r+b") as raw:
        raw.seek(offset)
        raw.write(b"\xff" * 64)
    done = convert(ConvertSettings(scans, tmp_path / "out"))
    assert len(done.written) == 6
    assert [text.split(": ")[0] for text in done.problems] == ["broken.h5", "damaged.h5, slice 1"]
    converted = open_dataset(tmp_path / "out" / "damaged.h5", split="all")
    assert [converted[i].index for i in range(len(converted))] == [0, 2]


def test_nothing_usable_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "a.h5").write_bytes(b"nothing")
    with pytest.raises(UnreadableError, match="nothing usable"):
        run(tmp_path / "scans", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_destination_must_lie_outside(scans: Path) -> None:
    with pytest.raises(ValueError, match="outside"):
        run(scans, scans / "train" / "out")


def test_two_files_of_one_name_are_named(tmp_path: Path) -> None:
    write_kspace(tmp_path / "scans" / "a.h5", shape=(2, 2, 12, 12))
    write_kspace(tmp_path / "scans" / "a.hdf5", shape=(2, 2, 12, 12))
    write_kspace(tmp_path / "scans" / "b.h5", shape=(2, 2, 12, 12))
    done = convert(ConvertSettings(tmp_path / "scans", tmp_path / "out"))
    assert done.written == ("b.h5",)
    assert "same name" in str(done)


def test_a_killed_conversion_leaves_no_half_file_and_goes_on(tmp_path: Path) -> None:
    for number in range(3):
        write_kspace(tmp_path / "scans" / f"{number}.h5", shape=(40, 4, 64, 64), seed=number)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "activemri.cli", "data", "convert", str(tmp_path / "scans")]
    process = subprocess.Popen(
        [*command, "--out", str(out)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and not list(out.glob(".*.partial")):
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for path in out.glob("*.h5"):  # a finished file is whole
        with h5py.File(path) as file:
            assert np.abs(file["kspace"][-1]).max() > 0
    done = convert(ConvertSettings(tmp_path / "scans", out))
    assert len(done.written) + len(done.kept) == 3
    assert not list(out.glob(".*"))
    assert_same(open_dataset(tmp_path / "scans", split="all"), open_dataset(out, split="all"))


def test_the_command_reports(
    scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "convert", str(scans), "--out", str(tmp_path / "out")]) == 0
    assert "5 file(s) written, 0 kept" in capsys.readouterr().out
    assert main(["data", "convert", str(scans / "nowhere"), "--out", str(tmp_path / "o")]) == 2
    assert "nothing is at" in capsys.readouterr().err
