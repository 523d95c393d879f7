"""Contours of organs: smooth, a little irregular, never the same twice. All are (n, 2) arrays."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from activemri.data.phantoms.shapes import Array, rotation, signed_area


def blob(
    generator: np.random.Generator,
    radii: tuple[float, float],
    *,
    centre: ArrayLike = (0.0, 0.0),
    angle: float = 0.0,
    roughness: float = 0.05,
    n: int = 48,
) -> Array:
    """A closed ellipse of half axes `radii` (x, y), turned by an angle, whose radius wanders.

    `roughness` is the relative standard deviation of the radius; harmonics 2 to 6 share it.
    """
    around = np.linspace(0, 2 * math.pi, n, endpoint=False)
    wander = np.ones(n)
    for harmonic in range(2, 7):
        amplitude = roughness * generator.standard_normal() / harmonic**0.5 / 1.4
        wander += amplitude * np.cos(harmonic * around + generator.uniform(0, 2 * math.pi))
    points = np.stack([radii[0] * np.cos(around), radii[1] * np.sin(around)], axis=1)
    return np.asarray(points * wander[:, None] @ rotation(angle).T + np.asarray(centre))


def spline(
    points: ArrayLike,
    *,
    generator: np.random.Generator | None = None,
    wobble: float = 0.0,
    pieces: int = 6,
) -> Array:
    """A closed Catmull-Rom curve through points (m, 2) that `wobble` moves: (m * pieces, 2)."""
    corners = np.asarray(points, float)
    if generator is not None:
        corners = corners + wobble * generator.standard_normal(corners.shape).clip(-2, 2)
    before, after, beyond = (np.roll(corners, shift, axis=0) for shift in (1, -1, -2))
    t = (np.arange(pieces) / pieces)[None, :, None]
    four = (p[:, None] for p in (before, corners, after, beyond))
    return _catmull_rom(t, *four).reshape(-1, 2)


def inset(outline: Array, distance: float) -> Array:
    """A closed smooth contour moved inwards by a distance (outwards if negative)."""
    return np.asarray(outline + distance * inward_normals(outline))


def inward_normals(outline: Array) -> Array:
    """Unit normals of a closed contour, pointing inwards."""
    along = np.roll(outline, -1, axis=0) - np.roll(outline, 1, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    return math.copysign(1, signed_area(outline)) * np.stack([-along[:, 1], along[:, 0]], axis=1)


def band(path: ArrayLike, width: ArrayLike) -> Array:
    """A closed ribbon (2 n, 2) around an open path (n, 2), of one full width or one a point."""
    middle = np.asarray(path, float)
    tangent = np.gradient(middle, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True) + 1e-12
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1)
    half = np.broadcast_to(np.asarray(width, float) / 2, (len(middle),))[:, None]
    return np.concatenate([middle + half * normal, (middle - half * normal)[::-1]])


def curve(
    points: ArrayLike,
    *,
    generator: np.random.Generator | None = None,
    wobble: float = 0.0,
    n: int = 16,
) -> Array:
    """An open smooth curve through points (m, 2): (n, 2). `wobble` sways it between its ends."""
    corners = np.asarray(points, float)
    ends = np.concatenate(
        [2 * corners[:1] - corners[1:2], corners, 2 * corners[-1:] - corners[-2:-1]]
    )
    place = np.linspace(0, len(corners) - 1, n)
    left = np.minimum(place.astype(int), len(corners) - 2)
    t = (place - left)[:, None]
    path = _catmull_rom(t, *(ends[left + shift] for shift in range(4)))
    if generator is not None:
        start, turns = generator.uniform(0, 2 * math.pi, 2), generator.uniform(0.6, 1.6)
        fine = np.linspace(0, 1, n)[:, None]
        path = path + wobble * np.sin(2 * math.pi * turns * fine + start) * np.sin(math.pi * fine)
    return np.asarray(path)


def fold(
    outline: Array, sulci: Sequence[tuple[float, ...]], *, thickness: float
) -> tuple[Array, Array]:
    """Outer and inner surface of a folded sheet such as the brain's cortex.

    The crowns of the folds touch the outline. Furrows between them (sulci), not closer than about
    three thicknesses, have a place where they open, as a share of the way around; a depth; a lean
    of their beginning away from the normal, in radians; a bend, the sideways displacement of the
    tip relative to the depth; and a width at the opening.
    """
    closed = np.vstack([outline, outline[:1]])
    way = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(closed, axis=0), axis=1))])
    normals = inward_normals(outline)
    normals = np.vstack([normals, normals[:1]])
    turning = math.copysign(1, signed_area(outline))
    ordered = sorted(sulci, key=lambda sulcus: sulcus[0] % 1)

    def at(place: ArrayLike, table: Array) -> Array:
        position = np.asarray(place) % 1 * way[-1]
        return np.stack([np.interp(position, way, table[:, axis]) for axis in (0, 1)], axis=-1)

    surfaces = []
    for outset in (0.0, thickness):
        parts = []
        for sulcus, following in zip(ordered, ordered[1:] + ordered[:1], strict=True):
            place, depth, lean, bend, width = sulcus
            # Down one wall of the furrow and up the other, in the direction of the outline.
            normal = at(place, normals)
            forwards = turning * np.array([normal[1], -normal[0]])
            inwards = math.cos(lean) * normal + math.sin(lean) * forwards
            side = math.cos(lean) * forwards - math.sin(lean) * normal
            t = np.linspace(min(1.0, outset / depth), 1, 5)[:, None]
            middle = at(place, closed) + depth * (t * inwards + bend * t**2 * side)
            half = outset + width / 2 * (1 - 0.55 * t)
            tip = middle[-1] + (outset + 0.2 * width) * (inwards + bend * side)
            parts += [middle - half * side, tip[None], (middle + half * side)[::-1]]
            # Along the crown to the next one.
            gap = (following[0] - place) % 1 or 1.0
            clear = (width / 2 + outset) / way[-1]
            shares = np.linspace(0, 1, max(3, math.ceil(gap * 40)))
            crown = place + clear + shares * max(gap - 2 * clear, 0)
            parts.append(at(crown, closed) + outset * at(crown, normals))
        surfaces.append(np.concatenate(parts))
    return surfaces[0], surfaces[1]


def _catmull_rom(t: Array, p0: Array, p1: Array, p2: Array, p3: Array) -> Array:
    """The curve's points between p1 and p2, t from 0 to 1."""
    cubic = 3 * (p1 - p2) + p3 - p0
    return p1 + t / 2 * (p2 - p0 + t * (2 * p0 - 5 * p1 + 4 * p2 - p3 + t * cubic))
