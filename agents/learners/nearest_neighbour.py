"""Nearest neighbour: a scan takes the order of the training scan whose start looks most alike.

After SUNO (Gautam et al., Scan-adaptive MRI undersampling using neighbor-based optimization,
arXiv 2501.09799): every training scan gets a set of readouts of its own, found by a search with its
target at hand; a new scan is compared with the training scans by its low-frequency image. Our
search is the exchange oracle's for the final score, and the set is an order, its best action first,
so that scans can be compared along their whole course. The distance is Euclidean, between
:func:`activemri.agents.networks.start_features`.

A step is one more training scan, in an order that is drawn. Validation chooses their number.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from activemri.agents.learners.learner import Problem, Report, require_positive, silent
from activemri.agents.networks import LearnedPolicy, StartNetwork, start_features
from activemri.agents.oracles import ExchangeOracle
from activemri.agents.order import order_of
from activemri.agents.rollout import rollout, start_scans


@dataclass(frozen=True, kw_only=True)
class NearestNeighbour:
    """The order of the training scan whose start looks most alike (SUNO)."""

    taught_by: ClassVar[str] = "fitted"
    max_steps: int = 128
    """Training scans, spread evenly, that get an order at most; each is a step."""
    subjects: int = 10
    """Fewest training subjects; fewer are refused."""
    swaps: int = 0
    """Rounds of exchanges, at most, after each scan's greedy search; each costs several times as
    much as a step of the search."""

    def __post_init__(self) -> None:
        require_positive(self, "max_steps", "subjects")
        if self.swaps < 0:
            raise ValueError(f"--learner.swaps: expected a number of at least 0; got {self.swaps}")

    def start(self, problem: Problem) -> "NearestNeighbourLearner":
        return NearestNeighbourLearner(self, problem)


class NearestNeighbourLearner:
    """Searches the order of one training scan a step."""

    def __init__(self, settings: NearestNeighbour, problem: Problem) -> None:
        self.settings, self.problem, self.step = settings, problem, 0
        places = problem.spread(
            settings.max_steps, subjects=settings.subjects, what="an order of the nearest neighbour"
        )
        self.positions = np.random.default_rng(problem.seed).permutation(places).tolist()
        self.orders: list[list[int]] = []
        self.keys = torch.zeros(0, 0, dtype=torch.float64)
        self.given = problem.start_network()

    def learn(self, n_steps: int, report: Report = silent, /) -> Mapping[str, float]:
        problem, metric, reached = self.problem, self.problem.metric, list[float]()
        oracle = ExchangeOracle(metric, max_swaps=self.settings.swaps)
        for position in self.positions[self.step : self.step + n_steps]:
            one = problem.scans[position]
            found = rollout(problem.scan, oracle, [one], seed=problem.seed)
            taken = [action for action in found.actions[0].tolist() if action >= 0]
            order = order_of("own", taken, problem.scan, metric=metric, data="", n_scans=1)
            view = start_scans(problem.scan, [one], seed=problem.seed).view
            key = start_features(view).cpu()
            self.keys = torch.cat([self.keys, key]) if self.orders else key
            self.orders.append(list(order.actions))
            reached.append(float(found.scores[metric][0, -1]))
            report(final=reached[-1])
        self.step += n_steps
        return {"final": float(np.mean(reached))} if reached else {"scans": len(self.orders)}

    def policy(self) -> LearnedPolicy:
        network = self.given
        if self.orders:
            bias = -self.keys.square().sum(dim=1)
            geometry = self.problem.scan.geometry
            network = StartNetwork.of(geometry, self.orders, 2 * self.keys, bias)
        return self.problem.policy(network.to(self.problem.scan.device))

    def state(self) -> dict[str, Any]:
        return {"step": self.step, "orders": list(self.orders), "keys": self.keys}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.step, self.keys = state["step"], state["keys"]
        self.orders = [list(order) for order in state["orders"]]
