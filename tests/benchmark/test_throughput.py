"""The environment scores as a baseline of one image at a time, and the command times both."""

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from activemri import cli
from activemri.benchmark import scaling, throughput
from activemri.benchmark.scaling import Series
from activemri.benchmark.throughput import (
    CASES,
    GOALS,
    ThroughputSettings,
    baseline_step,
    duration,
    rows,
    run_throughput,
    steps,
)
from activemri.benchmark.timing import Ways, clock_of, timed
from activemri.data.slices import SliceList
from activemri.envs.env import ActiveMRIEnv

CASE = ((40, 24), (20, 22))
STEPS = ("step_small", "oracle_small")
OTHERS = [name for name in rows() if not name.startswith(("step_", "oracle_"))]


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "CASES", {"small": CASE})
    monkeypatch.setattr(throughput, "_BUDGET", 8)


def small(**options: Any) -> ThroughputSettings:
    return ThroughputSettings(**{"only": STEPS, "seconds": 0.01, **options})


def measured(settings: ThroughputSettings) -> Any:
    return json.loads(run_throughput(settings))


def test_the_environment_scores_as_the_baseline_does() -> None:
    scan = throughput._scan(*CASE, 0)
    env = ActiveMRIEnv(data=SliceList([scan]), n_center_lines=4, budget=10)
    _, info = env.reset(seed=0)
    generator = np.random.default_rng(0)
    columns = np.zeros(24, dtype=bool)
    columns[10:14] = True
    for _ in range(10):
        action = int(generator.choice(np.flatnonzero(info["action_mask"])))
        columns[action] = True
        _, _, _, _, info = env.step(action)
        slow = baseline_step(scan, columns)
        assert info["ssim"] == pytest.approx(slow["ssim"], abs=1e-6)
        assert info["psnr"] == pytest.approx(slow["psnr"], abs=1e-4)
        assert info["nmse"] == pytest.approx(slow["nmse"], rel=1e-4)
        assert info["mse"] == pytest.approx(slow["mse"], rel=1e-4)


def test_simulated_actions_score_as_a_loop_of_the_baseline_does() -> None:
    scan = throughput._scan(*CASE, 1)
    env = ActiveMRIEnv(data=SliceList([scan]), n_center_lines=4)
    env.reset(seed=0)
    columns = np.zeros(24, dtype=bool)
    columns[10:14] = True
    each = np.eye(24, dtype=bool)
    slow = [baseline_step(scan, columns | each[action])["ssim"] for action in range(24)]
    np.testing.assert_allclose(env.simulate(range(24))["ssim"], slow, atol=1e-6)


def test_ways_are_timed_by_their_unit_of_work_and_in_turn() -> None:
    now, order = [0.0], list[str]()

    def work(name: str, seconds: float, units: float) -> float:
        now[0] += seconds
        order.append(name)
        return units

    ways = Ways(
        ours=lambda: work("ours", 2.0, 4),
        baseline=lambda: work("baseline", 3.0, 1),
        copy=lambda: work("copy", 0.25, 1),
        prepare=lambda: work("prepare", 100.0, 0),
        facts=lambda times: {"million": 1e6 * times["seconds"]},
    )
    times = timed(ways, 0.001, lambda: now[0])
    assert times == {
        "seconds": 0.5,
        "baseline_seconds": 3.0,
        "ratio": 6.0,
        "copy_seconds": 0.25,
        "copies": 2.0,
        "million": 500_000.0,
    }
    assert order[:8] == ["prepare", "ours", "baseline", "copy"] * 2


def test_what_takes_long_is_done_once() -> None:
    now = [0.0]

    def work() -> float:
        now[0] += 60.0
        return 1

    assert timed(Ways(work), 1e-9, lambda: now[0])["seconds"] == 60.0
    assert now == [60.0]


def test_slowest_calls_are_told_from_usual_ones() -> None:
    now, spans = [0.0], iter([9.0, *[1.0] * 98, 5.0, 5.0])

    def work() -> float:
        now[0] += next(spans, 1.0)
        return 1

    times = timed(Ways(work), 0.02, lambda: now[0], spread=True)
    assert times["seconds"] == 1.0
    assert 1.0 <= times["p99_seconds"] <= 5.0


def test_only_one_thread_is_timed_by_its_own_seconds() -> None:
    alone, wall = clock_of("cpu", 1), clock_of("cpu", 2)
    start = alone(), wall()
    time.sleep(0.05)
    assert alone() - start[0] < 0.04
    assert wall() - start[1] >= 0.05


def test_times_on_a_graphics_card_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[None] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waits.append(None))
    timed(Ways(lambda: 1), 1e-6, clock_of("cuda:0", 1))
    assert len(waits) % 2 == 0 and waits


@pytest.mark.usefixtures("_small")
def test_the_command_prints_ratios_and_rates() -> None:
    n_threads = torch.get_num_threads()
    result = measured(small(json=True))
    assert set(result["ratios"]) == set(STEPS)
    assert set(result["ratios_of_single_environments"]) == {"step_small"}
    assert set(result["frames_per_s"]) == {"step_small", "step_small_single", "oracle_small"}
    assert set(result["baseline_per_s"]) == set(result["frames_per_s"]) == set(result["rows"])
    assert all(ratio > 0 for ratio in result["ratios"].values())
    row = result["rows"]["step_small"]
    assert row["seconds"] == pytest.approx(1 / result["frames_per_s"]["step_small"], rel=0.01)
    assert row["copies"] > 1
    assert "copy_seconds" not in result["rows"]["oracle_small"]
    assert torch.get_num_threads() == n_threads
    text = run_throughput(small())
    assert "baseline" in text and "step, 32 scans side by side, small" in text


