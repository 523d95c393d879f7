"""Stop a scan when its image is predicted to be good enough.

:func:`fit_rule` fits a predictor; :func:`calibrate` chooses, from episodes that took no part in
the fit, the threshold at which stopping is safe (see :mod:`activemri.stopping.conformal`).
:class:`Stopping` then makes any policy stop.

Three rules make the same promise on the same calibration subjects:

* "predicted-score": stop when the predicted score is high enough;
* "interval-length": stop when the conformal interval of the score is short enough. Stopping with
  the length of a conformal interval is due to Wen, Ahmad and Schniter, Task-driven uncertainty
  quantification in inverse problems via conformal prediction (TaskUQ), ECCV 2024 (arXiv
  2405.18527). Their task output is here the score, its interval that of normalised residuals, and
  the tolerance is not given but calibrated;
* "fixed-budget": stop all scans after as many lines.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from activemri import __version__, files
from activemri.agents.policy import Policy, Traits, decide
from activemri.envs.scan import IDLE, STOP, View
from activemri.evaluator import Evaluator
from activemri.metrics import find_metric
from activemri.options import require_types
from activemri.stopping import RuleError, conformal
from activemri.stopping.features import Curves, scan_features
from activemri.stopping.predictor import (
    Predictor,
    fit_error_predictor,
    fit_predictor,
    lines_predictor,
    sign_of,
)

Floats = NDArray[np.float64]
RuleKind = Literal["predicted-score", "interval-length", "fixed-budget"]
RULES: tuple[RuleKind, ...] = get_args(RuleKind)

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
    rules: tuple[RuleKind, ...] = RULES
    """Rules to compare, all with the same promise: a predicted score that is high enough, a
    conformal interval of the score that is short enough (TaskUQ), one budget for all scans."""
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
    """Slices of each of these splits, spread evenly, at least one of each subject that is asked
    for; None takes all."""
    fit_subjects: int | None = None
    """Subjects of the split that predictors are fitted on, for phantoms, where there can be any
    number; None takes the usual ones."""
    calibration_subjects: int | None = None
    """The same of the calibration split."""

    def __post_init__(self) -> None:
        if self.target is not None and self.metric is not None:
            find_metric(self.metric)
        below = {"alpha": 1.0, "target": 1.0 if "ssim" in str(self.metric) else np.inf}
        for name in ("target", "alpha", "max_slices", "fit_subjects", "calibration_subjects"):
            value = getattr(self, name)
            if value is not None and not 0 < value < below.get(name, np.inf):
                raise ValueError(
                    f"--stop.{name.replace('_', '-')}: expected a number above 0 (alpha and SSIM: "
                    f"below 1); got {value}"
                )
        if not self.rules:
            raise ValueError(f"--stop.rules: expected one or more of {', '.join(RULES)}; got none")
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
    def splits(self) -> tuple[str, ...]:
        """Splits that are played besides the one that is scored."""
        return ("train", "val") if self.is_crossfit else (self.fit, self.calibration)

    @property
    def calibration_splits(self) -> tuple[str, ...]:
        """Those of them that the threshold is calibrated on."""
        return self.splits if self.is_crossfit else (self.calibration,)


@dataclass(frozen=True)
class StoppingRule:
    """Stop at the first step whose prediction reaches the threshold.

    At most a share `alpha` of the slices of new units (subjects, volumes or slices, which have to
    be exchangeable) is promised to stop below the target, a true score. The threshold, in the unit
    of what the predictor estimates, makes up for its errors, so that of a score may lie on either
    side of the target; an infinite one never stops.
    What follows `unit` tells of the calibration's episodes, and the version is this package's.
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
        """True where predictions, of any shape, are good enough."""
        sign = self.predictor.sign
        return np.asarray(sign * predicted >= sign * self.threshold)

    def save(self, path: str | Path) -> Path:
        """Write to a JSON file, completely or not at all. Returns its path, ending in .json."""
        target = Path(str(path).removesuffix(".json") + ".json")
        # JSON has no infinity.
        threshold = self.threshold if np.isfinite(self.threshold) else None
        files.write_json(target, {"format": _FORMAT, **asdict(self), "threshold": threshold})
        return target

    @classmethod
    def load(cls, path: str | Path) -> "StoppingRule":
        """Read a file that :meth:`save` wrote; a RuleError if it holds something else."""
        if not Path(path).is_file():
            raise FileNotFoundError(f"expected a file with a stopping rule; none is at {path}")
        try:
            record = files.read_json(Path(path))
            if record.pop("format", None) != _FORMAT:
                raise ValueError(f'expected "format": "{_FORMAT}"')
            record["predictor"] = predictor = Predictor.of(record.get("predictor", {}))
            if record.get("threshold", 0) is None:
                record["threshold"] = predictor.sign * np.inf
            require_types(cls, record)
        except ValueError as error:
            raise RuleError(
                f"{path} holds no stopping rule: {error}. Make one with "
                "'activemri benchmark --stop.target 0.90'"
            ) from error
        return cls(**record)


