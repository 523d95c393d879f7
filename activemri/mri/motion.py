"""Rigid motion in the image plane, exact for band-limited images."""

import math

import torch
from torch import Tensor

from activemri.mri import fourier


def moved(kspace: Tensor, *, angle: float, shift: tuple[float, float]) -> Tensor:
    """k-space of an object that was rotated about the centre, then shifted.

    A shift by d multiplies k-space with the phase ramp exp(-2 pi i k d / n), k counted from the
    centre. The image is rotated by three shears,

        R(a) = X(-tan(a / 2)) Y(sin(a)) X(-tan(a / 2)),

    each of them a shift of rows (X) or columns (Y) in proportion to their distance from the
    centre, made by phase ramps as well (Eddy, Fitzgerald and Noll, Magn Reson Med 36:923-931,
    1996). No step interpolates, so energies are kept and motion can be undone. What leaves the
    field of view on one side comes back on the other.

    Args:
        kspace: complex (..., height, width); all coils move along with the object.
        angle: in radians, from the width's axis (right) towards the height's (down).
        shift: down and right, in pixels.
    """
    height, width = kspace.shape[-2:]
    image = fourier.ifft2(kspace)
    slope = -math.tan(angle / 2)
    for axis, steepness, n in (
        (-1, slope, height),
        (-2, math.sin(angle), width),
        (-1, slope, height),
    ):
        ramp = _ramp(image.shape[axis], steepness * (torch.arange(n) - n // 2), image)
        spectrum = fourier.fft(image, (axis,)) * (ramp if axis == -1 else ramp.T)
        image = fourier.ifft(spectrum, (axis,))
    down = _ramp(height, torch.tensor([shift[0]]), kspace)[0, :, None]
    right = _ramp(width, torch.tensor([shift[1]]), kspace)[0]
    return fourier.fft2(image) * down * right


def _ramp(n: int, distance: Tensor, like: Tensor) -> Tensor:
    """Phase ramps that shift n samples by some distances, (m,): complex (m, n)."""
    frequency = (torch.arange(n) - n // 2).double() / n
    angle = -2 * math.pi * distance.double()[:, None] * frequency
    return torch.polar(torch.ones_like(angle), angle).to(like.device, like.dtype)
