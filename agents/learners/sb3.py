"""Algorithms of Stable-Baselines3 around networks of this package.

Proximal policy optimisation (`ppo`, Schulman et al. 2017; over legal actions `maskable-ppo`, Huang
and Ontañón 2022) and deep Q-learning (`dqn`, Mnih et al. 2015; of quantiles of the return `qrdqn`,
Dabney et al. 2018). All but `maskable-ppo` know no masks: illegal actions waste a line of the
budget, and the network learns that they are worth nothing; once trained, the policy takes legal
actions only. `ddqn` knows what is legal while it learns, and has a memory a hundred times smaller.

A step is one action. Every call of :meth:`SB3Learner.learn` begins new scans, seeded by how far the
training has come: a training that is resumed after a validation goes on as if it had never stopped.
Of the memory of `dqn` and `qrdqn` the actions alone are kept: it is filled again by taking them.
"""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import stable_baselines3
import torch
from numpy.typing import NDArray
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit

from activemri.agents.learners.learner import Problem, Report, require_positive, silent
from activemri.agents.networks import LearnedPolicy, ScoringNetwork
from activemri.agents.sb3 import (
    ActiveMRIVecEnv,
    NetworkFeatures,
    contrib,
    quantile_policy,
    use_scores,
)


@dataclass(frozen=True, kw_only=True)
class SB3Settings:
    """Settings that all these algorithms share."""

    taught_by: ClassVar[str] = "reinforcement learning"
    steps_are_actions: ClassVar[bool] = True
    max_steps: int = 20_000
    """Actions to learn from; schedules end there."""
    observation: Literal["lines", "image", "uncertainty", "roi", "complex"] = "lines"
    """Observation of the network: features of lines, or an image."""
    lr: float = 1e-3
    """Learning rate of Adam; it falls to a twentieth."""
    gamma: float = 0.5
    """Discount of later rewards."""
    n_envs: int = 16
    """Scans side by side."""
    reward_scale: float = 50.0
    """Rewards are multiplied by it: gains of SSIM are small numbers."""
    spread: float = 20.0
    """Spread of a new network's first scores, by which the centre is ahead of the edge; 0 begins
    with scores that mean nothing."""
    channels: int = 32
    """Numbers that the network keeps for each line."""
    blocks: int = 2
    """Residual blocks of the network."""

    def __post_init__(self) -> None:
        require_positive(self, "max_steps", "lr", "n_envs", "channels", "blocks", "batch")

    def start(self, problem: Problem) -> "SB3Learner":
        return SB3Learner(self, problem)

    def algorithm(self) -> tuple[Any, dict[str, Any]]:
        """The class of Stable-Baselines3, and its options."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class PPO(SB3Settings):
    """PPO of Stable-Baselines3; illegal actions waste lines while it learns."""

    n_steps: int = 64
    """Actions in each scan between updates."""
    batch: int = 256
    """Actions in a step of descent; divides n_envs * n_steps."""
    n_epochs: int = 4
    """Passes of an update through all actions."""
    gae_lambda: float = 0.9
    """Trade-off of bias against variance in advantages; 1 takes whole returns."""
    clip: float = 0.2
    """Bound of how much likelier an action may become in an update."""
    ent_coef: float = 0.003
    """Weight of the entropy, which keeps the policy exploring."""
    vf_coef: float = 0.5
    """Weight of the value's loss."""
    max_grad_norm: float = 0.5
    """Gradients are no larger than that."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "n_steps", "n_epochs", "clip", "max_grad_norm")
        if self.batch < 2 or self.n_envs * self.n_steps % self.batch:
            raise ValueError(
                "--learner.batch: expected at least 2, and a divisor of n_envs * n_steps = "
                f"{self.n_envs * self.n_steps}; got {self.batch}"
            )

    def algorithm(self) -> tuple[Any, dict[str, Any]]:
        return stable_baselines3.PPO, {
            # The value's gradients are larger than the actor's and would spoil a warm start;
            # orthogonal weights would replace the network's.
            "policy_kwargs": {"share_features_extractor": False, "ortho_init": False},
            "n_steps": self.n_steps,
            "batch_size": self.batch,
            "n_epochs": self.n_epochs,
            "gae_lambda": self.gae_lambda,
            "clip_range": self.clip,
            "ent_coef": self.ent_coef,
            "vf_coef": self.vf_coef,
            "max_grad_norm": self.max_grad_norm,
        }


@dataclass(frozen=True, kw_only=True)
class MaskablePPO(PPO):
    """PPO over legal actions, of sb3-contrib."""

    def __post_init__(self) -> None:
        super().__post_init__()
        contrib()

    def algorithm(self) -> tuple[Any, dict[str, Any]]:
        return contrib().MaskablePPO, super().algorithm()[1]


@dataclass(frozen=True, kw_only=True)
class DQN(SB3Settings):
    """DQN of Stable-Baselines3; illegal actions waste lines while it learns."""

    spread: float = 1.0
    """Spread of a new network's first scores, by which the centre is ahead of the edge."""
    memory: int = 10_000
    """Actions that are remembered; 28 kB each for 128 lines."""
    burn_in: int = 1000
    """Random actions before anything is learned."""
    batch: int = 64
    """Actions in a step of descent."""
    updates: int = 4
    """Steps of descent after every action of all scans."""
    target_every: int = 500
    """Actions after which the network of the targets is renewed."""
    exploration: float = 0.4
    """Share of the training in which random actions become rare."""
    epsilon_last: float = 0.05
    """Share of random actions from then on."""
    max_grad_norm: float = 10.0
    """Gradients are no larger than that."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "memory", "updates", "target_every", "exploration")

    def algorithm(self) -> tuple[Any, dict[str, Any]]:
        return stable_baselines3.DQN, {
            "buffer_size": max(self.memory, self.n_envs),
            "learning_starts": self.burn_in,
            "batch_size": self.batch,
            "train_freq": 1,
            "gradient_steps": self.updates,
            "target_update_interval": max(self.target_every, self.n_envs),
            "max_grad_norm": self.max_grad_norm,
        }


@dataclass(frozen=True, kw_only=True)
class QRDQN(DQN):
    """DQN of quantiles of the return, of sb3-contrib; illegal actions waste lines."""

    n_quantiles: int = 16
    """Quantiles of the return of each action."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "n_quantiles")
        contrib()

    def algorithm(self) -> tuple[Any, dict[str, Any]]:
        quantiles = {"n_quantiles": self.n_quantiles}
        own = {"policy": quantile_policy(), "policy_kwargs": quantiles}
        return contrib().QRDQN, super().algorithm()[1] | own


