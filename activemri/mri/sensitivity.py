"""Coil maps from the acquired centre of k-space alone.

The lines (or, for points, the square) around the origin that are acquired without a gap say how
the coils see the object's coarse structure, and coil maps are smooth. Three ways to go from one to
the other, of rising effort: a ratio of low-resolution images, the main direction of the coils'
signal in a patch (Walsh), and the null space of short convolutions in k-space (ESPIRiT).

All of them give maps of unit norm over the coils in every pixel, equal coils where nothing is
known, and ones for a single coil. A map times a phase explains the measurement just as well: all
take the phase of the low-resolution image, so that images come out nearly real.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from activemri.mri.coils import root_sum_of_squares, unit_norm

#: Maps from k-space (batch, coil, height, width) and a mask (batch, height or 1, width or 1).
SensitivityEstimator = Callable[[Tensor, Tensor], Tensor]

#: Hermitian matrices at rows and columns of pixels: (batch, row, column, coil, coil).
_Matrices = Callable[[Tensor, Tensor], Tensor]

_REACH = 24  # samples from the origin; further ones tell no estimator anything
_WIDEST = 16  # half the widest window in k-space that maps are estimated with, in samples
_FLOOR = 1e-3  # of the strongest signal: below it maps fade to equal coils
_POWER_STEPS, _SQUARINGS = 40, 3  # a matrix squared three times does eight steps at once
_SPACING, _FINEST = 4, 64  # pixels between computed maps; an axis has at least so many of these
_STENCIL = 6  # computed maps along each axis that those between are interpolated from
_AT_ONCE = 2**22  # bytes of matrices, so that they stay in the processor's cache


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
    low = _low_resolution_images(kspace, mask)
    if kspace.shape[1] == 1:
        return torch.ones_like(kspace)
    peak = root_sum_of_squares(low).amax(dim=(-2, -1))[:, None, None, None]
    return unit_norm(low + _FLOOR * peak / math.sqrt(kspace.shape[1]))


def walsh(kspace: Tensor, mask: Tensor, *, patch: int = 5, exact: bool = False) -> Tensor:
    """The main direction of the coils' signal in a square patch around every pixel.

    Walsh et al., Adaptive reconstruction of phased array MR imagery, MRM 43:682 (2000): the
    eigenvector of the largest eigenvalue of the covariance of the coil images, here of the
    low-resolution ones. Arguments, result and errors are those of :func:`low_resolution`; `patch`
    is the side of the square in pixels, odd. `exact` as of :func:`espirit`.
    """
    if patch < 1 or patch % 2 == 0:
        raise ValueError(f"expected an odd patch of at least 1 pixel; got {patch}")
    low = _low_resolution_images(kspace, mask)
    if kspace.shape[1] == 1:
        return torch.ones_like(kspace)
    around = torch.nn.functional.pad(low, 4 * [patch // 2])  # zero outside of the image
    offsets = torch.arange(patch, device=low.device)

    def covariances(rows: Tensor, columns: Tensor) -> Tensor:
        down, right = rows[:, None] + offsets, columns[:, None] + offsets
        patches = around[:, :, down[:, None, :, None], right[None, :, None, :]]
        signal = patches.permute(0, 2, 3, 1, 4, 5).flatten(4)  # (batch, down, right, coil, pixel)
        return signal @ signal.mH

    return _with_phase(_main_directions(covariances, low, exact=exact), low)


def espirit(
    kspace: Tensor,
    mask: Tensor,
    *,
    kernel: int = 6,
    calibration: int = 24,
    threshold: float = 0.02,
    exact: bool = False,
) -> Tensor:
    """Eigenvectors of the coils' own convolutions.

    Uecker et al., ESPIRiT - an eigenvalue approach to autocalibrating parallel MRI, MRM 71:990
    (2014). The patches of k-space that occur span a space; what its projector does is a matrix over
    coils in every pixel, whose eigenvector of eigenvalue one is the map. Ours has no cut where the
    eigenvalue falls below one: there is little signal there, and maps of norm one keep the data.

    The pixel's matrix is the transform of the kernels' correlations, so it takes n_coils^2 short
    sums instead of a transform of each kernel. It changes slowly, so that the maps of a large image
    are computed in every fourth pixel along each axis and interpolated between.

    Args:
        kspace, mask: as for :func:`low_resolution`.
        kernel: side of a patch in samples; at most half the block, rounded up.
        calibration: widest block that patches are taken from.
        threshold: of singular values, in units of the largest: below it is noise.
        exact: compute the maps in every pixel.
    """
    if kernel < 1 or calibration < 1 or not 0 <= threshold < 1:
        raise ValueError(
            "expected a kernel and a block of at least 1 sample and a threshold in [0, 1); got "
            f"{kernel}, {calibration} and {threshold}"
        )
    low = _low_resolution_images(kspace, mask)
    if kspace.shape[1] == 1:
        return torch.ones_like(kspace)
    shape = (kspace.shape[-2], kspace.shape[-1])
    maps = []
    for row, acquired in enumerate(mask.expand(len(kspace), *shape)):
        block = _block(acquired, calibration)
        if block is None:
            maps.append(unit_norm(torch.zeros_like(kspace[row])))
            continue
        matrices = _pixel_matrices(kspace[row, :, block[0], block[1]], shape, kernel, threshold)
        maps.append(_main_directions(matrices, low[row : row + 1], exact=exact)[0])
    return _with_phase(torch.stack(maps), low)


#: By name; one line adds one.
ESTIMATORS: dict[str, SensitivityEstimator] = {
    "low-resolution": low_resolution,
    "walsh": walsh,
    "espirit": espirit,
    "walsh-exact": partial(walsh, exact=True),
    "espirit-exact": partial(espirit, exact=True),
}


@dataclass(frozen=True)
class CoilMaps:
    """Source of coil maps during a scan.

    Attributes:
        brought: maps that scans bring along are used if there are any ("first"), must be there
            ("only"), or are left aside ("never").
        estimate: maps from what has been acquired around the centre.
        updated: estimate again whenever something new is acquired there; else the lines that the
            scan starts with decide.
    """

    estimate: SensitivityEstimator = low_resolution
    updated: bool = False
    brought: Literal["first", "only", "never"] = "first"

    @staticmethod
    def may_change(before: Tensor, after: Tensor) -> Tensor:
        """Masks (batch, height or 1, width or 1) that differ in what maps are made of: (batch,)."""
        parts = [
            slice(max(n // 2 - _REACH, 0), n // 2 + _REACH) if n > 1 else slice(None)
            for n in before.shape[-2:]
        ]
        return (before != after)[:, parts[0], parts[1]].flatten(1).any(dim=1)


#: The usual: of scans that bring none, low-resolution images of the lines that they start with.
FROM_START = CoilMaps()
_UPDATED, _KNOWN = "-updated", "known"


def make_coil_maps(maps: str | CoilMaps | None) -> CoilMaps:
    """Coil maps by name: that of an estimator, e.g. "espirit", or "espirit-updated", or "known".

    None is :data:`FROM_START`.

    Raises:
        ValueError: for an unknown name.
    """
    if maps is None or isinstance(maps, CoilMaps):
        return maps or FROM_START
    if maps == _KNOWN:
        return CoilMaps(brought="only")
    name = maps.removesuffix(_UPDATED)
    if name not in ESTIMATORS:
        raise ValueError(
            f"unknown coil maps {maps!r}; expected {_KNOWN}, one of {', '.join(ESTIMATORS)}, or "
            f"one of them followed by {_UPDATED}"
        )
    return CoilMaps(ESTIMATORS[name], updated=maps.endswith(_UPDATED), brought="never")


def _low_resolution_images(kspace: Tensor, mask: Tensor) -> Tensor:
    """Coil images of the acquired centre, complex (batch, coil, height, width)."""
    if kspace.ndim != 4 or mask.ndim != 3 or mask.shape[0] not in (1, kspace.shape[0]):
        raise ValueError(
            "expected kspace (batch, coil, height, width) and a mask (batch, height or 1, width "
            f"or 1); got {tuple(kspace.shape)} and {tuple(mask.shape)}"
        )
    height, width = kspace.shape[-2:]
    acquired = mask.expand(len(kspace), height, width)
    rows, columns = (  # how far whole lines reach
        torch.maximum(*_gapless(acquired.all(dim=axis))).clamp(max=_WIDEST) for axis in (2, 1)
    )
    square = _centre_square(acquired, limit=_WIDEST)
    down = torch.where(columns > 0, _WIDEST, torch.maximum(rows, square))
    right = torch.where(rows > 0, _WIDEST, torch.maximum(columns, square))
    window = _hann(height, half_width=down).unsqueeze(2) * _hann(width, half_width=right)[:, None]
    window = (window * acquired).to(kspace.real.dtype).unsqueeze(1)
    # Nothing further out counts, so that two small matrix products transform what is left.
    grid = [torch.arange(n, device=kspace.device) for n in (height, width)]
    y, x = (every[max(len(every) // 2 + 1 - _WIDEST, 0) :][: 2 * _WIDEST] for every in grid)
    window, kspace = (values[:, :, y[:, None], x] for values in (window, kspace))
    # torch.where and not a product: samples that were not acquired may even be NaN
    block = torch.where(window > 0, kspace, 0) * (window / math.sqrt(height * width))
    down, right = (
        _waves(every, at - len(every) // 2, len(every)).to(block.dtype)
        for every, at in zip(grid, (y, x), strict=True)
    )
    return down @ block @ right.T[None]  # scan by scan: none may depend on the others


def _waves(place: Tensor, frequency: Tensor, n: int) -> Tensor:
    """exp(2 pi i k x / n) at some pixels of n, the origin being n // 2: (place, frequency)."""
    angle = 2 * math.pi / n * (place[:, None] - n // 2).double() * frequency
    return torch.polar(torch.ones_like(angle), angle)


def _hann(n: int, *, half_width: Tensor) -> Tensor:
    """Hann windows (batch, n) around n // 2 that reach zero `half_width` samples from it."""
    offset = (torch.arange(n, device=half_width.device) - n // 2).abs()
    ratio = offset / half_width.clamp_min(1).unsqueeze(1)
    return torch.where(ratio < 1, torch.cos(math.pi / 2 * ratio) ** 2, 0)


def _gapless(lines: Tensor) -> tuple[Tensor, Tensor]:
    """Lines (batch, n) from n // 2 on that are True without a gap, backwards and forwards."""
    middle = lines.shape[-1] // 2
    sides = lines[:, : middle + 1].flip(1), lines[:, middle:]
    before, after = (side.to(torch.int64).cumprod(dim=1).sum(dim=1) for side in sides)
    return before, after


def _centre_square(acquired: Tensor, *, limit: int) -> Tensor:
    """Half the side of the largest fully acquired square around the origin: (batch,)."""
    height, width = acquired.shape[-2:]
    y = (torch.arange(height, device=acquired.device) - height // 2).abs()
    x = (torch.arange(width, device=acquired.device) - width // 2).abs()
    ring = torch.maximum(y.unsqueeze(1), x)
    return torch.where(acquired, limit, ring).flatten(1).amin(dim=1).clamp(max=limit)


def _block(acquired: Tensor, widest: int) -> list[slice] | None:
    """Rows and columns of the fully acquired block around the origin of a mask (height, width)."""
    block = []
    reaches = [[int(n) for n in _gapless(acquired.all(dim=axis)[None])] for axis in (1, 0)]
    if not any(after for _, after in reaches):  # no whole lines: points
        missing = int(_centre_square(acquired[None], limit=max(acquired.shape)))
        if missing == 0:
            return None
        reaches = [[missing, missing], [missing, missing]]
    for (before, after), n in zip(reaches, acquired.shape, strict=True):
        start, stop = (max(n // 2 + 1 - before, 0), min(n // 2 + after, n)) if after else (0, n)
        if stop - start > widest:  # as even around the origin as can be
            start = min(max(n // 2 - widest // 2, start), stop - widest)
        block.append(slice(start, min(stop, start + widest)))
    return block


def _pixel_matrices(
    block: Tensor, shape: tuple[int, int], kernel: int, threshold: float
) -> _Matrices:
    """Action of the projector onto patches in some rows and columns of pixels."""
    n_coils = len(block)
    height, width = (min(kernel, (size + 1) // 2) for size in block.shape[-2:])
    patches = block.unfold(1, height, 1).unfold(2, width, 1)  # (coil, down, right, height, width)
    patches = patches.permute(1, 2, 0, 3, 4).reshape(-1, n_coils * height * width)
    _, values, basis = torch.linalg.svd(patches, full_matrices=False)
    basis = basis[values > threshold * values[0]]
    projector = (basis.T @ basis.conj()).reshape(n_coils, height, width, n_coils, height, width)
    # Only how far two samples are apart matters: sum over pairs of the same distance.
    correlation = block.new_zeros(2 * height - 1, 2 * width - 1, n_coils, n_coils)
    for down in range(height):
        for right in range(width):
            rows = slice(down, down + height)
            columns = slice(right, right + width)
            part = projector[:, :, :, :, height - 1 - down, width - 1 - right]
            correlation[rows, columns] += part.permute(1, 2, 0, 3)
    correlation = correlation.flatten(2) / (height * width)

    def matrices(rows: Tensor, columns: Tensor) -> Tensor:
        down, right = (
            _waves(place, torch.arange(1 - size, size, device=block.device), n).to(block.dtype)
            for place, n, size in ((rows, shape[0], height), (columns, shape[1], width))
        )
        lines = torch.einsum("yd,drk->yrk", down, correlation)
        found: Tensor = (right @ lines).unflatten(-1, (n_coils, n_coils))
        return found.unsqueeze(0)

    return matrices


def _main_directions(matrices: _Matrices, start: Tensor, *, exact: bool) -> Tensor:
    """Unit eigenvectors in every pixel, like their start (batch, coil, height, width).

    Their phase is arbitrary. What is not `exact` is interpolated, in a large image.
    """
    shape = start.shape[-2:]
    spacing = [1 if exact else max(min(_SPACING, n // _FINEST), 1) for n in shape]
    rows, columns = (
        torch.tensor(sorted({*range(0, n, step), n - 1}), device=start.device)
        for n, step in zip(shape, spacing, strict=True)
    )
    n_bytes = len(start) * len(columns) * start.shape[1] ** 2 * start.element_size()
    found = [
        _main_direction(matrices(some, columns), start[:, :, some][:, :, :, columns])
        for some in rows.split(max(_AT_ONCE // n_bytes, 1))
    ]
    vectors = torch.cat(found, dim=2)
    if spacing == [1, 1]:
        return vectors
    stencils = [
        _stencils(nodes, step, n)
        for nodes, step, n in zip((rows, columns), spacing, shape, strict=True)
    ]
    between = _interpolated(vectors, *stencils)
    return unit_norm(between[:, :, : shape[0], : shape[1]])


def _main_direction(matrices: Tensor, start: Tensor) -> Tensor:
    """Unit eigenvectors of matrices (batch, height, width, coil, coil), from a start."""
    batch, n_coils, height, width = start.shape
    stacked = matrices.reshape(-1, n_coils, n_coils)
    size = torch.linalg.vector_norm(stacked, dim=(1, 2), keepdim=True)
    power = stacked / size.clamp_min(torch.finfo(size.dtype).tiny)
    for _ in range(_SQUARINGS):
        power = torch.bmm(power, power)
    vector = unit_norm(start).permute(0, 2, 3, 1).reshape(-1, n_coils, 1)
    # The start may be blind to the direction sought; a little of every coil is not.
    vector = vector + 1e-3
    for _ in range(_POWER_STEPS // 2**_SQUARINGS):
        vector = torch.bmm(power, vector)
        norm = torch.linalg.vector_norm(vector, dim=1, keepdim=True)
        vector = vector / norm.clamp_min(torch.finfo(norm.dtype).tiny)
    return unit_norm(vector.reshape(batch, height, width, n_coils).permute(0, 3, 1, 2))


def _interpolated(
    vectors: Tensor, rows: tuple[Tensor, Tensor], columns: tuple[Tensor, Tensor]
) -> Tensor:
    """Vectors (batch, coil, node, node) in the pixels between the nodes, by their stencils.

    What is smooth is not the vectors u, whose phases are arbitrary, but their projectors u u^H:
    these are interpolated, as they act on the vector of the node at the cell's first pixel.
    """
    (y, down), (x, right) = ((at, weights.to(vectors.dtype)) for at, weights in (rows, columns))
    base = vectors[:, :, : len(y), : len(x)]
    result = vectors.new_zeros(*base.shape[:3], down.shape[1], len(x), right.shape[1])
    for b in range(x.shape[1]):
        lines = vectors.new_zeros(result.shape[:5])
        for a in range(y.shape[1]):
            near = vectors[:, :, y[:, a]][:, :, :, x[:, b]]
            acting = near * torch.sum(near.conj() * base, dim=1, keepdim=True)
            lines.addcmul_(acting.unsqueeze(3), down[:, :, a, None])
        result.addcmul_(lines.unsqueeze(-1), right[:, :, b])
    return result.flatten(4).flatten(2, 3)


def _stencils(nodes: Tensor, spacing: int, n: int) -> tuple[Tensor, Tensor]:
    """Nodes that the pixels of each cell are interpolated from, by Lagrange's polynomials.

    Cells begin at nodes and have `spacing` pixels; the last one may reach beyond the n pixels.

    Returns:
        Indices (cell, stencil) and weights (cell, pixel, stencil).
    """
    cell = torch.arange(-(-n // spacing), device=nodes.device)
    size = min(_STENCIL, len(nodes))
    first = (cell - (size - 1) // 2).clamp(0, len(nodes) - size)
    index = first[:, None] + torch.arange(size, device=nodes.device)
    place = nodes[index].double()  # (cell, stencil)
    pixel = (nodes[cell, None] + torch.arange(spacing, device=nodes.device)).double()
    away = pixel[:, :, None, None] - place[:, None, None]  # (cell, pixel, 1, stencil)
    apart = place[:, :, None] - place[:, None]  # (cell, stencil, stencil)
    itself = torch.eye(size, dtype=torch.bool, device=nodes.device)
    ratio = torch.where(itself, 1.0, away / torch.where(itself, 1.0, apart).unsqueeze(1))
    return index, ratio.prod(dim=-1)


def _with_phase(maps: Tensor, low: Tensor) -> Tensor:
    """Maps whose combination of the low-resolution images is real, or equal coils without any."""
    peak = root_sum_of_squares(low).amax(dim=(-2, -1))[:, None, None, None]
    seen = torch.sum(maps.conj() * low, dim=1, keepdim=True)
    size = seen.abs()
    phase = torch.where(size > 0, seen / size.clamp_min(torch.finfo(size.dtype).tiny), 1)
    return torch.where(peak > 0, maps * phase, unit_norm(torch.zeros_like(maps)))
