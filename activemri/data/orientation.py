"""Readout and phase encode exchanged: the same anatomy scanned with its lines along another axis.

A technologist chooses which axis of the body is encoded in phase, by the shape of the body and by
where motion is to smear. What a line is worth depends on it: a leg has sharp edges across and
hardly any along.
"""

import hashlib
from dataclasses import replace

from torch import Tensor

from activemri.data.slices import Slice, SliceDataset, SliceInfo

STORED, MIXED = "stored", "mixed"


def swapped(scan: Slice) -> Slice:
    """The slice with height and width exchanged in k-space, and with it in the image.

    A label of the target's size is turned with it.
    """
    return replace(
        scan,
        kspace=_turn(scan.kspace),
        target=_turn(scan.target),
        sensitivity=None if scan.sensitivity is None else _turn(scan.sensitivity),
        measured=_turn(scan.measured),
        roi=None if scan.roi is None else _turn(scan.roi),
        label=_turned_label(scan),
        processing=(*scan.processing, "readout and phase encode exchanged"),
    )


class MixedOrientations:
    """A data set in which every other slice of a volume is :func:`swapped`.

    Whether the even or the odd slices are is drawn by the volume's name, so that a slice has the
    same orientation whatever else is in the data set.

    Args:
        dataset: whose slices to take. Bring them to one size before that (`matrix_size`): the
            oversampled readout of a native scan would become hundreds of phase encodes.
    """

    def __init__(self, dataset: SliceDataset) -> None:
        self.name = f"{dataset.name} in mixed orientations"
        self.n_coils = dataset.n_coils
        self._dataset = dataset
        shapes = [self.describe(position).shape for position in range(len(dataset))]
        self.shape = (max(height for height, _ in shapes), max(width for _, width in shapes))

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Slice:
        scan = self._dataset[index]
        return swapped(scan) if _is_turned(scan.volume, scan.index) else scan

    def describe(self, index: int) -> SliceInfo:
        info = self._dataset.describe(index)
        if not _is_turned(info.volume, info.index):
            return info
        (height, width), (rows, columns) = info.shape, info.target_shape
        return replace(info, shape=(width, height), target_shape=(columns, rows))


def oriented(dataset: SliceDataset, orientation: str) -> SliceDataset:
    """The data set as it is ("stored"), or in mixed orientations ("mixed").

    Raises:
        ValueError: for another word.
    """
    if orientation not in (STORED, MIXED):
        raise ValueError(f'orientation must be "{STORED}" or "{MIXED}"; got {orientation!r}')
    return MixedOrientations(dataset) if orientation == MIXED else dataset


def _is_turned(volume: str, index: int) -> bool:
    first = hashlib.blake2b(volume.encode(), digest_size=1).digest()[0]
    return (first + index) % 2 == 1


def _turn(values: Tensor) -> Tensor:
    return values.transpose(-2, -1).contiguous()


def _turned_label(scan: Slice) -> Tensor | None:
    label = scan.label
    return label if label is None or label.shape[-2:] != scan.target.shape else _turn(label)
