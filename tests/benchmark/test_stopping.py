"""Stopping rules of a benchmark: savings against slow loops, and from settings to files."""

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import binomtest

from activemri import checkpoints, cli
from activemri.agents.rollout import rollout
from activemri.benchmark import figures, run
from activemri.benchmark.plan import METRICS, BenchmarkSettings, Plan
from activemri.benchmark.run import Outcome, run_benchmark
from activemri.benchmark.savings import (
    FittedRule,
    curves_of,
    promises,
    savings,
    stopping_table,
    trade_off,
    wilson,
)
from activemri.data.slices import SliceInfo
from activemri.envs.protocol import ScanProtocol
from activemri.evaluator import Evaluator, save_evaluator
from activemri.options import RunOptions
from activemri.reconstruction.cresnet import CResNet
from activemri.stopping import features
from activemri.stopping.features import Curves
from activemri.stopping.predictor import Predictor, fit_predictor
from activemri.stopping.rule import RULES, Stopping, StoppingRule, StopSettings, calibrate

Row = dict[str, Any]
STOP = StopSettings(metric="ssim", target=0.8, alpha=0.1)
N_STEPS = 11


def invented(seed: int = 0, n_subjects: int = 7) -> Curves:
    """Subjects with one to three slices each, scores that rise unsteadily."""
    rng = np.random.default_rng(seed)
    scans = [
        SliceInfo(f"v{s}", i, f"s{s}", "T1", (8, 9), (8, 9), 1)
        for s in range(n_subjects)
        for i in range(1 + s % 3)
    ]
    n = len(scans)
    scores = 0.5 + np.cumsum(rng.uniform(-0.02, 0.1, (n, N_STEPS)), axis=1)
    guessed = scores + rng.normal(0, 0.05, scores.shape)
    return Curves(
        tuple(scans),
        np.tile(4 + np.arange(N_STEPS), (n, 1)) + rng.integers(0, 2, (n, 1)),
        {"ssim": scores, "nmse": 1 - scores},
        {"acquired": guessed},
    )


def fitted(curves: Curves, threshold: float = 0.82, *, stop: StopSettings = STOP) -> FittedRule:
    y = (0.0, 1.0) if stop.metric == "ssim" else (1.0, 0.0)
    head = {"x": (0.0, 1.0), "y": y}
    predictor = Predictor("regression", str(stop.metric), ("acquired",), head)
    assert stop.target is not None
    rule = StoppingRule(
        predictor=predictor,
        target=stop.target,
        threshold=threshold,
        alpha=stop.alpha,
        unit=stop.unit,
        n_units=30,
        policy="random",
        reconstructor="unet",
        data="invented",
        n_center_lines=4,
        budget=10,
    )
    return FittedRule("random", "unet", curves, rule, "", 30, 30)


def counted(curves: Curves, stops: list[int]) -> tuple[float, float]:
    """Lines, and the share of slices that miss: means over subjects of their slices' means."""
    found: dict[str, list[tuple[int, bool]]] = {}
    for row, (scan, step) in enumerate(zip(curves.scans, stops, strict=True)):
        missed = bool(curves.scores["ssim"][row, step] < 0.8)
        found.setdefault(scan.subject, []).append((int(curves.n_acquired[row, step]), missed))
    lines, misses = np.mean([np.mean(own, axis=0) for own in found.values()], axis=0)
    return float(lines), float(misses)


def first(values: Any, level: float) -> int:
    return next((i for i, value in enumerate(values) if value >= level), len(values) - 1)


@pytest.mark.parametrize("threshold", [0.7, 0.78, 0.82, 0.9])
def test_a_row_equals_counting_slice_by_slice(threshold: float) -> None:
    curves = invented()
    row: Row = savings(fitted(curves, threshold), STOP)
    rule = [first(values, threshold) for values in np.clip(curves.features["acquired"], 0, 1)]
    oracle = [first(values, 0.8) for values in curves.scores["ssim"]]
    fixed = [counted(curves, [step] * len(curves)) for step in range(N_STEPS)]
    lines, miss = counted(curves, rule)
    best = next((f for f in fixed if f[1] <= miss), fixed[-1])
    assert (row["lines"], row["miss"]) == pytest.approx((lines, miss))
    assert (row["oracle_lines"], row["oracle_miss"]) == pytest.approx(counted(curves, oracle))
    assert row["fixed_lines"] == pytest.approx(best[0])
    assert row["saved"] == pytest.approx(best[0] - lines)
    to_save = best[0] - counted(curves, oracle)[0]
    if row.get("share_lo") is not None:
        assert row["share_lo"] <= row["share"] <= row["share_hi"]
    assert row["share"] == (pytest.approx((best[0] - lines) / to_save) if to_save > 0 else None)
    assert row["miss_lo"] <= row["miss"] <= row["miss_hi"]
    assert row["holds"] == (row["miss_lo"] <= 0.1)


