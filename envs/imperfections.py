"""What keeps a scanner from measuring just the lines of the target: noise, motion, spikes.

An imperfection says what comes out when a line is measured for the n-th time at a given moment,
how often a line may be measured, and whether its measurements are averaged or the last one counts.
Time is the number of measurements so far, those of the start included; they are made from the
centre of k-space outwards. Whatever is drawn at random follows from the episode's seed and from
line, repetition and time alone: an episode is the same in every batch, and trying an action tells
what taking it would give.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from activemri.mri import fourier, lines
from activemri.mri.geometry import CartesianGeometry
from activemri.mri.motion import moved
from activemri.mri.noise import complex_noise


@dataclass(frozen=True, eq=False)
class Start:
    """Scans before anything is measured.

    Attributes:
        kspace: of the object at rest, complex (batch, coil, height, width).
        acquired: samples that the start will measure, bool (batch, height or 1, width or 1).
        n_lines: lines that those are, int64 (batch,).
        seeds: one for each episode, int64 (batch,).
        horizon: measurements after the start, at most.
        geometry: whose lines are measured.
    """

    kspace: Tensor
    acquired: Tensor
    n_lines: Tensor
    seeds: Tensor
    horizon: int
    geometry: CartesianGeometry


@dataclass(eq=False)
class Conditions:
    """What scans will meet, drawn at the start and never changed. Secret; rows are independent.

    Attributes:
        seed: of everything drawn later, int64 (batch,).
        level: what strengths are relative to, float64 (batch,).
        moments: when each move begins, int64 (batch, n_moves).
        lines: of k-space with the object at rest, then in the pose of each move,
            complex (batch, 1 + n_moves, line of the scan, coil, samples).
    """

    seed: Tensor
    level: Tensor
    moments: Tensor
    lines: Tensor


@dataclass(frozen=True, eq=False)
class Asked:
    """Measurements to be made, int64 (n,) each.

    Attributes:
        row: of the batch.
        line: of the scan.
        nth: how often the line was measured before.
        time: measurements made before.
    """

    row: Tensor
    line: Tensor
    nth: Tensor
    time: Tensor


class Imperfection(Protocol):
    """A way in which measurements differ from the lines of the target.

    Attributes:
        repeats: how often a line may be measured.
        averages: whether repeated measurements are averaged; else the last one counts.
    """

    @property
    def repeats(self) -> int: ...
    @property
    def averages(self) -> bool: ...

    def conditions(self, start: Start) -> Conditions:
        """Draw what scans will meet. May depend on the object only as far as it is measured."""
        ...

    def measure(self, conditions: Conditions, asked: Asked) -> Tensor:
        """What the coils receive: lines of k-space, complex (n, coil, samples)."""
        ...

    def suspicion(self, conditions: Conditions, asked: Asked, samples: Tensor) -> Tensor:
        """What the scanner notices by itself: float32 (n,), above 1 where it would object."""
        ...


@dataclass(frozen=True)
class Noise:
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

    def __post_init__(self) -> None:
        _check(self.severity, self.repeats)

    def conditions(self, start: Start) -> Conditions:
        level = [
            fourier.ifft2(one * mask).abs().double().square().sum(dim=0).amax().sqrt()
            for one, mask in zip(start.kspace, start.acquired, strict=True)
        ]
        _check_start(start, "noise is measured in units of the starting lines' image")
        return _at_rest(start, torch.stack(level))

    def measure(self, conditions: Conditions, asked: Asked) -> Tensor:
        received = conditions.lines[asked.row, 0, asked.line]
        sigma = (self.severity * conditions.level[asked.row]).tolist()
        keys = torch.stack([conditions.seed[asked.row], asked.line, asked.nth], dim=1).tolist()
        for samples, key, one in zip(received, keys, sigma, strict=True):
            generator = np.random.default_rng(key)
            noise = complex_noise(tuple(samples.shape), sigma=one, generator=generator)
            samples += noise.to(samples.device)
        return received

    def suspicion(self, conditions: Conditions, asked: Asked, samples: Tensor) -> Tensor:
        return samples.new_zeros(len(samples), dtype=torch.float32)


@dataclass(frozen=True)
class Motion:
    """Sudden short movements: a cough, a swallow, a twitch, after which the rest pose returns.

    A line measured at time t is that of the object in its pose at that time,
    y = F_l T_p(t) x, with T a rotation about the centre and a shift in the image plane; see
    :func:`activemri.mri.motion.moved`. Each of `n_moves` movements begins at a moment drawn
    uniformly over the budget (they may overlap; the later number wins) and lasts for `duration`
    measurements. The start is measured at rest, and the target is the image at rest. A line may be
    measured again; the new measurement replaces the old one. Inconsistent lines make ghosts:
    Zaitsev, Maclaren and Herbst, J Magn Reson Imaging 42:887-901 (2015).

    With every measurement goes a navigator, a readout of the central line at the same moment, as
    scanners acquire it to gate breathing (Ehman and Felmlee, Radiology 173:255-263, 1989). The
    suspicion of a measurement is the relative change of its navigator since the scan began, over
    10 %. It sees rotations, and shifts along the readout; not those along the phase encode, which
    leave the central line as it is.

    Attributes:
        severity: standard deviation of the shift along either axis, in fields of view; the
            rotation's is twice the number, in radians.
        repeats: how often a line may be measured.
        n_moves: movements in an episode.
        duration: of a movement, in measurements.
    """

    severity: float = 0.04
    repeats: int = 3
    n_moves: int = 3
    duration: int = 4
    averages: bool = False

    def __post_init__(self) -> None:
        _check(self.severity, self.repeats)
        if self.n_moves < 1 or self.duration < 1:
            raise ValueError(
                f"n_moves and duration must be at least 1; got {self.n_moves} and {self.duration}"
            )

    def conditions(self, start: Start) -> Conditions:
        moments, poses = [], []
        for row, seed in enumerate(start.seeds.tolist()):
            generator = np.random.default_rng(seed)
            after = generator.integers(start.horizon, size=self.n_moves)
            moments.append(torch.from_numpy(after) + int(start.n_lines[row]))
            kspace = start.kspace[row]
            angles = generator.normal(0, 2 * self.severity, self.n_moves)
            shifts = generator.normal(0, self.severity, (self.n_moves, 2)) * kspace.shape[1:]
            others = [
                moved(kspace, angle=float(angle), shift=(float(down), float(right)))
                for angle, (down, right) in zip(angles, shifts, strict=True)
            ]
            poses.append(lines.lines_of(torch.stack([kspace, *others]), start.geometry))
        level = torch.ones(len(poses), dtype=torch.float64, device=start.kspace.device)
        when = torch.stack(moments).to(start.kspace.device)
        return Conditions(start.seeds, level, when, torch.stack(poses))

    def measure(self, conditions: Conditions, asked: Asked) -> Tensor:
        return conditions.lines[asked.row, self._pose(conditions, asked), asked.line]

    def suspicion(self, conditions: Conditions, asked: Asked, samples: Tensor) -> Tensor:
        center = conditions.lines.shape[2] // 2
        navigator = conditions.lines[asked.row, self._pose(conditions, asked), center]
        first = conditions.lines[asked.row, 0, center]
        change = _energy(navigator - first) / _energy(first).clamp(min=1e-30)
        return (change.sqrt() / 0.1).float()

    def _pose(self, conditions: Conditions, asked: Asked) -> Tensor:
        """0 at rest, else the number of the movement: int64 (n,)."""
        since = asked.time[:, None] - conditions.moments[asked.row]
        number = torch.arange(1, self.n_moves + 1, device=since.device)
        return (number * ((since >= 0) & (since < self.duration))).amax(dim=1)


@dataclass(frozen=True)
class Spikes:
    """Radio-frequency interference: now and then one sample of a line is far too large.

    At every measurement, those of the start included, a spark falls with a probability onto one
    sample of the readout, drawn uniformly, in all coils with a random phase each:
    y = F_l x + a e_j. In the image that is a pattern of stripes all over (herringbone; Foo et al.,
    SNORE: spike noise removal and detection, IEEE Trans Med Imaging 13:133-136, 1994). A line may
    be measured again; the new measurement replaces the old one.

    The suspicion of a measurement is how far its largest sample stands out from the larger of its
    neighbours along the readout, over 5.

    Attributes:
        severity: probability of a spike at each measurement.
        repeats: how often a line may be measured.
        strength: |a| in units of the largest sample of the starting lines.
    """

    severity: float = 0.2
    repeats: int = 3
    strength: float = 0.3
    averages: bool = False

    def __post_init__(self) -> None:
        _check(self.severity, self.repeats)
        if self.severity > 1 or not (self.strength >= 0 and math.isfinite(self.strength)):
            raise ValueError(
                "spikes need a probability (severity) of at most 1 and a strength of at least 0; "
                f"got {self.severity} and {self.strength}"
            )

    def conditions(self, start: Start) -> Conditions:
        _check_start(start, "spikes are measured in units of the starting lines' largest sample")
        largest = (start.kspace * start.acquired.unsqueeze(1)).abs().amax(dim=(1, 2, 3))
        return _at_rest(start, largest.double())

    def measure(self, conditions: Conditions, asked: Asked) -> Tensor:
        received = conditions.lines[asked.row, 0, asked.line]
        seeds, times = conditions.seed[asked.row].tolist(), asked.time.tolist()
        height = (self.strength * conditions.level[asked.row]).tolist()
        for i, samples in enumerate(received):
            generator = np.random.default_rng((seeds[i], times[i]))
            if generator.random() >= self.severity:
                continue
            place = int(generator.integers(samples.shape[-1]))
            turn = torch.from_numpy(generator.uniform(0, 2 * math.pi, len(samples)))
            spark = torch.polar(torch.full_like(turn, height[i]), turn)
            samples[:, place] += spark.to(samples.device, samples.dtype)
        return received

    def suspicion(self, conditions: Conditions, asked: Asked, samples: Tensor) -> Tensor:
        magnitude = samples.abs().square().sum(dim=1).sqrt()
        if magnitude.shape[1] < 3:  # a point has no neighbours
            return magnitude.new_zeros(len(magnitude), dtype=torch.float32)
        place = magnitude.argmax(dim=1, keepdim=True)
        around = torch.maximum(magnitude.roll(1, dims=1), magnitude.roll(-1, dims=1))
        ratio = magnitude.gather(1, place) / around.gather(1, place).clamp(min=1e-30)
        return (ratio.squeeze(1) / 5).clamp(max=100).float()


#: Imperfections by name, made of `severity` and `repeats`.
IMPERFECTIONS: dict[str, Callable[..., Imperfection]] = {
    "noisy": Noise,
    "moving": Motion,
    "spiking": Spikes,
}


def make_imperfection(
    imperfection: str | Imperfection,
    *,
    severity: float | None = None,
    repeats: int | None = None,
) -> Imperfection | None:
    """The imperfection of that name, None for "ideal"; an object is taken as it is.

    Args:
        imperfection: name or object.
        severity: its strength, see the classes; None for the usual one.
        repeats: how often a line may be measured; None for the usual number.

    Raises:
        ValueError: for an unknown name, or numbers where no name is.
    """
    numbers = {"severity": severity, "repeats": repeats}
    given = {name: value for name, value in numbers.items() if value is not None}
    if isinstance(imperfection, str):
        if imperfection not in ("ideal", *IMPERFECTIONS):
            raise ValueError(
                f"unknown scanner {imperfection!r}; choose from ideal, {', '.join(IMPERFECTIONS)}"
            )
        if imperfection != "ideal":
            return IMPERFECTIONS[imperfection](**given)
    if given:
        raise ValueError(
            f"{' and '.join(given)} go with the name of a scanner, one of "
            f"{', '.join(IMPERFECTIONS)}; got scanner={imperfection!r}"
        )
    return None if isinstance(imperfection, str) else imperfection


def _at_rest(start: Start, level: Tensor) -> Conditions:
    """Conditions of an object that keeps still."""
    never = start.seeds.new_zeros((len(level), 0))
    by_line = lines.lines_of(start.kspace, start.geometry).unsqueeze(1)
    return Conditions(start.seeds, level, never, by_line)


def _energy(samples: Tensor) -> Tensor:
    return samples.abs().double().square().sum(dim=(1, 2))


def _check(severity: float, repeats: int) -> None:
    if not (severity >= 0 and math.isfinite(severity)):
        raise ValueError(f"severity must be a finite number of at least 0; got {severity!r}")
    if isinstance(repeats, bool) or not isinstance(repeats, int) or repeats < 1:
        raise ValueError(f"repeats must be a whole number of at least 1; got {repeats!r}")


def _check_start(start: Start, why: str) -> None:
    if not bool((start.n_lines > 0).all()):
        raise ValueError(f"{why}: every scan must start with a line; got {start.n_lines.tolist()}")
