"""Gaps closed, lines saved, and actions shared, where they are known."""

import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from activemri.agents.heuristic import low_frequency_first
from activemri.agents.policy import Greedy, Policy
from activemri.agents.registry import POLICIES
from activemri.agents.rollout import PADDING, Episodes
from activemri.benchmark import adaptivity
from activemri.benchmark.adaptivity import (
    first_crossing,
    gap_closed,
    gaps_closed,
    lines_saved,
    returns_closed,
    shared_actions,
    worth,
    worth_table,
)
from activemri.benchmark.plan import Shard
from activemri.benchmark.run import benchmark, long_rows
from activemri.benchmark.statistics import seed_spread
from activemri.data.slices import SliceInfo
from activemri.envs.protocol import ScanProtocol
from activemri.tables import Cell
from tests.benchmark.tables import long_table, with_traits

Row = dict[str, Any]
BUDGET = 4
SLOPES = {"lbcs": 0.02, "low-frequency-first": 0.01, "oracle": 0.06, "exchange-oracle": 0.1}


def sloped(slopes: Mapping[str, float], *, n_subjects: int = 4, **options: Any) -> pd.DataFrame:
    """Scores that rise by the policy's slope; subjects differ, seeds differ by 0.01."""

    def value(policy: str, subject: int, index: int, step: int, seed: int) -> float:
        return 0.3 + 0.1 * subject + (slopes[policy] + 0.01 * seed) * step * (1 + 0.5 * index)

    sizes: Row = {"n_subjects": n_subjects, "n_slices": 2, "n_steps": BUDGET}
    table = long_table(value, policies=list(slopes), **sizes, **options)
    return table.sample(frac=1, random_state=0)


def row_of(rows: list[Row], policy: str, quantity: str) -> Row:
    return next(r for r in rows if (r["policy"], r["quantity"]) == (policy, quantity))


def test_share_closed_is_that_of_the_slopes() -> None:
    rows = gaps_closed(sloped({**SLOPES, "ours": 0.03}))
    area, final = (row_of(rows, "ours", quantity) for quantity in ("auc", "final"))
    assert area["closed"] == pytest.approx((0.03 - 0.02) / (0.06 - 0.02))
    assert final["closed"] == pytest.approx((0.03 - 0.02) / (0.1 - 0.02))
    assert (area["order"], area["oracle"]) == ("lbcs", "oracle")
    assert (final["order"], final["oracle"]) == ("lbcs", "exchange-oracle")
    # All subjects agree: the interval is a point.
    assert area["closed_lo"] == pytest.approx(0.25) and area["closed_hi"] == pytest.approx(0.25)
    assert final["gain"] == pytest.approx(0.01 * BUDGET * 1.25)
    assert (final["n_subjects"], final["n_slices"]) == (4, 8)
    json.dumps(rows, allow_nan=False)


def test_best_order_is_chosen_and_worse_ones_close_less_than_nothing() -> None:
    table = sloped({**SLOPES, "learned-order": 0.04})
    rows = gaps_closed(with_traits(table, orders={*SLOPES, "learned-order"} - {"oracle"}))
    assert {row["policy"] for row in rows} == {"lbcs", "low-frequency-first"}
    assert all(row["order"] == "learned-order" for row in rows)
    assert row_of(rows, "lbcs", "auc")["closed"] == pytest.approx(-1.0)


def test_of_equal_orders_the_first_is_held_against_and_the_tie_is_told() -> None:
    rows: list[Row] = gaps_closed(sloped({"equispaced": 0.02, **SLOPES, "ours": 0.03}))
    assert {row["order"] for row in rows if row["policy"] == "ours"} <= {"equispaced", "lbcs"}
    assert all("equal means" in row["why"] for row in rows)


def test_a_metric_where_less_is_better_closes_the_same_share() -> None:
    falling = {name: -slope for name, slope in {**SLOPES, "ours": 0.03}.items()}
    row = row_of(gaps_closed(sloped(falling, metric="nmse")), "ours", "auc")
    assert row["closed"] == pytest.approx(0.25) and row["gain"] > 0


def test_seeds_are_averaged_and_told_apart() -> None:
    table = sloped({**SLOPES, "ours": 0.03}, n_seeds={"ours": 3})
    row = row_of(gaps_closed(table), "ours", "auc")
    assert row["closed"] == pytest.approx(0.5)  # slopes 0.03, 0.04, 0.05
    assert row["closed_seeds"] == pytest.approx([0.25, 0.5, 0.75])
    spread = [r for r in seed_spread(table) if r["quantity"] == "final"]
    assert [(r["policy"], r["seeds"]) for r in spread] == [("ours", [0, 1, 2])]
    assert spread[0]["sd"] == pytest.approx(0.01 * BUDGET * 1.25)