@dataclass(frozen=True, eq=False)
class Stopping:
    """A policy that stops where a rule says so and else does what another policy does.

    The other policy chooses for scans that go on with their own generators, so that they acquire
    what they would have acquired without the rule. The evaluator gives features that the rule's
    predictor may need. A rule that was calibrated for another policy is a RuleError.
    """

    policy: Policy
    rule: StoppingRule
    evaluator: Evaluator | None = None

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
        found = scan_features(replace(view, truth=None), self.evaluator)
        predicted = self.rule.predictor({k: v.cpu().numpy() for k, v in found.items()})
        legal = view.legal.any(dim=1)
        stop = torch.from_numpy(self.rule.stops(predicted)).to(legal.device) & legal
        going = (legal & ~stop).nonzero().squeeze(1)
        actions = torch.full((len(legal),), IDLE, dtype=torch.int64, device=legal.device)
        actions[stop] = STOP
        if len(going):
            rows = [generators[row] for row in going.tolist()]
            seen = view if len(going) == len(legal) else view.select(going)
            actions[going] = decide(self.policy, seen, rows)
        return actions


def fit_rule(
    stop: StopSettings,
    played: Mapping[str, Curves],
    *,
    kind: RuleKind = "predicted-score",
    seed: int = 0,
) -> tuple[Predictor, float]:
    """Fit a predictor on whole episodes of one policy, by split, and calibrate its threshold.

    The seed draws the folds of cross-fitting.

    Raises:
        RuleError: too few units, the budget is too small for the target, or the scans do not give
            the features that the predictor needs.
    """
    assert stop.target is not None and stop.metric is not None
    metric, target = stop.metric, stop.target

    def of_score(curves: Curves) -> Predictor:
        features, scores = _flat(curves.features), curves.scores[metric].ravel()
        return fit_predictor(stop.predictor, features, scores, metric=metric, target=target)

    def of_error(curves: Curves) -> Predictor:
        errors = (curves.scores[metric] - crossfitted(of_score, curves, seed=seed)).ravel()
        return fit_error_predictor(stop.predictor, _flat(curves.features), errors, metric=metric)

    fit: Callable[[Curves], Predictor] = {
        "predicted-score": of_score,
        "interval-length": of_error,
        "fixed-budget": lambda curves: lines_predictor(metric),
    }[kind]
    calibration = Curves.join([played[split] for split in stop.calibration_splits])
    if stop.is_crossfit:
        predictor, predicted = fit(calibration), crossfitted(fit, calibration, seed=seed)
    else:
        predictor = fit(played[stop.fit])
        predicted = predictor(calibration.features)
    return predictor, calibrate(
        predictor, predicted, calibration, target=target, alpha=stop.alpha, unit=stop.unit
    )


def crossfitted(fit: Callable[[Curves], Predictor], curves: Curves, *, seed: int) -> Floats:
    """Predictions (episode, step) by predictors fitted to the other folds, drawn by subject.

    Fewer than two subjects are a RuleError.
    """
    names = sorted({scan.subject for scan in curves.scans})
    if len(names) < 2:
        raise RuleError(f"cross-fitting needs at least 2 subjects; got {len(names)}")
    drawn = np.random.default_rng(seed).permutation(len(names))
    fold_of = {names[i]: place % _FOLDS for place, i in enumerate(drawn)}
    folds = np.array([fold_of[scan.subject] for scan in curves.scans])
    predicted = np.empty(curves.n_acquired.shape)
    for fold in range(min(_FOLDS, len(names))):
        own = folds == fold
        predicted[own] = fit(curves.select(~own))(curves.select(own).features)
    return predicted


def _flat(features: Mapping[str, Floats]) -> dict[str, Floats]:
    return {name: values.ravel() for name, values in features.items()}


def calibrate(
    predictor: Predictor,
    predicted: Floats,
    curves: Curves,
    *,
    target: float,
    alpha: float,
    unit: str = "subject",
) -> float:
    """The most permissive threshold on the predictions that keeps the misses below alpha.

    Misses are the share of slices that stop below the target, mean over units. Episodes, with
    `predicted` for them, (episode, step), must be others than those that the predictor was fitted
    to.

    Raises:
        RuleError: too few units, or the budget is too small for the target.
    """
    sign = predictor.sign
    missed = misses(curves, predictor.metric, target)
    thresholds, losses = conformal.losses(sign * predicted, missed, curves.units(unit))
    return sign * conformal.choose_threshold(thresholds, losses, alpha=alpha, unit=unit)


def misses(curves: Curves, metric: str, target: float) -> NDArray[np.bool_]:
    """Steps at which stopping would miss the target, bool (episode, step)."""
    sign = sign_of(metric)
    return np.asarray(sign * curves.scores[metric] < sign * target)


def first_steps(reached: NDArray[np.bool_]) -> NDArray[np.intp]:
    """The first step at which each episode reaches something, else its last: (episode,)."""
    first = reached.argmax(axis=1)
    return np.asarray(np.where(reached.any(axis=1), first, reached.shape[1] - 1))
