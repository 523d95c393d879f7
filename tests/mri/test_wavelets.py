"""Wavelets: an orthonormal change of basis in which smooth images are few numbers."""

import numpy as np
import pytest
import torch
from torch import Tensor

from activemri.mri.wavelets import compose, decompose, most_levels


def noise(height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, height, width, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize(("height", "width", "levels"), [(8, 12, 1), (16, 8, 2), (48, 32, 3)])
def test_images_come_back_and_keep_their_energy(height: int, width: int, levels: int) -> None:
    image = noise(height, width)
    coefficients = decompose(image, levels)
    assert coefficients.shape == image.shape
    torch.testing.assert_close(compose(coefficients, levels), image)
    torch.testing.assert_close(coefficients.square().sum(), image.square().sum())


def test_composing_is_the_adjoint_of_decomposing() -> None:
    image, other = noise(16, 24), noise(16, 24).flip(-1)
    left = torch.sum(decompose(image, 2) * other)
    torch.testing.assert_close(left, torch.sum(image * compose(other, 2)))


def test_a_step_is_that_of_a_known_library() -> None:
    pywt = pytest.importorskip("pywt")
    image = noise(16, 24)[0, 0]
    coarse, (low_high, high_low, high) = pywt.dwt2(image.numpy(), "db4", mode="periodization")
    # The library's torus begins three pixels later.
    ours = decompose(image.roll((3, 3), (0, 1)), 1).numpy()
    theirs = np.block([[coarse, high_low], [low_high, high]])
    np.testing.assert_allclose(ours, theirs, atol=1e-10)


def test_polynomials_up_to_the_third_degree_have_no_details() -> None:
    ramp = torch.arange(32, dtype=torch.float64) / 32
    image = (1 + ramp - ramp**2 + 2 * ramp**3).expand(16, 32)
    fine = decompose(image, 1)[:, 16:]
    # but where the torus meets its other end
    assert fine[:8, :-4].abs().max() < 1e-9 < fine[:8, -4:].abs().max()


@pytest.mark.parametrize(("size", "levels"), [((8, 10), 1), ((128, 128), 4), ((640, 368), 5)])
def test_the_coarsest_part_stays_wider_than_the_filter(size: tuple[int, int], levels: int) -> None:
    assert most_levels(*size) == levels