class SB3Learner:
    """An algorithm of Stable-Baselines3 at work; see the module.

    Attributes:
        draws: states of Python's, NumPy's and torch's generator, of which the algorithm draws
            while it is at work; outside of that the global ones are as they would be without it.
    """

    def __init__(self, settings: SB3Settings, problem: Problem) -> None:
        self.settings, self.problem, seed = settings, problem, problem.seed
        self.model: Any = None
        # Actions of the calls of learn() that a memory holds, by the step at which each began.
        self._taken: dict[int, list[NDArray[np.int64]]] = {}
        self.draws: tuple[Any, Any, Any] = (
            random.Random(seed).getstate(),
            np.random.RandomState(seed).get_state(),
            torch.Generator().manual_seed(seed).get_state(),
        )
        network = problem.network(
            "lines" if settings.observation == "lines" else "image",
            observation=settings.observation,
            channels=settings.channels,
            blocks=settings.blocks,
        )
        assert isinstance(network, ScoringNetwork)
        if problem.warm_start is None and settings.spread != 0:
            network.point_outwards(settings.spread)
        env = problem.environment(network.observation, num_envs=settings.n_envs)
        self.env = ActiveMRIVecEnv(env, reward_scale=settings.reward_scale)
        algorithm, options = settings.algorithm()
        given = {
            "policy": "MultiInputPolicy",
            "env": self.env,
            "gamma": settings.gamma,
            # It falls over the whole training, not over one call of learn().
            "learning_rate": lambda _: settings.lr * max(0.05, 1 - self.done),
            "seed": seed,
            "device": problem.protocol.device,
            **options,
            "policy_kwargs": {
                "net_arch": [],
                "features_extractor_class": NetworkFeatures,
                "features_extractor_kwargs": {"network": network},
                **options.get("policy_kwargs", {}),
            },
        }
        with self._own_draws():
            self.model = algorithm(**given)
            if not isinstance(settings, QRDQN):
                use_scores(self.model.policy, lr=settings.lr)
        self.model.set_logger(Logger(None, []))
        if isinstance(settings, DQN):  # random actions become rare over the whole training, too
            self.model.exploration_schedule = lambda _: (
                1 - min(1.0, self.done / settings.exploration) * (1 - settings.epsilon_last)
            )

    @property
    def step(self) -> int:
        return 0 if self.model is None else int(self.model.num_timesteps)

    @property
    def done(self) -> float:
        """Share of the training that is behind it."""
        return min(1.0, self.step / self.settings.max_steps)

    def learn(self, n_steps: int, report: Report = silent, /) -> Mapping[str, float]:
        self._begin_anew()
        model, memory = self.model, getattr(self.model, "replay_buffer", None)
        taken = self._taken[self.step] = []

        def moved(found: Mapping[str, Any], _: Mapping[str, Any]) -> bool:
            if memory is not None:
                taken.append(found["buffer_actions"].copy())
            report()
            return True

        with self._own_draws():
            model.learn(n_steps, moved, log_interval=None, reset_num_timesteps=False)
        if not all(bool(torch.isfinite(weight).all()) for weight in model.policy.parameters()):
            raise FloatingPointError("a weight is no longer a finite number")
        # A call that later ones have pushed out of the memory is forgotten.
        n_kept = 0 if memory is None else memory.buffer_size
        while self._taken and sum(map(len, [*self._taken.values()][1:])) >= n_kept:
            del self._taken[next(iter(self._taken))]
        recorded = model.logger.name_to_value
        numbers = {
            name.removeprefix("train/"): float(value)
            for name, value in recorded.items()
            if name.startswith("train/")
        }
        recorded.clear()
        if episodes := model.ep_info_buffer:
            numbers["episode_return"] = float(np.mean([one["r"] for one in episodes]))
        return numbers

    def policy(self) -> LearnedPolicy:
        # The first network is the one that acts; others belong to a critic or to targets.
        modules = self.model.policy.modules()
        return self.problem.policy(next(m for m in modules if isinstance(m, ScoringNetwork)))

    def state(self) -> dict[str, Any]:
        model, (python, (name, keys, *rest), own) = self.model, self.draws
        numpy = (str(name), np.asarray(keys).tolist(), *rest)  # plain Python
        return {
            "step": self.step,
            "n_updates": model._n_updates,
            "n_calls": getattr(model, "_n_calls", 0),
            "taken": {step: np.stack(actions).tolist() for step, actions in self._taken.items()},
            "policy": model.policy.state_dict(),
            "optimizer": model.policy.optimizer.state_dict(),
            "draws": {"python": python, "numpy": numpy, "torch": own},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        model, draws = self.model, state["draws"]
        self._taken = {step: list(np.array(actions)) for step, actions in state["taken"].items()}
        if self._taken:
            with self._own_draws():
                self._fill_memory()
            model._n_calls = state["n_calls"]
        model.policy.load_state_dict(state["policy"])
        model.policy.optimizer.load_state_dict(state["optimizer"])
        model.num_timesteps, model._n_updates = state["step"], state["n_updates"]
        self.draws = (draws["python"], draws["numpy"], draws["torch"])

    def _fill_memory(self) -> None:
        """Take the actions that were taken, in the same scans: all lies where it lay."""
        model, memory = self.model, self.model.replay_buffer
        n_before = next(iter(self._taken)) // self.env.num_envs
        memory.pos, memory.full = n_before % memory.buffer_size, n_before >= memory.buffer_size
        for step, actions in self._taken.items():
            left = iter(actions)
            model._sample_action = lambda *_, left=left: (chosen := next(left), chosen)
            model.num_timesteps = step
            self._begin_anew()
            _, callback = model._setup_learn(len(actions), None, reset_num_timesteps=False)
            often = TrainFreq(len(actions), TrainFrequencyUnit.STEP)
            model.collect_rollouts(self.env, callback, often, memory)
        del model._sample_action

    def _begin_anew(self) -> None:
        """Have the next call of learn() begin new scans."""
        seed = np.random.SeedSequence([self.problem.seed, self.step]).generate_state(1)
        self.env.seed(int(seed[0]))
        self.model.action_space.seed(int(seed[0]))
        self.model._last_obs, self.model.ep_info_buffer = None, None

    @contextmanager
    def _own_draws(self) -> Iterator[None]:
        """Put the generators of :attr:`draws` in place of the global ones."""
        self.draws = _exchanged(self.draws)
        try:
            yield
        finally:
            self.draws = _exchanged(self.draws)


def _exchanged(states: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
    """Put states in place of those of the global generators, which are returned."""
    outside = (random.getstate(), np.random.get_state(), torch.get_rng_state())  # noqa: NPY002
    random.setstate(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    torch.set_rng_state(states[2])
    return outside
