"""Centred, orthonormal Fourier transforms between image and k-space."""

from collections.abc import Callable

import torch
from torch import Tensor

IMAGE_AXES = (-2, -1)  # (height, width)


def fft2(image: Tensor) -> Tensor:
    """Image to k-space (..., height, width), both with their origin at ``n // 2``; unitary."""
    return fft(image, IMAGE_AXES)


def ifft2(kspace: Tensor) -> Tensor:
    """k-space to image; the inverse and the adjoint of :func:`fft2`."""
    return ifft(kspace, IMAGE_AXES)


def fft(image: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The same centred transform along chosen axes only; along none it changes nothing."""
    return _centred(torch.fft.fftn, image, axes)


def ifft(kspace: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Inverse of :func:`fft` along the same axes."""
    return _centred(torch.fft.ifftn, kspace, axes)


def weigh(image: Tensor, weights: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Multiply the k-space of an image, F^H W F: a convolution.

    Convolutions commute with the circular shifts that centred transforms consist of, so only the
    weights are shifted, which are much smaller. This is exact.

    Args:
        image: complex (batch, ...).
        weights: real or bool (batch or 1, ...) of the centred k-space, that broadcast.
        axes: those to transform; along the others weights are constant.
    """
    if not axes:
        return image * weights
    turned = torch.fft.ifftshift(weights, dim=axes)

    def one(image: Tensor, turned: Tensor) -> Tensor:
        result: Tensor = torch.fft.ifftn(torch.fft.fftn(image, dim=axes) * turned, dim=axes)
        return result

    if not _apart(image):
        return one(image, turned)
    items = zip(image, turned.expand(len(image), *turned.shape[1:]), strict=True)
    return torch.stack([one(*item) for item in items])


def _centred(transform: Callable[..., Tensor], batch: Tensor, axes: tuple[int, ...]) -> Tensor:
    def one(values: Tensor) -> Tensor:
        shifted = torch.fft.ifftshift(values, dim=axes)
        result: Tensor = torch.fft.fftshift(transform(shifted, dim=axes, norm="ortho"), dim=axes)
        return result

    if not axes:
        return batch
    return torch.stack([one(item) for item in batch]) if _apart(batch) else one(batch)


def _apart(batch: Tensor) -> bool:
    """True if the items of a batch are transformed each alone: on the CPU.

    The library may round a batch differently from its items, and then a scan would depend on
    which others it is acquired with. Taking them apart costs next to nothing.
    """
    return batch.device.type == "cpu" and batch.ndim > 2 and len(batch) > 1
