"""Largest eigenvalue of a Hermitian matrix that is known by what it does."""

from collections.abc import Callable

import torch
from torch import Tensor

_TINY = 1e-30


def largest_eigenvalue(
    apply: Callable[[Tensor], Tensor], start: Tensor, *, steps: int = 10
) -> Tensor:
    """Norm of A by power iteration (Golub and Van Loan, Matrix Computations, 7.3), each item alone.

    It approaches from below. A convolution is bounded from above by the largest value of its
    transfer function, :meth:`activemri.mri.nufft.NUFFT.gram_kernel`.

    Args:
        apply: A, Hermitian and non-negative, (batch, ...) to the same.
        start: to begin with, (batch, ...); with a part of every eigenvector, such as noise or a
            single pixel.
        steps: applications of A.

    Returns:
        real (batch,); 0 for a start that A takes to 0.

    Raises:
        ValueError: for no steps.
    """
    if steps < 1:
        raise ValueError(f"expected at least one step; got {steps}")
    value = start.new_zeros(len(start)).abs()
    vector = start
    for _ in range(steps):
        vector = vector / _spread(_norm(vector), vector)
        vector = apply(vector)
        value = _norm(vector)
    return torch.where(value > _TINY, value, 0)


def _norm(values: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(values.flatten(1), dim=1)
    return norms.clamp_min(_TINY)


def _spread(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.ndim - 1))
