"""Many scans at a time: the natively batched Gymnasium vector environment."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from activemri.envs.env import Episodes, Infos
from activemri.envs.protocol import EnvOptions, typed_as


@dataclass(frozen=True, kw_only=True, eq=False)
class VectorEnvOptions(EnvOptions):
    """An environment of many scans side by side."""

    num_envs: int = 1
    """Scans side by side."""
    autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP
    """Next step of finished scans: NextStep, SameStep, Disabled."""
    max_episode_steps: int | None = None
    """Truncate episodes after so many actions."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_envs < 1:
            raise ValueError(f"num_envs must be at least 1; got {self.num_envs}")


class ActiveMRIVectorEnv(gymnasium.vector.VectorEnv[Any, Any, Any]):
    """Acquire many MR scans side by side, with one reconstruction a step for all of them.

    Equal to as many :class:`activemri.envs.env.ActiveMRIEnv` in a ``SyncVectorEnv``, infos
    included, in every autoreset mode. In ``reset(options=...)``, `index` may also be an array
    (num_envs,) and `initial_mask` (num_envs, n_lines); `reset_mask` (bool, (num_envs,)) resets
    some of the scans only.

    Args:
        **options: the fields of :class:`VectorEnvOptions`.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012  # as the base class declares it
        "render_modes": ["rgb_array", "ansi"],
        "render_fps": 4,
    }

    @typed_as(VectorEnvOptions)
    def __init__(self, **options: Any) -> None:
        self.options = VectorEnvOptions.of(options)
        self.num_envs = num_envs = self.options.num_envs
        self.autoreset_mode = AutoresetMode(self.options.autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        self.render_mode = self.options.render_mode
        self.max_episode_steps = self.options.max_episode_steps
        self.episodes = Episodes(self.options, num_envs)
        self.single_action_space = spaces.Discrete(self.episodes.n_actions)
        self.single_observation_space = self.episodes.observation_space
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self._generators = [seeding.np_random()[0] for _ in range(num_envs)]
        self._ended = np.zeros(num_envs, dtype=bool)
        self._begun = np.zeros(num_envs, dtype=bool)

    @property  # type: ignore[misc]  # there is one for each scan
    def np_random(self) -> Any:
        """One generator for each scan."""
        return tuple(self._generators)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Begin scans; scan i is seeded with ``seed + i``, or with the i-th of several seeds."""
        options = dict(options or {})
        rows = self._rows_to_reset(options.pop("reset_mask", None))
        for row, one in enumerate(self._seeds(seed)):
            if one is not None and row in rows:
                self._generators[row] = seeding.np_random(one)[0]
        self._reset(rows, self._options_of(rows, options))
        if not self._begun.all():
            raise gymnasium.error.ResetNeeded("reset all scans before resetting some of them")
        infos = {name: values[rows] for name, values in self.episodes.infos().items()}
        return self.episodes.observe(), self._spread(infos, rows)

    def step(
        self, actions: Any
    ) -> tuple[Any, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Acquire in every scan.

        Raises:
            ValueError: for an illegal or impossible action; all scans go on unchanged.
            gymnasium.error.ResetNeeded: before the first reset, and for finished scans with
                autoreset disabled.
        """
        actions = np.asarray(actions)
        if actions.shape != (self.num_envs,) or not np.issubdtype(actions.dtype, np.integer):
            raise ValueError(
                f"expected {self.num_envs} whole numbers; got {actions.dtype} {actions.shape}"
            )
        if not self._begun.all():
            raise gymnasium.error.ResetNeeded("the scans have not begun: call reset()")
        if self.autoreset_mode is AutoresetMode.DISABLED and self._ended.any():
            raise gymnasium.error.ResetNeeded(
                f"scans {np.flatnonzero(self._ended).tolist()} have ended: "
                'reset(options={"reset_mask": ...})'
            )
        renewed = np.flatnonzero(self._ended).tolist()
        rewards, terminated = self.episodes.step(actions.astype(np.int64), ~self._ended)
        truncated = self._truncated() & ~self._ended
        if renewed:
            self._reset(renewed, {})
        self._ended = terminated | truncated
        everyone = list(range(self.num_envs))
        infos = self._spread(self.episodes.infos(), everyone)
        if self.autoreset_mode is AutoresetMode.SAME_STEP and self._ended.any():
            infos = self._renew_at_once(infos)
        return self.episodes.observe(), rewards, terminated, truncated, infos

    def simulate(self, actions: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        """Scores after each of several actions, none of which is taken; for oracles.

        Args:
            actions: what to try in each scan, (num_envs, trial).

        Returns:
            (num_envs, trial) by metric.
        """
        return self.episodes.simulate(np.asarray(actions, dtype=np.int64))

    def action_masks(self) -> NDArray[np.bool_]:
        """Legal actions of all scans, bool (num_envs, n_actions)."""
        return self.episodes.legal()

    def state_dict(self) -> dict[str, Any]:
        """This point of all episodes, for :meth:`load_state_dict`."""
        return {
            "episodes": [self.episodes.save(row) for row in range(self.num_envs)],
            "ended": self._ended.copy(),
            "random": [generator.bit_generator.state for generator in self._generators],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Come back to a point saved by :meth:`state_dict` under the same protocol."""
        for row, saved in enumerate(state["episodes"]):
            self.episodes.restore(row, saved)
            self._generators[row].bit_generator.state = state["random"][row]
        self._ended = state["ended"].copy()
        self._begun[:] = True

    def render(self) -> tuple[Any, ...] | None:
        """A frame, or a text, for each scan."""
        if self.render_mode is None:
            gymnasium.logger.warn("render() needs a render_mode")
            return None
        return tuple(self.episodes.render(row) for row in range(self.num_envs))

    def _reset(self, rows: list[int], options: dict[str, Any]) -> None:
        self.episodes.reset(rows, [self._generators[row] for row in rows], options)
        self._ended[rows] = False
        self._begun[rows] = True

    def _rows_to_reset(self, mask: Any) -> list[int]:
        if mask is None:
            return list(range(self.num_envs))
        mask = np.asarray(mask)
        if mask.shape != (self.num_envs,) or mask.dtype != bool or not mask.any():
            raise ValueError(
                f"reset_mask must be boolean with {self.num_envs} entries, one of them True at "
                f"least; got {mask.dtype} {mask.shape}"
            )
        return [int(row) for row in np.flatnonzero(mask)]

    def _seeds(self, seed: int | Sequence[int | None] | None) -> Sequence[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, int | np.integer):
            return [int(seed) + i for i in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(f"expected {self.num_envs} seeds; got {len(seed)}")
        return seed

    def _truncated(self) -> NDArray[np.bool_]:
        if self.max_episode_steps is None:
            return np.zeros(self.num_envs, dtype=bool)
        return self.episodes.n_steps >= self.max_episode_steps

    def _options_of(self, rows: list[int], options: dict[str, Any]) -> dict[str, Any]:
        """Options that are given for every scan, for some of the scans."""
        own = dict(options)
        for name, n_axes in (("index", 1), ("initial_mask", 2)):
            value = options.get(name)
            if value is not None and np.ndim(value) == n_axes and len(value) == self.num_envs:
                own[name] = torch.as_tensor(value)[rows]
        return own

    def _renew_at_once(self, infos: dict[str, Any]) -> dict[str, Any]:
        """Same-step autoreset: keep the last of the old episodes aside, begin new ones."""
        rows = [int(row) for row in np.flatnonzero(self._ended)]
        last = self.episodes.observe()
        final = np.full(self.num_envs, None, dtype=object)
        for row in rows:
            one = {k: v[row] for k, v in last.items()} if isinstance(last, dict) else last[row]
            final[row] = one
        final_info = self._spread(
            {name: values[rows] for name, values in infos.items() if f"_{name}" in infos}, rows
        )
        self._reset(rows, {})
        everyone = list(range(self.num_envs))
        present = self._flags(rows)
        return {
            **self._spread(self.episodes.infos(), everyone),
            "final_obs": final,
            "_final_obs": present,
            "final_info": final_info,
            "_final_info": present.copy(),
        }

    def _spread(self, infos: Infos, rows: list[int]) -> dict[str, Any]:
        """Infos of some scans as Gymnasium wants them: arrays for all, with masks of presence."""
        present = self._flags(rows)
        spread: dict[str, Any] = {}
        for key, values in infos.items():
            array = values
            if len(rows) < self.num_envs:
                empty = None if values.dtype == object else 0
                array = np.full((self.num_envs, *values.shape[1:]), empty, dtype=values.dtype)
                array[rows] = values
            spread[key], spread[f"_{key}"] = array, present.copy()
        return spread

    def _flags(self, rows: list[int]) -> NDArray[np.bool_]:
        flags = np.zeros(self.num_envs, dtype=bool)
        flags[rows] = True
        return flags
