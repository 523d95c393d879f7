"""Accelerated proximal gradients: the descent that sparse reconstructions have in common."""

import math
from collections.abc import Callable

from torch import Tensor

from activemri.reconstruction.reconstructor import Measurement


def descend(
    measurement: Measurement, proximal: Callable[[Tensor, Tensor], Tensor], *, steps: int
) -> Tensor:
    """Minimise 1/2 |A x - y|^2 + R(x) from the zero-filled image.

    FISTA (Beck and Teboulle, SIAM J. Imaging Sci. 2:183, 2009), on A^H W A with the density weights
    W where samples are not on a grid. Steps are the inverse of its norm: one on a Cartesian grid,
    where masks select, the transform is unitary and coil maps have unit norm.

    Args:
        measurement: y and A.
        proximal: argmin length R(x) + 1/2 |x - v|^2 for images v, complex (batch, height, width),
            and lengths (batch, 1, 1).
        steps: iterations, one A^H A each.

    Returns:
        Images, complex (batch, height, width).
    """
    image = ahead = measurement.zero_filled
    length = (1 / measurement.operator.norm)[:, None, None]
    momentum = 1.0
    for _ in range(steps):
        before = image
        slope = measurement.operator.gram(ahead) - measurement.zero_filled
        image = proximal(ahead - length * slope, length)
        last, momentum = momentum, (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        ahead = image + (last - 1) / momentum * (image - before)
    return image


def peak_of(image: Tensor) -> Tensor:
    """Largest magnitude of each image, (batch, 1, 1)."""
    return image.abs().amax(dim=(-2, -1), keepdim=True)


def require_settings(*, weight: float, **counts: int) -> None:
    """Refuse what makes no sense.

    Raises:
        ValueError: a negative weight, or a count below one.
    """
    if not weight >= 0 or any(count < 1 for count in counts.values()):
        got = ", ".join(f"{name}={value}" for name, value in {"weight": weight, **counts}.items())
        raise ValueError(
            f"expected a weight of at least 0, and {' and '.join(counts)} of at least 1; got {got}"
        )
