"""Targets and losses of evaluators, and their scores in validation.

Zhang et al., CVPR 2019, with least-squares adversarial losses. Lines that the scanner never
measured have no weight anywhere.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from activemri.evaluator import Evaluator, column_errors, kernel_targets
from activemri.metrics import spearman
from activemri.metrics.losses import Loss, Prediction
from activemri.reconstruction.reconstructor import Reconstructor
from activemri.training.batches import Batch
from activemri.training.validation import Validation


@dataclass(frozen=True)
class EvaluatorScore:
    """Quality of an evaluator's judgements of lines on fixed scans and masks.

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


def evaluator_loss(evaluator: Evaluator, batch: Batch, image: Tensor, *, gamma: float) -> Tensor:
    """L_D = mean_i (e_i(r) - t_i)^2 + mean_i (e_i(x) - 1)^2 over measured lines i: (batch,).

    Args:
        evaluator: e.
        batch: the references x, and which lines have been acquired and measured.
        image: reconstructions r, complex (batch, height, width).
        gamma: of the targets t, see :func:`activemri.evaluator.kernel_targets`.
    """
    scores = evaluator(torch.cat([image, batch.reference]), batch.acquired.repeat(2, 1))
    of_images, of_references = scores.float().chunk(2)
    targets = line_targets(batch, image, gamma=gamma)
    squares = (of_images - targets).square() + (of_references - 1).square()
    return mean_over(squares, batch.measured)


def line_targets(batch: Batch, image: Tensor, *, gamma: float) -> Tensor:
    """Target scores of reconstructions, (batch, line)."""
    errors = column_errors(image, batch.reference)
    return kernel_targets(errors, batch.acquired, gamma=gamma)


def adversarial(evaluator: Evaluator) -> Loss:
    """L_adv = mean_i (e_i(r) - 1)^2 over the lines i that could still be acquired."""

    def loss(prediction: Prediction) -> Tensor:
        scores = evaluator(prediction.whole, prediction.acquired).float()
        return mean_over((scores - 1).square(), prediction.unobserved)

    return loss


def perceptual_by(evaluator: Evaluator) -> Loss:
    """Distance of the features that the evaluator sees in reconstruction and reference.

    Mean absolute difference over the mean absolute feature, averaged over the layers.
    """

    def loss(prediction: Prediction) -> Tensor:
        with torch.no_grad():
            expected = evaluator.features(prediction.reference, prediction.acquired)
        found = evaluator.features(prediction.whole, prediction.acquired)
        distances = [
            (x - y).abs().float().flatten(1).mean(dim=1)
            / y.abs().float().flatten(1).mean(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
            for x, y in zip(found, expected, strict=True)
        ]
        return torch.stack(distances).mean(dim=0)

    return loss


def mean_over(values: Tensor, lines: Tensor) -> Tensor:
    """Mean over chosen lines, (batch, line) and bool (batch, line) to (batch,); 0 over none."""
    return (values * lines).sum(dim=1) / lines.sum(dim=1).clamp(min=1)


@torch.no_grad()
def score_evaluator(
    evaluator: Evaluator, reconstructor: Reconstructor, validation: Validation, *, gamma: float
) -> EvaluatorScore:
    """Score an evaluator, both networks in evaluation mode; their modes are restored."""
    modes = [(network, network.training) for network in (evaluator, reconstructor)]
    for network, _ in modes:
        network.eval()
    found: list[tuple[float, float, float]] = []
    for batch in validation.batches():
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
