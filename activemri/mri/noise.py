"""Additions of a scanner to an ideal image: thermal noise and a smooth background phase."""

import math

import numpy as np
import torch
from torch import Tensor


def complex_noise(
    shape: tuple[int, ...], *, sigma: float, generator: np.random.Generator
) -> Tensor:
    """Circular complex Gaussian noise, complex64.

    `sigma` is the standard deviation of a complex sample, E|n|^2 = sigma^2: the real and the
    imaginary part have sigma / sqrt(2) each. The orthonormal Fourier transform keeps it, so it
    is the same number in k-space and in the image.

    Raises:
        ValueError: if sigma is negative or not finite.
    """
    if not (math.isfinite(sigma) and sigma >= 0):
        raise ValueError(f"sigma must be a finite number of at least 0; got {sigma}")
    parts = generator.standard_normal((*shape, 2), dtype=np.float32)
    return torch.view_as_complex(torch.from_numpy(parts)) * (sigma / math.sqrt(2))


def smooth_phase(
    height: int, width: int, *, generator: np.random.Generator, strength: float = 1.0
) -> Tensor:
    """A plausible background phase, as field inhomogeneity and the receive coil leave it.

    A random offset, a random linear ramp (an echo slightly off centre), a random bowl (the field
    away from the centre of the magnet) and four plane waves of at most 1.2 periods over the field
    of view (susceptibility). The field is defined on the unit square, so that a finer grid samples
    the same kind of field more finely; the generator is drawn from equally for every grid.

    `strength` scales everything but the offset. At 1 the phase varies by 1 to 2 radians (standard
    deviation over the field of view), at 0 it is constant.

    Returns:
        float32 phase in radians, (height, width); not wrapped.
    """
    offset = generator.uniform(-math.pi, math.pi)
    ramp = generator.normal(0, 1.8, 2)
    bowl = generator.normal(0, 2.5, 3)
    waves = generator.uniform(-1.2, 1.2, (4, 2))
    heights = generator.normal(0, 0.45, 4)
    starts = generator.uniform(0, 2 * math.pi, 4)
    y = (np.arange(height) - height // 2)[:, None] / height
    x = (np.arange(width) - width // 2)[None, :] / width
    field = ramp[0] * y + ramp[1] * x
    field = field + bowl[0] * x**2 + bowl[1] * x * y + bowl[2] * y**2
    for (down, across), amplitude, start in zip(waves, heights, starts, strict=True):
        field = field + amplitude * np.sin(2 * math.pi * (down * y + across * x) + start)
    return torch.from_numpy((offset + strength * field).astype(np.float32))


def estimated_sigma(kspace: Tensor) -> Tensor:
    """Noise of every coil, from samples so far from the origin that there is little else.

    The samples are those of the outer eighth of the rows on both sides of k-space (..., coil,
    height, width), where zeros count as not acquired. Their median is used, so that the columns of
    low frequencies, in which there is signal up to the last row, matter little. Where all samples
    hold signal it is too large.

    Returns:
        Standard deviation per complex sample as in :func:`complex_noise`, (..., coil); zero for a
        coil without samples.
    """
    edge = max(kspace.shape[-2] // 8, 1)
    outer = torch.cat([kspace[..., :edge, :], kspace[..., -edge:, :]], dim=-2)
    power = outer.abs().square().flatten(-2)
    median = torch.where(power > 0, power, torch.nan).nanmedian(dim=-1).values
    # the power of circular noise is exponential: its median is the mean times log 2
    return (median.nan_to_num() / math.log(2)).sqrt()
