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

    Returns:
        k-space of the same shape.
    """
    image = _shear(fourier.ifft2(kspace), -math.tan(angle / 2), axis=-1)
    image = _shear(image, math.sin(angle), axis=-2)
    turned = fourier.fft2(_shear(image, -math.tan(angle / 2), axis=-1))
    height, width = kspace.shape[-2:]
    down = _ramp(height, torch.tensor([shift[0]]), kspace)[0, :, None]
    right = _ramp(width, torch.tensor([shift[1]]), kspace)[0]
    return turned * down * right


def _shear(image: Tensor, slope: float, *, axis: int) -> Tensor:
    """Shift along an axis by `slope` times the distance from the centre along the other one."""
    n = image.shape[-1 if axis == -2 else -2]
    ramp = _ramp(image.shape[axis], slope * (torch.arange(n) - n // 2), image)
    ramp = ramp if axis == -1 else ramp.T
    return fourier.ifft(fourier.fft(image, (axis,)) * ramp, (axis,))


def _ramp(n: int, distance: Tensor, like: Tensor) -> Tensor:
    """Phase ramps that shift n samples by some distances, (m,): complex (m, n)."""
    frequency = (torch.arange(n) - n // 2).double() / n
    angle = -2 * math.pi * distance.double()[:, None] * frequency
    return torch.polar(torch.ones_like(angle), angle).to(like.device, like.dtype)
