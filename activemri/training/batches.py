"""Batches of scans of one size, measured up to moments of episodes."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from activemri.agents.episode_masks import EpisodeMasks, Moment
from activemri.data.slices import Slice, SliceDataset, SliceInfo
from activemri.data.views import SliceView, remembered
from activemri.envs.scan import Scan
from activemri.metrics.losses import Prediction
from activemri.metrics.reference import center_crop
from activemri.mri.geometry import cartesian
from activemri.mri.operators import Operator
from activemri.reconstruction.reconstructor import Measurement, Reconstruction, Reconstructor
from activemri.training.augmentation import Change

MEMORY_BYTES = 4 * 2**30  # data sets up to this size are kept in memory


@dataclass(frozen=True, eq=False)
class Batch:
    """Input of a reconstructor, and its target.

    Attributes:
        target: magnitude, (batch, target height, target width).
        data_range: largest value of each target, (batch,).
        reference: image of all readouts together, complex (batch, height, width).
        measured: readouts of the scan that exist in the data, bool (batch, readout).
        share: of the scans of this step, if several processes have some each.
    """

    measurement: Measurement
    target: Tensor
    data_range: Tensor
    reference: Tensor
    measured: Tensor
    names: tuple[str, ...]
    share: float = 1.0

    def mean(self, values: Tensor) -> Tensor:
        """Part of the mean over all scans of the step that values of these, (batch,), make."""
        return values.mean() * self.share

    @property
    def acquired(self) -> Tensor:
        """Readouts that have been acquired, bool (batch, readout)."""
        operator = self.measurement.operator
        return operator.transform.own(operator.mask)

    @property
    def unobserved(self) -> Tensor:
        """Readouts that could still be acquired, bool (batch, readout)."""
        return self.measured & ~self.acquired

    def prediction(self, reconstruction: Reconstruction) -> Prediction:
        """Input of losses: magnitudes of the size of the targets."""
        uncertainty = reconstruction.uncertainty
        return Prediction(
            self.cropped(reconstruction.image),
            self.target,
            self.data_range,
            None if uncertainty is None else self.cropped(uncertainty),
            reconstruction.image,
            self.reference,
            self.acquired,
            self.unobserved,
        )

    def magnitude(self, reconstructor: Reconstructor) -> Tensor:
        """Reconstruct: magnitude images of the size of the targets."""
        return self.cropped(reconstructor(self.measurement).image)

    def cropped(self, image: Tensor) -> Tensor:
        """Magnitude of the part of images that the targets show."""
        return center_crop(image, (self.target.shape[-2], self.target.shape[-1])).abs()


def make_batch(
    scan: Scan,
    slices: Sequence[Slice],
    moments: Sequence[Moment],
    *,
    seeds: Tensor | None = None,
) -> Batch:
    """Measure slices of one kind as episodes do, up to a moment each.

    Readouts that the data do not have are left out. Metrics and reconstructor of the scan protocol
    cost time and do nothing here. Seeds are those of imperfect scanners, int64 (batch,).
    """
    transform = scan.geometry.transform.fitted(slices[0].shape)
    measurable = transform.measurable(torch.stack([s.measured for s in slices]).to(scan.device))
    start = torch.stack([m.start for m in moments]).to(scan.device) & measurable
    masks = torch.stack([m.mask for m in moments]).to(scan.device) & measurable
    order = None
    if scan.horizon:
        order = torch.full((len(slices), scan.horizon), -1)
        for row, moment in enumerate(moments):
            exists = moment.log[measurable[row].cpu()[moment.log]]
            order[row, : len(exists)] = exists
    state = scan.resume(
        slices,
        start_masks=start,
        masks=masks,
        budgets=torch.zeros(len(slices), dtype=torch.int64),
        seeds=seeds,
        order=order,
    )
    view = state.view
    whole = Operator(transform, measurable, view.sensitivity)
    kspace = torch.stack([s.kspace for s in slices]).to(scan.device)
    target = torch.stack([s.target for s in slices]).to(scan.device)
    return Batch(
        view.measurement,
        target,
        target.amax(dim=(-2, -1)),
        whole.zero_filled(transform.of_grid(kspace)),
        transform.own(measurable),
        tuple(f"{s.volume}[{s.index}]" for s in slices),
    )


class TrainingBatches:
    """The batch of each training step, a function of seed and step alone.

    So a resumed training sees what an uninterrupted one would have seen. A batch holds scans of one
    kind (size, target size, coils); kinds come up as often as they have scans. Of `batch_size`
    scans each of n processes has every n-th one, beginning with its rank. Each step acquires them
    anew, or with `one_mask` as always, to the end of one episode.
    """

    def __init__(
        self,
        scans: SliceDataset,
        moments: EpisodeMasks,
        *,
        batch_size: int,
        seed: int,
        augment: Callable[[np.random.Generator], Change],
        one_mask: bool = False,
        rank: int = 0,
        n_processes: int = 1,
    ) -> None:
        self.scans, self.moments, self.infos = scans, moments, infos_of(scans)
        self.batch_size, self.seed, self.augment = batch_size, seed, augment
        self.one_mask, self.rank, self.n_processes = one_mask, rank, n_processes
        kinds: dict[object, list[int]] = defaultdict(list)
        for index, info in enumerate(self.infos):
            kinds[info.shape, info.target_shape, info.n_coils].append(index)
        self._kinds = [np.array(members) for members in kinds.values()]
        self._share = np.array([len(members) for members in self._kinds]) / len(scans)

    def __getitem__(self, step: int) -> Batch:
        generator = np.random.default_rng([self.seed, step])
        members = self._kinds[generator.choice(len(self._kinds), p=self._share)]
        size = min(self.batch_size, len(members))
        chosen = generator.choice(members, size, replace=False).tolist()
        # Changes and scanners have generators of their own: masks do not depend on them.
        of_changes = np.random.default_rng([self.seed, step, 1])
        changes = [self.augment(of_changes) for _ in chosen]
        moments = [
            self._longest(i) if self.one_mask else self.moments(self.infos[i], generator)
            for i in chosen
        ]
        seeds = np.random.default_rng([self.seed, step, 3]).integers(2**62, size=size)
        own = list(range(size))[self.rank :: self.n_processes]
        some = own or [0]  # a process without a scan computes one that does not count
        batch = make_batch(
            self.moments.scan,
            [changes[place](self.scans[chosen[place]]) for place in some],
            [moments[place] for place in some],
            seeds=torch.from_numpy(seeds[some]),
        )
        return replace(batch, share=len(own) / size)

    def longest_masks(self, shape: tuple[int, int], count: int) -> Tensor:
        """Samples that whole episodes of some scans of a size acquire, bool (n, height, width)."""
        same = [i for i, info in enumerate(self.infos) if info.shape == shape]
        masks = torch.stack([self._longest(index).mask for index in same[:count]])
        transform = cartesian(self.moments.scan.geometry.transform.fitted(shape))
        return transform.grid_mask(masks).expand(-1, *shape)

    def _longest(self, index: int) -> Moment:
        own = np.random.default_rng([self.seed, index, 2])
        return self.moments(self.infos[index], own, step=self.moments.budget)


def in_memory(dataset: SliceDataset, *, limit: int = MEMORY_BYTES) -> SliceDataset:
    """The data set, whose slices are kept after their first use if all of them fit."""
    size = 0
    for info in infos_of(dataset):
        arrays = 2 if info.n_coils > 1 else 1  # k-space and, at most, maps
        size += info.shape[0] * info.shape[1] * (8 * info.n_coils * arrays + 4)
    kept = isinstance(dataset, SliceView) and dataset.keeps
    return remembered(dataset) if size <= limit and not kept else dataset


def infos_of(dataset: SliceDataset) -> list[SliceInfo]:
    """All that is known of the slices without reading them."""
    return [dataset.describe(position) for position in range(len(dataset))]
