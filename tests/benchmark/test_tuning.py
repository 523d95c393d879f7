"""Settings that validation scans choose for the masks of a policy."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from activemri.agents.registry import make_policy
from activemri.benchmark.plan import BenchmarkSettings, Plan
from activemri.benchmark.run import run_benchmark
from activemri.benchmark.tuning import tune
from activemri.envs.protocol import ScanProtocol
from activemri.options import RunOptions
from activemri.reconstruction.reconstructor import Measurement, Reconstruction, Reconstructor
from activemri.reconstruction.registry import RECONSTRUCTORS
from activemri.stopping.rule import StopSettings

PROTOCOL = ScanProtocol(split="test", matrix_size=24, budget=4, n_center_lines=4)


class Dimmed(Reconstructor):
    """The zero-filled image, dimmed: what is best is known."""

    grid: ClassVar = {"factor": (0.9, 1.0), "unused": (1,)}

    def __init__(self, factor: float = 0.5, unused: int = 0) -> None:
        super().__init__()
        self.settings = {"factor": factor, "unused": unused}
        self.factor = factor

    def forward(self, measurement: Measurement) -> Reconstruction:
        return Reconstruction(self.factor * measurement.zero_filled)


def settings(out: Path, **changes: Any) -> BenchmarkSettings:
    options: dict[str, Any] = {
        "policies": ("random", "low-frequency-first"),
        "max_slices": 2,
        "tune_scans": 2,
    }
    return BenchmarkSettings(
        protocol=PROTOCOL, run=RunOptions(out=out), reconstructors=(Dimmed(),), **options | changes
    )


@pytest.mark.parametrize("policy", ["random", "low-frequency-first"])
def test_the_best_of_the_grid_is_found_setting_by_setting(policy: str) -> None:
    scans = PROTOCOL.dataset("val", n_subjects=1)
    scan = replace(PROTOCOL, reconstructor=Dimmed()).scan(scans)
    shares: list[float] = []
    found = tune(
        scan, make_policy(policy), [scans[0], scans[1]], metric="psnr", labels=("p", "r"),
        tell=shares.append,
    )  # fmt: skip
    assert found.settings == {"factor": 1.0, "unused": 0}  # of equals the default
    assert [tried["factor"] for tried, _ in found.trials] == [0.5, 0.9, 1.0, 1.0]
    scores = [score for _, score in found.trials]
    assert scores[0] < scores[1] < scores[2] == scores[3] == found.score
    assert sum(shares) == pytest.approx(1)


def test_a_low_error_is_better_than_a_high_one() -> None:
    scans = PROTOCOL.dataset("val", n_subjects=1)
    scan = replace(PROTOCOL, reconstructor=Dimmed()).scan(scans)
    found = tune(scan, make_policy("random"), [scans[0]], metric="nmse", labels=("p", "r"))
    assert found.settings["factor"] == 1.0


@pytest.mark.parametrize("kind", [kind for kind, one in RECONSTRUCTORS.items() if one.grid])
def test_every_value_of_a_grid_makes_a_reconstructor(kind: str) -> None:
    default = RECONSTRUCTORS[kind]().settings
    for name, values in RECONSTRUCTORS[kind].grid.items():
        assert default[name] not in values  # it is tried anyway
        for value in values:
            made: Reconstructor = RECONSTRUCTORS[kind](**{name: value})
            assert made.settings == default | {name: value}


def test_scores_are_those_of_the_tuned_settings_and_the_summary_says_them(tmp_path: Path) -> None:
    outcome = run_benchmark(settings(tmp_path / "tuned"))
    plain = run_benchmark(settings(tmp_path / "plain", tune_scans=None)).table
    by = ["policy", "slice", "volume", "step", "metric"]
    both = outcome.table.merge(plain, on=by, suffixes=("", "_plain"))
    psnr = both[both["metric"] == "psnr"]
    assert len(psnr) > 0 and (psnr["value"] > psnr["value_plain"]).all()
    tuned = json.loads((tmp_path / "tuned" / "summary.json").read_text())["tuning"]
    assert [one["settings"]["factor"] for one in tuned] == [1.0, 1.0]
    assert [one["policy"] for one in tuned] == ["random", "low-frequency-first"]
    assert "factor 1.0" in outcome.report.text() and "factor 1.0" in outcome.report.html()


def test_a_benchmark_that_goes_on_keeps_its_tuning_and_refuses_another(tmp_path: Path) -> None:
    first = run_benchmark(settings(tmp_path))
    kept = tmp_path / "tuning" / "Dimmed" / "random.json"
    written = kept.stat().st_mtime_ns
    again = run_benchmark(settings(tmp_path, policies=("random", "equispaced")))
    assert kept.stat().st_mtime_ns == written
    old, new = (o.table[o.table["policy"] == "random"]["value"].tolist() for o in (first, again))
    assert old == new
    with pytest.raises(ValueError, match="tune_scans was 2, now 3"):
        run_benchmark(settings(tmp_path, tune_scans=3))


def test_scored_subjects_and_methods_without_a_grid_are_refused(tmp_path: Path) -> None:
    on_val = replace(PROTOCOL, split="val")
    with pytest.raises(ValueError, match="--tune-scans: subjects of the val split are scored"):
        Plan(replace(settings(tmp_path), protocol=on_val))
    with pytest.raises(ValueError, match="--tune-scans: expected a reconstructor with a grid"):
        Plan(replace(settings(tmp_path), reconstructors=("zero-filled",)))


def test_subjects_that_calibrate_a_stopping_rule_are_refused(tmp_path: Path) -> None:
    stop = StopSettings(target=0.5, calibration="val", alpha=0.3)
    with pytest.raises(ValueError, match="--tune-scans: subjects of the val split calibrate"):
        Plan(settings(tmp_path, stop=stop))
