"""Policies that choose how long to scan: what is left after the price, and lines saved.

A policy that stops by itself has to be held against orders of the best fixed length, not against
whole budgets: stopping every scan at the same, well chosen step needs no look at any scan. Both
the order and its length are chosen on the scored scans, with hindsight, which favours the order.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from activemri.agents.rollout import Episodes
from activemri.benchmark.adaptivity import Gap, best_of
from activemri.benchmark.resampling import (
    Codes,
    Floats,
    resampled_means,
    resampling_weights,
)
from activemri.benchmark.statistics import (
    RETURN,
    groups,
    higher_is_better,
    policies_that,
    trajectories,
)

_SCAN = ["volume", "slice", "subject"]


@dataclass(frozen=True)
class Returns:
    """The sum of rewards of an episode, after every step: gain of a score less price of actions.

    Attributes:
        metric: the score; errors count negatively.
        step_cost: price of an action.
    """

    metric: str
    step_cost: float

    def of(self, episodes: Episodes) -> Tensor:
        """Float64 (batch, steps + 1), 0 before the first action."""
        curve = episodes.scores[self.metric]
        gain = curve - curve[:, :1]
        taken = (episodes.actions >= 0).cumsum(dim=1).double()
        price = self.step_cost * taken
        sign = 1.0 if higher_is_better(self.metric) else -1.0
        total: Tensor = sign * gain
        total[:, 1:] -= price
        return total


def returns_closed(
    table: pd.DataFrame,
    *,
    seed: int = 0,
    n_resamples: int = 2000,
    level: float = 0.95,
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
            row |= gap.row(seed=seed, n_resamples=n_resamples, level=level)
            rows.append(row | {"why": best_of(gap)})
    return rows


def lines_saved(
    table: pd.DataFrame,
    metric: str,
    *,
    seed: int = 0,
    n_resamples: int = 2000,
    level: float = 0.95,
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
            row = _saving(curves, own, rivals, seed=seed, n_resamples=n_resamples, level=level)
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
    level: float,
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
        tail = (1 - level) / 2
        ends = np.quantile(_saved(lines, needed), [tail, 1 - tail], method="nearest")
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
    heights: Floats, lines: Floats, wanted: Floats
) -> tuple[Floats, NDArray[np.bool_]]:
    """Where curves first reach a height, between two steps interpolated: (n_curves,).

    Args:
        heights: (n_curves, n_steps).
        lines: what to tell of the place, alike.
        wanted: (n_curves,).

    Returns:
        Lines, those of the last step where a curve stays below, and whether it gets there.
    """
    above = heights >= wanted[:, None]
    reached: NDArray[np.bool_] = np.asarray(above.any(axis=1))
    after = np.where(reached, above.argmax(axis=1), heights.shape[1] - 1)
    before = np.maximum(after - 1, 0)
    rows = np.arange(len(heights))
    low, high = heights[rows, before], heights[rows, after]
    rise = np.where(high > low, high - low, 1.0)
    share = np.where(reached, np.clip((wanted - low) / rise, 0, 1), 1.0)
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
