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
    """Add patches of one weave: stripes of the subject's own direction and pitch.

    The stripes of all patches are in step but for small variations, so their energy lies on a few
    phase-encode lines (columns), other ones in every subject.

    Args:
        drawing: what to add to.
        generator: source of direction, pitch and their variation.
        centres: of the patches (x, y).
        amplitude: of the stripes.
        width: standard deviation of a patch.
        pitch: range of the stripes per field of view.
        direction: of the wave vector to the x axis in radians; None draws one that is at most 0.6
            from it, so that it is the phase encodes that see the weave.
    """
    turn = generator.uniform(-0.6, 0.6) if direction is None else direction
    rate, start = generator.uniform(*pitch), generator.uniform(0, 2 * math.pi)
    for centre in centres:
        local, factor = turn + generator.normal(0, 0.03), rate * (1 + generator.normal(0, 0.02))
        frequency = np.array([factor * math.cos(local), factor * math.sin(local)])
        drawing.wave(
            amplitude * generator.uniform(0.8, 1.2),
            centre,
            widths=width * generator.uniform(0.85, 1.15, 2),
            frequency=frequency,
            phase=start + 2 * math.pi * float(frequency @ np.asarray(centre)),
        )
