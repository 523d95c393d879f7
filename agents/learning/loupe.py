"""LOUPE: the best fixed order of lines for a reconstructor, learned by its gradients.

Bahadir, Wang, Dalca and Sabuncu, Deep-learning-based optimization of the under-sampling pattern in
MRI, IEEE Trans Comput Imaging 6:1139-1152 (2020). Every action has one score; masks are drawn by
the scores, scans are reconstructed with them, and the gradient of the loss with respect to the
mask moves the scores. Ours differs: the reconstructor is frozen; exactly k actions are drawn (see
:mod:`activemri.agents.learning.exact_k`), with a straight-through gradient instead of a steep
sigmoid; the lines that a scan starts with are always there; and k is drawn evenly from 1 to the
budget in every scan, so that the actions by decreasing score are a good order all the way and not
just a good set at its end.

The result is an :class:`Order`, which every scan follows.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from activemri.agents.heuristic import frequency
from activemri.agents.learning.drawing import Batches, falling
from activemri.agents.learning.exact_k import draw
from activemri.agents.learning.learner import DivergedError, Workplace
from activemri.agents.learning.soft_masks import SoftMasks, lines_of
from activemri.agents.order import FixedOrder, Order
from activemri.data.slices import Slice
from activemri.reconstruction.zero_filled import ZeroFilled


@dataclass(frozen=True)
class LoupeSettings:
    """Settings of LOUPE.

    Attributes:
        lr: learning rate of Adam, which falls to a twentieth.
        batch: scans a step.
        every_budget: draw the number of actions from 1 to the budget; False always draws as many
            as the budget allows, as in the paper, for the final image alone.
        spread: of the first scores, by which the centre is ahead of the edge (or, with a warm
            start from an order, its first action of its last).
    """

    lr: float = 0.1
    batch: int = 8
    every_budget: bool = True
    spread: float = 4.0


class Loupe:
    """See the module. A step is one of gradient descent."""

    def __init__(self, workplace: Workplace, settings: LoupeSettings) -> None:
        self.workplace, self.settings = workplace, settings
        self.step = 0
        self.losses = SoftMasks(workplace.acquisition, workplace.metric)
        # Nobody looks at the start: there is no need to reconstruct or score it.
        self.protocol = replace(workplace.acquisition, reconstructor=ZeroFilled(), metrics=())
        self.batches = Batches(workplace.scans, settings.batch, seed=workplace.seed)
        self.scores = self._first_scores().requires_grad_(True)
        self.optimizer = torch.optim.Adam([self.scores], lr=settings.lr)

    def learn(self, n_steps: int) -> Mapping[str, float]:
        total = 0.0
        for _ in range(n_steps):
            for group in self.optimizer.param_groups:
                group["lr"] = falling(self.settings.lr, self.step, self.workplace.max_steps)
            total += self._descend()
            self.step += 1
        return {"loss": total / n_steps}

    def policy(self) -> FixedOrder:
        place, geometry = self.workplace, self.workplace.acquisition.geometry
        started = geometry.center_lines(place.acquisition.n_center_lines)
        useless = started[geometry.groups].all(dim=1)
        best = self.scores.detach().masked_fill(useless, -torch.inf)
        n = int((~useless).sum()) if place.acquisition.budget is None else self._largest_k()
        chosen = best.argsort(descending=True, stable=True)[:n].tolist()
        outwards = frequency(geometry).argsort(stable=True).tolist()
        order = Order(
            kind="loupe",
            actions=(*chosen, *(action for action in outwards if action not in set(chosen))),
            n_learned=n,
            geometry=geometry.name,
            lines_per_action=geometry.groups.shape[1],
            shape=geometry.shape,
            metric=place.metric,
            reconstructor=type(place.acquisition.reconstructor).__name__,
            data=place.scans.name,
            n_scans=len(place.scans),
        )
        return FixedOrder(order, place.name)

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
        given, geometry = self.workplace.warm_start, self.workplace.acquisition.geometry
        if given is None:
            return -self.settings.spread * frequency(geometry).float()
        if not isinstance(given, FixedOrder):
            raise ValueError(
                "--warm-start: loupe begins with an order of lines (what it learned before, or "
                f"'activemri train order'); got the policy {given.name!r}"
            )
        given.order.check(geometry)
        place = torch.empty(geometry.n_actions, device=geometry.groups.device)
        place[list(given.order.actions)] = torch.linspace(
            0, 1, geometry.n_actions, device=place.device
        )
        return -self.settings.spread * place

    def _descend(self) -> float:
        parts, generator, draws = self.batches.at(self.step)
        self.optimizer.zero_grad()
        total = 0.0
        for scans in parts:
            loss = self._loss(scans, generator, draws).sum() / self.settings.batch
            loss.backward(inputs=[self.scores])
            total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_([self.scores], math.inf)  # only measures it
        if not math.isfinite(total + float(norm)):
            raise DivergedError("the loss or its gradient is not a finite number")
        self.optimizer.step()
        return total

    def _loss(
        self, scans: list[Slice], generator: np.random.Generator, draws: torch.Generator
    ) -> Tensor:
        state = self.protocol.start(scans, generators=generator.spawn(len(scans)))
        geometry = self.protocol.geometry
        k = (state.budget // geometry.groups.shape[1]).clamp(min=1)
        if self.settings.every_budget:
            k = torch.from_numpy(generator.integers(1, k.cpu().numpy() + 1)).to(k.device)
        taken = draw(self.scores.expand(len(scans), -1), state.legal, k, generator=draws)
        return self.losses(state, lines_of(taken, state, geometry, state.mask.float()))

    def _largest_k(self) -> int:
        budget, groups = self.protocol.budget, self.protocol.geometry.groups
        assert budget is not None
        return max(1, budget // groups.shape[1])
