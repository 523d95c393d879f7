"""The process group of a training: one process, or several under torchrun.

``torchrun --nproc-per-node 2 -m activemri train ...`` starts two. Each takes its part of the scans
of every step; the gradients are added up, so that all have the weights that one process alone
would have, up to rounding, and up to dropout, which every process draws for itself. The first
process validates, writes and shows progress. Processes on several machines need the same folder
for their results.
"""

import os
from collections.abc import Sequence
from datetime import timedelta

import torch
from torch import Tensor, nn

from activemri.devices import usable

#: Longest time that processes wait for the first one to validate.
TIMEOUT = timedelta(hours=6)


def rank() -> int:
    """Number of this process; 0 is the one that writes."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Number of processes."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def device_of(device: str) -> torch.device:
    """The device of this process, if it is there: with "cuda" each takes one of its machine."""
    if world_size() > 1 and device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    return usable(device)


def join(device: str) -> torch.device:
    """Join the process group, wait until all others have joined, and give this one's device.

    Raises:
        ValueError: a device that is not there, or processes that were not started by torchrun.
        ModuleNotFoundError: several processes need accelerate; the message says which extra.
    """
    own = device_of(device)
    if world_size() == 1:
        return own
    try:
        from accelerate import PartialState
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "training in several processes needs accelerate, which is not installed: "
            'pip install "activemri[train]"',
            name=error.name,
        ) from error
    if own.type == "cuda":
        torch.cuda.set_device(own)
    state = PartialState(cpu=own.type == "cpu", timeout=TIMEOUT)
    if state.num_processes != world_size():
        raise ValueError(
            f"expected {world_size()} processes (WORLD_SIZE), found {state.num_processes}; start "
            "them with torchrun"
        )
    return own


def sum_gradients(network: nn.Module, losses: Tensor) -> Tensor:
    """Add up the gradients of all processes, in place, and their losses, which are returned."""
    if world_size() == 1:
        return losses
    from accelerate.utils import reduce

    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in network.parameters()]
    flat = torch.cat([losses, *(g.flatten() for g in gradients)])
    sums = reduce(flat, reduction="sum").split([len(losses), *(g.numel() for g in gradients)])
    for parameter, summed in zip(network.parameters(), sums[1:], strict=True):
        parameter.grad = summed.view_as(parameter)
    summed_losses: Tensor = sums[0]
    return summed_losses


def broadcast(values: Sequence[float], *, device: torch.device | str = "cpu") -> list[float]:
    """The values of the first process, in all of them; the others wait for it."""
    if world_size() == 1:
        return list(values)
    from accelerate.utils import broadcast as send

    sent = torch.tensor(values, dtype=torch.float64, device=device)
    return [float(v) for v in send(sent, from_process=0).tolist()]


def barrier(device: torch.device | str = "cpu") -> None:
    """Wait until all processes are here."""
    broadcast([0.0], device=device)
