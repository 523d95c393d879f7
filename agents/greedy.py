"""Greedy policies: one function, different scorers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from activemri.agents.policy import Traits, choose
from activemri.envs.scan import Truth, View
from activemri.metrics import find_metric

#: Says how good every legal action is: view -> float (batch, n_actions), higher is better.
Scorer = Callable[[View], Tensor]

# What trial lines of one call may take, in bytes; more saves no time.
_MEMORY = 64e6

_PLAIN = Traits()


@dataclass(frozen=True)
class Greedy:
    """Takes the legal action that scores best; of equals the first.

    Where lines may be measured again, oracles may choose to; the others, whose scorers say what new
    lines are worth, take them as long as there are any.

    Attributes:
        name: as in tables.
        scorer: says how good actions are.
        traits: whether the scorer asks for the truth, and what else it needs.
    """

    name: str
    scorer: Scorer
    traits: Traits = _PLAIN

    def act(self, view: View, generators: Sequence[np.random.Generator]) -> Tensor:
        return choose(self.scorer(view), view.legal if self.traits.is_oracle else view.due)


def oracle(metric: str = "ssim") -> Greedy:
    """The one-step oracle: the action after which the true score is best.

    It looks one step ahead and can end below a good fixed order; see
    :mod:`activemri.agents.exchange` for a bound on the final score.
    """
    find_metric(metric)

    def scorer(view: View) -> Tensor:
        return score_actions(ask_truth(view), view.legal, metric)

    return Greedy("oracle", scorer, Traits(is_oracle=True))


def ask_truth(view: View) -> Truth:
    """The truth that comes with an oracle's view.

    Raises:
        ValueError: if the view has none.
    """
    if view.truth is None:
        raise ValueError("an oracle needs the truth: replace(state.view, truth=Truth(scan, state))")
    return view.truth


def score_actions(truth: Truth, wanted: Tensor, metric: str) -> Tensor:
    """True scores after single actions, higher is better.

    Args:
        truth: of scans under way.
        wanted: which actions to try in each scan, bool (batch, n_actions).
        metric: name of the score; the sign of errors is turned.

    Returns:
        float64 (batch, n_actions), -inf where not wanted.
    """
    result = torch.full(wanted.shape, -torch.inf, dtype=torch.float64, device=wanted.device)
    most = int(wanted.sum(dim=1).max())
    if most == 0:
        return result
    # Scans want different numbers of trials: the shorter lists are filled up with unwanted ones.
    trials = wanted.byte().sort(dim=1, descending=True, stable=True).indices[:, :most]
    scores = [truth.scores_of_actions(part, metric) for part in _parts(truth, trials)]
    result.scatter_(1, trials, signed(torch.cat(scores, dim=1), metric))
    return result.masked_fill(~wanted, -torch.inf)


def signed(scores: Tensor, metric: str) -> Tensor:
    """Scores of which a larger one is a better image."""
    return scores if find_metric(metric).higher_is_better else -scores


def _parts(truth: Truth, trials: Tensor) -> tuple[Tensor, ...]:
    """Trials in portions whose lines fit into memory."""
    state, geometry = truth.state, truth.scan.geometry
    (height, width), n_coils = state.view.transform.shape, state.view.log.samples.shape[2]
    n_bytes = 8 * len(state) * n_coils * geometry.readouts_per_action * (height + width)
    parts: tuple[Tensor, ...] = torch.split(trials, max(1, int(_MEMORY / n_bytes)), 1)
    return parts
