"""LOUPE: the best fixed order of lines for a reconstructor, learned by its gradients.

Bahadir, Wang, Dalca and Sabuncu, Deep-learning-based optimization of the under-sampling pattern in
MRI, IEEE Trans Comput Imaging 6:1139-1152 (2020). Every action has one score; masks are drawn by
the scores, scans are reconstructed with them, and the gradient of the loss with respect to the
mask moves the scores. Ours differs: the reconstructor is frozen; exactly k actions are drawn (see
:mod:`activemri.agents.relaxations`), with a straight-through gradient instead of a steep
sigmoid; the lines that a scan starts with are always there; and k is drawn evenly from 1 to the
budget in every scan, so that the actions by decreasing score are a good order all the way and not
just a good set at its end.

The result is an order, which every scan follows. A step is one of gradient descent.
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from activemri.agents.learners.learner import Descent, Problem, require_positive
from activemri.agents.order import Order, order_of
from activemri.agents.relaxations import draw, lines_of, mask_loss
from activemri.envs.scan import State
from activemri.reconstruction.zero_filled import ZeroFilled


@dataclass(frozen=True, kw_only=True)
class Loupe:
    """The best fixed order, by gradients through the reconstructor."""

    taught_by: ClassVar[str] = "gradients through the reconstructor"
    max_steps: int = 600
    """Steps of gradient descent; schedules end there."""
    lr: float = 0.1
    """Learning rate of Adam, which falls to a twentieth."""
    batch: int = 8
    """Scans in a step."""
    every_budget: bool = True
    """Draw the number of actions from 1 to the budget; False always draws as many as the budget
    allows, as in the paper, for the final image alone."""
    spread: float = 4.0
    """Spread of the first scores, by which the centre is ahead of the edge (or, with a warm start
    from an order, its first action of its last)."""

    def __post_init__(self) -> None:
        require_positive(self, "max_steps", "lr", "batch")

    def start(self, problem: Problem) -> "LoupeLearner":
        return LoupeLearner(self, problem)


class LoupeLearner(Descent):
    """One score for every action, moved by gradients."""

    settings: Loupe
    clip = math.inf

    def __init__(self, settings: Loupe, problem: Problem) -> None:
        self.mask_loss = mask_loss(problem.scan, problem.metric)
        geometry, given = problem.scan.geometry, problem.warm_start
        if given is None:  # the centre first
            rank = geometry.frequency.float()
        elif isinstance(given, Order):  # what the order begins with first
            given.check(geometry)
            order = torch.tensor(tuple(dict.fromkeys(given.actions)), device=problem.scan.device)
            rank = torch.linspace(0, 1, geometry.n_actions, device=order.device)[order.argsort()]
        else:
            raise ValueError(
                "--warm-start: loupe begins with an order of lines (what it learned before, or "
                f"'activemri train order'); got the policy {given.name!r}"
            )
        super().__init__(settings, problem, nn.ParameterList([-settings.spread * rank]))
        # Nothing looks at the start: there is no need to reconstruct or score it.
        self.scan = replace(problem.scan, reconstructor=ZeroFilled(), metrics=())

    def loss(self, state: State, generator: np.random.Generator, draws: torch.Generator) -> Tensor:
        k = (state.view.budget // self.scan.geometry.readouts_per_action).clamp(min=1)
        if self.settings.every_budget:
            k = torch.from_numpy(generator.integers(1, k.cpu().numpy() + 1)).to(k.device)
        scores = self.weights[0].expand(len(state), -1)
        taken = draw(scores, state.view.legal, k, generator=draws)
        return self.mask_loss(state, lines_of(taken, state, state.view.mask.float()))

    def policy(self) -> Order:
        problem, geometry = self.problem, self.scan.geometry
        started = geometry.center_lines(problem.scan.n_center_lines)
        useless = geometry.by_action(started, "all")
        best = self.weights[0].detach().masked_fill(useless, -torch.inf)
        n = int((~useless).sum())
        if self.scan.budget is not None:
            n = max(1, self.scan.budget // geometry.readouts_per_action)
        order = order_of(
            "loupe",
            best.argsort(descending=True, stable=True)[:n].tolist(),
            problem.scan,
            metric=problem.metric,
            data=problem.scans.name,
            n_scans=len(problem.scans),
        )
        return replace(order, name=problem.name)
