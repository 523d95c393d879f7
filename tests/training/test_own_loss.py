"""Reconstructors that bring their own training loss."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from activemri.data.slices import SliceList
from activemri.metrics.losses import l1
from activemri.reconstruction.registry import make_reconstructor
from activemri.settings import TrainJointSettings, TrainReconstructorSettings
from activemri.training import joint
from activemri.training.batches import make_batch
from activemri.training.reconstructor import check_settings, train_reconstructor
from tests.training.mixture import HeuristicMasks, StoppingMasks
from tests.training.test_reconstructor import assert_same_runs, log_of

MakeScans = Callable[..., SliceList]
MakeSettings = Callable[..., TrainReconstructorSettings]
TINY = ("channels=8", "n_samples=2", "n_steps=2")


def train(settings: TrainReconstructorSettings, scans: MakeScans, **changes: object) -> Path:
    given: dict[str, object] = {"masks": HeuristicMasks(4, budget=settings.budget), **changes}
    return train_reconstructor(
        settings,
        train=scans(["a", "b", "c"]),
        validation=scans(["dd"]),
        **given,  # type: ignore[arg-type]
    ).checkpoint


def test_the_diffusion_model_trains_with_its_own_loss_and_its_checkpoint_draws_samples(
    make_scans: MakeScans, make_settings: MakeSettings
) -> None:
    settings = make_settings(name="diffusion", network=TINY, max_steps=20, validate_every=5)
    made = make_reconstructor(train(settings, make_scans))
    losses = [entry["loss"] for entry in log_of(settings.out)[1:]]
    assert losses[-1] < losses[0]
    batch = make_batch(make_scans(["e"]).slices, [torch.arange(18) % 2 == 0] * 2, n_center_lines=4)
    with torch.no_grad():
        samples = made(batch.measurement).samples
    assert samples is not None and samples.shape == (2, 2, 12, 18)


def test_a_training_with_noise_of_its_own_resumes_with_the_same_bits(
    make_scans: MakeScans, make_settings: MakeSettings, tmp_path: Path
) -> None:
    whole = make_settings(name="diffusion", network=TINY, max_steps=4)
    train(whole, make_scans)
    stopped = replace(whole, out=tmp_path / "stopped")
    with pytest.raises(KeyboardInterrupt):
        train(stopped, make_scans, masks=StoppingMasks(stop_at=5))
    train(replace(stopped, resume=True), make_scans, masks=StoppingMasks(stop_at=-1))
    assert_same_runs(whole.out, stopped.out)


def test_other_losses_are_refused_before_anything_starts(
    make_scans: MakeScans, make_settings: MakeSettings
) -> None:
    settings = make_settings(name="diffusion", network=TINY)
    with pytest.raises(ValueError, match=r"a loss of its own.* leave out --loss"):
        check_settings(replace(settings, loss="l1"))
    with pytest.raises(ValueError, match="a loss of its own; give none"):
        train(settings, make_scans, loss=l1)
    alternating = TrainJointSettings(
        out=settings.out, name="diffusion", network=TINY, schedule="alternating"
    )
    with pytest.raises(ValueError, match="choose --schedule staged"):
        joint.check_settings(alternating)
    joint.check_settings(replace(alternating, schedule="staged"))
