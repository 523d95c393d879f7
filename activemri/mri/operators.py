"""What the scanner measures of an image, and what that says about the image."""

from dataclasses import dataclass

import torch
from torch import Tensor

from activemri.mri import fourier


@dataclass(frozen=True, eq=False)
class CartesianOperator:
    """A = M F S: coil sensitivities, centred orthonormal Fourier transform, sampling mask.

    Attributes:
        mask: bool, True where acquired, (batch, height or 1, width or 1). A mask of whole
            columns has height 1, a mask of whole rows has width 1.
        sensitivity: complex coil maps, (batch, coil, height, width), or None for one coil
            that sees everything equally (a unit map).
    """

    mask: Tensor
    sensitivity: Tensor | None = None

    def forward(self, image: Tensor) -> Tensor:
        """Complex image (batch, height, width) to acquired k-space (batch, coil, height, width)."""
        return fourier.fft2(self._spread(image)) * self.mask.unsqueeze(1)

    def adjoint(self, kspace: Tensor) -> Tensor:
        """k-space (batch, coil, height, width) to image (batch, height, width): A^H."""
        return self._combine(fourier.ifft2(kspace * self.mask.unsqueeze(1)))

    def gram(self, image: Tensor) -> Tensor:
        """A^H A.

        Along an axis that is sampled completely the transform and its inverse cancel, so only
        the axes that the mask selects on are transformed. This is exact.
        """
        axes = tuple(axis for axis in fourier.IMAGE_AXES if self.mask.shape[axis] > 1)
        if self.sensitivity is None or image.device.type != "cpu":
            return self._combine(fourier.weigh(self._spread(image), self.mask.unsqueeze(1), axes))
        # Coil after coil stays in the processor's caches; the same to the last bit.
        total = torch.zeros_like(image)
        for maps in self.sensitivity.unbind(1):
            seen = fourier.weigh(maps * image, self.mask, axes)
            total = torch.addcmul(total, maps.conj(), seen)
        return total

    def of_scan(self, row: int) -> "CartesianOperator":
        """The operator of one scan of the batch, as a batch of one."""
        maps = self.sensitivity
        return CartesianOperator(
            self.mask[row : row + 1], None if maps is None else maps[row : row + 1]
        )

    def data_consistency(self, image: Tensor, zero_filled: Tensor) -> Tensor:
        """Put the measured samples back into a reconstruction (hard data consistency).

        Keeps what `image` says about samples that were not acquired and takes the rest from the
        measurement: S^H F^H [(1 - M) F S image + M kspace]. For a single coil the result has
        exactly the measured samples. Coil maps are expected to have unit norm over the coils
        where there is signal, as :mod:`activemri.mri.coils` makes them.

        Args:
            image: complex reconstruction, (batch, height, width).
            zero_filled: the adjoint reconstruction A^H kspace of the measurement.
        """
        return self._combine(self._spread(image)) - self.gram(image) + zero_filled

    def _spread(self, image: Tensor) -> Tensor:
        image = image.unsqueeze(1)
        return image if self.sensitivity is None else self.sensitivity * image

    def _combine(self, images: Tensor) -> Tensor:
        if self.sensitivity is None:
            return images.squeeze(1)
        return torch.sum(self.sensitivity.conj() * images, dim=1)
