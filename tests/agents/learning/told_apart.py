"""Scans of two kinds, whose centre tells which of their outer lines are strong."""

import torch

from activemri.agents.learning.learner import Workplace
from activemri.agents.policy import Policy
from activemri.data.slices import Slice, SliceList
from activemri.envs.protocol import EnvOptions
from activemri.mri import fourier

SHAPE = (8, 10)
CENTER = (4, 5)
#: Where scans of either kind hold the energy that the centre does not.
STRONG = {0: (1, 7), 1: (3, 8)}


def told_apart(n: int = 12) -> SliceList:
    """Scans of both kinds in turn; the centre of the second is an image of the lower half only."""
    return SliceList([_scan(index, index % 2) for index in range(n)], "told-apart")


def workplace(
    scans: SliceList | None = None,
    *,
    max_steps: int = 100,
    warm_start: Policy | None = None,
    **options: object,
) -> Workplace:
    """Zero-filled scans that start with two centre lines, and two to acquire."""
    scans = told_apart() if scans is None else scans
    defaults = {"data": scans, "n_center_lines": 2, "budget": 2, "metrics": ("mse",)}
    task = EnvOptions.of({**defaults, "reward": "-delta_mse", **options})
    return Workplace(
        task=task,
        scans=scans,
        acquisition=task.scan(scans),
        metric="mse",
        max_steps=max_steps,
        seed=3,
        warm_start=warm_start,
        name="small",
    )


def _scan(index: int, which: int) -> Slice:
    generator = torch.Generator().manual_seed(index)
    height, width = SHAPE
    half = torch.zeros(SHAPE, dtype=torch.complex64)
    half[which * height // 2 : (which + 1) * height // 2] = 4.0
    low = torch.zeros(width, dtype=torch.bool)
    low[list(CENTER)] = True
    noise = torch.randn(SHAPE, dtype=torch.complex64, generator=generator)
    strength = torch.full((width,), 0.05)
    strength[list(STRONG[which])] = 1.0
    kspace = torch.where(low, fourier.fft2(half), noise * strength)
    target = fourier.ifft2(kspace).abs()
    return Slice(kspace[None], target, f"v{index}", 0, f"s{index}", float(target.max()))
