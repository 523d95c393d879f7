"""The fully sampled magnitude that reconstructions are compared with."""

import torch
from torch import Tensor

from activemri.mri import fourier


def magnitude_reference(
    kspace: Tensor,
    target_shape: tuple[int, int] | None = None,
    *,
    sensitivity: Tensor | None = None,
) -> Tensor:
    """Magnitude image of fully sampled k-space.

    Args:
        kspace: complex, (coil, height, width).
        target_shape: crop the image around its centre to this (height, width).
        sensitivity: coil maps like `kspace`; given, the coils are combined with them,
            otherwise by the root of the sum of squares.

    Returns:
        float32, (target height, target width).
    """
    images = fourier.ifft2(kspace)
    if sensitivity is not None:
        image = torch.sum(sensitivity.conj() * images, dim=0).abs()
    elif kspace.shape[0] == 1:
        image = images[0].abs()
    else:
        image = torch.linalg.vector_norm(images, dim=0)
    return image if target_shape is None else center_crop(image, target_shape).contiguous()


def center_crop(image: Tensor, shape: tuple[int, int]) -> Tensor:
    """The central (height, width) of (..., height, width), as a view; n // 2 stays at n // 2."""
    top, left = (old // 2 - new // 2 for old, new in zip(image.shape[-2:], shape, strict=True))
    return image[..., top : top + shape[0], left : left + shape[1]]
