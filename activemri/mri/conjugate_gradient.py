"""Linear systems with a Hermitian, positive matrix that is known by what it does."""

from collections.abc import Callable

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
