"""Training a policy: what it refuses, what it keeps, when it stops, and how it goes on."""

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from activemri import cli
from activemri.agents import learners, training
from activemri.agents.heuristic import low_frequency_first
from activemri.agents.learners import LEARNERS
from activemri.agents.learners.ddqn import DoubleDQN
from activemri.agents.learners.learner import LearnerSettings, Problem, Report, silent
from activemri.agents.networks import LearnedPolicy
from activemri.agents.order import Order
from activemri.agents.registry import make_policy
from activemri.agents.rollout import rollout
from activemri.agents.training import (
    TrainPolicySettings,
    as_environment,
    evaluate,
    run_training,
    train_policy,
    validation_plan,
)
from activemri.data.slices import SliceList
from activemri.envs.protocol import ScanProtocol
from activemri.options import RunOptions
from activemri.training.loop import DivergedError
from tests.agents.learners.problems import small
from tests.envs.scans import scan

BUDGET = 4
TRAIN = SliceList([scan(i) for i in range(4)], "train")
VALIDATION = SliceList([scan(i) for i in range(10, 12)], "val")


@dataclass(frozen=True, kw_only=True)
class Scripted:
    """A learner whose policies are known beforehand, as a user writes one."""

    max_steps: int = 6
    """Steps."""
    good: tuple[int, ...] = ()
    """Steps after which the policy goes outwards; else it goes inwards."""
    diverges_at: int = 0
    """Step at which the loss is no number; 0 for never."""
    killed_at: int = 0
    """Step at which the process is interrupted; 0 for never."""

    def start(self, problem: Problem) -> "ScriptedLearner":
        return ScriptedLearner(self, problem)


class ScriptedLearner:
    def __init__(self, settings: Scripted, problem: Problem) -> None:
        self.settings, self.problem, self.step = settings, problem, 0

    def learn(self, n_steps: int, report: Report = silent, /) -> Mapping[str, float]:
        for _ in range(n_steps):
            self.step += 1
            if self.step == self.settings.diverges_at:
                raise FloatingPointError("the loss is not a finite number")
            if self.step == self.settings.killed_at:
                raise KeyboardInterrupt
        return {"loss": 1.0 / self.step}

    def policy(self) -> Order:
        geometry = self.problem.scan.geometry
        outwards = geometry.frequency.argsort(stable=True).tolist()
        return Order(
            kind="scripted",
            actions=tuple(outwards if self.step in self.settings.good else reversed(outwards)),
            n_learned=len(outwards),
            geometry=geometry.name,
            lines_per_action=1,
            shape=geometry.shape,
            metric=self.problem.metric,
            reconstructor="zero-filled",
            data="scans",
            n_scans=len(self.problem.scans),
            name=self.problem.name,
        )

    def state(self) -> dict[str, Any]:
        return {"step": self.step}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.step = state["step"]


def protocol(**options: Any) -> ScanProtocol:
    given: dict[str, Any] = {"data": TRAIN, "n_center_lines": 2, "budget": BUDGET, **options}
    return ScanProtocol(**given)


def settings(out: Path, learner: LearnerSettings | None = None, **changes: Any) -> Any:
    learner = Scripted() if learner is None else learner
    run = RunOptions(out=out / "run", resume=changes.pop("resume", False))
    given: dict[str, Any] = {"protocol": protocol(), "validate_every": 1, **changes}
    return TrainPolicySettings(run=run, learner=learner, **given)


def trained(asked: TrainPolicySettings) -> Any:
    return run_training(asked, validation=VALIDATION)


def resumed(asked: TrainPolicySettings) -> TrainPolicySettings:
    return replace(asked, run=replace(asked.run, resume=True))


