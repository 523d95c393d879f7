"""How much of a gradient is signal, from the gradients of several batches.

For batch gradients g_1 ... g_n of the same weights, with mean m and standard deviations s over
the batches (n - 1 in the denominator), parameter by parameter:

* ``per_parameter``: the mean over parameters of |m| / s, what a single batch's gradient has of
  signal over noise (the ratio of Rainforth et al., Tighter variational bounds are not necessarily
  better, ICML 2018, to compare estimators of policy gradients as Bakker, van Hoof and Welling,
  NeurIPS 2020, do);
* ``overall``: sqrt(|mu|^2 / sum of s^2), where |mu|^2 = |m|^2 - (sum of s^2) / n takes out what
  noise alone adds to the length of a mean (0 where that leaves nothing).

|m| is never zero even if there is no signal: pure normal noise gives ``per_parameter`` about
sqrt(2 / (pi n)), which is told beside it as ``floor``. Compare estimators with equal n.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SignalToNoise:
    """Signal over noise of one batch's gradient.

    Attributes:
        per_parameter: mean over parameters of |mean| / standard deviation.
        overall: length of the true gradient over that of the noise, without the bias of few
            batches.
        floor: what ``per_parameter`` is about without any signal.
        n_batches: gradients seen.
        n_parameters: those that never vary and are zero (never reached) are left out.
    """

    per_parameter: float
    overall: float
    floor: float
    n_batches: int
    n_parameters: int


class GradientNoise:
    """Takes in one gradient after the other and keeps two vectors (Welford's method)."""

    def __init__(self) -> None:
        self._n = 0
        self._mean = torch.zeros(0, dtype=torch.float64)
        self._squares = torch.zeros(0, dtype=torch.float64)

    def add(self, gradient: Tensor | Iterable[Tensor | None]) -> None:
        """Take in a batch's gradient.

        Args:
            gradient: a vector (n_parameters,), or the tensors of ``parameter.grad`` in their
                order; None counts as absent and must be absent in every batch.

        Raises:
            ValueError: of another length than before, or not finite.
        """
        parts = [gradient] if isinstance(gradient, Tensor) else list(gradient)
        flat = [part.detach().double().flatten() for part in parts if part is not None]
        vector = torch.cat(flat) if flat else torch.zeros(0, dtype=torch.float64)
        if self._n == 0:
            self._mean, self._squares = torch.zeros_like(vector), torch.zeros_like(vector)
        if vector.shape != self._mean.shape:
            raise ValueError(
                f"expected a gradient of {len(self._mean)} numbers, as before; got {len(vector)}"
            )
        if not bool(vector.isfinite().all()):
            raise ValueError(f"gradient {self._n + 1} is not finite")
        self._n += 1
        away = vector - self._mean
        self._mean = self._mean + away / self._n
        self._squares = self._squares + away * (vector - self._mean)

    def ratio(self) -> SignalToNoise:
        """What the gradients so far say.

        Raises:
            ValueError: for fewer than two gradients, or if all are zero.
        """
        if self._n < 2:
            raise ValueError(f"noise shows in at least 2 gradients; got {self._n}")
        variance = self._squares / (self._n - 1)
        reached = (self._mean != 0) | (variance > 0)
        if not bool(reached.any()):
            raise ValueError("every gradient is zero: there is neither signal nor noise")
        mean, variance = self._mean[reached], variance[reached]
        noise = float(variance.sum())
        signal = float(mean.square().sum()) - noise / self._n
        return SignalToNoise(
            per_parameter=float((mean.abs() / variance.sqrt()).mean()),
            overall=math.sqrt(max(signal, 0.0) / noise) if noise > 0 else math.inf,
            floor=math.sqrt(2 / (math.pi * self._n)),
            n_batches=self._n,
            n_parameters=int(reached.sum()),
        )


def gradient_noise(gradients: Iterable[Tensor]) -> SignalToNoise:
    """Signal over noise of batch gradients, each a vector: (n_batches, n_parameters)."""
    seen = GradientNoise()
    for gradient in gradients:
        seen.add(gradient)
    return seen.ratio()
