"""Choosing lines in a way that can be differentiated: soft masks, and draws of exactly k actions.

With m the mask of real numbers, 0 or 1 in value, y the k-space and R the frozen reconstructor, the
loss of R(m y, m) is differentiated with respect to m: through the samples, through data
consistency, (1 - m) F x + m y, and through any other use that R makes of m. Reconstructors say
whether that gradient is right (`is_differentiable`); of ours only `diffusion` does not.

LOUPE (Bahadir et al., IEEE Trans Comput Imaging 2020) draws every line by itself with a
probability p, m = 1 where p > U, and gets k lines only on average; adaptive VarNet (Bakker et al.,
2022) draws until the number is right. Here p > U is read as logit p + noise > 0 with logistic
noise, and the threshold is moved to where exactly k actions lie above it: the k largest of
score + noise. That is Rosen's Pareto sampling (On sampling with probability proportional to size,
J Stat Plan Inference 62:159-191, 1997); it never fails, needs one draw, and every action is in the
sample with very nearly the probability

    p = sigmoid(score - t),   with t such that all p add up to k,

which also takes the place of LOUPE's rescaling (with Gumbel noise the probabilities have no such
form). Going back, the sample counts as p (straight-through): its gradient is handed on to p, and
from there to the scores, t included.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from activemri.envs.scan import Scan, State
from activemri.metrics import losses
from activemri.metrics.losses import Loss, Prediction
from activemri.metrics.reference import center_crop
from activemri.mri.operators import Operator
from activemri.reconstruction.reconstructor import Measurement, Reconstructor

_HALVINGS, _LIMIT = 60, 4.0

#: What stands for a metric while learning: a loss, and whether it goes by the volume's range.
_LOSSES: dict[str, tuple[Loss, bool]] = {
    "ssim": (losses.ssim, False),
    "ssim_volume": (losses.ssim, True),
    **dict.fromkeys(["mse", "nmse", "nrmse", "psnr", "psnr_volume"], (losses.mse, False)),
}


def mask_loss(scan: Scan, metric: str) -> Callable[[State, Tensor], Tensor]:
    """The loss of scans whose lines may be acquired in part, in place of a metric.

    Returns:
        From a state and its lines, float (batch, n_lines) from 0 to 1 (see :func:`lines_of`), to
        1 - SSIM or the relative mse of every scan, (batch,).

    Raises:
        ValueError: a metric without a loss that can be differentiated, a scanner that is not
            ideal, a geometry that is not Cartesian, or a reconstructor without gradients.
    """
    if metric not in _LOSSES:
        raise ValueError(
            f"--reward of {metric}: gradients through the reconstructor need the score "
            f"{', '.join(_LOSSES)}"
        )
    if scan.horizon:  # readouts may be measured again, or something is drawn
        raise ValueError(
            "--scanner: gradients with respect to masks need an ideal scanner, which measures "
            "every line once; choose another --algo"
        )
    if not scan.geometry.transform.is_cartesian:
        raise ValueError(
            f"--geometry {scan.geometry.name}: gradients with respect to masks need samples on "
            "a Cartesian grid; choose another --algo"
        )
    if not scan.reconstructor.is_differentiable:
        raise ValueError(
            f"--reconstructor: {type(scan.reconstructor).__name__} does not declare gradients with "
            "respect to masks (is_differentiable = True); choose another reconstructor or --algo"
        )
    loss, by_volume = _LOSSES[metric]

    def of_lines(state: State, lines: Tensor) -> Tensor:
        image = reconstruct(scan.reconstructor, state, lines)
        reference = state.secret.reference
        unit = reference.data_range.float()[:, None, None]
        magnitude = center_crop(image, state.view.target_shape).abs() / unit
        data_range = torch.ones_like(reference.data_range)
        if by_volume:
            data_range = reference.volume_range / reference.data_range
        return loss(Prediction(magnitude, reference.target, data_range.float()))

    return of_lines


def reconstruct(reconstructor: Reconstructor, state: State, lines: Tensor) -> Tensor:
    """Images of scans with a real-valued mask: complex (batch, height, width)."""
    operator = Operator(state.view.transform, lines, state.view.sensitivity)
    samples = state.secret.conditions.samples[:, 0]
    return reconstructor(Measurement.of(samples, operator)).image


def lines_of(taken: Tensor, state: State, before: Tensor) -> Tensor:
    """Masks after actions: float (batch, n_lines).

    Args:
        taken: share of each action, float (batch, n_actions).
        state: scans before these actions.
        before: mask before, float (batch, n_lines), for the sake of its gradient.
    """
    view = state.view
    lines = view.geometry.by_readout(taken)
    return torch.where(view.mask, before, lines.clamp(max=1) * view.measurable)


def bounded(scores: Tensor) -> Tensor:
    """Scores to draw by, between -4 and 4, in the same order.

    So all actions go on to be tried now and then, and a policy that has become sure of itself too
    early can still be put right. Scores that are not finite are a FloatingPointError.
    """
    if not bool(torch.isfinite(scores).all()):
        raise FloatingPointError("the network's scores are not finite numbers")
    return _LIMIT * torch.tanh(scores / _LIMIT)


def probabilities(scores: Tensor, allowed: Tensor, k: Tensor) -> Tensor:
    """Probability of each action to be among the k: (batch, n), adding up to k.

    Args:
        scores: float (batch, n); finite.
        allowed: actions that may be drawn, bool (batch, n).
        k: how many are drawn, int64 (batch,); all that are allowed if those are fewer.
    """
    k = torch.minimum(k, allowed.sum(dim=1))
    exact, margin = scores.detach().double(), 2 + math.log(scores.shape[1])
    low = exact.masked_fill(~allowed, torch.inf).amin(dim=1) - margin
    high = exact.masked_fill(~allowed, -torch.inf).amax(dim=1) + margin
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        too_many = (torch.sigmoid(exact - middle[:, None]) * allowed).sum(dim=1) > k
        low, high = torch.where(too_many, middle, low), torch.where(too_many, high, middle)
    threshold = ((low + high) / 2).nan_to_num().to(scores.dtype)  # NaN where none is allowed
    # A step of Newton's method from the solution changes nothing, and has the right derivative.
    at = torch.sigmoid(scores - threshold[:, None]) * allowed
    slope = (at * (1 - at)).sum(dim=1).detach()
    excess = at.sum(dim=1) - at.sum(dim=1).detach()
    step = excess / slope.clamp(min=torch.finfo(scores.dtype).tiny)
    inside = torch.sigmoid(scores - (threshold + step)[:, None]) * allowed
    every = (k == allowed.sum(dim=1))[:, None]
    return torch.where(every, allowed.to(scores.dtype), inside)


def draw(scores: Tensor, allowed: Tensor, k: Tensor, *, generator: torch.Generator) -> Tensor:
    """Exactly k actions: 1 for those drawn, 0 for the others, float (batch, n).

    Its gradient is that of :func:`probabilities`, which has the arguments.
    """
    soft = probabilities(scores, allowed, k)
    uniform = torch.rand(scores.shape, generator=generator, dtype=torch.float64)
    noisy = scores.detach().double() + torch.logit(uniform, eps=1e-12).to(scores.device)
    order = noisy.masked_fill(~allowed, -torch.inf).argsort(dim=1, descending=True, stable=True)
    hard = ((order.argsort(dim=1) < k[:, None]) & allowed).to(scores.dtype)
    return hard + (soft - soft.detach())  # the value is hard, the gradient that of soft
