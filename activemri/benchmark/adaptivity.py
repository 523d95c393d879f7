"""What adaptivity is worth: how far a policy gets from the best fixed order to an oracle.

    closed = (policy - best fixed order) / (oracle - best fixed order)

0 is what an order chosen before the scan gives, 1 what looking at the target gives. The area is
held against the one-step oracle and the final score against the exchange oracle, each of which
aims at just that; they are bounds only as far as they find the best actions, so 1 can be passed.

The best fixed order is the one with the best mean on the scored scans themselves, of all that were
run: a choice with hindsight that favours the order, so that the share closed is rather too small.
Every resample of subjects takes all of it anew: the means, the choice, and the ratio. Where the
oracle is not clearly above the best order (the interval of the denominator reaches zero), no
ratio is given: any number divided by nearly nothing is large.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from activemri.benchmark.resampling import (
    Codes,
    Floats,
    Interval,
    percentile_intervals,
    resampled_means,
    resampling_weights,
)
from activemri.benchmark.statistics import groups, higher_is_better, policies_that, seed_scores

#: The oracle that bounds each quantity: one aims at the next score, the other at the last one.
ORACLE_OF = {"auc": "oracle", "final": "exchange-oracle"}

_SCAN = ["volume", "slice", "subject"]
_MOST_NAMED = 5  # orders beside the best one


def gaps_closed(
    table: pd.DataFrame,
    *,
    oracle_of: Mapping[str, str] = ORACLE_OF,
    budget: int | None = None,
    seed: int = 0,
    n_resamples: int = 2000,
    level: float = 0.95,
) -> list[dict[str, object]]:
    """The share of the gap that each policy closes, per reconstructor, metric and quantity.

    The table says which policies are fixed orders and which are oracles, which get no row.
    Give it the metric that the oracles maximised. Only scans count that the policy, the oracle and
    all orders have acquired.

    Args:
        table: the long table.
        oracle_of: which policy bounds "auc" and "final"; without it in the table there are no rows.
        budget: see :func:`activemri.benchmark.statistics.trajectories`.
        seed: of the bootstrap.
        n_resamples: of the bootstrap.
        level: of the intervals.

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
    scores = seed_scores(table, budget=budget)
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
                row = gap.row(seed=seed, n_resamples=n_resamples, level=level)
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

    def row(self, *, seed: int, n_resamples: int, level: float) -> dict[str, object]:
        """Order, gain, room and share closed with their intervals; see :func:`gaps_closed`."""
        best = int(self.orders.mean(axis=0).argmax())
        order = float(self.orders[:, best].mean())
        mean, room = float(self.policy.mean()) - order, float(self.oracle.mean()) - order
        n_subjects = int(self.subjects.max()) + 1
        drawn = self._resampled(n_subjects, seed, n_resamples) if n_subjects > 1 else None
        gain_, room_ = _intervals(np.array([mean, room]), drawn, level)
        closed = share_closed(gain_, room_, drawn, level=level)
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
    return (
        f"best mean of the {len(means)} fixed orders on these {len(gap.subjects)} slices: "
        f"{first}; {', '.join(shown)}"
    )


@dataclass(frozen=True)
class Share:
    """A share closed: value, ends and why one of them is None."""

    value: float | None
    low: float | None
    high: float | None
    reason: str | None


def share_closed(gain: Interval, room: Interval, drawn: Floats | None, *, level: float) -> Share:
    """The ratio of gain and room, where there is room.

    Args:
        gain: policy minus order.
        room: oracle minus order.
        drawn: both in every resample, (n_resamples, 2), or None with one subject.
        level: of the interval.
    """
    if room.value <= 0:
        return Share(None, None, None, "the oracle is not above the best fixed order")
    value = gain.value / room.value
    if drawn is None or room.low is None:
        return Share(value, None, None, gain.reason)
    if room.low <= 0:
        return Share(None, None, None, "the oracle is not clearly above the best fixed order")
    # Without room a gain is worth any share, and a loss none: these stay in the outer tails.
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(drawn[:, 1] > 0, drawn[:, 0] / drawn[:, 1], np.inf * drawn[:, 0])
    tail = (1 - level) / 2
    ratios[np.isnan(ratios)] = 0
    low, high = np.quantile(ratios, [tail, 1 - tail], method="nearest")
    if not np.isfinite([low, high]).all():
        return Share(value, None, None, "too little room in too many resamples")
    return Share(value, float(low), float(high), None)


def _intervals(values: Floats, drawn: Floats | None, level: float) -> list[Interval]:
    if drawn is None:
        return [
            Interval(float(value), None, None, "one subject: there is nobody else to draw")
            for value in values
        ]
    return percentile_intervals(values, drawn, level=level)


def _named(name: str, interval: Interval) -> dict[str, object]:
    return {name: interval.value, f"{name}_lo": interval.low, f"{name}_hi": interval.high}
