"""Train a reconstructor on the masks that episodes visit.

On a CPU with glibc, networks on images of 256 x 256 and more are up to three times faster if the
process is started with ``MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=17179869184
MALLOC_TOP_PAD_=268435456``: memory is then not given back after every layer. One thread
(``--threads 1``) is the safe choice on a machine that does other work as well.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from activemri.data.slices import SliceDataset
from activemri.devices import usable
from activemri.losses import Loss, make_loss
from activemri.reconstruction.reconstructor import Reconstructor
from activemri.reconstruction.registry import save_reconstructor
from activemri.settings import TrainReconstructorSettings
from activemri.training.batches import Batch, InMemory, TrainingBatches
from activemri.training.construction import new_reconstructor
from activemri.training.descent import Descent
from activemri.training.loop import Check, Loop, OnValidation, TrainingDivergedError
from activemri.training.masks import MaskSource
from activemri.training.run_folder import RunFolder, command
from activemri.training.validation import Validation

__all__ = ["TrainingDivergedError", "TrainingResult", "check_settings", "train_reconstructor"]


@dataclass(frozen=True)
class TrainingResult:
    """What a training has made.

    Attributes:
        checkpoint: path of the best weights, without suffix.
        best_step: after which they were taken; 0 if training never improved on the start.
        best_ssim: their validation SSIM, averaged over the moments of an episode.
        zero_filled_ssim: the same for the zero-filled reconstruction.
    """

    checkpoint: Path
    best_step: int
    best_ssim: float
    zero_filled_ssim: float

    def text(self) -> str:
        """One line."""
        return (
            f"{self.checkpoint}: best after {self.best_step} steps, validation SSIM "
            f"{self.best_ssim:.4f} (zero-filled {self.zero_filled_ssim:.4f})"
        )


def check_settings(settings: TrainReconstructorSettings) -> None:
    """Refuse now what :func:`train_reconstructor` would refuse, before hours go into masks.

    Raises:
        ValueError: an unknown loss, network or argument of it, a device that is not there, a
            folder that is taken, or one that was started with other settings.
        OSError: `settings.out` cannot be written.
    """
    make_loss(settings.loss)
    usable(settings.device)
    new_reconstructor(settings)
    RunFolder(settings.out).check(settings)


def train_reconstructor(
    settings: TrainReconstructorSettings,
    *,
    masks: MaskSource,
    train: SliceDataset | None = None,
    validation: SliceDataset | None = None,
    on_validation: OnValidation | None = None,
) -> TrainingResult:
    """Train, validate at fixed intervals, keep the best weights; continue after a kill.

    AdamW, with a learning rate that rises linearly for a tenth of the steps and then falls to zero
    along a cosine. Each step is a function of seed and step number, so a training that was killed
    and resumed ends with the same weights, to the last bit, as one that was not (same machine and
    number of threads). The folder `settings.out` gets ``best.safetensors`` and ``best.json``,
    ``last.pt`` (state to resume from), ``settings.json``, and ``log.jsonl`` with one line for each
    validation.

    Args:
        settings: see there.
        masks: what has been acquired when an image is asked for, e.g. what
            :func:`activemri.agents.visits.visit_masks` records.
        train: scans to learn from; None opens the train split of `settings.data`.
        validation: scans that choose the best weights; None opens the val split.
        on_validation: called with step and SSIM after every validation, once its results are on
            disk; what it raises ends the training.

    Raises:
        ValueError: unusable settings or data; a folder that is taken; subjects in both splits.
        OSError: `settings.out` cannot be written.
        TrainingDivergedError: a loss that is not finite; the best weights so far are kept.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    check_settings(settings)  # before data are read
    run = open_run(settings, masks=masks, train=train, validation=validation)
    learner = ReconstructorLearner(run)
    loop = Loop(
        learner,
        batches=run.batches,
        folder=run.folder,
        n_steps=settings.max_steps,
        validate_every=settings.validate_every,
        device=settings.device,
        seed=settings.seed,
        on_validation=on_validation,
    )
    loop.run(run.state)
    return learner.result(loop)


