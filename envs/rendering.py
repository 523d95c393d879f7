"""A picture of a running episode, drawn with NumPy and Pillow.

Plotting libraries would take a hundred times longer a frame.
"""

import functools
import importlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from activemri.data.slices import Slice
from activemri.envs.scan import View
from activemri.metrics.reference import center_crop

Pixels = NDArray[np.uint8]
Colour = tuple[int, int, int]

#: The error and the uncertainty are shown this many times brighter than the target.
ERROR_GAIN = 3

_GROUND, _PLOT, _GRID = (20, 22, 27), (27, 30, 37), (52, 57, 68)
_TEXT, _FAINT, _ACCENT, _LATEST = (232, 234, 240), (150, 156, 170), (86, 180, 233), (255, 168, 40)
# Colour maps are lines through these colours; brightness rises evenly.
_GREY = ((0, 0, 0), (255, 255, 255))
_HEAT = ((0, 0, 0), (52, 12, 92), (140, 30, 110), (220, 70, 60), (252, 150, 30), (255, 250, 200))
_STRIP = 8  # height of the mask strip, in pixels
_LOG_RANGE = 1e4  # k-space is shown over four decades below its largest sample


@dataclass(frozen=True, eq=False)
class Frame:
    """Content of one picture; magnitudes are of the target's shape, all else (height, width)."""

    kspace: NDArray[Any]  # acquired samples, zero elsewhere; coils by root sum of squares
    mask: NDArray[np.bool_]  # True where acquired
    reconstruction: NDArray[np.floating[Any]]  # magnitude
    target: NDArray[np.floating[Any]]  # fully sampled magnitude
    scores: Sequence[float]  # the first before any action, and one after each
    score_name: str
    n_acquired: int
    n_lines: int
    budget: int  # actions of the whole episode: the width of the score curve
    title: str = ""
    uncertainty: NDArray[np.floating[Any]] | None = None  # standard deviation of the magnitude
    latest: NDArray[np.bool_] | None = None  # True where the last action acquired
    span: tuple[float, float] | None = None  # scores that the axis holds; None for these alone


