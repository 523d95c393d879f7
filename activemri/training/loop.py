"""The loop of every training: steps, validations, best weights, continuing after a kill."""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from tqdm import tqdm

from activemri.training.batches import Batch, TrainingBatches, to_device
from activemri.training.descent import NotFiniteError
from activemri.training.run_folder import RunFolder

#: Told after every validation: step, and score (higher is better).
OnValidation = Callable[[int, float], None]


class TrainingDivergedError(ValueError):
    """The loss or its gradient is no longer a finite number."""


@dataclass(frozen=True)
class Check:
    """What a validation has found.

    Attributes:
        score: decides which weights are best; higher is better.
        entry: for the log.
    """

    score: float
    entry: Mapping[str, object]


class Learner(Protocol):
    """What a :class:`Loop` drives: networks, their optimisers, and what is good about them.

    Attributes:
        name: of what is learned, for the log and the state.
        best: checkpoint that :meth:`save_best` writes, without suffix.
    """

    @property
    def name(self) -> str: ...
    @property
    def best(self) -> Path: ...
    def step(self, batch: Batch, *, step: int) -> dict[str, float]:
        """Learn from a batch; the losses by name, the one that is shown being called "loss"."""
        ...

    def validate(self) -> Check: ...
    def save_best(self, check: Check, *, step: int) -> None: ...
    def state(self) -> dict[str, Any]:
        """Tensors and plain Python: all that :meth:`restore` needs to go on bit for bit."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None: ...


class Loop:
    """Drives a learner through its steps. Each is a function of seed and step number alone.

    Args:
        learner: what is trained.
        batches: the batch of every step.
        folder: for log, state and best weights.
        n_steps: how many in all.
        validate_every: steps between validations; there is one before the first and after the last.
        device: where batches go.
        seed: of what networks draw during a step, e.g. dropout.
        on_validation: told of every validation once its results are on disk. What it raises ends
            the training.

    Attributes:
        step: steps taken.
        best_step: after which the best weights were taken.
        best_score: what they reached in validation.
    """

    def __init__(
        self,
        learner: Learner,
        *,
        batches: TrainingBatches,
        folder: RunFolder,
        n_steps: int,
        validate_every: int,
        device: str,
        seed: int,
        on_validation: OnValidation | None = None,
    ) -> None:
        self.learner = learner
        self.batches = batches
        self.folder = folder
        self.n_steps = n_steps
        self.validate_every = validate_every
        self.device = device
        self.seed = seed
        self.on_validation = on_validation
        self.step = 0
        self.best_step, self.best_score = 0, -math.inf

    def run(self, state: Mapping[str, Any] | None) -> None:
        """Train to the end, from the beginning or from a state that :meth:`RunFolder.save` got.

        Raises:
            TrainingDivergedError: a loss that is not finite; the best weights so far are kept.
        """
        if state is None:
            self._validate({}, started=time.monotonic())
        else:
            self._restore(state)
        with tqdm(
            total=self.n_steps, initial=self.step, desc=f"train {self.learner.name}", unit="step"
        ) as bar:
            while self.step < self.n_steps:
                self._train_until_validation(bar)

    def _train_until_validation(self, bar: "tqdm[Any]") -> None:
        started = time.monotonic()
        stop = (self.step // self.validate_every + 1) * self.validate_every
        stop = min(stop, self.n_steps)
        totals: dict[str, float] = defaultdict(float)
        n_steps = stop - self.step
        while self.step < stop:
            losses = self._train_step()
            for name, loss in losses.items():
                totals[name] += loss
            bar.update()
            bar.set_postfix(
                loss=f"{losses['loss']:.4f}", best=f"{self.best_score:.4f}", refresh=False
            )
        self._validate({name: t / n_steps for name, t in totals.items()}, started=started)

    def _train_step(self) -> dict[str, float]:
        batch = to_device(self.batches[self.step], self.device)
        try:
            with torch.random.fork_rng(devices=self._accelerators()):
                torch.manual_seed(self.seed + self.step)
                losses = self.learner.step(batch, step=self.step)
        except NotFiniteError as error:
            raise TrainingDivergedError(
                f"training of the {self.learner.name} stopped at step {self.step}: {error}, scans "
                f"{', '.join(batch.names)}. The best weights, from step {self.best_step}, are in "
                f"{self.learner.best}; try a smaller {error.option}, or look at these scans"
            ) from error
        self.step += 1
        return losses

    def _accelerators(self) -> list[torch.device]:
        device = torch.device(self.device)
        return [device] if device.type == "cuda" else []

    def _validate(self, losses: Mapping[str, float], *, started: float) -> None:
        trained_s = time.monotonic() - started
        check = self.learner.validate()
        if check.score > self.best_score:
            self.best_step, self.best_score = self.step, check.score
            self.learner.save_best(check, step=self.step)
        self.folder.log(
            {
                "training": self.learner.name,
                "step": self.step,
                "loss": None,
                **losses,
                **check.entry,
                "best_step": self.best_step,
                "seconds": round(trained_s, 3),
            }
        )
        self.folder.save(self._state())
        if self.on_validation is not None:
            self.on_validation(self.step, check.score)

    def _state(self) -> dict[str, Any]:
        return {
            "training": self.learner.name,
            "step": self.step,
            "best_step": self.best_step,
            "best_score": self.best_score,
            **self.learner.state(),
        }

    def _restore(self, state: Mapping[str, Any]) -> None:
        self.step = state["step"]
        self.best_step, self.best_score = state["best_step"], state["best_score"]
        self.learner.restore(state)
