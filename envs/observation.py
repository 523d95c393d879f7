"""Observations by name: images, k-space, or the mask alone.

Every observation is made of a :class:`View`, so of acquired samples only. Intensities are divided
by the largest magnitude of the zero-filled image at the start of the scan; the target plays no
part. All parts have one fixed shape; smaller scans lie in the centre of it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from activemri import plugins
from activemri.data.slices import SliceDataset
from activemri.envs.line_features import feature_names, readout_features
from activemri.envs.scan import WHITE, Scan, View
from activemri.metrics.reference import center_crop, to_uint8

#: Bound of floating-point parts, in units of the scale; values beyond it are clipped.
BOUND = 100.0


@dataclass(frozen=True)
class Frame:
    """Sizes that hold every scan of a data set.

    Attributes:
        shape: height and width of k-space.
        target_shape: height and width of the target.
        n_coils: coils.
        n_lines: length of a mask.
        repeats: how often a readout may be measured.
        has_lines: readouts are whole lines of a Cartesian grid.
        n_samples: of a readout, where samples lie on no grid; else 0.
    """

    shape: tuple[int, int]
    target_shape: tuple[int, int]
    n_coils: int
    n_lines: int
    repeats: int = 1
    has_lines: bool = True
    n_samples: int = 0

    @classmethod
    def of(cls, dataset: SliceDataset, scan: Scan) -> "Frame":
        """The frame of scans that are acquired in a certain way."""
        transform = scan.geometry.transform
        targets = [dataset.describe(i).target_shape for i in range(len(dataset))]
        return cls(
            shape=dataset.shape,
            target_shape=(max(h for h, _ in targets), max(w for _, w in targets)),
            n_coils=dataset.n_coils,
            n_lines=scan.geometry.n_readouts,
            repeats=scan.scanner.repeats,
            has_lines=scan.geometry.has_lines,
            n_samples=0 if transform.is_cartesian else transform.n_samples,
        )


class Observation(Protocol):
    """Turns a view into what the agent sees."""

    def space(self, frame: Frame) -> gymnasium.Space[Any]:
        """The space of one scan's observation: a flat Dict of boxes, or a single Box."""
        ...

    def __call__(self, view: View, frame: Frame) -> dict[str, Tensor] | Tensor:
        """Observations of a batch, (batch, ...) each, in the space's shapes and types."""
        ...


class Mask:
    """Acquired readouts and the remaining budget: `mask` (n_lines,), `budget` (1,), a fraction.

    Where lines may be measured again, also `repeats` (2, n_lines): how often each was measured, as
    a fraction of how often it may be, and how much its last measurement looked like an outlier,
    s / (1 + s) for the outlier score s of :class:`activemri.envs.scanner.MeasurementLog`.
    """

    def space(self, frame: Frame) -> spaces.Dict:
        parts: dict[str, gymnasium.Space[Any]] = {
            "mask": spaces.MultiBinary(frame.n_lines),
            "budget": spaces.Box(0, 1, (1,), np.float32),
        }
        if frame.repeats > 1:
            parts["repeats"] = spaces.Box(0, 1, (2, frame.n_lines), np.float32)
        return spaces.Dict(parts)

    def __call__(self, view: View, frame: Frame) -> dict[str, Tensor]:
        budget = view.budget / view.start_budget
        parts = {"mask": view.mask.to(torch.int8), "budget": budget.float()[:, None]}
        if frame.repeats > 1:
            share = (view.log.n_measured / frame.repeats).float()
            outlier = view.log.outlier_score
            parts["repeats"] = torch.stack([share, outlier / (1 + outlier)], dim=1)
        return parts


class Image:
    """Magnitude of the reconstruction as an 8-bit image, with mask and budget.

    `image` is (1, height, width), cropped to the target's size; with `uncertainty` a second
    channel shows the standard deviation (zero where the reconstructor gives none); with `region`
    the last channel is white in the region of interest (black all over where there is none).
    """

    def __init__(self, *, uncertainty: bool = False, region: bool = False) -> None:
        self.n_channels = 1 + uncertainty + region
        self.uncertainty = uncertainty
        self.region = region

    def space(self, frame: Frame) -> spaces.Dict:
        shape = (self.n_channels, *frame.target_shape)
        return spaces.Dict(
            {"image": spaces.Box(0, 255, shape, np.uint8), **Mask().space(frame).spaces}
        )

    def __call__(self, view: View, frame: Frame) -> dict[str, Tensor]:
        seen, shape = view.pixels, view.target_shape
        if self.n_channels == 1 and shape == frame.target_shape:
            return {"image": seen.unsqueeze(1).clone(), **Mask()(view, frame)}
        pixels = seen.new_zeros((len(seen), self.n_channels, *frame.target_shape))
        _centre(pixels[:, 0], seen)
        uncertainty = view.reconstruction.uncertainty
        if self.uncertainty and uncertainty is not None:
            gain = torch.where(view.scale > 0, 255 / (WHITE * view.scale), 0.0)
            _centre(pixels[:, 1], to_uint8(uncertainty, gain, shape))
        if self.region and view.region is not None:
            _centre(pixels[:, -1], 255 * view.region.to(torch.uint8))
        return {"image": pixels, **Mask()(view, frame)}


