"""Worth of adaptivity: gains, shares of bounds, lines saved and actions shared.

**Gains.** Policy minus best fixed order: of all policies that are orders, the best mean on the
scored scans themselves (of equals the first), so that a gain is rather too small. The share of a
bound is (policy - best fixed order) / (oracle - best fixed order). Oracles are bounds only as far
as they find the best actions, so 1 can be passed. Intervals leave out one subject after the other,
and take means and choice anew each time. No share is given where the gap is uncertain, less than
``CERTAIN`` times the half width of its own interval: any number divided by nearly nothing is large.

**Returns and lines.** A policy that stops by itself is held against orders of the best fixed
length: stopping every scan at the same, well chosen step needs no look at any scan. Both the order
and its length are chosen with hindsight.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from activemri.benchmark.resampling import (
    TOO_FEW,
    Codes,
    Floats,
    Interval,
    intervals,
    leave_one_out,
    ratio_interval,
    subject_means,
    weighted_means,
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
from activemri.tables import Cell, Table

Row = Mapping[str, Any]

#: The oracles that bound each quantity, the first that was played: some aim at the next score, the
#: other at the last one.
ORACLES_OF = {"auc": ("oracle", "screened-oracle"), "final": ("exchange-oracle",)}
#: Bounds in words. "Bayes policy" is kept for the best that any policy can do.
BOUNDS = {
    "oracle": "one-step oracle",
    "screened-oracle": "screened one-step oracle",
    "exchange-oracle": "exchange oracle",
}
#: A gap is certain from so many half widths of its interval on.
CERTAIN = 3

_SCAN = ["volume", "slice", "subject"]
_MOST_NAMED = 5  # orders beside the best one
_NONE, _FAR_BELOW = "\u2013", "< \u2212100 %"

WORDS = (
    "Gain = policy - best fixed order of the same score. Share of a bound = gain / (bound - best "
    "fixed order): 0 is what an order chosen before the scan gives, 1 what looking at the target "
    "gives. The area is held against the one-step oracle (screened, if no exact one was played), "
    "the final score against the exchange oracle; neither is the Bayes policy, the best that can "
    "be done without the target. A share is given where the gap is at least three half widths of "
    "its interval. The best order is chosen on these very scans, which favours it. Intervals "
    "are over subjects; they say nothing about other trainings: that is what seeds show.",
    "Shared = of the actions of a scan, those that another scan gets as well, mean over pairs.",
)


def worth(table: pd.DataFrame, metric: str) -> dict[str, list[dict[str, object]]]:
    """Rows of all functions below, in the metric that the oracles maximised."""
    own = table[table["metric"].isin([metric, RETURN])]
    scored = own[own["metric"] == metric]
    return {
        "gaps": gaps_closed(scored) + returns_closed(own),
        "lines_saved": lines_saved(scored, metric),
        "actions": shared_actions(scored),
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
    """Rows of :func:`worth` with one reconstructor: a line for each policy of the long table."""
    gaps, saved, acted = (
        [row for row in found[key] if row["reconstructor"] == reconstructor]
        for key in ("gaps", "lines_saved", "actions")
    )
    shared = {row["policy"]: shared_words(row) for row in acted}
    closed: dict[str, dict[str, Row]] = {"area": {}, "final": {}, "return": {}}
    for gap in gaps:
        name = {"auc": "area", "final": "final"}[gap["quantity"]]
        closed["return" if gap["metric"] == RETURN else name][gap["policy"]] = gap
    closed = {name: by_policy for name, by_policy in closed.items() if by_policy}
    bounds = {name: next(iter(by.values()))["oracle"] for name, by in closed.items()}
    lines = []
    for policy in map(str, table[table["reconstructor"] == reconstructor]["policy"].unique()):
        own = [by_policy.get(policy) for by_policy in closed.values()]
        shares = [
            _share_cell(by_policy.get(policy)) for name, by_policy in closed.items() if bounds[name]
        ]
        lines.append(
            [name_cell(policy), *map(_gain_cell, own), *shares, Cell(shared.get(policy, _NONE))]
        )
    notes = []
    for name, by_policy in closed.items():
        best = next(iter(by_policy.values()))
        notes.append(f"Best fixed order, {name}: {best['order']} ({best['why']}).")
    for row in saved:
        said, least = f"{row['policy']} takes {row['lines']:.1f} lines; ", ""
        if row["order_lines"] is None:
            said += "no fixed order reaches the same mean score with the lines that it was given"
            least = "at least "
        else:
            said += f"{row['order']} takes {row['order_lines']:.1f} lines to the same mean score"
        if row["saved"] is not None:
            said += f": {least}{percent(row['saved'])} saved"
            if row["saved_lo"] is not None and row["saved_hi"] is not None:
                said += f" [{percent(row['saved_lo'])}, {percent(row['saved_hi'])}]"
        notes.append(f"{said}.")
    drawn = policies_that(table, "is_random")
    for name, by_policy in closed.items():
        for policy, gap in by_policy.items():
            if gap["closed_seeds"] and policy not in drawn:
                each = (percent(s) if s >= -1 else _FAR_BELOW for s in gap["closed_seeds"])
                notes.append(f"{policy}, share of the {name} by each seed: {', '.join(each)}.")
    notes.append(
        "Gain: over the best fixed order. Share: 0 % is that order, 100 % the bound. Shared: "
        "actions of a scan that another one gets as well."
    )
    of_bounds = (f"{name}: share of {BOUNDS.get(o, o)}" for name, o in bounds.items() if o)
    return Table(
        ["policy", *(f"{name} gain" for name in closed), *of_bounds, "shared actions"],
        lines,
        title="Worth of adaptivity",
        subtitle=f"{metric_name(metric)}, {reconstructor}",
        notes=notes,
    )


def gaps_closed(table: pd.DataFrame) -> list[dict[str, object]]:
    """Gain of each policy, and its share of a bound, per reconstructor, metric and quantity.

    Only scans count that the policy, the oracle and all orders have acquired. Oracles get no row.
    Where no oracle was played (None) there is no share.

    Returns:
        Dictionaries ready for JSON: policy, reconstructor, metric, quantity, ``oracle``, and the
        entries of :func:`gap_closed`.
    """
    rows: list[dict[str, object]] = []
    orders, bounds = (policies_that(table, trait) for trait in ("is_order", "is_oracle"))
    for family, members in groups(seed_scores(table), ["reconstructor", "metric"]):
        sign = 1.0 if higher_is_better(str(family["metric"])) else -1.0
        for quantity, oracles in ORACLES_OF.items():
            by_scan = partial(
                pd.DataFrame.pivot_table, index=_SCAN, values=quantity, sort=False, observed=True
            )
            wide = by_scan(members, columns="policy")
            rivals = [name for name in wide if name in orders and name not in bounds]
            oracle = next((name for name in oracles if name in wide), None)
            bound = [] if oracle is None else [oracle]
            if not rivals:
                continue
            for policy, own in groups(members, ["policy"]):
                seeds = by_scan(own, columns="seed")
                scans = wide[[*rivals, *bound]].join(seeds, how="inner").dropna()
                if policy["policy"] in bounds or scans.empty:
                    continue
                row = gap_closed(
                    scans[list(seeds)].to_numpy(np.float64),
                    None if oracle is None else scans[oracle].to_numpy(np.float64),
                    scans[rivals].to_numpy(np.float64),
                    names=rivals,
                    subjects=pd.factorize(scans.index.get_level_values("subject"), sort=True)[0],
                    sign=sign,
                )
                if row["order"] != policy["policy"]:
                    rows.append({**policy, **family, "quantity": quantity, "oracle": oracle} | row)
    return rows


def gap_closed(
    policy: Floats,
    oracle: Floats | None,
    orders: Floats,
    *,
    names: Sequence[str],
    subjects: Codes,
    sign: float = 1.0,
) -> dict[str, object]:
    """Gain of a policy, and the share of the gap that it closes, from scores of the same scans.

    Args:
        policy: (n_scans, n_seeds).
        oracle: (n_scans,), or None where none was played.
        orders: fixed ones, (n_scans, n_orders), with their names.
        subjects: (n_scans,), numbers 0 .. n_subjects - 1.
        sign: -1 where less is better.

    Returns:
        ``order``, the best one, and ``why``; ``gain`` = policy minus order, ``room`` = oracle minus
        order (signs such that more is better), ``closed`` = gain / room, each with ``_lo`` and
        ``_hi``; ``reason`` why ``closed`` or its interval is None; ``closed_seeds``, the ratio of
        each seed on its own (several trainings of one policy); n_subjects, n_slices, n_seeds.
    """
    policy, orders = sign * policy, sign * orders
    ends = [policy.mean(axis=1), *([] if oracle is None else [sign * oracle])]
    means = subject_means(orders, subjects)
    ranking = np.argsort(-means, kind="stable")
    n_subjects = int(subjects.max()) + 1
    weights = leave_one_out(n_subjects)
    above = weighted_means(np.stack(ends, axis=1), subjects, weights=weights)
    above -= weighted_means(orders, subjects, weights=weights).max(axis=1, keepdims=True)
    gain, *rooms = intervals(above)
    room = rooms[0] if rooms else Interval(0.0, None, None, "no bound was played")
    closed = low = high = None
    if room.low is None or room.high is None:
        reason = room.reason
    elif room.value <= 0:
        reason = "the oracle is not above the best fixed order"
    elif room.value < CERTAIN * (room.high - room.low) / 2:
        reason = "the oracle is not clearly above the best fixed order"
    else:
        share = ratio_interval(above)
        closed, low, high, reason = share.value, share.low, share.high, share.reason
    seeds = subject_means(policy, subjects) - means.max()
    first, *others = (f"{names[i]} {sign * means[i]:.4g}" for i in ranking)
    why = f"the only fixed order of this benchmark; mean {first.split()[-1]}"
    if others:
        more = ["..."] if len(others) > _MOST_NAMED else []
        ties = int((means == means.max()).sum())
        why = (
            f"best mean of the {len(means)} fixed orders on these {len(subjects)} slices: "
            f"{first}; {', '.join([*others[:_MOST_NAMED], *more])}"
            + (f"; the first of {ties} of equal means" if ties > 1 else "")
        )
    several = closed is not None and len(seeds) > 1
    return {
        "order": names[ranking[0]],
        **gain.named("gain"),
        **(room.named("room") if rooms else dict.fromkeys(("room", "room_lo", "room_hi"))),
        "closed": closed,
        "closed_lo": low,
        "closed_hi": high,
        "reason": reason,
        "closed_seeds": [float(one / room.value) for one in seeds] if several else None,
        "n_subjects": n_subjects,
        "n_slices": len(subjects),
        "n_seeds": len(seeds),
        "why": why,
    }


def returns_closed(table: pd.DataFrame) -> list[dict[str, object]]:
    """As :func:`gaps_closed`, of the final return.

    The gap goes from the best order of the best fixed length ("lbcs, 17 actions") to oracles that
    stop each scan where its return is largest.
    """
    rows: list[dict[str, object]] = []
    orders, bounds = (policies_that(table, trait) for trait in ("is_order", "is_oracle"))
    for reconstructor, scores, _, subjects in _curves_of(table, RETURN):
        best = [runs.mean(axis=0).max(axis=1) for name, runs in scores.items() if name in bounds]
        lengths = {
            f"{name}, {step} action{'' if step == 1 else 's'}": returns
            for name, runs in scores.items()
            if name in orders
            for step, returns in enumerate(runs.mean(axis=0).T)
        }
        if not best or not lengths:
            continue
        of_all = {"reconstructor": reconstructor, "metric": RETURN, "quantity": "final"}
        for policy in [name for name in scores if name not in bounds]:
            found = gap_closed(
                scores[policy][:, :, -1].T,
                np.max(best, axis=0),
                np.stack(list(lengths.values()), axis=1),
                names=list(lengths),
                subjects=subjects,
            )
            rows.append({"policy": policy, **of_all, "oracle": "oracles, best stop"} | found)
    return rows


def lines_saved(table: pd.DataFrame, metric: str) -> list[dict[str, object]]:
    """Lines that policies which end some scans before others save against orders of equal quality.

    Returns:
        Dictionaries ready for JSON: policy, reconstructor, metric; ``quality``, its mean score at
        the end; ``lines``, mean acquired since the start; ``order`` that reaches this quality in
        the mean with the fewest lines, and ``order_lines``, how many (between two steps
        interpolated); ``saved`` = 1 - lines / order_lines with ``_lo``, ``_hi``. Where no order
        gets there (``order_lines`` None) the longest length played stands in, so that the saving
        is at least that; without one of the subjects too.
    """
    rows: list[dict[str, object]] = []
    orders, bounds = (policies_that(table, trait) for trait in ("is_order", "is_oracle"))
    sign = 1.0 if higher_is_better(metric) else -1.0
    for reconstructor, scores, lines, subjects in _curves_of(table, metric):
        rivals = [name for name in scores if name in orders]
        curves = [(scores[name].mean(axis=0), lines[name]) for name in rivals]
        n_subjects = int(subjects.max()) + 1
        for policy, runs in scores.items():
            ends = np.stack([runs.mean(axis=0)[:, -1], lines[policy][:, -1]], axis=1)
            if policy in bounds or policy in orders or not rivals or np.ptp(ends[:, 1]) == 0:
                continue
            used, needed, reached, shares = _against_orders(
                ends, curves, subjects, leave_one_out(n_subjects)
            )
            best = int(needed[0].argmin())
            (saved,) = intervals(shares[:, None])
            rows.append(
                {
                    "policy": policy,
                    "reconstructor": reconstructor,
                    "metric": metric,
                    "quality": sign * float(subject_means(ends[:, :1], subjects)[0]),
                    "lines": float(used[0]),
                    "order": rivals[best],
                    "order_lines": float(needed[0, best]) if reached[0].any() else None,
                    **saved.named("saved"),
                    **({} if np.isfinite(saved.value) else {"saved": None}),
                    "n_subjects": n_subjects,
                }
            )
    return rows


def _against_orders(
    ends: Floats, curves: Sequence[tuple[Floats, Floats]], subjects: Codes, weights: Floats
) -> tuple[Floats, Floats, NDArray[np.bool_], Floats]:
    """Lines that a policy takes, and that orders need for its quality, in every weighting.

    From score and lines of the policy's scans at their end, (n_scans, 2), and of every order,
    (n_scans, n_steps) each: lines of the policy, (n_weightings,); of the orders, (n_weightings,
    n_orders), and whether they get there at all; the share saved against the cheapest order,
    (n_weightings,), minus infinity where that needs no line.
    """
    quality, used = weighted_means(ends, subjects, weights=weights).T
    found = []
    for scores, lines in curves:
        heights = weighted_means(scores, subjects, weights=weights)
        taken = weighted_means(lines, subjects, weights=weights)
        found.append(first_crossing(heights, taken, quality))
    needed, reached = (np.stack(parts, axis=1) for parts in zip(*found, strict=True))
    # An order that gets there never costs less than one that does.
    needed = np.where(reached.any(axis=1, keepdims=True) & ~reached, np.inf, needed)
    with np.errstate(divide="ignore", invalid="ignore"):
        saved = np.where(used > 0, 1 - used / needed.min(axis=1), 0.0)
    return used, needed, reached, saved


def first_crossing(
    heights: Floats, lines: Floats, levels: Floats
) -> tuple[Floats, NDArray[np.bool_]]:
    """Lines where curves, (n_curves, n_steps), first reach a level of each, and whether they do.

    Between two steps interpolated; lines of the last step where a curve stays below.
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


