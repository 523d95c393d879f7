"""Training losses, each one number per image and differentiable.

All are relative to the data range, so that scans of any intensity weigh the same. Metrics that are
reported come from :mod:`activemri.metrics`; these work in the precision of the images.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from activemri.metrics import SSIM_K1, SSIM_K2, ssim_map

#: Smallest standard deviation that the likelihood takes for one, in units of the data range.
SMALLEST_DEVIATION = 1e-4
NLL_WEIGHT = 0.1  # in the standard loss
_NOTHING = torch.empty(0)


@dataclass(frozen=True, eq=False)
class Prediction:
    """Reconstructed magnitude images, and what they should be.

    Attributes:
        image: (batch, height, width).
        target: the same shape.
        data_range: largest target value, (batch,); a range of 0 (a black target) counts as 1.
        uncertainty: standard deviation per pixel in image units, the same shape; None where the
            reconstructor gives none.
        whole: the complex images before they were cropped, (batch, height, width), for losses that
            look at more than magnitudes; like all that follows, empty where nobody has them.
        reference: what all lines together show, like `whole`.
        acquired: lines that have been acquired, bool (batch, line).
        unobserved: lines that could still be acquired, bool (batch, line).
    """

    image: Tensor
    target: Tensor
    data_range: Tensor
    uncertainty: Tensor | None = None
    whole: Tensor = _NOTHING
    reference: Tensor = _NOTHING
    acquired: Tensor = _NOTHING
    unobserved: Tensor = _NOTHING

    def scaled(self) -> tuple[Tensor, Tensor]:
        """Image and target in units of the data range."""
        return self.image / self.unit, self.target / self.unit

    @property
    def unit(self) -> Tensor:
        """The data range, (batch, 1, 1)."""
        return torch.where(self.data_range > 0, self.data_range, 1.0)[:, None, None]


#: Distance of magnitude images from their targets: (batch,), less is better.
Loss = Callable[[Prediction], Tensor]


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
    return 1 - ssim_map(*prediction.scaled(), SSIM_K1**2, SSIM_K2**2).mean(dim=(-2, -1))


def nll(prediction: Prediction) -> Tensor:
    """Negative log likelihood of the error under a normal distribution: 1/2 [(e / s)^2 + log s^2].

    Zhang et al., CVPR 2019. Error e and standard deviation s are in units of the data range, and
    deviations below :data:`SMALLEST_DEVIATION` count as that.

    Raises:
        ValueError: if the reconstructor gives no uncertainty.
    """
    if prediction.uncertainty is None:
        raise ValueError(
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


LOSSES: dict[str, Loss] = {"standard": standard, "mse": mse, "l1": l1, "ssim": ssim, "nll": nll}

#: Losses of a sum by name, each with its weight.
Terms = dict[str, tuple[float, Loss]]


def make_loss(loss: str | Loss, *, more: Mapping[str, Loss] = MappingProxyType({})) -> Terms:
    """Losses from a name, from a weighted sum like ``"l1+ssim+0.1*nll"``, or a loss as it is.

    Args:
        loss: a name, a sum, or a loss.
        more: losses by name besides those in :data:`LOSSES`.

    Raises:
        ValueError: an unknown name, one that is there twice, or a weight that is no number above 0.
    """
    if not isinstance(loss, str):
        return {"loss": (1.0, loss)}
    known, terms = {**LOSSES, **more}, Terms()
    for word in loss.replace(" ", "").split("+"):
        weight, times, name = word.rpartition("*")
        if name in ("perceptual", "adversarial") and name not in known:
            raise ValueError(
                f"the loss {name!r} in {loss!r} needs an evaluator: train one at the same time "
                "with 'activemri train joint --schedule alternating'"
                + (", or name one with --perceptual-weights" if name == "perceptual" else "")
            )
        if name not in known:
            raise ValueError(
                f"unknown loss {name!r} in {loss!r}; expected one of {', '.join(known)}, or a sum "
                "like 'l1+ssim+0.1*nll'"
            )
        if name in terms:
            raise ValueError(f"a loss is there twice in {loss!r}; give it a larger weight instead")
        try:
            number = float(weight) if times else 1.0
        except ValueError:
            number = 0.0
        if not 0 < number < float("inf"):
            raise ValueError(
                f"expected a weight above 0 before '*{name}' in {loss!r}; got {weight!r}"
            )
        terms[name] = number, known[name]
    return terms


def losses_of(prediction: Prediction, terms: Terms) -> dict[str, Tensor]:
    """The weighted sum as "loss", (batch,), and each of several terms without its weight."""
    parts = {name: loss(prediction) for name, (_, loss) in terms.items()}
    total = torch.stack([weight * parts[name] for name, (weight, _) in terms.items()]).sum(dim=0)
    return {"loss": total, **(parts if len(parts) > 1 else {})}
