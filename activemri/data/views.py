"""Parts and unions of data sets, without reading or copying a slice."""

from collections.abc import Collection, Sequence

from activemri.data.slices import Slice, SliceDataset, SliceInfo


class SliceView:
    """Some slices of some data sets, in a given order.

    Args:
        members: data set and position in it of every slice.
        name: short name for reports.

    Raises:
        ValueError: if there are no slices.
    """

    def __init__(self, members: Sequence[tuple[SliceDataset, int]], *, name: str) -> None:
        if not members:
            raise ValueError(f"there is no slice in {name}")
        self.name = name
        self._members = list(members)
        infos = [self.describe(position) for position in range(len(self))]
        self.shape = (max(i.shape[0] for i in infos), max(i.shape[1] for i in infos))
        self.n_coils = max(i.n_coils for i in infos)

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, index: int) -> Slice:
        dataset, position = self._members[index]
        return dataset[position]

    def describe(self, index: int) -> SliceInfo:
        """What is known of a slice; reads nothing."""
        dataset, position = self._members[index]
        return dataset.describe(position)


def subset(
    dataset: SliceDataset, subjects: Collection[str], *, name: str | None = None
) -> SliceView:
    """The slices of some subjects, in the data set's order.

    Args:
        dataset: to choose from.
        subjects: whose slices to keep.
        name: for reports; by default the data set's.

    Raises:
        ValueError: if the data set lacks one of the subjects, or none is given.
    """
    positions = range(len(dataset))
    found = [(position, dataset.describe(position).subject) for position in positions]
    missing = sorted(set(subjects) - {subject for _, subject in found})
    if missing:
        raise ValueError(f"{dataset.name} has no subject {', '.join(missing[:5])}")
    kept = frozenset(subjects)
    members = [(dataset, position) for position, subject in found if subject in kept]
    return SliceView(members, name=name or dataset.name)


def pooled(datasets: Sequence[SliceDataset], *, name: str) -> SliceView:
    """All slices of several data sets, one after the other."""
    return SliceView([(data, i) for data in datasets for i in range(len(data))], name=name)


def subjects_of(dataset: SliceDataset) -> list[str]:
    """Who was scanned: every subject once, sorted."""
    return sorted({dataset.describe(position).subject for position in range(len(dataset))})


class Remembered:
    """A data set whose slices are kept in memory after their first use.

    Args:
        dataset: small enough for that.
    """

    def __init__(self, dataset: SliceDataset) -> None:
        self.name = dataset.name
        self.shape = dataset.shape
        self.n_coils = dataset.n_coils
        self._dataset = dataset
        self._kept: dict[int, Slice] = {}

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Slice:
        if index not in self._kept:
            self._kept[index] = self._dataset[index]
        return self._kept[index]

    def describe(self, index: int) -> SliceInfo:
        return self._dataset.describe(index)
