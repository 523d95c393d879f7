"""Samples from a diffusion model, against a prior whose posterior is known."""

import itertools

import pytest
import torch
from torch import Tensor

from activemri.mri import fourier
from activemri.mri.operators import Operator
from activemri.reconstruction.diffusion import LARGEST, SMALLEST, Diffusion, noise_levels
from activemri.reconstruction.reconstructor import Measurement
from tests.reconstruction.scans import on_grid

SHAPE = (18, 24)


def measured(*, batch: int = 1, n_coils: int = 1, seed: int = 0) -> Measurement:
    generator = torch.Generator().manual_seed(seed)
    kspace = torch.randn(batch, n_coils, *SHAPE, dtype=torch.complex64, generator=generator)
    mask = torch.rand(batch, 1, SHAPE[1], generator=generator) < 0.4
    sensitivity = None
    if n_coils > 1:
        sensitivity = kspace / kspace.abs().square().sum(dim=1, keepdim=True).sqrt()
    return on_grid(kspace, mask, sensitivity)


class Ideal(Diffusion):
    """Knows the prior: independent pixels, normal with this deviation for every real number."""

    deviation = 0.7

    def _denoise(self, noisy: Tensor, level: Tensor, start: Tensor, operator: Operator) -> Tensor:
        level = level[:, None, None]
        return noisy * self.deviation**2 / (self.deviation**2 + level**2)


@pytest.mark.parametrize("conditional", [True, False])
def test_with_an_ideal_denoiser_samples_have_the_deviation_of_the_posterior(
    conditional: bool,
) -> None:
    measurement = measured()
    method = Ideal(n_samples=64, n_steps=60, conditional=conditional).eval()
    samples = method(measurement).samples
    assert samples is not None
    unit = measurement.zero_filled.abs().square().mean().sqrt()
    free = ~measurement.operator.mask[0]
    missing = torch.view_as_real(fourier.fft2(samples[0] / unit)[..., free])
    assert missing.std(dim=0).mean() == pytest.approx(Ideal.deviation, rel=0.05)
    assert missing.mean().abs() < 0.02


def test_noise_levels_fall_and_lie_closest_where_there_is_least_noise() -> None:
    levels = noise_levels(9)
    assert levels[0] == pytest.approx(LARGEST) and levels[-1] == pytest.approx(SMALLEST)
    drops = [high - low for high, low in itertools.pairwise(levels)]
    assert all(drop > 0 for drop in drops) and drops == sorted(drops, reverse=True)
    assert noise_levels(1) == [pytest.approx(LARGEST)]


def test_it_learns_the_only_image_that_there_is() -> None:
    generator = torch.Generator().manual_seed(1)
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    image = ((x**2 + 2 * y**2 < 0.8) + 0.5 * (x.abs() < 0.3)).to(torch.complex64).expand(4, -1, -1)

    def measure() -> Measurement:
        mask = torch.rand(4, 1, SHAPE[1], generator=generator) < 0.2
        mask[..., 10:15] = True
        return on_grid(fourier.fft2(image).unsqueeze(1), mask)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        method = Diffusion(8)
        optimizer = torch.optim.Adam(method.parameters(), lr=1e-2)
        for _ in range(100):
            optimizer.zero_grad()
            method.training_loss(measure(), image).mean().backward()
            optimizer.step()
    measurement = measure()
    result = method.eval()(measurement)
    error = (result.image - image).abs().square().sum()
    assert error < 0.3 * (measurement.zero_filled - image).abs().square().sum()


@pytest.mark.parametrize("conditional", [True, False])
def test_only_the_conditional_network_sees_what_was_acquired_without_noise(
    conditional: bool,
) -> None:
    measurement, seen = measured(batch=2), []
    method = Diffusion(8, conditional=conditional)
    method.denoiser.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    with torch.random.fork_rng():
        image = torch.randn(2, *SHAPE, dtype=torch.complex64)
        clean = Measurement.of_grid(fourier.fft2(image).unsqueeze(1), measurement.operator)
        method.training_loss(clean, image)
    channels, level, _ = seen[0]
    assert channels.shape[1] == (4 if conditional else 2)
    noisy = torch.view_as_complex(channels[:, :2].permute(0, 2, 3, 1).contiguous())
    noisy = noisy * (level.exp() ** 2 + 1).sqrt()[:, None, None]
    scale = clean.zero_filled.abs().square().mean(dim=(-2, -1), keepdim=True).sqrt()
    phase = torch.sgn((clean.zero_filled * clean.zero_filled.abs()).sum(dim=(-2, -1)))
    difference = (noisy - image / (scale * phase[:, None, None])).abs()
    noise = fourier.fft2(noisy - image / (scale * phase[:, None, None])).abs()
    known = measurement.operator.grid_mask.expand(-1, SHAPE[0], -1)
    assert difference.max() > 0.01 and noise[~known].min() > 0
    assert (noise[known].max() < 1e-4) == conditional


@pytest.mark.parametrize("n_coils", [1, 3])
def test_without_masks_in_training_samples_still_hold_the_measured_data(n_coils: int) -> None:
    measurement = measured(batch=2, n_coils=n_coils)
    result = Diffusion(8, conditional=False).eval()(measurement)
    assert result.samples is not None and result.samples.shape == (2, 4, *SHAPE)
    if n_coils == 1:
        off = fourier.fft2(result.samples) - measurement.kspace
        assert (off * measurement.operator.grid_mask.unsqueeze(1)).abs().max() < 1e-4


def test_other_seeds_give_other_samples_of_other_numbers() -> None:
    measurement = measured()
    first = Diffusion(8, n_samples=3, n_steps=2).eval()(measurement).samples
    other = Diffusion(8, n_samples=3, n_steps=2, seed=1).eval()(measurement).samples
    assert first is not None and other is not None and first.shape[1] == 3
    assert not torch.allclose(first, other)


@pytest.mark.parametrize(
    ("name", "value"), [("channels", 12), ("n_samples", 1), ("n_steps", 0), ("seed", -1)]
)
def test_impossible_settings_are_refused(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{name}={value}"):
        Diffusion(**{name: value})  # type: ignore[arg-type]
