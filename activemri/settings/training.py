"""Settings of `activemri train`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, arg

from activemri.settings.fields import (
    Data,
    Flag,
    KeyValues,
    OptionalInt,
    OptionalPath,
    require_not_negative,
    require_positive,
)
from activemri.settings.study import ONE_TRAINING, StudySettings


@dataclass(frozen=True)
class TrainReconstructorSettings:
    """Train a reconstructor on the masks that episodes really visit.

    Writes a checkpoint (safetensors and JSON) of the best weights by validation SSIM, a log, and
    what `--resume` needs to continue after an interruption.
    """

    data: Data = "phantom"
    """Where the scans come from: built-in phantoms, or a folder of scans."""
    out: Path = Path("runs/reconstructor")
    """Folder for the checkpoint; made if missing."""
    name: str = "cresnet"
    """Which reconstructor to train: cresnet (with uncertainty), unet, modl, varnet,
    adaptive-varnet, kiki-net, or diffusion (draws samples); the last two have losses of their own,
    and --loss is left out."""
    network: KeyValues = ()
    """Arguments of the reconstructor's network, e.g. channels=16 blocks=4."""
    warm_start: OptionalPath = None
    """Checkpoint of a reconstructor whose weights the training begins with; it replaces --name.
    --network may change what leaves the weights as they are, e.g. iterations=10 of modl."""
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
    loss: str = "standard"
    """Training loss: mse, l1, ssim, nll (needs an uncertainty), a weighted sum such as
    l1+ssim+0.1*nll, or standard: l1+ssim, and 0.1*nll where there is an uncertainty. Also
    perceptual and adversarial, where there is an evaluator."""
    supervision: Literal["full", "ssdu", "robust-ssdu"] = "full"
    """What the reconstruction is compared with in training: full takes all lines of a scan; ssdu a
    part of one acquisition of it, which is all that it ever sees (--loss and --augment are left
    out, and that part also chooses the best weights); robust-ssdu the same, weighted so that rare
    lines count as much as others, and corrected for noise."""
    held_out: float = 0.4
    """Share of the acquired samples that ssdu holds out."""
    n_splits: int = 1
    """Draws of held-out samples that a step of ssdu averages over."""
    more_noise: float = 1.0
    """Strength of the noise that robust-ssdu adds to what is seen, over that of the scan's own."""
    perceptual_weights: OptionalPath = None
    """Checkpoint of an evaluator whose features the perceptual loss compares."""
    augment: Annotated[tuple[str, ...], arg(metavar="NAME [NAME ...]")] = ("flip",)
    """Change scans at random: flip, rotate90 (square scans), phase, scale, off-resonance (a phase
    with edges); or none."""
    n_center_lines: int = 8
    """Centre lines that every scan starts with."""
    budget: int = 24
    """Longest episode to train for, in lines after the centre lines."""
    sensitivity: str = "low-resolution"
    """How maps of several coils are estimated from acquired lines, where the data have none:
    low-resolution, walsh or espirit from the centre lines; espirit-updated and so on from all
    acquired lines around the centre."""
    validate_every: int = 200
    """Steps between validations."""
    patience: OptionalInt = None
    """Stop after this many validations without a better one; None trains to the end."""
    images: int = 3
    """Validation scans to show in images/ after every validation; 0 draws none."""
    tensorboard: Flag = False
    """Show losses, scores and images in TensorBoard as well."""
    seed: int = 0
    """Seed of the initial weights, the masks and the order of the scans."""
    threads: OptionalInt = None
    """CPU threads; None leaves the choice to torch."""
    device: str = "cpu"
    """Where to compute, e.g. cpu or cuda. Under torchrun cuda means one GPU a process."""
    precision: Literal["32", "bf16", "16"] = "32"
    """Bits of the numbers in layers; 16 ones need a GPU."""
    study: OmitArgPrefixes[StudySettings] = ONE_TRAINING
    """Train once for every fold, or once without each component."""

    def __post_init__(self) -> None:
        require_positive(
            matrix=self.matrix,
            max_steps=self.max_steps,
            batch_size=self.batch_size,
            lr=self.lr,
            budget=self.budget,
            validate_every=self.validate_every,
            patience=self.patience,
            threads=self.threads,
            n_splits=self.n_splits,
            more_noise=self.more_noise,
        )
        require_not_negative(n_center_lines=self.n_center_lines, images=self.images, seed=self.seed)


@dataclass(frozen=True)
class TrainJointSettings(TrainReconstructorSettings):
    """Train a reconstructor and the evaluator that scores its k-space lines.

    Writes checkpoints of the best reconstructor (best) and of its evaluator (evaluator), a log,
    and what `--resume` needs to continue after an interruption.
    """

    out: Path = Path("runs/joint")
    """Folder for the checkpoints; made if missing."""
    schedule: Literal["staged", "alternating"] = "staged"
    """First the reconstructor, then the evaluator of its best weights; or both in every step."""
    evaluator: KeyValues = ()
    """Arguments of the evaluator, e.g. channels=32 layers=4."""
    gamma: float = 3.0
    """How fast an evaluator's scores shall fall with a line's error, which is in units of the
    image's mean square: as exp(-gamma error)."""
    adversarial_weight: float = 0.1
    """Weight of the evaluator's opinion in the reconstructor's loss (alternating only), unless
    --loss names adversarial itself."""
    evaluator_lr: float = 2e-3
    """Largest learning rate of the evaluator."""
    evaluator_steps: OptionalInt = None
    """Steps of the evaluator's stage (staged only); None takes half of --max-steps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(
            gamma=self.gamma,
            evaluator_lr=self.evaluator_lr,
            evaluator_steps=self.evaluator_steps,
        )
        require_not_negative(adversarial_weight=self.adversarial_weight)


@dataclass(frozen=True)
class TrainOrderSettings:
    """Learn a fixed order of lines from the train split and write it to a file."""

    data: Data = "phantom"
    """Where the scans come from: built-in phantoms, or a folder of scans."""
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
