"""Policies that know the target, and so bound what others can reach."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from activemri.agents.heuristic import low_frequency_first
from activemri.agents.order import Order
from activemri.agents.policy import Greedy, Traits, choose, score_actions, signed
from activemri.agents.rollout import play
from activemri.data.slices import Slice
from activemri.envs.scan import Scan, State, Truth, View
from activemri.metrics import find_metric
from activemri.reconstruction.zero_filled import ZeroFilled

#: Candidates of a step that the screened oracle reconstructs.
N_SCREENED = 7

# Two ways of computing one score differ by rounding: less than this share of it is no gain.
_MARGIN = 1e-6

# Priorities of the actions of each scan's plan, float64 (n_actions,). They depend on nothing but
# the keys, and go when the slice or the protocol does.
_Plans = WeakKeyDictionary[Scan, dict[object, Tensor]]
_PLANS: WeakKeyDictionary[Slice, _Plans] = WeakKeyDictionary()


def oracle(metric: str = "ssim") -> Greedy:
    """The one-step oracle: the action after which the true score is best.

    It looks one step ahead and can end below a good fixed order.
    """
    find_metric(metric)

    def score(view: View) -> Tensor:
        return score_actions(ask_truth(view), view.legal, metric)

    return Greedy("oracle", score, Traits(is_oracle=True))


def screened_oracle(metric: str = "ssim") -> Greedy:
    """The one-step oracle on the candidates that promise most: few trials are reconstructed.

    They are ranked by the score of the zero-filled image after them, and by the amplitude of what
    the reconstruction misses of their readouts, both as shares between the least and the largest
    value and added up. The best :data:`N_SCREENED` are reconstructed. Zero-filled scans need no
    network, and all actions are tried. Where zero-filled images do not add up readout by readout,
    the amplitude alone decides.
    """
    find_metric(metric)

    def share(values: Tensor, legal: Tensor) -> Tensor:
        low = values.masked_fill(~legal, torch.inf).amin(dim=1, keepdim=True)
        high = values.masked_fill(~legal, -torch.inf).amax(dim=1, keepdim=True)
        return ((values - low) / (high - low)).nan_to_num(0.0)

    def score(view: View) -> Tensor:
        truth, legal = ask_truth(view), view.legal
        scan, state = truth.scan, truth.state
        if scan.reconstructor.is_zero_filled:
            return score_actions(truth, legal, metric)
        images = view.reconstruction.image.unsqueeze(1)
        if view.sensitivity is not None:
            images = images * view.sensitivity
        missed = state.secret.conditions.samples[:, 0] - view.transform.forward(images)
        energy = missed.abs().double().square().sum(dim=(2, 3)) * view.measurable
        promise = share(scan.geometry.by_action(energy, "sum").sqrt(), legal)
        if scan.is_additive:
            cheap = Truth(replace(scan, reconstructor=ZeroFilled()), state)
            promise = promise + share(score_actions(cheap, legal, metric), legal)
        n = min(N_SCREENED, legal.shape[1])
        best = promise.masked_fill(~legal, -torch.inf).topk(n, dim=1).indices
        wanted = torch.zeros_like(legal).scatter(1, best, True) & legal
        return score_actions(truth, wanted, metric)

    return Greedy("screened-oracle", score, Traits(is_oracle=True, n_tried=N_SCREENED))


def ask_truth(view: View) -> Truth:
    """The truth that comes with an oracle's view.

    Raises:
        ValueError: if the view has none.
    """
    if view.truth is None:
        raise ValueError("an oracle needs the truth: replace(state.view, truth=Truth(scan, state))")
    return view.truth


@dataclass(frozen=True)
class ExchangeOracle:
    """Acquires the best set of lines that a local search finds for the scan's whole budget.

    An exchange algorithm as in the optimal design of experiments (Fedorov, Theory of Optimal
    Experiments, 1972). The search starts from what ends better, a fixed order or the screened
    one-step oracle. A round drops the action whose loss costs least and takes the best other
    one that acquires as many lines; if that does not help, it tries the next cheapest, up to
    `n_drops`. Rounds go on until none helps. The result is taken in greedy order, and its final
    score is never below that of its two starts.

    The plan of a scan is made once, at the first action, and depends on nothing but the slice, the
    protocol, the lines at the start, and the seed of imperfect scans. There it is a set as well:
    every line once, measured from the centre outwards. The one-step oracle, which measures lines
    again, may then be the higher bound.

    Attributes:
        metric: what is maximised (errors: minimised).
        order: fixed order to start from; None means from the centre outwards.
        n_drops: actions tried for removal in a round.
        max_swaps: rounds at most.
    """

    metric: str = "ssim"
    order: Order | None = None
    n_drops: int = 4
    max_swaps: int = 100
    name: str = "exchange-oracle"
    traits: ClassVar[Traits] = Traits(is_oracle=True)

    def __post_init__(self) -> None:
        find_metric(self.metric)

    def act(self, view: View, generators: Sequence[np.random.Generator]) -> Tensor:
        scan, state = ask_truth(view).scan, ask_truth(view).state
        plans = [_PLANS.setdefault(s, _Plans()).setdefault(scan, {}) for s in state.secret.slices]
        settings = (self.metric, self.order, self.n_drops, self.max_swaps)
        seeds, starts = state.secret.conditions.seed.tolist(), state.view.start_mask.cpu().numpy()
        keys = [(*settings, s, m.tobytes()) for s, m in zip(seeds, starts, strict=True)]
        missing = [row for row, key in enumerate(keys) if key not in plans[row]]
        if missing:
            for row, plan in zip(missing, self._planned(scan, state, missing), strict=True):
                plans[row][keys[row]] = plan
        return choose(torch.stack([plans[row][key] for row, key in enumerate(keys)]), view.due)

    def _planned(self, scan: Scan, state: State, rows: list[int]) -> list[Tensor]:
        """Priorities of all actions in some of the scans, (n_actions,) each."""
        start = scan.start(
            [state.secret.slices[row] for row in rows],
            start_masks=state.view.start_mask[rows],
            seeds=state.secret.conditions.seed[rows],
        )
        # Final score, higher is better, and actions of every scan under the better of two policies.
        best: list[tuple[float, list[int]]] = [(-np.inf, []) for _ in rows]
        for policy in (screened_oracle(self.metric), self.order or low_frequency_first()):
            taken: list[list[int]] = [[] for _ in rows]
            for actions, end in play(scan, policy, start.clone(), []):
                masks = end.view.mask[:, None]
                for row, action in enumerate([] if actions is None else actions.tolist()):
                    if action >= 0 and action not in taken[row]:
                        taken[row].append(action)
            scores = signed(Truth(scan, end).scores_of_masks(masks, self.metric), self.metric)
            ends = zip(best, zip(scores[:, 0].tolist(), taken, strict=True), strict=True)
            best = [max(pair, key=lambda end: end[0]) for pair in ends]
        plans = []
        for row, (_, chosen) in enumerate(best):
            truth = Truth(scan, start.select([row]))
            for _ in range(self.max_swaps):
                better = _best_swap(truth, chosen, self.metric, n_drops=self.n_drops)
                if better is None:
                    break
                chosen = better
            plans.append(_ranked(truth, sorted(chosen), self.metric))
        return plans


def _best_swap(truth: Truth, actions: list[int], metric: str, *, n_drops: int) -> list[int] | None:
    """The set after the first swap that helps, cheapest removal first; None if none does."""
    geometry, view = truth.scan.geometry, truth.state.view
    rests = [[other for other in actions if other != action] for action in actions]
    masks = view.mask.repeat(len(rests), 1)
    for mask, rest in zip(masks, rests, strict=True):
        readouts, _ = geometry.readouts(torch.tensor(rest, dtype=torch.int64))
        mask[readouts.flatten()] = True
    masks &= view.measurable
    scores = signed(truth.scores_of_masks(masks[None], metric)[0], metric)
    for place in scores.argsort(descending=True, stable=True)[:n_drops].tolist():
        dropped, state = actions[place], truth.scan.with_masks(truth.state, masks[place, None])
        n_new = geometry.by_action(state.view.measurable & ~state.view.mask, "sum")
        if 2 * n_new[0, dropped] <= int(state.view.budget):
            continue  # It could be taken again afterwards, in addition to its replacement.
        wanted = n_new == n_new[:, dropped]
        found = score_actions(Truth(truth.scan, state), wanted, metric)[0]
        best = int(choose(found[None], wanted))
        if found[best] - found[dropped] > _MARGIN * found[dropped].abs():
            return [*rests[place], best]
    return None


def _ranked(truth: Truth, actions: list[int], metric: str) -> Tensor:
    """Priorities that take the set in greedy order, then the rest from the centre: (n_actions,)."""
    priority = -2.0 - truth.scan.geometry.frequency
    state = truth.state.clone()
    left = torch.zeros_like(state.view.legal)
    left[:, actions] = True
    for rank in range(len(actions)):
        wanted = left & state.view.legal
        if not bool(wanted.any()):
            break
        action = choose(score_actions(Truth(truth.scan, state), wanted, metric), wanted)
        priority[action] = -rank / len(actions)
        left[:, action] = False
        state = truth.scan.acquire(state, action)
    return priority
