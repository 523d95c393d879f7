"""Readout and phase encode exchanged."""

from dataclasses import replace

import pytest
import torch

from activemri.data.slices import Slice, SliceList
from activemri.data.views import oriented, swapped
from activemri.envs.scan import Scan
from activemri.mri.geometry import columns, rows
from activemri.reconstruction.zero_filled import ZeroFilled
from tests.envs.scans import equal_scans, scan


def full(one: Slice) -> Slice:
    """With everything that a slice may have."""
    region = torch.rand(one.target.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    return replace(one, roi=region, label=region.float())


def test_columns_of_a_swapped_scan_are_rows_of_the_scan() -> None:
    one = scan(shape=(16, 18), target_shape=(10, 12), n_coils=2, maps=True, padding=2)
    turned = swapped(full(one))
    assert (turned.shape, turned.target.shape) == ((18, 16), (12, 10))

    def curves(protocol: Scan, data: Slice) -> list[torch.Tensor]:
        state = protocol.start([data])
        scores = [state.scores["nmse"]]
        for line in (0, 13, 5):
            state = protocol.acquire(state, torch.tensor([line]))
            scores.append(state.scores["nmse"])
        return scores

    by_row = Scan(rows((16, 18)), ZeroFilled(), n_center_lines=3)
    by_column = Scan(columns((18, 16)), ZeroFilled(), n_center_lines=3)
    for ours, theirs in zip(curves(by_row, full(one)), curves(by_column, turned), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-5)


def test_swapping_twice_gives_everything_back() -> None:
    one = full(scan(shape=(16, 18), target_shape=(10, 12), n_coils=2, maps=True))
    again = swapped(swapped(one))
    for name in ("kspace", "target", "sensitivity", "measured", "roi", "label"):
        assert torch.equal(getattr(again, name), getattr(one, name)), name
    assert swapped(one).processing == ("readout and phase encode exchanged",)


def test_a_label_that_is_no_image_stays_as_it_is() -> None:
    one = replace(scan(), label=torch.tensor([1.0, 0.0, 0.0]))
    turned = swapped(one).label
    assert turned is not None
    assert turned.tolist() == [1, 0, 0]


def volume(n: int, name: str) -> list[Slice]:
    return [replace(scan(i), volume=name, index=i) for i in range(n)]


def test_every_other_slice_of_a_volume_is_turned_and_descriptions_agree() -> None:
    plain = SliceList([*volume(4, "a"), *volume(4, "b"), *volume(4, "c"), *volume(4, "d")])
    mixed = oriented(plain, "mixed")
    assert (len(mixed), mixed.shape, mixed.n_coils) == (16, (18, 18), 1)
    turned = [mixed[i].shape == (18, 16) for i in range(16)]
    for start in range(0, 16, 4):
        assert turned[start : start + 4] in ([True, False] * 2, [False, True] * 2)
    assert {turned[start] for start in range(0, 16, 4)} == {True, False}
    for i in range(16):
        info, one = mixed.describe(i), mixed[i]
        assert (info.shape, info.target_shape) == (one.shape, tuple(one.target.shape))
        assert torch.equal(one.kspace, (swapped(plain[i]) if turned[i] else plain[i]).kspace)


def test_a_slice_keeps_its_orientation_whatever_else_is_in_the_data_set() -> None:
    plain = volume(4, "a")
    shapes = [oriented(SliceList(plain), "mixed")[i].shape for i in range(4)]
    assert oriented(SliceList(plain[3:]), "mixed")[0].shape == shapes[3]
    assert oriented(SliceList(plain[::2]), "mixed")[1].shape == shapes[2]


def test_unknown_orientations_are_refused() -> None:
    data = equal_scans()
    assert oriented(data, "stored") is data
    with pytest.raises(ValueError, match='must be "stored" or "mixed"; got \'turned\''):
        oriented(data, "turned")
