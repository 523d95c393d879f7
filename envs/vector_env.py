"""Many scans at a time: the natively batched Gymnasium vector environment."""

import math
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

from activemri.devices import require_memory
from activemri.envs.env import ActiveMRIEnv, Episodes, Infos
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
    some of the scans only. Options are the fields of :class:`VectorEnvOptions`.
    """

    metadata = ActiveMRIEnv.metadata

    @typed_as(VectorEnvOptions)
    def __init__(self, **options: Any) -> None:
        self.options = VectorEnvOptions.of(options)
        self.num_envs = num_envs = self.options.num_envs
        self.autoreset_mode = AutoresetMode(self.options.autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        self.render_mode = self.options.render_mode
        self.max_episode_steps = self.options.max_episode_steps
        self.episodes = Episodes(self.options, num_envs)
        _require_memory(self.episodes)
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
        n, mask = self.num_envs, options.pop("reset_mask", None)
        mask = np.ones(n, dtype=bool) if mask is None else np.asarray(mask)
        if mask.shape != (n,) or mask.dtype != bool or not mask.any():
            raise ValueError(
                f"reset_mask must be boolean with {n} entries, one of them True at least; "
                f"got {mask.dtype} {mask.shape}"
            )
        rows = np.flatnonzero(mask).tolist()
        if seed is None or isinstance(seed, int | np.integer):
            seed = [None if seed is None else int(seed) + row for row in range(n)]
        if len(seed) != n:
            raise ValueError(f"expected {n} seeds; got {len(seed)}")
        for row in rows:
            if seed[row] is not None:
                self._generators[row] = seeding.np_random(seed[row])[0]
        for name, n_axes in (("index", 1), ("initial_mask", 2)):  # where there is one for each scan
            value = options.get(name)
            if value is not None and np.ndim(value) == n_axes and len(value) == n:
                options[name] = torch.as_tensor(value)[rows]
        self._reset(rows, options)
        if not self._begun.all():
            raise gymnasium.error.ResetNeeded("reset all scans before resetting some of them")
        infos = {name: values[rows] for name, values in self.episodes.infos().items()}
        return self.episodes.observe(), self._spread(infos, rows)

    def step(
        self, actions: Any
    ) -> tuple[Any, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Acquire in every scan; errors as of :meth:`ActiveMRIEnv.step`, all scans go on unchanged.

        Finished scans with autoreset disabled raise ResetNeeded.
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
        limit = np.inf if self.max_episode_steps is None else self.max_episode_steps
        truncated = (self.episodes.n_steps >= limit) & ~self._ended
        if renewed:
            self._reset(renewed, {})
        self._ended = terminated | truncated
        ended = np.flatnonzero(self._ended).tolist()
        infos = self.episodes.infos()
        aside: dict[str, Any] = {}
        if self.autoreset_mode is AutoresetMode.SAME_STEP and ended:
            # The last of the old episodes is kept aside, and new ones begin.
            last = self.episodes.observe()
            final = np.full(self.num_envs, None, dtype=object)
            for row in ended:
                own = {k: v[row] for k, v in last.items()} if isinstance(last, dict) else last[row]
                final[row] = own
            final_info = self._spread({name: v[ended] for name, v in infos.items()}, ended)
            aside = {"final_obs": final, "_final_obs": self._ended.copy()}
            aside |= {"final_info": final_info, "_final_info": self._ended.copy()}
            self._reset(ended, {})
            infos = self.episodes.infos()
        spread = self._spread(infos, range(self.num_envs)) | aside
        return self.episodes.observe(), rewards, terminated, truncated, spread

    def simulate(self, actions: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        """Scores after each of several actions (num_envs, trial), none of which is taken."""
        return self.episodes.simulate(np.asarray(actions, dtype=np.int64))

    def action_masks(self) -> NDArray[np.bool_]:
        """Legal actions of all scans, bool (num_envs, n_actions)."""
        return self.episodes.legal()

    def state_dict(self) -> dict[str, Any]:
        """This point of all episodes, for :meth:`load_state_dict`."""
        return self.episodes.save(self._ended, self._generators)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As :meth:`ActiveMRIEnv.load_state_dict`, of as many scans side by side."""
        self._ended = self.episodes.restore(state, self._generators)
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

    def _spread(self, infos: Infos, rows: Sequence[int]) -> dict[str, Any]:
        """Infos of some scans as Gymnasium wants them: arrays for all, with masks of presence."""
        n = self.num_envs
        present = np.ones(n, dtype=bool)
        spread: dict[str, Any] = {}
        if len(rows) < n:
            present[:] = False
            present[rows] = True
        for key, values in infos.items():
            array = values
            if len(rows) < n:
                empty = None if values.dtype == object else 0
                array = np.full((n, *values.shape[1:]), empty, dtype=values.dtype)
                array[rows] = values
            spread[key], spread[f"_{key}"] = array, present.copy()
        return spread


def _require_memory(episodes: Episodes) -> None:
    """Refuse more scans than fit into memory, before any is begun but, where it may be tight, one.

    All are taken to be as large as the first one.
    """

    def measure() -> int:
        generators = [np.random.default_rng(0)]
        state = episodes.scan.start([episodes.dataset[0]], generators=generators)
        return int(_AT_RESET * state.nbytes)

    frame = episodes.frame
    guess = _GUESS * frame.n_coils * math.prod(frame.shape) * 8
    require_memory(episodes.n, measure, guess=guess, device=episodes.scan.device)


# Memory of a scan, in units of its start: while all begin and when they have been acted on (1.2 to
# 2.3 were measured). And of its k-space, surely no more than that.
_AT_RESET, _GUESS = 1.5, 16