def test_errors_are_mirror_images_of_scores() -> None:
    flipped = replace(STOP, metric="nmse", target=0.2)
    a = savings(fitted(invented(), 0.82), STOP)
    b = savings(fitted(invented(), 1 - 0.82, stop=flipped), flipped)
    for name in ("lines", "miss", "miss_lo", "miss_hi", "saved", "share", "oracle_lines", "rank"):
        assert a[name] == pytest.approx(b[name])


def test_the_calibrated_point_lies_on_the_curve_of_all_thresholds() -> None:
    curves = invented(n_subjects=12)
    found = trade_off(fitted(curves), STOP)
    assert found is not None
    (lines, missed), (budgets, _) = found["rule"], found["fixed"]
    points = np.stack([lines, missed], axis=1)
    assert np.abs(points - np.concatenate(found["chosen"])).sum(axis=1).min() < 1e-12
    assert (np.diff(lines) >= 0).all()
    for step, at in ((0, budgets[0]), (N_STEPS - 1, budgets[-1]), (N_STEPS - 1, lines[-1])):
        assert at == pytest.approx(counted(curves, [step] * len(curves))[0])
    assert found["oracle"][1][0] <= missed.min() + 1e-12


def test_without_any_miss_the_interval_still_shows_doubt() -> None:
    perfect = replace(invented(), scores={"ssim": np.ones_like(invented().scores["ssim"])})
    row = savings(fitted(perfect), STOP)
    assert (row["miss"], row["miss_lo"]) == (0, 0)
    assert row["miss_hi"] == pytest.approx(binomtest(0, 7).proportion_ci(method="exact").high)
    one = savings(fitted(invented(n_subjects=1)), STOP)
    assert one["miss_lo"] is one["miss_hi"] is one["saved_lo"] is one["holds"] is None


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 40), (40, 40)])
def test_wilson_intervals_are_those_of_scipy(k: int, n: int) -> None:
    expected = binomtest(k, n).proportion_ci(method="wilson")
    assert wilson(k / n, n) == pytest.approx((expected.low, expected.high))


def test_units_that_are_slices_have_both_intervals() -> None:
    by_slice = replace(STOP, unit="slice")
    curves = invented()
    row: Row = savings(fitted(curves, stop=by_slice), by_slice)
    stops = [first(values, 0.82) for values in np.clip(curves.features["acquired"], 0, 1)]
    missed = [curves.scores["ssim"][row, step] < 0.8 for row, step in enumerate(stops)]
    ends = wilson(float(np.mean(missed)), row["n_slices"])
    assert (row["miss_wilson_lo"], row["miss_wilson_hi"]) == pytest.approx(ends)


def test_a_refusal_has_no_numbers_and_is_told() -> None:
    refused = replace(fitted(invented()), rule=None, refusal="too few")
    row = savings(refused, STOP)
    assert (row["refused"], row["threshold"]) == ("too few", None)
    assert "lines" not in row and trade_off(refused, STOP) is None
    text = stopping_table([row, savings(fitted(invented()), STOP)], STOP).text()
    assert (
        "no rule" in text
        and "random, unet, predicted-score: no rule: too few" in text
        and "None" not in text
    )


