"""Train a reconstructor on moments of episodes."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, arg

from activemri import checkpoints
from activemri.agents.episode_masks import EpisodeMasks, record_episodes
from activemri.data.slices import SliceDataset
from activemri.data.views import pooled, require_other_subjects
from activemri.envs.protocol import ScanProtocol
from activemri.envs.scan import Scan
from activemri.evaluator import make_evaluator
from activemri.metrics.losses import Loss, Prediction, Terms, losses_of, make_loss
from activemri.options import (
    Compute,
    RunOptions,
    command_line,
    described,
    require_not_negative,
    require_positive,
)
from activemri.reconstruction.reconstructor import Reconstructor, require_served
from activemri.reconstruction.registry import RECONSTRUCTORS, save_reconstructor
from activemri.reconstruction.zero_filled import ZeroFilled
from activemri.training import loop, processes
from activemri.training.augmentation import make_augmentation
from activemri.training.batches import Batch, TrainingBatches, in_memory
from activemri.training.construction import arguments_of, new_reconstructor
from activemri.training.descent import Descent, Precision, autocast
from activemri.training.evaluator import perceptual_by
from activemri.training.folder import RunFolder
from activemri.training.loop import DivergedError, OnValidation, ShowProgress, Trained
from activemri.training.self_supervised import robust_loss, sample_weights, self_supervised_loss
from activemri.training.validation import Validation, draw, evaluating

if TYPE_CHECKING:
    Arguments = Mapping[str, Any]
else:
    Arguments = dict  # the command line makes an option of every key

#: Policies whose masks reconstructors are trained on. A choice, part of the training like its loss:
#: it covers random masks, orders from the centre and from the edge, learned ones, and those that
#: suit a scan best. A policy that is registered later does not join by itself.
MASK_POLICIES = (
    "random", "variable-density", "low-frequency-first", "high-frequency-first", "equispaced",
    "conjugate-symmetric", "lbcs", "average-oracle", "oracle", "exchange-oracle",
)  # fmt: skip

#: Scans whose masks tell how often a sample is acquired, for robust-ssdu.
N_MASKS = 512


@dataclass(frozen=True, kw_only=True)
class TrainReconstructorSettings:
    """Train a reconstructor on the masks of episodes.

    --reconstructor names what is trained: cresnet (with uncertainty), unet, modl, varnet,
    adaptive-varnet, kiki-net or diffusion (draws samples) from the first weights on, or a
    checkpoint that the training begins with. Writes a checkpoint (safetensors and JSON) of the best
    weights by validation SSIM, a log, and what --resume needs after an interruption.
    """

    command: ClassVar[str] = "train reconstructor"
    protocol: OmitArgPrefixes[ScanProtocol] = ScanProtocol(reconstructor="cresnet", budget=24)
    run: OmitArgPrefixes[RunOptions] = RunOptions(out=Path("runs/reconstructor"))
    compute: OmitArgPrefixes[Compute] = Compute()
    network: Arguments = field(default_factory=dict)
    """Arguments of the network."""
    max_steps: int = 2000
    """Optimiser steps. The learning rate falls to zero at the last one. 0 keeps the weights of a
    checkpoint as they are."""
    batch_size: int = 4
    """Scans a step."""
    lr: float = 3e-3
    """Largest learning rate of the schedule."""
    loss: str = "standard"
    """Training loss: mse, l1, ssim, nll (needs an uncertainty), a weighted sum such as
    l1+ssim+0.1*nll, or standard: l1+ssim, and 0.1*nll where there is an uncertainty. Also
    perceptual and adversarial, where there is an evaluator. kiki-net and diffusion have losses of
    their own."""
    supervision: Literal["full", "ssdu", "robust-ssdu"] = "full"
    """Reference of the reconstruction in training: full takes all samples of a scan; ssdu a part of
    one acquisition of it, which is all that it ever sees (--loss and --augment are left out, and
    that part also chooses the best weights); robust-ssdu the same, weighted so that rare samples
    count as much as others, and corrected for noise."""
    held_out: float = 0.4
    """Share of the acquired samples that ssdu holds out."""
    n_splits: int = 1
    """Draws of held-out samples that a step of ssdu averages over."""
    more_noise: float = 1.0
    """Strength of the noise that robust-ssdu adds to what is seen, over that of the scan's own."""
    perceptual_weights: Path | None = None
    """Checkpoint of an evaluator whose features the perceptual loss compares."""
    augment: Annotated[tuple[str, ...], arg(metavar="NAME [NAME ...]")] = ("flip",)
    """Change scans at random: flip, rotate90 (square scans), phase, scale, off-resonance (a phase
    with edges); or none."""
    validate_every: int = 200
    """Steps between validations."""
    patience: int | None = None
    """Stop after this many validations without a better one; None trains to the end."""
    images: int = 3
    """Validation scans to show in images/ after every validation; 0 draws none."""
    tensorboard: FlagCreatePairsOff[bool] = False
    """Show losses, scores and images in TensorBoard as well."""
    precision: Precision = "32"
    """Bits of the numbers in layers; 16 ones need a GPU."""

    def __post_init__(self) -> None:
        require_positive(batch_size=self.batch_size, lr=self.lr)
        require_positive(validate_every=self.validate_every, patience=self.patience)
        require_positive(n_splits=self.n_splits, more_noise=self.more_noise)
        require_not_negative(images=self.images, max_steps=self.max_steps)
        if self.max_steps == 0 and str(self.protocol.reconstructor) in RECONSTRUCTORS:
            raise ValueError(
                "--max-steps 0 keeps the weights of a checkpoint: give its path as --reconstructor"
            )

    def adapted(self, given: Callable[[str], Any]) -> Self:
        """The same with the network's arguments of the reconstructor that is given."""
        return replace(
            self, network=arguments_of(given("reconstructor") or self.protocol.reconstructor)
        )

    def untrained(self, *, device: torch.device | str = "cpu") -> Reconstructor:
        """The reconstructor before its first step.

        One with a method ``training_loss(measurement, image)`` has a loss of its own, (batch,), of
        what has been acquired and the image of all readouts. It may draw from torch's global
        generator, which every training step seeds.
        """
        return new_reconstructor(
            self.protocol.reconstructor, self.network, seed=self.run.seed, device=device
        )

    def objective(self) -> Terms:
        """The losses that are named, or a ValueError."""
        return make_loss(self.loss, more=self.losses_of_weights())

    def losses_of_weights(self) -> dict[str, Loss]:
        """Losses that the evaluator in `perceptual_weights` makes possible, by name."""
        if self.perceptual_weights is None:
            return {}
        device = processes.device_of(self.compute.device)
        evaluator = make_evaluator(self.perceptual_weights, device=device)
        return {"perceptual": perceptual_by(evaluator.requires_grad_(False))}

    def check(self, *, loss: Loss | None = None) -> None:
        """Refuse what the training would refuse, before data are read.

        Raises:
            ValueError: an unknown loss, augmentation, network or argument of it, a device that is
                not there, or what :class:`RunFolder` refuses, with its other errors.
        """
        if loss is None:
            self.objective()
        if self.batch_size % processes.world_size():
            raise ValueError(
                f"--batch-size {self.batch_size} cannot be divided by the "
                f"{processes.world_size()} processes of this training; choose a multiple"
            )
        device = processes.device_of(self.compute.device)
        if self.precision != "32" and device.type != "cuda":
            raise ValueError(
                f"--precision {self.precision} needs a GPU (--device cuda); on the {device.type} "
                "leave it 32"
            )
        make_augmentation(self.augment)
        learns_by_itself = hasattr(self.untrained(), "training_loss")
        usual = TrainReconstructorSettings
        own_loss = (self.loss, self.perceptual_weights, loss) != (usual.loss, None, None)
        if learns_by_itself and own_loss:
            raise ValueError(
                f"--reconstructor {self.protocol.reconstructor} is trained with a loss of its own, "
                "not with one of its images; leave out --loss and --perceptual-weights, and give "
                "no loss"
            )
        if self.supervision != "full":
            if learns_by_itself:
                raise ValueError(
                    f"--supervision {self.supervision}: {self.protocol.reconstructor} learns from "
                    "fully sampled images; expected a reconstructor that is trained with --loss, "
                    "e.g. modl or varnet"
                )
            if own_loss or self.augment != usual.augment:
                raise ValueError(
                    f"--supervision {self.supervision} has a loss of its own, and sees one "
                    "acquisition of every scan as it is; leave out --loss, --augment and "
                    "--perceptual-weights"
                )
            if not 0 < self.held_out < 1:
                raise ValueError(
                    f"--held-out: expected a share between 0 and 1; got {self.held_out}"
                )
        if processes.rank() == 0:  # others would find what the first one has begun
            self.folder().check(described(self))

    def folder(self) -> RunFolder:
        """The folder of the run."""
        return RunFolder(self.run, self.command, tensorboard=self.tensorboard)


