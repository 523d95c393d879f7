"""SSDU: what is held out, what is seen, and that no fully sampled scan is needed."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from activemri.data.slices import SliceList
from activemri.mri.operators import CartesianOperator
from activemri.reconstruction.reconstructor import Measurement
from activemri.reconstruction.zero_filled import ZeroFilled
from activemri.settings import TrainJointSettings, TrainReconstructorSettings
from activemri.training import joint
from activemri.training.reconstructor import check_settings, train_reconstructor
from activemri.training.self_supervised import (
    KEPT_SIDE,
    divided,
    held_out,
    self_supervised_loss,
)
from tests.training.mixture import HeuristicMasks
from tests.training.test_reconstructor import assert_same_runs, log_of

MakeScans = Callable[..., SliceList]
MakeSettings = Callable[..., TrainReconstructorSettings]
SMALL = ("channels=4", "layers=2", "iterations=2")


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_lines(batch: int = 3) -> Tensor:
    mask = torch.rand(batch, 1, 30, generator=drawn(5)) < 0.5
    mask[..., 12:18] = True
    return mask.expand(batch, 20, 30)


def measurement() -> Measurement:
    kspace = torch.randn(3, 2, 20, 30, dtype=torch.complex64, generator=drawn(1))
    maps = torch.full((3, 2, 20, 30), 0.5**0.5, dtype=torch.complex64)
    return Measurement.of(kspace, CartesianOperator(some_lines()[:, :1], maps))


def test_exactly_the_share_of_acquired_samples_is_held_out_and_never_the_centre() -> None:
    mask = some_lines()
    out = held_out(mask, share=0.4, generator=drawn())
    assert not (out & ~mask).any()
    expected = torch.ceil(0.4 * mask.flatten(1).sum(dim=1))
    assert torch.equal(out.flatten(1).sum(dim=1).float(), expected)
    half = KEPT_SIDE // 2
    assert not out[:, 10 - half : 10 + half, 15 - half : 15 + half].any()


def test_samples_are_held_out_as_the_normal_density_says() -> None:
    mask = torch.ones(4000, 20, 30, dtype=torch.bool)
    often = held_out(mask, share=0.02, generator=drawn()).float().mean(dim=0)
    upper = often[:6].mean(dim=0)  # without the centre, which is kept
    # 12 of 30 samples from the origin, where one standard deviation is a quarter of the side
    assert float(upper[27] / upper[15]) == pytest.approx(math.exp(-(0.4**2) * 8), abs=0.05)
    assert float(upper[3] / upper[15]) == pytest.approx(math.exp(-(0.4**2) * 8), abs=0.05)


def test_both_parts_together_are_what_was_acquired() -> None:
    whole = measurement()
    out = held_out(some_lines(), share=0.4, generator=drawn())
    seen, operator = divided(whole, out)
    assert torch.equal(seen.operator.mask | operator.mask, some_lines())
    assert not (seen.operator.mask & operator.mask).any()
    assert torch.equal(seen.kspace + whole.kspace * operator.mask.unsqueeze(1), whole.kspace)


def test_the_loss_is_two_where_nothing_is_said_of_what_is_held_out() -> None:
    """The zero-filled image of one coil is silent there: both relative errors are one."""
    whole = measurement()
    single = Measurement.of(whole.kspace[:, :1], CartesianOperator(whole.operator.mask))
    loss = self_supervised_loss(ZeroFilled(), single, share=0.4, n_splits=3, generator=drawn())
    torch.testing.assert_close(loss, torch.full((3,), 2.0))


def test_the_loss_follows_no_scale() -> None:
    whole = measurement()
    large = Measurement.of(1e6 * whole.kspace, whole.operator)
    losses = [
        self_supervised_loss(ZeroFilled(), one, share=0.4, n_splits=2, generator=drawn())
        for one in (whole, large)
    ]
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1])
def test_shares_that_leave_one_side_empty_are_refused(share: float) -> None:
    with pytest.raises(ValueError, match=f"between 0 and 1; got {share}"):
        held_out(some_lines(), share=share, generator=drawn())


def settings_of(make_settings: MakeSettings, **changes: object) -> TrainReconstructorSettings:
    return make_settings(name="modl", network=SMALL, supervision="ssdu", **changes)


def train(settings: TrainReconstructorSettings, train_scans: SliceList, **changes: object) -> Path:
    given: dict[str, object] = {"masks": HeuristicMasks(4, budget=settings.budget), **changes}
    return train_reconstructor(
        settings,
        train=train_scans,
        **given,  # type: ignore[arg-type]
    ).checkpoint


def with_other_unacquired(scans: SliceList, masks: HeuristicMasks, *, seed: int) -> SliceList:
    """The same scans where their one mask acquires them; anything else elsewhere, and no target."""
    changed = []
    for index, scan in enumerate(scans.slices):
        own = np.random.default_rng([seed, index, 2])
        mask = masks(scans.describe(index), own, step=masks.budget)
        other = 7 * torch.randn(scan.kspace.shape, dtype=torch.complex64, generator=drawn(index))
        kspace = torch.where(mask, scan.kspace, other)
        changed.append(replace(scan, kspace=kspace, target=torch.ones_like(scan.target)))
    return SliceList(changed, scans.name)


def test_training_depends_on_nothing_but_one_acquisition_of_every_scan(
    make_scans: MakeScans, make_settings: MakeSettings, tmp_path: Path
) -> None:
    settings = settings_of(make_settings, max_steps=4)
    masks = HeuristicMasks(4, budget=settings.budget)
    scans, validation = make_scans(["a", "b", "c"]), make_scans(["dd"])
    train(settings, scans, validation=validation)
    other = replace(settings, out=tmp_path / "other")
    train(
        other,
        with_other_unacquired(scans, masks, seed=settings.seed),
        validation=validation,
    )
    assert_same_runs(settings.out, other.out)


def test_the_loss_falls_and_chooses_the_best_weights(
    make_scans: MakeScans, make_settings: MakeSettings
) -> None:
    settings = settings_of(make_settings, max_steps=30, validate_every=5, n_splits=2)
    train(
        settings, make_scans(["a", "b", "c"], n_coils=3), validation=make_scans(["dd"], n_coils=3)
    )
    losses = [entry["validation_loss"] for entry in log_of(settings.out)]
    assert min(losses) < losses[0]


def test_a_stopped_training_resumes_with_the_same_bits(
    make_scans: MakeScans, make_settings: MakeSettings, tmp_path: Path
) -> None:
    whole = settings_of(make_settings, max_steps=4)
    scans, validation = make_scans(["a", "b", "c"]), make_scans(["dd"])
    train(whole, scans, validation=validation)
    stopped = replace(whole, out=tmp_path / "stopped")

    def stop(step: int, score: float) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(stopped, scans, validation=validation, on_validation=stop)
    train(replace(stopped, resume=True), scans, validation=validation)
    assert_same_runs(whole.out, stopped.out)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"loss": "l1"}, "leave out --loss"),
        ({"augment": ("phase",)}, "leave out --loss, --augment"),
        ({"held_out": 1.5}, "--held-out: expected a share between 0 and 1; got 1.5"),
        ({"name": "kiki-net", "network": ()}, "kiki-net learns from fully sampled images"),
    ],
)
def test_what_needs_a_reference_is_refused(
    changes: dict[str, object], reason: str, make_settings: MakeSettings
) -> None:
    settings = replace(settings_of(make_settings), **changes)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=reason):
        check_settings(settings)
    assert not settings.out.exists()


def test_an_evaluator_needs_full_scans(tmp_path: Path) -> None:
    settings = TrainJointSettings(supervision="ssdu", out=tmp_path / "joint")
    with pytest.raises(ValueError, match="--supervision ssdu: an evaluator"):
        joint.check_settings(settings)
