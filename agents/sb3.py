"""Environments for Stable-Baselines3: many scans, one reconstruction a step.

    from sb3_contrib import MaskablePPO
    from activemri.agents.sb3 import make_sb3_env

    env = make_sb3_env("ActiveMRI/Phantom-v0", num_envs=16, observation="lines")
    MaskablePPO("MultiInputPolicy", env).learn(20_000)

Stable-Baselines3 has its own idea of a vector environment: finished scans begin anew within the
same step, and every scan has an info of its own. :class:`ActiveMRIVecEnv` tells it so of
:class:`activemri.envs.vector_env.ActiveMRIVectorEnv`.
"""

import time
from collections.abc import Iterable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices

from activemri.envs.protocol import typed_as
from activemri.envs.vector_env import ActiveMRIVectorEnv, VectorEnvOptions
from activemri.registration import find_spec

# Options of a reset that may differ from scan to scan, see ActiveMRIVectorEnv.
_PER_SCAN = ("index", "initial_mask")


@typed_as(VectorEnvOptions)
def make_sb3_env(id: str, **options: Any) -> "ActiveMRIVecEnv":
    """An environment to pass to any algorithm of Stable-Baselines3.

    Args:
        id: as for ``gymnasium.make``, e.g. "ActiveMRI/Phantom-v0", or "module:Mine-v0" of yours.
        **options: the fields of :class:`activemri.envs.vector_env.VectorEnvOptions`; they override
            those of the id. `num_envs` is 16 unless given.

    Raises:
        ValueError: an unknown id or option.
    """
    spec = find_spec(id)
    limit = spec.max_episode_steps
    wanted = {"num_envs": 16, "max_episode_steps": limit, **spec.kwargs, **options}
    return ActiveMRIVecEnv(
        ActiveMRIVectorEnv(**wanted | {"autoreset_mode": AutoresetMode.SAME_STEP})
    )


