"""One pass over an image on the CPU: add lines, take the magnitude, score against the target.

Compiled with numba on first use and cached. The sums that SSIM needs run down the columns: a
window's 7 rows are one row added and one row dropped, so a pixel costs a few additions instead of
49. Sums are kept in float64, which makes the result equal to scikit-image's to 1e-7.
:mod:`activemri.scoring` wraps these kernels and has the plain torch form for other devices.
"""

import numba
import numpy as np
from numpy.typing import NDArray

Complex = NDArray[np.complex64]
Single = NDArray[np.float32]
Double = NDArray[np.float64]

_compile = numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")


@_compile
def _add_to_row(row: Complex, r: int, left: Complex, right: Complex, sensitivity: Complex) -> None:
    """row += sum over coils of conj(sensitivity) * left @ right, at image row r.

    left (coil, height, k) and right (coil, k, width) are one batch item's; `sensitivity`
    (coil, height, width) has no coils where there is one unit map.
    """
    n_coils, _, n_lines = left.shape
    for c in range(n_coils):
        for k in range(n_lines):
            factor = left[c, r, k]
            wave = right[c, k]
            if len(sensitivity) == 0:
                for j in range(len(row)):
                    row[j] += factor * wave[j]
            else:
                coil = sensitivity[c, r]
                for j in range(len(row)):
                    row[j] += np.conj(coil[j]) * (factor * wave[j])


@_compile
def add_lines(image: Complex, left: Complex, right: Complex, sensitivity: Complex) -> None:
    """Add newly acquired lines to the zero-filled images, in place.

    Args:
        image: (batch, height, width).
        left: (batch, coil, height, k); `left @ right` is the lines' share of each coil image.
        right: (batch, coil, k, width).
        sensitivity: (batch, coil, height, width), or (batch, 0, height, width) for a unit map.
    """
    for b in range(image.shape[0]):
        for r in range(image.shape[1]):
            _add_to_row(image[b, r], r, left[b], right[b], sensitivity[b])


@_compile
def score(
    image: Complex,
    owner: NDArray[np.int64],
    left: Complex,
    right: Complex,
    sensitivity: Complex,
    target: Single,
    target_mean: Single,
    target_variance: Single,
    data_range: Double,
    relative_range: Double,
    region: NDArray[np.bool_],
    ssim: Double,
    squared_error: Double,
) -> None:
    """SSIM and squared error of images to which lines have been added on trial.

    Item i is image ``owner[i]`` plus ``left[i] @ right[i]``; with no lines (k = 0) it is the image
    itself. Images are cropped around their centre to the target's size. Targets and their window
    means and variances are in units of `data_range`; the range that SSIM itself is to use is given
    relative to it.

    Args:
        image: (batch, height, width).
        owner: image of each item, (item,).
        left, right, sensitivity: as for :func:`add_lines`; the first two by item.
        target: (batch, h, w).
        target_mean, target_variance: (batch, h - 6, w - 6).
        data_range, relative_range: (batch,).
        region: (batch, h, w): where to sum errors, and SSIM by the windows' centres; or
            (batch, 0, 0) for everywhere.
        ssim, squared_error: results, (item,); the error in units of the data range.
    """
    h, w = target.shape[1], target.shape[2]
    top = image.shape[1] // 2 - h // 2
    first = image.shape[2] // 2 - w // 2
    n_windows = w - 6
    sample_scale = 49.0 / 48.0
    row = np.empty(image.shape[2], np.complex64)
    magnitude = np.empty((7, w), np.float32)
    sum_x = np.empty(w, np.float64)
    sum_xx = np.empty(w, np.float64)
    sum_xy = np.empty(w, np.float64)
    similarity = np.empty(n_windows, np.float64)
    everywhere = region.shape[1] == 0
    for i in range(len(owner)):
        b = owner[i]
        magnitude[:] = 0
        sum_x[:] = 0
        sum_xx[:] = 0
        sum_xy[:] = 0
        total, error, n_counted = 0.0, 0.0, 0
        k1, k2 = (0.01 * relative_range[b]) ** 2, (0.03 * relative_range[b]) ** 2
        scale = np.float32(1.0 / data_range[b])
        for r in range(h):
            if left.shape[3] == 0:
                visible = image[b, r + top, first : first + w]
            else:
                row[:] = image[b, r + top]
                _add_to_row(row, r + top, left[i], right[i], sensitivity[b])
                visible = row[first : first + w]
            present = target[b, r]
            past = target[b, max(r - 7, 0)]  # its partner is zero in the first seven rows
            kept = magnitude[r % 7]
            for j in range(w):
                z = visible[j]
                m = np.sqrt(z.real * z.real + z.imag * z.imag) * scale
                new, old = np.float64(m), np.float64(kept[j])
                kept[j] = m
                y = np.float64(present[j])
                if everywhere or region[b, r, j]:
                    error += (new - y) * (new - y)
                sum_x[j] += new - old
                sum_xx[j] += new * new - old * old
                sum_xy[j] += new * y - old * np.float64(past[j])
            if r < 6:
                continue
            mean, variance = target_mean[b, r - 6], target_variance[b, r - 6]
            for j in range(n_windows):
                x = (
                    ((sum_x[j] + sum_x[j + 1]) + (sum_x[j + 2] + sum_x[j + 3]))
                    + ((sum_x[j + 4] + sum_x[j + 5]) + sum_x[j + 6])
                ) / 49.0
                xx = (
                    ((sum_xx[j] + sum_xx[j + 1]) + (sum_xx[j + 2] + sum_xx[j + 3]))
                    + ((sum_xx[j + 4] + sum_xx[j + 5]) + sum_xx[j + 6])
                ) / 49.0
                xy = (
                    ((sum_xy[j] + sum_xy[j + 1]) + (sum_xy[j + 2] + sum_xy[j + 3]))
                    + ((sum_xy[j + 4] + sum_xy[j + 5]) + sum_xy[j + 6])
                ) / 49.0
                y = np.float64(mean[j])
                product, square = x * y, x * x
                similarity[j] = ((2 * product + k1) * (2 * sample_scale * (xy - product) + k2)) / (
                    (square + y * y + k1)
                    * (sample_scale * (xx - square) + np.float64(variance[j]) + k2)
                )
            for j in range(n_windows):
                if everywhere or region[b, r - 3, j + 3]:
                    total += similarity[j]
                    n_counted += 1
        ssim[i] = total / n_counted
        squared_error[i] = error


