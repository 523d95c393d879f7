"""Worth of adaptivity: gaps closed, information in actions, lines saved, as rows and as a table.

**Gaps.** A policy gets from the best fixed order (0) to an oracle (1):

    closed = (policy - best fixed order) / (oracle - best fixed order)

The area is held against the one-step oracle and the final score against the exchange oracle, each
of which aims at just that; they are bounds only as far as they find the best actions, so 1 can be
passed. The best fixed order is the policy with the trait is_order and the best mean on the scored
scans themselves (of equals the first): a choice with hindsight that favours the order, so that the
share closed is rather too small. Every resample of subjects takes all of it anew: the means, the
choice, and the ratio. Where the oracle is not clearly above the best order (the interval of the
denominator reaches zero), no ratio is given: any number divided by nearly nothing is large.

**Returns and lines.** A policy that stops by itself is held against orders of the best fixed
length: stopping every scan at the same, well chosen step needs no look at any scan. Both the order
and its length are chosen with hindsight.

**Information.** The mutual information of image and action at a step (Bakker, van Hoof and
Welling, NeurIPS 2020),

    I = H(mean over images of pi) - mean over images of H(pi),

is for policies without chance the entropy of their actions over the scans: 0 bits where all scans
get the same action, log2 k where k actions are equally frequent. Entropies of few scans come out
too low; Miller and Madow's (m - 1) / (2 n ln 2) bits, for m actions seen in n scans, are added.
n scans cannot show more than log2 n bits: the sum is cut there, and values near it only say "many".
An order gives 0 where scans agree in size and start; where they do not, its bits come from these
differences. And bits tell of the moment of an action: the lines that two scans share at the end
are counted apart.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from itertools import zip_longest
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from activemri.benchmark.resampling import (
    TAILS,
    Codes,
    Floats,
    Interval,
    percentile_intervals,
    resampled_means,
    resampling_weights,
)
from activemri.benchmark.statistics import (
    RETURN,
    formatted,
    groups,
    higher_is_better,
    metric_name,
    policies_that,
    seed_scores,
    seed_spread,
    trajectories,
)
from activemri.tables import Cell, Column, Table

Counts = NDArray[np.intp]
Row = Mapping[str, Any]

#: The oracle that bounds each quantity: one aims at the next score, the other at the last one.
ORACLE_OF = {"auc": "oracle", "final": "exchange-oracle"}

_SCAN = ["volume", "slice", "subject"]
_MOST_NAMED = 5  # orders beside the best one
_NONE = "\u2013"


#: What the tables show of gaps: metric ("" for the main one), quantity, heading.
_GAPS = (("", "auc", "area"), ("", "final", "final"), (RETURN, "final", "return"))

WORDS = (
    "Closed = (policy - best fixed order) / (oracle - best fixed order): 0 is what an order chosen "
    "before the scan gives, 1 what looking at the target gives. The area is held against the "
    "one-step oracle, the final score against the exchange oracle. The best order is chosen on "
    "these very scans, which favours it. Intervals draw subjects anew, with the choice and the "
    "ratio; they say nothing about other trainings: that is what seeds show.",
    "Bits = mutual information of scan and action, mean over steps (Miller-Madow): 0 where all "
    "scans get the same action at a step. With n scans no more than log2 n bits can show. Orders "
    "have more than 0 only where scans differ in size or start, which then adds to all policies. "
    "Shared = of the actions of a scan, those that another scan gets as well, mean over pairs.",
)


def worth(
    table: pd.DataFrame, metric: str, *, seed: int = 0, n_resamples: int = 2000
) -> dict[str, list[dict[str, object]]]:
    """All that a table tells of adaptivity, in the metric that the oracles maximised.

    Returns:
        ``gaps`` of :func:`gaps_closed` and :func:`returns_closed`, ``lines_saved`` of
        :func:`lines_saved`, ``actions`` of :func:`adaptivity_of_actions`, ``seeds`` of
        :func:`activemri.benchmark.statistics.seed_spread`.
    """
    own = table[table["metric"].isin([metric, RETURN])]
    scored = own[own["metric"] == metric]
    options: dict[str, Any] = {"seed": seed, "n_resamples": n_resamples}
    return {
        "gaps": gaps_closed(scored, **options) + returns_closed(own, **options),
        "lines_saved": lines_saved(scored, metric, **options),
        "actions": adaptivity_of_actions(scored),
        "seeds": seed_spread(own),
    }


def worth_table(
    table: pd.DataFrame,
    found: Mapping[str, Sequence[Row]],
    reconstructor: str,
    *,
    metric: str,
    name_cell: Callable[[str], Cell],
) -> Table:
    """Rows of :func:`worth` of one reconstructor as a table: a line for each policy.

    Args:
        table: the long table.
        found: of :func:`worth`.
        reconstructor: its label.
        metric: the main one.
        name_cell: policy to its cell.
    """
    part = table[table["reconstructor"] == reconstructor]
    gaps = [row for row in found["gaps"] if row["reconstructor"] == reconstructor]
    drawn = policies_that(table, "is_random")
    records = []
    for policy in map(str, part["policy"].unique()):
        own = {"policy": policy, "reconstructor": reconstructor}
        acted = [row for row in found["actions"] if own.items() <= row.items()]
        of_policy = {_kind(gap, metric): gap for gap in gaps if gap["policy"] == policy}
        records.append({**own, **of_policy, "actions": acted[0] if acted else None})
    names = [name for _, _, name in _GAPS if any(name in record for record in records)]
    columns = [
        Column("policy", lambda record: name_cell(record["policy"])),
        *(Column(f"{name} closed", partial(_gap_of, name)) for name in names),
        Column("bits", lambda record: action_cells(record["actions"])[0]),
        Column("shared actions", lambda record: action_cells(record["actions"])[1]),
    ]
    held = {_kind(gap, metric): gap for gap in reversed(gaps)}
    notes = [
        f"Best fixed order, {name}: {held[name]['order']} ({held[name]['why']}); bound: "
        f"{held[name]['oracle']}."
        for name in names
    ]
    notes += [
        _saving_in_words(r) for r in found["lines_saved"] if r["reconstructor"] == reconstructor
    ]
    for gap in gaps:
        if gap["closed_seeds"] and gap["policy"] not in drawn:
            each = ", ".join(_bounded(share) for share in gap["closed_seeds"])
            notes.append(f"{gap['policy']}, {_kind(gap, metric)} closed by each seed: {each}.")
    notes.append(
        "Closed: 0 % is the best fixed order, 100 % an oracle. Bits: 0 if all scans get the same "
        "action. Shared: actions of a scan that another one gets as well."
    )
    title, subtitle = "Worth of adaptivity", f"{metric_name(metric)}, {reconstructor}"
    return Table(records, columns, title=title, subtitle=subtitle, notes=notes)


def gaps_closed(
    table: pd.DataFrame,
    *,
    oracle_of: Mapping[str, str] = ORACLE_OF,
    seed: int = 0,
    n_resamples: int = 2000,
) -> list[dict[str, object]]:
    """The share of the gap that each policy closes, per reconstructor, metric and quantity.

    The table says which policies are fixed orders and which are oracles, which get no row.
    Give it the metric that the oracles maximised. Only scans count that the policy, the oracle and
    all orders have acquired.

    Args:
        table: the long table.
        oracle_of: policy that bounds "auc" and "final"; without it in the table there are no rows.
        seed: of the bootstrap.
        n_resamples: of the bootstrap.

    Returns:
        Dictionaries ready for JSON: policy, reconstructor, metric, quantity; ``order`` and
        ``oracle``, what it is held against; ``why`` that order; ``gain`` = policy minus order,
        ``room`` = oracle minus order (signs such that more is better), ``closed`` = gain / room,
        each with ``_lo`` and ``_hi``; ``reason`` why ``closed`` or its interval is None;
        ``closed_seeds``, the ratio of each seed on its own (several trainings of one policy);
        n_subjects, n_slices, n_seeds.
    """
    rows: list[dict[str, object]] = []
    orders, bounds = (policies_that(table, trait) for trait in ("is_order", "is_oracle"))
    scores = seed_scores(table)
    for family, members in groups(scores, ["reconstructor", "metric"]):
        sign = 1.0 if higher_is_better(str(family["metric"])) else -1.0
        for quantity, oracle in oracle_of.items():
            wide = members.pivot_table(
                index=_SCAN, columns="policy", values=quantity, sort=False, observed=True
            )
            rivals = [name for name in wide if name in orders and name not in bounds]
            if oracle not in wide or not rivals:
                continue
            for policy, own in groups(members, ["policy"]):
                if policy["policy"] in bounds:
                    continue
                by_seed = own.pivot_table(
                    index=_SCAN, columns="seed", values=quantity, sort=False, observed=True
                )
                scans = wide[[*rivals, oracle]].join(by_seed, how="inner").dropna()
                if scans.empty:
                    continue
                gap = Gap(
                    policy=sign * scans[list(by_seed)].to_numpy(np.float64),
                    oracle=sign * scans[oracle].to_numpy(np.float64),
                    orders=sign * scans[rivals].to_numpy(np.float64),
                    names=rivals,
                    subjects=pd.factorize(scans.index.get_level_values("subject"), sort=True)[0],
                )
                row = gap.row(seed=seed, n_resamples=n_resamples)
                if row["order"] != policy["policy"]:
                    why = {"why": best_of(gap, sign)}
                    held = {"quantity": quantity, "oracle": oracle}
                    rows.append({**policy, **family, **held} | row | why)
    return rows


@dataclass(frozen=True, eq=False)
class Gap:
    """Scores of the same scans by a policy, an oracle and fixed orders; more is better.

    Attributes:
        policy: (n_scans, n_seeds).
        oracle: (n_scans,).
        orders: (n_scans, n_orders).
        names: of the orders.
        subjects: (n_scans,), numbers 0 .. n_subjects - 1.
    """

    policy: Floats
    oracle: Floats
    orders: Floats
    names: Sequence[str]
    subjects: Codes

    def row(self, *, seed: int, n_resamples: int) -> dict[str, object]:
        """Order, gain, room and share closed with their intervals; see :func:`gaps_closed`."""
        best = int(self.orders.mean(axis=0).argmax())
        order = float(self.orders[:, best].mean())
        mean, room = float(self.policy.mean()) - order, float(self.oracle.mean()) - order
        n_subjects = int(self.subjects.max()) + 1
        drawn = self._resampled(n_subjects, seed, n_resamples) if n_subjects > 1 else None
        gain_, room_ = _intervals(np.array([mean, room]), drawn)
        closed = share_closed(gain_, room_, drawn)
        seeds = self.policy.mean(axis=0) - order
        known = closed.value is not None and len(seeds) > 1
        return {
            "order": self.names[best],
            **_named("gain", gain_),
            **_named("room", room_),
            "closed": closed.value,
            "closed_lo": closed.low,
            "closed_hi": closed.high,
            "reason": closed.reason,
            "closed_seeds": [float(one / room) for one in seeds] if known else None,
            "n_subjects": n_subjects,
            "n_slices": len(self.subjects),
            "n_seeds": len(seeds),
        }

    def _resampled(self, n_subjects: int, seed: int, n_resamples: int) -> Floats:
        """Gain and room of every resample: (n_resamples, 2)."""
        rng = np.random.default_rng(seed)
        weights = resampling_weights(n_subjects, rng=rng, n_resamples=n_resamples)
        ends = np.stack([self.policy.mean(axis=1), self.oracle], axis=1)
        means = resampled_means(ends, self.subjects, weights=weights)
        orders = resampled_means(self.orders, self.subjects, weights=weights)
        return np.asarray(means - orders.max(axis=1, keepdims=True))


def best_of(gap: Gap, sign: float = 1.0) -> str:
    """Reason for the best fixed order: its mean beside those of the others, best ones first.

    Args:
        gap: whose orders.
        sign: -1 for metrics whose sign was turned.
    """
    means = gap.orders.mean(axis=0)
    first, *others = [
        f"{gap.names[i]} {sign * means[i]:.4g}" for i in np.argsort(-means, kind="stable")
    ]
    if not others:
        return f"the only fixed order of this benchmark; mean {first.split()[-1]}"
    shown = [*others[:_MOST_NAMED], *(["..."] if len(others) > _MOST_NAMED else [])]
    ties = int((means == means.max()).sum())
    tie = f"; the first of {ties} of equal means" if ties > 1 else ""
    return (
        f"best mean of the {len(means)} fixed orders on these {len(gap.subjects)} slices: "
        f"{first}; {', '.join(shown)}{tie}"
    )


@dataclass(frozen=True)
class _Share:
    """A share closed: value, ends and why one of them is None."""

    value: float | None
    low: float | None
    high: float | None
    reason: str | None


def share_closed(gain: Interval, room: Interval, drawn: Floats | None) -> _Share:
    """The ratio of gain and room, where there is room.

    Args:
        gain: policy minus order.
        room: oracle minus order.
        drawn: both in every resample, (n_resamples, 2), or None with one subject.
    """
    if room.value <= 0:
        return _Share(None, None, None, "the oracle is not above the best fixed order")
    value = gain.value / room.value
    if drawn is None or room.low is None:
        return _Share(value, None, None, gain.reason)
    if room.low <= 0:
        return _Share(None, None, None, "the oracle is not clearly above the best fixed order")
    # Without room a gain is worth any share, and a loss none: these stay in the outer tails.
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(drawn[:, 1] > 0, drawn[:, 0] / drawn[:, 1], np.inf * drawn[:, 0])
    ratios[np.isnan(ratios)] = 0
    low, high = np.quantile(ratios, TAILS, method="nearest")
    if not np.isfinite([low, high]).all():
        return _Share(value, None, None, "too little room in too many resamples")
    return _Share(value, float(low), float(high), None)


def _intervals(values: Floats, drawn: Floats | None) -> list[Interval]:
    if drawn is None:
        return [
            Interval(float(value), None, None, "one subject: there is nobody else to draw")
            for value in values
        ]
    return percentile_intervals(values, drawn)


def _named(name: str, interval: Interval) -> dict[str, object]:
    return {name: interval.value, f"{name}_lo": interval.low, f"{name}_hi": interval.high}


def returns_closed(
    table: pd.DataFrame,
    *,
    seed: int = 0,
    n_resamples: int = 2000,
) -> list[dict[str, object]]:
    """The share of the gap in return that each policy closes.

    The gap goes from the best order of the best fixed length to oracles that stop each scan where
    its return is largest.

    Returns:
        As :func:`activemri.benchmark.adaptivity.gaps_closed`, with the metric "return", the
        quantity "final", and an order such as "lbcs, 17 actions". Nothing where the table has no
        returns, no orders or no oracles.
    """
    rows: list[dict[str, object]] = []
    orders, bounds = (policies_that(table, trait) for trait in ("is_order", "is_oracle"))
    for reconstructor, curves in _curves_of(table, RETURN):
        best = [curves.scores[name].max(axis=1) for name in curves.scores if name in bounds]
        lengths = [
            (f"{name}, {step} action{'' if step == 1 else 's'}", curve[:, step])
            for name, curve in curves.scores.items()
            if name in orders
            for step in range(curve.shape[1])
        ]
        if not best or not lengths:
            continue
        for policy in curves.scores:
            if policy in bounds:
                continue
            gap = Gap(
                policy=np.stack([one[:, -1] for one in curves.seeds[policy]], axis=1),
                oracle=np.max(best, axis=0),
                orders=np.stack([scores for _, scores in lengths], axis=1),
                names=[name for name, _ in lengths],
                subjects=curves.subjects,
            )
            row: dict[str, object] = {"policy": policy, "reconstructor": reconstructor}
            row |= {"metric": RETURN, "quantity": "final", "oracle": "oracles, best stop"}
            row |= gap.row(seed=seed, n_resamples=n_resamples)
            rows.append(row | {"why": best_of(gap)})
    return rows


def lines_saved(
    table: pd.DataFrame,
    metric: str,
    *,
    seed: int = 0,
    n_resamples: int = 2000,
) -> list[dict[str, object]]:
    """Lines that policies which stop by themselves save against orders of equal mean quality.

    Returns:
        Dictionaries ready for JSON for every policy that ends some scans before others: policy,
        reconstructor, metric; ``quality``, its mean score at the end; ``lines``, mean acquired
        since the start; ``order`` that reaches this quality in the mean with the fewest lines, and
        ``order_lines``, how many (between two steps interpolated); ``saved`` = 1 - lines /
        order_lines with ``_lo``, ``_hi``. Where no order gets there (``order_lines`` None) the
        longest length played stands in, so that the saving is at least that; in resamples too.
    """
    rows: list[dict[str, object]] = []
    orders, bounds = (policies_that(table, trait) for trait in ("is_order", "is_oracle"))
    sign = 1.0 if higher_is_better(metric) else -1.0
    for reconstructor, curves in _curves_of(table, metric):
        rivals = [name for name in curves.scores if name in orders]
        for policy, scores in curves.scores.items():
            ends = curves.n_lines[policy][:, -1]
            if policy in bounds or policy in orders or not rivals or np.ptp(ends) == 0:
                continue
            own = np.stack([scores[:, -1], ends], axis=1)
            row = _saving(curves, own, rivals, seed=seed, n_resamples=n_resamples)
            row["quality"] = sign * float(own[:, 0].mean())
            rows.append({"policy": policy, "reconstructor": reconstructor, "metric": metric} | row)
    return rows


def _saving(
    curves: "_Curves",
    own: Floats,
    orders: Sequence[str],
    *,
    seed: int,
    n_resamples: int,
) -> dict[str, object]:
    """Of a policy whose scans ended with own (score, lines)."""
    n_subjects = int(curves.subjects.max()) + 1
    needed, reached, lines = _needed(curves, own, orders, np.ones((1, n_subjects)))
    best = int(needed[0].argmin())
    saved = _saved(lines, needed)
    row: dict[str, object] = {
        "lines": float(lines[0]),
        "order": orders[best],
        "order_lines": float(needed[0, best]) if reached[0].any() else None,
        "saved": _finite(saved[0]),
        "saved_lo": None,
        "saved_hi": None,
        "n_subjects": n_subjects,
    }
    if n_subjects > 1:
        rng = np.random.default_rng(seed)
        drawn = resampling_weights(n_subjects, rng=rng, n_resamples=n_resamples)
        needed, _, lines = _needed(curves, own, orders, drawn)
        ends = np.quantile(_saved(lines, needed), TAILS, method="nearest")
        row |= {"saved_lo": _finite(ends[0]), "saved_hi": _finite(ends[1])}
    return row


def _saved(lines: Floats, needed: Floats) -> Floats:
    """Share saved against the cheapest order; minus infinity where that needs no line at all."""
    fewest = needed.min(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(lines > 0, 1 - lines / fewest, 0.0)


def _finite(value: np.float64) -> float | None:
    return float(value) if np.isfinite(value) else None


def _needed(
    curves: "_Curves", own: Floats, orders: Sequence[str], weights: Floats
) -> tuple[Floats, NDArray[np.bool_], Floats]:
    """Lines that orders need for a policy's quality, in every resample.

    Returns:
        (n_resamples, n_orders) lines and whether they get there at all; the policy's own lines,
        (n_resamples,).
    """
    means = resampled_means(own, curves.subjects, weights=weights)
    found = []
    for name in orders:
        height = resampled_means(curves.scores[name], curves.subjects, weights=weights)
        lines = resampled_means(curves.n_lines[name], curves.subjects, weights=weights)
        found.append(first_crossing(height, lines, means[:, 0]))
    needed = np.stack([lines for lines, _ in found], axis=1)
    reached = np.stack([gets_there for _, gets_there in found], axis=1)
    # An order that gets there never costs less than one that does.
    needed = np.where(reached.any(axis=1, keepdims=True) & ~reached, np.inf, needed)
    return needed, reached, means[:, 1]


def first_crossing(
    heights: Floats, lines: Floats, levels: Floats
) -> tuple[Floats, NDArray[np.bool_]]:
    """Places where curves first reach a height, between two steps interpolated: (n_curves,).

    Args:
        heights: (n_curves, n_steps).
        lines: values to interpolate there, alike.
        levels: (n_curves,).

    Returns:
        Lines, those of the last step where a curve stays below, and whether it gets there.
    """
    above = heights >= levels[:, None]
    reached: NDArray[np.bool_] = np.asarray(above.any(axis=1))
    after = np.where(reached, above.argmax(axis=1), heights.shape[1] - 1)
    before = np.maximum(after - 1, 0)
    rows = np.arange(len(heights))
    low, high = heights[rows, before], heights[rows, after]
    rise = np.where(high > low, high - low, 1.0)
    share = np.where(reached, np.clip((levels - low) / rise, 0, 1), 1.0)
    found = lines[rows, before] + share * (lines[rows, after] - lines[rows, before])
    return np.asarray(found), reached


@dataclass(frozen=True, eq=False)
class _Curves:
    """Curves of the scans that every policy has acquired; more is better.

    Attributes:
        seeds: (n_scans, n_steps) of each seed, by policy.
        scores: the mean over seeds.
        n_lines: lines acquired since the start, mean over seeds.
        subjects: (n_scans,).
    """

    seeds: dict[str, list[Floats]]
    scores: dict[str, Floats]
    n_lines: dict[str, Floats]
    subjects: Codes


def _curves_of(table: pd.DataFrame, metric: str) -> Iterator[tuple[str, _Curves]]:
    """For every reconstructor."""
    sign = 1.0 if higher_is_better(metric) else -1.0
    for result, part in groups(table[table["metric"] == metric], ["reconstructor"]):
        paths = trajectories(part)
        places = {
            (str(run["policy"]), str(run["seed"])): pd.Series(
                episodes.index, pd.MultiIndex.from_frame(episodes[_SCAN])
            )
            for run, episodes in groups(paths.episodes, ["policy", "seed"])
        }
        scans = reduce(
            lambda one, other: one.intersection(other, sort=False),
            [place.index for place in places.values()],
        )
        if not len(scans):
            continue
        n_lines = paths.n_acquired - paths.n_acquired[:, :1]
        scores: dict[str, list[Floats]] = {}
        lines: dict[str, list[Floats]] = {}
        for (policy, _), place in places.items():
            rows = place.loc[scans].to_numpy()
            scores.setdefault(policy, []).append(sign * paths.scores[rows])
            lines.setdefault(policy, []).append(n_lines[rows])
        yield (
            str(result["reconstructor"]),
            _Curves(
                seeds=scores,
                scores={policy: np.mean(runs, axis=0) for policy, runs in scores.items()},
                n_lines={policy: np.mean(runs, axis=0) for policy, runs in lines.items()},
                subjects=pd.factorize(scans.get_level_values("subject"), sort=True)[0],
            ),
        )


def adaptivity_of_actions(table: pd.DataFrame) -> list[dict[str, object]]:
    """Differences of the actions of each policy between scans.

    One draw does not tell the probabilities of policies that act by chance: they get no bits.

    Args:
        table: the long table, with its column action (-1 where there is none).

    Returns:
        Dictionaries ready for JSON, one per policy and reconstructor, seeds averaged:

        - ``bits`` after Miller and Madow and ``plug_in`` for every step (None with fewer than two
          scans under way), ``mean_bits`` over the steps, ``ceiling`` = log2 of the scans;
        - ``n_scans`` at the start and ``n_acting``, those not ended before each step;
        - ``taken``: actions of an episode, ``shared``: how many of them another scan's episode has
          as well, both averaged over pairs of scans at the end, and ``overlap`` = shared / taken.

    Raises:
        ValueError: the table has no actions.
    """
    rows: list[dict[str, object]] = []
    drawn = policies_that(table, "is_random")
    for result, part in groups(actions_of(table), ["policy", "reconstructor"]):
        seeds = [_Seed.of(own) for _, own in groups(part, ["seed"])]
        bits = _step_means([one.bits for one in seeds])
        plug_in = _step_means([one.plug_in for one in seeds])
        if result["policy"] in drawn:
            bits = plug_in = [None] * len(bits)
        n_scans = max(one.n_scans for one in seeds)
        taken, shared = _mean([one.taken for one in seeds]), _mean([one.shared for one in seeds])
        rows.append(
            result
            | {"bits": bits, "plug_in": plug_in, "mean_bits": _mean(bits)}
            | {"ceiling": float(np.log2(n_scans)), "n_scans": n_scans}
            | {"n_acting": _step_means([one.n_acting for one in seeds])}
            | {"taken": taken, "shared": shared}
            | {"overlap": shared / taken if shared is not None and taken else None}
        )
    return rows


def actions_of(table: pd.DataFrame) -> pd.DataFrame:
    """Every action once: columns policy, reconstructor, volume, slice, seed, step, action.

    Step 1 has the first action. Episodes without any are left out.
    """
    if "action" not in table or table.empty:
        raise ValueError("the results table has no actions: run the benchmark again")
    once = table[(table["metric"] == table["metric"].iloc[0]) & (table["action"] >= 0)]
    columns = ["policy", "reconstructor", "volume", "slice", "seed", "step", "action"]
    return once[columns]


def entropy_bits(counts: Counts) -> tuple[float, float]:
    """Entropy of what was counted, in bits: plug-in, and corrected, at most log2 of the count."""
    n, seen = counts.sum(), counts[counts > 0]
    share = seen / n
    plug_in = abs(float(-(share * np.log2(share)).sum()))  # abs: -0.0 is no number for people
    corrected = plug_in + (len(seen) - 1) / (2 * float(n) * float(np.log(2)))
    return plug_in, min(corrected, float(np.log2(n)))


def shared_actions(taken: NDArray[np.bool_]) -> float | None:
    """Mean over pairs of scans of how many actions both took: bool (n_scans, n_actions)."""
    n = len(taken)
    if n < 2:
        return None
    counts = taken.sum(axis=0).astype(np.float64)
    return float((counts * (counts - 1)).sum() / (n * (n - 1)))


@dataclass(frozen=True)
class _Seed:
    """One run over all scans: lists have a value for each step."""

    bits: list[float | None]
    plug_in: list[float | None]
    n_acting: list[float | None]
    n_scans: int
    taken: float
    shared: float | None

    @classmethod
    def of(cls, actions: pd.DataFrame) -> "_Seed":
        scan = actions.groupby(["volume", "slice"], observed=True, sort=False).ngroup().to_numpy()
        steps, chosen = actions["step"].to_numpy(), actions["action"].to_numpy()
        taken = np.zeros((int(scan.max()) + 1, int(chosen.max()) + 1), bool)
        taken[scan, chosen] = True
        counts = np.zeros((int(steps.max()), taken.shape[1]), np.intp)
        np.add.at(counts, (steps - 1, chosen), 1)
        entropies = [entropy_bits(row) if row.sum() > 1 else (None, None) for row in counts]
        return cls(
            bits=[corrected for _, corrected in entropies],
            plug_in=[plain for plain, _ in entropies],
            n_acting=[float(n) for n in counts.sum(axis=1)],
            n_scans=len(taken),
            taken=float(taken.sum(axis=1).mean()),
            shared=shared_actions(taken),
        )


def _step_means(seeds: Sequence[Sequence[float | None]]) -> list[float | None]:
    """Mean over those seeds that have a value at the step."""
    return [_mean(values) for values in zip_longest(*seeds)]


def _mean(values: Sequence[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return float(np.mean(numbers)) if numbers else None


def _gap_of(name: str, record: Row) -> Cell:
    return _gap_cell(record.get(name))


def _gap_cell(gap: Row | None) -> Cell:
    """A share closed, its interval, and the gain behind it."""
    if gap is None:
        return Cell(_NONE)
    metric = str(gap["metric"])
    gain = formatted(gap["gain"], "ssim" if metric == RETURN else metric, signed=True)
    reason = str(gap["reason"] or "")
    if gap["closed"] is None:
        return Cell("no room", small=(reason, f"gain {gain}"))
    low, high = gap["closed_lo"], gap["closed_hi"]
    if gap["closed"] < -1 and (high is None or high < 0):  # further below says nothing more
        return Cell("< \u2212100 %", small=("below the order", f"gain {gain}"))
    ends = "" if low is None or high is None else f"{percent(low)}, {percent(high)}"
    return Cell(percent(gap["closed"]), ends, tuple(filter(None, (reason, f"gain {gain}"))))


def action_cells(row: Row | None) -> tuple[Cell, Cell]:
    """Bits, and shared actions, of a row of :func:`adaptivity_of_actions`."""
    if row is None:
        return Cell(_NONE), Cell(_NONE)
    bits, shared, taken = row["mean_bits"], row["shared"], row["taken"]
    return (
        Cell(_NONE if bits is None else f"{bits:.2f}"),
        Cell(_NONE if shared is None else f"{shared:.1f} of {taken:.3g}"),
    )


def percent(share: float) -> str:
    """A share in percent."""
    return f"{100 * share:.0f} %".replace("-", "\u2212")


def _kind(gap: Row, metric: str) -> str:
    """Heading of a gap."""
    own = ("" if gap["metric"] == metric else gap["metric"], gap["quantity"])
    return next(name for *kind, name in _GAPS if tuple(kind) == own)


def _saving_in_words(row: Row) -> str:
    """A sentence on lines saved at equal quality."""
    order = f"{row['order']} takes {row['order_lines']:.1f} lines to the same mean score"
    if row["order_lines"] is None:
        order = "no fixed order reaches the same mean score with the lines that it was given"
    said = f"{row['policy']} takes {row['lines']:.1f} lines; {order}"
    if row["saved"] is None:
        return f"{said}."
    least = "at least " if row["order_lines"] is None else ""
    said += f": {least}{percent(row['saved'])} saved"
    if row["saved_lo"] is not None and row["saved_hi"] is not None:
        said += f" [{percent(row['saved_lo'])}, {percent(row['saved_hi'])}]"
    return f"{said}."


def _bounded(share: float) -> str:
    return percent(share) if share >= -1 else "< \u2212100 %"
