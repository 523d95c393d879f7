"""Joint training of reconstructor and evaluator, and reconstructors with own losses."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from activemri import checkpoints
from activemri.data.slices import SliceList
from activemri.evaluator import Evaluator, make_evaluator
from activemri.metrics.losses import Prediction, l1
from activemri.reconstruction.registry import make_reconstructor
from activemri.training.evaluator import perceptual_by
from activemri.training.joint import TrainJointSettings, train_joint
from activemri.training.loop import DivergedError, Trained
from tests.training import scans
from tests.training.scans import (
    UNET,
    StoppingMoments,
    assert_equal,
    assert_same_runs,
    changed,
    discs,
    log_of,
    measured,
    resumed,
    tiny,
)

EVALUATOR = {"channels": 2, "layers": 2, "line_channels": 2}
DIFFUSION: dict[str, Any] = {
    "reconstructor": "diffusion",
    "network": {"channels": 8, "n_samples": 2, "n_steps": 2},
}


def joint(out: Path, **changes: Any) -> TrainJointSettings:
    """Settings of a joint training of a second."""
    given = {"evaluator": EVALUATOR, "evaluator_steps": 4, **changes}
    settings: TrainJointSettings = tiny(out, TrainJointSettings, **given)
    return settings


def train(settings: TrainJointSettings, **changes: Any) -> Trained:
    return scans.train(settings, train_joint, **changes)


def about_evaluator(folder: Path) -> Any:
    """Facts in the checkpoint of a training's evaluator."""
    return checkpoints.load(folder / "evaluator").info


def test_staged_training_ends_with_the_evaluator_of_the_best_reconstructor(tmp_path: Path) -> None:
    result = train(joint(tmp_path))
    entries = log_of(tmp_path)
    assert [(e["training"], e["step"]) for e in entries] == [
        *(("reconstructor", step) for step in (0, 2, 4, 6)),
        *(("evaluator", step) for step in (0, 2, 4)),
    ]
    first, second = entries[:4], entries[4:]
    assert result.best_score == max(e["validation_ssim"] for e in first)
    info = about_evaluator(tmp_path)
    loss = min(e["validation_loss"] for e in second)
    assert info["metrics"]["loss"] == loss and f"validation loss {loss:.4f}" in str(result)
    assert info["step"] == second[-1]["best_step"]
    assert make_reconstructor(result.checkpoint).settings == UNET
    assert make_evaluator(tmp_path / "evaluator").settings["width"] == 18
    assert info["gamma"] == 3.0
    assert str(info["command"]).startswith("activemri train joint --reconstructor unet ")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert train(resumed(joint(tmp_path))) == result  # there is nothing left to do
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_no_steps_train_the_evaluator_of_given_weights_alone(tmp_path: Path) -> None:
    given = train(joint(tmp_path / "first")).checkpoint
    more = {"reconstructor": str(given), "network": {}, "max_steps": 0}
    result = train(joint(tmp_path / "second", **more))
    kept, of_first = checkpoints.load(result.checkpoint), checkpoints.load(given)
    assert kept.state_dict.keys() == of_first.state_dict.keys()
    for name, weight in kept.state_dict.items():
        assert torch.equal(weight, of_first.state_dict[name])
    assert about_evaluator(tmp_path / "second")["step"] > 0
    with pytest.raises(ValueError, match="--evaluator-steps"):
        joint(tmp_path, **{**more, "evaluator_steps": None})


def test_alternating_training_keeps_the_evaluator_that_belongs_to_the_best_reconstructor(
    tmp_path: Path,
) -> None:
    result = train(joint(tmp_path, schedule="alternating"))
    assert result.best_step == about_evaluator(tmp_path)["step"]
    entries = log_of(tmp_path)
    assert [(e["training"], e["step"]) for e in entries] == [("pair", s) for s in (0, 2, 4, 6)]
    last = entries[-1]
    assert last["loss"] == pytest.approx(last["standard"] + 0.1 * last["adversarial"], abs=1e-6)
    assert last["evaluator_loss"] > 0


