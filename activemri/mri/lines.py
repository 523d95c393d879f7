"""What one line of k-space adds to an image: a product of two vectors.

The inverse transform of a single column is the column's own one-dimensional transform along the
height times a plane wave along the width, so acquiring a line changes the zero-filled image by a
matrix of rank one. With the transforms along the readout made once per scan, a step costs one
multiplication and addition a pixel, and no Fourier transform at all.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

from activemri.mri import fourier
from activemri.mri.geometry import CartesianGeometry


def readouts(kspace: Tensor, geometry: CartesianGeometry) -> Tensor:
    """Every line of the scans, transformed along its readout.

    Args:
        kspace: fully sampled, complex (batch, coil, height, width).
        geometry: whose lines are meant.

    Returns:
        complex (batch, line of the scan, coil, samples of a readout); one sample for points.
    """
    along_height, along_width = geometry.selected
    if along_height and along_width:
        return kspace.flatten(2).movedim(2, 1).unsqueeze(-1).contiguous()
    axis = -1 if along_height else -2
    transformed = fourier.ifft(kspace, (axis,))
    order = (0, 2, 1, 3) if along_height else (0, 3, 1, 2)
    return transformed.permute(order).contiguous()


def lines_of(kspace: Tensor, geometry: CartesianGeometry) -> Tensor:
    """k-space laid out by line: (batch, coil, height, width) to (batch, line, coil, samples).

    As :func:`readouts`, but not transformed; a view where that is possible.
    """
    along_height, along_width = geometry.selected
    if along_height and along_width:
        return kspace.flatten(2).movedim(2, 1).unsqueeze(-1)
    return kspace.permute((0, 2, 1, 3) if along_height else (0, 3, 1, 2))


def kspace_of(samples: Tensor, geometry: CartesianGeometry, shape: tuple[int, int]) -> Tensor:
    """Inverse of :func:`lines_of`, for scans of a given height and width."""
    along_height, along_width = geometry.selected
    if along_height and along_width:
        return samples.squeeze(-1).movedim(1, 2).reshape(len(samples), -1, *shape)
    return samples.permute((0, 2, 1, 3) if along_height else (0, 2, 3, 1))


def read_out(samples: Tensor, geometry: CartesianGeometry) -> Tensor:
    """Lines of k-space, transformed along their readout: (n, ..., samples), of the same shape."""
    if all(geometry.selected) or not samples.numel():
        return samples
    return fourier.ifft(samples, (-1,))


def factors(
    readout: Tensor, line: Tensor, geometry: CartesianGeometry, shape: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """The two factors of what lines add to the coil images: ``left @ right``.

    Args:
        readout: of those lines, complex (batch, k, coil, samples): rows of :func:`readouts`.
        line: which lines of the scan they are, int64 (batch, k).
        geometry: whose lines are meant.
        shape: height and width of the scan.

    Returns:
        left: complex (batch, coil, height, k).
        right: complex (batch, coil, k, width).
    """
    height, width = shape
    along_height, along_width = geometry.selected
    n_coils = readout.shape[2]
    samples = readout.movedim(1, 2)  # (batch, coil, k, samples)
    if not along_height:
        right = _wave(line, width, readout).unsqueeze(1)
        return samples.transpose(2, 3), right.expand(-1, n_coils, -1, -1)
    row = line // width if along_width else line
    left = _wave(row, height, readout).transpose(1, 2).unsqueeze(1).expand(-1, n_coils, -1, -1)
    if not along_width:
        return left, samples
    return left, samples * _wave(line % width, width, readout).unsqueeze(1)


def _wave(frequency: Tensor, n: int, like: Tensor) -> Tensor:
    """Plane waves of the centred orthonormal inverse transform: (...,) -> (..., n)."""
    return _waves(n, like.device, like.dtype)[frequency]


@lru_cache(maxsize=16)
def _waves(n: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """All n of them, one a row."""
    place = torch.arange(n) - n // 2
    # The product is taken modulo n in whole numbers: no rounding of large phases.
    angle = ((place[:, None] * place) % n).double() * (2 * math.pi / n)
    return torch.polar(torch.full_like(angle, n**-0.5), angle).to(device, dtype)
