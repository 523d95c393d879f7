import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from activemri import checkpoints
from activemri.data.slices import SliceList
from activemri.evaluator import load_evaluator
from activemri.reconstruction.registry import make_reconstructor
from activemri.settings import TrainJointSettings
from activemri.training.joint import JointResult, check_settings, train_joint
from activemri.training.reconstructor import TrainingDivergedError
from tests.training.mixture import HeuristicMasks, StoppingMasks

MakeScans = Callable[..., SliceList]
MakeJoint = Callable[..., TrainJointSettings]
TrainJoint = Callable[..., JointResult]


@pytest.fixture
def make_joint(make_settings: Callable[..., Any]) -> MakeJoint:
    """Settings of a joint training of a second."""

    def made(**changes: object) -> TrainJointSettings:
        tiny = {
            **vars(make_settings()),
            "evaluator": ("channels=2", "layers=2", "line-channels=2"),
            "evaluator_steps": 4,
        }
        return TrainJointSettings(**{**tiny, **changes})

    return made


@pytest.fixture
def train(make_scans: MakeScans) -> TrainJoint:
    def run(settings: TrainJointSettings, **changes: object) -> JointResult:
        given: dict[str, object] = {
            "train": make_scans(["a", "b", "c"]),
            "validation": make_scans(["dd"]),
            "masks": HeuristicMasks(settings.n_center_lines, budget=settings.budget),
            **changes,
        }
        return train_joint(settings, **given)  # type: ignore[arg-type]

    return run


def log_of(folder: Path) -> list[dict[str, Any]]:
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in entry.items() if k != "seconds"} for entry in entries]


def assert_same_runs(one: Path, other: Path) -> None:
    for name in ("best", "evaluator"):
        weights = [(f / f"{name}.safetensors").read_bytes() for f in (one, other)]
        assert weights[0] == weights[1], name
    states = [torch.load(f / "last.pt", weights_only=True) for f in (one, other)]
    assert_equal(states[0], states[1])
    assert log_of(one) == log_of(other)


def assert_equal(one: Any, other: Any) -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


def test_staged_training_ends_with_the_evaluator_of_the_best_reconstructor(
    train: TrainJoint, make_joint: MakeJoint
) -> None:
    settings = make_joint()
    result = train(settings)
    entries = log_of(settings.out)
    assert [(e["training"], e["step"]) for e in entries] == [
        *(("reconstructor", step) for step in (0, 2, 4, 6)),
        *(("evaluator", step) for step in (0, 2, 4)),
    ]
    first, second = entries[:4], entries[4:]
    assert result.best_ssim == max(e["validation_ssim"] for e in first)
    assert result.evaluator_loss == min(e["validation_loss"] for e in second)
    assert result.evaluator_step == second[-1]["best_step"]
    assert make_reconstructor(result.checkpoint).settings == {"channels": 2, "pools": 1}
    evaluator = load_evaluator(result.evaluator)
    assert evaluator.settings["width"] == 18
    info = checkpoints.load(result.evaluator).info
    assert info["gamma"] == 3.0
    assert str(info["command"]).startswith("activemri train joint --name unet --network ")


def test_alternating_training_keeps_the_evaluator_that_belongs_to_the_best_reconstructor(
    train: TrainJoint, make_joint: MakeJoint
) -> None:
    settings = make_joint(schedule="alternating")
    result = train(settings)
    assert result.best_step == result.evaluator_step
    entries = log_of(settings.out)
    assert [(e["training"], e["step"]) for e in entries] == [("pair", s) for s in (0, 2, 4, 6)]
    last = entries[-1]
    total = last["standard"] + 0.1 * last["adversarial"]
    assert last["loss"] == pytest.approx(total, abs=1e-6)
    assert last["evaluator_loss"] > 0


def test_the_evaluators_opinion_changes_the_reconstructor_unless_it_has_no_weight(
    train: TrainJoint, make_joint: MakeJoint, tmp_path: Path
) -> None:
    weights = {}
    kinds: dict[str, dict[str, object]] = {
        "deaf": {"adversarial_weight": 0.0},
        "heeding": {"adversarial_weight": 5.0},
        "named": {"loss": "standard+5*adversarial"},
    }
    for name, changes in kinds.items():
        settings = make_joint(out=tmp_path / name, schedule="alternating", max_steps=2, **changes)
        train(settings)
        weights[name] = torch.load(settings.out / "last.pt", weights_only=True)["network"]
    assert_equal(weights["heeding"], weights["named"])
    different = [
        name
        for name, tensor in weights["heeding"].items()
        if not torch.equal(tensor, weights["deaf"][name])
    ]
    assert different


