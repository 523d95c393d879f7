"""Training losses, each one number per image and differentiable.

All are relative to the data range, so that scans of any intensity weigh the same. Metrics that are
reported come from :mod:`activemri.metrics`; these work in the precision of the images.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor

from activemri.metrics import SSIM_K1, SSIM_K2, SSIM_WINDOW, sample_scale

#: Smallest standard deviation that the likelihood takes for one, in units of the data range.
SMALLEST_DEVIATION = 1e-4
NLL_WEIGHT = 0.1  # in the standard loss


@dataclass(frozen=True, eq=False)
class WholeImages:
    """Complex images and their k-space lines, for losses that look at more than magnitudes.

    Attributes:
        image: reconstructions, (batch, height, width).
        reference: what all lines together show, the same shape.
        acquired: lines that have been acquired, bool (batch, line).
        unobserved: lines that could still be acquired, bool (batch, line).
    """

    image: Tensor
    reference: Tensor
    acquired: Tensor
    unobserved: Tensor


@dataclass(frozen=True, eq=False)
class Prediction:
    """Reconstructed magnitude images, and what they should be.

    Attributes:
        image: (batch, height, width).
        target: the same shape.
        data_range: largest target value, (batch,); a range of 0 (a black target) counts as 1.
        uncertainty: standard deviation per pixel in image units, the same shape; None where the
            reconstructor gives none.
        whole: the complex images before they were cropped; None where nobody has them.
    """

    image: Tensor
    target: Tensor
    data_range: Tensor
    uncertainty: Tensor | None = None
    whole: WholeImages | None = None

    def scaled(self) -> tuple[Tensor, Tensor]:
        """Image and target in units of the data range."""
        unit = self.unit
        return self.image / unit, self.target / unit

    @property
    def unit(self) -> Tensor:
        """The data range, (batch, 1, 1)."""
        return torch.where(self.data_range > 0, self.data_range, 1.0)[:, None, None]


class Loss(Protocol):
    """Distance of magnitude images from their targets: (batch,), less is better."""

    def __call__(self, prediction: Prediction, /) -> Tensor: ...


class MissingUncertaintyError(ValueError):
    """A loss needs an uncertainty, and the reconstructor gives none."""


def mse(prediction: Prediction) -> Tensor:
    """Mean squared error over the squared data range."""
    image, target = prediction.scaled()
    return (image - target).square().mean(dim=(-2, -1))


def l1(prediction: Prediction) -> Tensor:
    """Mean absolute error over the data range."""
    image, target = prediction.scaled()
    return (image - target).abs().mean(dim=(-2, -1))


def ssim(prediction: Prediction) -> Tensor:
    """1 - SSIM with the field's 7 x 7 uniform window (see :func:`activemri.metrics.ssim`)."""
    x, y = prediction.scaled()
    mean_x, mean_y, xx, yy, xy = _box_mean(torch.stack([x, y, x * x, y * y, x * y])).unbind()
    covariance = sample_scale() * (xy - mean_x * mean_y)
    variances = sample_scale() * (xx - mean_x.square() + yy - mean_y.square())
    numerator = (2 * mean_x * mean_y + SSIM_K1**2) * (2 * covariance + SSIM_K2**2)
    squares = mean_x.square() + mean_y.square()
    denominator = (squares + SSIM_K1**2) * (variances + SSIM_K2**2)
    return 1 - (numerator / denominator).mean(dim=(-2, -1))


def nll(prediction: Prediction) -> Tensor:
    """Negative log likelihood of the error under a normal distribution: 1/2 [(e / s)^2 + log s^2].

    Zhang et al., CVPR 2019. Error e and standard deviation s are in units of the data range, and
    deviations below :data:`SMALLEST_DEVIATION` count as that.

    Raises:
        MissingUncertaintyError: if the reconstructor gives no uncertainty.
    """
    if prediction.uncertainty is None:
        raise MissingUncertaintyError(
            "the loss 'nll' needs an uncertainty, and this reconstructor gives none; choose "
            "another loss, or a reconstructor such as 'cresnet'"
        )
    image, target = prediction.scaled()
    deviation = (prediction.uncertainty / prediction.unit).clamp(min=SMALLEST_DEVIATION)
    terms = ((image - target) / deviation).square() + 2 * deviation.log()
    return terms.mean(dim=(-2, -1)) / 2


def standard(prediction: Prediction) -> Tensor:
    """L1 + SSIM, and 0.1 NLL where the reconstructor gives an uncertainty."""
    loss = l1(prediction) + ssim(prediction)
    return loss if prediction.uncertainty is None else loss + NLL_WEIGHT * nll(prediction)


