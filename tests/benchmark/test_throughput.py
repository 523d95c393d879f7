"""The environment scores as a baseline of one image at a time, and the command times both."""

import json

import numpy as np
import pytest

from activemri.benchmark import throughput
from activemri.benchmark.throughput import (
    CASES,
    ThroughputSettings,
    baseline_step,
    run_throughput,
)
from activemri.data.slices import SliceList
from activemri.envs.env import ActiveMRIEnv

CASE = ((40, 24), (20, 22))


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


def test_the_command_prints_ratios_and_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "CASES", {"small": CASE})
    result = json.loads(run_throughput(ThroughputSettings(json=True, seconds=0.05)))
    assert set(result["ratios"]) == {"step_small", "oracle_small"}
    assert set(result["ratios_of_single_environments"]) == {"step_small"}
    assert set(result["frames_per_s"]) == {"step_small", "step_small_single", "oracle_small"}
    assert all(ratio > 0 for ratio in result["ratios"].values())
    assert "baseline" in run_throughput(ThroughputSettings(seconds=0.05))


def test_the_cases_are_those_that_the_field_measures() -> None:
    assert list(CASES.values()) == [((128, 128), (128, 128)), ((640, 368), (320, 320))]
