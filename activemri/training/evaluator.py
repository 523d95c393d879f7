"""Targets and losses of evaluators, and their scores in validation.

Zhang et al., CVPR 2019, with least-squares adversarial losses. Lines that the scanner never
measured have no weight anywhere.
"""

import math

import numpy as np
import torch
from torch import Tensor

from activemri.evaluator import Evaluator, column_errors, kernel_targets
from activemri.metrics import spearman
from activemri.metrics.losses import Loss, Prediction
from activemri.reconstruction.reconstructor import Reconstructor
from activemri.training.batches import Batch
from activemri.training.validation import Validation, evaluating


def evaluator_loss(evaluator: Evaluator, batch: Batch, image: Tensor, *, gamma: float) -> Tensor:
    """L_D = mean_i (e_i(r) - t_i)^2 + mean_i (e_i(x) - 1)^2 over measured lines i: (batch,).

    Of an evaluator e, reconstructions r, complex (batch, height, width), the batch's references x,
    and targets t, see :func:`activemri.evaluator.kernel_targets`.
    """
    scores = evaluator(torch.cat([image, batch.reference]), batch.acquired.repeat(2, 1))
    of_images, of_references = scores.float().chunk(2)
    errors = column_errors(image, batch.reference)
    targets = kernel_targets(errors, batch.acquired, gamma=gamma)
    squares = (of_images - targets).square() + (of_references - 1).square()
    return mean_over(squares, batch.measured)


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


def score_evaluator(
    evaluator: Evaluator, reconstructor: Reconstructor, validation: Validation, *, gamma: float
) -> dict[str, float]:
    """Score judgements of lines on fixed scans and masks; the networks' modes are restored.

    Returns:
        loss: mean squared distance of the scores from their targets; decides which are best.
        spearman: rank correlation between low scores and large errors over the lines that could
            still be acquired, averaged over images; NaN where none had two such lines.
        regret: one minus the true error of the line with the lowest score, as a share of the
            largest there is, averaged over images; NaN where there is no error.
    """
    losses: list[float] = []
    ranks: list[float] = []
    regrets: list[float] = []
    for index in validation.indices:
        batch = validation.batch(index)
        with evaluating(evaluator, reconstructor):
            image = reconstructor(batch.measurement).image
            scores = evaluator(image, batch.acquired).float()
        errors = column_errors(image, batch.reference)
        targets = kernel_targets(errors, batch.acquired, gamma=gamma)
        losses += mean_over((scores - targets).square(), batch.measured).tolist()
        for row, free in enumerate(batch.unobserved.cpu()):
            score, error = scores.cpu()[row][free], errors.cpu()[row][free]
            ranks.append(spearman(-score.numpy(), error.numpy()))
            if len(error) and error.max() > 0:
                regrets.append(1 - (error[score.argmin()] / error.max()).item())
    found = {"loss": losses, "spearman": [r for r in ranks if not math.isnan(r)], "regret": regrets}
    return {name: float(np.mean(one)) if one else math.nan for name, one in found.items()}
