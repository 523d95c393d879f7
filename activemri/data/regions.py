"""Regions of interest: boxes and masks in pixels of the target, and boxes around findings."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from activemri import files

#: Top, left, height and width in pixels of the target.
Box = tuple[int, int, int, int]
CENTER = "center"

#: Boxes by volume (the file's stem) and slice, in the image turned upside down.
Findings = Mapping[tuple[str, int], tuple[Box, ...]]
FARTHEST = 1 << 20  # pixels; further numbers are mistakes
COLUMNS = ("file", "slice", "x", "y", "width", "height")


def region_of(boxes: Sequence[Box], shape: tuple[int, int]) -> Tensor:
    """Pixels in any of several boxes, which are cut at the image's edges: bool (height, width).

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
    overlaps = []  # (new, old) along both axes: 1 where an old pixel matters to a new one
    for old, new in zip(region.shape, shape, strict=True):
        overlap = torch.zeros(new, old)
        overlap[torch.arange(new), _places(new, old)] = 1.0
        overlap[_places(old, new), torch.arange(old)] = 1.0
        overlaps.append(overlap)
    return overlaps[0] @ region.float() @ overlaps[1].T > 0


def read_findings(path: str | Path) -> Findings:
    """Read a CSV file in the layout of fastMRI+.

    Columns are the file's stem, the slice from 0, and a box in pixels of the reference image
    (`reconstruction_rss`). Images were turned upside down before radiologists drew on them, so `y`
    counts from the last row. Rows about a whole study have no box; a slice without one may hold
    findings all the same.

    Zhao et al., fastMRI+, Clinical pathology annotations for knee and brain fully sampled magnetic
    resonance imaging data, Scientific Data 9:152 (2022); https://github.com/microsoft/fastmri-plus.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if columns are missing, a number is none, or no row has a box.
    """
    found: dict[tuple[str, int], tuple[Box, ...]] = {}
    for line, row in files.read_csv(files.expanded(path), COLUMNS):
        if not row["x"].strip():
            continue  # about the whole study
        try:
            index = int(row["slice"])
            x, y, width, height = (round(float(row[name])) for name in COLUMNS[2:])
            if max(map(abs, (index, x, y, width, height))) > FARTHEST:
                raise ValueError
        except (ValueError, OverflowError):
            raise ValueError(
                f"{path}, line {line}: expected numbers of pixels for {', '.join(COLUMNS[1:])}; "
                f"got {', '.join(repr(row[name]) for name in COLUMNS[1:]):.200}"
            ) from None
        key = (row["file"].removesuffix(".h5"), index)
        found[key] = (*found.get(key, ()), (y, x, height, width))
    if not found:
        raise ValueError(f"{path}: expected at least one row with a box; found none")
    return found


def upright(box: Box, n_rows: int) -> Box:
    """A box of a finding in the stored image of so many rows."""
    top, left, height, width = box
    return n_rows - top - height, left, height, width


def _places(n: int, other: int) -> Tensor:
    """The pixel of another grid that lies at each of n pixels: int64 (n,)."""
    position = (torch.arange(n) - n // 2) * (other / n) + other // 2
    return position.round().long().clamp(0, other - 1)
