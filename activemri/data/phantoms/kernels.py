"""Compiled loops over shapes and spatial frequencies; imported on first use (needs numba).

Real and imaginary parts are kept apart and the innermost loop runs over columns without branches,
so that the compiler can vectorise it. All kernels add to their outputs.
"""

import math

import numba
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@numba.njit(cache=True, nogil=True, error_model="numpy")
def add_edges(
    edges: Array, rows: Array, columns: Array, real: Array, imaginary: Array
) -> None:  # pragma: no cover - compiled
    """Add the contour integrals of polygon edges (weight, x0, y0, x1, y1).

    The caller multiplies the sum by i / (2 pi |k|^2); see :func:`shapes.Drawing.spectrum`.
    """
    n_rows, n_columns = rows.size, columns.size
    turned, halves = -2 * math.pi * columns, math.pi * columns
    phase_cos, phase_sin = np.empty(n_columns), np.empty(n_columns)
    half_cos, half_sin = np.empty(n_columns), np.empty(n_columns)
    across, area = np.empty(n_columns), np.empty(n_columns)
    # Of columns to both sides of the origin one side's sines serve both: half of the time is sines.
    mirrored = n_columns // 2 if (columns == -columns[::-1]).all() else 0
    for edge in edges:
        weight = edge[0]
        along_x, along_y = edge[3] - edge[1], edge[4] - edge[2]
        middle_x, middle_y = 0.5 * (edge[1] + edge[3]), 0.5 * (edge[2] + edge[4])
        for j in range(mirrored, n_columns):
            angle = turned[j] * middle_x
            phase_cos[j], phase_sin[j] = math.cos(angle), math.sin(angle)
            angle = halves[j] * along_x
            half_cos[j], half_sin[j] = math.cos(angle), math.sin(angle)
        for j in range(mirrored):
            other = n_columns - 1 - j
            phase_cos[j], phase_sin[j] = phase_cos[other], -phase_sin[other]
            half_cos[j], half_sin[j] = half_cos[other], -half_sin[other]
        for j in range(n_columns):
            across[j], area[j] = halves[j] * along_x, columns[j] * along_y
        for i in range(n_rows):
            k_y = rows[i]
            angle = -2 * math.pi * k_y * middle_y
            row_cos, row_sin = math.cos(angle), math.sin(angle)
            half = math.pi * k_y * along_y
            row_half_cos, row_half_sin = math.cos(half), math.sin(half)
            row_area = k_y * along_x
            for j in range(n_columns):
                # sinc(k . edge) with sin(a + b) from the sines of the two axes
                argument = across[j] + half
                sine = half_sin[j] * row_half_cos + half_cos[j] * row_half_sin
                tiny = abs(argument) < 1e-4
                divisor = 1.0 if tiny else argument
                sinc = 1.0 - argument * argument * (1 / 6) if tiny else sine / divisor
                term = weight * (area[j] - row_area) * sinc
                real[i, j] += term * (phase_cos[j] * row_cos - phase_sin[j] * row_sin)
                imaginary[i, j] += term * (phase_cos[j] * row_sin + phase_sin[j] * row_cos)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def add_ellipses(
    ellipses: Array,
    rows: Array,
    columns: Array,
    table: Array,
    steps: float,
    real: Array,
    imaginary: Array,
) -> None:  # pragma: no cover - compiled
    """Add ellipses (amplitude, x, y, xx, xy, yx, yy): images of the unit disc under a matrix.

    The table (n, 2) has values and slopes per step of the jinc function 2 J1(s) / s, and so many
    steps per unit of s. It is interpolated by cubic Hermite polynomials.
    """
    n_columns = columns.size
    shift_cos, shift_sin = np.empty(n_columns), np.empty(n_columns)
    for ellipse in ellipses:
        amplitude, x, y, xx, xy, yx, yy = ellipse
        area = amplitude * math.pi * abs(xx * yy - xy * yx)
        for j in range(n_columns):
            angle = -2 * math.pi * columns[j] * x
            shift_cos[j], shift_sin[j] = area * math.cos(angle), area * math.sin(angle)
        for i in range(rows.size):
            k_y = rows[i]
            row_cos, row_sin = math.cos(2 * math.pi * k_y * y), -math.sin(2 * math.pi * k_y * y)
            for j in range(n_columns):
                u = xx * columns[j] + yx * k_y
                v = xy * columns[j] + yy * k_y
                position = 2 * math.pi * steps * math.sqrt(u * u + v * v)
                left = int(position)
                t = position - left
                rest = 1 - t
                jinc = rest * rest * ((1 + 2 * t) * table[left, 0] + t * table[left, 1])
                jinc += t * t * ((3 - 2 * t) * table[left + 1, 0] - rest * table[left + 1, 1])
                real[i, j] += jinc * (shift_cos[j] * row_cos - shift_sin[j] * row_sin)
                imaginary[i, j] += jinc * (shift_cos[j] * row_sin + shift_sin[j] * row_cos)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def add_waves(
    waves: Array, rows: Array, columns: Array, reach: float, real: Array, imaginary: Array
) -> None:  # pragma: no cover - compiled
    """Add Gaussian-windowed cosines (amplitude, x, y, xx, xy, yx, yy, k_x, k_y, phase).

    The Gaussian counts as zero `reach` standard deviations away in k-space.
    """
    for wave in waves:
        amplitude, x, y, xx, xy, yx, yy, wave_x, wave_y, phase = wave
        peak = amplitude * math.pi * abs(xx * yy - xy * yx)  # half of 2 pi |det|: two lobes
        # Covariance of the lobes is the inverse of the matrix below; its diagonal bounds them.
        a, b, c = xx * xx + xy * xy, xx * yx + xy * yy, yx * yx + yy * yy
        scale = reach / (2 * math.pi * abs(xx * yy - xy * yx))
        reach_x, reach_y = scale * math.sqrt(c), scale * math.sqrt(a)
        for sign in (-1.0, 1.0):
            centre_x, centre_y = sign * wave_x, sign * wave_y
            first = np.searchsorted(columns, centre_x - reach_x)
            last = np.searchsorted(columns, centre_x + reach_x)
            for i in range(rows.size):
                down = rows[i] - centre_y
                if abs(down) > reach_y:
                    continue
                for j in range(first, last):
                    right = columns[j] - centre_x
                    square = a * right * right + 2 * b * right * down + c * down * down
                    value = peak * math.exp(-2 * math.pi * math.pi * square)
                    angle = sign * phase - 2 * math.pi * (columns[j] * x + rows[i] * y)
                    real[i, j] += value * math.cos(angle)
                    imaginary[i, j] += value * math.sin(angle)
