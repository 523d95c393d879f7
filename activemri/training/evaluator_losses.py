"""What an evaluator should say of lines, and what reconstructors learn from what it says.

Zhang et al., CVPR 2019, with least-squares adversarial losses. Lines that the scanner never
measured have no weight anywhere.
"""

import torch
from torch import Tensor

from activemri.evaluator import Evaluator, column_errors, kernel_targets
from activemri.metrics.losses import Loss, Prediction, feature_distance, whole_images
from activemri.training.batches import Batch


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
    """What an evaluator should say of reconstructions: (batch, line)."""
    errors = column_errors(image, batch.reference)
    return kernel_targets(errors, batch.acquired, gamma=gamma)


def adversarial(evaluator: Evaluator) -> Loss:
    """L_adv = mean_i (e_i(r) - 1)^2 over the lines i that could still be acquired."""

    def loss(prediction: Prediction) -> Tensor:
        whole = whole_images(prediction, "adversarial")
        scores = evaluator(whole.image, whole.acquired).float()
        return mean_over((scores - 1).square(), whole.unobserved)

    return loss


def perceptual_by(evaluator: Evaluator) -> Loss:
    """Distance of the features that the evaluator sees in reconstruction and reference."""

    def loss(prediction: Prediction) -> Tensor:
        whole = whole_images(prediction, "perceptual")
        with torch.no_grad():
            expected = evaluator.features(whole.reference, whole.acquired)
        return feature_distance(evaluator.features(whole.image, whole.acquired), expected)

    return loss


def mean_over(values: Tensor, lines: Tensor) -> Tensor:
    """Mean over chosen lines, (batch, line) and bool (batch, line) to (batch,); 0 over none."""
    return (values * lines).sum(dim=1) / lines.sum(dim=1).clamp(min=1)