def test_the_cases_are_those_that_the_field_measures() -> None:
    assert list(CASES.values()) == [((128, 128), (128, 128)), ((640, 368), (320, 320))]


def test_goals_are_those_of_rows() -> None:
    assert set(GOALS) - {"screened_oracle"} <= set(rows())


@pytest.mark.usefixtures("_small")
def test_a_row_says_whether_it_meets_its_goals(monkeypatch: pytest.MonkeyPatch) -> None:
    goals = {"step_small": {"ratio": 1e-6, "copies": 1e9}, "oracle_small": {"ratio": 1e9}}
    monkeypatch.setattr(throughput, "GOALS", goals)
    rows_met = {n: row.get("met") for n, row in measured(small(json=True))["rows"].items()}
    assert rows_met == {"step_small": True, "step_small_single": None, "oracle_small": False}
    lines = run_throughput(small(only=("step_small",))).splitlines()
    assert lines[3].endswith("copies 1e+09  yes")


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("name", OTHERS)
def test_every_row_can_be_measured(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "_LARGE", ((64, 64), (32, 48)))
    monkeypatch.setattr(throughput, "_N_COILS", 2)
    monkeypatch.setattr(throughput, "_WARM_UP", 64)
    cache = os.environ.get("ACTIVEMRI_CACHE")
    row = measured(small(only=(name,), json=True))["rows"][name]
    assert 0 < row["seconds"] < 60
    assert os.environ.get("ACTIVEMRI_CACHE") == cache


@pytest.mark.usefixtures("_small")
def test_rows_are_compared_with_an_earlier_run(tmp_path: Path) -> None:
    file = tmp_path / "old.json"
    before = measured(small(json=True))
    for row in before["rows"].values():
        row["seconds"] *= 1000
        row["baseline_seconds"] *= 10
    before["rows"]["gone"] = {"seconds": 1.0}
    file.write_text(json.dumps(before))
    faster = measured(small(json=True, compare=file))["faster"]
    assert set(faster) == {"step_small", "step_small_single", "oracle_small"}
    assert all(ratio > 30 for ratio in faster.values())
    text = run_throughput(small(only=("step_small",), compare=file))
    assert f"Compared with {file}" in text
    assert f"in {file} alone: oracle_small, gone" in text
    line = text.split("Compared")[1].splitlines()[3]
    assert re.search(r"scans side by side, small +\S+ ms +\S+ us +\S+x +\S+x$", line)


@pytest.mark.usefixtures("_small")
def test_what_the_first_edition_printed_can_be_compared_with(tmp_path: Path) -> None:
    file = tmp_path / "first.json"
    rates = {"step_small": 1.0, "oracle_small": 0.5}
    file.write_text(json.dumps({"ratios": {}, "frames_per_s": rates, "baseline_per_s": rates}))
    faster = measured(small(json=True, compare=file))["faster"]
    assert set(faster) == {"step_small", "oracle_small"}
    assert min(faster.values()) > 1


@pytest.mark.parametrize("content", ["no JSON", "[1]", "{}", '{"rows": {"step": {}}}'])
def test_another_file_is_no_earlier_run(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "old.json"
    file.write_text(content)
    assert cli.main(["throughput", "--compare", str(file)]) == 2
    error = capsys.readouterr().err
    assert f"--compare {file}: expected what 'activemri throughput --json' printed" in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--compare nowhere.json", "nowhere.json: No such file or directory"),
        ("--only stairs", "--only: unknown row 'stairs'; expected some of step_128x128, "),
        ("--device cuda:77 --only decision", "device 'cuda:77' cannot be used here"),
        ("--plot speed.txt", "--plot: expected a name that ends in .png or .svg; got speed.txt"),
        ("--seconds 0", "--seconds: expected a number above 0; got 0"),
    ],
)
def test_mistakes_are_one_line(
    options: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["throughput", *options.split()]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.usefixtures("_small")
def test_scaling_is_measured_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def some(n: int, device: str) -> Ways:
        if n == 3:
            raise ValueError("too many scans for the memory")
        return steps(*CASE, device, n=n)

    lines = {"seconds": "step", "copy_seconds": "copy"}
    made = {name: Series(f"number of {name}", (1, 2, 3), some, lines) for name in "abcd"}
    monkeypatch.setattr(scaling, "series", lambda: made)
    picture, n_threads = tmp_path / "speed.png", torch.get_num_threads()
    options = {"only": ("oracle_small",), "plot": picture}
    found = measured(small(json=True, **options))["scaling"]
    assert [point["value"] for point in found["a"]["points"]] == [1, 2]
    assert found["d"]["points"][1]["copies"] > 0
    assert picture.stat().st_size > 10_000
    assert torch.get_num_threads() == n_threads
    with pytest.raises(ValueError, match="there already"):
        run_throughput(small(**options))
    text = run_throughput(small(overwrite=True, **options))
    assert re.search("number of d +step +copy", text)
    assert "3 left out: too many scans for the memory" in text


def test_what_scales_is_scans_size_coils_and_threads() -> None:
    found = scaling.series()
    assert list(found) == ["n", "size", "coils", "threads"]
    assert found["n"].values[-1] == 4096
    assert found["threads"].values[0] == 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(2.34e-6, "2.34 us"), (0.0123, "12.3 ms"), (90.0, "90 s"), (900.0, "15 min")],
)
def test_times_are_given_in_their_usual_unit(seconds: float, text: str) -> None:
    assert duration(seconds) == text
