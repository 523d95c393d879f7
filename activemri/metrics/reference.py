"""Scores of a batch of reconstructions, fast enough for every step of every episode.

All that depends on the target alone is computed once per episode (:class:`Reference`). On the CPU
one pass, compiled with numba on first use and cached, adds the readouts that an action acquired to
the image, shows it as 8-bit pixels and gives every score. Sums that SSIM needs run down the
columns, where a window's 7 rows are one row added and one row dropped, so a pixel costs a few
additions instead of 49. They are sums of the difference d = x - y to the target y, whose own
statistics are exact: with x = y + d, var(x) + var(y) = 2 (var(y) + cov(d, y)) + var(d), so that
single precision keeps SSIM within 1e-6 of scikit-image's. On other devices plain torch does the
same; both equal :mod:`activemri.metrics`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from activemri import kernels, metrics
from activemri.batched import Batched
from activemri.kernels import PLAIN
from activemri.mri.geometry import Increment

#: A downstream network's loss: magnitudes (batch, h, w) in units of the targets' largest values,
#: and labels (batch, ...), to a loss of each image, (batch,).
TaskFunction = Callable[[Tensor, Tensor], Tensor]

# What the compiled pass is given where there is nothing.
_NO_LINES = np.empty((0, 0, 0, 0), np.complex64)
_ONES, _EVERYWHERE = np.empty(0), np.empty((0, 0, 0), np.bool_)
_NO_GAIN, _NO_PIXELS = np.empty(0, np.float32), np.empty((0, 0, 0), np.uint8)


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
        """Prepare targets: float32 magnitudes, (batch, h, w), each side at least 7.

        `volume_range` is the largest value of each target's volume, (batch,). Each region, bool
        (batch, h, w), holds the centre of a window.
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
        self,
        image: Tensor,
        names: tuple[str, ...],
        *,
        task: TaskFunction | None = None,
        owner: Tensor | None = None,
        increment: Increment | None = None,
        sensitivity: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Score images, or images to which readouts have been added on trial; none is changed.

        Args:
            image: complex (batch, height, width).
            names: of metrics.
            task: a downstream network's loss, for "task_loss".
            owner: which image each trial starts from, int64 (trial,); None for one trial each.
            increment: what each trial adds, batched by trial, or None.
            sensitivity: coil maps (batch, coil, height, width), or None for a unit map.

        Returns:
            float64 (trial,) for each name.

        Raises:
            ValueError: for scores of a region where there is none, or of a task that is not given.
        """
        if owner is None:
            owner = torch.arange(len(image), device=image.device)
        return self._named(_Trials(image, owner, increment, sensitivity), names, task)

    def advance(
        self,
        image: Tensor,
        names: tuple[str, ...],
        *,
        gain: Tensor,
        task: TaskFunction | None = None,
        increment: Increment | None = None,
        sensitivity: Tensor | None = None,
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Add readouts to images in place, score and show them: all in one pass.

        Args:
            image: complex (batch, height, width).
            names, task, increment, sensitivity: as of :meth:`scores`.
            gain: of the pixels, float32 (batch,).

        Returns:
            Scores, float64 (batch,) for each name, and magnitudes of the targets' area times the
            gain, cut off at 255: uint8 (batch, h, w).
        """
        n, shape = len(image), (self.target.shape[-2], self.target.shape[-1])
        if not self.is_compiled(image):
            if increment is not None:
                image += increment.image(sensitivity)
            return self.scores(image, names, task=task), to_uint8(image, gain, shape)
        pixels, added = np.empty((n, *shape), np.uint8), (increment, sensitivity)
        result = self._pass(image, np.arange(n), *added, gain=gain.numpy(), pixels=pixels)
        return self.named(result, names, image, task=task), torch.from_numpy(pixels)

    def named(
        self,
        plain: NDArray[np.float64],
        names: tuple[str, ...],
        image: Tensor,
        *,
        task: TaskFunction | None = None,
    ) -> dict[str, Tensor]:
        """Scores by name of images whose :data:`activemri.kernels.PLAIN` ones are known, (5, n)."""
        known = {name: torch.from_numpy(row) for name, row in zip(PLAIN, plain, strict=True)}
        if not known.keys() >= set(names):
            owner = torch.arange(len(image), device=image.device)
            return self._named(_Trials(image, owner), names, task, plain=known)
        return {name: known[name] for name in names}

    def is_compiled(self, image: Tensor) -> bool:
        """Such images are scored by one compiled pass."""
        return image.device.type == "cpu" and self.target.shape[-1] <= kernels.WIDEST

    def _named(
        self,
        trials: "_Trials",
        names: tuple[str, ...],
        task: TaskFunction | None,
        *,
        plain: dict[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Scores by name; `plain` are the :data:`PLAIN` ones where known."""
        owner, needs, values = trials.owner, _needs(names), plain or {}
        if None in needs and not values:
            values = dict(zip(PLAIN, self._measure(trials), strict=True))
        if "psnr_volume" in names:
            values["psnr_volume"] = metrics.decibels(values["mse"], self.volume_range[owner])
        if "ssim_volume" in names:
            ratio = self.volume_range / self.data_range
            values["ssim_volume"] = self._measure(trials, relative_range=ratio)[0]
        if "region" in needs:
            values |= self._region_scores(trials)
        if "task" in needs:
            values["task_loss"] = self._task_loss(trials, task)
        return {name: values[name] for name in names}

    def _region_scores(self, trials: "_Trials") -> dict[str, Tensor]:
        if self.region is None:
            raise ValueError(
                "roi_ssim and roi_nmse need a region of interest in every slice: take data that "
                'have them ("phantom-lesion", or files with annotations), or set one, e.g. '
                'roi="center"'
            )
        ssim, mse = self._measure(trials, region=self.region)[:2]
        energy = (self.target * self.region).double().square().sum(dim=(-2, -1))
        energy *= self.data_range**2 / self.target[0].numel()
        return {"roi_ssim": ssim, "roi_nmse": metrics.normalise(mse, energy[trials.owner])}

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
            came = tuple(getattr(loss, "shape", ()))
            if not isinstance(loss, Tensor) or loss.shape != part.owner.shape:
                raise ValueError(
                    f"a task must give one loss for each of {len(part.owner)} images; got "
                    f"{type(loss).__name__} of shape {came}; average over pixels, not over "
                    "images"
                )
            losses.append(loss.double())
        return torch.cat(losses)

    def _measure(
        self,
        trials: "_Trials",
        *,
        relative_range: Tensor | None = None,
        region: Tensor | None = None,
    ) -> Tensor:
        """The :data:`PLAIN` scores, everywhere or in a region: float64 (5, trial).

        The data range of the SSIM is given in units of the slice's, float64 (batch,). Errors in a
        region are divided by the number of all pixels.
        """
        if not self.is_compiled(trials.image):
            return self._measure_with_torch(trials, relative_range, region)
        image, owner, increment = trials.image, trials.owner, trials.increment
        if increment is None or increment.right is not None:
            result = self._pass(
                image,
                owner.numpy(),
                increment,
                trials.sensitivity,
                relative_range=relative_range,
                region=region,
            )
            return torch.from_numpy(result)
        # No factors: images are made at once.
        made = replace(trials, image=trials.images(), owner=torch.arange(len(owner)))
        chosen = [None if x is None else x[owner] for x in (relative_range, region)]
        return self.select(owner)._measure(
            replace(made, increment=None), relative_range=chosen[0], region=chosen[1]
        )

    def _pass(
        self,
        image: Tensor,
        owner: NDArray[np.int64],
        increment: Increment | None,
        sensitivity: Tensor | None,
        *,
        relative_range: Tensor | None = None,
        region: Tensor | None = None,
        gain: NDArray[np.float32] | None = None,
        pixels: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.float64]:
        """The same by the compiled kernel; with `pixels` readouts are added in place."""
        left = right = _NO_LINES
        if increment is not None:
            assert increment.right is not None
            left = increment.left.contiguous().numpy()
            right = increment.right.contiguous().numpy()
        maps = np.empty((len(image), 0, *image.shape[1:]), np.complex64)
        if sensitivity is not None:
            maps = sensitivity.numpy()
        result = np.empty((len(PLAIN), len(owner)))
        kernel: Any = kernels.score
        kernel(
            image.numpy(),
            owner,
            left,
            right,
            maps,
            *self.arrays,
            _ONES if relative_range is None else relative_range.numpy(),
            _EVERYWHERE if region is None else region.numpy(),
            _NO_GAIN if gain is None else gain,
            _NO_PIXELS if pixels is None else pixels,
            result,
        )
        return result

    @cached_property
    def arrays(self) -> tuple[NDArray[Any], ...]:
        """Target, mean, variance, energy and data range, as compiled passes read them."""
        tensors = (self.target, self.mean, self.variance, self.energy, self.data_range)
        return tuple(tensor.numpy() for tensor in tensors)

    def _measure_with_torch(
        self, trials: "_Trials", relative_range: Tensor | None, region: Tensor | None
    ) -> Tensor:
        """The same in plain torch, for any device, which is never waited for."""
        owner, shape = trials.owner, (self.target.shape[-2], self.target.shape[-1])
        image = trials.images()
        score = _plain_scores_on_cuda() if image.device.type == "cuda" else _plain_scores
        return score(
            torch.view_as_real(center_crop(image, shape)),
            self.target[owner],
            self.mean[owner],
            self.variance[owner],
            self.energy[owner],
            self.data_range[owner],
            None if relative_range is None else relative_range[owner],
            None if region is None else region[owner],
        )


def _plain_scores(
    image: Tensor,
    target: Tensor,
    mean: Tensor,
    variance: Tensor,
    energy: Tensor,
    data_range: Tensor,
    relative_range: Tensor | None,
    region: Tensor | None,
) -> Tensor:
    """The :data:`PLAIN` scores (5, trial) of images (trial, h, w, 2); see :class:`Reference`."""
    magnitude = image.square().sum(dim=-1).sqrt()
    d = magnitude / data_range.float()[:, None, None] - target
    relative = torch.ones_like(data_range) if relative_range is None else relative_range
    k1, k2 = (
        (k * relative).square().float()[:, None, None] for k in (metrics.SSIM_K1, metrics.SSIM_K2)
    )
    shift, square, product = metrics.box_mean(torch.stack([d, d * d, d * target])).unbind()
    own = metrics.SAMPLE_SCALE * (square - shift * shift)
    covariance = metrics.SAMPLE_SCALE * (product - shift * mean)
    a = 2 * mean * (mean + shift) + k1
    b = 2 * (covariance + variance) + k2
    similarity = (a * b / ((a + shift * shift) * (b + own))).double()
    error = d.double().square()
    if region is None:
        ssim = similarity.mean(dim=(-2, -1))
    else:
        weights, error = metrics.window_centers(region), error * region
        ssim = (similarity * weights).sum(dim=(-2, -1)) / weights.sum(dim=(-2, -1))
    mse = error.mean(dim=(-2, -1)) * data_range**2
    nmse = metrics.normalise(mse, energy / (target.shape[-2] * target.shape[-1]))
    return torch.stack([ssim, mse, nmse, nmse.sqrt(), metrics.decibels(mse, data_range)])


@cache
def _plain_scores_on_cuda() -> Callable[..., Tensor]:
    """The same, fused by torch's compiler into few kernels."""
    return torch.compile(_plain_scores, dynamic=True, fullgraph=True)


@dataclass(frozen=True, eq=False)
class _Trials:
    """Images to which readouts are added on trial, not yet made; see :meth:`Reference.scores`."""

    image: Tensor
    owner: Tensor
    increment: Increment | None = None
    sensitivity: Tensor | None = None

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
            part, added = slice(start, start + size), self.increment
            if added is not None:
                right = None if added.right is None else added.right[part]
                added = Increment(added.left[part], right)
            yield _Trials(self.image, self.owner[part], added, self.sensitivity)


def add_increment(image: Tensor, increment: Increment, sensitivity: Tensor | None) -> None:
    """Add newly acquired readouts to zero-filled images (batch, height, width), in place."""
    if image.device.type != "cpu" or increment.right is None:
        image += increment.image(sensitivity)
        return
    maps = np.empty((len(image), 0, *image.shape[1:]), np.complex64)
    if sensitivity is not None:
        maps = sensitivity.numpy()
    left, right = increment.left.contiguous(), increment.right.contiguous()
    kernels.add_lines(image.numpy(), left.numpy(), right.numpy(), maps)


def largest_magnitude(image: Tensor) -> Tensor:
    """Of each complex image (batch, height, width): float32 (batch,)."""
    if image.device.type != "cpu":
        return image.abs().amax(dim=(-2, -1))
    return torch.from_numpy(kernels.largest_magnitude(image.contiguous().numpy()))


def to_uint8(image: Tensor, gain: Tensor, shape: tuple[int, int]) -> Tensor:
    """Magnitudes of the centre times a gain, cut off at 255: uint8 (batch, *shape).

    Args:
        image: real or complex, (batch, height, width).
        gain: float32 (batch,).
        shape: height and width of the central part.
    """
    magnitude = center_crop(image, shape).abs()
    return (magnitude * gain[:, None, None]).clamp(max=255).to(torch.uint8)


def center_crop(image: Tensor, shape: tuple[int, int]) -> Tensor:
    """The central (height, width) of the last two axes; the pixel at n // 2 stays at n // 2."""
    height, width = shape
    top = image.shape[-2] // 2 - height // 2
    left = image.shape[-1] // 2 - width // 2
    return image[..., top : top + height, left : left + width]


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
        size = metrics.SSIM_WINDOW - 1
        shape = (len(target), target.shape[1] - size, target.shape[2] - size)
        mean, variance = torch.empty(shape), torch.empty(shape)
        kernels.window_statistics(target.contiguous().numpy(), mean.numpy(), variance.numpy())
        return mean, variance
    exact = target.double()
    mean = metrics.box_mean(exact)
    variance = metrics.SAMPLE_SCALE * (metrics.box_mean(exact**2) - mean**2)
    return mean.float(), variance.float()


@lru_cache(maxsize=64)
def _needs(names: tuple[str, ...]) -> frozenset[str | None]:
    """Needs of metrics of these names besides image and target."""
    return frozenset(metrics.find_metric(name).needs for name in names)
