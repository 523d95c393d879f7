"""Coils: physics of simulated maps, combination of images, prewhitening."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from activemri.mri import fourier
from activemri.mri.coils import (
    biot_savart_sensitivity,
    combine,
    mix_coils,
    noise_covariance,
    root_sum_of_squares,
    unit_norm,
    whitening,
)
from activemri.mri.noise import complex_noise

HEIGHT, WIDTH = 24, 30


def maps(n_coils: int, seed: int | None = 0) -> Tensor:
    generator = None if seed is None else np.random.default_rng(seed)
    return biot_savart_sensitivity(n_coils, HEIGHT, WIDTH, generator=generator)


def object_and_kspace(n_coils: int) -> tuple[Tensor, Tensor, Tensor]:
    """A smooth object, coil maps, k-space: (h, w), (coil, h, w), (1, coil, h, w)."""
    y = (torch.arange(HEIGHT) - HEIGHT // 2)[:, None] / HEIGHT
    x = (torch.arange(WIDTH) - WIDTH // 2)[None] / WIDTH
    image = torch.exp(-(((x - 0.1) / 0.2) ** 2) - (y / 0.25) ** 2) * torch.exp(1j * (x + 2 * y))
    sensitivity = maps(n_coils)
    return image, sensitivity, fourier.fft2(sensitivity * image)[None]


@pytest.mark.parametrize("n_coils", [1, 2, 3, 16])
def test_maps_have_unit_norm_everywhere(n_coils: int) -> None:
    sensitivity = maps(n_coils)
    assert sensitivity.dtype == torch.complex64
    assert sensitivity.shape == (n_coils, HEIGHT, WIDTH)
    assert torch.allclose(root_sum_of_squares(sensitivity), torch.ones(HEIGHT, WIDTH), atol=1e-5)


def test_one_coil_is_a_map_of_ones() -> None:
    assert torch.equal(maps(1), torch.ones(1, HEIGHT, WIDTH, dtype=torch.complex64))


@pytest.mark.parametrize("n_coils", [4, 6, 8, 16])
def test_the_nearest_coil_sees_best(n_coils: int) -> None:
    sensitivity = biot_savart_sensitivity(n_coils, 40, 40).abs()
    for coil in range(n_coils):
        angle = 2 * math.pi * coil / n_coils
        row, column = round(20 + 15 * math.sin(angle)), round(20 + 15 * math.cos(angle))
        assert int(sensitivity[:, row, column].argmax()) == coil


def test_the_field_on_the_axis_of_a_loop_is_the_textbook_one() -> None:
    # two coils face each other on the x axis; there B is along x, a^2 / (a^2 + d^2)^1.5 each
    distance = 0.85
    radius = min(1.25 * distance * math.sin(math.pi / 3), 0.4)
    sensitivity = biot_savart_sensitivity(2, 40, 40, distance=distance)
    x = (torch.arange(40) - 20) / 40
    near, far = ((radius**2 + (distance - s * x) ** 2) ** -1.5 for s in (1, -1))
    ratio = (sensitivity[0, 20].abs() / sensitivity[1, 20].abs()).to(torch.float32)
    assert torch.allclose(ratio, near / far, rtol=0.01)  # a loop of 48 pieces
    assert torch.allclose(sensitivity[0, 20].imag, torch.zeros(40), atol=1e-6)


def test_turning_the_coils_by_a_quarter_turns_maps_and_phase() -> None:
    # coil 1 of 4 is coil 0 turned from x to y, and a turned field has another phase: B_x - i B_y
    sensitivity = biot_savart_sensitivity(4, 21, 21)
    turned = torch.rot90(sensitivity[0], -1, dims=(0, 1)) * -1j
    assert torch.allclose(sensitivity[1], turned, atol=1e-5)


def test_maps_are_smooth_and_differ_between_seeds() -> None:
    sensitivity = maps(8)
    assert float(sensitivity.diff(dim=-1).abs().max()) < 0.15
    assert float(sensitivity.diff(dim=-2).abs().max()) < 0.15
    assert torch.equal(sensitivity, maps(8))
    assert not torch.allclose(sensitivity, maps(8, seed=1), atol=0.05)


def test_combining_undoes_seeing_and_is_the_adjoint() -> None:
    image, sensitivity, _ = object_and_kspace(3)
    assert torch.allclose(combine(sensitivity * image, sensitivity), image, atol=1e-5)
    assert torch.allclose(root_sum_of_squares(sensitivity * image), image.abs(), atol=1e-5)
    images = torch.randn(3, HEIGHT, WIDTH, dtype=torch.complex64)
    seen = torch.vdot((sensitivity * image).flatten(), images.flatten())
    combined = torch.vdot(image.flatten(), combine(images, sensitivity).flatten())
    assert torch.allclose(seen, combined, rtol=1e-4)


def test_a_pixel_without_signal_sees_equally_with_all_coils() -> None:
    result = unit_norm(torch.zeros(4, 2, 3, dtype=torch.complex64))
    assert torch.equal(result, torch.full((4, 2, 3), 0.5, dtype=torch.complex64))


def test_whitened_noise_is_independent_and_of_variance_one() -> None:
    generator = np.random.default_rng(0)
    noise = complex_noise((3, 2000), sigma=1.0, generator=generator).to(torch.complex128)
    mixing = torch.tensor([[2, 0, 0], [1j, 1, 0], [0.5, -1, 3]], dtype=torch.complex128)
    coloured = mixing @ noise
    white = mix_coils(coloured[..., None], whitening(noise_covariance(coloured)))[..., 0]
    torch.testing.assert_close(noise_covariance(white), torch.eye(3, dtype=torch.complex128))


def test_the_noise_of_a_broken_coil_is_refused() -> None:
    noise = complex_noise((3, 100), sigma=1.0, generator=np.random.default_rng(0))
    noise[2] = 0
    with pytest.raises(ValueError, match="a coil may be broken"):
        whitening(noise_covariance(noise))
    with pytest.raises(ValueError, match="at least 3 noise samples"):
        noise_covariance(noise[:, :2])
    with pytest.raises(ValueError, match="not zeros only"):
        noise_covariance(torch.zeros(3, 100, dtype=torch.complex64))
