"""Fourier transform between images and samples anywhere in k-space, on the CPU.

Images are spread onto a grid of twice their size, where every sample is interpolated with a
Kaiser-Bessel kernel (Jackson et al., IEEE TMI 10:473, 1991; width and shape of Beatty et al., IEEE
TMI 24:799, 2005). The error is about 1e-5 of the norm.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from activemri.mri import fourier
from activemri.mri.conjugate_gradient import conjugate_gradient

OVERSAMPLING = 2
WIDTH = 6  # of the kernel, in samples of the larger grid
BETA = math.pi * math.sqrt((WIDTH / OVERSAMPLING * (OVERSAMPLING - 0.5)) ** 2 - 0.8)

Shape = tuple[int, int]


class NonUniformTransform:
    """Samples of an image's spectrum at given positions, and the adjoint.

    A sample at k is the sum over pixels p of x(p) exp(-2 pi i k (p - n // 2)) / sqrt(n), along both
    axes: at the positions (q - n // 2) / n it is what :func:`activemri.mri.fourier.fft2` gives.

    Args:
        trajectory: positions in cycles per pixel, along the height first, (sample, 2). The spectrum
            repeats with a period of 1.
        shape: (height, width) of the images.

    Raises:
        ValueError: for positions of another shape or that are not finite.
    """

    def __init__(self, trajectory: NDArray[np.floating], shape: Shape) -> None:
        if trajectory.ndim != 2 or trajectory.shape[1] != 2 or not np.isfinite(trajectory).all():
            raise ValueError(
                f"expected finite positions of the shape (sample, 2); got {trajectory.shape}"
            )
        self.shape = shape
        self._grid = (OVERSAMPLING * shape[0], OVERSAMPLING * shape[1])
        self._matrix = _interpolation(trajectory, self._grid)
        fall = [_kernel_spectrum(n, of=OVERSAMPLING * n) for n in shape]
        self._correction = torch.from_numpy(
            (OVERSAMPLING / np.outer(*fall)).astype(np.float32)  # grid's scale over the image's
        )

    def forward(self, images: Tensor) -> Tensor:
        """Complex64 images (coil, height, width) to samples (coil, sample)."""
        spread = _padded(images * self._correction, self._grid)
        return _product(self._matrix, fourier.fft2(spread).flatten(1))

    def adjoint(self, samples: Tensor) -> Tensor:
        """Complex64 samples (coil, sample) to images (coil, height, width)."""
        grid = _product(self._matrix.T, samples).unflatten(1, self._grid)
        return _cropped(fourier.ifft2(grid), self.shape) * self._correction


@dataclass(frozen=True, eq=False)
class Inversion:
    """Images from samples by weighted least squares.

    Minimizes |W^(1/2) (A x - y)|^2 + regularization |x|^2 by conjugate gradients. A^H W A is a
    convolution, so that a step takes no interpolation (Wajer and Pruessmann, ISMRM 2001, 767).

    Attributes:
        transform: A.
        weights: W, real and not negative, (sample,). With what a sample stands for in k-space,
            in units of the image's own grid, A^H W A is close to one and few steps are enough.
        spectrum: of the convolution, (2 height, 2 width).
        support: bool (height, width), False where the image is known to be zero.
        regularization: in the units of A^H W A.
        max_steps: of conjugate gradients.
    """

    transform: NonUniformTransform
    weights: Tensor
    spectrum: Tensor
    support: Tensor
    regularization: float = 1e-3
    max_steps: int = 10

    def solve(self, samples: Tensor) -> Tensor:
        """Complex64 samples (coil, sample) to images (coil, height, width)."""
        largest = samples.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
        right = self.transform.adjoint(samples / largest * self.weights)  # squares fit float32
        return largest * conjugate_gradient(
            lambda images: self.gram(images) * self.support + self.regularization * images,
            right * self.support,
            max_steps=self.max_steps,
        )

    def gram(self, images: Tensor) -> Tensor:
        """A^H W A."""
        height, width = self.transform.shape
        padded = _padded(images, (2 * height, 2 * width))
        return _cropped(fourier.weigh(padded, self.spectrum[None], (-2, -1)), (height, width))


def inversion(
    trajectory: NDArray[np.floating],
    shape: Shape,
    *,
    weights: Tensor,
    support: Tensor | None = None,
) -> Inversion:
    """Prepare to make images from samples.

    Args:
        trajectory: as of :class:`NonUniformTransform`.
        shape: (height, width) of the images.
        weights: as of :class:`Inversion`.
        support: the same; None for everywhere.
    """
    height, width = shape
    twice = NonUniformTransform(trajectory, (2 * height, 2 * width))
    response = twice.adjoint(weights.to(torch.complex64)[None])[0]
    response[0], response[:, 0] = 0, 0  # no two pixels are as far apart
    spectrum = 4 * fourier.fft2(response).real  # 2 / sqrt(n) of the sum, 2 sqrt(n) of the transform
    if support is None:
        support = torch.ones(shape, dtype=torch.bool)
    return Inversion(NonUniformTransform(trajectory, shape), weights, spectrum, support)


def _interpolation(trajectory: NDArray[np.floating], grid: Shape) -> sparse.csr_matrix:
    """Values at the samples from values on the grid: real (sample, points of the grid)."""
    n_samples = len(trajectory)
    rows, down = _neighbours(trajectory[:, 0], grid[0])
    columns, across = _neighbours(trajectory[:, 1], grid[1])
    places = rows[:, :, None] * np.int32(grid[1]) + columns[:, None, :]
    values = down[:, :, None] * across[:, None, :]
    starts = np.arange(n_samples + 1, dtype=np.int32) * np.int32(WIDTH**2)
    return sparse.csr_matrix(
        (values.ravel(), places.ravel(), starts), shape=(n_samples, grid[0] * grid[1])
    )


def _neighbours(
    positions: NDArray[np.floating], size: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Places on an axis around each position, and their values of the kernel, (sample, WIDTH)."""
    centers = size // 2 + positions.astype(np.float64) * size
    places = np.floor(centers - WIDTH / 2)[:, None] + np.arange(1, WIDTH + 1)
    values = np.i0(
        BETA * np.sqrt(np.maximum(1 - (2 / WIDTH * (places - centers[:, None])) ** 2, 0))
    )
    return (places % size).astype(np.int32), (values / np.i0(BETA)).astype(np.float32)


def _kernel_spectrum(n: int, *, of: int) -> NDArray[np.float64]:
    """What the kernel does to the n central pixels of an image on a grid of that size."""
    pixels = (np.arange(n) - n // 2) / of
    root = np.sqrt(BETA**2 - (math.pi * WIDTH * pixels) ** 2)
    spectrum: NDArray[np.float64] = WIDTH * np.sinh(root) / root / np.i0(BETA)
    return spectrum


def _product(matrix: sparse.spmatrix, values: Tensor) -> Tensor:
    """A real matrix times complex values, for each coil."""
    columns = torch.view_as_real(values.T.contiguous()).flatten(1).numpy()  # (place, 2 coil)
    product = torch.from_numpy(matrix @ columns).unflatten(1, (-1, 2))
    return torch.view_as_complex(product).T.contiguous()


def _padded(images: Tensor, size: Shape) -> Tensor:
    """Images in the centre of larger ones."""
    out = images.new_zeros(*images.shape[:-2], *size)
    _cropped(out, (images.shape[-2], images.shape[-1])).copy_(images)
    return out


def _cropped(images: Tensor, size: Shape) -> Tensor:
    top, left = (images.shape[axis - 2] // 2 - size[axis] // 2 for axis in (0, 1))
    return images[..., top : top + size[0], left : left + size[1]]
