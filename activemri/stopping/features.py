"""Features of a scan that tell of the quality of its image without the truth.

They are numbers computed from a :class:`View`: from the acquired samples, the reconstruction, its
uncertainty and the evaluator's scores. :mod:`activemri.stopping.predictor` turns them into a
predicted score. What the reconstructor does not give is absent, never zero. :class:`Curves` holds
them along whole episodes: one roll-out serves every threshold.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from activemri.agents.adaptive import line_scores
from activemri.agents.policy import Policy
from activemri.agents.rollout import Episodes, OnStep, batches_of_a_kind, rollout, rows_of_a_kind
from activemri.data.slices import Slice, SliceDataset, SliceInfo
from activemri.envs.scan import Scan, State, View
from activemri.evaluator import Evaluator
from activemri.metrics import SAMPLE_SCALE, SSIM_K1, SSIM_K2, SSIM_WINDOW
from activemri.metrics.reference import center_crop
from activemri.mri.geometry import cartesian
from activemri.mri.spectrum import line_distances, power_law

Floats = NDArray[np.float64]
Number = TypeVar("Number", np.int64, np.float64)

OF_SCAN = (
    "acquired",
    "outer_energy",
    "missing_energy",
    "isotropic_energy",
    "missing_ssim",
    "flatness",
    "foreground",
    "change",
)
OF_UNCERTAINTY = ("uncertainty", "largest_uncertainty", "expected_nmse", "expected_ssim")
OF_EVALUATOR = ("evaluator_mean", "evaluator_lowest")

#: Pixels brighter than this share of the brightest one are foreground.
_FOREGROUND = 0.1
_BLOCK = 8  # pixels along the side of the blocks whose largest mean uncertainty counts
_OUTER = 4  # outermost acquired lines that show how strong texture and noise are
_SMALLEST = 1e-12  # below that ratios are taken for zero, so that their logarithm exists


@dataclass(frozen=True)
class Features:
    """Computes all features that a view allows for.

    Of the scan (energies where samples lie on a grid):
        acquired: share of its lines that are acquired.
        outer_energy: log10 of the mean energy of the four outermost acquired lines over the mean
            energy of all acquired lines: the level of texture and noise.
        missing_energy: log10 of the energy that the missing lines are expected to hold over that
            of the image, from a power law fitted to the energies of the acquired lines.
        isotropic_energy: the same if a line holds as much energy as what was read out at the same
            frequency of the other axis; absent where there is no readout (points).
        missing_ssim: expected SSIM if the missing energy were spread evenly over the image.
        flatness: mean over the windows of C2 / (2 variance + C2): 1 without any texture, where
            small errors cost most SSIM.
        foreground: share of pixels above a tenth of the largest one.
        change: log10 of the energy of reconstruction minus zero-filled image over that of the
            reconstruction: what the method has made up.

    Of the uncertainty (a standard deviation per pixel):
        uncertainty: log10 of its mean over the foreground over the foreground's root mean square.
        largest_uncertainty: log10 of the largest mean over 8 x 8 blocks over the brightest pixel.
        expected_nmse: log10 of its energy over that of the image.
        expected_ssim: see :func:`expected_ssim`.

    Of the evaluator:
        evaluator_mean: mean score over the lines that are missing (1 if none is).
        evaluator_lowest: the lowest of those scores.

    All but the evaluator's look at the central part that is scored.

    Attributes:
        evaluator: scores lines of k-space, or None.
    """

    evaluator: Evaluator | None = None

    def __call__(self, view: View) -> dict[str, Tensor]:
        """Features by name, float64 (batch,)."""
        image = center_crop(view.reconstruction.image, view.target_shape)
        magnitude = image.abs()
        features = _of_scan(view, image)
        uncertainty = view.reconstruction.uncertainty
        if uncertainty is not None:
            cropped = center_crop(uncertainty, view.target_shape).to(magnitude.dtype)
            features |= _of_uncertainty(magnitude, cropped)
        if self.evaluator is not None and view.geometry.has_lines:
            features |= _of_evaluator(view, self.evaluator)
        return {name: value.double() for name, value in features.items()}


@dataclass(frozen=True, eq=False)
class Curves:
    """Episodes to the end of the budget, each continued with its last values.

    Attributes:
        scans: of each episode; several times if several seeds were played.
        n_acquired: lines acquired, int64 (episode, step).
        scores: true scores by metric, float64 (episode, step).
        features: of :class:`Features`, float64 (episode, step).
    """

    scans: tuple[SliceInfo, ...]
    n_acquired: NDArray[np.int64]
    scores: dict[str, Floats]
    features: dict[str, Floats]

    def __len__(self) -> int:
        return len(self.scans)

    def units(self, unit: str) -> list[tuple[object, ...]]:
        """Subject, volume or slice of each episode, see :func:`unit_of`."""
        return [unit_of(scan, unit) for scan in self.scans]

    def select(self, rows: Sequence[int] | NDArray[np.intp]) -> "Curves":
        """Some of the episodes."""
        index = np.asarray(rows, dtype=np.intp)
        return Curves(
            tuple(self.scans[row] for row in index),
            self.n_acquired[index],
            {name: values[index] for name, values in self.scores.items()},
            {name: values[index] for name, values in self.features.items()},
        )

    @classmethod
    def join(cls, parts: Sequence["Curves"]) -> "Curves":
        """All episodes of several; features that some lack are left out."""
        n_steps = max(part.n_acquired.shape[1] for part in parts)

        def joined(values: Sequence[NDArray[Number]]) -> NDArray[Number]:
            return np.concatenate(
                [np.pad(v, ((0, 0), (0, n_steps - v.shape[1])), mode="edge") for v in values]
            )

        features = [name for name in parts[0].features if all(name in p.features for p in parts)]
        return cls(
            tuple(scan for part in parts for scan in part.scans),
            joined([part.n_acquired for part in parts]),
            {name: joined([part.scores[name] for part in parts]) for name in parts[0].scores},
            {name: joined([part.features[name] for part in parts]) for name in features},
        )


def play_recorded(
    acquisition: Scan,
    policy: Policy,
    slices: Sequence[Slice],
    *,
    features: Features,
    seed: int = 0,
    on_step: OnStep | None = None,
) -> tuple[Episodes, Curves]:
    """:func:`activemri.agents.rollout.rollout`, with the features of every step."""
    steps: list[dict[str, Floats]] = []

    def record(step: int, state: State) -> None:
        found = features(state.view)
        steps.append({name: value.cpu().numpy() for name, value in found.items()})
        if on_step is not None:
            on_step(step, state)

    episodes = rollout(acquisition, policy, slices, seed=seed, on_step=record)
    curves = Curves(
        episodes.scans,
        episodes.n_acquired.numpy(),
        {name: value.numpy() for name, value in episodes.scores.items()},
        {name: np.stack([step[name] for step in steps], axis=1) for name in steps[0]},
    )
    return episodes, curves


def quality_curves(
    acquisition: Scan,
    policy: Policy,
    features: Features,
    dataset: SliceDataset,
    *,
    indices: Sequence[int] | None = None,
    seed: int = 0,
    batch_size: int = 16,
) -> Curves:
    """Play a policy on many scans to the end of the budget and record what stopping needs.

    Args:
        acquisition: the scan protocol, with its budget; None acquires everything.
        policy: chooses the actions.
        features: computed at every step.
        dataset: the scans.
        indices: of the slices to play; all by default.
        seed: see :func:`activemri.agents.rollout.rollout`.
        batch_size: scans at a time.
    """
    positions = range(len(dataset)) if indices is None else indices
    parts = []
    for group in batches_of_a_kind(dataset, positions, batch_size):
        slices = [dataset[position] for position in group]
        for rows in rows_of_a_kind(slices):
            batch = [slices[row] for row in rows]
            parts.append(play_recorded(acquisition, policy, batch, features=features, seed=seed)[1])
    return Curves.join(parts)


def unit_of(scan: SliceInfo, unit: str) -> tuple[object, ...]:
    """The subject, volume or slice that a slice belongs to.

    Raises:
        ValueError: for another unit.
    """
    units = ("subject", "volume", "slice")
    if unit not in units:
        raise ValueError(f"unknown unit {unit!r}; expected one of {', '.join(units)}")
    return (scan.subject, scan.volume, scan.index)[: units.index(unit) + 1]


def expected_ssim(magnitude: Tensor, variance: Tensor) -> Tensor:
    """SSIM to be expected if the target is the image plus independent errors of known variance.

    In a window where the image has the mean m and variance v, and the errors the mean variance s,
    the target has the variance v + s and shares v with the image, and its mean is off by s / n
    (n pixels a window) in the square:

        E[SSIM] ~ (2 m^2 + C1) / (2 m^2 + s / n + C1) * (2 v + C2) / (2 v + s + C2),

    averaged over the windows. The data range is the image's largest pixel.

    Args:
        magnitude: (batch, height, width), each side at least 7.
        variance: of the errors, (batch, height, width) or (batch, 1, 1).

    Returns:
        float64 (batch,).
    """
    peak = _positive(magnitude.amax(dim=(-2, -1), keepdim=True))
    mean, own = _window_statistics(magnitude / peak)
    spread = variance / peak**2
    if spread.shape == magnitude.shape:
        spread = _window_mean(spread)
    luminance = 2 * mean**2 + SSIM_K1**2
    structure = 2 * own + SSIM_K2**2
    similar = luminance / (luminance + spread / SSIM_WINDOW**2) * structure / (structure + spread)
    return similar.double().mean(dim=(-2, -1))


def _of_scan(view: View, image: Tensor) -> dict[str, Tensor]:
    magnitude = image.abs()
    energy = magnitude.double().square().mean(dim=(-2, -1))
    zero_filled = center_crop(view.zero_filled, view.target_shape)
    made_up = (image - zero_filled).abs().double().square().mean(dim=(-2, -1))
    peak = _positive(magnitude.amax(dim=(-2, -1), keepdim=True))
    _, variance = _window_statistics(magnitude / peak)
    flat = SSIM_K2**2 / (2 * variance + SSIM_K2**2)
    found = {}
    if view.transform.is_cartesian:
        lines = _line_energies(view)
        noise = (lines["missing_energy"] * energy).to(magnitude.dtype)[:, None, None]
        found = {name: _log(value) for name, value in lines.items()}
        found["missing_ssim"] = expected_ssim(magnitude, noise)
    return found | {
        "acquired": view.n_acquired.double() / view.measurable.sum(dim=1).clamp(min=1),
        "flatness": flat.double().mean(dim=(-2, -1)),
        "foreground": (magnitude > _FOREGROUND * peak).double().mean(dim=(-2, -1)),
        "change": _log(made_up / _positive(energy)),
    }


def _of_uncertainty(magnitude: Tensor, uncertainty: Tensor) -> dict[str, Tensor]:
    peak = _positive(magnitude.amax(dim=(-2, -1)))
    foreground = (magnitude > _FOREGROUND * peak[:, None, None]).double()
    count = foreground.sum(dim=(-2, -1)).clamp(min=1)
    mean = (uncertainty * foreground).sum(dim=(-2, -1)) / count
    energy = (magnitude.double().square() * foreground).sum(dim=(-2, -1)) / count
    block = min(_BLOCK, *magnitude.shape[-2:])
    blocks = functional.avg_pool2d(uncertainty[:, None], block)
    variance = uncertainty.square()
    whole = magnitude.double().square().sum(dim=(-2, -1))
    return {
        "uncertainty": _log(mean / _positive(energy).sqrt()),
        "largest_uncertainty": _log(blocks.amax(dim=(1, 2, 3)) / peak),
        "expected_nmse": _log(variance.double().sum(dim=(-2, -1)) / _positive(whole)),
        "expected_ssim": expected_ssim(magnitude, variance),
    }


def _of_evaluator(view: View, evaluator: Evaluator) -> dict[str, Tensor]:
    missing = view.measurable & ~view.mask
    scores = line_scores(evaluator, view).double()
    mean = (scores * missing).sum(dim=1) / missing.sum(dim=1).clamp(min=1)
    lowest = scores.masked_fill(~missing, torch.inf).amin(dim=1)
    complete = ~missing.any(dim=1)
    return {
        "evaluator_mean": mean.masked_fill(complete, 1.0),
        "evaluator_lowest": lowest.masked_fill(complete, 1.0),
    }


def _line_energies(view: View) -> dict[str, Tensor]:
    """Features of the energies of acquired lines, before the logarithm."""
    transform = cartesian(view.transform)
    samples = view.measurement.kspace.abs().double().square().sum(dim=1)  # (batch, height, width)
    samples = samples / _positive(samples.sum(dim=(-2, -1)))[:, None, None]
    energy = view.log.samples.abs().double().square().sum(dim=(2, 3))
    energy = transform.own(energy / _positive(energy.sum(dim=1, keepdim=True)))
    acquired, exists = transform.own(view.mask), transform.own(view.measurable)
    distance = line_distances(transform.own_shape, energy.device)
    missing = exists & ~acquired
    outer = (distance * acquired).topk(min(_OUTER, energy.shape[1]), dim=1).indices
    features = {
        "outer_energy": energy.gather(1, outer).mean(dim=1) * acquired.sum(dim=1),
        "missing_energy": _share(power_law(energy, acquired, distance), missing),
    }
    if view.geometry.has_lines:
        features["isotropic_energy"] = _share(_like_the_readout(samples, view), missing)
    return features


def _share(expected: Tensor, missing: Tensor) -> Tensor:
    """Expected energy of missing lines over that of all; the acquired ones hold 1."""
    absent = (expected * missing).sum(dim=1)
    return absent / (1 + absent)


def _like_the_readout(samples: Tensor, view: View) -> Tensor:
    """Energy of every line if both axes of k-space were alike: (batch, line)."""
    samples = (
        samples.transpose(1, 2) if view.geometry.are_rows else samples
    )  # (batch, readout, line)
    readout, n_lines = samples.shape[1:]
    profile = samples.sum(dim=2)
    offset = torch.arange(n_lines, device=samples.device) - n_lines // 2
    place = (offset.double() * readout / n_lines).round().long() + readout // 2
    mirror = (2 * (readout // 2) - place).clamp(max=readout - 1)
    both = profile[:, place.clamp(0, readout - 1)] + profile[:, mirror]
    # The same energy, spread over another number of lines.
    return both / 2 * readout / n_lines


def _window_statistics(image: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and sample variance of every window that fits, as SSIM takes them."""
    mean = _window_mean(image)
    variance = SAMPLE_SCALE * (_window_mean(image.square()) - mean.square())
    return mean, variance.clamp(min=0)


def _window_mean(image: Tensor) -> Tensor:
    rows = functional.avg_pool2d(image[:, None], (SSIM_WINDOW, 1), stride=1)
    return functional.avg_pool2d(rows, (1, SSIM_WINDOW), stride=1)[:, 0]


def _positive(value: Tensor) -> Tensor:
    """The value, or 1 where it is 0, to divide by."""
    return torch.where(value > 0, value, torch.ones_like(value))


def _log(ratio: Tensor) -> Tensor:
    return ratio.double().clamp(min=_SMALLEST).log10()
