"""Moments of episodes: the masks, and the order of measurements, that reconstructors train on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from activemri.agents.heuristic import density
from activemri.agents.order import Order, fit_order
from activemri.agents.policy import unmet
from activemri.agents.registry import make_policy, needs_fit, traits_of
from activemri.agents.rollout import PADDING, Episodes, rollout_dataset
from activemri.data.slices import SliceDataset, SliceInfo, SliceList
from activemri.envs.scan import Scan
from activemri.progress import track
from activemri.reconstruction.zero_filled import ZeroFilled

#: Random policies, whose masks do not depend on the scan: new ones are drawn every time, actions
#: in proportion to a weight of their distance from the centre.
_DRAWN: dict[str, Callable[[Tensor], Tensor]] = {
    "random": torch.ones_like,
    "variable-density": density,
}

#: Actions above which policies that score every action are not played: it would take days.
MOST_SCORED = 512


@dataclass(frozen=True, eq=False)
class Moment:
    """Measurements of one scan up to a moment of an episode, or all of them.

    Attributes:
        start: readouts that the episode began with, bool (n_readouts,).
        log: readouts measured since, in order, again where they were repeated, int64 (n,).
        after: readouts measured when the action of each was complete, int64 (n,).
    """

    start: Tensor
    log: Tensor
    after: Tensor

    @property
    def mask(self) -> Tensor:
        """Readouts measured, bool (n_readouts,); some may not exist in the scan."""
        mask = self.start.clone()
        mask[self.log] = True
        return mask

    def at(self, step: int) -> "Moment":
        """The moment after so many readouts; an action that is not complete does not count."""
        over = self.after <= step
        return Moment(self.start, self.log[over], self.after[over])


#: An episode that a policy has played, to its end, and the slice that was scanned.
Recorded = tuple[SliceInfo, Moment]


class EpisodeMasks:
    """Moments of policies' episodes: one policy, one moment, all equally likely.

    A recorded policy gives what it measured of this very slice; if it was not recorded on it, of
    some slice of the same size, or else of any. Random policies draw anew.

    Args:
        episodes: by name of the policy.
        scan: of the episodes; its geometry numbers the readouts.
        drawn: random policies that are mixed in.
    """

    def __init__(
        self,
        episodes: Mapping[str, Sequence[Recorded]],
        *,
        scan: Scan,
        drawn: Sequence[str] = tuple(_DRAWN),
    ) -> None:
        self.scan, self.episodes = scan, episodes
        #: Length of an episode in readouts after the start.
        self.budget = scan.budget or scan.geometry.n_readouts - scan.n_center_lines
        self.policies = (*drawn, *episodes)

    def __call__(
        self, info: SliceInfo, generator: np.random.Generator, *, step: int | None = None
    ) -> Moment:
        """Draw a moment of a slice's scan.

        `step` counts readouts since the start; None draws it uniformly from 0 to the budget.
        Actions of several readouts may give fewer.
        """
        policy = self.policies[generator.integers(len(self.policies))]
        n = int(generator.integers(self.budget + 1)) if step is None else step
        if policy not in _DRAWN:
            played = self.episodes[policy]
            place = (info.volume, info.index)
            own = [moment for one, moment in played if (one.volume, one.index) == place]
            own = own or [moment for one, moment in played if one.shape == info.shape]
            own = own or [moment for _, moment in played]
            return own[generator.integers(len(own))].at(n)
        geometry = self.scan.geometry.to("cpu")
        transform = geometry.transform.fitted(info.shape)
        exists = transform.measurable(torch.ones(1, *info.shape, dtype=torch.bool))[0]
        start = geometry.start_masks(
            exists[None],
            min(self.scan.n_center_lines, geometry.n_readouts),
            n_random=self.scan.n_random_lines,
            generators=[generator],
        )[0]
        actions = geometry.by_action(exists & ~start, "any").nonzero().squeeze(1)
        weight = _DRAWN[policy](geometry.by_action(transform.radius, "mean")[actions])
        race = torch.from_numpy(generator.exponential(size=len(actions))) / weight
        groups, mentioned = geometry.readouts(actions[race.argsort()])
        fresh = (exists & ~start)[groups] & mentioned
        after = fresh.sum(dim=1).cumsum(dim=0)[:, None].expand_as(groups)
        return Moment(start, groups[fresh], after[fresh]).at(n)


def record_episodes(
    dataset: SliceDataset,
    scan: Scan,
    *,
    policies: Sequence[str],
    n_scans: int = 32,
    seed: int = 0,
    show: bool = False,
) -> EpisodeMasks:
    """Play policies on training scans and record what they measure.

    Images are zero-filled, whose scores cost little: the oracles' masks are those that suit the
    scan, if not exactly those that suit the reconstructor that is being trained. Policies that
    need lines or a grid are left out where there are none, and those that score every action where
    there are more than :data:`MOST_SCORED`.

    Args:
        dataset: training scans.
        scan: scan protocol, with a geometry that holds them.
        policies: their names; masks of "random" and "variable-density" are drawn anyway.
        n_scans: at most so many, drawn at random.
        seed: of all draws.
        show: progress.
    """
    drawn = np.random.default_rng(seed).permutation(len(dataset))[:n_scans]
    scans = SliceList([dataset[position] for position in sorted(drawn.tolist())], dataset.name)
    lean = replace(scan, reconstructor=ZeroFilled(), metrics=("ssim",), task=None)
    episodes: dict[str, list[Recorded]] = {}
    orders: dict[str, Order] = {}
    names = []
    for name in policies:
        traits = traits_of(name)
        scores_all = traits.is_oracle or needs_fit(name)
        too_many = scores_all and scan.geometry.n_actions > MOST_SCORED
        if name not in _DRAWN and not too_many and not unmet(traits, lean):
            names.append(name)
    for name in track(names, "play policies", unit="policy", show=show):
        if needs_fit(name):
            orders[name] = fit_order(name, lean, scans, seed=seed, data=dataset.name)
        policy = make_policy(name, order=orders.get(name, orders.get("lbcs")))
        batches = rollout_dataset(lean, policy, scans, seed=seed)
        episodes[name] = [one for batch in batches for one in recorded_episodes(batch, lean)]
    return EpisodeMasks(episodes, scan=scan)


def recorded_episodes(episodes: Episodes, scan: Scan) -> list[Recorded]:
    """Measurements of episodes that were played, scan by scan."""
    geometry, repeats = scan.geometry.to("cpu"), scan.scanner.repeats
    so_far = episodes.n_acquired - episodes.n_acquired[:, :1]
    found = []
    for row, info in enumerate(episodes.scans):
        start, taken = episodes.start_mask[row], episodes.actions[row]
        taken = taken[taken != PADDING]
        count, none = start.long(), torch.zeros(0, dtype=torch.int64)
        log, after = [none], [none]
        for n, action in zip(so_far[row, 1:].tolist(), taken.tolist(), strict=False):
            group, mentioned = geometry.readouts(torch.tensor(action))
            group = group[mentioned & (count[group] < repeats)]
            count[group] += 1
            log.append(group)
            after.append(torch.full_like(group, n))
        found.append((info, Moment(start, torch.cat(log), torch.cat(after))))
    return found
