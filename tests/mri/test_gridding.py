"""Fourier transform between images and samples anywhere in k-space."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from activemri.mri import fourier
from activemri.mri.gridding import NonUniformTransform, inversion

SHAPES = [(8, 10), (7, 9), (16, 5)]


def random_images(shape: tuple[int, int], n_coils: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n_coils, *shape, dtype=torch.complex64, generator=generator)


def random_positions(n: int = 50, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (n, 2))


def grid(shape: tuple[int, int]) -> NDArray[np.float64]:
    """Positions of centred Cartesian samples."""
    axes = [(np.arange(n) - n // 2) / n for n in shape]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)


def exact(images: Tensor, positions: NDArray[np.float64]) -> NDArray[np.complex128]:
    """The sum over all pixels, in double precision."""
    height, width = images.shape[1:]
    pixels = grid((height, width)) * (height, width)
    waves = np.exp(-2j * np.pi * positions @ pixels.T) / np.sqrt(height * width)
    result: NDArray[np.complex128] = images.flatten(1).numpy().astype(np.complex128) @ waves.T
    return result


def difference(values: Tensor, expected: Tensor) -> float:
    return float(torch.linalg.vector_norm(values - expected) / torch.linalg.vector_norm(expected))


@pytest.mark.parametrize("shape", SHAPES)
def test_samples_are_the_sums_over_all_pixels(shape: tuple[int, int]) -> None:
    images, positions = random_images(shape), random_positions()
    samples = NonUniformTransform(positions, shape).forward(images)
    assert samples.shape == (3, 50) and samples.dtype == torch.complex64
    assert difference(samples, torch.from_numpy(exact(images, positions))) < 1e-4


@pytest.mark.parametrize("shape", SHAPES)
def test_cartesian_samples_are_those_of_the_fourier_transform(shape: tuple[int, int]) -> None:
    images = random_images(shape)
    samples = NonUniformTransform(grid(shape), shape).forward(images)
    assert difference(samples.unflatten(1, shape), fourier.fft2(images)) < 1e-4


def test_the_spectrum_repeats() -> None:
    images, positions = random_images((8, 10)), random_positions()
    one, next_one = (
        NonUniformTransform(positions + shift, (8, 10)).forward(images)
        for shift in (0, np.array([1, -2]))
    )
    assert difference(one, next_one) < 1e-4


@pytest.mark.parametrize("shape", SHAPES)
def test_the_adjoint_is_the_adjoint(shape: tuple[int, int]) -> None:
    transform = NonUniformTransform(random_positions(), shape)
    images = random_images(shape)
    samples = random_images((5, 10), seed=1).flatten(1)
    left = torch.vdot(samples.flatten(), transform.forward(images).flatten())
    right = torch.vdot(transform.adjoint(samples).flatten(), images.flatten())
    torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_convolution_is_the_transform_its_weights_and_its_adjoint(
    shape: tuple[int, int],
) -> None:
    weights = torch.rand(50, generator=torch.Generator().manual_seed(0))
    solver = inversion(random_positions(), shape, weights=weights)
    images = random_images(shape)
    transform = solver.transform
    expected = transform.adjoint(transform.forward(images) * weights)
    assert difference(solver.gram(images), expected) < 1e-4


@pytest.mark.parametrize("scale", [1, 1e-12, 1e12])
def test_images_come_back_from_samples_of_every_size(scale: float) -> None:
    images = random_images((8, 10)) * scale
    positions = grid((8, 10)) + 0.01 * random_positions(80)
    samples = torch.from_numpy(exact(images, positions).astype(np.complex64))
    solver = inversion(positions, (8, 10), weights=torch.ones(80))
    assert difference(solver.solve(samples), images) < 5e-3


def test_images_are_zero_outside_their_support() -> None:
    support = torch.zeros(8, 10, dtype=torch.bool)
    support[2:7, 1:6] = True
    images = random_images((8, 10)) * support
    positions = random_positions(400)
    solver = inversion(positions, (8, 10), weights=torch.full((400,), 0.2), support=support)
    samples = torch.from_numpy(exact(images, positions).astype(np.complex64))
    found = solver.solve(samples)
    assert not found[:, ~support].any()
    assert difference(found, images) < 5e-3


@pytest.mark.parametrize("positions", [np.zeros(4), np.zeros((4, 3)), np.full((4, 2), np.nan)])
def test_unusable_positions_are_named(positions: NDArray[np.float64]) -> None:
    with pytest.raises(ValueError, match=r"finite positions of the shape \(sample, 2\)"):
        NonUniformTransform(positions, (8, 10))
