"""Policies that draw from the posterior, in a benchmark."""

from pathlib import Path

from activemri.agents.adaptive import LookAhead
from activemri.benchmark.plan import Plan
from activemri.benchmark.run import run_benchmark
from activemri.reconstruction.diffusion import Diffusion
from activemri.reconstruction.registry import save_reconstructor
from activemri.settings import BenchmarkSettings

POLICIES = ("entropy-greedy", "look-ahead")


def test_a_trained_diffusion_model_plays_and_look_ahead_tries_actions_with_it(
    tmp_path: Path,
) -> None:
    network = Diffusion(8, n_samples=2, n_steps=2)
    path = str(save_reconstructor(tmp_path / "small", network, info={}))
    settings = BenchmarkSettings(
        policies=POLICIES,
        reconstructors=(path, "cresnet"),
        matrix=24,
        budget=2,
        n_center_lines=4,
        max_slices=1,
        n_bootstrap=20,
        reference="entropy-greedy",
        out=tmp_path / "out",
    )
    plan = Plan(settings)
    for label, acquisition in plan.acquisitions.items():
        policy = plan.policy("look-ahead", label, order=None)
        assert isinstance(policy, LookAhead)
        assert policy.reconstructor is acquisition.reconstructor
    table = run_benchmark(settings).table
    assert set(table["policy"]) == set(POLICIES)
    assert set(table["reconstructor"]) == {"small", "cresnet"}
