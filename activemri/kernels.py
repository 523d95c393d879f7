"""Compiled loops of a step, on the CPU: what an action acquires, what the image then is and shows.

They are in one file, as a change of one compiles all again, and know arrays alone. What they mean
is written where they are called: :mod:`activemri.envs.scan`, :mod:`activemri.envs.env`,
:mod:`activemri.metrics.reference` and :mod:`activemri.mri.geometry`.
"""

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from activemri.metrics import SSIM_K1, SSIM_K2

#: Actions below zero acquire nothing.
STOP = -1  # ends the episode
IDLE = -2  # changes nothing
WASTE = -3  # costs one readout of the budget

SOME_IDLE = -2  # a step in which some actions acquired nothing

#: Scores that one pass over whole images gives.
PLAIN = ("ssim", "mse", "nmse", "nrmse", "psnr")

Flags = NDArray[np.bool_]
Whole = NDArray[np.int64]
Bytes = NDArray[np.uint8]
Complex = NDArray[np.complex64]
Single = NDArray[np.float32]
Double = NDArray[np.float64]

_exact = numba.njit(cache=True, nogil=True, error_model="numpy")
_fast = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=True)

#: Rows of running sums lie so far apart in one array: a constant, which lets the compiler see that
#: they do not overlap, and the widest image that fits.
WIDEST = 1040


@_fast
def _add_to_row(
    row: Complex, r: int, first: int, left: Complex, right: Complex, sensitivity: Complex
) -> None:
    """row += sum over coils of conj(sensitivity) * left @ right, at image row r from `first` on.

    left (coil, height, k) and right (coil, k, width) are one batch item's; `sensitivity`
    (coil, height, width) has no coils where there is one unit map.
    """
    n_coils, _, n_lines = left.shape
    last = first + len(row)
    for c in range(n_coils):
        for k in range(n_lines):
            factor = left[c, r, k]
            wave = right[c, k, first:last]
            if len(sensitivity) == 0:
                for j in range(len(row)):
                    row[j] += factor * wave[j]
            else:
                coil = sensitivity[c, r, first:last]
                for j in range(len(row)):
                    row[j] += np.conj(coil[j]) * (factor * wave[j])


@_fast
def add_lines(image: Complex, left: Complex, right: Complex, sensitivity: Complex) -> None:
    """Add the lines `left @ right` to images in place.

    Shapes are (batch, height, width), (batch, coil, height, k), (batch, coil, k, width) and
    (batch, coil, height, width), of which there are no coils for a unit map.
    """
    for b in range(image.shape[0]):
        for r in range(image.shape[1]):
            _add_to_row(image[b, r], r, 0, left[b], right[b], sensitivity[b])


@_fast
def _show_row(magnitude: Single, gain: np.float32, pixels: Bytes) -> None:
    """Magnitudes times a gain, cut off at 255 and rounded down."""
    for j in range(len(pixels)):
        # By way of int32, of which a processor converts several at a time.
        pixels[j] = np.int32(min(magnitude[j] * gain, np.float32(255)))


@_fast
def _take_row(
    magnitude: Single, target: Single, past: Single, kept: Single, sums: Single, scale: np.float32
) -> np.float32:
    """Add a row to the running sums of d, d^2 and d y, `WIDEST` apart; return its sum of d^2.

    The row whose d `kept` holds, and whose target is `past`, is dropped; `kept` then holds the new
    one's. `scale` brings the image to the unit of the target.
    """
    error = np.float32(0)
    for j in range(len(target)):
        y = target[j]
        d = magnitude[j] * scale - y
        old = kept[j]
        kept[j] = d
        square = d * d
        error += square
        sums[j] += d - old
        sums[j + WIDEST] += square - old * old
        sums[j + 2 * WIDEST] += d * y - old * past[j]
    return error


