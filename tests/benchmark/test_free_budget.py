"""Returns, and lines saved at equal quality, where both are known."""

import itertools
import json
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import pytest
import torch

from activemri.agents.rollout import PADDING, Episodes
from activemri.benchmark.free_budget import Returns, first_crossing, lines_saved, returns_closed
from activemri.benchmark.resampling import Floats
from tests.benchmark.tables import with_traits

BUDGET, N_SUBJECTS = 10, 6


def episode(
    policy: str, subject: int, curve: Floats, *, metric: str, seed: int = 0
) -> pd.DataFrame:
    steps = np.arange(len(curve))
    return pd.DataFrame(
        {
            "policy": policy,
            "reconstructor": "unet",
            "metric": metric,
            "volume": f"v{subject}",
            "slice": 0,
            "subject": f"s{subject}",
            "contrast": "T1",
            "seed": seed,
            "step": steps,
            "n_acquired": 8 + steps,
            "value": curve,
        }
    )


def scores(
    stops: Mapping[str, Sequence[int]], *, price: float = 0.0, metric: str = "ssim"
) -> pd.DataFrame:
    """Scores rise by 0.05 a line up to a ceiling that half of the subjects reach early, after 2
    lines, and the others after 8; policies stop after so many lines of each subject."""
    parts = []
    for policy, subject in itertools.product(stops, range(N_SUBJECTS)):
        full = 0.05 * np.minimum(np.arange(BUDGET + 1), 2 if subject % 2 else 8)
        curve = (full - price * np.arange(BUDGET + 1))[: stops[policy][subject] + 1]
        parts.append(episode(policy, subject, curve, metric=metric))
    return with_traits(pd.concat(parts, ignore_index=True))


WHOLE = [BUDGET] * N_SUBJECTS
KNOWING = [8, 2] * (N_SUBJECTS // 2)


def test_returns_are_the_gain_less_the_price_of_the_actions_taken() -> None:
    scores = torch.tensor([[0.5, 0.6, 0.8], [0.2, 0.4, 0.4]], dtype=torch.float64)
    actions = torch.tensor([[3, 4], [7, PADDING]])
    episodes = Episodes("ours", (), torch.zeros(2, 9), actions, torch.zeros(2, 3), {"ssim": scores})
    found = Returns("ssim", 0.04).of(episodes)
    expected = [[0, 0.1 - 0.04, 0.3 - 0.08], [0, 0.2 - 0.04, 0.2 - 0.04]]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    assert torch.equal(episodes.scores["ssim"], scores)


def test_returns_of_an_error_count_its_fall() -> None:
    errors = torch.tensor([[0.5, 0.2]], dtype=torch.float64)
    episodes = Episodes(
        "ours", (), torch.zeros(1, 9), torch.tensor([[3]]), torch.zeros(1, 2), {"nmse": errors}
    )
    assert Returns("nmse", 0.1).of(episodes)[0].tolist() == pytest.approx([0, 0.2])


def test_stopping_where_nothing_more_comes_saves_what_the_fixed_length_wastes() -> None:
    rows = lines_saved(scores({"lbcs": WHOLE, "ours": KNOWING}), "ssim")
    assert [row["policy"] for row in rows] == ["ours"]
    row = rows[0]
    json.dumps(rows, allow_nan=False)
    # Mean quality 0.05 * (8 + 2) / 2, which the order has for all after 8 lines; ours takes 5.
    assert row["quality"] == pytest.approx(0.25)
    assert (row["lines"], row["order_lines"]) == (5, pytest.approx(8))
    assert row["saved"] == pytest.approx(3 / 8)
    low, high = row["saved_lo"], row["saved_hi"]
    assert isinstance(low, float) and isinstance(high, float) and 0 <= low < 3 / 8 <= high


def test_a_quality_that_no_order_reaches_is_held_against_its_whole_length() -> None:
    table = scores({"lbcs": WHOLE, "ours": KNOWING})
    ends = (table["policy"] == "ours") & (table["step"] == 2)
    table.loc[ends, "value"] = 0.9
    row = lines_saved(table, "ssim")[0]
    assert row["order_lines"] is None
    assert row["saved"] == pytest.approx(1 - 5 / BUDGET)


def test_policies_that_use_the_whole_budget_save_nothing_and_get_no_row() -> None:
    assert lines_saved(scores({"lbcs": WHOLE, "random": WHOLE}), "ssim") == []


def test_a_policy_that_gains_nothing_saves_no_finite_share() -> None:
    table = scores({"lbcs": WHOLE, "ours": KNOWING})
    table.loc[table["policy"] == "ours", "value"] = 0.0
    row = lines_saved(table, "ssim")[0]
    assert row["order_lines"] == 0 and row["saved"] is None
    json.dumps(row, allow_nan=False)


def test_share_of_the_return_is_held_against_the_best_length() -> None:
    price = 0.02
    stops = {"lbcs": WHOLE, "oracle": WHOLE, "ours": KNOWING, "hasty": [2] * N_SUBJECTS}
    table = scores(stops, price=price, metric="return")
    rows = {row["policy"]: row for row in returns_closed(table, n_resamples=200)}
    # An order of k lines gains 0.05 (2 + k) / 2 - 0.02 k for 2 <= k <= 8: best at 8.
    assert rows["ours"]["order"] == "lbcs, 8 actions"
    assert rows["ours"]["room"] == pytest.approx(0.05 * 5 - price * 5 - (0.05 * 5 - price * 8))
    assert rows["ours"]["closed"] == pytest.approx(1)
    whole = 0.05 * 5 - price * 10
    assert rows["lbcs"]["gain"] == pytest.approx(whole - (0.05 * 5 - price * 8))
    assert rows["hasty"]["gain"] == pytest.approx(0.1 - 2 * price - (0.05 * 5 - price * 8))
    assert "oracle" not in rows


def test_scans_that_a_policy_lacks_are_left_out_for_all() -> None:
    table = scores({"lbcs": WHOLE, "ours": KNOWING})
    table = table[(table["policy"] != "lbcs") | (table["subject"] != "s0")]
    assert lines_saved(table, "ssim")[0]["lines"] == pytest.approx((2 * 8 + 3 * 2) / 5)


def test_crossings_are_interpolated_between_steps() -> None:
    heights = np.array([[0.0, 1.0, 3.0], [0.0, 1.0, 3.0], [0.0, 1.0, 1.5], [2.0, 3.0, 4.0]])
    lines = np.tile([0.0, 4.0, 8.0], (4, 1))
    found, reached = first_crossing(heights, lines, np.array([2.0, 1.0, 2.0, 2.0]))
    assert found.tolist() == [6, 4, 8, 0]
    assert reached.tolist() == [True, True, False, True]
