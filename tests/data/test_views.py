"""Data sets made from others: parts, orientations, regions of interest."""

import pickle
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from activemri.data.regions import center_box, read_findings, region_of, resampled, upright
from activemri.data.slices import Slice, SliceList
from activemri.data.sources import open_dataset
from activemri.data.standard import to_matrix
from activemri.data.views import (
    oriented,
    pooled,
    remembered,
    subjects_of,
    subset,
    swapped,
    with_region,
    without_oversampling,
)
from activemri.envs.env import ActiveMRIEnv
from activemri.envs.scan import Scan
from activemri.mri.geometry import columns, rows
from activemri.reconstruction.zero_filled import ZeroFilled
from tests.data.files import write_fastmri
from tests.envs.scans import equal_scans, scan


def tiny(subject: str, index: int, *, shape: tuple[int, int] = (8, 10), n_coils: int = 1) -> Slice:
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
        tiny("b", 0),
        tiny("a", 0, shape=(12, 8), n_coils=3),
        tiny("b", 1),
        tiny("c", 0, shape=(9, 9)),
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


COLUMNS = "file,slice,study_level,x,y,width,height,label\n"


def written(path: Path, *rows: str, header: str = COLUMNS) -> Path:
    path.write_text(header + "".join(f"{row}\n" for row in rows))
    return path


def test_findings_are_read_by_volume_and_slice(tmp_path: Path) -> None:
    path = written(
        tmp_path / "knee.csv",
        "file1,3,No,91,132,7,6,Meniscus Tear",
        'file1,3,No,10,20,30,40,"Bone, subchondral edema"',
        "file2,0,Yes,,,,,Normal for age",
        "file2.h5,1,No,1.0,2.0,3.0,4.0,Cyst",
    )
    assert read_findings(path) == {
        ("file1", 3): ((132, 91, 6, 7), (20, 10, 40, 30)),
        ("file2", 1): ((2, 1, 4, 3),),
    }


def test_a_box_marks_what_it_marked_in_the_image_turned_upside_down() -> None:
    image = np.zeros((12, 10))
    image[2:5, 6:8] = 1  # a finding in the stored image
    seen = image[::-1]  # what the radiologist saw
    top, left = (int(index.min()) for index in seen.nonzero())
    box = upright((top, left, 3, 2), 12)
    assert torch.equal(region_of([box], (12, 10)), torch.from_numpy(image > 0))


