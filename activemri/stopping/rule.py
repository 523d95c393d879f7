"""Stop a scan when its image is predicted to be good enough.

:func:`fit_rule` fits a predictor; :func:`calibrate` chooses, from episodes that took no part in
the fit, the threshold at which stopping is safe (see :mod:`activemri.stopping.conformal`).
:class:`Stopping` then makes any policy stop.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from activemri import __version__, files
from activemri.agents.policy import Policy, Traits
from activemri.envs.scan import IDLE, STOP, View
from activemri.metrics import find_metric
from activemri.stopping import conformal
from activemri.stopping.features import Curves, Features
from activemri.stopping.predictor import Predictor, PredictorError, fit_predictor

Floats = NDArray[np.float64]

_FORMAT = "activemri-stopping-rule"
_FOLDS = 5


@dataclass(frozen=True, kw_only=True)
class StopSettings:
    """Stop scans that are good enough, and say what that saves; nothing without a target."""

    target: float | None = None
    """Score that a scan shall have when it stops, e.g. 0.90; None stops none."""
    metric: str | None = None
    """Score that the target is about; None takes that of the benchmark."""
    alpha: float = 0.1
    """At most this share of new scans shall stop below the target."""
    predictor: Literal["regression", "uncertainty", "evaluator"] = "regression"
    """Predict the score from all that is known, from the reconstructor's uncertainty alone, or from
    its evaluator alone."""
    unit: Literal["subject", "volume", "slice"] = "subject"
    """Unit that is exchangeable: what the promise is about."""
    calibration: str = "val"
    """Split that the threshold is calibrated on; crossfit uses train and val for fit and
    calibration, in folds by subject."""
    fit: str = "train"
    """Split that the predictor is fitted on; not used with crossfit."""
    max_slices: int | None = 256
    """Slices of each of these splits, spread evenly; None takes all."""
    calibration_subjects: int | None = None
    """Subjects of the calibration split, for phantoms, where there can be any number; None takes
    the usual ones."""

    def __post_init__(self) -> None:
        ranges = {"alpha": 0 < self.alpha < 1}
        for name in ("max_slices", "calibration_subjects"):
            value = getattr(self, name)
            ranges[name.replace("_", "-")] = value is None or value > 0
        if self.target is not None:
            ranges["target"] = 0 < self.target < np.inf
        if self.target is not None and self.metric is not None:
            find_metric(self.metric)
            ranges["target"] &= not self.metric.startswith("ssim") or self.target < 1
        for name, fits in ranges.items():
            if not fits:
                value = getattr(self, name.replace("-", "_"))
                raise ValueError(
                    f"--stop.{name}: expected a number above 0 (alpha and SSIM: below 1); "
                    f"got {value}"
                )
        if self.fit == self.calibration:
            raise ValueError(
                f"--stop.fit and --stop.calibration are both {self.fit}: the predictor must not be "
                "fitted to the split that it is calibrated on. --stop.calibration crossfit uses "
                "train and val for both, in folds"
            )

    @property
    def is_crossfit(self) -> bool:
        return self.calibration == "crossfit"

    @property
    def extensible(self) -> str:
        """The split that `calibration_subjects` is about."""
        return "val" if self.is_crossfit else self.calibration

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits that are played besides the one that is scored."""
        return ("train", "val") if self.is_crossfit else (self.fit, self.calibration)

    @property
    def calibration_splits(self) -> tuple[str, ...]:
        """Those of them that the threshold is calibrated on."""
        return self.splits if self.is_crossfit else (self.calibration,)


class RuleError(ValueError):
    """A file that holds no stopping rule, or a rule that does not fit."""


