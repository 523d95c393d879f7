"""Brain-like subjects: axial slices with ventricles, sagittal ones with cerebellum and brainstem."""

import math

import numpy as np

from activemri.data.phantoms.contour import arc, band, blob, folded, smooth_path
from activemri.data.phantoms.shapes import Drawing
from activemri.data.phantoms.tissue import Tissues


def draw_brain(generator: np.random.Generator, place: float, tissue: Tissues) -> Drawing:
    """One slice of a head.

    Args:
        generator: the subject; drawn from equally for every place.
        place: of the slice through the head, -1 to 1.
        tissue: signal of the tissues.
    """
    draw = _axial if generator.random() < 0.6 else _sagittal
    return draw(generator, place, tissue)


def _axial(generator: np.random.Generator, place: float, tissue: Tissues) -> Drawing:
    drawing = Drawing()
    size = math.sqrt(1 - (0.55 * place) ** 2)
    wide, tall = size * generator.uniform(0.32, 0.37), size * generator.uniform(0.40, 0.44)
    _head(drawing, generator, (wide, tall), tissue)
    _cortex(drawing, generator, (0.86 * wide, 0.87 * tall), (0.0, 0.0), tissue)
    bright = tissue.step("csf", "white")
    split = smooth_path(generator, np.array([(0, -0.86 * tall), (0, -0.45 * tall)]), wobble=0.006)
    drawing.polygon(0.8 * bright, band(split, 0.010))
    split = smooth_path(generator, np.array([(0, 0.45 * tall), (0, 0.86 * tall)]), wobble=0.006)
    drawing.polygon(0.8 * bright, band(split, 0.010))
    _ventricles(drawing, generator, (wide, tall), place, tissue)
    _nuclei(drawing, generator, (wide, tall), tissue)
    _lesions(drawing, generator, (0.6 * wide, 0.6 * tall), place, tissue)
    _texture(drawing, generator, (0.7 * wide, 0.7 * tall), tissue)
    return drawing


def _sagittal(generator: np.random.Generator, place: float, tissue: Tissues) -> Drawing:
    drawing = Drawing()
    size = math.sqrt(1 - (0.5 * place) ** 2)
    wide, tall = size * generator.uniform(0.40, 0.44), size * generator.uniform(0.33, 0.37)
    _neck_and_face(drawing, generator, (wide, tall), tissue)
    _head(drawing, generator, (wide, tall), tissue)
    _cortex(drawing, generator, (0.86 * wide, 0.80 * tall), (0.0, -0.05 * tall), tissue)
    _midline(drawing, generator, (wide, tall), tissue)
    _cerebellum(drawing, generator, (0.40 * wide, 0.62 * tall), tissue)
    _lesions(drawing, generator, (0.55 * wide, 0.4 * tall), place, tissue)
    _texture(drawing, generator, (0.6 * wide, 0.5 * tall), tissue)
    return drawing


def _neck_and_face(
    drawing: Drawing, generator: np.random.Generator, radii: tuple[float, float], tissue: Tissues
) -> None:
    """What hangs below the head; drawn outside of its outline, as shapes add up."""
    wide, tall = radii
    low = np.array([(0.12, 0.90 * tall), (0.135, 0.40), (0.14, 0.47)])
    neck = band(smooth_path(generator, low, wobble=0.003), np.linspace(0.17, 0.20, 24))
    drawing.polygon(0.8 * tissue["muscle"], neck)
    middle = (-0.55 * wide, 1.12 * tall)
    face = blob(generator, (0.10, 0.085), centre=middle, angle=0.5, roughness=0.06)
    drawing.polygon(0.6 * tissue["fat"], face)
    for _ in range(3):
        spot = np.array(middle) + generator.uniform(-0.05, 0.05, 2)
        cavity = blob(generator, (0.026, 0.015), centre=(spot[0], spot[1]), roughness=0.15, n=32)
        drawing.polygon(-0.5 * tissue["fat"], cavity)


