"""Knee-like subjects: sagittal slices through a long leg, and axial ones behind the kneecap."""

import math

import numpy as np

from activemri.data.phantoms.contour import band, blob, curve, inset, spline
from activemri.data.phantoms.shapes import Drawing

LEG_END = 1.1  # the leg goes on beyond the field of view, which cuts it off


def draw_knee(drawing: Drawing, generator: np.random.Generator, place: float) -> None:
    """One slice of a knee: sagittal (the front at the left) or axial (the front above)."""
    if generator.random() < 0.65:
        return _sagittal(drawing, generator, place)
    size = generator.uniform(0.95, 1.1) * (1 - 0.06 * place)
    leg = size * blob(generator, (0.36, 0.39), roughness=0.025, n=64)
    drawing.fill("skin", "air", leg)
    drawing.fill("fat", "skin", inset(leg, 0.008))
    femur = size * spline(_CONDYLES, generator=generator, wobble=0.006)
    femur = femur * [1 - 0.08 * place**2, 1 - 0.10 * place]
    drawing.fill("cartilage", "fat", band(inset(femur, -0.010)[:30], 0.015))
    drawing.fill("bone", "fat", femur)
    drawing.fill("marrow", "bone", inset(femur, 0.010))
    cap = size * spline(_PATELLA, generator=generator, wobble=0.004)
    drawing.fill("bone", "fat", cap)
    drawing.fill("marrow", "bone", inset(cap, 0.010))
    under = size * curve([(-0.10, -0.212), (0.0, -0.178), (0.10, -0.212)], n=10)
    drawing.fill("fluid", "fat", band(under, generator.uniform(0.004, 0.012)))
    # Muscles and tendons around the vessels and the nerve.
    patches = []
    for x, y, a, b, turn in (
        (-0.115, 0.225, 0.072, 0.050, 0.3),
        (0.115, 0.225, 0.072, 0.050, -0.3),
        (-0.235, 0.165, 0.040, 0.052, 0.5),
        (0.240, 0.160, 0.036, 0.048, -0.5),
    ):
        centre = size * (np.array([x, y]) + generator.normal(0, 0.005, 2))
        radii = (size * a * generator.uniform(0.9, 1.1), size * b * generator.uniform(0.9, 1.1))
        drawing.fill("muscle", "fat", blob(generator, radii, centre=centre, angle=turn, n=32))
        patches.append(centre)
    drawing.weave(generator, patches, amplitude=0.34 * drawing.signal["muscle"], width=0.026)
    for x, y, radius, name in (
        (0.0, 0.185, 0.019, "blood"),
        (0.005, 0.232, 0.022, "blood"),
        (0.045, 0.285, 0.012, "nucleus"),
        (-0.215, 0.252, 0.010, "tendon"),
        (-0.185, 0.290, 0.009, "tendon"),
        (0.205, 0.258, 0.011, "tendon"),
    ):
        spot = size * np.array([x, y])
        drawing.spot(name, "fat", spot, radii=(size * radius, 0.85 * size * radius))
    for side in (-1, 1):
        strap = curve([(side * 0.125, -0.285), (side * 0.225, -0.18), (side * 0.268, -0.03)], n=12)
        drawing.fill("tendon", "fat", band(size * strap, 0.011), 0.8)
    for _ in range(9):
        angle = generator.uniform(0, 2 * math.pi)
        out = np.array([math.cos(angle) * 0.355, math.sin(angle) * 0.385]) * size
        septum = curve([0.88 * out, 0.97 * out], n=4)
        drawing.fill("fat", "air", band(septum, 0.004), -0.3)
    spots = size * np.array([(-0.12, 0.0), (0.12, 0.0), (0.0, -0.05), (-0.15, 0.06), (0.15, 0.06)])
    drawing.weave(generator, spots, amplitude=0.17 * drawing.signal["marrow"], width=0.045)


