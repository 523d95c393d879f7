"""Information between image and action where it is known, and lines that scans share."""

import itertools
import json
import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from activemri.benchmark.information import adaptivity_of_actions, entropy_bits, shared_actions

N_SCANS, N_STEPS = 8, 3


def played(
    action: Callable[[int, int, int], int],
    *,
    policy: str = "ours",
    n_scans: int = N_SCANS,
    n_seeds: int = 1,
) -> pd.DataFrame:
    """A long table with action(scan, step, seed), each in two metrics."""
    rows = [
        {
            "policy": policy,
            "reconstructor": "unet",
            "volume": f"v{scan // 2}",
            "slice": scan % 2,
            "seed": seed,
            "step": step,
            "action": -1 if step == 0 else action(scan, step, seed),
            "metric": metric,
        }
        for scan, seed, step, metric in itertools.product(
            range(n_scans), range(n_seeds), range(N_STEPS + 1), ("ssim", "psnr")
        )
    ]
    return pd.DataFrame(rows)


def only(rows: list[dict[str, object]]) -> dict[str, object]:
    json.dumps(rows, allow_nan=False)
    assert len(rows) == 1
    return rows[0]


def test_a_fixed_order_tells_nothing_of_the_image() -> None:
    row = only(adaptivity_of_actions(played(lambda scan, step, seed: 5 * step)))
    assert row["bits"] == [0.0] * N_STEPS and row["plug_in"] == [0.0] * N_STEPS
    assert row["mean_bits"] == 0 and row["overlap"] == 1
    assert (row["taken"], row["shared"], row["n_scans"]) == (N_STEPS, N_STEPS, N_SCANS)


@pytest.mark.parametrize("k", [2, 4])
def test_k_equally_frequent_actions_tell_log2_k_bits(k: int) -> None:
    row = only(adaptivity_of_actions(played(lambda scan, step, seed: scan % k + 10 * step)))
    bias = (k - 1) / (2 * N_SCANS * math.log(2))
    assert row["plug_in"] == pytest.approx([math.log2(k)] * N_STEPS)
    assert row["bits"] == pytest.approx([math.log2(k) + bias] * N_STEPS)
    assert row["ceiling"] == math.log2(N_SCANS)
    same = (N_SCANS / k - 1) / (N_SCANS - 1)  # chance that another scan is in the same group
    assert row["overlap"] == pytest.approx(same)


def test_the_same_lines_in_another_order_are_shared_but_tell_bits() -> None:
    row = only(adaptivity_of_actions(played(lambda scan, step, seed: (scan + step) % N_STEPS)))
    assert row["overlap"] == 1
    assert isinstance(row["mean_bits"], float) and row["mean_bits"] > 1.5


def test_the_correction_takes_most_of_the_bias_away() -> None:
    rng = np.random.default_rng(0)
    draws = [np.bincount(rng.integers(0, 8, 30), minlength=8) for _ in range(400)]
    plug_in, corrected = np.mean([entropy_bits(counts) for counts in draws], axis=0)
    assert plug_in < 2.9
    assert abs(corrected - 3) < 0.25 * (3 - plug_in)


def test_seeds_are_policies_of_their_own() -> None:
    """Three trainings with a fixed order each do not adapt, however they differ."""
    row = only(adaptivity_of_actions(played(lambda scan, step, seed: step + 5 * seed, n_seeds=3)))
    assert row["mean_bits"] == 0 and row["overlap"] == 1


def test_policies_that_draw_get_no_bits_but_an_overlap() -> None:
    table = played(lambda scan, step, seed: (scan * 7 + step * 3) % 20, policy="random")
    row = only(adaptivity_of_actions(table, drawn=["random"]))
    assert row["bits"] == [None] * N_STEPS and row["mean_bits"] is None
    assert row["overlap"] is not None


def test_scans_that_ended_are_not_counted() -> None:
    table = played(lambda scan, step, seed: scan % 2 + 2 * step)
    long = (table["volume"] == "v0") & (table["slice"] == 0)
    cut = table[(table["step"] < 3) | long]
    row = only(adaptivity_of_actions(cut))
    assert row["n_acting"] == [N_SCANS, N_SCANS, 1]
    assert isinstance(row["bits"], list) and row["bits"][2] is None


def test_shared_actions_are_counted_over_all_pairs() -> None:
    taken = np.random.default_rng(0).random((6, 9)) < 0.4
    pairs = [(taken[a] & taken[b]).sum() for a, b in itertools.combinations(range(6), 2)]
    assert shared_actions(taken) == pytest.approx(np.mean(pairs))
    assert shared_actions(taken[:1]) is None


def test_one_scan_says_nothing() -> None:
    row = only(adaptivity_of_actions(played(lambda scan, step, seed: step, n_scans=1)))
    assert row["mean_bits"] is None and row["shared"] is None and row["overlap"] is None


def test_a_table_without_actions_is_refused() -> None:
    table = played(lambda scan, step, seed: step).drop(columns="action")
    with pytest.raises(ValueError, match="no actions"):
        adaptivity_of_actions(table)