def _head(
    drawing: Drawing, generator: np.random.Generator, radii: tuple[float, float], tissue: Tissues
) -> None:
    """Scalp, skull and the fluid within."""
    ring = blob(generator, radii, roughness=0.012, n=96)
    drawing.polygon(tissue["fat"], ring)
    drawing.polygon(tissue.step("bone", "fat"), ring * generator.uniform(0.935, 0.955))
    drawing.polygon(tissue.step("marrow", "bone") * 0.5, ring * 0.925)
    drawing.polygon(tissue.step("bone", "marrow") * 0.5, ring * 0.913)
    drawing.polygon(tissue.step("csf", "bone"), ring * 0.895)


def _cortex(
    drawing: Drawing,
    generator: np.random.Generator,
    radii: tuple[float, float],
    centre: tuple[float, float],
    tissue: Tissues,
) -> None:
    """Grey matter with furrows, white matter with fingers."""
    n_folds = int(generator.integers(15, 24))
    grey = folded(generator, radii, n_folds=n_folds, depth=0.018, centre=centre)
    drawing.polygon(tissue.step("grey", "csf"), grey)
    inner = (0.84 * radii[0], 0.84 * radii[1])
    white = folded(generator, inner, n_folds=n_folds, depth=0.095, centre=centre)
    drawing.polygon(tissue.step("white", "grey"), white)
    offset = generator.uniform(0, 2 * math.pi)
    for i in range(n_folds + 6):
        angle = offset + 2 * math.pi * (i + generator.uniform(-0.3, 0.3)) / (n_folds + 6)
        direction = np.array([math.cos(angle) * radii[0], math.sin(angle) * radii[1]])
        depth = generator.uniform(0.72, 0.88)
        ends = np.array([1.0 * direction, depth * direction]) + centre
        path = smooth_path(generator, ends, wobble=0.008, n=8)
        drawing.polygon(
            0.75 * tissue.step("csf", "grey"), band(path, generator.uniform(0.004, 0.009))
        )


def _ventricles(
    drawing: Drawing,
    generator: np.random.Generator,
    radii: tuple[float, float],
    place: float,
    tissue: Tissues,
) -> None:
    wide, tall = radii
    swell = generator.uniform(0.7, 1.5) * max(0.25, 1 - abs(place - 0.1))
    step = tissue.step("csf", "white")
    for side in (-1, 1):
        lean = generator.uniform(0.8, 1.2)
        points = [(0.16, -0.38), (0.08, -0.16), (0.09, 0.04), (0.24 * lean, 0.34)]
        path = np.array([(side * x * wide, y * tall) for x, y in points])
        width = swell * np.interp(
            np.linspace(0, 1, 24), [0, 0.2, 0.55, 0.85, 1], [2, 16, 12, 17, 3]
        )
        drawing.polygon(step, band(smooth_path(generator, path, wobble=0.004), 1.9e-3 * width))
    drawing.ellipse(step, (0, 0.06 * tall), radii=(0.006 * swell + 0.002, 0.045))


def _nuclei(
    drawing: Drawing, generator: np.random.Generator, radii: tuple[float, float], tissue: Tissues
) -> None:
    wide, tall = radii
    step = tissue.step("nucleus", "white")
    for side in (-1, 1):
        for x, y, a, b, turn in (
            (0.13, -0.22, 0.016, 0.034, 0.35),  # caudate
            (0.34, -0.06, 0.024, 0.062, 0.20),  # putamen
            (0.13, 0.12, 0.032, 0.042, -0.45),  # thalamus
        ):
            scale = generator.uniform(0.85, 1.15)
            centre = (side * x * wide, y * tall)
            drawing.ellipse(step, centre, radii=(scale * a, scale * b), angle=side * -turn)


