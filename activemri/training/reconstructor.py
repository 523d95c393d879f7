"""Train a reconstructor on the masks that episodes visit.

On a CPU with glibc, networks on images of 256 x 256 and more are up to three times faster if the
process is started with ``MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=17179869184
MALLOC_TOP_PAD_=268435456``: memory is then not given back after every layer. One thread
(``--threads 1``) is the safe choice on a machine that does other work as well.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from activemri import checkpoints
from activemri.data.slices import SliceDataset
from activemri.evaluator import load_evaluator
from activemri.losses import Loss, Prediction, WeightedSum, make_loss
from activemri.mri.sensitivity import make_coil_maps
from activemri.reconstruction.reconstructor import Measurement, Reconstructor
from activemri.reconstruction.registry import save_reconstructor
from activemri.runs.diary import Picture, summary_writer
from activemri.runs.folder import RunFolder
from activemri.settings import TrainReconstructorSettings
from activemri.training import world
from activemri.training.augmentation import make_augmentation
from activemri.training.batches import Batch
from activemri.training.construction import new_reconstructor
from activemri.training.descent import Descent
from activemri.training.evaluator_losses import perceptual_by
from activemri.training.masks import MaskSource
from activemri.training.pictures import draw
from activemri.training.precision import autocast, require_precision
from activemri.training.reconstructor_loop import Check, Loop, OnValidation, TrainingDivergedError
from activemri.training.robust import robust_loss, sample_weights
from activemri.training.run import Run, open_run
from activemri.training.self_supervised import self_supervised_loss

__all__ = ["TrainingDivergedError", "TrainingResult", "check_settings", "train_reconstructor"]


#: Scans whose masks tell how often a line is acquired, for robust-ssdu.
N_MASKS = 512


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
        ValueError: an unknown loss, augmentation, network or argument of it, a device that is not
            there, a folder that is taken, or one that was started with other settings.
        OSError: `settings.out` cannot be written.
        ModuleNotFoundError: TensorBoard is wanted, and not installed.
    """
    make_loss(settings.loss, more=losses_from_weights(settings))
    check_all_but_loss(settings)


def check_all_but_loss(settings: TrainReconstructorSettings) -> None:
    """As :func:`check_settings`, for trainings whose losses have other names."""
    world.require_divisible(settings.batch_size)
    require_precision(settings.precision, world.device_of(settings.device))
    make_augmentation(settings.augment)
    make_coil_maps(settings.sensitivity)
    learns_by_itself = isinstance(new_reconstructor(settings), LearnsByItself)
    if learns_by_itself:
        _refuse_other_losses(settings)
    if settings.supervision != "full":
        _refuse_references(settings, learns_by_itself=learns_by_itself)
    if settings.tensorboard:
        summary_writer()
    if world.rank() == 0:  # others would find what the first one has begun
        RunFolder(settings.out).check(settings)


