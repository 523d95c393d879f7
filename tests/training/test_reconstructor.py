"""Training of reconstructors."""

import itertools
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from activemri import checkpoints
from activemri.data.slices import SliceList
from activemri.metrics import losses
from activemri.metrics.losses import Prediction
from activemri.reconstruction.cresnet import CResNet
from activemri.reconstruction.modl import MoDL
from activemri.reconstruction.registry import make_reconstructor, save_reconstructor
from activemri.reconstruction.zero_filled import ZeroFilled
from activemri.training.construction import new_reconstructor, trainable
from activemri.training.descent import learning_rate
from activemri.training.loop import DivergedError
from activemri.training.reconstructor import MASK_POLICIES
from activemri.training.validation import Validation, draw
from tests.training.scans import (
    StoppingMoments,
    assert_same_runs,
    changed,
    discs,
    log_of,
    random_moments,
    resumed,
    tiny,
    train,
)

SMALL_MODL = {"channels": 4, "layers": 2, "iterations": 1}


def test_training_beats_zero_filling_and_keeps_the_best_weights(tmp_path: Path) -> None:
    network = {"channels": 4, "pools": 1}
    settings = tiny(tmp_path, max_steps=60, validate_every=20, network=network, n_center_lines=2)
    moments = random_moments(n_center_lines=2)
    result = train(settings, moments=moments)
    assert result.baseline is not None and result.best_score > result.baseline + 0.02
    entries = log_of(tmp_path)
    assert [entry["step"] for entry in entries] == [0, 20, 40, 60]
    best = max(entries, key=lambda entry: entry["validation_ssim"])
    assert (result.best_step, result.best_score) == (best["step"], best["validation_ssim"])
    made = make_reconstructor(result.checkpoint)
    assert made.settings == network
    assert Validation(discs(["dd"]), moments, seed=0).score(made)[0] == result.best_score
    info: Any = checkpoints.load(tmp_path).info
    assert info["metrics"]["ssim"] == result.best_score
    assert info["command"] == (
        "activemri train reconstructor --reconstructor unet --n-center-lines 2 --budget 6 "
        "--network.channels 4 --network.pools 1 --max-steps 60 --batch-size 2 --lr 0.01 "
        "--validate-every 20"
    )


def test_a_training_killed_outright_and_resumed_ends_with_the_same_bits(tmp_path: Path) -> None:
    train(tiny(tmp_path / "whole"))
    killed = tmp_path / "killed"
    code = (
        "from pathlib import Path\n"
        "from tests.training.scans import StoppingMoments, tiny, train\n"
        f"train(tiny(Path({str(killed)!r})), moments=StoppingMoments(stop_at=8, kill=True))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        timeout=120,
    )
    assert run.returncode == -signal.SIGKILL, run.stderr.decode()
    assert [entry["step"] for entry in log_of(killed)] == [0, 2]  # killed within step 3
    train(resumed(tiny(killed)))
    assert_same_runs(tmp_path / "whole", killed)


def test_a_training_interrupted_anywhere_and_resumed_ends_with_the_same_bits(
    tmp_path: Path,
) -> None:
    whole = train(tiny(tmp_path / "whole"))
    for stop_at in (1, 5, 11):
        stopped = tiny(tmp_path / f"stopped-{stop_at}")
        with pytest.raises(KeyboardInterrupt):
            train(stopped, moments=StoppingMoments(stop_at=stop_at))
        result = train(resumed(stopped))
        assert replace(result, checkpoint=whole.checkpoint) == whole
        assert_same_runs(tmp_path / "whole", stopped.run.out)
    before = {p.name: p.read_bytes() for p in stopped.run.out.iterdir()}
    assert train(resumed(stopped)) == result  # there is nothing left to do
    assert {p.name: p.read_bytes() for p in stopped.run.out.iterdir()} == before


class OtherMoments(StoppingMoments):
    """Of another name."""


