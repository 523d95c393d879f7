"""Double DQN over legal actions, of what the scan shows (`ddqn`) or of the time alone (`ds-ddqn`).

Pineda, Basu, Romero, Calandra and Drozdzal, Active MR k-space sampling with reinforcement
learning, MICCAI 2020. The value Q(s, a) of a line is learned from transitions (s, a, r, s'):

    Q(s, a) -> r + gamma Q'(s', argmax over legal a' of Q(s', a')),

with a smooth L1 loss; Q' is a copy of the network from some time ago (van Hasselt et al. 2016: the
network that chooses is not the one that judges). Episodes explore: epsilon-greedy over legal
actions. It is Stable-Baselines3's DQN with three things changed: illegal actions have the value
-1e10 in the network, so that neither the agent nor its targets take them; the double target; and a
memory of indices and masks in which a million transitions fit.

Subject-specific (SS-DDQN) networks see the scan: features of lines by default, or the image with
the evaluator's architecture as in the paper. The data-set-specific one (DS-DDQN) sees only how
many lines were acquired, so it learns one order for all scans.

Ours differs: many scans side by side, larger batches, and rewards in units of their size; the
paper's own numbers are :data:`PAPER` and :data:`PAPER_DATASET`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from stable_baselines3 import DQN
from stable_baselines3.common.logger import Logger
from torch import Tensor
from torch.nn import functional

from activemri.agents.learned import ActionNetwork, LearnedPolicy
from activemri.agents.learning.episode_state import episode_state, restore_episodes
from activemri.agents.learning.learner import DivergedError, Workplace
from activemri.agents.learning.legal_actions import LEGAL, LegalDQNPolicy, WithLegal
from activemri.agents.learning.networks import first_network, policy_of
from activemri.agents.learning.replay_buffer import MaskReplayBuffer
from activemri.agents.sb3 import ActiveMRIVecEnv
from activemri.envs.observation import make_observation
from activemri.envs.vector_env import ActiveMRIVectorEnv

Array = NDArray[Any]


@dataclass(frozen=True)
class DoubleDqnSettings:
    """Settings of double DQN.

    Attributes:
        network: "lines", "evaluator" or "varnet" look at the scan, "schedule" at the time.
        channels: of the network's (first) layer.
        blocks: of the network of lines.
        lr: learning rate of Adam, which falls to a twentieth.
        gamma: discount of later rewards.
        batch: transitions a step of descent.
        n_envs: scans side by side.
        updates: steps of descent after every action of all scans.
        memory: transitions to keep.
        cache_mb: megabytes for observations of the newest of them; others are rebuilt when drawn.
        burn_in: transitions at random before anything is learned.
        epsilon_last: share of random actions in the end; all are random at first.
        epsilon_decay: actions after which 1/e of the exploration is left, as a share of all.
        target_every: actions between copies of the network for the targets.
        in_units: divide rewards by their root mean square during the burn-in.
    """

    network: str = "lines"
    channels: int = 32
    blocks: int = 2
    lr: float = 1e-3
    gamma: float = 0.5
    batch: int = 64
    n_envs: int = 16
    updates: int = 2
    memory: int = 20_000
    cache_mb: int = 64
    burn_in: int = 1000
    epsilon_last: float = 0.02
    epsilon_decay: float = 0.3
    target_every: int = 500
    in_units: bool = True

    def __post_init__(self) -> None:
        counts = ("batch", "n_envs", "updates", "memory", "target_every", "channels", "blocks")
        if wrong := [name for name in counts if getattr(self, name) < 1]:
            raise ValueError(f"{wrong[0]}: expected at least 1; got {getattr(self, wrong[0])}")
        if min(self.burn_in, self.cache_mb) < 0 or self.lr <= 0 or self.epsilon_decay <= 0:
            raise ValueError(
                "expected burn_in and cache_mb of at least 0, lr and epsilon_decay above 0; got "
                f"{self.burn_in}, {self.cache_mb}, {self.lr}, {self.epsilon_decay}"
            )
        if not (0 <= self.gamma <= 1 and 0 <= self.epsilon_last <= 1):
            raise ValueError(
                f"gamma and epsilon_last are between 0 and 1; got {self.gamma}, {self.epsilon_last}"
            )


@dataclass(frozen=True)
class DatasetDoubleDqnSettings(DoubleDqnSettings):
    """Settings of double DQN whose network sees the time alone."""

    network: str = "schedule"


#: The paper's SS-DDQN, for 5 million actions.
PAPER = DoubleDqnSettings(
    network="evaluator",
    channels=128,
    lr=1e-4,
    gamma=0.5,
    batch=2,
    n_envs=1,
    updates=1,
    memory=20_000,
    burn_in=1000,
    epsilon_last=0.01,
    epsilon_decay=1e6 / 5e6,
    target_every=5000,
    in_units=False,
)
#: The paper's DS-DDQN.
PAPER_DATASET = replace(PAPER, network="schedule", channels=32)


class DoubleDQN(DQN):
    """Stable-Baselines3's DQN with legal actions, the double target, and generators of its own.

    Args:
        network: to begin with.
        env: whose observations hold the legal actions, see :class:`WithLegal`.
        settings: see there.
        max_steps: length of the training in actions; schedules end there.
        seed: of all draws.
    """

    replay_buffer: MaskReplayBuffer

    def __init__(
        self,
        network: ActionNetwork,
        env: ActiveMRIVecEnv,
        *,
        settings: DoubleDqnSettings,
        max_steps: int,
        seed: int,
    ) -> None:
        self.settings, self.max_steps = settings, max_steps
        self.generator = np.random.default_rng(seed)
        self.losses: list[float] = []
        super().__init__(
            LegalDQNPolicy,
            env,
            learning_rate=lambda left: settings.lr * (0.05 + 0.95 * max(0.0, left)),
            buffer_size=settings.memory,
            learning_starts=settings.burn_in,
            batch_size=settings.batch,
            gamma=settings.gamma,
            train_freq=1,
            gradient_steps=settings.updates,
            target_update_interval=max(settings.target_every, env.num_envs),
            policy_kwargs={"network": network},
            replay_buffer_class=MaskReplayBuffer,
            replay_buffer_kwargs={
                "episodes": env.env.episodes,
                "generator": self.generator,
                "cache_bytes": settings.cache_mb * 1_000_000,
                "unit_of": settings.burn_in if settings.in_units else 0,
            },
            device=env.env.options.device,
        )
        self.exploration_schedule = self._epsilon
        self.set_logger(Logger(folder=None, output_formats=[]))

    def predict(
        self,
        observation: Any,
        state: tuple[Array, ...] | None = None,
        episode_start: Array | None = None,
        deterministic: bool = False,
    ) -> tuple[Array, tuple[Array, ...] | None]:
        """Legal actions of a batch of scans: the best, or one at random for each that explores."""
        best, state = self.policy.predict(observation, state, episode_start, deterministic=True)
        if deterministic:
            return best, state
        explores = self.generator.random(len(best)) < self.exploration_rate
        return np.where(explores, draw_legal(observation[LEGAL], self.generator), best), state

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """Steps of descent.

        Raises:
            DivergedError: a loss that is not finite.
        """
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        for _ in range(gradient_steps):
            drawn = self.replay_buffer.sample(batch_size)
            with torch.no_grad():
                target = double_target(
                    drawn.rewards,
                    drawn.dones,
                    gamma=self.gamma,
                    chooses=self.q_net(drawn.next_observations),
                    judges=self.q_net_target(drawn.next_observations),
                )
            value = self.q_net(drawn.observations).gather(1, drawn.actions.long())
            loss = functional.smooth_l1_loss(value, target)
            self.losses.append(loss.item())
            if not math.isfinite(self.losses[-1]):
                raise DivergedError("the loss is not a finite number")
            self.policy.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_value_(self.policy.parameters(), 1.0)
            self.policy.optimizer.step()
        self._n_updates += gradient_steps

    def _sample_action(
        self, learning_starts: int, action_noise: Any = None, n_envs: int = 1
    ) -> tuple[Array, Array]:
        """Actions to take now; where they are taken is noted for the memory."""
        self.replay_buffer.look()
        assert isinstance(self._last_obs, dict)
        if self.num_timesteps < learning_starts:
            actions = draw_legal(self._last_obs[LEGAL], self.generator)
        else:
            actions, _ = self.predict(self._last_obs)
        return actions, actions

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        # The length of the whole training counts, not that of this call of learn().
        super()._update_current_progress_remaining(num_timesteps, self.max_steps)

    def _epsilon(self, left: float) -> float:
        last, decay = self.settings.epsilon_last, self.settings.epsilon_decay
        return last + (1 - last) * math.exp(-(1 - left) / decay)


def double_target(
    rewards: Tensor, dones: Tensor, *, gamma: float, chooses: Tensor, judges: Tensor
) -> Tensor:
    """r + gamma Q'(s', argmax Q(s', a')), without the second term where the episode ended.

    Args:
        rewards: (batch, 1).
        dones: 1 where the episode terminated, (batch, 1).
        gamma: discount.
        chooses: Q(s', .), illegal actions far below, (batch, action).
        judges: Q'(s', .), the same shape.
    """
    best = chooses.argmax(dim=1, keepdim=True)
    return rewards + (1 - dones) * gamma * judges.gather(1, best)


def draw_legal(legal: Array, generator: np.random.Generator) -> Array:
    """One legal action of each scan, all as likely: int64 (batch,), from (batch, n_actions)."""
    keys = np.where(legal > 0, generator.random(legal.shape), -1.0)
    actions: Array = keys.argmax(axis=1)
    return actions


class DoubleDqnLearner:
    """See the module. A step is one action."""

    def __init__(self, workplace: Workplace, settings: DoubleDqnSettings) -> None:
        self.workplace = workplace
        network = first_network(
            workplace,
            settings.network,
            channels=settings.channels,
            blocks=settings.blocks,
            stops=workplace.task.stop_action,
        )
        if network.kind != settings.network:
            raise ValueError(
                f"--warm-start: expected a network of the kind {settings.network!r}; got "
                f"{network.kind!r} (choose with --learner network=...)"
            )
        self.env = make_environment(workplace, network, n_envs=settings.n_envs)
        self.model = DoubleDQN(
            network,
            self.env,
            settings=settings,
            max_steps=workplace.max_steps,
            seed=workplace.seed,
        )

    @property
    def step(self) -> int:
        return self.model.num_timesteps

    @property
    def network(self) -> ActionNetwork:
        """What learns."""
        network = self.model.q_net.q_net
        assert isinstance(network, ActionNetwork)
        return network

    def learn(self, n_steps: int) -> Mapping[str, float]:
        self.model.losses.clear()
        self.model.learn(n_steps, log_interval=1 << 62, reset_num_timesteps=False)
        losses = self.model.losses
        return {
            "loss": sum(losses) / len(losses) if losses else 0.0,
            "epsilon": self.model.exploration_rate,
            "reward_unit": self.model.replay_buffer.reward_unit,
        }

    def policy(self) -> LearnedPolicy:
        return policy_of(self.network, self.workplace)

    def state(self) -> dict[str, Any]:
        model = self.model
        return {
            "step": model.num_timesteps,
            "n_calls": model._n_calls,
            "epsilon": model.exploration_rate,
            "network": model.q_net.state_dict(),
            "target": model.q_net_target.state_dict(),
            "optimizer": model.policy.optimizer.state_dict(),
            "generator": self.model.generator.bit_generator.state,
            "memory": model.replay_buffer.state(),
            "episodes": episode_state(self.env.env) if model.num_timesteps else None,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        model = self.model
        model.num_timesteps, model._n_calls = state["step"], state["n_calls"]
        model.exploration_rate = state["epsilon"]
        model.q_net.load_state_dict(state["network"])
        model.q_net_target.load_state_dict(state["target"])
        model.policy.optimizer.load_state_dict(state["optimizer"])
        model.generator.bit_generator.state = state["generator"]
        model.replay_buffer.restore(state["memory"])
        if state["episodes"] is not None:
            model._last_obs = restore_episodes(self.env.env, state["episodes"])


def make_environment(
    workplace: Workplace, network: ActionNetwork, *, n_envs: int
) -> ActiveMRIVecEnv:
    """The environment of a workplace, as the network sees it, with legal actions."""
    acquisition = workplace.acquisition
    seen = WithLegal(
        make_observation(network.observation),
        n_actions=network.n_actions,
        stops=workplace.task.stop_action,
    )
    task = replace(
        workplace.task,
        data=workplace.scans,
        reconstructor=acquisition.reconstructor,
        observation=seen,
        metrics=acquisition.metrics,
        to_numpy=True,
    )
    options = {name: getattr(task, name) for name in task.__dataclass_fields__}
    env = ActiveMRIVectorEnv(num_envs=n_envs, autoreset_mode=AutoresetMode.SAME_STEP, **options)
    made = ActiveMRIVecEnv(env)
    made.seed(workplace.seed)
    return made
