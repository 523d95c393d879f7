"""The one loop of everything that trains: learn, validate, keep the best, save, continue.

A thing to be trained, a :class:`Trainee`, is any object with five methods and a step count; the
loop knows nothing else about it. Use it so::

    folder = RunFolder(settings.run, "train policy", tensorboard=settings.tensorboard)
    given = {"n_train_scans": len(scans)}  # facts that a continuation must share
    with folder.open(described(settings) | given) as state:
        trained = train(
            Imitation(...), folder, name="policy", n_steps=1500, validate_every=150, state=state
        )

Refuse mistakes of the user before ``folder.open``, which claims the folder. Of a trainee's methods,

- ``learn(n_steps, progress)`` does that many of its own steps (or a few more), counts them in
  ``self.step``, and calls ``progress(loss=...)`` as often as anything has moved, also where it
  collects states for minutes: ``progress(states=n)``. It returns what is logged, e.g. the mean
  loss, and raises :class:`DivergedError` with a hint where a number is no longer finite;
- ``validate(progress)`` gives the score that decides which weights are best, higher being better,
  calling ``progress()`` as often as anything has moved, and entries for log and checkpoint; the
  entry "picture" is shown in ``images/`` instead;
- ``save(path, entries)`` writes the checkpoint of the weights as they are, because the validation
  that gave these entries was the best so far;
- ``state()`` and ``restore(state)`` exchange tensors and plain Python, ``step`` and all random
  generators included: a run that was killed and continued ends with the same weights, bit for bit.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from activemri.progress import Progress
from activemri.training.folder import RunFolder
from activemri.training.processes import broadcast, rank

#: Called after every validation, once its results are on disk, with step and score.
OnValidation = Callable[[int, float], None]

#: Shows numbers, given by name, beside the trainee's step.
ShowProgress = Callable[..., None]


class DivergedError(ValueError):
    """A loss, a gradient or a weight is no longer a finite number."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Result of a training.

    Attributes:
        checkpoint: of the best weights, without suffix.
        best_step: after which they were taken; 0 if training never improved on the start.
        best_score: of validation, in `score`; higher is better.
        baseline: the score that training should beat, if there is one: zero-filled images'.
        beside: a line about what was trained beside.
    """

    checkpoint: Path
    best_step: int
    best_score: float
    score: str = "ssim"
    baseline: float | None = None
    beside: str = ""

    def __str__(self) -> str:
        usual = "" if self.baseline is None else f" (zero-filled {self.baseline:.4f})"
        return (
            f"{self.checkpoint}: best after {self.best_step} steps, validation {self.score} "
            f"{self.best_score:.4f}{usual}\n{self.beside}"
        ).rstrip()


class Trainee(Protocol):
    """A thing to be trained; see the module for what its methods must do."""

    @property
    def step(self) -> int: ...
    def learn(self, n_steps: int, progress: ShowProgress, /) -> Mapping[str, Any]: ...
    def validate(self, progress: ShowProgress, /) -> tuple[float, Mapping[str, Any]]: ...
    def save(self, path: Path, entries: Mapping[str, Any], /) -> None: ...
    def state(self) -> dict[str, Any]: ...
    def restore(self, state: Mapping[str, Any], /) -> None: ...


def train(
    trainee: Trainee,
    folder: RunFolder,
    *,
    name: str,
    n_steps: int,
    validate_every: int,
    patience: int | None = None,
    state: Mapping[str, Any] | None = None,
    checkpoint: str = "best",
    on_validation: OnValidation | None = None,
    device: torch.device | str = "cpu",
) -> Trained:
    """Train to the end, from the beginning or from a saved state.

    There is a validation before the first step, after the last, and every `validate_every` steps.
    Of several processes only the first one validates and writes; the others wait for it.

    Args:
        trainee: what is trained.
        folder: where it writes, claimed.
        name: of what is trained, for log, state and progress.
        n_steps: at most, in the trainee's own steps.
        validate_every: its steps between validations.
        patience: validations without a better score that end the training.
        state: what `folder.open` found; None to begin.
        checkpoint: file name, without suffix, of the best weights.
        on_validation: what it raises ends the training.
        device: through which several processes exchange scores.

    Raises:
        DivergedError: with the trainee's hint; the best weights so far are kept.
    """
    best = Trained(checkpoint=folder.path / checkpoint, best_step=0, best_score=-math.inf)
    if state is not None:
        best = replace(best, best_step=state["best_step"], best_score=state["best_score"])
        trainee.restore(state["trainee"])
    first = rank() == 0
    bar = Progress(f"train {name}", n_steps, done=trainee.step, show=first)

    def progress(**numbers: float) -> None:
        bar(trainee.step, **numbers)

    def validated(losses: Mapping[str, Any], seconds: float) -> Trained:
        score, step, high = math.nan, float(best.best_step), best.best_score
        if first:
            bar.note("validating")
            progress()
            score, entries = trainee.validate(progress)
            bar.note("")
            if score > high:
                step, high = trainee.step, score
                trainee.save(best.checkpoint, entries)
            entry = {"training": name, "step": trainee.step, **losses, **entries}
            folder.log({**entry, "best_step": int(step), "seconds": round(seconds, 3)})
            reached = {"training": name, "best_step": int(step), "best_score": high}
            folder.save({**reached, "trainee": trainee.state()})
        score, step, high = broadcast([score, step, high], device=device)
        if on_validation is not None:
            on_validation(trainee.step, score)
        progress(best=high)
        return replace(best, best_step=int(step), best_score=high)

    try:
        with bar:
            if state is None:
                best = validated({"loss": None}, 0.0)
            while trainee.step < n_steps:
                waited = trainee.step - best.best_step
                if patience is not None and waited >= patience * validate_every:
                    break
                started = time.monotonic()
                until = min(n_steps, (trainee.step // validate_every + 1) * validate_every)
                losses = trainee.learn(until - trainee.step, progress)
                best = validated(losses, time.monotonic() - started)
    except DivergedError as error:
        raise DivergedError(
            f"training of {name} stopped at step {trainee.step}: {error}. The best weights, from "
            f"step {best.best_step}, are in {best.checkpoint}"
        ) from error
    return best
