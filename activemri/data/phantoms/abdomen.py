"""Abdomen-like subjects: axial slices with liver, spleen, kidneys, spine, vessels and bowel."""

import math

import numpy as np

from activemri.data.phantoms.contour import band, blob, smooth_path
from activemri.data.phantoms.shapes import Drawing
from activemri.data.phantoms.tissue import Tissues


def draw_abdomen(generator: np.random.Generator, place: float, tissue: Tissues) -> Drawing:
    """One slice of a belly, the back at the bottom.

    Args:
        generator: the subject; drawn from equally for every place.
        place: of the slice from the top of the liver down, -1 to 1.
        tissue: signal of the tissues.
    """
    drawing = Drawing()
    wide, tall = generator.uniform(0.40, 0.45), generator.uniform(0.28, 0.34)
    fat = generator.uniform(0.80, 0.93)
    body = blob(generator, (wide, tall), roughness=0.02, n=96)
    drawing.polygon(tissue["skin"], body)
    drawing.polygon(tissue.step("fat", "skin"), body * 0.985)
    drawing.polygon(tissue.step("muscle", "fat"), body * fat)
    drawing.polygon(tissue.step("fat", "muscle"), body * (fat - 0.06))
    inner = (wide * (fat - 0.06), tall * (fat - 0.06))
    _ribs(drawing, generator, inner, tissue)
    _liver(drawing, generator, inner, place, tissue)
    _organs(drawing, generator, inner, place, tissue)
    _spine(drawing, generator, inner, tissue)
    _bowel(drawing, generator, inner, place, tissue)
    return drawing


def _ribs(
    drawing: Drawing, generator: np.random.Generator, radii: tuple[float, float], tissue: Tissues
) -> None:
    n = int(generator.integers(10, 16))
    start = generator.uniform(0, 1)
    for i in range(n):
        angle = 2 * math.pi * (i + start) / n
        x, y = 1.035 * radii[0] * math.cos(angle), 1.035 * radii[1] * math.sin(angle)
        turn = math.atan2(radii[1] * math.cos(angle), -radii[0] * math.sin(angle))
        drawing.ellipse(tissue.step("bone", "muscle"), (x, y), radii=(0.026, 0.007), angle=turn)


def _liver(
    drawing: Drawing,
    generator: np.random.Generator,
    radii: tuple[float, float],
    place: float,
    tissue: Tissues,
) -> None:
    wide, tall = radii
    size = math.sqrt(max(0.25, 1 - (0.6 * (place + 0.2)) ** 2))
    centre = (-0.48 * wide, -0.08 * tall)
    outline = blob(
        generator,
        (0.50 * wide * size, 0.78 * tall * size),
        centre=centre,
        angle=generator.normal(0.25, 0.08),
        roughness=0.07,
    )
    drawing.polygon(tissue.step("liver", "fat"), outline)
    root = np.array(centre) + [0.20 * wide * size, 0.1 * tall]
    for _ in range(7):
        angle = math.pi + generator.uniform(-1.5, 1.5)
        tip = root + size * generator.uniform(0.10, 0.19) * np.array(
            [math.cos(angle), math.sin(angle)]
        )
        path = smooth_path(generator, np.array([root, tip]), wobble=0.012, n=12)
        drawing.polygon(tissue.step("blood", "liver"), band(path, np.linspace(0.012, 0.003, 12)))
    for _ in range(int(generator.integers(0, 4))):
        angle, reach = generator.uniform(0, 6.28), generator.uniform(0, 0.11)
        spot = (centre[0] + reach * math.cos(angle), centre[1] + reach * math.sin(angle))
        radius = generator.uniform(0.008, 0.026)
        drawing.ellipse(tissue.step("lesion", "liver"), spot, radii=(radius, 0.8 * radius))
    direction, pitch = generator.uniform(-0.9, 0.9), generator.uniform(16, 40)
    for _ in range(7):
        spot = np.array(centre) + generator.normal(0, 0.055, 2)
        turn, rate = direction + generator.normal(0, 0.2), pitch * generator.uniform(0.9, 1.1)
        drawing.wave(
            0.13 * tissue["liver"],
            (spot[0], spot[1]),
            widths=(0.045, 0.045),
            frequency=(rate * math.cos(turn), rate * math.sin(turn)),
            phase=generator.uniform(0, 2 * math.pi),
        )


