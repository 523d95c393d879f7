"""A memory of transitions that keeps where they happened and not what was seen there.

What an agent sees follows from the scan, the lines that it started with, the lines acquired since
and the budget. So a transition is the position of its slice in the data set, two masks as packed
bits and a few numbers, about a hundred bytes at 368 lines, and observations are rebuilt when they
are asked for: by the protocol that made them, with one full adjoint instead of many increments.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from activemri.envs.env import Episodes
from activemri.envs.scan import STOP, WASTE, State, kind

Array = NDArray[Any]
_SEEN = ("observation", "legal", "next_observation", "next_legal")


@dataclass(frozen=True, eq=False)
class Points:
    """Points of episodes: all that their observations follow from, one row for each."""

    index: NDArray[np.int64]  # of the scan in the data set, (n,)
    start_mask: NDArray[np.bool_]  # (n, n_lines)
    mask: NDArray[np.bool_]  # (n, n_lines)
    budget: NDArray[np.int64]  # (n,)
    awaiting_reset: NDArray[np.bool_]  # (n,), ended: the next action is ignored
    seed: NDArray[np.int64]  # of random scanners, (n,)
    order: NDArray[np.int32]  # of the readouts measured after the start, (n, horizon or 0)

    @classmethod
    def of(cls, episodes: Episodes, awaiting_reset: NDArray[np.bool_] | None = None) -> "Points":
        """Points of episodes; `awaiting_reset` as vector environments define it."""
        n, n_lines = episodes.n, episodes.geometry.n_readouts
        start_mask, mask = np.zeros((n, n_lines), bool), np.zeros((n, n_lines), bool)
        budget, seed = np.zeros(n, np.int64), np.zeros(n, np.int64)
        order = np.full((n, episodes.scan.horizon), -1, np.int32)
        for rows, state in episodes.buckets:
            view = state.view
            start_mask[rows], mask[rows] = view.start_mask.cpu(), view.mask.cpu()
            budget[rows], order[rows] = view.budget.cpu(), view.log.order.cpu()
            seed[rows] = state.secret.conditions.seed.cpu()
        waiting = np.zeros(n, bool) if awaiting_reset is None else awaiting_reset.copy()
        return cls(episodes.index.copy(), start_mask, mask, budget, waiting, seed, order)


@dataclass(frozen=True, eq=False)
class Batch:
    """Transitions as a learner wants them; tensors (n, ...) on the device of the scans.

    `next_observation` and `next_legal` mean nothing where `terminated`.
    """

    observation: Any  # dict of tensors, or a tensor
    action: Tensor  # int64 (n,)
    reward: Tensor  # float32 (n,)
    next_observation: Any
    terminated: Tensor  # bool (n,)
    legal: Tensor  # bool (n, n_actions), STOP included
    next_legal: Tensor


class Replay:
    """The last transitions of an environment, for learners that are off-policy.

    A step is remembered like this::

        points = Points.of(envs.episodes, envs.awaiting_reset)
        _, rewards, terminated, truncated, _ = envs.step(actions)
        replay.add(points, actions, rewards=rewards, terminated=terminated)

    Args:
        capacity: transitions to keep; older ones are overwritten.
        episodes: of the environment; gives data, protocol and observation.
    """

    def __init__(self, capacity: int, episodes: Episodes) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1 transition; got {capacity}")
        self.episodes = episodes
        self.scan = replace(episodes.scan, metrics=())  # no scores are wanted
        self.n_lines = episodes.geometry.n_readouts
        bits = np.zeros((capacity, -(-self.n_lines // 8)), np.uint8)
        self._columns: dict[str, Array] = {
            "index": np.zeros(capacity, np.int64),
            "start_mask": bits,
            "mask": bits.copy(),
            "budget": np.zeros(capacity, np.int64),
            "seed": np.zeros(capacity if self.scan.scanner.is_random else 0, np.int64),
            "order": np.zeros((capacity, self.scan.horizon), np.int32),
            "action": np.zeros(capacity, np.int64),
            "reward": np.zeros(capacity, np.float32),
            "terminated": np.zeros(capacity, bool),
        }
        self.capacity = capacity
        self.n_added = 0

    def __len__(self) -> int:
        return min(self.n_added, self.capacity)

    @property
    def bytes_per_transition(self) -> float:
        """Memory held, beyond the data set."""
        return sum(column.nbytes for column in self._columns.values()) / self.capacity

    def add(self, points: Points, actions: Array, *, rewards: Array, terminated: Array) -> None:
        """Remember one action of every episode, (n,) each, taken from `points`.

        Episodes that were awaiting a reset took none and are left out. Truncated ones are not
        terminated: what they would have earned still counts.
        """
        acted = ~points.awaiting_reset
        places = (self.n_added + np.arange(int(acted.sum()))) % self.capacity
        start_mask, mask = (np.packbits(m, axis=1) for m in (points.start_mask, points.mask))
        values: tuple[NDArray[Any], ...] = (
            points.index,
            start_mask,
            mask,
            points.budget,
            points.seed,
            points.order,
            actions,
            rewards,
            terminated,
        )
        for column, value in zip(self._columns.values(), values, strict=True):
            if len(column):  # there are no seeds of ideal scanners
                column[places] = value[acted]
        self.n_added += len(places)

    def sample(self, n: int, generator: np.random.Generator) -> Batch:
        """Draw uniformly, with replacement, and rebuild what was seen; not from an empty memory."""
        if not len(self):
            raise ValueError("expected a memory with transitions to draw from; it is empty")
        return self.rebuild(generator.integers(len(self), size=n))

    def rebuild(self, places: NDArray[np.int64]) -> Batch:
        """The transitions at some places of the memory, (n,)."""
        scans = [self.episodes.dataset[i] for i in self._columns["index"][places].tolist()]
        kinds = [kind(scan) for scan in scans]
        parts, order = [], []
        for one in dict.fromkeys(kinds):
            rows = [row for row, other in enumerate(kinds) if other == one]
            state = self.scan.resume(
                [scans[row] for row in rows],
                start_masks=self._bits("start_mask", places[rows]),
                masks=self._bits("mask", places[rows]),
                budgets=self.stored("budget", places[rows]),
                seeds=self.stored("seed", places[rows]) if self.scan.scanner.is_random else None,
                order=self.stored("order", places[rows]).long() if self.scan.horizon else None,
            )
            parts.append(self._transition(state, self.stored("action", places[rows])))
            order += rows
        seen = {name: _in_order([part[name] for part in parts], order) for name in _SEEN}
        stored = {name: self.stored(name, places) for name in ("action", "reward", "terminated")}
        return Batch(**seen, **stored)

    def stored(self, name: str, places: NDArray[np.int64]) -> Tensor:
        """A column as it was given, e.g. "action", "reward" or "terminated", (n,)."""
        return torch.from_numpy(self._columns[name][places]).to(self.scan.device)

    def numbers(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Number of transitions added before those at some places, (n,)."""
        newest = self.n_added - 1
        result: NDArray[np.int64] = newest - (newest - places) % self.capacity
        return result

    def state(self) -> dict[str, Any]:
        """Contents, as tensors, for :meth:`restore`."""
        n = len(self)
        columns = {name: torch.from_numpy(v[:n].copy()) for name, v in self._columns.items()}
        return {"n_added": self.n_added, **columns}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Come back to what was remembered, in a memory of the same capacity."""
        self.n_added = state["n_added"]
        for name, column in self._columns.items():
            column[: len(state[name])] = state[name].numpy()

    def _transition(self, state: State, action: Tensor) -> dict[str, Any]:
        before = self._see(state)
        plan = torch.where(action == self.scan.geometry.n_actions, STOP, action)
        allowed = before[1].gather(1, action[:, None]).squeeze(1)
        after = self.scan.acquire(state, torch.where(allowed, plan, WASTE))
        return dict(zip(_SEEN, (*before, *self._see(after)), strict=True))

    def _see(self, state: State) -> tuple[Any, Tensor]:
        """Observations, and legal actions with STOP as the last if there is one."""
        view = state.view
        stop = view.legal.new_ones((len(state), int(self.episodes.options.stop_action)))
        observation = self.episodes.observation(view, self.episodes.frame)
        return observation, torch.cat([view.legal, stop], dim=1)

    def _bits(self, name: str, places: NDArray[np.int64]) -> Tensor:
        packed = self._columns[name][places]
        return torch.from_numpy(np.unpackbits(packed, axis=1, count=self.n_lines).astype(bool))


def _in_order(parts: list[Any], order: list[int]) -> Any:
    """Batches by kind, one after the other, back in the order of their rows."""
    if isinstance(parts[0], dict):
        return {key: _in_order([part[key] for part in parts], order) for key in parts[0]}
    return torch.cat(parts)[torch.as_tensor(order).argsort()]
