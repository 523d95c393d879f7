"""From a drawing to the k-space that coils with smooth maps and phases receive, without error.

The field of view is the unit square, extended along the longer side of the matrix so that pixels
are square. Within it the drawing is multiplied by trigonometric polynomials p(x) = sum_a c_a
exp(2 pi i a . x) with |a| at most the degree: the coil maps, and one for phase and shading. Then

    (drawing p)^(k) = sum_a c_a drawing^(k - a)

is a finite sum of exact values. It is done with an FFT of the spectrum on a grid with a margin of
the sum of the degrees on each side: what wraps around stays within the margin, which is cut off.
Only that the polynomials look like coils and phases is approximated.

The coil maps used, p_c, fit Biot-Savart maps in the part of the field of view where bodies are
(a polynomial is periodic, the physical maps are not), so their norm is one within some percent.
Their quotients S_c = p_c / |p| have unit norm everywhere and give exactly the same data: p_c times
the object is S_c times (|p| times the object). The S_c are what a slice calls its sensitivity; the
norm is shading, like that of any receive coil.
"""

import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from activemri.data.phantoms.shapes import Drawing
from activemri.mri import fourier
from activemri.mri.coils import biot_savart_sensitivity
from activemri.mri.noise import smooth_phase

Complex = NDArray[np.complex128]

COIL_DEGREE = 8
SHADING_DEGREE = 6
FIT_SIZE = 48  # samples along the smaller side of the field of view
FIT_REACH = 0.46  # of the field of view, to both sides of the centre: where bodies are


def coil_polynomials(
    n_coils: int, shape: tuple[int, int], *, generator: np.random.Generator
) -> Complex:
    """Coefficients of Biot-Savart maps: (coil, 2 degree + 1, 2 degree + 1); a one for one coil."""
    if n_coils == 1:
        return np.ones((1, 1, 1), complex)
    height, width = (round(FIT_SIZE * side) for side in field_of_view(shape))
    maps = biot_savart_sensitivity(n_coils, height, width, generator=generator)
    return fit(maps.numpy().astype(complex), degree=COIL_DEGREE)


def shading_polynomial(
    shape: tuple[int, int], *, generator: np.random.Generator, strength: float, fade: bool
) -> Complex:
    """Coefficients of a phase of some strength and a shading: (1, 2 degree + 1, 2 degree + 1).

    They may `fade` towards the upper and lower edge, as at the ends of a coil that is shorter than
    the body.
    """
    height, width = (round(FIT_SIZE * side) for side in field_of_view(shape))
    phase = smooth_phase(height, width, generator=generator, strength=strength).numpy()
    y = (np.arange(height) - height // 2)[:, None] / height
    x = (np.arange(width) - width // 2)[None, :] / width
    ramp = generator.normal(0, 0.25, 2)
    bright = np.exp(ramp[0] * y + ramp[1] * x - generator.uniform(0, 1.0) * (x**2 + y**2))
    if fade:
        bright = bright * (1 - np.sin(math.pi * y) ** 8)
    return fit((bright * np.exp(1j * phase))[None], degree=SHADING_DEGREE)


def fit(maps: Complex, *, degree: int) -> Complex:
    """Least-squares coefficients of maps (map, height, width) that span the field of view."""
    (down, inside_y), (right, inside_x) = (_inverse(n, degree) for n in maps.shape[-2:])
    return down @ maps[:, inside_y][:, :, inside_x] @ right.T


def evaluate(coefficients: Complex, shape: tuple[int, int]) -> Complex:
    """Polynomials (map, order, order) on the pixels of a grid: (map, height, width)."""
    degree = coefficients.shape[-1] // 2
    down, right = (_harmonics(n, degree) for n in shape)
    return down @ coefficients @ right.T


def exact_kspace(
    drawing: Drawing, shape: tuple[int, int], *, coils: Complex, shading: Complex
) -> Tensor:
    """k-space of drawing times shading times coil maps: complex128 (coil, height, width).

    It is scaled like the orthonormal transform of an image with the drawing's values.
    """
    margin = coils.shape[-1] // 2 + shading.shape[-1] // 2
    height, width = shape[0] + 2 * margin, shape[1] + 2 * margin
    side = min(shape)
    rows = np.arange(-(height // 2), 1) * (side / shape[0])
    columns = np.arange(-(width // 2), width // 2 + 1) * (side / shape[1])
    half = drawing.spectrum(rows, columns)  # k_y <= 0; drawings are real, so F(-k) = conj F(k)
    spectrum = np.concatenate((half, np.conj(half[-2::-1, ::-1])))[:height, :width]
    scale = side**2 / math.sqrt(shape[0] * shape[1])
    image = fourier.ifft2(torch.from_numpy(spectrum * scale))
    factors = evaluate(coils, (height, width)) * evaluate(shading, (height, width))
    kspace = fourier.fft2(image * torch.from_numpy(factors))
    top, left = height // 2 - shape[0] // 2, width // 2 - shape[1] // 2
    return kspace[:, top : top + shape[0], left : left + shape[1]]


def field_of_view(shape: tuple[int, int]) -> tuple[float, float]:
    """Its height and width, the smaller side being one."""
    return shape[0] / min(shape), shape[1] / min(shape)


def _harmonics(n: int, degree: int) -> Complex:
    position = (np.arange(n) - n // 2) / n
    orders = np.arange(-degree, degree + 1)
    harmonics: Complex = np.exp(2j * math.pi * position[:, None] * orders)
    return harmonics


@lru_cache(maxsize=16)
def _inverse(n: int, degree: int) -> tuple[Complex, NDArray[np.bool_]]:
    """Regularised pseudo-inverse, so that the polynomial stays tame where it is not fitted."""
    inside = np.abs((np.arange(n) - n // 2) / n) <= FIT_REACH
    inverse = np.linalg.pinv(_harmonics(n, degree)[inside], rcond=1e-4)
    return inverse.astype(np.complex128), inside
