"""Scans converted to the generic layout are the same scans, but for simulated coils."""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from activemri.cli import main
from activemri.data.conversion import ConvertSettings, convert
from activemri.data.inspection import CardSettings, write_card
from activemri.data.readers import UnreadableError
from activemri.data.simulated_coils import NOISE, with_coils
from activemri.data.slices import Slice, SliceDataset
from activemri.data.sources import open_dataset
from activemri.mri import fourier
from activemri.mri.coils import root_sum_of_squares
from activemri.mri.noise import estimated_sigma
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


def run(source: Path, out: Path, *, coils: int | None = None) -> tuple[int, int, list[str]]:
    """Numbers of written and of kept files, and the problems."""
    first, *problems = convert(ConvertSettings(source, out, coils=coils)).splitlines()
    written, kept = re.findall(r"(\d+) file\(s\) written, (\d+) kept$", first)[0]
    return int(written), int(kept), [problem.strip() for problem in problems[1:]]


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


def test_converted_scans_are_the_same(scans: Path, tmp_path: Path) -> None:
    assert run(scans, tmp_path / "out") == (5, 0, [])
    for split, synthetic_phase in (("train", True), ("train", False), ("val", True)):
        assert_same(
            open_dataset(scans, split=split, synthetic_phase=synthetic_phase),
            open_dataset(tmp_path / "out", split=split, synthetic_phase=synthetic_phase),
        )


@pytest.mark.parametrize(("name", "kind"), dict(reversed(CASES)).items())
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
    assert run(scans, out) == (1, 4, [])
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
    written, _, problems = run(scans, tmp_path / "out")
    assert written == 6
    assert [text.split(": ")[0] for text in problems] == ["broken.h5", "damaged.h5, slice 1"]
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
    _, _, problems = run(tmp_path / "scans", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").glob("*.h5")] == ["b.h5"]
    assert all("same name" in problem for problem in problems) and len(problems) == 2


def test_a_killed_conversion_leaves_no_half_file_and_goes_on(tmp_path: Path) -> None:
    for number in range(2):
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
    written, kept, _ = run(tmp_path / "scans", out)
    assert written + kept == 2
    assert not list(out.glob(".*.partial"))
    assert_same(open_dataset(tmp_path / "scans", split="all"), open_dataset(out, split="all"))


def test_the_command_reports(
    scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "convert", str(scans), "--out", str(tmp_path / "out")]) == 0
    assert "5 file(s) written, 0 kept" in capsys.readouterr().out
    assert main(["data", "convert", str(scans / "nowhere"), "--out", str(tmp_path / "o")]) == 2
    assert "nothing is at" in capsys.readouterr().err


def scan_of(image: torch.Tensor, *, volume: str = "a", index: int = 0) -> Slice:
    kspace = fourier.fft2(image[None])
    return Slice(kspace, image.abs(), volume, index, "someone", float(image.abs().max()))


@pytest.fixture
def image() -> torch.Tensor:
    return torch.from_numpy(random_kspace((24, 20)))


def test_coils_together_see_what_one_coil_saw(image: torch.Tensor) -> None:
    seen = with_coils(scan_of(image), 6, largest=0.0)
    assert seen.kspace.shape == (6, 24, 20)
    assert torch.allclose(root_sum_of_squares(fourier.ifft2(seen.kspace)), image.abs(), atol=1e-5)
    assert torch.allclose(seen.target, image.abs(), atol=1e-5)
    images = fourier.ifft2(seen.kspace).abs()
    assert all(not torch.allclose(images[0], other, rtol=0.1) for other in images[1:])


def test_a_map_of_the_one_coil_is_left_out(image: torch.Tensor) -> None:
    scan = replace(scan_of(image), sensitivity=torch.ones(1, 24, 20, dtype=torch.complex64))
    assert with_coils(scan, 4, largest=1.0).sensitivity is None


def test_each_coil_adds_its_own_noise(image: torch.Tensor) -> None:
    scan = scan_of(image)
    quiet, noisy = (with_coils(scan, 4, largest=largest) for largest in (0.0, 100.0))
    noise = (noisy.kspace - quiet.kspace).flatten(1)
    share = noise.abs().square().mean(1).sqrt() / 100
    assert torch.all((NOISE[0] * 0.8 < share) & (share < NOISE[1] * 1.2))
    correlation = torch.corrcoef(noise).abs() - torch.eye(4)
    assert correlation.max() < 0.2  # of 480 samples each
    said = re.search(r"noise of ([\d.]+)%", noisy.processing[-1])
    assert said is not None
    assert float(said[1]) / 100 == pytest.approx(share.mean().item(), rel=0.1)