class ActiveMRIVecEnv(VecEnv):
    """The native vector environment as Stable-Baselines3 wants it.

    Step for step what a ``DummyVecEnv`` of as many single environments in a ``Monitor`` does, but
    for one reconstruction a step in place of `n`. ``env_method("action_masks")`` is answered in
    one call. At the end of an episode ``infos[i]["episode"]`` holds its return, length and
    seconds, so that no ``VecMonitor`` is needed for `ep_rew_mean` to be logged.

    Args:
        env: with autoreset in the same step.
        reward_scale: rewards are multiplied by it, for learners that like them of order one; the
            returns in ``infos[i]["episode"]`` are not.

    Raises:
        ValueError: for another kind of autoreset, or torch observations.
    """

    def __init__(self, env: ActiveMRIVectorEnv, *, reward_scale: float = 1.0) -> None:
        if env.autoreset_mode is not AutoresetMode.SAME_STEP:
            raise ValueError(
                "Stable-Baselines3 begins finished scans anew within the same step: make the "
                f"environment with autoreset_mode='SameStep'; got {env.autoreset_mode.value!r}"
            )
        if not env.options.to_numpy:
            raise ValueError("Stable-Baselines3 takes NumPy arrays: leave to_numpy=False out")
        self.env = env
        self.reward_scale = reward_scale
        self._actions: NDArray[Any] = np.zeros(env.num_envs, dtype=np.int64)
        self._returns = np.zeros(env.num_envs)
        self._lengths = np.zeros(env.num_envs, dtype=np.int64)
        self._begun_at = time.monotonic()
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> Any:
        """Begin all scans, with the seeds and options given before."""
        observation, infos = self.env.reset(seed=self._seeds, options=self._shared_options())
        self.reset_infos = _split(infos, range(self.num_envs), self.num_envs)
        self._returns[:], self._lengths[:] = 0.0, 0
        self._begun_at = time.monotonic()
        self._reset_seeds()
        self._reset_options()
        return observation

    def step_async(self, actions: NDArray[Any]) -> None:
        self._actions = np.asarray(actions)

    def step_wait(self) -> tuple[Any, NDArray[np.float32], NDArray[np.bool_], list[Any]]:
        """Acquire in every scan; those that end begin anew."""
        observation, rewards, terminated, truncated, spread = self.env.step(self._actions)
        done = terminated | truncated
        self._returns += rewards
        self._lengths += 1
        ended = np.flatnonzero(done).tolist()
        infos = _split(spread, range(self.num_envs), self.num_envs)
        if ended:
            last = _split(spread["final_info"], ended, self.num_envs)
            for row in ended:
                self.reset_infos[row], infos[row] = infos[row], last[row]
                infos[row]["terminal_observation"] = spread["final_obs"][row]
                infos[row]["episode"] = self._episode(row)
            self._returns[ended], self._lengths[ended] = 0.0, 0
        for info, out_of_time in zip(infos, (truncated & ~terminated).tolist(), strict=True):
            info["TimeLimit.truncated"] = out_of_time
        return observation, (self.reward_scale * rewards).astype(np.float32), done, infos

    def action_masks(self) -> NDArray[np.bool_]:
        """Legal actions, bool (n_envs, n_actions)."""
        return self.env.action_masks()

    def env_method(
        self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any
    ) -> list[Any]:
        """What a method gives for each scan: `action_masks` or `render`.

        Raises:
            AttributeError: for methods that speak of all scans together: call them on :attr:`env`.
        """
        if method_name not in ("action_masks", "render"):
            raise AttributeError(
                f"all scans share one environment: call .env.{method_name}() for all of them"
            )
        results = getattr(self.env, method_name)(*args, **kwargs)
        return [results[i] for i in self._get_indices(indices)]

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of the environment that all scans share, once for each scan."""
        value = getattr(self.env, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute for all scans.

        Raises:
            ValueError: if it is for some of them only.
        """
        if len(list(self._get_indices(indices))) != self.num_envs:
            raise ValueError("all scans share one environment: set attributes for all of them")
        setattr(self.env, attr_name, value)

    def env_is_wrapped(
        self, wrapper_class: type[gymnasium.Wrapper[Any, Any, Any, Any]], indices: Any = None
    ) -> list[bool]:
        """True for ``Monitor``, whose statistics are given as well."""
        return [wrapper_class is Monitor for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        """A frame of every scan."""
        return self.env.render() or ()

    def close(self) -> None:
        self.env.close()

    def _episode(self, row: int) -> dict[str, float]:
        """Statistics of an episode that has ended, as ``Monitor`` gives them."""
        return {
            "r": round(float(self._returns[row]), 6),
            "l": int(self._lengths[row]),
            "t": round(time.monotonic() - self._begun_at, 6),
        }

    def _shared_options(self) -> dict[str, Any]:
        """One set of options for all scans, with an entry for each scan where they differ."""
        first, *others = self._options
        if any(other.keys() != first.keys() for other in others):
            raise ValueError("give the same options of reset to all scans, or to none")
        shared = {k: v for k, v in first.items() if k not in _PER_SCAN}
        if any(one[key] != value for key, value in shared.items() for one in others):
            raise ValueError(f"of the options of reset, only {', '.join(_PER_SCAN)} may differ")
        stacked = {k: np.stack([one[k] for one in self._options]) for k in _PER_SCAN if k in first}
        return {**shared, **stacked}


def _split(spread: dict[str, Any], rows: Iterable[int], n: int) -> list[dict[str, Any]]:
    """Infos of each of n scans, from arrays for all; those of scans not asked for stay empty."""
    infos: list[dict[str, Any]] = [{} for _ in range(n)]
    for key, values in spread.items():
        present = spread.get(f"_{key}")
        if present is None or key.startswith(("final_", "_")):
            continue
        entries = values if values.ndim > 1 else values.tolist()
        for row in rows:
            if present[row]:
                infos[row][key] = entries[row]
    return infos
