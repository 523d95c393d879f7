"""A scan step written down the obvious way, one image at a time: the yardstick for speed.

It does what the field's code does at every step: mask k-space, inverse Fourier transform, crop,
then scikit-image's SSIM and PSNR and NumPy's MSE and NMSE. The tests use it as the slow second
way of computing what :mod:`activemri.envs` computes.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from activemri.data.slices import Slice
from activemri.metrics.reference import center_crop


def step(scan: Slice, columns: NDArray[np.bool_]) -> dict[str, float]:
    """Scores of the zero-filled reconstruction of a single-coil scan.

    Args:
        scan: who is scanned.
        columns: columns acquired so far, bool (width,).

    Returns:
        ssim, psnr, nmse and mse.
    """
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    image = inverse_transform(scan.kspace[0] * torch.from_numpy(columns))
    height, width = scan.target.shape
    magnitude = center_crop(image.abs(), (height, width)).numpy()
    target = scan.target.numpy()
    data_range = float(target.max())
    return {
        "ssim": float(structural_similarity(target, magnitude, data_range=data_range)),
        "psnr": float(peak_signal_noise_ratio(target, magnitude, data_range=data_range)),
        "nmse": float(np.linalg.norm(target - magnitude) ** 2 / np.linalg.norm(target) ** 2),
        "mse": float(np.mean((target - magnitude) ** 2)),
    }


def try_each(scan: Slice, columns: NDArray[np.bool_], actions: Sequence[int]) -> list[float]:
    """SSIM after each of several actions, one step after the other: a one-step oracle's loop."""
    scores = []
    for action in actions:
        trial = columns.copy()
        trial[action] = True
        scores.append(step(scan, trial)["ssim"])
    return scores


def inverse_transform(kspace: Tensor) -> Tensor:
    """Centred orthonormal inverse Fourier transform."""
    shifted = torch.fft.ifftshift(kspace, dim=(-2, -1))
    image: Tensor = torch.fft.fftshift(torch.fft.ifft2(shifted, norm="ortho"), dim=(-2, -1))
    return image
