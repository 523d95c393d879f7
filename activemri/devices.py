"""Devices, and first weights that follow from a seed."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

N = TypeVar("N", bound=nn.Module)


def usable(device: str | torch.device) -> torch.device:
    """The device of that name, if this machine has it.

    Raises:
        ValueError: for a name that is none, or a device that is not there; the message lists those
            that are.
    """
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:  # also: torch's words for an unknown name
        raise _refusal(device) from error
    if found.type == "cpu" and found.index in (None, 0):
        return found
    if found.type not in _accelerators() or (found.index or 0) >= _accelerators()[found.type]:
        raise _refusal(device)
    return found


def seeded(make: Callable[[], N], seed: int) -> N:
    """A module whose first weights come from a seed; the global random state is left alone."""
    with torch.random.fork_rng(devices=[]):  # layers draw their first weights from the global state
        torch.manual_seed(seed)
        return make()


def _accelerators() -> dict[str, int]:
    """Number of devices of each kind, the CPU aside."""
    counts = {"cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0}
    counts["mps"] = int(torch.backends.mps.is_available())
    return {name: count for name, count in counts.items() if count}


def _refusal(device: object) -> ValueError:
    there = ["cpu"]
    for name, count in _accelerators().items():
        there += [f"{name}:{index}" for index in range(count)]
    return ValueError(f"device {str(device)!r} cannot be used here; there is: {', '.join(there)}")
