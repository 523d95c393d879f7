"""Oriented texture: struts of spongy bone, muscle fibres, vessels, in patches."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from activemri.data.phantoms.shapes import Drawing


def add_texture(
    drawing: Drawing,
    generator: np.random.Generator,
    centres: Sequence[ArrayLike],
    *,
    amplitude: float,
    width: float,
    pitch: tuple[float, float],
    direction: float | None = None,
) -> None:
    """Add patches of one direction and pitch that the subject has for itself.

    Because the stripes of all patches agree, their energy lies on a few phase-encode lines, other
    ones in every subject.

    Args:
        drawing: what to add to.
        generator: source of direction, pitch and their small variation.
        centres: of the patches (x, y).
        amplitude: of the stripes.
        width: standard deviation of a patch.
        pitch: range of the stripes per field of view.
        direction: of the wave vector to the x axis in radians; None draws one that is at most a
            radian from it, so that different phase encodes (columns) see the texture.
    """
    turn = generator.uniform(-1.0, 1.0) if direction is None else direction
    rate = generator.uniform(*pitch)
    for centre in centres:
        local, factor = turn + generator.normal(0, 0.12), rate * generator.uniform(0.93, 1.07)
        drawing.wave(
            amplitude * generator.uniform(0.7, 1.3),
            centre,
            widths=width * generator.uniform(0.8, 1.2, 2),
            frequency=(factor * math.cos(local), factor * math.sin(local)),
            phase=generator.uniform(0, 2 * math.pi),
        )
