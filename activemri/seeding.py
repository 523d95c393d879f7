"""First weights of networks from seeds."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

N = TypeVar("N", bound=nn.Module)


def seeded(make: Callable[[], N], seed: int) -> N:
    """A module whose first weights come from a seed; the global random state is left alone."""
    with torch.random.fork_rng(devices=[]):  # layers draw their first weights from the global state
        torch.manual_seed(seed)
        return make()