def log(out: Path) -> list[dict[str, Any]]:
    lines = (out / "run" / "log.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def area(policy: Any) -> float:
    return evaluate(Problem(as_environment(protocol())), policy, VALIDATION)["area"]


def test_the_best_policy_is_kept_and_every_validation_logged(tmp_path: Path) -> None:
    result = trained(settings(tmp_path, Scripted(good=(3,))))
    entries = log(tmp_path)
    assert [entry["step"] for entry in entries] == list(range(7))
    scores = [entry["validation_area"] for entry in entries]
    assert np.argmax(scores) == 3 == result.best_step and scores[0] == scores[6] < scores[3]
    assert [entry["best_step"] for entry in entries] == [0, 0, 0, 3, 3, 3, 3]
    assert entries[2]["loss"] == 0.5
    assert area(make_policy(tmp_path / "run")) == scores[3]
    assert "best after 3 steps, validation area" in str(result)


@pytest.mark.parametrize("n_steps", [16, 256, 3000, 20_000, 1_000_000])
def test_validations_take_at_most_a_fifth_of_the_actions(n_steps: int) -> None:
    problem = Problem(as_environment(protocol()))
    n_scans, every = validation_plan(DoubleDQN(max_steps=n_steps), problem, most=32)
    n_validations = 1 + math.ceil(n_steps / every)
    assert 2 <= n_scans <= 32 and 2 <= n_validations <= 11
    if (n_scans, n_validations) != (2, 2):  # the least that there is
        assert n_scans * n_validations * BUDGET <= n_steps / 5
    assert validation_plan(Scripted(max_steps=100), problem, most=32) == (32, 10)


def test_the_bar_moves_while_the_first_policy_is_validated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("activemri.progress.LINE_EVERY_S", 0.0)
    trained(settings(tmp_path, Scripted(max_steps=1)))
    first = capsys.readouterr().err.splitlines()[:4]
    assert all("train policy: 0 of 1 step" in line and "validating" in line for line in first)


def test_training_ends_when_nothing_better_comes(tmp_path: Path) -> None:
    trained(settings(tmp_path, Scripted(good=(2, 3)), patience=2))
    assert [entry["step"] for entry in log(tmp_path)] == [0, 1, 2, 3, 4]


def test_a_diverging_training_stops_and_keeps_the_best(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"from step 2, are in .*run.best") as stop:
        trained(settings(tmp_path, Scripted(good=(2,), diverges_at=4)))
    assert "--learner.lr" in str(stop.value)
    assert log(tmp_path)[-1]["step"] == 3
    assert area(make_policy(tmp_path / "run")) == log(tmp_path)[2]["validation_area"]


def test_a_killed_training_goes_on_where_it_was_validated_last(tmp_path: Path) -> None:
    asked = settings(tmp_path, Scripted(good=(1,), killed_at=4), validate_every=2)
    for again in (asked, resumed(asked)):  # it went on from step 2
        with pytest.raises(KeyboardInterrupt):
            trained(again)
        assert [entry["step"] for entry in log(tmp_path)] == [0, 2]


def test_a_resumed_training_ends_as_the_uninterrupted_one(tmp_path: Path) -> None:
    learner = small("ppo", max_steps=32)
    whole, halves = (
        settings(tmp_path / name, learner, validate_every=16) for name in ("whole", "halves")
    )
    trained(whole)

    def interrupt(step: int, _: float) -> None:
        if step == 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_training(halves, validation=VALIDATION, on_validation=interrupt)
    assert [entry["step"] for entry in log(tmp_path / "halves")] == [0, 16]
    trained(resumed(halves))
    assert log(tmp_path / "halves") == log(tmp_path / "whole")
    states = [tmp_path / name / "run" / "last.pt" for name in ("whole", "halves")]
    ours, theirs = (torch.load(path, weights_only=True)["trainee"] for path in states)
    torch.testing.assert_close(ours["policy"], theirs["policy"], rtol=0, atol=0)


def test_a_checkpoint_records_what_taught_it_and_a_resumed_one_all_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count()
    fake = SimpleNamespace(monotonic=lambda: float(next(clock)))
    monkeypatch.setattr(training, "time", fake)
    whole = settings(tmp_path / "whole", Scripted(good=(6,)), validate_every=2)
    made = make_policy(trained(whole).checkpoint)
    record = {"taught_by": "learned", "subjects": 4, "seconds": 4.0, "actions": None}
    assert made.info["training"] == record  # type: ignore[attr-defined]
    halves = settings(tmp_path / "halves", Scripted(good=(6,)), validate_every=2)

    def interrupt(step: int, score: float) -> None:
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_training(halves, validation=VALIDATION, on_validation=interrupt)
    again = make_policy(trained(resumed(halves)).checkpoint)
    assert again.info["training"] == record  # type: ignore[attr-defined]


def test_every_algorithm_says_how_it_teaches() -> None:
    taught = {name: getattr(learners.find_learner(name), "taught_by", None) for name in LEARNERS}
    assert taught["imitation"] == "imitation of an oracle"
    assert taught["ddqn"] == taught["ppo"] == "reinforcement learning" and all(taught.values())


def test_a_taken_folder_and_other_settings_are_refused(tmp_path: Path) -> None:
    asked = settings(tmp_path, Scripted(max_steps=1))
    trained(asked)
    with pytest.raises(ValueError, match="add --resume to continue it"):
        trained(asked)
    other = settings(
        tmp_path, Scripted(max_steps=1, good=(1,)), protocol=protocol(budget=3), resume=True
    )
    with pytest.raises(ValueError, match="budget: 4 then, 3 now") as refusal:
        trained(other)
    assert "learner.good: [] then, [1] now" in str(refusal.value)
    fewer = replace(asked, protocol=protocol(data=SliceList([scan(0)], "train")))
    with pytest.raises(ValueError, match="n_train_scans: 4 then, 1 now"):
        trained(resumed(fewer))


def test_subjects_in_both_splits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="different subjects; found in both: subject-0, "):
        run_training(settings(tmp_path), validation=TRAIN)
    with pytest.raises(ValueError, match="expected validation scans as well"):
        run_training(settings(tmp_path))