def perceptual(features: Callable[[Tensor], Sequence[Tensor]]) -> Loss:
    """Distance of the features of a reconstruction from those of its reference.

    Mean absolute difference over the mean absolute feature, averaged over the layers.

    Args:
        features: of complex images (batch, height, width): tensors (batch, ...), one a layer, e.g.
            of a network with frozen weights.
    """

    def loss(prediction: Prediction) -> Tensor:
        whole = whole_images(prediction, "perceptual")
        with torch.no_grad():
            expected = features(whole.reference)
        return feature_distance(features(whole.image), expected)

    return loss


def feature_distance(features: Sequence[Tensor], expected: Sequence[Tensor]) -> Tensor:
    """Relative distance of tensors (batch, ...), averaged over them: (batch,)."""
    tiny = torch.finfo(torch.float32).tiny
    distances = [
        (x - y).abs().float().flatten(1).mean(dim=1)
        / y.abs().float().flatten(1).mean(dim=1).clamp(min=tiny)
        for x, y in zip(features, expected, strict=True)
    ]
    return torch.stack(distances).mean(dim=0)


def whole_images(prediction: Prediction, name: str) -> WholeImages:
    """The complex images of a prediction.

    Raises:
        ValueError: if it has none.
    """
    if prediction.whole is None:
        raise ValueError(f"the loss {name!r} needs complex images; this prediction has none")
    return prediction.whole


LOSSES: dict[str, Loss] = {"standard": standard, "mse": mse, "l1": l1, "ssim": ssim, "nll": nll}

#: Losses by name that only exist where there is an evaluator.
NEED_EVALUATOR = ("perceptual", "adversarial")


@dataclass(frozen=True)
class WeightedSum:
    """A sum of losses.

    Attributes:
        terms: name, weight and loss of each.
    """

    terms: tuple[tuple[str, float, Loss], ...]

    def __call__(self, prediction: Prediction) -> Tensor:
        return self.total(self.parts(prediction))

    def parts(self, prediction: Prediction) -> dict[str, Tensor]:
        """Each loss without its weight, (batch,), by name."""
        return {name: loss(prediction) for name, _, loss in self.terms}

    def total(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Sum of the parts, (batch,)."""
        return torch.stack([weight * parts[name] for name, weight, _ in self.terms]).sum(dim=0)


def make_loss(
    loss: str | Loss, *, more: Mapping[str, Loss] = MappingProxyType({})
) -> Loss | WeightedSum:
    """A loss from its name, from a weighted sum like ``"l1+ssim+0.1*nll"``, or as it is.

    Args:
        loss: a name, a sum, or a loss, which is returned.
        more: losses by name besides those in :data:`LOSSES`.

    Raises:
        ValueError: an unknown name, one that is there twice, or a weight that is no number above 0.
    """
    if not isinstance(loss, str):
        return loss
    terms = [_term(word, loss, {**LOSSES, **more}) for word in loss.replace(" ", "").split("+")]
    names = [name for name, _, _ in terms]
    if len(set(names)) < len(names):
        raise ValueError(f"a loss is there twice in {loss!r}; give it a larger weight instead")
    return WeightedSum(tuple(terms))


def names_in(loss: str) -> tuple[str, ...]:
    """Names of the losses in a sum, without their weights."""
    return tuple(word.rpartition("*")[2] for word in loss.replace(" ", "").split("+"))


def _term(word: str, given: str, known: Mapping[str, Loss]) -> tuple[str, float, Loss]:
    weight, times, name = word.rpartition("*")
    if name in NEED_EVALUATOR and name not in known:
        raise ValueError(
            f"the loss {name!r} in {given!r} needs an evaluator: train one at the same time with "
            "'activemri train joint --schedule alternating'"
            + (", or name one with --perceptual-weights" if name == "perceptual" else "")
        )
    if name not in known:
        raise ValueError(
            f"unknown loss {name!r} in {given!r}; expected one of {', '.join(known)}, or a sum "
            "like 'l1+ssim+0.1*nll'"
        )
    try:
        number = float(weight) if times else 1.0
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise ValueError(f"expected a weight above 0 before '*{name}' in {given!r}; got {weight!r}")
    return name, number, known[name]


def _box_mean(images: Tensor) -> Tensor:
    """Mean over every window that fits; four additions an axis instead of six."""
    if min(images.shape[-2:]) < SSIM_WINDOW:
        raise ValueError(
            f"SSIM needs images of at least {SSIM_WINDOW} x {SSIM_WINDOW} pixels; "
            f"got {images.shape[-2]} x {images.shape[-1]}"
        )
    for axis in (-2, -1):
        n = images.shape[axis]
        pairs = images.narrow(axis, 0, n - 1) + images.narrow(axis, 1, n - 1)
        fours = pairs.narrow(axis, 0, n - 3) + pairs.narrow(axis, 2, n - 3)
        sixes = fours.narrow(axis, 0, n - 6) + pairs.narrow(axis, 4, n - 6)
        images = sixes + images.narrow(axis, 6, n - 6)
    return images / SSIM_WINDOW**2
