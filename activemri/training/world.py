"""The processes that work on one training: one, or several under torchrun.

``torchrun --nproc-per-node 2 -m activemri.cli train ...`` starts two. Each takes its part of the
scans of every step; the gradients are added up, so that all have the weights that one process
alone would have, up to rounding, and up to dropout, which every process draws for itself. The first
process validates, writes and shows progress. Processes on several machines need the same folder
for their results.
"""

import os
from collections.abc import Sequence
from datetime import timedelta

import torch
from torch import Tensor, nn

from activemri.devices import usable

#: How long processes wait for the first one to validate.
PATIENCE = timedelta(hours=6)


def rank() -> int:
    """Number of this process; 0 is the one that writes."""
    return int(os.environ.get("RANK", "0"))


def n_processes() -> int:
    """How many there are in all."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def require_divisible(batch_size: int) -> None:
    """Refuse a batch that the processes cannot share equally.

    Raises:
        ValueError: says which numbers do not fit.
    """
    if batch_size % n_processes():
        raise ValueError(
            f"--batch-size {batch_size} cannot be divided by the {n_processes()} processes of this "
            "training; choose a multiple"
        )


def device_of(device: str) -> torch.device:
    """The device of this process: with "cuda" each takes one of its machine.

    Raises:
        ValueError: a device that is not there.
    """
    if n_processes() > 1 and device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    return usable(device)


class World:
    """All processes of a training, as one of them sees them.

    Joins them, and waits until all others have joined.

    Args:
        device: as in the settings.

    Attributes:
        rank: number of this process.
        size: number of processes.
        device: where this one computes.
    """

    def __init__(self, device: str) -> None:
        self.rank, self.size = rank(), n_processes()
        self.device = device_of(device)
        if self.size > 1:
            _join(self.device)

    @property
    def is_first(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Add up the tensors of all processes."""
        if self.size == 1:
            return values
        from accelerate.utils import reduce

        total: Tensor = reduce(values, reduction="sum")
        return total

    def sum_gradients(self, network: nn.Module, losses: Tensor) -> Tensor:
        """Add up the gradients of all processes, in place, and their losses, which are returned."""
        if self.size == 1:
            return losses
        for p in network.parameters():
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        flat = self.sum(torch.cat([losses, *(g.flatten() for g in gradients)]))
        sums = flat.split([len(losses), *(g.numel() for g in gradients)])
        for gradient, total in zip(gradients, sums[1:], strict=True):
            gradient.copy_(total.view_as(gradient))
        total_losses: Tensor = sums[0]
        return total_losses

    def heard(self, values: Sequence[float]) -> list[float]:
        """What the first process has said; all others wait for it."""
        if self.size == 1:
            return list(values)
        from accelerate.utils import broadcast

        said = torch.tensor(values, dtype=torch.float64, device=self.device)
        return [float(v) for v in broadcast(said, from_process=0).tolist()]

    def wait(self) -> None:
        """Until all processes are here."""
        self.heard([0.0])


def _join(device: torch.device) -> None:
    try:
        from accelerate import PartialState
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "training in several processes needs accelerate, which is not installed: "
            'pip install "activemri[train]"',
            name=error.name,
        ) from error
    if device.type == "cuda":
        torch.cuda.set_device(device)
    state = PartialState(cpu=device.type == "cpu", timeout=PATIENCE)
    if state.num_processes != n_processes():
        raise ValueError(
            f"expected {n_processes()} processes (WORLD_SIZE), found {state.num_processes}; start "
            "them with torchrun"
        )