def test_curves_come_back_from_a_long_table_each_continued_with_its_last_values() -> None:
    curves, ended = invented(), 4  # the first episode ends after 4 steps
    rows = [
        {"volume": scan.volume, "slice": scan.index, "step": step, "metric": name}
        | {"n_acquired": curves.n_acquired[row, step], "value": values[row, step]}
        for row, scan in enumerate(curves.scans)
        for name, values in (
            *curves.scores.items(),
            ("feature acquired", curves.features["acquired"]),
        )
        for step in range(N_STEPS)
        if row or step <= ended
    ]
    again = curves_of(pd.DataFrame(rows).sample(frac=1, random_state=0), curves.scans)
    assert again.scans == curves.scans and set(again.features) == {"acquired"}
    for mine, theirs in (
        (curves.n_acquired, again.n_acquired),
        (curves.scores["nmse"], again.scores["nmse"]),
        (curves.features["acquired"], again.features["acquired"]),
    ):
        assert np.array_equal(mine[1:], theirs[1:])
        assert np.array_equal(mine[0, :5], theirs[0, :5]) and (theirs[0, 5:] == mine[0, 4]).all()


def test_the_figure_names_everything_that_it_draws() -> None:
    panels = {}
    for seed, name in enumerate(["random", "$lbcs$", "<greedy>"]):
        found = trade_off(fitted(invented(seed), 0.75), STOP)
        assert found is not None
        panels[name] = {"predicted-score": found, "interval-length": found}
    figure = figures.trade_off_figure(panels, STOP, reconstructor="unet")
    words = " ".join(ET.fromstring(figure.svg).itertext())
    for text in ("random", "$lbcs$", "<greedy>", "fixed-budget", "predicted-score", "oracle stop"):
        assert text in words
    assert "alpha 0.1" in words and "share below SSIM 0.8" in words and " saved" in words


@pytest.mark.parametrize(
    ("changes", "counts", "promised"),
    [
        ({"calibration": "extra"}, (60, 60), True),
        ({"calibration": "extra", "unit": "volume"}, (60, 20), False),
        ({"calibration": "extra", "unit": "slice"}, (60, 60), True),
        ({}, (60, 60), False),  # weights are chosen on val
        ({"calibration": "crossfit"}, (60, 60), False),
    ],
)
def test_nothing_is_promised_that_does_not_hold(
    changes: dict[str, Any], counts: tuple[int, int], promised: bool
) -> None:
    stop = replace(STOP, **changes)
    said, caution = promises(stop, n_units=counts[0], n_subjects=counts[1])
    assert said.startswith("Promised" if promised else "Aimed at, not promised")
    assert ("Cross-fitting" in caution) == stop.is_crossfit


# From settings to files

POLICIES = ("low-frequency-first", "random", "oracle")
PROTOCOL = ScanProtocol(split="test", matrix_size=24, budget=14, n_center_lines=4)
RULE = StopSettings(target=0.85, alpha=0.2, max_slices=12)


def settings(
    out: Path, stop: StopSettings = RULE, *, protocol: dict[str, Any] | None = None, **changes: Any
) -> BenchmarkSettings:
    """Two policies and an oracle on small phantom scans."""
    options: dict[str, Any] = {"policies": POLICIES, "max_slices": 10}
    return BenchmarkSettings(
        protocol=replace(PROTOCOL, **(protocol or {})),
        run=RunOptions(out=out),
        stop=stop,
        **(options | changes),
    )


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return run_benchmark(settings(tmp_path_factory.mktemp("stopping")))


def rules_of(out: Path, kind: str = "predicted-score") -> list[Row]:
    rows: list[Row] = json.loads((out / "summary.json").read_text())["stopping"]["rules"]
    return [row for row in rows if row["rule"] == kind]


def test_every_policy_but_oracles_gets_a_rule(outcome: Outcome) -> None:
    rows = rules_of(outcome.out)
    assert [row["policy"] for row in rows] == ["low-frequency-first", "random"]
    assert {path.stem for path in (outcome.out / "rules").iterdir()} == {
        f"{policy}-zero-filled{kind}"
        for policy in ("low-frequency-first", "random")
        for kind in ("", "-interval-length", "-fixed-budget")
    }
    assert all(row["refused"] is None and row["n_units"] == 12 for row in rows)
    assert set(outcome.table["metric"]) == set(METRICS)  # features are none
    text = str(outcome)
    assert "Stop at SSIM 0.85 (alpha 0.2" in text and "12 calibration subjects" in text
    assert "Promised: of a new subject" in text + (outcome.out / "report.html").read_text()


