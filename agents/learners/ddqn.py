"""Double DQN over legal actions, of what the scan shows (`ddqn`) or of the time alone (`ds-ddqn`).

Pineda, Basu, Romero, Calandra and Drozdzal, Active MR k-space sampling with reinforcement
learning, MICCAI 2020. The value Q(s, a) of an action is learned from transitions (s, a, r, s'):

    Q(s, a) -> r + gamma Q'(s', argmax over legal a' of Q(s', a')),

with a smooth L1 loss; Q' is a copy of the network from some time ago (van Hasselt et al. 2016: the
network that chooses is not the one that judges). Episodes explore: epsilon-greedy over legal
actions. Illegal actions have the value -1e10, so that neither agent nor targets take them.

Subject-specific (SS-DDQN) networks see the scan: features of lines by default, or the image with
the evaluator's architecture as in the paper. The data-set-specific one (DS-DDQN) sees only how
many lines were acquired, so it learns one order for all scans.

Ours differs: many scans side by side, larger batches, and rewards in units of their size; the
paper's own numbers are :data:`PAPER` and :data:`PAPER_DATASET`. A step is one action.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from activemri.agents.learners.learner import Problem, Report, require_positive, silent
from activemri.agents.networks import LearnedPolicy, copied
from activemri.envs.replay import Batch, Points, Replay, points_of
from activemri.envs.vector_env import ActiveMRIVectorEnv

Array = NDArray[Any]

#: The value of actions that may not be taken.
ILLEGAL = -1e10


@dataclass(frozen=True, kw_only=True)
class DoubleDQN:
    """Double DQN of what the scan shows: SS-DDQN."""

    max_steps: int = 20_000
    """Actions to learn from; schedules end there."""
    network: Literal["lines", "evaluator", "varnet", "schedule"] = "lines"
    """Network: lines, evaluator and varnet look at the scan, schedule at the time."""
    channels: int = 32
    """Channels of the network's (first) layer."""
    blocks: int = 2
    """Residual blocks of the network of lines."""
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


#: The paper's SS-DDQN, with its numbers where they differ from ours.
PAPER = DoubleDQN(
    max_steps=5_000_000,
    network="evaluator",
    channels=128,
    lr=1e-4,
    batch=2,
    n_envs=1,
    updates=1,
    epsilon_last=0.01,
    epsilon_decay=1e6 / 5e6,
    target_every=5000,
    in_units=False,
)
#: The paper's DS-DDQN.
PAPER_DATASET = replace(PAPER, network="schedule", channels=32)