@_fast
def _sum_anew(recent: Single, target: Single, r: int, sums: Single) -> None:
    """Running sums of the last seven rows up to row r, without what rounding has added up."""
    sums[:] = 0
    for k in range(7):
        row, y = recent[(r - k) % 7], target[r - k]
        for j in range(len(y)):
            d = row[j]
            sums[j] += d
            sums[j + WIDEST] += d * d
            sums[j + 2 * WIDEST] += d * y[j]


@_fast
def _similarity_row(
    sums: Single, mean: Single, variance: Single, k1: np.float32, k2: np.float32, result: Single
) -> np.float32:
    """SSIM of all windows of seven rows, into `result` (w - 6,); return its sum.

    `sums` lie `WIDEST` apart; the second half is used for sums of two neighbours.
    """
    n, s = len(mean), sums
    for j in range(n + 5):
        s[j + 3 * WIDEST] = s[j] + s[j + 1]
        s[j + 4 * WIDEST] = s[j + WIDEST] + s[j + WIDEST + 1]
        s[j + 5 * WIDEST] = s[j + 2 * WIDEST] + s[j + 2 * WIDEST + 1]
    total = np.float32(0)
    for j in range(n):
        p = j + 3 * WIDEST
        d = (s[p] + s[p + 2]) + (s[p + 4] + s[j + 6])
        p = j + 4 * WIDEST
        square = (s[p] + s[p + 2]) + (s[p + 4] + s[j + WIDEST + 6])
        p = j + 5 * WIDEST
        product = (s[p] + s[p + 2]) + (s[p + 4] + s[j + 2 * WIDEST + 6])
        y, shift = mean[j], d * np.float32(1 / 49)
        own = np.float32(1 / 48) * (square - d * shift)  # sample variance of d
        # 2 cov(x, y) + k2, and 2 mean(x) mean(y) + k1
        b = np.float32(2 / 48) * (product - d * y) + (np.float32(2) * variance[j] + k2)
        a = np.float32(2) * y * (y + shift) + k1
        value = (a * b) / ((a + shift * shift) * (b + own))
        result[j] = value
        total += value
    return total


@_fast
def _sum_inside(values: Single, inside: Flags) -> tuple[float, int]:
    total, n = 0.0, 0
    for j in range(len(values)):
        if inside[j]:
            total += np.float64(values[j])
            n += 1
    return total, n


@_exact  # infinite numbers count here
def _put_errors(error: float, n: int, energy: float, unit: float, result: Double) -> None:
    """All but the first of the :data:`PLAIN` scores by a sum of squares; see activemri.metrics."""
    result[0], result[1] = error / n, 0.0 if error == 0 else error / energy
    result[2], result[3] = np.sqrt(result[1]), 10 * np.log10(unit**2 / result[0])


