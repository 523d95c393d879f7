"""Signals of tissues, and sketches: a slice of a body while it is drawn tissue by tissue."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from activemri.data.phantoms.shapes import Drawing

CONTRASTS = ("T1", "T2", "PD")

#: Relative signal, T1-, T2- and proton-density-weighted, at about 1.5 tesla.
_SIGNAL: dict[str, tuple[float, float, float]] = {
    "fat": (1.00, 0.62, 0.80),
    "marrow": (0.85, 0.50, 0.70),
    "bone": (0.06, 0.05, 0.08),
    "air": (0.00, 0.00, 0.00),
    "csf": (0.14, 1.00, 0.85),
    "grey": (0.48, 0.58, 0.80),
    "white": (0.68, 0.38, 0.66),
    "nucleus": (0.54, 0.46, 0.74),
    "muscle": (0.42, 0.26, 0.50),
    "tendon": (0.08, 0.06, 0.12),
    "cartilage": (0.52, 0.60, 0.85),
    "fluid": (0.22, 0.95, 0.90),
    "liver": (0.56, 0.34, 0.56),
    "spleen": (0.42, 0.56, 0.66),
    "kidney": (0.46, 0.68, 0.72),
    "medulla": (0.34, 0.82, 0.78),
    "blood": (0.16, 0.18, 0.22),
    "bowel": (0.40, 0.50, 0.60),
    "skin": (0.40, 0.36, 0.50),
    "lesion": (0.34, 0.86, 0.90),
}


def tissue_signals(contrast: str, generator: np.random.Generator) -> dict[str, float]:
    """Signal of each tissue for one subject and one of the `CONTRASTS`.

    Subjects and protocols differ by some 8 % a tissue; every other T2 and PD scan suppresses fat,
    as is usual in joints and bellies.
    """
    column = CONTRASTS.index(contrast)
    saturated = contrast != "T1" and generator.random() < 0.5
    spread = np.exp(0.08 * generator.standard_normal(len(_SIGNAL)))
    return {
        name: float(row[column] * factor * (0.3 if saturated and name in ("fat", "marrow") else 1))
        for (name, row), factor in zip(_SIGNAL.items(), spread, strict=True)
    }


@dataclass(eq=False)
class Sketch:
    """A slice of a body; shapes add the difference to the tissue that they lie in.

    Attributes:
        generator: the subject; drawn from equally for every place.
        place: of the slice through the body, -1 to 1.
        signal: of each tissue.
    """

    generator: np.random.Generator
    place: float
    signal: dict[str, float]
    drawing: Drawing = field(default_factory=Drawing)

    def fill(self, inner: str, outer: str, outline: ArrayLike, share: float = 1.0) -> None:
        """Make `outer` tissue within a contour `inner` tissue, or a share of the way to it."""
        self.drawing.polygon(share * (self.signal[inner] - self.signal[outer]), outline)

    def spot(
        self,
        inner: str,
        outer: str,
        centre: ArrayLike,
        *,
        radii: ArrayLike,
        angle: float = 0.0,
        share: float = 1.0,
    ) -> None:
        """As :meth:`fill`, within an ellipse of half axes `radii` (x, y) before it is turned."""
        step = share * (self.signal[inner] - self.signal[outer])
        self.drawing.ellipse(step, centre, radii=radii, angle=angle)

    def weave(
        self,
        centres: Iterable[ArrayLike],
        *,
        amplitude: float,
        width: float,
        pitch: tuple[float, float] = (17, 38),
    ) -> None:
        """Add patches of texture (struts, fibres, vessels): stripes of the subject's own pitch.

        The stripes of all patches are in step but for small variations, so their energy lies on a
        few phase-encode lines (columns), other ones in every subject. Their wave vector is at most
        0.6 radians from the x axis, so that it is the phase encodes that see the weave. `width` is
        the standard deviation of a patch, `pitch` the range of the stripes per field of view.
        """
        generator = self.generator
        turn = generator.uniform(-0.6, 0.6)
        rate, start = generator.uniform(*pitch), generator.uniform(0, 2 * math.pi)
        for centre in centres:
            local, factor = turn + generator.normal(0, 0.03), rate * (1 + generator.normal(0, 0.02))
            frequency = np.array([factor * math.cos(local), factor * math.sin(local)])
            self.drawing.wave(
                amplitude * generator.uniform(0.8, 1.2),
                centre,
                widths=width * generator.uniform(0.85, 1.15, 2),
                frequency=frequency,
                phase=start + 2 * math.pi * float(frequency @ np.asarray(centre)),
            )
