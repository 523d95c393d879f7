"""A picture of a running episode, drawn with NumPy and Pillow.

Six panels on a dark ground: what was acquired of k-space with the mask as a strip below it, the
reconstruction, the target, the error, the uncertainty where there is one, and the score so far.
All frames of an episode have the same even shape, whatever they show. Plotting libraries take a
hundred times longer a frame, so they are not used here.
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
    """Content of one picture.

    Attributes:
        kspace: acquired samples, zero elsewhere, (height, width), complex or magnitude; several
            coils combined by root sum of squares.
        mask: True where acquired, (height, width).
        reconstruction: magnitude, (target height, target width).
        target: fully sampled magnitude, same shape.
        scores: one per step so far, the first before any action.
        score_name: e.g. "SSIM".
        n_acquired: acquired lines now.
        n_lines: lines of the scan.
        budget: actions of the whole episode: the width of the score curve.
        title: one line on top.
        uncertainty: standard deviation, shape of the target, or None.
        latest: True where the last action acquired, (height, width), or None.
    """

    kspace: NDArray[Any]
    mask: NDArray[np.bool_]
    reconstruction: NDArray[np.floating[Any]]
    target: NDArray[np.floating[Any]]
    scores: Sequence[float]
    score_name: str
    n_acquired: int
    n_lines: int
    budget: int
    title: str = ""
    uncertainty: NDArray[np.floating[Any]] | None = None
    latest: NDArray[np.bool_] | None = None


def frame_of(
    view: View, scan: Slice, *, actions: Sequence[int], scores: Sequence[float], score_name: str
) -> Frame:
    """The frame of a scan under way. Rendering is for people, so the target is shown.

    Args:
        view: of this scan alone (a batch of one).
        scan: who is scanned.
        actions: taken so far.
        scores: one before the first action and one after each.
        score_name: of the scores.
    """
    shape = (scan.target.shape[0], scan.target.shape[1])
    uncertainty = view.reconstruction.uncertainty
    acquired = view.mask[0].nonzero()[:, 0].cpu()
    places, kspace = view.transform.places(acquired), np.zeros(scan.shape, np.float32)
    magnitude = view.log.samples[0, acquired].abs().square().sum(dim=1).sqrt().cpu()
    kspace[tuple(places.unbind(-1))] = magnitude.numpy()
    return Frame(
        kspace=kspace,
        mask=_drawn(places, scan.shape),
        reconstruction=center_crop(view.reconstruction.image[0].abs(), shape).cpu().numpy(),
        target=scan.target.numpy(),
        scores=scores,
        score_name=score_name.upper(),
        n_acquired=int(view.n_acquired[0]),
        n_lines=int(view.measurable[0].sum()),
        budget=-(-int(view.start_budget[0]) // view.geometry.readouts_per_action),
        title=f"{scan.volume}, slice {scan.index} ({scan.contrast})",
        uncertainty=None
        if uncertainty is None
        else center_crop(uncertainty[0], shape).cpu().numpy(),
        latest=_latest(view, actions, scan.shape),
    )


def _latest(view: View, actions: Sequence[int], shape: tuple[int, int]) -> NDArray[np.bool_] | None:
    """Samples of the last action."""
    if not actions or actions[-1] < 0:
        return None
    readouts, mentioned = view.geometry.readouts(torch.tensor(actions[-1]))
    there = readouts[mentioned & view.measurable[0, readouts]]
    return _drawn(view.transform.places(there.cpu()), shape)


def _drawn(places: Tensor, shape: tuple[int, int]) -> NDArray[np.bool_]:
    picture = np.zeros(shape, dtype=bool)
    picture[tuple(places.unbind(-1))] = True
    return picture


def draw(frame: Frame, *, size: int = 256) -> Pixels:
    """Draw a frame.

    Reconstruction and target share one window: black is 0, white the 99.5th percentile of the
    target. Error and uncertainty share another, ``ERROR_GAIN`` times narrower. None of them
    depends on the step, so brightness can be compared between frames and between policies.

    Args:
        frame: what to show.
        size: side of a panel in pixels, at least 64. The shape of the result depends on it only.

    Returns:
        uint8, (height, width, 3), height and width even as video formats want.
    """
    page = _Page.of(size)
    white = max(float(np.quantile(_finite(frame.target), 0.995)), 1e-30)
    error = np.abs(_finite(frame.reconstruction) - _finite(frame.target))
    _draw_heading(page, frame)
    page.label(0, 0, "k-space")
    page.put(0, 0, _kspace_panel(frame, size))
    page.label(1, 0, "reconstruction")
    page.put(1, 0, _coloured(_fitted(_finite(frame.reconstruction) / white, size), _GREY))
    page.label(2, 0, "target")
    page.put(2, 0, _coloured(_fitted(_finite(frame.target) / white, size), _GREY))
    page.label(0, 1, f"error x{ERROR_GAIN}")
    page.put(0, 1, _coloured(_fitted(error / white * ERROR_GAIN, size), _HEAT))
    if frame.uncertainty is not None:
        page.label(1, 1, f"uncertainty x{ERROR_GAIN}")
        spread = _finite(frame.uncertainty) / white * ERROR_GAIN
        page.put(1, 1, _coloured(_fitted(spread, size), _HEAT))
    _draw_curve(page, frame, first_panel=1 if frame.uncertainty is None else 2)
    return page.pixels


def describe(frame: Frame, *, width: int = 80) -> str:
    """The frame in text: title, mask as one line of characters, score.

    ``#`` is acquired, ``.`` is not, ``+`` is in part (columns that share a character, or points
    of one column) and ``^`` below points at the columns that the last action acquired samples of.

    Args:
        frame: what to show.
        width: characters of the mask at most.
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