@pytest.mark.parametrize(("step_cost", "select"), [(0.0, "area"), (0.001, "return")])
def test_the_best_policy_follows_the_price_of_lines(
    tmp_path: Path, step_cost: float, select: str
) -> None:
    result = trained(settings(tmp_path, protocol=protocol(step_cost=step_cost)))
    assert result.score == select


def test_scans_are_turned_once() -> None:
    square = SliceList([scan(i, shape=(12, 12)) for i in range(4)], "square")
    place = Problem(as_environment(protocol(data=square, orientation="mixed")))
    again, turned = place.protocol.dataset(), []
    for i in range(4):
        assert torch.equal(place.scans[i].kspace, again[i].kspace)
        turned.append(not torch.equal(place.scans[i].kspace, square[i].kspace))
    assert any(turned) and not all(turned)


@pytest.mark.parametrize("metric", ["ssim", "nmse"])
def test_an_evaluation_is_the_mean_over_scans_by_hand(metric: str) -> None:
    sign = -1.0 if metric == "nmse" else 1.0
    reward = f"{'-' if metric == 'nmse' else ''}delta_{metric}"
    place = Problem(as_environment(protocol(reward=reward, step_cost=0.01)))
    policy = low_frequency_first()
    found = evaluate(place, policy, VALIDATION)
    curves = [
        sign * rollout(place.scan, policy, [one]).scores[metric][0].numpy()
        for one in VALIDATION.slices
    ]
    assert found["n_actions"] == BUDGET
    assert found["final"] == pytest.approx(np.mean([curve[-1] for curve in curves]))
    areas = [sum((a + b) / 2 for a, b in pairwise(c)) / BUDGET for c in curves]
    assert found["area"] == pytest.approx(np.mean(areas))
    returns = [curve[-1] - curve[0] - 0.01 * BUDGET for curve in curves]
    assert found["return"] == pytest.approx(np.mean(returns))


def test_a_policy_is_trained_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    learner = small("imitation", max_steps=4)
    assert isinstance(learner, learners.Imitation)
    policy = train_policy(protocol(), learner, validation=VALIDATION)
    assert isinstance(policy, LearnedPolicy) and policy.name == "imitation"
    assert not list(tmp_path.iterdir())
    kept = train_policy(
        protocol(), learner, validation=VALIDATION, out="mine", warm_start=policy, validate_every=2
    )
    assert kept.name == "mine" == make_policy(tmp_path / "mine").name
    assert area(make_policy(tmp_path / "mine")) == pytest.approx(area(kept), abs=1e-9)


