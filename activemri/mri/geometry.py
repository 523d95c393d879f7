"""Readouts: what is measured in one go, where it lies in k-space, and what one action acquires.

A scan is chosen readout by readout: a column of k-space, a row, a point, a spoke. Samples lie as
(batch, readout, coil, sample), masks as (batch, readout); only this folder knows where a readout
lies. A :class:`Transform` leads from images to samples, a :class:`Geometry` groups its readouts
into actions: an echo train, a tile, a line together with its conjugate.

Scans of different sizes share one geometry, made for a *frame* that holds them all. A smaller
Cartesian scan lies in the frame's centre, so that the same action means the same distance from the
centre of k-space; readouts outside of the scan are never legal.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from activemri import kernels, plugins
from activemri.mri import fourier, trajectories
from activemri.mri.nufft import NUFFT
from activemri.mri.solvers import largest_eigenvalue

Shape = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Increment:
    """Part of readouts in the zero-filled coil images: ``left @ right``, or `left` itself.

    Attributes:
        left: complex (batch, coil, height, k), or (batch, coil, height, width) without `right`.
        right: complex (batch, coil, k, width), or None.
    """

    left: Tensor
    right: Tensor | None = None

    def image(self, sensitivity: Tensor | None) -> Tensor:
        """The same for the combined image: complex (batch, height, width)."""
        coils = self.left if self.right is None else self.left @ self.right
        if sensitivity is None:
            return coils.squeeze(1)
        return torch.sum(sensitivity.conj() * coils, dim=1)


class Transform:
    """F: coil images (batch, coil, height, width) to samples (batch, readout, coil, sample).

    It belongs to a geometry and never changes during a scan. A subclass says where its readouts
    lie (:attr:`coordinates`), and implements :meth:`forward`, :meth:`adjoint` and :meth:`fitted`;
    what else is here follows from these, and may be done faster.

    Attributes:
        shape: height and width of the images.
        n_readouts: length of a mask.
        n_samples: of a readout.
        is_cartesian: samples lie on the grid of the centred orthonormal FFT, each once. Then F is
            unitary, and the transform is a :class:`Cartesian`.
        coordinates: where readouts lie, float64 (n_readouts, 2). Cartesian: place relative to the
            centre of k-space, down and right, in units of the scan's largest frequency along an
            axis. Others: smallest distance to the centre in the same unit, and the direction as an
            angle in radians.
        tables: for compiled increments, of Cartesian readouts: their own numbers in the scan, and
            plane waves along height and width.
    """

    shape: Shape
    n_readouts: int
    n_samples: int
    is_cartesian = False
    coordinates: Tensor
    tables: tuple[NDArray[Any], ...]

    def forward(self, images: Tensor) -> Tensor:
        raise NotImplementedError

    def adjoint(self, samples: Tensor) -> Tensor:
        """F^H: samples to coil images."""
        raise NotImplementedError

    def fitted(self, shape: Shape) -> "Transform":
        """The same readouts for scans of another size, as far as they have them."""
        raise NotImplementedError

    def to(self, device: torch.device | str) -> Self:
        """The same with its tensors on `device`."""
        return self

    def of_grid(self, kspace: Tensor) -> Tensor:
        """Samples of scans whose whole grid is known: complex (batch, coil, height, width)."""
        return self.forward(fourier.ifft2(kspace))

    def measurable(self, measured: Tensor) -> Tensor:
        """Readouts that scans have at all, by their measured grid samples (batch, h, w), bool."""
        return measured.new_ones(len(measured), self.n_readouts)

    def own(self, values: Tensor) -> Tensor:
        """Values (batch, n_readouts, ...) of those readouts alone that the scan itself has."""
        return values

    def density(self, mask: Tensor) -> Tensor | None:
        """W: area that every acquired sample stands for, float (batch, readout, 1 or sample).

        In units of a sample of the image's own grid. None: one for all.
        """
        return None

    def response(self, mask: Tensor, density: Tensor | None) -> Tensor:
        """Input of :meth:`gram` that depends on the mask, made once for it."""
        return mask if density is None else mask[..., None] * density

    def gram(self, images: Tensor, response: Tensor) -> Tensor:
        """F^H W M F of coil images."""
        weights = response if response.ndim == 3 else response[..., None]
        return self.adjoint(self.forward(images) * weights[:, :, None])

    def norm(self, response: Tensor) -> Tensor:
        """Largest eigenvalue of :meth:`gram`, float (batch,): steps of its inverse are safe."""
        generator = torch.Generator().manual_seed(0)
        start = torch.randn((1, 1, *self.shape), dtype=torch.complex64, generator=generator)
        start = start.to(response.device).repeat(len(response), 1, 1, 1)  # alike in every batch
        # Ten steps come within 6 %, from below.
        largest = largest_eigenvalue(lambda images: self.gram(images, response), start, steps=10)
        return 1.08 * largest.to(start.real.dtype)

    def within_reach(self, images: Tensor) -> Tensor:
        """Images without the detail that no readout reaches, complex (batch, height, width)."""
        return images

    def prepared(self, samples: Tensor) -> Tensor:
        """Samples of a scan as :meth:`increment_of` needs them, made once for it."""
        return samples

    def increment_of(self, prepared: Tensor, owner: Tensor, readouts: Tensor) -> Increment:
        """The increments of readouts, int64 (n, k), -1 for none, of the scans `owner`, int64 (n,).

        `prepared` is what :meth:`prepared` makes of the scans' samples, by scan and readout.
        """
        known, place = readouts >= 0, readouts.clamp(min=0)
        samples = prepared[owner[:, None], place] * known[:, :, None, None]
        return self._increment(samples, place)

    def increment(self, samples: Tensor, readouts: Tensor) -> Increment:
        """Part of samples (batch, k, coil, sample) of readouts, int64 (batch, k), in F^H M y.

        Readouts differ where samples are not zero.
        """
        return self._increment(self.prepared(samples), readouts)

    def _increment(self, prepared: Tensor, readouts: Tensor) -> Increment:
        batch, _, n_coils, n_samples = prepared.shape
        everything = prepared.new_zeros(batch, self.n_readouts, n_coils, n_samples)
        place = readouts[:, :, None, None].expand_as(prepared)
        return Increment(self.adjoint(everything.scatter_add(1, place, prepared)))

    def back_projections(self, samples: Tensor, sensitivity: Tensor | None) -> Tensor | None:
        """Images whose sums, weighed by :meth:`shares`, are zero-filled images.

        Args:
            samples: of all readouts, complex (batch, readout, coil, sample).
            sensitivity: complex (batch, coil, height, width), or None for a unit map.

        Returns:
            Complex (batch, readout, height, width); None where there are none.
        """
        return None

    def shares(self, mask: Tensor) -> Tensor:
        """Weights of the readouts of a mask, zero of others: float32 (batch, readout)."""
        return mask.float()

    def unseen(self, mask: Tensor) -> Tensor:
        """Part of every readout that the acquired ones do not show: float64 (batch, readout)."""
        return (~mask).double()

    def calibration(self, samples: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Centre of the grid as acquired readouts show it, for the estimation of coil maps.

        Args:
            samples: complex (batch, readout, coil, sample), zero where not acquired.
            mask: bool (batch, n_readouts).

        Returns:
            Complex (batch, coil, height, width), and where it is known: bool (batch, height or 1,
            width or 1).
        """
        weights = self.density(mask)
        weighted = samples if weights is None else samples * weights[:, :, None]
        return fourier.fft2(self.adjoint(weighted)), self.calibration_mask(mask)

    def calibration_mask(self, mask: Tensor) -> Tensor:
        """Samples that :meth:`calibration` knows: as many around the centre as readouts.

        There neighbouring spokes are at most pi samples apart.
        """
        height, width = self.shape
        down = torch.arange(height, device=mask.device) - height // 2
        right = torch.arange(width, device=mask.device) - width // 2
        radius = torch.hypot(down[:, None].float(), right.float())
        return radius < mask.sum(dim=1)[:, None, None]

    def energy(self, images: Tensor) -> Tensor:
        """Energy of images (batch, height, width) in readouts: float64 (batch, readout)."""
        return self.forward(images.unsqueeze(1)).abs().double().square().sum(dim=(2, 3))

    def places(self, readouts: Tensor) -> Tensor:
        """Places of samples of readouts (k,) on the grid, for pictures: int64 (k, sample, 2)."""
        raise NotImplementedError

    @property
    def radius(self) -> Tensor:
        """Nearest distance of every readout to the centre of k-space, float64 (n_readouts,)."""
        return self.coordinates[:, 0]

    @cached_property
    def outwards(self) -> Tensor:
        """Readouts in the order in which a scan starts with them, int64 (n_readouts,)."""
        return torch.arange(self.n_readouts, device=self.coordinates.device)


