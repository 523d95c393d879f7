"""Masks that episodes really visit, for training reconstructors on them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from activemri.agents.fixed import LEARNERS
from activemri.agents.heuristic import density
from activemri.agents.order import Order
from activemri.agents.registry import make_policy, needs_fit
from activemri.agents.rollout import PADDING, Episodes, rollout_dataset
from activemri.data.slices import SliceDataset, SliceInfo, SliceList
from activemri.envs.acquisition import Acquisition
from activemri.mri import geometry
from activemri.progress import tracked
from activemri.reconstruction.zero_filled import ZeroFilled

#: Masks that do not depend on the scan: a new one is drawn every time, lines in proportion to a
#: weight of their distance from the centre.
_DRAWN: dict[str, Callable[[Tensor], Tensor]] = {
    "random": torch.ones_like,
    "variable-density": density,
}

_NEVER = 1 << 30


@dataclass(frozen=True, eq=False)
class Visit:
    """One recorded episode.

    Attributes:
        scan: who was scanned.
        moment: for every line of the frame, how many lines had been acquired after the start when
            it was there: 0 for start lines; int64 (n_lines,).
    """

    scan: SliceInfo
    moment: Tensor


class VisitedMasks:
    """Draws masks that policies visit: one policy, one moment, all equally likely.

    A recorded policy gives the mask that it visited on this very scan; if it was not recorded on
    it, the mask of some scan of the same size, or else of any. Random policies draw anew.

    Args:
        visits: recorded episodes by name of the policy.
        n_center_lines: lines in the centre that every episode starts with.
        budget: length of an episode in lines after those.
        drawn: random policies that are mixed in.
    """

    def __init__(
        self,
        visits: Mapping[str, Sequence[Visit]],
        *,
        n_center_lines: int,
        budget: int,
        drawn: Sequence[str] = tuple(_DRAWN),
    ) -> None:
        self.n_center_lines = n_center_lines
        self.budget = budget
        self.policies = (*drawn, *visits)
        self._visits = {name: list(episodes) for name, episodes in visits.items()}

    def __call__(
        self, scan: SliceInfo, generator: np.random.Generator, *, step: int | None = None
    ) -> Tensor:
        """One mask for a scan.

        Args:
            scan: what is known of it without reading it.
            generator: source of all randomness.
            step: lines since the start of the episode; None draws it uniformly from 0 to budget.

        Returns:
            bool (width of the scan,), True where acquired. Lines that the scanner never measured
            may be in it. Policies that acquire several lines at once may have fewer than `step`.
        """
        policy = self.policies[generator.integers(len(self.policies))]
        n = int(generator.integers(self.budget + 1)) if step is None else step
        if policy in _DRAWN:
            return self._draw(policy, scan.shape[1], generator) <= n
        visit = self._recorded(policy, scan, generator)
        return _fit(visit.moment, scan.shape[1]) <= n

    def _draw(self, policy: str, width: int, generator: np.random.Generator) -> Tensor:
        """Moments of the lines of an episode of a random policy: int64 (width,)."""
        start = geometry.columns((1, width)).center_lines(min(self.n_center_lines, width))
        free = (~start).nonzero().squeeze(1)
        distance = (free - width // 2).abs() / max(width // 2, 1)
        weight = _DRAWN[policy](distance.double())
        race = torch.from_numpy(generator.exponential(size=len(free))) / weight
        moment = torch.zeros(width, dtype=torch.int64)
        moment[free[race.argsort()]] = torch.arange(1, len(free) + 1)
        return moment

    def _recorded(self, policy: str, scan: SliceInfo, generator: np.random.Generator) -> Visit:
        visits = self._visits[policy]
        own = [v for v in visits if (v.scan.volume, v.scan.index) == (scan.volume, scan.index)]
        same = own or [v for v in visits if v.scan.shape == scan.shape] or visits
        return same[generator.integers(len(same))]


def visit_masks(
    dataset: SliceDataset,
    *,
    n_center_lines: int,
    budget: int,
    policies: Sequence[str],
    n_scans: int = 32,
    seed: int = 0,
    progress: bool = False,
) -> VisitedMasks:
    """Roll policies out on training scans and record what they acquire.

    Images are zero-filled, whose scores cost little: the oracles' masks are those that suit the
    scan, if not exactly those that suit the reconstructor that is being trained.

    Args:
        dataset: training scans, acquired column by column.
        n_center_lines: lines in the centre that every episode starts with.
        budget: length of an episode in lines after those.
        policies: names of policies; masks of "random" and "variable-density" are drawn anyway.
        n_scans: record at most that many scans, drawn at random.
        seed: of all draws.
        progress: show a progress bar.
    """
    drawn = np.random.default_rng(seed).permutation(len(dataset))[:n_scans]
    scans = SliceList([dataset[position] for position in sorted(drawn.tolist())], dataset.name)
    acquisition = Acquisition(
        geometry.columns(dataset.shape),
        ZeroFilled(),
        budget=budget,
        n_center_lines=n_center_lines,
        metrics=("ssim",),
    )
    visits: dict[str, list[Visit]] = {}
    orders: dict[str, Order] = {}
    names = [name for name in policies if name not in _DRAWN]
    for name in tracked(names, "Recording masks", unit="policy", shown=progress):
        if needs_fit(name):
            orders[name] = LEARNERS[name](acquisition, scans, seed=seed, data=dataset.name)
        order = orders.get(name, orders.get("lbcs"))
        policy = make_policy(name, order=order)
        batches = rollout_dataset(acquisition, policy, scans, seed=seed)
        visits[name] = [v for _, episodes in batches for v in visits_of(episodes, acquisition)]
    return VisitedMasks(visits, n_center_lines=n_center_lines, budget=budget)


def visits_of(episodes: Episodes, acquisition: Acquisition) -> list[Visit]:
    """What was acquired when, in episodes that were played."""
    moment = torch.full(episodes.start_mask.shape, _NEVER)
    moment[episodes.start_mask] = 0
    groups = acquisition.geometry.groups.cpu()
    so_far = episodes.n_acquired - episodes.n_acquired[:, :1]
    for step, actions in enumerate(episodes.actions.T):
        for row in (actions != PADDING).nonzero().squeeze(1).tolist():
            lines = groups[actions[row]]
            moment[row, lines] = moment[row, lines].clamp(max=int(so_far[row, step + 1]))
    return [Visit(*pair) for pair in zip(episodes.scans, moment, strict=True)]


def _fit(moment: Tensor, width: int) -> Tensor:
    """Lines of the frame, or of a scan of another width, aligned at the centre: (width,)."""
    fitted = torch.full((width,), _NEVER)
    shift = len(moment) // 2 - width // 2
    first, last = max(0, -shift), min(width, len(moment) - shift)
    fitted[first:last] = moment[first + shift : last + shift]
    return fitted
