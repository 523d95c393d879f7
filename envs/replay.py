"""A memory of transitions that keeps where they happened and not what was seen there.

A transition is two masks as packed bits (of the start, and of now) and a few numbers: about a
hundred bytes at 368 lines. Observations are rebuilt on demand with one full adjoint.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from activemri.envs.env import Episodes, in_order
from activemri.envs.scan import STOP, WASTE, State, kind

Array = NDArray[Any]
Points = dict[str, Array]  # see :func:`points_of`


def points_of(episodes: Episodes) -> Points:
    """All that the episodes' observations follow from, one row for each.

    `seed` is that of random scanners, `order` that of the readouts measured after the start.
    """
    n, n_lines = episodes.n, episodes.geometry.n_readouts
    points: Points = {
        "index": episodes.index.copy(),
        "start_mask": np.zeros((n, n_lines), bool),
        "mask": np.zeros((n, n_lines), bool),
        "budget": np.zeros(n, np.int64),
        "seed": np.zeros(n, np.int64),
        "order": np.full((n, episodes.scan.horizon), -1, np.int32),
    }
    for rows, state in episodes.buckets:
        view = state.view
        for name in ("start_mask", "mask", "budget"):
            points[name][rows] = getattr(view, name).cpu()
        points["seed"][rows] = state.secret.conditions.seed.cpu()
        points["order"][rows] = view.log.order.cpu()
    return points


@dataclass(frozen=True, eq=False)
class Batch:
    """Transitions as a learner wants them; tensors (n, ...) on the device of the scans."""

    observation: Any  # dict of tensors, or a tensor
    action: Tensor  # int64 (n,)
    reward: Tensor  # float32 (n,)
    next_observation: Any  # means nothing where terminated, nor does next_legal
    terminated: Tensor  # bool (n,)
    legal: Tensor  # bool (n, n_actions), STOP included
    next_legal: Tensor


class Replay:
    """The last `capacity` transitions of an environment, for learners that are off-policy.

    A step is remembered like this, with finished scans reset in the same step::

        points = points_of(envs.episodes)
        _, rewards, terminated, truncated, _ = envs.step(actions)
        replay.add(points, actions, rewards=rewards, terminated=terminated)
    """

    def __init__(self, capacity: int, episodes: Episodes) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1 transition; got {capacity}")
        self.episodes = episodes
        self.scan = replace(episodes.scan, metrics=())  # no scores are wanted
        self.capacity = capacity
        self.n_added = 0
        self._columns = {
            name: np.zeros((capacity, *values.shape[1:]), values.dtype)
            for name, values in self._packed(points_of(episodes)).items()
        }
        self._columns["action"] = np.zeros(capacity, np.int64)
        self._columns["reward"] = np.zeros(capacity, np.float32)
        self._columns["terminated"] = np.zeros(capacity, bool)

    def __len__(self) -> int:
        return min(self.n_added, self.capacity)

    def add(self, points: Points, actions: Array, *, rewards: Array, terminated: Array) -> None:
        """Remember one action of every episode, (n,) each, taken from `points`.

        Truncated episodes are not terminated: what they would have earned still counts.
        """
        places = (self.n_added + np.arange(len(actions))) % self.capacity
        numbers = {"action": actions, "reward": rewards, "terminated": terminated}
        for name, values in {**self._packed(points), **numbers}.items():
            self._columns[name][places] = values
        self.n_added += len(places)

    def rebuild(self, places: NDArray[np.int64]) -> Batch:
        """The transitions at some places of the memory, (n,)."""
        scans = [self.episodes.dataset[i] for i in self._columns["index"][places].tolist()]
        kinds = [kind(scan) for scan in scans]
        n_lines, parts = self.scan.geometry.n_readouts, []
        for one in dict.fromkeys(kinds):
            rows = [row for row, other in enumerate(kinds) if other == one]
            some = places[rows]
            start_masks, masks = (
                torch.from_numpy(np.unpackbits(bits[some], axis=1, count=n_lines) > 0)
                for bits in (self._columns["start_mask"], self._columns["mask"])
            )
            state = self.scan.resume(
                [scans[row] for row in rows],
                start_masks=start_masks,
                masks=masks,
                budgets=self.stored("budget", some),
                seeds=self.stored("seed", some) if "seed" in self._columns else None,
                order=self.stored("order", some).long() if self.scan.horizon else None,
            )
            observation, legal = self._see(state)
            action = self.stored("action", some)
            plan = torch.where(action == self.scan.geometry.n_actions, STOP, action)
            is_legal = legal.gather(1, action[:, None]).squeeze(1)
            after = self.scan.acquire(state, torch.where(is_legal, plan, WASTE))
            seen = {"observation": observation, "legal": legal}
            seen["next_observation"], seen["next_legal"] = self._see(after)
            parts.append((rows, seen))
        stored = {name: self.stored(name, places) for name in ("action", "reward", "terminated")}
        return Batch(**in_order(parts, len(places)), **stored)

    def stored(self, name: str, places: NDArray[np.int64]) -> Tensor:
        """A column at some places, e.g. "action", "reward" or "terminated", (n,)."""
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
        """Come back to what was remembered, in a memory of the same capacity.

        Raises:
            ValueError: for contents of another memory; nothing is changed then.
        """
        n = min(state["n_added"], self.capacity)
        for name, column in self._columns.items():
            given = state.get(name, torch.empty(0)).numpy()
            if given.dtype != column.dtype or given.shape != (n, *column.shape[1:]):
                raise ValueError(
                    f"expected the contents of a memory of {self.capacity} transitions of these "
                    f"scans: {name} as {column.dtype} {(n, *column.shape[1:])}; got "
                    f"{given.dtype} {given.shape}"
                )
        index, n_scans = state["index"], len(self.episodes.dataset)
        if bool(((index < 0) | (index >= n_scans)).any()):
            raise ValueError(f"expected transitions of {n_scans} scans; got {index.unique()}")
        self.n_added = state["n_added"]
        for name, column in self._columns.items():
            column[:n] = state[name].numpy()

    def _packed(self, points: Points) -> Points:
        """Points with masks as bits, and without the seeds of scanners that draw nothing."""
        packed = {name: np.packbits(points[name], axis=1) for name in ("start_mask", "mask")}
        left_out = () if self.scan.scanner.is_random else ("seed",)
        return {name: v for name, v in {**points, **packed}.items() if name not in left_out}

    def _see(self, state: State) -> tuple[Any, Tensor]:
        """Observations, and legal actions with STOP as the last if there is one."""
        view = state.view
        stop = view.legal.new_ones((len(state), int(self.episodes.options.stop_action)))
        observation = self.episodes.observation(view, self.episodes.frame)
        return observation, torch.cat([view.legal, stop], dim=1)
