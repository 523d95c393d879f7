"""Closed contours of organs: smooth, a little irregular, never the same twice."""

import math

import numpy as np

from activemri.data.phantoms.shapes import Array, rotation


def blob(
    generator: np.random.Generator,
    radii: tuple[float, float],
    *,
    centre: tuple[float, float] = (0.0, 0.0),
    angle: float = 0.0,
    roughness: float = 0.05,
    n: int = 64,
) -> Array:
    """An ellipse whose radius wanders: vertices (n, 2).

    Args:
        generator: source of the irregularity.
        radii: half axes (x, y) before turning.
        centre: (x, y).
        angle: of turning, in radians.
        roughness: standard deviation of the radius, relative; harmonics 2 to 6 share it.
        n: vertices.
    """
    around = np.linspace(0, 2 * math.pi, n, endpoint=False)
    wander = np.ones(n)
    for harmonic in range(2, 7):
        amplitude = roughness * generator.standard_normal() / harmonic**0.5 / 1.4
        wander += amplitude * np.cos(harmonic * around + generator.uniform(0, 2 * math.pi))
    points = np.stack([radii[0] * np.cos(around), radii[1] * np.sin(around)], axis=1)
    return points * wander[:, None] @ rotation(angle).T + np.asarray(centre)


def folded(
    generator: np.random.Generator,
    radii: tuple[float, float],
    *,
    n_folds: int,
    depth: float,
    centre: tuple[float, float] = (0.0, 0.0),
    n: int = 220,
) -> Array:
    """A contour with deep narrow folds, as the edge of the brain's white matter: vertices (n, 2).

    Args:
        generator: source of the irregularity.
        radii: half axes (x, y).
        n_folds: about so many folds around.
        depth: of the folds, relative to the radius.
        centre: (x, y).
        n: vertices.
    """
    around = np.linspace(0, 2 * math.pi, n, endpoint=False)
    # Folds of uneven width: the phase runs ahead and falls behind.
    drift = sum(
        generator.normal(0, 0.9 / h) * np.sin(h * around + generator.uniform(0, 2 * math.pi))
        for h in range(1, 6)
    )
    height = 0.7 + 0.3 * np.sin(3 * around + generator.uniform(0, 2 * math.pi))
    wave = np.sin(n_folds * around + 1.6 * drift)
    # Ridges are broad and furrows narrow.
    shape = np.sign(wave) * np.abs(wave) ** 0.7
    ripple = 0.25 * np.sin(2.3 * n_folds * around + 2 * drift)
    wander = 1 + depth * height * (shape + ripple)
    points = np.stack([radii[0] * np.cos(around), radii[1] * np.sin(around)], axis=1)
    return points * wander[:, None] + np.asarray(centre)


def band(path: Array, width: float | Array) -> Array:
    """A ribbon around an open path (n, 2): a closed contour (2 n, 2).

    Args:
        path: the middle of the ribbon.
        width: full width, one number or one for each point.
    """
    tangent = np.gradient(path, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True) + 1e-12
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1)
    half = np.broadcast_to(np.asarray(width, float) / 2, (len(path),))[:, None]
    return np.concatenate([path + half * normal, (path - half * normal)[::-1]])


def arc(
    centre: tuple[float, float],
    radii: tuple[float, float],
    start: float,
    end: float,
    *,
    n: int = 24,
) -> Array:
    """Points along an ellipse from one angle to another, in radians: (n, 2)."""
    angle = np.linspace(start, end, n)
    ring = np.stack([radii[0] * np.cos(angle), radii[1] * np.sin(angle)], axis=1)
    return ring + np.asarray(centre)


def smooth_path(
    generator: np.random.Generator, points: Array, *, wobble: float, n: int = 24
) -> Array:
    """A curve near given points (m, 2): quadratic through three, piecewise linear through others."""
    t = np.linspace(0, 1, len(points))
    fine = np.linspace(0, 1, n)
    degree = min(len(points) - 1, 3)
    curve = np.stack(
        [np.polyval(np.polyfit(t, points[:, axis], degree), fine) for axis in (0, 1)], axis=1
    )
    swing = generator.uniform(0, 2 * math.pi, 2)
    sway = np.sin(2 * math.pi * fine[:, None] * generator.uniform(1, 2.5) + swing)
    return curve + wobble * sway * np.sin(math.pi * fine)[:, None]
