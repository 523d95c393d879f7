"""The run that trains: what it refuses, what it keeps, when it stops, and how it goes on."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from activemri.agents.heuristic import low_frequency_first
from activemri.agents.learning.learner import DivergedError
from activemri.agents.learning.registry import ALGORITHMS
from activemri.agents.learning.run import _PolicyRun, check_settings, evaluate, train_policy
from activemri.agents.registry import make_policy
from activemri.agents.rollout import rollout
from activemri.settings import TrainPolicySettings
from tests.agents.learning.learners import (
    BUDGET,
    N_CENTER_LINES,
    listed,
    small_words,
    train_scans,
    validation_scans,
    workplace,
)
from tests.agents.learning.scripted import SCRIPTED
from tests.training.conftest import discs


@pytest.fixture(autouse=True)
def _scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ALGORITHMS, "scripted", SCRIPTED)


def settings(out: Path, algo: str = "scripted", *learner: str, **changes: Any) -> Any:
    given: dict[str, Any] = {
        "out": out / "run",
        "algo": algo,
        "learner": learner,
        "reconstructor": "zero-filled",
        "n_center_lines": N_CENTER_LINES,
        "budget": BUDGET,
        "max_steps": 6,
        "validate_every": 1,
    }
    return TrainPolicySettings(**given | changes)


def trained(asked: TrainPolicySettings) -> Any:
    return train_policy(asked, train=train_scans(), validation=validation_scans())


def log(out: Path) -> list[dict[str, Any]]:
    lines = (out / "run" / "log.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def test_the_best_policy_is_kept_and_every_validation_logged(tmp_path: Path) -> None:
    result = trained(settings(tmp_path, "scripted", "good=3"))
    entries = log(tmp_path)
    assert [entry["step"] for entry in entries] == list(range(7))
    scores = [entry["validation_area"] for entry in entries]
    assert np.argmax(scores) == 3 == result.best_step and scores[0] == scores[6] < scores[3]
    assert [entry["best_step"] for entry in entries] == [0, 0, 0, 3, 3, 3, 3]
    assert entries[2]["loss"] == 0.5 and "loss" not in entries[0]
    kept = make_policy(tmp_path / "run")
    means = evaluate(workplace().acquisition, kept, validation_scans(), metric="ssim")
    assert means["area"] == result.best_score == scores[3]
    assert "best after 3 steps, validation area" in result.text()


def test_training_ends_when_nothing_better_comes(tmp_path: Path) -> None:
    trained(settings(tmp_path, "scripted", "good=2,3", patience=2))
    assert [entry["step"] for entry in log(tmp_path)] == [0, 1, 2, 3, 4]


def test_a_diverging_training_stops_and_keeps_the_best(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"after step 4: .* from step 2, is in .*run.best"):
        trained(settings(tmp_path, "scripted", "good=2", "diverges_at=4"))
    assert log(tmp_path)[-1]["step"] == 3
    kept = make_policy(tmp_path / "run")
    means = evaluate(workplace().acquisition, kept, validation_scans(), metric="ssim")
    assert means["area"] == log(tmp_path)[2]["validation_area"]


def test_a_killed_training_goes_on_where_it_was_validated_last(tmp_path: Path) -> None:
    asked = settings(tmp_path, "scripted", "good=1", "killed_at=4", validate_every=2)
    with pytest.raises(KeyboardInterrupt):
        trained(asked)
    assert [entry["step"] for entry in log(tmp_path)] == [0, 2]
    with pytest.raises(KeyboardInterrupt):  # it went on from step 2
        trained(replace(asked, resume=True))
    assert [entry["step"] for entry in log(tmp_path)] == [0, 2]


def test_a_resumed_training_of_ppo_ends_as_the_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"max_steps": 32, "validate_every": 16}
    whole = settings(tmp_path / "whole", "ppo", *small_words("ppo"), **changes)
    trained(whole)
    halves = settings(tmp_path / "halves", "ppo", *small_words("ppo"), **changes)
    interrupt_before = 16

    def interrupted(run: Any, diary: Any) -> None:
        if run.learner.step >= interrupt_before:
            raise KeyboardInterrupt
        learn(run, diary)

    learn = _PolicyRun._learn_until_validation
    with monkeypatch.context() as patch:
        patch.setattr(_PolicyRun, "_learn_until_validation", interrupted)
        with pytest.raises(KeyboardInterrupt):
            trained(halves)
    assert [entry["step"] for entry in log(tmp_path / "halves")] == [0, 16]
    trained(replace(halves, resume=True))
    assert log(tmp_path / "halves") == log(tmp_path / "whole")
    weights = [(tmp_path / name / "run" / "last.pt") for name in ("whole", "halves")]
    ours, theirs = (torch.load(path, weights_only=True)["learner"] for path in weights)
    torch.testing.assert_close(ours["policy"], theirs["policy"], rtol=0, atol=0)


def test_a_folder_that_is_taken_is_refused(tmp_path: Path) -> None:
    trained(settings(tmp_path, max_steps=1))
    with pytest.raises(ValueError, match="add --resume to continue it"):
        check_settings(settings(tmp_path, max_steps=1))


def test_other_settings_on_resuming_are_refused_and_shown(tmp_path: Path) -> None:
    trained(settings(tmp_path, max_steps=1))
    other = settings(tmp_path, "scripted", "good=1", max_steps=1, budget=3, resume=True)
    with pytest.raises(ValueError, match="started with something else") as refusal:
        check_settings(other)
    assert "budget: 4 then, 3 now" in str(refusal.value)
    assert "learner: [] then, ['good=1'] now" in str(refusal.value)


def test_other_scans_on_resuming_are_refused(tmp_path: Path) -> None:
    asked = settings(tmp_path, max_steps=1)
    trained(asked)
    with pytest.raises(ValueError, match="n_train_scans: 4 then, 2 now"):
        train_policy(replace(asked, resume=True), train=discs(["a"]), validation=validation_scans())


def test_subjects_in_both_splits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="different subjects; found in both: a, b"):
        train_policy(settings(tmp_path), train=train_scans(), validation=train_scans())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algo": "alchemy"}, "--algo alchemy: expected one of imitation, "),
        ({"learner": ("luck=1",)}, "an argument of scripted: good (str), diverges_at (int)"),
        ({"env": "ActiveMRI/Nothing-v0"}, "unknown environment 'ActiveMRI/Nothing-v0'"),
        ({"env": "ActiveMRI/HDF5-v0"}, "say where they are with --data PATH"),
        ({"metric": "beauty"}, "beauty"),
        ({"device": "abacus"}, "abacus"),
    ],
)
def test_mistakes_are_refused_before_anything_is_read_or_written(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError) as refusal:
        check_settings(settings(tmp_path, **changes))
    assert message in str(refusal.value)
    assert not (tmp_path / "run").exists()


def test_validation_scans_are_spread_over_the_split(tmp_path: Path) -> None:
    many = discs(["p", "q", "r", "s"])
    run = _PolicyRun(settings(tmp_path, validation_scans=4), train_scans(), many)
    assert [scan.subject for scan in listed(run.validation)] == ["p", "q", "r", "s"]


@pytest.mark.parametrize(("step_cost", "select"), [(None, "area"), (0.001, "return")])
def test_what_is_best_follows_the_price_of_lines(
    tmp_path: Path, step_cost: float | None, select: str
) -> None:
    run = _PolicyRun(settings(tmp_path, step_cost=step_cost), train_scans(), validation_scans())
    assert run.select == select


def test_scans_are_turned_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from activemri.agents.learning import environment

    options = environment.environment_options(settings(tmp_path))
    monkeypatch.setattr(
        environment, "environment_options", lambda _: {**options, "orientation": "mixed"}
    )
    square = discs(["a", "b"], shape=(12, 12))
    run = _PolicyRun(settings(tmp_path), square, discs(["cc"], shape=(12, 12)))
    place = run.learner.workplace  # type: ignore[attr-defined]
    again, turned = place.task.dataset(), []
    for i in range(len(square)):
        assert torch.equal(place.scans[i].kspace, again[i].kspace)
        turned.append(not torch.equal(place.scans[i].kspace, square[i].kspace))
    assert any(turned) and not all(turned)


@pytest.mark.parametrize("metric", ["ssim", "nmse"])
def test_an_evaluation_is_the_mean_over_scans_by_hand(metric: str) -> None:
    place = workplace(metrics=(metric,), reward=f"{'-' if metric == 'nmse' else ''}delta_{metric}")
    scans, sign = listed(validation_scans()), -1.0 if metric == "nmse" else 1.0
    found = evaluate(
        place.acquisition, low_frequency_first(), validation_scans(), metric=metric, step_cost=0.01
    )
    curves = [
        sign * rollout(place.acquisition, low_frequency_first(), [scan]).scores[metric][0].numpy()
        for scan in scans
    ]
    assert found["n_actions"] == BUDGET
    assert found["final"] == pytest.approx(np.mean([curve[-1] for curve in curves]))
    areas = [sum((a + b) / 2 for a, b in pairwise(c)) / BUDGET for c in curves]
    assert found["area"] == pytest.approx(np.mean(areas))
    returns = [curve[-1] - curve[0] - 0.01 * BUDGET for curve in curves]
    assert found["return"] == pytest.approx(np.mean(returns))
