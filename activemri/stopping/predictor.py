"""Predict the score of an image from the features of its scan.

A predictor is fitted once, on scans whose true scores are known, and saved as JSON. It says what
score is to be expected; how far it may be trusted is for :mod:`activemri.stopping.conformal`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from activemri.metrics import find_metric
from activemri.stopping.features import OF_EVALUATOR, OF_SCAN, OF_UNCERTAINTY

Floats = NDArray[np.float64]

PREDICTORS = ("regression", "uncertainty", "evaluator")

#: Width of the scores around the target that the regression is to be good at.
_FOCUS = {"ssim": 0.08, "psnr": 4.0}
_FOCUS_OF_ERRORS = 0.5  # relative to the target
_RIDGE = 1e-3  # penalty per observation, on standardised columns


class PredictorError(ValueError):
    """A predictor that cannot be made of what is there, or a record that holds none."""


@dataclass(frozen=True)
class Monotone:
    """A rising or falling curve through knots, straight in between, level outside.

    Attributes:
        x: places of the knots, rising.
        y: values there.
    """

    x: tuple[float, ...]
    y: tuple[float, ...]

    def __call__(self, columns: Floats) -> Floats:
        """float64 (..., 1) -> (...)."""
        return np.interp(columns[..., 0], self.x, self.y)


@dataclass(frozen=True)
class Quadratic:
    """Ridge regression on standardised features, their squares and products.

    Features are held to the range that was seen, so that the curve is never followed outwards.

    Attributes:
        low, high: range of every feature.
        mean, scale: of the standardisation.
        weights: of the columns of :meth:`basis`, the constant first.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]

    def __call__(self, columns: Floats) -> Floats:
        """float64 (..., features) -> (...)."""
        return np.asarray(self.basis(columns) @ np.asarray(self.weights))

    def basis(self, columns: Floats) -> Floats:
        """1, features, squares and products: (..., features) -> (..., columns)."""
        held = np.clip(columns, self.low, self.high)
        x = (held - np.asarray(self.mean)) / np.asarray(self.scale)
        i, j = np.triu_indices(x.shape[-1])
        return np.concatenate([np.ones_like(x[..., :1]), x, x[..., i] * x[..., j]], axis=-1)