class Cartesian(Transform):
    """Columns, rows or points of the centred orthonormal FFT.

    ::

        columns = Cartesian((128, 128), (False, True))
        samples = columns.forward(images)  # (batch, 128, coil, 128)

    Args:
        shape: height and width of the images.
        selected: whether a readout selects a place along the height and along the width:
            (False, True) for columns, (True, False) for rows, (True, True) for points.
        frame: height and width of the frame whose readouts are counted; None for the shape itself.

    Raises:
        ValueError: for a scan larger than the frame.
    """

    is_cartesian = True

    def __init__(
        self, shape: Shape, selected: tuple[bool, bool], *, frame: Shape | None = None
    ) -> None:
        self.shape, self.selected, self.frame = shape, selected, frame or shape
        # Of a mask laid out in the frame, and the same for the scan.
        (height, width), self.own_shape = (
            (one[0] if selected[0] else 1, one[1] if selected[1] else 1)
            for one in (self.frame, shape)
        )
        self.mask_shape = (height, width)
        if self.own_shape[0] > height or self.own_shape[1] > width:
            raise ValueError(f"a scan of {shape} does not fit into the frame {self.frame}")
        self.n_readouts = height * width
        self.n_samples = math.prod(shape) // math.prod(self.own_shape)
        top, left = (f // 2 - s // 2 for f, s in zip(self.mask_shape, self.own_shape, strict=True))
        self._rows = slice(top, top + self.own_shape[0])
        self._columns = slice(left, left + self.own_shape[1])
        self._fills_frame = self.own_shape == self.mask_shape
        half = torch.tensor([max(n // 2, 1) for n in self.own_shape])
        self.coordinates = self.offsets.double() / half

    def fitted(self, shape: Shape) -> "Cartesian":
        return self if shape == self.shape else Cartesian(shape, self.selected, frame=self.frame)

    def forward(self, images: Tensor) -> Tensor:
        return self.of_grid(fourier.fft2(images))

    def adjoint(self, samples: Tensor) -> Tensor:
        return fourier.ifft2(self.grid(samples))

    def of_grid(self, kspace: Tensor) -> Tensor:
        along_height, along_width = self.selected
        if along_height and along_width:
            samples = kspace.flatten(2).movedim(2, 1).unsqueeze(-1)
        else:
            samples = kspace.permute((0, 2, 1, 3) if along_height else (0, 3, 1, 2))
        if self._fills_frame:
            return samples
        batch, _, n_coils, n_samples = samples.shape
        framed = samples.new_zeros(batch, *self.mask_shape, n_coils, n_samples)
        own = samples.unflatten(1, self.own_shape)
        framed[:, self._rows, self._columns] = own
        return framed.flatten(1, 2)

    def grid(self, samples: Tensor) -> Tensor:
        """Samples on the grid: complex (batch, coil, height, width). Inverse of `of_grid`."""
        samples = self.own(samples)
        along_height, along_width = self.selected
        if along_height and along_width:
            return samples.squeeze(-1).movedim(1, 2).reshape(len(samples), -1, *self.shape)
        return samples.permute((0, 2, 1, 3) if along_height else (0, 2, 3, 1))

    def measurable(self, measured: Tensor) -> Tensor:
        # A readout exists if any of its samples was measured.
        for axis, is_selected in zip(fourier.IMAGE_AXES, self.selected, strict=True):
            if not is_selected:
                measured = measured.any(dim=axis, keepdim=True)
        return self.of_grid_values(measured)

    def grid_mask(self, mask: Tensor) -> Tensor:
        """Values of readouts (batch, n_readouts) on the scan's grid: (batch, h or 1, w or 1)."""
        laid_out = mask.reshape(len(mask), *self.mask_shape)
        return laid_out[:, self._rows, self._columns]

    def own(self, values: Tensor) -> Tensor:
        if self._fills_frame:
            return values
        framed: Tensor = values.unflatten(1, self.mask_shape)
        return framed[:, self._rows, self._columns].flatten(1, 2)

    def of_grid_values(self, values: Tensor) -> Tensor:
        """The inverse, zero for readouts that the scan does not have: (batch, n_readouts)."""
        frame = values.new_zeros((len(values), *self.mask_shape))
        frame[:, self._rows, self._columns] = values
        return frame.flatten(1)

    def response(self, mask: Tensor, density: Tensor | None) -> Tensor:
        # Convolutions commute with the shifts of centred transforms: only the mask is shifted.
        axes = self._transformed
        on_grid = self.grid_mask(mask).unsqueeze(1)
        return torch.fft.ifftshift(on_grid, dim=axes) if axes else on_grid

    def gram(self, images: Tensor, response: Tensor) -> Tensor:
        # Along the readout the transform and its inverse cancel, which is exact.
        axes = self._transformed
        spectrum = torch.fft.fftn(images, dim=axes)
        result: Tensor = torch.fft.ifftn(spectrum * response, dim=axes)
        return result

    def norm(self, response: Tensor) -> Tensor:
        return torch.ones(len(response), device=response.device)

    def prepared(self, samples: Tensor) -> Tensor:
        # The inverse transform of a single column is the column's own one-dimensional transform
        # along the height times a plane wave along the width: a matrix of rank one.
        if all(self.selected):
            return samples
        return fourier.ifft(samples, (-1,))

    def increment_of(self, prepared: Tensor, owner: Tensor, readouts: Tensor) -> Increment:
        if prepared.device.type != "cpu":
            return super().increment_of(prepared, owner, readouts)
        (n, k), n_coils, (height, width) = readouts.shape, prepared.shape[2], self.shape
        left = np.empty((n, n_coils, height, k), np.complex64)
        right = np.empty((n, n_coils, k, width), np.complex64)
        kernel: Any = kernels.increments
        kernel(prepared.numpy(), owner.numpy(), readouts.numpy(), *self.tables, left, right)
        return Increment(torch.from_numpy(left), torch.from_numpy(right))

    def _increment(self, prepared: Tensor, readouts: Tensor) -> Increment:
        (height, width), (along_height, along_width) = self.shape, self.selected
        line = readouts if self._fills_frame else self._own_number(readouts)
        n_coils, moved = prepared.shape[2], prepared.movedim(1, 2)  # (batch, coil, k, sample)
        if not along_height:
            right = _waves(width, prepared.device)[line].unsqueeze(1)
            return Increment(moved.transpose(2, 3), right.expand(-1, n_coils, -1, -1))
        row = line // width if along_width else line
        left = _waves(height, prepared.device)[row].transpose(1, 2).unsqueeze(1)
        left = left.expand(-1, n_coils, -1, -1)
        if not along_width:
            return Increment(left, moved)
        return Increment(left, moved * _waves(width, prepared.device)[line % width].unsqueeze(1))

    @cached_property
    def tables(self) -> tuple[NDArray[Any], ...]:  # type: ignore[override]
        device, none = torch.device("cpu"), np.empty((0, 0), np.complex64)
        down, right = (
            _waves(size, device).numpy() if selects else none
            for size, selects in zip(self.shape, self.selected, strict=True)
        )
        return self._own_number(torch.arange(self.n_readouts)).numpy(), down, right

    def calibration(self, samples: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return self.grid(samples), self.grid_mask(mask)

    def calibration_mask(self, mask: Tensor) -> Tensor:
        return self.grid_mask(mask)

    def energy(self, images: Tensor) -> Tensor:
        return self.of_grid_values(self.grid_energy(images))

    def grid_energy(self, images: Tensor) -> Tensor:
        """The same on the scan's grid: float64 (batch, height or 1, width or 1)."""
        # Along the readout a transform would not change it.
        energy = fourier.fft(images, self._transformed).abs().double().square()
        for axis, is_selected in zip(fourier.IMAGE_AXES, self.selected, strict=True):
            if not is_selected:
                energy = energy.sum(dim=axis, keepdim=True)
        return energy

    def places(self, readouts: Tensor) -> Tensor:
        height, width = self.shape
        number = torch.arange(height * width).reshape(1, 1, height, width)
        own = Cartesian(self.shape, self.selected).of_grid(number)[0, :, 0]
        flat = own[readouts if self._fills_frame else self._own_number(readouts)]
        return torch.stack([flat // width, flat % width], dim=-1)

    @cached_property
    def radius(self) -> Tensor:
        radius: Tensor = torch.linalg.vector_norm(self.coordinates, dim=-1)
        return radius

    @cached_property
    def offsets(self) -> Tensor:
        """Place of every readout relative to the centre of k-space: int64 (n_readouts, 2)."""
        height, width = self.mask_shape
        down, right = torch.arange(height) - height // 2, torch.arange(width) - width // 2
        return torch.cartesian_prod(down, right)

    @cached_property
    def mirror(self) -> Tensor:
        """The readout at the opposite side of the centre, for every one: int64 (n_readouts,).

        An even axis has no opposite for its outermost line, which is its own mirror.
        """
        height, width = self.mask_shape
        row = (height // 2 - self.offsets[:, 0]) % height
        column = (width // 2 - self.offsets[:, 1]) % width
        return row * width + column

    @cached_property
    def outwards(self) -> Tensor:
        """From the centre of k-space outwards.

        Of two lines at one distance, the one of negative frequency comes first, so that of an even
        number of columns the first few are always the block that fastMRI's masks have.
        """
        distance: Tensor = torch.linalg.vector_norm(self.offsets.double(), dim=-1)
        return distance.argsort(stable=True)

    @property
    def _transformed(self) -> tuple[int, ...]:
        """Axes along which readouts select."""
        pairs = zip(fourier.IMAGE_AXES, self.selected, strict=True)
        return tuple(axis for axis, is_selected in pairs if is_selected)

    def _own_number(self, readouts: Tensor) -> Tensor:
        """Numbers of the frame's readouts among the scan's own; of others, any of these."""
        (rows, columns), width = self.own_shape, self.mask_shape[1]
        row = (readouts // width - self._rows.start).clamp(0, rows - 1)
        column = (readouts % width - self._columns.start).clamp(0, columns - 1)
        return row * columns + column


def cartesian(transform: Transform) -> Cartesian:
    """The same transform, for what needs its grid.

    Raises:
        ValueError: if samples lie on none.
    """
    if not isinstance(transform, Cartesian):
        raise ValueError(
            f"expected samples on a Cartesian grid; {type(transform).__name__.lower()} have none"
        )
    return transform


class NonCartesian(Transform):
    """Readouts anywhere in k-space, by NUFFT.

    ::

        spirals = NonCartesian((64, 64), trajectories.spiral(16, 512, size=64))
        samples = spirals.forward(images)  # (batch, 16, coil, 512)

    Samples stay as they are measured; the density weights follow the acquired set
    (:func:`activemri.mri.trajectories.pipe_menon`).

    Args:
        shape: height and width of the images.
        trajectory: places of samples in cycles per pixel, along the height first, float
            (readout, sample, 2).
        eps: relative accuracy of the NUFFT.

    Raises:
        ValueError: for a trajectory of another shape or unit.
    """

    def __init__(self, shape: Shape, trajectory: Tensor, *, eps: float = 1e-5) -> None:
        if trajectory.ndim != 3:
            raise ValueError(
                f"expected a trajectory (readout, sample, 2); got {tuple(trajectory.shape)}"
            )
        self.shape, self.trajectory, self.eps = shape, trajectory, eps
        self.n_readouts, self.n_samples = trajectory.shape[:2]
        self.nufft = NUFFT(trajectory, shape, eps=eps)
        radius: Tensor = torch.linalg.vector_norm(trajectory.double(), dim=-1)
        last = trajectory[torch.arange(self.n_readouts), radius.argmax(dim=1)].double()
        angle = torch.atan2(last[:, 0], last[:, 1])
        self.coordinates = torch.stack([2 * radius.amin(dim=1), angle], dim=1)

    def fitted(self, shape: Shape) -> "NonCartesian":
        return self if shape == self.shape else NonCartesian(shape, self.trajectory, eps=self.eps)

    def forward(self, images: Tensor) -> Tensor:
        samples: Tensor = self.nufft.forward(images).unflatten(2, (self.n_readouts, -1))
        return samples.transpose(1, 2)

    def adjoint(self, samples: Tensor) -> Tensor:
        return self.nufft.adjoint(samples.transpose(1, 2).flatten(2))

    def density(self, mask: Tensor) -> Tensor:
        acquired = mask.repeat_interleave(self.n_samples, dim=1)
        weights: Tensor = trajectories.pipe_menon(self.nufft, acquired)
        return weights.reshape(*mask.shape, self.n_samples)

    def places(self, readouts: Tensor) -> Tensor:
        size = torch.tensor(self.shape)
        nearest = (self.trajectory[readouts] * size).round().long() + size // 2
        return nearest.clamp(min=0).minimum(size - 1)

    def within_reach(self, images: Tensor) -> Tensor:
        return trajectories.limit_to_disc(images)

    def response(self, mask: Tensor, density: Tensor | None) -> Tensor:
        assert density is not None
        return self.nufft.gram_kernel(density)

    def gram(self, images: Tensor, response: Tensor) -> Tensor:
        return self.nufft.gram(images, response)


class Spokes(NonCartesian):
    """Straight lines through the centre of k-space.

    ::

        spokes = Spokes((128, 128), trajectories.golden(40))
        samples = spokes.forward(images)  # (batch, 40, coil, 256)

    Their density weights are known in closed form (:func:`activemri.mri.trajectories.density`).

    Args:
        shape: height and width of the images.
        angles: of the spokes in radians, float64 (n_readouts,).
        n_samples: of a spoke; None for twice the larger side.
        eps: relative accuracy of the NUFFT.
    """

    def __init__(
        self, shape: Shape, angles: Tensor, *, n_samples: int | None = None, eps: float = 1e-5
    ) -> None:
        spokes = trajectories.spokes(angles, n_samples or 2 * max(shape))
        super().__init__(shape, spokes, eps=eps)
        self.angles = angles
        self.coordinates = torch.stack([torch.zeros_like(angles), angles % math.pi], dim=1)

    def fitted(self, shape: Shape) -> "Spokes":
        if shape == self.shape:
            return self
        return Spokes(shape, self.angles, n_samples=self.n_samples, eps=self.eps)

    def density(self, mask: Tensor) -> Tensor:
        return trajectories.density(self.angles, mask, n_samples=self.n_samples, shape=self.shape)

    def unseen(self, mask: Tensor) -> Tensor:
        # The angle to the nearest acquired spoke, in units of that between neighbours.
        angles = self.angles.to(mask.device) % math.pi
        apart = (angles[:, None] - angles).abs()
        apart = torch.minimum(apart, math.pi - apart)
        return apart.where(mask[:, None], math.pi / 2).amin(dim=2) * len(angles) / math.pi

    def shares(self, mask: Tensor) -> Tensor:
        return trajectories.wedges(self.angles.to(mask.device), mask).float()

    def back_projections(self, samples: Tensor, sensitivity: Tensor | None) -> Tensor:
        # Plane waves along both axes: the image of a spoke is one product of matrices.
        batch, device = len(samples), samples.device
        ramp = trajectories.ramp(self.n_samples, self.shape).to(device)
        weighted = samples * (ramp / math.prod(self.shape) ** 0.5).float()
        result = samples.new_zeros((batch, self.n_readouts, *self.shape))
        for some in torch.arange(self.n_readouts).split(16):
            down, right = (
                torch.polar(torch.ones_like(turns), turns).to(device, samples.dtype)
                for turns in (
                    2 * math.pi * (torch.arange(n) - n // 2)[:, None] * place[:, None]
                    for n, place in zip(self.shape, self.trajectory[some].unbind(2), strict=True)
                )
            )
            for row in range(batch):
                for coil in range(samples.shape[2]):
                    lines = weighted[row, some, coil]
                    image = (down * lines[:, None]) @ right.transpose(1, 2)
                    if sensitivity is not None:
                        image = image * sensitivity[row, coil].conj()
                    result[row, some] += image
        return result


@dataclass(frozen=True, eq=False)
class Geometry:
    """Readouts, and those of each action.

    ::

        pairs = torch.arange(128).reshape(64, 2)
        geometry = Geometry("pairs", Cartesian((128, 128), (False, True)), pairs)

    Attributes:
        name: as in tables.
        transform: of a frame that holds every scan.
        groups: readouts of each action, int64 (n_actions, k); shorter groups repeat their last
            readout.
        start_order: readouts in the order in which a scan starts with them, int64 (n_readouts,);
            None for that of the transform: from the centre of k-space outwards.

    Raises:
        ValueError: for groups that name readouts which the transform does not have.
    """

    name: str
    transform: Transform
    groups: Tensor
    start_order: Tensor | None = None

    def __post_init__(self) -> None:
        groups, n = self.groups, self.transform.n_readouts
        if groups.ndim != 2 or groups.dtype != torch.int64 or not groups.numel():
            raise ValueError(
                f"geometry {self.name!r}: groups must be int64 (n_actions, readouts per action); "
                f"got {groups.dtype} {tuple(groups.shape)}"
            )
        if int(groups.min()) < 0 or int(groups.max()) >= n:
            raise ValueError(
                f"geometry {self.name!r}: groups must name readouts 0 to {n - 1}; got "
                f"{int(groups.min())} to {int(groups.max())}"
            )

    @property
    def shape(self) -> Shape:
        """Height and width of the frame."""
        return self.transform.shape

    @cached_property
    def n_readouts(self) -> int:
        return self.transform.n_readouts

    @cached_property
    def n_actions(self) -> int:
        return len(self.groups)

    @cached_property
    def readouts_per_action(self) -> int:
        return self.groups.shape[1]

    @cached_property
    def has_lines(self) -> bool:
        """Readouts are whole lines of a Cartesian grid: columns or rows."""
        return isinstance(self.transform, Cartesian) and not all(self.transform.selected)

    @cached_property
    def readout_axes(self) -> tuple[int, ...]:
        """Axes of the grid that every readout runs along as a whole, of -2 and -1."""
        if not isinstance(self.transform, Cartesian):
            return ()
        pairs = zip(fourier.IMAGE_AXES, self.transform.selected, strict=True)
        return tuple(axis for axis, is_selected in pairs if not is_selected)

    @cached_property
    def are_rows(self) -> bool:
        """Readouts are rows: lines are selected along the height."""
        return isinstance(self.transform, Cartesian) and self.transform.selected == (True, False)

    def to(self, device: torch.device | str) -> "Geometry":
        """The same geometry with its tensors on `device`."""
        transform, groups = self.transform.to(device), self.groups.to(device)
        return Geometry(self.name, transform, groups, self.start_order)

    @cached_property
    def outwards(self) -> Tensor:
        """Readouts in the order in which a scan starts with them, int64 (n_readouts,)."""
        order = self.transform.outwards if self.start_order is None else self.start_order
        return order.to(self.groups.device)

    def acquire(self, mask: Tensor, actions: Tensor) -> Tensor:
        """Masks after one action each: bool (batch, n_readouts), int64 (batch,) -> bool."""
        return mask.scatter(1, self.groups[actions], True)

    def readouts(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Readouts of actions (n,), and which of them are no padding: int64, bool (n, k)."""
        return self.groups[actions], self.first_mention[actions]

    def legal(self, mask: Tensor, measurable: Tensor, budget: Tensor) -> Tensor:
        """Actions that may be taken: bool (batch, n_actions).

        They acquire at least one new readout that exists, and no more new ones than the budget,
        int64 (batch,), has left. `mask` and `measurable` are bool (batch, n_readouts).
        """
        fresh = measurable & ~mask
        if self._is_one_to_one:
            return fresh & (budget > 0)[:, None]
        n_fresh = self.by_action(fresh, "sum")
        return (n_fresh > 0) & (n_fresh <= budget[:, None])

    @cached_property
    def tables(self) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """For :func:`activemri.kernels.step`: readouts of actions, and which are no padding."""
        return self.groups.numpy(), self.first_mention.numpy()

    def by_action(
        self, values: Tensor, how: Literal["sum", "mean", "any", "all", "amin", "amax"]
    ) -> Tensor:
        """Values of readouts (..., n_readouts) put together for each action: (..., n_actions).

        Sums and means count every readout once.
        """
        gathered = values[..., self.groups]
        if how in ("sum", "mean"):
            total = (gathered * self.first_mention).sum(dim=-1)
            return total if how == "sum" else total / self.first_mention.sum(dim=-1)
        result: Tensor = getattr(gathered, how)(dim=-1)
        return result

    def by_readout(self, values: Tensor) -> Tensor:
        """Values of actions (batch, n_actions), summed over those that acquire each readout."""
        spread = (values[:, :, None] * self.first_mention).flatten(1)
        total = values.new_zeros(len(values), self.n_readouts)
        return total.index_add(1, self.groups.flatten(), spread)

    @cached_property
    def frequency(self) -> Tensor:
        """Distance of every action from the centre of k-space, float64 (n_actions,).

        In units of the largest frequency along an axis, averaged over the action's readouts, and
        rounded, so that equal distances stay equal whatever the order in which they were summed.
        """
        distance = self.transform.radius.to(self.groups.device)
        return self.by_action(distance, "mean").round(decimals=9)

    def center_lines(self, n: int) -> Tensor:
        """Mask of the first n readouts that a scan starts with: bool (n_readouts,).

        Raises:
            ValueError: if there are not so many.
        """
        if not 0 <= n <= self.n_readouts:
            raise ValueError(
                f"n_center_lines: expected 0 to {self.n_readouts} centre lines; got {n}"
            )
        mask = torch.zeros(self.n_readouts, dtype=torch.bool, device=self.groups.device)
        mask[self.outwards[:n]] = True
        return mask

    def start_masks(
        self,
        measurable: Tensor,
        n_center: int,
        *,
        n_random: int = 0,
        generators: Sequence[np.random.Generator] | None = None,
    ) -> Tensor:
        """Readouts that scans start with, of the measurable ones: bool (batch, n_readouts).

        Args:
            measurable: bool (batch, n_readouts).
            n_center: readouts around the centre.
            n_random: further ones, drawn without replacement by one generator a scan.

        Raises:
            ValueError: for more readouts than there are.
        """
        masks = self.center_lines(n_center) & measurable
        if not n_random:
            return masks
        if generators is None:
            raise ValueError("random start lines need one generator for each scan")
        for row, generator in enumerate(generators):
            free = (measurable[row] & ~masks[row]).nonzero().squeeze(1).cpu().numpy()
            if n_random > len(free):
                raise ValueError(
                    f"n_random_lines: expected at most {len(free)} random lines; got {n_random}"
                )
            masks[row, torch.from_numpy(generator.choice(free, n_random, replace=False))] = True
        return masks

    @cached_property
    def first_mention(self) -> Tensor:
        """False where a group repeats its last readout as padding: bool (n_actions, k)."""
        first = torch.ones_like(self.groups, dtype=torch.bool)
        first[:, 1:] = self.groups[:, 1:] != self.groups[:, :-1]
        return first

    @cached_property
    def _is_one_to_one(self) -> bool:
        n = torch.arange(self.n_readouts, device=self.groups.device)
        return self.groups.shape == (self.n_readouts, 1) and bool((self.groups[:, 0] == n).all())


def columns(shape: Shape, *, lines_per_action: int = 1) -> Geometry:
    """Columns of k-space, the phase encodes of a 2-D scan.

    One action acquires `lines_per_action` neighbouring columns, as an echo train does.
    """
    groups = _trains(shape[1], lines_per_action)
    return Geometry("columns", Cartesian(shape, (False, True)), groups)


def rows(shape: Shape, *, lines_per_action: int = 1) -> Geometry:
    """Rows of k-space, for scans whose readout lies along the width."""
    groups = _trains(shape[0], lines_per_action)
    return Geometry("rows", Cartesian(shape, (True, False)), groups)


def points(shape: Shape, *, lines_per_action: int = 1) -> Geometry:
    """Points of k-space: both axes are phase encodes, as in a 3-D scan seen along its readout.

    With several lines an action acquires neighbouring points of one row.
    """
    height, width = shape
    row = _trains(width, lines_per_action)
    groups = (row + width * torch.arange(height)[:, None, None]).flatten(0, 1)
    return Geometry("points", Cartesian(shape, (True, True)), groups)


def tiles(shape: Shape, *, tile: int | Shape = 4) -> Geometry:
    """Tiles of points, one an echo train: a 3-D scan seen along its readout.

    Args:
        shape: height and width of the frame, the two phase encodes.
        tile: points along both sides, or along height and width. Tiles at the right and lower edge
            may be smaller.

    Raises:
        ValueError: for a tile larger than the frame.
    """
    height, width = shape
    down, right = (tile, tile) if isinstance(tile, int) else tile
    if not (1 <= down <= height and 1 <= right <= width):
        raise ValueError(f"expected a tile of 1 x 1 to {height} x {width} points; got {tile}")
    rows, columns = _trains(height, down), _trains(width, right)
    both = rows[:, None, :, None] * width + columns[None, :, None, :]
    groups = both.flatten(2).flatten(0, 1).sort(dim=1).values
    transform = Cartesian(shape, (True, True))
    # A start of (2 n)^2 points is a square around the centre, so that tiles are in it as a whole.
    ring = (transform.offsets + 0.5).abs().amax(dim=1)
    return Geometry("tiles", transform, groups, ring.argsort(stable=True))


def conjugate_columns(shape: Shape, *, lines_per_action: int = 1) -> Geometry:
    """Columns in pairs of opposite frequency; the centre comes alone (and, if even, the edge).

    One action acquires `lines_per_action` columns on each side.
    """
    one_side = _trains(shape[1] // 2 + 1, lines_per_action)
    transform = Cartesian(shape, (False, True))
    # One side runs from the outermost negative frequency to the centre.
    pairs = torch.cat([one_side, transform.mirror[one_side]], dim=1)
    return Geometry("conjugate-columns", transform, pairs.sort(dim=1).values)


def radial(
    shape: Shape, *, lines_per_action: int = 1, n_spokes: int | None = None, tiny: int = 1
) -> Geometry:
    """Spokes in golden-angle order: any number of them in a row is spread nearly equally.

    Args:
        shape: height and width of the frame.
        lines_per_action: spokes in a row that one action acquires.
        n_spokes: None for as many as equally spaced ones would need (Nyquist).
        tiny: order of the golden angle, see :func:`activemri.mri.trajectories.golden`.
    """
    n = _number_of_spokes(shape, n_spokes)
    spokes = Spokes(shape, trajectories.golden(n, order=tiny))
    return Geometry("radial", spokes, _trains(n, lines_per_action))


def radial_uniform(
    shape: Shape, *, lines_per_action: int = 1, n_spokes: int | None = None
) -> Geometry:
    """Equally spaced spokes, counted by angle; arguments as of :func:`radial`."""
    n = _number_of_spokes(shape, n_spokes)
    spokes = Spokes(shape, trajectories.uniform(n))
    return Geometry("radial-uniform", spokes, _trains(n, lines_per_action))


def _number_of_spokes(shape: Shape, given: int | None) -> int:
    if given is None:
        return trajectories.nyquist(max(shape))
    if not 1 <= given <= _MOST_SPOKES:
        raise ValueError(
            f"n_spokes: expected at least one spoke, at most {_MOST_SPOKES}; got {given}"
        )
    return given


_MOST_SPOKES = 65_536  # a sequence of so many would take hours

GEOMETRIES: dict[str, Callable[..., Geometry]] = {
    "columns": columns,
    "rows": rows,
    "points": points,
    "tiles": tiles,
    "conjugate-columns": conjugate_columns,
    "radial": radial,
    "radial-uniform": radial_uniform,
}


def make_geometry(geometry: str | Geometry, shape: Shape, **options: Any) -> Geometry:
    """The geometry of that name, or ``package.module:object``, for a frame of that shape.

    Args:
        geometry: name; an object is taken as it is.
        shape: height and width of the frame.
        **options: what functions that make geometries take, such as `lines_per_action`. Those that
            are None, or 1 line per action, need not be known to the geometry.

    Raises:
        ValueError: for an unknown name, an option that the geometry does not take, or an object
            made for another shape.
    """
    if isinstance(geometry, str):
        found: Any = plugins.find(geometry, GEOMETRIES, what="geometry")
        if not isinstance(found, Geometry):
            known, defaults = inspect.signature(found).parameters, {"lines_per_action": 1}
            given = {key: value for key, value in options.items() if value != defaults.get(key)}
            if unknown := [key for key in given if key not in known]:
                raise ValueError(
                    f"geometry {geometry!r} takes no {', '.join(unknown)}; it takes "
                    f"{', '.join(list(known)[1:]) or 'no options'}"
                )
            try:
                found = found(shape, **given)
            except TypeError as error:
                raise ValueError(
                    f"geometry {geometry!r}: expected a function of the shape and these options; "
                    f"{error}"
                ) from error
        geometry = found
    if not isinstance(geometry, Geometry):
        raise ValueError(
            "geometry: expected a name, a Geometry, or a function of the frame's shape that makes "
            f"one; got {type(geometry).__name__}"
        )
    if geometry.shape != shape:
        raise ValueError(f"geometry is for frames of {geometry.shape}; the data has {shape}")
    return geometry


def _trains(n_readouts: int, per_action: int) -> Tensor:
    """Neighbours in groups; the last group repeats its last readout if it is too short."""
    if not 1 <= per_action <= n_readouts:
        raise ValueError(f"expected 1 to {n_readouts} lines per action; got {per_action}")
    starts = torch.arange(0, n_readouts, per_action)[:, None]
    return (starts + torch.arange(per_action)).clamp(max=n_readouts - 1)


@lru_cache(maxsize=16)
def _waves(n: int, device: torch.device) -> Tensor:
    """Plane waves of the centred orthonormal inverse transform, one a row: complex64 (n, n)."""
    place = torch.arange(n) - n // 2
    # The product is taken modulo n in whole numbers: no rounding of large phases.
    angle = ((place[:, None] * place) % n).double() * (2 * math.pi / n)
    return torch.polar(torch.full_like(angle, n**-0.5), angle).to(device, torch.complex64)
