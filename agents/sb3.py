"""Environments and policies for Stable-Baselines3: many scans, one reconstruction a step.

Stable-Baselines3 has its own idea of a vector environment: finished scans begin anew within the
same step, and every scan has an info of its own. It only trains the networks of this package: one
learned by imitation can be their start, and what it has trained is saved without it.
"""

import time
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices
from stable_baselines3.dqn.policies import DQNPolicy
from torch import Tensor, nn

from activemri.agents.networks import Observations, ScoringNetwork, copied, of_actions
from activemri.envs.protocol import ScanProtocol, typed_as
from activemri.envs.vector_env import ActiveMRIVectorEnv, VectorEnvOptions
from activemri.registration import find_spec

_CRITIC_WIDTH = 64

# Options of a reset that may differ from scan to scan, see ActiveMRIVectorEnv.
_PER_SCAN = ("index", "initial_mask")


@typed_as(VectorEnvOptions)
def make_sb3_env(protocol: ScanProtocol | str, **options: Any) -> "ActiveMRIVecEnv":
    """An environment to pass to any algorithm of Stable-Baselines3.

    ::

        env = make_sb3_env("ActiveMRI/Phantom-v0", num_envs=16, observation="lines")
        MaskablePPO("MultiInputPolicy", env).learn(20_000)

    Args:
        protocol: what is acquired, and how; or an id as for ``gymnasium.make``.
        **options: the fields of :class:`activemri.envs.vector_env.VectorEnvOptions`; they override
            those of the id. `num_envs` is 16 unless given.

    Raises:
        ValueError: an unknown id or option.
    """
    if isinstance(protocol, str):
        spec = find_spec(protocol)
        own: dict[str, Any] = {"max_episode_steps": spec.max_episode_steps, **spec.kwargs}
    else:
        own = protocol.changes
    wanted = {"num_envs": 16, **own, **options, "autoreset_mode": AutoresetMode.SAME_STEP}
    return ActiveMRIVecEnv(ActiveMRIVectorEnv(**wanted))


