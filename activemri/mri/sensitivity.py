"""Coil maps from the acquired centre of k-space alone.

The lines (or, for points, the square) around the origin that are acquired without a gap say how
the coils see the object's coarse structure, and coil maps are smooth. Three ways of going from one
to the other, of rising effort: a ratio of low-resolution images, the main direction of the coils'
signal in a patch (Walsh), and the null space of short convolutions in k-space (ESPIRiT).

All of them give maps of unit norm over the coils in every pixel, equal coils where nothing is
known, and ones for a single coil. A map times a phase explains the measurement just as well: all
take the phase of the low-resolution image, so that images come out nearly real.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from activemri.mri import fourier
from activemri.mri.coils import root_sum_of_squares, unit_norm

#: Maps from k-space (batch, coil, height, width) and a mask (batch, height or 1, width or 1).
SensitivityEstimator = Callable[[Tensor, Tensor], Tensor]

_REACH = 24  # samples from the origin; further ones tell no estimator anything
WIDEST = 16  # half the widest window in k-space that maps are estimated with, in samples
FLOOR = 1e-3  # of the strongest signal: below it maps fade to equal coils
_POWER_STEPS = 40


def low_resolution(kspace: Tensor, mask: Tensor) -> Tensor:
    """The ratio of low-resolution coil images to their root sum of squares (McKenzie et al. 2002).

    A Hann window as wide as the block, and at most 32 samples wide, keeps ringing out. Without the
    origin there is no such block and all coils count equally; likewise where there is no signal.

    Args:
        kspace: complex (batch, coil, height, width); samples outside the mask are ignored.
        mask: bool (batch or 1, height or 1, width or 1), True where acquired.

    Returns:
        Maps like kspace.

    Raises:
        ValueError: if the shapes do not fit.
    """
    _check(kspace, mask)
    if kspace.shape[1] == 1:
        return torch.ones_like(kspace)
    low = _low_resolution_images(kspace, mask)
    peak = root_sum_of_squares(low).amax(dim=(-2, -1))[:, None, None, None]
    return unit_norm(low + FLOOR * peak / math.sqrt(kspace.shape[1]))


def walsh(kspace: Tensor, mask: Tensor, *, patch: int = 5) -> Tensor:
    """The main direction of the coils' signal in a patch around every pixel.

    Walsh et al., Adaptive reconstruction of phased array MR imagery, MRM 43:682 (2000): the
    eigenvector of the largest eigenvalue of the covariance of the coil images, here of the
    low-resolution ones, over a square patch.

    Args:
        kspace: as for :func:`low_resolution`.
        mask: as there.
        patch: side of the square in pixels, odd.

    Raises:
        ValueError: if the shapes do not fit, or the patch has no centre.
    """
    _check(kspace, mask)
    if patch < 1 or patch % 2 == 0:
        raise ValueError(f"expected an odd patch of at least 1 pixel; got {patch}")
    if kspace.shape[1] == 1:
        return torch.ones_like(kspace)
    low = _low_resolution_images(kspace, mask)
    covariance = _patch_mean(low.unsqueeze(2) * low.conj().unsqueeze(1), patch)
    return _with_phase(_main_direction(covariance, low), low)


def espirit(
    kspace: Tensor,
    mask: Tensor,
    *,
    kernel: int = 6,
    calibration: int = 24,
    threshold: float = 0.02,
) -> Tensor:
    """Eigenvectors of the coils' own convolutions.

    Uecker et al., ESPIRiT - an eigenvalue approach to autocalibrating parallel MRI, MRM 71:990
    (2014). The patches of k-space that occur span a space; what its projector does is a matrix over
    coils in every pixel, whose eigenvector of eigenvalue one is the map. Ours has no cut where the
    eigenvalue falls below one: there is little signal there, and maps of norm one keep the data.

    The pixel's matrix is the transform of the kernels' correlations, so it takes n_coils^2 short
    sums and transforms instead of one of each kernel.

    Args:
        kspace: as for :func:`low_resolution`.
        mask: as there.
        kernel: side of a patch in samples; at most half the block, rounded up.
        calibration: widest block that patches are taken from.
        threshold: of singular values, in units of the largest: below it is noise.

    Raises:
        ValueError: if the shapes do not fit, or a size is below 1.
    """
    _check(kspace, mask)
    if kernel < 1 or calibration < 1 or not 0 <= threshold < 1:
        raise ValueError(
            "expected a kernel and a block of at least 1 sample and a threshold in [0, 1); got "
            f"{kernel}, {calibration} and {threshold}"
        )
    if kspace.shape[1] == 1:
        return torch.ones_like(kspace)
    low = _low_resolution_images(kspace, mask)
    height, width = kspace.shape[-2:]
    acquired = mask.expand(len(kspace), height, width)
    maps = []
    for row, coils in enumerate(kspace):
        rows, columns = _block(acquired[row], calibration)
        if rows.start == rows.stop or columns.start == columns.stop:
            maps.append(unit_norm(torch.zeros_like(coils)))
            continue
        matrix = _pixel_matrices(coils[:, rows, columns], (height, width), kernel, threshold)
        maps.append(_main_direction(matrix.unsqueeze(0), low[row : row + 1])[0])
    return _with_phase(torch.stack(maps), low)


#: By name; one line adds one.
ESTIMATORS: dict[str, SensitivityEstimator] = {
    "low-resolution": low_resolution,
    "walsh": walsh,
    "espirit": espirit,
}


@dataclass(frozen=True)
class CoilMaps:
    """Estimation of coil maps during a scan.

    Attributes:
        estimate: maps from what has been acquired around the centre.
        updated: estimate again whenever something new is acquired there; else the lines that the
            scan starts with decide.
    """

    estimate: SensitivityEstimator = low_resolution
    updated: bool = False

    @staticmethod
    def may_change(before: Tensor, after: Tensor) -> Tensor:
        """Masks that differ in what maps are estimated from: bool (batch,).

        Args:
            before, after: bool (batch, height or 1, width or 1).
        """
        parts = [
            slice(max(n // 2 - _REACH, 0), n // 2 + _REACH) if n > 1 else slice(None)
            for n in before.shape[-2:]
        ]
        return (before != after)[:, parts[0], parts[1]].flatten(1).any(dim=1)


#: The usual: low-resolution images of the lines that a scan starts with.
FROM_START = CoilMaps()
_UPDATED = "-updated"


def make_coil_maps(maps: str | CoilMaps) -> CoilMaps:
    """Coil maps by name: that of an estimator, e.g. "espirit", or "espirit-updated".

    Raises:
        ValueError: for an unknown name.
    """
    if isinstance(maps, CoilMaps):
        return maps
    name = maps.removesuffix(_UPDATED)
    if name not in ESTIMATORS:
        raise ValueError(
            f"unknown coil maps {maps!r}; expected one of {', '.join(ESTIMATORS)}, or one of them "
            f"followed by {_UPDATED}"
        )
    return CoilMaps(ESTIMATORS[name], updated=maps.endswith(_UPDATED))


def _check(kspace: Tensor, mask: Tensor) -> None:
    if kspace.ndim != 4 or mask.ndim != 3 or mask.shape[0] not in (1, kspace.shape[0]):
        raise ValueError(
            "expected kspace (batch, coil, height, width) and a mask (batch, height or 1, width "
            f"or 1); got {tuple(kspace.shape)} and {tuple(mask.shape)}"
        )


def _low_resolution_images(kspace: Tensor, mask: Tensor) -> Tensor:
    """Coil images of the acquired centre, complex (batch, coil, height, width)."""
    height, width = kspace.shape[-2:]
    window = _centre_window(mask.expand(len(kspace), height, width)).to(kspace.real.dtype)
    # torch.where and not a product: samples that were not acquired may even be NaN
    centre = torch.where((window > 0).unsqueeze(1), kspace, 0) * window.unsqueeze(1)
    return fourier.ifft2(centre)


def _with_phase(maps: Tensor, low: Tensor) -> Tensor:
    """Maps whose combination of the low-resolution images is real, or equal coils without any."""
    peak = root_sum_of_squares(low).amax(dim=(-2, -1))[:, None, None, None]
    seen = torch.sum(maps.conj() * low, dim=1, keepdim=True)
    size = seen.abs()
    phase = torch.where(size > 0, seen / size.clamp_min(torch.finfo(size.dtype).tiny), 1)
    return torch.where(peak > 0, maps * phase, unit_norm(torch.zeros_like(maps)))


def _main_direction(matrices: Tensor, start: Tensor) -> Tensor:
    """Eigenvectors of the largest eigenvalues, by power iteration.

    Args:
        matrices: Hermitian and non-negative, (batch, coil, coil, height, width).
        start: what they are like, (batch, coil, height, width).

    Returns:
        Like start, of unit norm.
    """
    batch, n_coils, height, width = start.shape
    # One matrix a pixel, next to each other in memory: (batch * height * width, coil, coil).
    stacked = matrices.permute(0, 3, 4, 1, 2).reshape(-1, n_coils, n_coils).contiguous()
    vector = unit_norm(start).permute(0, 2, 3, 1).reshape(-1, n_coils, 1)
    # The start may be blind to the direction sought; a little of every coil is not.
    vector = vector + 1e-3
    for _ in range(_POWER_STEPS):
        vector = torch.bmm(stacked, vector)
        norm = torch.linalg.vector_norm(vector, dim=1, keepdim=True)
        vector = vector / norm.clamp_min(torch.finfo(norm.dtype).tiny)
    return unit_norm(vector.reshape(batch, height, width, n_coils).permute(0, 3, 1, 2))


def _pixel_matrices(block: Tensor, shape: tuple[int, int], kernel: int, threshold: float) -> Tensor:
    """Action of the projector onto patches in every pixel: (coil, coil, height, width)."""
    n_coils = len(block)
    height, width = (min(kernel, (size + 1) // 2) for size in block.shape[-2:])
    patches = block.unfold(1, height, 1).unfold(2, width, 1)  # (coil, down, right, height, width)
    patches = patches.permute(1, 2, 0, 3, 4).reshape(-1, n_coils * height * width)
    _, values, basis = torch.linalg.svd(patches, full_matrices=False)
    basis = basis[values > threshold * values[0]]
    projector = (basis.T @ basis.conj()).reshape(n_coils, height, width, n_coils, height, width)
    # Only how far two samples are apart matters: sum over pairs of the same distance.
    correlation = block.new_zeros(n_coils, n_coils, 2 * height - 1, 2 * width - 1)
    for down in range(height):
        for right in range(width):
            rows = slice(down, down + height)
            columns = slice(right, right + width)
            part = projector[:, :, :, :, height - 1 - down, width - 1 - right]
            correlation[:, :, rows, columns] += part.permute(0, 3, 1, 2)
    padded = _centred(correlation, shape)
    scale = math.sqrt(shape[0] * shape[1]) / (height * width)
    return fourier.ifft2(padded) * scale


def _centred(values: Tensor, shape: tuple[int, int]) -> Tensor:
    """Values around the origin of a larger (or smaller) grid; what lies outside wraps around."""
    height, width = shape
    y = (torch.arange(values.shape[-2]) - values.shape[-2] // 2 + height // 2) % height
    x = (torch.arange(values.shape[-1]) - values.shape[-1] // 2 + width // 2) % width
    grid = values.new_zeros(*values.shape[:-2], height * width)
    place = (y[:, None] * width + x).flatten().to(values.device)
    grid.index_add_(-1, place, values.flatten(-2))
    return grid.reshape(*values.shape[:-2], height, width)


def _block(acquired: Tensor, widest: int) -> tuple[slice, slice]:
    """The fully acquired block around the origin of a mask (height, width): rows and columns."""
    height, width = acquired.shape
    columns, rows = _run(acquired.all(dim=0)), _run(acquired.all(dim=1))
    if columns.start == columns.stop and rows.start == rows.stop:
        half = int(_centre_square(acquired[None], limit=max(height, width)))
        # Half is the distance of the nearest missing sample; the block ends one before it.
        rows = slice(max(height // 2 - half + 1, 0), min(height // 2 + half, height))
        columns = slice(max(width // 2 - half + 1, 0), min(width // 2 + half, width))
        if half == 0:
            rows = columns = slice(0, 0)
    elif columns.start == columns.stop:
        columns = slice(0, width)
    elif rows.start == rows.stop:
        rows = slice(0, height)
    return _narrowed(rows, height, widest), _narrowed(columns, width, widest)


def _run(lines: Tensor) -> slice:
    """The run of True around n // 2, empty if that is False."""
    n = len(lines)
    after = int(lines[n // 2 :].to(torch.int64).cumprod(dim=0).sum())
    before = int(lines[: n // 2 + 1].flip(0).to(torch.int64).cumprod(dim=0).sum())
    return slice(n // 2 + 1 - before, n // 2 + after) if after else slice(0, 0)


def _narrowed(run: slice, n: int, widest: int) -> slice:
    """At most so many samples of a run, as even around the origin as can be."""
    length = run.stop - run.start
    if length <= widest:
        return run
    start = min(max(n // 2 - widest // 2, run.start), run.stop - widest)
    return slice(start, start + widest)


def _patch_mean(values: Tensor, patch: int) -> Tensor:
    """Sum over squares around every pixel of (batch, coil, coil, height, width); zero outside."""
    parts = torch.view_as_real(values).movedim(-1, 1).flatten(0, 3).unsqueeze(1)
    side = torch.ones(1, 1, patch, 1, dtype=parts.dtype, device=parts.device)
    half = patch // 2
    parts = torch.nn.functional.conv2d(parts, side, padding=(half, 0))
    parts = torch.nn.functional.conv2d(parts, side.transpose(-2, -1), padding=(0, half))
    batch, first, second, height, width = values.shape
    parts = parts.reshape(batch, 2, first, second, height, width).movedim(1, -1)
    return torch.view_as_complex(parts.contiguous())


def _centre_window(acquired: Tensor) -> Tensor:
    """Low-pass weights (batch, height, width), zero where not acquired."""
    height, width = acquired.shape[-2:]
    columns = _centre_run(acquired.all(dim=1))
    rows = _centre_run(acquired.all(dim=2))
    square = _centre_square(acquired, limit=WIDEST)
    down = torch.where(columns > 0, WIDEST, torch.maximum(rows, square))
    right = torch.where(rows > 0, WIDEST, torch.maximum(columns, square))
    window = _hann(height, half_width=down).unsqueeze(2) * _hann(width, half_width=right).unsqueeze(
        1
    )
    return window * acquired


def _centre_run(lines: Tensor) -> Tensor:
    """Reach of whole lines (batch, n) from the origin without a gap, 0 if it is missing."""
    n = lines.shape[-1]
    up = lines[:, n // 2 :].to(torch.int64).cumprod(dim=1).sum(dim=1)
    down = lines[:, : n // 2 + 1].flip(1).to(torch.int64).cumprod(dim=1).sum(dim=1)
    return torch.maximum(up, down).clamp(max=WIDEST)


def _centre_square(acquired: Tensor, *, limit: int) -> Tensor:
    """Half the side of the largest fully acquired square around the origin: (batch,)."""
    height, width = acquired.shape[-2:]
    y = (torch.arange(height, device=acquired.device) - height // 2).abs()
    x = (torch.arange(width, device=acquired.device) - width // 2).abs()
    ring = torch.maximum(y.unsqueeze(1), x)
    return torch.where(acquired, limit, ring).flatten(1).amin(dim=1).clamp(max=limit)


def _hann(n: int, *, half_width: Tensor) -> Tensor:
    """Hann windows (batch, n) around n // 2 that reach zero `half_width` samples from it."""
    offset = (torch.arange(n, device=half_width.device) - n // 2).abs()
    ratio = offset / half_width.clamp_min(1).unsqueeze(1)
    return torch.where(ratio < 1, torch.cos(math.pi / 2 * ratio) ** 2, 0)
