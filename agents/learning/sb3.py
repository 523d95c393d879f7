"""Algorithms of Stable-Baselines3 as learners: what `ppo`, `maskable-ppo`, `dqn`, `qrdqn` share.

A step is one action in the environment. Every call of :meth:`SB3Learner.learn` begins new scans,
seeded by how far the training has come, and draws from generators of its own: a training that is
resumed after a validation goes on as if it had never stopped. Only the memory of `dqn` and `qrdqn`
is not kept: it is filled again, with the policy as it is, before learning goes on.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit

from activemri.agents.image_network import ImageNetwork
from activemri.agents.learned import ActionNetwork, LearnedPolicy
from activemri.agents.learning.learner import DivergedError, Workplace
from activemri.agents.learning.networks import first_network, policy_of
from activemri.agents.sb3 import ActiveMRIVecEnv
from activemri.agents.sb3_policies import ScoringNetwork
from activemri.construction import seeded
from activemri.envs.observation import make_observation
from activemri.envs.vector_env import ActiveMRIVectorEnv

_LAST_RATE = 0.05  # of the learning rate, as a share of the first


@dataclass(frozen=True)
class SB3Settings:
    """Settings that all these algorithms share.

    Attributes:
        observation: "lines", or "image", "uncertainty", "roi" or "complex".
        lr: learning rate of Adam; it falls to a twentieth.
        gamma: discount of later rewards.
        n_envs: scans side by side.
        reward_scale: rewards are multiplied by it: gains of SSIM are small numbers.
        spread: of a new network's first scores, by which the centre is ahead of the edge; 0 begins
            with scores that mean nothing.
        channels: numbers that the network keeps for each line.
        blocks: residual blocks of the network.
    """

    observation: str = "lines"
    lr: float = 1e-3
    gamma: float = 0.5
    n_envs: int = 16
    reward_scale: float = 50.0
    spread: float = 20.0
    channels: int = 32
    blocks: int = 2


#: Makes the algorithm at work in an environment, from a network and a learning rate.
MakeModel = Callable[[ActiveMRIVecEnv, ScoringNetwork, Callable[[float], float]], BaseAlgorithm]


class SB3Learner:
    """See the module.

    Args:
        workplace: what is learned with.
        settings: of the algorithm.
        make_model: makes the algorithm, without a logger.
        network_of: finds the network that learns in it.
    """

    def __init__(
        self,
        workplace: Workplace,
        settings: SB3Settings,
        *,
        make_model: MakeModel,
        network_of: Callable[[Any], Any],
    ) -> None:
        self.workplace, self.settings, self._network_of = workplace, settings, network_of
        self.draws = OwnDraws(workplace.seed)
        network = starting_network(workplace, settings)
        self.env = make_environment(workplace, settings, network)
        with self.draws.in_place():
            self.model = make_model(self.env, network, self._rate)
        self.model.set_logger(Logger(None, []))

    @property
    def step(self) -> int:
        return self.model.num_timesteps

    def learn(self, n_steps: int) -> Mapping[str, float]:
        self._begin_anew()
        with self.draws.in_place():
            self.model.learn(n_steps, _Nothing(), log_interval=None, reset_num_timesteps=False)  # type: ignore[arg-type]
        weights = self.model.policy.parameters()
        if not all(bool(torch.isfinite(weight).all()) for weight in weights):
            raise DivergedError("a weight is no longer a finite number")
        return self._told()

    def policy(self) -> LearnedPolicy:
        return policy_of(self._network_of(self.model), self.workplace)

    def state(self) -> dict[str, Any]:
        model: Any = self.model
        return {
            "step": self.step,
            "n_updates": model._n_updates,
            "n_calls": getattr(model, "_n_calls", 0),
            "policy": model.policy.state_dict(),
            "optimizer": model.policy.optimizer.state_dict(),
            "draws": self.draws.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        model: Any = self.model
        model.policy.load_state_dict(state["policy"])
        model.policy.optimizer.load_state_dict(state["optimizer"])
        model.num_timesteps, model._n_updates = state["step"], state["n_updates"]
        if isinstance(model, OffPolicyAlgorithm):
            model._n_calls = state["n_calls"]  # type: ignore[attr-defined]
            self._fill_memory(model)
            model.num_timesteps = state["step"]
            model._n_calls = state["n_calls"]  # type: ignore[attr-defined]
        self.draws.restore(state["draws"])

    def _rate(self, _: float) -> float:
        """Learning rate: it falls over the whole training, not over one call of learn()."""
        return self.settings.lr * max(_LAST_RATE, 1 - self.done)

    @property
    def done(self) -> float:
        """Share of the training that is behind it."""
        model = getattr(self, "model", None)  # asked while the model is being made, too
        return 0.0 if model is None else min(1.0, model.num_timesteps / self.workplace.max_steps)

    def _begin_anew(self) -> None:
        """Have the next call of learn() begin new scans."""
        seed = np.random.SeedSequence([self.workplace.seed, self.step]).generate_state(1)
        self.env.seed(int(seed[0]))
        self.model.action_space.seed(int(seed[0]))
        self.model._last_obs, self.model.ep_info_buffer = None, None

    def _fill_memory(self, model: OffPolicyAlgorithm) -> None:
        """As many actions as were taken before learning began, by the policy as it is."""
        n_calls = min(model.learning_starts, self.step) // self.env.num_envs
        if n_calls == 0 or model.replay_buffer is None:
            return
        self._begin_anew()
        with self.draws.in_place():
            _, callback = model._setup_learn(0, _Nothing(), reset_num_timesteps=False)
            model.collect_rollouts(
                self.env,
                callback,
                TrainFreq(n_calls, TrainFrequencyUnit.STEP),
                model.replay_buffer,
                learning_starts=0,
            )

    def _told(self) -> dict[str, float]:
        """What the algorithm recorded last, and the mean return of episodes that ended."""
        recorded = self.model.logger.name_to_value
        told = {
            name.removeprefix("train/"): float(value)
            for name, value in recorded.items()
            if name.startswith("train/")
        }
        recorded.clear()
        episodes = self.model.ep_info_buffer
        if episodes:
            told["episode_return"] = float(np.mean([one["r"] for one in episodes]))
        return told


class OwnDraws:
    """The global generators of one learner, for code that draws from nothing else.

    Outside :meth:`in_place` they are what they would be without it.
    """

    def __init__(self, seed: int) -> None:
        self._python = random.Random(seed).getstate()
        self._numpy: Any = np.random.RandomState(seed).get_state()
        self._torch = torch.Generator().manual_seed(seed).get_state()

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put them in place of the global ones."""
        outside = _global_states()
        _set_global_states((self._python, self._numpy, self._torch))
        try:
            yield
        finally:
            self._python, self._numpy, self._torch = _global_states()
            _set_global_states(outside)

    def state(self) -> dict[str, Any]:
        """As tensors and plain Python."""
        name, keys, *rest = self._numpy
        return {
            "python": self._python,
            "numpy": (str(name), np.asarray(keys).tolist(), *rest),
            "torch": self._torch,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self._python, self._torch = state["python"], state["torch"]
        name, keys, *rest = state["numpy"]
        self._numpy = (name, np.array(keys, dtype=np.uint32), *rest)


class _Nothing(BaseCallback):
    """Lets the training go on."""

    def _on_step(self) -> bool:
        return True


def starting_network(workplace: Workplace, settings: SB3Settings) -> ScoringNetwork:
    """A new network for the observation, or that of the warm start.

    Raises:
        ValueError: an observation that no network is for, or a warm start that does not fit.
    """
    if settings.observation != "lines" and workplace.warm_start is None:
        network: ActionNetwork = seeded(
            lambda: _image_network(workplace, settings), workplace.seed
        ).to(workplace.acquisition.device)
    else:
        network = first_network(
            workplace,
            "lines",
            channels=settings.channels,
            blocks=settings.blocks,
            stops=workplace.task.stop_action,
        )
    if not isinstance(network, ScoringNetwork):
        raise ValueError(
            f"--warm-start: expected a network of lines or images; got {network.kind!r}"
        )
    if workplace.warm_start is None and settings.spread != 0:
        network.point_outwards(settings.spread)
    return network


def _image_network(workplace: Workplace, settings: SB3Settings) -> ImageNetwork:
    geometry = workplace.acquisition.geometry
    parts: Any = make_observation(settings.observation).space(workplace.frame)
    if "image" not in getattr(parts, "keys", dict)():
        raise ValueError(
            f"--learner observation={settings.observation}: expected one of lines, image, "
            "uncertainty, roi, complex"
        )
    return ImageNetwork(
        parts["image"].shape,
        geometry.n_lines,
        observation=settings.observation,
        groups=None if geometry.groups.shape[1] == 1 else geometry.groups.tolist(),
        repeats="repeats" in parts.keys(),  # noqa: SIM118  # a space, no dict
        channels=settings.channels,
        blocks=settings.blocks,
        stops=workplace.task.stop_action,
    )


def make_environment(
    workplace: Workplace, settings: SB3Settings, network: ScoringNetwork
) -> ActiveMRIVecEnv:
    """Scans side by side, seen as the network sees them, with no scores but those rewarded."""
    task = replace(
        workplace.task,
        data=workplace.scans,
        reconstructor=workplace.acquisition.reconstructor,
        observation=network.observation,
        metrics=workplace.acquisition.metrics,
        invalid_action="noop",
        to_numpy=True,
    )
    env = ActiveMRIVectorEnv(
        num_envs=settings.n_envs, autoreset_mode=AutoresetMode.SAME_STEP, **vars(task)
    )
    return ActiveMRIVecEnv(env, reward_scale=settings.reward_scale)


def _global_states() -> tuple[Any, Any, Any]:
    return random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002


def _set_global_states(states: tuple[Any, Any, Any]) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    torch.set_rng_state(states[2])
