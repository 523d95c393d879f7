"""The loop of every training: steps, validations, best weights, continuing after a kill."""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from tqdm import tqdm

from activemri.runs.diary import Diary, Picture
from activemri.training.batches import Batch, to_device
from activemri.training.descent import NotFiniteError
from activemri.training.run import Run

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
        """Learn from a batch; the losses by name, the one that is followed being called "loss"."""
        ...

    def validate(self) -> Check: ...
    def picture(self) -> Picture | None:
        """What validation looks like, if that can be seen."""
        ...

    def save_best(self, check: Check, *, step: int) -> None: ...
    def state(self) -> dict[str, Any]:
        """Tensors and plain Python: all that :meth:`restore` needs to go on bit for bit."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None: ...


class Loop:
    """Drives a learner through its steps. Each is a function of seed and step number alone.

    Of several processes only the first one validates and writes; the others wait for it.

    Args:
        learner: what is trained.
        run: data, settings and folder.
        n_steps: how many at most. There is a validation before the first, after the last, and
            every `validate_every` steps; `patience` of them without a better score end the
            training.
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
        run: Run,
        *,
        n_steps: int,
        on_validation: OnValidation | None = None,
    ) -> None:
        self.learner = learner
        self.run_ = run
        self.n_steps = n_steps
        self.on_validation = on_validation
        self.step = 0
        self.best_step, self.best_score = 0, -math.inf

    def run(self, state: Mapping[str, Any] | None) -> None:
        """Train to the end, from the beginning or from a state that this loop has saved.

        Raises:
            TrainingDivergedError: a loss that is not finite; the best weights so far are kept.
        """
        if state is not None:
            self._restore(state)
        world = self.run_.world
        diary = Diary(
            self.run_.folder,
            name=self.learner.name,
            step=self.step,
            pictures=self.run_.settings.images > 0,
            tensorboard=self.run_.settings.tensorboard,
        )
        bar = tqdm(
            total=self.n_steps,
            initial=self.step,
            desc=f"train {self.learner.name}",
            unit="step",
            disable=not world.is_first,
        )
        with diary, bar:
            if state is None:
                self._validate({}, started=time.monotonic(), diary=diary)
            while self.step < self.n_steps and not self._is_out_of_patience():
                self._train_until_validation(bar, diary)

    def _is_out_of_patience(self) -> bool:
        settings = self.run_.settings
        if settings.patience is None:
            return False
        return self.step - self.best_step >= settings.patience * settings.validate_every

    def _train_until_validation(self, bar: "tqdm[Any]", diary: Diary) -> None:
        started = time.monotonic()
        interval = self.run_.settings.validate_every
        stop = min((self.step // interval + 1) * interval, self.n_steps)
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
        means = {name: total / n_steps for name, total in totals.items()}
        self._validate(means, started=started, diary=diary)

    def _train_step(self) -> dict[str, float]:
        world, seed = self.run_.world, self.run_.settings.seed
        batch = to_device(self.run_.batches[self.step], world.device)
        try:
            with torch.random.fork_rng(devices=[world.device] if _is_gpu(world.device) else []):
                torch.manual_seed(_drawn(seed, self.step, world.rank))  # e.g. of dropout
                losses = self.learner.step(batch, step=self.step)
        except NotFiniteError as error:
            raise TrainingDivergedError(
                f"training of the {self.learner.name} stopped at step {self.step}: {error}, scans "
                f"{', '.join(batch.names)}. The best weights, from step {self.best_step}, are in "
                f"{self.learner.best}; try a smaller {error.option}, or look at these scans"
            ) from error
        self.step += 1
        return losses

    def _validate(self, losses: Mapping[str, float], *, started: float, diary: Diary) -> None:
        trained_s = time.monotonic() - started
        score = math.nan
        if self.run_.world.is_first:
            score = self._check(losses, trained_s, diary)
        heard = self.run_.world.heard([score, self.best_step, self.best_score])
        score, self.best_step, self.best_score = heard[0], int(heard[1]), heard[2]
        if self.on_validation is not None:
            self.on_validation(self.step, score)

    def _check(self, losses: Mapping[str, float], trained_s: float, diary: Diary) -> float:
        check = self.learner.validate()
        if check.score > self.best_score:
            self.best_step, self.best_score = self.step, check.score
            self.learner.save_best(check, step=self.step)
        entry = {
            "training": self.learner.name,
            "step": self.step,
            "loss": None,
            **losses,
            **check.entry,
            "best_step": self.best_step,
            "seconds": round(trained_s, 3),
        }
        diary.write(entry, picture=self.learner.picture)
        self.run_.folder.save(self._state())
        return check.score

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


def _is_gpu(device: torch.device) -> bool:
    return device.type == "cuda"


def _drawn(*numbers: int) -> int:
    """A seed of its own for every combination."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