def _midline(
    drawing: Drawing, generator: np.random.Generator, radii: tuple[float, float], tissue: Tissues
) -> None:
    """Corpus callosum, ventricle, thalamus and brainstem."""
    wide, tall = radii
    centre = (-0.02 * wide, 0.08 * tall)
    rim = (0.40 * wide, 0.34 * tall)
    around = arc(centre, rim, 1.08 * math.pi, 2.0 * math.pi)
    thick = np.interp(
        np.linspace(0, 1, 24), [0, 0.15, 0.5, 0.85, 1], [0.02, 0.034, 0.022, 0.04, 0.02]
    )
    below = arc(centre, (0.33 * wide, 0.25 * tall), 1.05 * math.pi, 1.95 * math.pi)
    drawing.polygon(tissue.step("csf", "white"), band(below, 0.022 * generator.uniform(0.7, 1.5)))
    drawing.polygon(0.55 * tissue["white"], band(around, thick))
    drawing.ellipse(
        tissue.step("nucleus", "white"), (0, 0.16 * tall), radii=(0.055, 0.038), angle=0.3
    )
    down = np.array([(0.03, 0.30 * tall), (0.09, 0.60 * tall), (0.12, 0.34), (0.135, 0.46)])
    stem = np.interp(np.linspace(0, 1, 24), [0, 0.35, 0.6, 1], [0.05, 0.085, 0.05, 0.036])
    path = smooth_path(generator, down, wobble=0.004)
    drawing.polygon(0.12 * tissue["csf"], band(path, stem + 0.02))
    drawing.polygon(0.15 * tissue["white"], band(path, stem))


def _cerebellum(
    drawing: Drawing, generator: np.random.Generator, centre: tuple[float, float], tissue: Tissues
) -> None:
    """Leaves that fan out from the stem: fine texture of the subject's own direction."""
    scale = generator.uniform(0.9, 1.1)
    outline = blob(generator, (0.10 * scale, 0.085 * scale), centre=centre, roughness=0.04)
    drawing.polygon(tissue.step("grey", "white"), outline)
    for i in range(9):
        angle = -1.2 + 0.33 * i + generator.normal(0, 0.05)
        tip = np.array([math.cos(angle), math.sin(angle)]) * 0.082 * scale + centre
        root = np.array(centre) + 0.35 * (tip - centre)
        path = smooth_path(generator, np.array([root, tip]), wobble=0.004, n=8)
        drawing.polygon(0.25 * tissue["white"], band(path, np.linspace(0.010, 0.004, 8)))
    direction = generator.uniform(-0.6, 0.6)
    pitch = generator.uniform(26, 44)
    drawing.wave(
        0.16 * tissue["white"],
        centre,
        widths=(0.045, 0.038),
        frequency=(pitch * math.cos(direction), pitch * math.sin(direction)),
        phase=generator.uniform(0, 6.28),
    )


def _lesions(
    drawing: Drawing,
    generator: np.random.Generator,
    reach: tuple[float, float],
    place: float,
    tissue: Tissues,
) -> None:
    for _ in range(int(generator.integers(0, 6))):
        angle, distance = generator.uniform(0, 2 * math.pi), generator.uniform(0.3, 1) ** 0.5
        centre = (reach[0] * distance * math.cos(angle), reach[1] * distance * math.sin(angle))
        radius = generator.uniform(0.006, 0.022)
        middle, turn = generator.uniform(-1, 1), generator.uniform(0, 3.14)
        seen = math.sqrt(max(0.0, 1 - ((place - middle) / 0.7) ** 2))
        if seen > 0.2:
            radii = (radius * seen * 1.4, radius * seen)
            drawing.ellipse(tissue.step("lesion", "white"), centre, radii=radii, angle=turn)


def _texture(
    drawing: Drawing,
    generator: np.random.Generator,
    reach: tuple[float, float],
    tissue: Tissues,
) -> None:
    """Fibres: every subject has its own pitch and direction."""
    direction, pitch = generator.uniform(-0.9, 0.9), generator.uniform(14, 34)
    for _ in range(10):
        angle, distance = generator.uniform(0, 2 * math.pi), generator.uniform(0, 1) ** 0.5
        turn = direction + generator.normal(0, 0.15)
        rate = pitch * generator.uniform(0.9, 1.1)
        drawing.wave(
            0.10 * tissue["white"],
            (reach[0] * distance * math.cos(angle), reach[1] * distance * math.sin(angle)),
            widths=tuple(generator.uniform(0.03, 0.06, 2)),
            frequency=(rate * math.cos(turn), rate * math.sin(turn)),
            phase=generator.uniform(0, 2 * math.pi),
        )
