"""Radial scans in the ISMRMRD format."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from activemri.data.formats.ismrmrd import ISMRMRDReader
from activemri.data.formats.registry import all_readers
from activemri.data.index import index_path
from activemri.data.readers import UnreadableError, Volume
from activemri.data.slices import Slice
from activemri.data.volumes import survey
from tests.data.files import Array
from tests.data.published_files import Line
from tests.data.radial_scans import (
    GOLDEN,
    cartesian,
    spokes,
    spokes_of,
    write_ismrmrd_radial,
    write_spokes,
)

READER = ISMRMRDReader()
SPOKES = spokes(step=GOLDEN)


def read(path: Path, index: int = 0) -> tuple[Volume, Slice]:
    with h5py.File(path) as file:
        volume = READER.describe(file)
        return volume, READER.read(file, volume, index)


def read_spokes(path: Path, lines: list[Line], index: int = 0, **header: Any) -> Slice:
    write_spokes(path, lines, **{"vendor": "GE", **header})
    return read(path, index)[1]


def assert_resampled(scan: Slice, *, scale: float = 1) -> None:
    expected = scale * cartesian() * scan.measured.numpy()
    assert np.linalg.norm(scan.kspace.numpy() - expected) < 0.015 * np.linalg.norm(expected)


def test_slices_are_resampled_and_labelled(tmp_path: Path) -> None:
    write_ismrmrd_radial(tmp_path / "a.h5", n_slices=3)
    for index in range(3):
        volume, scan = read(tmp_path / "a.h5", index)
        assert_resampled(scan, scale=0.4096 / 2**index)
        assert scan.processing == (
            "resampled from 40 radial spokes onto a grid",
            "multiplied by 4096",
        )
        assert scan.measured.any(dim=0).all() and not scan.measured[0, 0]
    assert (volume.n_slices, volume.n_coils) == (3, 2)
    assert (volume.shape, volume.target_shape) == ((24, 24), (24, 24))
    assert (volume.subject, volume.contrast) == ("patient-1", "t1_fl2d")
    assert volume.encoded_columns is None


def test_the_grid_covers_the_reconstructed_field_of_view_with_the_pixels_of_the_readout(
    tmp_path: Path,
) -> None:
    lines = spokes_of(spokes(100, samples=64))
    write_spokes(tmp_path / "a.h5", lines, recon=(20, 32))
    assert read(tmp_path / "a.h5")[0].shape == (20, 32)


def test_the_recon_matrix_serves_where_there_is_no_field_of_view(tmp_path: Path) -> None:
    write_ismrmrd_radial(tmp_path / "a.h5", recon=(22, 24))
    with h5py.File(tmp_path / "a.h5", "a") as file:
        header = file["dataset/xml"][0].replace(b"fieldOfView_mm", b"nothing")
        file["dataset/xml"][0] = header
    assert read(tmp_path / "a.h5")[0].shape == (22, 24)


@pytest.mark.parametrize("name", ["radial", "goldenangle", "Radial"])
def test_golden_angles_are_radial_too(tmp_path: Path, name: str) -> None:
    assert_resampled(read_spokes(tmp_path / "a.h5", spokes_of(SPOKES), trajectory=name))


@pytest.mark.parametrize(
    "stored",
    [
        SPOKES,
        24 * SPOKES,
        np.concatenate([SPOKES, np.linalg.norm(SPOKES, axis=-1, keepdims=True)], axis=-1),
    ],
    ids=["cycles per pixel", "cycles per field of view", "with a density"],
)
def test_trajectories_come_in_several_units(tmp_path: Path, stored: NDArray[np.floating]) -> None:
    assert_resampled(read_spokes(tmp_path / "a.h5", spokes_of(SPOKES, stored=stored)))


@pytest.mark.parametrize("unit", [1, 24, 48])
def test_trajectories_may_be_in_units_of_the_encoded_or_the_final_field_of_view(
    tmp_path: Path, unit: int
) -> None:
    lines = spokes_of(SPOKES, stored=unit * SPOKES)
    assert_resampled(read_spokes(tmp_path / "a.h5", lines, encoded=48))


def test_units_between_which_there_is_no_telling_are_refused(tmp_path: Path) -> None:
    lines = spokes_of(SPOKES, stored=24 * SPOKES)
    with pytest.raises(UnreadableError, match=r"reaches 12; expected .* or about 12 or 13"):
        read_spokes(tmp_path / "a.h5", lines, encoded=26)


def test_the_order_of_spokes_does_not_matter(tmp_path: Path) -> None:
    lines = spokes_of(SPOKES)
    shuffled = [lines[i] for i in np.random.default_rng(0).permutation(len(lines))]
    assert_resampled(read_spokes(tmp_path / "a.h5", shuffled))


def test_lines_that_are_no_image_need_no_trajectory(tmp_path: Path) -> None:
    aside = Line(np.full((2, 9), 7, np.complex64), flags=[24])
    assert_resampled(read_spokes(tmp_path / "a.h5", [aside, *spokes_of(SPOKES), aside]))


def test_discarded_samples_do_not_count(tmp_path: Path) -> None:
    trajectory = spokes(samples=54, reach=0.5 * 54 / 48)  # of which 3 at either end do not count
    lines = spokes_of(trajectory)
    for line in lines:
        line.head |= {"discard_pre": 3, "discard_post": 3}
        line.samples[:, :3] = line.samples[:, -3:] = 1e3
    assert_resampled(read_spokes(tmp_path / "a.h5", lines))
    lines[4].head["discard_pre"] = 2
    with pytest.raises(UnreadableError, match="differ in the samples that are to be discarded"):
        read_spokes(tmp_path / "a.h5", lines)


def test_noise_scans_make_the_noise_of_the_coils_independent(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    mixing = np.array([[2, 0], [1 + 1j, 0.5]])

    def noise(*shape: int) -> Array:
        white = (rng.normal(size=(2, *shape)) + 1j * rng.normal(size=(2, *shape))) / np.sqrt(2)
        return np.tensordot(mixing, white, 1).astype(np.complex64)

    lines = [Line(noise(4096), flags=[19])]
    for repetition in range(8):
        each = spokes_of(SPOKES, repetition=repetition)
        for line in each:
            line.samples = noise(48)
        lines += each
    write_spokes(tmp_path / "a.h5", lines)
    scans = [read(tmp_path / "a.h5", index)[1] for index in range(8)]
    kspace = torch.cat([scan.kspace[:, scan.measured] for scan in scans], dim=1)
    covariance = kspace @ kspace.conj().T / kspace.shape[1]
    assert abs(covariance[0, 1]) < 0.1 * abs(covariance[0, 0])
    assert float(covariance[1, 1].real) == pytest.approx(float(covariance[0, 0].real), rel=0.15)
    assert scans[0].processing == (
        "resampled from 40 radial spokes onto a grid",
        "prewhitened with the scan's own noise measurement",
    )


def test_only_the_images_that_are_incomplete_are_left_out(tmp_path: Path) -> None:
    lines = spokes_of(SPOKES)[:30] + spokes_of(SPOKES, repetition=1)
    write_spokes(tmp_path / "a.h5", lines, vendor="GE")
    assert_resampled(read(tmp_path / "a.h5", 1)[1])
    index = index_path(tmp_path, all_readers())
    (found,) = survey(index.root, index.entries)
    ((position, reason),) = found.problems
    assert (position, found.usable) == (0, (1,))
    assert "undersampled: 30 spokes of different angles" in reason


def without_trajectory(lines: list[Line]) -> None:
    for line in lines:
        line.trajectory = None


def one_without_trajectory(lines: list[Line]) -> None:
    lines[3].trajectory = None


def too_short(lines: list[Line]) -> None:
    lines[3].trajectory = lines[3].trajectory[:20]  # type: ignore[index]


def stored_as(change: Callable[[NDArray[np.floating]], NDArray[np.floating]]) -> Any:
    def apply(lines: list[Line]) -> None:
        for line in lines:
            line.trajectory = change(line.trajectory)  # type: ignore[arg-type]

    return apply


def other_samples(lines: list[Line]) -> None:
    lines[3].samples, lines[3].trajectory = lines[3].samples[:, :20], SPOKES[3, :20]


def partitions(lines: list[Line]) -> None:
    lines[3].counters["kspace_encode_step_2"] = 1


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without_trajectory, "missing trajectory: trajectory_dimensions is 0.*store it in 'traj'"),
        (one_without_trajectory, "missing trajectory: trajectory_dimensions is 0"),
        (too_short, "missing trajectory: acquisition 3 holds 40 numbers.* 48 samples x 2"),
        (stored_as(lambda t: 0 * t), "missing trajectory: all of its values are zero"),
        (stored_as(lambda t: t * np.nan), "NaN or Inf in the trajectory"),
        (stored_as(lambda t: t[:, :1]), r"trajectory_dimensions must be 2, or 3 .*got \[1\]"),
        (stored_as(lambda t: t[:, [0, 1, 1, 1]]), r"trajectory_dimensions must be.*got \[4\]"),
        (stored_as(lambda t: t[:, [0, 1, 1]]), "3-D: the trajectory's third component"),
        (stored_as(lambda t: 2 * np.pi * t), "unit of the trajectory.*reaches 3.14"),
        (stored_as(lambda t: t / 2), "unit .*reaches 0.25; expected about 0.5 .*or about 12"),
        (stored_as(lambda t: SPOKES[7]), "all spokes have the same angle"),
        (stored_as(lambda t: 0.85 * t + np.array([0.06, 0.0])), "not radial: samples lie"),
        (other_samples, "lines differ in their samples"),
        (partitions, "3-D: 2 values of kspace_encode_step_2"),
    ],
)
def test_trajectories_that_cannot_be_used_are_named(
    tmp_path: Path, damage: Callable[[list[Line]], None], message: str
) -> None:
    lines = spokes_of(SPOKES)
    damage(lines)
    with pytest.raises(UnreadableError, match=message):
        read_spokes(tmp_path / "a.h5", lines)


def test_files_without_the_field_of_trajectories_are_named(tmp_path: Path) -> None:
    write_ismrmrd_radial(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        records = file["dataset/data"][:]
        del file["dataset/data"]
        kept = [(name, records.dtype[name]) for name in ("head", "data")]
        fewer = np.zeros(len(records), kept)
        fewer["head"], fewer["data"] = records["head"], records["data"]
        file["dataset/data"] = fewer
    with pytest.raises(UnreadableError, match=r"missing trajectory: .*no field 'traj'"):
        read(tmp_path / "a.h5")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"trajectory": "spiral"}, "not Cartesian: the header's trajectory is 'spiral'"),
        ({"trajectory": "other"}, "not Cartesian.*'other'; expected k-space on a grid, or 'rad"),
        ({"recon": (32, 32)}, "undersampled: 40 spokes .*of 32 x 32 has at least 50"),
        ({"more": "<multiband/>"}, "multiband"),
        (
            {
                "parameters": "<userParameters><userParameterLong><name>ChopY</name>"
                "<value>0</value></userParameterLong></userParameters>"
            },
            "ChopY is 0",
        ),
    ],
)
def test_headers_that_cannot_be_read_are_named(
    tmp_path: Path, header: dict[str, Any], message: str
) -> None:
    with pytest.raises(UnreadableError, match=message):
        read_spokes(tmp_path / "a.h5", spokes_of(SPOKES), **header)


@pytest.mark.parametrize(("value", "message"), [(np.nan, "NaN or Inf"), (0, "all zero")])
def test_unusable_samples_are_named(tmp_path: Path, value: float, message: str) -> None:
    lines = spokes_of(SPOKES)
    for line in lines:
        line.samples = line.samples * np.complex64(value)
    with pytest.raises(UnreadableError, match=message):
        read_spokes(tmp_path / "a.h5", lines)
