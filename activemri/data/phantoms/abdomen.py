"""Abdomen-like subjects: axial slices with liver, spleen, kidneys, spine, vessels and bowel."""

import math

import numpy as np

from activemri.data.phantoms.contour import band, blob, curve, inset, inward_normals, spline
from activemri.data.phantoms.shapes import Array, Drawing


def draw_abdomen(drawing: Drawing, generator: np.random.Generator, place: float) -> None:
    """One slice of a belly, the back below and the liver at the left."""
    wide, tall = generator.uniform(0.40, 0.45), generator.uniform(0.28, 0.34)
    radii = np.array([wide, tall * (1 - 0.04 * place)])
    # Skin, fat, muscle and ribs.
    body = blob(generator, (radii[0], radii[1]), roughness=0.014, n=72)
    body[:, 1] *= np.where(body[:, 1] > 0, 0.93, 1.0)  # the back is flatter
    fat, muscle = generator.uniform(0.014, 0.055), generator.uniform(0.014, 0.022)
    drawing.fill("skin", "air", body)
    drawing.fill("fat", "skin", inset(body, 0.006))
    drawing.fill("muscle", "fat", inset(body, 0.006 + fat))
    drawing.fill("fat", "muscle", inset(body, 0.006 + fat + muscle))
    depths, normals = 0.006 + fat * np.linspace(0.2, 0.75, 5), inward_normals(body)
    for i in generator.integers(0, 72, 14):  # thin sheets in the fat under the skin
        along = (i + np.arange(5)) % 72
        sheet = body[along] + depths[:, None] * normals[along]
        drawing.fill("fat", "air", band(sheet, 0.0035), -0.35)
    between = inset(body, 0.006 + fat + muscle / 2)
    start = int(generator.integers(0, 6))
    for i in range(start, len(between), 6):
        turn = math.atan2(*(between[(i + 1) % 72] - between[i - 1])[::-1])
        if between[i, 1] > -0.5 * radii[1]:
            rib = (0.020, 0.38 * muscle)
            drawing.spot("bone", "muscle", between[i], radii=rib, angle=turn)
    reach = np.asarray(0.97 * (radii * [1, 0.965] - (0.006 + fat + muscle)))  # of the cavity
    _liver(drawing, generator, place, reach)
    _spine(drawing, generator, reach)
    # Both kidneys with pyramids and a hilum of fat; they end above and below.
    for side, shift in ((-1, 0.15), (1, 0.0)):
        size = math.sqrt(max(0.0, 1 - (0.75 * (place - shift)) ** 2)) * generator.uniform(0.9, 1.08)
        centre = np.array([side * 0.50 * reach[0], 0.55 * reach[1]])
        radii = np.array([0.040, 0.052]) * size
        outline = blob(generator, (radii[0], radii[1]), angle=-side * 0.5, roughness=0.03, n=32)
        drawing.fill("kidney", "fat", outline + centre)
        for angle in np.linspace(-1.9, 1.9, 6) + (0 if side > 0 else math.pi):
            spot = centre + 0.62 * radii * [math.cos(angle), math.sin(angle)]
            pyramid = (0.011 * size, 0.009 * size)
            drawing.spot("medulla", "kidney", spot, radii=pyramid, share=0.8)
        hilum = centre - [side * 0.30 * radii[0], 0]
        drawing.spot("fat", "kidney", hilum, radii=(0.009 * size, 0.014 * size))
    # Spleen, stomach with its level of gas, pancreas, gall bladder.
    crescent = [(0.84, -0.22), (0.93, 0.08), (0.82, 0.42), (0.70, 0.46), (0.73, 0.20)]
    crescent += [(0.72, -0.06)]
    middle = np.array([0.8, 0.12])
    size = math.sqrt(max(0.1, 1 - (0.7 * (place + 0.3)) ** 2))
    spleen = (spline(crescent, generator=generator, wobble=0.012) - middle) * size + middle
    drawing.fill("spleen", "fat", spleen * reach)
    swell = 1.0 - 0.25 * place
    bag = [(-0.13, -0.18), (0.10, -0.20), (0.20, -0.04), (0.13, 0.16), (-0.05, 0.17), (-0.14, 0.0)]
    stomach = (swell * spline(bag, generator=generator, wobble=0.012) + [0.54, -0.42]) * reach
    filling, gas = generator.choice(["fluid", "bowel"]), generator.uniform(0.3, 0.8)
    drawing.fill("bowel", "fat", stomach)
    drawing.fill(str(filling), "bowel", inset(stomach, 0.008), 0.85)
    bubble = np.array([0.55, -0.42 - 0.09 * swell]) * reach
    air = (0.10 * swell * reach[0], 0.08 * gas * swell * reach[1])
    drawing.spot(str(filling), "air", bubble, radii=air, share=-0.9)
    lumps = curve([(-0.06, 0.02), (0.12, -0.06), (0.34, -0.05), (0.56, 0.02)], n=24) * reach
    thick = 0.020 + 0.004 * np.sin(np.linspace(0, 24, 24) + generator.uniform(0, 6.3))
    drawing.fill("spleen", "fat", band(lumps, thick), 0.9)
    bile = generator.uniform(0.014, 0.022), generator.uniform(0.022, 0.034)
    drawing.spot("fluid", "fat", np.array([-0.02, -0.20]) * reach, radii=bile, angle=0.4)
    # Colon in front, small loops, and the vessels of the mesentery between them.
    spots = [(0.13, -0.36), (0.28, -0.22), (0.34, 0.15), (0.52, 0.17), (0.20, 0.16), (0.60, -0.12)]
    spots += [(0.45, -0.80), (0.80, -0.40)]
    for x, y in spots:
        moved = np.array([x, y]) + generator.normal(0, 0.008, 2)
        radius, kind = generator.uniform(0.019, 0.027), generator.random()
        loop = blob(generator, (1.15 * radius, radius), centre=moved * reach, roughness=0.07, n=24)
        drawing.fill("bowel", "fat", loop)
        filling = "air" if kind < 0.35 else "fluid" if kind < 0.7 else "muscle"
        drawing.fill(filling, "bowel", inset(loop, 0.006), 0.8)
    root = np.array([0.08, 0.08]) * reach
    for angle in generator.uniform(-0.5, 0.6, 5):
        end = root + generator.uniform(0.09, 0.16) * np.array([math.cos(angle), math.sin(angle)])
        path = curve([root, end], generator=generator, wobble=0.008, n=8)
        drawing.fill("blood", "fat", band(path, 0.004), 0.6)


