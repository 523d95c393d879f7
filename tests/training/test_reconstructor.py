import itertools
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from activemri import checkpoints, losses
from activemri.data.slices import SliceList
from activemri.metrics.losses import MissingUncertaintyError, Prediction
from activemri.reconstruction.registry import make_reconstructor
from activemri.settings import TrainReconstructorSettings
from activemri.training.batches import InMemory
from activemri.training.descent import learning_rate
from activemri.training.reconstructor import (
    TrainingDivergedError,
    TrainingResult,
    check_settings,
    train_reconstructor,
)
from activemri.training.validation import Validation
from tests.training.mixture import HeuristicMasks, StoppingMasks

MakeScans = Callable[..., SliceList]
MakeSettings = Callable[..., TrainReconstructorSettings]


@pytest.fixture
def train(make_scans: MakeScans) -> Callable[..., TrainingResult]:
    def run(settings: TrainReconstructorSettings, **changes: object) -> TrainingResult:
        given: dict[str, object] = {
            "train": make_scans(["a", "b", "c"]),
            "validation": make_scans(["dd"]),
            "masks": HeuristicMasks(settings.n_center_lines, budget=settings.budget),
            **changes,
        }
        return train_reconstructor(settings, **given)  # type: ignore[arg-type]

    return run


Train = Callable[..., TrainingResult]


def log_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def without_times(entries: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{k: v for k, v in entry.items() if k != "seconds"} for entry in entries]


def assert_same_runs(one: Path, other: Path) -> None:
    assert (one / "best.safetensors").read_bytes() == (other / "best.safetensors").read_bytes()
    states = [torch.load(f / "last.pt", weights_only=True) for f in (one, other)]
    assert states[0]["step"] == states[1]["step"]
    for name, weights in states[0]["network"].items():
        assert torch.equal(weights, states[1]["network"][name]), name
    assert without_times(log_of(one)) == without_times(log_of(other))


def test_training_beats_zero_filling_and_leaves_a_checkpoint_that_loads(
    train: Train, make_settings: MakeSettings
) -> None:
    settings = make_settings(
        max_steps=60, validate_every=20, network=("channels=4", "pools=1"), n_center_lines=2
    )
    result = train(settings)
    assert result.best_ssim > result.zero_filled_ssim + 0.02
    assert result.best_step > 0
    made = make_reconstructor(result.checkpoint)
    assert made.settings == {"channels": 4, "pools": 1}
    info = checkpoints.load(settings.out).info
    assert info["metrics"]["ssim"] == result.best_ssim  # type: ignore[index]
    assert info["masks"] == "HeuristicMasks"
    assert info["command"] == (
        "activemri train reconstructor --name unet --network channels=4 pools=1 --max-steps 60 "
        "--batch-size 2 --lr 0.01 --n-center-lines 2 --budget 6 --validate-every 20"
    )


def test_the_best_weights_are_those_that_validate_best(
    train: Train, make_settings: MakeSettings, make_scans: MakeScans
) -> None:
    settings = make_settings()
    result = train(settings)
    entries = log_of(settings.out)
    assert [entry["step"] for entry in entries] == [0, 2, 4, 6]
    best = max(entries, key=lambda entry: entry["validation_ssim"])
    assert (result.best_step, result.best_ssim) == (best["step"], best["validation_ssim"])
    masks = HeuristicMasks(4, budget=6)
    checks = Validation(InMemory(make_scans(["dd"])), masks, seed=0, device=torch.device("cpu"))
    assert checks.score(make_reconstructor(settings.out)).ssim == result.best_ssim


def test_a_training_killed_outright_and_resumed_ends_with_the_same_bits(
    train: Train, make_settings: MakeSettings, tmp_path: Path
) -> None:
    whole = make_settings()
    train(whole)
    killed = replace(whole, out=tmp_path / "killed")
    code = (
        "import sys; sys.path[:0] = sys.argv[1:3]\n"
        "from pathlib import Path\n"
        "from conftest import discs\n"
        "from mixture import StoppingMasks\n"
        "from activemri.settings import StudySettings, TrainReconstructorSettings\n"
        "from activemri.training.reconstructor import train_reconstructor\n"
        f"settings = TrainReconstructorSettings(**{dict_of(killed)!r})\n"
        "train_reconstructor(settings, train=discs(['a', 'b', 'c']), validation=discs(['dd']),\n"
        "    masks=StoppingMasks(stop_at=8, kill=True))\n"
    ).replace("PosixPath", "Path")
    here = Path(__file__).parent
    run = subprocess.run(
        [sys.executable, "-c", code, str(here), str(here.parents[1])],
        capture_output=True,
        timeout=120,
    )
    assert run.returncode == -signal.SIGKILL, run.stderr.decode()
    assert [entry["step"] for entry in log_of(killed.out)] == [0, 2]  # killed within step 3
    train(replace(killed, resume=True))
    assert_same_runs(whole.out, killed.out)


