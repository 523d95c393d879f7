"""CG-SENSE: least squares over the coils."""

import pytest
import torch

from activemri.reconstruction.cg_sense import CGSense
from tests.reconstruction.scans import nmse, undersampled


def test_enough_coils_without_noise_give_the_image_back() -> None:
    measurement, image = undersampled(12, 18, n_coils=6, every=3)
    assert nmse(measurement.zero_filled, image) > 0.01
    found = CGSense(200, weight=0.0, tolerance=1e-7)(measurement).image
    assert nmse(found, image) < 1e-6


def test_the_result_solves_the_regularised_normal_equations() -> None:
    measurement, _ = undersampled(10, 16, n_coils=3, noise=0.1)
    weight = 0.05
    found = CGSense(100, weight=weight, tolerance=1e-6)(measurement).image
    left = measurement.operator.gram(found) + weight * found
    torch.testing.assert_close(left, measurement.zero_filled, atol=1e-4, rtol=1e-4)


def test_a_single_coil_gives_the_zero_filled_image() -> None:
    measurement, _ = undersampled(8, 10)
    assert torch.equal(CGSense()(measurement).image, measurement.zero_filled)


def test_more_weight_gives_less_noise_and_less_image() -> None:
    measurement, _ = undersampled(12, 18, n_coils=3, noise=0.3)
    energy = [
        float(CGSense(50, weight=weight)(measurement).image.abs().square().sum())
        for weight in (1e-3, 1e-2, 1e-1, 1.0)
    ]
    assert energy == sorted(energy, reverse=True)


def test_gradients_reach_the_measurement() -> None:
    measurement, _ = undersampled(8, 10, n_coils=2)
    measurement.zero_filled.requires_grad_()
    CGSense(4)(measurement).image.abs().sum().backward()
    assert measurement.zero_filled.grad is not None
    assert bool(measurement.zero_filled.grad.abs().min() > 0)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"weight": -1.0}, {"tolerance": float("nan")}])
def test_settings_without_meaning_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}={next(iter(wrong.values()))}"):
        CGSense(**wrong)  # type: ignore[arg-type]
