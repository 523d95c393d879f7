"""Centred, orthonormal Fourier transforms between image and k-space."""

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
    if not axes:
        return image
    shifted = torch.fft.ifftshift(image, dim=axes)
    return torch.fft.fftshift(torch.fft.fftn(shifted, dim=axes, norm="ortho"), dim=axes)


def ifft(kspace: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Inverse of :func:`fft` along the same axes."""
    if not axes:
        return kspace
    shifted = torch.fft.ifftshift(kspace, dim=axes)
    return torch.fft.fftshift(torch.fft.ifftn(shifted, dim=axes, norm="ortho"), dim=axes)
