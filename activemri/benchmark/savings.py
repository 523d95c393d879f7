"""Savings of stopping rules: against fixed budgets, and against a stop that knows the truth.

Everything is computed from whole episodes (:class:`activemri.stopping.features.Curves`), in which
it is known what stopping at any step would have given. A unit misses with the share of its slices
that stop below the target, as conformal risk control bounds it. Misses and lines are means of
subjects' means, as everywhere (:mod:`activemri.benchmark.resampling`); intervals are over subjects.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from activemri.benchmark import resampling
from activemri.benchmark.statistics import metric_name
from activemri.data.slices import SliceInfo
from activemri.metrics import METRICS, spearman
from activemri.stopping.features import Curves
from activemri.stopping.rule import RuleKind, StoppingRule, StopSettings, first_steps, misses
from activemri.tables import Cell, Table

Floats = resampling.Floats
Row = Mapping[str, Any]
TradeOff = Mapping[str, tuple[Floats, Floats]]

#: Beginning of the names of features among the metrics of a long table.
FEATURE = "feature "
_THRESHOLDS = 2000  # points of the trade-off curve
_NONE = "\u2013"


@dataclass(frozen=True, eq=False)
class FittedRule:
    """A rule, and the scans that are scored.

    Attributes:
        curves: of the scored scans, all seeds one after the other.
        rule: None where there is no safe one.
        refusal: why there is none, else empty.
        n_units, n_subjects: of the calibration.
        kind: one of :data:`activemri.stopping.rule.RULES`.
    """

    policy: str
    reconstructor: str
    curves: Curves
    rule: StoppingRule | None
    refusal: str
    n_units: int
    n_subjects: int
    kind: RuleKind = "predicted-score"


def curves_of(table: pd.DataFrame, scans: Sequence[SliceInfo]) -> Curves:
    """Curves of some scans from long rows of one policy and seed, with features as metrics."""
    names = list(table["metric"].unique())
    wide = table.pivot(
        index=["volume", "slice"], columns=["metric", "step"], values=["value", "n_acquired"]
    )
    wide = wide.loc[[(scan.volume, scan.index) for scan in scans]].sort_index(axis=1)
    lines = wide["n_acquired", names[0]].to_numpy(np.float64)
    last = np.isfinite(lines).sum(axis=1, keepdims=True) - 1
    steps = np.minimum(np.arange(lines.shape[1]), last)  # after the end the last value stays
    values = {
        name: np.take_along_axis(wide["value", name].to_numpy(np.float64), steps, axis=1)
        for name in names
    }
    return Curves(
        tuple(scans),
        np.take_along_axis(lines, steps, axis=1).astype(np.int64),
        {name: values[name] for name in names if name in METRICS},
        {n.removeprefix(FEATURE): values[n] for n in names if n.startswith(FEATURE)},
    )


def outcomes(
    rule: StoppingRule, curves: Curves, unit: str, *more: NDArray[np.intp]
) -> tuple[Floats, Floats]:
    """Lines acquired, (episode, way), and the share of each unit's slices that miss, (unit, way).

    Ways to stop are: by the rule; by the oracle, as soon as the target is truly reached; at every
    fixed budget; at more steps, (episode, way).
    """
    missed = misses(curves, rule.metric, rule.target)
    by_rule = first_steps(rule.stops(rule.predictor(curves.features)))
    fixed = np.tile(np.arange(missed.shape[1]), (len(curves), 1))
    steps = np.concatenate([by_rule[:, None], first_steps(~missed)[:, None], fixed, *more], axis=1)
    of_unit = curves.units(unit)
    belongs = np.equal.outer(np.arange(of_unit.max() + 1), of_unit).astype(np.float64)
    losses = belongs @ np.take_along_axis(missed, steps, axis=1) / belongs.sum(axis=1)[:, None]
    return np.take_along_axis(curves.n_acquired, steps, axis=1).astype(np.float64), losses


def trade_off(fitted: FittedRule, stop: StopSettings) -> TradeOff | None:
    """Mean lines and miss rate, (way,) each, of every way to stop; None without a rule.

    "rule" over all thresholds, the most permissive first, "chosen" at its calibrated one, "fixed"
    over all fixed budgets, the smallest first, "oracle" as soon as the target is truly reached.
    """
    if fitted.rule is None:
        return None
    # What cannot be predicted does not stop a scan.
    quality = fitted.rule.predictor.sign * fitted.rule.predictor(fitted.curves.features)
    quality = np.where(np.isnan(quality), -np.inf, quality)
    best = np.maximum.accumulate(quality, axis=1)
    values = np.unique(best)
    places = np.linspace(0, len(values) - 1, min(_THRESHOLDS, len(values))).round().astype(int)
    thresholds = np.append(values[places], np.inf)
    by_rule = np.stack([np.searchsorted(row, thresholds) for row in best])
    n_steps = best.shape[1]
    used, losses = outcomes(fitted.rule, fitted.curves, stop.unit, np.minimum(by_rule, n_steps - 1))
    subject, unit_subject = _subjects(fitted.curves, stop.unit)
    cuts = [1, 2, 2 + n_steps]
    lines = np.split(resampling.subject_means(used, subject), cuts)
    missed = np.split(resampling.subject_means(losses, unit_subject), cuts)
    ways = zip(lines, missed, strict=True)
    return dict(zip(("chosen", "oracle", "fixed", "rule"), ways, strict=True))


def savings(fitted: FittedRule, stop: StopSettings) -> dict[str, object]:
    """A row of the report, ready for JSON.

    Settings of the rule and, if it is not ``refused``:

    - ``lines`` (mean of subjects' means), ``lines_q05``, ``lines_q95`` over slices;
    - ``miss`` with ``miss_lo``, ``miss_hi`` (over subjects, of arcsin(sqrt(miss)), whose spread
      depends least on the share itself; with units that are slices also Wilson's
      ``miss_wilson_lo``, ``_hi``, which takes slices for independent), and ``holds``: whether the
      interval reaches down to alpha;
    - ``fixed_lines``, ``fixed_miss``: the smallest fixed budget that misses no more often, on these
      very scans (None: the whole budget does), ``saved`` = fixed_lines - lines with its interval;
    - ``oracle_lines``, ``oracle_miss``; ``share``: saved over what the oracle saves against the
      same fixed budget (None where the oracle saves nothing), with its interval (Fieller);
    - where a score is predicted, ``error``: root mean square error of the prediction in the tenth
      of the steps whose true score is nearest to the target; ``rank``: Spearman's correlation of
      predicted and true scores over all steps; ``r2``: share of their variance that is predicted.
    """
    curves, rule = fitted.curves, fitted.rule
    subject, unit_subject = _subjects(curves, stop.unit)
    n_subjects = int(subject.max()) + 1
    row: dict[str, object] = {
        "policy": fitted.policy,
        "reconstructor": fitted.reconstructor,
        "rule": fitted.kind,
        "metric": stop.metric,
        "target": stop.target,
        "alpha": stop.alpha,
        "unit": stop.unit,
        "predictor": stop.predictor,
        "n_units": fitted.n_units,
        "n_subjects": n_subjects,
        "n_slices": len(set(curves.units("slice"))),
        "refused": fitted.refusal or None,
        "threshold": None,
    }
    if rule is None:
        return row
    if np.isfinite(rule.threshold):
        row["threshold"] = rule.threshold
    lines, losses = outcomes(rule, curves, stop.unit)
    weights = resampling.leave_one_out(n_subjects)
    missed = resampling.weighted_means(losses, unit_subject, weights=weights)
    used = resampling.weighted_means(lines, subject, weights=weights)
    mean_lines, miss = used[0], missed[0]
    budget = 2 + int(cheapest(miss[None, 2:], miss[:1])[0])
    reached = bool(miss[budget] <= miss[0] + 1e-12)
    saved = mean_lines[budget] - mean_lines[0]
    to_save = mean_lines[budget] - mean_lines[1]
    row |= {
        "lines": float(mean_lines[0]),
        "lines_q05": float(np.quantile(lines[:, 0], 0.05)),
        "lines_q95": float(np.quantile(lines[:, 0], 0.95)),
        "miss": float(miss[0]),
        "fixed_lines": float(mean_lines[budget]),
        "fixed_miss": float(miss[budget]) if reached else None,
        "saved": float(saved) if reached else None,
        "oracle_lines": float(mean_lines[1]),
        "oracle_miss": float(miss[1]),
        "share": float(saved / to_save) if reached and to_save > 0 else None,
    }
    budgets = cheapest(missed[:, 2:], missed[:, 0])[:, None]
    less = np.take_along_axis(used[:, 2:], budgets, axis=1)[:, 0] - used[:, 0]
    angles = np.arcsin(np.sqrt(np.clip(missed[:, 0], 0, 1)))
    possible = np.take_along_axis(used[:, 2:], budgets, axis=1)[:, 0] - used[:, 1]
    of_miss, of_saving = resampling.intervals(np.stack([angles, less], axis=1))
    low, high = of_miss.low, of_miss.high
    if low is not None and high is not None:
        low, high = (float(np.sin(np.clip(end, 0, np.pi / 2)) ** 2) for end in (low, high))
        if not losses[:, 0].any():  # zeros show no doubt: use the exact limit
            high = 1 - resampling.TAIL ** (1 / n_subjects)
    row |= {"miss_lo": low, "miss_hi": high}
    row |= {"saved_lo": of_saving.low, "saved_hi": of_saving.high}
    if row["share"] is not None:
        of_share = resampling.ratio_interval(np.stack([less, possible], axis=1))
        row |= {"share_lo": of_share.low, "share_hi": of_share.high}
    if stop.unit == "slice":
        row["miss_wilson_lo"], row["miss_wilson_hi"] = ends = wilson(
            float(losses[:, 0].mean()), len(losses)
        )
        low = ends[0] if low is None else min(low, ends[0])
    row |= {"holds": None if low is None else bool(low <= stop.alpha)}
    return row | (_accuracy(rule, curves) if rule.predictor.estimates == "score" else {})


def _accuracy(rule: StoppingRule, curves: Curves) -> dict[str, float | None]:
    predicted, true = rule.predictor(curves.features), curves.scores[rule.metric]
    distance, wrong = np.abs(true - rule.target), (predicted - true) ** 2
    rank, variance = spearman(predicted.ravel(), true.ravel()), true.var()
    return {
        "error": float(np.sqrt(wrong[distance <= np.quantile(distance, 0.1)].mean())),
        "rank": None if np.isnan(rank) else rank,
        "r2": float(1 - wrong.mean() / variance) if variance > 0 else None,
    }


def _subjects(curves: Curves, unit: str) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Numbers of the subjects of episodes, and of units."""
    subject = curves.units("subject")
    return subject, subject[np.unique(curves.units(unit), return_index=True)[1]]


def cheapest(fixed_misses: Floats, allowed: Floats) -> NDArray[np.intp]:
    """The smallest fixed budget, else the whole, whose misses (draw, step) are allowed (draw,)."""
    return first_steps(fixed_misses <= allowed[:, None] + 1e-12)


def wilson(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of n independent trials."""
    z = 1.959963984540054
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def stopping_table(rows: Sequence[Row], stop: StopSettings, *, words: Sequence[str] = ()) -> Table:
    """Rows of :func:`savings` as a table, with further notes: :func:`promises`."""
    several = len({row["reconstructor"] for row in rows}) > 1
    names = ["policy", *(["reconstructor"] if several else []), "rule"]

    def number(value: float | None, form: str) -> str:
        if value is None:
            return _NONE
        return format(value, form).replace("-", "\u2212").replace("%", " %")

    def with_ends(row: Row, name: str, form: str) -> Cell:
        ends = "" if row[name] is None else resampling.TOO_FEW
        if ends and row[f"{name}_lo"] is not None:
            ends = ", ".join(number(row[name + end], form.lstrip("+")) for end in ("_lo", "_hi"))
        return Cell(number(row[name], form), ends)

    lines, refused = [], []
    for row in rows:
        line: list[object] = [row[name] for name in names]
        lines.append(line)
        if row["refused"]:
            line += [Cell("no rule", small=(row["refused"],)), *[Cell("")] * 8]
            whose = f"{row['policy']}, {row['reconstructor']}, {row['rule']}"
            refused.append(f"{whose}: no rule: {row['refused']}")
            continue
        below = {True: "not above alpha", False: "above alpha", None: ""}[row["holds"]]
        style = "" if row["holds"] else "worse"
        line += [
            replace(with_ends(row, "miss", ".3f"), small=(below,), style=style),
            Cell(number(row["lines"], ".1f")),
            Cell(f"{row['lines_q05']:.0f}-{row['lines_q95']:.0f}"),
            Cell(number(row["fixed_lines"], ".1f")),
            with_ends(row, "saved", "+.1f"),
            Cell(number(row["oracle_lines"], ".1f")),
            with_ends(row, "share", ".0%"),
            Cell(number(row["threshold"], ".4f")),
            Cell(number(row.get("error"), ".3f")),
        ]
    heads = "missed", "lines", "5-95 %", "fixed", "saved", "oracle", "share", "threshold", "error"
    return Table(
        [*names, *heads],
        lines,
        title=f"Stop at {metric_name(str(stop.metric))} {stop.target:g}",
        subtitle=f"alpha {stop.alpha:g}, predictor {stop.predictor}",
        notes=[
            *refused,
            "Missed: share of slices stopped below the target, subjects first. Lines: mean, start "
            "included. Fixed: smallest budget for all that misses no more often, chosen with "
            "hindsight on these very scans. Saved: lines against it. Oracle: stops when the target "
            "is truly reached. Share: saved over what the oracle saves. Error: of predictions near "
            "the target, root mean square. Rules: predicted-score stops when the predicted score "
            "is high enough; interval-length when the score's conformal interval is short enough "
            "(after TaskUQ, Wen et al. 2024); fixed-budget at the smallest budget for all. All "
            "make the same promise; their thresholds are a score, log10 of the size of its error, "
            "and a share of the lines.",
            *words,
        ],
    )


def promises(
    stop: StopSettings, *, n_units: int, n_subjects: int, is_trained: bool = True
) -> list[str]:
    """Guarantees for the chosen unit of a calibration, and their limits.

    Weights of a trained reconstructor are chosen on the val split.
    """
    alone = n_units == n_subjects  # then a volume or slice stands for its subject
    unit = "subject" if alone else stop.unit
    share = f"{100 * stop.alpha:g} %"
    bound = f"of a new {unit}'s slices, on average at most {share} stop below the target"
    if unit == "slice":
        bound = f"a new slice stops below the target with a chance of at most {share}"
    said = f"{bound}, if new {unit}s are exchangeable with the {n_units} calibration {stop.unit}s"
    if unit == "subject":
        said += ": the same kind of people, scanner and protocol."
    else:
        whose = "slices of new subjects" if unit == "slice" else "new subjects"
        said += (
            f". These are of only {n_subjects} subjects, whose {unit}s resemble each other: for "
            f"{whose} nothing is promised."
        )
    chosen_on_it = is_trained and stop.calibration in ("train", "val")
    holds = unit == "subject" and not (stop.is_crossfit or chosen_on_it)
    caution = (
        "The average is over calibration sets as well: one calibration can come out above, and so "
        "can one subject, one contrast, or one target chosen after looking. Nothing is promised "
        "if checkpoints were chosen on the calibration subjects, which makes them easier than new "
        "ones."
    )
    if stop.is_crossfit:
        caution += (
            " Cross-fitting: predictions for calibration came from predictors fitted to the other "
            "folds, the rule uses one fitted to all, so that the bound is only approximate; and "
            "reconstructors and orders learned from these subjects suit them better than new ones."
        )
    return [f"{'Promised' if holds else 'Aimed at, not promised'}: {said}", caution]