@_fast
def score(
    image: Complex,
    owner: Whole,
    left: Complex,
    right: Complex,
    sensitivity: Complex,
    target: Single,
    target_mean: Single,
    target_variance: Single,
    energy: Double,
    data_range: Double,
    relative_range: Double,
    region: Flags,
    gain: Single,
    pixels: Bytes,
    result: Double,
) -> None:
    """Scores of images to which lines are added: on trial, or in place.

    Item i is image ``owner[i]`` plus ``left[i] @ right[i]``; with no lines (k = 0) it is the image
    itself. Images are cropped around their centre to the target's size. Targets and their window
    means and variances are in units of `data_range`; the range that SSIM itself is to use is given
    relative to it.

    Args:
        image: (batch, height, width).
        owner: image of each item, (item,).
        left, right, sensitivity: as for :func:`add_lines`; the first two by item, of
            which there are none without lines.
        target: (batch, h, w).
        target_mean, target_variance: (batch, h - 6, w - 6).
        energy, data_range: (batch,).
        relative_range: (batch,), or empty for 1.
        region: (batch, h, w): where to sum errors, and SSIM by the windows' centres; or
            empty for everywhere.
        gain, pixels: (batch,) and result, (batch, h, w); lines then stay in the images, of which
            there is one an item. Or empty.
        result: the :data:`PLAIN` scores, (5, item).
    """
    height, h, w = image.shape[1], target.shape[1], target.shape[2]
    top = height // 2 - h // 2
    first = image.shape[2] // 2 - w // 2
    in_place, everywhere, has_lines = len(pixels) > 0, len(region) == 0, len(left) > 0
    is_plain = has_lines and left.shape[1] * left.shape[3] == 1 and sensitivity.shape[1] == 0
    trial, magnitude = np.empty(w, np.complex64), np.empty(w, np.float32)
    sums = np.empty(6 * WIDEST, np.float32)
    recent = np.empty((7, w), np.float32)  # differences of the last rows
    similarity = np.empty(w - 6, np.float32)
    for i in range(len(owner)):
        b = owner[i]
        sums[:] = 0
        recent[:] = 0
        total, error, n_counted = 0.0, 0.0, 0
        relative = relative_range[b] if len(relative_range) > 0 else 1.0
        k1 = np.float32((SSIM_K1 * relative) ** 2)
        k2 = np.float32((SSIM_K2 * relative) ** 2)
        scale, maps = np.float32(1.0 / data_range[b]), sensitivity[b]
        for place in range(0 if in_place else top, height if in_place else top + h):
            r = place - top
            visible = image[b, place, first : first + w]
            if is_plain:  # one line, of which sum and magnitude are made at once
                factor, wave = left[i, 0, place, 0], right[i, 0, 0]
            if is_plain and in_place and 0 <= r < h and w == image.shape[2]:
                for j in range(w):
                    z = visible[j] + factor * wave[j]
                    visible[j] = z
                    magnitude[j] = np.sqrt(z.real * z.real + z.imag * z.imag)
            elif is_plain and not in_place:
                wave = wave[first : first + w]
                for j in range(w):
                    z = visible[j] + factor * wave[j]
                    magnitude[j] = np.sqrt(z.real * z.real + z.imag * z.imag)
            else:
                if is_plain:
                    whole = image[b, place]
                    for j in range(len(whole)):
                        whole[j] += factor * wave[j]
                elif has_lines and in_place:
                    _add_to_row(image[b, place], place, 0, left[i], right[i], maps)
                elif has_lines:
                    trial[:] = visible
                    _add_to_row(trial, place, first, left[i], right[i], maps)
                    visible = trial
                if r < 0 or r >= h:
                    continue
                for j in range(w):
                    z = visible[j]
                    magnitude[j] = np.sqrt(z.real * z.real + z.imag * z.imag)
            if in_place:
                _show_row(magnitude, gain[b], pixels[b, r])
            past = target[b, max(r - 7, 0)]  # its partner is zero in the first seven rows
            kept = recent[r % 7]
            row_error: Any = _take_row(magnitude, target[b, r], past, kept, sums, scale)
            if not everywhere:
                row_error, _ = _sum_inside(kept * kept, region[b, r])
            error += row_error
            if r < 6:
                continue
            if r % 21 == 20:
                _sum_anew(recent, target[b], r, sums)
            mean, variance = target_mean[b, r - 6], target_variance[b, r - 6]
            row_total: Any = _similarity_row(sums, mean, variance, k1, k2, similarity)
            n_windows = w - 6
            if not everywhere:
                row_total, n_windows = _sum_inside(similarity, region[b, r - 3, 3 : w - 3])
            total += row_total
            n_counted += n_windows
        result[0, i] = total / n_counted
        _put_errors(error * data_range[b] ** 2, h * w, energy[b], data_range[b], result[1:, i])


@_fast
def window_statistics(image: Single, mean: Single, variance: Single) -> None:
    """Mean and sample variance of every 7 x 7 window that fits: (batch, h - 6, w - 6)."""
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


@_fast
def largest_magnitude(image: Complex) -> Single:
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


