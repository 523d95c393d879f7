"""Learn fixed orders of actions from training scans.

An order is the best that a policy can do which does not look at the subject. One that is learned
from data is hard to beat: any adaptive policy should be compared with it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from activemri.agents.greedy import score_actions, signed
from activemri.agents.order import Order
from activemri.agents.policy import choose
from activemri.agents.rollout import rows_of_a_kind, start_scans
from activemri.data.slices import Slice
from activemri.envs.scan import Scan, State, Truth
from activemri.metrics import find_metric

OnStep = Callable[[float], object]


class Slices(Protocol):
    """Training scans: a data set, or a list."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Slice: ...


class Learner(Protocol):
    """Learns an order from training scans."""

    def __call__(
        self,
        acquisition: Scan,
        slices: Slices,
        *,
        metric: str = ...,
        n_lines: int | None = ...,
        n_scans: int | None = ...,
        seed: int = ...,
        on_step: OnStep | None = ...,
        data: str = ...,
    ) -> Order: ...


def learn_lbcs_order(
    acquisition: Scan,
    slices: Slices,
    *,
    metric: str = "ssim",
    n_lines: int | None = None,
    n_scans: int | None = None,
    seed: int = 0,
    on_step: OnStep | None = None,
    data: str = "unknown",
) -> Order:
    """Greedy order: next comes the action after which the mean score of the scans is best.

    Gözcü et al., Learning-based compressive MRI, IEEE Trans Med Imaging 37:1394-1406 (2018). Every
    step costs (actions left) x (scans) reconstructions. With `n_scans` each step is decided on
    that many scans, drawn anew, as in Sanchez et al., Scalable learning-based sampling
    optimization for compressive dynamic MRI, ICASSP 2020 (who draw candidate actions as well).

    Args:
        acquisition: the scan protocol; its budget is not used if `n_lines` is given.
        slices: training scans, of any sizes that fit the frame. All are held in memory.
        metric: what to maximise (errors: minimise).
        n_lines: how many lines to learn (default: the protocol's budget, or all).
        n_scans: scans to decide each step on (default: all).
        seed: of random start lines and of the scans drawn.
        on_step: called after every step, with its share of the work.
        data: name of the training data, for the record.
    """
    find_metric(metric)
    protocol = _for_lines(acquisition, n_lines, metric)
    groups = _start(protocol, slices, range(len(slices)), seed)
    generator = np.random.default_rng(seed)
    chosen: list[int] = []
    n_steps = _n_steps(groups)
    while bool((open_actions := _open(groups, chosen)).any()):
        drawn = _draw(groups, n_scans, generator)
        total = sum(_total_score(protocol, state, open_actions, metric) for state in drawn)
        assert isinstance(total, Tensor)
        chosen.append(int(choose(total[None], open_actions[None])))
        groups = [_acquire(protocol, state, chosen[-1]) for state in groups]
        if on_step is not None:
            on_step(1 / n_steps)
    seen = sum(len(state) for state in groups)
    return _order("lbcs", chosen, protocol, metric=metric, data=data, n_scans=seen)


def learn_average_oracle_order(
    acquisition: Scan,
    slices: Slices,
    *,
    metric: str = "ssim",
    n_lines: int | None = None,
    n_scans: int | None = None,
    seed: int = 0,
    on_step: OnStep | None = None,
    data: str = "unknown",
) -> Order:
    """What the scans' own greedy oracles prefer, averaged over the scans.

    Every training scan follows its own one-step oracle. An action's gain in a scan at a step is
    the change of the score that it brings there; once the scan's oracle has taken the action, the
    gain that it had then. Step t of the order takes, of the actions that are not in it yet, the
    one of the largest mean gain at step t. Where :func:`learn_lbcs_order` scores all scans with
    the same lines acquired, this one scores each with the lines that suit it best. In the spirit
    of the average oracle of Bakker, van Hoof and Welling, NeurIPS 2020.

    Args:
        acquisition: the scan protocol; its budget is not used if `n_lines` is given.
        slices: training scans, of any sizes that fit the frame.
        metric: what to maximise (errors: minimise).
        n_lines: how many lines to learn (default: the protocol's budget, or all).
        n_scans: use that many scans, drawn once (default: all).
        seed: of random start lines and of the scans drawn.
        on_step: called after every step, with its share of the work.
        data: name of the training data, for the record.
    """
    find_metric(metric)
    protocol = _for_lines(acquisition, n_lines, metric)
    drawn = np.random.default_rng(seed).permutation(len(slices))[:n_scans]
    followers = [
        _Follower.of(protocol, state)
        for state in _start(protocol, slices, sorted(drawn.tolist()), seed)
    ]
    chosen: list[int] = []
    n_steps = _n_steps([f.state for f in followers])
    while not all(bool(f.state.finished.all()) for f in followers):
        followers = [f.follow(protocol, metric) for f in followers]
        total = torch.stack([f.gain.sum(dim=0) for f in followers]).sum(dim=0)
        free = torch.ones_like(total, dtype=torch.bool)
        free[chosen] = False
        if not bool(free.any()):  # lines may be measured again, but an order names them once
            break
        chosen.append(int(choose(total[None], free[None])))
        if on_step is not None:
            on_step(1 / n_steps)
    seen = sum(len(f.state) for f in followers)
    return _order("average-oracle", chosen, protocol, metric=metric, data=data, n_scans=seen)


