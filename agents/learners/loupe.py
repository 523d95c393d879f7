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
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from activemri.agents.learners.learner import Problem, Report, falling, require_positive, silent
from activemri.agents.order import Order, order_of
from activemri.agents.relaxations import SoftMasks, draw, lines_of
from activemri.reconstruction.zero_filled import ZeroFilled


@dataclass(frozen=True, kw_only=True)
class Loupe:
    """The best fixed order, by gradients through the reconstructor."""

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


class LoupeLearner:
    """One score for every action, moved by gradients."""

    def __init__(self, settings: Loupe, problem: Problem) -> None:
        self.settings, self.problem = settings, problem
        self.step = 0
        self.losses = SoftMasks(problem.scan, problem.metric)
        # Nothing looks at the start: there is no need to reconstruct or score it.
        self.scan = replace(problem.scan, reconstructor=ZeroFilled(), metrics=())
        self.scores = self._first_scores().requires_grad_(True)
        self.optimizer = torch.optim.Adam([self.scores], lr=settings.lr)

    def learn(self, n_steps: int, report: Report = silent, /) -> Mapping[str, float]:
        total = 0.0
        for _ in range(n_steps):
            for group in self.optimizer.param_groups:
                group["lr"] = falling(self.settings.lr, self.step, self.settings.max_steps)
            loss = self._descend()
            total += loss
            self.step += 1
            report(loss=loss)
        return {"loss": total / n_steps}

    def policy(self) -> Order:
        problem, geometry = self.problem, self.scan.geometry
        started = geometry.center_lines(problem.scan.n_center_lines)
        useless = geometry.by_action(started, "all")
        best = self.scores.detach().masked_fill(useless, -torch.inf)
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

    def state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "scores": self.scores.detach().clone(),
            "optimizer": self.optimizer.state_dict(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self.step = state["step"]
        with torch.no_grad():
            self.scores.copy_(state["scores"])
        self.optimizer.load_state_dict(state["optimizer"])

    def _first_scores(self) -> Tensor:
        """Highest in the centre, or, after a warm start, for what its order begins with."""
        given, geometry = self.problem.warm_start, self.scan.geometry
        if given is None:
            return -self.settings.spread * geometry.frequency.float()
        if not isinstance(given, Order):
            raise ValueError(
                "--warm-start: loupe begins with an order of lines (what it learned before, or "
                f"'activemri train order'); got the policy {given.name!r}"
            )
        given.check(geometry)
        rank = torch.tensor(given.actions, device=self.scan.device).argsort()
        places = torch.linspace(0, 1, geometry.n_actions, device=rank.device)
        return -self.settings.spread * places[rank]

    def _descend(self) -> float:
        parts, generator, draws = self.problem.batch(self.step, self.settings.batch)
        geometry, total = self.scan.geometry, 0.0
        self.optimizer.zero_grad()
        for scans in parts:
            state = self.scan.start(scans, generators=generator.spawn(len(scans)))
            k = (state.view.budget // geometry.readouts_per_action).clamp(min=1)
            if self.settings.every_budget:
                k = torch.from_numpy(generator.integers(1, k.cpu().numpy() + 1)).to(k.device)
            taken = draw(self.scores.expand(len(scans), -1), state.view.legal, k, generator=draws)
            losses = self.losses(state, lines_of(taken, state, geometry, state.view.mask.float()))
            loss = losses.sum() / self.settings.batch
            loss.backward(inputs=[self.scores])
            total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_([self.scores], math.inf)  # only measures it
        if not math.isfinite(total + float(norm)):
            raise FloatingPointError("the loss or its gradient is not a finite number")
        self.optimizer.step()
        return total
