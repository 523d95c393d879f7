"""The problem that a learner is given, the protocols of learners and their settings, and descent.

A learner is one file: a frozen dataclass of settings, and the class of what learns. One of the
user's own needs nothing else: ``--algo package.module:Settings``.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor, nn

from activemri import options
from activemri.agents.networks import (
    ActionNetwork,
    LearnedPolicy,
    Sees,
    StartNetwork,
    copied,
    make_network,
)
from activemri.agents.order import Order
from activemri.agents.policy import Policy, require_played
from activemri.agents.rollout import rows_of_a_kind
from activemri.data.slices import SliceDataset
from activemri.data.views import STORED
from activemri.envs.observation import Frame
from activemri.envs.protocol import EnvOptions
from activemri.envs.scan import Scan, State
from activemri.envs.vector_env import ActiveMRIVectorEnv

#: Called as often as anything has moved, with numbers to show, e.g. ``loss=0.1``.
Report = Callable[..., None]


def silent(**numbers: float) -> None:
    """Report nothing."""


class Learner(Protocol):
    """An algorithm at work; `step` counts steps in its own unit."""

    @property
    def step(self) -> int: ...

    def learn(self, n_steps: int, report: Report = silent, /) -> Mapping[str, float]:
        """Go on for so many steps (or a few more); numbers for the log, e.g. the mean loss.

        A loss or a weight that is not finite is a FloatingPointError.
        """

    def policy(self) -> LearnedPolicy | Order:
        """The policy as it stands, without exploration; learning on does not change it."""

    def state(self) -> dict[str, Any]:
        """Tensors and plain Python: all that `restore` needs to go on bit for bit."""

    def restore(self, state: Mapping[str, Any]) -> None: ...


class LearnerSettings(Protocol):
    """Settings of an algorithm: a frozen dataclass whose defaults work; `max_steps` end it.

    With a class attribute ``steps_are_actions = True``, validations are in proportion to them. A
    class attribute ``taught_by`` says in tables how it learns, e.g. "reinforcement learning".
    """

    @property
    def max_steps(self) -> int: ...

    def start(self, problem: "Problem") -> Learner:
        """Begin to learn; ValueError for a problem that the algorithm cannot learn."""


class Problem:
    """A scan protocol with its training scans, and the score to improve.

    Args:
        protocol: its data are the scans to learn from.
        seed: of all draws.
        warm_start: policy to begin with.
        name: of the policy, as in tables.

    Attributes:
        protocol: with the data opened, the reconstructor loaded, and no scores but those needed.
        scans, scan: who is scanned, and what acquires them.
        metric: score to improve.
        frame: sizes that hold every scan.
        n_actions: taken or tried so far, as learners count them for the record; 0 where none does.
    """

    n_actions = 0

    def __init__(
        self,
        protocol: EnvOptions,
        *,
        seed: int = 0,
        warm_start: Policy | None = None,
        name: str = "learned",
    ) -> None:
        self.seed, self.warm_start, self.name = seed, warm_start, name
        self.metric = protocol.metric
        self.scans: SliceDataset = protocol.dataset()
        # What the protocol does to its data is done.
        opened = replace(
            protocol.lean(self.metric),
            data=self.scans,
            orientation=STORED,
            roi=None,
            annotations=None,
        )
        self.scan = opened.scan(self.scans, device=protocol.device)
        self.protocol = replace(opened, reconstructor=self.scan.reconstructor)
        self.frame = Frame.of(self.scans, self.scan)

    def environment(self, observation: str, *, num_envs: int) -> ActiveMRIVectorEnv:
        """Scans side by side that begin anew in the step in which they end."""
        options = vars(replace(self.protocol, observation=observation, to_numpy=True))
        return ActiveMRIVectorEnv(
            num_envs=num_envs, autoreset_mode=AutoresetMode.SAME_STEP, **options
        )

    def network(
        self,
        kind: str,
        *,
        channels: int,
        blocks: int,
        observation: str = "image",
        sees: Sees = "all",
        stops: bool | None = None,
    ) -> ActionNetwork:
        """A copy of the warm start's network, or a new one; ready to learn.

        Arguments as of :func:`activemri.agents.networks.make_network`; `stops` is by default what
        the protocol has.

        Raises:
            ValueError: a network that does not fit.
        """
        stops = self.protocol.stop_action if stops is None else stops
        if self.warm_start is None:
            made = make_network(
                kind,
                self.scan.geometry,
                self.frame,
                budget=self.scan.budget,
                observation=observation,
                channels=channels,
                blocks=blocks,
                sees=sees,
                stops=stops,
                seed=self.seed,
            )
            return made.to(self.scan.device)
        if not isinstance(self.warm_start, LearnedPolicy):
            raise ValueError(
                "--warm-start: expected a policy with a network, as 'activemri train policy' "
                f"makes; got {self.warm_start.name!r}"
            )
        network = self.warm_start.network
        if network.kind != kind:
            raise ValueError(
                f"--warm-start: expected a network of the kind {kind!r}, which --learner.network "
                f"or --learner.observation choose; got {network.kind!r}"
            )
        if (seen := getattr(network, "sees", "all")) != sees:
            raise ValueError(
                f"--warm-start: the policy that is to be learned sees {sees}, and the network "
                f"{seen}; choose --learner.sees {seen}, or begin with another one"
            )
        try:
            require_played(self.warm_start, self.scan)
        except ValueError as error:
            raise ValueError(f"--warm-start: {error}") from error
        if network.stops != stops:
            wanted, got = ("may stop", "never does") if stops else ("never does", "may stop")
            raise ValueError(
                f"--warm-start: the policy that is to be learned {wanted}, and the network {got}; "
                "begin with one that was trained in the same way"
            )
        return copied(network).to(self.scan.device)

    def start_network(self) -> StartNetwork:
        """The warm start's network that chooses among orders, or one that goes outwards.

        Raises:
            ValueError: a warm start that does not fit, or scans that start with nothing to look at.
        """
        if not (self.scan.n_center_lines or self.scan.n_random_lines):
            raise ValueError(
                "--n-center-lines 0: an order is chosen by what the start of a scan shows; give "
                "scans readouts to start with"
            )
        if self.warm_start is None:
            return StartNetwork.of(self.scan.geometry)
        network = self.network("start", channels=0, blocks=0, stops=False)
        assert isinstance(network, StartNetwork)
        return network

    def policy(self, network: ActionNetwork) -> LearnedPolicy:
        """A copy of the network as it stands, as a policy."""
        copy = copied(network).eval().requires_grad_(False)
        return LearnedPolicy(copy, self.name, self.frame)

    def batch(
        self, step: int, size: int, scan: Scan
    ) -> tuple[list[State], np.random.Generator, torch.Generator]:
        """Scans of a step, begun, those of one kind together, and generators for all else in it.

        They follow from seed and step alone: a resumed training sees what an uninterrupted one
        would have seen.
        """
        generator = np.random.default_rng([self.seed, step])
        drawn = [self.scans[position] for position in self.draw(size, generator)]
        draws = torch.Generator().manual_seed(int(generator.integers(1 << 62)))
        parts = [[drawn[row] for row in rows] for rows in rows_of_a_kind(drawn)]
        begun = [scan.start(part, generators=generator.spawn(len(part))) for part in parts]
        return begun, generator, draws

    def spread(self, n: int, *, subjects: int, what: str) -> list[int]:
        """Positions of at most n scans, spread evenly.

        Raises:
            ValueError: scans of fewer subjects than `what` needs.
        """
        last = len(self.scans) - 1
        even = torch.linspace(0, last, min(last + 1, n), dtype=torch.float64)
        places = even.round().long().tolist()
        there = len({self.scans.describe(place).subject for place in places})
        if there < subjects:
            raise ValueError(
                f"--learner.subjects {subjects}: {what} of {self.scans.name} needs as many "
                f"training subjects, and there are {there}; give more, or ask for fewer and "
                "compare the policy with a fixed order"
            )
        return places

    def draw(self, n: int, generator: np.random.Generator) -> list[int]:
        """Positions of n scans: half of the time a subject is drawn first, else a volume.

        So half of the scans are drawn evenly over subjects, half over volumes: large volumes do not
        drown small ones.
        """
        volumes, subjects = self._groups
        drawn = []
        for _ in range(n):
            own = volumes
            if generator.random() < 0.5:
                own = subjects[generator.integers(len(subjects))]
            positions = own[generator.integers(len(own))]
            drawn.append(positions[generator.integers(len(positions))])
        return drawn

    @cached_property
    def _groups(self) -> tuple[list[list[int]], list[list[list[int]]]]:
        """Positions of the scans by volume, and these by subject."""
        volumes: dict[tuple[str, str], list[int]] = {}
        for position in range(len(self.scans)):
            info = self.scans.describe(position)
            volumes.setdefault((info.subject, info.volume), []).append(position)
        subjects: dict[str, list[list[int]]] = {}
        for (subject, _), positions in volumes.items():
            subjects.setdefault(subject, []).append(positions)
        return list(volumes.values()), list(subjects.values())


class Descent:
    """Shared by learners by gradients: Adam with a rate that falls, and the state to go on from.

    Settings have `max_steps`, `lr` and `batch`; `network` is what learns, by default the one that
    they describe.
    """

    clip = 1.0  # largest norm of a gradient

    def __init__(self, settings: Any, problem: Problem, network: nn.Module | None = None) -> None:
        if network is None:
            sizes = {"channels": settings.channels, "blocks": settings.blocks}
            network = problem.network(settings.network, **sizes)
        self.settings, self.problem, self.scan, self.step = settings, problem, problem.scan, 0
        self.network, self.weights = network, list(network.parameters())
        self.optimizer = torch.optim.AdamW(self.weights, lr=settings.lr, weight_decay=0.0)

    def loss(self, state: State, generator: np.random.Generator, draws: torch.Generator) -> Tensor:
        """Loss of every scan that was begun, (batch,)."""
        raise NotImplementedError

    def learn(self, n_steps: int, report: Report = silent, /) -> Mapping[str, float]:
        total = 0.0
        for _ in range(n_steps):
            size, loss = self.settings.batch, 0.0
            states, generator, draws = self.problem.batch(self.step, size, self.scan)
            for state in states:
                part = self.loss(state, generator, draws).sum() / size
                part.backward(inputs=self.weights)
                loss += part.item()
            self.move(loss)
            total += loss
            self.step += 1
            report(loss=loss)
        return {"loss": total / n_steps}

    def move(self, loss: float = 0.0, *, rate: float | None = None) -> None:
        """One step of Adam, along the gradient cut to the norm :attr:`clip`.

        The `rate` is a share of the largest; None falls along a line to a twentieth at the end.
        """
        if rate is None:
            rate = 1 - 0.95 * min(1.0, self.step / self.settings.max_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.lr * rate
        norm = nn.utils.clip_grad_norm_(self.weights, self.clip)
        if not math.isfinite(loss + float(norm)):
            raise FloatingPointError("the loss or its gradient is not a finite number")
        self.optimizer.step()
        self.optimizer.zero_grad()

    def state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self.step = state["step"]
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])


def require_positive(settings: object, *names: str) -> None:
    """Refuse settings of a learner that are not above 0."""
    given = {f"learner.{name}": getattr(settings, name) for name in names}
    options.require_positive(**given)
    options.require_sizes(**{k: v for k, v in given.items() if k.endswith(("channels", "blocks"))})
