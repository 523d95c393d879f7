"""References, and a standard form: scans of different sizes brought to one matrix size."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from activemri.data.regions import resampled
from activemri.data.slices import COMBINED, RSS, Slice
from activemri.metrics.reference import center_crop
from activemri.mri import coils, fourier
from activemri.mri.sensitivity import espirit


def magnitude_reference(
    kspace: Tensor,
    target_shape: tuple[int, int] | None = None,
    *,
    sensitivity: Tensor | None = None,
    target: str = COMBINED,
) -> Tensor:
    """Magnitude image of fully sampled k-space (coil, height, width), in float32.

    Coils are combined with `sensitivity` maps like `kspace`, by default ESPIRiT's of all of it.
    With the target "rss" it is the root of the coils' sum of squares, which is never zero where
    there is noise, so that no combination of the coils reaches it. The image is cropped around its
    centre to `target_shape`, (height, width).
    """
    images = fourier.ifft2(kspace)
    is_finite = bool(torch.view_as_real(kspace).sum().isfinite())  # else no maps can be estimated
    if kspace.shape[0] > 1 and (target == RSS or not is_finite):
        image = coils.root_sum_of_squares(images)
    elif kspace.shape[0] > 1 or sensitivity is not None:
        if sensitivity is None:
            everything = torch.ones(1, 1, 1, dtype=torch.bool)
            sensitivity = espirit(kspace.unsqueeze(0), everything)[0]
        image = coils.combine(images, sensitivity).abs()
    else:
        image = images[0].abs()
    return image if target_shape is None else center_crop(image, target_shape).contiguous()


def with_target(scan: Slice, target: str) -> Slice:
    """A slice of several coils with one of :data:`TARGETS`, made of its k-space."""
    if scan.n_coils == 1:
        return scan
    rows, columns = scan.target.shape
    image = magnitude_reference(
        scan.kspace, (rows, columns), sensitivity=scan.sensitivity, target=target
    )
    return replace(scan, target=image, volume_max=float(image.max()))


def to_matrix(scan: Slice, matrix_size: tuple[int, int], *, target: str = COMBINED) -> Slice:
    """Bring a slice to another matrix size, as if it had been scanned at that resolution.

    1. Readout oversampling is removed: rows of the image beyond the reference are cropped. That
       is free, because every readout is sampled in one go.
    2. k-space is cropped, or padded with zeros, around its centre. The field of view stays; the
       pixels change their size, also relative to each other if the shapes have other proportions.
       Padded lines are never acquired. Samples are scaled by the square root of the ratio of the
       numbers of pixels, so that orthonormal transforms keep the intensities of the image.
    3. The reference, `target` of :func:`magnitude_reference`, is computed from the resulting
       k-space and covers the whole frame, and so does a region of interest. `volume_max` is left
       as it is.
    """
    (height, width), rows = scan.shape, scan.target.shape[0]
    if rows != height:
        images = center_crop(fourier.ifft(scan.kspace, (-2,)), (rows, width))
        # A row of the smaller k-space lies at the same frequency as this row of the larger one.
        frequency = (torch.arange(rows) - rows // 2) * height / rows
        nearest = (frequency.round().long() + height // 2).clamp(0, height - 1)
        maps = scan.sensitivity
        scan = replace(
            scan,
            kspace=fourier.fft(images, (-2,)),
            sensitivity=None if maps is None else center_crop(maps, (rows, width)).contiguous(),
            measured=scan.measured[nearest],
            processing=(*scan.processing, f"image cropped to {rows} rows along the readout"),
        )
    if matrix_size == scan.shape and scan.target.shape == matrix_size:
        return scan
    roi, sensitivity = scan.roi, scan.sensitivity
    scale = math.sqrt(matrix_size[0] * matrix_size[1] / (rows * width))
    kspace = resize_centered(scan.kspace, matrix_size) * scale
    if sensitivity is not None:
        sensitivity = _resample_maps(sensitivity, matrix_size)
    return replace(
        scan,
        kspace=kspace,
        target=magnitude_reference(kspace, sensitivity=sensitivity, target=target),
        sensitivity=sensitivity,
        measured=resize_centered(scan.measured, matrix_size),
        roi=None if roi is None else resampled(resize_centered(roi, (rows, width)), matrix_size),
        processing=(*scan.processing, f"k-space brought to {matrix_size[0]} x {matrix_size[1]}"),
    )


def resize_centered(values: Tensor, shape: tuple[int, int]) -> Tensor:
    """Crop or zero-pad (..., height, width); index n // 2 stays at index n // 2."""
    for axis, new in zip((-2, -1), shape, strict=True):
        old = values.shape[axis]
        start = old // 2 - new // 2
        values = values.narrow(axis, max(start, 0), min(old, new))
        before = max(-start, 0)
        after = new - before - values.shape[axis]
        padding = (0, 0, before, after) if axis == -2 else (before, after)
        values = torch.nn.functional.pad(values, padding)
    return values


def _resample_maps(maps: Tensor, shape: tuple[int, int]) -> Tensor:
    """Linear interpolation of smooth coil maps, kept at unit norm where there is a norm."""
    for axis, new in zip((-2, -1), shape, strict=True):
        old = maps.shape[axis]
        position = (torch.arange(new, dtype=torch.float64) - new // 2) * old / new + old // 2
        position = position.clamp(0, old - 1)
        lower = position.floor().long().clamp(max=max(old - 2, 0))
        weight = (position - lower).to(maps.real.dtype)
        weight = weight.unsqueeze(-1) if axis == -2 else weight
        below = maps.index_select(axis, lower)
        above = maps.index_select(axis, (lower + 1).clamp(max=old - 1))
        maps = below * (1 - weight) + above * weight
    norm = torch.linalg.vector_norm(maps, dim=0, keepdim=True)
    return torch.where(norm > 0, maps / norm.clamp(min=torch.finfo(norm.dtype).tiny), maps)
