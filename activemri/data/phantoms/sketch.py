"""What organs are drawn with: contours, signals of tissues, and sketches that add them up.

Contours are smooth, a little irregular, never the same twice. All are (n, 2) arrays.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from activemri.data.phantoms.shapes import Array, Drawing, rotation, signed_area

CONTRASTS = ("T1", "T2", "PD")

#: Relative signal, T1-, T2- and proton-density-weighted, at about 1.5 tesla.
_SIGNAL: dict[str, tuple[float, float, float]] = {
    "fat": (1.00, 0.62, 0.80),
    "marrow": (0.85, 0.50, 0.70),
    "bone": (0.06, 0.05, 0.08),
    "air": (0.00, 0.00, 0.00),
    "csf": (0.14, 1.00, 0.85),
    "grey": (0.48, 0.58, 0.80),
    "white": (0.68, 0.38, 0.66),
    "nucleus": (0.54, 0.46, 0.74),
    "muscle": (0.42, 0.26, 0.50),
    "tendon": (0.08, 0.06, 0.12),
    "cartilage": (0.52, 0.60, 0.85),
    "fluid": (0.22, 0.95, 0.90),
    "liver": (0.56, 0.34, 0.56),
    "spleen": (0.42, 0.56, 0.66),
    "kidney": (0.46, 0.68, 0.72),
    "medulla": (0.34, 0.82, 0.78),
    "blood": (0.16, 0.18, 0.22),
    "bowel": (0.40, 0.50, 0.60),
    "skin": (0.40, 0.36, 0.50),
    "lesion": (0.34, 0.86, 0.90),
}


def tissue_signals(contrast: str, generator: np.random.Generator) -> dict[str, float]:
    """Signal of each tissue for one subject and one of the `CONTRASTS`.

    Subjects and protocols differ by some 8 % a tissue; every other T2 and PD scan suppresses fat,
    as is usual in joints and bellies.
    """
    column = CONTRASTS.index(contrast)
    saturated = contrast != "T1" and generator.random() < 0.5
    spread = np.exp(0.08 * generator.standard_normal(len(_SIGNAL)))
    return {
        name: float(row[column] * factor * (0.3 if saturated and name in ("fat", "marrow") else 1))
        for (name, row), factor in zip(_SIGNAL.items(), spread, strict=True)
    }


@dataclass(eq=False)
class Sketch:
    """A slice of a body; shapes add the difference to the tissue that they lie in.

    Attributes:
        generator: the subject; drawn from equally for every place.
        place: of the slice through the body, -1 to 1.
        signal: of each tissue.
    """

    generator: np.random.Generator
    place: float
    signal: dict[str, float]
    drawing: Drawing = field(default_factory=Drawing)

    def fill(self, inner: str, outer: str, outline: ArrayLike, share: float = 1.0) -> None:
        """Make `outer` tissue within a contour `inner` tissue, or a share of the way to it."""
        self.drawing.polygon(share * (self.signal[inner] - self.signal[outer]), outline)

    def spot(
        self,
        inner: str,
        outer: str,
        centre: ArrayLike,
        *,
        radii: ArrayLike,
        angle: float = 0.0,
        share: float = 1.0,
    ) -> None:
        """As :meth:`fill`, within an ellipse of half axes `radii` (x, y) before it is turned."""
        step = share * (self.signal[inner] - self.signal[outer])
        self.drawing.ellipse(step, centre, radii=radii, angle=angle)

    def weave(
        self,
        centres: Iterable[ArrayLike],
        *,
        amplitude: float,
        width: float,
        pitch: tuple[float, float] = (17, 38),
    ) -> None:
        """Add patches of texture (struts, fibres, vessels): stripes of the subject's own pitch.

        The stripes of all patches are in step but for small variations, so their energy lies on a
        few phase-encode lines (columns), other ones in every subject. Their wave vector is at most
        0.6 radians from the x axis, so that it is the phase encodes that see the weave. `width` is
        the standard deviation of a patch, `pitch` the range of the stripes per field of view.
        """
        generator = self.generator
        turn = generator.uniform(-0.6, 0.6)
        rate, start = generator.uniform(*pitch), generator.uniform(0, 2 * math.pi)
        for centre in centres:
            local, factor = turn + generator.normal(0, 0.03), rate * (1 + generator.normal(0, 0.02))
            frequency = np.array([factor * math.cos(local), factor * math.sin(local)])
            self.drawing.wave(
                amplitude * generator.uniform(0.8, 1.2),
                centre,
                widths=width * generator.uniform(0.85, 1.15, 2),
                frequency=frequency,
                phase=start + 2 * math.pi * float(frequency @ np.asarray(centre)),
            )


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
    """A folded sheet such as the brain's cortex.

    Args:
        outline: smooth closed contour that the crowns of the folds touch.
        sulci: the furrows between them, not closer than about three thicknesses. Each has a place
            on the outline where it opens, as a share of the way around; a depth; a lean of its
            beginning away from the normal, in radians; a bend, the sideways displacement of its tip
            relative to the depth; and a width at its opening.
        thickness: of the sheet.

    Returns:
        The outer surface, which lines every furrow, and the inner surface, the same at a distance
        of the thickness.
    """
    closed = np.vstack([outline, outline[:1]])
    way = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(closed, axis=0), axis=1))])
    normals = inward_normals(outline)
    normals = np.vstack([normals, normals[:1]])
    turning = math.copysign(1, signed_area(outline))
    ordered = sorted(sulci, key=lambda sulcus: sulcus[0] % 1)

    def at(place: float, table: Array) -> Array:
        position = (place % 1) * way[-1]
        return np.array([np.interp(position, way, table[:, axis]) for axis in (0, 1)])

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
            for share in np.linspace(0, 1, max(3, math.ceil(gap * 40))):
                crown = place + clear + share * max(gap - 2 * clear, 0)
                parts.append((at(crown, closed) + outset * at(crown, normals))[None])
        surfaces.append(np.concatenate(parts))
    return surfaces[0], surfaces[1]


def _catmull_rom(t: Array, p0: Array, p1: Array, p2: Array, p3: Array) -> Array:
    """The curve's points between p1 and p2, t from 0 to 1."""
    cubic = 3 * (p1 - p2) + p3 - p0
    return p1 + t / 2 * (p2 - p0 + t * (2 * p0 - 5 * p1 + 4 * p2 - p3 + t * cubic))
