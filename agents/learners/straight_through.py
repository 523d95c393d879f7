"""Adaptive policies learned by gradients through the frozen reconstructor.

A network scores all lines; as many as wanted are drawn by the scores; the scan is reconstructed
with them, and the gradient of the loss with respect to the mask goes straight through the draw (see
:mod:`activemri.agents.relaxations`) into the network. One reconstruction says of every line in
which direction it moves the loss: the slope at the mask, not the step to the next line.

With one round all lines are chosen at one look, as in adaptive VarNet (Bakker et al., On learning
adaptive acquisition policies for undersampled multi-coil MRI reconstruction, MIDL 2022). With
several, the network looks again after its share of the lines, as in SeqMRI (Yin et al., End-to-end
sequential sampling and reconstruction for MRI, ML4H 2021). Both papers train the reconstructor
along; ours stays frozen. What a later round sees is not differentiated with respect to what an
earlier one chose: every round's own lines are, in all masks that hold them.

A policy acts after every line, so it has to know its way at any number of lines. That is what
`anywhere` is for: rounds begin and end after random numbers of lines. Without it they have equal
shares, as in the papers, and the loss is that of the last image alone; then only the first looks of
rounds have been trained. A step is one of gradient descent.
"""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from activemri.agents.learners.learner import Descent, Problem, require_positive
from activemri.agents.networks import ActionNetwork, LearnedPolicy
from activemri.agents.relaxations import bounded, draw, lines_of, mask_loss
from activemri.envs.scan import State


@dataclass(frozen=True, kw_only=True)
class StraightThrough:
    """Adaptive VarNet's policy: gradients through the reconstructor at one look."""

    taught_by: ClassVar[str] = "gradients through the reconstructor"
    max_steps: int = 600
    """Steps of gradient descent; schedules end there."""
    rounds: int = 1
    """Looks at the scan that choose lines."""
    anywhere: bool = True
    """Rounds begin and end after random numbers of lines; see the module."""
    network: Literal["lines", "varnet"] = "lines"
    """Network: lines, or varnet for the paper's."""
    temperature: float = 1.0
    """Scores are divided by it before lines are drawn."""
    lr: float = 3e-3
    """Learning rate of Adam, which falls to a twentieth."""
    batch: int = 8
    """Scans in a step."""
    channels: int = 32
    """Channels of the network of lines."""
    blocks: int = 3
    """Residual blocks of the network of lines."""

    def __post_init__(self) -> None:
        require_positive(self, "max_steps", "rounds", "temperature", "lr", "batch")
        require_positive(self, "channels", "blocks")

    def start(self, problem: Problem) -> "StraightThroughLearner":
        return StraightThroughLearner(self, problem)


@dataclass(frozen=True, kw_only=True)
class SeqMRI(StraightThrough):
    """SeqMRI's sampler: gradients through the reconstructor at several looks."""

    max_steps: int = 300
    """Steps of gradient descent; schedules end there."""
    rounds: int = 4
    """Looks at the scan that choose lines."""


class StraightThroughLearner(Descent):
    """A network that draws the lines of whole rounds, moved by gradients."""

    settings: StraightThrough
    network: ActionNetwork

    def __init__(self, settings: StraightThrough, problem: Problem) -> None:
        self.mask_loss = mask_loss(problem.scan, problem.metric)
        network = problem.network(
            settings.network, channels=settings.channels, blocks=settings.blocks, stops=False
        )
        super().__init__(settings, problem, network)
        self.scan = replace(problem.scan, metrics=())  # scores are not needed

    def policy(self) -> LearnedPolicy:
        return self.problem.policy(self.network)

    def loss(self, state: State, generator: np.random.Generator, draws: torch.Generator) -> Tensor:
        """The mean over rounds, or that of the last one."""
        ends = self._ends(state.view.budget // self.scan.geometry.readouts_per_action, generator)
        with torch.no_grad():
            lines = self._acquired(state, state.view.mask.float(), ends[0], draws)
        losses = []
        for start, end in pairwise(ends):
            masks, view = lines.detach() > 0, state.view
            if not torch.equal(masks, view.mask):
                spent = (masks & ~view.start_mask).sum(dim=1)
                state = self.scan.resume(
                    state.secret.slices,
                    start_masks=view.start_mask,
                    masks=masks,
                    budgets=(view.start_budget - spent).clamp(min=0),
                )
            lines = self._acquired(state, lines, end - start, draws)
            if self.settings.anywhere or end is ends[-1]:
                losses.append(self.mask_loss(state, lines))
        return torch.stack(losses).mean(dim=0)

    def _acquired(self, state: State, before: Tensor, k: Tensor, draws: torch.Generator) -> Tensor:
        """Masks after k more actions, drawn at one look: float (batch, n_lines)."""
        if not bool(k.any()):
            return before
        seen = self.network.observe(state.view, self.problem.frame)
        scores = self.network(seen)[:, : self.network.n_actions] / self.settings.temperature
        taken = draw(bounded(scores), state.view.legal, k, generator=draws)
        return lines_of(taken, state, before)

    def _ends(self, most: Tensor, generator: np.random.Generator) -> list[Tensor]:
        """Actions taken before each round and after the last, int64 (batch,) each.

        Args:
            most: actions that each scan's budget allows, (batch,).
        """
        most = most.clamp(min=1)
        rounds = min(self.settings.rounds, int(most.min()))
        if not self.settings.anywhere:
            return [most * i // rounds for i in range(rounds + 1)]
        rows = [
            np.sort(generator.choice(n + 1, size=rounds + 1, replace=False)) for n in most.tolist()
        ]
        return list(torch.from_numpy(np.stack(rows)).to(most.device).unbind(1))