def train_reconstructor(
    settings: TrainReconstructorSettings,
    *,
    masks: MaskSource,
    train: SliceDataset | None = None,
    validation: SliceDataset | None = None,
    loss: Loss | None = None,
    on_validation: OnValidation | None = None,
) -> TrainingResult:
    """Train, validate at fixed intervals, keep the best weights; continue after a kill.

    AdamW, with a learning rate that rises linearly for a tenth of the steps and then falls to zero
    along a cosine. Each step is a function of seed and step number, so a training that was killed
    and resumed ends with the same weights, to the last bit, as one that was not (same machine and
    number of threads). The folder `settings.out` gets ``best.safetensors`` and ``best.json``,
    ``last.pt`` (state to resume from), ``settings.json``, ``log.jsonl`` with one line for each
    validation, and pictures of validation scans in ``images``. Under torchrun all processes train
    together, see :mod:`activemri.training.world`.

    Args:
        settings: see there.
        masks: what has been acquired when an image is asked for, e.g. what
            :func:`activemri.agents.visits.visit_masks` records.
        train: scans to learn from; None opens the train split of `settings.data`.
        validation: scans that choose the best weights; None opens the val split.
        loss: instead of the one that `settings.loss` names.
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
    if loss is not None and isinstance(new_reconstructor(settings), LearnsByItself):
        raise ValueError(f"{settings.name!r} is trained with a loss of its own; give none")
    run = open_run(settings, masks=masks, train=train, validation=validation, given=described(loss))
    learner = ReconstructorLearner(
        run, loss or make_loss(settings.loss, more=losses_from_weights(settings))
    )
    loop = Loop(learner, run, n_steps=settings.max_steps, on_validation=on_validation)
    loop.run(run.state)
    metrics: Any = checkpoints.load(run.folder.best).info["metrics"]
    return TrainingResult(
        run.folder.best, loop.best_step, metrics["ssim"], learner.zero_filled.ssim
    )


@runtime_checkable
class LearnsByItself(Protocol):
    """A reconstructor with a training loss of its own, e.g. one that learns to take off noise."""

    def training_loss(self, measurement: Measurement, image: Tensor, /) -> Tensor:
        """What it minimises, (batch,), from what has been acquired and what all lines show.

        It may draw from torch's global generator, which every training step seeds.
        """
        ...


class ReconstructorLearner:
    """A reconstructor that learns from a loss.

    Args:
        run: data, settings and folder.
        loss: what it minimises.
    """

    name = "reconstructor"

    def __init__(self, run: Run, loss: Loss | WeightedSum) -> None:
        settings = run.settings
        self.run = run
        self.loss = loss
        self.network: Reconstructor = new_reconstructor(settings, device=run.world.device)
        self.descent = Descent(
            self.network,
            lr=settings.lr,
            n_steps=settings.max_steps,
            world=run.world,
            precision=settings.precision,
        )
        self.zero_filled = run.checks.zero_filled()
        self._weights: dict[tuple[int, int], Tensor] = {}

    @property
    def best(self) -> Path:
        return self.run.folder.best

    def step(self, batch: Batch, *, step: int) -> dict[str, float]:
        if self.run.settings.supervision != "full":
            loss = self._of_held_out(batch, seed=step)
            return self.descent.descend({"loss": batch.mean(loss)}, step=step)
        if not isinstance(self.network, LearnsByItself):
            return self.learn(batch, self.predict(batch), step=step)
        with autocast(self.run.settings.precision, self.run.world.device):
            loss = self.network.training_loss(batch.measurement, batch.reference)
        return self.descent.descend({"loss": batch.mean(loss)}, step=step)

    def predict(self, batch: Batch) -> Prediction:
        """Reconstruct a batch in the precision of the training."""
        with autocast(self.run.settings.precision, self.run.world.device):
            return batch.prediction(self.network(batch.measurement))

    def learn(self, batch: Batch, prediction: Prediction, *, step: int) -> dict[str, float]:
        """One step; the losses, each part of a sum apart."""
        if not isinstance(self.loss, WeightedSum):
            losses = {"loss": self.loss(prediction)}
        else:
            parts = self.loss.parts(prediction)
            losses = {"loss": self.loss.total(parts), **(parts if len(parts) > 1 else {})}
        means = {name: batch.mean(values) for name, values in losses.items()}
        return self.descent.descend(means, step=step)

    def _of_held_out(self, batch: Batch, *, seed: int) -> Tensor:
        """The loss of a training without references, (batch,)."""
        settings = self.run.settings
        loss: Callable[..., Tensor] = self_supervised_loss
        if settings.supervision == "robust-ssdu":
            weights = self._weights_of(batch.measurement.kspace.shape)
            loss = partial(robust_loss, weights=weights, more_noise=settings.more_noise)
        with autocast(settings.precision, self.run.world.device):
            return loss(
                self.network,
                batch.measurement,
                share=settings.held_out,
                n_splits=settings.n_splits,
                generator=torch.Generator().manual_seed(settings.seed * 1_000_003 + seed),
            )

    def _weights_of(self, kspace: torch.Size) -> Tensor:
        """Weights of held-out samples for scans of this size."""
        height, width = kspace[-2:]
        if (height, width) not in self._weights:
            settings = self.run.settings
            self._weights[height, width] = sample_weights(
                self.run.batches.longest_masks(width, N_MASKS),
                height=height,
                share=settings.held_out,
                generator=torch.Generator().manual_seed(settings.seed),
            )
        return self._weights[height, width]

    def validate(self) -> Check:
        score = self.run.checks.score(self.network)
        entry = {
            "validation_ssim": score.ssim,
            "validation_ssim_at": score.ssim_at,
            "zero_filled_ssim_at": self.zero_filled.ssim_at,
        }
        if self.run.settings.supervision == "full":
            return Check(score.ssim, entry)
        # No reference decides: what held-out samples of validation scans say, the same ones always.
        loss = self.run.checks.mean(self.network, lambda batch: self._of_held_out(batch, seed=0))
        return Check(-loss, entry | {"validation_loss": loss})

    def picture(self) -> Picture | None:
        return draw(self.run.checks, self.network, n_scans=self.run.settings.images)

    def save_best(self, check: Check, *, step: int) -> None:
        metrics = {
            "ssim": check.entry["validation_ssim"],
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


def _refuse_other_losses(settings: TrainReconstructorSettings) -> None:
    if settings.loss != TrainReconstructorSettings.loss or settings.perceptual_weights is not None:
        raise ValueError(
            f"--name {settings.name}: this reconstructor is trained with a loss of its own, not "
            "with one of its images; leave out --loss and --perceptual-weights"
        )


def _refuse_references(settings: TrainReconstructorSettings, *, learns_by_itself: bool) -> None:
    """Self-supervised trainings know no image to compare with."""
    if learns_by_itself:
        raise ValueError(
            f"--supervision {settings.supervision}: {settings.name} learns from fully sampled "
            "images; expected a reconstructor that is trained with --loss, e.g. modl or varnet"
        )
    usual = TrainReconstructorSettings
    if (settings.loss, settings.augment) != (usual.loss, usual.augment) or (
        settings.perceptual_weights is not None
    ):
        raise ValueError(
            f"--supervision {settings.supervision} has a loss of its own, and sees one acquisition "
            "of every scan as it is; leave out --loss, --augment and --perceptual-weights"
        )
    if not 0 < settings.held_out < 1:
        raise ValueError(f"--held-out: expected a share between 0 and 1; got {settings.held_out}")


def losses_from_weights(settings: TrainReconstructorSettings) -> dict[str, Loss]:
    """Losses that the evaluator in `settings.perceptual_weights` makes possible, by name.

    Raises:
        CheckpointError: there is no evaluator.
    """
    if settings.perceptual_weights is None:
        return {}
    evaluator = load_evaluator(settings.perceptual_weights, device=world.device_of(settings.device))
    return {"perceptual": perceptual_by(evaluator.requires_grad_(False))}


def described(loss: Loss | None) -> dict[str, object]:
    """What a resumed training must have in common with its beginning, if its loss is an object."""
    name = None if loss is None else getattr(loss, "__qualname__", type(loss).__qualname__)
    return {"loss_object": name}
