"""Orthonormal wavelets of images, Daubechies' with four vanishing moments."""

import math
from functools import cache

import torch
from torch import Tensor

# Low-pass filter of eight taps (Daubechies, Comm. Pure Appl. Math. 41:909, 1988), of norm one.
_LOW = (
    0.2303778133088965, 0.7148465705529157, 0.6308807679298589, -0.0279837694168599,
    -0.1870348117190931, 0.0308413818355607, 0.0328830116668852, -0.0105974017850690,
)  # fmt: skip


def decompose(image: Tensor, levels: int) -> Tensor:
    """Wavelet coefficients on a torus: an orthonormal change of basis.

    The coarse part of a real image (..., height, width), or of the two that a complex one is, is
    taken apart again so many times, which 2 ** levels must divide both sides for. It lies in the
    top left corner.
    """
    for level in range(levels):
        image = _step(image, level)
    return image


def compose(coefficients: Tensor, levels: int) -> Tensor:
    """The image of some coefficients: inverse and adjoint of :func:`decompose`."""
    for level in reversed(range(levels)):
        coefficients = _step(coefficients, level, back=True)
    return coefficients


def most_levels(height: int, width: int) -> int:
    """Levels whose coarsest part is still wider than the filter; at least one."""
    return max(1, int(math.log2(max(2, min(height, width) // len(_LOW)))))


@cache
def _matrix(n: int) -> Tensor:
    """One step along n samples on a torus, float64 (n, n): coarse rows, then fine ones."""
    matrix = torch.zeros(n, n, dtype=torch.float64)
    for row in range(n // 2):
        for tap, value in enumerate(_LOW):
            matrix[row, (2 * row + tap) % n] += value
            # The mirror filter: reversed, with alternating signs.
            matrix[n // 2 + row, (2 * row + tap) % n] += (-1) ** tap * _LOW[-1 - tap]
    return matrix


def _step(values: Tensor, level: int, *, back: bool = False) -> Tensor:
    """Take the top left corner that is left at a level apart, or put it together again."""
    height, width = (size >> level for size in values.shape[-2:])
    down, right = _matrix(height).to(values), _matrix(width).to(values)
    down, right = (down.T, right) if back else (down, right.T)
    corner = values[..., :height, :width]
    # Products of each image alone: the library may round a stack of them differently.
    images = [down @ image @ right for image in corner.reshape(-1, height, width)]
    result = values.clone()
    result[..., :height, :width] = torch.stack(images).reshape(corner.shape)
    return result
