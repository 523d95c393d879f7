"""Policies: what they are and do; scores of single trial actions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from activemri.envs.scan import IDLE, Scan, Truth, View
from activemri.envs.scanner import gives_outlier_scores
from activemri.metrics import find_metric

# Memory that trial actions of one call may take, in bytes; more saves no time.
_MEMORY = 64e6


@dataclass(frozen=True)
class Traits:
    """Facts about a policy that decide how it is run and compared. Nothing else lists policies.

    ::

        traits = Traits(is_random=True, needs=frozenset({"lines"}))

    Attributes:
        is_order: takes the same actions in every scan of one size and start: a fixed order.
        is_random: draws from the generators; else one seed shows all that it does.
        is_oracle: asks for the truth: a bound, never a competitor.
        n_tried: actions that an oracle reconstructs with a network before each that it takes; None
            for all that are legal. It tells what the policy costs, and nothing else.
        repeats: has a rule of its own for measuring lines again; in ideal scans, where each is
            measured once, nothing is left of it.
        needs: "lines" (readouts that are whole lines), "grid" (samples on a Cartesian grid),
            "uncertainty" (a reconstructor that gives one), "samples" (a reconstructor that draws
            from the posterior, or gives an uncertainty at least), "evaluator", "reconstructor"
            (to try actions with), "repeats" (a scanner that measures readouts again),
            "outlier-scores" (one that says what it objects to).
    """

    is_order: bool = False
    is_random: bool = False
    is_oracle: bool = False
    n_tried: int | None = None
    repeats: bool = False
    needs: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Training:
    """Record of what made a policy: the entry "training" of its file's info.

    Attributes:
        taught_by: e.g. "imitation of an oracle", "reinforcement learning", "fitted".
        subjects: how many it learned from.
        seconds: wall clock, without validations, of all parts of a training that was resumed; None
            where one of them was not measured.
        actions: taken in the environment, or tried by an oracle; None where nothing acts to learn.
    """

    taught_by: str
    subjects: int
    seconds: float | None
    actions: int | None = None


class Policy(Protocol):
    """Chooses the next action of every scan of a batch.

    ::

        class Alternating:
            # From the edge of k-space inwards.
            name, traits = "alternating", Traits(is_order=True)

            def act(self, view, generators):
                return choose(view.geometry.frequency, view.legal)

    Policies remember nothing between calls: all that they need is in the view (the lines acquired,
    those that the scan began with, both budgets), so that episodes cannot leak into one another.
    Those of a fixed number of actions refuse others by a method ``check(geometry)``.
    """

    @property
    def name(self) -> str: ...
    @property
    def traits(self) -> Traits: ...

    def act(self, view: View, generators: Sequence[np.random.Generator]) -> Tensor:
        """Choose an action for every scan.

        Args:
            view: what is known of the scans; with the truth for oracles.
            generators: one for each scan, so that an episode does not depend on its batch.

        Returns:
            int64 (batch,), legal for every scan that is not finished.
        """
        ...


@dataclass(frozen=True)
class Greedy:
    """Takes the legal action of highest score, of equals the first; at random, draws instead.

    Readouts that may be measured again are, whenever they score best, by oracles and by policies
    that repeat; by others only after all have been measured. A random policy draws legal actions
    with probabilities in proportion to their scores, which are above 0.

    Attributes:
        name: as in tables.
        score: worth of every action: view -> float (batch, n_actions) or (n_actions,).
        traits: facts about the score.
    """

    name: str
    score: Callable[[View], Tensor]
    traits: Traits = Traits()

    def act(self, view: View, generators: Sequence[np.random.Generator]) -> Tensor:
        scores = self.score(view)
        _require_scores(scores, view.legal, self)
        if self.traits.is_random:
            # An exponential race: the first arrival of rates w is a draw in proportion to w.
            race = np.stack([g.exponential(size=view.legal.shape[1]) for g in generators])
            return choose(-torch.from_numpy(race).to(scores.device) / scores, view.legal)
        repeats = self.traits.repeats or self.traits.is_oracle
        return choose(scores, view.legal if repeats else view.due)


def decide(policy: Policy, view: View, generators: Sequence[np.random.Generator]) -> Tensor:
    """Actions of a policy, int64 (batch,); one that gives anything else is a ValueError."""
    given: object = policy.act(view, generators)
    actions = torch.from_numpy(given) if isinstance(given, np.ndarray) else given
    if (
        not isinstance(actions, Tensor)
        or actions.shape != (len(view),)
        or actions.is_floating_point()
        or actions.is_complex()
        or actions.dtype == torch.bool
    ):
        form = getattr(actions, "dtype", type(actions).__name__)
        raise ValueError(
            f"policy {policy.name!r}: expected a whole number for each of {len(view)} scan(s), "
            f"int64 ({len(view)},); got {form} of shape {tuple(getattr(actions, 'shape', ()))}"
        )
    return actions.to(view.legal.device, torch.int64)


def _require_scores(scores: object, legal: Tensor, policy: Policy) -> None:
    """Refuse scores of actions that are no numbers, by a ValueError."""
    shape, n_actions = tuple(getattr(scores, "shape", ())), legal.shape[1]
    if not isinstance(scores, Tensor) or shape not in (tuple(legal.shape), (n_actions,)):
        raise ValueError(
            f"policy {policy.name!r}: expected scores of shape {tuple(legal.shape)} or "
            f"{(n_actions,)}; got {type(scores).__name__} of shape {shape}"
        )
    if bool((scores.isnan() & legal).any()):
        raise ValueError(
            f"policy {policy.name!r}: expected numbers as scores of legal actions; got NaN"
        )
    if policy.traits.is_random and bool(((scores <= 0) & legal).any()):
        raise ValueError(
            f"policy {policy.name!r} draws in proportion to its scores: expected numbers above 0"
        )


def require_played(policy: Policy, scan: Scan) -> None:
    """Refuse a policy that cannot decide on the readouts of scans, by a ValueError."""
    if lacking := unmet(policy.traits, scan):
        raise ValueError(f"policy {policy.name!r} needs {lacking}")
    if (check := getattr(policy, "check", None)) is not None:
        check(scan.geometry)


def unmet(traits: Traits, scan: Scan) -> str:
    """Needs of a policy that scans do not meet, in words; empty for none."""
    geometry, scanner = scan.geometry, type(scan.scanner).__name__
    if "lines" in traits.needs and not geometry.has_lines:
        return f"whole lines (columns or rows); geometry {geometry.name!r} has none"
    if "grid" in traits.needs and not geometry.transform.is_cartesian:
        return f"samples on a Cartesian grid; geometry {geometry.name!r} has none"
    if "repeats" in traits.needs and scan.scanner.repeats == 1:
        return (
            f"readouts that may be measured again; the scanner {scanner} measures each once: give "
            "--repeats where the scanner has artefacts, or learn an order for these scans"
        )
    if "outlier-scores" in traits.needs and not gives_outlier_scores(scan.scanner):
        return (
            f"a scanner that objects to measurements; {scanner} never does: choose one with a "
            "navigator or an outlier score (--scanner moving or spiking), or leave re-acquire out"
        )
    return ""


def choose(priority: Tensor, legal: Tensor) -> Tensor:
    """The legal action of highest priority; of equals the first; IDLE where none is legal.

    Args:
        priority: float (batch, n_actions) or (n_actions,). NaN counts as lowest.
        legal: bool (batch, n_actions).

    Returns:
        int64 (batch,).
    """
    lowest = torch.finfo(torch.float64).min
    # Legal actions stay above illegal ones, whatever their priority.
    finite = priority.double().nan_to_num(nan=lowest, posinf=-lowest, neginf=lowest)
    best = torch.where(legal, finite, -torch.inf).argmax(dim=1)
    return best.masked_fill(~legal.any(dim=1), IDLE)


def score_actions(truth: Truth, wanted: Tensor, metric: str) -> Tensor:
    """True scores after single actions: float64 (batch, n_actions), higher is better.

    Args:
        truth: of scans under way.
        wanted: actions to try in each scan, bool (batch, n_actions); others have -inf.
        metric: name of the score; the sign of errors is turned.
    """
    result = torch.full(wanted.shape, -torch.inf, dtype=torch.float64, device=wanted.device)
    most = int(wanted.sum(dim=1).max())
    if most == 0:
        return result
    # Scans want different numbers of trials: the shorter lists are filled up with unwanted ones.
    trials = wanted.byte().sort(dim=1, descending=True, stable=True).indices[:, :most]
    view, n_readouts = truth.state.view, truth.scan.geometry.readouts_per_action
    n_bytes = 8 * len(view) * view.log.samples.shape[2] * n_readouts * sum(view.transform.shape)
    parts = trials.split(max(1, int(_MEMORY / n_bytes)), dim=1)
    scores = torch.cat([truth.scores_of_actions(part, metric) for part in parts], dim=1)
    result.scatter_(1, trials, signed(scores, metric))
    return result.masked_fill(~wanted, -torch.inf)


def signed(scores: Tensor, metric: str) -> Tensor:
    """Scores of which a larger one is a better image."""
    return scores if find_metric(metric).higher_is_better else -scores
