"""Scores of a batch of reconstructions, fast enough for every step of every episode.

All that depends on the target alone is computed once per episode (:class:`Reference`). On the CPU
one compiled pass then gives every score (:mod:`activemri.fused`); on other devices plain torch
does. Both equal :mod:`activemri.metrics`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from activemri import metrics


@dataclass(frozen=True, eq=False)
class Lines:
    """Share of some lines in a batch of coil images: ``left @ right``.

    Attributes:
        left: complex, (batch, coil, height, k).
        right: complex, (batch, coil, k, width).
    """

    left: Tensor
    right: Tensor

    def image(self, sensitivity: Tensor | None) -> Tensor:
        """What the lines add to the zero-filled image: complex (batch, height, width)."""
        coils = self.left @ self.right
        if sensitivity is None:
            return coils.squeeze(1)
        return torch.sum(sensitivity.conj() * coils, dim=1)


@dataclass(frozen=True, eq=False)
class Reference:
    """Targets and everything about them that scores need, per item of a batch.

    Attributes:
        target: float32 (batch, h, w), in units of the slice's data range.
        mean, variance: its window means and variances, float32 (batch, h - 6, w - 6).
        energy: sum of squares of the target, float64 (batch,), in the target's own unit.
        data_range: largest value of the slice's target, float64 (batch,); 1 for a black target.
        volume_range: the same for the volume.
    """

    target: Tensor
    mean: Tensor
    variance: Tensor
    energy: Tensor
    data_range: Tensor
    volume_range: Tensor

    @classmethod
    def of(cls, target: Tensor, volume_range: Tensor) -> "Reference":
        """Prepare targets.

        Args:
            target: float32 magnitudes, (batch, h, w), each side at least 7.
            volume_range: largest value of each target's volume, (batch,).
        """
        if min(target.shape[-2:]) < metrics.SSIM_WINDOW:
            raise ValueError(
                f"targets must be at least {metrics.SSIM_WINDOW} pixels wide and high; "
                f"got {tuple(target.shape[-2:])}"
            )
        data_range = target.amax(dim=(-2, -1)).double()
        data_range = torch.where(data_range > 0, data_range, torch.ones_like(data_range))
        scaled = (target / data_range[:, None, None]).float()
        mean, variance = _window_statistics(scaled)
        return cls(
            target=scaled,
            mean=mean,
            variance=variance,
            energy=target.double().square().sum(dim=(-2, -1)),
            data_range=data_range,
            volume_range=torch.maximum(volume_range.double(), data_range),
        )

    def scores(self, image: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Score complex images (batch, height, width): float64 (batch,) for each name."""
        owner = torch.arange(len(image), device=image.device)
        return self.trial_scores(image, owner, None, sensitivity=None, names=names)

    def trial_scores(
        self,
        image: Tensor,
        owner: Tensor,
        lines: Lines | None,
        *,
        sensitivity: Tensor | None,
        names: Sequence[str],
    ) -> dict[str, Tensor]:
        """Score images to which lines have been added on trial; no image is changed.

        Args:
            image: complex (batch, height, width).
            owner: which image each trial starts from, int64 (trial,).
            lines: what each trial adds, batched by trial, or None.
            sensitivity: coil maps (batch, coil, height, width), or None for a unit map.
            names: names of metrics.

        Returns:
            float64 (trial,) for each name.
        """
        if not names:
            return {}
        measure = _measure_on_cpu if image.device.type == "cpu" else _measure_with_torch
        one = torch.ones_like(self.data_range)
        ssim, squared_error = measure(self, image, owner, lines, sensitivity, one)
        values = {"ssim": ssim}
        if "ssim_volume" in names:
            ratio = self.volume_range / self.data_range
            values["ssim_volume"] = measure(self, image, owner, lines, sensitivity, ratio)[0]
        height, width = self.target.shape[-2:]
        values["mse"] = squared_error / (height * width)
        values["nmse"] = metrics.normalise(squared_error, self.energy[owner])
        values["nrmse"] = values["nmse"].sqrt()
        values["psnr"] = metrics.decibels(values["mse"], self.data_range[owner])
        values["psnr_volume"] = metrics.decibels(values["mse"], self.volume_range[owner])
        return {name: values[name] for name in names}