# At the command line


@pytest.fixture
def line(tmp_path: Path) -> str:
    """A training of a moment, on scans of noise in files, by a learner of the user's own."""
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        (tmp_path / "scans" / split).mkdir(parents=True)
        with h5py.File(tmp_path / "scans" / split / f"{split}.h5", "w") as file:
            parts = generator.normal(size=(2, 2, 1, 16, 16))
            file["kspace"] = (parts[0] + 1j * parts[1]).astype(np.complex64)
            file.attrs["subject_id"] = split
    return (
        f"train policy --algo {__name__}:Scripted --env ActiveMRI/HDF5-v0 --learner.max-steps 2 "
        f"--data {tmp_path / 'scans'} --budget 3 --out {tmp_path / 'run'}"
    )


def run(line: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    status = cli.main(line.split())
    captured = capsys.readouterr()
    return status, captured.out, captured.err.splitlines()[-1] if captured.err else ""


def test_a_learner_of_the_users_own_trains_and_is_continued(
    line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, said, _ = run(line, capsys)
    assert status == 0 and said.startswith(f"{tmp_path / 'run' / 'best'}: best after ")
    policy = make_policy(tmp_path / "run")
    assert isinstance(policy, Order) and policy.name == "run"
    assert f"train policy --algo {__name__}:Scripted " in str(policy.info["command"])
    status, _, error = run(line, capsys)
    assert status == 2 and "add --resume to continue it, --overwrite to start" in error
    status, _, error = run(f"{line} --resume --budget 2", capsys)
    assert status == 2 and "(budget: 3 then, 2 now)" in error
    assert run(f"{line} --resume", capsys)[0] == 0


def test_options_become_settings() -> None:
    words = (
        "--algo maskable-ppo --learner.lr 1e-4 --learner.gamma 0.7 --warm-start P --resume "
        "--reconstructor unet --select final --patience 3 --out O --geometry rows "
        "--lines-per-action 2 --scanner noisy --matrix-size 32"
    )
    pytest.importorskip("sb3_contrib")
    assert cli.parse("train policy", words.split()).learner == learners.MaskablePPO(
        lr=1e-4, gamma=0.7
    )
    found = cli.parse("train policy", words.split())
    assert (found.warm_start, found.select, found.patience) == ("P", "final", 3)
    assert found.run == RunOptions(out=Path("O"), resume=True)
    scanned = found.protocol
    assert (scanned.geometry, scanned.lines_per_action, scanned.scanner) == ("rows", 2, "noisy")
    assert (scanned.matrix_size, scanned.reconstructor, scanned.budget) == (32, "unet", 24)
    assert isinstance(cli.parse("train policy", []).learner, learners.Imitation)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--algo=alchemy", "--algo alchemy: expected one of imitation, "),
        ("--env ActiveMRI/Nothing-v0", "unknown environment 'ActiveMRI/Nothing-v0'"),
        ("--env ActiveMRI/HDF5-v0", "needs scans"),
        ("--reward delta_beauty", "beauty"),
        ("--device abacus", "abacus"),
        ("--resume", "there is no run in"),
        ("--warm-start nowhere/at-all", "nowhere/at-all"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_written(
    more: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = "train policy" if "--algo" in more else "train policy --algo ppo"
    status, _, error = run(f"{first} --out {tmp_path / 'run'} {more}", capsys)
    assert status == 2 and error.startswith("activemri: error: ") and message in error
    assert not (tmp_path / "run" / "settings.json").exists()


def test_an_interrupted_and_a_diverging_training_say_what_to_do(
    line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, error = run(f"{line} --learner.diverges-at 2", capsys)
    assert status == 2
    assert f"from step 0, are in {tmp_path / 'run' / 'best'}" in error
    status, _, error = run(f"{line}2 --learner.killed-at 2", capsys)
    assert status == 130
    assert error == "activemri: interrupted; start the same command with --resume to continue"