@_compile
def window_statistics(image: Single, mean: Single, variance: Single) -> None:
    """Mean and sample variance of every 7 x 7 window that fits.

    Args:
        image: (batch, h, w).
        mean: result, (batch, h - 6, w - 6).
        variance: result, the same shape.
    """
    n_rows, n_columns = image.shape[1], image.shape[2]
    total = np.empty(n_columns, np.float64)
    squares = np.empty(n_columns, np.float64)
    for b in range(image.shape[0]):
        total[:] = 0
        squares[:] = 0
        for r in range(n_rows):
            present, past = image[b, r], image[b, max(r - 7, 0)]
            kept = 1.0 if r >= 7 else 0.0
            for j in range(n_columns):
                new, old = np.float64(present[j]), kept * np.float64(past[j])
                total[j] += new - old
                squares[j] += new * new - old * old
            if r < 6:
                continue
            for j in range(n_columns - 6):
                x, xx = 0.0, 0.0
                for k in range(7):
                    x += total[j + k]
                    xx += squares[j + k]
                m = x / 49.0
                mean[b, r - 6, j] = m
                variance[b, r - 6, j] = 49.0 / 48.0 * (xx / 49.0 - m * m)


@_compile
def to_uint8(image: Complex, gain: Single, pixels: NDArray[np.uint8]) -> None:
    """Magnitudes times a gain, cut off at 255 and rounded down.

    Args:
        image: (batch, height, width).
        gain: (batch,).
        pixels: result, (batch, h, w): the image's centre.
    """
    h, w = pixels.shape[1], pixels.shape[2]
    top = image.shape[1] // 2 - h // 2
    first = image.shape[2] // 2 - w // 2
    for b in range(image.shape[0]):
        for r in range(h):
            row, result = image[b, r + top, first : first + w], pixels[b, r]
            for j in range(w):
                z = row[j]
                value = np.sqrt(z.real * z.real + z.imag * z.imag) * gain[b]
                result[j] = np.uint8(min(value, np.float32(255.0)))


@_compile
def largest(image: Complex) -> Single:
    """Largest magnitude of each image (batch, height, width): (batch,)."""
    result = np.empty(image.shape[0], np.float32)
    for b in range(image.shape[0]):
        most = np.float32(0)
        for r in range(image.shape[1]):
            row = image[b, r]
            for j in range(len(row)):
                z = row[j]
                most = max(most, z.real * z.real + z.imag * z.imag)
        result[b] = np.sqrt(most)
    return result