@dataclass(frozen=True, eq=False)
class Run:
    """A training whose data are open and whose folder is claimed.

    Attributes:
        settings: of the training.
        folder: where it writes.
        batches: the batch of every step.
        checks: scans and masks of validations.
        state: to continue from; None to begin.
    """

    settings: TrainReconstructorSettings
    folder: RunFolder
    batches: TrainingBatches
    checks: Validation
    state: dict[str, Any] | None

    def info(self, *, step: int, metrics: Mapping[str, object]) -> dict[str, object]:
        """What a checkpoint says about its training."""
        masks = self.batches.masks
        return {
            "data": self.settings.data,
            "matrix": self.settings.matrix,
            "n_train_slices": len(self.batches.scans),
            "n_center_lines": masks.n_center_lines,
            "budget": masks.budget,
            "masks": type(masks).__name__,
            "step": step,
            "metrics": dict(metrics),
            "torch_version": str(torch.__version__),
            "threads": torch.get_num_threads(),
            "command": command(self.settings),
        }


def open_run(
    settings: TrainReconstructorSettings,
    *,
    masks: MaskSource,
    train: SliceDataset | None,
    validation: SliceDataset | None,
) -> Run:
    """Open the data and claim the folder; see :func:`train_reconstructor`."""
    folder = RunFolder(settings.out)
    train_scans = InMemory(train if train is not None else _open(settings, "train"))
    validation_scans = InMemory(validation if validation is not None else _open(settings, "val"))
    _check_splits(train_scans, validation_scans)
    state = folder.open(
        settings,
        given={
            "masks": type(masks).__name__,
            "n_train_scans": len(train_scans),
            "n_validation_scans": len(validation_scans),
        },
    )
    batches = TrainingBatches(
        train_scans,
        masks,
        batch_size=settings.batch_size,
        seed=settings.seed,
        augment=settings.augment,
    )
    checks = Validation(validation_scans, masks, seed=settings.seed, device=settings.device)
    return Run(settings, folder, batches, checks, state)


class ReconstructorLearner:
    """A reconstructor that learns from a loss on magnitude images.

    Args:
        run: data, settings and folder.
    """

    name = "reconstructor"

    def __init__(self, run: Run) -> None:
        self.run = run
        self.loss: Loss = make_loss(run.settings.loss)
        self.network: Reconstructor = new_reconstructor(run.settings)
        self.descent = Descent(self.network, lr=run.settings.lr, n_steps=run.settings.max_steps)
        self.zero_filled = run.checks.zero_filled()

    @property
    def best(self) -> Path:
        return self.run.folder.best

    def step(self, batch: Batch, *, step: int) -> dict[str, float]:
        prediction = batch.prediction(self.network(batch.measurement))
        return {"loss": self.descent.descend(self.loss(prediction).mean(), step=step)}

    def validate(self) -> Check:
        score = self.run.checks.score(self.network)
        entry = {
            "validation_ssim": score.ssim,
            "validation_ssim_at": score.ssim_at,
            "zero_filled_ssim_at": self.zero_filled.ssim_at,
        }
        return Check(score.ssim, entry)

    def save_best(self, check: Check, *, step: int) -> None:
        metrics = {
            "ssim": check.score,
            "ssim_at": check.entry["validation_ssim_at"],
            "zero_filled_ssim": self.zero_filled.ssim,
            "zero_filled_ssim_at": self.zero_filled.ssim_at,
        }
        info = self.run.info(step=step, metrics=metrics)
        save_reconstructor(self.best, self.network, info=info)

    def state(self) -> dict[str, Any]:
        return {"network": self.network.state_dict(), "optimizer": self.descent.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.descent.restore(state["optimizer"])

    def result(self, loop: Loop) -> TrainingResult:
        """What the training has made, after it."""
        return TrainingResult(self.best, loop.best_step, loop.best_score, self.zero_filled.ssim)


def _open(settings: TrainReconstructorSettings, split: str) -> SliceDataset:
    from activemri.data.sources import open_dataset

    return open_dataset(settings.data, split=split, matrix_size=settings.matrix)


def _check_splits(train: InMemory, validation: InMemory) -> None:
    for name, scans in (("train", train), ("validation", validation)):
        if len(scans) == 0:
            raise ValueError(f"there are no {name} scans; give every split at least one subject")
    shared = {i.subject for i in train.infos} & {i.subject for i in validation.infos}
    if shared:
        raise ValueError(
            "train and validation scans must come from different subjects; found in both: "
            + ", ".join(sorted(shared)[:5])
        )
