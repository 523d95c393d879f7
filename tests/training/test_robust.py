"""Robust SSDU: its weights and its noise do what the theory says, and it trains."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from activemri.data.slices import SliceList
from activemri.mri.noise import estimated_sigma
from activemri.mri.operators import CartesianOperator
from activemri.reconstruction.reconstructor import Measurement, Reconstruction
from activemri.settings import TrainReconstructorSettings
from activemri.training.reconstructor import train_reconstructor
from activemri.training.robust import robust_loss, sample_weights
from activemri.training.self_supervised import held_out
from tests.training.mixture import HeuristicMasks
from tests.training.test_reconstructor import log_of


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_masks(count: int, width: int = 12) -> list[Tensor]:
    """Masks with the centre in all of them, and outer lines ever rarer."""
    often = 1 - torch.linspace(-1, 1, width).abs() * 0.8
    often[4:8] = 1
    return list(torch.rand(count, width, generator=drawn(3)) < often)


def test_held_out_samples_stand_for_all_scans_that_do_not_see_them() -> None:
    """The weighted sum over held-out samples has the expectation of the sum over unseen ones."""
    masks = some_masks(4000)
    weights = sample_weights(masks, height=10, share=0.4, generator=drawn())
    acquired = torch.stack(masks)[:, None].expand(-1, 10, -1)
    out = held_out(acquired, share=0.4, generator=drawn(1))
    seen = acquired & ~out
    weighted = (weights * out).mean(dim=0)
    unseen = (~seen).float().mean(dim=0)
    assert not weights[3:7, 4:8].any()  # the innermost samples are always seen
    often = out.float().mean(dim=0) > 0.05
    assert often.sum() > 80
    torch.testing.assert_close(weighted[often], unseen[often], atol=0.03, rtol=0.15)


def test_samples_that_are_always_acquired_weigh_one() -> None:
    whole = [torch.ones(12, dtype=torch.bool)] * 50
    weights = sample_weights(whole, height=10, share=0.5, generator=drawn())
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
    operator = CartesianOperator(mask)
    whole = CartesianOperator(torch.ones(1, 1, 64, dtype=torch.bool))
    return Measurement.of(signal + noise, operator), whole.adjoint(signal)


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
    added = seen.measurement.kspace - measurement.kspace * seen.measurement.operator.mask[:, None]
    samples = added[added != 0]
    assert not (added[..., 0, :][:, :, ~measurement.operator.mask[0, 0]] != 0).any()
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


def test_it_trains(
    make_scans: Callable[..., SliceList],
    make_settings: Callable[..., TrainReconstructorSettings],
) -> None:
    settings = make_settings(
        name="modl",
        network=("channels=4", "layers=2", "iterations=2"),
        supervision="robust-ssdu",
        max_steps=30,
        validate_every=5,
    )
    result = train_reconstructor(
        settings,
        masks=HeuristicMasks(4, budget=settings.budget),
        train=make_scans(["a", "b", "c"], n_coils=3),
        validation=make_scans(["dd"], n_coils=3),
    )
    assert Path(f"{result.checkpoint}.safetensors").exists()
    losses = [entry["validation_loss"] for entry in log_of(settings.out)]
    assert min(losses) < losses[0]


def test_noise_of_no_strength_is_refused(
    make_settings: Callable[..., TrainReconstructorSettings],
) -> None:
    with pytest.raises(ValueError, match="--more-noise: expected a number above 0"):
        make_settings(supervision="robust-ssdu", more_noise=0.0)