def test_only_the_same_training_is_continued(tmp_path: Path) -> None:
    settings = tiny(tmp_path / "run", max_steps=1)
    with pytest.raises(ValueError, match="there is no run in"):
        train(resumed(settings))
    settings.check()
    assert not settings.run.out.exists()  # a check makes nothing
    train(settings)
    again = resumed(settings)
    again.check()
    with pytest.raises(ValueError, match="add --resume"):
        train(changed(settings, seed=1))
    with pytest.raises(ValueError, match=r"max_steps: 1 then, 9 now; lr: 0\.01 then, 0\.5 now"):
        changed(again, max_steps=9, lr=0.5).check()
    with pytest.raises(ValueError, match="geometry: 'columns' then, 'rows' now"):
        train(changed(again, geometry="rows"))
    with pytest.raises(ValueError, match="n_train_scans: 6 then, 2 now"):
        train(again, train=discs(["a"]))
    with pytest.raises(ValueError, match="masks: 'EpisodeMasks' then, 'OtherMoments' now"):
        train(again, moments=OtherMoments(stop_at=-1))
    with pytest.raises(ValueError, match=r"loss_object: None then, 'l1' now"):
        train(again, loss=losses.l1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"device": "foo"}, "device 'foo' cannot be used here; there is: cpu"),
        ({"loss": "l3"}, "unknown loss 'l3'"),
        ({"loss": "l1+adversarial"}, "the loss 'adversarial' in .* needs an evaluator"),
        ({"reconstructor": "zero-filled", "network": {}}, "--reconstructor zero-filled: expected"),
        ({"reconstructor": "nothing/here"}, "nothing/here"),
        ({"network": {"channel": 2}}, r"--network\.channel: .* unet: channels, pools"),
        ({"augment": ("flop",)}, "--augment flop: expected some of flip, rotate90, phase, scale"),
        ({"augment": ("none", "flip")}, "or none alone"),
        ({"precision": "16"}, "--precision 16 needs a GPU"),
        ({"perceptual_weights": Path("nothing/here")}, "found no checkpoint at nothing/here"),
    ],
)
def test_mistakes_are_refused_before_the_folder_is_made(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    settings = changed(tiny(tmp_path / "run"), **changes)
    with pytest.raises(ValueError, match=message):
        train(settings)
    assert not settings.run.out.exists()


def test_splits_that_are_empty_or_share_a_subject_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="found in both: b"):
        train(tiny(tmp_path), validation=discs(["b"]))
    empty = discs(["e"])
    empty.slices.clear()
    with pytest.raises(ValueError, match="there is no slice in discs"):
        train(tiny(tmp_path), validation=empty)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_best_weights(tmp_path: Path) -> None:
    scans = discs(["a"]).slices
    scans[1] = replace(scans[1], target=scans[1].target * float("nan"))
    with pytest.raises(DivergedError, match=r"step 0: loss nan, .*smaller --lr.*volume-a\[1\]"):
        train(tiny(tmp_path), train=SliceList(scans))
    make_reconstructor(tmp_path)


