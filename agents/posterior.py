"""Images that could be behind what has been acquired, for policies that ask what else there is."""

from dataclasses import replace

import torch
from torch import Tensor

from activemri.agents.adaptive import noise_spectrum
from activemri.envs.scan import View
from activemri.mri import fourier
from activemri.reconstruction.reconstructor import Reconstructor

#: Images drawn where a reconstructor gives a standard deviation alone.
N_DRAWN = 8


def posterior_samples(view: View, sampler: Reconstructor | None = None) -> Tensor:
    """Plausible images of every scan, complex (batch, sample, height, width).

    They are those that a reconstructor gives, where it draws any: ensembles, Monte-Carlo dropout,
    diffusion. Of a reconstructor with a standard deviation s per pixel alone, they are

        reconstruction + s n,

    without what that adds to acquired lines, whose samples are known. The noise n is stationary,
    Gaussian, of unit variance (for real and imaginary part each), and its spectrum is the one that
    :func:`activemri.agents.adaptive.line_variance` takes errors to have. Its draws are the same for
    every scan and every time. Such errors know nothing of edges and aliasing, so expect less of
    them than of samples.

    Args:
        view: what is known of the scans.
        sampler: asked for the samples; None takes what comes with the scans' own reconstructions.

    Raises:
        ValueError: if the reconstructor gives neither.
    """
    if sampler is not None:
        with torch.no_grad():
            drawn = sampler(view.measurement)
        view = replace(view, reconstruction=drawn)
    image, deviation = view.reconstruction.image, view.reconstruction.uncertainty
    if view.reconstruction.samples is not None:
        return view.reconstruction.samples
    if deviation is None:
        raise ValueError(
            "this policy needs a reconstructor that draws samples (an ensemble, Monte-Carlo "
            "dropout, diffusion), or at least one with an uncertainty, such as cresnet"
        )
    spectrum = noise_spectrum(view)
    mean = spectrum.mean(dim=(-2, -1), keepdim=True)
    filtered = (spectrum / torch.where(mean > 0, mean, torch.ones_like(mean))).sqrt().float()
    axes = tuple(axis for axis in fourier.IMAGE_AXES if filtered.shape[axis] > 1)
    generator = torch.Generator().manual_seed(0)  # of its own: the policy is not random
    draws = []
    for _ in range(N_DRAWN):
        white = torch.randn(image.shape[1:], dtype=image.dtype, generator=generator)
        noise = fourier.ifft(2**0.5 * filtered * white.to(image.device), axes)
        error = deviation * noise
        draws.append(image + error - view.operator.gram(error))
    return torch.stack(draws, dim=1)
