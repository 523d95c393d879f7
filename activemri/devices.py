"""Devices, and first weights that follow from a seed."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

N = TypeVar("N", bound=nn.Module)


def usable(device: str | torch.device) -> torch.device:
    """The device of that name, if this machine has it; else a ValueError lists those it has."""
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):  # torch's words for an unknown name
        found = None
    if found is not None and f"{found.type}:{found.index or 0}" in ("cpu:0", *_accelerators()):
        return found
    there = ", ".join(["cpu", *_accelerators()])
    raise ValueError(f"device {str(device)!r} cannot be used here; there is: {there}")


def seeded(make: Callable[[], N], seed: int) -> N:
    """A module whose first weights come from a seed; the global random state is left alone."""
    with torch.random.fork_rng(devices=[]):  # layers draw their first weights from the global state
        torch.manual_seed(seed)
        return make()


def _accelerators() -> list[str]:
    """Names of all devices, the CPU aside."""
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    there = [f"cuda:{index}" for index in range(n_gpus)]
    return [*there, "mps:0"] if torch.backends.mps.is_available() else there
