"""Brain-like subjects: axial, coronal and sagittal heads with a folded cortex."""

import math

import numpy as np

from activemri.data.phantoms.contour import band, blob, curve, fold, inset, spline
from activemri.data.phantoms.shapes import Array, Drawing

CORTEX = 0.017  # thickness of the grey matter


def draw_brain(drawing: Drawing, generator: np.random.Generator, place: float) -> None:
    """One slice of a head: axial (the face upwards), coronal (the crown upwards) or sagittal."""
    view = generator.random()
    coronal = view > 0.7
    if view < 0.3:
        return _sagittal(drawing, generator, place)
    size = math.sqrt(1 - (0.5 * place) ** 2)
    wide = size * generator.uniform(0.33, 0.37)
    tall = size * (generator.uniform(0.37, 0.40) if coronal else generator.uniform(0.41, 0.45))
    head = blob(generator, (wide, tall), roughness=0.014, n=72)
    scalp, skull = generator.uniform(0.016, 0.026), generator.uniform(0.020, 0.028)
    drawing.fill("skin", "air", head)
    drawing.fill("fat", "skin", inset(head, 0.006))
    drawing.fill("bone", "fat", inset(head, scalp))
    drawing.fill("marrow", "bone", inset(head, scalp + 0.30 * skull), 0.6)
    drawing.fill("bone", "marrow", inset(head, scalp + 0.62 * skull), 0.6)
    drawing.fill("csf", "bone", inset(head, scalp + skull))
    brain = inset(head, scalp + skull + generator.uniform(0.004, 0.010))
    low, high = brain.min(axis=0), brain.max(axis=0)
    reach = (high - low) / 2
    n = 2 * int(generator.integers(14, 18))
    sulci = _sulci(generator, place, n=n, skip=(0.25, 0.75, 0.0, 1.0, 0.5))
    lateral = generator.uniform(0.30, 0.42, 2) * reach[0]
    sulci += [(0.003, lateral[0], 0.4, -0.2, 0.012), (0.5, lateral[1], -0.4, 0.2, 0.012)]
    front, back = generator.uniform(0.42, 0.55), generator.uniform(0.36, 0.5)
    sulci += [
        (0.75, front * reach[1], 0.0, generator.normal(0, 0.02), 0.010),
        (0.25, back * reach[1] * (0.3 if coronal else 1), 0.0, 0.0, 0.010),
    ]
    grey, white = fold(brain, sulci, thickness=CORTEX * size)
    drawing.fill("grey", "csf", grey)
    drawing.fill("white", "grey", white)
    # Ventricles and the nuclei beside them, in units of half the brain.
    swell = generator.uniform(0.7, 1.5) * (1.05 - 0.75 * abs(place + 0.1))
    jitter = generator.normal(0, 0.012, (2, 4, 2))
    scales = generator.uniform(0.88, 1.1, (2, 4))
    for side, moved, scale in zip((-1, 1), jitter, scales, strict=True):
        horn = np.array([(0.17, -0.34), (0.085, -0.20), (0.10, -0.02), (0.26, 0.30)])
        path = curve((horn + moved) * [side * reach[0], reach[1]])
        width = np.interp(np.linspace(0, 1, 16), [0, 0.2, 0.5, 0.85, 1], [0.5, 3.2, 2.0, 3.4, 0.5])
        drawing.fill("csf", "white", band(path, 0.009 * swell * width))
        for (x, y, a, b, turn), factor in zip(
            (
                (0.235, -0.24, 0.055, 0.10, -0.3),  # caudate
                (0.46, -0.06, 0.075, 0.190, -0.22),  # putamen
                (0.325, 0.0, 0.045, 0.100, -0.3),  # pallidum
                (0.17, 0.17, 0.10, 0.125, 0.5),  # thalamus
            ),
            scale,
            strict=True,
        ):
            centre = np.array([side * x, y]) * reach
            radii = (factor * a * reach[0], factor * b * reach[1])
            shape = blob(generator, radii, centre=centre, angle=side * turn, roughness=0.06, n=20)
            drawing.fill("nucleus", "white", shape)
    third = curve([(0, 0.06 * reach[1]), (0, 0.26 * reach[1])], n=6)
    drawing.fill("csf", "white", band(third, 0.004 + 0.006 * swell))
    for _ in range(int(generator.integers(0, 6))):  # bright spots, each in some of the slices
        angle, distance = generator.uniform(0, 2 * math.pi), generator.uniform(0.55, 1)
        middle, radius, turn = generator.uniform((-1, 0.006, 0), (1, 0.020, math.pi))
        seen = math.sqrt(max(0.0, 1 - ((place - middle) / 0.7) ** 2))
        if seen > 0.2:
            centre = 0.5 * reach * distance * [math.cos(angle), math.sin(angle)]
            radii = (1.4 * radius * seen, radius * seen)
            drawing.spot("lesion", "white", centre, radii=radii, angle=turn, share=0.8)
    _fibres(drawing, generator, 0.62 * reach)


