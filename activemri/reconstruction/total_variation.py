"""Compressed sensing with total variation: piecewise smooth images."""

import math

import torch
from torch import Tensor

from activemri.reconstruction.proximal_gradient import descend, peak_of, require_settings
from activemri.reconstruction.reconstructor import (
    Measurement,
    Reconstruction,
    Reconstructor,
    solved_one_by_one,
)

_DUAL_STEP = 1 / 8  # one over the squared norm of differences


class TotalVariation(Reconstructor):
    """x = argmin 1/2 |A x - y|^2 + weight * peak * sum |grad x|.

    Rudin, Osher and Fatemi's total variation, isotropic and of the complex image, for MRI as in
    Block et al., MRM 57:1086 (2007). Accelerated proximal gradients, whose inner problem is solved
    in its dual (Beck and Teboulle, IEEE TIP 18:2419, 2009), here by a few steps from where the last
    ones ended: steps of the dual cost a tenth of one A^H A, and with a small weight this is an
    order of magnitude nearer to the minimum than one primal and one dual step a turn (Chambolle and
    Pock; Condat). Differences end at the border. `peak` is the largest magnitude of the
    zero-filled image, so that the result follows the signal's scale.

    Args:
        weight: of the variation, in units of the peak.
        steps: iterations.
        dual_steps: in each of them.
    """

    def __init__(self, weight: float = 2e-3, *, steps: int = 60, dual_steps: int = 3) -> None:
        super().__init__()
        require_settings(weight=weight, steps=steps, dual_steps=dual_steps)
        self.settings = {"weight": weight, "steps": steps, "dual_steps": dual_steps}
        self.weight, self.steps, self.dual_steps = weight, steps, dual_steps

    def forward(self, measurement: Measurement) -> Reconstruction:
        return Reconstruction(solved_one_by_one(measurement, self._solve))

    def _solve(self, measurement: Measurement) -> Tensor:
        weight = (self.weight * peak_of(measurement.zero_filled)).unsqueeze(1)
        dual = torch.zeros_like(_differences(measurement.zero_filled))

        def proximal(image: Tensor, length: Tensor) -> Tensor:
            nonlocal dual
            largest = weight * length.unsqueeze(1)
            dual = _descend_dual(dual, image, largest, steps=self.dual_steps)
            return image - _divergence(dual)

        return descend(measurement, proximal, steps=self.steps)


def _descend_dual(dual: Tensor, image: Tensor, largest: Tensor, *, steps: int) -> Tensor:
    """Bring the dual of the denoising problem closer to its minimum, accelerated."""
    ahead, momentum = dual, 1.0
    for _ in range(steps):
        before = dual
        dual = _within(ahead + _DUAL_STEP * _differences(image - _divergence(ahead)), largest)
        last, momentum = momentum, (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        ahead = dual + (last - 1) / momentum * (dual - before)
    return dual


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


def _within(dual: Tensor, largest: Tensor) -> Tensor:
    """Vectors of every pixel, no longer than the largest."""
    # ten times as fast as the library's norm of complex vectors
    length = (dual.real.square() + dual.imag.square()).sum(dim=1, keepdim=True).sqrt()
    return dual * (largest / length.clamp_min(torch.finfo(length.dtype).tiny)).clamp(max=1)