class Memory:
    """Transitions by scan and masks, and the newest observations in half precision.

    :class:`activemri.envs.replay.Replay` keeps about sixty bytes a transition at 128 lines, so a
    million take as many megabytes, where features of lines would take thirty gigabytes. A state
    that is drawn is reconstructed again, which takes a millisecond (zero-filled, 128 x 128) to
    thirteen (network). So observations of the newest transitions stay in a ring of fixed size.

    Transitions are numbered as they come, one of every environment at a time: what followed
    transition i is what was seen before transition i + num_envs, unless the episode ended there.

    Args:
        env: whose transitions are remembered.
        capacity: transitions to keep.
        cache_mb: bound of the ring in megabytes; 0 rebuilds everything.
    """

    def __init__(self, env: ActiveMRIVectorEnv, *, capacity: int, cache_mb: float) -> None:
        self.replay, self.n_envs = Replay(capacity, env.episodes), env.num_envs
        spaces: Mapping[str, Any] = env.single_observation_space.spaces  # type: ignore[attr-defined]
        parts: dict[str, Any] = {"legal": ((env.episodes.n_actions,), np.dtype(bool))}
        for name, space in spaces.items():
            dtype = np.dtype(np.float16) if space.dtype.kind == "f" else space.dtype
            parts[name] = (space.shape, dtype)
        each = sum(math.prod(shape) * dtype.itemsize for shape, dtype in parts.values())
        size = min(int(cache_mb * 1e6) // each, capacity)
        self.size = size if size >= 2 * self.n_envs else 0
        self.ring = {n: np.zeros((self.size, *shape), dtype) for n, (shape, dtype) in parts.items()}

    def add(
        self,
        seen: Mapping[str, Array],
        legal: Array,
        points: Points,
        actions: Array,
        *,
        rewards: Array,
        terminated: Array,
    ) -> None:
        """Remember one step of every environment: what was seen before it, and what came of it."""
        if self.size:
            slots = (self.replay.n_added + np.arange(self.n_envs)) % self.size
            for name, part in {**seen, "legal": legal}.items():
                self.ring[name][slots] = part
        self.replay.add(points, actions, rewards=rewards, terminated=terminated)

    def take(self, places: NDArray[np.int64]) -> Batch:
        """Transitions at some places of the memory, (n,): from the ring, else rebuilt."""
        numbers, n_added = self.replay.numbers(places), self.replay.n_added
        known = (numbers >= n_added - self.size) & (numbers + self.n_envs < n_added)
        if not known.any():
            return self.replay.rebuild(places)
        before, after = self._seen(numbers), self._seen(numbers + self.n_envs)
        if not known.all():
            rows = np.flatnonzero(~known)
            rebuilt = self.replay.rebuild(places[rows])
            for name, part in before.items():
                if name != "legal":
                    part[rows] = rebuilt.observation[name].to(part)
                    after[name][rows] = rebuilt.next_observation[name].to(part)
            before["legal"][rows], after["legal"][rows] = rebuilt.legal, rebuilt.next_legal
        return Batch(
            observation=before,
            action=self.replay.stored("action", places),
            reward=self.replay.stored("reward", places),
            next_observation=after,
            terminated=self.replay.stored("terminated", places),
            legal=before["legal"],
            next_legal=after["legal"],
        )

    def state(self) -> dict[str, Any]:
        ring = {name: torch.from_numpy(part.copy()) for name, part in self.ring.items()}
        return {"replay": self.replay.state(), "ring": ring}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.replay.restore(state["replay"])
        for name, part in self.ring.items():
            part[:] = state["ring"][name].numpy()

    def _seen(self, numbers: NDArray[np.int64]) -> dict[str, Tensor]:
        device, seen = self.replay.scan.device, {}
        for name, ring in self.ring.items():
            part = torch.from_numpy(ring[numbers % self.size])
            seen[name] = (part.float() if part.dtype == torch.float16 else part).to(device)
        return seen


def legal_values(network: torch.nn.Module, observation: Any, legal: Tensor) -> Tensor:
    """Values of all actions, illegal ones far below all others: (batch, n_actions)."""
    values: Tensor = network(observation)
    return values.masked_fill(~legal, ILLEGAL)


def double_target(
    reward: Tensor, terminated: Tensor, *, gamma: float, chooses: Tensor, judges: Tensor
) -> Tensor:
    """r + gamma Q'(s', argmax Q(s', a')), or r alone where the episode ended: (batch,).

    Rewards are (batch,), as is bool `terminated`; `chooses` is Q(s', .) and `judges` Q'(s', .),
    with illegal actions far below, (batch, action).
    """
    best = chooses.argmax(dim=1, keepdim=True)
    return reward + (~terminated).float() * gamma * judges.gather(1, best).squeeze(1)


def draw_legal(legal: Array, generator: np.random.Generator) -> Array:
    """One legal action of each scan, all as likely: int64 (batch,), from (batch, n_actions)."""
    keys = np.where(legal > 0, generator.random(legal.shape), -1.0)
    actions: Array = keys.argmax(axis=1)
    return actions


class DoubleDQNLearner:
    """Acts in many scans at a time, and learns from what it remembers."""

    def __init__(self, settings: DoubleDQN, problem: Problem) -> None:
        self.settings, self.problem = settings, problem
        self.step = 0
        network = problem.network(
            settings.network, channels=settings.channels, blocks=settings.blocks
        )
        self.network, self.target = network, copied(network).eval().requires_grad_(False)
        self.optimizer = torch.optim.Adam(network.parameters(), lr=settings.lr)
        self.env = problem.environment(network.observation, num_envs=settings.n_envs)
        self.memory = Memory(self.env, capacity=settings.memory, cache_mb=settings.cache_mb)
        self.generator = np.random.default_rng(problem.seed)
        self.squares, self.n_squares = 0.0, 0  # of the first rewards
        self.seen: dict[str, Array] | None = None  # before the next actions

    @property
    def epsilon(self) -> float:
        """Share of random actions."""
        last, decay = self.settings.epsilon_last, self.settings.epsilon_decay
        return last + (1 - last) * math.exp(-(1 - self._left) / decay)

    @property
    def reward_unit(self) -> float:
        """Rewards are divided by it."""
        return math.sqrt(self.squares / self.n_squares) if self.squares else 1.0

    def learn(self, n_steps: int, report: Report = silent, /) -> Mapping[str, float]:
        settings, env = self.settings, self.env
        losses, end = list[float](), self.step + n_steps
        if self.seen is None:
            self.seen, _ = env.reset(seed=self.problem.seed)
        while self.step < end:
            legal, points = env.action_masks(), points_of(env.episodes)
            actions = self._actions(self.seen, legal)
            after, rewards, terminated, _, _ = env.step(actions)
            rewards = rewards.astype(np.float32)
            self.memory.add(
                self.seen, legal, points, actions, rewards=rewards, terminated=terminated
            )
            if settings.in_units and self.n_squares < settings.burn_in:
                self.squares += float(np.square(rewards, dtype=np.float64).sum())
                self.n_squares += len(rewards)
            self.seen = after
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
        return {
            "step": self.step,
            "network": self.network.state_dict(),
            "target": self.target.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.bit_generator.state,
            "memory": self.memory.state(),
            "squares": (self.squares, self.n_squares),
            "episodes": None if self.seen is None else _episodes(self.env),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self.step = state["step"]
        self.network.load_state_dict(state["network"])
        self.target.load_state_dict(state["target"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.bit_generator.state = state["generator"]
        self.memory.restore(state["memory"])
        self.squares, self.n_squares = state["squares"]
        self.seen = None
        if state["episodes"] is not None:
            self.seen = _play_again(self.env, state["episodes"])

    @property
    def _left(self) -> float:
        """Share of the training that is still to come."""
        return 1 - self.step / self.settings.max_steps

    def _actions(self, seen: Mapping[str, Array], legal: Array) -> Array:
        """Legal actions: the best, or one at random for each scan that explores."""
        if self.step < self.settings.burn_in:
            return draw_legal(legal, self.generator)
        device = self.problem.scan.device
        self.network.eval()
        with torch.no_grad():
            given = {name: torch.as_tensor(part, device=device) for name, part in seen.items()}
            values = legal_values(self.network, given, torch.as_tensor(legal, device=device))
        best = values.argmax(dim=1).cpu().numpy()
        explores = self.generator.random(len(best)) < self.epsilon
        return np.where(explores, draw_legal(legal, self.generator), best)

    def _descend(self) -> float:
        """One step of descent: its loss."""
        n_known = len(self.memory.replay)
        drawn = self.memory.take(self.generator.integers(n_known, size=self.settings.batch))
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
        if not math.isfinite(value := loss.item()):
            raise FloatingPointError("the loss is not a finite number")
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.lr * (0.05 + 0.95 * max(0.0, self._left))
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_value_(self.network.parameters(), 1.0)
        self.optimizer.step()
        return value


def _episodes(env: ActiveMRIVectorEnv) -> dict[str, Any]:
    """Episodes under way, for :func:`_play_again`."""
    points = points_of(env.episodes)
    return {
        "index": points["index"].tolist(),
        "start_mask": torch.from_numpy(points["start_mask"]),
        "seed": points["seed"].tolist(),
        "actions": [list(actions) for actions in env.episodes.actions],
        "random": [generator.bit_generator.state for generator in env.np_random],
    }


def _play_again(env: ActiveMRIVectorEnv, state: Mapping[str, Any]) -> dict[str, Array]:
    """Bring episodes to where they were, action by action: what is seen there."""
    env.reset()
    for row, actions in enumerate(state["actions"]):
        env.episodes.replay(
            row,
            state["index"][row],
            start_mask=state["start_mask"][row],
            seed=state["seed"][row],
            actions=actions,
        )
        env.np_random[row].bit_generator.state = state["random"][row]
    seen: dict[str, Array] = env.episodes.observe()
    return seen
