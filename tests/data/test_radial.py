"""Radial scans, resampled onto a grid."""

import time

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import j1

from activemri.data.formats import radial
from activemri.data.formats.radial import refuse_incomplete, resample
from activemri.data.readers import UnreadableError
from tests.data.files import to_image
from tests.data.radial_scans import GOLDEN, cartesian, grid_positions, spectrum, spokes

SHAPE = (24, 24)


def error(trajectory: NDArray[np.floating], shape: tuple[int, int] = SHAPE) -> float:
    """Relative difference of what was resampled from the object's own samples in the disc."""
    samples = torch.from_numpy(spectrum(trajectory, shape))
    kspace, measured, _ = resample(samples, trajectory, shape)
    truth = cartesian(shape) * measured.numpy()
    return float(np.linalg.norm(kspace.numpy() - truth) / np.linalg.norm(truth))


@pytest.mark.parametrize(
    ("trajectory", "shape"),
    [
        (spokes(), SHAPE),
        (spokes(samples=24), SHAPE),
        (spokes(samples=25), SHAPE),
        (spokes(step=GOLDEN), SHAPE),
        (spokes(41, step=2 * np.pi / 41), SHAPE),
        (spokes(80, samples=25, half=True), SHAPE),
        (spokes(48, samples=56), (24, 28)),
        (spokes(48, samples=54), (27, 24)),
        (np.concatenate([spokes(), spokes()]), SHAPE),
        (spokes()[:, ::-1], SHAPE),
        (spokes(81, step=2 * np.pi / 81)[:, 16:], SHAPE),
    ],
    ids=[
        "even",
        "no oversampling",
        "odd number of samples",
        "golden angle",
        "over the whole turn",
        "from the centre outwards",
        "wide",
        "odd size",
        "repeated",
        "read backwards",
        "partial echo",
    ],
)
def test_fully_sampled_spokes_give_the_samples_of_a_grid(
    trajectory: NDArray[np.floating], shape: tuple[int, int]
) -> None:
    assert error(trajectory, shape) < 0.015


def test_spokes_that_reach_less_leave_the_rest_unmeasured() -> None:
    trajectory = spokes(reach=0.25)
    kspace, measured, _done = resample(torch.from_numpy(spectrum(trajectory)), trajectory, SHAPE)
    radii = np.linalg.norm(grid_positions(SHAPE), axis=-1)
    assert np.array_equal(measured.numpy(), radii <= 0.25)
    assert not kspace[:, ~measured].any()
    assert kspace.dtype == torch.complex64 and kspace.shape == (2, *SHAPE)
    assert error(trajectory) < 0.01


def test_full_spokes_reach_every_row_and_column_but_not_the_corners() -> None:
    _kspace, measured, done = resample(torch.from_numpy(spectrum(spokes())), spokes(), SHAPE)
    assert measured.any(dim=0).all() and measured.any(dim=1).all()
    assert not measured[0, 0] and not measured[-1, -1]
    assert done == ("resampled from 40 radial spokes onto a grid",)


def test_images_of_resampled_scans_are_those_of_a_grid() -> None:
    kspace, _measured, _done = resample(torch.from_numpy(spectrum(spokes())), spokes(), SHAPE)
    image, expected = to_image(kspace.numpy()), to_image(cartesian())
    assert np.linalg.norm(image - expected) < 0.02 * np.linalg.norm(expected)


def discs(positions: NDArray[np.floating], size: int) -> NDArray[np.complex64]:
    """Samples of sharp discs, one coil; amplitude, radius and centre as shares of the side."""
    out = np.zeros(positions.shape[:-1], np.complex128)
    radii = np.maximum(np.linalg.norm(positions, axis=-1), 1e-9)
    for height, radius, down, across in [
        (1.0, 0.4, 0.0, 0.0),
        (-0.7, 0.33, 0.02, 0.0),
        (0.5, 0.07, 0.1, -0.15),
        (0.4, 0.03, -0.2, 0.1),
    ]:
        wave = np.exp(-2j * np.pi * size * (positions @ np.array([down, across])))
        out += height * radius * j1(2 * np.pi * radius * size * radii) / radii * wave
    return out.astype(np.complex64)[None]


def test_sharp_objects_come_out_to_a_percent() -> None:
    trajectory = spokes(100, samples=128, step=GOLDEN)
    samples = torch.from_numpy(discs(trajectory, 64))
    kspace, measured, _ = resample(samples, trajectory, (64, 64))
    expected = to_image(discs(grid_positions((64, 64)), 64) * measured.numpy())
    image = to_image(kspace.numpy())
    assert np.linalg.norm(image - expected) < 0.01 * np.linalg.norm(expected)