def _curves_of(
    table: pd.DataFrame, metric: str
) -> Iterator[tuple[str, dict[str, Floats], dict[str, Floats], Codes]]:
    """Curves of every reconstructor, of the scans that all policies have acquired.

    Its label; by policy the scores of each seed, more is better, (seed, scan, step), and the lines
    acquired since the start, mean over seeds, (scan, step); subjects, (scan,).
    """
    sign = 1.0 if higher_is_better(metric) else -1.0
    for result, part in groups(table[table["metric"] == metric], ["reconstructor"]):
        episodes, paths, n_acquired = trajectories(part)
        n_lines = n_acquired - n_acquired[:, :1]
        n_runs = len(episodes[["policy", "seed"]].drop_duplicates())
        count = episodes.groupby(_SCAN, observed=True)["policy"].transform("size")
        scores, lines = {}, {}
        for policy, own in groups(episodes[count == n_runs], ["policy"]):
            seeds = [seed for _, seed in groups(own, ["seed"])]
            rows = np.stack([seed.index for seed in seeds])  # scans come in the same order in all
            scores[str(policy["policy"])] = sign * paths[rows]
            lines[str(policy["policy"])] = n_lines[rows].mean(axis=0)
        if scores:
            subjects = pd.factorize(seeds[0]["subject"], sort=True)[0]
            yield str(result["reconstructor"]), scores, lines, subjects


