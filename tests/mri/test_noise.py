"""Noise and background phase."""

import math

import numpy as np
import pytest
import torch

from activemri.mri import fourier
from activemri.mri.noise import complex_noise, smooth_phase


def test_sigma_is_the_standard_deviation_of_a_complex_sample() -> None:
    noise = complex_noise((200, 300), sigma=0.7, generator=np.random.default_rng(0))
    assert noise.dtype == torch.complex64 and noise.shape == (200, 300)
    assert float(noise.abs().square().mean()) == pytest.approx(0.49, rel=0.02)
    assert float(noise.real.std()) == pytest.approx(0.7 / math.sqrt(2), rel=0.02)
    assert float(noise.imag.std()) == pytest.approx(0.7 / math.sqrt(2), rel=0.02)
    assert abs(float((noise.real * noise.imag).mean())) < 0.005


def test_the_fourier_transform_keeps_sigma() -> None:
    noise = complex_noise((3, 64, 80), sigma=2.0, generator=np.random.default_rng(1))
    assert float(fourier.ifft2(noise).abs().square().mean()) == pytest.approx(4, rel=0.03)


def test_the_generator_decides_the_noise() -> None:
    one, same, other = (
        complex_noise((4, 5), sigma=1, generator=np.random.default_rng(seed)) for seed in (3, 3, 4)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_no_noise_is_zero() -> None:
    noise = complex_noise((4, 5), sigma=0, generator=np.random.default_rng(0))
    assert torch.equal(noise, torch.zeros(4, 5, dtype=torch.complex64))


@pytest.mark.parametrize("sigma", [-1.0, math.nan, math.inf])
def test_a_senseless_sigma_is_refused(sigma: float) -> None:
    with pytest.raises(ValueError, match="sigma must be a finite number"):
        complex_noise((2,), sigma=sigma, generator=np.random.default_rng(0))


def test_phase_is_smooth_and_not_constant() -> None:
    for seed in range(20):
        phase = smooth_phase(60, 80, generator=np.random.default_rng(seed))
        assert phase.dtype == torch.float32 and phase.shape == (60, 80)
        # 0.4 radians a pixel would be 5 periods over the field of view
        assert max(float(phase.diff(dim=axis).abs().max()) for axis in (0, 1)) < 0.4
        assert float(phase.std()) > 0.1


def test_a_finer_grid_samples_the_same_phase() -> None:
    coarse = smooth_phase(12, 20, generator=np.random.default_rng(5))
    fine = smooth_phase(24, 60, generator=np.random.default_rng(5))
    assert torch.allclose(fine[::2, ::3], coarse, atol=1e-5)


def test_without_strength_only_the_offset_is_left() -> None:
    phase = smooth_phase(6, 7, generator=np.random.default_rng(5), strength=0)
    assert float(phase.max()) == float(phase.min()) != 0
