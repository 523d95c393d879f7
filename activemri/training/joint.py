"""Train a reconstructor and the evaluator of its k-space lines.

Zhang et al., "Reducing uncertainty in undersampled MRI reconstruction with active acquisition",
CVPR 2019. Staged, the reconstructor is trained alone, then the evaluator on the images of its best
weights. Alternating, each step trains the evaluator, then the reconstructor, whose loss holds the
evaluator's opinion as well (a least-squares adversarial loss).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor
from tyro.conf import OmitArgPrefixes

from activemri import checkpoints
from activemri.agents.episode_masks import EpisodeMasks
from activemri.data.slices import SliceDataset
from activemri.devices import seeded
from activemri.evaluator import Evaluator, save_evaluator
from activemri.metrics.losses import Loss, Terms, make_loss
from activemri.options import RunOptions, require_not_negative, require_positive
from activemri.reconstruction.reconstructor import Reconstructor
from activemri.reconstruction.registry import from_checkpoint
from activemri.training import loop
from activemri.training.batches import Batch
from activemri.training.construction import arguments_of_kind
from activemri.training.descent import Descent, autocast
from activemri.training.evaluator import (
    EvaluatorScore,
    adversarial,
    evaluator_loss,
    perceptual_by,
    score_evaluator,
)
from activemri.training.loop import Evaluation, OnValidation, ShowProgress, Trained
from activemri.training.reconstructor import (
    Arguments,
    Context,
    LearnsByItself,
    ReconstructorTrainee,
    TrainReconstructorSettings,
    check_all_but_loss,
    learn_from_batches,
    losses_from_weights,
    open_context,
    results_in,
    run_loop,
    untrained,
)

#: Of Adam, as in the paper: short memory, because what is judged changes.
BETAS = (0.5, 0.999)

_SOME_WIDTH = 1024  # for checks of arguments, before scans of native sizes are opened
_COMMAND = "train joint"


@dataclass(frozen=True, kw_only=True)
class TrainJointSettings(TrainReconstructorSettings):
    """Train a reconstructor and the evaluator that scores its k-space lines.

    Writes checkpoints of the best reconstructor (best) and of its evaluator (evaluator), a log,
    and what --resume needs after an interruption.
    """

    run: OmitArgPrefixes[RunOptions] = RunOptions(out=Path("runs/joint"))
    schedule: Literal["staged", "alternating"] = "staged"
    """First the reconstructor, then the evaluator of its best weights; or both in every step."""
    evaluator: Arguments = field(default_factory=dict)
    """Arguments of the evaluator."""
    gamma: float = 3.0
    """Rate at which an evaluator's scores fall with a line's error, in units of the image's
    mean square: as exp(-gamma error)."""
    adversarial_weight: float = 0.1
    """Weight of the evaluator's opinion in the reconstructor's loss (alternating only), unless
    --loss names adversarial itself."""
    evaluator_lr: float = 2e-3
    """Largest learning rate of the evaluator."""
    evaluator_steps: int | None = None
    """Steps of the evaluator's stage (staged only); None takes half of --max-steps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(
            gamma=self.gamma,
            evaluator_lr=self.evaluator_lr,
            evaluator_steps=self.evaluator_steps,
        )
        require_not_negative(adversarial_weight=self.adversarial_weight)

    def adapted(self, given: Callable[[str], Any]) -> Self:
        return replace(super().adapted(given), evaluator=arguments_of_kind(Evaluator))

    def check(self, *, loss: Loss | None = None) -> None:
        """The same, and refuse arguments of the evaluator and readouts that are no columns."""
        if self.supervision != "full":
            raise ValueError(
                f"--supervision {self.supervision}: an evaluator learns from fully sampled scans; "
                "train the reconstructor alone (activemri train reconstructor)"
            )
        geometry = self.protocol.geometry
        if getattr(geometry, "name", geometry) not in ("columns", "conjugate-columns"):
            raise ValueError(
                f"--geometry {geometry}: an evaluator scores columns of k-space; expected columns "
                "or conjugate-columns, or train the reconstructor alone (activemri train "
                "reconstructor)"
            )
        loss_of(self, None)
        if self.schedule == "alternating" and isinstance(untrained(self), LearnsByItself):
            raise ValueError(
                f"--schedule alternating: {self.protocol.reconstructor!r} is trained with a loss "
                "of its own, to which an evaluator's opinion cannot be added; choose --schedule "
                "staged"
            )
        check_all_but_loss(self, loss=loss)