def frame_of(
    view: View, scan: Slice, *, actions: Sequence[int], scores: Sequence[float], score_name: str
) -> Frame:
    """The frame of a scan under way, a batch of one. It is for people: the target is shown."""
    shape = (scan.target.shape[0], scan.target.shape[1])
    uncertainty, acquired = view.reconstruction.uncertainty, view.mask[0].nonzero()[:, 0].cpu()

    def drawn(readouts: Tensor, values: Any = True) -> NDArray[Any]:
        """A picture of k-space with the samples of some readouts."""
        picture = np.zeros(scan.shape, np.asarray(values).dtype)
        picture[tuple(view.transform.places(readouts).unbind(-1))] = values
        return picture

    latest = None
    if actions and actions[-1] >= 0:
        readouts, mentioned = view.geometry.readouts(torch.tensor(actions[-1]))
        latest = drawn(readouts[mentioned & view.measurable[0, readouts]].cpu())
    if uncertainty is not None:
        uncertainty = center_crop(uncertainty[0], shape).cpu()
    return Frame(
        kspace=drawn(
            acquired, view.log.samples[0, acquired].abs().square().sum(dim=1).sqrt().cpu().numpy()
        ),
        mask=drawn(acquired),
        reconstruction=center_crop(view.reconstruction.image[0].abs(), shape).cpu().numpy(),
        target=scan.target.numpy(),
        scores=scores,
        score_name=score_name.upper(),
        n_acquired=int(view.n_acquired[0]),
        n_lines=int(view.measurable[0].sum()),
        budget=-(-int(view.start_budget[0]) // view.geometry.readouts_per_action),
        title=f"{scan.volume}, slice {scan.index} ({scan.contrast})",
        uncertainty=None if uncertainty is None else uncertainty.numpy(),
        latest=latest,
    )


def corner(column: int, row: int, *, size: int) -> tuple[int, int]:
    """Left and top of a panel: there are three by two, with a label above each."""
    gap, line = _gap_and_line(size)
    return gap + column * (size + gap), 2 * (gap + line) + row * (size + line + gap)


def draw(frame: Frame, *, size: int = 256) -> Pixels:
    """A frame as uint8 (height, width, 3), of one even shape for all frames with panels of a size.

    Reconstruction and target share one window: black is 0, white the 99.5th percentile of the
    target. Error and uncertainty share another, ``ERROR_GAIN`` times narrower. None of them
    depends on the step, so brightness can be compared between frames and between policies.
    """
    if size < 64:
        raise ValueError(f"size must be at least 64 pixels a panel; got {size}")
    image, (gap, line), font = _pillow("Image"), _gap_and_line(size), _font(size)
    right, bottom = corner(3, 2, size=size)
    width, height = right + right % 2, bottom - line + (bottom - line) % 2
    page = image.new("RGB", (width, height), _GROUND)
    pen = _pillow("ImageDraw").Draw(page)

    def write(text: str, x: int, y: int, colour: Colour = _FAINT, *, align: str = "l") -> None:
        """Text from (x, y), its left (l) or right (r) upper corner."""
        pen.text((x, y + _text_size(size)), text, fill=colour, font=font, anchor=align + "s")

    def show(column: int, row: int, label: str, panel: Pixels | None) -> None:
        left, top = corner(column, row, size=size)
        write(label, left, top - line - 1)
        if panel is not None:
            page.paste(image.fromarray(panel), (left, top))

    lines = f"{frame.n_acquired}/{frame.n_lines} lines"
    lines += f", {frame.n_lines / max(frame.n_acquired, 1):.1f}x"
    write(lines, width - gap, gap, align="r")
    title, room = frame.title, width - 4 * gap - font.getlength(lines)
    while title and font.getlength(title + "...") > room:
        title = title[:-1]
    write(title if title == frame.title else f"{title}...", gap, gap, _TEXT)

    reconstruction, target = _finite(frame.reconstruction), _finite(frame.target)
    white = max(float(np.quantile(target, 0.995)), 1e-30)
    error = np.abs(reconstruction - target) / white * ERROR_GAIN
    show(0, 0, "k-space", _kspace_panel(frame, size))
    show(1, 0, "reconstruction", _coloured(_fitted(reconstruction / white, size), _GREY))
    show(2, 0, "target", _coloured(_fitted(target / white, size), _GREY))
    show(0, 1, f"error x{ERROR_GAIN}", _coloured(_fitted(error, size), _HEAT))
    first = 1  # panel of the curve
    if frame.uncertainty is not None:
        spread, first = _finite(frame.uncertainty) / white * ERROR_GAIN, 2
        show(1, 1, f"uncertainty x{ERROR_GAIN}", _coloured(_fitted(spread, size), _HEAT))
    show(first, 1, frame.score_name, None)

    # Score against step, to the end of the lower row.
    scores = _finite(np.asarray(frame.scores, dtype=np.float64))
    low, high = frame.span or (float(scores.min()), float(scores.max()))
    margin = max(0.04 * (high - low), 0.02 * abs(high + low) / 2, 1e-9)
    low, high = low - margin, high + margin
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    tick_step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first_tick, last_tick = math.floor(low / tick_step), math.ceil(high / tick_step)
    ticks = [tick * tick_step for tick in range(first_tick, last_tick + 1)]
    low, high = first_tick * tick_step, last_tick * tick_step
    steps = max(frame.budget, len(scores) - 1, 1)
    digits = max(0, -math.floor(math.log10(ticks[1] - ticks[0])))
    labels = [f"{tick:.{digits}f}" for tick in ticks]
    (left, top), end = corner(first, 1, size=size), corner(2, 1, size=size)[0] + size - 1
    value = f"{frame.scores[-1]:.{max(digits, 3 if high <= 2 else 2)}f}"
    write(value, end, top - line - 1, _ACCENT, align="r")
    left += max(math.ceil(font.getlength(label)) for label in labels) + 6
    top, bottom = top + line // 2, top + size - line - 2
    pen.rectangle((left, top, end, bottom - 1), fill=_PLOT)
    write("step", left, bottom + 2)
    write(f"{len(scores) - 1} of {steps}", end, bottom + 2, align="r")
    heights = bottom - 1 - (np.array([*ticks, *scores]) - low) / (high - low) * (bottom - top - 1)
    for y, label in zip(heights, labels, strict=False):
        pen.line((left, round(y), end, round(y)), fill=_GRID)
        write(label, left - 5, round(y) - _text_size(size) // 2 - 1, align="r")
    fine = 3  # drawn larger, then averaged: Pillow's own lines have steps
    sheet = image.new("L", ((end + 1 - left) * fine, (bottom - top) * fine))
    x = 4.5 + np.arange(len(scores)) / steps * (end - left - 8)
    path = np.stack([x, heights[len(ticks) :] - top + 0.5], axis=1) * fine
    stroke = _pillow("ImageDraw").Draw(sheet)
    stroke.line(path.flatten().tolist(), fill=255, width=2 * fine, joint="curve")
    stroke.ellipse((*(path[-1] - 4 * fine), *(path[-1] + 4 * fine)), fill=255)
    page.paste(_ACCENT, (left, top), sheet.reduce(fine))
    return np.array(page)


def describe(frame: Frame, *, width: int = 80) -> str:
    """The frame in text: title, mask as one line of characters, score.

    ``#`` is acquired, ``.`` is not, ``+`` is in part (columns that share a character, or points
    of one column) and ``^`` below points at the columns that the last action acquired samples of.
    """
    share = np.asarray(frame.mask, dtype=np.float64).mean(axis=0)
    edges = np.linspace(0, len(share), min(width, len(share)) + 1).astype(int)
    shares = np.add.reduceat(share, edges[:-1]) / np.diff(edges)
    lines = [frame.title] if frame.title else []
    lines.append("".join("#" if s == 1 else "." if s == 0 else "+" for s in shares))
    if frame.latest is not None:
        touched = np.logical_or.reduceat(frame.latest.any(axis=0), edges[:-1])
        lines.append("".join("^" if one else " " for one in touched).rstrip())
    score = f"{frame.score_name} {frame.scores[-1]:.4f}"
    if len(frame.scores) > 1:
        score += f" ({frame.scores[-1] - frame.scores[0]:+.4f} since the start)"
    lines.append(
        f"step {len(frame.scores) - 1}/{frame.budget}, "
        f"{frame.n_acquired}/{frame.n_lines} lines, {score}"
    )
    return "\n".join(lines)


def gif_bytes(frames: Sequence[Pixels], *, fps: float = 4) -> bytes:
    """An endless animation of frames of one shape, whose last one stays for 1.5 seconds."""
    if not frames:
        raise ValueError("an animation needs at least one frame; got none")
    image = _pillow("Image")
    # One palette for all, from the first, middle and last frame: no flicker, and small.
    samples = [frames[0], frames[len(frames) // 2], frames[-1]]
    palette = image.fromarray(np.concatenate(samples)).quantize(128)
    pictures = [
        image.fromarray(frame).quantize(palette=palette, dither=image.Dither.NONE)
        for frame in frames
    ]
    durations = [round(1000 / fps)] * (len(frames) - 1) + [1500]
    stream = io.BytesIO()
    pictures[0].save(
        stream,
        format="GIF",
        save_all=True,
        append_images=pictures[1:],
        duration=durations if len(frames) > 1 else durations[0],
        loop=0,
        optimize=True,
    )
    return stream.getvalue()


def _kspace_panel(frame: Frame, size: int) -> Pixels:
    magnitude = np.abs(_finite(frame.kspace)) * frame.mask
    largest = max(float(magnitude.max()), 1e-30)
    decades = np.log1p(magnitude * (_LOG_RANGE / largest)) / math.log1p(_LOG_RANGE)
    ground = np.where(frame.mask, 0.16, 0.0)  # acquired columns stay visible where they are dim
    picture = _fitted(np.maximum(decades, ground), size, smooth=False)
    panel = _coloured(picture, _GREY)
    # The strip lies below the picture, or over its lowest rows where there is no room.
    shown = np.flatnonzero(picture.max(axis=0) >= 0)
    columns = slice(int(shown[0]), int(shown[-1]) + 1)
    rows = np.flatnonzero(picture.max(axis=1) >= 0)
    top = min(int(rows[-1]) + 3, size - _STRIP)
    share = np.asarray(frame.mask, dtype=np.float64).mean(axis=0, keepdims=True)
    strip = _resized(share, _STRIP, columns.stop - columns.start, smooth=False)
    panel[top - 2 : top] = _GROUND
    panel[top : top + _STRIP, columns] = _coloured(strip, (_GRID, _ACCENT))
    if frame.latest is not None:
        lit = _fitted(frame.latest.astype(np.float64), size, smooth=False) > 0
        lit[top - 2 :] = False
        panel[lit] = panel[lit] * 0.45 + np.array(_LATEST) * 0.55
        whole = lit.sum(axis=0) > 0.9 * (min(top - 2, rows[-1] + 1) - rows[0])  # columns
        panel[top : top + _STRIP, whole] = _LATEST
    return panel


def _fitted(picture: NDArray[Any], size: int, *, smooth: bool = True) -> NDArray[np.float32]:
    """Scale into a square of side ``size``, centred, keeping proportions; -1 is outside."""
    height, width = picture.shape
    scale = size / max(height, width)
    new_height, new_width = max(round(height * scale), 2), max(round(width * scale), 2)
    panel = np.full((size, size), -1, dtype=np.float32)
    top, left = (size - new_height) // 2, (size - new_width) // 2
    inside = _resized(np.clip(picture, 0, 1), new_height, new_width, smooth=smooth)
    panel[top : top + new_height, left : left + new_width] = np.clip(inside, 0, 1)
    return panel


def _resized(
    picture: NDArray[Any], height: int, width: int, *, smooth: bool
) -> NDArray[np.float32]:
    """Interpolate, or (not smooth) repeat pixels when enlarging; average when shrinking."""
    image = _pillow("Image")
    method = image.Resampling.BICUBIC if smooth else image.Resampling.BOX
    if not smooth and height >= picture.shape[0] and width >= picture.shape[1]:
        method = image.Resampling.NEAREST
    source = image.fromarray(np.ascontiguousarray(picture, dtype=np.float32))
    return np.asarray(source.resize((width, height), method), dtype=np.float32)


def _coloured(picture: NDArray[np.float32], stops: tuple[Colour, ...]) -> Pixels:
    """Colour the values 0 .. 1; what is outside the picture (-1) gets the ground."""
    index = np.where(picture < 0, 256, picture * 255 + 0.5).astype(np.uint16)
    return _table(stops)[index]


@functools.cache
def _table(stops: tuple[Colour, ...]) -> Pixels:
    """256 colours along the stops, then the ground."""
    levels, places = np.linspace(0, len(stops) - 1, 256), np.arange(len(stops))
    colours = [np.interp(levels, places, channel) for channel in zip(*stops, strict=True)]
    return np.concatenate([np.stack(colours, axis=1), [_GROUND]]).astype(np.uint8)


def _text_size(size: int) -> int:
    return min(max(size // 16, 9), 20)


def _gap_and_line(size: int) -> tuple[int, int]:
    """Room between panels of a size, and for a line of text, below its base line as well."""
    return max(size // 20, 4), _text_size(size) + _text_size(size) // 3 + 1


@functools.cache
def _font(size: int) -> Any:
    return _pillow("ImageFont").load_default(_text_size(size))


def _pillow(module: str) -> ModuleType:
    """A module of Pillow; says what to install where it is missing."""
    try:
        return importlib.import_module(f"PIL.{module}")
    except ImportError as error:
        raise ImportError(
            'drawing needs Pillow, which is not installed: pip install "activemri[benchmark]"'
        ) from error


def _finite(values: NDArray[Any]) -> NDArray[Any]:
    """A bad pixel must not take the whole picture with it: NaN is shown as 0."""
    return np.nan_to_num(np.asarray(values), posinf=1e30, neginf=0.0)  # type: ignore[no-any-return]
