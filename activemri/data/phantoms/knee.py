"""Knee-like subjects: sagittal slices with bone, cartilage, menisci, ligaments and muscle."""

import math

import numpy as np

from activemri.data.phantoms.contour import arc, band, blob, smooth_path
from activemri.data.phantoms.shapes import Array, Drawing
from activemri.data.phantoms.tissue import Tissues


def draw_knee(generator: np.random.Generator, place: float, tissue: Tissues) -> Drawing:
    """One slice of a knee, the front at the left.

    Args:
        generator: the subject; drawn from equally for every place.
        place: of the slice from the inner to the outer side, -1 to 1.
        tissue: signal of the tissues.
    """
    drawing = Drawing()
    size = math.sqrt(1 - (0.45 * place) ** 2) * generator.uniform(0.92, 1.05)
    leg = blob(generator, (0.36 * size, 0.465), roughness=0.02, n=96)
    drawing.polygon(tissue["skin"], leg)
    drawing.polygon(tissue.step("fat", "skin"), leg * 0.985)
    _muscles(drawing, generator, size, tissue)
    bend = generator.normal(0, 0.03)
    _bone(drawing, generator, _femur(size, bend), tissue)
    _bone(drawing, generator, _tibia(size, bend), tissue)
    _joint(drawing, generator, size, place, tissue)
    _front(drawing, generator, size, tissue)
    _trabeculae(drawing, generator, size, tissue)
    return drawing


def _femur(size: float, bend: float) -> Array:
    t = np.linspace(0, 1, 40)
    path = np.stack([-0.02 + bend * (1 - t) ** 2 * 2 + 0.03 * t, -0.38 + 0.35 * t], axis=1)
    flare = _rise((t - 0.35) / 0.45)
    width = (0.15 + 0.17 * flare) * size * np.sqrt(np.clip(1 - _over(t, 0.82) ** 2, 0, 1))
    return band(path, np.maximum(width * _ends(t, 0.03), 1e-3))


def _tibia(size: float, bend: float) -> Array:
    t = np.linspace(0, 1, 40)
    path = np.stack([0.01 - bend * t**2 * 2, 0.035 + 0.345 * t], axis=1)
    flare = 1 - _rise((t - 0.05) / 0.55)
    width = (0.14 + 0.15 * flare) * size
    return band(path, np.maximum(width * _ends(t, 0.05), 1e-3))


def _bone(
    drawing: Drawing, generator: np.random.Generator, outline: Array, tissue: Tissues
) -> None:
    """Dark cortical shell around bright marrow, with the scar of the growth plate."""
    drawing.polygon(tissue.step("bone", "muscle"), outline)
    middle = outline.mean(axis=0)
    inner = middle + (outline - middle) * [0.93, 0.965]
    drawing.polygon(tissue.step("marrow", "bone"), inner)
    y = middle[1] + (0.07 if middle[1] < 0 else -0.07)
    reach = np.array([(middle[0] - 0.11, y), (middle[0], y - 0.012), (middle[0] + 0.11, y)])
    scar = smooth_path(generator, reach, wobble=0.006)
    drawing.polygon(-0.35 * tissue["marrow"], band(scar, 0.005))


def _joint(
    drawing: Drawing, generator: np.random.Generator, size: float, place: float, tissue: Tissues
) -> None:
    """Cartilage, menisci, fluid and the cruciate ligaments between the bones."""
    condyle = arc((0.01, -0.115), (0.150 * size, 0.118), 0.05 * math.pi, 0.95 * math.pi)
    drawing.polygon(tissue.step("cartilage", "muscle"), band(condyle, 0.017))
    plateau = np.array([(-0.13 * size, 0.028), (0.0, 0.022), (0.14 * size, 0.030)])
    drawing.polygon(
        tissue.step("cartilage", "muscle"),
        band(smooth_path(generator, plateau, wobble=0.002), 0.014),
    )
    for side in (-1, 1):
        base = 0.155 * size * side
        tip = base - side * generator.uniform(0.05, 0.075)
        corners = np.array([(base, -0.028), (base, 0.026), (tip, 0.006)])
        drawing.polygon(0.9 * tissue.step("tendon", "muscle"), corners)
    amount = generator.uniform(0.004, 0.014)
    gap = np.array([(-0.17 * size, -0.03), (-0.20 * size, -0.12), (-0.16 * size, -0.2)])
    drawing.polygon(
        tissue.step("fluid", "fat"), band(smooth_path(generator, gap, wobble=0.004), amount)
    )
    if abs(place) < 0.6:
        lean = generator.uniform(0.8, 1.2)
        for ends in (
            [(-0.05, 0.02), (0.02 * lean, -0.06), (0.07, -0.13)],
            [(0.13, 0.05), (0.12 * lean, -0.03), (0.03, -0.09)],
        ):
            path = smooth_path(generator, np.array(ends) * [size, 1], wobble=0.003)
            drawing.polygon(0.6 * tissue.step("tendon", "marrow"), band(path, 0.020))


