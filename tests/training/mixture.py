"""A source of masks that needs no rollout: a stand-in for the policies of real trainings."""

import os
import signal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from activemri.data.slices import SliceInfo
from activemri.training.masks import center_lines

Ints = NDArray[np.int64]


class HeuristicMasks:
    """An equal mixture of simple orders.

    Random, from the centre outwards, equispaced, and random with a density that falls with the
    distance from the centre.

    Args:
        n_center_lines: lines in the centre that every episode starts with.
        budget: length of an episode in lines after those.
    """

    def __init__(self, n_center_lines: int, *, budget: int) -> None:
        self.n_center_lines = n_center_lines
        self.budget = budget

    def __call__(
        self, scan: SliceInfo, generator: np.random.Generator, *, step: int | None = None
    ) -> Tensor:
        mask = center_lines(scan.shape, self.n_center_lines)
        free = np.flatnonzero(~mask.numpy())
        n = int(generator.integers(self.budget + 1)) if step is None else step
        order = _ORDERS[generator.integers(len(_ORDERS))]
        distance = np.abs(free - scan.shape[1] // 2)
        chosen = order(distance, min(n, len(free)), generator)
        mask[torch.from_numpy(free[chosen])] = True
        return mask


class StoppingMasks(HeuristicMasks):
    """Interrupts the training when a mask of that number is asked for."""

    def __init__(self, *, stop_at: int, kill: bool = False) -> None:
        super().__init__(4, budget=6)
        self.stop_at, self.kill, self.n_drawn = stop_at, kill, 0

    def __call__(
        self, scan: SliceInfo, generator: np.random.Generator, *, step: int | None = None
    ) -> Tensor:
        self.n_drawn += step is None  # training draws the step, validation names it
        if self.n_drawn == self.stop_at:
            if self.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise KeyboardInterrupt
        return super().__call__(scan, generator, step=step)


StoppingMasks.__name__ = HeuristicMasks.__name__  # a resumed training must have the same masks


def _random(distance: Ints, n: int, generator: np.random.Generator) -> Ints:
    return generator.choice(len(distance), n, replace=False)


def _outwards(distance: Ints, n: int, generator: np.random.Generator) -> Ints:
    return np.argsort(distance, kind="stable")[:n]


def _equispaced(distance: Ints, n: int, generator: np.random.Generator) -> Ints:
    spacing = len(distance) / max(n, 1)
    return ((np.arange(n) + generator.random()) * spacing).astype(np.int64)


def _denser_inside(distance: Ints, n: int, generator: np.random.Generator) -> Ints:
    density = (1.0 + distance.astype(np.float64)) ** -generator.uniform(0.5, 2.5)
    return generator.choice(len(distance), n, replace=False, p=density / density.sum())


_ORDERS = (_random, _outwards, _equispaced, _denser_inside)
