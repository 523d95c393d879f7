"""Draw exactly k actions, in a way that lets gradients through.

LOUPE (Bahadir et al., IEEE Trans Comput Imaging 2020) draws every line by itself with a
probability p, m = 1 where p > U, and gets k lines only on average; adaptive VarNet (Bakker et al.,
2022) draws until the number is right. Here p > U is read as logit p + noise > 0 with logistic
noise, and the threshold is moved to where exactly k actions lie above it: the k largest of
score + noise. That is Rosen's Pareto sampling (On sampling with probability proportional to size,
J Stat Plan Inference 62:159-191, 1997); it never fails, needs one draw, and every action is in the
sample with very nearly the probability

    p = sigmoid(score - t),   with t such that all p add up to k,

which also takes the place of LOUPE's rescaling. (The k largest with Gumbel noise in place of the
logistic one are a draw without replacement with weights exp(score); their probabilities have no
such form.) Going back, the sample counts as p (straight-through): its gradient is handed on to p,
and from there to the scores, t included.
"""

from typing import Any

import torch
from torch import Tensor

_HALVINGS = 60


def probabilities(scores: Tensor, allowed: Tensor, k: Tensor) -> Tensor:
    """How likely each action is to be among the k: (batch, n), adding up to k.

    Args:
        scores: float (batch, n); finite.
        allowed: actions that may be drawn, bool (batch, n).
        k: how many are drawn, int64 (batch,); all that are allowed if those are fewer.
    """
    k = torch.minimum(k, allowed.sum(dim=1))
    threshold = _threshold(scores.detach().double(), allowed, k)
    # A step of Newton's method from the solution changes nothing, and has the right derivative.
    at = torch.sigmoid(scores - threshold.to(scores.dtype)[:, None]) * allowed
    slope = (at * (1 - at)).sum(dim=1).detach()
    excess = at.sum(dim=1) - at.sum(dim=1).detach()
    step = excess / slope.clamp(min=torch.finfo(scores.dtype).tiny)
    shifted = scores - (threshold.to(scores.dtype) + step)[:, None]
    inside = torch.sigmoid(shifted) * allowed
    every = (k == allowed.sum(dim=1))[:, None]
    return torch.where(every, allowed.to(scores.dtype), inside)


def draw(scores: Tensor, allowed: Tensor, k: Tensor, *, generator: torch.Generator) -> Tensor:
    """Exactly k actions: 1 for those drawn, 0 for the others, float (batch, n).

    Its gradient is that of :func:`probabilities`, which has the arguments.
    """
    soft = probabilities(scores, allowed, k)
    uniform = torch.rand(scores.shape, generator=generator, dtype=torch.float64)
    noise = torch.logit(uniform, eps=1e-12).to(scores.device)
    hard = largest(scores.detach().double() + noise, allowed, k).to(scores.dtype)
    drawn: Tensor = _StraightThrough.apply(soft, hard)  # type: ignore[no-untyped-call]
    return drawn


def largest(scores: Tensor, allowed: Tensor, k: Tensor) -> Tensor:
    """The k best of the allowed actions: bool (batch, n)."""
    order = scores.masked_fill(~allowed, -torch.inf).argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(dim=1)
    return (rank < k[:, None]) & allowed


def _threshold(scores: Tensor, allowed: Tensor, k: Tensor) -> Tensor:
    """Where sigmoid(score - t) of the allowed actions adds up to k, by halving: (batch,)."""
    n = scores.shape[1]
    margin = 2 + torch.log(torch.tensor(float(n), dtype=scores.dtype))
    low = scores.masked_fill(~allowed, torch.inf).amin(dim=1) - margin
    high = scores.masked_fill(~allowed, -torch.inf).amax(dim=1) + margin
    nothing = ~allowed.any(dim=1)
    low, high = low.masked_fill(nothing, 0.0), high.masked_fill(nothing, 0.0)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        too_many = (torch.sigmoid(scores - middle[:, None]) * allowed).sum(dim=1) > k
        low, high = torch.where(too_many, middle, low), torch.where(too_many, high, middle)
    return (low + high) / 2


class _StraightThrough(torch.autograd.Function):
    """The hard sample on the way forth, the soft one's gradient on the way back."""

    @staticmethod
    def forward(ctx: Any, soft: Tensor, hard: Tensor) -> Tensor:
        return hard.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None
