"""Regions of interest: boxes, other grids, data sets that have them."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor

from activemri.data.regions import center_box, region_of, resampled
from activemri.data.slices import Slice
from activemri.data.standard import to_matrix
from activemri.data.views import with_region
from tests.envs.scans import equal_scans, scan

SIZES = [(8, 10), (7, 10), (12, 6), (5, 17), (9, 9)]


def with_roi(one: Slice, region: Tensor) -> Slice:
    return replace(one, roi=region)


def test_a_box_is_top_left_height_width_and_is_cut_at_the_edges() -> None:
    region = region_of([(1, 3, 2, 4), (-2, -1, 3, 2), (6, 8, 9, 9)], (8, 10))
    expected = torch.zeros(8, 10, dtype=torch.bool)
    expected[1:3, 3:7] = expected[:1, :1] = expected[6:, 8:] = True
    assert torch.equal(region, expected)


@pytest.mark.parametrize("box", [(8, 0, 2, 2), (0, 10, 2, 2), (-2, 0, 2, 2), (1, 1, 0, 3)])
def test_empty_boxes_and_boxes_outside_are_refused(box: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="overlap an image of 8 x 10 pixels; got"):
        region_of([box], (8, 10))


@pytest.mark.parametrize("shape", SIZES)
def test_the_central_box_has_half_the_sides_and_holds_the_centre(shape: tuple[int, int]) -> None:
    region = region_of([center_box(shape)], shape)
    assert int(region.sum()) == (shape[0] // 2) * (shape[1] // 2)
    assert region[shape[0] // 2, shape[1] // 2]


@pytest.mark.parametrize(("old", "new"), list(product(SIZES, SIZES)))
def test_on_another_grid_a_pixel_keeps_its_place_and_never_vanishes(
    old: tuple[int, int], new: tuple[int, int]
) -> None:
    for row, column in product(range(old[0]), range(old[1])):
        moved = resampled(region_of([(row, column, 1, 1)], old), new)
        places = moved.nonzero().double()
        assert len(places) >= 1
        for axis, place in ((0, row), (1, column)):
            # In pixels of the coarser grid; a place beyond the last pixel is that of the last.
            scale = new[axis] / old[axis]
            exact = (place - old[axis] // 2) * scale + new[axis] // 2
            exact = min(max(exact, 0), new[axis] - 1)
            assert (places[:, axis] - exact).abs().max() <= max(1.0, scale)


def test_the_same_grid_changes_nothing() -> None:
    region = torch.rand(9, 14, generator=torch.Generator().manual_seed(0)) < 0.3
    assert torch.equal(resampled(region, (9, 14)), region)


def test_a_region_stays_on_what_it_marks_in_the_standard_form() -> None:
    one = scan(shape=(24, 20), target_shape=(12, 14))
    kept = region_of([(5, 8, 2, 3)], (12, 14))
    brought = to_matrix(with_roi(one, kept), (16, 20))
    # Rows are those of the target; columns beyond the target belong to the field of view.
    on_frame = torch.zeros(12, 20, dtype=torch.bool)
    on_frame[:, 3:17] = kept
    assert brought.roi is not None
    assert torch.equal(brought.roi, resampled(on_frame, (16, 20)))
    columns = brought.roi.any(dim=0).nonzero().flatten().tolist()
    assert columns == [11, 12, 13]
    assert to_matrix(one, (16, 20)).roi is None


def test_every_slice_of_a_data_set_gets_the_region_that_was_asked_for() -> None:
    data = with_region(equal_scans(3), "center")
    assert (len(data), data.shape, data.describe(1)) == (3, (16, 18), equal_scans().describe(1))
    boxed = with_region(data, (2, 3, 5, 4))
    for given, box in ((data, (4, 5, 8, 9)), (boxed, (2, 3, 5, 4))):
        for position in range(3):
            roi = given[position].roi
            assert roi is not None
            assert torch.equal(roi, region_of([box], (16, 18)))


@pytest.mark.parametrize("region", ["middle", (1, 2, 3)])
def test_other_words_and_tuples_are_refused(region: object) -> None:
    with pytest.raises(ValueError, match=r'roi must be "center" or \(top, left, height, width\)'):
        with_region(equal_scans(), region)  # type: ignore[arg-type]


def test_a_region_must_be_boolean_and_as_large_as_the_target() -> None:
    one = scan(target_shape=(10, 12))
    with pytest.raises(ValueError, match=r"roi must be boolean with the shape of the target"):
        with_roi(one, torch.ones(16, 18, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"got torch.float32 \(10, 12\)"):
        with_roi(one, torch.ones(10, 12))