@dataclass(frozen=True)
class StoppingRule:
    """Stop at the first step whose predicted score reaches the threshold.

    Attributes:
        predictor: from features to a score.
        target: the true score to reach, in units of the predictor's metric.
        threshold: on the predicted score, in the same units. It makes up for the predictor's
            errors, so it may lie on either side of the target. An infinite one never stops.
        alpha: at most this share of new units' slices is promised to stop below the target.
        unit: "subject", "volume" or "slice": what has to be exchangeable.
        n_units: calibration units.
        policy, reconstructor, data: of the calibration.
        n_center_lines: lines that episodes started with.
        budget: lines after those, None for all.
        version: of this package.
    """

    predictor: Predictor
    target: float
    threshold: float
    alpha: float
    unit: str
    n_units: int
    policy: str
    reconstructor: str
    data: str
    n_center_lines: int
    budget: int | None
    version: str = __version__

    @property
    def metric(self) -> str:
        return self.predictor.metric

    def stops(self, predicted: Floats) -> NDArray[np.bool_]:
        """True where predicted scores, of any shape, are good enough."""
        sign = sign_of(self.metric)
        return np.asarray(sign * predicted >= sign * self.threshold)

    def save(self, path: str | Path) -> Path:
        """Write to a JSON file, completely or not at all. Returns its path, ending in .json."""
        target = Path(path)
        if target.suffix != ".json":
            target = target.with_name(target.name + ".json")
        target.parent.mkdir(parents=True, exist_ok=True)
        # JSON has no infinity.
        threshold = self.threshold if np.isfinite(self.threshold) else None
        record = asdict(self) | {"threshold": threshold}
        files.write_json(target, {"format": _FORMAT, **record})
        return target

    @classmethod
    def load(cls, path: str | Path) -> "StoppingRule":
        """Read a file that :meth:`save` wrote.

        Raises:
            FileNotFoundError: if there is no such file.
            RuleError: if it holds something else.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"expected a file with a stopping rule; none is at {path}")
        try:
            record = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise RuleError(f"{path} is not a JSON file: {error}") from error
        if not isinstance(record, dict) or record.pop("format", None) != _FORMAT:
            raise RuleError(
                f'{path} holds no stopping rule (expected "format": "{_FORMAT}"); make one with '
                "'activemri benchmark --stop.target 0.90'"
            )
        return cls._of(record, path)

    @classmethod
    def _of(cls, record: dict[str, Any], path: str | Path) -> "StoppingRule":
        if wrong := sorted({entry.name for entry in fields(cls)} ^ set(record)):
            raise RuleError(f"{path}: missing or unknown entries: {', '.join(wrong)}")
        try:
            predictor = Predictor.of(record["predictor"])
            never = sign_of(predictor.metric) * np.inf
            threshold = never if record["threshold"] is None else float(record["threshold"])
            numbers = {name: float(record[name]) for name in ("target", "alpha")}
        except (TypeError, ValueError) as error:
            raise RuleError(f"{path}: {error}") from error
        return cls(**record | {"predictor": predictor, "threshold": threshold, **numbers})


@dataclass(frozen=True, eq=False)
class Stopping:
    """A policy that stops where a rule says so and else does what another policy does.

    The other policy chooses for scans that go on with their own generators, so that they acquire
    what they would have acquired without the rule.

    Attributes:
        policy: chooses the actions.
        rule: when to stop.
        features: computes what the rule's predictor needs, with its evaluator if it needs one.

    Raises:
        RuleError: the rule was calibrated for another policy.
    """

    policy: Policy
    rule: StoppingRule
    features: Features = field(default_factory=Features)

    def __post_init__(self) -> None:
        if self.rule.policy != self.policy.name:
            raise RuleError(
                f"the rule was calibrated for policy {self.rule.policy!r}, and promises nothing "
                f"for {self.policy.name!r}; calibrate one for it"
            )

    @property
    def name(self) -> str:
        """Of the policy: generators are drawn by name, so lines stay the same with stopping."""
        return self.policy.name

    @property
    def traits(self) -> Traits:
        """Those of the policy, but an order that stops by what it sees is none any more."""
        return replace(self.policy.traits, is_order=False)

    def act(self, view: View, generators: Sequence[np.random.Generator]) -> Tensor:
        found = self.features(replace(view, truth=None))
        predicted = self.rule.predictor({k: v.cpu().numpy() for k, v in found.items()})
        legal = view.legal.any(dim=1)
        stop = torch.from_numpy(self.rule.stops(predicted)).to(legal.device) & legal
        going = (legal & ~stop).nonzero().squeeze(1)
        actions = torch.full((len(legal),), IDLE, dtype=torch.int64, device=legal.device)
        actions[stop] = STOP
        if len(going):
            rows = [generators[row] for row in going.tolist()]
            seen = view if len(going) == len(legal) else view.select(going)
            actions[going] = self.policy.act(seen, rows)
        return actions


def fit_rule(
    stop: StopSettings,
    played: Mapping[str, Curves],
    *,
    policy: str,
    reconstructor: str,
    data: str,
    n_center_lines: int,
    budget: int | None,
    seed: int = 0,
) -> StoppingRule:
    """Fit a predictor and calibrate its threshold.

    Args:
        stop: how; with target and metric.
        played: whole episodes of the policy, by split.
        policy, reconstructor, data, n_center_lines, budget: for the record, see
            :class:`StoppingRule`.
        seed: of the folds of cross-fitting.

    Raises:
        NoThresholdError: too few units, or the budget is too small for the target.
        PredictorError: the scans do not give the features that the predictor needs.
    """
    assert stop.target is not None and stop.metric is not None
    if stop.is_crossfit:
        calibration = Curves.join([played[split] for split in stop.splits])
        predictor = _fit(stop, calibration)
        predicted = np.empty_like(calibration.scores[stop.metric])
        for inside, outside in _folds(calibration, seed):
            fold = _fit(stop, calibration.select(inside))
            predicted[outside] = fold(calibration.select(outside).features)
    else:
        calibration, predictor = played[stop.calibration], _fit(stop, played[stop.fit])
        predicted = predictor(calibration.features)
    return StoppingRule(
        predictor=predictor,
        target=stop.target,
        threshold=calibrate(
            predictor,
            predicted,
            calibration,
            target=stop.target,
            alpha=stop.alpha,
            unit=stop.unit,
        ),
        alpha=stop.alpha,
        unit=stop.unit,
        n_units=len(set(calibration.units(stop.unit))),
        policy=policy,
        reconstructor=reconstructor,
        data=f"{data} {' and '.join(stop.splits)}",
        n_center_lines=n_center_lines,
        budget=budget,
    )


def calibrate(
    predictor: Predictor,
    predicted: Floats,
    curves: Curves,
    *,
    target: float,
    alpha: float,
    unit: str = "subject",
) -> float:
    """The most permissive threshold on the predicted score that keeps the misses below alpha.

    Args:
        predictor: source of the predictions; it must not have been fitted to these episodes.
        predicted: its predictions for them, float64 (episode, step).
        curves: the episodes, with their true scores.
        target: true score to reach.
        alpha: share of slices that may stop below it.
        unit: "subject", "volume" or "slice".

    Raises:
        conformal.NoThresholdError: too few units, or the budget is too small for the target.
    """
    sign = sign_of(predictor.metric)
    found = conformal.losses(
        sign * predicted, misses(curves, predictor.metric, target), curves.units(unit)
    )
    return sign * conformal.choose_threshold(found, alpha, unit=unit)


def misses(curves: Curves, metric: str, target: float) -> NDArray[np.bool_]:
    """Steps at which stopping would miss the target, bool (episode, step)."""
    sign = sign_of(metric)
    return np.asarray(sign * curves.scores[metric] < sign * target)


def first_steps(reached: NDArray[np.bool_]) -> NDArray[np.intp]:
    """The first step at which each episode reaches something, else its last: (episode,)."""
    first = reached.argmax(axis=1)
    return np.asarray(np.where(reached.any(axis=1), first, reached.shape[1] - 1))


def sign_of(metric: str) -> float:
    """1 for metrics where higher is better, -1 for errors."""
    return 1.0 if find_metric(metric).higher_is_better else -1.0


def _fit(stop: StopSettings, curves: Curves) -> Predictor:
    assert stop.target is not None and stop.metric is not None
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
