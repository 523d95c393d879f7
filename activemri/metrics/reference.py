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
from functools import cached_property, lru_cache
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from activemri import metrics
from activemri.batched import Batched
from activemri.metrics import SSIM_K1, SSIM_K2
from activemri.mri.geometry import Increment

#: A downstream network's loss: magnitudes (batch, h, w) in units of the targets' largest values,
#: and labels (batch, ...), to a loss of each image, (batch,).
TaskFunction = Callable[[Tensor, Tensor], Tensor]

# Trials whose images are made at once for a downstream network.
_IMAGES_AT_ONCE = 64

# Scores that one pass over whole images gives.
_PLAIN = ("ssim", "mse", "nmse", "nrmse", "psnr")


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
        if self._is_compiled(image):
            pixels = np.empty((n, *shape), np.uint8)
            added = (increment, sensitivity)
            whole = self._pass(image, np.arange(n), *added, gain=gain.numpy(), pixels=pixels)
            plain, shown = dict(zip(_PLAIN, whole, strict=True)), torch.from_numpy(pixels)
        else:
            if increment is not None:
                image += increment.image(sensitivity)
            plain, shown = {}, to_uint8(image, gain, shape)
        if not plain.keys() >= set(names):
            owner = torch.arange(n, device=image.device)
            plain = self._named(_Trials(image, owner), names, task, plain=plain)
        return {name: plain[name] for name in names}, shown

    def _is_compiled(self, image: Tensor) -> bool:
        return image.device.type == "cpu" and self.target.shape[-1] <= _WIDEST

    def _named(
        self,
        trials: "_Trials",
        names: tuple[str, ...],
        task: TaskFunction | None,
        *,
        plain: dict[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Scores by name; `plain` are the :data:`_PLAIN` ones where known."""
        owner, needs, values = trials.owner, _needs(names), plain or {}
        if None in needs and not values:
            values = dict(zip(_PLAIN, self._measure(trials), strict=True))
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
            if loss.shape != part.owner.shape:
                raise ValueError(
                    f"a task must give one loss for each of {len(part.owner)} images; got shape "
                    f"{tuple(loss.shape)}; average over pixels, not over images"
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
        """The :data:`_PLAIN` scores, everywhere or in a region: float64 (5, trial).

        The data range of the SSIM is given in units of the slice's, float64 (batch,). Errors in a
        region are divided by the number of all pixels.
        """
        if not self._is_compiled(trials.image):
            return self._measure_with_torch(trials, relative_range, region)
        image, owner, increment = trials.image, trials.owner, trials.increment
        if increment is None or increment.right is not None:
            return self._pass(
                image,
                owner.numpy(),
                increment,
                trials.sensitivity,
                relative_range=relative_range,
                region=region,
            )
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
    ) -> Tensor:
        """The same by the compiled kernel; with `pixels` readouts are added in place."""
        left = right = _NO_LINES
        if increment is not None:
            assert increment.right is not None
            left = increment.left.contiguous().numpy()
            right = increment.right.contiguous().numpy()
        maps = np.empty((len(image), 0, *image.shape[1:]), np.complex64)
        if sensitivity is not None:
            maps = sensitivity.numpy()
        result = np.empty((len(_PLAIN), len(owner)))
        kernel: Any = _score_kernel
        kernel(
            image.numpy(),
            owner,
            left,
            right,
            maps,
            *self._arrays,
            _ONES if relative_range is None else relative_range.numpy(),
            _EVERYWHERE if region is None else region.numpy(),
            _NO_GAIN if gain is None else gain,
            _NO_PIXELS if pixels is None else pixels,
            result,
        )
        return torch.from_numpy(result)

    @cached_property
    def _arrays(self) -> tuple[NDArray[Any], ...]:
        return tuple(
            tensor.numpy()
            for tensor in (self.target, self.mean, self.variance, self.energy, self.data_range)
        )

    def _measure_with_torch(
        self, trials: "_Trials", relative_range: Tensor | None, region: Tensor | None
    ) -> Tensor:
        """The same in plain torch, for any device."""
        owner = trials.owner
        unit, target = self.data_range[owner], self.target[owner].double()
        shape = (target.shape[-2], target.shape[-1])
        magnitude = center_crop(trials.images(), shape).abs().double() / unit[:, None, None]
        error = (magnitude - target).square()
        data_range = torch.ones_like(unit) if relative_range is None else relative_range[owner]
        if region is None:
            ssim = metrics.ssim(magnitude, target, data_range=data_range)
        else:
            within = region[owner]
            ssim = metrics.roi_ssim(magnitude, target, region=within, data_range=data_range)
            error = error * within
        mse = error.mean(dim=(-2, -1)) * unit**2
        energy = self.energy[owner] / self.target[0].numel()
        nmse = torch.where(mse == 0, 0.0, mse / energy)  # as of metrics.normalise
        return torch.stack([ssim, mse, nmse, nmse.sqrt(), 10 * torch.log10(unit**2 / mse)])


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
    _add_lines_kernel(image.numpy(), left.numpy(), right.numpy(), maps)


def largest_magnitude(image: Tensor) -> Tensor:
    """Of each complex image (batch, height, width): float32 (batch,)."""
    if image.device.type != "cpu":
        return image.abs().amax(dim=(-2, -1))
    return torch.from_numpy(_largest_kernel(image.contiguous().numpy()))


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
        _window_statistics_kernel(target.contiguous().numpy(), mean.numpy(), variance.numpy())
        return mean, variance
    exact = target.double()
    mean = metrics.box_mean(exact)
    variance = metrics.SAMPLE_SCALE * (metrics.box_mean(exact**2) - mean**2)
    return mean.float(), variance.float()


@lru_cache(maxsize=64)
def _needs(names: tuple[str, ...]) -> frozenset[str | None]:
    """Needs of metrics of these names besides image and target."""
    return frozenset(metrics.find_metric(name).needs for name in names)


Complex = NDArray[np.complex64]
Single = NDArray[np.float32]
Double = NDArray[np.float64]

_compile = numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")

# What the compiled pass is given where there is nothing.
_NO_LINES = np.empty((0, 0, 0, 0), np.complex64)
_ONES, _EVERYWHERE = np.empty(0), np.empty((0, 0, 0), np.bool_)
_NO_GAIN, _NO_PIXELS = np.empty(0, np.float32), np.empty((0, 0, 0), np.uint8)


#: Rows of running sums lie so far apart in one array: a constant, which lets the compiler see that
#: they do not overlap, and the widest image that fits.
_WIDEST = 1040


@_compile
def _add_to_row(
    row: Complex, r: int, first: int, left: Complex, right: Complex, sensitivity: Complex
) -> None:
    """row += sum over coils of conj(sensitivity) * left @ right, at image row r from `first` on.

    left (coil, height, k) and right (coil, k, width) are one batch item's; `sensitivity`
    (coil, height, width) has no coils where there is one unit map.
    """
    n_coils, _, n_lines = left.shape
    last = first + len(row)
    for c in range(n_coils):
        for k in range(n_lines):
            factor = left[c, r, k]
            wave = right[c, k, first:last]
            if len(sensitivity) == 0:
                for j in range(len(row)):
                    row[j] += factor * wave[j]
            else:
                coil = sensitivity[c, r, first:last]
                for j in range(len(row)):
                    row[j] += np.conj(coil[j]) * (factor * wave[j])


@_compile
def _add_lines_kernel(image: Complex, left: Complex, right: Complex, sensitivity: Complex) -> None:
    """Add the lines `left @ right` to images in place.

    Shapes are (batch, height, width), (batch, coil, height, k), (batch, coil, k, width) and
    (batch, coil, height, width), of which there are no coils for a unit map.
    """
    for b in range(image.shape[0]):
        for r in range(image.shape[1]):
            _add_to_row(image[b, r], r, 0, left[b], right[b], sensitivity[b])


@_compile
def _show_row(magnitude: Single, gain: np.float32, pixels: NDArray[np.uint8]) -> None:
    """Magnitudes times a gain, cut off at 255 and rounded down."""
    for j in range(len(pixels)):
        # By way of int32, of which a processor converts several at a time.
        pixels[j] = np.int32(min(magnitude[j] * gain, np.float32(255)))


@_compile
def _take_row(
    magnitude: Single, target: Single, past: Single, kept: Single, sums: Single, scale: np.float32
) -> np.float32:
    """Add a row to the running sums of d, d^2 and d y, `_WIDEST` apart; return its sum of d^2.

    The row whose d `kept` holds, and whose target is `past`, is dropped; `kept` then holds the new
    one's. `scale` brings the image to the unit of the target.
    """
    error = np.float32(0)
    for j in range(len(target)):
        y = target[j]
        d = magnitude[j] * scale - y
        old = kept[j]
        kept[j] = d
        square = d * d
        error += square
        sums[j] += d - old
        sums[j + _WIDEST] += square - old * old
        sums[j + 2 * _WIDEST] += d * y - old * past[j]
    return error


@_compile
def _sum_anew(recent: Single, target: Single, r: int, sums: Single) -> None:
    """Running sums of the last seven rows up to row r, without what rounding has added up."""
    sums[:] = 0
    for k in range(7):
        row, y = recent[(r - k) % 7], target[r - k]
        for j in range(len(y)):
            d = row[j]
            sums[j] += d
            sums[j + _WIDEST] += d * d
            sums[j + 2 * _WIDEST] += d * y[j]


@_compile
def _similarity_row(
    sums: Single, mean: Single, variance: Single, k1: np.float32, k2: np.float32, result: Single
) -> np.float32:
    """SSIM of all windows of seven rows, into `result` (w - 6,); return its sum.

    `sums` lie `_WIDEST` apart; the second half is used for sums of two neighbours.
    """
    n, s = len(mean), sums
    for j in range(n + 5):
        s[j + 3 * _WIDEST] = s[j] + s[j + 1]
        s[j + 4 * _WIDEST] = s[j + _WIDEST] + s[j + _WIDEST + 1]
        s[j + 5 * _WIDEST] = s[j + 2 * _WIDEST] + s[j + 2 * _WIDEST + 1]
    total = np.float32(0)
    for j in range(n):
        p = j + 3 * _WIDEST
        d = (s[p] + s[p + 2]) + (s[p + 4] + s[j + 6])
        p = j + 4 * _WIDEST
        square = (s[p] + s[p + 2]) + (s[p + 4] + s[j + _WIDEST + 6])
        p = j + 5 * _WIDEST
        product = (s[p] + s[p + 2]) + (s[p + 4] + s[j + 2 * _WIDEST + 6])
        y, shift = mean[j], d * np.float32(1 / 49)
        own = np.float32(1 / 48) * (square - d * shift)  # sample variance of d
        # 2 cov(x, y) + k2, and 2 mean(x) mean(y) + k1
        b = np.float32(2 / 48) * (product - d * y) + (np.float32(2) * variance[j] + k2)
        a = np.float32(2) * y * (y + shift) + k1
        value = (a * b) / ((a + shift * shift) * (b + own))
        result[j] = value
        total += value
    return total


@_compile
def _sum_inside(values: Single, inside: NDArray[np.bool_]) -> tuple[float, int]:
    total, n = 0.0, 0
    for j in range(len(values)):
        if inside[j]:
            total += np.float64(values[j])
            n += 1
    return total, n


@numba.njit(cache=True, nogil=True, error_model="numpy")  # infinite numbers count here
def _put_errors(error: float, n: int, energy: float, unit: float, result: Double) -> None:
    """All but the first of the :data:`_PLAIN` scores by a sum of squares; see activemri.metrics."""
    result[0], result[1] = error / n, 0.0 if error == 0 else error / energy
    result[2], result[3] = np.sqrt(result[1]), 10 * np.log10(unit**2 / result[0])


@_compile
def _score_kernel(
    image: Complex,
    owner: NDArray[np.int64],
    left: Complex,
    right: Complex,
    sensitivity: Complex,
    target: Single,
    target_mean: Single,
    target_variance: Single,
    energy: Double,
    data_range: Double,
    relative_range: Double,
    region: NDArray[np.bool_],
    gain: Single,
    pixels: NDArray[np.uint8],
    result: Double,
) -> None:
    """Scores of images to which lines are added: on trial, or in place.

    Item i is image ``owner[i]`` plus ``left[i] @ right[i]``; with no lines (k = 0) it is the image
    itself. Images are cropped around their centre to the target's size. Targets and their window
    means and variances are in units of `data_range`; the range that SSIM itself is to use is given
    relative to it.

    Args:
        image: (batch, height, width).
        owner: image of each item, (item,).
        left, right, sensitivity: as for :func:`_add_lines_kernel`; the first two by item, of
            which there are none without lines.
        target: (batch, h, w).
        target_mean, target_variance: (batch, h - 6, w - 6).
        energy, data_range: (batch,).
        relative_range: (batch,), or empty for 1.
        region: (batch, h, w): where to sum errors, and SSIM by the windows' centres; or
            empty for everywhere.
        gain, pixels: (batch,) and result, (batch, h, w); lines then stay in the images, of which
            there is one an item. Or empty.
        result: the :data:`_PLAIN` scores, (5, item).
    """
    height, h, w = image.shape[1], target.shape[1], target.shape[2]
    top = height // 2 - h // 2
    first = image.shape[2] // 2 - w // 2
    in_place, everywhere, has_lines = len(pixels) > 0, len(region) == 0, len(left) > 0
    trial, magnitude = np.empty(w, np.complex64), np.empty(w, np.float32)
    sums = np.empty(6 * _WIDEST, np.float32)
    recent = np.empty((7, w), np.float32)  # differences of the last rows
    similarity = np.empty(w - 6, np.float32)
    for i in range(len(owner)):
        b = owner[i]
        sums[:] = 0
        recent[:] = 0
        total, error, n_counted = 0.0, 0.0, 0
        relative = relative_range[b] if len(relative_range) > 0 else 1.0
        k1 = np.float32((SSIM_K1 * relative) ** 2)
        k2 = np.float32((SSIM_K2 * relative) ** 2)
        scale = np.float32(1.0 / data_range[b])
        for place in range(0 if in_place else top, height if in_place else top + h):
            r = place - top
            visible = image[b, place, first : first + w]
            if has_lines and in_place:
                _add_to_row(image[b, place], place, 0, left[i], right[i], sensitivity[b])
            elif has_lines:
                trial[:] = visible
                _add_to_row(trial, place, first, left[i], right[i], sensitivity[b])
                visible = trial
            if r < 0 or r >= h:
                continue
            for j in range(w):
                z = visible[j]
                magnitude[j] = np.sqrt(z.real * z.real + z.imag * z.imag)
            if in_place:
                _show_row(magnitude, gain[b], pixels[b, r])
            past = target[b, max(r - 7, 0)]  # its partner is zero in the first seven rows
            kept = recent[r % 7]
            row_error: Any = _take_row(magnitude, target[b, r], past, kept, sums, scale)
            if not everywhere:
                row_error, _ = _sum_inside(kept * kept, region[b, r])
            error += row_error
            if r < 6:
                continue
            if r % 21 == 20:
                _sum_anew(recent, target[b], r, sums)
            mean, variance = target_mean[b, r - 6], target_variance[b, r - 6]
            row_total: Any = _similarity_row(sums, mean, variance, k1, k2, similarity)
            n_windows = w - 6
            if not everywhere:
                row_total, n_windows = _sum_inside(similarity, region[b, r - 3, 3 : w - 3])
            total += row_total
            n_counted += n_windows
        result[0, i] = total / n_counted
        _put_errors(error * data_range[b] ** 2, h * w, energy[b], data_range[b], result[1:, i])


@_compile
def _window_statistics_kernel(image: Single, mean: Single, variance: Single) -> None:
    """Mean and sample variance of every 7 x 7 window that fits: (batch, h - 6, w - 6)."""
    n_rows, n_columns = image.shape[1], image.shape[2]
    total = np.empty(n_columns, np.float64)
    squares = np.empty(n_columns, np.float64)
    for b in range(image.shape[0]):
        total[:] = 0
        squares[:] = 0
        for r in range(n_rows):
            present, past = image[b, r], image[b, max(r - 7, 0)]
            kept = 1.0 if r >= 7 else 0.0
            for j in range(n_columns):
                new, old = np.float64(present[j]), kept * np.float64(past[j])
                total[j] += new - old
                squares[j] += new * new - old * old
            if r < 6:
                continue
            for j in range(n_columns - 6):
                x, xx = 0.0, 0.0
                for k in range(7):
                    x += total[j + k]
                    xx += squares[j + k]
                m = x / 49.0
                mean[b, r - 6, j] = m
                variance[b, r - 6, j] = 49.0 / 48.0 * (xx / 49.0 - m * m)


@_compile
def _largest_kernel(image: Complex) -> Single:
    """Largest magnitude of each image (batch, height, width): (batch,)."""
    result = np.empty(image.shape[0], np.float32)
    for b in range(image.shape[0]):
        most = np.float32(0)
        for r in range(image.shape[1]):
            row = image[b, r]
            for j in range(len(row)):
                z = row[j]
                most = max(most, z.real * z.real + z.imag * z.imag)
        result[b] = np.sqrt(most)
    return result
