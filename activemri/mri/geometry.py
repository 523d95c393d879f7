"""What one action acquires: columns, rows or points of a Cartesian grid.

A scan is chosen line by line. A *line* is the smallest thing that can be acquired at a given
phase encoding: a column of k-space, a row, or, with two phase encodings, a point. An *action*
acquires one or several lines: an echo train, or a line together with its conjugate.

Scans of different sizes share one geometry, the *frame*: a smaller scan lies in its centre, so
that the same action means the same distance from the centre of k-space, and the lines outside of
the scan are never legal.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from activemri.mri import fourier


@dataclass(frozen=True, eq=False)
class CartesianGeometry:
    """Lines of a Cartesian frame, grouped into actions.

    Attributes:
        name: as in the registry.
        shape: height and width of the frame.
        selected: whether lines select a place along the height and along the width: (False, True)
            for columns, (True, False) for rows, (True, True) for points.
        groups: lines of each action, int64 (n_actions, lines per action); shorter groups repeat
            their last line.
    """

    name: str
    shape: tuple[int, int]
    selected: tuple[bool, bool]
    groups: Tensor

    @cached_property
    def n_lines(self) -> int:
        """Length of a mask."""
        height, width = self.mask_shape
        return height * width

    @cached_property
    def n_actions(self) -> int:
        return len(self.groups)

    @cached_property
    def mask_shape(self) -> tuple[int, int]:
        """Shape of a mask laid out in the frame: 1 along an axis that is read out completely."""
        height, width = (n if s else 1 for n, s in zip(self.shape, self.selected, strict=True))
        return height, width

    def to(self, device: torch.device | str) -> "CartesianGeometry":
        """The same geometry with its tensors on `device`."""
        return CartesianGeometry(self.name, self.shape, self.selected, self.groups.to(device))

    def acquire(self, mask: Tensor, actions: Tensor) -> Tensor:
        """Masks after one action each: bool (batch, n_lines) and int64 (batch,) -> bool."""
        return mask.scatter(1, self.groups[actions], True)

    def legal(self, mask: Tensor, measurable: Tensor, budget: Tensor) -> Tensor:
        """Which actions may be taken.

        An action is legal if it acquires at least one new line that exists, and no more new
        lines than the budget has left.

        Args:
            mask: lines acquired so far, bool (batch, n_lines).
            measurable: lines that the scan has, bool (batch, n_lines).
            budget: lines still to acquire, int64 (batch,).

        Returns:
            bool (batch, n_actions).
        """
        fresh = measurable & ~mask
        if self.groups.shape[1] == 1:
            return fresh & (budget > 0)[:, None]
        n_fresh = (fresh[:, self.groups] & self.first_mention).sum(dim=-1)
        return (n_fresh > 0) & (n_fresh <= budget[:, None])

    def lines_of(self, measured: Tensor) -> Tensor:
        """Lines of the frame that a scan has: bool (batch, height, width) -> (batch, n_lines).

        A line exists if any of its samples was measured.
        """
        for axis, is_selected in zip(fourier.IMAGE_AXES, self.selected, strict=True):
            if not is_selected:
                measured = measured.any(dim=axis, keepdim=True)
        return self.in_frame(measured)

    def in_frame(self, values: Tensor) -> Tensor:
        """Values of a scan's lines among those of the frame: (batch, n_lines), zero elsewhere.

        Args:
            values: (batch, height or 1, width or 1), laid out as :meth:`kspace_mask` does.
        """
        height, width = values.shape[1:]
        top, left = self._corner((height, width))
        frame = values.new_zeros((len(values), *self.mask_shape))
        frame[:, top : top + height, left : left + width] = values
        return frame.flatten(1)

    def kspace_mask(self, mask: Tensor, shape: tuple[int, int]) -> Tensor:
        """Lay masks out for a scan of a given size, as operators want them.

        Args:
            mask: bool (batch, n_lines).
            shape: height and width of the scan.

        Returns:
            bool (batch, height or 1, width or 1).
        """
        height, width = (n if s else 1 for n, s in zip(shape, self.selected, strict=True))
        top, left = self._corner((height, width))
        laid_out = mask.reshape(len(mask), *self.mask_shape)
        return laid_out[:, top : top + height, left : left + width]

    def line_of_scan(self, line: Tensor, shape: tuple[int, int]) -> Tensor:
        """Number of a line of the frame among the lines of a scan of a given size.

        Lines that the scan does not have get the number of one that it has: mask them out.
        """
        if shape == self.shape:
            return line
        (height, width), selected = self.mask_shape, self.selected
        n_rows, n_columns = (n if s else 1 for n, s in zip(shape, selected, strict=True))
        row = (line // width - height // 2 + n_rows // 2).clamp(0, n_rows - 1)
        column = (line % width - width // 2 + n_columns // 2).clamp(0, n_columns - 1)
        return row * n_columns + column

    def offsets(self) -> Tensor:
        """Place of every line relative to the centre of k-space: int64 (n_lines, 2)."""
        height, width = self.mask_shape
        down = torch.arange(height, device=self.groups.device) - height // 2
        right = torch.arange(width, device=self.groups.device) - width // 2
        return torch.cartesian_prod(down, right)

    def frequency(self) -> Tensor:
        """Distance of every action from the centre of k-space, float64 (n_actions,).

        In units of the largest frequency along an axis, averaged over the action's lines.
        """
        half = torch.tensor([max(n // 2, 1) for n in self.mask_shape], device=self.groups.device)
        distance: Tensor = torch.linalg.vector_norm(self.offsets().double() / half, dim=-1)
        count = self.first_mention.sum(dim=-1)
        return (distance[self.groups] * self.first_mention).sum(dim=-1) / count

    def mirror(self) -> Tensor:
        """The line at the opposite side of the centre, for every line: int64 (n_lines,).

        An even axis has no opposite for its outermost line, which is its own mirror.
        """
        offsets, (height, width) = self.offsets(), self.mask_shape
        row = (height // 2 - offsets[:, 0]) % height
        column = (width // 2 - offsets[:, 1]) % width
        return row * width + column

    @cached_property
    def outwards(self) -> Tensor:
        """Lines from the centre of k-space outwards, int64 (n_lines,).

        Of two lines at one distance, the one of negative frequency comes first, so that of an even
        number of columns the first few are always the block that fastMRI's masks have.
        """
        distance: Tensor = torch.linalg.vector_norm(self.offsets().double(), dim=-1)
        return distance.argsort(stable=True)

    def center_lines(self, n: int) -> Tensor:
        """Mask of the n lines nearest to the centre: bool (n_lines,).

        Raises:
            ValueError: if there are not so many lines.
        """
        if not 0 <= n <= self.n_lines:
            raise ValueError(f"expected 0 to {self.n_lines} centre lines; got {n}")
        mask = torch.zeros(self.n_lines, dtype=torch.bool, device=self.groups.device)
        mask[self.outwards[:n]] = True
        return mask

    def random_lines(self, n: int, *, among: Tensor, generator: np.random.Generator) -> Tensor:
        """Mask of n different lines, drawn uniformly among those given: bool (n_lines,)."""
        candidates = among.nonzero().squeeze(1).cpu().numpy()
        if n > len(candidates):
            raise ValueError(f"expected at most {len(candidates)} random lines; got {n}")
        mask = torch.zeros_like(among)
        mask[torch.from_numpy(generator.choice(candidates, n, replace=False)).to(among.device)] = (
            True
        )
        return mask

    def start_masks(
        self,
        measurable: Tensor,
        n_center: int,
        *,
        n_random: int = 0,
        generators: Sequence[np.random.Generator] | None = None,
    ) -> Tensor:
        """Lines that scans start with: bool (batch, n_lines).

        Args:
            measurable: lines that the scans have, bool (batch, n_lines).
            n_center: lines around the centre.
            n_random: further lines, drawn at random.
            generators: one for each scan; needed only for random lines.
        """
        masks = self.center_lines(n_center) & measurable
        if n_random and generators is None:
            raise ValueError("random start lines need one generator for each scan")
        for row, generator in enumerate(generators or ()):
            free = measurable[row] & ~masks[row]
            masks[row] |= self.random_lines(n_random, among=free, generator=generator)
        return masks

    def _corner(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Where a smaller array begins in the frame if their centres (n // 2) coincide."""
        for size, frame in zip(shape, self.mask_shape, strict=True):
            if size > frame:
                raise ValueError(f"a scan of {shape} does not fit into the frame {self.mask_shape}")
        top, left = (f // 2 - s // 2 for s, f in zip(shape, self.mask_shape, strict=True))
        return top, left

    @cached_property
    def first_mention(self) -> Tensor:
        """False where a group repeats its last line as padding: bool (n_actions, k)."""
        first = torch.ones_like(self.groups, dtype=torch.bool)
        first[:, 1:] = self.groups[:, 1:] != self.groups[:, :-1]
        return first


def columns(shape: tuple[int, int], *, lines_per_action: int = 1) -> CartesianGeometry:
    """Columns of k-space, the phase encodes of a 2-D scan.

    Args:
        shape: height (readout) and width (phase encode) of the frame.
        lines_per_action: neighbouring columns that one action acquires, as an echo train does.
    """
    groups = _trains(shape[1], lines_per_action)
    return CartesianGeometry("columns", shape, (False, True), groups)


def rows(shape: tuple[int, int], *, lines_per_action: int = 1) -> CartesianGeometry:
    """Rows of k-space, for scans whose readout lies along the width."""
    groups = _trains(shape[0], lines_per_action)
    return CartesianGeometry("rows", shape, (True, False), groups)


def points(shape: tuple[int, int], *, lines_per_action: int = 1) -> CartesianGeometry:
    """Points of k-space: both axes are phase encodes, as in a 3-D scan seen along its readout.

    With several lines an action acquires neighbouring points of one row.
    """
    height, width = shape
    row = _trains(width, lines_per_action)
    groups = (row + width * torch.arange(height)[:, None, None]).flatten(0, 1)
    return CartesianGeometry("points", shape, (True, True), groups)


def conjugate_columns(shape: tuple[int, int], *, lines_per_action: int = 1) -> CartesianGeometry:
    """Columns in pairs of opposite frequency; the centre comes alone (and, if even, the edge).

    Args:
        shape: height and width of the frame.
        lines_per_action: columns on each side that one action acquires.
    """
    one_side = _trains(shape[1] // 2 + 1, lines_per_action)
    mirror = columns(shape).mirror()
    # One side runs from the outermost negative frequency to the centre.
    pairs = torch.cat([one_side, mirror[one_side]], dim=1)
    return CartesianGeometry("conjugate-columns", shape, (False, True), _sorted_groups(pairs))


GeometryMaker = Callable[..., CartesianGeometry]

GEOMETRIES: dict[str, GeometryMaker] = {
    "columns": columns,
    "rows": rows,
    "points": points,
    "conjugate-columns": conjugate_columns,
}


def make_geometry(
    geometry: str | CartesianGeometry, shape: tuple[int, int], *, lines_per_action: int = 1
) -> CartesianGeometry:
    """The geometry of that name for a frame of that shape; an object is taken as it is.

    Raises:
        ValueError: for an unknown name, or an object made for another shape.
    """
    if isinstance(geometry, CartesianGeometry):
        if geometry.shape != shape:
            raise ValueError(f"geometry is for frames of {geometry.shape}; the data has {shape}")
        return geometry
    if geometry not in GEOMETRIES:
        raise ValueError(f"unknown geometry {geometry!r}; choose from {', '.join(GEOMETRIES)}")
    return GEOMETRIES[geometry](shape, lines_per_action=lines_per_action)


def _trains(n_lines: int, lines_per_action: int) -> Tensor:
    """Neighbouring lines in groups; the last group repeats its last line if it is too short."""
    if not 1 <= lines_per_action <= n_lines:
        raise ValueError(f"expected 1 to {n_lines} lines per action; got {lines_per_action}")
    starts = torch.arange(0, n_lines, lines_per_action)[:, None]
    return (starts + torch.arange(lines_per_action)).clamp(max=n_lines - 1)


def _sorted_groups(groups: Tensor) -> Tensor:
    """Equal lines next to each other, as groups want them (repeats count once)."""
    return groups.sort(dim=1).values
