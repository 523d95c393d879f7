"""Wavelets and total variation: minima of what they promise to minimise."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from activemri.mri.wavelets import compose, decompose
from activemri.reconstruction.compressed_sensing import (
    TotalVariation,
    WaveletSensing,
    _differences,
    _divergence,
    descend,
    peak_of,
)
from activemri.reconstruction.reconstructor import Measurement, Reconstructor
from tests.reconstruction.scans import nmse, undersampled

BOTH: list[type[WaveletSensing | TotalVariation]] = [WaveletSensing, TotalVariation]


def data_term(image: Tensor, measurement: Measurement) -> Tensor:
    error = measurement.operator.forward(image) - measurement.samples
    return 0.5 * error.abs().square().sum(dim=(1, 2, 3))


def variation(image: Tensor) -> Tensor:
    """The slow and obvious way: a loop over pixels."""
    rows, columns = image.shape[-2:]
    total = torch.zeros(len(image))
    for row in range(rows):
        for column in range(columns):
            here = image[:, row, column]
            down = image[:, min(row + 1, rows - 1), column] - here
            right = image[:, row, min(column + 1, columns - 1)] - here
            total += (down.abs().square() + right.abs().square()).sqrt()
    return total


def coefficients(image: Tensor) -> Tensor:
    parts = decompose(torch.stack([image.real, image.imag]), 1)
    return parts.square().sum(dim=0).sqrt().sum(dim=(-2, -1))


PENALTIES: dict[type[Reconstructor], Callable[[Tensor], Tensor]] = {
    WaveletSensing: coefficients,
    TotalVariation: variation,
}


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("n_coils", [1, 3])
def test_no_image_nearby_is_better(
    kind: type[WaveletSensing | TotalVariation], n_coils: int
) -> None:
    measurement, _ = undersampled(16, 20, n_coils=n_coils, noise=0.02)
    weight = 0.01
    settings = {"shifts": False} if kind is WaveletSensing else {"dual_steps": 20}
    found = kind(weight, steps=150, **settings)(measurement).image

    def objective(image: Tensor) -> Tensor:
        size = weight * peak_of(measurement.zero_filled).flatten()
        return data_term(image, measurement) + size * PENALTIES[kind](image)

    best = objective(found)
    generator = torch.Generator().manual_seed(0)
    for size in (0.1, 0.01, 0.001):
        for _ in range(5):
            step = torch.randn(found.shape, dtype=found.dtype, generator=generator)
            assert bool((objective(found + size * step) > best - 1e-5 * best).all())
            towards = found + size * (measurement.zero_filled - found)
            assert bool((objective(towards) > best - 1e-5 * best).all())


@pytest.mark.parametrize("kind", BOTH)
def test_a_blocky_object_comes_closer_than_by_zero_filling(kind: type[Reconstructor]) -> None:
    measurement, image = undersampled(48, 64, noise=0.01)
    zero_filled = nmse(measurement.zero_filled, image)
    assert nmse(kind()(measurement).image, image) < 0.75 * zero_filled


@pytest.mark.parametrize("kind", BOTH)
def test_without_a_weight_measured_samples_stay(
    kind: type[WaveletSensing | TotalVariation],
) -> None:
    measurement, _ = undersampled(16, 20)
    found = kind(0.0)(measurement).image
    torch.testing.assert_close(found, measurement.zero_filled, atol=1e-4, rtol=1e-4)


def test_the_divergence_is_the_adjoint_of_the_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    draw = partial(torch.randn, dtype=torch.complex64, generator=generator)
    image, dual = draw(2, 8, 10), draw(2, 2, 8, 10)
    left = torch.sum(_differences(image).conj() * dual)
    torch.testing.assert_close(left, torch.sum(image.conj() * _divergence(dual)))


def test_descent_without_a_penalty_solves_least_squares() -> None:
    measurement, image = undersampled(12, 18, n_coils=6)
    found = descend(measurement, lambda image, length: image, steps=500)
    assert nmse(found, image) < 1e-3


def test_denoising_with_wavelets_shrinks_each_coefficient() -> None:
    """With all lines the minimum is known: every coefficient's magnitude less the threshold."""
    measurement, _ = undersampled(16, 32, every=1, batch=1)
    image = measurement.zero_filled
    weight = 0.03
    found = WaveletSensing(weight, steps=3, shifts=False)(measurement).image
    parts = decompose(torch.cat([image.real, image.imag]), 1)
    size = parts.square().sum(dim=0).sqrt()
    kept = (1 - weight * image.abs().max() / size).clamp(min=0)
    expected = torch.complex(*compose(parts * kept, 1))
    torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("wrong", [{"weight": -1.0}, {"weight": float("nan")}, {"steps": 0}])
def test_settings_without_meaning_are_refused(
    kind: type[Reconstructor], wrong: dict[str, float]
) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}={next(iter(wrong.values()))}"):
        kind(**wrong)