def _liver(drawing: Drawing, generator: np.random.Generator, place: float, reach: Array) -> None:
    """The liver with its vessels and lesions; its left lobe shrinks downwards."""
    lobe = 0.30 - 0.30 * max(place, -0.4)
    points = [
        (-0.90, -0.10), (-0.83, -0.42), (-0.56, -0.72), (-0.20, -0.84), (lobe, -0.72),
        (lobe - 0.05, -0.52), (-0.10, -0.36), (-0.24, -0.12), (-0.36, 0.10), (-0.60, 0.26),
        (-0.76, 0.48), (-0.86, 0.25),
    ]  # fmt: skip
    outline = spline(points, generator=generator, wobble=0.022) * reach
    drawing.fill("liver", "fat", outline)
    root = np.array([-0.34, -0.10])
    for angle in np.linspace(-2.65, -1.1, 3) + generator.normal(0, 0.08, 3):
        _vessel(drawing, generator, root * reach, angle, reach)
    _vessel(drawing, generator, np.array([-0.44, 0.0]) * reach, 2.85, reach)
    spots = generator.uniform(-0.16, 0.16, (3, 2)) * reach + np.array([-0.62, -0.12]) * reach
    sizes, shown = generator.uniform(0.006, 0.022, 3), generator.random(3) < 0.45
    depth = generator.uniform(-1, 1, 3)
    for spot, size, there, middle in zip(spots, sizes, shown, depth, strict=True):
        seen = math.sqrt(max(0.0, 1 - ((place - middle) / 0.8) ** 2))
        if there and seen > 0.2:
            radii = (size * seen, 0.8 * size * seen)
            drawing.spot("lesion", "liver", spot, radii=radii)
    places = [(-0.70, -0.25), (-0.5, -0.45), (-0.62, 0.02), (-0.2, -0.6), (-0.45, -0.2)]
    drawing.weave(
        generator, np.array(places) * reach, amplitude=0.16 * drawing.signal["liver"], width=0.042
    )


def _vessel(
    drawing: Drawing, generator: np.random.Generator, root: Array, angle: float, reach: Array
) -> None:
    """A vein with two branches, tapering."""
    heading = np.array([math.cos(angle), math.sin(angle)])
    fork = root + 0.24 * reach * heading
    path = curve([root, fork], generator=generator, wobble=0.004, n=6)
    drawing.fill("blood", "liver", band(path, 0.011), 0.9)
    for spread in (-0.45, 0.4):
        turn = angle + spread + generator.normal(0, 0.1)
        end = fork + 0.22 * reach * [math.cos(turn), math.sin(turn)]
        path = curve([fork, end], generator=generator, wobble=0.006, n=8)
        drawing.fill("blood", "liver", band(path, np.linspace(0.008, 0.003, 8)), 0.9)


def _spine(drawing: Drawing, generator: np.random.Generator, reach: Array) -> None:
    """Vertebra, spinal canal, the muscles along them, aorta and vena cava in front."""
    body = blob(generator, (0.062, 0.047), centre=(0.0, 0.50 * reach[1]), roughness=0.02, n=32)
    drawing.fill("bone", "fat", body)
    drawing.fill("marrow", "bone", inset(body, 0.007))
    canal = np.array([0.0, 0.50 * reach[1] + 0.068])
    drawing.spot("csf", "fat", canal, radii=(0.024, 0.017))
    drawing.spot("white", "csf", canal, radii=(0.011, 0.008))
    for side in (-1, 1):
        arch = curve([(0.034, -0.004), (0.036, 0.016), (0.012, 0.026)], n=8) * [side, 1] + canal
        drawing.fill("bone", "fat", band(arch, 0.010))
    spike = canal + np.array([(0, 0.030), (0, 0.044), (0, 0.058)])
    drawing.fill("bone", "fat", band(spike, 0.010))
    patches = []
    for side in (-1, 1):
        for x, y, a, b in ((0.095, 0.086, 0.050, 0.032), (0.092, -0.004, 0.020, 0.034)):
            centre = (side * x, 0.50 * reach[1] + y)
            muscle = blob(generator, (a, b), centre=centre, angle=-side * 0.2, n=28)
            drawing.fill("muscle", "fat", muscle)
            patches.append(centre)
    drawing.weave(generator, patches[::2], amplitude=0.35 * drawing.signal["muscle"], width=0.024)
    front = 0.50 * reach[1] - 0.047
    drawing.spot("blood", "fat", (0.024, front - 0.026), radii=(0.020, 0.020))
    drawing.spot("blood", "fat", (-0.034, front - 0.024), radii=(0.025, 0.017))
