"""Subjects: bodies in their poses, the slices through them, and lesions of known place."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from activemri.data.phantoms.abdomen import draw_abdomen
from activemri.data.phantoms.brain import draw_brain
from activemri.data.phantoms.knee import draw_knee
from activemri.data.phantoms.shapes import Drawing, rotation
from activemri.data.phantoms.sketch import CONTRASTS, Sketch, tissue_signals
from activemri.data.regions import Box

DRAW: dict[str, Callable[[Sketch], None]] = {
    "brain": draw_brain,
    "knee": draw_knee,
    "abdomen": draw_abdomen,
}
TURN = {"brain": 0.5, "knee": 0.35, "abdomen": 0.3}  # largest rotation to either side, radians
SOFTNESS = (0.001, 0.0035)  # blur of edges by the slice thickness, standard deviation
LONG_TURN = 0.14  # likewise of a leg that leaves the field of view above and below
REACH = 0.46  # other bodies stay within this distance of the centre along both axes

#: A lesion: half axes in fields of view, septa per field of view, signal in units of the strongest;
#: share of the body's half extent that it lies within, and sides of the box around it over its own.
LESION_RADII, LESION_PITCH, LESION_SIGNAL = (0.030, 0.050), (16.0, 44.0), (0.35, 0.6)
LESION_REACH, LESION_MARGIN = 0.5, 1.4


@dataclass(frozen=True)
class Subject:
    """One procedural subject of a family: its number is the seed of everything about it."""

    number: int
    family: str

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
        signal = tissue_signals(self.contrast, self.generator("tissue"))
        sketch = Sketch(self.generator("anatomy"), place, signal)
        DRAW[self.family](sketch)
        drawing = sketch.drawing
        drawing.softness = self.generator("thickness").uniform(*SOFTNESS)
        # Turned, scaled and shifted so that it stays in the field of view, unless it is long.
        wide, tall = self.generator("field of view").uniform(1.0, widest, 2)
        pose = self.generator("pose")
        low, high = drawing.extent()
        long = high[1] - low[1] > 1.5
        angle = pose.uniform(-1, 1) * (LONG_TURN if long else TURN[self.family])
        stretch = np.diag(pose.uniform(0.9, 1.06, 2))
        turned = drawing.transformed(rotation(angle) @ stretch, (0, 0))
        if long:
            narrow = np.diag([1 / wide, 1.0])  # it leaves every field of view along its length
            return turned.transformed(narrow, pose.uniform(-0.04, 0.04, 2)).cropped(view)
        low, high = turned.extent()
        scale = min(1.0, 2 * REACH / float((high - low).max()))
        room = REACH - scale * (high - low) / 2
        shift = room * pose.uniform(-0.8, 0.8, 2) - scale * (high + low) / 2
        narrow = np.diag([1 / wide, 1 / tall])
        return turned.transformed(scale * narrow, narrow @ shift).cropped(view)


def add_lesion(drawing: Drawing, generator: np.random.Generator, place: float) -> None:
    """Draw a bright, septated spot into a slice that is posed and cut to the field of view.

    Parallel septa stand for what makes a finding readable: they put its detail into few lines of
    k-space, near plus and minus their spatial frequency along the phase encode. Their direction
    and spacing are the subject's own, so which lines show them differs from subject to subject.
    The lesion becomes the last ellipse; the generator is drawn from equally for every place.
    """
    low, high = drawing.polygons[0][1].min(axis=0), drawing.polygons[0][1].max(axis=0)
    direction = generator.uniform(0, 2 * math.pi)
    distance = LESION_REACH * math.sqrt(generator.random())
    aside = np.array([math.cos(direction), math.sin(direction)]) * distance
    centre = (low + high) / 2 + aside * np.minimum(high - low, 0.8) / 2
    middle, turn = generator.uniform(-0.5, 0.5), generator.uniform(0, math.pi)
    radii = generator.uniform(*LESION_RADII, 2) * math.sqrt(1 - ((place - middle) / 2) ** 2)
    bright = generator.uniform(*LESION_SIGNAL)
    angle, pitch, phase = generator.uniform(
        (0, LESION_PITCH[0], 0), (math.pi, LESION_PITCH[1], 2 * math.pi)
    )
    septa = pitch * np.array([math.cos(angle), math.sin(angle)])
    drawing.wave(0.7 * bright, centre, widths=0.6 * radii, frequency=septa, phase=phase, angle=turn)
    drawing.ellipse(bright, centre, radii=radii, angle=turn)


def lesion_box(drawing: Drawing, shape: tuple[int, int]) -> Box:
    """The box around the last ellipse, in pixels of an image of that shape.

    The field of view's smaller side has length one, and its centre is the pixel at n // 2.
    """
    _, x, y, *matrix = drawing.ellipses[-1]
    half = LESION_MARGIN * np.linalg.norm(np.reshape(matrix, (2, 2)), axis=1)  # along x, along y
    per_unit = min(shape)
    left, top = np.floor((np.array([x, y]) - half) * per_unit).astype(int)
    right, bottom = np.ceil((np.array([x, y]) + half) * per_unit).astype(int)
    corner = (shape[0] // 2 + int(top), shape[1] // 2 + int(left))
    return (*corner, int(bottom - top) + 1, int(right - left) + 1)