def train_reconstructor(
    settings: TrainReconstructorSettings,
    *,
    train: SliceDataset | None = None,
    validation: SliceDataset | None = None,
    moments: EpisodeMasks | None = None,
    loss: Loss | None = None,
    on_validation: OnValidation | None = None,
) -> Trained:
    """Train, validate at fixed intervals, keep the best weights; continue after a kill.

    Each step is a function of seed and step number, so a training that was killed and resumed ends
    with the same weights, bit for bit, as one that was not (same machine and number of threads).
    Optimiser: :class:`activemri.training.descent.Descent`; folder:
    :mod:`activemri.training.folder`; torchrun: :mod:`activemri.training.processes`.

    Args:
        settings: see there.
        train: scans to learn from; None opens the train split of the protocol's data.
        validation: scans that choose the best weights; None opens the val split.
        moments: source of the masks; None records episodes of :data:`MASK_POLICIES`.
        loss: instead of the one that `settings.loss` names.
        on_validation: called with step and SSIM after every validation, once its results are on
            disk; what it raises ends the training.

    Raises:
        ValueError: unusable settings or data; a folder that is taken; subjects in both splits.
        OSError: the output folder cannot be written.
        DivergedError: a loss that is not finite; the best weights so far are kept.
    """
    settings.compute.prepare()
    settings.check(loss=loss)
    with Context(
        settings, train=train, validation=validation, moments=moments, loss=loss
    ) as context:
        terms = settings.objective() if loss is None else make_loss(loss)
        trainee = ReconstructorTrainee(context, terms)
        context.run(trainee, name="reconstructor", on_validation=on_validation)
    return result_in(context.folder.best)


