"""Scans with artefacts, small enough to look at every sample."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from activemri.data.slices import Slice
from activemri.envs.scan import Scan, State
from activemri.envs.scanner import Moving, Noisy, Scanner, Spiking
from activemri.reconstruction.reconstructor import Reconstructor
from activemri.reconstruction.zero_filled import ZeroFilled
from tests.envs.scans import grouped, scan

SHAPE = (12, 14)
ARTEFACTS: dict[str, Scanner] = {
    "noise": Noisy(0.2, repeats=3),
    "motion": Moving(0.1, repeats=3, n_moves=2, duration=3, processing="none"),
    "rejected motion": Moving(0.1, repeats=3, n_moves=2, duration=3, navigator_noise=0.05),
    "spikes": Spiking(0.6, repeats=3, processing="none"),
    "despiked": Spiking(0.6, repeats=3),
}


def scan_with(
    scanner: Scanner,
    *,
    geometry: str = "columns",
    reconstructor: Reconstructor | None = None,
    per_action: int = 1,
    **options: Any,
) -> Scan:
    return Scan(
        grouped(geometry, SHAPE, per_action),
        reconstructor or ZeroFilled(),
        scanner=scanner,
        **{"budget": 8, "n_center_lines": 3, **options},
    )


def scans(n: int = 2, *, n_coils: int = 1, maps: bool = False) -> list[Slice]:
    """Some smaller than the frame would be another kind; these fill it."""
    return [scan(i, shape=SHAPE, n_coils=n_coils, maps=maps) for i in range(n)]


def begin(acquisition: Scan, slices: Sequence[Slice], *, first_seed: int = 0) -> State:
    seeds = torch.arange(first_seed, first_seed + len(slices))
    return acquisition.start(slices, seeds=seeds)


def legal_plan(acquisition: Scan, state: State, steps: int, *, seed: int = 0) -> Tensor:
    """Legal actions at random, lines measured again among them: (steps, batch)."""
    generator = np.random.default_rng(seed)
    state, plan = state.clone(), list[Tensor]()
    for _ in range(steps):
        taken = [int(generator.choice(np.flatnonzero(row))) for row in state.view.legal.numpy()]
        if plan and bool(generator.random() < 0.4):  # the same once more, where that is legal
            again = plan[-1].tolist()
            taken = [
                a if state.view.legal[i, a] else b
                for i, (a, b) in enumerate(zip(again, taken, strict=True))
            ]
        plan.append(torch.tensor(taken))
        state = acquisition.acquire(state, plan[-1])
    return torch.stack(plan)


def play(acquisition: Scan, state: State, plan: Tensor) -> State:
    for actions in plan:
        state = acquisition.acquire(state, actions)
    return state
