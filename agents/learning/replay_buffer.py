"""A replay buffer for Stable-Baselines3 that keeps where transitions happened, not what was seen.

:class:`activemri.envs.replay.Replay` keeps about sixty bytes a transition at 128 lines, so a
million take as many megabytes; a buffer of Stable-Baselines3 takes thirty gigabytes for features
of lines. What it saves in memory costs time: a state that is drawn is reconstructed again. That is
a millisecond for zero-filled images of 128 x 128 pixels and about thirteen for a network, on one
thread. So the observations of the newest transitions stay in a cache of fixed size.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import DictReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from activemri.agents.learning.observation_cache import ObservationCache
from activemri.envs.episodes import Episodes
from activemri.envs.replay import Points, Replay


class MaskReplayBuffer(ReplayBuffer):
    """Index and masks of transitions; observations are rebuilt when they are drawn.

    Episodes must begin anew within the same step, as Stable-Baselines3 has it, and :meth:`look`
    must be called before every step, as :class:`activemri.agents.learning.ddqn.DoubleDQN` does.

    Args:
        buffer_size: transitions to keep.
        observation_space: of one scan, a flat Dict.
        action_space: of one scan.
        device: where batches go.
        n_envs: scans side by side.
        optimize_memory_usage: must stay False; there is nothing left to save.
        episodes: of the environment.
        generator: of what is drawn.
        cache_bytes: bound of the cache of observations; 0 rebuilds all of them. Numbers are kept
            in half precision there: to three digits.
        unit_of: so many first transitions decide in which unit rewards are drawn: that of their
            root mean square; 0 leaves rewards as they are.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: torch.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        *,
        episodes: Episodes,
        generator: np.random.Generator,
        cache_bytes: int = 0,
        unit_of: int = 0,
    ) -> None:
        # The parent's __init__ would allocate observations.
        BaseBuffer.__init__(self, buffer_size, observation_space, action_space, device, n_envs)
        if optimize_memory_usage or not isinstance(observation_space, spaces.Dict):
            raise ValueError(
                "expected an observation space of several parts and optimize_memory_usage=False; "
                f"got {observation_space} and optimize_memory_usage={optimize_memory_usage}"
            )
        self.optimize_memory_usage = False
        self.memory = Replay(buffer_size, episodes)
        self.cache = ObservationCache(observation_space, cache_bytes, n_envs, most=buffer_size)
        self.generator = generator
        self.unit_of = unit_of
        self.squares, self.n_squares = 0.0, 0
        self.points = Points.of(episodes)
        self.has_looked = False

    @property
    def nbytes(self) -> int:
        """Memory held, cache included."""
        return int(self.memory.bytes_per_transition * self.memory.capacity) + self.cache.nbytes

    @property
    def reward_unit(self) -> float:
        """Rewards are divided by it."""
        if not self.squares:
            return 1.0
        return float(np.sqrt(self.squares / self.n_squares))

    def size(self) -> int:
        return len(self.memory)

    def look(self) -> None:
        """Note where the episodes stand, before they act."""
        self.points = Points.of(self.memory.episodes)
        self.has_looked = True

    def add(
        self,
        obs: Any,
        next_obs: Any,
        action: NDArray[Any],
        reward: NDArray[Any],
        done: NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:
        """Remember one step of all episodes, taken from where :meth:`look` saw them."""
        if not self.has_looked:
            raise ValueError("call look() before every step, to note where the episodes stand")
        self.has_looked = False
        out_of_time = np.array([info.get("TimeLimit.truncated", False) for info in infos])
        terminated = done.astype(bool) & ~out_of_time
        self.cache.put(self.memory.n_added, obs, out_of_time)
        self.memory.add(self.points, action.reshape(-1), rewards=reward, terminated=terminated)
        if self.n_squares < self.unit_of:
            self.squares += float(np.square(reward, dtype=np.float64).sum())
            self.n_squares += len(reward)

    def sample(  # type: ignore[override]  # samples of a Dict, as DictReplayBuffer has them
        self, batch_size: int, env: VecNormalize | None = None
    ) -> DictReplayBufferSamples:
        """Draw uniformly, with replacement."""
        return self._get_samples(self.generator.integers(self.size(), size=batch_size), env)

    def _get_samples(  # type: ignore[override]
        self, batch_inds: NDArray[np.int64], env: VecNormalize | None = None
    ) -> DictReplayBufferSamples:
        assert env is None, "observations are of order one: VecNormalize is not needed"
        before, after = self._observations(batch_inds)
        stored = {
            name: self.memory.stored(name, batch_inds).to(self.device)[:, None]
            for name in ("action", "reward", "terminated")
        }
        return DictReplayBufferSamples(
            observations=before,
            actions=stored["action"],
            next_observations=after,
            dones=stored["terminated"].float(),
            rewards=stored["reward"] / self.reward_unit,
        )

    def _observations(
        self, places: NDArray[np.int64]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What was seen before and after: from the cache, else rebuilt."""
        kept = self.memory.numbers(places)
        cached = self.cache.holds(kept, self.memory.n_added)
        before = self.cache.take(kept)
        after = self.cache.take(kept + self.n_envs)
        if not cached.all():
            rows = np.flatnonzero(~cached)
            rebuilt = self.memory.rebuild(places[rows])
            _replace(before, rows, rebuilt.observation)
            _replace(after, rows, rebuilt.next_observation)
        device = self.device
        return (
            {key: part.to(device) for key, part in before.items()},
            {key: part.to(device) for key, part in after.items()},
        )

    def reset(self) -> None:
        """Forget everything."""
        self.memory.n_added = 0
        self.squares, self.n_squares = 0.0, 0

    def state(self) -> dict[str, Any]:
        """All that is remembered, for :meth:`restore`; the memory has only as many rows as used."""
        return {
            "memory": self.memory.state(),
            "cache": self.cache.state(),
            "squares": self.squares,
            "n_squares": self.n_squares,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self.memory.restore(state["memory"])
        self.cache.restore(state["cache"])
        self.squares, self.n_squares = state["squares"], state["n_squares"]


def _replace(
    parts: Mapping[str, Tensor], rows: NDArray[np.int64], others: Mapping[str, Tensor]
) -> None:
    """Put others into rows of parts."""
    for key, part in parts.items():
        part[rows] = others[key].to(part)
