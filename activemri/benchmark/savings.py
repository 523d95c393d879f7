"""What stopping saves: rules against fixed budgets and against a stop that knows the truth.

Everything is computed from whole episodes (:class:`activemri.agents.curves.Curves`), in which it
is known what stopping at any step would have given. The miss rate is the mean over units of the
share of their slices that stop below the target, as conformal risk control bounds it; lines are
means over slices. Intervals resample subjects.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from activemri.agents.curves import Curves
from activemri.agents.stopping import first_steps, misses, sign_of
from activemri.benchmark.resampling import (
    percentile_intervals,
    resampled_means,
    resampling_weights,
)
from activemri.benchmark.stopping import Verdict
from activemri.metrics import spearman
from activemri.settings.stopping import StopSettings

Floats = NDArray[np.float64]

_THRESHOLDS = 2000  # points of the trade-off curve
_LEVEL = 0.95


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Lines acquired and targets missed under several ways to stop.

    Attributes:
        lines: mean number of acquired lines, (way,).
        misses: miss rate, (way,).
    """

    lines: Floats
    misses: Floats


@dataclass(frozen=True, eq=False)
class Stops:
    """Scored episodes of one policy, and their units.

    Attributes:
        curves: the episodes.
        missed: whether stopping at each step would miss the target, bool (episode, step).
        unit: which unit each episode belongs to, (episode,).
        unit_subject: which subject each unit belongs to, (unit,).
        subject: which subject each episode belongs to, (episode,).
    """

    curves: Curves
    missed: NDArray[np.bool_]
    unit: NDArray[np.intp]
    unit_subject: NDArray[np.intp]
    subject: NDArray[np.intp]

    @classmethod
    def of(cls, curves: Curves, stop: StopSettings) -> "Stops":
        """Of episodes, for one target and unit."""
        unit, subject = (_codes(curves.units(kind)) for kind in (stop.unit, "subject"))
        unit_subject = np.zeros(unit.max() + 1, np.intp)
        unit_subject[unit] = subject
        return cls(curves, misses(curves, stop.metric, stop.target), unit, unit_subject, subject)

    @property
    def n_steps(self) -> int:
        return int(self.missed.shape[1])

    def lines_at(self, steps: NDArray[np.intp]) -> Floats:
        """Lines acquired if episodes stop at given steps: (episode, way) -> (episode, way)."""
        return np.take_along_axis(self.curves.n_acquired, steps, axis=1).astype(np.float64)

    def losses_at(self, steps: NDArray[np.intp]) -> Floats:
        """Share of each unit's slices that miss: (episode, way) -> (unit, way)."""
        missed = np.take_along_axis(self.missed, steps, axis=1).astype(np.float64)
        total = np.zeros((len(self.unit_subject), steps.shape[1]))
        np.add.at(total, self.unit, missed)
        return np.asarray(total / np.bincount(self.unit)[:, None])

    def outcomes(self, steps: NDArray[np.intp]) -> Outcomes:
        """Means of both over everybody."""
        return Outcomes(self.lines_at(steps).mean(axis=0), self.losses_at(steps).mean(axis=0))

    @property
    def fixed(self) -> NDArray[np.intp]:
        """Every fixed budget: the same step for all, (episode, step)."""
        return np.tile(np.arange(self.n_steps), (len(self.curves), 1))

    @property
    def oracle(self) -> NDArray[np.intp]:
        """The first step that truly reaches the target, (episode, 1)."""
        return first_steps(~self.missed)[:, None]


@dataclass(frozen=True, eq=False)
class TradeOff:
    """Mean lines against miss rate, of every way to stop.

    Attributes:
        rule: over all thresholds, the most permissive first.
        chosen: the rule at its calibrated threshold.
        fixed: over all fixed budgets, the smallest first.
        oracle: stopping as soon as the target is truly reached.
    """

    rule: Outcomes
    chosen: Outcomes
    fixed: Outcomes
    oracle: Outcomes


