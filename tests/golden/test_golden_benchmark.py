"""The benchmark command gives the numbers that it gave when it was recorded."""

from pathlib import Path

import pytest

from tests.golden import bench, play

#: Networks' scores, and what follows from them, are rounded in single precision.
TOLERANCE = {"benchmark": 1e-6, "weights": 2e-5}


@pytest.mark.parametrize("name", bench.COMMANDS)
def test_actions_areas_and_final_scores_are_as_recorded(name: str, tmp_path: Path) -> None:
    played, recorded = bench.run(name, tmp_path / "out"), play.read(name)
    assert set(played) == set(recorded)
    for scan, scores in recorded.items():
        for metric, quantities in scores.items():
            if metric == "actions":
                assert played[scan][metric] == quantities, scan
                continue
            for quantity, value in quantities.items():
                ours = played[scan][metric][quantity]
                expected = pytest.approx(value, rel=TOLERANCE[name], abs=1e-9)
                assert ours == expected, f"{scan}: {quantity} of {metric}"
