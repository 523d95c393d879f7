"""Drawings: sums of shapes whose Fourier transforms are closed forms.

Coordinates are (x to the right, y downwards) in units of the field of view's smaller side, with
the origin at the centre; spatial frequencies are in cycles per that unit. The transform is

    F(k) = integral f(x, y) exp(-2 pi i (k_x x + k_y y)) dx dy.

With e an edge of a polygon, m its middle and sinc(t) = sin(pi t) / (pi t),

    polygon:  F(k) = i / (2 pi |k|^2) sum_e (k_x e_y - k_y e_x) sinc(k . e) exp(-2 pi i k . m)
    ellipse:  F(k) = pi |det A| jinc(2 pi |A^T k|) exp(-2 pi i k . c),      jinc(s) = 2 J1(s) / s
    wave:     F(k) = pi |det A| [exp(i phi) G(k - q) + exp(-i phi) G(k + q)] exp(-2 pi i k . c),
              G(k) = exp(-2 pi^2 |A^T k|^2),   a Gaussian of matrix A times cos(2 pi q . x + phi)

and the blur of softness s multiplies the first two by exp(-2 pi^2 s^2 |k|^2) (divergence theorem;
Bracewell, The Fourier Transform and Its Applications, 2000). Edges and waves are evaluated in
double precision, waves where they exceed 1e-9 of their peak; the jinc comes from a table that is
accurate to 1e-7 of the peak.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

TABLE_STEPS = 16  # per unit of the jinc's argument
WAVE_REACH = math.sqrt(2 * math.log(1e9))  # standard deviations until 1e-9 of the peak


@dataclass(eq=False)
class Drawing:
    """Shapes added up; each method adds some and returns nothing.

    Those of a body add the difference to the tissue that they lie in, by the `signal` of tissues.
    """

    polygons: list[tuple[float, Array]] = field(default_factory=list)  # weight, vertices
    ellipses: list[tuple[float, ...]] = field(default_factory=list)  # amplitude, x, y, matrix
    waves: list[tuple[float, ...]] = field(default_factory=list)  # and k_x, k_y, phase
    #: Standard deviation of the Gaussian that blurs polygons and ellipses, as a slice of some
    #: thickness does with surfaces that cross it obliquely.
    softness: float = 0.0
    signal: dict[str, float] = field(default_factory=dict)

    def polygon(self, amplitude: float, vertices: ArrayLike) -> None:
        """Add a closed polygon with vertices (n, 2)."""
        self.polygons.append((amplitude, np.asarray(vertices, float)))

    def ellipse(
        self, amplitude: float, centre: ArrayLike, *, radii: ArrayLike, angle: float = 0.0
    ) -> None:
        """Add a filled ellipse with half axes `radii` (x, y) before it is turned."""
        x, y = np.asarray(centre, float)
        matrix = rotation(angle) * np.asarray(radii, float)
        self.ellipses.append((amplitude, x, y, *matrix.ravel()))

    def wave(
        self,
        amplitude: float,
        centre: ArrayLike,
        *,
        widths: ArrayLike,
        frequency: ArrayLike,
        phase: float,
        angle: float = 0.0,
    ) -> None:
        """Add oriented texture: a Gaussian window times a cosine of `frequency` (k_x, k_y)."""
        x, y = np.asarray(centre, float)
        matrix = rotation(angle) * np.asarray(widths, float)
        self.waves.append((amplitude, x, y, *matrix.ravel(), *np.asarray(frequency, float), phase))

    def fill(self, inner: str, outer: str, outline: ArrayLike, share: float = 1.0) -> None:
        """Make `outer` tissue within a contour `inner` tissue, or a share of the way to it."""
        self.polygon(share * (self.signal[inner] - self.signal[outer]), outline)

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
        self.ellipse(step, centre, radii=radii, angle=angle)

    def weave(
        self,
        generator: np.random.Generator,
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
        turn = generator.uniform(-0.6, 0.6)
        rate, start = generator.uniform(*pitch), generator.uniform(0, 2 * math.pi)
        for centre in centres:
            local, factor = turn + generator.normal(0, 0.03), rate * (1 + generator.normal(0, 0.02))
            frequency = np.array([factor * math.cos(local), factor * math.sin(local)])
            self.wave(
                amplitude * generator.uniform(0.8, 1.2),
                centre,
                widths=width * generator.uniform(0.85, 1.15, 2),
                frequency=frequency,
                phase=start + 2 * math.pi * float(frequency @ np.asarray(centre)),
            )

    def transformed(self, matrix: ArrayLike, shift: ArrayLike) -> "Drawing":
        """The drawing under x -> matrix x + shift."""
        mapping, offset = np.asarray(matrix, float), np.asarray(shift, float)
        backwards = np.linalg.inv(mapping)
        polygons = [(weight, points @ mapping.T + offset) for weight, points in self.polygons]
        result = Drawing(polygons, softness=self.softness)
        for row in (*self.ellipses, *self.waves):
            centre = mapping @ np.array(row[1:3]) + offset
            inner = mapping @ np.array(row[3:7]).reshape(2, 2)
            placed = (row[0], *centre, *inner.ravel())
            if len(row) == 7:
                result.ellipses.append(placed)
            else:
                result.waves.append((*placed, *(np.array(row[7:9]) @ backwards), row[9]))
        return result

    def extent(self) -> tuple[Array, Array]:
        """Smallest and largest (x, y) of the polygons; other shapes lie inside them."""
        points = np.concatenate([vertices for _, vertices in self.polygons])
        return points.min(axis=0), points.max(axis=0)

    def cropped(self, view: tuple[float, float]) -> "Drawing":
        """The drawing with polygons cut at the edges of a field of view (height, width)."""
        kept, edge = [], np.array(view[::-1]) / 2
        for weight, points in self.polygons:
            for axis, half in enumerate([] if (abs(points) <= edge).all() else edge):
                for sign in (-1, 1):
                    points = cut(points, axis=axis, sign=sign, limit=half)
            if len(points) > 2:
                kept.append((weight, points))
        return Drawing(kept, self.ellipses, self.waves, self.softness)

    def spectrum(self, rows: ArrayLike, columns: ArrayLike) -> NDArray[np.complex128]:
        """The transform at k_y (height,) and k_x (width,), both ascending: (height, width)."""
        from activemri.data.phantoms import kernels

        down, right = np.asarray(rows, float), np.asarray(columns, float)
        parts = np.zeros((2, down.size, right.size))
        square = down[:, None] ** 2 + right**2
        if self.polygons:
            sums = np.zeros_like(parts)
            edges = []  # (weight, x0, y0, x1, y1), counter-clockwise polygons weighing positive
            for weight, start in self.polygons:
                signed = np.full((len(start), 1), weight * math.copysign(1, signed_area(start)))
                edges.append(np.hstack((signed, start, np.roll(start, -1, axis=0))))
            kernels.add_edges(np.concatenate(edges), down, right, *sums)
            origin = square == 0
            factor = 1 / (2 * math.pi * np.where(origin, 1, square))
            parts += np.stack((-factor * sums[1], factor * sums[0]))
            parts[0] += origin * sum(weight * abs(signed_area(p)) for weight, p in self.polygons)
        if self.ellipses:
            ellipses = np.array(self.ellipses)
            longest = np.linalg.norm(ellipses[:, 3:7], axis=1).max()
            largest = 2 * math.pi * longest * math.sqrt(square.max())
            table = _jinc_table(1 << max(8, math.ceil(math.log2(largest + 1))))
            kernels.add_ellipses(ellipses, down, right, table, TABLE_STEPS, *parts)
        parts *= np.exp(-2 * (math.pi * self.softness) ** 2 * square)
        if self.waves:
            kernels.add_waves(np.array(self.waves), down, right, WAVE_REACH, *parts)
        spectrum: NDArray[np.complex128] = parts[0] + 1j * parts[1]
        return spectrum


def rotation(angle: float) -> Array:
    """Matrix that turns (x, y) by `angle` radians from x towards y."""
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, -sin], [sin, cos]])


def cut(points: Array, *, axis: int, sign: int, limit: float) -> Array:
    """The part of a polygon that lies in a half plane, sign * coordinate <= limit.

    A polygon that falls into parts stays one, joined along the cut: its integral is right.
    (Sutherland and Hodgman 1974)
    """
    beyond = sign * points[:, axis] - limit
    if (beyond <= 0).all():
        return points
    kept = []
    for this, following, here, there in zip(
        points, np.roll(points, -1, axis=0), beyond, np.roll(beyond, -1), strict=True
    ):
        if here <= 0:
            kept.append(this)
        if (here <= 0) != (there <= 0):
            kept.append(this + here / (here - there) * (following - this))
    return np.array(kept).reshape(-1, 2)


def signed_area(points: Array) -> float:
    """Area of a polygon (n, 2), positive when it runs from x towards y."""
    following = np.roll(points, -1, axis=0)
    cross = points[:, 0] * following[:, 1] - points[:, 1] * following[:, 0]
    return float(cross.sum()) / 2


@lru_cache(maxsize=8)
def _jinc_table(largest: int) -> Array:
    """Values and slopes of 2 J1(s) / s for s from 0 to `largest`, (n, 2)."""
    from scipy import special

    s = np.arange(1, largest * TABLE_STEPS + 2) / TABLE_STEPS
    values = np.append(1.0, 2 * special.j1(s) / s)
    slopes = np.append(0.0, -2 * special.jv(2, s) / s)
    return np.ascontiguousarray(np.stack((values, slopes / TABLE_STEPS), axis=1))
