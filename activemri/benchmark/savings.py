"""Savings of stopping rules: against fixed budgets, and against a stop that knows the truth.

Everything is computed from whole episodes (:class:`activemri.stopping.features.Curves`), in which
it is known what stopping at any step would have given. The miss rate is the mean over units of the
share of their slices that stop below the target, as conformal risk control bounds it; lines are
means over slices. Intervals resample subjects.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from activemri.benchmark.resampling import (
    TAILS,
    percentile_intervals,
    resampled_means,
    resampling_weights,
)
from activemri.benchmark.statistics import metric_name
from activemri.data.slices import SliceInfo
from activemri.metrics import METRICS, spearman
from activemri.stopping import conformal
from activemri.stopping.features import Curves
from activemri.stopping.predictor import PredictorError
from activemri.stopping.rule import (
    StoppingRule,
    StopSettings,
    first_steps,
    fit_rule,
    misses,
    sign_of,
)
from activemri.tables import Cell, Table

Floats = NDArray[np.float64]

#: Beginning of the names of features among the metrics of a long table.
FEATURE = "feature "
_THRESHOLDS = 2000  # points of the trade-off curve
_NONE = "\u2013"


@dataclass(frozen=True, eq=False)
class FittedRule:
    """A rule, and the scans that are scored.

    Attributes:
        policy, reconstructor: labels.
        curves: of the scored scans, all seeds one after the other.
        rule: None where there is no safe one.
        refusal: why there is none, else empty.
        predicted: its predictions, float64 (episode, step); None without a rule.
        n_units: calibration units.
        n_subjects: calibration subjects.
    """

    policy: str
    reconstructor: str
    curves: Curves
    rule: StoppingRule | None
    refusal: str
    predicted: Floats | None
    n_units: int
    n_subjects: int


def fit(
    stop: StopSettings,
    played: Mapping[str, Curves],
    scored: Curves,
    *,
    policy: str,
    reconstructor: str,
    **of_rule: Any,
) -> FittedRule:
    """Fit and calibrate a rule on some scans, and apply it to others.

    Args:
        stop: settings of the rule.
        played: curves of the policy by split.
        scored: curves of the policy on the scored scans.
        policy, reconstructor: labels.
        **of_rule: further ones of :func:`activemri.stopping.rule.fit_rule`.
    """
    rule, refusal = None, ""
    try:
        rule = fit_rule(stop, played, policy=policy, reconstructor=reconstructor, **of_rule)
    except (conformal.NoThresholdError, PredictorError) as error:
        refusal = str(error)
    units, subjects = (
        {one for split in stop.calibration_splits for one in played[split].units(unit)}
        for unit in (stop.unit, "subject")
    )
    predicted = None if rule is None else rule.predictor(scored.features)
    return FittedRule(
        policy, reconstructor, scored, rule, refusal, predicted, len(units), len(subjects)
    )


def curves_of(table: pd.DataFrame, scans: Sequence[SliceInfo]) -> Curves:
    """Curves of the rows of one policy and seed.

    Args:
        table: long rows with features among the metrics.
        scans: the scans that they are of.
    """
    keys = ["volume", "slice"]
    names = list(table["metric"].unique())
    rows = pd.MultiIndex.from_tuples([(scan.volume, scan.index) for scan in scans])
    wide = table.pivot(index=keys, columns=["metric", "step"], values="value")
    lines = table[table["metric"] == names[0]].pivot(
        index=keys, columns="step", values="n_acquired"
    )
    last = lines.notna().to_numpy().sum(axis=1, keepdims=True) - 1
    steps = np.minimum(np.arange(lines.shape[1]), last)  # after the end the last value stays

    def continued(part: pd.DataFrame) -> NDArray[Any]:
        in_order = part.loc[rows].sort_index(axis=1).to_numpy()
        return np.take_along_axis(in_order, steps, axis=1)

    values = {name: continued(wide[name]).astype(np.float64) for name in names}
    return Curves(
        tuple(scans),
        continued(lines).astype(np.int64),
        {name: values[name] for name in names if name in METRICS},
        {n.removeprefix(FEATURE): values[n] for n in names if n.startswith(FEATURE)},
    )


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
        missed: stopping at each step would miss the target, bool (episode, step).
        unit: of each episode, (episode,).
        unit_subject: subject of each unit, (unit,).
        subject: of each episode, (episode,).
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
        return cls(
            curves, misses(curves, str(stop.metric), _target(stop)), unit, unit_subject, subject
        )

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


def trade_off(fitted: FittedRule, stop: StopSettings) -> TradeOff | None:
    """Of a fitted rule; None where there is none."""
    if fitted.rule is None or fitted.predicted is None:
        return None
    stops = Stops.of(fitted.curves, stop)
    return TradeOff(
        rule=stops.outcomes(_steps_of_all_thresholds(sign_of(str(stop.metric)) * fitted.predicted)),
        chosen=stops.outcomes(rule_steps(fitted)),
        fixed=stops.outcomes(stops.fixed),
        oracle=stops.outcomes(stops.oracle),
    )


def rule_steps(fitted: FittedRule) -> NDArray[np.intp]:
    """The step at which the rule stops each scored episode, (episode, 1)."""
    assert fitted.rule is not None and fitted.predicted is not None
    return first_steps(fitted.rule.stops(fitted.predicted))[:, None]


def savings(
    fitted: FittedRule, stop: StopSettings, *, seed: int = 0, n_resamples: int = 2000
) -> dict[str, object]:
    """A row of the report, ready for JSON.

    Returns:
        policy, reconstructor, settings of the rule, ``threshold`` and ``refused`` (why there is no
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
        "policy": fitted.policy,
        "reconstructor": fitted.reconstructor,
        "metric": stop.metric,
        "target": stop.target,
        "alpha": stop.alpha,
        "unit": stop.unit,
        "predictor": stop.predictor,
        "n_units": fitted.n_units,
        "n_subjects": len({scan.subject for scan in fitted.curves.scans}),
        "n_slices": len(set(fitted.curves.units("slice"))),
        "refused": fitted.refusal or None,
        "threshold": None,
    }
    if fitted.rule is None or fitted.predicted is None:
        return row
    threshold = fitted.rule.threshold
    row["threshold"] = threshold if np.isfinite(threshold) else None
    stops = Stops.of(fitted.curves, stop)
    return (
        row
        | _compared(stops, rule_steps(fitted), stop, seed=seed, n_resamples=n_resamples)
        | _accuracy(fitted.predicted, fitted.curves.scores[str(stop.metric)], stop)
    )