def _sagittal(drawing: Drawing, generator: np.random.Generator, place: float) -> None:
    slim = generator.uniform(0.92, 1.06)
    leg = np.concatenate([curve(_LEFT_SKIN, n=40), curve(_RIGHT_SKIN, n=40)[::-1]]) * [slim, 1]
    drawing.fill("skin", "air", leg)
    drawing.fill("fat", "skin", inset(leg, 0.007))
    # Muscles above and behind the joint, with septa of fat and fibres.
    hamstring = [(0.07, -LEG_END), (0.27, -LEG_END), (0.245, -0.40), (0.20, -0.18), (0.165, -0.10)]
    hamstring += [(0.15, -0.20), (0.09, -0.36)]
    calf = [(0.16, -0.02), (0.20, 0.0), (0.225, 0.14), (0.265, 0.30), (0.25, LEG_END)]
    calf += [(0.085, LEG_END), (0.095, 0.42), (0.125, 0.26), (0.16, 0.12)]
    thigh = [(-0.22, -LEG_END), (-0.12, -LEG_END), (-0.12, -0.40), (-0.165, -0.29), (-0.215, -0.36)]
    shin = [(-0.155, LEG_END), (-0.10, LEG_END), (-0.105, 0.42), (-0.125, 0.33), (-0.15, 0.42)]
    for points in (hamstring, calf, thigh, shin):
        shape = spline(np.array(points) * [slim, 1], generator=generator, wobble=0.004)
        drawing.fill("muscle", "fat", shape)
    for ends in (
        [(0.155, -0.52), (0.165, -0.33), (0.165, -0.17)],
        [(0.205, -0.52), (0.205, -0.36), (0.18, -0.20)],
        [(0.18, 0.09), (0.185, 0.25), (0.17, 0.52)],
        [(0.205, 0.14), (0.225, 0.30), (0.215, 0.52)],
    ):
        path = curve(np.array(ends) * [slim, 1], generator=generator, wobble=0.007)
        drawing.fill("muscle", "fat", band(path, generator.uniform(0.003, 0.007)), -0.8)
    patches = [(0.19, -0.45), (0.18, -0.30), (0.20, 0.15), (0.21, 0.28), (0.18, 0.42)]
    spots = np.array(patches) * [slim, 1]
    drawing.weave(generator, spots, amplitude=0.34 * drawing.signal["muscle"], width=0.038)
    middle = max(0.0, 1 - abs(place) / 0.45)  # between the condyles
    flex = generator.uniform(-0.02, 0.02, 2)
    up = 0.055 * middle  # between the condyles the bone ends higher
    femur = np.array(_FEMUR) - np.multiply(np.array(_NOTCH)[:, None], [0, up])
    femur[:, 0] += flex[0] * np.clip(-femur[:, 1] - 0.1, 0, 1)
    femur = spline(femur, generator=generator, wobble=0.003)
    tibia = np.array(_TIBIA)
    tibia[:, 0] += flex[1] * np.clip(tibia[:, 1] - 0.1, 0, 1)
    tibia = spline(tibia, generator=generator, wobble=0.003)
    # Caps of cartilage lie beneath both bones, so only their rims are added.
    cap = inset(femur, -0.009)[(femur[:, 1] > -0.15)]
    drawing.fill("cartilage", "fat", band(cap, 0.014))
    table = inset(tibia, -0.007)[(tibia[:, 1] < 0.094)]
    order = np.argsort(table[:, 0])
    drawing.fill("cartilage", "fat", band(table[order], 0.011))
    # Dark cortical shells around bright marrow, with the scars of the growth plates.
    for outline, scar in ((femur, -0.215), (tibia, 0.185)):
        drawing.fill("bone", "fat", outline)
        drawing.fill("marrow", "bone", inset(outline, generator.uniform(0.008, 0.012)))
        ends = [(-0.10, scar), (-0.02, scar + generator.uniform(-0.02, 0.02)), (0.07, scar)]
        path = curve(ends, generator=generator, wobble=0.006)
        drawing.fill("marrow", "air", band(path, 0.005), -0.4)
    # Kneecap, its cartilage, and the tendons above and below.
    x, y = -0.245 * slim, -0.165 + generator.normal(0, 0.015)
    patella = [(0.0, -0.075), (0.030, -0.045), (0.034, 0.025), (0.0, 0.075), (-0.030, 0.03)]
    patella += [(-0.032, -0.045)]
    cap = spline(np.add(patella, [x, y]), generator=generator, wobble=0.003)
    drawing.fill("bone", "fat", cap)
    drawing.fill("marrow", "bone", inset(cap, 0.009))
    back = curve([(x + 0.038, y - 0.05), (x + 0.047, y), (x + 0.038, y + 0.04)], n=8)
    drawing.fill("cartilage", "fat", band(back, 0.012))
    for ends in (
        [(x - 0.010, y + 0.085), (x + 0.02, 0.05), (-0.155, 0.185)],
        [(x - 0.002, y - 0.085), (x + 0.005, -0.33), (-0.245 * slim, -0.60)],
    ):
        path = curve(ends, generator=generator, wobble=0.003)
        drawing.fill("tendon", "fat", band(path, generator.uniform(0.013, 0.019)))
    swelling = generator.uniform(0.003, 0.014)
    pouch = curve([(-0.185, -0.13), (-0.165, -0.245), (-0.150, -0.30)], n=8)
    drawing.fill("fluid", "fat", band(pouch, swelling))
    # Menisci at the sides, cruciate ligaments in the middle; vessels behind.
    tears = generator.uniform(0.8, 1.2, 2)
    lean = generator.uniform(-0.01, 0.01, 2)
    if middle < 0.5:
        for side, size in zip((-1, 1), tears, strict=True):
            base, low, rise = side * 0.150, 0.072, 0.055 * size
            tip = side * (0.150 - 0.085 * size)
            drawing.fill("tendon", "fat", [(base, low), (base, low - rise), (tip, low - 0.012)])
    else:
        anterior = curve([(-0.045, 0.068), (0.01 + lean[0], 0.040), (0.055, 0.025)], n=8)
        posterior = curve([(0.150, 0.085), (0.155 + lean[1], 0.02), (0.130, -0.045)], n=8)
        drawing.fill("tendon", "fat", band(anterior, 0.018))
        drawing.fill("tendon", "fat", band(posterior, 0.018))
    for x, width in ((0.150, 0.010), (0.166, 0.006)):
        ends = [(x - 0.006, -0.05), (x + 0.004, 0.01), (x - 0.002, 0.07)]
        path = curve(ends, generator=generator, wobble=0.003)
        drawing.fill("blood", "fat", band(path, width), 0.8)
    struts = [(-0.07, -0.10), (0.03, -0.11), (-0.02, -0.20), (-0.05, 0.15), (0.05, 0.15), (0, 0.24)]
    drawing.weave(generator, struts, amplitude=0.17 * drawing.signal["marrow"], width=0.048)


