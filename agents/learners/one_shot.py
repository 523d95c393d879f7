"""One shot: a choice among a few orders, made once, by what the start of the scan shows.

Hong et al., Adaptive selection of sampling-reconstruction in Fourier compressed sensing, ECCV 2024,
choose among pairs of masks and reconstructions; Gautam et al., arXiv 2509.16846, predict the mask
of a scan from its low frequencies. Here the first order is `lbcs` of all training scans. The others
are each `lbcs` of a part of them: at first the parts go by the look of the start (quantiles of its
first principal component), then, round after round, every scan joins the order that serves it best.

Ridge regression predicts from the look of the start what every order is worth beyond its mean over
the scans. Scans of held-out subjects decide how strongly it is held back; where they are best
served by a single order, no weights are left and that order is followed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from activemri.agents.learners.learner import Problem, Report, require_positive, silent
from activemri.agents.networks import LearnedPolicy, StartNetwork, start_features
from activemri.agents.order import fit_order
from activemri.agents.policy import signed
from activemri.agents.rollout import rollout, start_scans

#: Strengths of the ridge, relative to the mean square of the features; the first leaves nothing.
_RIDGES = (torch.inf, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01)
_FOLDS = 8  # of subjects


@dataclass(frozen=True, kw_only=True)
class OneShot:
    """The best of a few orders, as the start of the scan predicts it."""

    taught_by: ClassVar[str] = "fitted"
    max_steps: int = 4
    """Rounds: `lbcs` of all scans is the first; each of the others assigns the scans anew."""
    orders: int = 4
    """Orders to choose from, that of all scans among them."""
    scans: int = 64
    """Training scans, spread evenly, that are used at most."""
    subjects: int = 10
    """Fewest training subjects; fewer are refused."""

    def __post_init__(self) -> None:
        require_positive(self, "max_steps", "orders", "scans", "subjects")

    def start(self, problem: Problem) -> "OneShotLearner":
        return OneShotLearner(self, problem)


class OneShotLearner:
    """Fits the orders of one round a step, then what chooses among them."""

    def __init__(self, settings: OneShot, problem: Problem) -> None:
        self.settings, self.problem, self.step = settings, problem, 0
        places = problem.spread(
            settings.scans, subjects=settings.subjects, what="a choice among orders"
        )
        self.slices = [problem.scans[place] for place in places]
        self.given = problem.start_network()
        self.orders: list[list[int]] = []
        self.part = torch.zeros(len(places), dtype=torch.int64)  # order that each scan belongs to
        self.worth = torch.zeros(len(places), 0, dtype=torch.float64)  # (scan, order)

    def learn(self, n_steps: int, report: Report = silent, /) -> Mapping[str, float]:
        for _ in range(n_steps):
            self._round(report)
            self.step += 1
        best = self.worth.amax(dim=1).mean() - self.worth[:, 0].mean()
        return {"room": float(best)}  # mean score that the best choice would add to `lbcs`

    def _round(self, report: Report) -> None:
        if not self.orders:
            return self._fit([0], report)
        n_others = self.settings.orders - 1
        if not n_others:
            return None
        if len(self.orders) == 1:
            centred = self.features - self.features.mean(dim=0)
            along = centred @ torch.linalg.svd(centred, full_matrices=False)[2][0]
            part = 1 + along.argsort().argsort() * n_others // len(along)
        else:
            part = 1 + self.worth[:, 1:].argmax(dim=1)
        changed = part != self.part
        touched = [*part[changed].tolist(), *self.part[changed].tolist()]
        self.part = part
        return self._fit(sorted({k for k in touched if k and bool((part == k).any())}), report)

    def _fit(self, numbers: list[int], report: Report) -> None:
        """Fit these orders to their scans, and play them on all."""
        problem, metric = self.problem, self.problem.metric
        for k in numbers:
            own = [
                one for one, part in zip(self.slices, self.part.tolist(), strict=True) if part == k
            ]
            order = fit_order(
                "lbcs",
                problem.scan,
                own,
                metric=metric,
                seed=problem.seed,
                on_step=lambda _: report(),
            )
            played = rollout(problem.scan, order, self.slices, seed=problem.seed)
            worth = signed(played.area(metric), metric)
            if not bool(torch.isfinite(worth).all()):
                raise FloatingPointError("the scores of an order are not finite numbers")
            if k < len(self.orders):
                self.orders[k], self.worth[:, k] = list(order.actions), worth
            else:
                self.orders.append(list(order.actions))
                self.worth = torch.cat([self.worth, worth[:, None]], dim=1)
            report(area=float(worth.mean()))

    @cached_property
    def features(self) -> Tensor:
        """Looks of the starts, float64 (scan, feature)."""
        problem = self.problem
        starts = [start_scans(problem.scan, [one], seed=problem.seed) for one in self.slices]
        return torch.cat([start_features(state.view).cpu() for state in starts])

    def policy(self) -> LearnedPolicy:
        network = self.given
        if self.orders:
            subjects = [one.subject for one in self.slices]
            weight, bias = fit_choice(self.features, self.worth, subjects)
            network = StartNetwork.of(self.problem.scan.geometry, self.orders, weight, bias)
        return self.problem.policy(network.to(self.problem.scan.device))

    def state(self) -> dict[str, Any]:
        kept = {"orders": list(self.orders), "part": self.part, "worth": self.worth.clone()}
        return {"step": self.step, **kept}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.step, self.part, self.worth = state["step"], state["part"], state["worth"].clone()
        self.orders = [list(order) for order in state["orders"]]


def fit_choice(features: Tensor, worth: Tensor, subjects: list[str]) -> tuple[Tensor, Tensor]:
    """Weights and constants of the choice, float64 (order, feature) and (order,).

    Args:
        features: of scans, float64 (scan, feature).
        worth: of every order in every scan, float64 (scan, order).
        subjects: whose scans they are.
    """
    names = list(dict.fromkeys(subjects))
    fold = torch.tensor([names.index(subject) % _FOLDS for subject in subjects])
    found = []
    for ridge in _RIDGES:
        total = 0.0
        for held_out in fold.unique():
            test = fold == held_out
            # Of a single fold nothing is left to learn from: constants alone.
            rest = ~test if bool((~test).any()) else test
            weight, bias = _regress(features[rest], worth[rest], ridge)
            chosen = (features[test] @ weight.T + bias).argmax(dim=1, keepdim=True)
            total += float(worth[test].gather(1, chosen).sum())
        found.append(total)
    return _regress(features, worth, _RIDGES[found.index(max(found))])


def _regress(features: Tensor, worth: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    centre, mean = features.mean(dim=0), worth.mean(dim=0)
    if ridge == torch.inf:
        return torch.zeros(len(mean), len(centre), dtype=features.dtype), mean
    x = features - centre
    gram = x @ x.T
    gram += (ridge * gram.diagonal().mean() + torch.finfo(gram.dtype).eps) * torch.eye(len(gram))
    weight = torch.linalg.solve(gram, worth - mean).T @ x
    return weight, mean - weight @ centre
