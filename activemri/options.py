"""Options that many commands share: where to compute, and where a run keeps its files.

Nothing heavy is imported here.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import FlagCreatePairsOff

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Compute:
    """Where to compute."""

    device: str = "cpu"
    """Device, e.g. cpu or cuda. Under torchrun cuda means one GPU a process."""
    threads: int | None = None
    """CPU threads; None leaves the choice to torch. More than one is often slower."""

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"--threads: expected a number above 0; got {self.threads}")

    def prepare(self) -> "torch.device":
        """Set the number of threads of this process, and give the device.

        Raises:
            ValueError: for a device that is not there.
        """
        import torch

        from activemri.devices import usable

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        return usable(self.device)


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """A run: its folder and its seed."""

    out: Path
    """Folder for the results; made if missing."""
    seed: int = 0
    """Seed of everything that is drawn at random."""
    resume: FlagCreatePairsOff[bool] = False
    """Continue what is found in --out, with the same settings."""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"--seed: expected a number of at least 0; got {self.seed}")