def test_the_evaluators_opinion_changes_the_reconstructor_unless_it_has_no_weight(
    tmp_path: Path,
) -> None:
    weights = {}
    kinds: dict[str, dict[str, Any]] = {
        "without": {"adversarial_weight": 0.0},
        "with": {"adversarial_weight": 5.0},
        "named": {"loss": "standard+5*adversarial"},
    }
    for name, changes in kinds.items():
        train(joint(tmp_path / name, schedule="alternating", max_steps=2, **changes))
        state = torch.load(tmp_path / name / "last.pt", weights_only=True)
        weights[name] = state["trainee"]["network"]
    assert_equal(weights["with"], weights["named"])
    assert any(not torch.equal(w, weights["without"][name]) for name, w in weights["with"].items())


@pytest.mark.parametrize(("schedule", "stops"), [("staged", (12, 13, 18)), ("alternating", (7,))])
def test_a_training_interrupted_in_either_stage_and_resumed_ends_with_the_same_bits(
    tmp_path: Path, schedule: str, stops: tuple[int, ...]
) -> None:
    network = {"channels": 2, "blocks": 1, "dropout": 0.2}
    whole = joint(tmp_path / "whole", schedule=schedule, reconstructor="cresnet", network=network)
    train(whole)
    for stop_at in stops:
        stopped = changed(whole, out=tmp_path / f"stopped-{stop_at}")
        with pytest.raises(KeyboardInterrupt):
            train(stopped, moments=StoppingMoments(stop_at=stop_at))
        train(resumed(stopped))
        assert_same_runs(tmp_path / "whole", stopped.run.out)


