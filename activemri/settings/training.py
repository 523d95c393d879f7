"""Settings of `activemri train`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from activemri.settings.fields import (
    Data,
    Flag,
    OptionalInt,
    require_not_negative,
    require_positive,
)


@dataclass(frozen=True)
class TrainReconstructorSettings:
    """Train a reconstructor on the masks that episodes really visit.

    Writes a checkpoint (safetensors and JSON) of the best weights by validation SSIM, a log, and
    what `--resume` needs to continue after an interruption.
    """

    data: Data = "phantom"
    """Where the scans come from: built-in phantoms, or a folder of HDF5 files."""
    out: Path = Path("runs/reconstructor")
    """Folder for the checkpoint; made if missing."""
    name: Literal["unet"] = "unet"
    """Which reconstructor to train."""
    resume: Flag = False
    """Continue the training found in --out, with the same settings."""
    matrix: OptionalInt = None
    """Crop or pad every scan to this many rows and columns; None keeps native sizes."""
    max_steps: int = 2000
    """Optimiser steps. The learning rate falls to zero at the last one."""
    batch_size: int = 4
    """Scans a step."""
    lr: float = 3e-3
    """Largest learning rate of the schedule."""
    loss: str = "l1+ssim"
    """Training loss: mse, l1, ssim, or a sum such as l1+ssim."""
    channels: int = 8
    """Channels of the U-Net's first level; every level below doubles them."""
    pools: int = 4
    """Times the U-Net halves the resolution."""
    n_center_lines: int = 8
    """Centre lines that every scan starts with."""
    budget: int = 24
    """Longest episode to train for, in lines after the centre lines."""
    validate_every: int = 200
    """Steps between validations."""
    seed: int = 0
    """Seed of the initial weights, the masks and the order of the scans."""
    threads: OptionalInt = None
    """CPU threads; None leaves the choice to torch."""
    device: str = "cpu"
    """Where to compute, e.g. cpu or cuda."""

    def __post_init__(self) -> None:
        require_positive(
            matrix=self.matrix,
            max_steps=self.max_steps,
            batch_size=self.batch_size,
            lr=self.lr,
            channels=self.channels,
            pools=self.pools,
            budget=self.budget,
            validate_every=self.validate_every,
            threads=self.threads,
        )
        require_not_negative(n_center_lines=self.n_center_lines, seed=self.seed)


@dataclass(frozen=True)
class TrainOrderSettings:
    """Learn a fixed order of lines from the train split and write it to a file."""

    data: Data = "phantom"
    """Where the scans come from: built-in phantoms, or a folder of HDF5 files."""
    out: Path = Path("runs/order")
    """Folder for the order; made if missing."""
    kind: Literal["lbcs", "average-oracle"] = "lbcs"
    """Greedy order on the train scans (lbcs), or mean preference of their greedy oracles."""
    reconstructor: str = "zero-filled"
    """Name or checkpoint of the reconstructor that the order is learned for."""
    matrix: OptionalInt = None
    """Crop or pad every scan to this many rows and columns; None keeps native sizes."""
    budget: int = 24
    """Length of the order in lines."""
    n_center_lines: int = 8
    """Centre lines that every scan starts with."""
    slices_per_volume: OptionalInt = None
    """Take this many evenly spaced slices of each volume; None takes all."""
    n_fit_scans: OptionalInt = 64
    """Scans that each step is decided on, drawn anew; None takes all."""
    max_fit_slices: OptionalInt = 256
    """Train scans, spread evenly, that are seen at all; None takes all."""
    metric: str = "ssim"
    """Metric to maximise."""
    seed: int = 0
    """Seed of everything that is drawn at random."""

    def __post_init__(self) -> None:
        require_positive(
            matrix=self.matrix,
            budget=self.budget,
            slices_per_volume=self.slices_per_volume,
            n_fit_scans=self.n_fit_scans,
            max_fit_slices=self.max_fit_slices,
        )
        require_not_negative(n_center_lines=self.n_center_lines, seed=self.seed)
