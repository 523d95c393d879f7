"""Policies that ask the evaluator or the uncertainty, against plain loops."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from activemri.agents.adaptive import (
    evaluator_greedy,
    line_scores,
    line_variance,
    principal_components,
    uncertainty_gradient,
    uncertainty_greedy,
)
from activemri.agents.rollout import rollout
from activemri.data.slices import Slice
from activemri.envs.scan import Scan, View
from activemri.evaluator import Evaluator
from activemri.mri import fourier
from activemri.mri.operators import Operator
from activemri.reconstruction.diffusion import Diffusion
from activemri.reconstruction.reconstructor import Measurement, Reconstruction

MakeScan = Callable[..., Slice]
MakeProtocol = Callable[..., Scan]


def some_evaluator(width: int) -> Evaluator:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Evaluator(width, channels=2, layers=1).eval()


def view_of(protocol: Scan, scans: list[Slice]) -> View:
    return protocol.start(scans).view


def test_the_line_that_looks_least_real_is_taken(
    make_scan: MakeScan, make_protocol: MakeProtocol
) -> None:
    view, evaluator = view_of(make_protocol(), [make_scan(0), make_scan(1)]), some_evaluator(13)
    with torch.no_grad():
        scores = evaluator(view.reconstruction.image, view.mask)
    expected = [
        min((row for row in range(13) if view.legal[i, row]), key=lambda row: float(scores[i, row]))
        for i in range(2)
    ]
    generators = [np.random.default_rng(0)] * 2
    assert evaluator_greedy(evaluator).act(view, generators).tolist() == expected


def test_rows_are_scored_as_columns_of_the_transposed_image(
    make_scan: MakeScan, make_protocol: MakeProtocol
) -> None:
    view, evaluator = view_of(make_protocol("rows"), [make_scan(0)]), some_evaluator(13)
    with torch.no_grad():
        expected = evaluator(view.reconstruction.image.transpose(1, 2), view.mask)
    assert torch.equal(line_scores(evaluator, view), expected)


def test_an_action_of_several_lines_counts_what_all_new_ones_lack(
    make_scan: MakeScan, make_protocol: MakeProtocol
) -> None:
    view = view_of(make_protocol(lines_per_action=3), [make_scan(0)])
    evaluator = some_evaluator(13)
    lack = 1 - line_scores(evaluator, view)[0].double()
    gains = []
    for group in view.geometry.readouts(torch.arange(view.geometry.n_actions))[0]:
        new = {int(line) for line in group if not view.mask[0, line]}
        gains.append(sum(float(lack[line]) for line in new) if new else -np.inf)
    taken = evaluator_greedy(evaluator).act(view, [np.random.default_rng(0)])
    legal = [a for a in range(len(gains)) if view.legal[0, a]]
    assert int(taken[0]) == max(legal, key=lambda action: gains[action])


def test_points_have_no_line_to_score(make_scan: MakeScan, make_protocol: MakeProtocol) -> None:
    view = view_of(make_protocol("points"), [make_scan(0)])
    with pytest.raises(ValueError, match="whole lines; geometry 'points'"):
        line_scores(some_evaluator(13), view)


def test_samples_are_compared_line_by_line(
    make_scan: MakeScan, make_protocol: MakeProtocol
) -> None:
    view = view_of(make_protocol(), [make_scan(0), make_scan(1)])
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(2, 4, 9, 13, dtype=torch.complex64, generator=generator)
    seen = replace(view, reconstruction=Reconstruction(samples.mean(dim=1), samples=samples))
    kspace = torch.stack([fourier.fft2(of_one) for of_one in samples])
    expected = torch.zeros(2, 13)
    for scan in range(2):
        for line in range(13):
            if not view.mask[scan, line]:
                values = kspace[scan, :, :, line]
                expected[scan, line] = (values - values.mean(dim=0)).abs().square().mean(0).sum()
    assert torch.allclose(line_variance(seen).float(), expected, rtol=1e-4)


def modulated_noise(deviation: Tensor, power: Tensor, *, n_draws: int) -> Tensor:
    """Mean energy of each line of s times noise with that spectrum, drawn at random: (line,)."""
    generator = torch.Generator().manual_seed(0)
    height, width = deviation.shape
    white = torch.randn(n_draws, height, width, dtype=torch.complex64, generator=generator)
    noise = fourier.ifft(power.sqrt() * white, (-1,))
    return fourier.fft(deviation * noise, (-1,)).abs().square().sum(dim=-2).mean(dim=0)


def test_the_energy_of_modulated_noise_is_that_of_many_draws(
    make_scan: MakeScan, make_protocol: MakeProtocol
) -> None:
    from activemri.agents import adaptive

    view = view_of(make_protocol(unsure=True), [make_scan(0)])
    deviation = view.reconstruction.uncertainty
    assert deviation is not None
    power = adaptive.noise_spectrum(view)[0, 0].float()
    assert bool((power[view.mask[0]] == 0).all()) and bool((power >= 0).all())
    drawn = modulated_noise(deviation[0], power, n_draws=4000)
    free = ~view.mask[0]
    predicted = line_variance(view)[0].float()
    ratio = predicted[free] / drawn[free]
    assert (ratio / ratio.mean() - 1).abs().max() < 0.05, ratio


def test_a_steeper_spectrum_brings_the_next_line_closer_to_the_centre(
    make_scan: MakeScan, make_protocol: MakeProtocol
) -> None:
    """White images ask for lines anywhere; smooth ones for the lowest missing frequency."""
    protocol = make_protocol(unsure=True, n_center_lines=4)
    smooth = make_scan(0)
    steep = replace(smooth, kspace=smooth.kspace / (1 + (torch.arange(13) - 6).abs() ** 3))
    variance = line_variance(view_of(protocol, [steep]))[0]
    distance = (torch.arange(13) - 6).abs()
    assert int(distance[variance.argmax()]) <= 3


def test_a_reconstructor_without_uncertainty_is_refused(
    make_scan: MakeScan, make_protocol: MakeProtocol
) -> None:
    with pytest.raises(ValueError, match="uncertainty-greedy needs a reconstructor that says"):
        rollout(make_protocol(), uncertainty_greedy(), [make_scan(0)])


def test_the_action_that_lowers_the_entropy_fastest_is_taken(
    make_scan: MakeScan, make_protocol: MakeProtocol
) -> None:
    """Slopes by a small weight for one line after the other, samples as the image shows them."""
    acquisition = make_protocol(unsure=True)
    view, small = view_of(acquisition, [make_scan(0), make_scan(1)]), 1e-2
    whole = Operator(view.transform, torch.ones_like(view.mask), view.sensitivity)
    shown = whole.forward(view.reconstruction.image)
    samples = torch.where(view.mask[:, :, None, None], view.log.samples, shown)

    def entropy(weights: Tensor) -> Tensor:
        operator = Operator(view.transform, weights, view.sensitivity)
        found = acquisition.reconstructor(Measurement.of(samples, operator)).uncertainty
        assert found is not None
        return found.double().log().sum(dim=(1, 2))

    at_start, steps = view.mask.float(), small / 2 * torch.eye(13)
    falls = torch.stack([entropy(at_start - s) - entropy(at_start + s) for s in steps], dim=1)
    score = uncertainty_gradient(acquisition.reconstructor).score(view)
    new = view.measurable & ~view.mask
    torch.testing.assert_close(score[new], (falls / small)[new], rtol=0.02, atol=1e-3)


def test_what_has_no_gradient_is_refused(make_scan: MakeScan, make_protocol: MakeProtocol) -> None:
    with pytest.raises(ValueError, match="uncertainty that follows from the mask"):
        policy = uncertainty_gradient(make_protocol().reconstructor)
        rollout(make_protocol(), policy, [make_scan(0)])
    with pytest.raises(ValueError, match="gradients with respect to masks"):
        uncertainty_gradient(Diffusion())


def test_all_principal_components_together_are_the_variance_of_the_samples(
    make_scan: MakeScan, make_protocol: MakeProtocol
) -> None:
    view = view_of(make_protocol(lines_per_action=2), [make_scan(0), make_scan(1)])
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(2, 4, 9, 13, dtype=torch.complex64, generator=generator)
    seen = replace(view, reconstruction=Reconstruction(samples.mean(dim=1), samples=samples))
    every = principal_components(n_components=4).score(seen)
    torch.testing.assert_close(every, uncertainty_greedy().score(seen), rtol=1e-4, atol=1e-6)
    assert bool((principal_components(n_components=1).score(seen) <= every + 1e-6).all())


def test_the_leading_component_decides_alone(
    make_scan: MakeScan, make_protocol: MakeProtocol
) -> None:
    """Samples differ most by what line 2 shows, and by less on all others together."""
    view = view_of(make_protocol(), [make_scan(0)])
    kspace = torch.zeros(1, 4, 9, 13, dtype=torch.complex64)
    kspace[0, :, :, 2] = torch.tensor([1.0, -1.0, 1.0, -1.0])[:, None]
    kspace[0, :, :, 10] = torch.tensor([0.9, 0.9, -0.9, -0.9])[:, None]
    samples = fourier.ifft2(kspace)
    seen = replace(view, reconstruction=Reconstruction(samples.mean(dim=1), samples=samples))
    score = principal_components(n_components=1).score(seen)[0]
    assert int(score.argmax()) == 2
    assert score[10] < 1e-6 < score[2]
