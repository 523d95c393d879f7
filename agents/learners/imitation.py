"""Imitation of an oracle: a network learns which line gains most, from scans whose truth is known.

The oracle says what a number of lines would gain, in states that the policy itself comes to
(DAgger: Ross et al. 2011), and a small network learns to rank them: the cross-entropy between

    softmax(gain / (temperature * best gain))   and   softmax(score / temperature),

so that what matters is which line is best and by how much, and early steps, whose gains are large,
count as much as late ones. The network cannot know the truth: it learns what the oracle would do
on average over all scans that look like this one, which is the best that a policy can do.

It takes minutes where reinforcement learning takes hours, as every state teaches the worth of many
actions; and it makes a warm start for any other algorithm. With a price per line it also learns
when to stop: when nothing that followed was worth its price. A step is one of gradient descent.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from activemri.agents.learners.demonstrations import (
    Collector,
    Demonstrations,
    facts_of,
    outwards,
    priority_of,
    read_demonstrations,
    view_states,
)
from activemri.agents.learners.learner import Problem, Report, require_positive, silent
from activemri.agents.networks import LearnedPolicy, LineNetwork
from activemri.envs.line_features import mirror_image, mirror_of, readout_features

_SMALLEST = 1e-5  # gains below it are noise
_GAINS_WEIGHT = 0.3


@dataclass(frozen=True, kw_only=True)
class Imitation:
    """Predicts what each line gains, taught by the one-step oracle."""

    max_steps: int = 1500
    """Steps of gradient descent; schedules end there."""
    demonstrations: str = ""
    """File made by `activemri demonstrate`, learned from before anything else; empty for none."""
    states: int = 3000
    """States in which the oracle is queried besides, in all; 0 learns from the file alone."""
    rounds: int = 3
    """Rounds in which new states are collected, with the policy as it then is."""
    n_tried: int = 16
    """Lines that the oracle tries in a state."""
    horizon: int = 1
    """Lines after which it compares them; 1 is the one-step oracle."""
    temperature: float = 0.5
    """Temperature of the ranking, as a share of the best gain."""
    lr: float = 3e-3
    """Largest learning rate."""
    batch: int = 64
    """States in a step."""
    weight_decay: float = 0.1
    """Weight decay of AdamW."""
    noise: float = 0.1
    """Standard deviation of noise on the features."""
    channels: int = 32
    """Channels of the network."""
    blocks: int = 3
    """Residual blocks of the network."""

    def __post_init__(self) -> None:
        require_positive(self, "max_steps", "rounds", "n_tried", "horizon", "temperature")
        require_positive(self, "lr", "batch", "channels", "blocks")
        if self.states < 1 and not self.demonstrations:
            raise ValueError(
                f"--learner.states {self.states}: there is nothing to learn from without "
                "--learner.demonstrations FILE"
            )

    def start(self, problem: Problem) -> "ImitationLearner":
        return ImitationLearner(self, problem)


class ImitationLearner:
    """Collects what the oracle says, and learns to rank actions as it does."""

    def __init__(self, settings: Imitation, problem: Problem) -> None:
        self.settings, self.problem = settings, problem
        self.step = 0
        network = problem.network("lines", channels=settings.channels, blocks=settings.blocks)
        assert isinstance(network, LineNetwork)
        self.network = network
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=settings.lr, weight_decay=settings.weight_decay
        )
        self.generator = np.random.default_rng(problem.seed)
        self.draws = torch.Generator().manual_seed(problem.seed)
        self.demonstrations: Demonstrations | None = None
        self.features = torch.empty(0)
        self.rounds_done = 0
        if settings.demonstrations:
            self._read(settings.demonstrations)

    def learn(self, n_steps: int, report: Report = silent, /) -> Mapping[str, float]:
        total = 0.0
        self.network.train()
        for _ in range(n_steps):
            if self.rounds_done < self.settings.rounds and self.step >= self._start_of_round():
                self._collect(report)
            for group in self.optimizer.param_groups:
                group["lr"] = self._learning_rate()
            loss = self._descend()
            total += loss
            self.step += 1
            report(loss=loss)
        return {"loss": total / n_steps, "states": float(len(self.features))}

    def policy(self) -> LearnedPolicy:
        return self.problem.policy(self.network)

    def state(self) -> dict[str, Any]:
        found = self.demonstrations
        return {
            "step": self.step,
            "rounds_done": self.rounds_done,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.bit_generator.state,
            "spawned": self.generator.bit_generator.seed_seq.n_children_spawned,  # type: ignore[attr-defined]
            "draws": self.draws.get_state(),
            "features": self.features,
            "demonstrations": None if found is None else dict(vars(found)),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self.step, self.rounds_done = state["step"], state["rounds_done"]
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator = np.random.default_rng(self.problem.seed)
        self.generator.spawn(state["spawned"]) if state["spawned"] else None
        self.generator.bit_generator.state = state["generator"]
        self.draws.set_state(state["draws"])
        self.features = state["features"]
        found = state["demonstrations"]
        self.demonstrations = None if found is None else Demonstrations(**found)

    def _start_of_round(self) -> int:
        return self.rounds_done * self.settings.max_steps // self.settings.rounds

    def _learning_rate(self) -> float:
        """Rises for a tenth of a round, then falls to a hundredth along a cosine."""
        length = max(1, self.settings.max_steps // self.settings.rounds)
        begun = (self.rounds_done - 1) * self.settings.max_steps // self.settings.rounds
        at = min(1.0, (self.step - begun + 1) / length)
        if at < 0.1:
            return self.settings.lr * at / 0.1
        return self.settings.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (at - 0.1) / 0.9)))

    def _read(self, path: str) -> None:
        """Demonstrations from a file: the scans are brought to each of their states again."""
        problem = self.problem
        found, facts = read_demonstrations(path, scans=problem.scans)
        for name, here in facts_of(problem).items():
            if name in ("metric", "geometry", "n_lines", "n_actions") and facts[name] != here:
                raise ValueError(
                    f"{path} holds demonstrations for {name} {facts[name]!r}; this training needs "
                    f"{here!r}"
                )
        features = {
            row: line
            for rows, view in view_states(problem.scan, problem.scans, found)
            for row, line in zip(rows, readout_features(view).cpu(), strict=True)
        }
        self.features = torch.stack([features[row] for row in range(len(found))])
        self.demonstrations = found

    def _collect(self, report: Report) -> None:
        """Another round of states, along episodes of the policy as it is now."""
        settings = self.settings
        self.rounds_done += 1
        if settings.states == 0:
            return
        first = self.demonstrations is None and self.problem.warm_start is None
        collector = Collector(
            self.problem,
            n_tried=settings.n_tried,
            horizon=settings.horizon,
            exploration=(0.3, 1.0) if first else (0.0, 0.1, 0.3),
            follow=0.6 if first else 0.0,
        )
        found, features = collector.collect(
            math.ceil(settings.states / settings.rounds),
            priority=outwards if first else priority_of(self.policy()),
            look=readout_features,
            generator=self.generator,
            report=report,
        )
        known = self.demonstrations
        self.demonstrations = found if known is None else Demonstrations.join([known, found])
        self.features = torch.cat([self.features, features]) if len(self.features) else features

    def _descend(self) -> float:
        assert self.demonstrations is not None
        rows = torch.randint(len(self.features), (self.settings.batch,), generator=self.draws)
        batch, lines = self.demonstrations.select(rows), self.features[rows]
        noise = torch.randn(lines.shape, generator=self.draws) * (lines != 0)
        lines, tried = lines + self.settings.noise * noise, batch.tried
        has_sides = self.network.groups is None and self.problem.scan.geometry.has_lines
        if has_sides and torch.rand(1, generator=self.draws) < 0.5:
            lines = mirror_image(lines)
            tried = torch.where(tried < 0, tried, mirror_of(lines.shape[-1])[tried])
        budget = (batch.budget / batch.start_budget).float()[:, None]
        device = self.problem.scan.device
        seen = {"lines": lines.to(device), "budget": budget.to(device)}
        scores = self.network(seen).cpu()  # a few numbers; all else of the loss lies there
        loss = ranking_loss(scores, tried, batch, temperature=self.settings.temperature)
        if self.network.stops:
            loss = loss + stopping_loss(scores, lines, self.network, batch)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        value = loss.item()
        if not math.isfinite(value):
            raise FloatingPointError("the loss is not a finite number")
        return value


def ranking_loss(
    scores: Tensor, tried: Tensor, states: Demonstrations, *, temperature: float
) -> Tensor:
    """Mean cross-entropy of the ranking, and how far the scores are from the gains themselves.

    Args:
        scores: of all actions, float (batch, n_actions + stops).
        tried: actions whose gains are known, int64 (batch, trial), -1 for none.
        states: whose scores after these actions are compared.
        temperature: as a share of the difference between the best gain and the mean one.
    """
    known = tried >= 0
    n_known = known.sum(dim=1, keepdim=True).clamp(min=1)
    gain = (states.scores - states.score[:, None]).masked_fill(~known, 0.0)
    mean = gain.sum(dim=1, keepdim=True) / n_known
    best = gain.masked_fill(~known, -torch.inf).amax(dim=1, keepdim=True)
    wanted = ((gain - mean) / (best - mean).clamp(min=_SMALLEST)).float()
    given = scores.gather(1, tried.clamp(min=0))
    lowest = torch.finfo(given.dtype).min
    target = torch.softmax((wanted / temperature).masked_fill(~known, lowest), dim=1)
    ranked = torch.log_softmax((given / temperature).masked_fill(~known, lowest), dim=1)
    cross_entropy = -(target * ranked.masked_fill(~known, 0.0)).sum(dim=1)
    centred = given - (given * known).sum(dim=1, keepdim=True) / n_known
    error = ((centred - wanted).square() * known).sum(dim=1, keepdim=True) / n_known
    return (cross_entropy + _GAINS_WEIGHT * error.squeeze(1)).mean()


def stopping_loss(
    scores: Tensor, lines: Tensor, network: LineNetwork, states: Demonstrations
) -> Tensor:
    """Cross-entropy of stopping where nothing that followed was worth its price.

    A mistake weighs what it costs: the size of what was still to be gained, or would be lost.
    """
    urge = scores[:, -1] - network.best_new(scores[:, :-1], {"lines": lines}).squeeze(1)
    stop = (states.prospect <= 0).float()
    weight = states.prospect.abs().float()
    losses = functional.binary_cross_entropy_with_logits(urge, stop, reduction="none")
    return (losses * weight).mean() / weight.mean().clamp(min=_SMALLEST)