def trade_off(verdict: Verdict, stop: StopSettings) -> TradeOff | None:
    """For a verdict with a rule."""
    if verdict.rule is None or verdict.predicted is None:
        return None
    stops = Stops.of(verdict.curves, stop)
    return TradeOff(
        rule=stops.outcomes(_steps_of_all_thresholds(sign_of(stop.metric) * verdict.predicted)),
        chosen=stops.outcomes(rule_steps(verdict)),
        fixed=stops.outcomes(stops.fixed),
        oracle=stops.outcomes(stops.oracle),
    )


def rule_steps(verdict: Verdict) -> NDArray[np.intp]:
    """The step at which the rule stops each scored episode, (episode, 1)."""
    assert verdict.rule is not None and verdict.predicted is not None
    return first_steps(verdict.rule.stops(verdict.predicted))[:, None]


def savings(
    verdict: Verdict, stop: StopSettings, *, seed: int = 0, n_resamples: int = 2000
) -> dict[str, object]:
    """A row of the report, ready for JSON.

    Returns:
        policy, reconstructor, what was asked for, ``threshold`` and ``refused`` (why there is no
        rule, or None), and with a rule:

        - ``lines`` (mean), ``lines_q05``, ``lines_q95`` over slices;
        - ``miss`` with ``miss_lo``, ``miss_hi`` (subjects resampled; with units that are slices
          also Wilson's ``miss_wilson_lo``, ``_hi``, which takes slices for independent), and
          ``holds``: whether the interval reaches down to alpha;
        - ``fixed_lines``, ``fixed_miss``: the smallest fixed budget that misses no more often, on
          these very scans (None: the whole budget does), ``saved`` = fixed_lines - lines with its
          interval;
        - ``oracle_lines``, ``oracle_miss``; ``share``: saved over what the oracle saves against
          the same fixed budget (None where the oracle saves nothing);
        - ``error``: root mean square error of the prediction where the true score is near the
          target; ``rank``: Spearman's correlation of predicted and true scores over all steps.
    """
    row: dict[str, object] = {
        "policy": verdict.policy,
        "reconstructor": verdict.reconstructor,
        "metric": stop.metric,
        "target": stop.target,
        "alpha": stop.alpha,
        "unit": stop.unit,
        "predictor": stop.predictor,
        "n_units": verdict.n_units,
        "n_subjects": len({scan.subject for scan in verdict.curves.scans}),
        "n_slices": len(set(verdict.curves.units("slice"))),
        "refused": verdict.refusal or None,
        "threshold": None,
    }
    if verdict.rule is None or verdict.predicted is None:
        return row
    threshold = verdict.rule.threshold
    row["threshold"] = threshold if np.isfinite(threshold) else None
    stops = Stops.of(verdict.curves, stop)
    return (
        row
        | _compared(stops, rule_steps(verdict), stop, seed=seed, n_resamples=n_resamples)
        | _accuracy(verdict.predicted, verdict.curves.scores[stop.metric], stop)
    )


def cheapest(fixed_misses: Floats, allowed: Floats) -> NDArray[np.intp]:
    """The smallest fixed budget that misses no more often than allowed, else the whole budget.

    Args:
        fixed_misses: (draw, step).
        allowed: (draw,).
    """
    return first_steps(fixed_misses <= allowed[:, None] + 1e-12)


