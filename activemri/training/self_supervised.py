"""Training without fully sampled scans: a part of the acquired samples judges what the rest gives.

SSDU (Yaman et al., Self-supervised learning of physics-guided reconstruction neural networks
without fully sampled reference data, MRM 84:3172, 2020): acquired samples are divided in two. The
reconstructor sees one part; the loss compares its image with the other part, in k-space, coil by
coil. Samples are held out and not lines, so that there is some of every line on both sides.

Its expected loss is not that of noise-free, fully sampled scans: held-out samples weigh as they
happen to be sampled, and are as noisy as what is seen. Robust SSDU corrects both, after

- Millard and Chiew, A theoretical framework for self-supervised MR image reconstruction using
  sub-sampling via variable density Noisier2Noise, IEEE TCI 9:707, 2023: a sample that is acquired
  with probability P and then seen with probability Q stands for all scans in which it is not seen,
  and weighs (1 - Q P) / (P (1 - Q));
- Millard and Chiew, Clean self-supervised MRI reconstruction from noisy, sub-sampled training data
  with Robust SSDU, Bioengineering 11:1305, 2024: further noise is added to what is seen, and what
  was seen is judged too. We write it as Recorrupted-to-Recorrupted (Pang et al., CVPR 2021), which
  is the same loss with its correction inside: of a sample y and drawn noise n of the same strength,
  the network sees y + a n and is compared with y - n / a. The noise of one is independent of that
  of the other, so the network can only learn the signal, and nothing is to be corrected afterwards.
"""

import torch
from torch import Tensor

from activemri.mri.geometry import cartesian
from activemri.mri.noise import estimated_sigma
from activemri.mri.operators import Operator
from activemri.reconstruction.reconstructor import Measurement, Reconstructor

KEPT_SIDE = 4  # samples around the origin that the reconstructor always sees
_TINY = 1e-20
_SPREAD = 1 / 4  # of the held-out samples around the origin, standard deviation over the side


def held_out(mask: Tensor, *, share: float, generator: torch.Generator) -> Tensor:
    """Draw a share of acquired samples, bool (batch, height, width), more of them near the origin.

    As if drawn from a normal distribution around the origin until there are enough different ones
    among the acquired, but all at once: the largest of random numbers of Gumbel's distribution,
    shifted by the logarithm of the density. A share that leaves nothing on one side is a
    ValueError.
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


def self_supervised_loss(
    reconstructor: Reconstructor,
    measurement: Measurement,
    *,
    share: float,
    n_splits: int,
    generator: torch.Generator,
) -> Tensor:
    """|u - v| / |u| in the norms of squares and of magnitudes, summed: (batch,).

    u is what was measured of the held-out samples, v what the reconstruction says about them;
    averaged over draws (multi-mask SSDU, Yaman et al., NMR Biomed. 35:e4798, 2022).
    """
    kspace, operator = measurement.kspace, measurement.operator
    shape, maps = operator.transform.shape, operator.sensitivity
    mask = operator.grid_mask.expand(-1, *shape)
    losses = []
    for _ in range(n_splits):
        out = held_out(mask, share=share, generator=generator)
        seen = Operator.on_grid(mask & ~out, shape, maps)
        judged = Operator.on_grid(out, shape, maps)
        predicted = judged.forward(reconstructor(Measurement.of_grid(kspace, seen)).image)
        measured = judged.transform.of_grid(kspace) * judged.mask[:, :, None, None]
        # In units of the largest sample, whatever the signal's scale.
        largest = measured.abs().flatten(1).amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
        error, usual = (
            torch.view_as_real(values / largest[:, None, None, None]).square().sum(-1).flatten(1)
            for values in (predicted - measured, measured)
        )
        # The slope of a root is infinite at zero.
        euclidean = (error.sum(dim=1) + _TINY).sqrt() / (usual.sum(dim=1) + _TINY).sqrt()
        absolute = (error + _TINY).sqrt().sum(dim=1) / (usual + _TINY).sqrt().sum(dim=1)
        losses.append(euclidean + absolute)
    return torch.stack(losses).mean(dim=0)


def sample_weights(acquired: Tensor, *, share: float, generator: torch.Generator) -> Tensor:
    """Weight of held-out samples, from how often they are acquired, bool (n, height, width).

    float32 (height, width); 0 where nothing was ever held out.
    """
    out = held_out(acquired, share=share, generator=generator).float().mean(dim=0)
    probability = acquired.float().mean(dim=0)
    seen = probability - out  # P Q: acquired and seen
    return torch.where(out > 0, (1 - seen) / out, 0.0)


def robust_loss(
    reconstructor: Reconstructor,
    measurement: Measurement,
    *,
    weights: Tensor,
    share: float,
    n_splits: int,
    more_noise: float,
    generator: torch.Generator,
) -> Tensor:
    """As :func:`self_supervised_loss`, squared error of what is held out and seen, relative.

    Held-out samples have weights, (height, width). More noise is in units of the scan's own.
    """
    kspace, operator = measurement.kspace, measurement.operator
    shape, maps = operator.transform.shape, operator.sensitivity
    mask = operator.grid_mask.expand(-1, *shape)
    sigma = estimated_sigma(kspace)[..., None, None]
    energy = kspace.abs().square().flatten(1).sum(dim=1)
    losses = []
    for _ in range(n_splits):
        out = held_out(mask, share=share, generator=generator)
        noise = sigma * torch.randn(kspace.shape, dtype=kspace.dtype, generator=generator).to(
            kspace.device
        )
        seen = Operator.on_grid(mask & ~out, shape, maps)
        image = reconstructor(Measurement.of_grid(kspace + more_noise * noise, seen)).image
        whole = Operator.on_grid(mask, shape, maps)
        everywhere = cartesian(whole.transform).grid(whole.forward(image))
        wanted = torch.where(out.unsqueeze(1), kspace, kspace - noise / more_noise)
        error = torch.view_as_real(everywhere - wanted).square().sum(dim=(1, -1))
        weighted = torch.where(out, weights.to(error.device) * error, error) * mask
        losses.append(weighted.flatten(1).sum(dim=1) / energy)
    return torch.stack(losses).mean(dim=0)