def dict_of(settings: TrainReconstructorSettings) -> dict[str, object]:
    return dict(vars(settings))


@pytest.mark.parametrize("stop_at", [1, 5, 11])
def test_a_training_interrupted_anywhere_and_resumed_ends_with_the_same_bits(
    train: Train, make_settings: MakeSettings, tmp_path: Path, stop_at: int
) -> None:
    whole = make_settings()
    train(whole)
    stopped = replace(whole, out=tmp_path / "stopped")
    with pytest.raises(KeyboardInterrupt):
        train(stopped, masks=StoppingMasks(stop_at=stop_at))
    train(replace(stopped, resume=True))
    assert_same_runs(whole.out, stopped.out)


def test_resuming_a_finished_training_changes_nothing(
    train: Train, make_settings: MakeSettings
) -> None:
    settings = make_settings()
    result = train(settings)
    before = {p.name: p.read_bytes() for p in settings.out.iterdir()}
    assert train(replace(settings, resume=True)) == result
    assert {p.name: p.read_bytes() for p in settings.out.iterdir()} == before


def test_a_folder_with_a_training_is_not_overwritten(
    train: Train, make_settings: MakeSettings
) -> None:
    settings = make_settings(max_steps=1)
    train(settings)
    before = (settings.out / "best.safetensors").read_bytes()
    with pytest.raises(ValueError, match=r"add --resume to continue it, or choose another --out"):
        train(replace(settings, seed=1))
    assert (settings.out / "best.safetensors").read_bytes() == before


def test_a_folder_with_a_foreign_checkpoint_is_not_overwritten(
    train: Train, make_settings: MakeSettings
) -> None:
    settings = make_settings()
    checkpoints.save(settings.out / "best", kind="x", settings={}, state_dict={}, info={})
    with pytest.raises(ValueError, match="a checkpoint of something else"):
        train(settings)


def test_resuming_with_other_settings_shows_the_difference(
    train: Train, make_settings: MakeSettings
) -> None:
    settings = make_settings(max_steps=1)
    train(settings)
    with pytest.raises(ValueError, match=r"\(max_steps: 1 then, 9 now; lr: 0\.01 then, 0\.5 now\)"):
        train(replace(settings, resume=True, max_steps=9, lr=0.5))


def test_resuming_with_other_scans_or_masks_shows_the_difference(
    train: Train, make_settings: MakeSettings, make_scans: MakeScans
) -> None:
    settings = make_settings(max_steps=1)
    train(settings)
    again = replace(settings, resume=True)
    with pytest.raises(ValueError, match="n_train_scans: 6 then, 2 now"):
        train(again, train=make_scans(["a"]))
    with pytest.raises(ValueError, match="masks: 'HeuristicMasks' then, 'OtherMasks' now"):
        train(again, masks=OtherMasks(4, budget=6))


class OtherMasks(HeuristicMasks):
    """Of another name."""


def test_nothing_to_resume_is_an_error(train: Train, make_settings: MakeSettings) -> None:
    with pytest.raises(ValueError, match="there is no training in"):
        train(make_settings(resume=True))


def test_a_damaged_state_is_named(train: Train, make_settings: MakeSettings) -> None:
    settings = make_settings(max_steps=1)
    train(settings)
    state = settings.out / "last.pt"
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"last\.pt cannot be read"):
        train(replace(settings, resume=True))


