"""The entropy rule of Active Diffusion Subsampling: measure where posterior samples disagree."""

import math
from typing import Literal

import torch
from torch import Tensor

from activemri.agents.greedy import Greedy
from activemri.agents.policy import Traits
from activemri.agents.posterior import posterior_samples
from activemri.envs.scan import View
from activemri.reconstruction.reconstructor import Reconstructor

#: Standard deviation of the components, per real number, in units of the scan's scale (the largest
#: magnitude of its first image). It is the 50 of the paper, whose images of 128 x 128 lie in
#: [-1, 1] and whose Fourier transform is not normalised: 50 / 128 with an orthonormal one.
SIGMA = 50 / 128

#: How distances become a score; see :func:`mixture_entropy`.
Form = Literal["mixture", "repo"]
FORMS: tuple[Form, ...] = ("mixture", "repo")


def entropy_greedy(
    sampler: Reconstructor | None = None, *, sigma: float = SIGMA, form: Form = "mixture"
) -> Greedy:
    """Takes the lines about which posterior samples carry most information.

    Nolan et al., "Active Diffusion Subsampling", 2025: every sample of the posterior (of any
    reconstructor that draws some, see :func:`activemri.agents.posterior.posterior_samples`)
    predicts what a line would measure; with Gaussian noise of standard deviation `sigma` these
    predictions are a Gaussian mixture, and the line whose mixture has the largest entropy is taken.
    Ours differs: an action of several lines is judged by the mixture of all its new lines together;
    with several coils predictions are those of every coil, under the maps of the scan.

    `uncertainty-greedy` is the cheaper rule on the same samples: their variance, which is what
    remains of the entropy if sigma is large.

    Args:
        sampler: draws the samples; None takes those of the scans' own reconstructions.
        sigma: standard deviation of the components, in units of the scan's scale. The smaller, the
            sooner samples count as entirely different, and lines beyond that as equals.
        form: "mixture", or "repo" for what the authors' code computes.

    Raises:
        ValueError: a sigma that is not above 0, or another form.
    """
    if not sigma > 0 or form not in FORMS:
        raise ValueError(
            f"expected a sigma above 0 and one of {', '.join(FORMS)}; got {sigma} and {form!r}"
        )

    def scorer(view: View) -> Tensor:
        distances = _distances_of_actions(
            sample_distances(view, posterior_samples(view, sampler)), view
        )
        unit = view.scale.double().clamp(min=torch.finfo(torch.float32).tiny).square()
        return mixture_entropy(distances / unit[:, None, None, None], sigma=sigma, form=form)

    return Greedy("entropy-greedy", scorer, Traits(needs=frozenset({"samples", "grid"})))


def mixture_entropy(distances: Tensor, *, sigma: float, form: Form = "mixture") -> Tensor:
    """Entropy of equal Gaussians around samples, beyond that of a single one, in nats.

    With squared distances d_ij^2 between N samples

        H = - 1/N sum_i log 1/N sum_j exp(-d_ij^2 / (2 sigma^2)),

    0 where all samples agree, log N where all are far apart, in between at most twice the true
    value and never below it (Kolchinsky and Tracey, Entropy 2017). The authors' code has the
    opposite sign in the exponent and none in front ("repo"): no entropy, but where distances are
    small against sigma it ranks lines alike, by their sum of squares. It does not level off.

    Args:
        distances: squared, float64 (batch, sample, sample, item).
        sigma: standard deviation of each Gaussian along every axis, in the unit of the distances.
        form: see above.

    Returns:
        float64 (batch, item).
    """
    n_samples = distances.shape[1]
    exponent = distances / (2 * sigma**2)
    if form == "repo":
        return torch.logsumexp(exponent, dim=2).sum(dim=1)
    density = torch.logsumexp(-exponent, dim=2) - math.log(n_samples)
    return -density.mean(dim=1)


def sample_distances(view: View, samples: Tensor) -> Tensor:
    """Squared distances of samples on every line of k-space.

    Summed over the readout and the coils: float64 (batch, sample, sample, n_lines).
    """
    maps, n_samples = view.sensitivity, samples.shape[1]
    coils = samples.unsqueeze(2) if maps is None else samples.unsqueeze(2) * maps.unsqueeze(1)
    found = None
    for one in range(n_samples):
        for other in range(one):
            apart = coils[:, one] - coils[:, other]
            energy = torch.stack([view.transform.energy(coil) for coil in apart.unbind(1)]).sum(0)
            if found is None:
                found = energy.new_zeros(len(energy), n_samples, n_samples, energy.shape[1])
            found[:, one, other] = found[:, other, one] = energy
    assert found is not None, "one sample tells nothing"
    return found


def _distances_of_actions(of_lines: Tensor, view: View) -> Tensor:
    """Distances on all new lines of every action: (batch, sample, sample, n_actions)."""
    new = view.measurable & ~view.mask
    return view.geometry.by_action(of_lines * new[:, None, None], "sum")
