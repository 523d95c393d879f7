"""Settings of `activemri tune`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from activemri.settings.fields import (
    Data,
    Flag,
    KeyValues,
    OptionalInt,
    require,
    require_not_negative,
    require_positive,
)

SPACE = ("lr=3e-4:1e-2:log", "batch_size=2|4|8", "loss=l1+ssim|l1|ssim", "network.channels=8|16|24")


@dataclass(frozen=True)
class TuneSettings:
    """Search for the settings of a training that reach the best validation SSIM.

    Trains on the train split, compares on the val split, never opens the test split. Trainings
    that do badly are stopped early. Several processes may work on one folder: start the command
    again with --resume. Writes study.log, best.json, and a folder for every trial.
    """

    data: Data = "phantom"
    """Where the scans come from: built-in phantoms, or a folder of scans."""
    out: Path = Path("runs/tune")
    """Folder for the study; made if missing."""
    name: str = "cresnet"
    """Which reconstructor to train: cresnet, unet or diffusion."""
    network: KeyValues = ()
    """Arguments of its network that all trials share, e.g. blocks=2."""
    space: Annotated[tuple[str, ...], arg(metavar="KEY=VALUES [KEY=VALUES ...]")] = SPACE
    """What to vary: key=low:high, key=low:high:log, or key=a|b|c. Keys are settings of `activemri
    train reconstructor` (lr, loss, ...) and arguments of the network (network.channels)."""
    trials: int = 20
    """Trainings in all, also those that are stopped early."""
    max_steps: int = 1000
    """Optimiser steps of a training."""
    validate_every: int = 100
    """Steps between validations; after each a training may be stopped early."""
    pruner: Literal["median", "halving", "none"] = "median"
    """Stop what is below the median at the same step, or by successive halving, or nothing."""
    resume: Flag = False
    """Continue the study found in --out, or help another process with it."""
    matrix: OptionalInt = None
    """Crop or pad every scan to this many rows and columns; None keeps native sizes."""
    n_center_lines: int = 8
    """Centre lines that every scan starts with."""
    budget: int = 24
    """Longest episode to train for, in lines after the centre lines."""
    seed: int = 0
    """Seed of the search and of every training."""
    threads: OptionalInt = None
    """CPU threads; None leaves the choice to torch."""
    device: str = "cpu"
    """Where to compute, e.g. cpu or cuda."""
    precision: Literal["32", "bf16", "16"] = "32"
    """Bits of the numbers in layers; 16 ones need a GPU."""

    def __post_init__(self) -> None:
        require(bool(self.space), "--space: expected at least one KEY=VALUES")
        require_positive(
            trials=self.trials,
            max_steps=self.max_steps,
            validate_every=self.validate_every,
            matrix=self.matrix,
            budget=self.budget,
            threads=self.threads,
        )
        require_not_negative(n_center_lines=self.n_center_lines, seed=self.seed)
