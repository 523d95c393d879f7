"""The entropy rule against Monte-Carlo estimates and plain loops."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from activemri.agents.adaptive import (
    N_DRAWN,
    SIGMA,
    entropy_greedy,
    mixture_entropy,
    posterior_samples,
    sample_distances,
)
from activemri.agents.policy import choose
from activemri.data.slices import Slice
from activemri.envs.scan import Scan, View
from activemri.mri import fourier
from activemri.reconstruction.reconstructor import Reconstruction
from tests.envs.scans import Unsure

MakeScan = Callable[..., Slice]
MakeProtocol = Callable[..., Scan]
N_SAMPLES = 4


def entropy_by_draws(centres: Tensor, sigma: float, *, n_draws: int = 40_000) -> float:
    """Entropy of the mixture beyond that of one Gaussian, from draws of the mixture."""
    generator = torch.Generator().manual_seed(3)
    n, dimension = centres.shape
    which = torch.randint(n, (n_draws,), generator=generator)
    noise = torch.randn(n_draws, dimension, dtype=centres.dtype, generator=generator)
    exponent = -(torch.cdist(centres[which] + sigma * noise, centres) ** 2) / (2 * sigma**2)
    log_density = torch.logsumexp(exponent, dim=1) - math.log(n)
    # What a single Gaussian has too is taken off draw by draw: less noise than its expectation.
    return float((-log_density - noise.square().sum(dim=1) / 2).mean())


def squared(centres: Tensor) -> Tensor:
    return torch.cdist(centres, centres).square()[None, :, :, None]


@pytest.mark.parametrize("spread", [0.0, 0.1, 0.5, 1.0, 3.0, 30.0])
def test_the_entropy_is_that_of_the_mixture_from_draws(spread: float) -> None:
    """It bounds the truth from above; with a fourth of the exponent it does from below."""
    generator = torch.Generator().manual_seed(0)
    centres = spread * torch.randn(6, 5, dtype=torch.float64, generator=generator)
    drawn, noise = entropy_by_draws(centres, 1.0), 0.002
    above = float(mixture_entropy(squared(centres), sigma=1.0))
    below = float(mixture_entropy(squared(centres), sigma=2.0))
    assert below - noise <= drawn <= above + noise
    if spread in (0.0, 30.0):  # where samples agree, or have nothing in common, it is exact
        assert above == pytest.approx(drawn, abs=0.002)
    if spread == 0.1:  # and twice as much where they are close
        assert above == pytest.approx(2 * drawn, rel=0.05)
    assert 0 <= above <= math.log(6) + 1e-9


def test_a_large_sigma_ranks_like_the_summed_distances() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(20, N_SAMPLES, 7, dtype=torch.float64, generator=generator)
    values *= torch.rand(20, 1, 1, dtype=torch.float64, generator=generator)
    distances = torch.stack([squared(v)[0, :, :, 0] for v in values], dim=-1)[None]
    expected = distances.sum(dim=(1, 2)).argsort(dim=1).tolist()
    assert mixture_entropy(distances, sigma=100.0).argsort(dim=1).tolist() == expected


def test_for_a_small_sigma_distant_samples_count_alike() -> None:
    near, far = squared(torch.tensor([[0.0], [5.0]])), squared(torch.tensor([[0.0], [9.0]]))
    assert mixture_entropy(near, sigma=0.1) == mixture_entropy(far, sigma=0.1)


def seen(protocol: Scan, scans: list[Slice], *, seed: int = 0) -> View:
    """A view with samples of the posterior that random numbers make up."""
    view = protocol.start(scans).view
    image = view.reconstruction.image
    generator = torch.Generator().manual_seed(seed)
    shape = (len(image), N_SAMPLES, *image.shape[1:])
    samples = image[:, None] + 0.1 * torch.randn(shape, dtype=image.dtype, generator=generator)
    return replace(view, reconstruction=Reconstruction(samples.mean(dim=1), samples=samples))


def expected_distances(view: View, lines: list[int], scan: int) -> Tensor:
    """Of the samples of one scan, on some columns, by loops: (sample, sample)."""
    samples, maps = view.reconstruction.samples, view.operator.sensitivity
    assert samples is not None
    result = torch.zeros(N_SAMPLES, N_SAMPLES, dtype=torch.float64)
    for i in range(N_SAMPLES):
        for j in range(N_SAMPLES):
            image = samples[scan, i] - samples[scan, j]
            coils = image[None] if maps is None else maps[scan] * image
            for coil in coils:
                result[i, j] += fourier.fft2(coil)[:, lines].abs().double().square().sum()
    return result


@pytest.mark.parametrize("n_coils", [1, 3])
def test_distances_are_those_of_what_the_coils_would_measure(
    make_scan: MakeScan, make_protocol: MakeProtocol, n_coils: int
) -> None:
    view = seen(make_protocol(), [make_scan(s, n_coils=n_coils) for s in (0, 1)])
    assert view.reconstruction.samples is not None
    distances = sample_distances(view, view.reconstruction.samples)
    for scan in range(2):
        for line in (0, 5, 12):
            expected = expected_distances(view, [line], scan)
            torch.testing.assert_close(distances[scan, ..., line], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("lines_per_action", [1, 3])
def test_the_lines_whose_mixture_has_the_largest_entropy_are_taken(
    make_scan: MakeScan, make_protocol: MakeProtocol, lines_per_action: int
) -> None:
    view = seen(make_protocol(lines_per_action=lines_per_action), [make_scan(0), make_scan(1)])
    entropy = torch.full(view.legal.shape, -torch.inf, dtype=torch.float64)
    for scan, action in view.legal.nonzero().tolist():
        group = {int(line) for line in view.geometry.readouts(torch.tensor(action))[0]}
        new = sorted(line for line in group if not view.mask[scan, line])
        distances = expected_distances(view, new, scan) / view.scale[scan].double() ** 2
        entropy[scan, action] = mixture_entropy(distances[None, ..., None], sigma=SIGMA)
    generators = [np.random.default_rng(0)] * 2
    assert torch.equal(entropy_greedy().act(view, generators), choose(entropy, view.legal))


def test_a_sampler_is_asked_instead_of_the_reconstructor(
    make_scan: MakeScan, make_protocol: MakeProtocol
) -> None:
    views = []
    for unsure in (False, True):
        protocol = make_protocol(unsure=unsure)
        views.append(protocol.start([make_scan(0)]).view)
    generators = [np.random.default_rng(0)]
    taken = entropy_greedy(Unsure()).act(views[0], generators)
    assert torch.equal(taken, entropy_greedy().act(views[1], generators))


def test_the_scale_of_the_signal_changes_nothing(
    make_scan: MakeScan, make_protocol: MakeProtocol
) -> None:
    one = make_scan(0)
    louder = replace(one, kspace=1e6 * one.kspace, target=1e6 * one.target)
    protocol, generators = make_protocol(unsure=True), [np.random.default_rng(0)]
    views = [protocol.start([scan]).view for scan in (one, louder)]
    taken = [entropy_greedy().act(view, generators) for view in views]
    assert torch.equal(*taken)


def test_a_deviation_alone_is_drawn_from_and_leaves_acquired_lines_as_they_are(
    make_scan: MakeScan, make_protocol: MakeProtocol
) -> None:
    protocol = make_protocol(unsure=True)
    view = protocol.start([make_scan(0), make_scan(1)]).view
    samples = posterior_samples(view)
    assert samples.shape == (2, N_DRAWN, 9, 13)
    assert torch.equal(samples, posterior_samples(view))
    error = fourier.fft2(samples - view.reconstruction.image[:, None]).abs().amax(dim=(1, 2))
    assert bool((error[view.mask] < 1e-5).all()) and bool((error[~view.mask] > 1e-3).all())
    assert view.reconstruction.uncertainty is not None
    # Nothing is acquired: then the deviation is the one that was asked for.
    blind = replace(view)
    blind.__dict__["operator"] = replace(view.operator, mask=torch.zeros_like(view.mask))
    drawn = posterior_samples(blind) - view.reconstruction.image[:, None]
    deviation = torch.view_as_real(drawn).square().mean(dim=(1, -1)).sqrt()
    ratio = deviation.mean() / view.reconstruction.uncertainty.mean()
    assert float(ratio) == pytest.approx(1, abs=0.15)


def test_a_reconstructor_that_is_always_sure_is_refused(
    make_scan: MakeScan, make_protocol: MakeProtocol
) -> None:
    view = make_protocol().start([make_scan(0)]).view
    with pytest.raises(ValueError, match="needs a reconstructor that draws samples"):
        entropy_greedy().act(view, [np.random.default_rng(0)])


def test_unusable_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="sigma above 0"):
        entropy_greedy(sigma=0.0)
