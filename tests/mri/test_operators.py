"""The operator of masks on the grid, and data consistency. The rest: test_transforms."""

import pytest
import torch
from torch import Tensor

from activemri.mri import fourier
from activemri.mri.operators import Operator

BATCH, COILS, HEIGHT, WIDTH = 2, 3, 8, 10
MASK_SHAPES = {
    "columns": (1, WIDTH),
    "rows": (HEIGHT, 1),
    "points": (HEIGHT, WIDTH),
    "everything": (1, 1),
}


def complex_normal(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.complex128, generator=generator)


@pytest.fixture(params=MASK_SHAPES)
def mask(request: pytest.FixtureRequest) -> Tensor:
    shape = MASK_SHAPES[request.param]
    generator = torch.Generator().manual_seed(5)
    mask = torch.rand(BATCH, *shape, generator=generator) < 0.5
    mask[:, shape[0] // 2, shape[1] // 2] = True
    return mask


@pytest.fixture(params=["unit map", "coils"])
def operator(request: pytest.FixtureRequest, mask: Tensor) -> Operator:
    if request.param == "unit map":
        return Operator.on_grid(mask, (HEIGHT, WIDTH))
    maps = complex_normal(BATCH, COILS, HEIGHT, WIDTH, seed=9)
    unit = maps / maps.abs().square().sum(dim=1, keepdim=True).sqrt()
    return Operator.on_grid(mask, (HEIGHT, WIDTH), unit)


def kspace_for(operator: Operator, *, seed: int = 2) -> Tensor:
    n_coils = 1 if operator.sensitivity is None else COILS
    return complex_normal(BATCH, n_coils, HEIGHT, WIDTH, seed=seed)


def adjoint(operator: Operator, kspace: Tensor) -> Tensor:
    return operator.adjoint(operator.transform.of_grid(kspace))


def test_a_mask_on_the_grid_is_that_of_readouts(operator: Operator, mask: Tensor) -> None:
    assert torch.equal(operator.grid_mask, mask)
    x = complex_normal(BATCH, HEIGHT, WIDTH, seed=1)
    seen = operator.transform.adjoint(operator.forward(x))
    maps = torch.ones(1) if operator.sensitivity is None else operator.sensitivity
    expected = fourier.fft2(maps * x.unsqueeze(1)) * mask.unsqueeze(1)
    assert torch.allclose(fourier.fft2(seen), expected)


def test_a_mask_is_laid_along_its_own_axis() -> None:
    """Acquired columns run down the image; a swap of axes would give rows."""
    mask = torch.zeros(1, 1, WIDTH, dtype=torch.bool)
    mask[..., 3] = True
    operator = Operator.on_grid(mask, (HEIGHT, WIDTH))
    measured = operator.forward(complex_normal(1, HEIGHT, WIDTH, seed=0))
    assert measured.shape == (1, WIDTH, 1, HEIGHT)
    assert (measured[0, 3] != 0).all()
    assert int((measured != 0).sum()) == HEIGHT


def test_with_one_coil_data_consistency_keeps_the_measured_samples(mask: Tensor) -> None:
    operator = Operator.on_grid(mask, (HEIGHT, WIDTH))
    kspace, guess = kspace_for(operator), complex_normal(BATCH, HEIGHT, WIDTH, seed=4)
    result = fourier.fft2(operator.data_consistency(guess, adjoint(operator, kspace)))
    expected = torch.where(mask, kspace[:, 0], fourier.fft2(guess))
    assert torch.allclose(result, expected)


def test_with_coils_data_consistency_replaces_samples_coil_by_coil(mask: Tensor) -> None:
    """S^H F^H [(1 - M) F S x + M y], written out."""
    maps = complex_normal(BATCH, COILS, HEIGHT, WIDTH, seed=9)
    operator = Operator.on_grid(mask, (HEIGHT, WIDTH), maps)
    kspace, guess = kspace_for(operator), complex_normal(BATCH, HEIGHT, WIDTH, seed=4)
    coils = fourier.fft2(maps * guess.unsqueeze(1))
    mixed = torch.where(mask.unsqueeze(1), kspace, coils)
    expected = (maps.conj() * fourier.ifft2(mixed)).sum(dim=1)
    result = operator.data_consistency(guess, adjoint(operator, kspace))
    assert torch.allclose(result, expected)


def test_the_truth_is_consistent_with_its_own_data(operator: Operator) -> None:
    truth = complex_normal(BATCH, HEIGHT, WIDTH, seed=3)
    zero_filled = operator.adjoint(operator.forward(truth))
    assert torch.allclose(operator.data_consistency(truth, zero_filled), truth)


def test_data_consistency_of_the_zero_filled_image_changes_nothing_for_one_coil(
    mask: Tensor,
) -> None:
    operator = Operator.on_grid(mask, (HEIGHT, WIDTH))
    zero_filled = adjoint(operator, kspace_for(operator))
    assert torch.allclose(operator.data_consistency(zero_filled, zero_filled), zero_filled)
