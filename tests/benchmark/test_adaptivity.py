"""Gap closed: tables whose gap is known, intervals that cover it, and no wild numbers."""

import itertools
import json
import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest

from activemri.benchmark.adaptivity import Gap, gaps_closed
from activemri.benchmark.seeds import seed_spread
from tests.benchmark.tables import with_traits

BUDGET = 4


def table_of(
    slopes: Mapping[str, float],
    *,
    n_subjects: int = 4,
    n_seeds: Mapping[str, int] | None = None,
    spread: float = 0.01,
    metric: str = "ssim",
) -> pd.DataFrame:
    """Scores that rise by the policy's slope; subjects differ, seeds differ by `spread`."""
    rows = [
        {
            "policy": policy,
            "reconstructor": "zero-filled",
            "metric": metric,
            "volume": f"v{subject}",
            "slice": index,
            "subject": f"s{subject}",
            "contrast": "T1",
            "seed": seed,
            "step": step,
            "n_acquired": 8 + step,
            "value": 0.3 + 0.1 * subject + (slope + spread * seed) * step * (1 + 0.5 * index),
        }
        for policy, slope in slopes.items()
        for subject, index in itertools.product(range(n_subjects), range(2))
        for seed in range((n_seeds or {}).get(policy, 1))
        for step in range(BUDGET + 1)
    ]
    return with_traits(pd.DataFrame(rows).sample(frac=1, random_state=0))


SLOPES = {"lbcs": 0.02, "low-frequency-first": 0.01, "oracle": 0.06, "exchange-oracle": 0.1}


def row_of(rows: list[dict[str, object]], policy: str, quantity: str) -> dict[str, object]:
    return next(r for r in rows if (r["policy"], r["quantity"]) == (policy, quantity))


def test_share_closed_is_that_of_the_slopes() -> None:
    rows = gaps_closed(table_of({**SLOPES, "ours": 0.03}))
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
    table = table_of({**SLOPES, "learned-order": 0.04})
    rows = gaps_closed(with_traits(table, orders={*SLOPES, "learned-order"} - {"oracle"}))
    assert {row["policy"] for row in rows} == {"lbcs", "low-frequency-first"}
    assert all(row["order"] == "learned-order" for row in rows)
    assert row_of(rows, "lbcs", "auc")["closed"] == pytest.approx(-1.0)


def test_a_metric_where_less_is_better_closes_the_same_share() -> None:
    falling = {name: -slope for name, slope in {**SLOPES, "ours": 0.03}.items()}
    row = row_of(gaps_closed(table_of(falling, metric="nmse")), "ours", "auc")
    assert row["closed"] == pytest.approx(0.25)
    assert isinstance(row["gain"], float) and row["gain"] > 0


def test_seeds_are_averaged_and_told_apart() -> None:
    table = table_of({**SLOPES, "ours": 0.03}, n_seeds={"ours": 3})
    row = row_of(gaps_closed(table), "ours", "auc")
    assert row["closed"] == pytest.approx(0.5)  # slopes 0.03, 0.04, 0.05
    assert row["closed_seeds"] == pytest.approx([0.25, 0.5, 0.75])
    assert row["n_seeds"] == 3
    spread = [r for r in seed_spread(table) if r["quantity"] == "final"]
    assert [r["policy"] for r in spread] == ["ours"]
    assert spread[0]["sd"] == pytest.approx(0.01 * BUDGET * 1.25)
    assert spread[0]["seeds"] == [0, 1, 2]


@pytest.mark.parametrize("oracle", [0.02, 0.015])
def test_without_room_there_is_no_ratio(oracle: float) -> None:
    table = table_of({**SLOPES, "oracle": oracle, "ours": 0.03})
    row = row_of(gaps_closed(table), "ours", "auc")
    assert row["closed"] is None and row["closed_lo"] is None
    assert row["reason"] == "the oracle is not above the best fixed order"
    assert row["gain"] == pytest.approx(0.01 * BUDGET / 2 * 1.25)


def test_room_that_may_be_nothing_gives_no_ratio() -> None:
    rng = np.random.default_rng(0)
    room = rng.normal(0.3, 1, 12)
    gap = Gap(rng.normal(size=(12, 1)), room, np.zeros((12, 1)), ["lbcs"], np.arange(12))
    row = gap.row(seed=0, n_resamples=500, level=0.95)
    low, high = row["room_lo"], row["room_hi"]
    assert isinstance(low, float) and isinstance(high, float) and low < 0 < high
    assert row["closed"] is None
    assert row["reason"] == "the oracle is not clearly above the best fixed order"


def test_one_subject_has_a_share_and_no_interval() -> None:
    row = row_of(gaps_closed(table_of({**SLOPES, "ours": 0.03}, n_subjects=1)), "ours", "auc")
    assert row["closed"] == pytest.approx(0.25)
    assert row["closed_lo"] is None and "one subject" in str(row["reason"])


def test_only_scans_that_all_have_acquired_count() -> None:
    table = table_of({**SLOPES, "ours": 0.03})
    spoilt = (table["policy"] == "oracle") & (table["subject"] == "s1")
    row = row_of(gaps_closed(table[~spoilt]), "ours", "auc")
    assert (row["n_subjects"], row["closed"]) == (3, pytest.approx(0.25))


def test_without_an_oracle_or_an_order_nothing_is_said() -> None:
    assert gaps_closed(table_of({"lbcs": 0.02, "ours": 0.03})) == []
    assert gaps_closed(table_of({"oracle": 0.05, "ours": 0.03})) == []


def simulated(rng: np.random.Generator, n_subjects: int = 20) -> Gap:
    """Three slices a subject; truth: a quarter of the gap, between orders that are equally good."""
    subjects = np.repeat(np.arange(n_subjects), 3)
    common = rng.normal(size=n_subjects)[subjects]
    room = 1 + 0.3 * rng.normal(size=n_subjects)[subjects]
    own = 0.25 + 0.2 * rng.normal(size=n_subjects)[subjects]
    noise = 0.1 * rng.normal(size=(4, len(subjects)))
    order, worse = common + noise[0], common - 0.2 + noise[3]
    return Gap(
        policy=(common + own + noise[1])[:, None],
        oracle=common + room + noise[2],
        orders=np.stack([order, worse], axis=1),
        names=["lbcs", "low-frequency-first"],
        subjects=subjects,
    )


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    rng, n = np.random.default_rng(0), 300
    rows = [simulated(rng).row(seed=i, n_resamples=200, level=0.95) for i in range(n)]
    lows = np.array([row["closed_lo"] for row in rows], float)
    highs = np.array([row["closed_hi"] for row in rows], float)
    covered = float(np.mean((lows <= 0.25) & (highs >= 0.25)))
    error = math.sqrt(0.95 * 0.05 / n)
    assert 0.90 - 2 * error < covered < 0.95 + 2 * error  # 20 subjects: a little narrow


def test_slices_of_a_subject_stay_together() -> None:
    """Copies of slices must not make the interval narrower."""
    gap = simulated(np.random.default_rng(1))
    twice = np.tile(np.arange(len(gap.subjects)), 4)
    copied = Gap(
        gap.policy[twice], gap.oracle[twice], gap.orders[twice], gap.names, gap.subjects[twice]
    )
    one, many = (g.row(seed=3, n_resamples=300, level=0.95) for g in (gap, copied))
    for name in ("closed", "closed_lo", "closed_hi", "room_lo"):
        assert one[name] == pytest.approx(many[name])
