"""Linear systems with a Hermitian, positive matrix that is known by what it does."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def conjugate_gradient(
    apply: Callable[[Tensor], Tensor],
    right: Tensor,
    *,
    start: Tensor | None = None,
    max_steps: int = 10,
    tolerance: float = 1e-5,
) -> Tensor:
    """Solve A x = b for a batch, each item with steps of its own (Hestenes and Stiefel 1952).

    An item whose residual is small enough stays as it is, whatever others still need: the solution
    of a scan does not depend on which others it is solved with.

    Args:
        apply: A, Hermitian and positive definite, (batch, ...) to the same.
        right: b, real or complex, (batch, ...).
        start: x to begin with; None begins with zero.
        max_steps: applications of A at most, besides one for a start.
        tolerance: of the residual's norm, in units of that of b.

    Returns:
        x, like b.

    Raises:
        ValueError: for a negative number of steps or tolerance.
    """
    if max_steps < 0 or not tolerance >= 0:
        raise ValueError(
            "expected a number of steps and a tolerance of at least 0; got "
            f"{max_steps} and {tolerance}"
        )
    solution = torch.zeros_like(right) if start is None else start
    residual = right if start is None else right - apply(start)
    direction = residual
    energy = _energy(residual)
    enough = tolerance**2 * _energy(right)
    for _ in range(max_steps):
        active = energy > enough
        if not bool(active.any()):
            break
        changed = apply(direction)
        curvature = _inner(direction, changed)
        step = torch.where(active & (curvature > 0), energy / curvature.clamp_min(_TINY), 0)
        solution = solution + _spread(step, right) * direction
        residual = residual - _spread(step, right) * changed
        before, energy = energy, torch.where(active, _energy(residual), energy)
        direction = residual + _spread(energy / before.clamp_min(_TINY), right) * direction
    return solution


def solve_shifted(
    apply: Callable[[Tensor], Tensor],
    right: Tensor,
    shift: Tensor,
    *,
    max_steps: int = 10,
    tolerance: float = 1e-5,
) -> Tensor:
    """Solve (A + shift) x = b, with gradients by a second solution instead of through the steps.

    With dx = (A + shift)^-1 (db - x dshift) and a Hermitian A, what a loss says about x says about
    b the solution g of (A + shift) g = dloss/dx, and about the shift minus the inner product of g
    and x (Aggarwal et al., MoDL, IEEE TMI 38:394, 2019). Memory does not grow with the steps.

    Args:
        apply: A, Hermitian and non-negative, (batch, ...) to the same; no gradients reach what is
            inside of it.
        right: b, (batch, ...).
        shift: a positive number, ().
        max_steps: applications of A at most, in both directions.
        tolerance: of the residual's norm, in units of that of b.

    Returns:
        x, like b.
    """
    solution: Tensor = _Solved.apply(  # type: ignore[no-untyped-call]
        right, shift, apply, max_steps, tolerance
    )
    return solution


class _Solved(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        right: Tensor,
        shift: Tensor,
        apply: Callable[[Tensor], Tensor],
        max_steps: int,
        tolerance: float,
    ) -> Tensor:
        def solve(right: Tensor) -> Tensor:
            return conjugate_gradient(
                lambda x: apply(x) + shift * x, right, max_steps=max_steps, tolerance=tolerance
            )

        ctx.solve = solve
        solution = solve(right)
        ctx.save_for_backward(solution)
        return solution

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (solution,) = ctx.saved_tensors
        of_right = ctx.solve(gradients[0])
        of_shift = -_inner(of_right, solution).sum()
        return of_right, of_shift, None, None, None


_TINY = 1e-30


def _energy(values: Tensor) -> Tensor:
    return _inner(values, values)


def _inner(first: Tensor, second: Tensor) -> Tensor:
    """Real part of the inner products, (batch,)."""
    if first.is_complex():
        first, second = torch.view_as_real(first), torch.view_as_real(second)
    return (first * second).flatten(1).sum(dim=1)


def _spread(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.ndim - 1))
