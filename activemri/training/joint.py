"""Train a reconstructor and the evaluator of its k-space lines.

Zhang et al., "Reducing uncertainty in undersampled MRI reconstruction with active acquisition",
CVPR 2019. Staged, the reconstructor is trained alone, then the evaluator on the images of its best
weights. Alternating, each step trains the evaluator, then the reconstructor, whose loss holds the
evaluator's opinion as well (a least-squares adversarial loss).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from activemri import checkpoints
from activemri.data.slices import SliceDataset
from activemri.evaluator import Evaluator
from activemri.losses import Loss, make_loss, names_in
from activemri.reconstruction.registry import from_checkpoint
from activemri.runs.diary import Picture
from activemri.settings import TrainJointSettings
from activemri.training import reconstructor
from activemri.training.batches import Batch
from activemri.training.construction import new_reconstructor
from activemri.training.evaluator import EvaluatorLearner, new_evaluator
from activemri.training.evaluator_losses import adversarial, perceptual_by
from activemri.training.masks import MaskSource
from activemri.training.reconstructor import (
    LearnsByItself,
    ReconstructorLearner,
    TrainingResult,
    described,
    losses_from_weights,
)
from activemri.training.reconstructor_loop import Check, Loop, OnValidation
from activemri.training.run import Run, open_run

_SOME_WIDTH = 1024  # for checks of arguments, before scans of native sizes are opened


@dataclass(frozen=True)
class JointResult(TrainingResult):
    """What a joint training has made.

    Attributes:
        evaluator: path of the evaluator's weights, without suffix.
        evaluator_step: of its stage, or of the training, after which they were taken.
        evaluator_loss: their validation loss.
        spearman: rank correlation of low scores and large errors of lines, in validation.
        regret: share of the largest error that the evaluator's choice misses, in validation.
    """

    evaluator: Path
    evaluator_step: int
    evaluator_loss: float
    spearman: float
    regret: float

    def text(self) -> str:
        """Two lines."""
        return (
            f"{super().text()}\n{self.evaluator}: best after {self.evaluator_step} steps, "
            f"validation loss {self.evaluator_loss:.4f}, Spearman correlation with the errors of "
            f"lines {self.spearman:.3f}, regret {self.regret:.3f}"
        )


def check_settings(settings: TrainJointSettings) -> None:
    """Refuse now what :func:`train_joint` would refuse, before hours go into masks.

    Raises:
        ValueError: as :func:`activemri.training.reconstructor.check_settings`, and for arguments
            that the evaluator refuses.
        OSError: `settings.out` cannot be written.
    """
    if settings.supervision != "full":
        raise ValueError(
            f"--supervision {settings.supervision}: an evaluator learns from fully sampled scans; "
            "train the reconstructor alone (activemri train reconstructor)"
        )
    _loss_of(settings, None)
    new_evaluator(settings, width=settings.matrix or _SOME_WIDTH)
    reconstructor.check_all_but_loss(settings)
    learns_by_itself = isinstance(new_reconstructor(settings), LearnsByItself)
    if settings.schedule == "alternating" and learns_by_itself:
        raise ValueError(
            f"--schedule alternating: {settings.name!r} is trained with a loss of its own, to "
            "which an evaluator's opinion cannot be added; choose --schedule staged"
        )


def train_joint(
    settings: TrainJointSettings,
    *,
    masks: MaskSource,
    train: SliceDataset | None = None,
    validation: SliceDataset | None = None,
    loss: Loss | None = None,
    on_validation: OnValidation | None = None,
) -> JointResult:
    """Train a reconstructor and its evaluator; continue after a kill.

    Masks, validation of the reconstructor, resuming and files are those of
    :func:`activemri.training.reconstructor.train_reconstructor`; ``evaluator.safetensors`` and
    ``evaluator.json`` come in addition. Staged, the evaluator with the lowest validation loss is
    kept. Alternating, it is the one that was trained together with the best reconstructor: losses
    of evaluators that judge different reconstructors cannot be compared.

    Args:
        settings: see there.
        masks: what has been acquired when an image is asked for.
        train: scans to learn from; None opens the train split of `settings.data`.
        validation: scans that choose the best weights; None opens the val split.
        loss: of the reconstructor, instead of the one that `settings.loss` names; the evaluator's
            opinion is not added to it.
        on_validation: called with step and score after every validation of either stage.

    Raises:
        ValueError: unusable settings or data; a folder that is taken; subjects in both splits.
        OSError: `settings.out` cannot be written.
        TrainingDivergedError: a loss that is not finite; the best weights so far are kept.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    check_settings(settings)
    run = open_run(settings, masks=masks, train=train, validation=validation, given=described(loss))
    if settings.schedule == "staged":
        _train_in_stages(settings, run, loss, on_validation)
    else:
        pair = _Pair(run, settings, loss)
        loop = Loop(pair, run, n_steps=settings.max_steps, on_validation=on_validation)
        loop.run(run.state)
    return _result(run)


