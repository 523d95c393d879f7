import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from activemri.data.slices import SliceList
from activemri.reconstruction.cresnet import CResNet
from activemri.reconstruction.registry import make_reconstructor
from activemri.reconstruction.zero_filled import ZeroFilled
from activemri.settings import TrainReconstructorSettings
from activemri.training.batches import InMemory
from activemri.training.pictures import draw
from activemri.training.reconstructor import TrainingResult, check_settings, train_reconstructor
from activemri.training.validation import Validation
from tests.training.mixture import HeuristicMasks

MakeScans = Callable[..., SliceList]
MakeSettings = Callable[..., TrainReconstructorSettings]
Train = Callable[..., TrainingResult]


@pytest.fixture
def train(make_scans: MakeScans) -> Train:
    def run(settings: TrainReconstructorSettings) -> TrainingResult:
        return train_reconstructor(
            settings,
            train=make_scans(["a", "b"]),
            validation=make_scans(["dd"]),
            masks=HeuristicMasks(settings.n_center_lines, budget=6),
        )

    return run


@pytest.fixture
def checks(make_scans: MakeScans) -> Validation:
    scans = InMemory(make_scans(["a", "b"], target_shape=(10, 14)))
    return Validation(scans, HeuristicMasks(4, budget=6), seed=0, device=torch.device("cpu"))


def test_every_validation_leaves_a_picture(train: Train, make_settings: MakeSettings) -> None:
    settings = make_settings(images=2)
    train(settings)
    names = [f"reconstructor-{step:06}.png" for step in (0, 2, 4, 6)]
    assert sorted(p.name for p in (settings.out / "images").iterdir()) == names
    with Image.open(settings.out / "images" / names[0]) as picture:
        assert picture.size[0] > 4 * 200


def test_no_pictures_if_none_are_wanted(train: Train, make_settings: MakeSettings) -> None:
    settings = make_settings(max_steps=2)
    train(settings)
    assert not (settings.out / "images").exists()


def test_a_picture_has_a_row_a_scan_and_a_column_more_with_uncertainty(checks: Validation) -> None:
    one, three = (draw(checks, ZeroFilled(), n_scans=n) for n in (1, 3))
    assert three.shape == (3 * one.shape[0], one.shape[1], 3)
    network = CResNet(2, blocks=1).train()
    certain = draw(checks, network, n_scans=1)
    assert certain.shape[1] * 4 == one.shape[1] * 5
    assert network.training


def test_zero_filled_and_reconstruction_look_the_same_for_a_network_that_does_nothing(
    checks: Validation,
) -> None:
    picture = draw(checks, ZeroFilled(), n_scans=2)
    width = picture.shape[1] // 4
    below = slice(20, picture.shape[0] // 2)  # without the titles
    assert np.array_equal(picture[below, :width], picture[below, width : 2 * width])
    assert not np.array_equal(picture[below, :width], picture[below, 2 * width : 3 * width])


def test_training_stops_when_validations_no_longer_improve(
    train: Train, make_settings: MakeSettings
) -> None:
    settings = make_settings(lr=1e-12, max_steps=40, validate_every=2, patience=3)
    result = train(settings)
    steps = [json.loads(x)["step"] for x in (settings.out / "log.jsonl").read_text().splitlines()]
    assert steps[-1] == result.best_step + 3 * 2 < 40
    before = (settings.out / "last.pt").read_bytes()
    assert train(replace(settings, resume=True)) == result
    assert (settings.out / "last.pt").read_bytes() == before


def test_tensorboard_shows_losses_scores_and_pictures(
    train: Train, make_settings: MakeSettings
) -> None:
    event_accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    settings = make_settings(tensorboard=True, images=1)
    train(settings)
    path = settings.out / "tensorboard" / "reconstructor"
    events = event_accumulator.EventAccumulator(str(path)).Reload()
    scores = [(e.step, e.value) for e in events.Scalars("reconstructor/validation_ssim")]
    log = [json.loads(line) for line in (settings.out / "log.jsonl").read_text().splitlines()]
    assert scores == [(e["step"], pytest.approx(e["validation_ssim"])) for e in log]
    assert [e.step for e in events.Scalars("reconstructor/loss")] == [2, 4, 6]
    assert len(events.Images("reconstructor/validation")) == 4


def test_tensorboard_that_is_not_installed_is_named_before_the_folder_is_made(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    settings = make_settings(tensorboard=True)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "activemri\[log\]"'):
        check_settings(settings)
    assert not settings.out.exists()


@pytest.mark.parametrize("file", ["best.safetensors", "last.pt", "log.jsonl"])
def test_a_full_disk_ends_the_training_and_leaves_the_old_files(
    train: Train, make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    whole = make_settings(
        max_steps=30, validate_every=10, network=("channels=4", "pools=1"), n_center_lines=2
    )
    result = train(whole)
    settings = replace(whole, out=whole.out.parent / "full")
    real_open = Path.open
    n_writes = 0

    def full(path: Path, mode: str = "r", *args: object, **kwargs: object) -> object:
        nonlocal n_writes
        if path.name == f"{file}.next":
            n_writes += 1
            if n_writes == 2:
                raise OSError(28, "No space left on device", str(path))
        return real_open(path, mode, *args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OSError, match="No space left"):
        train(settings)
    monkeypatch.undo()
    assert list(settings.out.glob("*.next")) == []
    make_reconstructor(settings.out)
    assert train(replace(settings, resume=True)) == replace(
        result, checkpoint=settings.out / "best"
    )
