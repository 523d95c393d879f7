"""Centred, unitary transforms, held against plane waves and NumPy."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from activemri.mri import fourier

SIZES = [(8, 10), (9, 7), (8, 7), (1, 5)]
sizes = pytest.mark.parametrize("size", SIZES)


def random_images(size: tuple[int, int], *, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 3, *size, dtype=torch.complex64, generator=generator)


@sizes
def test_a_point_at_the_centre_becomes_a_constant(size: tuple[int, int]) -> None:
    image = torch.zeros(size, dtype=torch.complex64)
    image[size[0] // 2, size[1] // 2] = 1
    expected = torch.full(size, 1 / math.sqrt(size[0] * size[1]), dtype=torch.complex64)
    assert torch.allclose(fourier.fft2(image), expected, atol=1e-6)


@sizes
@pytest.mark.parametrize("shift", [(1, -2), (-3, 1)])
def test_a_shifted_point_becomes_a_plane_wave(
    size: tuple[int, int], shift: tuple[int, int]
) -> None:
    height, width = size
    image = torch.zeros(size, dtype=torch.complex64)
    image[(height // 2 + shift[0]) % height, (width // 2 + shift[1]) % width] = 1
    down = torch.arange(height, dtype=torch.float64) - height // 2
    right = torch.arange(width, dtype=torch.float64) - width // 2
    angle = -2 * math.pi * (shift[0] * down[:, None] / height + shift[1] * right / width)
    wave = torch.polar(torch.full_like(angle, 1 / math.sqrt(height * width)), angle)
    assert torch.allclose(fourier.fft2(image), wave.to(torch.complex64), atol=1e-6)


@sizes
def test_a_constant_image_is_one_sample_at_the_centre(size: tuple[int, int]) -> None:
    kspace = fourier.fft2(torch.ones(size, dtype=torch.complex64))
    peak = kspace[size[0] // 2, size[1] // 2].clone()
    kspace[size[0] // 2, size[1] // 2] = 0
    assert torch.allclose(peak, torch.tensor(math.sqrt(size[0] * size[1]) + 0j))
    assert kspace.abs().max() < 1e-5


@sizes
def test_the_transform_keeps_energies_and_inner_products(size: tuple[int, int]) -> None:
    x, y = random_images(size), random_images(size, seed=1)
    assert torch.allclose(
        torch.vdot(fourier.fft2(x).flatten(), fourier.fft2(y).flatten()),
        torch.vdot(x.flatten(), y.flatten()),
        atol=1e-4,
    )


@sizes
def test_the_inverse_undoes_the_transform(size: tuple[int, int]) -> None:
    x = random_images(size)
    assert torch.allclose(fourier.ifft2(fourier.fft2(x)), x, atol=1e-5)
    assert torch.allclose(fourier.fft2(fourier.ifft2(x)), x, atol=1e-5)


@sizes
def test_the_transform_is_numpys_with_the_origin_in_the_middle(size: tuple[int, int]) -> None:
    x = random_images(size)
    axes = (-2, -1)
    shifted = np.fft.ifftshift(x.numpy().astype(np.complex128), axes=axes)
    expected = np.fft.fftshift(np.fft.fft2(shifted, norm="ortho"), axes=axes)
    np.testing.assert_allclose(fourier.fft2(x).numpy(), expected, atol=1e-5)


@sizes
def test_one_axis_after_the_other_is_both_at_once(size: tuple[int, int]) -> None:
    x = random_images(size)
    assert torch.allclose(fourier.fft(fourier.fft(x, (-2,)), (-1,)), fourier.fft2(x), atol=1e-5)
    assert torch.allclose(fourier.ifft(fourier.ifft(x, (-1,)), (-2,)), fourier.ifft2(x), atol=1e-5)


def test_double_precision_stays_double() -> None:
    x = random_images((8, 10)).to(torch.complex128)
    assert fourier.fft2(x).dtype == torch.complex128
    assert (fourier.ifft2(fourier.fft2(x)) - x).abs().max() < 1e-14


def test_images_without_axes_to_transform_stay_as_they_are() -> None:
    x = random_images((8, 10))
    assert torch.equal(fourier.fft(x, ()), x)
