"""Compressed sensing: accelerated proximal gradients with wavelets or total variation."""

import math
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from activemri.mri.wavelets import compose, decompose, most_levels
from activemri.reconstruction.image_channels import from_channels, pad_to_multiple, to_channels
from activemri.reconstruction.reconstructor import Measurement, Reconstruction, Reconstructor

_WIDEST_SHIFT = 16  # pixels, twice the wavelet's filter: further ones look alike
_GRID = {"weight": (1e-4, 3e-4, 6e-4, 1e-3, 4e-3, 8e-3, 1.6e-2), "steps": (30, 120)}
_DUAL_STEP = 1 / 8  # one over the squared norm of differences


class WaveletSensing(Reconstructor):
    """x = argmin 1/2 |A x - y|^2 + weight * peak * |W x|_1.

    Lustig et al., Sparse MRI, MRM 58:1182 (2007). W is the orthonormal Daubechies wavelet of
    :mod:`activemri.mri.wavelets`; `peak` is the largest magnitude of the zero-filled image, so that
    the result follows the signal's scale. Images are padded with zeros to sides that W can halve.
    With `shifts` W moves by a random, but always the same, number of pixels each step, which keeps
    its blocks out of the image (Figueiredo and Nowak, IEEE TIP 12:906, 2003).
    """

    is_differentiable = True
    grid: ClassVar = _GRID

    def __init__(self, weight: float = 2e-3, *, steps: int = 60, shifts: bool = True) -> None:
        super().__init__()
        self.settings = {"weight": weight, "steps": steps, "shifts": shifts}
        _check(weight, steps=steps)
        self.weight, self.steps, self.shifts = weight, steps, shifts

    def solve(self, measurement: Measurement) -> Reconstruction:
        threshold = self.weight * peak_of(measurement.zero_filled)
        moves = torch.Generator().manual_seed(0)

        def proximal(image: Tensor, length: Tensor) -> Tensor:
            """Make every coefficient's magnitude smaller by the threshold, down to zero."""
            move = torch.randint(_WIDEST_SHIFT, (2,), generator=moves).tolist()
            move = move if self.shifts else [0, 0]
            levels = most_levels(*image.shape[-2:])
            padded, (rows, columns) = pad_to_multiple(to_channels(image), 2**levels)
            coefficients = decompose(padded.roll(move, (-2, -1)), levels)
            less = shrinkage(coefficients.square(), (length * threshold).unsqueeze(1))
            back = compose(coefficients * (1 - less), levels)
            return from_channels(back.roll([-step for step in move], (-2, -1))[..., rows, columns])

        return Reconstruction(descend(measurement, proximal, steps=self.steps))


class TotalVariation(Reconstructor):
    """x = argmin 1/2 |A x - y|^2 + weight * peak * sum |grad x|.

    Rudin, Osher and Fatemi's total variation, isotropic and of the complex image, for MRI as in
    Block et al., MRM 57:1086 (2007). The inner problem is solved in its dual (Beck and Teboulle,
    IEEE TIP 18:2419, 2009), here by a few steps from where the last ones ended, which come much
    nearer to the minimum than one primal and one dual step a turn (Chambolle and Pock; Condat).
    Differences end at the border. `peak` is as in :class:`WaveletSensing`.
    """

    is_differentiable = True
    grid: ClassVar = _GRID

    def __init__(self, weight: float = 2e-3, *, steps: int = 60, dual_steps: int = 3) -> None:
        super().__init__()
        self.settings = {"weight": weight, "steps": steps, "dual_steps": dual_steps}
        _check(weight, steps=steps, dual_steps=dual_steps)
        self.weight, self.steps, self.dual_steps = weight, steps, dual_steps

    def solve(self, measurement: Measurement) -> Reconstruction:
        weight = (self.weight * peak_of(measurement.zero_filled)).unsqueeze(1)
        dual = torch.zeros_like(_differences(measurement.zero_filled))

        def proximal(image: Tensor, length: Tensor) -> Tensor:
            """Bring the dual of the denoising problem closer to its minimum, accelerated."""
            nonlocal dual
            largest = weight * length.unsqueeze(1)
            ahead, momentum = dual, 1.0
            for _ in range(self.dual_steps):
                before = dual
                moved = ahead + _DUAL_STEP * _differences(image - _divergence(ahead))
                # ten times as fast as the library's norm of complex vectors
                dual = moved * shrinkage(moved.real.square() + moved.imag.square(), largest)
                last, momentum = momentum, _next(momentum)
                ahead = dual + (last - 1) / momentum * (dual - before)
            return image - _divergence(dual)

        return Reconstruction(descend(measurement, proximal, steps=self.steps))


def descend(
    measurement: Measurement, proximal: Callable[[Tensor, Tensor], Tensor], *, steps: int
) -> Tensor:
    """Minimise 1/2 |A x - y|^2 + R(x) from the zero-filled image: complex (batch, height, width).

    FISTA (Beck and Teboulle, SIAM J. Imaging Sci. 2:183, 2009), on A^H W A with the density weights
    W where samples are not on a grid. Steps are the inverse of its norm: one on a Cartesian grid,
    where masks select, the transform is unitary and coil maps have unit norm.

    `proximal` gives argmin length R(x) + 1/2 |x - v|^2 for images v and lengths (batch, 1, 1).
    """
    image = ahead = measurement.zero_filled
    length = (1 / measurement.operator.norm)[:, None, None]
    momentum = 1.0
    for _ in range(steps):
        before = image
        slope = measurement.operator.gram(ahead) - measurement.zero_filled
        image = proximal(ahead - length * slope, length)
        last, momentum = momentum, _next(momentum)
        ahead = image + (last - 1) / momentum * (image - before)
    return image


def peak_of(image: Tensor) -> Tensor:
    """Largest magnitude of each image, (batch, 1, 1)."""
    return image.abs().amax(dim=(-2, -1), keepdim=True)


def shrinkage(squares: Tensor, threshold: Tensor) -> Tensor:
    """min(1, threshold / size) of vectors along axis 1, by the squares of their components.

    Where a vector is zero its gradient is zero, not the root's infinite one.
    """
    floor = threshold.square().clamp_min(torch.finfo(threshold.dtype).tiny)
    return threshold / torch.maximum(squares.sum(dim=1, keepdim=True), floor).sqrt()


def _next(momentum: float) -> float:
    return (1 + math.sqrt(1 + 4 * momentum**2)) / 2


def _differences(image: Tensor) -> Tensor:
    """To the next pixel down and right, zero at the border: (batch, 2, height, width)."""
    result = image.new_zeros(len(image), 2, *image.shape[1:])
    result[:, 0, :-1] = image[..., 1:, :] - image[..., :-1, :]
    result[:, 1, :, :-1] = image[..., 1:] - image[..., :-1]
    return result


def _divergence(dual: Tensor) -> Tensor:
    """The adjoint of :func:`_differences`."""
    down, right = dual.unbind(1)
    result = torch.zeros_like(down)
    result[..., :-1, :] -= down[..., :-1, :]
    result[..., 1:, :] += down[..., :-1, :]
    result[..., :-1] -= right[..., :-1]
    result[..., 1:] += right[..., :-1]
    return result


def _check(weight: float, **counts: int) -> None:
    if not weight >= 0 or min(counts.values()) < 1:
        got = ", ".join(f"{name}={value}" for name, value in counts.items())
        raise ValueError(
            f"expected a weight of at least 0, and {' and '.join(counts)} of at least 1; got "
            f"weight={weight}, {got}"
        )