class ActiveMRIVecEnv(VecEnv):
    """The native vector environment as Stable-Baselines3 wants it.

    Step for step what a ``DummyVecEnv`` of as many single environments in a ``Monitor`` does, but
    for one reconstruction a step in place of `n`. At the end of an episode ``infos[i]["episode"]``
    holds its return, length and seconds, so that no ``VecMonitor`` is needed.

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
        self.env, self.reward_scale = env, reward_scale
        self._actions: NDArray[Any] = np.zeros(env.num_envs, dtype=np.int64)
        self._returns = np.zeros(env.num_envs)
        self._lengths = np.zeros(env.num_envs, dtype=np.int64)
        self._begun_at = time.monotonic()
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> Any:
        """Begin all scans, with the seeds and options given before."""
        first, *others = self._options
        if any(other.keys() != first.keys() for other in others):
            raise ValueError("give the same options of reset to all scans, or to none")
        options = {k: v for k, v in first.items() if k not in _PER_SCAN}
        if any(one[key] != value for key, value in options.items() for one in others):
            raise ValueError(f"of the options of reset, only {', '.join(_PER_SCAN)} may differ")
        for key in first.keys() & set(_PER_SCAN):
            options[key] = np.stack([one[key] for one in self._options])
        observation, infos = self.env.reset(seed=self._seeds, options=options)
        self.reset_infos = _split(infos, self.num_envs)
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
        infos = _split(spread, self.num_envs)
        if ended:
            last = _split(spread["final_info"], self.num_envs)
            for row in ended:
                self.reset_infos[row], infos[row] = infos[row], last[row]
                infos[row]["terminal_observation"] = spread["final_obs"][row]
                infos[row]["episode"] = {
                    "r": round(float(self._returns[row]), 6),
                    "l": int(self._lengths[row]),
                    "t": round(time.monotonic() - self._begun_at, 6),
                }
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
        """Results for each scan of `action_masks` or `render`; call all others on :attr:`env`."""
        if method_name not in ("action_masks", "render"):
            raise AttributeError(
                f"all scans share one environment: call .env.{method_name}() for all of them"
            )
        results = getattr(self.env, method_name)(*args, **kwargs)
        return [results[i] for i in self._get_indices(indices)]

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        return [getattr(self.env, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        if len(list(self._get_indices(indices))) != self.num_envs:
            raise ValueError("all scans share one environment: set attributes for all of them")
        setattr(self.env, attr_name, value)

    def env_is_wrapped(
        self, wrapper_class: type[gymnasium.Wrapper[Any, Any, Any, Any]], indices: Any = None
    ) -> list[bool]:
        """True for ``Monitor``, whose statistics are given as well."""
        return [wrapper_class is Monitor for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        return self.env.render() or ()

    def close(self) -> None:
        self.env.close()


def _split(spread: dict[str, Any], n: int) -> list[dict[str, Any]]:
    """Infos of each of n scans, from arrays for all."""
    infos: list[dict[str, Any]] = [{} for _ in range(n)]
    for key, values in spread.items():
        present = spread.get(f"_{key}")
        if present is None or key.startswith(("final_", "_")):
            continue
        entries = values if values.ndim > 1 else values.tolist()
        for info, entry, there in zip(infos, entries, present.tolist(), strict=True):
            if there:
                info[key] = entry
    return infos


class NetworkFeatures(BaseFeaturesExtractor):
    """Features of a scan: scores of all actions, and what is known of all lines together.

    The last ``2 * network.channels`` features are mean and maximum over lines. A copy of the
    network learns; `part` of the features is given, or, if it is None, the scores alone.
    """

    def __init__(self, observation_space: spaces.Dict, network: ScoringNetwork) -> None:
        self.n_scores = network.n_actions + network.stops
        super().__init__(observation_space, self.n_scores + 2 * network.channels)
        self.network: Any = copied(network)
        self.part: slice | None = slice(None)

    def forward(self, observations: Observations) -> Tensor:
        hidden = self.network.embed(observations)
        scores: Tensor = self.network.score(hidden, observations)
        if self.part is None:
            return finite(scores)
        features = torch.cat([scores, hidden.mean(dim=-1), hidden.amax(dim=-1)], dim=1)
        return finite(features[:, self.part])


def use_scores(policy: Any, *, lr: float) -> None:
    """Take logits of an actor, or values of a DQN, from the scores of its network as they are.

    The value of an actor's critic comes from the rest of :class:`NetworkFeatures`. There must be no
    layers (`net_arch`) after them; the optimiser is a new one.
    """
    if isinstance(policy, DQNPolicy):
        nets: list[Any] = [policy.q_net, policy.q_net_target]
        for net in nets:
            net.features_extractor.part, net.q_net = None, nn.Identity()
        learned = list(policy.q_net.parameters())
    else:
        actor, critic = policy.pi_features_extractor, policy.vf_features_extractor
        actor.part, critic.part = slice(0, actor.n_scores), slice(actor.n_scores, None)
        policy.action_net = nn.Identity()
        policy.value_net = nn.Sequential(
            nn.Linear(2 * critic.network.channels, _CRITIC_WIDTH),
            nn.SiLU(),
            nn.Linear(_CRITIC_WIDTH, 1),
        ).to(policy.device)
        learned = [weight for weight in policy.parameters() if weight.requires_grad]
    policy.optimizer = policy.optimizer_class(learned, lr=lr, **policy.optimizer_kwargs)


def contrib() -> Any:
    """The package sb3_contrib, or a ModuleNotFoundError that says how to install it."""
    try:
        import sb3_contrib
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "maskable-ppo and qrdqn come from sb3-contrib, which is not installed: "
            'pip install "activemri[rl]"',
            name=error.name,
        ) from error
    return sb3_contrib


def quantile_policy() -> Any:
    """QR-DQN's policy, with scores of the network of :class:`NetworkFeatures` as mean returns.

    The quantiles around the mean come from one more layer with the same weights for all lines. They
    have mean zero, so that the network alone is the policy.
    """
    from sb3_contrib.qrdqn.policies import QRDQNPolicy, QuantileNetwork

    class NetworkQuantiles(QuantileNetwork):
        def __init__(self, network: ScoringNetwork, *spaces_and_quantiles: Any) -> None:
            observations, actions, n_quantiles = spaces_and_quantiles
            unused = FlattenExtractor(spaces.Box(0, 1, (1,)))  # the network sees all
            super().__init__(observations, actions, unused, 1, n_quantiles, net_arch=[])
            self.quantile_net = copied(network)  # type: ignore[assignment]  # a Sequential there
            self.around = nn.Conv1d(network.channels, n_quantiles, 1)

        def forward(self, obs: Any) -> Tensor:
            """Quantiles of all returns: (batch, n_quantiles, n_actions + stops)."""
            network: Any = self.quantile_net
            hidden = network.embed(obs)
            around = of_actions(self.around(hidden), network.groups)
            if network.stops:
                overall = self.around(hidden.mean(dim=-1, keepdim=True))
                around = torch.cat([around, overall], dim=-1)
            around = around - around.mean(dim=1, keepdim=True)
            return finite(network.score(hidden, obs)[:, None] + around)

    class NetworkQRDQNPolicy(QRDQNPolicy):
        def make_quantile_net(self) -> QuantileNetwork:
            network = self.features_extractor_kwargs["network"]
            given = (self.observation_space, self.action_space, self.n_quantiles)
            return NetworkQuantiles(network, *given).to(self.device)

    return NetworkQRDQNPolicy


def finite(values: Tensor) -> Tensor:
    """The same values; FloatingPointError if one of them is no finite number."""
    if not bool(torch.isfinite(values).all()):
        raise FloatingPointError("the network gives values that are not finite numbers")
    return values
