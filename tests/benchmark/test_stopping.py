"""Stopping rules of a benchmark, from settings to files."""

import functools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from activemri import checkpoints
from activemri.agents.prediction import fit_predictor
from activemri.agents.rollout import rollout
from activemri.agents.stopping import Stopping, StoppingRule, calibrate
from activemri.benchmark import run, scenario
from activemri.benchmark.plan import METRICS, Plan
from activemri.benchmark.run import Outcome, run_benchmark
from activemri.data.sources import open_dataset
from activemri.evaluator import Evaluator, save_evaluator
from activemri.reconstruction.cresnet import CResNet
from activemri.settings import BenchmarkSettings

POLICIES = ("low-frequency-first", "random", "oracle")
WORDS = "target=ssim:0.85 alpha=0.2 max-slices=24"


def settings(out: Path, words: str = WORDS, **changes: object) -> BenchmarkSettings:
    """Two policies and an oracle on small phantom scans."""
    options: dict[str, object] = {
        "policies": POLICIES,
        "matrix": 24,
        "budget": 14,
        "n_center_lines": 4,
        "max_slices": 10,
        "n_bootstrap": 50,
        "stop": tuple(words.split()),
        "out": out,
    }
    return BenchmarkSettings(**(options | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module", autouse=True)
def phantoms_are_made_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        once = functools.cache(open_dataset)
        patch.setattr(scenario, "open_dataset", once)
        yield


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return run_benchmark(settings(tmp_path_factory.mktemp("stopping")))


def rules_of(out: Path) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = json.loads((out / "summary.json").read_text())["stopping"][
        "rules"
    ]
    return rows


def test_every_policy_but_oracles_gets_a_rule(outcome: Outcome) -> None:
    out = outcome.plan.settings.out
    rows = rules_of(out)
    assert [(row["policy"], row["reconstructor"]) for row in rows] == [
        ("low-frequency-first", "zero-filled"),
        ("random", "zero-filled"),
    ]
    assert sorted(path.stem for path in (out / "rules").iterdir()) == [
        "low-frequency-first-zero-filled",
        "random-zero-filled",
    ]
    assert all(row["refused"] is None and row["n_units"] == 24 for row in rows)
    assert set(outcome.table["metric"]) == set(METRICS)


def test_the_report_shows_and_says_what_rules_do(outcome: Outcome) -> None:
    page = (outcome.plan.settings.out / "report.html").read_text()
    assert 'id="stopping"' in page and page.count("Promised: of a new subject") == 1
    text = str(outcome)
    assert "Stop at SSIM 0.85, alpha 0.2" in text and "24 calibration subjects" in text


def test_a_saved_rule_stops_the_scored_scans_as_the_report_says(outcome: Outcome) -> None:
    benchmark = outcome.plan
    for row in rules_of(benchmark.settings.out):
        policy = str(row["policy"])
        rule = StoppingRule.load(benchmark.settings.out / "rules" / f"{policy}-zero-filled.json")
        stopping_policy = Stopping(benchmark.policy(policy, "zero-filled", order=None), rule)
        scans = [benchmark.dataset[position] for position in benchmark.positions]
        episodes = rollout(benchmark.acquisitions["zero-filled"], stopping_policy, scans)
        lines = episodes.n_acquired[:, -1].double().numpy()
        assert row["lines"] == pytest.approx(lines.mean())
        assert row["miss"] == pytest.approx(
            float((episodes.scores["ssim"][:, -1] < 0.85).double().mean())
        )
        assert row["lines_q05"] == pytest.approx(np.quantile(lines, 0.05))


def test_fixed_budgets_and_oracle_stopping_equal_a_naive_loop(outcome: Outcome) -> None:
    table = outcome.table[outcome.table["metric"] == "ssim"]
    for row in rules_of(outcome.plan.settings.out):
        own = table[table["policy"] == row["policy"]]
        episodes = [part.sort_values("step") for _, part in own.groupby(["volume", "slice"])]
        oracle = []
        for episode in episodes:
            reached = [
                n for n, v in zip(episode["n_acquired"], episode["value"], strict=True) if v >= 0.85
            ]
            oracle.append(reached[0] if reached else int(episode["n_acquired"].max()))
        assert row["oracle_lines"] == pytest.approx(np.mean(oracle))
        for step in range(15):
            at = own[own["step"] == step]
            if (at["value"] < 0.85).mean() <= row["miss"]:
                break
        assert row["fixed_lines"] == at["n_acquired"].mean()
        saved = at["n_acquired"].mean() - row["lines"]
        assert row["saved"] == pytest.approx(saved)
        assert row["share"] == pytest.approx(saved / (at["n_acquired"].mean() - np.mean(oracle)))


def test_predictor_and_threshold_come_from_subjects_that_are_not_scored(outcome: Outcome) -> None:
    """The whole of fitting and calibrating once more, straightforwardly."""
    benchmark = outcome.plan
    assert benchmark.stopping is not None
    splits = benchmark.stopping.by_split
    subjects = [{info.subject for info in splits[s].describe()} for s in ("train", "val")]
    scored = {info.subject for info in benchmark.describe()}
    assert not subjects[0] & subjects[1] and not (subjects[0] | subjects[1]) & scored
    parts = {
        split: pd.concat(
            pd.read_parquet(path)
            for path in sorted(
                (benchmark.settings.out / splits[split].folder / "zero-filled" / "random").iterdir()
            )
        )
        for split in ("train", "val")
    }
    features = {
        split: {
            name.removeprefix("feature "): part[name].to_numpy()
            for name in part
            if name.startswith("feature ")
        }
        for split, part in parts.items()
    }
    predictor = fit_predictor(
        "regression",
        features["train"],
        parts["train"]["ssim"].to_numpy(),
        metric="ssim",
        target=0.85,
    )
    rule = StoppingRule.load(benchmark.settings.out / "rules" / "random-zero-filled.json")
    assert rule.predictor == predictor
    predicted = predictor(features["val"]).reshape(24, 15)
    missed = (parts["val"]["ssim"].to_numpy() < 0.85).reshape(24, 15)

    def risk(threshold: float) -> float:
        stops = [next((i for i, v in enumerate(p) if v >= threshold), 14) for p in predicted]
        total = sum(bool(m[s]) for m, s in zip(missed, stops, strict=True))
        return (total + 1) / 25

    higher = predicted[predicted >= rule.threshold]
    assert max(risk(float(t)) for t in higher) <= 0.2
    below = predicted[predicted < rule.threshold].max()
    assert risk(float(below)) > 0.2


def test_another_target_or_predictor_plays_nothing_again(
    outcome: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "rollout", lambda *a, **k: pytest.fail("played again"))
    out = outcome.plan.settings.out
    changed = run_benchmark(settings(out, "target=nmse:0.1 alpha=0.3 unit=slice max-slices=24"))
    rows = rules_of(out)
    assert {(row["metric"], row["alpha"], row["unit"]) for row in rows} == {("nmse", 0.3, "slice")}
    assert all("miss_wilson_hi" in row for row in rows if row["refused"] is None)
    assert changed.table.equals(outcome.table)
    run_benchmark(outcome.plan.settings)  # as the other tests expect it


def test_an_interrupted_benchmark_continues_to_the_same_rules(
    outcome: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played: list[int] = []

    def interrupted(*arguments: object, **keywords: object) -> object:
        if len(played) == 9:  # within the calibration split
            raise KeyboardInterrupt
        played.append(1)
        return rollout(*arguments, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(run, "rollout", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_benchmark(settings(tmp_path))
    parts = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    assert any("quality" in path.parts for path in parts)
    monkeypatch.setattr(run, "rollout", rollout)
    run_benchmark(settings(tmp_path))
    assert rules_of(tmp_path) == rules_of(outcome.plan.settings.out)
    assert all(path.stat().st_mtime_ns == then for path, then in parts.items())


def test_stopping_can_be_asked_for_later(outcome: Outcome, tmp_path: Path) -> None:
    plain = run_benchmark(settings(tmp_path, ""))
    assert "stopping" not in json.loads((tmp_path / "summary.json").read_text())
    assert 'id="stopping"' not in (tmp_path / "report.html").read_text()
    later = run_benchmark(settings(tmp_path))
    pd.testing.assert_frame_equal(plain.table, later.table)
    assert rules_of(tmp_path) == rules_of(outcome.plan.settings.out)


@pytest.mark.long
def test_workers_make_the_same_rules(outcome: Outcome, tmp_path: Path) -> None:
    run_benchmark(settings(tmp_path, workers=2))
    assert rules_of(tmp_path) == rules_of(outcome.plan.settings.out)


def test_cross_fitting_calibrates_on_predictions_for_other_folds(tmp_path: Path) -> None:
    outcome = run_benchmark(
        settings(
            tmp_path,
            "target=ssim:0.85 alpha=0.2 calibration=crossfit max-slices=12",
            policies=("random",),
            reference="random",
        )
    )
    verdict = outcome.verdicts[0]
    assert outcome.plan.stopping is not None and verdict.rule is not None
    assert verdict.n_units == 24
    played = run._curves(outcome.plan, outcome.plan.stopping_pieces())
    both = [played["zero-filled", "random", split] for split in ("train", "val")]
    everything = type(both[0]).join(both)
    known = verdict.rule.predictor(everything.features)
    seen = calibrate(verdict.rule.predictor, known, everything, target=0.85, alpha=0.2)
    assert seen != verdict.rule.threshold
    assert "Aimed at, not promised" in str(outcome)


def tiny_pair(folder: Path) -> Path:
    """Checkpoints of a network that gives an uncertainty and of an evaluator beside it."""
    torch.manual_seed(0)
    network = CResNet(2, blocks=1, residual_blocks=0)
    save_evaluator(folder / "evaluator", Evaluator(24, channels=2, layers=2), info={})
    return checkpoints.save(
        folder / "best",
        kind="cresnet",
        settings=network.settings,
        state_dict=network.state_dict(),
        info={},
    )


@pytest.mark.parametrize("predictor", ["evaluator", "regression"])
def test_uncertainty_and_the_evaluator_beside_a_checkpoint_are_used(
    tmp_path: Path, predictor: str
) -> None:
    path = tiny_pair(tmp_path / "pair")
    changes: dict[str, object] = {
        "reconstructors": (str(path), "zero-filled"),
        "policies": ("low-frequency-first",),
        "reference": "low-frequency-first",
        "max_slices": 3,
        "budget": None,
    }
    words = f"target=ssim:0.5 alpha=0.3 predictor={predictor} max-slices=5"
    outcome = run_benchmark(settings(tmp_path / "out", words, **changes))
    first, second = rules_of(tmp_path / "out")
    assert first["reconstructor"] == "pair" and first["refused"] is None
    features = set(outcome.verdicts[0].curves.features)
    assert {"expected_ssim", "evaluator_mean"} <= features
    assert "uncertainty" not in set(outcome.table["metric"])
    if predictor == "regression":
        assert second["refused"] is None
    else:
        assert "predictor=regression uses what there is" in str(second["refused"])
        assert "No rule:" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("words", "changes", "message"),
    [
        ("target=ssim:0.6 alpha=0.01", {}, "needs at least 99 calibration subjects.*are 40"),
        ("target=ssim:0.6 alpha=0.2 calibration=test", {}, "40 of its subjects|scored as well"),
        ("target=ssim:0.6 alpha=0.2", {"split": "train"}, "are scored as well"),
        ("target=ssim:0.6 alpha=0.2 fit=trian", {}, "trian"),
    ],
)
def test_what_cannot_be_calibrated_is_refused_before_anything_is_played(
    tmp_path: Path, words: str, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run_benchmark(settings(tmp_path, words, **changes))
    assert not list(tmp_path.rglob("*.parquet"))
    run_benchmark(settings(tmp_path, "", policies=("random",), reference="random"))


def test_phantoms_have_as_many_calibration_subjects_as_are_needed(tmp_path: Path) -> None:
    few = "target=ssim:0.6 alpha=0.02"
    with pytest.raises(ValueError, match=r"at least 49 .* calibration-subjects= for phantoms"):
        Plan(settings(tmp_path, few))
    benchmark = Plan(settings(tmp_path, f"{few} calibration-subjects=60"))
    assert benchmark.stopping is not None and benchmark.stopping.n_units == 60


def test_a_budget_that_cannot_reach_the_target_leaves_the_policy_without_a_rule(
    tmp_path: Path,
) -> None:
    outcome = run_benchmark(
        settings(tmp_path, "target=ssim:0.99 alpha=0.3 max-slices=5", budget=2, max_slices=3)
    )
    assert all(row["refused"] for row in rules_of(tmp_path))
    assert "no rule: no threshold keeps misses below alpha=0.3" in str(outcome)
