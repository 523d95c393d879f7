"""An oracle that needs no ground truth: plausible images take the place of the target."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from activemri.agents.adaptive import action_gains, line_variance
from activemri.agents.greedy import score_actions, signed
from activemri.agents.policy import Traits, choose
from activemri.agents.posterior import posterior_samples
from activemri.data.slices import Slice
from activemri.envs.scan import Scan, Truth, View
from activemri.metrics import find_metric
from activemri.metrics.reference import center_crop
from activemri.mri.geometry import cartesian
from activemri.mri.operators import Operator
from activemri.reconstruction.reconstructor import Reconstruction, Reconstructor


@dataclass(frozen=True, eq=False)
class LookAhead:
    """Takes the action that would raise the score most if a posterior sample were the truth.

    For every sample x_s: what has been acquired stays, all else is what would be measured of x_s;
    each of the most promising actions is tried, the result reconstructed, and scored against the
    magnitude of x_s. The action with the best mean score over the samples is taken. With the truth
    as only sample it is the one-step oracle.

    It imagines ideal scans: where lines may be measured again, it takes new ones as long as there
    are any.

    What it costs is ``n_actions * n_samples`` reconstructions an action, and with a depth of two
    about ``n_actions`` times that.

    Attributes:
        reconstructor: what the scans are reconstructed with.
        sampler: draws the samples; None takes those of the scans' own reconstructions. See
            :func:`activemri.agents.posterior.posterior_samples` for what is taken of a
            reconstructor without samples. A sampler that knows more than the reconstructor is what
            makes looking ahead worth while.
        metric: what it maximises.
        n_actions: how many actions are tried: those on whose new lines the samples vary most.
        n_samples: how many samples are taken for the truth: the first ones.
        depth: actions to look ahead. After the first one, each sample's best of the remaining is
            taken, as if it were known by then which sample is the truth: an upper bound.
    """

    reconstructor: Reconstructor
    sampler: Reconstructor | None = None
    metric: str = "ssim"
    n_actions: int = 8
    n_samples: int = 4
    depth: int = 1
    name: str = "look-ahead"
    traits: ClassVar[Traits] = Traits(needs=frozenset({"samples", "reconstructor", "grid"}))

    def __post_init__(self) -> None:
        if find_metric(self.metric).needs == "task":
            raise ValueError(f"look-ahead cannot maximise {self.metric!r}: samples have no label")
        if min(self.n_actions, self.n_samples, self.depth) < 1:
            raise ValueError(
                "expected at least one action, one sample and a depth of 1; got "
                f"n_actions={self.n_actions}, n_samples={self.n_samples}, depth={self.depth}"
            )

    def act(self, view: View, generators: Sequence[np.random.Generator]) -> Tensor:
        samples = posterior_samples(view, self.sampler)
        tried = self._promising(view, samples)
        imagined = self._imagine(view, samples[:, : self.n_samples])
        n_samples = len(imagined.state) // len(tried)
        values = _values(
            imagined, tried.repeat_interleave(n_samples, dim=0), self.metric, depth=self.depth
        )
        return choose(values.unflatten(0, (len(tried), n_samples)).mean(dim=1), tried)

    def _promising(self, view: View, samples: Tensor) -> Tensor:
        """Actions on whose new lines samples vary most: bool (batch, n_actions)."""
        drawn = replace(view, reconstruction=Reconstruction(samples.mean(dim=1), samples=samples))
        variance = action_gains(line_variance(drawn), drawn)
        order = variance.masked_fill(~view.due, -torch.inf).argsort(
            dim=1, descending=True, stable=True
        )
        best = torch.zeros_like(view.legal).scatter(1, order[:, : self.n_actions], True)
        return best & view.due

    def _imagine(self, view: View, samples: Tensor) -> Truth:
        """Scans as far as these, in which samples are the truth: one row a scan and sample."""
        transform, n_samples = cartesian(view.transform), samples.shape[1]
        whole = Operator(transform, torch.ones_like(view.mask), view.sensitivity)
        known = view.mask[:, :, None, None]
        kspace = torch.stack(
            [
                transform.grid(torch.where(known, view.log.samples, whole.forward(image)))
                for image in samples.unbind(1)
            ],
            dim=1,
        )
        slices = [
            _slice(view, kspace[row, sample], samples[row, sample], row, sample)
            for row in range(len(samples))
            for sample in range(n_samples)
        ]
        acquisition = Scan(
            view.geometry,
            self.reconstructor,
            n_center_lines=0,
            metrics=(self.metric,),
            device=view.mask.device,
        )
        of_all = [
            known.repeat_interleave(n_samples, dim=0)
            for known in (view.start_mask, view.mask, view.budget)
        ]
        state = acquisition.resume(
            slices, start_masks=of_all[0], masks=of_all[1], budgets=of_all[2]
        )
        return Truth(acquisition, state)


def _slice(view: View, kspace: Tensor, image: Tensor, row: int, sample: int) -> Slice:
    """A sample as a scan."""
    maps, transform = view.sensitivity, cartesian(view.transform)
    target = center_crop(image, view.target_shape).abs()
    exists = transform.grid_mask(view.measurable[row : row + 1])[0]
    return Slice(
        kspace,
        target,
        volume=f"sample {sample}",
        index=row,
        subject="imagined",
        volume_max=float(target.max()),
        sensitivity=None if maps is None else maps[row],
        measured=exists.expand(image.shape),
        roi=None if view.region is None else view.region[row],
    )


def _values(imagined: Truth, tried: Tensor, metric: str, *, depth: int) -> Tensor:
    """Best score that actions can lead to within so many steps: float64 (batch, n_actions)."""
    values = score_actions(imagined, tried, metric)
    if depth == 1:
        return values
    tried = tried & imagined.state.view.legal
    for action in tried.any(dim=0).nonzero().flatten().tolist():
        rows = tried[:, action].nonzero().flatten()
        taken = torch.full_like(rows, action)
        state = imagined.scan.acquire(imagined.state.select(rows), taken)
        left = tried[rows] & state.view.legal
        then = _values(Truth(imagined.scan, state), left, metric, depth=depth - 1)
        so_far = signed(state.scores[metric], metric)
        values[rows, action] = torch.where(left.any(dim=1), then.amax(dim=1), so_far)
    return values
