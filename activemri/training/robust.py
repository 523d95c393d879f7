"""Self-supervised training whose expected loss is that of noise-free, fully sampled scans.

SSDU (:mod:`activemri.training.self_supervised`) weighs what it holds out as it happens to be
sampled, and what it compares with is as noisy as what it sees. Two corrections, after

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

from collections.abc import Sequence

import torch
from torch import Tensor

from activemri.mri.geometry import cartesian
from activemri.mri.noise import estimated_sigma
from activemri.mri.operators import Operator
from activemri.reconstruction.reconstructor import Measurement, Reconstructor
from activemri.training.self_supervised import held_out


def sample_weights(
    masks: Sequence[Tensor], *, height: int, share: float, generator: torch.Generator
) -> Tensor:
    """What every held-out sample weighs, from how often samples are acquired and seen.

    Args:
        masks: acquired columns of many scans, bool (width,).
        height: rows of k-space.
        share: of samples that are held out.
        generator: of the draws.

    Returns:
        float32 (height, width); 0 where nothing was ever held out.
    """
    lines = torch.stack(list(masks))
    acquired = lines[:, None].expand(-1, height, -1)
    out = held_out(acquired, share=share, generator=generator).float().mean(dim=0)
    probability = lines.float().mean(dim=0)
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
    """Weighted squared error of what is held out and of what is seen, relative: (batch,).

    Args:
        reconstructor: to be judged.
        measurement: all that was acquired.
        weights: of held-out samples, (height, width).
        share: of samples to hold out.
        n_splits: draws to average over.
        more_noise: strength of the noise that is added, over that of the scan's own.
        generator: of the draws.
    """
    kspace, operator = measurement.kspace, measurement.operator
    shape = operator.transform.shape
    mask = operator.grid_mask.expand(-1, *kspace.shape[-2:])
    sigma = estimated_sigma(kspace)[..., None, None]
    energy = kspace.abs().square().flatten(1).sum(dim=1)
    losses = []
    for _ in range(n_splits):
        out = held_out(mask, share=share, generator=generator)
        noise = sigma * torch.randn(kspace.shape, dtype=kspace.dtype, generator=generator).to(
            kspace.device
        )
        seen = Operator.on_grid(mask & ~out, shape, operator.sensitivity)
        image = reconstructor(Measurement.of_grid(kspace + more_noise * noise, seen)).image
        whole = Operator.on_grid(mask, shape, operator.sensitivity)
        everywhere = cartesian(whole.transform).grid(whole.forward(image))
        wanted = torch.where(out.unsqueeze(1), kspace, kspace - noise / more_noise)
        error = torch.view_as_real(everywhere - wanted).square().sum(dim=(1, -1))
        weighted = torch.where(out, weights.to(error.device) * error, error) * mask
        losses.append(weighted.flatten(1).sum(dim=1) / energy)
    return torch.stack(losses).mean(dim=0)
