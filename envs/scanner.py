"""Scanners: what comes out when a readout is measured.

The ideal scanner gives just the samples of the object. Others add noise, move the object, or catch
spikes; they let readouts be measured again, and average the measurements or keep the last one.
Time is the number of measurements so far, those of the start included; they are made from the
centre of k-space outwards. Whatever is drawn at random follows from the episode's seed and from
readout, repetition and time alone: an episode is the same in every batch, and trying an action
tells what taking it would give.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from activemri import plugins
from activemri.batched import Batched
from activemri.mri.geometry import Geometry, Transform
from activemri.mri.motion import moved
from activemri.mri.noise import complex_noise


@dataclass(frozen=True, eq=False)
class Start:
    """Scans before anything is measured."""

    kspace: Tensor  # of the object at rest, complex (batch, coil, height, width)
    samples: Tensor  # the same as readouts, complex (batch, readout, coil, sample)
    mask: Tensor  # readouts that the start will measure, bool (batch, n_readouts)
    seeds: Tensor  # one for each episode, int64 (batch,); zeros if the scanner is not random
    horizon: int  # measurements after the start, at most
    transform: Transform  # from images to samples

    def coil_images(self) -> Tensor:
        """The starting readouts without artefacts: (batch, coil, height, width)."""
        density = self.transform.density(self.mask)
        weights = self.mask[..., None] if density is None else density
        return self.transform.adjoint(self.samples * weights[:, :, None])


@dataclass(frozen=True, eq=False)
class Conditions(Batched):
    """Artefacts of scans, drawn at the start and never changed. Secret; rows are independent."""

    #: Of the object at rest, then in the pose of each move, complex (batch, 1 + n_moves, readout,
    #: coil, sample).
    samples: Tensor
    seed: Tensor  # of everything drawn later, int64 (batch,)
    level: Tensor  # what strengths are relative to, float64 (batch,)
    moments: Tensor  # when each move begins, int64 (batch, n_moves)
    n_started: Tensor  # measurements of the start, int64 (batch,)
    navigator: int = 0  # the readout through the centre that goes along with others


@dataclass(frozen=True, eq=False)
class Requests:
    """Single measurements to be made, int64 (n,) each."""

    row: Tensor  # of the batch
    readout: Tensor
    nth: Tensor  # how often it was measured before
    time: Tensor  # measurements made before
    place: Tensor  # in the flattened table of :class:`Readings`


@dataclass(frozen=True, eq=False)
class Readings(Batched):
    """Readouts to be measured, one action a row."""

    row: Tensor  # which scan of the batch, int64 (n,)
    readouts: Tensor  # int64 (n, k)
    new: Tensor  # which of them to measure, bool (n, k)

    @classmethod
    def outwards(cls, geometry: Geometry, row: Tensor, new: Tensor) -> "Readings":
        """New readouts, bool (n, n_readouts), from the centre of k-space outwards."""
        order = geometry.outwards.expand(len(new), -1)
        fresh = new.gather(1, order)
        first = (~fresh).byte().argsort(dim=1, stable=True)[:, : int(fresh.sum(dim=1).amax())]
        return cls(row, order.gather(1, first), fresh.gather(1, first))


class Scanner(Protocol):
    """The part of a scanner between the object and its samples.

    Attributes:
        repeats: how often a readout may be measured.
        averages: repeated measurements are averaged; else the last one counts.
        is_random: something is drawn, so that every episode needs a seed.

    One that gives the object's samples as they are, each readout once, may say so by an attribute
    `is_ideal`: then it is not asked, and steps take one compiled pass. One that has no outlier test
    says ``outlier_score = never_objects``. One that processes what it receives before anybody sees
    it has a method `process(conditions, requests, samples)`, which returns samples, complex (n,
    coil, sample), and which measurements count, bool (n,). The others cost their budget and time,
    and leave the readout as it was. Those of the start have to count. Where all do, an attribute
    `rejects` that is False says so.
    """

    @property
    def repeats(self) -> int: ...
    @property
    def averages(self) -> bool: ...
    @property
    def is_random(self) -> bool: ...

    def begin(self, start: Start) -> Conditions:
        """Draw what scans will meet. May depend on the object only as far as it is measured."""
        ...

    def measure(self, conditions: Conditions, requests: Requests) -> Tensor:
        """The samples that the coils receive: complex (n, coil, sample)."""
        ...

    def outlier_score(self, conditions: Conditions, requests: Requests, samples: Tensor) -> Tensor:
        """Score of the outlier test: float32 (n,), above 1 where the scanner would object."""
        ...


@dataclass(frozen=True, eq=False)
class MeasurementLog(Batched):
    """Everything a scanner has measured, and knows of it. Its tensors are written in place.

    Attributes:
        samples: what was acquired, zero elsewhere, complex (batch, readout, coil, sample).
        n_measured: how often each readout was measured, int64 (batch, n_readouts).
        n_rejected: how many of these do not count, int64 (batch, n_readouts).
        last_measured: measurements made before its last one, -1 for none, int64
            (batch, n_readouts).
        outlier_score: what the scanner noticed at its last measurement, float32
            (batch, n_readouts): above 1 where it would object.
        order: readouts measured after the start, in order, -1 for those to come, int64
            (batch, horizon); of length 0 where the counts tell all.
    """

    samples: Tensor = field(repr=False)
    n_measured: Tensor
    n_rejected: Tensor
    last_measured: Tensor
    outlier_score: Tensor
    order: Tensor

    @classmethod
    def empty(cls, samples: Tensor) -> "MeasurementLog":
        """Nothing measured yet, of samples like these."""
        n_measured = torch.zeros(samples.shape[:2], dtype=torch.int64, device=samples.device)
        return cls(
            samples=torch.zeros_like(samples, memory_format=torch.contiguous_format),
            n_measured=n_measured,
            n_rejected=torch.zeros_like(n_measured),
            last_measured=torch.full_like(n_measured, -1),
            outlier_score=torch.zeros_like(n_measured, dtype=torch.float32),
            order=n_measured[:, :0],
        )

    def measure(self, scanner: Scanner, conditions: Conditions, readings: Readings) -> Tensor:
        """Measure readouts, in place; one row for each scan.

        Returns:
            Change of the samples, complex (batch, k, coil, sample), zero where nothing is measured.
        """
        requests, received, total, counts = self.outcome(scanner, conditions, readings)
        change = self._change(readings, requests, total)
        at = requests.row * self.samples.shape[1] + requests.readout
        if self.order.shape[1]:
            row = requests.row
            n_before = (self.order >= 0).sum(dim=1)[row]
            nth_now = (readings.new.cumsum(dim=1) - 1).flatten()[requests.place]
            self.order[row, n_before + nth_now] = requests.readout
        self.samples.flatten(0, 1).index_copy_(0, at, total)
        self.n_measured.flatten().index_copy_(0, at, requests.nth + 1)
        self.n_rejected.flatten().index_add_(0, at, (~counts).long())
        self.last_measured.flatten().index_copy_(0, at, requests.time)
        outlier_score = scanner.outlier_score(conditions, requests, received)
        if outlier_score.shape != at.shape or bool(outlier_score.isnan().any()):
            raise ValueError(
                f"scanner {type(scanner).__name__}: expected outlier scores, numbers of shape "
                f"{tuple(at.shape)}; got shape {tuple(outlier_score.shape)}, or NaN"
            )
        self.outlier_score.flatten().index_copy_(0, at, outlier_score)
        return change

    def take(self, conditions: Conditions, readings: Readings) -> None:
        """The same by an ideal scanner, one row for each scan; no device is waited for."""
        new, readouts = readings.new, readings.readouts
        time = self.n_measured.sum(dim=1, keepdim=True) + new.cumsum(dim=1)
        self.n_measured.scatter_add_(1, readouts, new.long())
        self.last_measured.scatter_add_(1, readouts, time * new)  # from -1, which is never
        at = (readings.row[:, None], readouts)
        samples = conditions.samples[:, 0][at] * new[:, :, None, None]
        self.samples.index_put_(at, samples, accumulate=True)  # padding adds zero

    @cached_property
    def arrays(self) -> tuple[NDArray[Any], ...]:
        """Samples, n_measured and last_measured, as compiled steps write them."""
        return self.samples.numpy(), self.n_measured.numpy(), self.last_measured.numpy()

    def change(self, scanner: Scanner, conditions: Conditions, readings: Readings) -> Tensor:
        """Samples that :meth:`measure` would return, for any number of rows; measures nothing."""
        requests, _, total, _ = self.outcome(scanner, conditions, readings)
        return self._change(readings, requests, total)

    def on_trial(
        self, scanner: Scanner, conditions: Conditions, readings: Readings
    ) -> tuple[Tensor, Tensor]:
        """Samples of scans with more readouts, and which of these stay unacquired.

        Samples are complex (n, readout, coil, sample). Readouts stay unacquired, bool
        (n, readout), where no measurement counts.
        """
        requests, _, total, counts = self.outcome(scanner, conditions, readings)
        at = (requests.place // readings.new.shape[1], requests.readout)
        samples = self.samples[readings.row]
        samples[at] = total
        missing = torch.zeros(samples.shape[:2], dtype=torch.bool, device=samples.device)
        n_rejected = self.n_rejected[requests.row, requests.readout]
        missing[at] = ~counts & (n_rejected == requests.nth)
        return samples, missing

    def outcome(
        self, scanner: Scanner, conditions: Conditions, readings: Readings
    ) -> tuple[Requests, Tensor, Tensor, Tensor]:
        """Single measurements, what is received, what readouts then hold, and which count.

        Samples are complex (n, coil, sample); counts are bool (n,).
        """
        new, place = readings.new, readings.new.flatten().nonzero().squeeze(1)
        row = readings.row[place // new.shape[1]]
        readout = readings.readouts.flatten()[place]
        before = self.n_measured.sum(dim=1)[row]
        requests = Requests(
            row=row,
            readout=readout,
            nth=self.n_measured.take(row * self.n_measured.shape[1] + readout),
            time=before if new.shape[1] == 1 else before + new.cumsum(dim=1).take(place) - 1,
            place=place,
        )
        received = scanner.measure(conditions, requests)
        _require_samples(received, (len(row), *self.samples.shape[2:]), scanner)
        counts = torch.ones_like(row, dtype=torch.bool)
        process, total = getattr(scanner, "process", None), received
        if process is not None:
            total, counts = process(conditions, requests, received)
        if not scanner.averages and bool(counts.all()):
            return requests, received, total, counts
        before = self.samples[row, readout]
        if scanner.averages:
            n_averaged = requests.nth - self.n_rejected[row, readout] + 1
            weight = (1 / n_averaged.to(torch.float32))[:, None, None]
            total = before + (total - before) * weight
        return requests, received, torch.where(counts[:, None, None], total, before), counts

    def _change(self, readings: Readings, requests: Requests, total: Tensor) -> Tensor:
        """Difference that new contents of readouts make to samples, by row of the readings."""
        # Whole rows are selected: several times as fast as indexing with two tensors.
        at = requests.row * self.samples.shape[1] + requests.readout
        before = self.samples.flatten(0, 1).index_select(0, at)
        shape = (*readings.new.shape, *total.shape[1:])
        if len(total) == readings.new.numel():
            return (total - before).view(shape)
        change = total.new_zeros((readings.new.numel(), *total.shape[1:]))
        return change.index_copy_(0, requests.place, total - before).view(shape)


def never_objects(
    self: Scanner, conditions: Conditions, requests: Requests, samples: Tensor
) -> Tensor:
    """Outlier scores of a scanner without a test: 0, float32 (n,)."""
    return samples.new_zeros(len(samples), dtype=torch.float32)


@dataclass(frozen=True)
class Ideal:
    """Gives the samples of the object, each readout once."""

    repeats: int = 1
    averages: bool = False
    is_random: bool = False
    is_ideal: ClassVar[bool] = True
    outlier_score = never_objects

    def begin(self, start: Start) -> Conditions:
        return _at_rest(start, start.seeds.new_ones(len(start.seeds), dtype=torch.float64))

    def measure(self, conditions: Conditions, requests: Requests) -> Tensor:
        return conditions.samples[requests.row, 0, requests.readout]


@dataclass(frozen=True)
class Noisy:
    """Thermal noise, as at low field, where scans are repeated and averaged.

    The n-th measurement of line l is y_n = F_l x + e_n, with circular complex Gaussian noise e_n of
    standard deviation s in every sample of every coil, independent of all others. What counts is
    the average of the measurements so far: r of them leave s / sqrt(r), so that the line's
    signal-to-noise ratio grows as sqrt(r) with scan time, as with the repetitions of M4Raw, three
    or two of them at 0.3 T (Lyu et al., Sci Data 10:264, 2023). The target is the data set's own,
    without this noise.

    Attributes:
        severity: s in units of the scale, the largest magnitude of the image of the starting lines
            before noise (root of sum of squares over coils). As transforms are orthonormal, s is
            also the noise of a pixel of the image if every line is measured once.
        repeats: how often a line may be measured.
    """

    severity: float = 0.1
    repeats: int = 4
    averages: bool = True
    is_random: bool = True
    outlier_score = never_objects

    def __post_init__(self) -> None:
        _check(self.severity, self.repeats)

    def begin(self, start: Start) -> Conditions:
        _check_start(start, "noise is measured in units of the starting readouts' image")
        energy = start.coil_images().abs().double().square().sum(dim=1)
        return _at_rest(start, energy.amax(dim=(-2, -1)).sqrt())

    def measure(self, conditions: Conditions, requests: Requests) -> Tensor:
        received = conditions.samples[requests.row, 0, requests.readout]
        sigma = (self.severity * conditions.level[requests.row]).tolist()
        keys = torch.stack(
            [conditions.seed[requests.row], requests.readout, requests.nth], dim=1
        ).tolist()
        for samples, key, one in zip(received, keys, sigma, strict=True):
            generator = np.random.default_rng(key)
            noise = complex_noise(tuple(samples.shape), sigma=one, generator=generator)
            samples += noise.to(samples.device)
        return received


@dataclass(frozen=True)
class Moving:
    """Sudden short movements: a cough, a swallow, a twitch, after which the rest pose returns.

    A line measured at time t is that of the object in its pose at that time,
    y = F_l T_p(t) x, with T a rotation about the centre and a shift in the image plane; see
    :func:`activemri.mri.motion.moved`. Each of `n_moves` movements begins at a moment drawn
    uniformly over the budget (they may overlap; the later number wins) and lasts for `duration`
    measurements. The start is measured at rest, and the target is the image at rest. A line may be
    measured again; the new measurement replaces the old one. Inconsistent lines make ghosts:
    Zaitsev, Maclaren and Herbst, J Magn Reson Imaging 42:887-901 (2015).

    With every measurement goes a navigator, a readout through the centre at the same moment, as
    scanners acquire it to gate breathing (Ehman and Felmlee, Radiology 173:255-263, 1989). The
    outlier score of a measurement is the relative change of its navigator since the scan began,
    over 10 %. It sees rotations, and shifts along the readout; not those along the phase encode,
    which leave the central line as it is.

    Attributes:
        severity: standard deviation of the shift along either axis, in fields of view; the
            rotation's is twice the number, in radians.
        repeats: how often a line may be measured.
        n_moves: movements in an episode.
        duration: of a movement, in measurements.
        processing: none; reject: a measurement whose outlier score is above 1 does not count, but
            for those of the start; correct: the shift along the readouts, columns or rows, that
            fits the navigator best is undone before, in the samples and in the outlier score.
        navigator_noise: standard deviation of the noise in a navigator's samples, over the root
            mean square of the first. The first one is noisy as well.
    """

    PROCESSING: ClassVar[tuple[str, ...]] = ("none", "reject", "correct")

    severity: float = 0.04
    repeats: int = 3
    n_moves: int = 3
    duration: int = 4
    averages: bool = False
    is_random: bool = True
    processing: str = "reject"
    navigator_noise: float = 0.0

    def __post_init__(self) -> None:
        _check(self.severity, self.repeats)
        _check_processing(self.processing, self.PROCESSING)
        if not (self.navigator_noise >= 0 and math.isfinite(self.navigator_noise)):
            raise ValueError(
                "navigator_noise must be a finite number of at least 0; "
                f"got {self.navigator_noise!r}"
            )
        if self.n_moves < 1 or self.duration < 1:
            raise ValueError(
                f"n_moves and duration must be at least 1; got {self.n_moves} and {self.duration}"
            )

    @property
    def rejects(self) -> bool:
        return self.processing != "none"

    def begin(self, start: Start) -> Conditions:
        transform = start.transform
        if self.processing == "correct" and not (
            transform.is_cartesian and transform.n_samples > 1
        ):
            raise ValueError(
                "processing='correct' undoes shifts along columns or rows; got readouts that do "
                "not run in one direction: take processing='reject'"
            )
        moments, poses, n_started = [], [], start.mask.sum(dim=1)
        for row, seed in enumerate(start.seeds.tolist()):
            generator = np.random.default_rng(seed)
            after = generator.integers(start.horizon, size=self.n_moves)
            moments.append(torch.from_numpy(after) + n_started[row].cpu())
            kspace = start.kspace[row]
            angles = generator.normal(0, 2 * self.severity, self.n_moves)
            shifts = generator.normal(0, self.severity, (self.n_moves, 2)) * kspace.shape[1:]
            others = [
                moved(kspace, angle=float(angle), shift=(float(down), float(right)))
                for angle, (down, right) in zip(angles, shifts, strict=True)
            ]
            poses.append(transform.of_grid(torch.stack([kspace, *others])))
        level = torch.ones(len(poses), dtype=torch.float64, device=start.kspace.device)
        when = torch.stack(moments).to(start.kspace.device)
        navigator = int(transform.outwards[0])
        return Conditions(torch.stack(poses), start.seeds, level, when, n_started, navigator)

    def measure(self, conditions: Conditions, requests: Requests) -> Tensor:
        return conditions.samples[requests.row, self._pose(conditions, requests), requests.readout]

    def process(
        self, conditions: Conditions, requests: Requests, samples: Tensor
    ) -> tuple[Tensor, Tensor]:
        if self.processing == "none":
            return samples, torch.ones_like(requests.row, dtype=torch.bool)
        if self.processing == "correct":
            samples = _turned(samples, -phase_slope(*self._navigators(conditions, requests)))
        is_start = requests.time < conditions.n_started[requests.row]
        return samples, is_start | (self.outlier_score(conditions, requests, samples) <= 1)

    def outlier_score(self, conditions: Conditions, requests: Requests, samples: Tensor) -> Tensor:
        navigator, first = self._navigators(conditions, requests)
        if self.processing == "correct":
            navigator = _turned(navigator, -phase_slope(navigator, first))
        change = _energy(navigator - first) / _energy(first).clamp(min=1e-30)
        return (change.sqrt() / 0.1).float()

    def _navigators(self, conditions: Conditions, requests: Requests) -> tuple[Tensor, Tensor]:
        """Navigators of measurements, and the first of the scan: complex (n, coil, sample)."""
        row, center = requests.row, conditions.navigator
        navigator = conditions.samples[row, self._pose(conditions, requests), center]
        first = conditions.samples[row, 0, center]
        if self.navigator_noise:
            unit = self.navigator_noise * first.abs().square().mean(dim=(1, 2)).sqrt()
            seeds = conditions.seed[row].tolist()
            for samples, times in (navigator, requests.time), (first, 0 * requests.time):
                for one, seed, time, sigma in zip(
                    samples, seeds, times.tolist(), unit.tolist(), strict=True
                ):
                    generator = np.random.default_rng((seed, time + 1))
                    noise = complex_noise(tuple(one.shape), sigma=sigma, generator=generator)
                    one += noise.to(one.device)
        return navigator, first

    def _pose(self, conditions: Conditions, requests: Requests) -> Tensor:
        """0 at rest, else the number of the movement: int64 (n,)."""
        since = requests.time[:, None] - conditions.moments[requests.row]
        number = torch.arange(1, self.n_moves + 1, device=since.device)
        return (number * ((since >= 0) & (since < self.duration))).amax(dim=1)


@dataclass(frozen=True)
class Spiking:
    """Radio-frequency interference: now and then one sample of a line is far too large.

    At every measurement, those of the start included, a spark falls with a probability onto one
    sample of the readout, drawn uniformly, in all coils with a random phase each:
    y = F_l x + a e_j. In the image that is a pattern of stripes all over (herringbone; Foo et al.,
    SNORE: spike noise removal and detection, IEEE Trans Med Imaging 13:133-136, 1994). A line may
    be measured again; the new measurement replaces the old one.

    The outlier score of a measurement is how far its largest sample stands out from the larger of
    its neighbours along the readout, over 5.

    Attributes:
        severity: probability of a spike at each measurement.
        repeats: how often a line may be measured.
        strength: |a| in units of the largest sample of the starting lines.
        processing: none; despike: samples that stand out by more than 5, from two neighbours on
            either side, are set to zero. Of true samples, one neighbour would drop 0.17 %, near
            the centre as well; two drop 0.002 % (16 phantoms).
    """

    PROCESSING: ClassVar[tuple[str, ...]] = ("none", "despike")

    severity: float = 0.2
    repeats: int = 3
    strength: float = 0.3
    averages: bool = False
    is_random: bool = True
    processing: str = "despike"
    rejects: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check(self.severity, self.repeats)
        _check_processing(self.processing, self.PROCESSING)
        if self.severity > 1 or not (self.strength >= 0 and math.isfinite(self.strength)):
            raise ValueError(
                "spikes need a probability (severity) of at most 1 and a strength of at least 0; "
                f"got {self.severity} and {self.strength}"
            )

    def begin(self, start: Start) -> Conditions:
        _check_start(start, "spikes are measured in units of the starting lines' largest sample")
        acquired = start.samples * start.mask[:, :, None, None]
        largest = acquired.abs().amax(dim=(1, 2, 3))
        return _at_rest(start, largest.double())

    def measure(self, conditions: Conditions, requests: Requests) -> Tensor:
        received = conditions.samples[requests.row, 0, requests.readout]
        seeds, times = conditions.seed[requests.row].tolist(), requests.time.tolist()
        height = (self.strength * conditions.level[requests.row]).tolist()
        for i, samples in enumerate(received):
            generator = np.random.default_rng((seeds[i], times[i]))
            if generator.random() >= self.severity:
                continue
            place = int(generator.integers(samples.shape[-1]))
            turn = torch.from_numpy(generator.uniform(0, 2 * math.pi, len(samples)))
            spark = torch.polar(torch.full_like(turn, height[i]), turn)
            samples[:, place] += spark.to(samples.device, samples.dtype)
        return received

    def process(
        self, conditions: Conditions, requests: Requests, samples: Tensor
    ) -> tuple[Tensor, Tensor]:
        counts = torch.ones_like(requests.row, dtype=torch.bool)
        if self.processing == "none" or samples.shape[2] < 5:
            return samples, counts
        magnitude, around = _beside_neighbours(samples)
        for distance in (-2, 2):
            around = torch.maximum(around, magnitude.roll(distance, dims=1))
        return samples.masked_fill((magnitude > 5 * around)[:, None], 0), counts

    def outlier_score(self, conditions: Conditions, requests: Requests, samples: Tensor) -> Tensor:
        magnitude, around = _beside_neighbours(samples)
        if magnitude.shape[1] < 3:  # a point has no neighbours
            return magnitude.new_zeros(len(magnitude), dtype=torch.float32)
        place = magnitude.argmax(dim=1, keepdim=True)
        ratio = magnitude.gather(1, place) / around.gather(1, place).clamp(min=1e-30)
        return (ratio.squeeze(1) / 5).clamp(max=100).float()


IDEAL = Ideal()
_PARTS = ("repeats", "averages", "is_random", "begin", "measure", "outlier_score")

#: Scanners by name; all but the ideal one are made of `severity` and `repeats`,
#: some of `processing` and `navigator_noise` as well.
SCANNERS: dict[str, Callable[..., Scanner]] = {
    "ideal": Ideal,
    "noisy": Noisy,
    "moving": Moving,
    "spiking": Spiking,
}


def make_scanner(
    scanner: str | Scanner,
    *,
    severity: float | None = None,
    repeats: int | None = None,
    processing: str | None = None,
    navigator_noise: float | None = None,
) -> Scanner:
    """The scanner of that name, or of ``package.module:object``; an object is taken as it is.

    Args:
        scanner: name or object.
        severity: strength of its artefacts, see the classes; None for the usual one.
        repeats: how often a readout may be measured; None for the usual number.
        processing: of what is received, see the classes; None for the usual one.
        navigator_noise: of a scanner with navigators; None for the usual one.

    Raises:
        ValueError: for an unknown name, or options that it does not take.
    """
    options = {
        "severity": severity,
        "repeats": repeats,
        "processing": processing,
        "navigator_noise": navigator_noise,
    }
    given = {name: value for name, value in options.items() if value is not None}
    if given and (scanner == "ideal" or not isinstance(scanner, str)):
        raise ValueError(
            f"{' and '.join(given)} go with the name of a scanner that has artefacts, e.g. noisy; "
            f"got scanner={scanner!r}"
        )
    made: Any = scanner
    if isinstance(scanner, str):
        found = plugins.find(scanner, SCANNERS, what="scanner")
        for name in ("processing", "navigator_noise"):
            if name in given and not hasattr(found, name):
                able = [key for key, one in SCANNERS.items() if hasattr(one, name)]
                raise ValueError(
                    f"{name}={given[name]!r} goes with scanners that have one, "
                    f"{' and '.join(able)}; scanner {scanner!r} has none"
                )
        made = found(**given) if isinstance(found, type) or given else found
    if lacking := [part for part in _PARTS if not hasattr(made, part)]:
        raise ValueError(
            f"scanner {scanner!r}: expected an object or class with {', '.join(_PARTS)}; "
            f"{type(made).__name__} has no {', '.join(lacking)}"
        )
    scanner_made: Scanner = made
    return scanner_made


def may_reject(scanner: Scanner) -> bool:
    """The scanner processes measurements, and does not say that all of them count."""
    return bool(getattr(scanner, "rejects", hasattr(scanner, "process")))


def gives_outlier_scores(scanner: Scanner) -> bool:
    """The scanner may object to measurements: it does not say that it never does."""
    return getattr(type(scanner), "outlier_score", None) is not never_objects


def _require_samples(received: object, shape: tuple[int, ...], scanner: Scanner) -> None:
    """Refuse what a scanner cannot have received, by a ValueError."""
    came = tuple(getattr(received, "shape", ()))
    if not isinstance(received, Tensor) or not received.is_complex() or came != shape:
        kind = getattr(received, "dtype", type(received).__name__)
        raise ValueError(
            f"scanner {type(scanner).__name__}: expected complex samples of shape {shape}; "
            f"got {kind} of shape {came}"
        )
    if not bool(torch.view_as_real(received).sum().isfinite()):
        raise ValueError(
            f"scanner {type(scanner).__name__}: expected finite samples; got NaN or Inf"
        )


def _at_rest(start: Start, level: Tensor) -> Conditions:
    """Conditions of an object that keeps still."""
    never = start.seeds.new_zeros((len(level), 0))
    n_started = start.mask.sum(dim=1)
    return Conditions(start.samples.unsqueeze(1), start.seeds, level, never, n_started)


def phase_slope(samples: Tensor, reference: Tensor) -> Tensor:
    """Slope of the linear phase, zero at the centre, by which a line differs best from another.

    Least squares over all coils: the maximum of Re sum_k y_k conj(x_k) exp(-i a k) on a grid of an
    eighth of a pixel, then fits of a line to the phase that is left, weighted by |y_k x_k|.

    Args:
        samples, reference: y and x, complex (n, coil, sample), sample k counted from the centre.

    Returns:
        a, in radians a sample, float64 (n,): -2 pi d / n_samples after a shift by d pixels.
    """
    product = (samples.to(torch.complex128) * reference.conj()).sum(dim=1)
    n = product.shape[1]
    k = torch.arange(n, device=product.device) - n // 2
    finer = product.new_zeros((len(product), 8 * n))
    finer[:, k % (8 * n)] = product
    slope: Tensor = torch.fft.fft(finer).real.argmax(dim=1) * (2 * math.pi / (8 * n))
    curvature = (k**2 * product.abs()).sum(dim=1).clamp(min=1e-30)
    for _ in range(3):
        left = _turned(product[:, None], -slope)[:, 0]
        slope = slope + (k * left.imag).sum(dim=1) / curvature
    return slope


def _turned(samples: Tensor, slope: Tensor) -> Tensor:
    """Lines (n, coil, sample) times a linear phase, zero at the centre: exp(i slope k)."""
    n = samples.shape[2]
    angle = slope[:, None] * (torch.arange(n, device=slope.device) - n // 2)
    return samples * torch.polar(torch.ones_like(angle), angle)[:, None].to(samples.dtype)


def _beside_neighbours(samples: Tensor) -> tuple[Tensor, Tensor]:
    """Magnitudes over all coils, of samples and of the larger neighbour: float32 (n, sample).

    Neighbours along the readout, which is a circle.
    """
    magnitude = samples.abs().square().sum(dim=1).sqrt()
    return magnitude, torch.maximum(magnitude.roll(1, dims=1), magnitude.roll(-1, dims=1))


def _energy(samples: Tensor) -> Tensor:
    return samples.abs().double().square().sum(dim=(1, 2))


def _check(severity: float, repeats: int) -> None:
    if not (severity >= 0 and math.isfinite(severity)):
        raise ValueError(f"severity must be a finite number of at least 0; got {severity!r}")
    if isinstance(repeats, bool) or not isinstance(repeats, int) or repeats < 1:
        raise ValueError(f"repeats must be a whole number of at least 1; got {repeats!r}")


def _check_processing(processing: str, known: tuple[str, ...]) -> None:
    if processing not in known:
        raise ValueError(f"processing: expected {' or '.join(known)}; got {processing!r}")


def _check_start(start: Start, why: str) -> None:
    if not bool((n_started := start.mask.sum(dim=1)).all()):
        raise ValueError(f"{why}: every scan must start with one; got {n_started.tolist()}")