@pytest.mark.parametrize("oracle", [0.02, 0.015])
def test_without_room_there_is_no_ratio(oracle: float) -> None:
    row = row_of(gaps_closed(sloped({**SLOPES, "oracle": oracle, "ours": 0.03})), "ours", "auc")
    assert row["closed"] is None and row["closed_lo"] is None
    assert row["reason"] == "the oracle is not above the best fixed order"
    assert row["gain"] == pytest.approx(0.01 * BUDGET / 2 * 1.25)


def test_room_that_may_be_nothing_gives_no_ratio() -> None:
    rng = np.random.default_rng(0)
    room = rng.normal(0.3, 1, 12)
    policy, order = rng.normal(size=(12, 1)), np.zeros((12, 1))
    row: Row = gap_closed(policy, room, order, names=["lbcs"], subjects=np.arange(12))
    assert row["room_lo"] < 0 < row["room_hi"] and row["closed"] is None
    assert row["reason"] == "the oracle is not clearly above the best fixed order"


def test_one_subject_has_a_gain_and_no_share_for_its_gap_has_no_interval() -> None:
    row = row_of(gaps_closed(sloped({**SLOPES, "ours": 0.03}, n_subjects=1)), "ours", "auc")
    assert row["gain"] == pytest.approx(0.01 * BUDGET / 2 * 1.25) and row["gain_lo"] is None
    assert row["closed"] is None and row["reason"] == "too few subjects"


@pytest.mark.parametrize(("spread", "certain"), [(0.2, True), (0.6, False)])
def test_a_share_needs_a_gap_of_three_half_widths(spread: float, certain: bool) -> None:
    room = 1 + spread * np.array([-1, 1] * 6)
    policy, order = np.full((12, 1), 0.5), np.zeros((12, 1))
    row: Row = gap_closed(policy, room, order, names=["lbcs"], subjects=np.arange(12))
    assert row["room_lo"] > 0 and (row["closed"] is not None) == certain
    assert (row["room"] >= 1.5 * (row["room_hi"] - row["room_lo"])) == certain


def test_only_scans_that_all_have_acquired_count() -> None:
    table = sloped({**SLOPES, "ours": 0.03})
    lost = (table["policy"] == "oracle") & (table["subject"] == "s1")
    row = row_of(gaps_closed(table[~lost]), "ours", "auc")
    assert (row["n_subjects"], row["closed"]) == (3, pytest.approx(0.25))


def test_the_screened_oracle_bounds_where_no_exact_one_was_played() -> None:
    slopes = {"lbcs": 0.02, "ours": 0.03, "screened-oracle": 0.04}
    alone = row_of(gaps_closed(sloped(slopes)), "ours", "auc")
    assert (alone["oracle"], alone["closed"]) == ("screened-oracle", pytest.approx(0.5))
    both = row_of(gaps_closed(sloped({**slopes, "oracle": 0.06})), "ours", "auc")
    assert (both["oracle"], both["closed"]) == ("oracle", pytest.approx(0.25))


def test_without_an_oracle_there_are_gains_alone_and_without_an_order_nothing() -> None:
    table = sloped({"lbcs": 0.02, "ours": 0.03})
    row = row_of(gaps_closed(table), "ours", "auc")
    assert row["gain"] > 0 and row["oracle"] is row["room"] is row["closed"] is None
    text = worth_table(table, worth(table, "ssim"), "unet", metric="ssim", name_cell=Cell).text()
    assert "area gain" in text and "share of" not in text and "None" not in text
    assert gaps_closed(sloped({"oracle": 0.05, "ours": 0.03})) == []


