"""Policies that look at this scan's reconstruction: the evaluator's, and the uncertainty's."""

from functools import partial

import torch
from torch import Tensor

from activemri.agents.greedy import Greedy
from activemri.agents.policy import Traits
from activemri.envs.scan import View
from activemri.evaluator import Evaluator
from activemri.mri.geometry import cartesian
from activemri.mri.spectrum import line_distances, power_law

_AXES = (-2, -1)


def evaluator_greedy(evaluator: Evaluator) -> Greedy:
    """Takes the line that looks least real to the evaluator.

    Zhang et al., CVPR 2019: argmin over the legal columns of e_i(reconstruction). An action that
    acquires several lines counts what all of them lack to a score of 1.

    Args:
        evaluator: for as many lines as the scans have, or more.
    """
    traits = Traits(needs=frozenset({"lines", "evaluator"}))
    return Greedy("evaluator-greedy", partial(_evaluator_gain, evaluator), traits)


def uncertainty_greedy() -> Greedy:
    """Takes the line about which the reconstruction is least certain.

    Where the reconstructor gives posterior samples (ensembles, Monte-Carlo dropout), that is the
    line whose samples vary most. Else the standard deviation of the pixels is carried over to the
    lines; see :func:`line_variance`.
    """
    traits = Traits(needs=frozenset({"uncertainty", "grid"}))
    return Greedy(
        "uncertainty-greedy", lambda view: action_gains(line_variance(view), view), traits
    )


def line_scores(evaluator: Evaluator, view: View) -> Tensor:
    """What the evaluator says of every line, float (batch, n_lines).

    Raises:
        ValueError: if the geometry acquires points, or has more lines than the evaluator.
    """
    if not view.geometry.has_lines:
        raise ValueError(
            f"an evaluator scores whole lines; geometry {view.geometry.name!r} has none"
        )
    image = view.reconstruction.image
    with torch.no_grad():
        scores: Tensor = evaluator(
            image.transpose(1, 2) if view.geometry.are_rows else image, view.mask
        )
    return scores


def line_variance(view: View) -> Tensor:
    """Expected squared error of every line that was not acquired, float (batch, n_lines).

    With posterior samples it is their variance, summed along the readout. With a standard
    deviation s per pixel alone, errors are taken to be s times stationary noise. Their energy on
    line i is then that of s along the phase encode, convolved with the noise's spectrum P:

        v_i = sum_j P_j q_{i - j},   q = sum over the readout of |F s|^2.

    P is zero on acquired lines, whose samples are known, and elsewhere follows the power law of
    frequency that fits the energies of the acquired lines best: an image's missing detail is as
    strong as its known spectrum promises.

    Raises:
        ValueError: if the reconstructor gives no uncertainty.
    """
    samples, deviation = view.reconstruction.samples, view.reconstruction.uncertainty
    if samples is not None:
        spread = samples - samples.mean(dim=1, keepdim=True)
        energy = view.transform.energy(spread.flatten(0, 1))
        variance: Tensor = energy.unflatten(0, samples.shape[:2]).mean(dim=1)
    elif deviation is not None:
        transform = cartesian(view.transform)
        energy = transform.grid_energy(deviation.to(torch.complex64))
        noise = noise_spectrum(view)
        product = torch.fft.rfft2(torch.fft.ifftshift(energy, _AXES)) * torch.fft.rfft2(noise)
        spread = torch.fft.irfft2(product, s=noise.shape[1:])
        variance = transform.of_grid_values(spread.clamp(min=0))
    else:
        raise ValueError(
            "uncertainty-greedy needs a reconstructor that says how certain it is, e.g. cresnet, "
            "an ensemble or Monte-Carlo dropout"
        )
    return variance.masked_fill(view.mask, 0)


def action_gains(per_line: Tensor, view: View) -> Tensor:
    """What actions gain, from what each new line does: (batch, n_lines) to (batch, n_actions)."""
    new = view.measurable & ~view.mask
    return view.geometry.by_action(per_line.double() * new, "sum")


def noise_spectrum(view: View) -> Tensor:
    """P of :func:`line_variance`: float64 (batch, height or 1, width or 1), like a grid mask."""
    known = view.operator.grid_mask
    energy = cartesian(view.transform).grid_energy(view.zero_filled)
    total = energy.sum(dim=_AXES, keepdim=True)
    share = energy / torch.where(total > 0, total, torch.ones_like(total))
    distance = line_distances((known.shape[1], known.shape[2]), known.device)
    expected = power_law(share.flatten(1), known.flatten(1), distance)
    return expected.view_as(share).masked_fill(known, 0)


def _evaluator_gain(evaluator: Evaluator, view: View) -> Tensor:
    return action_gains(1 - line_scores(evaluator, view), view)