def gif_bytes(frames: Sequence[Pixels], *, fps: float = 4, hold: float = 1.5) -> bytes:
    """An endless animation.

    Args:
        frames: uint8 (height, width, 3), all of one shape.
        fps: frames a second.
        hold: seconds that the last frame stays.

    Raises:
        ValueError: there are no frames.
    """
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
    durations = [round(1000 / fps)] * (len(frames) - 1) + [round(1000 * hold)]
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


@dataclass(frozen=True, eq=False)
class _Page:
    """The canvas: three by two square panels with a label above each, a title on top."""

    pixels: Pixels
    size: int
    gap: int
    line: int  # height of a line of text

    @classmethod
    def of(cls, size: int) -> "_Page":
        if size < 64:
            raise ValueError(f"size must be at least 64 pixels a panel; got {size}")
        gap, line = max(size // 20, 4), _line(_text_size(size))
        height = gap + line + 2 * (gap + line + size) + gap
        width = 3 * size + 4 * gap
        shape = (height + height % 2, width + width % 2, 3)
        return cls(np.full(shape, _GROUND, dtype=np.uint8), size, gap, line)

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    def left(self, column: int) -> int:
        return self.gap + column * (self.size + self.gap)

    def top(self, row: int) -> int:
        return 2 * (self.gap + self.line) + row * (self.size + self.line + self.gap)

    def put(self, column: int, row: int, panel: Pixels) -> None:
        top, left = self.top(row), self.left(column)
        self.pixels[top : top + panel.shape[0], left : left + panel.shape[1]] = panel

    def label(self, column: int, row: int, text: str) -> None:
        self.text(text, self.left(column), self.top(row) - self.line - 1)

    def text(
        self,
        text: str,
        x: int,
        y: int,
        *,
        align: float = 0,
        colour: tuple[int, int, int] = _FAINT,
    ) -> None:
        """Write at (x, y), the top left corner (align 0), middle (0.5) or top right (1)."""
        ink = _ink(text, _text_size(self.size))
        x = max(x - round(align * ink.shape[1]), 0)
        y = max(y, 0)
        place = self.pixels[y : y + ink.shape[0], x : x + ink.shape[1]]
        alpha = ink[: place.shape[0], : place.shape[1], None]
        place[:] = place + (np.array(colour) - place) * alpha


def _draw_heading(page: _Page, frame: Frame) -> None:
    acceleration = frame.n_lines / max(frame.n_acquired, 1)
    lines = f"{frame.n_acquired}/{frame.n_lines} lines, {acceleration:.1f}x"
    page.text(lines, page.width - page.gap, page.gap, align=1)
    font = _font(_text_size(page.size))
    room = page.width - 4 * page.gap - font.getlength(lines)
    title = frame.title
    while title and font.getlength(title + "...") > room:
        title = title[:-1]
    page.text(title if title == frame.title else f"{title}...", page.gap, page.gap, colour=_TEXT)


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


def _draw_curve(page: _Page, frame: Frame, *, first_panel: int) -> None:
    """Score against step, from ``first_panel`` of the lower row to its end."""
    scores = _finite(np.asarray(frame.scores, dtype=np.float64))
    low, high, ticks = _axis(float(scores.min()), float(scores.max()))
    steps = max(frame.budget, len(scores) - 1, 1)
    digits = max(0, -math.floor(math.log10(ticks[1] - ticks[0])))
    labels = [f"{tick:.{digits}f}" for tick in ticks]
    small = _text_size(page.size)
    margin = max(_ink(label, small).shape[1] for label in labels) + 6
    left, top = page.left(first_panel) + margin, page.top(1) + page.line // 2
    right, bottom = page.left(2) + page.size - 1, page.top(1) + page.size - page.line - 2
    page.pixels[top:bottom, left : right + 1] = _PLOT

    def y(value: float) -> float:
        return bottom - 1 - (value - low) / (high - low) * (bottom - top - 1)

    for tick, label in zip(ticks, labels, strict=True):
        page.pixels[round(y(tick)), left : right + 1] = _GRID
        page.text(label, left - 5, round(y(tick)) - small // 2 - 1, align=1)
    x = left + 4 + np.arange(len(scores)) / steps * (right - left - 8)
    points = [(float(px), y(float(score))) for px, score in zip(x, scores, strict=True)]
    _stroke(page.pixels, points, box=(left, top, right + 1, bottom))
    page.text("step", left, bottom + 2)
    page.text(f"{len(frame.scores) - 1} of {steps}", right, bottom + 2, align=1)
    page.label(first_panel, 1, frame.score_name)
    value = f"{frame.scores[-1]:.{max(digits, 3 if high <= 2 else 2)}f}"
    page.text(value, right, page.top(1) - page.line - 1, align=1, colour=_ACCENT)


def _stroke(
    pixels: Pixels, points: Sequence[tuple[float, float]], *, box: tuple[int, int, int, int]
) -> None:
    """A smooth line through the points with a dot at its end, inside a box of the picture."""
    left, top, right, bottom = box
    fine = 3  # drawn larger, then averaged: Pillow's own lines have steps
    sheet = _pillow("Image").new("L", ((right - left) * fine, (bottom - top) * fine))
    pen = _pillow("ImageDraw").Draw(sheet)
    path = [((x - left + 0.5) * fine, (y - top + 0.5) * fine) for x, y in points]
    if len(path) > 1:
        pen.line(path, fill=255, width=2 * fine, joint="curve")
    x, y = path[-1]
    pen.ellipse((x - 4 * fine, y - 4 * fine, x + 4 * fine, y + 4 * fine), fill=255)
    alpha = np.asarray(sheet.reduce(fine), dtype=np.float32)[..., None] / 255
    place = pixels[top:bottom, left:right]
    place[:] = place + (np.array(_ACCENT, dtype=np.float32) - place) * alpha


def _axis(low: float, high: float) -> tuple[float, float, list[float]]:
    """Round limits around the values, and a few round ticks from one to the other."""
    margin = max(0.04 * (high - low), 0.02 * abs(high + low) / 2, 1e-9)
    low, high = low - margin, high + margin
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return first * step, last * step, [tick * step for tick in range(first, last + 1)]


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


def _coloured(picture: NDArray[np.float32], stops: tuple[tuple[int, int, int], ...]) -> Pixels:
    """Colour the values 0 .. 1; what is outside the picture (-1) gets the ground."""
    index = np.where(picture < 0, 256, picture * 255 + 0.5).astype(np.uint16)
    return _table(stops)[index]


@functools.cache
def _table(stops: tuple[tuple[int, int, int], ...]) -> Pixels:
    """256 colours along the stops, then the ground."""
    levels, places = np.linspace(0, len(stops) - 1, 256), np.arange(len(stops))
    colours = [np.interp(levels, places, channel) for channel in zip(*stops, strict=True)]
    return np.concatenate([np.stack(colours, axis=1), [_GROUND]]).astype(np.uint8)


def _text_size(size: int) -> int:
    return min(max(size // 16, 9), 20)


def _line(text_size: int) -> int:
    return text_size + text_size // 3 + 1  # room for what hangs below the base line


@functools.lru_cache(maxsize=512)
def _ink(text: str, size: int) -> NDArray[np.float32]:
    """Coverage of a line of text, 0 .. 1, (height, width)."""
    font = _font(size)
    sheet = _pillow("Image").new("L", (max(math.ceil(font.getlength(text)), 1), _line(size)))
    _pillow("ImageDraw").Draw(sheet).text((0, size), text, fill=255, font=font, anchor="ls")
    return np.asarray(sheet, dtype=np.float32) / np.float32(255)


@functools.cache
def _font(size: int) -> Any:
    return _pillow("ImageFont").load_default(size)


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
    finite: NDArray[Any] = np.nan_to_num(np.asarray(values), posinf=1e30, neginf=0.0)
    return finite