@pytest.mark.long
def test_a_training_killed_outright_in_its_second_stage_ends_with_the_same_bits(
    tmp_path: Path,
) -> None:
    train(joint(tmp_path / "whole"))
    killed = tmp_path / "killed"
    code = (
        "from pathlib import Path\n"
        "from tests.training.scans import StoppingMoments\n"
        "from tests.training.test_joint import joint, train\n"
        f"train(joint(Path({str(killed)!r})), moments=StoppingMoments(stop_at=17, kill=True))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == -signal.SIGKILL, run.stderr.decode()
    assert torch.load(killed / "last.pt", weights_only=True)["training"] == "evaluator"
    train(resumed(joint(killed)))
    assert_same_runs(tmp_path / "whole", killed)


def test_a_trained_evaluator_finds_bad_lines(tmp_path: Path) -> None:
    settings = joint(
        tmp_path,
        max_steps=2,
        evaluator_steps=80,
        validate_every=40,
        evaluator_lr=1e-2,
        batch_size=4,
        gamma=10.0,
        evaluator={"channels": 4, "layers": 2, "line_channels": 8},
    )
    train(settings, train=discs(list("abcdef")), validation=discs(["dd", "ee"]))
    before = next(e for e in log_of(tmp_path) if e["training"] == "evaluator")
    after = about_evaluator(tmp_path)["metrics"]
    assert after["loss"] < before["validation_loss"] / 10
    assert after["spearman"] > before["validation_spearman"] + 0.05
    assert after["regret"] < before["validation_regret"] / 2


def test_several_coils_and_sizes_train_with_empty_lines(tmp_path: Path) -> None:
    slices = [
        *discs(["a"], n_coils=3).slices,
        *discs(["b"], n_coils=2, maps=True, shape=(11, 17), target_shape=(9, 12)).slices,
    ]
    kspace = slices[0].kspace.clone()
    kspace[..., :3] = 0
    slices[0] = replace(slices[0], kspace=kspace, measured=(kspace != 0).any(dim=0))
    settings = joint(tmp_path, max_steps=2, evaluator_steps=2, schedule="alternating")
    train(settings, train=SliceList(slices))
    assert make_evaluator(tmp_path / "evaluator").settings["width"] == 18
    assert about_evaluator(tmp_path)["metrics"]["loss"] < 10


def test_a_perceptual_loss_is_the_relative_distance_of_features() -> None:
    class TwoLayers(Evaluator):
        def features(self, image: Tensor, mask: Tensor) -> list[Tensor]:
            return [image.abs(), torch.stack([image.real, image.imag], dim=1)]

    reference = torch.polar(1 + torch.rand(3, 8, 9), torch.rand(3, 8, 9))
    loss = perceptual_by(TwoLayers(9, layers=1))

    def distance(image: Tensor) -> Tensor:
        magnitude, top = reference.abs(), reference.abs().amax(dim=(-2, -1))
        return loss(Prediction(image.abs(), magnitude, top, whole=image, reference=reference))

    assert torch.equal(distance(reference), torch.zeros(3))
    assert torch.allclose(distance(1.5 * reference), torch.full((3,), 0.5))
    image = (1.2 * reference).requires_grad_()
    torch.autograd.backward(distance(image).sum())
    assert image.grad is not None and image.grad.abs().min() > 0


def test_a_perceptual_loss_asks_the_evaluator_beside_or_another_one(tmp_path: Path) -> None:
    loss = "l1+0.1*perceptual"
    beside, other = tmp_path / "beside", tmp_path / "other"
    train(joint(beside, schedule="alternating", max_steps=2, loss=loss))
    assert log_of(beside)[-1]["perceptual"] > 0
    train(joint(other, max_steps=2, loss=loss, perceptual_weights=beside / "evaluator"))
    assert log_of(other)[1]["perceptual"] > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evaluator": {"chanels": 2}}, r"--evaluator\.chanels: expected an argument of the eval"),
        ({"loss": "l1+perceptual"}, "--perceptual-weights"),
        ({"loss": "l1+l1"}, "a loss is there twice"),
        ({"geometry": "rows"}, "--geometry rows: an evaluator scores columns"),
        ({"supervision": "ssdu"}, "--supervision ssdu: an evaluator learns from fully sampled"),
        ({**DIFFUSION, "schedule": "alternating"}, "choose --schedule staged"),
        ({**DIFFUSION, "loss": "l1"}, r"a loss of its own.* leave out --loss"),
    ],
)
def test_settings_that_make_no_sense_are_refused_before_the_folder_is_made(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    settings = joint(tmp_path / "run", **changes)
    with pytest.raises(ValueError, match=message):
        settings.check()
    assert not settings.run.out.exists()


def test_only_the_same_joint_training_is_continued(tmp_path: Path) -> None:
    settings = joint(tmp_path, max_steps=1, evaluator_steps=1)
    train(settings)
    for changes, message in (
        ({"evaluator": {}}, r"evaluator\.channels: 2 then, 16 now"),
        ({"schedule": "alternating"}, "schedule: 'staged' then, 'alternating' now"),
    ):
        with pytest.raises(ValueError, match=message):
            train(changed(resumed(settings), **changes))


def test_divergence_names_stage_scans_and_weights(tmp_path: Path) -> None:
    message = (
        r"training of evaluator stopped at step \d+: .*try a smaller --evaluator-lr, or look at "
        r"the scans volume-a\[.\], volume-a.*in .*/evaluator"
    )
    with pytest.raises(DivergedError, match=message):
        train(joint(tmp_path, evaluator_lr=1e30, evaluator_steps=60), train=discs(["a"]))
    make_evaluator(tmp_path / "evaluator")
    make_reconstructor(tmp_path)


def test_a_diffusion_model_trains_with_its_own_loss_and_resumes_bit_for_bit(
    tmp_path: Path,
) -> None:
    whole = tiny(tmp_path / "whole", **DIFFUSION, max_steps=40, validate_every=20)
    result = scans.train(whole)
    losses = [entry["loss"] for entry in log_of(tmp_path / "whole")[1:]]
    assert losses[-1] < losses[0]
    batch = measured(discs(["e"]).slices, torch.arange(18) % 2 == 0)
    with torch.no_grad():
        samples = make_reconstructor(result.checkpoint)(batch.measurement).samples
    assert samples is not None and samples.shape == (2, 2, 12, 18)
    stopped = changed(whole, out=tmp_path / "stopped")
    with pytest.raises(KeyboardInterrupt):
        scans.train(stopped, moments=StoppingMoments(stop_at=45))
    scans.train(resumed(stopped))
    assert_same_runs(tmp_path / "whole", tmp_path / "stopped")
    with pytest.raises(ValueError, match="a loss of its own"):
        scans.train(changed(whole, out=tmp_path / "loss"), loss=l1)
