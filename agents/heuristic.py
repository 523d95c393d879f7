"""Heuristics: an order of the actions, or a probability over them, the same for every subject.

They know the geometry and the lines that a scan has, and look at no image.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from activemri.agents.policy import Greedy, Policy, Traits, choose, decide
from activemri.envs.scan import View
from activemri.mri.geometry import Geometry, cartesian

#: Name of the wrapper that measures again what the scanner objects to.
RE_ACQUIRE = "re-acquire"

# Powers of (1 - frequency) between 1 and 6 are usual; see `polynomial_density`.
DENSITY_POWER = 3
DENSITY_FLOOR = 0.01

_ORDER, _RANDOM = Traits(is_order=True), Traits(is_random=True)


def random() -> Greedy:
    """Every legal action is equally likely."""
    return Greedy("random", lambda view: torch.ones_like(view.legal).double(), _RANDOM)


def variable_density() -> Greedy:
    """Random, more often near the centre of k-space; see :func:`polynomial_density`."""
    return Greedy("variable-density", polynomial_density, _RANDOM)


def low_frequency_first() -> Greedy:
    """From the centre outwards; of two at one distance the negative frequency first."""
    return Greedy("low-frequency-first", lambda view: -view.geometry.frequency, _ORDER)


def high_frequency_first() -> Greedy:
    """From the edge inwards."""
    return Greedy("high-frequency-first", lambda view: view.geometry.frequency, _ORDER)


def equispaced() -> Greedy:
    """Actions of an equispaced mask in bit-reversed order, then the others from the centre.

    The mask has as many actions as the budget pays for, spread evenly over those that were legal
    at the start, counted in their order of numbers: along one axis, or, for points, row by row.
    """

    def priority(view: View) -> Tensor:
        geometry = view.geometry
        at_start = geometry.legal(view.start_mask, view.measurable, view.start_budget)
        n_wanted = -(-view.start_budget // geometry.readouts_per_action)
        result = (-2 - geometry.frequency).repeat(len(at_start), 1)
        for row, wanted in enumerate(n_wanted.tolist()):
            candidates = at_start[row].nonzero().squeeze(1)
            if len(candidates):
                places = _spread(len(candidates), min(wanted, len(candidates)))
                rank = torch.linspace(0, -1, len(places), dtype=torch.float64)
                result[row, candidates[places.to(result.device)]] = rank.to(result.device)
        return result

    return Greedy("equispaced", priority, _ORDER)


def conjugate_symmetric() -> Greedy:
    """From the centre outwards, one side of k-space first.

    The k-space of a real image has equal magnitudes at opposite frequencies, so a line whose
    opposite is acquired says little that is new, and comes last.
    """

    def priority(view: View) -> Tensor:
        geometry, fresh = view.geometry, view.measurable & ~view.mask
        tells = fresh & ~view.mask[:, cartesian(view.transform).mirror.to(fresh.device)]
        informative, distance = geometry.by_action(tells, "any"), geometry.frequency
        return torch.where(informative, -distance, -distance - 1 - distance.max())

    traits = Traits(is_order=True, needs=frozenset({"grid"}))
    return Greedy("conjugate-symmetric", priority, traits)


def repeat_centre() -> Greedy:
    """Averages the centre of k-space most, where lines may be measured again.

    The method of highest averages: next comes the action of the largest w / (n + 1), of the density
    w of :func:`polynomial_density`, measured n times so far. In ideal scans it is
    `low-frequency-first`.
    """

    def priority(view: View) -> Tensor:
        return polynomial_density(view) / (view.rounds + 1)

    return Greedy("repeat-centre", priority, Traits(is_order=True, repeats=True))


@dataclass(frozen=True)
class ReAcquiring:
    """Measures again at once what the scanner objects to; else an order goes on.

    The accept-or-reject rule of navigators, see :class:`activemri.envs.scanner.Moving`. It is no
    order: what looks suspicious differs from scan to scan.

    Attributes:
        order: any policy.
        name: as in tables.
    """

    order: Policy
    name: str

    @property
    def traits(self) -> Traits:
        own = self.order.traits
        needs = own.needs | {"repeats", "outlier-scores"}
        return replace(own, is_order=False, repeats=True, needs=needs)

    def check(self, geometry: Geometry) -> None:
        """Refuse what the order refuses, by a ValueError."""
        if (check := getattr(self.order, "check", None)) is not None:
            check(geometry)

    def act(self, view: View, generators: Sequence[np.random.Generator]) -> Tensor:
        objected = view.legal & view.geometry.by_action(view.log.outlier_score > 1, "any")
        again = choose(torch.zeros_like(objected[0], dtype=torch.float64), objected)
        return torch.where(again >= 0, again, decide(self.order, view, generators))


def re_acquire(policy: Policy | None = None) -> ReAcquiring:
    """An order that measures again what the scanner objects to: by default low-frequency-first."""
    if policy is None:
        return ReAcquiring(low_frequency_first(), RE_ACQUIRE)
    return ReAcquiring(policy, f"{policy.name}+{RE_ACQUIRE}")


def polynomial_density(view: View) -> Tensor:
    """Weights (1 - r)^p plus a floor at the distance r from the centre: float64 (batch, n_actions).

    The polynomial density of Lustig, Donoho and Pauly, Magn Reson Med 58:1182-1195 (2007). They
    fix the offset by the number of samples wanted; here it is constant, because actions are drawn
    one by one, without replacement, until the budget is spent. r is 1 at the outermost line that
    the scan has.
    """
    distance = view.geometry.frequency
    exists = view.geometry.by_action(view.measurable, "any")
    outermost = torch.where(exists, distance, 0.0).amax(dim=1, keepdim=True)
    return density((distance / outermost.clamp(min=1e-9)).clamp(max=1))


def density(distance: Tensor) -> Tensor:
    """Weight at a distance from the centre of k-space between 0 and 1; of the same shape."""
    return (1 - distance) ** DENSITY_POWER + DENSITY_FLOOR


@lru_cache(maxsize=256)
def _spread(n: int, k: int) -> Tensor:
    """k of n places, evenly spaced and ordered so that every first few are spread out.

    That is van der Corput's order, in which the binary digits of 0 to k - 1 are read backwards.
    """
    n_bits = max(k - 1, 1).bit_length()
    backwards = [int(f"{i:0{n_bits}b}"[::-1], 2) for i in range(1 << n_bits)]
    return ((2 * torch.tensor([i for i in backwards if i < k]) + 1) * n) // (2 * k)
