"""Signal to noise of gradients, against numpy and against what is known of normal noise."""

import math

import numpy as np
import pytest
import torch

from activemri.agents.learning.gradient_noise import GradientNoise, gradient_noise


def normal_gradients(mean: float, *, n_batches: int, n_parameters: int) -> torch.Tensor:
    noise = np.random.default_rng(0).normal(size=(n_batches, n_parameters))
    return torch.from_numpy(mean + noise)


def test_it_is_mean_over_deviation_as_numpy_has_it() -> None:
    gradients = normal_gradients(0.7, n_batches=6, n_parameters=5) * torch.arange(1.0, 6.0)
    found = gradient_noise(gradients)
    mean, deviation = gradients.numpy().mean(0), gradients.numpy().std(0, ddof=1)
    assert found.per_parameter == pytest.approx(np.mean(np.abs(mean) / deviation), rel=1e-12)
    signal = (mean**2).sum() - (deviation**2).sum() / 6
    assert found.overall == pytest.approx(math.sqrt(signal / (deviation**2).sum()), rel=1e-12)
    assert (found.n_batches, found.n_parameters) == (6, 5)


def test_overall_ratio_is_that_of_the_true_gradient() -> None:
    found = gradient_noise(normal_gradients(0.5, n_batches=8, n_parameters=4000))
    assert found.overall == pytest.approx(0.5, abs=0.02)  # each parameter: mean 0.5, deviation 1


def test_pure_noise_has_no_signal_and_stays_at_the_floor() -> None:
    found = gradient_noise(normal_gradients(0.0, n_batches=40, n_parameters=4000))
    assert found.overall < 0.05
    assert found.per_parameter == pytest.approx(found.floor, rel=0.05)


def test_scale_does_not_matter() -> None:
    gradients = normal_gradients(0.3, n_batches=5, n_parameters=7)
    small, large = gradient_noise(1e-6 * gradients), gradient_noise(1e6 * gradients)
    assert small.per_parameter == pytest.approx(large.per_parameter)
    assert small.overall == pytest.approx(large.overall)


def test_a_large_common_offset_does_not_hide_the_noise() -> None:
    noise = normal_gradients(0.0, n_batches=50, n_parameters=20)
    found = gradient_noise(1e8 + noise)
    expected = np.mean(1e8 / noise.numpy().std(0, ddof=1))
    assert found.per_parameter == pytest.approx(expected, rel=1e-5)


def test_gradients_of_a_network_can_be_given_as_they_are() -> None:
    network = torch.nn.Linear(3, 2)
    unused = torch.nn.Linear(2, 2)
    seen, vectors = GradientNoise(), []
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        network.zero_grad()
        network(torch.randn(5, 3, generator=generator)).square().sum().backward()
        weights = [*network.parameters(), *unused.parameters()]
        seen.add(weight.grad for weight in weights)
        grads = [weight.grad for weight in network.parameters()]
        vectors.append(torch.cat([grad.flatten() for grad in grads if grad is not None]))
    assert seen.ratio() == gradient_noise(torch.stack(vectors))


def test_parameters_that_no_batch_reaches_are_left_out() -> None:
    gradients = normal_gradients(1.0, n_batches=5, n_parameters=3)
    padded = torch.cat([gradients, torch.zeros(5, 4, dtype=torch.float64)], dim=1)
    assert gradient_noise(padded) == gradient_noise(gradients)


def test_equal_gradients_are_pure_signal() -> None:
    assert gradient_noise(torch.ones(3, 2)).overall == math.inf


@pytest.mark.parametrize(
    ("gradients", "message"),
    [
        ([torch.ones(2)], "at least 2 gradients; got 1"),
        ([torch.ones(2), torch.ones(3)], "gradient of 2 numbers, as before; got 3"),
        ([torch.ones(2), torch.full((2,), math.nan)], "gradient 2 is not finite"),
        ([torch.zeros(2), torch.zeros(2)], "neither signal nor noise"),
    ],
)
def test_what_shows_no_noise_is_refused(gradients: list[torch.Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gradient_noise(gradients)
