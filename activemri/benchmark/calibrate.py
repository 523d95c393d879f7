"""`activemri calibrate`: measure uncertainties on some subjects, correct them on others.

A scan is judged at four moments of an episode, from its centre lines alone to its whole budget. The
lines acquired by then are those of policies that look at no image (random, variable-density,
low-frequency-first or equispaced, drawn for each scan and moment).

Uncertainties are judged on the foreground. The correction is fitted on all pixels, since it must
serve whole images whose foreground nobody knows: fitted on the foreground alone it made the
background far too uncertain.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from activemri import metrics
from activemri.agents.episode_masks import EpisodeMasks, record_episodes
from activemri.benchmark.calibration import Calibration, Case, foreground, measure
from activemri.benchmark.calibration_report import Example, table, write_json, write_plot
from activemri.benchmark.resampling import Floats
from activemri.data.index import progress
from activemri.data.slices import SliceDataset
from activemri.data.sources import open_dataset
from activemri.data.volumes import evenly_spaced
from activemri.devices import usable
from activemri.envs.protocol import ScanProtocol
from activemri.metrics.reference import center_crop
from activemri.reconstruction.dropout import MonteCarloDropout
from activemri.reconstruction.ensemble import Ensemble
from activemri.reconstruction.recalibrated import Recalibrated, fit_knots, root_mean_square
from activemri.reconstruction.reconstructor import (
    Reconstruction,
    Reconstructor,
    gives_uncertainty,
)
from activemri.reconstruction.registry import make_reconstructor, save_reconstructor
from activemri.settings import CalibrateSettings
from activemri.training.batches import Batch, make_batch

Selection = Callable[[NDArray[np.floating]], NDArray[np.bool_]]

N_MOMENTS = 4
_POLICIES = ("low-frequency-first", "equispaced")  # and those that masks are drawn from anyway
_N_PIXELS = 20_000  # of a scan at a moment; from larger images so many are drawn at random
_N_VISITS = 8  # scans that these policies are recorded on; what they do depends on sizes alone


@dataclass(frozen=True, eq=False)
class Scans:
    """Scans of one split with the masks of all moments, the same every time.

    Attributes:
        dataset: of the split.
        positions: which scans of it.
        moments: source of the moments of episodes.
        steps: readouts since the start at each moment.
        seed: of the draws.
    """

    dataset: SliceDataset
    positions: Sequence[int]
    moments: EpisodeMasks
    steps: Sequence[int]
    seed: int

    @property
    def subjects(self) -> set[str]:
        return {self.dataset.describe(position).subject for position in self.positions}

    def batch(self, position: int) -> Batch:
        """One scan at all moments."""
        info = self.dataset.describe(position)
        moments = [
            self.moments(info, np.random.default_rng([self.seed, position, step]), step=step)
            for step in self.steps
        ]
        return make_batch(self.moments.scan, [self.dataset[position]] * len(moments), moments)


def run_calibration(settings: CalibrateSettings) -> str:
    """Measure, correct, measure again, and write all of it.

    Returns:
        A table to print.

    Raises:
        ValueError: no uncertainty to measure, splits that do not exist or share subjects, or
            reconstructors that do not exist.
        OSError: the output folder cannot be written.
    """
    _make_folder(settings)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    reconstructor = assembled(settings)
    scans, fit_scans = _open(settings)
    fit_cases = collect(reconstructor, fit_scans, pixels=everywhere)
    seen = partial(foreground, fraction=settings.foreground)
    cases = collect(reconstructor, scans, pixels=seen)
    recalibrated = fitted(reconstructor, fit_cases, n_knots=settings.n_knots)
    corrected = [_corrected(case, recalibrated) for case in cases]
    before, after = (_measured(found, settings) for found in (cases, corrected))
    counts = {settings.split: _counts(cases), settings.fit_split: _counts(fit_cases)}
    write_json(
        settings.out / "calibration.json",
        settings=asdict(settings),
        counts=counts,
        before=before,
        after=after,
        knots=(recalibrated.settings["predicted"], recalibrated.settings["observed"]),
        by_step={
            step: tuple(
                _measured([case for case in found if case.step == step], settings)
                for found in (cases, corrected)
            )
            for step in scans.steps
        },
    )
    example = _example(scans, cases, before, recalibrated)
    name = " + ".join(settings.reconstructors)
    write_plot(settings.out / "calibration.png", before, after, example=example, cases=cases)
    saved = save_reconstructor(
        settings.out / "recalibrated", recalibrated, info=_info(settings, counts, before, after)
    )
    return table(before, after, name=name, counts=counts, checkpoint=saved)


def assembled(settings: CalibrateSettings) -> Reconstructor:
    """One reconstructor: with dropout if asked for, an ensemble if several are named."""
    names = settings.reconstructors
    if len(set(names)) < len(names):
        raise ValueError("--reconstructors: an ensemble needs different members; got one twice")
    members = [make_reconstructor(name) for name in names]
    if settings.dropout_samples is not None:
        members = [
            MonteCarloDropout(member, settings.dropout_samples, seed=settings.seed)
            for member in members
        ]
    whole = members[0] if len(members) == 1 else Ensemble(members)
    whole = whole.to(usable(settings.device)).eval()
    if not gives_uncertainty(whole):
        raise _no_uncertainty(whole)
    return whole


def _no_uncertainty(reconstructor: Reconstructor) -> ValueError:
    return ValueError(
        f"{type(reconstructor).__name__} gives no uncertainty to calibrate; name a reconstructor "
        "that does (cresnet), several checkpoints for an ensemble, or --dropout-samples for a "
        "network with dropout"
    )


@torch.no_grad()
def collect(
    reconstructor: Reconstructor, scans: Scans, *, pixels: Selection = foreground
) -> list[Case]:
    """Predictions and errors of every scan at every moment.

    Args:
        reconstructor: whose.
        scans: at their moments.
        pixels: target (height, width) to those that count, bool of the same shape.

    Raises:
        ValueError: the reconstructor gives no uncertainty.
    """
    cases: list[Case] = []
    for position in progress(scans.positions, f"Measuring {scans.dataset.name}", unit="slice"):
        batch = scans.batch(position)
        result = reconstructor(batch.measurement)
        if result.uncertainty is None:
            raise _no_uncertainty(reconstructor)
        info = scans.dataset.describe(position)
        maps = relative_maps(batch, result)
        for row, step in enumerate(scans.steps):
            places = np.flatnonzero(pixels(batch.target[row].cpu().numpy()))
            if len(places) > _N_PIXELS:
                rng = np.random.default_rng([scans.seed, position, step])
                places = rng.choice(places, _N_PIXELS, replace=False)
            values = (image[row].ravel()[places] for image in maps)
            cases.append(Case(info.volume, info.index, info.subject, step, *values))
    return cases


def everywhere(target: NDArray[np.floating]) -> NDArray[np.bool_]:
    """All pixels."""
    return np.ones(target.shape, dtype=bool)


def relative_maps(batch: Batch, result: Reconstruction) -> tuple[Floats, Floats]:
    """Uncertainty and absolute error of magnitudes in units of the image's root mean square.

    Returns:
        Two float64 arrays (batch, target height, target width).
    """
    assert result.uncertainty is not None
    scale = root_mean_square(result.image).cpu().double()  # not every device has doubles
    scale = scale.clamp(min=torch.finfo(torch.float32).tiny)
    shape = (batch.target.shape[-2], batch.target.shape[-1])
    error = (batch.cropped(result.image) - batch.target).abs()
    predicted = center_crop(result.uncertainty, shape).cpu() / scale
    return predicted.numpy(), (error.cpu() / scale).numpy()


def fitted(reconstructor: Reconstructor, cases: Sequence[Case], *, n_knots: int) -> Recalibrated:
    """The reconstructor with uncertainties of the size that the errors of these scans had."""
    predicted, observed = fit_knots(
        np.concatenate([case.predicted for case in cases]),
        np.concatenate([case.error for case in cases]),
        n_knots=n_knots,
    )
    device = next((w.device for w in reconstructor.parameters()), torch.device("cpu"))
    return Recalibrated(reconstructor, predicted=predicted, observed=observed).to(device).eval()


def _corrected(case: Case, recalibrated: Recalibrated) -> Case:
    device = recalibrated.log_predicted.device
    relative = torch.from_numpy(case.predicted).float().to(device)
    return replace(case, predicted=recalibrated.recalibrate(relative).cpu().double().numpy())


def _measured(cases: Sequence[Case], settings: CalibrateSettings) -> Calibration:
    return measure(cases, seed=settings.seed, n_resamples=settings.n_bootstrap)


def _open(settings: CalibrateSettings) -> tuple[Scans, Scans]:
    """Scans to measure on, and scans to fit on."""
    datasets = {}
    for option, split in (("--split", settings.split), ("--fit-split", settings.fit_split)):
        try:
            datasets[option] = open_dataset(
                settings.data,
                split=split,
                matrix_size=settings.matrix,
                slices_per_volume=settings.slices_per_volume,
            )
        except ValueError as error:
            raise ValueError(f"{option} {split}: {error}") from error
    measured, fitting = (_scans(dataset, settings) for dataset in datasets.values())
    shared = sorted(measured.subjects & fitting.subjects)
    if shared:
        raise ValueError(
            "the correction must be fitted on other subjects than those it is measured on; in "
            f"--split {settings.split} and in --fit-split {settings.fit_split} are: "
            f"{', '.join(shared[:5])}{' ...' if len(shared) > 5 else ''}"
        )
    return measured, fitting


def _scans(dataset: SliceDataset, settings: CalibrateSettings) -> Scans:
    protocol = ScanProtocol(
        n_center_lines=settings.n_center_lines,
        budget=settings.budget,
        sensitivity=settings.sensitivity,
    )
    scan = replace(protocol.scan(dataset, device=usable(settings.device)), metrics=())
    moments = record_episodes(
        dataset, scan, policies=_POLICIES, n_scans=_N_VISITS, seed=settings.seed
    )
    return Scans(
        dataset,
        evenly_spaced(range(len(dataset)), settings.max_slices),
        moments,
        [int(step) for step in np.unique(np.linspace(0, settings.budget, N_MOMENTS).round())],
        settings.seed,
    )


@torch.no_grad()
def _example(
    scans: Scans, cases: Sequence[Case], found: Calibration, recalibrated: Recalibrated
) -> Example:
    """A scan in the middle: after a third of the budget, of median rank correlation."""
    step = scans.steps[min(1, len(scans.steps) - 1)]
    of_step = [i for i, case in enumerate(cases) if case.step == step]
    ranked = sorted(of_step, key=lambda i: np.nan_to_num(found.spearman[i], nan=-2))
    middle = ranked[len(ranked) // 2]
    batch = scans.batch(scans.positions[middle // len(scans.steps)])
    row = middle % len(scans.steps)
    result = recalibrated(batch.measurement)
    uncertainty, error = relative_maps(batch, result)
    case = cases[middle]
    magnitude = batch.cropped(result.image)
    ssim = metrics.ssim(magnitude, batch.target, data_range=batch.data_range)
    return Example(
        f"{case.volume}, slice {case.slice}",
        int(batch.measurement.operator.mask[row].any(dim=0).sum()),
        float(ssim[row]),
        float(found.spearman[middle]),
        magnitude[row].cpu().numpy(),
        error[row],
        uncertainty[row],
    )


def _counts(cases: Sequence[Case]) -> dict[str, int]:
    return {
        "subjects": len({case.subject for case in cases}),
        "slices": len({(case.volume, case.slice) for case in cases}),
        "moments": len({case.step for case in cases}),
        "pixels": sum(len(case.error) for case in cases),
    }


def _info(
    settings: CalibrateSettings,
    counts: dict[str, dict[str, int]],
    before: Calibration,
    after: Calibration,
) -> dict[str, object]:
    """What the checkpoint tells about itself."""

    def plain(found: Calibration) -> dict[str, float | None]:
        values = {name: one.value for name, one in found.numbers.items()}
        return {name: None if math.isnan(value) else value for name, value in values.items()}

    return {
        "data": settings.data,
        "matrix": settings.matrix,
        "n_center_lines": settings.n_center_lines,
        "budget": settings.budget,
        "made_of": list(settings.reconstructors),
        "fitted_on": {"split": settings.fit_split, **counts[settings.fit_split]},
        "measured_on": {"split": settings.split, **counts[settings.split]},
        "metrics": {"before": plain(before), "after": plain(after)},
    }


def _make_folder(settings: CalibrateSettings) -> None:
    try:
        settings.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"cannot write into {settings.out}: {error.strerror or error}") from error
