"""Scans for reconstructions that solve a problem: an object, coils, lines."""

import numpy as np
import torch
from torch import Tensor

from activemri.mri import fourier
from activemri.mri.coils import biot_savart_sensitivity
from activemri.mri.operators import Operator
from activemri.reconstruction.reconstructor import Measurement


def blocky_object(height: int, width: int) -> Tensor:
    """Two rectangles and a disc with a slow phase, complex (height, width)."""
    y = (torch.arange(height) - height // 2)[:, None] / height
    x = (torch.arange(width) - width // 2)[None] / width
    image = 0.6 * ((x.abs() < 0.35) & (y.abs() < 0.4)).float()
    image = image + 0.3 * ((x - 0.1).square() + (y + 0.1).square() < 0.02).float()
    image = image - 0.2 * (((x + 0.15).abs() < 0.08) & ((y - 0.1).abs() < 0.15)).float()
    return torch.polar(image, 0.8 * x + 0.5 * y)


def on_grid(kspace: Tensor, mask: Tensor, maps: Tensor | None = None) -> Measurement:
    """A measurement of k-space (batch, coil, height, width) where a mask on its grid says."""
    shape = (kspace.shape[-2], kspace.shape[-1])
    return Measurement.of_grid(kspace, Operator.on_grid(mask, shape, maps))


def undersampled(
    height: int, width: int, *, n_coils: int = 1, every: int = 3, noise: float = 0.0, batch: int = 2
) -> tuple[Measurement, Tensor]:
    """A measurement of every so many lines and the centre, and the image behind it.

    Returns:
        The measurement of some scans that differ in size of signal and lines, and their images,
        complex (batch, height, width).
    """
    generator = torch.Generator().manual_seed(0)
    image = torch.stack([(row + 1) * blocky_object(height, width) for row in range(batch)])
    maps = None
    if n_coils > 1:
        draws = np.random.default_rng(0)
        maps = biot_savart_sensitivity(n_coils, height, width, generator=draws)
        maps = maps.expand(batch, n_coils, height, width)
    spread = image.unsqueeze(1) if maps is None else maps * image.unsqueeze(1)
    kspace = fourier.fft2(spread)
    kspace = kspace + noise * torch.randn(kspace.shape, dtype=kspace.dtype, generator=generator)
    mask = torch.zeros(batch, 1, width, dtype=torch.bool)
    for row in range(batch):
        mask[row, :, row % every :: every] = True
    mask[..., width // 2 - 3 : width // 2 + 3] = True
    return on_grid(kspace, mask, maps), image


def nmse(image: Tensor, truth: Tensor) -> float:
    """Of complex images, mean over the batch."""
    error = (image - truth).abs().square().sum(dim=(-2, -1))
    return float((error / truth.abs().square().sum(dim=(-2, -1))).mean())
