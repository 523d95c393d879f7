"""Image quality, one number per image of a batch.

Every function takes magnitude images (batch, height, width) and returns float64 (batch,). The
definitions are scikit-image's (Gaussian weights off, 7 x 7 window, sample covariance), which are
also those of ``fastmri.evaluate``. Two conventions of the data range exist in the field and give
different numbers:

* ``ssim``, ``psnr``: the largest value of the slice's own target;
* ``ssim_volume``, ``psnr_volume``: the largest value of the target's whole volume.

``roi_ssim`` and ``roi_nmse`` look at a region of interest only. SSIM's windows are those of the
whole image; their values are averaged over the windows whose centre lies in the region.
``task_loss`` is the loss of a downstream network; see :class:`activemri.envs.reward.TaskLoss`.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SSIM_WINDOW = 7
SSIM_K1, SSIM_K2 = 0.01, 0.03  # Wang et al. 2004
#: n / (n - 1) for the pixels of one window: scikit-image uses the sample covariance.
SAMPLE_SCALE = SSIM_WINDOW**2 / (SSIM_WINDOW**2 - 1)


@dataclass(frozen=True)
class Metric:
    """A score of a reconstruction.

    Attributes:
        name: as in tables, rewards and `info`.
        higher_is_better: a larger value is a better image.
        needs: what it takes besides image and target: "region", "task", or None.
    """

    name: str
    higher_is_better: bool
    needs: str | None = None

    @property
    def limits(self) -> tuple[float, float]:
        """Lowest and highest value that there can be."""
        if not self.higher_is_better:
            return 0.0, math.inf
        return -math.inf, 1.0 if "ssim" in self.name else math.inf


METRICS = {
    metric.name: metric
    for metric in (
        Metric("ssim", higher_is_better=True),
        Metric("psnr", higher_is_better=True),
        Metric("nmse", higher_is_better=False),
        Metric("nrmse", higher_is_better=False),
        Metric("mse", higher_is_better=False),
        Metric("ssim_volume", higher_is_better=True),
        Metric("psnr_volume", higher_is_better=True),
        Metric("roi_ssim", higher_is_better=True, needs="region"),
        Metric("roi_nmse", higher_is_better=False, needs="region"),
        Metric("task_loss", higher_is_better=False, needs="task"),
    )
}

#: Scores of a region of interest.
REGION_METRICS = tuple(name for name, metric in METRICS.items() if metric.needs == "region")


def find_metric(name: str) -> Metric:
    """The metric of that name.

    Raises:
        ValueError: if there is none; the message lists those that exist.
    """
    if name not in METRICS:
        raise ValueError(f"unknown metric {name!r}; choose from {', '.join(METRICS)}")
    return METRICS[name]


def mse(image: Tensor, target: Tensor) -> Tensor:
    """Mean squared error."""
    return _difference(image, target).square().mean(dim=(-2, -1))


def nmse(image: Tensor, target: Tensor) -> Tensor:
    """Squared error over the target's energy; 0 for a zero target met exactly, else infinite."""
    return normalise(_energy(_difference(image, target)), _energy(target.double()))


def nrmse(image: Tensor, target: Tensor) -> Tensor:
    """Square root of :func:`nmse` (scikit-image's Euclidean normalisation)."""
    return nmse(image, target).sqrt()