@pytest.mark.parametrize("content", [b"no pickle at all", b"junk\n", b"", b"\x80\x02K\x07."])
def test_a_state_that_is_none_is_named(
    train: Train, make_settings: MakeSettings, content: bytes
) -> None:
    settings = make_settings(max_steps=1)
    train(settings)
    (settings.out / "last.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"last\.pt cannot be read: damaged"):
        train(replace(settings, resume=True))


@pytest.mark.parametrize("content", ["{", "7", "[1]"])
def test_settings_that_are_none_are_named(
    train: Train, make_settings: MakeSettings, content: str
) -> None:
    settings = make_settings(max_steps=1)
    train(settings)
    (settings.out / "settings.json").write_text(content)
    with pytest.raises(ValueError, match=r"run/settings\.json cannot be read: expected the"):
        train(replace(settings, resume=True))


def test_a_device_that_is_not_there_is_refused_before_the_folder_is_made(
    train: Train, make_settings: MakeSettings
) -> None:
    settings = make_settings(device="foo")
    with pytest.raises(ValueError, match="device 'foo' cannot be used here; there is: cpu"):
        train(settings)
    assert not settings.out.exists()


def test_checking_the_settings_claims_nothing(train: Train, make_settings: MakeSettings) -> None:
    settings = make_settings(max_steps=1)
    check_settings(settings)
    assert list(settings.out.iterdir()) == []
    train(settings)
    check_settings(replace(settings, resume=True))
    with pytest.raises(ValueError, match=r"lr: 0\.01 then, 0\.5 now"):
        check_settings(replace(settings, resume=True, lr=0.5))
    with pytest.raises(ValueError, match="holds a training already"):
        check_settings(settings)


def test_an_output_folder_that_cannot_be_made_is_named_before_training(
    train: Train, make_settings: MakeSettings, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"the output folder .*file/run cannot be written"):
        train(make_settings(out=tmp_path / "file" / "run"))


def test_a_loss_that_is_not_finite_stops_and_keeps_the_best_weights(
    train: Train, make_settings: MakeSettings, make_scans: MakeScans
) -> None:
    scans = make_scans(["a"]).slices
    scans[1] = replace(scans[1], target=scans[1].target * float("nan"))
    settings = make_settings(batch_size=2)
    with pytest.raises(
        TrainingDivergedError, match=r"step 0: loss nan, .*volume-a\[1\].*smaller --lr"
    ):
        train(settings, train=SliceList(scans))
    make_reconstructor(settings.out)


def test_a_subject_in_both_splits_is_refused(
    train: Train, make_settings: MakeSettings, make_scans: MakeScans
) -> None:
    with pytest.raises(ValueError, match="found in both: b"):
        train(make_settings(), validation=make_scans(["b"]))


def test_an_empty_split_is_refused(
    train: Train, make_settings: MakeSettings, make_scans: MakeScans
) -> None:
    empty = make_scans(["e"])
    empty.slices.clear()
    with pytest.raises(ValueError, match="there are no validation scans"):
        train(make_settings(), validation=empty)


def test_an_unknown_loss_is_refused_before_the_folder_is_made(
    train: Train, make_settings: MakeSettings
) -> None:
    settings = make_settings(loss="l3")
    with pytest.raises(ValueError, match="unknown loss 'l3'"):
        train(settings)
    assert not settings.out.exists()


def test_a_loss_may_be_an_object_and_must_be_the_same_one_to_continue(
    train: Train, make_settings: MakeSettings, tmp_path: Path
) -> None:
    def my_loss(prediction: Prediction) -> torch.Tensor:
        return 2 * losses.l1(prediction)

    settings = make_settings(max_steps=2)
    train(settings, loss=my_loss)
    named = make_settings(max_steps=2, loss="2*l1", out=tmp_path / "named")
    train(named)
    weights = [(s.out / "last.pt") for s in (settings, named)]
    one, other = (torch.load(w, weights_only=True)["network"] for w in weights)
    assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(ValueError, match=r"loss_object: '.*my_loss' then, None now"):
        train(replace(settings, resume=True))


def test_a_loss_that_needs_an_uncertainty_says_so_where_there_is_none(
    train: Train, make_settings: MakeSettings
) -> None:
    with pytest.raises(MissingUncertaintyError, match="'nll' needs an uncertainty, and this rec"):
        train(make_settings(loss="l1+nll"))


@pytest.mark.parametrize("maps", [True, False])
def test_several_coils_and_sizes_train_with_and_without_maps(
    train: Train, make_settings: MakeSettings, make_scans: MakeScans, maps: bool
) -> None:
    scans = [
        *make_scans(["a"], n_coils=3, maps=maps).slices,
        *make_scans(["b"], n_coils=2, maps=maps, shape=(11, 17), target_shape=(9, 12)).slices,
    ]
    result = train(make_settings(max_steps=2), train=SliceList(scans))
    assert np.isfinite(result.best_ssim)


def test_training_leaves_the_global_random_state_alone(
    train: Train, make_settings: MakeSettings
) -> None:
    before = torch.random.get_rng_state()
    train(make_settings(max_steps=1))
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
