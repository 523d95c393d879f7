"""Centred, orthonormal Fourier transforms between image and k-space."""

from collections.abc import Callable

import torch
from torch import Tensor

IMAGE_AXES = (-2, -1)  # (height, width)


def fft2(image: Tensor) -> Tensor:
    """Image to k-space, both with their origin at index ``n // 2``.

    Args:
        image: complex, (..., height, width).

    Returns:
        k-space of the same shape; the transform is unitary, so energies are equal.
    """
    return fft(image, IMAGE_AXES)


def ifft2(kspace: Tensor) -> Tensor:
    """k-space to image; the inverse and the adjoint of :func:`fft2`."""
    return ifft(kspace, IMAGE_AXES)


def fft(image: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The same centred transform along chosen axes only; along none it changes nothing."""
    return _one_by_one(image, lambda one: _centred(torch.fft.fftn, one, axes))


def ifft(kspace: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Inverse of :func:`fft` along the same axes."""
    return _one_by_one(kspace, lambda one: _centred(torch.fft.ifftn, one, axes))


def _centred(transform: Callable[..., Tensor], values: Tensor, axes: tuple[int, ...]) -> Tensor:
    if not axes:
        return values
    shifted = torch.fft.ifftshift(values, dim=axes)
    result: Tensor = torch.fft.fftshift(transform(shifted, dim=axes, norm="ortho"), dim=axes)
    return result


def _one_by_one(batch: Tensor, transform: Callable[[Tensor], Tensor]) -> Tensor:
    """Transform the items of a batch, each alone on the CPU.

    The library may round a batch differently from its items, and then a scan would depend on
    which others it is acquired with. Taking them apart costs next to nothing.
    """
    if batch.device.type != "cpu" or batch.ndim < 3 or len(batch) < 2:
        return transform(batch)
    return torch.stack([transform(one) for one in batch])
