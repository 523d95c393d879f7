"""Procedural subjects, lesions of known place, and slices made when they are asked for."""

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from activemri.data.cache import Arrays, cached
from activemri.data.phantoms import scanner
from activemri.data.phantoms.abdomen import draw_abdomen
from activemri.data.phantoms.brain import draw_brain
from activemri.data.phantoms.knee import draw_knee
from activemri.data.phantoms.shapes import Drawing, rotation
from activemri.data.regions import Box, region_of
from activemri.data.slices import COMBINED, PHANTOM, RSS, Slice, SliceInfo
from activemri.files import digest
from activemri.mri import fourier
from activemri.mri.coils import combine, root_sum_of_squares
from activemri.mri.noise import complex_noise

#: First subject of each split, and how many there are by default. Splits never share subjects.
#: "calibration" is for stopping rules: nothing is fitted to it, no weights are chosen on it.
SPLITS = {
    "train": (0, 200),
    "val": (500_000, 40),
    "calibration": (600_000, 60),
    "test": (700_000, 40),
}
LAST_SUBJECT = 1_000_000
MEMORY = 2 * 2**30  # bytes of volumes that a data set keeps; the others come from the disk

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

DRAW: dict[str, Callable[[Drawing, np.random.Generator, float], None]] = {
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

        The view is its height and width in units of its smaller side. It is 1 to `widest` times the
        usual one along each axis, so that the body is narrower in it.
        """
        # Subjects and protocols differ by some 8 % a tissue; every other T2 and PD scan suppresses
        # fat, as is usual in joints and bellies.
        column, generator = CONTRASTS.index(self.contrast), self.generator("tissue")
        saturated = self.contrast != "T1" and generator.random() < 0.5
        spread = np.exp(0.08 * generator.standard_normal(len(_SIGNAL)))
        signal = {}
        for (name, row), factor in zip(_SIGNAL.items(), spread, strict=True):
            suppressed = saturated and name in ("fat", "marrow")
            signal[name] = float(row[column] * factor * (0.3 if suppressed else 1))
        drawing = Drawing(signal=signal)
        DRAW[self.family](drawing, self.generator("anatomy"), place)
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


class PhantomDataset:
    """A data set without files: the same subjects, to the bit, whenever they are asked for.

    k-space is exact (see :mod:`activemri.data.phantoms.scanner`) plus complex noise, independent
    between coils. The signal-to-noise ratio is the mean magnitude of the noise-free combined images
    of a volume over the body (pixels above a tenth of the volume's maximum), divided by the
    standard deviation of a complex noise sample. The target is the magnitude of the fully sampled
    noisy reconstruction |sum conj(S) x| with the true maps S, so that acquiring everything with
    these maps reaches it exactly.

    Args:
        split: one of :data:`SPLITS`.
        family: "brain", "knee", "abdomen", or "mixed": all three in turn.
        n_subjects: by default those of :data:`SPLITS`. More of them never change the first ones.
        slices_per_subject: evenly spaced through the body.
        matrix_size: (height, width) of k-space. The body is sized by the smaller side.
        n_coils: receive coils around the body, 1 to 32.
        snr: signal-to-noise ratio as above; `math.inf` for none.
        phase: strength of the background phase, see :func:`activemri.mri.noise.smooth_phase`.
        widest_view: fields of view are drawn for every subject and axis, from the usual one to
            this many times as much; the matrix stays, so that pixels become larger, the body
            narrower in the image, and its detail lies further out in k-space.
        lesions: draw a lesion into every slice; a box around it is the slice's region of interest.
        target: "rss" for the root of the coils' sum of squares instead of the combination.
        known_maps: slices of several coils bring S along; else maps are to be estimated.

    Raises:
        ValueError: if there is no such split or family, or a size makes no sense.
    """

    def __init__(
        self,
        split: str = "train",
        *,
        family: str = "mixed",
        n_subjects: int | None = None,
        slices_per_subject: int = 4,
        matrix_size: tuple[int, int] = (128, 128),
        n_coils: int = 1,
        snr: float = 30.0,
        phase: float = 1.0,
        widest_view: float = 1.0,
        lesions: bool = False,
        target: str = COMBINED,
        known_maps: bool = False,
    ) -> None:
        families = tuple(DRAW)
        names = (("split", split, (*SPLITS,)), ("family", family, (*families, "mixed")))
        for what, name, known in names:
            if name not in known:
                raise ValueError(f"{what} must be one of {', '.join(known)}; got {name!r}")
        first, usual = SPLITS[split]
        n_subjects = usual if n_subjects is None else n_subjects
        most = min([s for s, _ in SPLITS.values() if s > first], default=LAST_SUBJECT) - first
        for what, number, low, high in (
            ("n_subjects", n_subjects, 1, most),
            ("height of matrix_size", matrix_size[0], 8, 4096),
            ("width of matrix_size", matrix_size[1], 8, 4096),
        ):
            whole = isinstance(number, int) and not isinstance(number, bool)
            if not whole or not low <= number <= high:
                raise ValueError(
                    f"{what} must be a whole number from {low} to {high}; got {number!r}"
                )
        self.name = f"phantom {family} {split}"
        self.shape = (int(matrix_size[0]), int(matrix_size[1]))
        self.n_coils = n_coils
        self.target, self.known_maps = target, known_maps
        self.slices_per_subject = slices_per_subject
        self.snr, self.phase, self.widest_view, self.lesions = snr, phase, widest_view, lesions
        self.subjects = [
            Subject(i, families[i % len(families)] if family == "mixed" else family)
            for i in range(first, first + n_subjects)
        ]
        samples = n_coils * (slices_per_subject + (n_coils > 1))
        size = math.prod(self.shape) * (8 * samples + 5 * slices_per_subject)
        self._n_kept = max(MEMORY // size, 1)
        self._volumes: dict[int, list[Slice]] = {}  # those used last come last

    def __len__(self) -> int:
        return len(self.subjects) * self.slices_per_subject

    def __getitem__(self, index: int) -> Slice:
        volume, position = self._locate(index)
        scans = self._volumes.pop(volume, None) or self._scan(self.subjects[volume])
        self._volumes[volume] = scans
        if len(self._volumes) > self._n_kept:
            del self._volumes[next(iter(self._volumes))]
        return scans[position]

    def describe(self, index: int) -> SliceInfo:
        """Labels and sizes of a slice, without making it."""
        volume, position = self._locate(index)
        subject = self.subjects[volume]
        return SliceInfo(
            volume=subject.name,
            index=position,
            subject=subject.name,
            contrast=subject.contrast,
            shape=self.shape,
            target_shape=self.shape,
            n_coils=self.n_coils,
            phase=PHANTOM,
        )

    def marks(self, positions: Sequence[int], *, anew: bool) -> list[str]:
        """Digests of the settings of every slice's volume; `anew` makes no difference."""
        subjects = [self.subjects[self._locate(position)[0]] for position in positions]
        return [digest(repr((subject, *self._settings))) for subject in subjects]

    @property
    def _settings(self) -> tuple[tuple[Any, ...], ...]:
        """All but code and subject that decides about the values of a volume."""
        sizes = (self.shape, self.n_coils, self.slices_per_subject)
        return sizes, (self.snr, self.phase, self.widest_view, self.lesions)

    def _locate(self, index: int) -> tuple[int, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"slice {index} of {len(self)}")
        return divmod(index % len(self), self.slices_per_subject)

    def _scan(self, subject: Subject) -> list[Slice]:
        settings = (_code(), subject, *self._settings)
        arrays = cached("phantom", settings, lambda: self._draw(subject))
        made = {name: torch.from_numpy(array) for name, array in arrays.items()}
        if self.target == RSS and self.n_coils > 1:
            made["targets"] = root_sum_of_squares(fourier.ifft2(made["kspace"]))
        return [
            Slice(
                made["kspace"][position],
                target,
                volume=subject.name,
                index=position,
                subject=subject.name,
                volume_max=float(made["targets"].max()),
                contrast=subject.contrast,
                sensitivity=made.get("sensitivity") if self.known_maps else None,
                measured=torch.ones(self.shape, dtype=torch.bool),
                roi=made["regions"][position] if self.lesions else None,
                phase=PHANTOM,
            )
            for position, target in enumerate(made["targets"])
        ]

    def _draw(self, subject: Subject) -> Arrays:
        """k-space and targets of all slices, and their regions and coil maps, if there are any.

        Noise goes by the whole volume's signal: no slice can be had without drawing the others.
        """
        view = scanner.field_of_view(self.shape)
        # Places from -1 to 1: the middles of equal parts of the body's inner 80 %.
        n_slices = self.slices_per_subject
        places = [float(p) for p in 0.8 * ((2 * np.arange(n_slices) + 1) / n_slices - 1)]
        drawings = [subject.draw(p, view=view, widest=self.widest_view) for p in places]
        made: dict[str, Tensor] = {}
        if self.lesions:
            for drawing, place in zip(drawings, places, strict=True):
                add_lesion(drawing, subject.generator("lesion"), place)
            regions = [region_of([lesion_box(d, self.shape)], self.shape) for d in drawings]
            made["regions"] = torch.stack(regions)
        generator = subject.generator("coils")
        coils = scanner.coil_polynomials(self.n_coils, self.shape, generator=generator)
        shading = scanner.shading_polynomial(
            self.shape,
            generator=subject.generator("phase"),
            strength=self.phase,
            fade=drawings[0].extent()[1][1] > view[0] / 2 - 1e-6,
        )
        maps = scanner.evaluate(coils, self.shape)
        sensitivity = torch.from_numpy(maps / np.linalg.norm(maps, axis=0)).to(torch.complex64)
        exact = [
            scanner.exact_kspace(d, self.shape, coils=coils, shading=shading) for d in drawings
        ]
        scans = torch.stack(exact)  # (slice, coil, height, width)
        images = combine(fourier.ifft2(scans), sensitivity).abs()
        body = images > 0.1 * images.max()
        sigma = 0.0 if math.isinf(self.snr) else float(images[body].mean()) / self.snr
        noise = [
            complex_noise(scan.shape, sigma=sigma, generator=subject.generator("noise", position))
            for position, scan in enumerate(scans)
        ]
        made["kspace"] = scans.to(torch.complex64) + torch.stack(noise)
        made["targets"] = combine(fourier.ifft2(made["kspace"]), sensitivity).abs()
        if self.n_coils > 1:
            made["sensitivity"] = sensitivity
        return {name: tensor.numpy() for name, tensor in made.items()}


@lru_cache
def _code() -> str:
    """Digest of all but settings that decides about the values of phantoms."""
    used = (fourier.ifft2, combine, complex_noise, region_of)
    files = sorted(Path(__file__).parent.glob("*.py"))
    files += [Path(inspect.getfile(function)) for function in used]
    content = b"".join(file.read_bytes() for file in files)
    return digest(content + f"{np.__version__} {torch.__version__}".encode())


def add_lesion(drawing: Drawing, generator: np.random.Generator, place: float) -> None:
    """Draw a bright, septated spot into a slice that is posed and cut to the field of view.

    Parallel septa put its detail into few lines of k-space, near plus and minus their spatial
    frequency along the phase encode, other ones in every subject. The lesion becomes the last
    ellipse; the generator is drawn from equally for every place.
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
    """The box around the last ellipse, in pixels of an image of that shape."""
    _, x, y, *matrix = drawing.ellipses[-1]
    half = LESION_MARGIN * np.linalg.norm(np.reshape(matrix, (2, 2)), axis=1)  # along x, along y
    per_unit = min(shape)
    left, top = np.floor((np.array([x, y]) - half) * per_unit).astype(int)
    right, bottom = np.ceil((np.array([x, y]) + half) * per_unit).astype(int)
    corner = (shape[0] // 2 + int(top), shape[1] // 2 + int(left))
    return (*corner, int(bottom - top) + 1, int(right - left) + 1)
