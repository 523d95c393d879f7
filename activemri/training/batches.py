"""Batches of scans of one size with the masks that are to be reconstructed."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from activemri.data.slices import Slice, SliceDataset, SliceInfo
from activemri.metrics.losses import Prediction, WholeImages
from activemri.metrics.reference import center_crop
from activemri.mri.operators import Operator
from activemri.mri.sensitivity import FROM_START, CoilMaps
from activemri.reconstruction.reconstructor import Measurement, Reconstruction, Reconstructor
from activemri.training.augmentation import Change
from activemri.training.masks import MaskSource, center_lines

MEMORY_BYTES = 4 * 2**30  # data sets up to this size are kept in memory


@dataclass(frozen=True, eq=False)
class Batch:
    """What a reconstructor gets and what it should make of it.

    Attributes:
        measurement: of all scans.
        target: magnitude, (batch, target height, target width).
        data_range: largest value of each target, (batch,).
        reference: what all lines together show, complex (batch, height, width).
        measured: lines that the scanner has sampled at all, bool (batch, line).
        names: of the scans, for messages.
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
        """What values of these scans, (batch,), add to the mean over all scans of the step."""
        return values.mean() * self.share

    @property
    def acquired(self) -> Tensor:
        """Lines that have been acquired, bool (batch, line)."""
        return self.measurement.operator.mask

    @property
    def unobserved(self) -> Tensor:
        """Lines that could still be acquired, bool (batch, line)."""
        return self.measured & ~self.acquired

    def prediction(self, reconstruction: Reconstruction) -> Prediction:
        """What losses compare: magnitudes of the size of the targets."""
        uncertainty = reconstruction.uncertainty
        return Prediction(
            self.cropped(reconstruction.image),
            self.target,
            self.data_range,
            None if uncertainty is None else self._crop(uncertainty),
            WholeImages(reconstruction.image, self.reference, self.acquired, self.unobserved),
        )

    def magnitude(self, reconstructor: Reconstructor) -> Tensor:
        """Reconstruct: magnitude images of the size of the targets."""
        return self.cropped(reconstructor(self.measurement).image)

    def cropped(self, image: Tensor) -> Tensor:
        """Magnitude of the part of complex images that the targets show."""
        return self._crop(image).abs()

    def _crop(self, image: Tensor) -> Tensor:
        return center_crop(image, (self.target.shape[-2], self.target.shape[-1]))


class InMemory:
    """Slices by position, kept after their first use if all of them fit."""

    def __init__(self, dataset: SliceDataset, *, limit: int = MEMORY_BYTES) -> None:
        self.dataset = dataset
        self.infos = [dataset.describe(i) for i in range(len(dataset))]
        self.keeps = sum(_n_bytes(info) for info in self.infos) <= limit
        self._kept: dict[int, Slice] = {}

    def __len__(self) -> int:
        return len(self.infos)

    def __getitem__(self, index: int) -> Slice:
        if index in self._kept:
            return self._kept[index]
        scan = self.dataset[index]
        if self.keeps:
            self._kept[index] = scan
        return scan