LEARNERS: dict[str, Learner] = {
    "lbcs": learn_lbcs_order,
    "average-oracle": learn_average_oracle_order,
}


@dataclass(frozen=True, eq=False)
class _Follower:
    """Scans that follow their own oracles, and the last known gain of every action."""

    state: State
    gain: Tensor  # (batch, n_actions)

    @classmethod
    def of(cls, acquisition: Scan, state: State) -> "_Follower":
        shape = (len(state), acquisition.geometry.n_actions)
        return cls(state, torch.zeros(shape, dtype=torch.float64, device=state.view.mask.device))

    def follow(self, acquisition: Scan, metric: str) -> "_Follower":
        """One step of the oracles."""
        legal = self.state.view.legal
        scores = score_actions(Truth(acquisition, self.state), legal, metric)
        now = signed(self.state.scores[metric], metric)[:, None]
        gain = torch.where(legal, scores - now, self.gain)
        return _Follower(acquisition.acquire(self.state, choose(scores, legal)), gain)


def _for_lines(acquisition: Scan, n_lines: int | None, metric: str) -> Scan:
    budget = acquisition.budget if n_lines is None else n_lines
    return replace(acquisition, budget=budget, metrics=(metric,))


def _start(acquisition: Scan, slices: Slices, positions: Sequence[int], seed: int) -> list[State]:
    scans = [slices[position] for position in positions]
    if not scans:
        raise ValueError("an order is learned from at least one scan; got none")
    return [
        start_scans(acquisition, [scans[row] for row in rows], seed=seed)
        for rows in rows_of_a_kind(scans)
    ]


def _open(groups: list[State], chosen: list[int]) -> Tensor:
    """Actions that are legal in at least one scan and not in the order yet: (n_actions,)."""
    legal = torch.stack([state.view.legal.any(dim=0) for state in groups]).any(dim=0)
    legal[chosen] = False
    return legal


def _draw(groups: list[State], n: int | None, generator: np.random.Generator) -> list[State]:
    """Some of the scans."""
    owner = np.concatenate([np.full(len(state), i) for i, state in enumerate(groups)])
    row = np.concatenate([np.arange(len(state)) for state in groups])
    if n is None or n >= len(row):
        return groups
    drawn = np.sort(generator.choice(len(row), n, replace=False))
    return [
        state.select(row[drawn[owner[drawn] == i]].tolist())
        for i, state in enumerate(groups)
        if bool((owner[drawn] == i).any())
    ]


def _total_score(acquisition: Scan, state: State, tried: Tensor, metric: str) -> Tensor:
    """Sum over scans of the score after each action: float64 (n_actions,).

    A scan in which an action is not legal keeps its score.
    """
    possible = state.view.legal & tried
    scores = score_actions(Truth(acquisition, state), possible, metric)
    now = signed(state.scores[metric], metric)[:, None]
    return torch.where(possible, scores, now).sum(dim=0)


def _acquire(acquisition: Scan, state: State, action: int) -> State:
    only = torch.zeros_like(state.view.legal)
    only[:, action] = True
    return acquisition.acquire(state, choose(only, state.view.legal & only))


def _order(
    kind: str,
    chosen: list[int],
    acquisition: Scan,
    *,
    metric: str,
    data: str,
    n_scans: int,
) -> Order:
    """Learned actions, then the others from the centre outwards."""
    geometry = acquisition.geometry
    outwards = geometry.frequency.argsort(stable=True).tolist()
    return Order(
        kind=kind,
        actions=(*chosen, *(action for action in outwards if action not in set(chosen))),
        n_learned=len(chosen),
        geometry=geometry.name,
        lines_per_action=geometry.readouts_per_action,
        shape=geometry.shape,
        metric=metric,
        reconstructor=type(acquisition.reconstructor).__name__,
        data=data,
        n_scans=n_scans,
    )


def _n_steps(groups: list[State]) -> int:
    """Most actions of a scan."""
    return max(int(state.view.start_budget.max()) for state in groups)
