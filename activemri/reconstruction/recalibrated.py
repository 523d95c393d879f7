"""Uncertainties brought into line with the errors that validation subjects really had."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from activemri.reconstruction.reconstructor import Measurement, Reconstruction, Reconstructor

Floats = NDArray[np.float64]

MAX_KNOTS = 32
_SMALLEST = 1e-6  # relative standard deviation: a logarithm needs something above zero
_APART = 1e-5  # least distance of logarithms of knots, for single precision


class Recalibrated(Reconstructor):
    """Another reconstructor with sigma -> s f(sigma / s); image and samples stay as they are.

    s is the root mean square of the image, so the map serves scans of any scale. f never falls: it
    is linear between knots on a double logarithmic scale, and a factor beyond the outermost of
    them. A single knot is a factor everywhere ("temperature scaling"). :func:`fit_knots` finds f.

    Args:
        reconstructor: one that gives an uncertainty.
        predicted: standard deviations at the knots as it gives them, relative to s, rising.
        observed: what they should be, never falling; as many.
    """

    log_predicted: Tensor  # at the knots
    log_observed: Tensor

    def __init__(
        self,
        reconstructor: Reconstructor,
        *,
        predicted: Sequence[float] = (1.0,),
        observed: Sequence[float] = (1.0,),
    ) -> None:
        super().__init__()
        x, y = np.asarray(predicted, dtype=np.float64), np.asarray(observed, dtype=np.float64)
        if x.ndim != 1 or x.shape != y.shape or not 1 <= len(x) <= MAX_KNOTS:
            raise ValueError(
                f"expected 1 to {MAX_KNOTS} knots and as many values; got {x.shape} and {y.shape}"
            )
        if not np.isfinite([x, y]).all() or min(x.min(), y.min()) <= 0:
            raise ValueError("expected finite knots and values, all above 0")
        if (np.diff(np.log(x)) < _APART).any():
            raise ValueError(f"expected rising knots, each at least {_APART:.0e} above the last")
        if (np.diff(y) < 0).any():
            raise ValueError("expected values that never fall from one knot to the next")
        self.settings = dict(reconstructor=reconstructor)
        self.settings |= dict(predicted=list(predicted), observed=list(observed))
        self.reconstructor = reconstructor
        for name, knots in (("log_predicted", x), ("log_observed", y)):
            logs = torch.from_numpy(knots).log().float()
            self.register_buffer(name, logs, persistent=False)  # the settings hold them
        self.needs = reconstructor.needs
        self.is_differentiable = reconstructor.is_differentiable

    def forward(self, measurement: Measurement) -> Reconstruction:
        result = self.reconstructor(measurement)
        if result.uncertainty is None:
            raise ValueError(
                f"there is nothing to recalibrate: {type(self.reconstructor).__name__} gives no "
                "uncertainty"
            )
        scale = root_mean_square(result.image)
        relative = result.uncertainty / scale.clamp(min=torch.finfo(scale.dtype).tiny)
        return replace(result, uncertainty=self.recalibrate(relative) * scale)

    def recalibrate(self, relative: Tensor) -> Tensor:
        """The map f of relative standard deviations of any shape."""
        knots, values = self.log_predicted.to(relative), self.log_observed.to(relative)
        x = relative.clamp(min=_SMALLEST).log()
        inside = x.clamp(knots[0], knots[-1])
        above = torch.searchsorted(knots, inside).clamp(1, max(len(knots) - 1, 1))
        if len(knots) == 1:
            return torch.exp(values[0] + (x - inside))
        left, right = knots[above - 1], knots[above]
        share = (inside - left) / (right - left)
        return torch.exp(torch.lerp(values[above - 1], values[above], share) + (x - inside))


def root_mean_square(image: Tensor) -> Tensor:
    """Of complex images (batch, height, width): (batch, 1, 1)."""
    return image.abs().square().mean(dim=(-2, -1), keepdim=True).sqrt()


def fit_knots(
    predicted: Floats, error: Floats, *, n_knots: int = MAX_KNOTS
) -> tuple[list[float], list[float]]:
    """Knots of :class:`Recalibrated`, predicted and observed, from pixels of validation subjects.

    Isotonic regression of squared relative errors (n_pixels,) on predicted variances, over groups
    of equally many pixels of neighbouring prediction, which become the knots. One knot gives the
    factor that makes the mean variance right.
    """
    from scipy.optimize import isotonic_regression

    if not 1 <= n_knots <= MAX_KNOTS:
        raise ValueError(f"expected 1 to {MAX_KNOTS} knots; got {n_knots}")
    if len(predicted) == 0 or not (np.isfinite(predicted).all() and np.isfinite(error).all()):
        raise ValueError("expected at least one pixel, and only finite numbers")
    order = np.argsort(predicted, kind="stable")
    groups = [group for group in np.array_split(order, n_knots) if len(group)]
    variance = np.array([np.square(predicted[group]).mean() for group in groups])
    squared_error = np.array([np.square(error[group]).mean() for group in groups])
    count = np.array([len(group) for group in groups], dtype=np.float64)
    # Groups of one and the same prediction are one knot. Rounding must not order them.
    deviation = np.maximum(np.sqrt(variance), _SMALLEST)
    knots, of_group = np.unique(np.log(deviation).round(4), return_inverse=True)
    weight = np.bincount(of_group, weights=count)
    mean = np.bincount(of_group, weights=count * squared_error) / weight
    fitted = np.sqrt(isotonic_regression(mean, weights=weight).x)
    return np.exp(knots).tolist(), np.maximum(fitted, _SMALLEST).tolist()
