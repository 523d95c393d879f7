"""Double DQN over legal actions, of what the scan shows (`ddqn`) or of the time alone (`ds-ddqn`).

Pineda, Basu, Romero, Calandra and Drozdzal, Active MR k-space sampling with reinforcement
learning, MICCAI 2020. The value Q(s, a) of an action is learned from transitions (s, a, r, s'):

    Q(s, a) -> r + gamma Q'(s', argmax over legal a' of Q(s', a')),

with a smooth L1 loss; Q' is a copy of the network from some time ago (van Hasselt et al. 2016: the
network that chooses is not the one that judges). Episodes explore: epsilon-greedy over legal
actions. Illegal actions have the value -1e10, so that neither agent nor targets take them.

Subject-specific (SS-DDQN) networks see the scan: features of lines, or the image with the
evaluator's architecture as in the paper. The data-set-specific one (DS-DDQN) sees only how many
lines were acquired: one order for all scans. Ours differs: many scans side by side, larger batches,
and rewards in units of their size. A step is one action. For speed: a small network, a cache that
holds the whole memory, few large steps of descent (docs/results.md has a training of that kind).
The paper's own numbers (`ds-ddqn` with 32 channels)::

    --algo ddqn --learner.network evaluator --learner.channels 128 --learner.max-steps 5000000
    --learner.lr 1e-4 --learner.batch 2 --learner.n-envs 1 --learner.updates 1 --learner.no-in-units
    --learner.epsilon-last 0.01 --learner.epsilon-decay 0.2 --learner.target-every 5000
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from activemri.agents.learners.learner import Descent, Problem, Report, require_positive, silent
from activemri.agents.networks import ActionNetwork, LearnedPolicy, Sees, copied
from activemri.envs.replay import Batch, Replay, points_of
from activemri.envs.vector_env import ActiveMRIVectorEnv

Array = NDArray[Any]

#: The value of actions that may not be taken.
ILLEGAL = -1e10


@dataclass(frozen=True, kw_only=True)
class DoubleDQN:
    """Double DQN of what the scan shows: SS-DDQN."""

    taught_by: ClassVar[str] = "reinforcement learning"
    steps_are_actions: ClassVar[bool] = True
    max_steps: int = 20_000
    """Actions to learn from; schedules end there."""
    network: Literal["lines", "evaluator", "varnet", "schedule"] = "lines"
    """Network: lines, evaluator and varnet look at the scan, schedule at the time."""
    channels: int = 32
    """Channels of the network's (first) layer."""
    blocks: int = 2
    """Residual blocks of the network of lines."""
    sees: Sees = "all"
    """Features that the network of lines sees: all, or those of the mask alone."""
    lr: float = 1e-3
    """Learning rate of Adam, which falls to a twentieth."""
    gamma: float = 0.5
    """Discount of later rewards."""
    batch: int = 64
    """Transitions in a step of descent."""
    n_envs: int = 16
    """Scans side by side."""
    updates: int = 2
    """Steps of descent after every action of all scans."""
    memory: int = 20_000
    """Transitions to keep."""
    cache_mb: int = 64
    """Megabytes for observations of the newest transitions; others are rebuilt when drawn."""
    burn_in: int = 1000
    """Transitions at random before anything is learned."""
    epsilon_last: float = 0.02
    """Share of random actions in the end; all are random at first."""
    epsilon_decay: float = 0.3
    """Actions after which 1/e of the exploration is left, as a share of all."""
    target_every: int = 500
    """Actions between copies of the network for the targets."""
    in_units: bool = True
    """Divide rewards by their root mean square during the burn-in."""

    def __post_init__(self) -> None:
        require_positive(self, "max_steps", "channels", "blocks", "lr", "batch", "n_envs")
        require_positive(self, "updates", "memory", "epsilon_decay", "target_every")
        if min(self.burn_in, self.cache_mb) < 0:
            raise ValueError(
                "--learner.burn-in, --learner.cache-mb: expected at least 0; got "
                f"{self.burn_in}, {self.cache_mb}"
            )
        if not (0 <= self.gamma <= 1 and 0 <= self.epsilon_last <= 1):
            raise ValueError(
                "--learner.gamma, --learner.epsilon-last: expected numbers from 0 to 1; got "
                f"{self.gamma}, {self.epsilon_last}"
            )

    def start(self, problem: Problem) -> "DoubleDQNLearner":
        return DoubleDQNLearner(self, problem)


@dataclass(frozen=True, kw_only=True)
class DatasetDoubleDQN(DoubleDQN):
    """Double DQN of the number of acquired lines alone: DS-DDQN."""

    network: Literal["lines", "evaluator", "varnet", "schedule"] = "schedule"
    """Network: schedule looks at the time alone."""