def result_in(checkpoint: Path) -> Trained:
    """Result of the training that wrote a checkpoint of a reconstructor."""
    info: Any = checkpoints.load(checkpoint).info
    return Trained(
        checkpoint=checkpoint,
        best_step=info["step"],
        best_score=info["metrics"]["ssim"],
        baseline=info["metrics"]["zero_filled_ssim"],
    )


class Context(ExitStack):
    """A training whose data are open, whose folder is its own, and whose episodes are recorded.

    Arguments and errors are those of :func:`train_reconstructor`, with checked settings. It counts
    the steps that the trainee has taken; `state` is to be continued from, None to begin.
    """

    def __init__(
        self,
        settings: TrainReconstructorSettings,
        *,
        train: SliceDataset | None,
        validation: SliceDataset | None,
        moments: EpisodeMasks | None,
        loss: Loss | None = None,
    ) -> None:
        super().__init__()
        self.settings, self.step = settings, 0
        self.device, protocol = processes.join(settings.compute.device), settings.protocol
        self.folder = settings.folder()
        train = in_memory(train if train is not None else protocol.dataset("train"))
        validation = in_memory(validation if validation is not None else protocol.dataset("val"))
        require_other_subjects(train, validation)
        scan = bare_scan(settings, train, validation) if moments is None else moments.scan
        require_served(settings.untrained(), scan.geometry)
        supervised = settings.supervision == "full"
        if not (supervised or scan.geometry.transform.is_cartesian):
            raise ValueError(
                f"--supervision {settings.supervision} holds out samples of a Cartesian grid; "
                f"geometry {scan.geometry.name!r} has none"
            )
        own_loss = None if loss is None else getattr(loss, "__qualname__", type(loss).__qualname__)
        same = {
            **described(settings),
            "masks": "EpisodeMasks" if moments is None else type(moments).__name__,
            "n_train_scans": len(train),
            "n_validation_scans": len(validation),
            "loss_object": own_loss,
        }
        if processes.rank() == 0:  # claims the folder; then all read the state in it
            self.state = self.enter_context(self.folder.open(same))
        processes.barrier(self.device)
        if processes.rank() > 0:
            self.state = self.folder.state()
        processes.barrier(self.device)  # the first one writes again only when all have read
        if moments is None:
            try:
                moments = recorded_moments(settings, train, validation)
            except BaseException:
                self.close()
                raise
        self.batches = TrainingBatches(
            train,
            moments,
            batch_size=settings.batch_size,
            seed=settings.run.seed,
            augment=make_augmentation(settings.augment if supervised else ("none",)),
            one_mask=not supervised,
            rank=processes.rank(),
            n_processes=processes.world_size(),
        )
        self.validation = Validation(validation, moments, seed=settings.run.seed)

    def run(self, trainee: loop.Trainee, *, name: str, **options: Any) -> None:
        """Train to the end of the settings' schedule, or as options of the loop say otherwise."""
        settings = self.settings
        usual = {
            "n_steps": settings.max_steps,
            "state": self.state,
            "validate_every": settings.validate_every,
            "patience": settings.patience,
            "device": self.device,
        }
        loop.train(trainee, self.folder, name=name, **(usual | options))

    def info(self, metrics: Mapping[str, object]) -> dict[str, object]:
        """Facts about the training for a checkpoint."""
        settings, scan = self.settings, self.batches.moments.scan
        data = settings.protocol.data
        return {
            "data": data if isinstance(data, str) else self.batches.scans.name,
            "matrix_size": settings.protocol.matrix_size,
            "geometry": scan.geometry.name,
            "n_train_slices": len(self.batches.scans),
            "n_center_lines": scan.n_center_lines,
            "budget": self.batches.moments.budget,
            "sensitivity": str(settings.protocol.sensitivity),
            "masks": type(self.batches.moments).__name__,
            "step": self.step,
            "supervision": settings.supervision,
            "metrics": dict(metrics),
            "torch_version": str(torch.__version__),
            "threads": torch.get_num_threads(),
            "processes": processes.world_size(),
            "command": command_line(settings.command, settings),
        }


