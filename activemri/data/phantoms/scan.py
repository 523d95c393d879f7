"""How a drawing is measured: exact k-space with phase and coil sensitivities.

The Fourier transform of a drawing is evaluated on a grid of half the spacing of k-space, that is
for twice the field of view, and some samples beyond its border. There phase times sensitivity is a
trigonometric polynomial of at most `HARMONICS` periods over the doubled field of view. Its product
with the object is a convolution of so few samples that the border absorbs what wraps around: the
measured samples are those of the product, exactly, but for rounding. The polynomials are fitted to
physical fields (Biot-Savart coils, a smooth phase) within the field of view; they are what the
scanner of this phantom has, not an approximation of the data.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from activemri.data.phantoms.shapes import Drawing
from activemri.mri.coils import biot_savart_sensitivity, unit_norm
from activemri.mri.noise import smooth_phase

HARMONICS = 7  # highest order along an axis, in periods over the doubled field of view
_MARGIN = 4  # samples beyond the border of k-space; HARMONICS half-steps fit in
_FIT = 28  # points along an axis to which polynomials are fitted
_DAMPING = 1e-4  # of the fit: keeps the polynomial small outside of the field of view


@dataclass(frozen=True, eq=False)
class Receiver:
    """Coils and phase of one scan.

    Attributes:
        shape: height and width of k-space.
        modulation: phase times sensitivity, sampled finely over the doubled field of view:
            complex128 (coil, 2 * (height + margin), 2 * (width + margin)).
        sensitivity: the coil maps at the pixels, complex64 (coil, height, width), of unit norm. The
            phase belongs to the image.
    """

    shape: tuple[int, int]
    modulation: NDArray[np.complex128]
    sensitivity: Tensor

    @classmethod
    def random(
        cls, n_coils: int, shape: tuple[int, int], *, generator: np.random.Generator
    ) -> "Receiver":
        """Coils around the body and a background phase, drawn at random."""
        maps = biot_savart_sensitivity(n_coils, _FIT, _FIT, generator=generator).numpy()
        phase = np.exp(1j * smooth_phase(_FIT, _FIT, generator=generator, strength=0.7).numpy())
        fields = maps * phase
        coefficients = np.stack([_fit(field) for field in fields])
        together = np.stack([_at_pixels(c, shape) for c in coefficients])
        background = _at_pixels(_fit(phase), shape)
        unit = np.conj(background / np.abs(background))
        sensitivity = unit_norm(torch.from_numpy(together * unit)).to(torch.complex64)
        modulation = np.stack([_over_doubled_view(c, shape) for c in coefficients])
        return cls(shape, modulation, sensitivity)


def acquire(drawing: Drawing, receiver: Receiver) -> Tensor:
    """Noise-free k-space, complex64 (coil, height, width), as the orthonormal transform scales it."""
    height, width = receiver.shape
    side = min(receiver.shape)
    rows, columns = (
        (np.arange(2 * (n + 2 * _MARGIN)) - (n + 2 * _MARGIN)) / (2 * n / side)
        for n in receiver.shape
    )
    spectrum = np.fft.ifftshift(drawing.spectrum(rows, columns))
    view = np.fft.ifft2(spectrum)
    measured = np.fft.fft2(view * np.fft.ifftshift(receiver.modulation, axes=(1, 2)))
    dense = np.fft.fftshift(measured, axes=(1, 2))
    kept = dense[
        :,
        2 * _MARGIN : 2 * _MARGIN + 2 * height : 2,
        2 * _MARGIN : 2 * _MARGIN + 2 * width : 2,
    ]
    # Integral over a field of view of area (height / side) * (width / side) -> orthonormal sum.
    scale = math.sqrt(height * width) / (height * width / side**2)
    return torch.from_numpy(kept * scale).to(torch.complex64)


def _fit(field: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """Coefficients of the polynomial that comes nearest to a field on the fitting grid."""
    inverse = _fitter()
    coefficients: NDArray[np.complex128] = inverse @ field @ inverse.T
    return coefficients


@lru_cache(maxsize=1)
def _fitter() -> NDArray[np.complex128]:
    """Damped inverse of the waves on the fitting grid, (2 * HARMONICS + 1, _FIT)."""
    waves = _waves(_grid(_FIT))
    gram = waves.conj().T @ waves
    damped = gram + _DAMPING * _FIT * np.eye(len(gram))
    inverse: NDArray[np.complex128] = np.linalg.solve(damped, waves.conj().T)
    return inverse


def _at_pixels(
    coefficients: NDArray[np.complex128], shape: tuple[int, int]
) -> NDArray[np.complex128]:
    down, right = (_waves((np.arange(n) - n // 2) / n) for n in shape)
    values: NDArray[np.complex128] = down @ coefficients @ right.T
    return values


def _over_doubled_view(
    coefficients: NDArray[np.complex128], shape: tuple[int, int]
) -> NDArray[np.complex128]:
    sizes = [2 * (n + 2 * _MARGIN) for n in shape]
    down, right = (_waves(2 * (np.arange(n) - n // 2) / n) for n in sizes)
    values: NDArray[np.complex128] = down @ coefficients @ right.T
    return values


def _grid(n: int) -> NDArray[np.float64]:
    """Places of fields of the coils and noise modules, in units of the field of view."""
    return (np.arange(n) - n // 2) / n


def _waves(place: NDArray[np.float64]) -> NDArray[np.complex128]:
    """exp(i pi h place) for every order h: h half periods over the field of view."""
    order = np.arange(-HARMONICS, HARMONICS + 1)
    waves: NDArray[np.complex128] = np.exp(1j * math.pi * np.outer(place, order))
    return waves
