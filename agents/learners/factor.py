"""The factor model: which energies go together, fitted to fully measured scans in seconds.

:class:`activemri.agents.networks.FactorNetwork` says what the model is and what it decides. Its
mean, loadings and variances are those of the log energies of all actions over the training scans,
in which every subject counts the same. With n subjects the covariance between actions is known
badly; its entries off the diagonal are multiplied by n / (n + prior), as a prior of so many
subjects with independent actions would have it (of the family of Schäfer and Strimmer, Stat Appl
Genet Mol Biol 4:32, 2005). Its largest principal components are the loadings, the rest of every
action's variance is its own.

A step is one more factor. Validation chooses their number; with a network it takes far longer than
the fit, and `--validate-every 20` asks less often. Before the first step there are no factors, and
the model is a fixed order by mean energy.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from activemri.agents.learners.learner import Problem, Report, require_positive, silent
from activemri.agents.networks import FactorNetwork, LearnedPolicy, energies
from activemri.agents.rollout import batches_of_a_kind, prepare_starts
from activemri.progress import Progress
from activemri.reconstruction.zero_filled import ZeroFilled

_SMALLEST = 1e-3  # variance of an action's own: nothing is known exactly


@dataclass(frozen=True, kw_only=True)
class Factor:
    """The action of largest expected energy, by a factor model of what was acquired."""

    taught_by: ClassVar[str] = "fitted"
    max_steps: int = 40
    """Most factors; each is a step."""
    scans: int = 2000
    """Training scans, spread evenly, that are measured at most."""
    subjects: int = 10
    """Fewest training subjects; fewer are refused."""
    prior: float = 20.0
    """Subjects whose actions are independent that are added to those there are."""

    def __post_init__(self) -> None:
        require_positive(self, "max_steps", "scans", "subjects")
        if not 0 <= self.prior < float("inf"):
            raise ValueError(f"--learner.prior: expected a number of at least 0; got {self.prior}")

    def start(self, problem: Problem) -> "FactorLearner":
        return FactorLearner(self, problem)


class FactorLearner:
    """Measures the training scans completely, then adds one factor a step."""

    def __init__(self, settings: Factor, problem: Problem) -> None:
        self.settings, self.problem, self.step = settings, problem, 0
        self.positions = problem.spread(
            settings.scans, subjects=settings.subjects, what="a factor model"
        )
        self.given: FactorNetwork | None = None
        if problem.warm_start is not None:  # stands until the first step
            given = problem.network("factor", channels=0, blocks=0, stops=False)
            assert isinstance(given, FactorNetwork)
            self.given = given

    def learn(self, n_steps: int, report: Report = silent, /) -> Mapping[str, float]:
        self.step += n_steps
        common = self.fitted["loadings"][:, : self.step].square().sum()
        share = float(common / self.fitted["variance"].sum().clamp(min=_SMALLEST))
        report(common=share)
        return {"common_variance": share}  # that the factors explain, as a share of all

    def policy(self) -> LearnedPolicy:
        if self.given is not None and not self.step:
            return self.problem.policy(self.given)
        mean, variance = self.fitted["mean"], self.fitted["variance"]
        loadings = self.fitted["loadings"][:, : min(self.step, self.settings.max_steps)]
        network = FactorNetwork.of(self.problem.scan.geometry, loadings.shape[1])
        own = (variance - loadings.square().sum(dim=1)).clamp(min=_SMALLEST)
        network.load_state_dict({"mean": mean, "loadings": loadings, "variance": own})
        return self.problem.policy(network.to(self.problem.scan.device))

    def state(self) -> dict[str, Any]:
        return {"step": self.step}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.step = state["step"]

    @cached_property
    def fitted(self) -> dict[str, Tensor]:
        """Of :func:`fit`, made when it is first asked for."""
        problem = self.problem
        scan = replace(problem.scan, reconstructor=ZeroFilled(), budget=None, metrics=())
        found, subjects = [], list[str]()
        with Progress("measure scans", len(self.positions), unit="scan") as progress:
            for places in batches_of_a_kind(problem.scans, self.positions, 16):
                batch = [problem.scans[place] for place in places]
                for state in prepare_starts(scan, batch, seed=problem.seed):
                    whole = scan.with_masks(state, state.view.measurable)
                    seen = energies(whole.view)
                    found.append(torch.stack([seen["energy"], seen["acquired"]]).cpu())
                    subjects += [one.subject for one in state.secret.slices]
                    progress(len(subjects))
        log_energy, known = torch.cat(found, dim=1)
        return fit(log_energy, known, subjects, prior=self.settings.prior)


def fit(
    log_energy: Tensor, known: Tensor, subjects: list[str], *, prior: float
) -> dict[str, Tensor]:
    """Mean and variance of every action, and all loadings, the largest factor first.

    Args:
        log_energy, known: of scans, and 1 where there is one: float64 (scan, n_actions).
        subjects: whose scans they are.
        prior: subjects with independent actions, beside those there are.

    Returns:
        float64 `mean` and `variance` (n_actions,), `loadings` (n_actions, n_factors).
    """
    names = list(dict.fromkeys(subjects))
    owner = torch.tensor([names.index(subject) for subject in subjects])
    weight = known / (owner.bincount()[owner, None] * len(names))  # of scans; they add up to 1
    total = weight.sum(dim=0).clamp(min=torch.finfo(torch.float64).tiny)
    mean = (weight * log_energy).sum(dim=0) / total
    centred = (log_energy - mean) * (weight * len(names) / max(len(names) - 1, 1)).sqrt()
    values, vectors = torch.linalg.svd(centred, full_matrices=False)[1:]
    share = len(names) / (len(names) + prior)
    return {
        "mean": mean,
        "variance": centred.square().sum(dim=0) / total,
        "loadings": (vectors * values[:, None] * share**0.5).T.contiguous(),
    }