def _train_in_stages(
    settings: TrainJointSettings,
    run: Run,
    loss: Loss | None,
    on_validation: OnValidation | None,
) -> None:
    in_second = run.state is not None and run.state["training"] == EvaluatorLearner.name
    if not in_second:
        first = ReconstructorLearner(run, loss or _loss_of(settings, None))
        Loop(first, run, n_steps=settings.max_steps, on_validation=on_validation).run(run.state)
    best = from_checkpoint(checkpoints.load(run.folder.best)).to(run.world.device).eval()
    n_steps = settings.evaluator_steps or max(1, settings.max_steps // 2)
    second = EvaluatorLearner(run, settings, reconstructor=best, n_steps=n_steps)
    loop = Loop(second, run, n_steps=n_steps, on_validation=on_validation)
    loop.run(run.state if in_second else None)


class _Pair:
    """Reconstructor and evaluator, one step of each at a time."""

    name = "pair"

    def __init__(self, run: Run, settings: TrainJointSettings, loss: Loss | None) -> None:
        self.reconstructor = ReconstructorLearner(run, loss or _loss_of(settings, None))
        self.evaluator = EvaluatorLearner(
            run,
            settings,
            reconstructor=self.reconstructor.network,
            n_steps=settings.max_steps,
        )
        if loss is None:
            self.reconstructor.loss = _loss_of(settings, self.evaluator.network)

    @property
    def best(self) -> Path:
        return self.reconstructor.best

    def step(self, batch: Batch, *, step: int) -> dict[str, float]:
        prediction = self.reconstructor.predict(batch)
        assert prediction.whole is not None
        of_lines = self.evaluator.learn(batch, prediction.whole.image.detach(), step=step)
        self.evaluator.network.requires_grad_(False)  # it is asked, not taught
        losses = self.reconstructor.learn(batch, prediction, step=step)
        self.evaluator.network.requires_grad_(True)
        return {**losses, "evaluator_loss": of_lines["loss"]}

    def validate(self) -> Check:
        image, lines = self.reconstructor.validate(), self.evaluator.validate()
        return Check(image.score, {**image.entry, **lines.entry})

    def picture(self) -> Picture | None:
        return self.reconstructor.picture()

    def save_best(self, check: Check, *, step: int) -> None:
        self.reconstructor.save_best(check, step=step)
        self.evaluator.save_best(check, step=step)

    def state(self) -> dict[str, Any]:
        return {**self.reconstructor.state(), **self.evaluator.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.reconstructor.restore(state)
        self.evaluator.restore(state)


def _loss_of(settings: TrainJointSettings, evaluator: Evaluator | None) -> Loss:
    """The reconstructor's loss. Alternating, it may ask the evaluator that is trained beside it.

    Args:
        settings: of the training.
        evaluator: the one beside; None to see whether the loss makes sense.
    """
    more = losses_from_weights(settings)
    if settings.schedule == "staged":  # there is no evaluator yet
        return make_loss(settings.loss, more=more)
    asked = evaluator or new_evaluator(settings, width=settings.matrix or _SOME_WIDTH)
    more = {"adversarial": adversarial(asked), "perceptual": perceptual_by(asked), **more}
    text = settings.loss
    if settings.adversarial_weight > 0 and "adversarial" not in names_in(text):
        text += f"+{settings.adversarial_weight}*adversarial"
    return make_loss(text, more=more)


def _result(run: Run) -> JointResult:
    """Read from the checkpoints, which know it also after a kill between the stages."""
    of_images, of_lines = (
        checkpoints.load(p).info for p in (run.folder.best, run.folder.evaluator)
    )
    image: Any = of_images["metrics"]
    line: Any = of_lines["metrics"]
    steps: list[Any] = [of_images["step"], of_lines["step"]]
    return JointResult(
        run.folder.best,
        best_step=steps[0],
        best_ssim=image["ssim"],
        zero_filled_ssim=image["zero_filled_ssim"],
        evaluator=run.folder.evaluator,
        evaluator_step=steps[1],
        evaluator_loss=line["loss"],
        spearman=line["spearman"],
        regret=line["regret"],
    )
