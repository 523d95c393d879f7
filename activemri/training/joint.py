"""Train a reconstructor and the evaluator of its k-space lines.

Zhang et al., "Reducing uncertainty in undersampled MRI reconstruction with active acquisition",
CVPR 2019. Staged, the reconstructor is trained alone, then the evaluator on the images of its best
weights. Alternating, each step trains the evaluator, then the reconstructor, whose loss holds the
evaluator's opinion as well (a least-squares adversarial loss).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

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
from activemri.training.batches import Batch
from activemri.training.construction import arguments_of_kind, require_arguments
from activemri.training.descent import Descent, autocast
from activemri.training.evaluator import (
    adversarial,
    evaluator_loss,
    perceptual_by,
    score_evaluator,
)
from activemri.training.loop import OnValidation, ShowProgress, Trained
from activemri.training.reconstructor import (
    Arguments,
    BatchTrainee,
    Context,
    ReconstructorTrainee,
    TrainReconstructorSettings,
    result_in,
)

#: Of Adam, as in the paper: short memory, because what is judged changes.
BETAS = (0.5, 0.999)

_SOME_WIDTH = 1024  # for checks of arguments, before scans of native sizes are opened


@dataclass(frozen=True, kw_only=True)
class TrainJointSettings(TrainReconstructorSettings):
    """Train a reconstructor and the evaluator that scores its k-space lines.

    Writes checkpoints of the best reconstructor (best) and of its evaluator (evaluator), a log,
    and what --resume needs after an interruption.
    """

    command: ClassVar[str] = "train joint"
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
        require_positive(evaluator_lr=self.evaluator_lr, evaluator_steps=self.evaluator_steps)
        require_positive(gamma=self.gamma)
        require_not_negative(adversarial_weight=self.adversarial_weight)
        if self.max_steps == 0 and (self.schedule == "alternating" or self.evaluator_steps is None):
            raise ValueError(
                "--max-steps 0 trains the evaluator alone: give --evaluator-steps, and --schedule "
                "staged"
            )

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
        if self.schedule == "alternating" and hasattr(self.untrained(), "training_loss"):
            raise ValueError(
                f"--schedule alternating: {self.protocol.reconstructor!r} is trained with a loss "
                "of its own, to which an evaluator's opinion cannot be added; choose --schedule "
                "staged"
            )
        super().check(loss=loss)

    def new_evaluator(self, *, width: int) -> Evaluator:
        """The untrained evaluator of so many lines, in training mode, or a ValueError."""
        require_arguments(self.evaluator, Evaluator, option="evaluator", name="the evaluator")
        return seeded(lambda: Evaluator(width, **self.evaluator), self.run.seed).train()

    def objective(self, evaluator: Evaluator | None = None) -> Terms:
        """The reconstructor's loss. Alternating, it may ask the evaluator trained beside it.

        None is there to see whether the loss makes sense.
        """
        size = self.protocol.matrix_size
        width = size[1] if isinstance(size, tuple) else size or _SOME_WIDTH
        evaluator = evaluator or self.new_evaluator(width=width)
        more = self.losses_of_weights()
        if self.schedule == "staged":  # there is no evaluator yet
            return make_loss(self.loss, more=more)
        beside = {"adversarial": adversarial(evaluator), "perceptual": perceptual_by(evaluator)}
        terms = make_loss(self.loss, more={**beside, **more})
        if self.adversarial_weight > 0:
            terms.setdefault("adversarial", (self.adversarial_weight, beside["adversarial"]))
        return terms


def train_joint(
    settings: TrainJointSettings,
    *,
    train: SliceDataset | None = None,
    validation: SliceDataset | None = None,
    moments: EpisodeMasks | None = None,
    on_validation: OnValidation | None = None,
) -> Trained:
    """Train a reconstructor and its evaluator; continue after a kill.

    Masks, validation of the reconstructor, resuming and files are those of
    :func:`activemri.training.reconstructor.train_reconstructor`; ``evaluator.safetensors`` and
    ``evaluator.json`` come in addition. Staged, the evaluator with the lowest validation loss is
    kept. Alternating, it is the one that was trained together with the best reconstructor: losses
    of evaluators that judge different reconstructors cannot be compared.

    Arguments and errors are the same as well; `on_validation` is called in either stage.
    """
    settings.compute.prepare()
    settings.check()
    with Context(settings, train=train, validation=validation, moments=moments) as context:
        folder = context.folder
        if settings.schedule == "alternating":
            pair = PairTrainee(context, settings)
            context.run(pair, name="pair", on_validation=on_validation)
        else:
            in_second = context.state is not None and context.state["training"] == "evaluator"
            if not in_second:
                first = ReconstructorTrainee(context, settings.objective())
                context.run(first, name="reconstructor", on_validation=on_validation)
            best = from_checkpoint(checkpoints.load(folder.best)).to(context.device).eval()
            n_steps = settings.evaluator_steps or max(1, settings.max_steps // 2)
            context.run(
                EvaluatorTrainee(context, settings, reconstructor=best, n_steps=n_steps),
                name="evaluator",
                n_steps=n_steps,
                state=context.state if in_second else None,
                checkpoint="evaluator",
                on_validation=on_validation,
            )
    info: Any = checkpoints.load(folder.path / "evaluator").info  # also after a kill between stages
    scores = info["metrics"]
    beside = (
        f"{folder.path / 'evaluator'}: best after {info['step']} steps, validation loss "
        f"{scores['loss']:.4f}, Spearman correlation with the errors of lines "
        f"{scores['spearman']:.3f}, regret {scores['regret']:.3f}"
    )
    return replace(result_in(folder.best), beside=beside)


class EvaluatorTrainee(BatchTrainee):
    """An evaluator that learns, in so many steps, to judge the images of a reconstructor."""

    def __init__(
        self,
        context: Context,
        settings: TrainJointSettings,
        *,
        reconstructor: Reconstructor,
        n_steps: int,
    ) -> None:
        self.settings, self.reconstructor = settings, reconstructor
        infos = (*context.batches.infos, *context.validation.infos)
        widest = max(info.shape[1] for info in infos)
        self.network = settings.new_evaluator(width=widest).to(context.device)
        self.descent = Descent(
            self.network,
            lr=settings.evaluator_lr,
            n_steps=n_steps,
            precision=settings.precision,
            option="--evaluator-lr",
            betas=BETAS,
        )
        super().__init__(context, {"evaluator": self.network, "evaluator_optimizer": self.descent})

    def train_on(self, batch: Batch) -> dict[str, float]:
        with torch.no_grad():
            image = self.reconstructor(batch.measurement).image
        return self.learn_from(batch, image)

    def learn_from(self, batch: Batch, image: Tensor) -> dict[str, float]:
        """One step on reconstructions (complex, without gradient) and on their references."""
        with autocast(self.settings.precision, self.context.device):
            loss = evaluator_loss(self.network, batch, image, gamma=self.settings.gamma)
        return self.descent.descend({"loss": batch.mean(loss)}, step=self.step)

    def validate(self, progress: ShowProgress, /) -> tuple[float, dict[str, float]]:
        scores = score_evaluator(
            self.network, self.reconstructor, self.context.validation, gamma=self.settings.gamma
        )
        return -scores["loss"], {f"validation_{name}": value for name, value in scores.items()}

    def save(self, path: Path, entries: Mapping[str, Any], /) -> None:
        metrics = {name: entries[f"validation_{name}"] for name in ("loss", "spearman", "regret")}
        info = self.context.info(metrics)
        save_evaluator(path, self.network, info={"gamma": self.settings.gamma, **info})


class PairTrainee(BatchTrainee):
    """Reconstructor and evaluator, one step of each at a time."""

    def __init__(self, context: Context, settings: TrainJointSettings) -> None:
        self.reconstructor = ReconstructorTrainee(context, settings.objective())
        network = self.reconstructor.network
        self.evaluator = EvaluatorTrainee(
            context, settings, reconstructor=network, n_steps=settings.max_steps
        )
        self.reconstructor.terms = settings.objective(self.evaluator.network)
        super().__init__(context, {**self.reconstructor.parts, **self.evaluator.parts})

    def train_on(self, batch: Batch) -> dict[str, float]:
        prediction = self.reconstructor.predict(batch)
        of_lines = self.evaluator.learn_from(batch, prediction.whole.detach())
        self.evaluator.network.requires_grad_(False)  # judges, and does not learn
        losses = self.reconstructor.learn_from(batch, prediction)
        self.evaluator.network.requires_grad_(True)
        return {**losses, "evaluator_loss": of_lines["loss"]}

    def validate(self, progress: ShowProgress, /) -> tuple[float, dict[str, Any]]:
        score, entries = self.reconstructor.validate(progress)
        return score, {**entries, **self.evaluator.validate(progress)[1]}

    def save(self, path: Path, entries: Mapping[str, Any], /) -> None:
        self.reconstructor.save(path, entries)
        self.evaluator.save(path.with_name("evaluator"), entries)
