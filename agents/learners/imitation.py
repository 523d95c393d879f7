"""Imitation of an oracle: a network learns which line gains most, from scans whose truth is known.

The oracle says what a number of lines would gain, in states that the policy itself comes to
(DAgger: Ross et al. 2011), and a small network learns to rank them: the cross-entropy between

    softmax(gain / (temperature * best gain))   and   softmax(score / temperature),

so that early steps, whose gains are large, count as much as late ones. The network cannot know the
truth: it learns what the oracle would do on average over all scans that look like this one, which
is the best that a policy can do. It takes minutes where reinforcement learning takes hours, as
every state teaches the worth of many actions; and it makes a warm start for any other algorithm.
With a price per line it also learns when to stop: when nothing that followed was worth its price. A
step is one of gradient descent.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from activemri.agents.learners.demonstrations import (
    Demonstrations,
    collect,
    outwards,
    priority_of,
    read_demonstrations,
)
from activemri.agents.learners.learner import Descent, Problem, Report, require_positive, silent
from activemri.agents.networks import LearnedPolicy, LineNetwork, Sees
from activemri.envs.line_features import mirror_image, mirror_of

_SMALLEST = 1e-5  # gains below it are noise
_GAINS_WEIGHT = 0.3


@dataclass(frozen=True, kw_only=True)
class Imitation:
    """Predicts what each line gains, taught by the one-step oracle."""

    taught_by: ClassVar[str] = "imitation of an oracle"
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
    sees: Sees = "all"
    """Features of lines that the network sees: all, or those of the mask alone, which makes the
    same order for all scans: what looking at the samples is worth."""

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


class ImitationLearner(Descent):
    """Collects what the oracle says, and learns to rank actions as it does."""

    settings: Imitation
    network: LineNetwork

    def __init__(self, settings: Imitation, problem: Problem) -> None:
        network = problem.network(
            "lines", channels=settings.channels, blocks=settings.blocks, sees=settings.sees
        )
        super().__init__(settings, problem, network)
        self.optimizer.param_groups[0]["weight_decay"] = settings.weight_decay
        self.generator = np.random.default_rng(problem.seed)
        self.draws = torch.Generator().manual_seed(problem.seed)
        self.demonstrations: Demonstrations | None = None
        self.rounds_done = 0
        if settings.demonstrations:
            self.demonstrations = read_demonstrations(settings.demonstrations, problem)

    def policy(self) -> LearnedPolicy:
        return self.problem.policy(self.network)

    def learn(self, n_steps: int, report: Report = silent, /) -> Mapping[str, float]:
        settings, total = self.settings, 0.0
        rounds, length = settings.rounds, max(1, settings.max_steps // settings.rounds)
        for _ in range(n_steps):
            begun = self.rounds_done * settings.max_steps // rounds
            if self.rounds_done < rounds and self.step >= begun:
                self.rounds_done += 1
                if settings.states > 0:
                    self._collect(report)
            # The rate rises for a tenth of a round, then falls to a hundredth along a cosine.
            begun = (self.rounds_done - 1) * settings.max_steps // rounds
            at = min(1.0, (self.step - begun + 1) / length)
            cosine = (1 + math.cos(math.pi * (at - 0.1) / 0.9)) / 2
            loss = self._loss()
            loss.backward()
            self.move(loss.item(), rate=at / 0.1 if at < 0.1 else 0.01 + 0.99 * cosine)
            total += loss.item()
            self.step += 1
            report(loss=loss.item())
        assert self.demonstrations is not None
        return {"loss": total / n_steps, "states": float(len(self.demonstrations))}

    def state(self) -> dict[str, Any]:
        found, bits = self.demonstrations, self.generator.bit_generator
        return {
            **super().state(),
            "rounds_done": self.rounds_done,
            "generator": bits.state,
            "spawned": bits.seed_seq.n_children_spawned,  # type: ignore[attr-defined]
            "draws": self.draws.get_state(),
            "demonstrations": None if found is None else dict(vars(found)),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        super().restore(state)
        self.rounds_done = state["rounds_done"]
        self.generator = np.random.default_rng(self.problem.seed)
        self.generator.spawn(state["spawned"]) if state["spawned"] else None
        self.generator.bit_generator.state = state["generator"]
        self.draws.set_state(state["draws"])
        found = state["demonstrations"]
        self.demonstrations = None if found is None else Demonstrations(**found)

    def _collect(self, report: Report) -> None:
        """Another round of states, along episodes of the policy as it is now."""
        settings, known = self.settings, self.demonstrations
        first = known is None and self.problem.warm_start is None
        found = collect(
            self.problem,
            math.ceil(settings.states / settings.rounds),
            priority=outwards if first else priority_of(self.policy()),
            generator=self.generator,
            n_tried=settings.n_tried,
            horizon=settings.horizon,
            exploration=(0.3, 1.0) if first else (0.0, 0.1, 0.3),
            follow=0.6 if first else 0.0,
            report=report,
        )
        self.demonstrations = found if known is None else Demonstrations.join([known, found])

    def _loss(self) -> Tensor:
        """Mean loss of states drawn from all that were collected."""
        known = self.demonstrations
        assert known is not None
        rows = torch.randint(len(known), (self.settings.batch,), generator=self.draws)
        states, device = known.select(rows), self.problem.scan.device
        lines, tried = states.features, states.tried
        noise = torch.randn(lines.shape, generator=self.draws) * (lines != 0)
        lines = lines + self.settings.noise * noise
        has_sides = self.network.groups is None and self.problem.scan.geometry.has_lines
        if has_sides and torch.rand(1, generator=self.draws) < 0.5:
            lines = mirror_image(lines)
            tried = torch.where(tried < 0, tried, mirror_of(lines.shape[-1])[tried])
        states = replace(states, features=lines, tried=tried)
        budget = (states.budget / states.start_budget).float()[:, None]
        seen = {"lines": lines.to(device), "budget": budget.to(device)}
        scores = self.network(seen).cpu()  # a few numbers; all else of the loss lies there
        loss = ranking_loss(scores, states, temperature=self.settings.temperature)
        if self.network.stops:
            loss = loss + stopping_loss(scores, states, self.network)
        return loss


def ranking_loss(scores: Tensor, states: Demonstrations, *, temperature: float) -> Tensor:
    """Mean cross-entropy of the ranking, and how far the scores are from the gains themselves.

    Args:
        scores: of all actions, float (batch, n_actions + stops).
        states: whose scores after the actions that were tried are compared.
        temperature: as a share of the difference between the best gain and the mean one.
    """
    tried, known = states.tried, states.tried >= 0
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


def stopping_loss(scores: Tensor, states: Demonstrations, network: LineNetwork) -> Tensor:
    """Cross-entropy of stopping where nothing that followed was worth its price.

    A mistake weighs what it costs: the size of what was still to be gained, or would be lost.
    """
    seen = {"lines": states.features}
    urge = scores[:, -1] - network.best_new(scores[:, :-1], seen).squeeze(1)
    stop = (states.prospect <= 0).float()
    weight = states.prospect.abs().float()
    losses = functional.binary_cross_entropy_with_logits(urge, stop, reduction="none")
    return (losses * weight).mean() / weight.mean().clamp(min=_SMALLEST)