def test_a_loss_may_be_an_object(tmp_path: Path) -> None:
    def my_loss(prediction: Prediction) -> torch.Tensor:
        return 2 * losses.l1(prediction)

    train(tiny(tmp_path / "object", max_steps=2), loss=my_loss)
    train(tiny(tmp_path / "named", max_steps=2, loss="2*l1"))
    one, other = (
        torch.load(tmp_path / name / "last.pt", weights_only=True)["trainee"]["network"]
        for name in ("object", "named")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(ValueError, match="'nll' needs an uncertainty, and this rec"):
        train(tiny(tmp_path / "nll", loss="l1+nll"))


@pytest.mark.parametrize("maps", [True, False])
def test_several_coils_and_sizes_train_with_and_without_maps(tmp_path: Path, maps: bool) -> None:
    scans = [
        *discs(["a"], n_coils=3, maps=maps).slices,
        *discs(["b"], n_coils=2, maps=maps, shape=(11, 17), target_shape=(9, 12)).slices,
    ]
    assert np.isfinite(train(tiny(tmp_path, max_steps=2), train=SliceList(scans)).best_score)


@pytest.mark.parametrize(
    "options",
    [
        {"geometry": "rows", "lines_per_action": 2},
        {"geometry": "points", "budget": 9},
        {"geometry": "conjugate-columns"},
        {"geometry": "columns", "lines_per_action": 3, "n_random_lines": 2},
        {"geometry": "radial"},
        {"geometry": "tiles", "budget": 40},
        {"scanner": "noisy", "repeats": 2},
        {"scanner": "moving"},
    ],
)
def test_reconstructors_train_on_episodes_of_every_geometry_and_scanner(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    result = train(tiny(tmp_path, max_steps=2, **options), moments=None)  # policies play
    assert np.isfinite(result.best_score)


@pytest.mark.parametrize(
    "options", [{"geometry": "rows", "lines_per_action": 2}, {"scanner": "noisy", "repeats": 2}]
)
def test_policies_play_the_same_episodes_when_a_training_is_resumed(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    def stop(step: int, _: float) -> None:
        raise KeyboardInterrupt

    train(tiny(tmp_path / "whole", max_steps=2, **options), moments=None)
    stopped = tiny(tmp_path / "stopped", max_steps=2, **options)
    with pytest.raises(KeyboardInterrupt):
        train(stopped, moments=None, on_validation=stop)
    train(resumed(stopped), moments=None)
    assert_same_runs(tmp_path / "whole", tmp_path / "stopped")


@pytest.mark.parametrize(
    "changes",
    [
        {"reconstructor": "varnet", "network": {}},
        {"reconstructor": "modl", "network": SMALL_MODL, "supervision": "ssdu"},
    ],
)
def test_trainings_that_need_a_grid_are_refused_without_one(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="grid"):
        train(tiny(tmp_path / "run", geometry="radial", **changes), moments=None)
    assert not (tmp_path / "run").exists()


def test_validation_scans_may_be_larger_than_those_to_learn_from(tmp_path: Path) -> None:
    settings = tiny(tmp_path, max_steps=1)
    train(settings, moments=None, validation=discs(["dd"], shape=(12, 20)))


def test_the_mask_policies_do_not_follow_the_registry() -> None:
    assert len(MASK_POLICIES) == 10  # another choice is another training: say so in the changelog


def test_training_leaves_the_global_random_state_alone(tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    train(tiny(tmp_path, max_steps=1))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_learning_rate_rises_once_and_falls_to_zero() -> None:
    rates = [learning_rate(step, n_steps=50, largest=0.2) for step in range(50)]
    top = int(np.argmax(rates))
    assert rates[top] == 0.2
    assert top in (4, 5)
    assert all(a < b for a, b in itertools.pairwise(rates[:5]))
    assert all(a > b for a, b in itertools.pairwise(rates[5:]))
    assert 0 < rates[-1] < 0.002
    assert learning_rate(0, n_steps=1, largest=0.2) == 0.2


def test_a_training_may_begin_with_weights_and_change_what_leaves_them(tmp_path: Path) -> None:
    first = new_reconstructor("modl", SMALL_MODL, seed=3)
    path = save_reconstructor(tmp_path / "first", first, info={})
    longer = new_reconstructor(path, {"iterations": 6}, seed=0)
    assert isinstance(longer, MoDL) and longer.training
    assert longer.settings == {**first.settings, "iterations": 6}
    for name, weight in first.state_dict().items():
        assert torch.equal(longer.state_dict()[name], weight)
    with pytest.raises(ValueError, match=r"do not fit .* tensor 'network.layers.0.weight'"):
        new_reconstructor(path, {"channels": 8}, seed=0)


@pytest.mark.parametrize("name", trainable())
def test_a_new_reconstructor_has_its_seed(name: str) -> None:
    one, same, other = (new_reconstructor(name, {}, seed=seed) for seed in (1, 1, 2))
    weights = [torch.cat([w.flatten() for w in r.parameters()]) for r in (one, same, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_every_validation_leaves_a_picture(tmp_path: Path) -> None:
    train(tiny(tmp_path, images=2))
    names = [f"reconstructor-{step:06}.png" for step in (0, 2, 4, 6)]
    assert sorted(p.name for p in (tmp_path / "images").iterdir()) == names
    with Image.open(tmp_path / "images" / names[0]) as picture:
        assert picture.size[0] > 4 * 200


def test_a_picture_has_a_row_a_scan_and_a_column_more_with_uncertainty() -> None:
    scans = discs(["a", "b"], target_shape=(10, 14))
    validation = Validation(scans, random_moments(), seed=0)
    one, three = (draw(validation, ZeroFilled(), n_scans=n) for n in (1, 3))
    assert three.shape == (3 * one.shape[0], one.shape[1], 3)
    network = CResNet(2, blocks=1).train()
    assert draw(validation, network, n_scans=1).shape[1] * 4 == one.shape[1] * 5
    assert network.training
    width = one.shape[1] // 4
    below = slice(20, one.shape[0])  # without the titles
    assert np.array_equal(one[below, :width], one[below, width : 2 * width])
    assert not np.array_equal(one[below, :width], one[below, 2 * width : 3 * width])


def test_tensorboard_shows_losses_scores_and_pictures(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train(tiny(tmp_path, tensorboard=True, images=1))
    path = tmp_path / "tensorboard" / "reconstructor"
    events = accumulator.EventAccumulator(str(path)).Reload()
    scores = [(e.step, e.value) for e in events.Scalars("reconstructor/validation_ssim")]
    assert scores == [(e["step"], pytest.approx(e["validation_ssim"])) for e in log_of(tmp_path)]
    assert [e.step for e in events.Scalars("reconstructor/loss")] == [2, 4, 6]
    assert len(events.Images("reconstructor/validation")) == 4


def test_tensorboard_that_is_not_installed_is_named_before_the_folder_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    settings = tiny(tmp_path / "run", tensorboard=True)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "activemri\[log\]"'):
        settings.check()
    assert not settings.run.out.exists()


def full_at_second(file: str) -> Any:
    """`Path.open` on a disk that is full when the file is written for the second time."""
    real_open, written = Path.open, list[Path]()

    def full(path: Path, mode: str = "r", *args: object, **kwargs: object) -> object:
        if path.name == f"{file}.next":
            written.append(path)
            if len(written) == 2:
                raise OSError(28, "No space left on device", str(path))
        return real_open(path, mode, *args, **kwargs)  # type: ignore[call-overload]

    return full


def test_a_full_disk_ends_the_training_and_leaves_the_old_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Any] = {
        "max_steps": 20,
        "validate_every": 10,
        "network": {"channels": 4, "pools": 1},
        "n_center_lines": 2,
    }
    moments = random_moments(n_center_lines=2)
    result = train(tiny(tmp_path / "whole", **changes), moments=moments)
    for file in ("best.safetensors", "last.pt", "log.jsonl"):
        settings = tiny(tmp_path / file, **changes)
        with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
            patch.setattr(Path, "open", full_at_second(file))
            train(settings, moments=moments)
        assert list(settings.run.out.glob("*.next")) == []
        make_reconstructor(settings.run.out)
        again = train(resumed(settings), moments=moments)
        assert replace(again, checkpoint=result.checkpoint) == result