def psnr(image: Tensor, target: Tensor, *, data_range: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, of a largest signal `data_range`, (batch,)."""
    return decibels(mse(image, target), data_range.double())


def ssim(image: Tensor, target: Tensor, *, data_range: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004), averaged where the whole 7 x 7 window fits.

    Args:
        image: (batch, height, width).
        target: the same shape.
        data_range: largest value that the signal is said to take, (batch,).
    """
    return _ssim_map(image, target, data_range).mean(dim=(-2, -1))


def roi_ssim(image: Tensor, target: Tensor, *, region: Tensor, data_range: Tensor) -> Tensor:
    """As :func:`ssim`, of windows whose centre lies in a region, bool (batch, height, width)."""
    values, weights = _ssim_map(image, target, data_range), window_centers(region)
    return (values * weights).sum(dim=(-2, -1)) / weights.sum(dim=(-2, -1))


def roi_nmse(image: Tensor, target: Tensor, *, region: Tensor) -> Tensor:
    """As :func:`nmse`, within a region, bool (batch, height, width)."""
    error = _energy(_difference(image, target) * region)
    return normalise(error, _energy(target.double() * region))


def _ssim_map(image: Tensor, target: Tensor, data_range: Tensor) -> Tensor:
    _difference(image, target)
    data_range = data_range.double()[:, None, None]
    unit = torch.where(data_range > 0, data_range, 1.0)  # a black target counts as 1: no 0 / 0
    c1, c2 = (SSIM_K1 * unit) ** 2, (SSIM_K2 * unit) ** 2
    return ssim_map(image.double(), target.double(), c1, c2)


def ssim_map(x: Tensor, y: Tensor, c1: Tensor | float, c2: Tensor | float) -> Tensor:
    """Structural similarity of every window that fits, with constants C1 and C2.

    Magnitude images (batch, height, width) to (batch, height - 6, width - 6). Value (i, j) is that
    of the window around pixel (i + 3, j + 3).
    """
    mean_x, mean_y, xx, yy, xy = box_mean(torch.stack([x, y, x * x, y * y, x * y])).unbind()
    covariance = SAMPLE_SCALE * (xy - mean_x * mean_y)
    variances = SAMPLE_SCALE * (xx - mean_x.square() + yy - mean_y.square())
    numerator = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return numerator / ((mean_x.square() + mean_y.square() + c1) * (variances + c2))


def box_mean(images: Tensor) -> Tensor:
    """Mean over each window that fits: (..., h, w) to (..., h - 6, w - 6)."""
    if min(images.shape[-2:]) < SSIM_WINDOW:
        raise ValueError(
            f"SSIM needs images of at least {SSIM_WINDOW} x {SSIM_WINDOW} pixels; "
            f"got {images.shape[-2]} x {images.shape[-1]}"
        )
    for axis in (-2, -1):  # four additions an axis instead of six
        n = images.shape[axis]
        pairs = images.narrow(axis, 0, n - 1) + images.narrow(axis, 1, n - 1)
        fours = pairs.narrow(axis, 0, n - 3) + pairs.narrow(axis, 2, n - 3)
        sixes = fours.narrow(axis, 0, n - 6) + pairs.narrow(axis, 4, n - 6)
        images = sixes + images.narrow(axis, 6, n - 6)
    return images / SSIM_WINDOW**2


def window_centers(region: Tensor) -> Tensor:
    """Of pixels (batch, h, w), those around which a whole window fits: (batch, h - 6, w - 6)."""
    margin = SSIM_WINDOW // 2
    return region[:, margin:-margin, margin:-margin]


def normalise(error: Tensor, energy: Tensor) -> Tensor:
    """error / energy, with 0 / 0 = 0: a black target that is met exactly has no error."""
    return torch.where(error == 0, torch.zeros_like(error), error / energy)


def decibels(mean_squared_error: Tensor, data_range: Tensor) -> Tensor:
    """PSNR of a mean squared error; infinite where there is no error."""
    return 10 * torch.log10(data_range**2 / mean_squared_error)


def spearman(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Rank correlation, equal values sharing their mean rank; NaN if one of them is constant.

    scipy.stats.spearmanr gives the same, but warns about constants.
    """
    from scipy.stats import rankdata  # here, because it takes half a second to import

    x, y = rankdata(a), rankdata(b)
    x, y = x - x.mean(), y - y.mean()
    size = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / size if size > 0 else float("nan")


def _difference(image: Tensor, target: Tensor) -> Tensor:
    if image.shape != target.shape or image.ndim != 3:
        raise ValueError(
            "image and target must both be (batch, height, width); "
            f"got {tuple(image.shape)} and {tuple(target.shape)}"
        )
    if image.is_complex() or target.is_complex():
        raise ValueError("metrics compare magnitudes; take .abs() of complex images first")
    return image.double() - target.double()


def _energy(values: Tensor) -> Tensor:
    return values.square().sum(dim=(-2, -1))
