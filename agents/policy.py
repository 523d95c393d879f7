"""What every policy takes and gives."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from activemri.envs.scan import IDLE, View
from activemri.mri.geometry import Geometry


@dataclass(frozen=True)
class Traits:
    """Facts about a policy that decide how it is run and compared. Nothing else lists policies.

    ::

        traits = Traits(is_random=True, needs=frozenset({"lines"}))

    Attributes:
        is_order: takes the same actions in every scan of one size and start: a fixed order.
        is_random: draws from the generators; else one seed shows all that it does.
        is_oracle: asks for the truth: a bound, never a competitor.
        repeats: has a rule of its own for measuring lines again; in ideal scans, where each is
            measured once, nothing is left of it.
        needs: "lines" (readouts that are whole lines), "grid" (samples on a Cartesian grid),
            "uncertainty" (a reconstructor that gives
            one), "samples" (a reconstructor that draws from the posterior, or gives an
            uncertainty at least), "evaluator", "reconstructor" (to try actions with).
    """

    is_order: bool = False
    is_random: bool = False
    is_oracle: bool = False
    repeats: bool = False
    needs: frozenset[str] = frozenset()


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

    Attributes:
        name: as in tables.
        traits: facts about it.
    """

    @property
    def name(self) -> str: ...
    @property
    def traits(self) -> Traits: ...

    def act(self, view: View, generators: Sequence[np.random.Generator]) -> Tensor:
        """Choose.

        Args:
            view: what is known of the scans; with the truth for oracles.
            generators: one for each scan, so that an episode does not depend on its batch.

        Returns:
            int64 (batch,), legal for every scan that is not finished.
        """
        ...


def require_played(policy: Policy, geometry: Geometry) -> None:
    """Refuse a policy that cannot decide on the readouts of a geometry.

    Raises:
        ValueError: says what it needs.
    """
    needs = policy.traits.needs
    if "lines" in needs and not geometry.has_lines:
        raise ValueError(
            f"policy {policy.name!r} decides on whole lines (columns or rows); geometry "
            f"{geometry.name!r} has none"
        )
    if "grid" in needs and not geometry.transform.is_cartesian:
        raise ValueError(
            f"policy {policy.name!r} needs samples on a Cartesian grid; geometry "
            f"{geometry.name!r} has none"
        )


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
