"""Data sets made from others: parts, unions, other orientations, regions of interest.

A technologist chooses which axis of the body is encoded in phase, by the shape of the body and by
where motion is to smear. What a line is worth depends on it: a leg has sharp edges across and
hardly any along. In mixed orientations every other slice has readout and phase encode exchanged.
"""

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial

from torch import Tensor

from activemri.data.contents import marks_of
from activemri.data.regions import CENTER, Box, center_box, region_of
from activemri.data.slices import Slice, SliceDataset, SliceInfo
from activemri.metrics.reference import center_crop
from activemri.mri import fourier

STORED, MIXED = "stored", "mixed"


class SliceView:
    """Some slices of some data sets, by data set and position; making it reads and copies none.

    `change` is applied to every slice that is read, `describe` to what is known without reading.
    With `keep` slices stay in memory after their first use.
    """

    def __init__(
        self,
        members: Sequence[tuple[SliceDataset, int]],
        *,
        name: str,
        change: Callable[[Slice], Slice] | None = None,
        describe: Callable[[SliceInfo], SliceInfo] | None = None,
        keep: bool = False,
    ) -> None:
        if not members:
            raise ValueError(f"there is no slice in {name}")
        self.name = name
        self._members = list(members)
        self._change, self._describe = change, describe
        self.keeps = keep
        self._kept: dict[int, Slice] = {}
        infos = [self.describe(position) for position in range(len(self))]
        self.shape = (max(i.shape[0] for i in infos), max(i.shape[1] for i in infos))
        self.n_coils = max(i.n_coils for i in infos)

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, index: int) -> Slice:
        if index in self._kept:
            return self._kept[index]
        dataset, position = self._members[index]
        scan = dataset[position] if self._change is None else self._change(dataset[position])
        if self.keeps:
            self._kept[index] = scan
        return scan

    def describe(self, index: int) -> SliceInfo:
        """Labels and sizes of a slice; reads nothing."""
        dataset, position = self._members[index]
        info = dataset.describe(position)
        return info if self._describe is None else self._describe(info)

    def marks(self, positions: Sequence[int], *, anew: bool) -> list[str]:
        """Marks of the slices as the data sets hold them, before any change."""
        by_member: dict[int, list[int]] = {}
        for place, position in enumerate(positions):
            by_member.setdefault(id(self._members[position][0]), []).append(place)
        marks = [""] * len(positions)
        for places in by_member.values():
            dataset = self._members[positions[places[0]]][0]
            inner = [self._members[positions[place]][1] for place in places]
            for place, mark in zip(places, marks_of(dataset, inner, anew=anew), strict=True):
                marks[place] = mark
        return marks


def subset(
    dataset: SliceDataset, subjects: Collection[str], *, name: str | None = None
) -> SliceView:
    """The slices of some subjects, in the data set's order; ValueError if one is not there."""
    found = [(position, dataset.describe(position).subject) for position in range(len(dataset))]
    missing = sorted(set(subjects) - {subject for _, subject in found})
    if missing:
        raise ValueError(f"{dataset.name} has no subject {', '.join(missing[:5])}")
    members = [(dataset, position) for position, subject in found if subject in subjects]
    return SliceView(members, name=name or dataset.name)


def pooled(datasets: Sequence[SliceDataset], *, name: str) -> SliceView:
    """All slices of several data sets, one after the other."""
    return SliceView([member for data in datasets for member in _members(data)], name=name)


def subjects_of(dataset: SliceDataset) -> list[str]:
    """Every subject once, sorted."""
    return sorted({dataset.describe(position).subject for position in range(len(dataset))})


def require_other_subjects(train: SliceDataset, validation: SliceDataset) -> None:
    """Refuse splits that share a subject by a ValueError that names the first ones."""
    if shared := sorted(set(subjects_of(train)) & set(subjects_of(validation))):
        raise ValueError(
            "train and validation scans must come from different subjects; found in both: "
            + ", ".join(shared[:5])
        )


def remembered(dataset: SliceDataset) -> SliceView:
    """The data set, whose slices stay in memory after their first use: it must be small enough."""
    return SliceView(_members(dataset), name=dataset.name, keep=True)


def with_region(dataset: SliceDataset, region: str | Box) -> SliceView:
    """The data set with one region of interest in every slice in place of the slices' own.

    It is "center", or (top, left, height, width) in pixels of the target.
    """
    if region != CENTER and (isinstance(region, str) or len(region) != 4):
        raise ValueError(
            f'roi must be "{CENTER}" or (top, left, height, width) in pixels; got {region!r}'
        )
    change = partial(_marked, region=region)
    return SliceView(_members(dataset), name=dataset.name, change=change)