def bare_scan(
    settings: TrainReconstructorSettings, train: SliceDataset, validation: SliceDataset
) -> Scan:
    """The scan protocol with a frame that holds all scans; scores cost time, and there are none."""
    bare = replace(settings.protocol, reconstructor="zero-filled", reward="delta_ssim", metrics=())
    scans = pooled([train, validation], name=train.name)
    scan = bare.scan(scans, device=processes.device_of(settings.compute.device))
    return replace(scan, metrics=())


def recorded_moments(
    settings: TrainReconstructorSettings, train: SliceDataset, validation: SliceDataset
) -> EpisodeMasks:
    """Episodes of :data:`MASK_POLICIES` on training scans."""
    return record_episodes(
        train,
        bare_scan(settings, train, validation),
        policies=MASK_POLICIES,
        seed=settings.run.seed,
        show=processes.rank() == 0,
    )


class BatchTrainee:
    """A trainee of the loop that learns from one batch a step, counted anew in its context.

    Subclasses add `train_on`, `validate` and `save`. Parts are networks and optimisers by their
    names in the saved state.
    """

    def __init__(self, context: Context, parts: Mapping[str, nn.Module | Descent]) -> None:
        self.context, self.parts = context, parts
        context.step = 0

    def train_on(self, batch: Batch) -> dict[str, float]:
        """Learn from a batch; the losses by name, the one that is followed being called "loss"."""
        raise NotImplementedError

    @property
    def step(self) -> int:
        return self.context.step

    def learn(self, n_steps: int, progress: ShowProgress, /) -> dict[str, float]:
        """Some steps, each with random numbers of its own; the mean losses."""
        context = self.context
        totals: dict[str, float] = defaultdict(float)
        gpus = [context.device] if context.device.type == "cuda" else []
        for _ in range(n_steps):
            batch = context.batches[context.step]
            numbers = (context.settings.run.seed, context.step, processes.rank())
            with torch.random.fork_rng(devices=gpus):
                torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))
                try:
                    losses = self.train_on(batch)
                except DivergedError as error:
                    raise DivergedError(
                        f"{error}, or look at the scans {', '.join(batch.names)}"
                    ) from error
            context.step += 1
            for name, loss in losses.items():
                totals[name] += loss
            progress(loss=losses["loss"])
        return {name: total / n_steps for name, total in totals.items()}

    def state(self) -> dict[str, Any]:
        return {"step": self.step, **{n: part.state_dict() for n, part in self.parts.items()}}

    def restore(self, state: Mapping[str, Any], /) -> None:
        self.context.step = state["step"]
        for name, part in self.parts.items():
            part.load_state_dict(state[name])


