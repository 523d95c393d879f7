"""Train an evaluator: what it should say of lines, how far it is from that, how useful it is."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from activemri.construction import parse_arguments, seeded
from activemri.evaluator import Evaluator, column_errors, save_evaluator
from activemri.ranks import spearman
from activemri.reconstruction.reconstructor import Reconstructor
from activemri.runs.diary import Picture
from activemri.settings import TrainJointSettings
from activemri.training.batches import Batch
from activemri.training.descent import Descent
from activemri.training.evaluator_losses import evaluator_loss, line_targets, mean_over
from activemri.training.precision import autocast
from activemri.training.reconstructor_loop import Check
from activemri.training.run import Run
from activemri.training.validation import Validation

#: As in the paper: short memory, because what is judged changes.
BETAS = (0.5, 0.999)


@dataclass(frozen=True)
class EvaluatorScore:
    """How well an evaluator judges a reconstructor's lines on fixed scans and masks.

    Attributes:
        loss: mean squared distance of its scores from their targets; decides which is best.
        spearman: rank correlation between low scores and large errors over the lines that could
            still be acquired, averaged over images; NaN where none had two such lines.
        regret: one minus the true error of the line that it would acquire, as a share of the
            largest there is, averaged over images.
    """

    loss: float
    spearman: float
    regret: float


class EvaluatorLearner:
    """An evaluator that learns to judge what a reconstructor makes.

    Args:
        run: data, settings and folder.
        settings: the same settings as those of `run`.
        reconstructor: whose images are judged.
        n_steps: of the whole training.
    """

    name = "evaluator"

    def __init__(
        self, run: Run, settings: TrainJointSettings, *, reconstructor: Reconstructor, n_steps: int
    ) -> None:
        self.run = run
        self.gamma = settings.gamma
        self.reconstructor = reconstructor
        self.network = new_evaluator(settings, width=widest(run)).to(run.world.device)
        self.descent = Descent(
            self.network,
            lr=settings.evaluator_lr,
            n_steps=n_steps,
            world=run.world,
            precision=settings.precision,
            option="--evaluator-lr",
            betas=BETAS,
        )

    @property
    def best(self) -> Path:
        return self.run.folder.evaluator

    def step(self, batch: Batch, *, step: int) -> dict[str, float]:
        with torch.no_grad():
            image = self.reconstructor(batch.measurement).image
        return self.learn(batch, image, step=step)

    def learn(self, batch: Batch, image: Tensor, *, step: int) -> dict[str, float]:
        """One step on reconstructions (complex, without gradient) and on their references."""
        with autocast(self.run.settings.precision, self.run.world.device):
            loss = evaluator_loss(self.network, batch, image, gamma=self.gamma)
        return self.descent.descend({"loss": batch.mean(loss)}, step=step)

    def picture(self) -> Picture | None:
        return None

    def validate(self) -> Check:
        score = self.score(self.reconstructor)
        entry = {
            "validation_loss": score.loss,
            "validation_spearman": score.spearman,
            "validation_regret": score.regret,
        }
        return Check(-score.loss, entry)

    def score(self, reconstructor: Reconstructor) -> EvaluatorScore:
        """Judge the evaluator on validation scans."""
        return score_evaluator(self.network, reconstructor, self.run.checks, gamma=self.gamma)

    def save_best(self, check: Check, *, step: int) -> None:
        metrics = {name.removeprefix("validation_"): v for name, v in check.entry.items()}
        info = {"gamma": self.gamma, **self.run.info(step=step, metrics=metrics)}
        save_evaluator(self.best, self.network, info=info)

    def state(self) -> dict[str, Any]:
        return {"evaluator": self.network.state_dict(), "evaluator_optimizer": self.descent.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.network.load_state_dict(state["evaluator"])
        self.descent.restore(state["evaluator_optimizer"])


@torch.no_grad()
def score_evaluator(
    evaluator: Evaluator, reconstructor: Reconstructor, checks: Validation, *, gamma: float
) -> EvaluatorScore:
    """Score an evaluator, both networks in evaluation mode; their modes are restored."""
    modes = [(network, network.training) for network in (evaluator, reconstructor)]
    for network, _ in modes:
        network.eval()
    found: list[tuple[float, float, float]] = []
    for batch in checks.batches():
        found += _scores_of(evaluator, batch, reconstructor(batch.measurement).image, gamma)
    for network, mode in modes:
        network.train(mode)
    loss, spearman, regret = np.array(found).T
    known = ~np.isnan(spearman)
    return EvaluatorScore(
        loss=float(loss.mean()),
        spearman=float(spearman[known].mean()) if known.any() else float("nan"),
        regret=float(np.nanmean(regret)) if (~np.isnan(regret)).any() else float("nan"),
    )


def _scores_of(
    evaluator: Evaluator, batch: Batch, image: Tensor, gamma: float
) -> list[tuple[float, float, float]]:
    """Loss, rank correlation and regret of every image of a batch."""
    scores = evaluator(image, batch.acquired).float()
    squares = (scores - line_targets(batch, image, gamma=gamma)).square()
    losses = mean_over(squares, batch.measured).tolist()
    errors = column_errors(image, batch.reference)
    rows = zip(scores.cpu(), errors.cpu(), batch.unobserved.cpu(), strict=True)
    ranks = [
        (spearman(-s[free].numpy(), error[free].numpy()), regret(s[free], error[free]))
        for s, error, free in rows
    ]
    return [(loss, *rank) for loss, rank in zip(losses, ranks, strict=True)]


def regret(scores: Tensor, errors: Tensor) -> float:
    """1 - error of the line with the lowest score / largest error; NaN without an error."""
    if len(errors) == 0 or errors.max() <= 0:
        return float("nan")
    return 1 - (errors[scores.argmin()] / errors.max()).item()


def new_evaluator(settings: TrainJointSettings, *, width: int) -> Evaluator:
    """The untrained evaluator that settings describe, in training mode.

    Args:
        settings: of the training; `evaluator` holds arguments.
        width: lines of k-space, where they do not say it.

    Raises:
        ValueError: arguments that it refuses.
    """
    arguments = parse_arguments(
        Evaluator, settings.evaluator, option="--evaluator", name="the evaluator"
    )
    arguments = {"width": width, **arguments}
    return seeded(lambda: Evaluator(**arguments), settings.seed).train()


def widest(run: Run) -> int:
    """Lines of the widest scan, also of validation."""
    scans = (*run.batches.scans.infos, *run.checks.scans.infos)
    return max(info.shape[1] for info in scans)
