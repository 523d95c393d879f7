"""Settings of `activemri train policy` and `activemri demonstrate`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from activemri.settings.fields import (
    Flag,
    KeyValues,
    OptionalFloat,
    OptionalInt,
    OptionalPath,
    OptionalText,
    require_not_negative,
    require_positive,
)


@dataclass(frozen=True)
class EnvironmentSettings:
    """What is acquired, and how it is scored."""

    env: str = "ActiveMRI/Phantom-v0"
    """Id of the environment, or MODULE:ID for one that a module of yours registers; the options
    below override its own."""
    data: Annotated[str | None, arg(metavar="phantom|PATH")] = None
    """Where the scans come from: built-in phantoms, or a folder of scans."""
    reconstructor: OptionalText = None
    """Name or checkpoint of the reconstructor; it stays as it is."""
    matrix: OptionalInt = None
    """Crop or pad every scan to this many rows and columns; None keeps native sizes."""
    n_center_lines: OptionalInt = None
    """Centre lines that every scan starts with."""
    budget: OptionalInt = None
    """Lines still to acquire when a scan starts."""
    sensitivity: OptionalText = None
    """How maps of several coils are estimated, e.g. espirit, or espirit-updated: again as lines
    arrive."""
    step_cost: OptionalFloat = None
    """Price of an action, in units of the score. Above 0 a policy may stop."""
    metric: OptionalText = None
    """What to improve; None takes the score that the environment rewards."""
    seed: int = 0
    """Seed of the scans, the initial weights and all draws."""
    threads: OptionalInt = None
    """CPU threads; None leaves the choice to torch."""
    device: str = "cpu"
    """Where to compute, e.g. cpu or cuda."""

    def __post_init__(self) -> None:
        require_positive(matrix=self.matrix, budget=self.budget, threads=self.threads)
        require_not_negative(
            seed=self.seed, n_center_lines=self.n_center_lines or 0, step_cost=self.step_cost or 0
        )


@dataclass(frozen=True)
class TrainPolicySettings(EnvironmentSettings):
    """Train a policy that decides which line to acquire next.

    Writes a checkpoint (safetensors and JSON) of the policy that did best on validation subjects,
    a log, and what `--resume` needs to continue after an interruption. The checkpoint can be given
    wherever a policy is asked for, e.g. `activemri benchmark --policies lbcs PATH`.
    """

    algo: str = "imitation"
    """What learns: imitation, ppo, maskable-ppo, dqn, qrdqn, ddqn, greedy-pg, loupe and others;
    an unknown name lists them all."""
    out: Path = Path("runs/policy")
    """Folder for the checkpoint; made if missing."""
    learner: KeyValues = ()
    """Arguments of the algorithm, e.g. lr=1e-4 gamma=0.5; an unknown one lists them all."""
    warm_start: OptionalPath = None
    """Policy whose network the training begins with."""
    resume: Flag = False
    """Continue the training found in --out, with the same settings."""
    max_steps: OptionalInt = None
    """Length of the training, in the algorithm's own steps; None takes the algorithm's default."""
    validate_every: OptionalInt = None
    """Steps between validations; None takes a tenth of the training."""
    validation_scans: int = 32
    """Scans, spread evenly over the validation split, that choose the best policy."""
    select: Literal["auto", "area", "final", "return"] = "auto"
    """What makes a policy the best: the area under the score's curve, the score at the end, or the
    sum of rewards; auto takes the sum of rewards where lines have a price, and else the area."""
    patience: OptionalInt = None
    """Stop after this many validations without a better one; None trains to the end."""
    tensorboard: Flag = False
    """Show losses and scores in TensorBoard as well."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(
            max_steps=self.max_steps,
            validate_every=self.validate_every,
            validation_scans=self.validation_scans,
            patience=self.patience,
        )


@dataclass(frozen=True)
class DemonstrateSettings(EnvironmentSettings):
    """Ask an oracle, who knows the truth, what lines would gain, and write it down.

    Writes one Parquet file with a row for every state: who was scanned, the lines acquired, the
    actions tried, and the score that each would lead to. `activemri train policy --algo imitation
    --learner demonstrations=FILE` learns from it, and so can anything that reads tables.
    """

    out: Path = Path("runs/demonstrations.parquet")
    """The file."""
    split: str = "train"
    """Which subjects are scanned."""
    policy: str = "low-frequency-first"
    """Whose episodes lead to the states: a name or a trained policy. Some actions are drawn at
    random, and where the oracle was asked the episode follows it as often as not."""
    horizon: int = 1
    """Lines after which the oracle compares: the line tried, then those that the policy would
    take next. 1 is the one-step oracle."""
    states: int = 500
    """States to write."""
    n_tried: OptionalInt = None
    """Actions to try in each state; None tries all, which is what an oracle does."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(horizon=self.horizon, states=self.states, n_tried=self.n_tried)


@dataclass(frozen=True)
class TrainAlternatingSettings(EnvironmentSettings):
    """Train a policy and the reconstructor together, in turns.

    Every round trains the policy for the reconstructor as it is, and then fine-tunes the
    reconstructor on the masks that this policy visits. Writes the last policy (policy) and the
    reconstructor that it was trained for (reconstructor), a folder for every round, and a table
    of validation scores (summary.json). The same command with --resume goes on after a kill.
    """

    out: Path = Path("runs/alternating")
    """Folder for everything; made if missing."""
    rounds: int = 2
    """How often the reconstructor is fine-tuned."""
    algo: str = "imitation"
    """What trains the policy; see `activemri train policy`."""
    learner: KeyValues = ()
    """Arguments of the algorithm."""
    policy_steps: OptionalInt = None
    """Length of each training of the policy; None takes the algorithm's default."""
    reconstructor_steps: int = 1000
    """Optimiser steps of each fine-tuning."""
    lr: float = 1e-3
    """Largest learning rate of the fine-tuning."""
    visited_scans: int = 128
    """Train scans that the policy is played on to record its masks."""
    validation_scans: int = 32
    """Scans, spread evenly over the validation split, that choose the best weights."""
    resume: Flag = False
    """Continue the training found in --out, with the same settings."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(
            rounds=self.rounds,
            policy_steps=self.policy_steps,
            reconstructor_steps=self.reconstructor_steps,
            lr=self.lr,
            visited_scans=self.visited_scans,
            validation_scans=self.validation_scans,
        )
