"""A lesion of known place: a bright, septated spot, and the box that an operator draws around it.

Parallel septa stand for what makes a finding readable: they put its detail into few lines of
k-space, near plus and minus their spatial frequency along the phase encode. Their direction and
spacing are the subject's own, so which lines show them differs from subject to subject.
"""

import math

import numpy as np

from activemri.data.phantoms.shapes import Drawing
from activemri.data.regions import Box

RADII = (0.030, 0.050)  # half axes, in fields of view
PITCH = (16.0, 44.0)  # septa per field of view
REACH = 0.5  # the lesion lies within this share of the body's half extent
MARGIN = 1.4  # half sides of the box over the half extent of the lesion
BRIGHT = (0.35, 0.6)  # in units of the tissue with the strongest signal


def add_lesion(drawing: Drawing, generator: np.random.Generator, place: float) -> None:
    """Draw a lesion into a slice that is already posed and cut to the field of view.

    Args:
        drawing: gets the lesion as its last ellipse, with septa.
        generator: the subject; drawn from equally for every place.
        place: of the slice through the body, -1 to 1.
    """
    low, high = drawing.polygons[0][1].min(axis=0), drawing.polygons[0][1].max(axis=0)
    direction, distance = generator.uniform(0, 2 * math.pi), REACH * math.sqrt(generator.random())
    aside = np.array([math.cos(direction), math.sin(direction)]) * distance
    centre = (low + high) / 2 + aside * np.minimum(high - low, 0.8) / 2
    middle, turn = generator.uniform(-0.5, 0.5), generator.uniform(0, math.pi)
    radii = generator.uniform(*RADII, 2) * math.sqrt(1 - ((place - middle) / 2) ** 2)
    bright = generator.uniform(*BRIGHT)
    angle, pitch, phase = generator.uniform((0, PITCH[0], 0), (math.pi, PITCH[1], 2 * math.pi))
    septa = pitch * np.array([math.cos(angle), math.sin(angle)])
    drawing.wave(0.7 * bright, centre, widths=0.6 * radii, frequency=septa, phase=phase, angle=turn)
    drawing.ellipse(bright, centre, radii=radii, angle=turn)


def lesion_box(drawing: Drawing, shape: tuple[int, int]) -> Box:
    """The box around the last ellipse, in pixels of an image of that shape.

    The field of view's smaller side has length one, and its centre is the pixel at n // 2.
    """
    _, x, y, *matrix = drawing.ellipses[-1]
    half = MARGIN * np.linalg.norm(np.reshape(matrix, (2, 2)), axis=1)  # along x, along y
    per_unit = min(shape)
    left, top = np.floor((np.array([x, y]) - half) * per_unit).astype(int)
    right, bottom = np.ceil((np.array([x, y]) + half) * per_unit).astype(int)
    corner = (shape[0] // 2 + int(top), shape[1] // 2 + int(left))
    return (*corner, int(bottom - top) + 1, int(right - left) + 1)