def test_resampling_is_the_same_for_every_scale() -> None:
    samples = torch.from_numpy(spectrum(spokes()))
    one = resample(samples, spokes(), SHAPE)[0]
    for scale in (2.0**-40, 2.0**40):
        other = resample(samples * scale, spokes(), SHAPE)[0]
        torch.testing.assert_close(other / scale, one)


def test_spokes_of_one_trajectory_are_prepared_once() -> None:
    radial._prepared.cache_clear()
    samples = torch.from_numpy(spectrum(spokes()))
    first = resample(samples, spokes(), SHAPE)[0]
    assert torch.equal(resample(samples, spokes(), SHAPE)[0], first)
    assert (radial._prepared.cache_info().hits, radial._prepared.cache_info().misses) == (1, 1)
    for number in range(6):
        resample(samples, spokes(reach=0.49 - 0.01 * number), SHAPE)
    assert radial._prepared.cache_info().currsize == radial.REMEMBERED


def bent() -> NDArray[np.float32]:
    trajectory = 0.9 * spokes()
    trajectory[:, :, 0] += 0.2 * np.abs(trajectory[:, :, 1])
    return trajectory


def beside_the_centre() -> NDArray[np.float32]:
    return np.concatenate([spokes(80)[:, :16], spokes(80)[:, :16] * 0.9])


def with_value(value: float) -> NDArray[np.float32]:
    trajectory = spokes()
    trajectory[3, 5, 1] = value
    return trajectory


@pytest.mark.parametrize(
    ("trajectory", "message"),
    [
        (spokes(20), "undersampled: 20 spokes .*of 24 x 24 has at least 37: no fully sampled"),
        (spokes(60, samples=24, half=True), "undersampled: 30 spokes"),
        (spokes(40, step=2 * np.pi / 40), "undersampled: 20 spokes"),
        (np.concatenate([spokes(20)] * 3), "undersampled: 20 spokes"),
        (spokes(40)[:, 16:], "undersampled: 20 spokes"),
        (spokes(60)[:50], "undersampled: a gap of 32.8 degrees .* has at most 14.6"),
        (spokes(samples=20), "undersampled: samples of a spoke are 0.05 cycles per pixel apart"),
        (np.concatenate([spokes(1)] * 40), "all spokes have the same angle"),
        (spokes(1), "all spokes have the same angle"),
        (bent(), "not radial: samples lie 0.171 cycles per pixel off the straight lines"),
        (beside_the_centre(), "not radial"),
        (np.zeros((40, 24, 2)), "never leaves the centre"),
        (2 * spokes(), "reaches 1; expected cycles per pixel, at most 0.5"),
        (with_value(np.nan), "NaN or Inf in the trajectory"),
        (with_value(np.inf), "NaN or Inf in the trajectory"),
        (spokes()[..., :1], r"axes \(spoke, sample, 2\); got the shape \(40, 48, 1\)"),
        (spokes()[0], r"axes \(spoke, sample, 2\)"),
        (spokes()[:0], r"axes \(spoke, sample, 2\)"),
        (spokes()[:, :1], "at least two samples"),
    ],
)
def test_trajectories_without_a_fully_sampled_truth_are_refused(
    trajectory: NDArray[np.floating], message: str
) -> None:
    with pytest.raises(UnreadableError, match=message):
        refuse_incomplete(trajectory, SHAPE)


def test_nearly_enough_spokes_are_refused_and_enough_are_read() -> None:
    refuse_incomplete(spokes(37), SHAPE)
    refuse_incomplete(spokes(402, samples=512, step=GOLDEN), (256, 256))
    with pytest.raises(UnreadableError, match="36 spokes"):
        refuse_incomplete(spokes(36), SHAPE)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.full((2, 40, 48), np.nan, np.complex64), "NaN or Inf in k-space"),
        (np.zeros((2, 40, 48), np.complex64), "k-space is all zero"),
        (np.ones((2, 40, 47), np.complex64), r"must have the shape \(40, 47, 2\)"),
    ],
)
def test_samples_that_cannot_be_used_are_named(
    samples: NDArray[np.complex64], message: str
) -> None:
    with pytest.raises(UnreadableError, match=message):
        resample(torch.from_numpy(samples), spokes(), SHAPE)


def test_a_slice_of_256_by_256_and_8_coils_takes_seconds() -> None:
    trajectory = spokes(402, samples=512, step=GOLDEN)
    samples = torch.from_numpy(spectrum(trajectory, (256, 256), n_coils=8))
    started = time.perf_counter()
    resample(samples, trajectory, (256, 256))
    assert time.perf_counter() - started < 20  # one core takes two
