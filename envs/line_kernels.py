"""Compiled passes behind :mod:`activemri.envs.line_features`, for one thread of a CPU.

Sums of energy lie in one array, single precision (batch, slot, line): by band along the readout,
by place along it, and the slots named here. Transforms come in without shifts, their origin at
index 0: energies do not depend on that, and indices are cheaper to turn than images.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

Single = NDArray[np.float32]
Complex = NDArray[np.complex64]
Numbers = NDArray[np.int64]
Flags = NDArray[np.bool_]

_compile: Callable[[Any], Any] = numba.njit(
    cache=True, nogil=True, fastmath=True, error_model="numpy"
)

N_BANDS, N_PLACES = 4, 8
MISMATCH, UNCERTAIN, SHOWN, SIZE, N_SLOTS = 12, 13, 14, 15, 16

_FLOOR = np.float32(1e-7)  # share of the energy that counts as nothing
_SMALLEST = 1e-12  # as of activemri.mri.spectrum
_TINY = np.float32(np.finfo(np.float32).tiny)
_ONE, _THREE = np.float32(1), np.float32(3)


@_compile
def _energy(values: Complex) -> np.float32:
    total = np.float32(0)
    for z in values:
        total += z.real * z.real + z.imag * z.imag
    return total


@_compile
def add_energies(rows: Complex, starts: Numbers, slots: Numbers, result: Single) -> None:
    """Add energies of columns of `rows` (height, width) to `result` (slot, width).

    Rows from ``starts[i]`` to ``starts[i + 1]`` belong to ``slots[i]``.
    """
    for i in range(len(slots)):
        total = result[slots[i]]
        for r in range(starts[i], starts[i + 1]):
            row = rows[r]
            for k in range(len(row)):
                total[k] += row[k].real * row[k].real + row[k].imag * row[k].imag


@_compile
def add_line_energies(
    samples: Complex,
    profiles: Complex,
    acquired: Flags,
    bands: tuple[Numbers, Numbers],
    places: tuple[Numbers, Numbers],
    result: Single,
) -> None:
    """Energies of acquired lines of one coil by band and by place, of all scans.

    `samples` (batch, line, 1, sample) are centred, `profiles` (line acquired in any scan, 1, place)
    are not; `bands` and `places` hold starts and slots as of :func:`add_energies`.
    """
    i = 0
    for b in range(acquired.shape[0]):
        for k in range(acquired.shape[1]):
            if acquired[b, k]:
                for starts, slots, values in (
                    (bands[0], bands[1], samples[b, k, 0]),
                    (places[0], places[1], profiles[i, 0]),
                ):
                    for j in range(len(slots)):
                        part = values[starts[j] : starts[j + 1]]
                        result[b, slots[j], k] += _energy(part)
                i += 1


@_compile
def add_mismatch(
    seen: Complex, profiles: Complex, lines: Numbers, turn: Complex, result: Single
) -> None:
    """Add the energy of what one coil should see but does not: to `result` (line,).

    `seen` (place, frequency) is the transform along the width of the coil's image, `profiles`
    (acquired line, place) what was acquired of `lines`, `turn` the phase factors that shifts would
    have made, (line,).
    """
    height, width = seen.shape
    for i in range(len(lines)):
        k = lines[i]
        column, total = (k - width // 2) % width, np.float32(0)
        for q in range(height):
            z = seen[(q + height // 2) % height, column] * turn[k] - profiles[i, q]
            total += z.real * z.real + z.imag * z.imag
        result[k] += total


@_compile
def fourth_powers(image: Complex) -> NDArray[np.float64]:
    """Sum of fourth powers of the magnitudes of each image (batch, height, width): (batch,)."""
    result = np.zeros(image.shape[0])
    for b in range(image.shape[0]):
        for r in range(image.shape[1]):
            row, total = image[b, r], np.float32(0)
            for j in range(len(row)):
                square = row[j].real * row[j].real + row[j].imag * row[j].imag
                total += square * square
            result[b] += np.float64(total)
    return result


@_compile
def _logarithm(share: np.float32) -> Any:
    return np.log10(max(share, np.float32(0)) + _FLOOR) / _THREE + _ONE


@_compile
def _symmetry(profiles: Complex, at: Numbers, pair: Single) -> Any:
    """Symmetry of each acquired pair of lines, into `pair` (line,); return that of all pairs.

    `profiles` (line, coil, place) are those at the numbers `at` (line,), -1 where not acquired.
    """
    width, everything, norms = len(at), np.complex64(0), np.float32(0)
    for k in range(width):
        opposite = (2 * (width // 2) - k) % width
        i, j = at[k], at[opposite]
        if opposite < k or i < 0 or j < 0:
            continue
        product, norm = np.complex64(0), np.float32(0)
        for c in range(profiles.shape[1]):
            one, other = profiles[i, c], profiles[j, c]
            for q in range(len(one)):
                x, y = one[q], other[q]
                product += x * y
                norm += np.sqrt(x.real * x.real + x.imag * x.imag) * np.sqrt(
                    y.real * y.real + y.imag * y.imag
                )
        pair[k] = pair[opposite] = np.abs(product) / max(norm, _TINY)
        if opposite != k:
            everything += product
            norms += norm
    return np.abs(everything) / max(norms, _TINY / np.float32(2))


@_compile
def _power_law(energy: Single, acquired: Flags, total: np.float32, result: Single) -> None:
    """As :func:`activemri.mri.spectrum.power_law`, of shares energy / total of (line,)."""
    width = len(energy)
    x, y = np.empty(width), np.empty(width)
    n, mean_x, mean_y = 0, 0.0, 0.0
    for k in range(width):
        x[k] = np.log1p(np.float64(abs(k - width // 2)))
        if acquired[k]:
            y[k] = np.log(max(np.float64(energy[k] / total), _SMALLEST))
            n, mean_x, mean_y = n + 1, mean_x + x[k], mean_y + y[k]
    mean_x, mean_y = mean_x / max(n, 1), mean_y / max(n, 1)
    spread, slope = 0.0, 0.0
    for k in range(width):
        if acquired[k]:
            spread += (x[k] - mean_x) ** 2
            slope += (x[k] - mean_x) * (y[k] - mean_y)
    slope = min(slope / spread, 0.0) if spread > 0 else min(slope, 0.0)
    for k in range(width):
        result[k] = np.exp(mean_y + slope * (x[k] - mean_x))


@_compile
def put_features(
    profiles: Complex,
    acquired: Flags,
    measurable: Flags,
    n_measured: Numbers,
    outlier: Single,
    sums: Single,
    fourth: NDArray[np.float64],
    n_pixels: int,
    has_region: bool,
    result: Single,
) -> None:
    """All features of lines, (batch, feature, line), in the order of their names."""
    n_scans, width = acquired.shape
    zero, at, energy = np.float32(0), np.empty(width, np.int64), np.empty(width, np.float32)
    expected = np.empty(width, np.float32)
    i, half = 0, np.float32(max(width // 2, 1))
    for b in range(n_scans):
        total, outer, noise, n_acquired, sum_of = zero, zero, zero, 0, sums[b]
        for k in range(width):
            energy[k] = zero
            for place in range(N_BANDS, N_BANDS + N_PLACES):
                energy[k] += sum_of[place, k]
            total += energy[k]
            noise += sum_of[UNCERTAIN, k]
            at[k] = -1
            if acquired[b, k]:
                at[k], i, n_acquired = i, i + 1, n_acquired + 1
            else:
                outer += energy[k]
        total = max(total, _TINY)
        _power_law(energy, acquired[b], total, expected)
        row = result[b]
        pair = row[19]
        pair[:] = zero
        symmetry = _symmetry(profiles, at, pair)
        peak = np.float32(fourth[b] / max(np.float64(total) ** 2, np.float64(_TINY)) * n_pixels)
        row[28, :] = np.float32(n_acquired) / np.float32(width)
        row[29, :] = symmetry
        row[30, :] = _logarithm(noise / total)
        row[31, :] = np.log10(max(peak, _ONE)) / np.float32(2)
        row[32, :] = _logarithm(outer / total)
        before = -1
        for k in range(width):
            if acquired[b, k]:
                before = k
            row[26, k] = np.log1p(np.float32(k - before)) / _THREE
        after = width
        for k in range(width - 1, -1, -1):
            if acquired[b, k]:
                after = k
            row[27, k] = np.log1p(np.float32(after - k)) / _THREE
        for k in range(width):
            row[0, k] = acquired[b, k]
            row[1, k] = measurable[b, k]
            row[2, k] = _logarithm(energy[k] / total)
            for j in range(N_BANDS + N_PLACES):
                row[3 + j, k] = _logarithm(sum_of[j, k] / total)
            row[15, k] = _logarithm(expected[k])
            row[16, k] = _logarithm(sum_of[UNCERTAIN, k] / total)
            row[17, k] = _logarithm(sum_of[MISMATCH, k] / total)
            row[18, k] = acquired[b, (2 * (width // 2) - k) % width]
            row[20, k] = _logarithm(sum_of[SHOWN, k] / total) if has_region else zero
            row[21, k] = _logarithm(sum_of[SIZE, k] / np.float32(n_pixels)) if has_region else zero
            row[22, k] = np.log1p(np.float32(n_measured[b, k]))
            row[23, k] = outlier[b, k] / (_ONE + outlier[b, k])
            row[25, k] = np.float32(k - width // 2) / half
            row[24, k] = abs(row[25, k])
