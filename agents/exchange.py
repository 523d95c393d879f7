"""The exchange oracle: a bound on the score at the end of the budget.

The one-step oracle takes the best line now, which need not belong to the best set of lines. This
one searches the set: it starts from a good one and swaps lines as long as that helps, an exchange
algorithm as in the optimal design of experiments (Fedorov, Theory of Optimal Experiments, 1972).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from activemri.agents.greedy import ask_truth, oracle, score_actions, signed
from activemri.agents.heuristic import low_frequency_first
from activemri.agents.order import FixedOrder, Order
from activemri.agents.policy import Policy, Traits, choose
from activemri.agents.rollout import play
from activemri.data.slices import Slice
from activemri.envs.scan import Scan, State, Truth, View
from activemri.metrics import find_metric

# Two ways of computing one score differ by rounding: less than this share of it is no gain.
_MARGIN = 1e-6

# Priorities of the actions of each scan's plan, float64 (n_actions,). They depend on nothing but
# the keys, and go when the slice or the protocol does.
_Plans = WeakKeyDictionary[Scan, dict[object, Tensor]]
_PLANS: WeakKeyDictionary[Slice, _Plans] = WeakKeyDictionary()


@dataclass(frozen=True)
class ExchangeOracle:
    """Acquires the best set of lines that a local search finds for the scan's whole budget.

    The search starts from what ends better, a fixed order or the one-step oracle. A round drops
    the action whose loss costs least and takes the best other one that acquires as many lines; if
    that does not help, it tries the next cheapest, up to `n_drops`. Rounds go on until none helps.
    The result is taken in greedy order. Its final score is never below that of its two starts.

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
        truth = ask_truth(view)
        found = [self._known(truth, row) for row in range(len(truth.state))]
        missing = [row for row, plan in enumerate(found) if plan is None]
        if missing:
            self._plan(truth, missing)
        plans = [self._known(truth, row) for row in range(len(truth.state))]
        return choose(torch.stack([plan for plan in plans if plan is not None]), view.due)

    def _known(self, truth: Truth, row: int) -> Tensor | None:
        plans = _PLANS.get(truth.state.secret.slices[row], _Plans()).get(truth.scan, {})
        return plans.get(self._key(truth.state, row))

    def _key(self, state: State, row: int) -> object:
        settings = (self.metric, self.order, self.n_drops, self.max_swaps)
        seed = int(state.secret.conditions.seed[row])
        return (*settings, seed, state.view.start_mask[row].cpu().numpy().tobytes())

    def _plan(self, truth: Truth, rows: list[int]) -> None:
        """Make the plans of some scans and keep them."""
        acquisition, state = truth.scan, truth.state
        slices = [state.secret.slices[row] for row in rows]
        seeds = state.secret.conditions.seed[rows]
        start = acquisition.start(slices, start_masks=state.view.start_mask[rows], seeds=seeds)
        first = low_frequency_first() if self.order is None else FixedOrder(self.order, "start")
        by_order = _taken(acquisition, first, start, self.metric)
        by_oracle = _taken(acquisition, oracle(self.metric), start, self.metric)
        for position, row in enumerate(rows):
            best = max(by_oracle[position], by_order[position], key=lambda found: found[0])
            search = _Search(acquisition, start.select([position]), self.metric)
            actions = search.swap(best[1], n_drops=self.n_drops, max_swaps=self.max_swaps)
            plans = _PLANS.setdefault(state.secret.slices[row], _Plans())
            plans.setdefault(acquisition, {})[self._key(state, row)] = search.ranked(actions)


@dataclass(frozen=True, eq=False)
class _Search:
    """Local search for one scan.

    Attributes:
        acquisition: the scan protocol.
        start: the scan before its first action, a batch of one.
        metric: what is maximised.
    """

    acquisition: Scan
    start: State
    metric: str

    def swap(self, actions: list[int], *, n_drops: int, max_swaps: int) -> list[int]:
        """Swap actions of a set until that does not help any more."""
        for _ in range(max_swaps):
            better = self._best_swap(actions, n_drops)
            if better is None:
                break
            actions = better
        return sorted(actions)

    def ranked(self, actions: list[int]) -> Tensor:
        """Priorities that take the set in greedy order, then the rest from the centre."""
        geometry = self.acquisition.geometry
        priority = -2.0 - geometry.frequency
        state, left = self.start.clone(), torch.zeros_like(self.start.view.legal)
        left[:, actions] = True
        for rank in range(len(actions)):
            wanted = left & state.view.legal
            if not bool(wanted.any()):
                break
            scores = score_actions(Truth(self.acquisition, state), wanted, self.metric)
            action = choose(scores, wanted)
            priority[action] = -rank / len(actions)
            left[:, action] = False
            state = self.acquisition.acquire(state, action)
        return priority

    def _best_swap(self, actions: list[int], n_drops: int) -> list[int] | None:
        """The set after the first swap that helps, cheapest removal first."""
        rests = [[other for other in actions if other != action] for action in actions]
        masks = torch.cat([self._mask(rest) for rest in rests])
        truth = Truth(self.acquisition, self.start)
        scores = signed(truth.scores_of_masks(masks[None], self.metric)[0], self.metric)
        for place in scores.argsort(descending=True, stable=True)[:n_drops].tolist():
            replacement = self._replacement(actions[place], masks[place : place + 1])
            if replacement is not None:
                return [*rests[place], replacement]
        return None

    def _replacement(self, dropped: int, mask: Tensor) -> int | None:
        """The best action instead of a dropped one, if it is better than that."""
        state = self.acquisition.with_masks(self.start, mask)
        n_fresh = _n_fresh(self.acquisition, state)
        leftover = int(state.view.budget) - int(n_fresh[0, dropped])
        if n_fresh[0, dropped] <= leftover:
            return None  # It could be taken again afterwards, in addition to its replacement.
        wanted = n_fresh == n_fresh[:, dropped]
        scores = score_actions(Truth(self.acquisition, state), wanted, self.metric)[0]
        best = int(choose(scores[None], wanted))
        gain = float(scores[best] - scores[dropped])
        return best if gain > _MARGIN * abs(float(scores[dropped])) else None

    def _mask(self, actions: list[int]) -> Tensor:
        """Lines after some actions: bool (1, n_lines)."""
        mask = self.start.view.mask.clone()
        readouts, _ = self.acquisition.geometry.readouts(torch.tensor(actions, dtype=torch.int64))
        mask[:, readouts.flatten()] = True
        return mask & self.start.view.measurable


def _taken(
    acquisition: Scan, policy: Policy, start: State, metric: str
) -> list[tuple[float, list[int]]]:
    """Final score (higher is better) and actions of every scan under a policy."""
    actions: list[list[int]] = [[] for _ in range(len(start))]
    end = start
    for taken, after in play(acquisition, policy, start.clone(), []):
        end = after
        for row, action in enumerate([] if taken is None else taken.tolist()):
            if action >= 0:
                actions[row].append(action)
    truth = Truth(acquisition, end)
    scores = signed(truth.scores_of_masks(end.view.mask[:, None], metric)[:, 0], metric)
    once = [list(dict.fromkeys(taken)) for taken in actions]
    return list(zip(scores.tolist(), once, strict=True))


def _n_fresh(acquisition: Scan, state: State) -> Tensor:
    """New lines that every action would acquire: int64 (batch, n_actions)."""
    return acquisition.geometry.by_action(state.view.measurable & ~state.view.mask, "sum")