@pytest.mark.parametrize("kind", RULES)
def test_a_saved_rule_stops_the_scored_scans_as_the_report_says(
    outcome: Outcome, kind: str
) -> None:
    plan = Plan(settings(outcome.out))
    table = outcome.table[outcome.table["metric"] == "ssim"]
    for row in rules_of(outcome.out, kind):
        policy, end = row["policy"], "" if kind == "predicted-score" else f"-{kind}"
        rule = StoppingRule.load(outcome.out / "rules" / f"{policy}-zero-filled{end}.json")
        stopping = Stopping(plan.policy(policy, "zero-filled", order=None), rule)
        scans = [plan.scored.dataset[position] for position in plan.scored.positions]
        episodes = rollout(plan.acquisitions["zero-filled"], stopping, scans)
        lines = episodes.n_acquired[:, -1].double().numpy()
        missed = (episodes.scores["ssim"][:, -1] < 0.85).double().mean()
        assert (row["lines"], row["miss"]) == pytest.approx((lines.mean(), float(missed)))
        own = table[table["policy"] == policy].pivot(
            index=["volume", "slice"], columns="step", values="value"
        )
        oracle = [4 + first(values, 0.85) for values in own.to_numpy()]
        assert row["oracle_lines"] == pytest.approx(np.mean(oracle))
        if kind == "fixed-budget":
            assert len(set(lines)) == 1


def test_predictor_and_threshold_come_from_subjects_that_are_not_scored(outcome: Outcome) -> None:
    """The whole of fitting and calibrating once more."""
    plan = Plan(settings(outcome.out))
    subjects = [plan.stopping[split].subjects for split in ("train", "val")]
    assert not subjects[0] & subjects[1] and not (subjects[0] | subjects[1]) & plan.scored.subjects
    train, val = (
        run._curves(plan, plan.shards(split))["zero-filled", "random"] for split in ("train", "val")
    )
    predictor = fit_predictor(
        "regression",
        {name: values.ravel() for name, values in train.features.items()},
        train.scores["ssim"].ravel(),
        metric="ssim",
        target=0.85,
    )
    rule = StoppingRule.load(outcome.out / "rules" / "random-zero-filled.json")
    assert rule.predictor == predictor
    predicted, missed = predictor(val.features), val.scores["ssim"] < 0.85

    def risk(threshold: float) -> float:
        stops = [first(values, threshold) for values in predicted]
        return (sum(bool(m[s]) for m, s in zip(missed, stops, strict=True)) + 1) / 13

    assert max(risk(float(t)) for t in predicted[predicted >= rule.threshold]) <= 0.2
    assert risk(float(predicted[predicted < rule.threshold].max())) > 0.2