@pytest.mark.parametrize(
    ("schedule", "stop_at"),
    [("staged", 5), ("staged", 12), ("staged", 13), ("staged", 18), ("alternating", 7)],
)
def test_a_training_interrupted_in_either_stage_and_resumed_ends_with_the_same_bits(
    train: TrainJoint, make_joint: MakeJoint, tmp_path: Path, schedule: str, stop_at: int
) -> None:
    whole = make_joint(schedule=schedule, name="cresnet", network=("channels=2", "dropout=0.2"))
    train(whole)
    stopped = replace(whole, out=tmp_path / "stopped")
    with pytest.raises(KeyboardInterrupt):
        train(stopped, masks=StoppingMasks(stop_at=stop_at))
    train(replace(stopped, resume=True))
    assert_same_runs(whole.out, stopped.out)


@pytest.mark.parametrize("stop_at", [4, 17])
def test_a_training_killed_outright_in_either_stage_and_resumed_ends_with_the_same_bits(
    train: TrainJoint, make_joint: MakeJoint, tmp_path: Path, stop_at: int
) -> None:
    whole = make_joint()
    train(whole)
    killed = replace(whole, out=tmp_path / "killed")
    code = (
        "import sys; sys.path[:0] = sys.argv[1:3]\n"
        "from pathlib import Path\n"
        "from conftest import discs\n"
        "from mixture import StoppingMasks\n"
        "from activemri.settings import StudySettings, TrainJointSettings\n"
        "from activemri.training.joint import train_joint\n"
        f"settings = TrainJointSettings(**{vars(killed)!r})\n"
        "train_joint(settings, train=discs(['a', 'b', 'c']), validation=discs(['dd']),\n"
        f"    masks=StoppingMasks(stop_at={stop_at}, kill=True))\n"
    ).replace("PosixPath", "Path")
    here = Path(__file__).parent
    run = subprocess.run(
        [sys.executable, "-c", code, str(here), str(here.parents[1])],
        capture_output=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == -signal.SIGKILL, run.stderr.decode()
    stage = torch.load(killed.out / "last.pt", weights_only=True)["training"]
    assert stage == ("reconstructor" if stop_at < 12 else "evaluator")
    train(replace(killed, resume=True))
    assert_same_runs(whole.out, killed.out)


def test_resuming_a_finished_training_changes_nothing(
    train: TrainJoint, make_joint: MakeJoint
) -> None:
    settings = make_joint()
    result = train(settings)
    before = {p.name: p.read_bytes() for p in settings.out.iterdir()}
    assert train(replace(settings, resume=True)) == result
    assert {p.name: p.read_bytes() for p in settings.out.iterdir()} == before


def test_a_trained_evaluator_finds_bad_lines(
    train: TrainJoint, make_joint: MakeJoint, make_scans: MakeScans
) -> None:
    settings = make_joint(
        max_steps=2,
        evaluator_steps=80,
        validate_every=40,
        evaluator_lr=1e-2,
        batch_size=4,
        gamma=10.0,
        evaluator=("channels=4", "layers=2", "line-channels=8"),
    )
    scans = {"train": make_scans(list("abcdef")), "validation": make_scans(["dd", "ee"])}
    result = train(settings, **scans)
    before = next(e for e in log_of(settings.out) if e["training"] == "evaluator")
    assert result.evaluator_loss < before["validation_loss"] / 10
    assert result.spearman > before["validation_spearman"] + 0.05
    assert result.regret < before["validation_regret"] / 2


def test_several_coils_and_sizes_train_with_empty_lines(
    train: TrainJoint, make_joint: MakeJoint, make_scans: MakeScans
) -> None:
    scans = [
        *make_scans(["a"], n_coils=3).slices,
        *make_scans(["b"], n_coils=2, maps=True, shape=(11, 17), target_shape=(9, 12)).slices,
    ]
    kspace = scans[0].kspace.clone()
    kspace[..., :3] = 0
    scans[0] = replace(scans[0], kspace=kspace, measured=(kspace != 0).any(dim=0))
    result = train(
        make_joint(max_steps=2, evaluator_steps=2, schedule="alternating"), train=SliceList(scans)
    )
    assert load_evaluator(result.evaluator).settings["width"] == 18
    assert result.evaluator_loss < 10


def test_a_perceptual_loss_asks_the_evaluator_beside_or_another_one(
    train: TrainJoint, make_joint: MakeJoint, tmp_path: Path
) -> None:
    beside = make_joint(schedule="alternating", max_steps=2, loss="l1+0.1*perceptual")
    train(beside)
    assert log_of(beside.out)[-1]["perceptual"] > 0
    other = make_joint(
        out=tmp_path / "other",
        max_steps=2,
        loss="l1+0.1*perceptual",
        perceptual_weights=beside.out / "evaluator",
    )
    train(other)
    assert log_of(other.out)[1]["perceptual"] > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evaluator": ("chanels=2",)}, "--evaluator chanels=2: expected key=value, with an argu"),
        ({"evaluator": ("channels=two",)}, "channels of the evaluator takes a value of type int"),
        ({"network": ("channel=2",)}, r"--network channel=2: .* unet: channels \(int\), pools"),
        ({"name": "zero-filled"}, "--name zero-filled: expected a reconstructor that can be tra"),
        ({"loss": "l1+adversarial"}, "the loss 'adversarial' in .* needs an evaluator"),
        ({"loss": "l1+perceptual"}, "--perceptual-weights"),
        ({"loss": "l1+l1"}, "a loss is there twice"),
        ({"augment": ("flop",)}, "--augment flop: expected some of flip, rotate90, phase, scale"),
        ({"augment": ("none", "flip")}, "or none alone"),
        ({"precision": "16"}, "--precision 16 needs a GPU"),
        ({"precision": "bf16"}, "--precision bf16 needs a GPU"),
        ({"perceptual_weights": Path("nothing/here")}, "found no checkpoint at nothing/here"),
    ],
)
def test_settings_that_make_no_sense_are_refused_before_the_folder_is_made(
    make_joint: MakeJoint, changes: dict[str, object], message: str
) -> None:
    settings = make_joint(**changes)
    with pytest.raises(ValueError, match=message):
        check_settings(settings)
    assert not settings.out.exists()


