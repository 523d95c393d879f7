"""Parts and unions of data sets."""

import pickle
from collections.abc import Callable

import pytest
import torch

from activemri.data.slices import Slice, SliceList
from activemri.data.views import pooled, remembered, subjects_of, subset


def scan(subject: str, index: int, *, shape: tuple[int, int] = (8, 10), n_coils: int = 1) -> Slice:
    return Slice(
        kspace=torch.full((n_coils, *shape), index + 1, dtype=torch.complex64),
        target=torch.ones(shape),
        volume=f"volume-{subject}",
        index=index,
        subject=subject,
        volume_max=1.0,
    )


class Unreadable(SliceList):
    def __getitem__(self, index: int) -> Slice:
        raise AssertionError("a slice was read")


@pytest.fixture
def scans() -> list[Slice]:
    return [
        scan("b", 0),
        scan("a", 0, shape=(12, 8), n_coils=3),
        scan("b", 1),
        scan("c", 0, shape=(9, 9)),
    ]


def test_a_subset_holds_the_slices_of_its_subjects_in_order(scans: list[Slice]) -> None:
    found = subset(SliceList(scans, "all"), {"b", "c"})
    assert len(found) == 3
    assert [found[i] for i in range(3)] == [scans[0], scans[2], scans[3]]
    assert [found.describe(i).subject for i in range(3)] == ["b", "b", "c"]
    assert (found.name, found.shape, found.n_coils) == ("all", (9, 10), 1)


def test_a_pool_holds_all_slices_and_can_be_parted_again(scans: list[Slice]) -> None:
    pool = pooled([SliceList(scans[:2]), SliceList(scans[2:])], name="both")
    assert [pool[i] for i in range(len(pool))] == scans
    assert (pool.name, pool.shape, pool.n_coils) == ("both", (12, 10), 3)
    assert subjects_of(pool) == ["a", "b", "c"]
    part = subset(pool, ["a"], name="part")
    assert (part.name, len(part), part[0], part.n_coils) == ("part", 1, scans[1], 3)


def test_nothing_is_read_to_make_a_view(scans: list[Slice]) -> None:
    data = Unreadable(scans)
    part = subset(pooled([data], name="pool"), ["b"])
    assert len(part) == 2
    with pytest.raises(AssertionError, match="was read"):
        part[0]


@pytest.mark.parametrize("away", [lambda d: subset(d, ["z"]), lambda d: subset(d, ["a", "z"])])
def test_a_subject_that_is_not_there_is_named(
    scans: list[Slice], away: Callable[[SliceList], object]
) -> None:
    with pytest.raises(ValueError, match="all has no subject z"):
        away(SliceList(scans, "all"))


def test_an_empty_view_is_refused(scans: list[Slice]) -> None:
    with pytest.raises(ValueError, match="there is no slice in night"):
        subset(SliceList(scans), [], name="night")


def test_views_travel_to_other_processes(scans: list[Slice]) -> None:
    there = pickle.loads(pickle.dumps(subset(SliceList(scans), ["c"])))
    assert torch.equal(there[0].kspace, scans[3].kspace)


class Counting(SliceList):
    n_reads = 0

    def __getitem__(self, index: int) -> Slice:
        self.n_reads += 1
        return super().__getitem__(index)


def test_remembered_slices_are_read_once(scans: list[Slice]) -> None:
    data = Counting(scans, "all")
    kept = remembered(data)
    assert [kept[i] for i in (3, 0, 3, 0)] == [scans[3], scans[0], scans[3], scans[0]]
    assert data.n_reads == 2
    assert (len(kept), kept.name, kept.shape, kept.n_coils) == (4, "all", (12, 10), 3)
    assert kept.describe(1) == data.describe(1)
