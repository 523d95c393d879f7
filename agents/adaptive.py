"""Policies that look at this scan's reconstruction: the evaluator's, and the uncertainty's."""

from functools import partial

import torch
from torch import Tensor

from activemri.agents.greedy import Greedy
from activemri.agents.policy import Traits
from activemri.envs.acquisition import View
from activemri.evaluator import Evaluator
from activemri.mri import fourier
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
    traits = Traits(needs=frozenset({"uncertainty"}))
    return Greedy(
        "uncertainty-greedy", lambda view: action_gains(line_variance(view), view), traits
    )


def line_scores(evaluator: Evaluator, view: View) -> Tensor:
    """What the evaluator says of every line, float (batch, n_lines).

    Raises:
        ValueError: if the geometry acquires points, or has more lines than the evaluator.
    """
    along_height, along_width = view.geometry.selected
    if along_height and along_width:
        raise ValueError(
            f"an evaluator scores whole lines; geometry {view.geometry.name!r} acquires points"
        )
    image = view.reconstruction.image
    with torch.no_grad():
        scores: Tensor = evaluator(image.transpose(1, 2) if along_height else image, view.mask)
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
        variance = _energy(spread.flatten(0, 1), view).unflatten(0, samples.shape[:2]).mean(dim=1)
    elif deviation is not None:
        spectrum = torch.fft.ifftshift(_energy(deviation.to(torch.complex64), view), _AXES)
        noise = noise_spectrum(view)
        product = torch.fft.rfft2(spectrum) * torch.fft.rfft2(noise)
        variance = torch.fft.irfft2(product, s=noise.shape[1:])
    else:
        raise ValueError(
            "uncertainty-greedy needs a reconstructor that says how certain it is, e.g. cresnet, "
            "an ensemble or Monte-Carlo dropout"
        )
    known = view.operator.mask
    return view.geometry.in_frame(variance.clamp(min=0).masked_fill(known, 0))


def action_gains(per_line: Tensor, view: View) -> Tensor:
    """What actions gain, from what each new line does: (batch, n_lines) to (batch, n_actions)."""
    groups = view.geometry.groups
    new = (view.measurable & ~view.mask)[:, groups] & view.geometry.first_mention
    return (per_line.double()[:, groups] * new).sum(dim=-1)


def noise_spectrum(view: View) -> Tensor:
    """P of :func:`line_variance`: float64 (batch, height or 1, width or 1), like the mask."""
    known = view.operator.mask
    energy = _energy(view.zero_filled, view)
    total = energy.sum(dim=_AXES, keepdim=True)
    share = energy / torch.where(total > 0, total, torch.ones_like(total))
    distance = line_distances((known.shape[1], known.shape[2]), known.device)
    expected = power_law(share.flatten(1), known.flatten(1), distance)
    return expected.view_as(share).masked_fill(known, 0)


def _evaluator_gain(evaluator: Evaluator, view: View) -> Tensor:
    return action_gains(1 - line_scores(evaluator, view), view)


def _energy(image: Tensor, view: View) -> Tensor:
    """Energy of images on every line: float64 (batch, height or 1, width or 1), like the mask."""
    selected = view.geometry.selected
    axes = tuple(axis for axis, chosen in zip(_AXES, selected, strict=True) if chosen)
    energy = fourier.fft(image, axes).abs().double().square()
    for axis, chosen in zip(_AXES, selected, strict=True):
        if not chosen:
            energy = energy.sum(dim=axis, keepdim=True)
    return energy