def simulated(rng: np.random.Generator, *, n_copies: int = 1, **options: Any) -> Row:
    """Three slices of 20 subjects, a quarter of the gap between them in truth."""
    n_subjects = 20
    subjects = np.repeat(np.arange(n_subjects), 3)
    common = rng.normal(size=n_subjects)[subjects]
    room = 1 + 0.3 * rng.normal(size=n_subjects)[subjects]
    own = 0.25 + 0.2 * rng.normal(size=n_subjects)[subjects]
    noise = 0.1 * rng.normal(size=(4, len(subjects)))
    names, places = ["lbcs", "low-frequency-first"], np.tile(np.arange(len(subjects)), n_copies)
    return gap_closed(
        (common + own + noise[1])[places, None],
        (common + room + noise[2])[places],
        np.stack([common + noise[0], common - 0.2 + noise[3]], axis=1)[places],
        names=names,
        subjects=subjects[places],
        **options,
    )


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    rng, n = np.random.default_rng(0), 300
    rows = [simulated(rng) for _ in range(n)]
    covered = np.mean([row["closed_lo"] <= 0.25 <= row["closed_hi"] for row in rows])
    assert 0.94 < covered < 0.995


def test_copies_of_slices_do_not_make_the_interval_narrower() -> None:
    one, many = (simulated(np.random.default_rng(1), n_copies=n) for n in (1, 4))
    for name in ("closed", "closed_lo", "closed_hi", "room_lo"):
        assert one[name] == pytest.approx(many[name])


def test_registering_a_policy_changes_no_gap_and_an_order_of_any_name_counts_as_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    protocol = ScanProtocol(matrix_size=16, budget=2, n_center_lines=4)
    base = ("random", "equispaced", "oracle", "exchange-oracle")

    def gaps(*more: str) -> list[Row]:
        table = benchmark(protocol, policies=(*base, *more), max_slices=2)
        rows = gaps_closed(table[table["metric"] == "ssim"])
        return [row for row in rows if row["policy"] == "random"]

    before = gaps()

    def adaptive() -> Policy:
        return Greedy("adaptive", lambda view: view.zero_filled.abs().sum(dim=1))

    monkeypatch.setitem(POLICIES, "adaptive", adaptive)
    mine = replace(low_frequency_first(), name="mine")
    monkeypatch.setitem(POLICIES, "mine", lambda: mine)
    assert gaps("adaptive") == before
    assert {row["order"] for row in before} == {"equispaced"}
    assert all("the only fixed order" in row["why"] for row in before)
    with_order = gaps("mine")
    assert {row["order"] for row in with_order} == {"mine"}
    assert all(
        re.search(r"best mean of the 2 .*: mine .*; equispaced ", r["why"]) for r in with_order
    )


# Policies that stop by themselves