def add_lines(image: Tensor, lines: Lines, sensitivity: Tensor | None) -> None:
    """Add newly acquired lines to zero-filled images (batch, height, width), in place."""
    if image.device.type != "cpu":
        image += lines.image(sensitivity)
        return
    from activemri import fused

    fused.add_lines(
        image.numpy(),
        lines.left.contiguous().numpy(),
        lines.right.contiguous().numpy(),
        _maps(image, sensitivity),
    )


def largest_magnitude(image: Tensor) -> Tensor:
    """Of each complex image (batch, height, width): float32 (batch,)."""
    if image.device.type != "cpu":
        return image.abs().amax(dim=(-2, -1))
    from activemri import fused

    return torch.from_numpy(fused.largest(image.contiguous().numpy()))


def center_crop(image: Tensor, shape: tuple[int, int]) -> Tensor:
    """The central (height, width) of the last two axes; the pixel at n // 2 stays at n // 2."""
    height, width = shape
    top = image.shape[-2] // 2 - height // 2
    left = image.shape[-1] // 2 - width // 2
    return image[..., top : top + height, left : left + width]


def _measure_on_cpu(
    reference: Reference,
    image: Tensor,
    owner: Tensor,
    lines: Lines | None,
    sensitivity: Tensor | None,
    relative_range: Tensor,
) -> tuple[Tensor, Tensor]:
    """SSIM and squared error, float64 (trial,).

    The data range of the SSIM is given in units of the slice's, float64 (batch,).
    """
    from activemri import fused

    n_trials = len(owner)
    if lines is None:
        left = np.empty((n_trials, 1, image.shape[1], 0), np.complex64)
        right = np.empty((n_trials, 1, 0, image.shape[2]), np.complex64)
    else:
        left, right = lines.left.contiguous().numpy(), lines.right.contiguous().numpy()
    ssim, squared_error = np.empty(n_trials), np.empty(n_trials)
    fused.score(
        image.numpy(),
        owner.numpy(),
        left,
        right,
        _maps(image, sensitivity),
        reference.target.numpy(),
        reference.mean.numpy(),
        reference.variance.numpy(),
        reference.data_range.numpy(),
        relative_range.numpy(),
        ssim,
        squared_error,
    )
    unit = reference.data_range[owner] ** 2
    return torch.from_numpy(ssim), torch.from_numpy(squared_error) * unit


def _measure_with_torch(
    reference: Reference,
    image: Tensor,
    owner: Tensor,
    lines: Lines | None,
    sensitivity: Tensor | None,
    relative_range: Tensor,
) -> tuple[Tensor, Tensor]:
    """The same in plain torch, for any device."""
    trial = image[owner]
    if lines is not None:
        trial = trial + lines.image(None if sensitivity is None else sensitivity[owner])
    unit = reference.data_range[owner]
    target = reference.target[owner].double()
    height, width = target.shape[-2:]
    magnitude = center_crop(trial, (height, width)).abs().double() / unit[:, None, None]
    ssim = metrics.ssim(magnitude, target, data_range=relative_range[owner])
    return ssim, (magnitude - target).square().sum(dim=(-2, -1)) * unit**2


def _window_statistics(target: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and sample variance of every window: float32 (batch, h - 6, w - 6) each."""
    if target.device.type == "cpu":
        from activemri import fused

        size = metrics.SSIM_WINDOW - 1
        shape = (len(target), target.shape[1] - size, target.shape[2] - size)
        mean, variance = torch.empty(shape), torch.empty(shape)
        fused.window_statistics(target.contiguous().numpy(), mean.numpy(), variance.numpy())
        return mean, variance
    exact = target.double()
    mean = metrics.box_mean(exact)
    variance = metrics.sample_scale() * (metrics.box_mean(exact**2) - mean**2)
    return mean.float(), variance.float()


def _maps(image: Tensor, sensitivity: Tensor | None) -> np.ndarray[Any, np.dtype[np.complex64]]:
    """Coil maps as the kernels take them: no coils at all stand for one unit map."""
    if sensitivity is None:
        return np.empty((len(image), 0, *image.shape[1:]), np.complex64)
    return sensitivity.numpy()
