"""Training without fully sampled scans: a part of what was acquired judges what the rest gives.

SSDU (Yaman et al., Self-supervised learning of physics-guided reconstruction neural networks
without fully sampled reference data, MRM 84:3172, 2020): acquired samples are divided in two. The
reconstructor sees one part; the loss compares its image with the other part, in k-space, coil by
coil. Samples are held out and not lines, so that there is some of every line on both sides.
"""

import torch
from torch import Tensor

from activemri.mri.operators import Operator
from activemri.reconstruction.reconstructor import Measurement, Reconstructor

KEPT_SIDE = 4  # samples around the origin that the reconstructor always sees
_SPREAD = 1 / 4  # of the held-out samples around the origin, standard deviation over the side


def held_out(mask: Tensor, *, share: float, generator: torch.Generator) -> Tensor:
    """Draw acquired samples that a reconstructor shall not see, more of them near the origin.

    As if drawn from a normal distribution around the origin until there are enough different ones
    among the acquired, but all at once: the largest of random numbers of Gumbel's distribution,
    shifted by the logarithm of the density.

    Args:
        mask: acquired samples, bool (batch, height, width).
        share: of the acquired samples, between 0 and 1.
        generator: of the draw.

    Returns:
        bool (batch, height, width).

    Raises:
        ValueError: for a share that leaves nothing on one side.
    """
    if not 0 < share < 1:
        raise ValueError(f"expected a share of held-out samples between 0 and 1; got {share}")
    height, width = mask.shape[-2:]
    y = ((torch.arange(height) - height // 2) / height)[:, None]
    x = (torch.arange(width) - width // 2) / width
    density = -(y**2 + x**2) / (2 * _SPREAD**2)
    half = KEPT_SIDE // 2
    free = mask.cpu().clone()
    free[..., height // 2 - half : height // 2 + half, width // 2 - half : width // 2 + half] = 0
    uniform = torch.rand(mask.shape, generator=generator).clamp(1e-12, 1 - 1e-7)
    keys = torch.where(free, density - torch.log(-torch.log(uniform)), -torch.inf).flatten(1)
    rank = keys.argsort(dim=1, descending=True).argsort(dim=1)
    wanted = torch.ceil(share * mask.cpu().flatten(1).sum(dim=1))[:, None]
    return ((rank < wanted).reshape(mask.shape) & free).to(mask.device)


def divided(measurement: Measurement, out: Tensor) -> tuple[Measurement, Operator]:
    """What the reconstructor sees, and the operator of the samples that are held out.

    Args:
        measurement: all that was acquired.
        out: held-out samples, bool (batch, height, width).
    """
    operator = measurement.operator
    shape, maps = operator.transform.shape, operator.sensitivity
    seen = Operator.on_grid(operator.grid_mask & ~out, shape, maps)
    return Measurement.of_grid(measurement.kspace, seen), Operator.on_grid(out, shape, maps)


def self_supervised_loss(
    reconstructor: Reconstructor,
    measurement: Measurement,
    *,
    share: float,
    n_splits: int,
    generator: torch.Generator,
) -> Tensor:
    """|u - v| / |u| in the norms of squares and of magnitudes, summed: (batch,).

    u is what was measured of the held-out samples, v what the reconstruction says about them.

    Args:
        reconstructor: to be judged.
        measurement: all that was acquired.
        share: of samples to hold out.
        n_splits: draws to average over (multi-mask SSDU, Yaman et al., NMR Biomed. 35:e4798, 2022).
        generator: of the draws.
    """
    kspace = measurement.kspace
    mask = measurement.operator.grid_mask.expand(-1, *kspace.shape[-2:])
    losses = []
    for _ in range(n_splits):
        out = held_out(mask, share=share, generator=generator)
        seen, operator = divided(measurement, out)
        predicted = operator.forward(reconstructor(seen).image)
        measured = operator.transform.of_grid(kspace) * operator.mask[:, :, None, None]
        losses.append(_relative(predicted - measured, measured))
    return torch.stack(losses).mean(dim=0)


def _relative(error: Tensor, measured: Tensor) -> Tensor:
    """Sum of the relative errors in both norms, whatever the signal's scale: (batch,)."""
    largest = measured.abs().flatten(1).amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
    unit = largest[:, None, None, None]
    squares = [
        torch.view_as_real(values / unit).square().sum(dim=-1).flatten(1)
        for values in (error, measured)
    ]
    # the slope of a root is infinite at zero
    euclidean, absolute = (
        [(s.sum(dim=1) + _TINY).sqrt() for s in squares],
        [(s + _TINY).sqrt().sum(dim=1) for s in squares],
    )
    return euclidean[0] / euclidean[1] + absolute[0] / absolute[1]


_TINY = 1e-20