#: Skin from the top down, then shaft and condyle of the bones; x, y in fields of view.
_LEFT_SKIN = [
    (-0.27, -LEG_END), (-0.275, -0.45), (-0.285, -0.30), (-0.315, -0.17), (-0.295, -0.04),
    (-0.245, 0.09), (-0.22, 0.22), (-0.20, 0.40), (-0.19, LEG_END),
]  # fmt: skip
_RIGHT_SKIN = [
    (0.33, -LEG_END), (0.30, -0.45), (0.265, -0.25), (0.245, -0.05), (0.255, 0.10),
    (0.30, 0.27), (0.31, 0.45), (0.28, LEG_END),
]  # fmt: skip
_FEMUR = [
    (-0.085, -LEG_END), (-0.090, -0.42), (-0.105, -0.30), (-0.155, -0.20), (-0.172, -0.11),
    (-0.135, -0.02), (-0.05, 0.028), (0.04, 0.022), (0.115, -0.025), (0.138, -0.10),
    (0.105, -0.175), (0.055, -0.27), (0.045, -0.42), (0.055, -LEG_END),
]  # fmt: skip
_NOTCH = (0, 0, 0, 0, 0, 0, 0.5, 1, 1, 1, 0, 0, 0, 0)  # shares of its height
_TIBIA = [
    (-0.135, 0.088), (-0.07, 0.080), (0.0, 0.076), (0.07, 0.080), (0.132, 0.092), (0.142, 0.130),
    (0.098, 0.205), (0.066, 0.32), (0.058, LEG_END), (-0.078, LEG_END), (-0.080, 0.36),
    (-0.105, 0.26), (-0.135, 0.20), (-0.148, 0.130),
]  # fmt: skip

_CONDYLES = [
    (0.20, -0.10), (0.12, -0.165), (0.0, -0.115), (-0.12, -0.165), (-0.20, -0.10), (-0.225, 0.02),
    (-0.185, 0.12), (-0.115, 0.145), (-0.045, 0.105), (0.0, 0.04), (0.045, 0.105), (0.115, 0.145),
    (0.185, 0.12), (0.225, 0.02),
]  # fmt: skip
_PATELLA = [
    (-0.115, -0.255), (-0.05, -0.305), (0.05, -0.305), (0.115, -0.255), (0.055, -0.222),
    (0.0, -0.203), (-0.055, -0.222),
]  # fmt: skip
