"""Scores of a batch of reconstructions, fast enough for every step of every episode.

All that depends on the target alone is computed once per episode (:class:`Reference`). On the CPU
one compiled pass then gives every score (:mod:`activemri.fused`); on other devices plain torch
does. Both equal :mod:`activemri.metrics`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from activemri import metrics
from activemri.batched import Batched
from activemri.mri.geometry import Increment

#: A downstream network's loss: magnitudes (batch, h, w) in units of the targets' largest values,
#: and labels (batch, ...), to a loss of each image, (batch,).
TaskFunction = Callable[[Tensor, Tensor], Tensor]

# Trials whose images are made at once for a downstream network.
_IMAGES_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class Reference(Batched):
    """Targets and everything about them that scores need, per item of a batch.

    Attributes:
        target: float32 (batch, h, w), in units of the slice's data range.
        mean, variance: its window means and variances, float32 (batch, h - 6, w - 6).
        energy: sum of squares of the target, float64 (batch,), in the target's own unit.
        data_range: largest value of the slice's target, float64 (batch,); 1 for a black target.
        volume_range: the same for the volume.
        region: regions of interest, bool (batch, h, w), or None.
        label: what a downstream network should find, (batch, ...), or None for the target.
    """

    target: Tensor
    mean: Tensor
    variance: Tensor
    energy: Tensor
    data_range: Tensor
    volume_range: Tensor
    region: Tensor | None = None
    label: Tensor | None = None

    @classmethod
    def of(
        cls,
        target: Tensor,
        volume_range: Tensor,
        *,
        region: Tensor | None = None,
        label: Tensor | None = None,
    ) -> "Reference":
        """Prepare targets.

        Args:
            target: float32 magnitudes, (batch, h, w), each side at least 7.
            volume_range: largest value of each target's volume, (batch,).
            region: regions of interest, bool (batch, h, w); each holds the centre of a window.
            label: what a downstream network should find, (batch, ...).
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
            region=_checked_region(region),
            label=label,
        )

    def scores(
        self, image: Tensor, names: Sequence[str], *, task: TaskFunction | None = None
    ) -> dict[str, Tensor]:
        """Score complex images (batch, height, width): float64 (batch,) for each name."""
        owner = torch.arange(len(image), device=image.device)
        return self.trial_scores(image, owner, None, sensitivity=None, names=names, task=task)

    def trial_scores(
        self,
        image: Tensor,
        owner: Tensor,
        increment: Increment | None,
        *,
        sensitivity: Tensor | None,
        names: Sequence[str],
        task: TaskFunction | None = None,
    ) -> dict[str, Tensor]:
        """Score images to which lines have been added on trial; no image is changed.

        Args:
            image: complex (batch, height, width).
            owner: which image each trial starts from, int64 (trial,).
            increment: what each trial adds, batched by trial, or None.
            sensitivity: coil maps (batch, coil, height, width), or None for a unit map.
            names: names of metrics.
            task: a downstream network's loss, for "task_loss".

        Returns:
            float64 (trial,) for each name.

        Raises:
            ValueError: for scores of a region where there is none, or of a task that is not given.
        """
        if not names:
            return {}
        trials = _Trials(image, owner, increment, sensitivity)
        values: dict[str, Tensor] = {}
        kinds = {metrics.find_metric(name).needs for name in names}
        if None in kinds:
            values |= self._image_scores(trials, names)
        if "region" in kinds:
            values |= self._region_scores(trials)
        if "task" in kinds:
            values["task_loss"] = self._task_loss(trials, task)
        return {name: values[name] for name in names}

    def _image_scores(self, trials: "_Trials", names: Sequence[str]) -> dict[str, Tensor]:
        owner, one = trials.owner, torch.ones_like(self.data_range)
        ssim, squared_error = self._measure(trials, one, None)
        values = {"ssim": ssim}
        if "ssim_volume" in names:
            ratio = self.volume_range / self.data_range
            values["ssim_volume"] = self._measure(trials, ratio, None)[0]
        height, width = self.target.shape[-2:]
        values["mse"] = squared_error / (height * width)
        values["nmse"] = metrics.normalise(squared_error, self.energy[owner])
        values["nrmse"] = values["nmse"].sqrt()
        values["psnr"] = metrics.decibels(values["mse"], self.data_range[owner])
        values["psnr_volume"] = metrics.decibels(values["mse"], self.volume_range[owner])
        return values

    def _region_scores(self, trials: "_Trials") -> dict[str, Tensor]:
        if self.region is None:
            raise ValueError(
                "roi_ssim and roi_nmse need a region of interest in every slice: take data that "
                'have them ("phantom-lesion", or files with annotations), or set one, e.g. '
                'roi="center"'
            )
        ssim, squared_error = self._measure(trials, torch.ones_like(self.data_range), self.region)
        energy = (self.target * self.region).double().square().sum(dim=(-2, -1))
        energy *= self.data_range**2
        nmse = metrics.normalise(squared_error, energy[trials.owner])
        return {"roi_ssim": ssim, "roi_nmse": nmse}

    def _task_loss(self, trials: "_Trials", task: TaskFunction | None) -> Tensor:
        if task is None:
            raise ValueError("task_loss needs a downstream network: pass reward=TaskLoss(...)")
        shape = (self.target.shape[-2], self.target.shape[-1])
        label = self.target if self.label is None else self.label
        losses = []
        for part in trials.split(_IMAGES_AT_ONCE):
            unit = self.data_range[part.owner, None, None].float()
            magnitude = center_crop(part.images(), shape).abs() / unit
            with torch.no_grad():
                loss = task(magnitude, label[part.owner])
            if loss.shape != part.owner.shape:
                raise ValueError(
                    f"a task must give one loss for each of {len(part.owner)} images; got shape "
                    f"{tuple(loss.shape)}; average over pixels, not over images"
                )
            losses.append(loss.double())
        return torch.cat(losses)

    def _measure(
        self, trials: "_Trials", relative_range: Tensor, region: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        measure = _measure_on_cpu if trials.image.device.type == "cpu" else _measure_with_torch
        return measure(self, trials, relative_range, region)


@dataclass(frozen=True, eq=False)
class _Trials:
    """Images to which lines have been added on trial, not yet made; as for `trial_scores`."""

    image: Tensor
    owner: Tensor
    increment: Increment | None
    sensitivity: Tensor | None

    def images(self) -> Tensor:
        """Complex (trial, height, width)."""
        trial = self.image[self.owner]
        if self.increment is None:
            return trial
        maps = None if self.sensitivity is None else self.sensitivity[self.owner]
        return trial + self.increment.image(maps)

    def split(self, size: int) -> Iterator["_Trials"]:
        """The same in parts of at most so many trials."""
        for start in range(0, len(self.owner), size):
            part, increment = slice(start, start + size), self.increment
            if increment is not None:
                increment = increment.select(part)
            yield _Trials(self.image, self.owner[part], increment, self.sensitivity)


def add_increment(image: Tensor, increment: Increment, sensitivity: Tensor | None) -> None:
    """Add newly acquired readouts to zero-filled images (batch, height, width), in place."""
    if image.device.type != "cpu" or increment.right is None:
        image += increment.image(sensitivity)
        return
    from activemri import fused

    fused.add_lines(
        image.numpy(),
        increment.left.contiguous().numpy(),
        increment.right.contiguous().numpy(),
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
    reference: Reference, trials: _Trials, relative_range: Tensor, region: Tensor | None
) -> tuple[Tensor, Tensor]:
    """SSIM and squared error, everywhere or in a region: float64 (trial,).

    The data range of the SSIM is given in units of the slice's, float64 (batch,).
    """
    from activemri import fused

    image, owner, increment = trials.image, trials.owner, trials.increment
    if increment is not None and increment.right is None:  # no factors: images are made at once
        image, increment = trials.images(), None
        trials, reference = replace(trials, image=image), reference.select(owner)
        relative_range = relative_range[owner]
        region = None if region is None else region[owner]
        owner = torch.arange(len(image))
    n_trials = len(owner)
    if increment is None:
        left = np.empty((n_trials, 1, image.shape[1], 0), np.complex64)
        right = np.empty((n_trials, 1, 0, image.shape[2]), np.complex64)
    else:
        assert increment.right is not None
        left = increment.left.contiguous().numpy()
        right = increment.right.contiguous().numpy()
    if region is None:
        region = torch.empty((len(image), 0, 0), dtype=torch.bool)
    ssim, squared_error = np.empty(n_trials), np.empty(n_trials)
    fused.score(
        image.numpy(),
        owner.numpy(),
        left,
        right,
        _maps(image, trials.sensitivity),
        reference.target.numpy(),
        reference.mean.numpy(),
        reference.variance.numpy(),
        reference.data_range.numpy(),
        relative_range.numpy(),
        region.numpy(),
        ssim,
        squared_error,
    )
    unit = reference.data_range[owner] ** 2
    return torch.from_numpy(ssim), torch.from_numpy(squared_error) * unit


def _measure_with_torch(
    reference: Reference, trials: _Trials, relative_range: Tensor, region: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The same in plain torch, for any device."""
    owner = trials.owner
    unit, target = reference.data_range[owner], reference.target[owner].double()
    shape = (target.shape[-2], target.shape[-1])
    magnitude = center_crop(trials.images(), shape).abs().double() / unit[:, None, None]
    error, data_range = (magnitude - target).square(), relative_range[owner]
    if region is None:
        ssim = metrics.ssim(magnitude, target, data_range=data_range)
    else:
        within = region[owner]
        ssim = metrics.roi_ssim(magnitude, target, region=within, data_range=data_range)
        error = error * within
    return ssim, error.sum(dim=(-2, -1)) * unit**2


def _checked_region(region: Tensor | None) -> Tensor | None:
    """Refuse regions in which no window of SSIM has its centre."""
    if region is None:
        return None
    empty = ~metrics.window_centers(region).any(dim=(-2, -1))
    if bool(empty.any()):
        raise ValueError(
            f"a region of interest must hold a pixel at least {metrics.SSIM_WINDOW // 2} away from "
            f"the edges of the image; that of scan {int(empty.nonzero()[0])} does not"
        )
    return region.contiguous()


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