class Memory(Replay):
    """Transitions by scan and masks, and the newest observations in half precision.

    A million transitions at 128 lines take sixty megabytes, where features of lines would take
    thirty gigabytes. To reconstruct a state that is drawn takes one millisecond (zero-filled, 128 x
    128) to thirteen (network), so observations of the newest stay in a ring of fixed size. What
    followed transition i is what was seen before transition i + num_envs, unless the episode ended.

    Args:
        env: whose transitions are remembered.
        capacity: transitions to keep.
        cache_mb: bound of the ring in megabytes; 0 rebuilds everything.
    """

    def __init__(self, env: ActiveMRIVectorEnv, *, capacity: int, cache_mb: float) -> None:
        super().__init__(capacity, env.episodes)
        self.n_envs = env.num_envs
        spaces: Mapping[str, Any] = env.single_observation_space.spaces  # type: ignore[attr-defined]
        parts: dict[str, Any] = {"legal": ((env.episodes.n_actions,), np.dtype(bool))}
        for name, space in spaces.items():
            dtype = np.dtype(np.float16) if space.dtype.kind == "f" else space.dtype
            parts[name] = (space.shape, dtype)
        each = sum(math.prod(shape) * dtype.itemsize for shape, dtype in parts.values())
        size = min(int(cache_mb * 1e6) // each, capacity + self.n_envs)
        self.size = size if size >= 2 * self.n_envs else 0
        self.ring = {n: np.zeros((self.size, *shape), dtype) for n, (shape, dtype) in parts.items()}

    def keep(self, seen: Mapping[str, Array]) -> None:
        """Keep what is seen ("legal" actions included) before the transitions that come next.

        It is also what followed the last ones: keep it before transitions are taken.
        """
        if self.size:
            slots = (self.n_added + np.arange(self.n_envs)) % self.size
            for name, part in seen.items():
                self.ring[name][slots] = part

    def take(self, places: NDArray[np.int64]) -> Batch:
        """Transitions at some places of the memory, (n,): from the ring, else rebuilt."""
        numbers = self.numbers(places)
        old = numbers < self.n_added + self.n_envs - self.size
        if old.all():
            return self.rebuild(places)

        def seen(numbers: NDArray[np.int64]) -> dict[str, Tensor]:
            parts = {}
            for name, ring in self.ring.items():
                part = torch.from_numpy(ring[numbers % self.size]).to(self.scan.device)
                parts[name] = part.float() if part.dtype == torch.float16 else part
            return parts

        before, after = seen(numbers), seen(numbers + self.n_envs)
        if old.any():
            again = self.rebuild(places[old])
            for parts, observation, legal in (
                (before, again.observation, again.legal),
                (after, again.next_observation, again.next_legal),
            ):
                for name, part in {**observation, "legal": legal}.items():
                    parts[name][old] = part.to(parts[name])
        return Batch(
            observation=before,
            next_observation=after,
            legal=before["legal"],
            next_legal=after["legal"],
            **{name: self.stored(name, places) for name in ("action", "reward", "terminated")},
        )

    def state(self) -> dict[str, Any]:
        ring = {name: torch.from_numpy(part.copy()) for name, part in self.ring.items()}
        return {**super().state(), "ring": ring}

    def restore(self, state: Mapping[str, Any]) -> None:
        super().restore(state)
        for name, part in self.ring.items():
            part[:] = state["ring"][name].numpy()


def legal_values(network: torch.nn.Module, observation: Any, legal: Tensor) -> Tensor:
    """Values of all actions, illegal ones far below all others: (batch, n_actions)."""
    values: Tensor = network(observation)
    return values.masked_fill(~legal, ILLEGAL)


def double_target(
    reward: Tensor, terminated: Tensor, *, gamma: float, chooses: Tensor, judges: Tensor
) -> Tensor:
    """r + gamma Q'(s', argmax Q(s', a')), or r alone where the episode ended: (batch,).

    `chooses` is Q(s', .) and `judges` Q'(s', .), (batch, action), with illegal actions far below.
    """
    best = chooses.argmax(dim=1, keepdim=True)
    return reward + (~terminated).float() * gamma * judges.gather(1, best).squeeze(1)


def draw_legal(legal: Array, generator: np.random.Generator) -> Array:
    """One legal action of each scan, all as likely: int64 (batch,), from (batch, n_actions)."""
    return np.asarray(np.where(legal > 0, generator.random(legal.shape), -1.0).argmax(axis=1))


class DoubleDQNLearner(Descent):
    """Acts in many scans at a time, and learns from what it remembers."""

    settings: DoubleDQN
    network: ActionNetwork
    clip = math.inf  # numbers of the gradient are clipped, one by one

    def __init__(self, settings: DoubleDQN, problem: Problem) -> None:
        network = problem.network(
            settings.network,
            channels=settings.channels,
            blocks=settings.blocks,
            sees=settings.sees,
        )
        super().__init__(settings, problem, network)
        self.target = copied(self.network).eval().requires_grad_(False)
        self.env = problem.environment(self.network.observation, num_envs=settings.n_envs)
        self.memory = Memory(self.env, capacity=settings.memory, cache_mb=settings.cache_mb)
        self.generator = np.random.default_rng(problem.seed)
        self.squares, self.n_squares = 0.0, 0  # of the first rewards
        self.seen: dict[str, Array] | None = None  # before the next actions

    @property
    def epsilon(self) -> float:
        """Share of random actions."""
        last, done = self.settings.epsilon_last, self.step / self.settings.max_steps
        return last + (1 - last) * math.exp(-done / self.settings.epsilon_decay)

    @property
    def reward_unit(self) -> float:
        """Rewards are divided by it."""
        return math.sqrt(self.squares / self.n_squares) if self.squares else 1.0

    def learn(self, n_steps: int, report: Report = silent, /) -> Mapping[str, float]:
        settings, env = self.settings, self.env
        losses, end = list[float](), self.step + n_steps
        if self.seen is None:
            env.reset(seed=self.problem.seed)
            self.seen = self._see(env.episodes.observe())
            self.memory.keep(self.seen)
        while self.step < end:
            points, actions = points_of(env.episodes), self._actions(self.seen)
            observation, rewards, terminated, _, _ = env.step(actions)
            rewards = rewards.astype(np.float32)
            self.memory.add(points, actions, rewards=rewards, terminated=terminated)
            self.seen = self._see(observation)
            self.memory.keep(self.seen)
            if settings.in_units and self.n_squares < settings.burn_in:
                self.squares += float(np.square(rewards, dtype=np.float64).sum())
                self.n_squares += len(rewards)
            self.step += env.num_envs
            if self.step // env.num_envs % max(settings.target_every // env.num_envs, 1) == 0:
                self.target.load_state_dict(self.network.state_dict())
            if self.step > settings.burn_in:
                losses += [self._descend() for _ in range(settings.updates)]
            report(epsilon=self.epsilon, **({"loss": losses[-1]} if losses else {}))
        return {
            "loss": sum(losses) / len(losses) if losses else 0.0,
            "epsilon": self.epsilon,
            "reward_unit": self.reward_unit,
        }

    def policy(self) -> LearnedPolicy:
        return self.problem.policy(self.network)

    def state(self) -> dict[str, Any]:
        under_way = None
        if self.seen is not None:
            points = points_of(self.env.episodes)
            under_way = {
                "index": points["index"].tolist(),
                "start_mask": torch.from_numpy(points["start_mask"]),
                "seed": points["seed"].tolist(),
                "actions": [list(actions) for actions in self.env.episodes.actions],
                "random": [generator.bit_generator.state for generator in self.env.np_random],
            }
        return {
            **super().state(),
            "target": self.target.state_dict(),
            "generator": self.generator.bit_generator.state,
            "memory": self.memory.state(),
            "squares": (self.squares, self.n_squares),
            "episodes": under_way,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        super().restore(state)
        self.target.load_state_dict(state["target"])
        self.generator.bit_generator.state = state["generator"]
        self.memory.restore(state["memory"])
        self.squares, self.n_squares = state["squares"]
        self.seen = None
        if (under_way := state["episodes"]) is not None:  # play it again, action by action
            self.env.reset()
            for row, actions in enumerate(under_way["actions"]):
                self.env.episodes.replay(
                    row,
                    under_way["index"][row],
                    start_mask=under_way["start_mask"][row],
                    seed=under_way["seed"][row],
                    actions=actions,
                )
                self.env.np_random[row].bit_generator.state = under_way["random"][row]
            self.seen = self._see(self.env.episodes.observe())

    def _see(self, observation: Mapping[str, Array]) -> dict[str, Array]:
        """An observation, with the legal actions."""
        return {**observation, "legal": self.env.action_masks()}

    def _actions(self, seen: Mapping[str, Array]) -> Array:
        """Legal actions: the best, or one at random for each scan that explores."""
        if self.step < self.settings.burn_in:
            return draw_legal(seen["legal"], self.generator)
        device = self.problem.scan.device
        self.network.eval()
        with torch.no_grad():
            given = {name: torch.as_tensor(part, device=device) for name, part in seen.items()}
            best = legal_values(self.network, given, given["legal"]).argmax(dim=1).cpu().numpy()
        explores = self.generator.random(len(best)) < self.epsilon
        return np.where(explores, draw_legal(seen["legal"], self.generator), best)

    def _descend(self) -> float:
        """One step of descent: its loss."""
        memory = self.memory
        drawn = memory.take(self.generator.integers(len(memory), size=self.settings.batch))
        self.network.train()
        with torch.no_grad():
            after = (drawn.next_observation, drawn.next_legal)
            target = double_target(
                drawn.reward / self.reward_unit,
                drawn.terminated,
                gamma=self.settings.gamma,
                chooses=legal_values(self.network, *after),
                judges=legal_values(self.target, *after),
            )
        values = legal_values(self.network, drawn.observation, drawn.legal)
        loss = functional.smooth_l1_loss(values.gather(1, drawn.action[:, None]).squeeze(1), target)
        loss.backward()
        torch.nn.utils.clip_grad_value_(self.weights, 1.0)
        self.move(value := loss.item())
        return value
