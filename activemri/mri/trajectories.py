"""Places of non-Cartesian samples in k-space, and how much of it each of them stands for.

Positions are in cycles per pixel, along the height first. An angle of 0 is along the width.
"""

import math

import torch
from torch import Tensor

from activemri.mri import fourier
from activemri.mri.nufft import NUFFT

GOLDEN_RATIO = (1 + math.sqrt(5)) / 2
ROLL_OFF = 2  # samples of the grid, at the edge of the disc


def nyquist(size: int) -> int:
    """Equally spaced spokes no farther apart than samples of a grid whose longer side is `size`."""
    return math.ceil(math.pi / 2 * size)


def uniform(n: int) -> Tensor:
    """Angles of n equally spaced spokes, float64 (spoke,), in radians from 0 to pi."""
    return math.pi / _at_least_one(n, "spoke") * torch.arange(n, dtype=torch.float64)


def golden(n: int, *, order: int = 1) -> Tensor:
    """Angles of n spokes, each a golden angle after the one before.

    Any number of spokes in a row is spread nearly equally (Winkelmann et al., IEEE TMI 26:68,
    2007). The steps are pi / (golden ratio + order - 1): 111.25 degrees for an order of 1. Tiny
    ones, 23.63 degrees for 7, mean smaller eddy currents (Wundrak et al., IEEE TMI 34:1262, 2015,
    equation 3). float64 (spoke,), in radians from 0 to pi: only directions matter.
    """
    step = math.pi / (GOLDEN_RATIO + _at_least_one(order, "order") - 1)
    return step * torch.arange(_at_least_one(n, "spoke"), dtype=torch.float64) % math.pi


def spokes(angles: Tensor, n_samples: int) -> Tensor:
    """Straight lines through the centre of k-space, from -1/2 to 1/2 - 1 / n_samples.

    Angles (readout,) are in radians. The number of samples is even: twice the size of the image for
    steps of half a sample of its grid. float32 (readout, sample, 2).
    """
    radii = _radii(n_samples)
    directions = torch.stack([angles.double().sin(), angles.double().cos()], dim=-1)
    return (directions[:, None] * radii[:, None]).float()


def spiral(n_interleaves: int, n_samples: int, *, size: int, reach: float = 0.5) -> Tensor:
    """Archimedean spirals from the centre outwards, with equal steps along them.

    The interleaves are rotated copies, equally spaced; their turns together are 1 / size apart, the
    longer side of the image in pixels. They end at a radius of `reach` cycles per pixel. Gradients
    and their slew are not limited. float32 (readout, sample, 2).
    """
    if not 0 < reach <= 0.5:
        raise ValueError(f"expected a reach of at most 0.5 cycles per pixel; got {reach}")
    _at_least_one(min(n_interleaves, size), "interleave and pixel")
    _at_least_one(n_samples - 1, "step between samples")
    turned = 2 * math.pi * reach * size / n_interleaves  # of one interleave, in radians
    angle = torch.linspace(0, turned, 64 * n_samples, dtype=torch.float64)
    length = angle * (1 + angle**2).sqrt() + angle.asinh()  # of the curve, in its own unit
    wanted = torch.linspace(0, float(length[-1]), n_samples, dtype=torch.float64)
    after = torch.searchsorted(length, wanted).clamp(1, len(length) - 1)
    share = (wanted - length[after - 1]) / (length[after] - length[after - 1])
    angle = torch.lerp(angle[after - 1], angle[after], share)
    starts = 2 * math.pi / n_interleaves * torch.arange(n_interleaves, dtype=torch.float64)
    angles = starts[:, None] + angle
    radii = reach * angle / turned
    return (radii[:, None] * torch.stack([angles.sin(), angles.cos()], dim=-1)).float()


def wedges(angles: Tensor, acquired: Tensor) -> Tensor:
    """Angle that each acquired spoke stands for: half of the gaps to both of its neighbours.

    Angles (readout,) are those of all spokes in any order, `acquired` is bool (batch, readout), and
    so is the result in float64: radians, 0 where not acquired. They add up to pi; spokes of the
    same angle share theirs.
    """
    sorted_angles, order = (angles.double() % math.pi).sort()
    there = acquired[:, order].repeat(1, 3)  # the turns before and after are neighbours too
    turns = torch.cat([sorted_angles + turn * math.pi for turn in (-1, 0, 1)])
    before = turns.where(there, -math.inf).cummax(dim=1).values
    after = turns.where(there, math.inf).flip(1).cummin(dim=1).values.flip(1)
    middle = slice(len(angles), 2 * len(angles))
    left, right = before.roll(1, dims=1)[:, middle], after.roll(-1, dims=1)[:, middle]
    widths = torch.zeros_like(left)
    widths[:, order] = ((right - left) / 2).where(acquired[:, order], 0)
    return widths


