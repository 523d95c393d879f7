"""Features of a scan: what they measure, when they are there, and that they see nothing hidden."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from activemri import metrics
from activemri.data.slices import Slice
from activemri.envs.scan import Scan, View
from activemri.evaluator import Evaluator
from activemri.mri.geometry import GEOMETRIES, make_geometry
from activemri.reconstruction.reconstructor import Reconstruction
from activemri.reconstruction.zero_filled import ZeroFilled
from activemri.stopping.features import (
    OF_EVALUATOR,
    OF_SCAN,
    OF_UNCERTAINTY,
    expected_ssim,
    scan_features,
)
from tests.envs.scans import Unsure, full_kspace, scan, with_other_unacquired

SHAPE = (16, 18)


def protocol(geometry: str = "columns", *, unsure: bool = True) -> Scan:
    reconstructor = Unsure() if unsure else ZeroFilled()
    return Scan(make_geometry(geometry, SHAPE), reconstructor, n_center_lines=5)


def look(acquisition: Scan, *scans: Slice) -> View:
    return acquisition.start(scans).view


def small_evaluator() -> Evaluator:
    torch.manual_seed(0)
    return Evaluator(SHAPE[1], channels=2, layers=2).eval()


def smooth(height: int = 40, width: int = 44) -> Tensor:
    """A bright disc with some texture: (1, height, width)."""
    down, right = torch.meshgrid(
        torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij"
    )
    disc = torch.sigmoid(20 * (0.7 - torch.hypot(down, right)))
    return (disc * (1 + 0.3 * torch.sin(9 * down) * torch.cos(7 * right)))[None]


@pytest.mark.parametrize("level", [0.01, 0.03, 0.1])
def test_expected_ssim_is_what_independent_errors_give(level: float) -> None:
    image = smooth()
    generator = torch.Generator().manual_seed(0)
    deviation = level * (0.5 + image)
    errors = deviation * torch.randn(30, *image.shape[1:], generator=generator)
    true = metrics.ssim(image.expand_as(errors), image + errors, data_range=image.amax().expand(30))
    predicted = expected_ssim(image, deviation.square())
    assert predicted.dtype == torch.float64
    assert float(predicted) == pytest.approx(float(true.mean()), abs=0.02)


def test_expected_ssim_is_one_without_errors_and_falls_with_them() -> None:
    image = smooth()
    values = [
        float(expected_ssim(image, torch.full((1, 1, 1), level))) for level in (0, 1e-4, 1e-2, 1)
    ]
    assert values[0] == pytest.approx(1)
    assert values == sorted(values, reverse=True) and values[-1] < 0.2


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_what_the_scan_does_not_give_is_absent(geometry: str) -> None:
    plain = scan_features(look(protocol(geometry, unsure=False), scan(0), scan(1)))
    of_lines = [name for name in OF_SCAN if "_band_" in name] + ["isotropic_energy"]
    absent = of_lines if geometry in ("points", "tiles") else []
    if geometry.startswith("radial"):
        absent = [*of_lines, "outer_energy", "missing_energy", "missing_ssim"]
    of_scan = set(OF_SCAN) - set(absent)
    assert set(plain) == of_scan
    unsure = scan_features(look(protocol(geometry), scan(0), scan(1)))
    assert set(unsure) == of_scan | set(OF_UNCERTAINTY)
    for value in unsure.values():
        assert value.shape == (2,) and value.dtype == torch.float64
        assert bool(value.isfinite().all())


def test_evaluator_features_are_of_missing_lines_only() -> None:
    evaluator, acquisition = small_evaluator(), protocol()
    view = look(acquisition, scan(0, padding=2), scan(1, padding=2))
    features = scan_features(view, evaluator)
    assert set(features) == {*OF_SCAN, *OF_UNCERTAINTY, *OF_EVALUATOR}
    with torch.no_grad():
        scores = evaluator(view.reconstruction.image, view.mask).double()
    for row in range(2):
        missing = [i for i in range(2, SHAPE[1] - 2) if not view.mask[row, i]]
        own = scores[row, missing]
        assert float(features["evaluator_mean"][row]) == pytest.approx(float(own.mean()))
        assert float(features["evaluator_lowest"][row]) == pytest.approx(float(own.min()))


@pytest.mark.parametrize("geometry", ["columns", "rows"])
@pytest.mark.parametrize("feature", ["missing_energy", "isotropic_energy"])
def test_missing_energy_is_estimated_from_acquired_lines(geometry: str, feature: str) -> None:
    state = protocol(geometry, unsure=False).start([scan(i) for i in range(8)])
    view, whole = state.view, full_kspace(state)
    energy = whole.abs().square().sum(dim=(1, 2 if geometry == "columns" else 3)).double()
    missing = (energy * ~view.mask).sum(dim=1) / energy.sum(dim=1)
    estimate = scan_features(view)[feature]
    assert float((estimate - missing.log10()).abs().mean()) < 0.4


@pytest.mark.parametrize("geometry", ["columns", "rows"])
def test_bands_hold_the_energy_of_the_start_and_of_what_came_in_last(geometry: str) -> None:
    state = protocol(geometry, unsure=False).start([scan(i) for i in range(3)])
    lines = full_kspace(state).abs().double().square().sum(dim=1)  # (batch, height, width)
    if geometry == "rows":
        lines = lines.transpose(1, 2)
    start = lines * state.view.mask.double()[:, None]
    n, found = lines.shape[1], scan_features(state.view)
    whole = start.sum(dim=(1, 2))
    outer = start[:, [0, *range(n // 2 + n // 4 + 1, n)]].sum(dim=(1, 2))  # upper half, one side
    outer += start[:, 1 : n // 2 - n // 4].sum(dim=(1, 2))
    torch.testing.assert_close(found["start_band_0"], (outer / whole).log10())
    bands = [10 ** found[f"start_band_{band}"] for band in range(6)]
    assert float(torch.stack(bands).sum(dim=0).mean()) == pytest.approx(1)
    last = [10 ** found[f"outer_band_{band}"] for band in range(6)]
    centre = lines[:, :, lines.shape[2] // 2].sum(dim=1)
    expected = (whole - centre) / 4 / whole  # all of the five but the centre
    torch.testing.assert_close(torch.stack(last).sum(dim=0), expected)


def test_quantiles_of_variances_tell_flat_images_from_textured_ones() -> None:
    view = look(protocol(unsure=False), scan(0))
    image = view.reconstruction.image
    flat = replace(view, reconstruction=Reconstruction(torch.ones_like(image)))
    rising = [f"texture_{percent}" for percent in (10, 25, 50, 75, 90)]
    values = [float(scan_features(view)[name]) for name in rising]
    assert values == sorted(values)
    assert all(float(scan_features(flat)[name]) < values[0] for name in rising)
    unsure = scan_features(look(protocol(), scan(0)))
    similar = [float(unsure[f"similarity_{percent}"]) for percent in (10, 25, 50, 75, 90)]
    assert similar == sorted(similar) and similar[0] < float(unsure["expected_ssim"]) < similar[-1]


def test_features_change_as_they_should_when_everything_is_acquired() -> None:
    acquisition = protocol()
    one = scan(0)
    state = acquisition.start([one])
    before = scan_features(state.view, small_evaluator())
    while not bool(state.finished.all()):
        state = acquisition.acquire(state, state.view.legal.long().argmax(dim=1))
    after = scan_features(state.view, small_evaluator())
    assert float(after["acquired"]) == 1 > float(before["acquired"])
    assert float(after["evaluator_mean"]) == float(after["evaluator_lowest"]) == 1
    for name in ("expected_ssim", "missing_ssim"):
        assert float(after[name]) == pytest.approx(1)
        assert float(before[name]) < 0.99
    for name in (
        "missing_energy",
        "isotropic_energy",
        "uncertainty",
        "largest_uncertainty",
        "expected_nmse",
    ):
        assert float(after[name]) == -12 < float(before[name])


def test_features_do_not_depend_on_the_unit_of_the_samples() -> None:
    one = scan(0)
    louder = replace(one, kspace=1e4 * one.kspace, target=1e4 * one.target)
    acquisition = protocol()
    features = partial(scan_features, evaluator=small_evaluator())
    a, b = features(look(acquisition, one)), features(look(acquisition, louder))
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e3])
def test_features_see_neither_unacquired_samples_nor_the_target(scale: float) -> None:
    one = scan(3, target_shape=(12, 14))
    acquisition = protocol()
    acquired = acquisition.start([one]).view.mask  # of columns: (1, width)
    other = with_other_unacquired(one, acquired, scale=scale)
    features = partial(scan_features, evaluator=small_evaluator())
    ours, theirs = features(look(acquisition, one)), features(look(acquisition, other))
    assert {name: float(v) for name, v in ours.items()} == {
        name: float(v) for name, v in theirs.items()
    }


def test_only_the_part_that_is_scored_counts_in_image_features() -> None:
    acquisition = protocol()
    view = look(acquisition, scan(3, target_shape=(8, 9)))
    image = view.reconstruction.image.clone()
    assert view.reconstruction.uncertainty is not None
    uncertainty = view.reconstruction.uncertainty.clone()
    image[:, 0, 0], uncertainty[:, 0, 0] = 100 * image.abs().max(), 1e3
    changed = replace(view, reconstruction=Reconstruction(image, uncertainty))
    a, b = scan_features(view), scan_features(changed)
    assert {name: float(v) for name, v in a.items()} == {name: float(v) for name, v in b.items()}


def test_a_black_scan_has_finite_features() -> None:
    black = replace(scan(0), kspace=torch.zeros_like(scan(0).kspace), measured=scan(0).measured)
    for value in scan_features(look(protocol(), black)).values():
        assert np.isfinite(float(value))
