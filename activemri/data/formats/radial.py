"""Fully sampled radial scans, resampled onto a Cartesian grid."""

import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from activemri.data.formats.stored import refuse_unusable
from activemri.data.readers import UnreadableError
from activemri.mri import fourier
from activemri.mri.nufft import NUFFT
from activemri.mri.solvers import conjugate_gradient

REMEMBERED = 4  # trajectories; one of 400 spokes of 512 samples takes 7 MB
REGULARIZATION = 1e-3  # in the units of A^H W A, which is close to one
SIDE = 0.85  # a spoke counts on the sides where it reaches this share of the farthest sample
GAP = 3  # widest gap between neighbouring spokes, in units of that of the fewest equal ones
SPACING = 1.1  # widest step along a spoke, in units of that which covers the field of view
LARGEST = 0.5 * 1.001  # cycles per pixel, with rounding
ROUNDING = 1 + 1e-6

Floats = NDArray[np.float64]


def resample(
    samples: Tensor, trajectory: NDArray[np.floating], shape: tuple[int, int]
) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Cartesian k-space of the images that fit the spokes best.

    Images are solved for by weighted least squares and transformed. Beyond the disc that the spokes
    reach k-space is zero. Images are zero where steps along the spokes are too wide to tell what is
    there: outside a circle of one pixel over the widest step.

    Takes complex64 samples (coil, spoke, sample), and a trajectory in cycles per pixel, along the
    height first, (spoke, sample, 2). Gives k-space, complex64 (coil, height, width); bool (height,
    width), True in the disc that the spokes reach; and what was done.

    Raises:
        UnreadableError: if the samples are NaN, Inf or zero; and as :func:`refuse_incomplete`.
    """
    refuse_unusable(samples, "k-space")
    positions = np.ascontiguousarray(trajectory, np.float32)
    if positions.shape != (*samples.shape[1:], 2):
        raise UnreadableError(
            f"the trajectory must have the shape {(*samples.shape[1:], 2)} (spoke, sample, 2), as "
            f"k-space has {tuple(samples.shape)}; got {positions.shape}"
        )
    transform, weights, kernel, support, measured = _prepared(
        positions.tobytes(), positions.shape[1], shape
    )

    def normal(images: Tensor) -> Tensor:
        return transform.gram(images, kernel) * support + REGULARIZATION * images

    # Minimizes |W^(1/2) (A x - y)|^2 + regularization |x|^2 for images (coil, 1, height, width).
    # With the area that a sample stands for in k-space as its weight A^H W A is close to one, and
    # few steps are enough.
    flat = samples.flatten(1)
    largest = flat.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
    weighted = flat / largest * weights  # squares fit float32
    right = transform.adjoint(weighted[:, None]) * support
    images = largest * conjugate_gradient(normal, right)[:, 0]  # every coil with its own steps
    kspace = fourier.fft2(images) * measured
    return kspace, measured.clone(), (f"resampled from {len(positions)} radial spokes onto a grid",)


def refuse_incomplete(
    trajectory: NDArray[np.floating], shape: tuple[int, int]
) -> tuple[Floats, Floats, Floats, float]:
    """Refuse what is no fully sampled set of spokes for an image.

    Spokes at the distance of one over the field of view where they end, the condition of Nyquist,
    are pi times the matrix size times their length in cycles per pixel: pi / 2 times the matrix
    size, where they reach 0.5. Spokes of the same angle count once, those from the centre outwards
    half.

    Returns:
        Of the two sides of each spoke the angles in radians and the lengths, negative where there
        is none, (spoke, 2); places of the samples on their spokes, (spoke, sample); what every
        spoke reaches on its longer side. Lengths and places are in cycles per pixel.

    Raises:
        UnreadableError: with what was expected.
    """
    positions = np.asarray(trajectory, np.float64)
    if positions.ndim != 3 or positions.shape[2] != 2 or len(positions) == 0:
        raise UnreadableError(
            f"the trajectory must have the axes (spoke, sample, 2); got the shape {positions.shape}"
        )
    if positions.shape[1] < 2:
        raise UnreadableError("spokes of the trajectory must have at least two samples; got one")
    if not np.isfinite(positions).all():
        raise UnreadableError("NaN or Inf in the trajectory")
    radii = np.linalg.norm(positions, axis=2)
    if radii.max() > LARGEST:
        raise UnreadableError(
            f"the trajectory reaches {radii.max():.4g}; expected cycles per pixel, at most 0.5"
        )
    reach = float(radii.max(axis=1).min())
    if reach == 0:
        raise UnreadableError("a spoke of the trajectory never leaves the centre of k-space")

    farthest = np.take_along_axis(positions, radii.argmax(axis=1)[:, None, None], axis=1)
    unit = farthest / np.linalg.norm(farthest, axis=2, keepdims=True)  # (spoke, 1, 2)
    along = (positions * unit).sum(axis=2)
    steps = np.abs(np.diff(along, axis=1))
    aside = np.abs(positions[..., 0] * unit[..., 1] - positions[..., 1] * unit[..., 0]).max()
    missed = max((np.abs(along).min(axis=1) - steps.max(axis=1)).max(), 0.0)
    matrix = max(shape)
    if aside + missed > 1 / matrix:
        raise UnreadableError(
            f"not radial: samples lie {aside + missed:.3g} cycles per pixel off the straight lines "
            f"through the centre of k-space; expected at most {1 / matrix:.3g}"
        )
    fewest = max(math.floor(math.pi * reach * matrix), 1)
    angle = np.arctan2(unit[:, 0, 0], unit[:, 0, 1])
    sides = np.stack([angle, angle + math.pi], axis=1) % (2 * math.pi)
    ends = np.stack([along.max(axis=1), -along.min(axis=1)], axis=1)
    angles = sides[ends >= SIDE * ends.max()]
    angles = np.unique(np.round(angles * 8 * fewest / math.pi) % (16 * fewest))  # eighths of a gap
    if len(np.unique(angles % (8 * fewest))) == 1:
        raise UnreadableError("all spokes have the same angle; expected a radial scan")
    if len(angles) < 2 * fewest:
        raise UnreadableError(
            f"undersampled: {len(angles) / 2:g} spokes of different angles, a fully sampled scan "
            f"of {shape[0]} x {shape[1]} has at least {fewest}: no fully sampled truth"
        )
    gap = np.diff(angles, append=angles[0] + 16 * fewest).max() / 8
    if gap > GAP:
        raise UnreadableError(
            f"undersampled: a gap of {gap * 180 / fewest:.3g} degrees between neighbouring spokes, "
            f"a fully sampled scan has at most {GAP * 180 / fewest:.3g}: no fully sampled truth"
        )
    if steps.max() > SPACING / matrix:
        raise UnreadableError(
            f"undersampled: samples of a spoke are {steps.max():.3g} cycles per pixel apart, a "
            f"fully sampled scan has at most {1 / matrix:.3g}: no fully sampled truth"
        )
    return sides, ends, along, reach


@lru_cache(maxsize=REMEMBERED)
def _prepared(
    positions: bytes, n_samples: int, shape: tuple[int, int]
) -> tuple[NUFFT, Tensor, Tensor, Tensor, Tensor]:
    """All that slices of a trajectory share: A, W (sample,), the kernel of A^H W A, and two masks.

    Of (height, width): False where the image is known to be zero; the disc that the spokes reach.
    """
    trajectory = np.frombuffer(positions, np.float32).reshape(-1, n_samples, 2)
    sides, ends, along, reach = refuse_incomplete(trajectory, shape)

    # The area that each sample stands for, in square cycles per pixel, (spoke, sample).
    angles, there = sides.ravel(), ends.ravel() > 0
    order = np.flatnonzero(there)[np.argsort(angles[there])]
    gaps = np.diff(angles[order], append=angles[order[0]] + 2 * math.pi)
    wedges = np.zeros_like(angles)
    wedges[order] = (gaps + np.roll(gaps, 1)) / 2
    near, far = wedges.reshape(-1, 2, 1).transpose(1, 0, 2)
    steps = np.abs(np.gradient(along, axis=1))
    radii = np.maximum(np.abs(along), steps / 4)  # a share of the disc around the centre
    areas = radii * steps * np.where(along > 0, near, far)

    weights = torch.from_numpy((areas * math.prod(shape)).astype(np.float32)).flatten()
    transform = NUFFT(torch.from_numpy(trajectory.copy()), shape)
    down, across = (torch.arange(n, dtype=torch.float64) - n // 2 for n in shape)
    support = torch.hypot(down[:, None], across) <= 0.5 / np.abs(np.diff(along)).max() * ROUNDING
    disc = torch.hypot(down[:, None] / shape[0], across / shape[1]) <= reach * ROUNDING
    return transform, weights, transform.gram_kernel(weights[None]), support, disc
