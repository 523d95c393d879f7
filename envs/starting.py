"""What a batch of scans brings along: samples, coil maps, and the seeds of their imperfections."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from activemri.data.slices import Slice
from activemri.envs.legality import check_samples
from activemri.envs.state import check_one_kind
from activemri.mri.sensitivity import SensitivityEstimator


def load(slices: Sequence[Slice], device: torch.device | str) -> tuple[Tensor, Tensor]:
    """k-space of slices of one kind, and which of its samples exist.

    Returns:
        complex64 (batch, coil, height, width), and bool (batch, height, width).

    Raises:
        ValueError: for slices of different kinds, or samples that are not finite.
    """
    check_one_kind(slices)
    kspace = torch.stack([s.kspace for s in slices]).to(device).to(torch.complex64)
    check_samples(slices, kspace)
    return kspace, torch.stack([s.measured for s in slices]).to(device)


def sensitivity(
    slices: Sequence[Slice],
    acquired: Tensor,
    kspace_mask: Tensor,
    *,
    estimate: SensitivityEstimator,
) -> Tensor | None:
    """Given coil maps, or maps estimated from the lines that the scans start with.

    Args:
        slices: who is scanned, of one kind.
        acquired: k-space of the start, zero elsewhere, complex (batch, coil, height, width).
        kspace_mask: which samples that is, bool (batch, height or 1, width or 1).
        estimate: how maps are estimated.

    Returns:
        Complex (batch, coil, height, width), or None for a unit map.
    """
    maps = [s.sensitivity for s in slices]
    if maps[0] is not None:
        given = torch.stack([m for m in maps if m is not None])
        return given.to(acquired.device, torch.complex64)
    if acquired.shape[1] == 1:
        return None
    return estimate(acquired, kspace_mask).contiguous()


def draw_seeds(generators: Sequence[np.random.Generator] | None) -> Tensor:
    """Seeds of the imperfections of episodes, int64 (batch,).

    Raises:
        ValueError: without generators.
    """
    if generators is None:
        raise ValueError("imperfect scans need one generator, or one seed, for each scan")
    return torch.tensor([int(generator.integers(2**62)) for generator in generators])