def oriented(dataset: SliceDataset, orientation: str) -> SliceDataset:
    """The data set as it is ("stored"), or with every other slice of a volume turned ("mixed").

    Whether the even or the odd ones is drawn by the volume's name. Bring slices to one size before
    (`matrix_size`): the oversampled readout of a native scan would become hundreds of encodes.
    """
    if orientation not in (STORED, MIXED):
        raise ValueError(f'orientation must be "{STORED}" or "{MIXED}"; got {orientation!r}')
    if orientation == STORED:
        return dataset
    name = f"{dataset.name} in mixed orientations"
    return SliceView(_members(dataset), name=name, change=_mixed, describe=_mixed_info)


def without_oversampling(dataset: SliceDataset, axes: Sequence[int]) -> SliceDataset:
    """The data set without what readouts along some axes, of -2 and -1, see beside the target.

    Scanners sample readouts more densely than the image needs, as it costs no time. Every readout
    is transformed, cut to the target's size and transformed back. Where readouts are acquired whole
    this changes no pixel of the target's area in any zero-filled image.
    """
    infos = [dataset.describe(position) for position in range(len(dataset))]
    if all(info.shape == _cropped_info(info, axes=axes).shape for info in infos):
        return dataset
    change, describe = partial(_cropped, axes=axes), partial(_cropped_info, axes=axes)
    return SliceView(_members(dataset), name=dataset.name, change=change, describe=describe)


def swapped(scan: Slice) -> Slice:
    """The slice with height and width of k-space and of all that is an image exchanged."""
    label = scan.label
    if label is not None and label.shape[-2:] == scan.target.shape:
        label = _turn(label)
    return replace(
        scan,
        kspace=_turn(scan.kspace),
        target=_turn(scan.target),
        sensitivity=None if scan.sensitivity is None else _turn(scan.sensitivity),
        measured=_turn(scan.measured),
        roi=None if scan.roi is None else _turn(scan.roi),
        label=label,
        processing=(*scan.processing, "readout and phase encode exchanged"),
    )


def _members(dataset: SliceDataset) -> list[tuple[SliceDataset, int]]:
    return [(dataset, position) for position in range(len(dataset))]


def _marked(scan: Slice, *, region: str | Box) -> Slice:
    height, width = scan.target.shape
    box = center_box((height, width)) if isinstance(region, str) else region
    return replace(scan, roi=region_of([box], (height, width)))


def _cropped(scan: Slice, *, axes: Sequence[int]) -> Slice:
    cut = tuple(axis for axis in axes if scan.shape[axis] > scan.target.shape[axis])
    if not cut:
        return scan
    shape, measured, maps = list(scan.shape), scan.measured, scan.sensitivity
    for axis in cut:  # a sample of the new readout holds something of all of the old one
        shape[axis], measured = scan.target.shape[axis], measured.any(dim=axis, keepdim=True)
    height, width = shape
    images = center_crop(fourier.ifft(scan.kspace, cut), (height, width))
    return replace(
        scan,
        kspace=fourier.fft(images, cut),
        sensitivity=None if maps is None else center_crop(maps, (height, width)).contiguous(),
        measured=measured.expand(height, width).contiguous(),
        processing=(*scan.processing, "readout oversampling removed"),
    )


def _cropped_info(info: SliceInfo, *, axes: Sequence[int]) -> SliceInfo:
    sides = zip((-2, -1), info.shape, info.target_shape, strict=True)
    height, width = (min(n, target) if axis in axes else n for axis, n, target in sides)
    return replace(info, shape=(height, width))


def _mixed(scan: Slice) -> Slice:
    return swapped(scan) if _is_turned(scan) else scan


def _mixed_info(info: SliceInfo) -> SliceInfo:
    if not _is_turned(info):
        return info
    (height, width), (rows, columns) = info.shape, info.target_shape
    return replace(info, shape=(width, height), target_shape=(columns, rows))


def _is_turned(scan: Slice | SliceInfo) -> bool:
    first = hashlib.blake2b(scan.volume.encode(), digest_size=1).digest()[0]
    return (first + scan.index) % 2 == 1


def _turn(values: Tensor) -> Tensor:
    return values.transpose(-2, -1).contiguous()
