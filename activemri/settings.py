"""Settings of every command, one frozen dataclass each; the command line is made from them.

The line below a field is its help text. Nothing heavy is imported here: ``activemri --help``
reads this file and no more.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg

Data = Annotated[str, arg(metavar="phantom|phantom-multicoil|PATH")]
Names = Annotated[tuple[str, ...], arg(metavar="NAME [NAME ...]")]
OptionalInt = Annotated[int | None, arg(metavar="INT")]
Flag = FlagCreatePairsOff[bool]

POLICIES = (
    "random",
    "low-frequency-first",
    "equispaced",
    "variable-density",
    "lbcs",
    "average-oracle",
    "oracle",
    "exchange-oracle",
)


@dataclass(frozen=True)
class BenchmarkSettings:
    """Compare policies and reconstructors on the scans of one split.

    Writes results.parquet (one long table), summary.json and report.html. The same command
    started again continues where it was interrupted; the same seed gives the same numbers.
    """

    data: Data = "phantom"
    """Where the scans come from: built-in phantoms, or a folder of HDF5 files."""
    split: str = "test"
    """Which subjects to score: train, val, test, or a name from the data's split file."""
    policies: Names = POLICIES
    """Names of policies, or files made by `activemri train order`."""
    reconstructors: Annotated[
        tuple[str, ...], arg(metavar="NAME [NAME ...]", aliases=["--reconstructor"])
    ] = ("zero-filled",)
    """Names of reconstructors, or checkpoints made by `activemri train reconstructor`."""
    budget: int = 24
    """Lines still to acquire when a scan starts."""
    n_center_lines: int = 8
    """Centre lines that every scan starts with."""
    matrix: OptionalInt = None
    """Crop or pad every scan to this many rows and columns; None keeps native sizes."""
    seed: int = 0
    """First seed of policies that draw at random."""
    n_seeds: int = 1
    """How many seeds to run for policies that draw at random."""
    slices_per_volume: OptionalInt = None
    """Take this many evenly spaced slices of each volume; None takes all."""
    max_slices: OptionalInt = None
    """Stop after this many slices, taken evenly over the split; None takes all."""
    fit_data: Annotated[str | None, arg(metavar="PATH")] = None
    """Where learned orders (lbcs, average-oracle) are fitted, train split; None means --data."""
    n_fit_scans: OptionalInt = 64
    """Train scans that each step of a learned order is decided on, drawn anew; None takes all."""
    max_fit_slices: OptionalInt = 256
    """Train scans, spread evenly, that learned orders see at all; None takes all."""
    reference: str = "lbcs"
    """Policy that the others are compared with in paired tests."""
    metric: str = "ssim"
    """Metric that greedy policies maximise and the report shows first."""
    n_bootstrap: int = 2000
    """Resamples of subjects behind every confidence interval."""
    workers: int = 1
    """Processes side by side."""
    threads: int = 1
    """CPU threads of each process. More than one is often slower."""
    out: Path = Path("runs/benchmark")
    """Folder for the results; made if missing."""

    def __post_init__(self) -> None:
        _require(bool(self.policies), "--policies: expected at least one name")
        _require(bool(self.reconstructors), "--reconstructors: expected at least one name")
        _require_positive(
            budget=self.budget,
            matrix=self.matrix,
            n_seeds=self.n_seeds,
            slices_per_volume=self.slices_per_volume,
            max_slices=self.max_slices,
            n_fit_scans=self.n_fit_scans,
            max_fit_slices=self.max_fit_slices,
            threads=self.threads,
            workers=self.workers,
            n_bootstrap=self.n_bootstrap,
        )
        _require_not_negative(n_center_lines=self.n_center_lines, seed=self.seed)


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
        _require_positive(
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
        _require_not_negative(n_center_lines=self.n_center_lines, seed=self.seed)


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
        _require_positive(
            matrix=self.matrix,
            budget=self.budget,
            slices_per_volume=self.slices_per_volume,
            n_fit_scans=self.n_fit_scans,
            max_fit_slices=self.max_fit_slices,
        )
        _require_not_negative(n_center_lines=self.n_center_lines, seed=self.seed)


@dataclass(frozen=True)
class DemoSettings:
    """Acquire held-out phantom scans with every policy and write a report to look at.

    Prints a table with confidence intervals; writes report.html (curves, an example episode to
    scrub through) and episode.gif.
    """

    out: Path = Path("demo")
    """Folder for the report; made if missing."""
    n_scans: int = 6
    """Held-out phantom scans to acquire, each of another subject."""
    budget: int = 16
    """Lines still to acquire when a scan starts."""
    seed: int = 0
    """Seed of policies that draw at random."""

    def __post_init__(self) -> None:
        _require_positive(n_scans=self.n_scans, budget=self.budget)
        _require_not_negative(seed=self.seed)


@dataclass(frozen=True)
class InspectSettings:
    """List the files, subjects, shapes, contrasts, empty columns and problems of a data folder."""

    path: Positional[Path]
    """A folder of HDF5 files, or one file."""
    split_file: Annotated[Path | None, arg(metavar="PATH")] = None
    """JSON or CSV file with the split of every subject."""
    files: Flag = False
    """List every file with its subject, however many there are."""


@dataclass(frozen=True)
class ThroughputSettings:
    """Measure environment frames a second against a straightforward per-image step."""

    json: Flag = False
    """Print one JSON object with "ratios" and "frames_per_s" instead of a table."""
    seconds: float = 2.0
    """How long to run each measurement."""

    def __post_init__(self) -> None:
        _require_positive(seconds=self.seconds)


def _require_positive(**values: float | None) -> None:
    for name, value in values.items():
        _require(
            value is None or value > 0,
            f"--{name.replace('_', '-')}: expected a number above 0; got {value}",
        )


def _require_not_negative(**values: int) -> None:
    for name, value in values.items():
        _require(
            value >= 0, f"--{name.replace('_', '-')}: expected a number of at least 0; got {value}"
        )


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