def shared_actions(table: pd.DataFrame) -> list[dict[str, object]]:
    """Actions of each policy with each reconstructor that scans have in common, seeds averaged.

    Returns:
        Dictionaries ready for JSON: ``n_scans``; ``taken``: actions of an episode, ``shared``: how
        many of them another scan's episode has as well, both averaged over pairs of scans at the
        end (None with one scan), and ``overlap`` = shared / taken.
    """
    rows: list[dict[str, object]] = []
    for result, part in groups(actions_of(table), ["policy", "reconstructor"]):
        seeds = []
        for _, own in groups(part, ["seed"]):
            took = own[["volume", "slice", "action"]].drop_duplicates()
            n = len(took[["volume", "slice"]].drop_duplicates())
            counts = took["action"].value_counts().to_numpy(np.float64)
            pairs = (counts * (counts - 1)).sum() / (n * (n - 1)) if n > 1 else np.nan
            seeds.append({"n_scans": n, "taken": len(took) / n, "shared": pairs})
        found = pd.DataFrame(seeds)
        taken, shared = map(float, found[["taken", "shared"]].mean())
        known = bool(np.isfinite(shared))
        rows.append(
            {
                **result,
                "n_scans": int(found["n_scans"].max()),
                "taken": taken,
                "shared": shared if known else None,
                "overlap": shared / taken if known else None,
            }
        )
    return rows