def _compared(
    stops: Stops, rule: NDArray[np.intp], stop: StopSettings, *, seed: int, n_resamples: int
) -> dict[str, object]:
    steps = np.concatenate([rule, stops.oracle, stops.fixed], axis=1)
    lines, losses = stops.lines_at(steps), stops.losses_at(steps)
    mean_lines, miss = lines.mean(axis=0), losses.mean(axis=0)
    budget = int(cheapest(miss[None, 2:], miss[None, 0])[0])
    reached = bool(miss[2 + budget] <= miss[0] + 1e-12)
    saved = mean_lines[2 + budget] - mean_lines[0]
    to_save = mean_lines[2 + budget] - mean_lines[1]
    row: dict[str, object] = {
        "lines": float(mean_lines[0]),
        "lines_q05": float(np.quantile(lines[:, 0], 0.05)),
        "lines_q95": float(np.quantile(lines[:, 0], 0.95)),
        "miss": float(miss[0]),
        "fixed_lines": float(mean_lines[2 + budget]),
        "fixed_miss": float(miss[2 + budget]) if reached else None,
        "saved": float(saved) if reached else None,
        "oracle_lines": float(mean_lines[1]),
        "oracle_miss": float(miss[1]),
        "share": float(saved / to_save) if reached and to_save > 0 else None,
    }
    draws = _resampled(stops, lines, losses, seed=seed, n_resamples=n_resamples)
    row |= draws
    low = draws["miss_lo"]
    if stop.unit == "slice":
        ends = wilson(float(miss[0]), len(losses))
        row |= dict(zip(("miss_wilson_lo", "miss_wilson_hi"), ends, strict=True))
        low = ends[0] if low is None else min(low, ends[0])
    return row | {"holds": None if low is None else bool(low <= stop.alpha)}


def _resampled(
    stops: Stops, lines: Floats, losses: Floats, *, seed: int, n_resamples: int
) -> dict[str, float | None]:
    """Intervals of miss rate and saving; None with one subject."""
    n_subjects = int(stops.subject.max()) + 1
    if n_subjects < 2:
        return dict.fromkeys(("miss_lo", "miss_hi", "saved_lo", "saved_hi"))
    rng = np.random.default_rng(seed)
    weights = resampling_weights(n_subjects, rng=rng, n_resamples=n_resamples)
    miss = resampled_means(losses, stops.unit_subject, weights=weights)
    used = resampled_means(lines, stops.subject, weights=weights)
    budget = cheapest(miss[:, 2:], miss[:, 0])
    saved = np.take_along_axis(used[:, 2:], budget[:, None], axis=1)[:, 0] - used[:, 0]
    columns = np.stack([miss[:, 0], saved], axis=1)
    misses_, saving = percentile_intervals(columns.mean(axis=0), columns, level=_LEVEL)
    high = misses_.high
    if not losses[:, 0].any():  # resampling nothing but zeros shows no doubt: use the exact limit
        high = 1 - ((1 - _LEVEL) / 2) ** (1 / n_subjects)
    return {
        "miss_lo": misses_.low,
        "miss_hi": high,
        "saved_lo": saving.low,
        "saved_hi": saving.high,
    }


def wilson(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of n independent trials."""
    z = 1.959963984540054
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def _accuracy(predicted: Floats, true: Floats, stop: StopSettings) -> dict[str, object]:
    """How good the predictions are; near the target means the tenth of the steps nearest to it."""
    distance = np.abs(true - stop.target)
    near = distance <= np.quantile(distance, 0.1)
    error = float(np.sqrt(np.mean((predicted - true)[near] ** 2)))
    rank = spearman(predicted.ravel(), true.ravel())
    return {"error": error, "rank": None if np.isnan(rank) else rank}


def _steps_of_all_thresholds(quality: Floats) -> NDArray[np.intp]:
    """Where each episode stops at thresholds from the lowest on, (episode, threshold)."""
    # What cannot be predicted does not stop a scan.
    best = np.maximum.accumulate(np.where(np.isnan(quality), -np.inf, quality), axis=1)
    values = np.unique(best)
    places = np.linspace(0, len(values) - 1, min(_THRESHOLDS, len(values))).round().astype(int)
    thresholds = np.append(values[places], np.inf)
    found = np.stack([np.searchsorted(row, thresholds) for row in best])
    return np.asarray(np.minimum(found, quality.shape[1] - 1))


def _codes(labels: Sequence[object]) -> NDArray[np.intp]:
    numbers = {label: code for code, label in enumerate(dict.fromkeys(labels))}
    return np.array([numbers[label] for label in labels], np.intp)
