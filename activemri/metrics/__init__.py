"""Image quality, one number per image of a batch.

Every function takes magnitude images (batch, height, width) and returns float64 (batch,). The
definitions are scikit-image's (Gaussian weights off, 7 x 7 window, sample covariance), which are
also those of ``fastmri.evaluate``. Two conventions of the data range exist in the field and give
different numbers; they carry different names here and are never mixed:

* ``ssim``, ``psnr``: the largest value of the slice's own target;
* ``ssim_volume``, ``psnr_volume``: the largest value of the target's whole volume.

``roi_ssim`` and ``roi_nmse`` look at a region of interest only. SSIM's windows are those of the
whole image, with the slice's data range; their values are averaged over the windows whose centre
lies in the region. ``task_loss`` is the loss of a downstream network; see
:class:`activemri.envs.reward.TaskLoss`.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SSIM_WINDOW = 7
SSIM_K1, SSIM_K2 = 0.01, 0.03  # Wang et al. 2004


@dataclass(frozen=True)
class Metric:
    """A score of a reconstruction.

    Attributes:
        name: as in tables, rewards and `info`.
        higher_is_better: whether a larger value is a better image.
        data_range: whose largest target value scales it: "slice", "volume", or None if nobody's.
        needs: what it takes besides image and target: "region", "task", or None.
    """

    name: str
    higher_is_better: bool
    data_range: str | None = None
    needs: str | None = None


METRICS = {
    metric.name: metric
    for metric in (
        Metric("ssim", higher_is_better=True, data_range="slice"),
        Metric("psnr", higher_is_better=True, data_range="slice"),
        Metric("nmse", higher_is_better=False),
        Metric("nrmse", higher_is_better=False),
        Metric("mse", higher_is_better=False),
        Metric("ssim_volume", higher_is_better=True, data_range="volume"),
        Metric("psnr_volume", higher_is_better=True, data_range="volume"),
        Metric("roi_ssim", higher_is_better=True, data_range="slice", needs="region"),
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
    return _sum_of_squares(_as_float64(image, target)[0] - target.double()) / _n_pixels(target)


def nmse(image: Tensor, target: Tensor) -> Tensor:
    """Squared error over the target's energy; 0 for a zero target met exactly, else infinite."""
    error = _sum_of_squares(_as_float64(image, target)[0] - target.double())
    return normalise(error, _sum_of_squares(target.double()))


def nrmse(image: Tensor, target: Tensor) -> Tensor:
    """Square root of :func:`nmse` (scikit-image's Euclidean normalisation)."""
    return nmse(image, target).sqrt()


