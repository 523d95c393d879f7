"""Linear operators: what the scanner measures of an image, and what that says about the image."""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from activemri.mri.geometry import Cartesian, Shape, Transform, cartesian


@dataclass(frozen=True, eq=False)
class Operator:
    """A = M F S: coil sensitivities, Fourier transform, acquired readouts.

    W are the density weights of the acquired samples: one on a Cartesian grid.

    A soft mask holds shares from 0 to 1 in a dtype of real numbers, and gradients may reach it. It
    weighs samples once wherever it stands, so that `gram` is S^H F^H M F S, and a share counts in
    data consistency as it does in sums of squares.

    Attributes:
        transform: F.
        mask: M, acquired readouts, bool (batch, n_readouts), or their shares.
        sensitivity: S, complex coil maps (batch, coil, height, width), or None for one coil that
            sees everything equally (a unit map).
    """

    transform: Transform
    mask: Tensor
    sensitivity: Tensor | None = None

    @classmethod
    def on_grid(cls, mask: Tensor, shape: Shape, sensitivity: Tensor | None = None) -> "Operator":
        """The operator of a mask on the Cartesian grid.

        Args:
            mask: acquired samples, bool (batch, height or 1, width or 1). Height 1 means whole
                columns, width 1 whole rows.
            shape: height and width of the images.
            sensitivity: coil maps, or None.
        """
        transform = _grid_transform(shape, (mask.shape[1] > 1, mask.shape[2] > 1))
        return cls(transform, transform.of_grid_values(mask), sensitivity)

    def forward(self, image: Tensor) -> Tensor:
        """A: image (batch, height, width) to samples (batch, readout, coil, sample)."""
        return self.transform.forward(self._spread(image)) * self.mask[:, :, None, None]

    def adjoint(self, samples: Tensor) -> Tensor:
        """A^H: samples to image."""
        return self._combine(self.transform.adjoint(samples * self.mask[:, :, None, None]))

    def zero_filled(self, samples: Tensor) -> Tensor:
        """A^H W: the image that samples show by themselves; on a Cartesian grid the adjoint."""
        if self.density is None:
            return self.adjoint(samples)
        return self.adjoint(samples * self.density[:, :, None])

    def gram(self, image: Tensor) -> Tensor:
        """A^H W A."""
        if self.sensitivity is None or image.device.type != "cpu":
            return self._combine(self.transform.gram(self._spread(image), self._response))
        # Coil after coil stays in the processor's caches.
        total = torch.zeros_like(image)
        for maps in self.sensitivity.unbind(1):
            seen = self.transform.gram((maps * image).unsqueeze(1), self._response).squeeze(1)
            total = torch.addcmul(total, maps.conj(), seen)
        return total

    @property
    def is_diagonal(self) -> bool:
        """`gram` weighs every sample of the grid by itself: one coil on a Cartesian grid."""
        return self.sensitivity is None and self.transform.is_cartesian

    @cached_property
    def norm(self) -> Tensor:
        """Largest eigenvalue of A^H W A with maps of unit norm, float (batch,)."""
        return self.transform.norm(self._response)

    @cached_property
    def density(self) -> Tensor | None:
        """W, float (batch, readout, 1 or sample), or None where all samples weigh the same."""
        return self.transform.density(self.mask)

    @property
    def grid_mask(self) -> Tensor:
        """The mask on a Cartesian grid: (batch, height or 1, width or 1)."""
        return cartesian(self.transform).grid_mask(self.mask)

    def of_scan(self, row: int, n: int = 1) -> "Operator":
        """The operator of `n` scans of the batch, one as a batch of one."""
        maps = None if self.sensitivity is None else self.sensitivity[row : row + n]
        return Operator(self.transform, self.mask[row : row + n], maps)

    def data_consistency(self, image: Tensor, zero_filled: Tensor) -> Tensor:
        """Put the measured samples back into a reconstruction (hard data consistency).

        S^H S x - A^H W (A x - y). On a Cartesian grid that keeps what `image` says about samples
        that were not acquired and takes the rest from the measurement; for a single coil the result
        has exactly the measured samples. Elsewhere it is one safe step of gradient descent. Maps
        are expected to have unit norm over the coils where there is signal, as
        :mod:`activemri.mri.coils` makes them.

        Args:
            image: complex reconstruction, (batch, height, width).
            zero_filled: A^H W y of the measurement y.
        """
        seen = self._combine(self._spread(image))
        if self.transform.is_cartesian:
            return seen - self.gram(image) + zero_filled
        return seen - (self.gram(image) - zero_filled) / self.norm[:, None, None]

    @cached_property
    def _response(self) -> Tensor:
        # kept for all uses, of which the first may be one without gradients
        with torch.set_grad_enabled(self.mask.requires_grad):
            return self.transform.response(self.mask, self.density)

    def _spread(self, image: Tensor) -> Tensor:
        image = image.unsqueeze(1)
        return image if self.sensitivity is None else self.sensitivity * image

    def _combine(self, images: Tensor) -> Tensor:
        if self.sensitivity is None:
            return images.squeeze(1)
        return torch.sum(self.sensitivity.conj() * images, dim=1)


@lru_cache(maxsize=64)
def _grid_transform(shape: Shape, selected: tuple[bool, bool]) -> Cartesian:
    return Cartesian(shape, selected)