def _sulci(
    generator: np.random.Generator,
    place: float,
    *,
    n: int,
    scale: float = 1.0,
    skip: tuple[float, ...] = (),
    span: tuple[float, float] = (0.0, 1.0),
) -> list[tuple[float, ...]]:
    """Deep and shallow furrows in turn, unevenly spaced, none near the openings to skip."""
    sulci: list[tuple[float, ...]] = []
    for i in range(n):
        spread, depth, lean, bend, width, moving, growing = generator.uniform(-1, 1, 7)
        opening = (i + 0.5 + 0.18 * spread + 0.12 * moving * place) / n
        opening = span[0] + (span[1] - span[0]) * opening
        deep = 0.112 + 0.032 * depth if i % 2 else 0.050 + 0.016 * depth
        deep *= scale * (1 + 0.25 * growing * place)
        if all(abs(opening - taken) > 0.7 / n for taken in skip):
            sulci.append((opening, deep, 0.3 * lean, 0.4 * bend, 0.007 + 0.003 * width))
    return sulci


def _sagittal(drawing: Drawing, generator: np.random.Generator, place: float) -> None:
    """From the side, the face at the left."""
    size = math.sqrt(1 - (0.35 * place) ** 2)
    outline = spline(_PROFILE, generator=generator, wobble=0.006)
    drawing.fill("skin", "air", size * outline)
    drawing.fill("fat", "skin", size * inset(outline, 0.008))
    cavity = spline(_CAVITY, generator=generator, wobble=0.003)
    skull = generator.uniform(0.018, 0.026)
    drawing.fill("bone", "fat", size * inset(cavity, -skull))
    drawing.fill("marrow", "bone", size * inset(cavity, -0.66 * skull), 0.6)
    drawing.fill("bone", "marrow", size * inset(cavity, -0.36 * skull), 0.6)
    drawing.fill("csf", "bone", size * cavity)
    # Airways, tongue and the muscles of the neck, all within fat.
    nose = [(-0.36, 0.035), (-0.25, -0.015), (-0.13, 0.03), (-0.10, 0.075), (-0.22, 0.075)]
    throat = [(-0.105, 0.10), (-0.08, 0.18), (-0.075, 0.34), (-0.055, 0.34), (-0.055, 0.18)]
    tongue = [(-0.33, 0.135), (-0.24, 0.10), (-0.145, 0.135), (-0.13, 0.22), (-0.23, 0.245)]
    nape = [(0.155, 0.20), (0.215, 0.18), (0.185, 0.28), (0.18, 0.43), (0.150, 0.43)]
    for points, name in ((nose, "air"), (throat, "air"), (tongue, "muscle"), (nape, "muscle")):
        shape = spline(points, generator=generator, wobble=0.004)
        drawing.fill(name, "fat", size * shape)
    for y in (0.005, 0.035):
        concha = curve([(-0.29, y), (-0.21, y + 0.012), (-0.15, y + 0.02)], n=8)
        drawing.fill("muscle", "air", size * band(concha, 0.011), 0.7)
    cerebrum = spline(_CEREBRUM, generator=generator, wobble=0.003)
    sulci = _sulci(
        generator, place, n=int(generator.integers(19, 24)), scale=0.72, span=(0.02, 0.66)
    )
    grey, white = fold(cerebrum, sulci, thickness=CORTEX)
    drawing.fill("grey", "csf", size * grey)
    drawing.fill("white", "grey", size * white)
    # Corpus callosum over the ventricle, thalamus, brainstem and spinal cord.
    swell = generator.uniform(0.8, 1.5) * (1.1 - 0.5 * abs(place))
    beam = [(-0.115, -0.095), (-0.135, -0.14), (-0.07, -0.188), (0.03, -0.192), (0.105, -0.145)]
    beam += [(0.112, -0.105)]
    thick = np.interp(np.linspace(0, 1, 20), [0, 0.2, 0.6, 0.9, 1], [0.012, 0.03, 0.02, 0.03, 0.02])
    under = [(-0.108, -0.10), (-0.10, -0.135), (-0.05, -0.160), (0.03, -0.162), (0.085, -0.13)]
    thalamus = blob(generator, (0.055, 0.034), centre=(0.0, -0.105), angle=0.15, n=24)
    around = curve(np.array(beam) * [1.22, 1.0] + [0.0, -0.022], n=20)
    drawing.fill("grey", "white", size * band(around, 0.016))
    drawing.fill("white", "air", size * band(curve(beam, n=20), thick), 0.25)
    ventricle = band(curve(under, n=20), 0.008 + 0.010 * swell * np.sin(np.linspace(0.3, 2.8, 20)))
    drawing.fill("csf", "white", size * ventricle)
    drawing.fill("nucleus", "white", size * thalamus)
    stem = [(0.045, 0.012), (0.040, 0.07), (0.070, 0.15), (0.089, 0.25), (0.090, 0.41)]
    width = np.interp(np.linspace(0, 1, 24), [0, 0.22, 0.45, 1], [0.045, 0.078, 0.040, 0.026])
    drawing.fill("white", "csf", size * band(curve(stem, n=24), width))
    # The cerebellum: grey, with a tree of white matter; its leaves are cut by fine furrows.
    lump = [(0.105, 0.055), (0.15, -0.005), (0.24, 0.0), (0.295, 0.035), (0.235, 0.105)]
    lump += [(0.15, 0.135)]
    edge = spline(lump, generator=generator, wobble=0.003)
    leaves = [
        ((i + 0.5) / 15, 0.028 + 0.010 * generator.uniform(-1, 1), 0.0, 0.0, 0.005)
        for i in range(15)
    ]
    grey, _ = fold(edge, leaves, thickness=0.01)
    drawing.fill("grey", "csf", size * grey)
    drawing.weave(
        generator,
        size * np.array([(0.18, 0.05), (0.225, 0.05)]),
        amplitude=0.45 * abs(drawing.signal["grey"] - drawing.signal["csf"]),
        width=0.026,
        pitch=(26, 46),
    )
    root = np.array([0.125, 0.065])
    for angle in np.linspace(-0.75, 0.75, 5):
        length = generator.uniform(0.075, 0.10) * (1.15 - 0.3 * abs(angle))
        tip = root + length * np.array([math.cos(angle), math.sin(angle)])
        branch = curve([root, (root + tip) / 2 + generator.normal(0, 0.004, 2), tip], n=6)
        leaf = band(branch, np.linspace(0.012, 0.004, 6))
        drawing.fill("white", "grey", size * leaf, 0.8)
    _fibres(drawing, generator, size * np.array([0.2, 0.12]), centre=(0.0, -0.16))