def psnr(image: Tensor, target: Tensor, *, data_range: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB.

    Args:
        image: (batch, height, width).
        target: the same shape.
        data_range: largest value that the signal is said to take, (batch,).
    """
    return decibels(mse(image, target), data_range.double())


def ssim(image: Tensor, target: Tensor, *, data_range: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004), averaged where the whole window fits.

    Args:
        image: (batch, height, width), each side at least 7.
        target: the same shape.
        data_range: largest value that the signal is said to take, (batch,).
    """
    return ssim_map(image, target, data_range=data_range).mean(dim=(-2, -1))


def ssim_map(image: Tensor, target: Tensor, *, data_range: Tensor) -> Tensor:
    """Structural similarity of every window that fits: float64 (batch, height - 6, width - 6).

    Value (i, j) is that of the window around pixel (i + 3, j + 3). Arguments as for :func:`ssim`.
    """
    image, target = _as_float64(image, target)
    if min(target.shape[-2:]) < SSIM_WINDOW:
        raise ValueError(
            f"SSIM needs images of at least {SSIM_WINDOW} x {SSIM_WINDOW} pixels; "
            f"got {target.shape[-2]} x {target.shape[-1]}"
        )
    c1, c2 = ssim_constants(data_range)
    mean_x, mean_y = box_mean(image), box_mean(target)
    covariance = sample_scale() * (box_mean(image * target) - mean_x * mean_y)
    variance_x = sample_scale() * (box_mean(image * image) - mean_x * mean_x)
    variance_y = sample_scale() * (box_mean(target * target) - mean_y * mean_y)
    c1, c2 = c1[:, None, None], c2[:, None, None]
    numerator = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    denominator = (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    return numerator / denominator


def roi_ssim(image: Tensor, target: Tensor, *, region: Tensor, data_range: Tensor) -> Tensor:
    """Mean of :func:`ssim_map` over the windows whose centre lies in a region.

    Args:
        image: (batch, height, width), each side at least 7.
        target: the same shape.
        region: bool, the same shape.
        data_range: largest value that the signal is said to take, (batch,).
    """
    values, weights = ssim_map(image, target, data_range=data_range), window_centers(region)
    return (values * weights).sum(dim=(-2, -1)) / weights.sum(dim=(-2, -1))


def roi_nmse(image: Tensor, target: Tensor, *, region: Tensor) -> Tensor:
    """Squared error within a region, bool (batch, height, width), over the target's energy there.

    As for :func:`nmse`, 0 for a zero target met exactly.
    """
    image, target = _as_float64(image, target)
    error = _sum_of_squares((image - target) * region)
    return normalise(error, _sum_of_squares(target * region))


def volume_scores(image: Tensor, target: Tensor) -> dict[str, float]:
    """The scores of ``fastmri.evaluate`` for one volume (slice, height, width).

    MSE, NMSE and PSNR are taken over all pixels of the volume at once; SSIM is the mean over its
    slices; the data range is the volume's. They differ from means of per-slice scores.
    """
    image, target = _as_float64(image, target)
    volume_range = target.max()
    flat_image, flat_target = image.reshape(1, 1, -1), target.reshape(1, 1, -1)
    ranges = volume_range.expand(len(target))
    return {
        "mse": mse(flat_image, flat_target).item(),
        "nmse": nmse(flat_image, flat_target).item(),
        "psnr": psnr(flat_image, flat_target, data_range=volume_range.reshape(1)).item(),
        "ssim": ssim(image, target, data_range=ranges).mean().item(),
    }


def ssim_constants(data_range: Tensor) -> tuple[Tensor, Tensor]:
    """C1 and C2 of SSIM; a range of zero (a black target) counts as one, which avoids 0 / 0."""
    data_range = data_range.double()
    data_range = torch.where(data_range > 0, data_range, torch.ones_like(data_range))
    return (SSIM_K1 * data_range) ** 2, (SSIM_K2 * data_range) ** 2


def sample_scale() -> float:
    """n / (n - 1) for the pixels of one window: scikit-image uses the sample covariance."""
    n = SSIM_WINDOW**2
    return n / (n - 1)


def box_mean(image: Tensor) -> Tensor:
    """Mean over each window that fits: (batch, h, w) to (batch, h - 6, w - 6)."""
    rows = sum(image[:, i : image.shape[1] - SSIM_WINDOW + 1 + i] for i in range(SSIM_WINDOW))
    assert isinstance(rows, Tensor)
    columns = sum(rows[:, :, i : rows.shape[2] - SSIM_WINDOW + 1 + i] for i in range(SSIM_WINDOW))
    assert isinstance(columns, Tensor)
    return columns / SSIM_WINDOW**2


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


def _as_float64(image: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    if image.shape != target.shape or image.ndim != 3:
        raise ValueError(
            "image and target must both be (batch, height, width); "
            f"got {tuple(image.shape)} and {tuple(target.shape)}"
        )
    if image.is_complex() or target.is_complex():
        raise ValueError("metrics compare magnitudes; take .abs() of complex images first")
    return image.double(), target.double()


def _sum_of_squares(values: Tensor) -> Tensor:
    return values.square().sum(dim=(-2, -1))


def _n_pixels(target: Tensor) -> int:
    return target.shape[-2] * target.shape[-1]