class ReconstructorTrainee(BatchTrainee):
    """A reconstructor that learns from a sum of losses."""

    def __init__(self, context: Context, terms: Terms) -> None:
        settings, self.terms = context.settings, terms
        self.network = settings.untrained(device=context.device)
        self.descent = Descent(
            self.network, lr=settings.lr, n_steps=settings.max_steps, precision=settings.precision
        )
        super().__init__(context, {"network": self.network, "optimizer": self.descent})
        self.zero_filled = context.validation.score(ZeroFilled())
        self._weights: dict[tuple[int, int], Tensor] = {}  # of held-out samples, by size of scans

    def train_on(self, batch: Batch) -> dict[str, float]:
        settings = self.context.settings
        if settings.supervision != "full":
            loss = self._held_out_loss(batch, seed=self.step)
        elif hasattr(self.network, "training_loss"):
            with autocast(settings.precision, self.context.device):
                own_loss: Any = self.network.training_loss
                loss = own_loss(batch.measurement, batch.reference)
        else:
            return self.learn_from(batch, self.predict(batch))
        return self.descent.descend({"loss": batch.mean(loss)}, step=self.step)

    def predict(self, batch: Batch) -> Prediction:
        """Reconstruct a batch in the precision of the training."""
        with autocast(self.context.settings.precision, self.context.device):
            return batch.prediction(self.network(batch.measurement))

    def learn_from(self, batch: Batch, prediction: Prediction) -> dict[str, float]:
        """One step; the losses, each part of a sum apart."""
        losses = losses_of(prediction, self.terms)
        means = {name: batch.mean(values) for name, values in losses.items()}
        return self.descent.descend(means, step=self.step)

    def _held_out_loss(self, batch: Batch, *, seed: int) -> Tensor:
        """The loss of a training without references, (batch,)."""
        settings = self.context.settings
        loss: Callable[..., Tensor] = self_supervised_loss
        if settings.supervision == "robust-ssdu":
            height, width = batch.measurement.kspace.shape[-2:]
            if (height, width) not in self._weights:
                self._weights[height, width] = sample_weights(
                    self.context.batches.longest_masks((height, width), N_MASKS),
                    share=settings.held_out,
                    generator=torch.Generator().manual_seed(settings.run.seed),
                )
            weights = self._weights[height, width]
            loss = partial(robust_loss, weights=weights, more_noise=settings.more_noise)
        with autocast(settings.precision, self.context.device):
            return loss(
                self.network,
                batch.measurement,
                share=settings.held_out,
                n_splits=settings.n_splits,
                generator=torch.Generator().manual_seed(settings.run.seed * 1_000_003 + seed),
            )

    def validate(self, progress: ShowProgress, /) -> tuple[float, dict[str, Any]]:
        validation, settings = self.context.validation, self.context.settings
        score, score_at = validation.score(self.network, progress)
        entries: dict[str, Any] = {
            "validation_ssim": score,
            "validation_ssim_at": score_at,
            "zero_filled_ssim_at": self.zero_filled[1],
        }
        if settings.supervision != "full":
            # No reference decides, but held-out samples of validation scans, the same ones always.
            last = validation.steps[-1:]
            with evaluating(self.network):
                losses = [
                    self._held_out_loss(validation.batch(index, steps=last), seed=0)
                    for index in validation.indices
                ]
            entries["validation_loss"] = float(torch.cat(losses).double().mean())
            score = -entries["validation_loss"]
        if settings.images > 0:
            entries["picture"] = draw(validation, self.network, n_scans=settings.images)
        return score, entries

    def save(self, path: Path, entries: Mapping[str, Any], /) -> None:
        metrics = {
            "ssim": entries["validation_ssim"],
            "ssim_at": entries["validation_ssim_at"],
            "zero_filled_ssim": self.zero_filled[0],
            "zero_filled_ssim_at": self.zero_filled[1],
        }
        info = self.context.info(metrics)
        save_reconstructor(path, self.network, info=info)