class Complex:
    """Real and imaginary part of the reconstruction: `image` float32 (2, height, width)."""

    def space(self, frame: Frame) -> spaces.Dict:
        return spaces.Dict({"image": _box(2, frame.shape), **Mask().space(frame).spaces})

    def __call__(self, view: View, frame: Frame) -> dict[str, Tensor]:
        image = view.reconstruction.image.unsqueeze(1)
        return {"image": _parts(image, view.scale, 1, frame.shape), **Mask()(view, frame)}


class Kspace:
    """Acquired k-space, zero elsewhere: `kspace` float32 (2 * coil, height, width).

    Real parts of all coils, then imaginary parts; divided by the scale and by the square root of
    the number of pixels, so that the centre of k-space is of order one. Where samples lie on no
    grid: (2 * coil, readouts, samples of a readout).
    """

    def space(self, frame: Frame) -> spaces.Dict:
        shape = (frame.n_lines, frame.n_samples) if frame.n_samples else frame.shape
        box = _box(2 * frame.n_coils, shape)
        return spaces.Dict({"kspace": box, **Mask().space(frame).spaces})

    def __call__(self, view: View, frame: Frame) -> dict[str, Tensor]:
        scale, shape = view.scale * math.prod(view.transform.shape) ** 0.5, frame.shape
        if view.transform.is_cartesian:
            kspace = view.measurement.kspace
        else:
            kspace = view.log.samples.transpose(1, 2)
            shape = (kspace.shape[-2], kspace.shape[-1])
        parts = _parts(kspace, scale, frame.n_coils, shape)
        return {"kspace": parts, **Mask()(view, frame)}


class Multicoil:
    """Zero-filled image of every coil: `image` float32 (2 * coil, height, width)."""

    def space(self, frame: Frame) -> spaces.Dict:
        box = _box(2 * frame.n_coils, frame.shape)
        return spaces.Dict({"image": box, **Mask().space(frame).spaces})

    def __call__(self, view: View, frame: Frame) -> dict[str, Tensor]:
        operator, samples = view.operator, view.log.samples
        if operator.density is not None:
            samples = samples * operator.density[:, :, None]
        images = view.transform.adjoint(samples)
        parts = _parts(images, view.scale, frame.n_coils, frame.shape)
        return {"image": parts, **Mask()(view, frame)}


class Lines:
    """A few numbers for every readout: `lines` float32 (features, n_readouts), mask and budget.

    The features: :mod:`activemri.envs.line_features`.
    """

    def space(self, frame: Frame) -> spaces.Dict:
        shape = (len(feature_names(frame.has_lines)), frame.n_lines)
        box = spaces.Box(-BOUND, BOUND, shape, np.float32)
        return spaces.Dict({"lines": box, **Mask().space(frame).spaces})

    def __call__(self, view: View, frame: Frame) -> dict[str, Tensor]:
        return {"lines": readout_features(view).clamp(-BOUND, BOUND), **Mask()(view, frame)}


class Flat:
    """Image, mask, budget (and repeats) in one vector of numbers in 0 to 1, for plain networks."""

    def space(self, frame: Frame) -> spaces.Box:
        n_repeats = 2 * frame.n_lines * (frame.repeats > 1)
        n = math.prod(frame.target_shape) + frame.n_lines + 1 + n_repeats
        return spaces.Box(0, 1, (n,), np.float32)

    def __call__(self, view: View, frame: Frame) -> Tensor:
        parts = Image()(view, frame)
        pixels = parts["image"].flatten(1).float() / 255
        return torch.cat(
            [pixels, *(parts[key].float().flatten(1) for key in parts if key != "image")], dim=1
        )


OBSERVATIONS: Mapping[str, Observation] = {
    "image": Image(),
    "uncertainty": Image(uncertainty=True),
    "roi": Image(region=True),
    "complex": Complex(),
    "kspace": Kspace(),
    "multicoil": Multicoil(),
    "mask": Mask(),
    "lines": Lines(),
    "flat": Flat(),
}


def make_observation(observation: str | Observation) -> Observation:
    """The observation of that name, or ``package.module:object``; an object is taken as it is.

    Raises:
        ValueError: for an unknown name.
    """
    if not isinstance(observation, str):
        return observation
    found: Any = plugins.find(observation, OBSERVATIONS, what="observation")
    made: Observation = found() if isinstance(found, type) else found
    if not callable(made) or not hasattr(made, "space"):
        raise ValueError(
            f"observation {observation!r}: expected an object with `space` that takes a view and a "
            f"frame; got {type(made).__name__}"
        )
    return made


def _box(n_channels: int, shape: tuple[int, int]) -> spaces.Box:
    return spaces.Box(-BOUND, BOUND, (n_channels, *shape), np.float32)


def _parts(images: Tensor, scale: Tensor, n_coils: int, shape: tuple[int, int]) -> Tensor:
    """Complex (batch, coil, h, w) to float32 (batch, 2 * n_coils, *shape), in units of scale."""
    unit = torch.where(scale > 0, scale, torch.ones_like(scale))[:, None, None, None, None]
    # Parts are divided as real numbers: complex division may round differently within a batch.
    scaled = (torch.view_as_real(images.resolve_conj()) / unit).clamp(-BOUND, BOUND)
    result = scale.new_zeros((len(images), 2, n_coils, *shape), dtype=torch.float32)
    _centre(result[:, :, : images.shape[1]], scaled.movedim(-1, 1))
    return result.flatten(1, 2)


def _centre(frame: Tensor, values: Tensor) -> None:
    """Copy images into the centre of a frame."""
    center_crop(frame, (values.shape[-2], values.shape[-1])).copy_(values)