def actions_of(table: pd.DataFrame) -> pd.DataFrame:
    """Every action once: columns policy, reconstructor, volume, slice, seed, step (from 1), action.

    Raises:
        ValueError: the table has no column action (-1 where there is none).
    """
    if "action" not in table or table.empty:
        raise ValueError("the results table has no actions: run the benchmark again")
    once = table[(table["metric"] == table["metric"].iloc[0]) & (table["action"] >= 0)]
    return once[["policy", "reconstructor", "volume", "slice", "seed", "step", "action"]]


def shared_words(row: Row) -> str:
    """Shared actions, of a row of :func:`shared_actions`."""
    return _NONE if row["shared"] is None else f"{row['shared']:.1f} of {row['taken']:.3g}"


def percent(share: float) -> str:
    """A share in percent."""
    return f"{100 * share:.0f} %".replace("-", "\u2212")


def _gain_cell(gap: Row | None) -> Cell:
    """Gain of a policy over the best fixed order."""
    return Cell(_NONE) if gap is None else Cell(*_signed(gap, "gain"))


def _share_cell(gap: Row | None) -> Cell:
    """A share of a bound with its interval, or the gap where that is too uncertain for one."""
    if gap is None:
        return Cell(_NONE)
    reason, low, high = gap["reason"] or "", gap["closed_lo"], gap["closed_hi"]
    if gap["closed"] is None:
        room, ends = _signed(gap, "room")
        words = "no gap" if gap["room"] is None or gap["room"] <= 0 else "gap too uncertain"
        return Cell(f"{words}: {room}", ends)
    if gap["closed"] < -1 and (high is None or high < 0):  # further below says nothing more
        return Cell(_FAR_BELOW, small=("below the order",))
    ends = "" if low is None or high is None else f"{percent(low)}, {percent(high)}"
    return Cell(percent(gap["closed"]), ends, (reason,))


def _signed(gap: Row, name: str) -> tuple[str, str]:
    """A difference of scores and its interval, in words."""
    metric = "ssim" if gap["metric"] == RETURN else str(gap["metric"])
    value, *ends = (formatted(gap[name + end], metric, signed=True) for end in ("", "_lo", "_hi"))
    return value, TOO_FEW if gap[f"{name}_lo"] is None else ", ".join(ends)
