"""Training losses on magnitude images, each one number per image and differentiable.

All are relative to the data range, so that scans of any intensity weigh the same. Metrics that are
reported come from :mod:`activemri.metrics`; these work in the precision of the images.
"""

from typing import Protocol

import torch
from torch import Tensor

from activemri.metrics import SSIM_K1, SSIM_K2, SSIM_WINDOW, sample_scale


class Loss(Protocol):
    """How far magnitude images are from their targets; less is better.

    Args:
        image: (batch, height, width).
        target: the same shape.
        data_range: largest target value, (batch,); a range of 0 (a black target) counts as 1.

    Returns:
        (batch,)
    """

    def __call__(self, image: Tensor, target: Tensor, *, data_range: Tensor) -> Tensor: ...


def mse(image: Tensor, target: Tensor, *, data_range: Tensor) -> Tensor:
    """Mean squared error over the squared data range."""
    return ((image - target) / _per_pixel(data_range)).square().mean(dim=(-2, -1))


def l1(image: Tensor, target: Tensor, *, data_range: Tensor) -> Tensor:
    """Mean absolute error over the data range."""
    return ((image - target) / _per_pixel(data_range)).abs().mean(dim=(-2, -1))


def ssim(image: Tensor, target: Tensor, *, data_range: Tensor) -> Tensor:
    """1 - SSIM with the field's 7 x 7 uniform window (see :func:`activemri.metrics.ssim`)."""
    x, y = image / _per_pixel(data_range), target / _per_pixel(data_range)
    mean_x, mean_y, xx, yy, xy = _box_mean(torch.stack([x, y, x * x, y * y, x * y])).unbind()
    covariance = sample_scale() * (xy - mean_x * mean_y)
    variances = sample_scale() * (xx - mean_x.square() + yy - mean_y.square())
    numerator = (2 * mean_x * mean_y + SSIM_K1**2) * (2 * covariance + SSIM_K2**2)
    squares = mean_x.square() + mean_y.square()
    denominator = (squares + SSIM_K1**2) * (variances + SSIM_K2**2)
    return 1 - (numerator / denominator).mean(dim=(-2, -1))


LOSSES: dict[str, Loss] = {"mse": mse, "l1": l1, "ssim": ssim}


def make_loss(loss: str | Loss) -> Loss:
    """A loss from its name, from a sum of names like ``"l1+ssim"``, or as it is.

    Raises:
        ValueError: an unknown name.
    """
    if not isinstance(loss, str):
        return loss
    terms = [_find(name.strip(), loss) for name in loss.split("+")]

    def total(image: Tensor, target: Tensor, *, data_range: Tensor) -> Tensor:
        values = [term(image, target, data_range=data_range) for term in terms]
        return torch.stack(values).sum(dim=0)

    return total


def _find(name: str, given: str) -> Loss:
    if name not in LOSSES:
        raise ValueError(
            f"unknown loss {name!r} in {given!r}; expected one of {', '.join(LOSSES)}, or a sum "
            "like 'l1+ssim'"
        )
    return LOSSES[name]


def _per_pixel(data_range: Tensor) -> Tensor:
    return torch.where(data_range > 0, data_range, torch.ones_like(data_range))[:, None, None]


def _box_mean(images: Tensor) -> Tensor:
    """Mean over every window that fits; four additions an axis instead of six."""
    if min(images.shape[-2:]) < SSIM_WINDOW:
        raise ValueError(
            f"SSIM needs images of at least {SSIM_WINDOW} x {SSIM_WINDOW} pixels; "
            f"got {images.shape[-2]} x {images.shape[-1]}"
        )
    for axis in (-2, -1):
        n = images.shape[axis]
        pairs = images.narrow(axis, 0, n - 1) + images.narrow(axis, 1, n - 1)
        fours = pairs.narrow(axis, 0, n - 3) + pairs.narrow(axis, 2, n - 3)
        sixes = fours.narrow(axis, 0, n - 6) + pairs.narrow(axis, 4, n - 6)
        images = sixes + images.narrow(axis, 6, n - 6)
    return images / SSIM_WINDOW**2
