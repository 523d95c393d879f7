"""Learning curves: which runs belong together, their middle, and what is refused."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from PIL import Image

from activemri import cli
from activemri.benchmark.learning_curves import (
    CurvesSettings,
    LearningCurve,
    draw_learning_curves,
    grouped,
    learning_curve,
    learning_figure,
    read_run,
)


def training(
    folder: Path, values: dict[int, float], *, metric: str = "validation_area", **settings: Any
) -> Path:
    """A folder as a training leaves it."""
    folder.mkdir(parents=True)
    described = {"algo": "ddqn", "seed": 0, "budget": 24, "learner": ["lr=1e-3"], **settings}
    (folder / "settings.json").write_text(json.dumps(described))
    entries = [
        {"training": "policy", "step": step, "loss": 1.0, metric: value}
        for step, value in values.items()
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return folder


def five(folder: Path, **settings: Any) -> list[Path]:
    """Five seeds, one of which is far off."""
    heights = [0.1, 0.2, 0.3, 0.4, 5.0]
    return [
        training(folder / f"s{seed}", {0: height, 100: 2 * height}, seed=seed, **settings)
        for seed, height in enumerate(heights)
    ]


def curve_of(paths: list[Path], **options: Any) -> Any:
    logs = {path: read_run(path)[1] for path in paths}
    return learning_curve(logs, "validation_area", name="ddqn", **options)


def groups_of(paths: list[Path]) -> dict[str, list[Path]]:
    return grouped({path: read_run(path)[0] for path in paths})


def test_runs_that_differ_in_seed_and_folder_only_are_one_group(tmp_path: Path) -> None:
    paths = [
        *five(tmp_path / "a"),
        training(tmp_path / "b", {0: 0.1}, learner=["lr=1e-4"], out="elsewhere"),
    ]
    groups = groups_of(paths)
    assert {name: len(runs) for name, runs in groups.items()} == {
        "ddqn, lr=1e-3": 5,
        "ddqn, lr=1e-4": 1,
    }


def test_one_group_is_called_by_its_algorithm(tmp_path: Path) -> None:
    assert list(groups_of(five(tmp_path))) == ["ddqn"]


def test_the_curve_is_the_middle_half_of_the_runs(tmp_path: Path) -> None:
    curve = curve_of(five(tmp_path))
    # Of five runs a quarter, one and a quarter, is cut at each end: shares 0.75, 1, 0.75 are left.
    middle = (0.75 * 0.2 + 0.3 + 0.75 * 0.4) / 2.5
    assert curve.iqm.tolist() == pytest.approx([middle, 2 * middle])
    assert curve.steps.tolist() == [0, 100]
    assert curve.runs.shape == (5, 2)
    assert (curve.low < curve.iqm).all() and (curve.iqm < curve.high).all()


def test_with_a_multiple_of_four_runs_it_is_the_trimmed_mean(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=8)
    paths = [training(tmp_path / str(i), {10: v}, seed=i) for i, v in enumerate(values)]
    assert curve_of(paths).iqm[0] == pytest.approx(scipy.stats.trim_mean(values, 0.25))


def test_the_interval_of_eight_seeds_covers_the_truth() -> None:
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(150):
        logs = {
            Path(str(i)): [{"step": 0, "validation_area": value}]
            for i, value in enumerate(rng.normal(size=8))
        }
        curve = learning_curve(logs, "validation_area", name="x")
        covered.append(bool(curve.low[0] <= 0 <= curve.high[0]))
    assert np.mean(covered) > 0.94


def test_steps_in_between_are_interpolated_and_the_shortest_run_ends_the_curve(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = [
        training(tmp_path / "a", {0: 0.0, 100: 1.0, 200: 1.0}, seed=0),
        training(tmp_path / "b", {0: 0.0, 50: 1.0, 100: 3.0}, seed=1),
    ]
    with caplog.at_level(logging.WARNING):
        curve = curve_of(paths)
    assert curve.steps.tolist() == [0, 50, 100]
    assert curve.runs.tolist() == [[0, 0.5, 1.0], [0, 1.0, 3.0]]
    assert "a at 200, b at 100" in caplog.text


def test_one_run_has_no_interval(tmp_path: Path) -> None:
    curve = curve_of([training(tmp_path / "a", {0: 0.0, 9: 1.0})])
    assert np.isnan(curve.low).all() and curve.iqm.tolist() == [0, 1]


def test_the_command_writes_a_picture_and_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = five(tmp_path / "runs")
    out = tmp_path / "new" / "curves.png"
    assert cli.main(["curves", *map(str, paths), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "validation_area, inter-quartile mean" in said and "0.6000 [" in said
    with Image.open(out) as picture:
        assert picture.size[0] > 800


def test_what_untrained_networks_reach_does_not_flatten_the_rest() -> None:
    def limits(*runs: list[float]) -> tuple[float, float]:
        values = np.array(runs)
        steps = np.arange(values.shape[1], dtype=float)
        curve = LearningCurve("a", steps, values, values.mean(0), values.min(0), values.max(0))
        low, high = learning_figure([curve], metric="validation_area").axes[0].get_ylim()
        return low, high

    low, high = limits([0.2, 0.80, 0.82], [0.1, 0.81, 0.83])
    assert 0.75 < low < 0.80 and high > 0.83
    low, high = limits([9.0, 0.2, 0.1])
    assert low < 0.1 and 0.2 < high < 0.3
    low, high = limits([0.1, 0.2, 0.3])
    assert low < 0.1 and high > 0.3


def test_a_metric_can_be_chosen(tmp_path: Path) -> None:
    path = training(tmp_path / "a", {0: 0.5}, metric="validation_final")
    settings = CurvesSettings((path,), out=tmp_path / "x.svg", metric="loss")
    assert "1.0000 [too few seeds]" in draw_learning_curves(settings)
    with pytest.raises(ValueError, match="its log has no validation_area"):
        curve_of([path])


def test_what_is_no_training_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no training: settings\.json is missing"):
        read_run(tmp_path)
    with pytest.raises(ValueError, match="nothing was validated yet"):
        read_run(training(tmp_path / "a", {}))
    broken = training(tmp_path / "b", {0: 1.0})
    (broken / "log.jsonl").write_text('{"step": ')
    with pytest.raises(ValueError, match="expected JSON"):
        read_run(broken)
    same = [training(tmp_path / name, {0: 1.0}) for name in ("c", "d")]
    with pytest.raises(ValueError, match="differ in nothing"):
        groups_of(same)
    apart = [
        training(tmp_path / "e", {0: 1.0, 10: 1.0}, seed=0),
        training(tmp_path / "f", {20: 1.0, 30: 1.0}, seed=1),
    ]
    with pytest.raises(ValueError, match="no step in common"):
        curve_of(apart)


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one folder"):
        CurvesSettings(())
    with pytest.raises(ValueError, match="one of them twice"):
        CurvesSettings((Path("a"), Path("b"), Path("a")))
    with pytest.raises(ValueError, match=r"ends in .png or .svg"):
        CurvesSettings((Path("a"),), out=Path("a.pdf"))