class TrainingBatches:
    """The batch of each training step, a function of seed and step alone.

    So a resumed training sees what an uninterrupted one would have seen. A batch holds scans of one
    kind (size, target size, coils); kinds come up as often as they have scans.

    Args:
        scans: to learn from.
        masks: what has been acquired of them.
        batch_size: scans a step, of all processes together.
        seed: of all that is drawn.
        augment: draws a change for every scan.
        coil_maps: how they are estimated where scans bring none.
        one_mask: every scan has been acquired once, with the longest mask; else each step acquires
            it anew.
        rank: this process has every n-th scan, beginning with this one.
        n_processes: which n is.
    """

    def __init__(
        self,
        scans: InMemory,
        masks: MaskSource,
        *,
        batch_size: int,
        seed: int,
        augment: Callable[[np.random.Generator], Change],
        coil_maps: CoilMaps = FROM_START,
        one_mask: bool = False,
        rank: int = 0,
        n_processes: int = 1,
    ) -> None:
        self.scans = scans
        self.masks = masks
        self.batch_size = batch_size
        self.seed = seed
        self.augment = augment
        self.coil_maps = coil_maps
        self.one_mask = one_mask
        self.rank, self.n_processes = rank, n_processes
        kinds: dict[object, list[int]] = defaultdict(list)
        for index, info in enumerate(scans.infos):
            kinds[info.shape, info.target_shape, info.n_coils].append(index)
        self._kinds = [np.array(members) for members in kinds.values()]
        self._share = np.array([len(members) for members in self._kinds]) / len(scans)

    def __getitem__(self, step: int) -> Batch:
        generator = np.random.default_rng([self.seed, step])
        members = self._kinds[generator.choice(len(self._kinds), p=self._share)]
        size = min(self.batch_size, len(members))
        chosen = generator.choice(members, size, replace=False).tolist()
        # Changes have a generator of their own: masks do not depend on which there are.
        of_changes = np.random.default_rng([self.seed, step, 1])
        changes = [self.augment(of_changes) for _ in chosen]
        masks = [self._mask(i, generator) for i in chosen]
        own = list(range(size))[self.rank :: self.n_processes]
        some = own or [0]  # a process without a scan computes one that does not count
        slices = [changes[place](self.scans[chosen[place]]) for place in some]
        batch = make_batch(
            slices,
            [masks[place] for place in some],
            n_center_lines=self.masks.n_center_lines,
            coil_maps=self.coil_maps,
        )
        return replace(batch, share=len(own) / size)

    def longest_masks(self, width: int, count: int) -> list[Tensor]:
        """What has been acquired of scans that wide in the end, bool (width,) each.

        Args:
            width: of k-space.
            count: how many at most.
        """
        wide = [i for i, info in enumerate(self.scans.infos) if info.shape[1] == width]
        return [self._longest(index) for index in wide[:count]]

    def _mask(self, index: int, generator: np.random.Generator) -> Tensor:
        if not self.one_mask:
            return self.masks(self.scans.infos[index], generator)
        return self._longest(index)

    def _longest(self, index: int) -> Tensor:
        own = np.random.default_rng([self.seed, index, 2])
        return self.masks(self.scans.infos[index], own, step=self.masks.budget)


def make_batch(
    slices: Sequence[Slice],
    masks: Sequence[Tensor],
    *,
    n_center_lines: int,
    coil_maps: CoilMaps = FROM_START,
) -> Batch:
    """Measure scans of one kind with a column mask each, bool (width,).

    Where a scan has several coils without maps, they are estimated from the centre lines that its
    episode starts with, or, if they are updated, from all lines of its mask.
    """
    kspace = torch.stack([scan.kspace for scan in slices])
    measured = torch.stack([scan.measured.any(dim=0) for scan in slices])
    mask = (torch.stack(list(masks)) & measured)[:, None]
    sensitivity = None
    if all(scan.sensitivity is not None for scan in slices):
        sensitivity = torch.stack([s.sensitivity for s in slices if s.sensitivity is not None])
    elif kspace.shape[1] > 1:
        seen = mask
        if not coil_maps.updated:
            seen = mask & center_lines(slices[0].shape, n_center_lines)
        sensitivity = coil_maps.estimate(kspace * seen.unsqueeze(1), seen)
    target = torch.stack([scan.target for scan in slices])
    everything = Operator.on_grid(measured[:, None], slices[0].shape, sensitivity)
    return Batch(
        Measurement.of_grid(kspace, Operator.on_grid(mask, slices[0].shape, sensitivity)),
        target,
        target.amax(dim=(-2, -1)),
        everything.adjoint(everything.transform.of_grid(kspace)),
        measured,
        tuple(f"{scan.volume}[{scan.index}]" for scan in slices),
    )


def to_device(batch: Batch, device: torch.device | str) -> Batch:
    """The same batch with its tensors on `device`."""
    if torch.device(device).type == "cpu":
        return batch
    measurement = batch.measurement
    maps = measurement.operator.sensitivity
    operator = Operator(
        measurement.operator.transform,
        measurement.operator.mask.to(device),
        None if maps is None else maps.to(device),
    )
    return replace(
        batch,
        measurement=Measurement(
            measurement.samples.to(device), operator, measurement.zero_filled.to(device)
        ),
        target=batch.target.to(device),
        data_range=batch.data_range.to(device),
        reference=batch.reference.to(device),
        measured=batch.measured.to(device),
    )


def _n_bytes(info: SliceInfo) -> int:
    height, width = info.shape
    arrays = 2 if info.n_coils > 1 else 1  # k-space and, at most, maps
    return height * width * (8 * info.n_coils * arrays + 4)
