"""Solvers: exact in as many steps as unknowns, item by item."""

import pytest
import torch
from torch import Tensor

from activemri.mri.solvers import conjugate_gradient, largest_eigenvalue

BATCH, N = 3, 6


def system(dtype: torch.dtype = torch.complex128) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(BATCH, N, N, dtype=dtype, generator=generator)
    matrix = root @ root.mH + 0.5 * torch.eye(N, dtype=dtype)
    return matrix, torch.randn(BATCH, N, dtype=dtype, generator=generator)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_as_many_steps_as_unknowns_solve_the_system(dtype: torch.dtype) -> None:
    matrix, right = system(dtype)
    found = conjugate_gradient(
        lambda x: torch.einsum("bij,bj->bi", matrix, x), right, max_steps=N, tolerance=0
    )
    torch.testing.assert_close(found, torch.linalg.solve(matrix, right))


def test_a_start_at_the_solution_stays_there() -> None:
    matrix, right = system()
    solution = torch.linalg.solve(matrix, right)
    found = conjugate_gradient(
        lambda x: torch.einsum("bij,bj->bi", matrix, x), right, start=solution, max_steps=3
    )
    assert torch.equal(found, solution)


def test_the_residual_is_as_small_as_asked_for() -> None:
    matrix, right = system()
    calls = []

    def apply(x: Tensor) -> Tensor:
        calls.append(1)
        return torch.einsum("bij,bj->bi", matrix, x)

    found = conjugate_gradient(apply, right, max_steps=50, tolerance=1e-2)
    residual = torch.linalg.vector_norm(right - torch.einsum("bij,bj->bi", matrix, found), dim=1)
    assert (residual <= 1e-2 * torch.linalg.vector_norm(right, dim=1)).all()
    assert len(calls) < 2 * N


def test_an_item_does_not_depend_on_the_others() -> None:
    matrix, right = system()
    matrix[1] *= 1e3
    right[2] = 0

    def solve(rows: slice) -> Tensor:
        own = matrix[rows]
        return conjugate_gradient(
            lambda x: torch.stack([a @ b for a, b in zip(own, x, strict=True)]),
            right[rows],
            max_steps=4,
            tolerance=1e-3,
        )

    together = solve(slice(0, BATCH))
    for row in range(BATCH):
        torch.testing.assert_close(together[row], solve(slice(row, row + 1))[0])
    assert (together[2] == 0).all()


def test_the_norm_of_each_item_is_found() -> None:
    generator = torch.Generator().manual_seed(0)
    factors = torch.randn(3, 6, 4, dtype=torch.complex128, generator=generator)
    matrices = factors @ factors.mH
    start = torch.randn(3, 6, dtype=torch.complex128, generator=generator)

    def found(steps: int) -> torch.Tensor:
        return largest_eigenvalue(lambda x: (matrices @ x[..., None])[..., 0], start, steps=steps)

    expected = torch.linalg.eigvalsh(matrices)[:, -1]
    torch.testing.assert_close(found(6), expected)
    assert bool((found(3) <= expected * (1 + 1e-12)).all())
    torch.testing.assert_close(found(40), expected)


def test_the_norm_of_nothing_is_zero() -> None:
    assert largest_eigenvalue(lambda x: 0 * x, torch.ones(2, 3, 4)).tolist() == [0, 0]
