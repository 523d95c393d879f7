"""Systems and eigenvalues of a Hermitian, positive matrix that is known by what it does."""

from collections.abc import Callable

import torch
from torch import Tensor

_TINY = 1e-30  # nothing is divided by less


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
    of a scan does not depend on which others it is solved with. Gradients go through the steps, so
    that they are those of x as it is, however few the steps are.

    Args:
        apply: A, Hermitian and positive definite, (batch, ...) to the same.
        right: b, real or complex, (batch, ...).
        start: x to begin with; None begins with zero.
        max_steps: applications of A at most, besides one for a start.
        tolerance: of the residual's norm, in units of that of b.

    Returns:
        x, like b.
    """
    solution = torch.zeros_like(right) if start is None else start
    residual = right if start is None else right - apply(start)
    direction = residual
    energy = _inner(residual, residual)
    enough = tolerance**2 * _inner(right, right)
    for _ in range(max_steps):
        active = energy > enough
        if not bool(active.any()):
            break
        changed = apply(direction)
        curvature = _inner(direction, changed)
        step = torch.where(active & (curvature > 0), energy / curvature.clamp_min(_TINY), 0)
        solution = solution + _spread(step, right) * direction
        residual = residual - _spread(step, right) * changed
        before, energy = energy, torch.where(active, _inner(residual, residual), energy)
        direction = residual + _spread(energy / before.clamp_min(_TINY), right) * direction
    return solution


def largest_eigenvalue(
    apply: Callable[[Tensor], Tensor], start: Tensor, *, steps: int = 10
) -> Tensor:
    """The largest eigenvalue of A for each item of a batch, by Lanczos iteration.

    It is approached from below, and bounds the steps of gradient descents. On density-weighted
    spokes ten steps come within 6 %, where ten steps of the power method may be 18 % away. Golub
    and Van Loan, Matrix Computations (2013), 10.1.

    Args:
        apply: A, Hermitian and without negative eigenvalues, for every item alone: (batch, ...) to
            the same shape.
        start: real or complex (batch, ...), e.g. random.
        steps: applications of A.

    Returns:
        float64 (batch,); 0 for a start that A takes to 0.
    """

    def unit(vectors: Tensor) -> Tensor:
        length: Tensor = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
        return vectors / length.clamp_min(_TINY)

    basis = [unit(start.flatten(1))]
    matrix = torch.zeros(len(start), steps, steps, dtype=torch.float64, device=start.device)
    for k in range(steps):
        vector = apply(basis[k].reshape(start.shape)).flatten(1)
        matrix[:, k, k] = (basis[k].conj() * vector).sum(dim=1).real
        for known in basis:  # all of them: rounding would bring them back
            vector = vector - (known.conj() * vector).sum(dim=1, keepdim=True) * known
        if k + 1 < steps:
            matrix[:, k, k + 1] = matrix[:, k + 1, k] = torch.linalg.vector_norm(vector, dim=1)
        basis.append(unit(vector))
    largest: Tensor = torch.linalg.eigvalsh(matrix)[:, -1]
    return largest.clamp(min=0)


def _inner(first: Tensor, second: Tensor) -> Tensor:
    """Real part of the inner products, (batch,)."""
    if first.is_complex():
        first, second = torch.view_as_real(first), torch.view_as_real(second)
    return (first * second).flatten(1).sum(dim=1)


def _spread(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.ndim - 1))
