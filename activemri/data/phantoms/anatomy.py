"""Subjects: who is scanned, how they lie, and what a slice through them shows."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from activemri.data.phantoms.abdomen import draw_abdomen
from activemri.data.phantoms.brain import draw_brain
from activemri.data.phantoms.knee import draw_knee
from activemri.data.phantoms.shapes import Drawing, rotation
from activemri.data.phantoms.tissue import CONTRASTS, Tissues

Draw = Callable[[np.random.Generator, float, Tissues], Drawing]

DRAW: dict[str, Draw] = {"brain": draw_brain, "knee": draw_knee, "abdomen": draw_abdomen}
FAMILIES = (*DRAW, "mixed")
TURN = {"brain": 0.5, "knee": 0.35, "abdomen": 0.3}  # largest rotation to either side, radians
SOFTNESS = (0.001, 0.0035)  # blur of edges by the slice thickness, standard deviation
LONG_TURN = 0.14  # likewise of a leg that leaves the field of view above and below
REACH = 0.46  # other bodies stay within this distance of the centre along both axes


@dataclass(frozen=True)
class Subject:
    """One procedural subject: the number is the seed of everything about it.

    Attributes:
        number: at least 0.
        family: "brain", "knee" or "abdomen".
    """

    number: int
    family: str

    @classmethod
    def of(cls, number: int, family: str) -> "Subject":
        """Subject of a family; of "mixed" the number decides which."""
        names = tuple(DRAW)
        return cls(number, names[number % len(names)] if family == "mixed" else family)

    @property
    def name(self) -> str:
        return f"phantom-{self.family}-{self.number:06d}"

    @property
    def contrast(self) -> str:
        return CONTRASTS[int(self.generator("contrast").integers(len(CONTRASTS)))]

    def generator(self, purpose: str, index: int = 0) -> np.random.Generator:
        """An independent stream for a purpose, always from its beginning."""
        family = tuple(DRAW).index(self.family)
        return np.random.default_rng([self.number, family, index, *purpose.encode()])

    def draw(
        self, place: float, *, view: tuple[float, float] = (1.0, 1.0), widest: float = 1.0
    ) -> Drawing:
        """The slice at a place through the body, -1 to 1, cut at the edges of the field of view.

        Args:
            place: of the slice.
            view: height and width of the field of view in units of its smaller side.
            widest: the subject's field of view is 1 to this many times the usual one along each
                axis, so that the body is narrower in it.
        """
        tissue = Tissues(self.contrast, self.generator("tissue"))
        drawing = DRAW[self.family](self.generator("anatomy"), place, tissue)
        drawing.softness = self.generator("thickness").uniform(*SOFTNESS)
        return self._posed(drawing, widest).cropped(view)

    def _posed(self, drawing: Drawing, widest: float) -> Drawing:
        """Turn, scale and shift the drawing, keeping it in the field of view unless it is long."""
        wide, tall = self.generator("field of view").uniform(1.0, widest, 2)
        pose = self.generator("pose")
        low, high = drawing.extent()
        long = high[1] - low[1] > 1.5
        angle = pose.uniform(-1, 1) * (LONG_TURN if long else TURN[self.family])
        stretch = np.diag(pose.uniform(0.9, 1.06, 2))
        turned = drawing.transformed(rotation(angle) @ stretch, (0, 0))
        if long:
            narrow = np.diag([1 / wide, 1.0])  # it leaves every field of view along its length
            return turned.transformed(narrow, pose.uniform(-0.04, 0.04, 2))
        low, high = turned.extent()
        scale = min(1.0, 2 * REACH / float((high - low).max()))
        room = REACH - scale * (high - low) / 2
        shift = room * pose.uniform(-0.8, 0.8, 2) - scale * (high + low) / 2
        narrow = np.diag([1 / wide, 1 / tall])
        return turned.transformed(scale * narrow, narrow @ shift)
