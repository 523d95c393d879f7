"""Policies that draw from the posterior, in a benchmark."""

from pathlib import Path

from activemri.benchmark.run import run_benchmark
from activemri.reconstruction.diffusion import Diffusion
from activemri.reconstruction.registry import save_reconstructor
from activemri.settings import BenchmarkSettings

POLICIES = ("entropy-greedy", "look-ahead")


def test_a_trained_diffusion_model_plays(tmp_path: Path) -> None:
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
    table = run_benchmark(settings).table
    assert set(table["policy"]) == set(POLICIES)
    assert set(table["reconstructor"]) == {"small", "cresnet"}