def _front(drawing: Drawing, generator: np.random.Generator, size: float, tissue: Tissues) -> None:
    """Kneecap with its tendons."""
    x = -0.228 * size
    high = -0.19 + generator.normal(0, 0.015)
    tilt = generator.normal(0.05, 0.08)
    drawing.ellipse(tissue.step("bone", "fat"), (x, high), radii=(0.040, 0.070), angle=tilt)
    drawing.ellipse(tissue.step("marrow", "bone"), (x, high), radii=(0.031, 0.060), angle=tilt)
    back = arc((x, high), (0.040, 0.066), -0.35 * math.pi, 0.35 * math.pi)
    drawing.polygon(tissue.step("cartilage", "fat"), band(back, 0.012))
    dark = tissue.step("tendon", "fat")
    for ends in (
        [(x - 0.006, high + 0.07), (x + 0.02, high + 0.2), (-0.145 * size, 0.15)],
        [(x - 0.004, high - 0.07), (x + 0.05, -0.30), (x + 0.10, -0.38)],
    ):
        path = smooth_path(generator, np.array(ends), wobble=0.003)
        drawing.polygon(dark, band(path, 0.017))


def _muscles(
    drawing: Drawing, generator: np.random.Generator, size: float, tissue: Tissues
) -> None:
    """The inside of the leg, with fat between the bellies, and their striations."""
    step = tissue.step("muscle", "fat")
    inside = blob(generator, (0.275 * size, 0.44), centre=(0.03 * size, 0), roughness=0.02)
    drawing.polygon(step, inside)
    for _ in range(5):
        x = generator.uniform(0.12, 0.26) * size
        top, bottom = generator.uniform(-0.4, -0.1), generator.uniform(0.1, 0.4)
        path = np.array([(x, top), (x + generator.normal(0.02, 0.02), 0), (x, bottom)])
        seam = band(smooth_path(generator, path, wobble=0.012), generator.uniform(0.004, 0.009))
        drawing.polygon(-step, seam)
    pitch, direction = generator.uniform(18, 40), generator.uniform(-0.7, 0.7)
    for y in np.linspace(-0.34, 0.34, 6):
        turn, rate = direction + generator.normal(0, 0.1), pitch * generator.uniform(0.92, 1.08)
        drawing.wave(
            0.22 * tissue["muscle"],
            (0.19 * size + generator.normal(0, 0.01), y),
            widths=(0.035, 0.055),
            frequency=(rate * math.cos(turn), rate * math.sin(turn)),
            phase=generator.uniform(0, 2 * math.pi),
        )
    for _ in range(3):
        centre = (generator.uniform(0.20, 0.25) * size, generator.uniform(-0.25, 0.25))
        drawing.ellipse(-0.6 * tissue["muscle"], centre, radii=(0.010, 0.014))


def _trabeculae(
    drawing: Drawing, generator: np.random.Generator, size: float, tissue: Tissues
) -> None:
    """Spongy bone: struts of the subject's own pitch and direction."""
    pitch, direction = generator.uniform(16, 42), generator.uniform(-0.9, 0.9)
    centres = [
        (0.01, -0.13),
        (-0.06, -0.11),
        (0.08, -0.12),
        (0.0, 0.11),
        (0.07, 0.10),
        (-0.05, 0.12),
    ]
    for x, y in centres:
        turn, rate = direction + generator.normal(0, 0.2), pitch * generator.uniform(0.9, 1.1)
        drawing.wave(
            0.13 * tissue["marrow"],
            (x * size, y),
            widths=(0.04, 0.035),
            frequency=(rate * math.cos(turn), rate * math.sin(turn)),
            phase=generator.uniform(0, 2 * math.pi),
        )


def _rise(t: Array) -> Array:
    """Smooth step from 0 to 1."""
    t = np.clip(t, 0, 1)
    return t * t * (3 - 2 * t)


def _over(t: Array, start: float) -> Array:
    """0 up to the start, then evenly to 1."""
    return np.clip((t - start) / (1 - start), 0, 1)


def _ends(t: Array, share: float) -> Array:
    """Rounds off both ends of a ribbon."""
    from_end = np.minimum(t, 1 - t) / share
    return np.sqrt(np.clip(1 - (1 - np.clip(from_end, 0, 1)) ** 2, 0, 1))