@_exact
def increments(
    prepared: Complex,
    owner: Whole,
    readouts: Whole,
    own: Whole,
    down: Complex,
    across: Complex,
    left: Complex,
    right: Complex,
) -> None:
    """Factors of the increments of readouts, of which -1 is none.

    Args:
        prepared: (batch, readout, coil, sample).
        owner: scan of each increment, (n,).
        readouts: (n, k).
        own: number of each readout among those of the scan, (readout,).
        down, across: plane waves along height and width, empty along an axis that lines run along.
        left, right: results, (n, coil, height, k) and (n, coil, k, width).
    """
    n, n_coils, _, n_readouts = left.shape
    for i in range(n):
        scan = prepared[owner[i]]
        for k in range(n_readouts):
            readout = readouts[i, k]
            if readout < 0:
                left[i, :, :, k] = 0
                right[i, :, k] = 0
                continue
            line = own[readout]
            for c in range(n_coils):
                if len(down) == 0:
                    left[i, c, :, k], right[i, c, k] = scan[readout, c], across[line]
                elif len(across) == 0:
                    left[i, c, :, k], right[i, c, k] = down[line], scan[readout, c]
                else:
                    left[i, c, :, k] = down[line // len(across)]
                    right[i, c, k] = scan[readout, c, 0] * across[line % len(across)]


@_exact
def _take(
    actions: Whole,
    legal: Flags,
    stopped: Flags,
    measurable: Flags,
    budget: Whole,
    groups: Whole,
    mentioned: Flags,
    object_samples: Complex,
    samples: Complex,
    n_measured: Whole,
    last_measured: Whole,
    readouts: Whole,
    legal_after: Flags,
    budget_after: Whole,
    stopped_after: Flags,
) -> int:
    """Take actions of an ideal scanner, and return the first scan whose action is illegal, or -1.

    Then nothing has changed; else samples and counts have, in place.

    Args:
        actions: (batch,).
        legal, stopped, measurable, budget: as of the view and the state.
        groups, mentioned: readouts of each action, and which are no padding, (n_actions, k).
        object_samples: (batch, pose, readout, coil, sample).
        samples, n_measured, last_measured: as of the log.
        readouts: result, those newly measured, -1 for none, (batch, k).
        legal_after, budget_after, stopped_after: results.
    """
    n_actions, per_action = groups.shape
    for b in range(len(actions)):
        action = actions[b]
        if action >= n_actions or (action >= 0 and (stopped[b] or not legal[b, action])):
            return b
    readouts[:] = -1
    for b in range(len(actions)):
        action, left, time = actions[b], budget[b], n_measured[b].sum()
        stopped_after[b] = stopped[b] or action == STOP
        if action == WASTE:
            left -= 1
        for k in range(per_action if action >= 0 else 0):
            readout = groups[action, k]
            if measurable[b, readout] and n_measured[b, readout] == 0:
                samples[b, readout] = object_samples[b, 0, readout]
                n_measured[b, readout], last_measured[b, readout] = 1, time
                readouts[b, k] = readout
                time, left = time + 1, left - 1
        for a in range(n_actions):
            n_fresh = 0
            for k in range(per_action):
                readout = groups[a, k]
                fresh = measurable[b, readout] and n_measured[b, readout] == 0
                n_fresh += fresh and mentioned[a, k]
            legal_after[b, a] = 0 < n_fresh <= left
        budget_after[b] = left
    return -1


@_exact
def step(
    actions: Whole,
    legal: Flags,
    stopped: Flags,
    measurable: Flags,
    budget: Whole,
    groups: Whole,
    mentioned: Flags,
    object_samples: Complex,
    prepared: Complex,
    samples: Complex,
    n_measured: Whole,
    last_measured: Whole,
    own: Whole,
    down: Complex,
    across: Complex,
    image: Complex,
    sensitivity: Complex,
    target: Single,
    target_mean: Single,
    target_variance: Single,
    energy: Double,
    data_range: Double,
    gain: Single,
    legal_after: Flags,
    budget_after: Whole,
    stopped_after: Flags,
    pixels: Bytes,
    result: Double,
) -> int:
    """One action of every zero-filled scan of an ideal scanner, from samples to scores.

    Returns the first scan whose action is illegal; else -1, or :data:`SOME_IDLE`. Arguments are
    those of :func:`_take`, :func:`increments` and :func:`score`.
    """
    n, (height, width) = len(actions), image.shape[1:]
    readouts, n_coils = np.empty((n, groups.shape[1]), np.int64), samples.shape[2]
    refused = _take(
        actions,
        legal,
        stopped,
        measurable,
        budget,
        groups,
        mentioned,
        object_samples,
        samples,
        n_measured,
        last_measured,
        readouts,
        legal_after,
        budget_after,
        stopped_after,
    )
    if refused >= 0:
        return refused
    left = np.empty((n, n_coils, height, groups.shape[1]), np.complex64)
    right = np.empty((n, n_coils, groups.shape[1], width), np.complex64)
    rows = np.arange(n)
    increments(prepared, rows, readouts, own, down, across, left, right)
    score(
        image,
        rows,
        left,
        right,
        sensitivity,
        target,
        target_mean,
        target_variance,
        energy,
        data_range,
        np.empty(0),
        np.empty((0, 0, 0), np.bool_),
        gain,
        pixels,
        result,
    )
    return SOME_IDLE if (actions < 0).any() else -1


@_exact
def plan(
    rows: Whole,
    actions: Whole,
    active: Flags,
    legal: Flags,
    n_actions: int,
    forgives: bool,
) -> tuple[Whole, int]:
    """An action, STOP, IDLE or WASTE for each scan of a bucket, and the first that is no action.

    Args:
        rows: the scans' episodes, (batch,).
        actions, active: of all episodes, (n,).
        legal: of the scans, (batch, actions that acquire).
        n_actions: one more with STOP.
        forgives: illegal actions are WASTE.
    """
    plan = np.full(len(rows), IDLE, np.int64)
    for i in range(len(rows)):
        if not active[rows[i]]:
            continue
        action = actions[rows[i]]
        if action < 0 or action >= n_actions:
            return plan, i
        if action == legal.shape[1]:
            plan[i] = STOP
        elif forgives and not legal[i, action]:
            plan[i] = WASTE
        else:
            plan[i] = action
    return plan, -1


@_exact
def note(
    rows: Whole,
    plan: Whole,
    gains: Double,
    step_cost: float,
    scores: Double,
    stopped: Flags,
    legal: Flags,
    rewards: Double,
    finished: Flags,
    illegal: Flags,
    n_shots: Whole,
    n_steps: Whole,
    area: Double,
    taken: NDArray[np.int32],
    curve: Double,
) -> int:
    """Write down one more action of a bucket's scans (batch, ...) in all episodes (n, ...).

    Gives the first scan of the batch whose gain is not finite, or -1.
    """
    wrong = -1
    for i in range(len(rows)):
        row, action = rows[i], plan[i]
        if wrong < 0 and action >= 0 and not np.isfinite(gains[i]):
            wrong = i
        paid = action >= 0 or action == WASTE
        rewards[row] = (gains[i] if action >= 0 else 0.0) - (step_cost if paid else 0.0)
        finished[row] = stopped[i] or not legal[i].any()
        illegal[row] = action == WASTE
        n_shots[row] += paid
        if action != IDLE:
            step = n_steps[row]
            area[row] += (curve[row, step] + scores[i]) / 2
            taken[row, step], curve[row, step + 1] = action, scores[i]
            n_steps[row] += 1
    return wrong


@_exact
def count(
    rows: Whole,
    n_measured: Whole,
    budget: Whole,
    size: Double,
    n_steps: Whole,
    area: Double,
    curve: Double,
    counts: Whole,
    numbers: Double,
) -> None:
    """n_acquired and remaining; acceleration, scale and auc: of a bucket's scans, in all (., n)."""
    for i in range(len(rows)):
        row, n_acquired = rows[i], n_measured[i].sum()
        counts[0, row], counts[1, row] = n_acquired, budget[i]
        numbers[0, row], numbers[1, row] = size[0, row] / max(n_acquired, 1), size[1, row]
        steps = n_steps[row]
        numbers[2, row] = area[row] / steps if steps > 0 else curve[row, 0]
