"""BART's files."""

from pathlib import Path

import numpy as np
import pytest
import torch

from activemri.data.formats.registry import all_readers
from activemri.data.index import index_path
from tests.data.files import random_kspace, read, refused
from tests.data.image_files import bart_kspace, random_images, write_bart


def test_slices_are_the_planes_of_readout_and_phase(tmp_path: Path) -> None:
    values = write_bart(tmp_path / "a.cfl", bart_kspace())
    volume, scan = read(tmp_path / "a.cfl", 2)
    assert (volume.n_slices, volume.n_coils, volume.shape) == (3, 2, (8, 10))
    assert volume.largest is not None and np.log2(volume.largest) % 1 == 0
    expected = np.moveaxis(values[:, :, 0, :, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2], -1, 0)
    np.testing.assert_array_equal(scan.kspace, expected / np.float32(volume.largest))
    assert scan.processing == (f"divided by {volume.largest:g}",)


def test_planes_of_both_phases_are_slices_of_a_scan_transformed_along_the_readout(
    tmp_path: Path,
) -> None:
    values = bart_kspace()[:, :, :, :].transpose(2, 0, 1, *range(3, 14))
    write_bart(tmp_path / "a.cfl", values)
    volume, scan = read(tmp_path / "a.cfl", 1)
    assert volume.shape == (8, 10)
    write_bart(tmp_path / "b.cfl", bart_kspace())
    assert torch.equal(scan.kspace, read(tmp_path / "b.cfl", 1)[1].kspace)


def test_the_first_of_further_sizes_is_the_fastest(tmp_path: Path) -> None:
    values = np.ones((8, 10, 1, 1, 1, 2, 1, 1, 1, 1, 3), complex)
    values *= np.arange(1, 7).reshape(2, 1, 1, 1, 1, 3)
    write_bart(tmp_path / "a.cfl", values)
    found = [float(read(tmp_path / "a.cfl", i)[1].kspace.abs().max()) for i in range(6)]
    np.testing.assert_allclose(np.array(found) / found[0], [1, 4, 2, 5, 3, 6])


def test_names_say_which_files_are_images(tmp_path: Path) -> None:
    image = random_images((8, 10)) * 1e5
    write_bart(tmp_path / "brain_img.cfl", image)
    volume, scan = read(tmp_path / "brain_img.cfl")
    assert volume.largest is not None
    expected = np.abs(image) / volume.largest
    np.testing.assert_allclose(scan.target, expected, rtol=1e-4, atol=1e-6)
    assert 0.5 < scan.target.max() < 2


def test_the_scale_knows_the_centre_alone(tmp_path: Path) -> None:
    values = random_kspace((32, 32)) * 100
    write_bart(tmp_path / "a.cfl", values)
    values[:, :8] *= 1000  # lines that an agent may never acquire
    write_bart(tmp_path / "b.cfl", values)
    assert read(tmp_path / "a.cfl")[0].largest == read(tmp_path / "b.cfl")[0].largest


def test_the_folder_of_a_bids_subject_is_the_subject(tmp_path: Path) -> None:
    write_bart(tmp_path / "sub-3" / "a.cfl", bart_kspace())
    assert read(tmp_path / "sub-3" / "a.cfl")[0].subject == "sub-3"


@pytest.mark.parametrize(
    ("name", "shape", "reason"),
    [
        ("ksp_sens", (8, 10, 1, 2), "named 'sens'"),
        ("traj", (3, 10, 4), "named 'traj'"),
        ("a", (8, 10, 1, 2, 2), "2 sets of maps"),
        ("a", (8, 10, 6, 2), "3-D k-space"),
        ("a", (8,), "expected a plane"),
        ("img", (8, 10, 1, 4), "combine them"),
    ],
)
def test_what_is_no_scan_of_slices_is_refused(
    tmp_path: Path, name: str, shape: tuple[int, ...], reason: str
) -> None:
    write_bart(tmp_path / f"{name}.cfl", np.ones(shape))
    refused(tmp_path / f"{name}.cfl", reason)


def test_spokes_are_refused_and_lines_of_the_same_layout_are_not(tmp_path: Path) -> None:
    spokes = random_kspace((20, 32))
    spokes[:, 16] += 100  # each passes through the centre
    write_bart(tmp_path / "radial.cfl", spokes.T[None, :, :, None])
    refused(tmp_path / "radial.cfl", "not Cartesian")
    lines = random_kspace((32, 20))
    lines[16, 10] += 300
    write_bart(tmp_path / "lines.cfl", lines[None, :, :, None])
    assert read(tmp_path / "lines.cfl")[0].shape == (32, 20)


@pytest.mark.parametrize(
    "header",
    ["", "# Dimensions\n", "# Dimensions\n8 x 10\n", "# Dimensions\n8 0 1\n", "# Command\n8 10\n"],
)
def test_a_header_without_sizes_is_named(tmp_path: Path, header: str) -> None:
    write_bart(tmp_path / "a.cfl", np.ones((8, 10)), header=header)
    refused(tmp_path / "a.cfl", r"a\.hdr has no list of sizes")


def test_files_that_do_not_match_or_miss_their_header_are_named(tmp_path: Path) -> None:
    write_bart(tmp_path / "good.cfl", bart_kspace())
    write_bart(tmp_path / "cut.cfl", bart_kspace())
    (tmp_path / "cut.cfl").write_bytes((tmp_path / "good.cfl").read_bytes()[:-8])
    write_bart(tmp_path / "alone.cfl", bart_kspace())
    (tmp_path / "alone.hdr").unlink()
    write_bart(tmp_path / "binary.cfl", bart_kspace())
    (tmp_path / "binary.hdr").write_bytes(b"\xff\xfe\x00")
    index = index_path(tmp_path, all_readers())
    assert [entry.file for entry in index.entries] == ["good.cfl"]
    assert [reason.split(":")[0] for reason in index.problems.values()] == [
        "no header alone.hdr beside it",
        "the header binary.hdr is not text",
        "8 x 10 x 2 x 3 complex numbers, as the header says, are 3840 bytes; got 3832",
    ]
