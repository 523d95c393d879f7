import math

import numpy as np
import pytest
import torch
from torch import Tensor

from activemri.reconstruction.recalibrated import MAX_KNOTS, Recalibrated, fit_knots
from activemri.reconstruction.reconstructor import Measurement, Reconstruction, Reconstructor
from activemri.reconstruction.zero_filled import ZeroFilled
from tests.reconstruction.scans import on_grid


class Proportional(Reconstructor):
    """The zero-filled image, and its magnitude as uncertainty."""

    def __init__(self) -> None:
        super().__init__()
        self.settings = {}

    def forward(self, measurement: Measurement) -> Reconstruction:
        image = measurement.zero_filled
        return Reconstruction(image, image.abs(), image.unsqueeze(1))


def scans(factor: float = 1.0) -> Measurement:
    generator = torch.Generator().manual_seed(0)
    kspace = factor * torch.randn(2, 1, 6, 8, dtype=torch.complex64, generator=generator)
    return on_grid(kspace, torch.ones(2, 1, 8, dtype=torch.bool))


def mapped(values: list[float], predicted: list[float], observed: list[float]) -> Tensor:
    network = Recalibrated(Proportional(), predicted=predicted, observed=observed)
    return network.recalibrate(torch.tensor(values))


def test_only_the_uncertainty_changes() -> None:
    network = Recalibrated(Proportional(), predicted=[1.0], observed=[2.5])
    before, after = Proportional()(scans()), network(scans())
    assert torch.equal(after.image, before.image)
    assert before.samples is not None and after.samples is not None
    assert torch.equal(after.samples, before.samples)
    assert before.uncertainty is not None and after.uncertainty is not None
    assert torch.allclose(after.uncertainty, 2.5 * before.uncertainty)


def test_the_map_goes_through_its_knots_and_is_a_power_law_between_them() -> None:
    predicted, observed = [0.01, 0.1, 1.0], [0.02, 0.02, 2.0]
    assert torch.allclose(mapped(predicted, predicted, observed), torch.tensor(observed))
    between = mapped([math.sqrt(0.1 * 1.0)], predicted, observed)
    assert torch.allclose(between, torch.tensor(math.sqrt(0.02 * 2.0)))


def test_beyond_the_outermost_knots_the_map_is_a_factor() -> None:
    low, high = mapped([0.001, 5.0], [0.01, 1.0], [0.03, 0.5]).tolist()
    assert low == pytest.approx(0.003) and high == pytest.approx(2.5)


def test_the_map_never_falls() -> None:
    x = torch.logspace(-5, 1, 500).tolist()
    y = mapped(x, [0.01, 0.02, 0.5], [0.1, 0.1, 0.2])
    assert (y.diff() >= 0).all()


def test_nothing_predicted_stays_next_to_nothing() -> None:
    assert 0 <= mapped([0.0], [0.01, 0.1], [0.01, 0.2]).item() < 1e-5


@pytest.mark.parametrize("factor", [1e-9, 1e9])
def test_the_map_does_not_depend_on_the_scale(factor: float) -> None:
    network = Recalibrated(Proportional(), predicted=[0.5, 2.0], observed=[0.1, 3.0])
    one, two = network(scans()).uncertainty, network(scans(factor)).uncertainty
    assert one is not None and two is not None
    assert torch.allclose(two / factor, one, rtol=1e-3)


def test_a_method_without_uncertainty_cannot_be_recalibrated() -> None:
    with pytest.raises(ValueError, match="ZeroFilled gives no uncertainty"):
        Recalibrated(ZeroFilled())(scans())


@pytest.mark.parametrize(
    ("predicted", "observed", "why"),
    [
        ([], [], "1 to 32 knots"),
        ([0.1] * 2, [0.1] * 3, "as many values"),
        ([0.1, 0.1], [0.1, 0.1], "rising knots"),
        ([0.2, 0.1], [0.1, 0.1], "rising knots"),
        ([0.1, 0.2], [0.2, 0.1], "never fall"),
        ([0.0, 0.2], [0.1, 0.1], "above 0"),
        ([0.1, math.nan], [0.1, 0.1], "finite"),
    ],
)
def test_knots_that_make_no_map_are_refused(
    predicted: list[float], observed: list[float], why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        Recalibrated(Proportional(), predicted=predicted, observed=observed)


def test_a_known_distortion_of_gaussian_errors_is_undone() -> None:
    rng = np.random.default_rng(0)
    true = np.exp(rng.uniform(np.log(0.01), np.log(0.5), 200_000))
    error = true * rng.standard_normal(len(true))
    knots = fit_knots(3 * true**1.5, error)
    network = Recalibrated(Proportional(), predicted=knots[0], observed=knots[1])
    inside = np.geomspace(0.015, 0.4, 50)
    found = network.recalibrate(torch.from_numpy(3 * inside**1.5)).numpy()
    assert np.abs(np.log(found / inside)).max() < 0.08


def test_groups_of_wrong_order_are_pooled() -> None:
    """Predictions 1 and 2 have mean squared errors 4 and 2: both get 3."""
    predicted = np.repeat([1.0, 2.0, 3.0], 10)
    error = np.sqrt(np.repeat([4.0, 2.0, 9.0], 10))
    knots, values = fit_knots(predicted, error, n_knots=3)
    assert knots == pytest.approx([1, 2, 3], rel=1e-3)
    assert values == pytest.approx([math.sqrt(3), math.sqrt(3), 3])


def test_one_knot_is_the_factor_that_makes_the_mean_variance_right() -> None:
    rng = np.random.default_rng(0)
    predicted, error = rng.uniform(0.1, 0.2, 1000), rng.standard_normal(1000)
    (knot,), (value,) = fit_knots(predicted, error, n_knots=1)
    factor = np.sqrt(np.square(error).mean() / np.square(predicted).mean())
    assert value / knot == pytest.approx(factor, rel=1e-3)


@pytest.mark.parametrize("n_knots", [1, 5, MAX_KNOTS])
def test_the_same_prediction_everywhere_gives_one_knot(n_knots: int) -> None:
    predicted = np.full(50, 0.1)
    knots, values = fit_knots(predicted, np.linspace(-1, 1, 50), n_knots=n_knots)
    assert len(knots) == len(values) == 1
    Recalibrated(Proportional(), predicted=knots, observed=values)


@pytest.mark.parametrize("n_pixels", [1, 3, 40])
def test_few_pixels_and_perfect_images_still_give_a_map(n_pixels: int) -> None:
    predicted = np.linspace(0, 1, n_pixels)
    knots, values = fit_knots(predicted, np.zeros(n_pixels))
    Recalibrated(Proportional(), predicted=knots, observed=values)


def test_pixels_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="only finite numbers"):
        fit_knots(np.array([0.1, np.nan]), np.array([0.1, 0.1]))
    with pytest.raises(ValueError, match="at least one pixel"):
        fit_knots(np.array([]), np.array([]))
