"""Observations by name: images, k-space, or the mask alone.

Every observation is made of a :class:`View`, so of acquired samples only. Intensities are in units
of the largest magnitude of the scan's first zero-filled image. All parts have one fixed shape;
smaller scans lie in the centre of it.
"""

import math
from collections.abc import Callable, Mapping
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
from activemri.envs.scan import Scan, View
from activemri.envs.scanner import may_reject
from activemri.metrics.reference import center_crop, to_uint8

#: Bound of floating-point parts, in units of the scale; values beyond it are clipped.
BOUND = 100.0


@dataclass(frozen=True)
class Frame:
    """Sizes that hold every scan of a data set."""

    shape: tuple[int, int]  # height and width of k-space
    target_shape: tuple[int, int]
    n_coils: int
    n_lines: int  # length of a mask
    repeats: int = 1  # how often a readout may be measured
    rejects: bool = False  # measurements may not count, so that masks differ between scans
    has_lines: bool = True  # readouts are whole lines of a Cartesian grid
    n_samples: int = 0  # of a readout, where samples lie on no grid

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
            rejects=may_reject(scan.scanner),
            has_lines=scan.geometry.has_lines,
            n_samples=0 if transform.is_cartesian else transform.n_samples,
        )

    @property
    def kspace_shape(self) -> tuple[int, int]:
        """That of the grid, or, where samples lie on none, readouts and samples of a readout."""
        return (self.n_lines, self.n_samples) if self.n_samples else self.shape


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
        budget = (view.budget / view.start_budget).unsqueeze(1)  # float32
        parts = {"mask": view.mask.to(torch.int8), "budget": budget}
        if frame.repeats > 1:
            share = (view.log.n_measured / frame.repeats).float()
            outlier = view.log.outlier_score
            parts["repeats"] = torch.stack([share, outlier / (1 + outlier)], dim=1)
        return parts


@dataclass(frozen=True)
class WithMask(Mask):
    """One part more, `key`, before mask and budget."""

    key: str
    shape: Callable[[Frame], tuple[int, ...]]  # of one scan's
    values: Callable[[View, Frame], Tensor]  # (batch, *shape), in -BOUND to BOUND, or uint8
    dtype: type[np.float32 | np.uint8] = np.float32

    def space(self, frame: Frame) -> spaces.Dict:
        low, high = (0, 255) if self.dtype is np.uint8 else (-BOUND, BOUND)
        box = spaces.Box(low, high, self.shape(frame), self.dtype)
        return spaces.Dict({self.key: box, **super().space(frame).spaces})

    def __call__(self, view: View, frame: Frame) -> dict[str, Tensor]:
        return {self.key: self.values(view, frame), **super().__call__(view, frame)}


class Flat:
    """Image, mask, budget (and repeats) in one vector of numbers in 0 to 1, for plain networks."""

    def space(self, frame: Frame) -> spaces.Box:
        parts = OBSERVATIONS["image"].space(frame)
        return spaces.Box(0, 1, (spaces.flatdim(parts),), np.float32)

    def __call__(self, view: View, frame: Frame) -> Tensor:
        parts: Any = OBSERVATIONS["image"](view, frame)
        parts["image"] = parts["image"].float() / 255
        return torch.cat([part.float().flatten(1) for part in parts.values()], dim=1)


def _image(view: View, frame: Frame, *more: Tensor) -> Tensor:
    """8-bit magnitude of the reconstruction in the target's area, and more channels."""
    pixels = view.pixels.unsqueeze(1)  # those of the next step lie elsewhere
    channels = torch.stack([view.pixels, *more], dim=1) if more else pixels
    if view.target_shape == frame.target_shape:
        return channels
    result = channels.new_zeros((*channels.shape[:2], *frame.target_shape))
    _centre(result, channels)
    return result