@pytest.mark.long
def test_another_target_or_predictor_plays_nothing_again(
    outcome: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (run, features):
        monkeypatch.setattr(module, "rollout", lambda *a, **k: pytest.fail("played again"))
    other = StopSettings(target=0.1, metric="nmse", alpha=0.3, unit="slice", max_slices=12)
    changed = run_benchmark(settings(outcome.out, other))
    rows = rules_of(outcome.out)
    assert {(row["metric"], row["alpha"], row["unit"]) for row in rows} == {("nmse", 0.3, "slice")}
    assert changed.table.equals(outcome.table)
    run_benchmark(settings(outcome.out))  # as the other tests expect it


def test_an_interrupted_benchmark_continues_to_the_same_rules(
    outcome: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played: list[int] = []

    def interrupted(*arguments: Any, **keywords: Any) -> Any:
        if len(played) == 9:  # within the calibration split
            raise KeyboardInterrupt
        played.append(1)
        return rollout(*arguments, **keywords)

    monkeypatch.setattr(features, "rollout", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_benchmark(settings(tmp_path))
    parts = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    assert any("quality" in path.parts for path in parts)
    monkeypatch.setattr(features, "rollout", rollout)
    run_benchmark(settings(tmp_path))
    assert rules_of(tmp_path) == rules_of(outcome.out)
    assert all(path.stat().st_mtime_ns == then for path, then in parts.items())


@pytest.mark.long
def test_rules_can_be_added_to_a_finished_benchmark(outcome: Outcome, tmp_path: Path) -> None:
    plain = run_benchmark(settings(tmp_path, StopSettings()))
    assert "stopping" not in json.loads((tmp_path / "summary.json").read_text())
    later = run_benchmark(settings(tmp_path))
    pd.testing.assert_frame_equal(plain.table, later.table)
    assert rules_of(tmp_path) == rules_of(outcome.out)


@pytest.mark.long
def test_workers_make_the_same_rules(outcome: Outcome, tmp_path: Path) -> None:
    run_benchmark(settings(tmp_path, workers=2))
    assert rules_of(tmp_path) == rules_of(outcome.out)


def test_cross_fitting_calibrates_on_predictions_for_other_folds(tmp_path: Path) -> None:
    stop = replace(RULE, calibration="crossfit")
    given = settings(tmp_path, stop, policies=("random",), reference="random")
    found = run_benchmark(given)
    plan = Plan(given)
    rule = StoppingRule.load(tmp_path / "rules" / "random-zero-filled.json")
    assert rule.n_units == 24
    played = [run._curves(plan, plan.shards(split)) for split in ("train", "val")]
    both = Curves.join([curves["zero-filled", "random"] for curves in played])
    known = rule.predictor(both.features)
    assert calibrate(rule.predictor, known, both, target=0.85, alpha=0.2) != rule.threshold
    assert "Aimed at, not promised" in str(found)


@pytest.mark.parametrize("predictor", ["evaluator", "regression"])
def test_uncertainty_and_the_evaluator_beside_a_checkpoint_are_used(
    tmp_path: Path, predictor: str
) -> None:
    torch.manual_seed(0)
    network = CResNet(2, blocks=1, residual_blocks=0)
    save_evaluator(tmp_path / "pair/evaluator", Evaluator(24, channels=2, layers=2), info={})
    path = checkpoints.save(
        tmp_path / "pair/best",
        kind="cresnet",
        settings=network.settings,
        state_dict=network.state_dict(),
        info={},
    )
    words = (
        f"benchmark --matrix-size 24 --lines-per-action 4 --n-center-lines 4 --max-slices 3 "
        f"--policies low-frequency-first --reconstructors {path} zero-filled "
        f"--stop.target 0.5 --stop.alpha 0.3 --stop.predictor {predictor} --stop.max-slices 5 "
        f"--out {tmp_path}/out"
    )
    assert cli.main(words.split()) == 0
    one, two = rules_of(tmp_path / "out")
    assert one["reconstructor"] == "pair" and one["refused"] is None
    part = pd.read_parquet(next((tmp_path / "out/quality/scored/pair").rglob("*.parquet")))
    assert {"feature expected_ssim", "feature evaluator_mean"} <= set(part["metric"])
    if predictor == "regression":
        assert two["refused"] is None
    else:
        assert "Predictor regression uses what there is" in two["refused"]
        assert "no rule" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("stop", "changes", "message"),
    [
        ({"alpha": 0.01}, {}, "needs at least 99 calibration subjects.*are 12"),
        ({"calibration": "test"}, {}, "are scored as well"),
        ({}, {"protocol": {"split": "train"}}, "are scored as well"),
        ({"fit": "trian"}, {}, "trian"),
    ],
)
def test_rules_that_cannot_be_calibrated_are_refused_before_anything_is_played(
    tmp_path: Path, stop: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run_benchmark(settings(tmp_path, replace(RULE, **stop), **changes))
    assert not list(tmp_path.rglob("*.parquet"))


def test_phantoms_have_as_many_calibration_subjects_as_are_needed(tmp_path: Path) -> None:
    few = StopSettings(target=0.6, alpha=0.02)
    with pytest.raises(ValueError, match=r"at least 49 .*calibration-subjects for phantoms"):
        Plan(settings(tmp_path, few))
    plan = Plan(settings(tmp_path, replace(few, calibration_subjects=60, fit_subjects=230)))
    assert [len(plan.stopping[split].subjects) for split in ("train", "val")] == [230, 60]


def test_a_budget_that_cannot_reach_the_target_leaves_the_policy_without_a_rule(
    tmp_path: Path,
) -> None:
    stop = StopSettings(target=0.99, alpha=0.3, max_slices=5)
    found = run_benchmark(settings(tmp_path, stop, protocol={"budget": 2}, max_slices=3))
    assert all(row["refused"] for row in rules_of(tmp_path))
    assert "no rule: no threshold keeps misses below alpha=0.3" in str(found)
