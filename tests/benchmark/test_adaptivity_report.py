"""What a benchmark says of adaptivity: summary, text and page."""

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from activemri.agents.heuristic import low_frequency_first
from activemri.agents.order import Order
from activemri.agents.policy import Greedy, Policy
from activemri.agents.registry import POLICIES as POLICIES_BY_NAME
from activemri.benchmark import adaptivity_report
from activemri.benchmark.action_maps import action_map_figure, information_figure
from activemri.benchmark.run import Outcome, run_benchmark
from activemri.benchmark.statistics import policies_that
from activemri.settings import BenchmarkSettings

POLICIES = ("random", "low-frequency-first", "lbcs", "oracle", "exchange-oracle")


def settings(out: Path, **changes: Any) -> BenchmarkSettings:
    options: dict[str, Any] = {
        "policies": POLICIES,
        "matrix": 24,
        "budget": 4,
        "n_center_lines": 4,
        "max_slices": 4,
        "n_fit_scans": 2,
        "max_fit_slices": 2,
        "n_bootstrap": 50,
        "out": out,
    }
    return BenchmarkSettings(**(options | changes))


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """With a policy that was "trained" twice: two orders in files."""
    folder = tmp_path_factory.mktemp("adaptivity")
    run_benchmark(settings(folder / "first", policies=("lbcs",)))
    learned = Order.load(folder / "first" / "orders" / "lbcs-zero-filled.json")
    paths = []
    for seed, order in enumerate((learned, replace(learned, actions=learned.actions[::-1]))):
        paths.append(str(folder / f"run-{seed}.json"))
        order.save(paths[-1])
    policies = (*POLICIES, f"ours={paths[0]},{paths[1]}")
    return run_benchmark(settings(folder / "second", policies=policies, step_cost=0.01))


def summary_of(outcome: Outcome) -> dict[str, Any]:
    path = outcome.plan.settings.out / "summary.json"
    found: dict[str, Any] = json.loads(path.read_text())["adaptivity"]
    return found


def test_trainings_of_one_policy_play_with_a_seed_each(outcome: Outcome) -> None:
    own = outcome.table[outcome.table["policy"] == "ours"]
    assert sorted(set(own["seed"])) == [0, 1]
    first = own[(own["step"] == 1) & (own["metric"] == "ssim")].groupby("seed")["action"].first()
    lbcs = outcome.table[(outcome.table["policy"] == "lbcs") & (outcome.table["step"] == 1)]
    assert first[0] == lbcs["action"].iloc[0] and first[1] != first[0]


def test_summary_holds_gaps_actions_and_seeds(outcome: Outcome) -> None:
    found = summary_of(outcome)
    kinds = {(row["metric"], row["quantity"]) for row in found["gaps"]}
    assert kinds == {("ssim", "auc"), ("ssim", "final"), ("return", "final")}
    ours = [row for row in found["gaps"] if row["policy"] == "ours"]
    assert {row["n_seeds"] for row in ours} == {2}
    actions = {row["policy"]: row for row in found["actions"]}
    assert actions["lbcs"]["mean_bits"] == 0 == actions["ours"]["mean_bits"]
    assert actions["lbcs"]["overlap"] == 1
    assert actions["random"]["mean_bits"] is None
    assert actions["oracle"]["mean_bits"] > 0
    assert {row["policy"] for row in found["seeds"]} == {"ours"}


def test_returns_are_scores_less_the_price(outcome: Outcome) -> None:
    own = outcome.table[outcome.table["policy"] == "lbcs"]
    keys = ["volume", "slice", "step"]
    wide = own.pivot_table(index=keys, columns="metric", values="value").reset_index()
    start = wide.groupby(["volume", "slice"])["ssim"].transform("first")
    np.testing.assert_allclose(wide["return"], wide["ssim"] - start - 0.01 * wide["step"])


def test_files_of_trained_policies_are_in_the_fingerprint(outcome: Outcome) -> None:
    marks = outcome.plan.fingerprint
    assert len(marks["policy ours"].split()) == 2
    assert policies_that(outcome.table, "is_order") == ["low-frequency-first", "lbcs", "ours"]
    assert outcome.plan.drawn == ["random"]