def test_resuming_with_another_evaluator_shows_the_difference(
    train: TrainJoint, make_joint: MakeJoint
) -> None:
    settings = make_joint(max_steps=1, evaluator_steps=1)
    train(settings)
    with pytest.raises(ValueError, match=r"evaluator: \['channels=2'.* then, \[\] now"):
        train(replace(settings, resume=True, evaluator=()))


def test_a_joint_training_is_not_continued_as_another_one(
    train: TrainJoint, make_joint: MakeJoint
) -> None:
    settings = make_joint(max_steps=1, evaluator_steps=1)
    train(settings)
    with pytest.raises(ValueError, match="schedule: 'staged' then, 'alternating' now"):
        train(replace(settings, resume=True, schedule="alternating"))


def test_a_loss_that_is_not_finite_names_stage_scans_and_weights(
    train: TrainJoint, make_joint: MakeJoint, make_scans: MakeScans
) -> None:
    scans = make_scans(["a"]).slices
    settings = make_joint(evaluator_lr=1e30, evaluator_steps=60)
    message = (
        r"training of the evaluator stopped at step \d+: .* scans volume-a\[.\], volume-a.* are in "
        r".*run/evaluator; try a smaller --evaluator-lr"
    )
    with pytest.raises(TrainingDivergedError, match=message):
        train(settings, train=SliceList(scans))
    load_evaluator(settings.out / "evaluator")
    make_reconstructor(settings.out)


def test_no_validation_subjects_is_an_error(
    train: TrainJoint, make_joint: MakeJoint, make_scans: MakeScans
) -> None:
    empty = make_scans(["e"])
    empty.slices.clear()
    with pytest.raises(ValueError, match="there are no validation scans"):
        train(make_joint(), validation=empty)