def test_tables_of_another_layout_are_refused_with_the_place(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with pytest.raises(FileNotFoundError):
        read_findings(path)
    with pytest.raises(ValueError, match=r"expected the columns file.*width, height missing"):
        read_findings(written(path, "a,1,2,3", header="file,slice,x,y\n"))
    with pytest.raises(
        ValueError, match=r"line 3: expected numbers.*got '1', '2', 'two', '3', '4'"
    ):
        read_findings(written(path, "a,1,No,2,2,3,4,L", "a,1,No,2,two,3,4,L"))
    with pytest.raises(ValueError, match=r"line 2: expected numbers.*'2', '', ''"):
        read_findings(written(path, "a,1,No,2"))
    with pytest.raises(ValueError, match="at least one row with a box"):
        read_findings(written(path, "a,0,Yes,,,,,Normal"))


@pytest.fixture
def knees(tmp_path: Path) -> Path:
    for name in ("file1", "file2"):
        write_fastmri(
            tmp_path / "data" / f"{name}.h5", shape=(24, 20), recon=(12, 14), patient=name
        )
    return tmp_path / "data"


def test_only_slices_with_a_finding_are_opened_and_it_is_their_region(
    knees: Path, tmp_path: Path
) -> None:
    path = written(
        tmp_path / "a.csv", "file1,2,No,4,5,3,2,L", "file1,2,No,0,0,1,1,L", "other,0,No,1,1,2,2,L"
    )
    dataset = open_dataset(knees, split="all", annotations=path)
    assert [(one.volume, one.index) for one in map(dataset.describe, range(len(dataset)))] == [
        ("file1", 2)
    ]
    roi = dataset[0].roi
    assert roi is not None
    assert torch.equal(roi, region_of([(5, 4, 2, 3), (11, 0, 1, 1)], (12, 14)))
    assert open_dataset(knees, split="all")[2].roi is None
    small = open_dataset(knees, split="all", annotations=path, matrix_size=16)[0].roi
    assert small is not None
    assert small.shape == (16, 16)


def test_annotations_for_other_scans_are_refused_with_names_of_both(
    knees: Path, tmp_path: Path
) -> None:
    path = written(tmp_path / "a.csv", "file9,2,No,4,5,3,2,L")
    with pytest.raises(ValueError, match=r"none of the slices.*'file1'.*\('file9', 2\)"):
        open_dataset(knees, split="all", annotations=path)
    with pytest.raises(ValueError, match="annotations are for files; got phantom"):
        open_dataset("phantom", annotations=path)


def test_an_environment_is_rewarded_within_the_boxes(knees: Path, tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "file1,1,No,4,4,6,4,L")
    env = ActiveMRIEnv(
        data=knees, split="all", annotations=path, n_center_lines=4, reward="delta_roi_ssim"
    )
    _, before = env.reset(seed=0)
    assert (before["volume"], before["slice"]) == ("file1", 1)
    _, reward, _, _, after = env.step(int(before["action_mask"].argmax()))
    assert reward == pytest.approx(after["roi_ssim"] - before["roi_ssim"])
    assert "roi_nmse" in after
    with h5py.File(knees / "file1.h5") as file:
        target = file["reconstruction_esc"][1]
    assert env.episodes.locate(0)[0].secret.reference.target.shape[1:] == target.shape


@pytest.mark.parametrize(("axes", "geometry"), [((-2,), columns), ((-1,), rows)])
@pytest.mark.parametrize(("n_coils", "maps"), [(1, False), (3, True)])
def test_without_oversampling_zero_filled_images_of_whole_readouts_are_the_same(
    axes: tuple[int, ...], geometry: Callable[[tuple[int, int]], Any], n_coils: int, maps: bool
) -> None:
    one = scan(0, target_shape=(10, 12), n_coils=n_coils, maps=maps)
    cut = without_oversampling(SliceList([one]), axes)
    assert cut[0].shape == cut.shape == cut.describe(0).shape
    assert cut.shape[axes[0]] == one.target.shape[axes[0]] < one.shape[axes[0]]
    assert torch.equal(cut[0].target, one.target)
    states = [
        Scan(geometry(other.shape), ZeroFilled(), n_center_lines=3).start([other])
        for other in (one, cut[0])
    ]
    for name, value in states[0].scores.items():
        assert torch.allclose(states[1].scores[name], value, rtol=1e-5, atol=1e-6), name
    assert cut.describe(0).shape == pickle.loads(pickle.dumps(cut))[0].shape


def test_scans_without_oversampling_stay_the_data_set_that_they_are(scans: list[Slice]) -> None:
    data = SliceList([replace(one, target=torch.ones(one.shape)) for one in scans])
    assert without_oversampling(data, (-2, -1)) is data
    whole = SliceList([scan(0, target_shape=(10, 12))])
    assert without_oversampling(whole, ()) is whole


def test_environments_crop_the_readout_where_that_changes_no_score() -> None:
    data = SliceList([scan(0, target_shape=(10, 12))])
    shape, target = data.shape, data[0].target.shape
    for geometry, expected in [
        ("columns", (target[0], shape[1])),
        ("rows", (shape[0], target[1])),
        ("tiles", shape),
        ("radial", shape),
    ]:
        env = ActiveMRIEnv(data=data, geometry=geometry)
        assert env.episodes.dataset.shape == expected
    assert ActiveMRIEnv(data=data, scanner="noisy").episodes.dataset.shape == shape
    own = ActiveMRIEnv(data=data, geometry=columns(shape))
    assert own.episodes.dataset.shape == shape