#: Outlines from the side, the face at the left; x, y in fields of view.
_PROFILE = [
    (0.00, -0.445), (-0.20, -0.405), (-0.335, -0.28), (-0.375, -0.15), (-0.362, -0.07),
    (-0.425, 0.035), (-0.372, 0.075), (-0.388, 0.13), (-0.372, 0.17), (-0.365, 0.24),
    (-0.28, 0.285), (-0.165, 0.295), (-0.12, 0.36), (-0.11, 0.45), (0.20, 0.45),
    (0.215, 0.30), (0.30, 0.17), (0.385, 0.04), (0.425, -0.12), (0.365, -0.29), (0.21, -0.41),
]  # fmt: skip
_CAVITY = [
    (0.00, -0.385), (-0.18, -0.345), (-0.28, -0.24), (-0.315, -0.12), (-0.265, -0.055),
    (-0.12, -0.02), (-0.045, 0.02), (-0.01, 0.10), (0.040, 0.16), (0.060, 0.24), (0.065, 0.425),
    (0.115, 0.425), (0.118, 0.24), (0.14, 0.17), (0.245, 0.13), (0.325, 0.03), (0.36, -0.10),
    (0.31, -0.25), (0.18, -0.35),
]  # fmt: skip
_CEREBRUM = [
    (-0.285, -0.085), (-0.295, -0.145), (-0.262, -0.235), (-0.17, -0.325), (0.00, -0.368),
    (0.17, -0.333), (0.292, -0.24), (0.338, -0.11), (0.315, -0.015), (0.20, -0.035),
    (0.10, -0.03), (0.02, 0.00), (-0.06, -0.02), (-0.15, -0.055),
]  # fmt: skip


def _fibres(
    drawing: Drawing,
    generator: np.random.Generator,
    reach: Array,
    *,
    centre: tuple[float, float] = (0.0, 0.0),
) -> None:
    """Fine vessels of the white matter, in the subject's own direction and spacing."""
    drawing.weave(
        generator,
        centre + reach * generator.uniform(-0.8, 0.8, (5, 2)),
        amplitude=0.06 * drawing.signal["white"],
        width=0.085,
        pitch=(17, 36),
    )
