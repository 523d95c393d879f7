"""`activemri calibrate`: measure uncertainties on some subjects, correct them on others.

A scan is judged at four moments of an episode, from its start alone to its whole budget. The
readouts acquired by then are those of policies that look at no image (random, variable-density,
low-frequency-first or equispaced, drawn for each scan and moment), under any geometry and scanner.

Uncertainties are judged on the foreground. The correction is fitted on all pixels, since it must
serve whole images whose foreground nobody knows: fitted on the foreground alone it made the
background far too uncertain.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from tyro.conf import OmitArgPrefixes, arg

from activemri import __version__, files, metrics
from activemri.agents.episode_masks import record_episodes
from activemri.benchmark import calibration
from activemri.benchmark.calibration import NUMBERS, Calibration, Case, foreground
from activemri.benchmark.resampling import FEWEST_SUBJECTS, TOO_FEW, Floats, Interval
from activemri.data.volumes import evenly_spaced
from activemri.envs.protocol import ScanProtocol
from activemri.metrics.reference import center_crop
from activemri.options import Compute, RunOptions
from activemri.progress import track
from activemri.reconstruction.ensemble import Ensemble, MonteCarloDropout
from activemri.reconstruction.recalibrated import Recalibrated, fit_knots, root_mean_square
from activemri.reconstruction.reconstructor import Reconstruction, Reconstructor, gives_uncertainty
from activemri.reconstruction.registry import make_reconstructor, save_reconstructor
from activemri.tables import Cell, Table
from activemri.training.batches import Batch
from activemri.training.validation import Validation

_POLICIES = ("low-frequency-first", "equispaced")  # and those that are drawn anyway
_N_RECORDED = 8  # scans that these policies are recorded on; what they do depends on sizes alone
_N_PIXELS = 20_000  # of a scan at a moment; from larger images so many are drawn at random
_WRITTEN = ("calibration.*", "recalibrated.*")
_UNIT = "root mean square of the image"


@dataclass(frozen=True, kw_only=True)
class CalibrateSettings:
    """Measure how well uncertainties foretell errors, and correct their size.

    Writes calibration.json (all numbers with intervals over subjects, before and after the
    correction), calibration.png, and the corrected reconstructor as a checkpoint,
    recalibrated.safetensors and recalibrated.json.
    """

    protocol: OmitArgPrefixes[ScanProtocol] = ScanProtocol(
        split="test", reconstructor="cresnet", budget=24
    )
    run: OmitArgPrefixes[RunOptions] = RunOptions(out=Path("runs/calibration"))
    compute: OmitArgPrefixes[Compute] = Compute()
    ensemble: Annotated[tuple[str, ...], arg(metavar="NAME [NAME ...]")] = ()
    """Names or checkpoints of several reconstructors that are an ensemble, instead of
    --reconstructor."""
    dropout_samples: int | None = None
    """Draw that many samples with Monte-Carlo dropout from each network; None draws none."""
    fit_split: str = "val"
    """Subjects to fit the correction on: others than those of --split."""
    n_knots: int = 32
    """Most knots of the correction, from 1 to 32; 1 is a single factor."""
    foreground: float = 0.1
    """Judge pixels where the target exceeds this share of its maximum; 0 takes all but black."""
    slices_per_volume: int | None = None
    """Take this many evenly spaced slices of each volume; None takes all."""
    max_slices: int | None = None
    """Take at most this many slices of each split, evenly; None takes all."""

    def __post_init__(self) -> None:
        expected = {
            "dropout-samples": (self.dropout_samples, 2, math.inf),
            "n-knots": (self.n_knots, 1, 32),
            "foreground": (self.foreground, 0, 0.999),
            "slices-per-volume": (self.slices_per_volume, 1, math.inf),
            "max-slices": (self.max_slices, 1, math.inf),
        }
        for name, (value, least, most) in expected.items():
            if value is not None and not least <= value <= most:
                above = "" if most == math.inf else f" to {most:g}"
                raise ValueError(f"--{name}: expected {least}{above or ' or more'}; got {value}")

    @property
    def members(self) -> tuple[Any, ...]:
        """Reconstructors that are calibrated together."""
        return self.ensemble or (self.protocol.reconstructor,)


@torch.no_grad()
def run_calibration(settings: CalibrateSettings) -> str:
    """Measure, correct, measure again, and write all of it; a table to print.

    Raises:
        ValueError: no uncertainty to measure, splits that do not exist or share subjects, or
            reconstructors that do not exist; a folder of something else, or with a calibration.
        OSError: the output folder cannot be written.
    """
    out, overwrite = settings.run.out, settings.run.overwrite
    files.require_claimable(out, "calibrate")
    files.require_free(out / "calibration.json", overwrite=overwrite)
    device = settings.compute.prepare()
    reconstructor = assembled(settings).to(device)
    scans, fit_scans = open_scans(settings, device=device)
    with files.claimed(out, "calibrate", overwrite=_WRITTEN if overwrite else ()):
        return _calibrate(settings, reconstructor, scans, fit_scans, device=device)


def _calibrate(
    settings: CalibrateSettings,
    reconstructor: Reconstructor,
    scans: Validation,
    fit_scans: Validation,
    *,
    device: torch.device,
) -> str:
    out, protocol = settings.run.out, settings.protocol
    fit_cases = collect(reconstructor, fit_scans, fraction=None)
    cases = collect(reconstructor, scans, fraction=settings.foreground)
    predicted, observed = fit_knots(
        np.concatenate([case.predicted for case in fit_cases]),
        np.concatenate([case.error for case in fit_cases]),
        n_knots=settings.n_knots,
    )
    recalibrated = Recalibrated(reconstructor, predicted=predicted, observed=observed)
    recalibrated = recalibrated.to(device).eval()
    corrected = []
    for case in cases:
        given = torch.from_numpy(case.predicted).float().to(device)
        right = recalibrated.recalibrate(given).cpu().double().numpy()
        corrected.append(replace(case, predicted=right))
    measured = partial(calibration.measure, seed=settings.run.seed)
    before, after = measured(cases), measured(corrected)
    counts = {
        split: {
            "subjects": len({case.subject for case in own}),
            "slices": len({(case.volume, case.slice) for case in own}),
            "moments": len({case.step for case in own}),
            "pixels": sum(len(case.error) for case in own),
        }
        for split, own in ((protocol.split, cases), (settings.fit_split, fit_cases))
    }

    def numbers(found: Calibration) -> dict[str, object]:
        return {key: asdict(one) for key, one in found.numbers.items()}

    def everything(found: Calibration) -> dict[str, object]:
        return {
            "numbers": numbers(found),
            "reliability": found.reliability,
            "sparsification": {
                "left_out": calibration.FRACTIONS,
                "by_uncertainty": found.sparsification,
                "oracle": found.oracle,
            },
            "spearman_of_scans": found.spearman,
        }

    content = {
        "package_version": __version__,
        "settings": asdict(settings) | {"protocol": protocol.changes},
        "counts": counts,
        "unit": _UNIT,
        "ideal": {key: ideal for key, (_, ideal) in NUMBERS.items()},
        "before": everything(before),
        "after": everything(after),
        "by_lines_acquired": {
            str(step): {
                name: numbers(measured([case for case in found if case.step == step]))
                for name, found in (("before", cases), ("after", corrected))
            }
            for step in scans.steps
        },
        "recalibration": {name: recalibrated.settings[name] for name in ("predicted", "observed")},
    }

    # The picture shows a scan in the middle: after a third of the budget, of median rank.
    step = scans.steps[min(1, len(scans.steps) - 1)]
    of_step = [i for i, case in enumerate(cases) if case.step == step]
    ranked = sorted(of_step, key=lambda i: np.nan_to_num(before.spearman[i], nan=-2))
    middle = ranked[len(ranked) // 2]
    place, row = divmod(middle, len(scans.steps))
    batch, case = scans.batch(scans.indices[place]), cases[middle]
    result = recalibrated(batch.measurement)
    uncertainty, error = relative_maps(batch, result)
    magnitude = batch.cropped(result.image)
    ssim = metrics.ssim(magnitude, batch.target, data_range=batch.data_range)
    title = (
        f"{case.volume}, slice {case.slice}: {int(batch.acquired[row].sum())} lines, "
        f"SSIM {float(ssim[row]):.3f}, Spearman {before.spearman[middle]:.2f}"
    )
    images = (magnitude[row].cpu().numpy(), error[row], uncertainty[row])
    calibration.write_plot(
        out / "calibration.png", before, after, cases=cases, title=title, images=images
    )

    def values(found: Calibration) -> dict[str, float]:
        return {name: one.value for name, one in found.numbers.items()}

    info: dict[str, Any] = {
        "data": str(protocol.data),
        "matrix_size": protocol.matrix_size,
        "n_center_lines": protocol.n_center_lines,
        "budget": protocol.budget,
        "made_of": [str(member) for member in settings.members],
        "fitted_on": {"split": settings.fit_split, **counts[settings.fit_split]},
        "measured_on": {"split": protocol.split, **counts[protocol.split]},
        "metrics": {"before": values(before), "after": values(after)},
    }
    saved = save_reconstructor(out / "recalibrated", recalibrated, info=info)
    name = " + ".join(info["made_of"])
    table = calibration_table(before, after, name=name, counts=counts)
    files.write_json(out / "calibration.json", content)  # last: it says that all is there
    return f"{table.text()}\n{saved}.safetensors"


def assembled(settings: CalibrateSettings) -> Reconstructor:
    """One reconstructor: with dropout samples if any, an ensemble if several are named."""
    names = settings.members
    if len(set(map(str, names))) < len(names):
        raise ValueError("--ensemble: an ensemble needs different members; got one twice")
    members = [make_reconstructor(name) for name in names]
    if settings.dropout_samples is not None:
        members = [
            MonteCarloDropout(member, settings.dropout_samples, seed=settings.run.seed)
            for member in members
        ]
    whole = (members[0] if len(members) == 1 else Ensemble(members)).eval()
    if not gives_uncertainty(whole):
        raise ValueError(
            f"{type(whole).__name__} gives no uncertainty to calibrate; name a reconstructor that "
            "does (cresnet), several checkpoints for an --ensemble, or --dropout-samples for a "
            "network with dropout"
        )
    return whole


@torch.no_grad()
def collect(
    reconstructor: Reconstructor,
    scans: Validation,
    *,
    fraction: float | None = calibration.FOREGROUND,
) -> list[Case]:
    """Predictions and errors of every scan at every moment.

    Pixels count above a fraction of the target's maximum; None takes all.
    """
    cases: list[Case] = []
    for position in track(scans.indices, f"measure {scans.scans.name}", unit="slice"):
        batch, info = scans.batch(position), scans.infos[position]
        maps = relative_maps(batch, reconstructor(batch.measurement))
        for row, step in enumerate(scans.steps):
            target = batch.target[row].cpu().numpy()
            places = np.arange(target.size)
            if fraction is not None:
                places = np.flatnonzero(foreground(target, fraction=fraction))
            if len(places) > _N_PIXELS:
                rng = np.random.default_rng([scans.seed, position, step])
                places = rng.choice(places, _N_PIXELS, replace=False)
            values = (image[row].ravel()[places] for image in maps)
            cases.append(Case(info.volume, info.index, info.subject, step, *values))
    return cases


def relative_maps(batch: Batch, result: Reconstruction) -> tuple[Floats, Floats]:
    """Uncertainty and absolute error of magnitudes in units of the image's root mean square.

    float64 (batch, target height, target width) each.
    """
    assert result.uncertainty is not None
    scale = root_mean_square(result.image).cpu().double()  # not every device has doubles
    scale = scale.clamp(min=torch.finfo(torch.float32).tiny)
    shape = (batch.target.shape[-2], batch.target.shape[-1])
    error = (batch.cropped(result.image) - batch.target).abs()
    predicted = center_crop(result.uncertainty, shape).cpu() / scale
    return predicted.numpy(), (error.cpu() / scale).numpy()


def open_scans(
    settings: CalibrateSettings, *, device: torch.device | str = "cpu"
) -> tuple[Validation, Validation]:
    """Scans to measure on, and scans of other subjects to fit on, at moments of their episodes."""
    protocol, seed = replace(settings.protocol, reconstructor="zero-filled"), settings.run.seed
    found = []
    for option, split in (("--split", protocol.split), ("--fit-split", settings.fit_split)):
        try:
            dataset = protocol.dataset(split, slices_per_volume=settings.slices_per_volume)
        except ValueError as error:
            raise ValueError(f"{option} {split}: {error}") from error
        scan = replace(protocol.scan(dataset, device=device), metrics=())
        moments = record_episodes(dataset, scan, policies=_POLICIES, n_scans=_N_RECORDED, seed=seed)
        chosen = evenly_spaced(range(len(dataset)), settings.max_slices)
        found.append(Validation(dataset, moments, seed=seed, indices=chosen))
    of_test, of_fit = ({scans.infos[index].subject for index in scans.indices} for scans in found)
    if shared := sorted(of_test & of_fit):
        raise ValueError(
            "the correction must be fitted on other subjects than those it is measured on; in "
            f"--split {settings.protocol.split} and in --fit-split {settings.fit_split} are: "
            f"{', '.join(shared[:5])}{' ...' if len(shared) > 5 else ''}"
        )
    return found[0], found[1]


def calibration_table(
    before: Calibration, after: Calibration, *, name: str, counts: Mapping[str, Mapping[str, int]]
) -> Table:
    """The numbers before and after correction, with intervals where there are any.

    Counts are of subjects, slices and moments, by split: measured on, and corrected on.
    """
    measured, fitted = (
        f"{n['slices']} slices of {n['subjects']} subjects at {n['moments']} moments ({split})"
        for split, n in counts.items()
    )

    def cell(number: Interval) -> Cell:
        if math.isnan(number.value):
            return Cell("-")
        ends = "" if number.low is None else f"{number.low:.3f}, {number.high:.3f}"
        return Cell(f"{number.value:.3f}", ends)

    enough = next(iter(counts.values()))["subjects"] >= FEWEST_SUBJECTS
    intervals = "Brackets: 95 % over subjects." if enough else f"No intervals: {TOO_FEW}."
    return Table(
        [name, "before", "after recalibration", "ideal"],
        [
            [label, cell(before.numbers[key]), cell(after.numbers[key]), ideal]
            for key, (label, ideal) in NUMBERS.items()
        ],
        title=f"Measured on {measured}, recalibrated on {fitted}",
        notes=[f"Unit of deviations and errors: {_UNIT}. {intervals}"],
    )
