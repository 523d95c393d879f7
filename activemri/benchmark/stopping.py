"""Stopping rules of a benchmark: on which scans they are fitted and calibrated, and the result.

Every policy is played to the end of its budget on scans of other subjects than those that are
scored; features and true scores of each step are kept in parquet files like the parts of the long
table. From those everything else follows without playing again: predictor, threshold, report. So
another target, alpha or predictor costs seconds in the same folder.
"""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from activemri.agents import conformal
from activemri.agents.curves import Curves, unit_of
from activemri.agents.prediction import Predictor, PredictorError, fit_predictor
from activemri.agents.stopping import StoppingRule, calibrate
from activemri.benchmark.scenario import Scenario
from activemri.data.slices import SliceDataset, SliceInfo
from activemri.data.volumes import evenly_spaced
from activemri.metrics import METRICS
from activemri.settings import BenchmarkSettings
from activemri.settings.stopping import StopSettings

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]

_FOLDS = 5


@dataclass(frozen=True, eq=False)
class Scans:
    """Scans of one split that rules are fitted to or calibrated on.

    Attributes:
        split: its name.
        dataset: all scans of the split.
        positions: which of them are played.
        folder: where their curves are kept, relative to the benchmark's folder; other scans have
            another folder.
    """

    split: str
    dataset: SliceDataset
    positions: tuple[int, ...]
    folder: Path

    def describe(self) -> list[SliceInfo]:
        """The scans that are played, without samples."""
        return [self.dataset.describe(position) for position in self.positions]


@dataclass(frozen=True, eq=False)
class Verdict:
    """A rule and what it does on the scans that are scored.

    Attributes:
        policy, reconstructor: labels.
        curves: of the scored scans, all seeds one after the other.
        rule: None where there is no safe one.
        refusal: why there is none, else empty.
        predicted: its predictions, float64 (episode, step); None without a rule.
        n_units: calibration units.
    """

    policy: str
    reconstructor: str
    curves: Curves
    rule: StoppingRule | None
    refusal: str
    predicted: Floats | None
    n_units: int


class StoppingScans:
    """The scans that stopping rules of a benchmark need, checked before anything is played.

    Args:
        stop: what is asked for.
        settings: of the benchmark.
        scenario: where its scans come from and how they are acquired.
        scored: the scans that rules are judged on.
        frame: height and width that scans have to fit into.

    Raises:
        ValueError: for a split that does not exist or shares subjects with the scored scans, or
            too few units to calibrate on.
    """

    def __init__(
        self,
        stop: StopSettings,
        settings: BenchmarkSettings,
        scenario: Scenario,
        *,
        scored: Sequence[SliceInfo],
        frame: tuple[int, int],
    ) -> None:
        self.stop = stop
        self.settings = settings
        self.scenario = scenario
        self.frame = frame
        self.by_split = {split: self._open(split) for split in stop.splits}
        for scans in self.by_split.values():
            _refuse_shared(scans, "scored", {info.subject for info in scored})
        if not stop.is_crossfit:
            fitted = {info.subject for info in self.by_split[stop.fit].describe()}
            _refuse_shared(self.by_split[stop.calibration], "fitted to", fitted)
        conformal.check_units(self.n_units, stop.alpha, stop.unit)

    @cached_property
    def calibration(self) -> list[SliceInfo]:
        """The scans that thresholds are calibrated on."""
        stop = self.stop
        splits = stop.splits if stop.is_crossfit else (stop.calibration,)
        return [info for split in splits for info in self.by_split[split].describe()]

    @property
    def n_units(self) -> int:
        """How many subjects, volumes or slices thresholds are calibrated on."""
        return len({unit_of(info, self.stop.unit) for info in self.calibration})

    @property
    def n_subjects(self) -> int:
        """Subjects that thresholds are calibrated on."""
        return len({info.subject for info in self.calibration})

    def _open(self, split: str) -> Scans:
        stop, settings = self.stop, self.settings
        n_subjects = stop.calibration_subjects if split == stop.extensible else None
        try:
            dataset = self.scenario.dataset(
                split,
                slices_per_volume=settings.slices_per_volume,
                n_subjects=n_subjects,
            )
        except ValueError as error:
            raise ValueError(f"--stop: {error}") from error
        positions = tuple(evenly_spaced(self._fitting(dataset), stop.max_slices))
        taken = repr([dataset.describe(position) for position in positions])
        digest = hashlib.sha256(taken.encode()).hexdigest()[:8]
        return Scans(split, dataset, positions, Path("quality") / f"{split}-{digest}")

    def _fitting(self, dataset: SliceDataset) -> list[int]:
        """Slices that the frame of the scored scans holds."""
        fitting = [
            i
            for i in range(len(dataset))
            if all(a <= b for a, b in zip(dataset.describe(i).shape, self.frame, strict=True))
        ]
        if not fitting:
            raise ValueError(
                f"--stop: no scan of {dataset.name} fits into {self.frame}; pass --matrix to bring "
                "all scans to one size"
            )
        if len(fitting) < len(dataset):
            log.warning(
                "--stop: %d of %d scans of %s are larger than %s and left out",
                len(dataset) - len(fitting),
                len(dataset),
                dataset.name,
                self.frame,
            )
        return fitting