@dataclass(frozen=True)
class Predictor:
    """Predicts a score from features, in units of the metric.

    Attributes:
        kind: "regression", "uncertainty" or "evaluator".
        metric: that is predicted.
        features: names of the features that it needs, in order.
        head: from those to the score.
    """

    kind: str
    metric: str
    features: tuple[str, ...]
    head: Monotone | Quadratic

    def __call__(self, features: Mapping[str, Floats]) -> Floats:
        """Predicted scores, of the shape of the features.

        Raises:
            PredictorError: a feature is missing.
        """
        missing = [name for name in self.features if name not in features]
        if missing:
            raise PredictorError(
                f"the predictor {self.kind!r} needs {', '.join(missing)}; the scan gives only "
                f"{', '.join(features)}. Use the reconstructor and evaluator that it was fitted to"
            )
        return self.head(np.stack([np.asarray(features[name]) for name in self.features], axis=-1))

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Predictor":
        """From what ``dataclasses.asdict`` made of one, as JSON holds it.

        Raises:
            PredictorError: for anything else.
        """
        try:
            head = {name: tuple(map(float, values)) for name, values in record["head"].items()}
            heads = {frozenset(f.name for f in fields(k)): k for k in (Monotone, Quadratic)}
            kind = heads[frozenset(head)]
            return cls(
                kind=str(record["kind"]),
                metric=find_metric(record["metric"]).name,
                features=tuple(map(str, record["features"])),
                head=kind(**head),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PredictorError(f"this is no predictor: {error!r}") from error


def fit_predictor(
    kind: str,
    features: Mapping[str, Floats],
    scores: Floats,
    *,
    metric: str,
    target: float,
) -> Predictor:
    """Fit a predictor to scans whose true scores are known.

    Args:
        kind: "uncertainty" (the expected SSIM, for other metrics the expected error, alone),
            "evaluator" (its mean score alone), each through a monotone curve, or "regression"
            on everything that there is.
        features: by name, each (observation,).
        scores: true scores, (observation,).
        metric: of the scores.
        target: the score at which it is decided; the regression looks there most closely.

    Raises:
        PredictorError: the features that the kind needs are not there.
    """
    find_metric(metric)
    names = _wanted(kind, tuple(features), metric)
    columns = np.stack([np.asarray(features[name], np.float64) for name in names], axis=-1)
    scores = np.asarray(scores, np.float64)
    keep = np.isfinite(scores) & np.isfinite(columns).all(axis=1)
    if keep.sum() < 2:
        raise PredictorError(f"expected at least 2 scores to fit to; got {int(keep.sum())}")
    columns, scores = columns[keep], scores[keep]
    head = (
        _fit_quadratic(columns, scores, _focus(scores, metric, target))
        if kind == "regression"
        else _fit_monotone(columns[:, 0], scores)
    )
    return Predictor(kind, metric, names, head)


def _wanted(kind: str, available: Sequence[str], metric: str) -> tuple[str, ...]:
    """Names of the features that a kind of predictor uses."""
    if kind not in PREDICTORS:
        raise PredictorError(f"unknown predictor {kind!r}; expected one of {', '.join(PREDICTORS)}")
    if kind == "regression":
        known = (*OF_SCAN, *OF_UNCERTAINTY, *OF_EVALUATOR)
        return tuple(name for name in known if name in available)
    alone = {
        "uncertainty": "expected_ssim" if metric.startswith("ssim") else "expected_nmse",
        "evaluator": "evaluator_mean",
    }[kind]
    if alone not in available:
        giver = {
            "uncertainty": "the reconstructor gives no uncertainty",
            "evaluator": "there is no evaluator for this reconstructor",
        }[kind]
        raise PredictorError(
            f"predictor {kind} cannot be used: {giver}. Predictor regression uses what there is"
        )
    return (alone,)


def _fit_monotone(x: Floats, y: Floats) -> Monotone:
    """Isotonic regression, rising or falling as the data do; knots in the middle of its steps."""
    order = np.argsort(x, kind="stable")
    x, y = x[order], y[order]
    # Equal places must share one value.
    places, group = np.unique(x, return_inverse=True)
    heavy = np.bincount(group).astype(np.float64)
    means = np.bincount(group, y) / heavy
    centred = places - np.average(places, weights=heavy)
    rising = bool(np.sum(heavy * centred * means) >= 0)
    found = isotonic_regression(means, weights=heavy, increasing=rising)
    step = np.repeat(np.arange(len(found.blocks) - 1), np.diff(found.blocks))
    middles = np.bincount(step, heavy * places) / np.bincount(step, heavy)
    values = found.x[found.blocks[:-1]]
    return Monotone(tuple(middles.tolist()), tuple(values.tolist()))


def _fit_quadratic(columns: Floats, scores: Floats, weights: Floats) -> Quadratic:
    mean = columns.mean(axis=0)
    scale = columns.std(axis=0)
    head = Quadratic(
        low=tuple(columns.min(axis=0).tolist()),
        high=tuple(columns.max(axis=0).tolist()),
        mean=tuple(mean.tolist()),
        # A feature that never changes says nothing: its column is zero whatever it is divided by.
        scale=tuple(np.where(scale > 1e-9 * (1 + np.abs(mean)), scale, 1.0).tolist()),
        weights=(),
    )
    basis = head.basis(columns)
    penalty = _RIDGE * weights.sum() * np.eye(basis.shape[1])
    penalty[0, 0] = 0  # the constant is free
    weighted = basis * weights[:, None]
    solution = np.linalg.solve(basis.T @ weighted + penalty, weighted.T @ scores)
    return Quadratic(head.low, head.high, head.mean, head.scale, tuple(solution.tolist()))


def _focus(scores: Floats, metric: str, target: float) -> Floats:
    """Weights that fall with the distance from the target, never to nothing."""
    width = _FOCUS.get(metric.split("_")[0], _FOCUS_OF_ERRORS * abs(target))
    return np.asarray(0.05 + np.exp(-0.5 * ((scores - target) / width) ** 2))
