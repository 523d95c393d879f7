"""Compressed sensing with wavelets: sparse where anatomy is."""

import torch
from torch import Tensor

from activemri.mri.wavelets import compose, decompose, most_levels
from activemri.reconstruction.image_channels import from_channels, pad_to_multiple, to_channels
from activemri.reconstruction.proximal_gradient import descend, peak_of, require_settings
from activemri.reconstruction.reconstructor import (
    Measurement,
    Reconstruction,
    Reconstructor,
    solved_one_by_one,
)

_WIDEST_SHIFT = 16  # pixels, twice the filter: further ones look alike


class WaveletSensing(Reconstructor):
    """x = argmin 1/2 |A x - y|^2 + weight * peak * |W x|_1, by accelerated proximal gradients.

    Lustig et al., Sparse MRI, MRM 58:1182 (2007). W is the orthonormal Daubechies wavelet of
    :mod:`activemri.mri.wavelets`; `peak` is the largest magnitude of the zero-filled image, so that
    the result follows the signal's scale. Images are padded with zeros to sides that W can halve.

    Args:
        weight: of sparsity, in units of the peak.
        steps: iterations.
        shifts: move W by a random, but always the same, number of pixels each step, which keeps its
            blocks out of the image (Figueiredo and Nowak, IEEE TIP 12:906, 2003).
    """

    def __init__(self, weight: float = 2e-3, *, steps: int = 60, shifts: bool = True) -> None:
        super().__init__()
        require_settings(weight=weight, steps=steps)
        self.settings = {"weight": weight, "steps": steps, "shifts": shifts}
        self.weight, self.steps, self.shifts = weight, steps, shifts

    def forward(self, measurement: Measurement) -> Reconstruction:
        return Reconstruction(solved_one_by_one(measurement, self._solve))

    def _solve(self, measurement: Measurement) -> Tensor:
        threshold = self.weight * peak_of(measurement.zero_filled)
        moves = torch.Generator().manual_seed(0)

        def proximal(image: Tensor, length: Tensor) -> Tensor:
            move = torch.randint(_WIDEST_SHIFT, (2,), generator=moves).tolist()
            return _shrunk(image, length * threshold, move if self.shifts else [0, 0])

        return descend(measurement, proximal, steps=self.steps)


def _shrunk(image: Tensor, threshold: Tensor, move: list[int]) -> Tensor:
    """Every wavelet coefficient's magnitude made smaller by the threshold, down to zero."""
    levels = most_levels(*image.shape[-2:])
    padded, (rows, columns) = pad_to_multiple(to_channels(image), 2**levels)
    coefficients = decompose(padded.roll(move, (-2, -1)), levels)
    size = coefficients.square().sum(dim=1, keepdim=True).sqrt()
    tiny = torch.finfo(size.dtype).tiny
    coefficients *= (1 - threshold.unsqueeze(1) / size.clamp_min(tiny)).clamp_min(0)
    back = compose(coefficients, levels).roll([-step for step in move], (-2, -1))
    return from_channels(back[..., rows, columns])