def stopping_table(
    rows: Sequence[Mapping[str, Any]], stop: StopSettings, *, words: Sequence[str] = ()
) -> Table:
    """Rows of :func:`savings` as a table.

    Args:
        rows: of :func:`savings`.
        stop: settings of the rules.
        words: further notes, of :func:`promises`.
    """

    def known(name: str, digits: int, *, ends: bool = False, sign: str = "") -> Any:
        def cell(row: Mapping[str, Any]) -> Cell:
            value = row.get(name)
            if value is None:
                return Cell("" if row["refused"] else _NONE)
            low, high = (row[f"{name}_lo"], row[f"{name}_hi"]) if ends else (None, None)
            interval = "" if low is None else f"{low:.{digits}f}, {high:.{digits}f}"
            if ends and low is None:
                interval = "one subject"
            return Cell(_minus(f"{value:{sign}.{digits}f}"), _minus(interval))

        return cell

    def missed(row: Mapping[str, Any]) -> Cell:
        if row["refused"]:
            return Cell("no rule", small=(row["refused"],))
        below = {True: "not above alpha", False: "above alpha", None: ""}[row["holds"]]
        cell = known("miss", 3, ends=True)(row)
        return Cell(cell.value, cell.interval, (below,), style="" if row["holds"] else "worse")

    columns: list[tuple[str, Callable[[Mapping[str, Any]], object]]] = [
        ("policy", lambda row: row["policy"]),
        *(
            [("reconstructor", lambda row: row["reconstructor"])]
            if len({row["reconstructor"] for row in rows}) > 1
            else []
        ),
        ("missed", missed),
        ("lines", known("lines", 1)),
        ("5-95 %", _spread_of_lines),
        ("fixed", known("fixed_lines", 1)),
        ("saved", known("saved", 1, ends=True, sign="+")),
        ("oracle", known("oracle_lines", 1)),
        ("share", _share),
        ("threshold", known("threshold", 4)),
        ("error", known("error", 3)),
    ]
    refused = [
        f"{row['policy']}, {row['reconstructor']}: no rule: {row['refused']}"
        for row in rows
        if row["refused"]
    ]
    return Table(
        [name for name, _ in columns],
        [[cell(row) for _, cell in columns] for row in rows],
        title=f"Stop at {metric_name(str(stop.metric))} {stop.target:g}",
        subtitle=f"alpha {stop.alpha:g}, predictor {stop.predictor}",
        notes=[
            *refused,
            "Missed: share of slices stopped below the target, mean over units. Lines: mean, start "
            "included. Fixed: smallest budget for all that misses no more often, chosen with "
            "hindsight on these very scans. Saved: lines against it. Oracle: stops when the target "
            "is truly reached. Share: saved over what the oracle saves. Error: of predictions near "
            "the target, root mean square.",
            *words,
        ],
    )