def test_registering_policies_changes_no_gap_and_an_order_of_any_name_counts_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = ("random", "equispaced", "oracle", "exchange-oracle")

    def gaps(folder: str, *more: str) -> list[dict[str, Any]]:
        found = run_benchmark(settings(tmp_path / folder, policies=(*base, *more)))
        return [row for row in summary_of(found)["gaps"] if row["policy"] == "random"]

    before = gaps("before")

    def adaptive() -> Policy:
        return Greedy("adaptive", lambda view: view.zero_filled.abs().sum(dim=1))

    monkeypatch.setitem(POLICIES_BY_NAME, "adaptive", adaptive)
    monkeypatch.setitem(
        POLICIES_BY_NAME, "mine", lambda: replace(low_frequency_first(), name="mine")
    )
    assert gaps("registered") == before
    assert gaps("played", "adaptive") == before
    assert {row["order"] for row in before} == {"equispaced"}
    assert all("the only fixed order" in row["why"] for row in before)
    # A fixed order takes part in the choice of the best one, whatever it is called.
    with_order = gaps("order", "mine")
    assert {row["order"] for row in with_order} == {"mine"}
    assert all(
        re.search(r"best mean of the 2 fixed orders .*: mine .*; equispaced ", row["why"])
        for row in with_order
    )


def test_text_and_page_say_it_for_every_policy(outcome: Outcome) -> None:
    text = str(outcome)
    table = text[text.index("What adaptivity is worth") :]
    for policy in (*POLICIES, "ours"):
        assert re.search(rf"^{policy} ", table, re.MULTILINE)
    assert "area closed" in table and "return closed" in table
    why = r"Best fixed order, area: \S+ \(best mean of the 3 fixed orders on these 4 slices: "
    assert re.search(why, table)
    page = (outcome.plan.settings.out / "report.html").read_text()
    assert re.search(why, page)
    assert 'id="adaptivity"' in page and "Which line is taken when" in page
    assert "of 4 shared" in page
    assert not re.search(r"\b(nan|None)\b", table)


def test_a_benchmark_without_oracles_still_tells_of_actions(tmp_path: Path) -> None:
    found = run_benchmark(settings(tmp_path, policies=("random", "lbcs")))
    table = str(found).split("What adaptivity")[1]
    assert "closed" not in table.splitlines()[1] and "4.0 of 4" in table


def gap(**changes: Any) -> dict[str, Any]:
    row = {"metric": "ssim", "gain": 0.01, "closed": 0.25, "closed_lo": 0.1, "closed_hi": 0.4}
    return {**row, "reason": None, **changes}


@pytest.mark.parametrize(
    ("row", "value", "ends"),
    [
        (gap(), "25 %", "10 %, 40 %"),
        (gap(closed=-0.2, closed_lo=-0.5, closed_hi=0.1), "\u221220 %", "\u221250 %, 10 %"),
        (gap(closed=-17.0, closed_lo=-34.0, closed_hi=-9.0), "< \u2212100 %", ""),
        (gap(closed=None, closed_lo=None, closed_hi=None, reason="no room"), "no room", ""),
        (gap(closed_lo=None, closed_hi=None, reason="one subject"), "25 %", ""),
    ],
)
def test_shares_are_shown_without_wild_numbers(row: dict[str, Any], value: str, ends: str) -> None:
    cell = adaptivity_report.gap_cell(row)
    assert (cell["value"], cell["ends"], cell["gain"]) == (value, ends, "+0.0100")


def rows_of_actions() -> list[dict[str, object]]:
    bits = {"ours": [1.0, 2.0, None], "lbcs": [0.0, 0.0, 0.0], "random": [None] * 3}
    means = {"ours": 1.5, "lbcs": 0.0, "random": None}
    return [
        {"policy": policy, "bits": values, "mean_bits": means[policy], "ceiling": 3.0}
        for policy, values in bits.items()
    ]


def test_only_policies_that_look_at_the_scan_are_drawn_with_bits() -> None:
    palette = dict.fromkeys(("ours", "lbcs", "random"), "#000000")
    svg = information_figure(rows_of_actions(), palette=palette, bounds=(), name="x")
    assert svg is not None
    texts = [
        element.text for element in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    ]
    assert "ours" in texts and "lbcs" not in texts and "random" not in texts
    assert information_figure(rows_of_actions()[1:], palette=palette, bounds=(), name="x") is None


def test_maps_name_their_policies_and_what_is_said_of_them() -> None:
    actions = pd.DataFrame(
        {"policy": ["a", "a", "b"], "volume": 0, "slice": 0, "step": [1, 2, 1], "action": [3, 0, 2]}
    )
    initial = np.array([False, True, False, False, True])
    svg = action_map_figure(actions, n_actions=5, initial=initial, notes={"a": "0.00 bits"})
    words = " ".join(ET.fromstring(svg).itertext())
    assert "0.00 bits" in words and "share of scans" in words