N_SUBJECTS = 6
WHOLE, KNOWING = [10] * N_SUBJECTS, [8, 2] * (N_SUBJECTS // 2)


def stopped(
    stops: Mapping[str, Sequence[int]], *, price: float = 0.0, metric: str = "ssim"
) -> pd.DataFrame:
    """Scores rise by 0.05 a line up to a ceiling that half of the subjects reach early, after 2
    lines, and the others after 8; policies stop after so many lines of each subject."""

    def value(policy: str, subject: int, index: int, step: int, seed: int) -> float:
        return 0.05 * min(step, 2 if subject % 2 else 8) - price * step

    table = long_table(
        value, policies=list(stops), n_subjects=N_SUBJECTS, n_steps=10, metric=metric
    )
    last = [stops[p][int(s[1:])] for p, s in zip(table["policy"], table["subject"], strict=True)]
    return table[table["step"] <= np.array(last)]


@pytest.mark.parametrize(("metric", "sign"), [("ssim", 1.0), ("nmse", -1.0)])
def test_returns_are_the_gain_less_the_price_of_the_actions_taken(metric: str, sign: float) -> None:
    scores = torch.tensor([[0.5, 0.6, 0.8], [0.2, 0.4, 0.4]], dtype=torch.float64)
    actions = torch.tensor([[3, 4], [7, PADDING]])
    scans = tuple(SliceInfo(f"v{i}", 0, f"s{i}", "T1", (8, 9), (8, 9), 1) for i in range(2))
    episodes = Episodes(
        "ours", scans, torch.zeros(2, 9), actions, torch.zeros(2, 3), {metric: scores.clone()}
    )
    rows = long_rows(episodes, Shard("unet", "ours", 0, (0, 1)), metric=metric, step_cost=0.04)
    found = rows[rows["metric"] == "return"]["value"].tolist()
    gains = [0, 0.1, 0.3, 0, 0.2]  # the second episode ends after one action
    costs = [0, 0.04, 0.08, 0, 0.04]
    assert found == pytest.approx([sign * g - c for g, c in zip(gains, costs, strict=True)])
    assert torch.equal(episodes.scores[metric], scores)


def test_stopping_where_nothing_more_comes_saves_what_the_fixed_length_wastes() -> None:
    rows: list[Row] = lines_saved(stopped({"lbcs": WHOLE, "ours": KNOWING}), "ssim")
    assert [row["policy"] for row in rows] == ["ours"]
    row = rows[0]
    json.dumps(rows, allow_nan=False)
    # Mean quality 0.05 * (8 + 2) / 2, which the order has for all after 8 lines; ours takes 5.
    assert row["quality"] == pytest.approx(0.25)
    assert (row["lines"], row["order_lines"]) == (5, pytest.approx(8))
    assert row["saved"] == pytest.approx(3 / 8)
    assert row["saved_lo"] < 3 / 8 < row["saved_hi"]


def test_a_quality_that_no_order_reaches_is_held_against_its_whole_length() -> None:
    table = stopped({"lbcs": WHOLE, "ours": KNOWING})
    table.loc[(table["policy"] == "ours") & (table["step"] == 2), "value"] = 0.9
    row = lines_saved(table, "ssim")[0]
    assert row["order_lines"] is None and row["saved"] == pytest.approx(1 - 5 / 10)


def test_policies_that_use_the_whole_budget_save_nothing_and_get_no_row() -> None:
    assert lines_saved(stopped({"lbcs": WHOLE, "random": WHOLE}), "ssim") == []


def test_a_policy_that_gains_nothing_saves_no_finite_share() -> None:
    table = stopped({"lbcs": WHOLE, "ours": KNOWING})
    table.loc[table["policy"] == "ours", "value"] = 0.0
    row = lines_saved(table, "ssim")[0]
    assert row["order_lines"] == 0 and row["saved"] is None


def test_scans_that_a_policy_lacks_are_left_out_for_all() -> None:
    table = stopped({"lbcs": WHOLE, "ours": KNOWING})
    table = table[(table["policy"] != "lbcs") | (table["subject"] != "s0")]
    assert lines_saved(table, "ssim")[0]["lines"] == pytest.approx((2 * 8 + 3 * 2) / 5)


def test_share_of_the_return_is_held_against_the_best_length() -> None:
    price = 0.02
    stops = {"lbcs": WHOLE, "oracle": WHOLE, "ours": KNOWING, "hasty": [2] * N_SUBJECTS}
    table = stopped(stops, price=price, metric="return")
    rows: dict[Any, Row] = {row["policy"]: row for row in returns_closed(table)}
    # An order of k lines gains 0.05 (2 + k) / 2 - 0.02 k for 2 <= k <= 8: best at 8.
    best = 0.05 * 5 - price * 8
    assert rows["ours"]["order"] == "lbcs, 8 actions"
    assert rows["ours"]["room"] == pytest.approx(0.05 * 5 - price * 5 - best)
    assert rows["ours"]["gain"] == pytest.approx(rows["ours"]["room"])
    assert rows["lbcs"]["gain"] == pytest.approx(0.05 * 5 - price * 10 - best)
    assert rows["hasty"]["gain"] == pytest.approx(0.1 - 2 * price - best)
    assert "oracle" not in rows


def test_crossings_are_interpolated_between_steps() -> None:
    heights = np.array([[0.0, 1.0, 3.0], [0.0, 1.0, 3.0], [0.0, 1.0, 1.5], [2.0, 3.0, 4.0]])
    lines = np.tile([0.0, 4.0, 8.0], (4, 1))
    found, reached = first_crossing(heights, lines, np.array([2.0, 1.0, 2.0, 2.0]))
    assert found.tolist() == [6, 4, 8, 0]
    assert reached.tolist() == [True, True, False, True]


# Actions that scans share

N_SCANS, N_STEPS = 8, 3


def played(
    action: Callable[[int, int, int], int],
    *,
    policy: str = "ours",
    n_scans: int = N_SCANS,
    n_seeds: int = 1,
) -> pd.DataFrame:
    """A long table with action(scan, step, seed)."""
    table = long_table(
        lambda *_: 0.5, policies=[policy], n_subjects=n_scans, n_steps=N_STEPS, n_seeds=n_seeds
    )
    scans = table["subject"].str[1:].astype(int)
    taken = [
        action(*key) if key[1] else -1
        for key in zip(scans, table["step"], table["seed"], strict=True)
    ]
    return pd.concat([table.assign(action=taken, metric=metric) for metric in ("ssim", "psnr")])


def only(rows: list[Row]) -> Row:
    json.dumps(rows, allow_nan=False)
    assert len(rows) == 1
    return rows[0]


def test_k_groups_that_share_all_their_actions_share_as_many_as_they_are_large() -> None:
    for k in (1, 2, 4):
        table = played(lambda scan, step, seed: scan % k + 10 * step)  # noqa: B023
        row = only(shared_actions(table))
        same = (N_SCANS / k - 1) / (N_SCANS - 1)  # chance that another scan is in the same group
        assert row["overlap"] == pytest.approx(same)
        assert (row["taken"], row["n_scans"]) == (N_STEPS, N_SCANS)
        assert row["shared"] == pytest.approx(same * N_STEPS)


def test_the_same_lines_in_another_order_are_shared() -> None:
    row = only(shared_actions(played(lambda scan, step, seed: (scan + step) % N_STEPS)))
    assert row["overlap"] == 1


def test_trainings_with_a_fixed_order_each_share_all_however_they_differ() -> None:
    row = only(shared_actions(played(lambda scan, step, seed: step + 5 * seed, n_seeds=3)))
    assert row["overlap"] == 1


def test_shared_actions_are_counted_over_all_pairs() -> None:
    lines = np.random.default_rng(0).integers(0, 6, (N_SCANS, N_STEPS))
    row = only(shared_actions(played(lambda scan, step, seed: int(lines[scan, step - 1]))))
    taken = [set(own.tolist()) for own in lines]
    pairs = [len(one & other) for one, other in itertools.combinations(taken, 2)]
    assert row["shared"] == pytest.approx(np.mean(pairs))
    assert row["taken"] == np.mean([len(own) for own in taken]) < N_STEPS
    alone = only(shared_actions(played(lambda scan, step, seed: step, n_scans=1)))
    assert alone["shared"] is None and alone["overlap"] is None


def test_a_table_without_actions_or_traits_is_refused() -> None:
    table = played(lambda scan, step, seed: step)
    with pytest.raises(ValueError, match="no actions"):
        shared_actions(table.drop(columns="action"))
    with pytest.raises(ValueError, match="'is_order', which this version writes"):
        gaps_closed(table.drop(columns="is_order"))


# Tables


def gap(**changes: Any) -> Row:
    row = {"metric": "ssim", "gain": 0.01, "gain_lo": 0.002, "gain_hi": 0.018}
    row |= {"closed": 0.25, "closed_lo": 0.1, "closed_hi": 0.4}
    return {**row, "room": 0.04, "room_lo": 0.01, "room_hi": 0.07, "reason": None, **changes}


@pytest.mark.parametrize(
    ("row", "value", "interval"),
    [
        (gap(), "25 %", "10 %, 40 %"),
        (gap(closed=-0.2, closed_lo=-0.5, closed_hi=0.1), "\u221220 %", "\u221250 %, 10 %"),
        (gap(closed=-17.0, closed_lo=-34.0, closed_hi=-9.0), "< \u2212100 %", ""),
        (
            gap(closed=None, closed_lo=None, closed_hi=None, reason="uncertain"),
            "gap too uncertain: +0.0400",
            "+0.0100, +0.0700",
        ),
        (gap(closed_lo=None, closed_hi=None, reason="one subject"), "25 %", ""),
    ],
)
def test_shares_are_shown_without_wild_numbers(row: Row, value: str, interval: str) -> None:
    cell, gain = adaptivity._share_cell(row), adaptivity._gain_cell(row)
    assert (cell.value, cell.interval) == (value, interval)
    assert (gain.value, gain.interval) == ("+0.0100", "+0.0020, +0.0180")


def test_the_table_has_a_line_for_every_policy_and_says_the_best_fixed_order_and_why(
    tmp_path: Path,
) -> None:
    table = sloped({**SLOPES, "ours": 0.03}, n_seeds={"ours": 2})
    found = worth(table, "ssim")
    text = worth_table(table, found, "unet", metric="ssim", name_cell=Cell).text()
    for policy in (*SLOPES, "ours"):
        assert re.search(rf"^{policy} ", text, re.MULTILINE)
    assert "area gain" in text and "final gain" in text and "return" not in text
    assert "area: share of one-step oracle" in text
    assert "final: share of exchange oracle" in text
    assert re.search(r"Best fixed order, area: lbcs \(best mean of the 2 fixed orders on ", text)
    assert "ours, share of the area by each seed: 25 %, 50 %." in text
    assert not re.search(r"\b(nan|None)\b", text)