def promises(
    stop: StopSettings, *, n_units: int, n_subjects: int, is_trained: bool = True
) -> list[str]:
    """Guarantees for the chosen unit, and their limits.

    Args:
        stop: settings of the rules.
        n_units: calibration units.
        n_subjects: calibration subjects.
        is_trained: a reconstructor has weights, which are chosen on the val split.
    """
    units = f"{n_units} calibration {stop.unit}s"
    alone = n_units == n_subjects  # then a volume or slice stands for its subject
    share = f"{100 * stop.alpha:g} %"
    resemble = f"These are of only {n_subjects} subjects, whose {stop.unit}s resemble each other:"
    said = {
        "subject": (
            f"Promised: of a new subject's slices, on average at most {share} stop below the "
            f"target, if new subjects are exchangeable with the {units}: the same kind of people, "
            "scanner and protocol."
        ),
        "volume": (
            f"Promised: of a new volume's slices, on average at most {share} stop below the "
            f"target, if new volumes are exchangeable with the {units}. {resemble} for new "
            "subjects nothing is promised."
        ),
        "slice": (
            f"Promised: a new slice stops below the target with a chance of at most {share}, if "
            f"new slices are exchangeable with the {units}. {resemble} for slices of new subjects "
            "nothing is promised."
        ),
    }["subject" if alone else stop.unit]
    caution = (
        "The average is over calibration sets as well: one calibration can come out above, and so "
        "can one subject, one contrast, or one target chosen after looking. Nothing is promised "
        "if checkpoints were chosen on the calibration subjects, which makes them easier than new "
        "ones."
    )
    chosen_on_it = is_trained and stop.calibration in ("train", "val")
    if stop.is_crossfit or not (alone or stop.unit == "subject") or chosen_on_it:
        said = said.replace("Promised", "Aimed at, not promised", 1)
    if stop.is_crossfit:
        caution += (
            " Cross-fitting: predictions for calibration came from predictors fitted to the other "
            "folds, the rule uses one fitted to all, so that the bound is only approximate; and "
            "reconstructors and orders learned from these subjects suit them better than new ones."
        )
    return [said, caution]


def _spread_of_lines(row: Mapping[str, Any]) -> Cell:
    return Cell("" if row["refused"] else f"{row['lines_q05']:.0f}-{row['lines_q95']:.0f}")


def _share(row: Mapping[str, Any]) -> Cell:
    if row["refused"]:
        return Cell("")
    return Cell(_NONE if row["share"] is None else _minus(f"{100 * row['share']:.0f} %"))


def _minus(number: str) -> str:
    return number.replace("-", "\u2212")


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
    misses_, saving = percentile_intervals(columns.mean(axis=0), columns)
    high = misses_.high
    if not losses[:, 0].any():  # resampling nothing but zeros shows no doubt: use the exact limit
        high = 1 - TAILS[0] ** (1 / n_subjects)
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
    """Errors of the predictions; near the target means the tenth of the steps nearest to it."""
    distance = np.abs(true - _target(stop))
    near = distance <= np.quantile(distance, 0.1)
    error = float(np.sqrt(np.mean((predicted - true)[near] ** 2)))
    rank = spearman(predicted.ravel(), true.ravel())
    return {"error": error, "rank": None if np.isnan(rank) else rank}


def _steps_of_all_thresholds(quality: Floats) -> NDArray[np.intp]:
    """Stops of each episode at thresholds from the lowest on, (episode, threshold)."""
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


def _target(stop: StopSettings) -> float:
    assert stop.target is not None
    return stop.target
