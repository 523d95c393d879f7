"""Regions of interest: boxes and masks in pixels of the target, and data sets that have them."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from activemri.data.slices import Slice, SliceDataset, SliceInfo

#: Top, left, height and width in pixels of the target.
Box = tuple[int, int, int, int]
CENTER = "center"


def region_of(boxes: Sequence[Box], shape: tuple[int, int]) -> Tensor:
    """Pixels that lie in any of several boxes: bool (height, width).

    Boxes are cut at the edges of the image.

    Raises:
        ValueError: if a box is empty, or nothing of it lies in the image.
    """
    region = torch.zeros(shape, dtype=torch.bool)
    for top, left, height, width in boxes:
        inside = region[max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)]
        if height < 1 or width < 1 or inside.numel() == 0:
            raise ValueError(
                "expected boxes (top, left, height, width) that overlap an image of "
                f"{shape[0]} x {shape[1]} pixels; got {(top, left, height, width)}"
            )
        inside.fill_(True)
    return region


def center_box(shape: tuple[int, int]) -> Box:
    """The box of half the height and half the width around the centre of an image."""
    height, width = shape[0] // 2, shape[1] // 2
    return shape[0] // 2 - height // 2, shape[1] // 2 - width // 2, height, width


def resampled(region: Tensor, shape: tuple[int, int]) -> Tensor:
    """A region on a grid of other pixels over the same field of view, bool (height, width).

    A new pixel is in the region if the old one at its place is, or if an old one of the region
    falls onto it, so that small regions do not vanish. The pixel at n // 2 stays at n // 2.
    """
    down, right = (
        _overlap(old, new) for old, new in zip(region.shape, shape, strict=True)
    )  # (new, old) each
    return down @ region.float() @ right.T > 0


class WithRegion:
    """A data set in which every slice has the same region of interest.

    Args:
        dataset: whose slices to take; regions of their own are replaced.
        region: "center", or (top, left, height, width) in pixels of the target.

    Raises:
        ValueError: if it is neither.
    """

    def __init__(self, dataset: SliceDataset, region: str | Box) -> None:
        if region != CENTER and (isinstance(region, str) or len(region) != 4):
            raise ValueError(
                f'roi must be "{CENTER}" or (top, left, height, width) in pixels; got {region!r}'
            )
        self.name = dataset.name
        self.shape = dataset.shape
        self.n_coils = dataset.n_coils
        self._dataset = dataset
        self._region = region

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Slice:
        scan = self._dataset[index]
        shape = (scan.target.shape[0], scan.target.shape[1])
        box = center_box(shape) if isinstance(self._region, str) else self._region
        return replace(scan, roi=region_of([box], shape))

    def describe(self, index: int) -> SliceInfo:
        return self._dataset.describe(index)


def _overlap(old: int, new: int) -> Tensor:
    """Which old pixels of an axis matter to which new ones: float32 (new, old), 1 or 0."""
    overlap = torch.zeros(new, old)
    source = torch.arange(new), _places(new, old)
    target = _places(old, new), torch.arange(old)
    overlap[source] = overlap[target] = 1.0
    return overlap


def _places(n: int, other: int) -> Tensor:
    """The pixel of another grid that lies at each of n pixels: int64 (n,)."""
    position = (torch.arange(n) - n // 2) * (other / n) + other // 2
    return position.round().long().clamp(0, other - 1)