def _uncertainty(view: View, frame: Frame) -> Tensor:
    """The image, and the standard deviation: zero where the reconstructor gives none."""
    deviation = view.reconstruction.uncertainty
    if deviation is None:
        return _image(view, frame, torch.zeros_like(view.pixels))
    return _image(view, frame, to_uint8(deviation, view.gain, view.target_shape))


def _region(view: View, frame: Frame) -> Tensor:
    """The image, and the region of interest in white: black all over where there is none."""
    inside = torch.zeros_like(view.pixels) if view.region is None else view.region
    return _image(view, frame, 255 * inside.to(torch.uint8))


def _kspace(view: View, frame: Frame) -> Tensor:
    """Acquired k-space, zero elsewhere: real parts of all coils, then imaginary parts.

    Divided by the scale and by the square root of the number of pixels, so that the centre of
    k-space is of order one.
    """
    cartesian = view.transform.is_cartesian
    kspace = view.measurement.kspace if cartesian else view.log.samples.transpose(1, 2)
    scale = view.scale * math.prod(view.transform.shape) ** 0.5
    return _parts(kspace, scale, frame.n_coils, frame.kspace_shape)


def _multicoil(view: View, frame: Frame) -> Tensor:
    """Zero-filled image of every coil: all real parts, then imaginary parts."""
    operator, samples = view.operator, view.log.samples
    if operator.density is not None:
        samples = samples * operator.density[:, :, None]
    images = view.transform.adjoint(samples)
    return _parts(images, view.scale, frame.n_coils, frame.shape)


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


OBSERVATIONS: Mapping[str, Observation] = {
    "image": WithMask("image", lambda f: (1, *f.target_shape), _image, np.uint8),
    "uncertainty": WithMask("image", lambda f: (2, *f.target_shape), _uncertainty, np.uint8),
    "roi": WithMask("image", lambda f: (2, *f.target_shape), _region, np.uint8),
    "complex": WithMask(  # real and imaginary part of the reconstruction
        "image",
        lambda f: (2, *f.shape),
        lambda view, f: _parts(view.reconstruction.image.unsqueeze(1), view.scale, 1, f.shape),
    ),
    "kspace": WithMask("kspace", lambda f: (2 * f.n_coils, *f.kspace_shape), _kspace),
    "multicoil": WithMask("image", lambda f: (2 * f.n_coils, *f.shape), _multicoil),
    "mask": Mask(),
    "lines": WithMask(
        "lines",
        lambda f: (len(feature_names(f.has_lines)), f.n_lines),
        lambda view, _: readout_features(view).clamp(-BOUND, BOUND),
    ),
    "flat": Flat(),
}


def make_observation(observation: str | Observation) -> Observation:
    """The observation of that name, or ``package.module:object``; an object is taken as it is.

    Raises:
        ValueError: for an unknown name.
    """
    made: Any = observation
    if isinstance(observation, str):
        found: Any = plugins.find(observation, OBSERVATIONS, what="observation")
        made = found() if isinstance(found, type) else found
    if not callable(made) or not hasattr(made, "space"):
        raise ValueError(
            f"observation {observation!r}: expected an object with `space` that takes a view and a "
            f"frame; got {type(made).__name__}"
        )
    own: Observation = made
    return own


def require_in_space(observation: object, space: gymnasium.Space[Any]) -> None:
    """Refuse an observation of a batch whose first row does not lie in a space, by a ValueError."""
    parts = space.spaces if isinstance(space, spaces.Dict) else {"": space}
    given = observation if isinstance(observation, dict) else {"": observation}
    for name in {**parts, **given}:
        part, values = parts.get(name), given.get(name)
        first = values[0].cpu().numpy() if isinstance(values, Tensor) and values.ndim else None
        if part is not None and first is not None and part.contains(first):
            continue
        kind, shape = getattr(values, "dtype", type(values).__name__), getattr(values, "shape", ())
        raise ValueError(
            f"observation {name!r}: expected a tensor (batch, ...) in {part}; got {kind} of shape "
            f"{tuple(shape)}, or values beyond its bounds or NaN"
        )