def test_one_array_sees_a_volume_and_another_one_the_next(image: torch.Tensor) -> None:
    def maps(volume: str, index: int) -> torch.Tensor:
        seen = with_coils(scan_of(image, volume=volume, index=index), 4, largest=0.0)
        return fourier.ifft2(seen.kspace) / image

    assert torch.allclose(maps("a", 0), maps("a", 1), atol=1e-4)
    assert not torch.allclose(maps("a", 0), maps("b", 0), atol=1e-2)


def test_noise_differs_from_slice_to_slice_and_is_the_same_when_drawn_again(
    image: torch.Tensor,
) -> None:
    first, second, again = (
        with_coils(scan_of(image, index=index), 4, largest=1.0).kspace for index in (0, 1, 0)
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first, second, atol=1e-4)


def test_lines_that_were_never_measured_stay_empty(image: torch.Tensor) -> None:
    kspace = fourier.fft2(image[None])
    kspace[..., :3] = 0
    scan = Slice(kspace, fourier.ifft2(kspace)[0].abs(), "a", 0, "someone", 1.0)
    seen = with_coils(scan, 4, largest=1.0)
    assert torch.equal((seen.kspace != 0).any(0), scan.measured)


@pytest.mark.parametrize(("n_coils", "n_simulated"), [(2, 8), (1, 1)])
def test_several_coils_or_too_few_are_refused(n_coils: int, n_simulated: int) -> None:
    kspace = torch.from_numpy(random_kspace((n_coils, 12, 12)))
    scan = Slice(kspace, torch.ones(12, 12), "a", 0, "someone", 1.0)
    with pytest.raises(ValueError, match="a scan of one coil and at least 2"):
        with_coils(scan, n_simulated, largest=1.0)


def test_a_folder_is_converted_with_coils(tmp_path: Path) -> None:
    scans = tmp_path / "scans"
    write_image(scans / "magnitude.h5", shape=(3, 16, 12), subject_id="p1")
    write_fastmri(scans / "one.h5", patient="p2")
    write_kspace(scans / "several.h5", shape=(2, 3, 16, 12), subject_id="p3")
    assert run(scans, tmp_path / "out", coils=5) == (3, 0, [])
    before, after = (open_dataset(tmp_path / name, split="all") for name in ("scans", "out"))
    assert len(before) == len(after)
    for position in range(len(after)):
        one, other = before[position], after[position]
        assert (one.volume, one.index, one.subject) == (other.volume, other.index, other.subject)
        if one.n_coils > 1:
            assert torch.equal(one.kspace, other.kspace)
            continue
        assert other.n_coils == 5
        assert other.sensitivity is None
        assert one.processing == other.processing[:-1]  # with the synthetic phase of magnitudes
        assert "5 simulated coils" in other.processing[-1]
        noise = other.target - one.target
        assert noise.square().mean().sqrt() < 0.1 * one.target.square().mean().sqrt()
    text = write_card(CardSettings(tmp_path / "out"))
    assert "2 of 3 files are simulated in part (coils; phase and coils)" in text
    assert run(scans, tmp_path / "out", coils=5) == (0, 3, [])


def test_noise_is_that_of_the_volume_in_every_slice(tmp_path: Path) -> None:
    image = np.zeros((3, 64, 16), np.complex64)
    image[0, 32, 8], image[1, 32, 8], image[2, 32, 8] = 1, 1000, 10
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["image"] = image
    run(tmp_path / "a.h5", tmp_path / "out", coils=4)
    with h5py.File(tmp_path / "out" / "a.h5") as file:
        kspace = torch.from_numpy(file["kspace"][:])
    sigma = estimated_sigma(kspace[[0, 2]])  # slice 1 holds signal everywhere
    assert torch.all((NOISE[0] * 800 < sigma) & (sigma < NOISE[1] * 1200))
    assert sigma.max() < 1.3 * sigma.min()


def test_unreadable_slices_are_named_as_without_coils(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "damaged.h5", "w") as file:
        image = file.create_dataset(
            "image", (3, 16, 16), np.complex64, chunks=(1, 16, 16), fletcher32=True
        )
        image[:] = random_kspace((3, 16, 16))
        offset = image.id.get_chunk_info(1).byte_offset
    with (tmp_path / "damaged.h5").open("r+b") as raw:
        raw.seek(offset)
        raw.write(b"\xff" * 64)
    written, _, problems = run(tmp_path / "damaged.h5", tmp_path / "out", coils=2)
    assert [text.split(": ")[0] for text in problems] == ["damaged.h5, slice 1"]
    assert written == 1


def test_other_coils_do_not_pass_for_the_ones_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "a.h5", shape=(2, 12, 12))
    command = ["data", "convert", str(tmp_path / "a.h5"), "--out", str(tmp_path / "out")]
    assert main([*command, "--coils", "4"]) == 0
    assert main([*command, "--coils", "8"]) == 2
    assert "4 simulated coils" in capsys.readouterr().err
    assert main([*command, "--coils", "1"]) == 2
    assert "--coils: expected 2" in capsys.readouterr().err