def to_table(curves: Curves) -> pd.DataFrame:
    """Curves as they are kept: a row for each episode and step.

    Columns: episode (number within the piece), volume, slice, subject, contrast, step, n_acquired,
    then the true score in every metric, and the features.
    """
    n_episodes, n_steps = curves.n_acquired.shape
    scans = [scan for scan in curves.scans for _ in range(n_steps)]
    return pd.DataFrame(
        {
            "episode": np.repeat(np.arange(n_episodes), n_steps),
            "volume": [scan.volume for scan in scans],
            "slice": [scan.index for scan in scans],
            "subject": [scan.subject for scan in scans],
            "contrast": [scan.contrast for scan in scans],
            "step": np.tile(np.arange(n_steps), n_episodes),
            "n_acquired": curves.n_acquired.ravel(),
        }
        | {name: v.ravel() for name, v in curves.scores.items() if name in METRICS}
        | {f"feature {name}": values.ravel() for name, values in curves.features.items()}
    )


def from_table(table: pd.DataFrame, scans: Sequence[SliceInfo]) -> Curves:
    """Back from :func:`to_table`, for the same scans in the same order."""
    n_episodes = len(scans)

    def matrix(column: str) -> NDArray[Any]:
        return np.asarray(table[column]).reshape(n_episodes, -1)

    return Curves(
        tuple(scans),
        matrix("n_acquired"),
        {name: matrix(name) for name in table.columns if name in METRICS},
        {
            name.removeprefix("feature "): matrix(name)
            for name in table.columns
            if name.startswith("feature ")
        },
    )


def judge(
    scans: StoppingScans,
    played: dict[str, Curves],
    scored: Curves,
    *,
    policy: str,
    reconstructor: str,
) -> Verdict:
    """Fit, calibrate, and apply to the scored scans.

    Args:
        scans: what is asked for.
        played: curves of the policy by split.
        scored: curves of the policy on the scored scans.
        policy: label.
        reconstructor: label.
    """
    stop = scans.stop
    rule, refusal, predicted = None, "", None
    try:
        predictor, out_of_fit, calibration = _fitted(stop, played, seed=scans.settings.seed)
        threshold = calibrate(
            predictor,
            out_of_fit,
            calibration,
            target=stop.target,
            alpha=stop.alpha,
            unit=stop.unit,
        )
    except (conformal.NoThresholdError, PredictorError) as error:
        refusal = str(error)
    else:
        budget = scans.scenario.budget
        assert not isinstance(budget, float), "a plan knows the number of lines"
        rule = StoppingRule(
            predictor=predictor,
            target=stop.target,
            threshold=threshold,
            alpha=stop.alpha,
            unit=stop.unit,
            n_units=scans.n_units,
            policy=policy,
            reconstructor=reconstructor,
            data=f"{scans.scenario.data} {' and '.join(stop.splits)}",
            n_center_lines=scans.scenario.n_center_lines,
            budget=budget,
        )
        predicted = predictor(scored.features)
    return Verdict(policy, reconstructor, scored, rule, refusal, predicted, scans.n_units)


def _fitted(
    stop: StopSettings, played: dict[str, Curves], *, seed: int
) -> tuple[Predictor, Floats, Curves]:
    """The predictor, and its predictions for calibration episodes that it was not fitted to."""
    if not stop.is_crossfit:
        calibration = played[stop.calibration]
        predictor = _fit(stop, played[stop.fit])
        return predictor, predictor(calibration.features), calibration
    both = Curves.join([played[split] for split in stop.splits])
    predicted = np.empty_like(both.scores[stop.metric])
    for inside, outside in _folds(both, seed):
        predicted[outside] = _fit(stop, both.select(inside))(both.select(outside).features)
    return _fit(stop, both), predicted, both


def _fit(stop: StopSettings, curves: Curves) -> Predictor:
    return fit_predictor(
        stop.predictor,
        {name: values.ravel() for name, values in curves.features.items()},
        curves.scores[stop.metric].ravel(),
        metric=stop.metric,
        target=stop.target,
    )


def _folds(curves: Curves, seed: int) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Episodes to fit to and episodes to predict, by subject whatever the unit is."""
    subjects = sorted({scan.subject for scan in curves.scans})
    if len(subjects) < 2:
        raise PredictorError(f"cross-fitting needs at least 2 subjects; got {len(subjects)}")
    drawn = np.random.default_rng(seed).permutation(len(subjects))
    fold_of = {subjects[i]: place % _FOLDS for place, i in enumerate(drawn)}
    folds = np.array([fold_of[scan.subject] for scan in curves.scans])
    for fold in range(min(_FOLDS, len(subjects))):
        yield np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)


def _refuse_shared(scans: Scans, use: str, others: set[str]) -> None:
    shared = sorted(others & {info.subject for info in scans.describe()})
    if shared:
        raise ValueError(
            f"--stop: the {scans.split} split would be used to fit or calibrate, but "
            f"{len(shared)} of its subjects are {use} as well: {', '.join(shared[:5])}"
            f"{' ...' if len(shared) > 5 else ''}. Choose another --split, fit= or calibration="
        )
