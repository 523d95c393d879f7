"""Predict the score of an image from the features of its scan.

A predictor is fitted once, on scans whose true scores are known, and saved as JSON. It says what
score is to be expected; how far it may be trusted is for :mod:`activemri.stopping.conformal`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from activemri.metrics import find_metric
from activemri.stopping import RuleError
from activemri.stopping.features import OF_EVALUATOR, OF_SCAN, OF_UNCERTAINTY

Floats = NDArray[np.float64]
Head = Mapping[str, tuple[float, ...]]

PREDICTORS = ("regression", "uncertainty", "evaluator")
#: Score; log10 of the size of the error of its prediction; share of lines acquired.
Estimate = Literal["score", "error", "lines"]

#: Numbers of a monotone curve, and of a quadratic regression.
_HEADS = ({"x", "y"}, {"low", "high", "mean", "scale", "weights"})
#: Width of the scores around the target that the regression is to be good at.
_FOCUS = {"ssim": 0.08, "psnr": 4.0}
_FOCUS_OF_ERRORS = 0.5  # relative to the target
_RIDGE = 1e-2  # penalty per observation, on standardised columns
_SMALLEST = 1e-4  # error that counts as none, so that its logarithm exists


@dataclass(frozen=True)
class Predictor:
    """Predicts a score from features, in units of the metric; or what else it estimates.

    The head leads from the named features to the score. Of one feature: places x of the knots of a
    monotone curve, straight in between and level outside, and its values y there. Of several: ridge
    regression on standardised features (their mean and scale), their squares and products, with
    weights, the constant's first; features are held to the range from low to high that was seen, so
    that the parabola is never followed outwards.
    """

    kind: str
    metric: str
    features: tuple[str, ...]
    head: Head
    estimates: Estimate = "score"

    @property
    def sign(self) -> float:
        """1 where higher predictions are better, -1 where lower ones are."""
        if self.estimates == "score":
            return sign_of(self.metric)
        return -1.0 if self.estimates == "error" else 1.0

    def __call__(self, features: Mapping[str, Floats]) -> Floats:
        """Predictions, of the shape of the features; a missing one is a RuleError."""
        missing = [name for name in self.features if name not in features]
        if missing:
            raise RuleError(
                f"the predictor {self.kind!r} needs {', '.join(missing)}; the scan gives only "
                f"{', '.join(features)}. Use the reconstructor and evaluator that it was fitted to"
            )
        columns = np.stack([np.asarray(features[name]) for name in self.features], axis=-1)
        if "x" in self.head:
            return np.interp(columns[..., 0], self.head["x"], self.head["y"])
        return np.asarray(_basis(columns, self.head) @ np.asarray(self.head["weights"]))

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Predictor":
        """From what ``dataclasses.asdict`` made of one, as JSON holds it; else a RuleError."""
        try:
            head = {name: tuple(map(float, values)) for name, values in record["head"].items()}
            if set(head) not in _HEADS:
                raise KeyError(*head)
            metric = find_metric(record["metric"]).name
            estimates = record.get("estimates", "score")  # of rules before there was a choice
            if estimates not in get_args(Estimate):
                raise ValueError(f"estimates {estimates!r}")
            features = tuple(map(str, record["features"]))
            return cls(str(record["kind"]), metric, features, head, estimates)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RuleError(f"this is no predictor: {error!r}") from error


def sign_of(metric: str) -> float:
    """1 for metrics where higher is better, -1 for errors."""
    return 1.0 if find_metric(metric).higher_is_better else -1.0


def lines_predictor(metric: str) -> Predictor:
    """The share of the lines that is acquired: a threshold on it is a fixed budget."""
    unchanged = {"x": (0.0, 1.0), "y": (0.0, 1.0)}
    return Predictor("acquired", metric, ("acquired",), unchanged, "lines")


def fit_error_predictor(
    kind: str, features: Mapping[str, Floats], errors: Floats, *, metric: str
) -> Predictor:
    """Fit a predictor of the size of the errors of another one, for scans that it has not seen.

    A conformal interval of normalised residuals is as long as this size times a constant. Raises
    what :func:`fit_predictor` does.
    """
    sizes = np.log10(np.abs(errors) + _SMALLEST)
    return replace(fit_predictor(kind, features, sizes, metric=metric), estimates="error")


def fit_predictor(
    kind: str,
    features: Mapping[str, Floats],
    scores: Floats,
    *,
    metric: str,
    target: float | None = None,
) -> Predictor:
    """Fit a predictor to features and true scores of scans, (observation,) each.

    Of the kind "uncertainty" (the expected SSIM, for other metrics the expected error, alone) or
    "evaluator" (its mean score alone), each through a monotone curve, or "regression" on everything
    that there is, which looks most closely at the target, if there is one.

    Raises:
        RuleError: the features that the kind needs are not there.
    """
    find_metric(metric)
    if kind not in PREDICTORS:
        raise RuleError(f"unknown predictor {kind!r}; expected one of {', '.join(PREDICTORS)}")
    names = [name for name in (*OF_SCAN, *OF_UNCERTAINTY, *OF_EVALUATOR) if name in features]
    if kind != "regression":
        expected = "expected_ssim" if metric.startswith("ssim") else "expected_nmse"
        alone, lacking = {
            "uncertainty": (expected, "the reconstructor gives no uncertainty"),
            "evaluator": ("evaluator_mean", "there is no evaluator for this reconstructor"),
        }[kind]
        names = [alone]
        if alone not in features:
            raise RuleError(
                f"predictor {kind} cannot be used: {lacking}. Predictor regression uses what there "
                "is"
            )
    columns = np.stack([np.asarray(features[name], np.float64) for name in names], axis=-1)
    scores = np.asarray(scores, np.float64)
    keep = np.isfinite(scores) & np.isfinite(columns).all(axis=1)
    if keep.sum() < 2:
        raise RuleError(f"expected at least 2 scores to fit to; got {int(keep.sum())}")
    columns, scores = columns[keep], scores[keep]
    # Weights fall with the distance from the target, never to nothing.
    weights = np.ones_like(scores)
    if target is not None:
        width = _FOCUS.get(metric.split("_")[0], _FOCUS_OF_ERRORS * abs(target))
        weights = 0.05 + np.exp(-0.5 * ((scores - target) / width) ** 2)
    if kind == "regression":
        mean, scale = columns.mean(axis=0), columns.std(axis=0)
        # A feature that never changes says nothing: its column is zero whatever it is divided by.
        scale = np.where(scale > 1e-9 * (1 + np.abs(mean)), scale, 1.0)
        low, high = columns.min(axis=0), columns.max(axis=0)
        head = {"low": low, "high": high, "mean": mean, "scale": scale}
        basis = _basis(columns, head)
        penalty = _RIDGE * weights.sum() * np.eye(basis.shape[1])
        penalty[0, 0] = 0  # the constant is free
        weighted = basis * weights[:, None]
        head["weights"] = np.linalg.solve(basis.T @ weighted + penalty, weighted.T @ scores)
    else:
        # Isotonic regression, rising or falling as the data do; knots in the middle of its steps.
        # Equal places must share one value.
        places, group = np.unique(columns[:, 0], return_inverse=True)
        heavy = np.bincount(group).astype(np.float64)
        means = np.bincount(group, scores) / heavy
        centred = places - np.average(places, weights=heavy)
        rising = bool(np.sum(heavy * centred * means) >= 0)
        found = isotonic_regression(means, weights=heavy, increasing=rising)
        step = np.repeat(np.arange(len(found.blocks) - 1), np.diff(found.blocks))
        middles = np.bincount(step, heavy * places) / np.bincount(step, heavy)
        head = {"x": middles, "y": found.x[found.blocks[:-1]]}
    plain = {name: tuple(values.tolist()) for name, values in head.items()}
    return Predictor(kind, metric, tuple(names), plain)


def _basis(columns: Floats, head: Mapping[str, Any]) -> Floats:
    """1, features, squares and products: (..., features) -> (..., columns)."""
    held = np.clip(columns, head["low"], head["high"])
    x = (held - np.asarray(head["mean"])) / np.asarray(head["scale"])
    i, j = np.triu_indices(x.shape[-1])
    return np.concatenate([np.ones_like(x[..., :1]), x, x[..., i] * x[..., j]], axis=-1)
