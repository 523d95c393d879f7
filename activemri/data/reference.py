"""The fully sampled magnitude that reconstructions are compared with."""

from torch import Tensor

from activemri.metrics.reference import center_crop
from activemri.mri import coils, fourier


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
        image = coils.combine(images, sensitivity).abs()
    elif kspace.shape[0] == 1:
        image = images[0].abs()
    else:
        image = coils.root_sum_of_squares(images)
    return image if target_shape is None else center_crop(image, target_shape).contiguous()
