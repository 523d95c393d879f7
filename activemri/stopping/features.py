"""Features of a scan that tell of the quality of its image without the truth.

They are numbers computed from a :class:`View`: from the acquired samples, the reconstruction, its
uncertainty and the evaluator's scores. :mod:`activemri.stopping.predictor` turns them into a
predicted score. What the reconstructor does not give is absent, never zero. :class:`Curves` holds
them along whole episodes: one roll-out serves every threshold.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

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

#: Names of features, see :func:`scan_features`.
_QUANTILES = {10: 0.1, 25: 0.25, 50: 0.5, 75: 0.75, 90: 0.9}  # of windows, by percent
_BANDS = 6  # octaves along the readout, the outermost first
OF_SCAN = (
    "acquired", "outer_energy", "missing_energy", "isotropic_energy", "missing_ssim", "flatness",
    "foreground", "change", *(f"texture_{percent}" for percent in _QUANTILES),
    *(f"{lines}_band_{band}" for lines in ("start", "outer") for band in range(_BANDS)),
)  # fmt: skip
OF_UNCERTAINTY = (
    "uncertainty", "largest_uncertainty", "expected_nmse", "expected_ssim",
    *(f"similarity_{percent}" for percent in _QUANTILES),
)  # fmt: skip
OF_EVALUATOR = ("evaluator_mean", "evaluator_lowest")

#: Pixels brighter than this share of the brightest one are foreground.
_FOREGROUND = 0.1
_BLOCK = 8  # pixels along the side of the blocks whose largest mean uncertainty counts
_OUTER = 4  # outermost acquired lines that show how strong texture and noise are
_SMALLEST = 1e-12  # below that ratios are taken for zero, so that their logarithm exists


@dataclass(frozen=True, eq=False)
class Curves:
    """Episodes to the end of the budget, each continued with its last values, (episode, step).

    True scores by metric, and features of :func:`scan_features`. Scans are there several times if
    several seeds were played.
    """

    scans: tuple[SliceInfo, ...]
    n_acquired: NDArray[np.int64]
    scores: dict[str, Floats]
    features: dict[str, Floats]

    def __len__(self) -> int:
        return len(self.scans)

    def units(self, unit: str) -> NDArray[np.intp]:
        """Subject, volume or slice of each episode, see :func:`unit_of`: numbers 0 .. n - 1."""
        units = [unit_of(scan, unit) for scan in self.scans]
        numbers = {one: number for number, one in enumerate(dict.fromkeys(units))}
        return np.array([numbers[one] for one in units], np.intp)

    def select(self, rows: NDArray[np.bool_]) -> "Curves":
        """The episodes where `rows`, (episode,), is true."""
        scores, features = (
            {name: values[rows] for name, values in of.items()}
            for of in (self.scores, self.features)
        )
        scans = tuple(compress(self.scans, rows.tolist()))
        return Curves(scans, self.n_acquired[rows], scores, features)

    @classmethod
    def join(cls, parts: Sequence["Curves"]) -> "Curves":
        """All episodes of several; features that some lack are left out."""
        n_steps = max(part.n_acquired.shape[1] for part in parts)

        def joined(values: Sequence[NDArray[Any]]) -> NDArray[Any]:
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


def unit_of(scan: SliceInfo, unit: str) -> tuple[object, ...]:
    """The subject, volume or slice that a slice belongs to; other units are a ValueError."""
    units = ("subject", "volume", "slice")
    if unit not in units:
        raise ValueError(f"unknown unit {unit!r}; expected one of {', '.join(units)}")
    return (scan.subject, scan.volume, scan.index)[: units.index(unit) + 1]


def play_recorded(
    scan: Scan,
    policy: Policy,
    slices: Sequence[Slice],
    *,
    evaluator: Evaluator | None = None,
    seed: int = 0,
    starts: Sequence[State] | None = None,
    on_step: OnStep | None = None,
) -> tuple[Episodes, dict[str, Floats]]:
    """:func:`activemri.agents.rollout.rollout`, and features of every step, (episode, step)."""
    steps: list[dict[str, Tensor]] = []

    def record(step: int, state: State) -> None:
        steps.append(scan_features(state.view, evaluator))
        if on_step is not None:
            on_step(step, state)

    episodes = rollout(scan, policy, slices, seed=seed, starts=starts, on_step=record)
    by_name = {name: torch.stack([step[name] for step in steps], dim=1) for name in steps[0]}
    return episodes, {name: values.cpu().numpy() for name, values in by_name.items()}


def quality_curves(
    scan: Scan,
    policy: Policy,
    dataset: SliceDataset,
    *,
    evaluator: Evaluator | None = None,
    seed: int = 0,
    batch_size: int = 16,
) -> Curves:
    """Play a policy on all slices to the end of the budget and record what stopping needs.

    Seeds are those of :func:`activemri.agents.rollout.rollout`.
    """
    parts = []
    for group in batches_of_a_kind(dataset, range(len(dataset)), batch_size):
        slices = [dataset[position] for position in group]
        for rows in rows_of_a_kind(slices):
            batch = [slices[row] for row in rows]
            played, features = play_recorded(scan, policy, batch, evaluator=evaluator, seed=seed)
            scores = {name: values.numpy() for name, values in played.scores.items()}
            parts.append(Curves(played.scans, played.n_acquired.numpy(), scores, features))
    return Curves.join(parts)


def scan_features(view: View, evaluator: Evaluator | None = None) -> dict[str, Tensor]:
    """All features that a view allows for, float64 (batch,) by name.

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

        texture_10, _25, _50, _75, _90: log10 of quantiles, in percent, of the windows' variances.
        start_band_0 .. _5: log10 of the share of the energy of the lines of the start in octaves
            along the readout, the outermost first: tissue, its detail, and noise.
        outer_band_0 .. _5: the same of the mean of the four outermost acquired lines, over the
            energy of the start: what comes in last. Both absent where there are no lines.

    Of the uncertainty (a standard deviation per pixel):
        uncertainty: log10 of its mean over the foreground over the foreground's root mean square.
        largest_uncertainty: log10 of the largest mean over 8 x 8 blocks over the brightest pixel.
        expected_nmse: log10 of its energy over that of the image.
        expected_ssim: see :func:`expected_ssim`.
        similarity_10, _25, _50, _75, _90: quantiles, in percent, of its values in the windows.

    Of the evaluator, which scores lines of k-space:
        evaluator_mean: mean score over the lines that are missing (1 if none is).
        evaluator_lowest: the lowest of those scores.

    All but the evaluator's look at the central part that is scored.
    """
    image = center_crop(view.reconstruction.image, view.target_shape)
    magnitude = image.abs()
    squared = magnitude.double().square()
    energy = squared.mean(dim=(-2, -1))
    made_up = image - center_crop(view.zero_filled, view.target_shape)
    peak = _positive(magnitude.amax(dim=(-2, -1), keepdim=True))
    foreground = (magnitude > _FOREGROUND * peak).double()
    _, texture = _window_statistics(magnitude / peak)
    found = {
        "acquired": view.n_acquired.double() / view.measurable.sum(dim=1).clamp(min=1),
        "flatness": (SSIM_K2**2 / (2 * texture + SSIM_K2**2)).double().mean(dim=(-2, -1)),
        "foreground": foreground.mean(dim=(-2, -1)),
        "change": _log(made_up.abs().double().square().mean(dim=(-2, -1)) / _positive(energy)),
        **{name: _log(value) for name, value in _quantiles("texture", texture).items()},
    }
    if view.transform.is_cartesian:
        lines = _line_energies(view)
        missing = (lines["missing_energy"] * energy).to(magnitude.dtype)[:, None, None]
        found |= {name: _log(value) for name, value in lines.items()}
        found["missing_ssim"] = expected_ssim(magnitude, missing)
    if view.geometry.has_lines:
        found |= _band_energies(view)
    if view.reconstruction.uncertainty is not None:
        uncertainty = center_crop(view.reconstruction.uncertainty, view.target_shape)
        uncertainty = uncertainty.to(magnitude.dtype)
        count = foreground.sum(dim=(-2, -1)).clamp(min=1)
        mean = (uncertainty * foreground).sum(dim=(-2, -1)) / count
        bright = (squared * foreground).sum(dim=(-2, -1)) / count
        block = min(_BLOCK, *magnitude.shape[-2:])
        blocks = functional.avg_pool2d(uncertainty[:, None], block)
        variance = uncertainty.square()
        expected = variance.double().sum(dim=(-2, -1))
        similar = _expected_similarity(magnitude, variance)
        found |= {
            "uncertainty": _log(mean / _positive(bright).sqrt()),
            "largest_uncertainty": _log(blocks.amax(dim=(1, 2, 3)) / peak[:, 0, 0]),
            "expected_nmse": _log(expected / _positive(squared.sum(dim=(-2, -1)))),
            "expected_ssim": similar.double().mean(dim=(-2, -1)),
            **_quantiles("similarity", similar),
        }
    if evaluator is not None and view.geometry.has_lines:
        absent = view.measurable & ~view.mask
        scores = line_scores(evaluator, view).double()
        mean = (scores * absent).sum(dim=1) / absent.sum(dim=1).clamp(min=1)
        lowest = scores.masked_fill(~absent, torch.inf).amin(dim=1)
        complete = ~absent.any(dim=1)
        found["evaluator_mean"] = mean.masked_fill(complete, 1.0)
        found["evaluator_lowest"] = lowest.masked_fill(complete, 1.0)
    return {name: value.double() for name, value in found.items()}


def expected_ssim(magnitude: Tensor, variance: Tensor) -> Tensor:
    """SSIM to be expected if the target is the image plus independent errors of known variance.

    In a window where the image has the mean m and variance v, and the errors the mean variance s,
    the target has the variance v + s and shares v with the image, and its mean is off by s / n
    (n pixels a window) in the square:

        E[SSIM] ~ (2 m^2 + C1) / (2 m^2 + s / n + C1) * (2 v + C2) / (2 v + s + C2),

    averaged over the windows, float64 (batch,). The data range is the image's largest pixel. Images
    are (batch, height, width), each side at least 7, variances that or (batch, 1, 1).
    """
    return _expected_similarity(magnitude, variance).double().mean(dim=(-2, -1))


def _expected_similarity(magnitude: Tensor, variance: Tensor) -> Tensor:
    """Of :func:`expected_ssim` the value in every window that fits."""
    peak = _positive(magnitude.amax(dim=(-2, -1), keepdim=True))
    mean, own = _window_statistics(magnitude / peak)
    spread = variance / peak**2
    if spread.shape == magnitude.shape:
        spread = _window_mean(spread)
    luminance = 2 * mean**2 + SSIM_K1**2
    structure = 2 * own + SSIM_K2**2
    return luminance / (luminance + spread / SSIM_WINDOW**2) * structure / (structure + spread)


def _quantiles(name: str, windows: Tensor) -> dict[str, Tensor]:
    levels = torch.tensor([*_QUANTILES.values()], dtype=windows.dtype, device=windows.device)
    values = windows.flatten(1).quantile(levels, dim=1)
    return {f"{name}_{percent}": one for percent, one in zip(_QUANTILES, values, strict=True)}


def _line_energies(view: View) -> dict[str, Tensor]:
    """Features of the energies of acquired lines, before the logarithm."""
    transform = cartesian(view.transform)
    energy = view.log.samples.abs().double().square().sum(dim=(2, 3))
    energy = transform.own(energy / _positive(energy.sum(dim=1, keepdim=True)))
    acquired = transform.own(view.mask)
    missing = transform.own(view.measurable) & ~acquired
    distance = line_distances(transform.own_shape, energy.device)
    outer = _outermost(distance, acquired)

    def share(expected: Tensor) -> Tensor:
        """Expected energy of missing lines over that of all; the acquired ones hold 1."""
        absent = (expected * missing).sum(dim=1)
        return absent / (1 + absent)

    features = {
        "outer_energy": energy.gather(1, outer).mean(dim=1) * acquired.sum(dim=1),
        "missing_energy": share(power_law(energy, acquired, distance)),
    }
    if view.geometry.has_lines:
        samples = view.measurement.kspace.abs().double().square().sum(dim=1)
        samples = samples / _positive(samples.sum(dim=(-2, -1)))[:, None, None]
        if view.geometry.are_rows:
            samples = samples.transpose(1, 2)  # (batch, readout, line)
        readout, n_lines = samples.shape[1:]
        profile = samples.sum(dim=2)
        offset = torch.arange(n_lines, device=samples.device) - n_lines // 2
        place = (offset.double() * readout / n_lines).round().long() + readout // 2
        mirror = (2 * (readout // 2) - place).clamp(max=readout - 1)
        both = profile[:, place.clamp(0, readout - 1)] + profile[:, mirror]
        # The same energy, spread over another number of lines.
        features["isotropic_energy"] = share(both / 2 * readout / n_lines)
    return features


def _outermost(distance: Tensor, acquired: Tensor) -> Tensor:
    """Places of the outermost acquired lines, int64 (batch, at most 4)."""
    return (distance * acquired).topk(min(_OUTER, acquired.shape[1]), dim=1).indices


def _band_energies(view: View) -> dict[str, Tensor]:
    """Energies of lines along the readout, over the energy of the lines of the start."""
    energy = view.log.samples.abs().double().square().sum(dim=2)  # (batch, line, sample)
    n_lines, n_samples = energy.shape[1:]
    place = torch.arange(n_samples, device=energy.device) - n_samples // 2
    octave = (n_samples / 2 / place.abs().clamp(min=1)).log2().long().clamp(max=_BANDS - 1)
    profile = (energy * view.start_mask[..., None]).sum(dim=1)
    whole = _positive(profile.sum(dim=1, keepdim=True))
    in_band = functional.one_hot(octave, _BANDS).double()
    offset = torch.arange(n_lines, device=energy.device).double() - n_lines // 2
    outer = _outermost(offset.abs(), view.mask)[..., None].expand(-1, -1, _BANDS)
    last = (energy @ in_band).gather(1, outer).mean(dim=1)
    bands = {"start": profile @ in_band / whole, "outer": last / whole}
    return {
        f"{lines}_band_{band}": _log(values[:, band])
        for lines, values in bands.items()
        for band in range(_BANDS)
    }


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