@dataclass(frozen=True, kw_only=True)
class JointlyTrained(Trained):
    """Result of a joint training.

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

    def __str__(self) -> str:
        """Two lines."""
        return (
            f"{super().__str__()}\n{self.evaluator}: best after {self.evaluator_step} steps, "
            f"validation loss {self.evaluator_loss:.4f}, Spearman correlation with the errors of "
            f"lines {self.spearman:.3f}, regret {self.regret:.3f}"
        )


def train_joint(
    settings: TrainJointSettings,
    *,
    train: SliceDataset | None = None,
    validation: SliceDataset | None = None,
    moments: EpisodeMasks | None = None,
    on_validation: OnValidation | None = None,
) -> JointlyTrained:
    """Train a reconstructor and its evaluator; continue after a kill.

    Masks, validation of the reconstructor, resuming and files are those of
    :func:`activemri.training.reconstructor.train_reconstructor`; ``evaluator.safetensors`` and
    ``evaluator.json`` come in addition. Staged, the evaluator with the lowest validation loss is
    kept. Alternating, it is the one that was trained together with the best reconstructor: losses
    of evaluators that judge different reconstructors cannot be compared.

    Args:
        settings: see there.
        train: scans to learn from; None opens the train split of the protocol's data.
        validation: scans that choose the best weights; None opens the val split.
        moments: source of the masks; None records episodes.
        on_validation: called with step and score after every validation of either stage.

    Raises:
        ValueError: unusable settings or data; a folder that is taken; subjects in both splits.
        OSError: the output folder cannot be written.
        DivergedError: a loss that is not finite; the best weights so far are kept.
    """
    settings.compute.prepare()
    settings.check()
    context = open_context(settings, train=train, validation=validation, moments=moments, loss=None)
    if settings.schedule == "staged":
        _train_in_stages(settings, context, on_validation)
    else:
        pair = PairTrainee(context, settings)
        run_loop(pair, context, name="pair", on_validation=on_validation)
    return _result(context.folder.path)


def _train_in_stages(
    settings: TrainJointSettings, context: Context, on_validation: OnValidation | None
) -> None:
    in_second = context.state is not None and context.state["training"] == "evaluator"
    if not in_second:
        first = ReconstructorTrainee(context, loss_of(settings, None), command=_COMMAND)
        run_loop(first, context, name="reconstructor", on_validation=on_validation)
    best = from_checkpoint(checkpoints.load(context.folder.best)).to(context.device).eval()
    n_steps = settings.evaluator_steps or max(1, settings.max_steps // 2)
    loop.train(
        EvaluatorTrainee(context, settings, reconstructor=best, n_steps=n_steps),
        context.folder,
        name="evaluator",
        n_steps=n_steps,
        validate_every=settings.validate_every,
        patience=settings.patience,
        state=context.state if in_second else None,
        checkpoint="evaluator",
        on_validation=on_validation,
        device=context.device,
    )


class EvaluatorTrainee:
    """An evaluator that learns to judge the images of a reconstructor.

    Args:
        context: of the training.
        settings: the same as those of the context.
        reconstructor: whose images are judged.
        n_steps: of the whole training.
    """

    def __init__(
        self,
        context: Context,
        settings: TrainJointSettings,
        *,
        reconstructor: Reconstructor,
        n_steps: int,
    ) -> None:
        self.context, self.settings, self.reconstructor = context, settings, reconstructor
        self.step = 0
        infos = (*context.batches.infos, *context.validation.infos)
        widest = max(info.shape[1] for info in infos)
        self.network = new_evaluator(settings, width=widest).to(context.device)
        self.descent = Descent(
            self.network,
            lr=settings.evaluator_lr,
            n_steps=n_steps,
            precision=settings.precision,
            option="--evaluator-lr",
            betas=BETAS,
        )

    def learn(self, n_steps: int, progress: ShowProgress, /) -> Mapping[str, float]:
        return learn_from_batches(self, self.context, n_steps, progress)

    def train_on(self, batch: Batch, /) -> dict[str, float]:
        with torch.no_grad():
            image = self.reconstructor(batch.measurement).image
        return self.learn_from(batch, image)

    def learn_from(self, batch: Batch, image: Tensor) -> dict[str, float]:
        """One step on reconstructions (complex, without gradient) and on their references."""
        with autocast(self.settings.precision, self.context.device):
            loss = evaluator_loss(self.network, batch, image, gamma=self.settings.gamma)
        return self.descent.descend({"loss": batch.mean(loss)}, step=self.step)

    def validate(self) -> Evaluation:
        score: EvaluatorScore = score_evaluator(
            self.network, self.reconstructor, self.context.validation, gamma=self.settings.gamma
        )
        entries = {f"validation_{name}": value for name, value in vars(score).items()}
        return Evaluation(score=-score.loss, entries=entries)

    def save(self, path: Path, entries: Mapping[str, Any], /) -> None:
        metrics = {name: entries[f"validation_{name}"] for name in ("loss", "spearman", "regret")}
        info = self.context.info(step=self.step, metrics=metrics, command=_COMMAND)
        save_evaluator(path, self.network, info={"gamma": self.settings.gamma, **info})

    def state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "evaluator": self.network.state_dict(),
            "evaluator_optimizer": self.descent.state(),
        }

    def restore(self, state: Mapping[str, Any], /) -> None:
        self.step = state["step"]
        self.network.load_state_dict(state["evaluator"])
        self.descent.restore(state["evaluator_optimizer"])


class PairTrainee:
    """Reconstructor and evaluator, one step of each at a time.

    Args:
        context: of the training.
        settings: the same as those of the context.
    """

    def __init__(self, context: Context, settings: TrainJointSettings) -> None:
        self.context = context
        self.reconstructor = ReconstructorTrainee(
            context, loss_of(settings, None), command=_COMMAND
        )
        self.evaluator = EvaluatorTrainee(
            context,
            settings,
            reconstructor=self.reconstructor.network,
            n_steps=settings.max_steps,
        )
        self.reconstructor.terms = loss_of(settings, self.evaluator.network)

    @property
    def step(self) -> int:
        return self.reconstructor.step

    @step.setter
    def step(self, step: int) -> None:
        self.reconstructor.step = self.evaluator.step = step

    def learn(self, n_steps: int, progress: ShowProgress, /) -> Mapping[str, float]:
        return learn_from_batches(self, self.context, n_steps, progress)

    def train_on(self, batch: Batch, /) -> dict[str, float]:
        prediction = self.reconstructor.predict(batch)
        of_lines = self.evaluator.learn_from(batch, prediction.whole.detach())
        self.evaluator.network.requires_grad_(False)  # judges, and does not learn
        losses = self.reconstructor.learn_from(batch, prediction)
        self.evaluator.network.requires_grad_(True)
        return {**losses, "evaluator_loss": of_lines["loss"]}

    def validate(self) -> Evaluation:
        image, lines = self.reconstructor.validate(), self.evaluator.validate()
        return replace(image, entries={**image.entries, **lines.entries})

    def save(self, path: Path, entries: Mapping[str, Any], /) -> None:
        self.reconstructor.save(path, entries)
        self.evaluator.save(path.with_name("evaluator"), entries)

    def state(self) -> dict[str, Any]:
        return {**self.reconstructor.state(), **self.evaluator.state()}

    def restore(self, state: Mapping[str, Any], /) -> None:
        self.reconstructor.restore(state)
        self.evaluator.restore(state)


def new_evaluator(settings: TrainJointSettings, *, width: int) -> Evaluator:
    """The untrained evaluator that settings describe, in training mode.

    Args:
        settings: of the training.
        width: lines of k-space.

    Raises:
        ValueError: arguments that it refuses.
    """
    known = arguments_of_kind(Evaluator)
    if unknown := [name for name in settings.evaluator if name not in known]:
        raise ValueError(
            f"--evaluator.{unknown[0]}: expected an argument of the evaluator: {', '.join(known)}"
        )
    return seeded(lambda: Evaluator(width, **settings.evaluator), settings.run.seed).train()


def loss_of(settings: TrainJointSettings, evaluator: Evaluator | None) -> Terms:
    """The reconstructor's loss. Alternating, it may ask the evaluator that is trained beside it.

    Args:
        settings: of the training.
        evaluator: the one beside; None to see whether the loss makes sense.
    """
    size = settings.protocol.matrix_size
    width = size[1] if isinstance(size, tuple) else size or _SOME_WIDTH
    evaluator = evaluator or new_evaluator(settings, width=width)
    more = losses_from_weights(settings)
    if settings.schedule == "staged":  # there is no evaluator yet
        return make_loss(settings.loss, more=more)
    more = {"adversarial": adversarial(evaluator), "perceptual": perceptual_by(evaluator), **more}
    terms = make_loss(settings.loss, more=more)
    if settings.adversarial_weight > 0:
        terms.setdefault("adversarial", (settings.adversarial_weight, more["adversarial"]))
    return terms


def _result(folder: Path) -> JointlyTrained:
    """Read from the checkpoints, which know it also after a kill between the stages."""
    info: Any = checkpoints.load(folder / "evaluator").info
    return JointlyTrained(
        **results_in(folder / "best"),
        evaluator=folder / "evaluator",
        evaluator_step=info["step"],
        evaluator_loss=info["metrics"]["loss"],
        spearman=info["metrics"]["spearman"],
        regret=info["metrics"]["regret"],
    )
