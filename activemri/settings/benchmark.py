"""Settings of `activemri benchmark` and `activemri demo`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from activemri.settings.fields import (
    KeyValues,
    Names,
    OptionalFloat,
    OptionalInt,
    OptionalText,
    require,
    require_not_negative,
    require_positive,
    split_at_commas,
)
from activemri.settings.stopping import parse_stop

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
    started again continues where it was interrupted, and other policies or reconstructors may be
    added: what was played is read. The same seed gives the same numbers.
    """

    env: OptionalText = None
    """Environment whose scans are acquired as it does, e.g. ActiveMRI/Phantom-v0, or MODULE:ID for
    one that a module of yours registers; the options below override its own."""
    options: KeyValues = ()
    """Further options of the environment, e.g. lines_per_action=4 geometry=rows."""
    data: Annotated[str | None, arg(metavar="phantom|phantom-multicoil|PATH")] = None
    """Where the scans come from: built-in phantoms, or a folder of scans. None takes the data
    of --env, or else phantoms."""
    split: str = "test"
    """Which subjects to score: train, val, test, or a name from the data's split file."""
    policies: Names = POLICIES
    """Names of policies, or what `activemri train policy` or `train order` made. Trainings of one
    policy with several seeds count as one: LABEL=PATH,PATH,PATH."""
    reconstructors: Annotated[
        tuple[str, ...], arg(metavar="NAME [NAME ...]", aliases=["--reconstructor"])
    ] = ()
    """Names of reconstructors, or checkpoints made by `activemri train reconstructor`. None takes
    that of --env, or else zero-filled."""
    budget: Annotated[int | Literal["env"] | None, arg(metavar="INT|None|env")] = "env"
    """Lines still to acquire when a scan starts; None acquires all; env takes the number of --env,
    or else 24."""
    n_center_lines: OptionalInt = None
    """Centre lines that every scan starts with; None takes the number of --env, or else 8."""
    step_cost: OptionalFloat = None
    """Price of an action, in units of the score: the metric `return` is what a scan gains less what
    it cost. None takes that of --env, or else none."""
    stop: Annotated[tuple[str, ...], arg(metavar="KEY=VALUE [KEY=VALUE ...]")] = ()
    """Stop scans that are good enough, and say what that saves, e.g. `target=ssim:0.90 alpha=0.1`:
    at most that share of new scans shall stop below the target. Also predictor=regression,
    uncertainty or evaluator; unit=subject, volume or slice; calibration=val, another split, or
    crossfit; fit=train; max-slices=256 per split; calibration-subjects=60 for phantoms."""
    matrix: OptionalInt = None
    """Crop or pad every scan to this many rows and columns; None takes the size of --env, or else
    keeps native sizes."""
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
    metric: OptionalText = None
    """Metric that greedy policies maximise and the report shows first; None takes the one that
    --env rewards, or else ssim."""
    n_bootstrap: int = 2000
    """Resamples of subjects behind every confidence interval."""
    workers: int = 1
    """Processes side by side."""
    threads: int = 1
    """CPU threads of each process. More than one is often slower."""
    out: Path = Path("runs/benchmark")
    """Folder for the results; made if missing."""

    def __post_init__(self) -> None:
        for name in ("policies", "reconstructors"):
            object.__setattr__(self, name, split_at_commas(getattr(self, name)))
        require(bool(self.policies), "--policies: expected at least one name")
        require_positive(
            budget=None if self.budget == "env" else self.budget,
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
        require_not_negative(
            n_center_lines=self.n_center_lines or 0, step_cost=self.step_cost or 0, seed=self.seed
        )
        parse_stop(self.stop)


@dataclass(frozen=True)
class DemoSettings:
    """Train a policy, acquire held-out phantom scans with it and all others, and report.

    Prints a table with confidence intervals; writes report.html (curves, an example episode to
    scrub through) and episode.gif.
    """

    out: Path = Path("demo")
    """Folder for the report; made if missing."""
    n_scans: int = 5
    """Held-out phantom scans to acquire, each of another subject."""
    budget: int = 16
    """Lines still to acquire when a scan starts."""
    training_states: int = 150
    """States in which the policy that is trained live asks the oracle."""
    training_steps: int = 150
    """Steps of descent of that training."""
    seed: int = 0
    """Seed of policies that draw at random, and of the training."""

    def __post_init__(self) -> None:
        require_positive(
            n_scans=self.n_scans,
            budget=self.budget,
            training_states=self.training_states,
            training_steps=self.training_steps,
        )
        require_not_negative(seed=self.seed)