def density(angles: Tensor, acquired: Tensor, *, n_samples: int, shape: tuple[int, int]) -> Tensor:
    """Weights of the samples of acquired spokes: the area of k-space that each stands for.

    W for which A^H W A is close to one for images within the disc |k| <= 1/2, where it is sampled
    completely: the angle of :func:`wedges` times max(|k|, dk / 4) dk height width, in units of a
    sample of the image's own grid. The sample at the centre stands for a disc of radius dk / 2.

    Args:
        angles, acquired: as for :func:`wedges`.
        n_samples: of a spoke of :func:`spokes`, dk = 1 / n_samples apart.
        shape: (height, width) of the images.

    Returns:
        float32 (batch, readout, sample), 0 where not acquired.
    """
    turns = wedges(angles.to(acquired.device), acquired)
    return (turns[..., None] * ramp(n_samples, shape).to(acquired.device)).float()


def ramp(n_samples: int, shape: tuple[int, int]) -> Tensor:
    """The part of :func:`density` that does not depend on what is acquired: (sample,)."""
    spacing = 1 / n_samples
    return _radii(n_samples).abs().clamp_min(spacing / 4) * spacing * math.prod(shape)


def pipe_menon(transform: NUFFT, acquired: Tensor | None = None, *, steps: int = 15) -> Tensor:
    """Density weights of any trajectory (Pipe and Menon, MRM 41:179, 1999, equation 19).

    Weights are divided by what they add up to around each sample, until that is one. They are
    added up with the positive kernel of an elliptic field of view (Johnson and Pipe, MRM 61:439,
    2009): A A^H itself, the kernel of a rectangle, is negative in places and spoils the iteration.
    Its integral is one, so that the weights are in units of a sample of the image's own grid as
    those of :func:`density`, and samples with gaps around them stand for no more than one.

    Args:
        transform: A.
        acquired: bool (batch, sample), for weights of those alone; None for all samples.
        steps: of the iteration.

    Returns:
        real (batch, sample), 0 where not acquired.
    """
    trajectory = transform.trajectory.detach()
    height, width = shape = transform.shape
    differences = NUFFT(
        trajectory,
        (2 * height - 1, 2 * width - 1),
        eps=transform.eps,
        n_threads=transform.n_threads,
    )
    # Common share of two elliptic fields of view by their distance, one where they are the same.
    down, across = (torch.arange(1 - n, n, dtype=torch.float64) / n for n in shape)
    apart = torch.hypot(down[:, None], across).clamp_max(1)
    overlap = 2 / math.pi * (apart.acos() - apart * (1 - apart**2).sqrt())
    kernel = overlap.to(trajectory) * (math.prod(differences.shape) / math.prod(shape))
    if acquired is None:
        acquired = trajectory.new_ones(1, transform.n_samples, dtype=torch.bool)
    weights = acquired.to(trajectory.dtype)
    for _ in range(steps):
        image = differences.adjoint(torch.complex(weights, torch.zeros_like(weights))[:, None])
        total = differences.forward(image * kernel)[:, 0].abs()
        weights = weights / total.clamp_min(torch.finfo(total.dtype).tiny)
    return weights


def limit_to_disc(images: Tensor) -> Tensor:
    """Complex images (..., height, width) without the corners of k-space, which no spoke reaches.

    Targets of radial scans are such images. Samples are kept inside |k| <= 1/2; at the edge they
    fall as a raised cosine over the last two samples of the shorter side.
    """
    shape = images.shape[-2:]
    down, across = ((torch.arange(n, dtype=torch.float64) - n // 2) / n for n in shape)
    inside = (0.5 - torch.hypot(down[:, None], across)) * min(shape) / ROLL_OFF
    share = (0.5 - 0.5 * torch.cos(math.pi * inside.clamp(0, 1))).float()
    share = share.to(images.device, images.real.dtype)[None]
    flat = images.reshape(-1, *shape)
    return fourier.weigh(flat, share, fourier.IMAGE_AXES).reshape(images.shape)


def _radii(n_samples: int) -> Tensor:
    """Places along a spoke in cycles per pixel, float64 (sample,)."""
    if n_samples < 2 or n_samples % 2:
        raise ValueError(f"expected an even number of samples, at least 2; got {n_samples}")
    return torch.arange(n_samples, dtype=torch.float64) / n_samples - 0.5


def _at_least_one(n: int, name: str) -> int:
    if n < 1:
        raise ValueError(f"expected at least one {name}; got {n}")
    return n
