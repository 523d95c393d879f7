"""SSDU and robust SSDU: held-out samples, seen ones, and trainings without full scans."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from activemri.agents.episode_masks import EpisodeMasks
from activemri.data.slices import SliceList
from activemri.mri import fourier
from activemri.mri.noise import estimated_sigma
from activemri.mri.operators import Operator
from activemri.reconstruction.reconstructor import Measurement, Reconstruction
from activemri.reconstruction.zero_filled import ZeroFilled
from activemri.training.self_supervised import (
    KEPT_SIDE,
    held_out,
    robust_loss,
    sample_weights,
    self_supervised_loss,
)
from tests.training.scans import (
    assert_same_runs,
    discs,
    log_of,
    random_moments,
    resumed,
    tiny,
    train,
)


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_lines(batch: int = 3) -> Tensor:
    mask = torch.rand(batch, 1, 30, generator=drawn(5)) < 0.5
    mask[..., 12:18] = True
    return mask.expand(batch, 20, 30)


def measurement() -> Measurement:
    kspace = torch.randn(3, 2, 20, 30, dtype=torch.complex64, generator=drawn(1))
    maps = torch.full((3, 2, 20, 30), 0.5**0.5, dtype=torch.complex64)
    return Measurement.of_grid(kspace, Operator.on_grid(some_lines()[:, :1], (20, 30), maps))


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


def test_the_reconstructor_sees_all_that_was_acquired_and_is_not_held_out() -> None:
    whole, network, seen = measurement(), ZeroFilled(), list[Measurement]()
    network.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    self_supervised_loss(network, whole, share=0.4, n_splits=1, generator=drawn())
    out = held_out(some_lines(), share=0.4, generator=drawn())
    assert torch.equal(seen[0].operator.grid_mask, some_lines() & ~out)
    assert torch.equal(seen[0].kspace, whole.kspace * ~out.unsqueeze(1))


def test_the_loss_is_two_where_nothing_is_said_of_what_is_held_out() -> None:
    """The zero-filled image of one coil is silent there: both relative errors are one."""
    whole = measurement()
    operator = Operator.on_grid(some_lines()[:, :1], (20, 30))
    single = Measurement.of_grid(whole.kspace[:, :1], operator)
    loss = self_supervised_loss(ZeroFilled(), single, share=0.4, n_splits=3, generator=drawn())
    torch.testing.assert_close(loss, torch.full((3,), 2.0))


def test_the_loss_follows_no_scale() -> None:
    whole = measurement()
    large = Measurement.of_grid(1e6 * whole.kspace, whole.operator)
    losses = [
        self_supervised_loss(ZeroFilled(), one, share=0.4, n_splits=2, generator=drawn())
        for one in (whole, large)
    ]
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1])
def test_shares_that_leave_one_side_empty_are_refused(share: float) -> None:
    with pytest.raises(ValueError, match=f"between 0 and 1; got {share}"):
        held_out(some_lines(), share=share, generator=drawn())


def some_masks(count: int, width: int = 12) -> Tensor:
    """Samples of columns with the centre in all of them, and outer ones ever rarer."""
    often = 1 - torch.linspace(-1, 1, width).abs() * 0.8
    often[4:8] = 1
    masks = torch.rand(count, width, generator=drawn(3)) < often
    return masks[:, None].expand(-1, 10, -1)


def test_held_out_samples_stand_for_all_scans_that_do_not_see_them() -> None:
    """The weighted sum over held-out samples has the expectation of the sum over unseen ones."""
    acquired = some_masks(4000)
    weights = sample_weights(acquired, share=0.4, generator=drawn())
    out = held_out(acquired, share=0.4, generator=drawn(1))
    seen = acquired & ~out
    weighted = (weights * out).mean(dim=0)
    unseen = (~seen).float().mean(dim=0)
    assert not weights[3:7, 4:8].any()  # the innermost samples are always seen
    often = out.float().mean(dim=0) > 0.05
    assert often.sum() > 80
    torch.testing.assert_close(weighted[often], unseen[often], atol=0.03, rtol=0.15)


def test_samples_that_are_always_acquired_weigh_one() -> None:
    whole = torch.ones(50, 10, 12, dtype=torch.bool)
    weights = sample_weights(whole, share=0.5, generator=drawn())
    torch.testing.assert_close(weights[weights > 0], torch.ones(int((weights > 0).sum())))


@pytest.mark.parametrize("coils", [1, 3])
def test_the_noise_is_estimated_from_the_edge_of_kspace(coils: int) -> None:
    sigma = torch.linspace(0.5, 2, coils)
    kspace = torch.randn(2, coils, 128, 96, dtype=torch.complex64, generator=drawn())
    kspace = kspace * sigma[:, None, None]
    kspace[..., 40:60] *= torch.exp(-((torch.arange(128.0) - 64) ** 2) / 200)[:, None] * 50 + 1
    kspace[..., 70:] = 0
    torch.testing.assert_close(estimated_sigma(kspace), sigma.expand(2, -1), rtol=0.08, atol=0)
    assert estimated_sigma(torch.zeros(1, 1, 16, 16)) == 0


@dataclass
class Seen:
    """A reconstructor that hands out what it sees, and remembers it."""

    name: str = "seen"
    measurement: Measurement | None = None

    def __call__(self, measurement: Measurement) -> Reconstruction:
        self.measurement = measurement
        return Reconstruction(measurement.zero_filled)


@dataclass
class Known:
    """A reconstructor that knows the image."""

    image: Tensor
    name: str = "known"

    def __call__(self, measurement: Measurement) -> Reconstruction:
        return Reconstruction(self.image)


def noisy_scan(sigma: float = 0.1) -> tuple[Measurement, Tensor]:
    """A scan of one coil with signal in the middle only, and its clean image."""
    signal = torch.zeros(1, 1, 64, 64, dtype=torch.complex64)
    signal[..., 24:40, 24:40] = torch.randn(16, 16, dtype=torch.complex64, generator=drawn(5))
    noise = sigma * torch.randn(1, 1, 64, 64, dtype=torch.complex64, generator=drawn(6))
    mask = torch.rand(1, 1, 64, generator=drawn(7)) < 0.6
    return Measurement.of_grid(signal + noise, Operator.on_grid(mask, (64, 64))), fourier.ifft2(
        signal[:, 0]
    )


def loss_of(reconstructor: Known | Seen, measurement: Measurement, **changes: object) -> float:
    given: dict[str, object] = {
        "weights": torch.ones(64, 64),
        "share": 0.4,
        "n_splits": 20,
        "more_noise": 1.0,
        "generator": drawn(),
    }
    return float(robust_loss(reconstructor, measurement, **given | changes))  # type: ignore[arg-type]


def test_what_is_seen_is_noisier_and_only_acquired_samples_are() -> None:
    measurement, _ = noisy_scan()
    seen = Seen()
    loss_of(seen, measurement, n_splits=1)
    assert seen.measurement is not None
    added = (
        seen.measurement.kspace - measurement.kspace * seen.measurement.operator.grid_mask[:, None]
    )
    samples = added[added != 0]
    assert not (added[..., 0, :][:, :, ~measurement.operator.mask[0]] != 0).any()
    assert samples.abs().square().mean().sqrt() == pytest.approx(0.1, rel=0.15)


@pytest.mark.parametrize("more_noise", [0.5, 1.0, 2.0])
def test_the_clean_image_has_a_lower_loss_than_what_is_seen(more_noise: float) -> None:
    measurement, image = noisy_scan()
    clean = loss_of(Known(image), measurement, more_noise=more_noise)
    assert clean < loss_of(Seen(), measurement, more_noise=more_noise)


def test_noise_in_and_noise_compared_with_are_independent() -> None:
    """E |signal + (e + a n) - (signal + e - n / a)|^2 = sigma^2 (a + 1/a)^2 where all is seen."""
    measurement, _ = noisy_scan()
    for more_noise in (0.5, 2.0):
        loss = loss_of(Seen(), measurement, more_noise=more_noise, weights=torch.zeros(64, 64))
        energy = float(measurement.kspace.abs().square().sum())
        n_seen = 0.6 * float(measurement.operator.mask.sum()) * 64
        sigma = float(estimated_sigma(measurement.kspace))
        expected = n_seen * sigma**2 * (more_noise + 1 / more_noise) ** 2 / energy
        assert loss == pytest.approx(expected, rel=0.05)


def ssdu(out: Path, **changes: Any) -> Any:
    network = {"channels": 4, "layers": 2, "iterations": 2}
    given = {"reconstructor": "modl", "network": network, "supervision": "ssdu", **changes}
    return tiny(out, **given)


def with_other_unacquired(scans: SliceList, moments: EpisodeMasks) -> SliceList:
    """The same scans where their one mask acquires them; anything else elsewhere, and no target."""
    changed = []
    for index, scan in enumerate(scans.slices):
        own = np.random.default_rng([0, index, 2])
        mask = moments(scans.describe(index), own, step=moments.budget).mask
        other = 7 * torch.randn(scan.kspace.shape, dtype=torch.complex64, generator=drawn(index))
        kspace = torch.where(mask, scan.kspace, other)
        changed.append(replace(scan, kspace=kspace, target=torch.ones_like(scan.target)))
    return SliceList(changed, scans.name)


def test_training_depends_on_nothing_but_one_acquisition_of_every_scan(tmp_path: Path) -> None:
    train(ssdu(tmp_path / "one", max_steps=4))
    other = with_other_unacquired(discs(["a", "b", "c"]), random_moments())
    train(ssdu(tmp_path / "other", max_steps=4), train=other)
    assert_same_runs(tmp_path / "one", tmp_path / "other")


@pytest.mark.parametrize("supervision", ["ssdu", "robust-ssdu"])
def test_the_loss_falls_and_chooses_the_best_weights(tmp_path: Path, supervision: str) -> None:
    settings = ssdu(tmp_path, supervision=supervision, max_steps=30, validate_every=5, n_splits=2)
    scans = discs(["a", "b", "c"], n_coils=3), discs(["dd"], n_coils=3)
    train(settings, train=scans[0], validation=scans[1])
    losses = [entry["validation_loss"] for entry in log_of(tmp_path)]
    assert min(losses) < losses[0]


def test_a_stopped_training_resumes_with_the_same_bits(tmp_path: Path) -> None:
    train(ssdu(tmp_path / "whole", max_steps=4, geometry="rows"), moments=ROWS)

    def stop(step: int, score: float) -> None:
        if step == 2:
            raise KeyboardInterrupt

    stopped = ssdu(tmp_path / "stopped", max_steps=4, geometry="rows")
    with pytest.raises(KeyboardInterrupt):
        train(stopped, moments=ROWS, on_validation=stop)
    train(resumed(stopped), moments=ROWS)
    assert_same_runs(tmp_path / "whole", tmp_path / "stopped")


ROWS = random_moments(geometry="rows")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"loss": "l1"}, "leave out --loss"),
        ({"augment": ("phase",)}, "leave out --loss, --augment"),
        ({"held_out": 1.5}, "--held-out: expected a share between 0 and 1; got 1.5"),
        ({"reconstructor": "kiki-net", "network": {}}, "kiki-net learns from fully sampled images"),
    ],
)
def test_settings_that_need_a_reference_are_refused(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        ssdu(tmp_path / "run", **changes).check()
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="--more-noise: expected a number above 0"):
        ssdu(tmp_path, more_noise=0.0)
