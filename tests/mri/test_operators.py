"""The measurement operator: adjoint, gram and data consistency, for masks of every shape."""

import pytest
import torch
from torch import Tensor

from activemri.mri import fourier
from activemri.mri.operators import CartesianOperator

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
def operator(request: pytest.FixtureRequest, mask: Tensor) -> CartesianOperator:
    if request.param == "unit map":
        return CartesianOperator(mask)
    maps = complex_normal(BATCH, COILS, HEIGHT, WIDTH, seed=9)
    return CartesianOperator(mask, maps / maps.abs().square().sum(dim=1, keepdim=True).sqrt())


def kspace_for(operator: CartesianOperator, *, seed: int = 2) -> Tensor:
    n_coils = 1 if operator.sensitivity is None else COILS
    return complex_normal(BATCH, n_coils, HEIGHT, WIDTH, seed=seed)


def inner(a: Tensor, b: Tensor) -> Tensor:
    return torch.vdot(a.flatten(), b.flatten())


def test_the_adjoint_is_the_adjoint(operator: CartesianOperator) -> None:
    x, y = complex_normal(BATCH, HEIGHT, WIDTH, seed=1), kspace_for(operator)
    assert torch.allclose(inner(operator.forward(x), y), inner(x, operator.adjoint(y)))


def test_the_gram_is_the_adjoint_of_the_forward(operator: CartesianOperator) -> None:
    x = complex_normal(BATCH, HEIGHT, WIDTH, seed=1)
    assert torch.allclose(operator.gram(x), operator.adjoint(operator.forward(x)))


def test_the_operator_is_linear(operator: CartesianOperator) -> None:
    x, y = complex_normal(2, BATCH, HEIGHT, WIDTH, seed=1)
    assert torch.allclose(
        operator.forward(2j * x - 3 * y), 2j * operator.forward(x) - 3 * operator.forward(y)
    )


def test_nothing_is_measured_outside_of_the_mask(operator: CartesianOperator) -> None:
    measured = operator.forward(complex_normal(BATCH, HEIGHT, WIDTH, seed=1))
    outside = ~operator.mask.unsqueeze(1).expand(measured.shape)
    assert (measured[outside] == 0).all()


def test_samples_outside_of_the_mask_do_not_enter_the_adjoint(operator: CartesianOperator) -> None:
    kspace = kspace_for(operator)
    other = torch.where(operator.mask.unsqueeze(1), kspace, -7 * kspace)
    assert torch.equal(operator.adjoint(kspace), operator.adjoint(other))


def test_a_mask_is_laid_along_its_own_axis() -> None:
    """Acquired columns run down the image; a swap of axes would give rows."""
    mask = torch.zeros(1, 1, WIDTH, dtype=torch.bool)
    mask[..., 3] = True
    measured = CartesianOperator(mask).forward(complex_normal(1, HEIGHT, WIDTH, seed=0))[0, 0]
    assert (measured[:, 3] != 0).all()
    assert int((measured != 0).sum()) == HEIGHT


def test_with_one_coil_data_consistency_keeps_the_measured_samples(mask: Tensor) -> None:
    operator = CartesianOperator(mask)
    kspace, guess = kspace_for(operator), complex_normal(BATCH, HEIGHT, WIDTH, seed=4)
    result = fourier.fft2(operator.data_consistency(guess, operator.adjoint(kspace)))
    expected = torch.where(mask, kspace[:, 0], fourier.fft2(guess))
    assert torch.allclose(result, expected)


def test_with_coils_data_consistency_replaces_samples_coil_by_coil(mask: Tensor) -> None:
    """S^H F^H [(1 - M) F S x + M y], written out."""
    maps = complex_normal(BATCH, COILS, HEIGHT, WIDTH, seed=9)
    operator = CartesianOperator(mask, maps)
    kspace, guess = kspace_for(operator), complex_normal(BATCH, HEIGHT, WIDTH, seed=4)
    coils = fourier.fft2(maps * guess.unsqueeze(1))
    mixed = torch.where(mask.unsqueeze(1), kspace, coils)
    expected = (maps.conj() * fourier.ifft2(mixed)).sum(dim=1)
    result = operator.data_consistency(guess, operator.adjoint(kspace))
    assert torch.allclose(result, expected)


def test_the_truth_is_consistent_with_its_own_data(operator: CartesianOperator) -> None:
    truth = complex_normal(BATCH, HEIGHT, WIDTH, seed=3)
    zero_filled = operator.adjoint(operator.forward(truth))
    assert torch.allclose(operator.data_consistency(truth, zero_filled), truth)


def test_data_consistency_of_the_zero_filled_image_changes_nothing_for_one_coil(
    mask: Tensor,
) -> None:
    operator = CartesianOperator(mask)
    zero_filled = operator.adjoint(kspace_for(operator))
    assert torch.allclose(operator.data_consistency(zero_filled, zero_filled), zero_filled)