def _organs(
    drawing: Drawing,
    generator: np.random.Generator,
    radii: tuple[float, float],
    place: float,
    tissue: Tissues,
) -> None:
    """Spleen, kidneys, great vessels and gall bladder."""
    wide, tall = radii
    spleen = blob(
        generator, (0.11 * wide + 0.02, 0.32 * tall), centre=(0.76 * wide, 0.12 * tall), angle=-0.3
    )
    drawing.polygon(tissue.step("spleen", "fat"), spleen)
    size = math.sqrt(max(0.0, 1 - (0.8 * (place - 0.4)) ** 2))
    for side in (-1, 1):
        centre = (side * 0.42 * wide, 0.50 * tall)
        lean = side * generator.normal(0.5, 0.1)
        if size > 0.2:
            outer = (0.050 * size + 0.008, 0.068 * size + 0.008)
            under = "liver" if side < 0 else "fat"
            drawing.ellipse(tissue.step("kidney", under), centre, radii=outer, angle=lean)
            core = (0.45 * outer[0], 0.55 * outer[1])
            drawing.ellipse(tissue.step("medulla", "kidney"), centre, radii=core, angle=lean)
    drawing.ellipse(tissue.step("blood", "fat"), (0.05 * wide, 0.28 * tall), radii=(0.023, 0.023))
    drawing.ellipse(tissue.step("blood", "fat"), (-0.12 * wide, 0.24 * tall), radii=(0.030, 0.020))
    bladder = (-0.12 * wide, -0.40 * tall)
    if generator.random() < 0.7:
        drawing.ellipse(tissue.step("fluid", "fat"), bladder, radii=(0.026, 0.038), angle=0.5)


def _spine(
    drawing: Drawing, generator: np.random.Generator, radii: tuple[float, float], tissue: Tissues
) -> None:
    tall = radii[1]
    centre = (0.0, 0.52 * tall)
    body = blob(generator, (0.066, 0.050), centre=centre, roughness=0.03)
    drawing.polygon(tissue.step("bone", "fat"), body)
    drawing.polygon(tissue.step("marrow", "bone"), np.array(centre) + (body - centre) * 0.90)
    drawing.ellipse(tissue.step("csf", "fat"), (0, 0.76 * tall), radii=(0.024, 0.018))
    drawing.ellipse(tissue.step("white", "csf"), (0, 0.76 * tall), radii=(0.011, 0.008))
    direction, pitch = generator.uniform(-0.8, 0.8), generator.uniform(18, 42)
    for side in (-1, 1):
        middle = (side * 0.098, 0.78 * tall)
        muscle = blob(generator, (0.062, 0.044), centre=middle, roughness=0.05)
        drawing.polygon(tissue.step("muscle", "fat"), muscle)
        turn = side * direction
        drawing.wave(
            0.30 * tissue["muscle"],
            middle,
            widths=(0.030, 0.022),
            frequency=(pitch * math.cos(turn), pitch * math.sin(turn)),
            phase=generator.uniform(0, 2 * math.pi),
        )
        wing = band(
            smooth_path(
                generator,
                np.array([(side * 0.03, 0.66 * tall), (side * 0.10, 0.70 * tall)]),
                wobble=0.004,
                n=8,
            ),
            0.014,
        )
        drawing.polygon(tissue.step("bone", "fat") * 0.8, wing)


def _bowel(
    drawing: Drawing,
    generator: np.random.Generator,
    radii: tuple[float, float],
    place: float,
    tissue: Tissues,
) -> None:
    """Stomach and loops of bowel, some filled with gas."""
    wide, tall = radii
    for i in range(9):
        column, row = i % 3, i // 3
        x = (0.14 + 0.24 * column) * wide + generator.normal(0, 0.012)
        y = (-0.62 + 0.32 * row) * tall + generator.normal(0, 0.010)
        size = generator.uniform(0.030, 0.044)
        gas = generator.random()
        if (x / wide) ** 2 + (y / tall) ** 2 > 0.72:
            continue
        loop = blob(generator, (size * 1.15, size), centre=(x, y), roughness=0.08, n=40)
        drawing.polygon(tissue.step("bowel", "fat"), loop)
        inside = np.array([x, y]) + (loop - [x, y]) * 0.78
        filling = "air" if gas < 0.35 else "fluid" if gas < 0.6 else "bowel"
        drawing.polygon(0.9 * tissue.step(filling, "bowel"), inside)
