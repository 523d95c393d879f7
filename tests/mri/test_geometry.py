"""Geometries: what actions acquire, what is legal, what a scan starts with, and refusals."""

from typing import Any

import numpy as np
import pytest
import torch
from fastmri.data.subsample import RandomMaskFunc
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from activemri.mri.geometry import (
    GEOMETRIES,
    Cartesian,
    Geometry,
    Spokes,
    cartesian,
    make_geometry,
    tiles,
)

quick = settings(max_examples=40, deadline=None, derandomize=True)


@st.composite
def geometries(draw: st.DrawFn, names: tuple[str, ...] = tuple(GEOMETRIES)) -> Geometry:
    name = draw(st.sampled_from(sorted(names)))
    shape = draw(st.tuples(st.integers(4, 13), st.integers(4, 13)))
    if name == "tiles":
        return make_geometry(name, shape, tile=(draw(st.integers(1, 4)), draw(st.integers(1, 4))))
    return make_geometry(name, shape, lines_per_action=draw(st.integers(1, 3)))


on_a_grid = geometries(("columns", "rows", "points", "tiles", "conjugate-columns"))


def random_bool(*shape: int, seed: int, share: float = 0.5) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < share


def distinct(geometry: Geometry, action: int) -> set[int]:
    return set(geometry.readouts(torch.tensor([action]))[0].flatten().tolist())


@quick
@given(geometries())
def test_every_readout_belongs_to_exactly_one_action_and_is_mentioned_once(
    geometry: Geometry,
) -> None:
    readouts, mentioned = geometry.readouts(torch.arange(geometry.n_actions))
    assert readouts.shape == (geometry.n_actions, geometry.readouts_per_action)
    assert sorted(readouts[mentioned].tolist()) == list(range(geometry.n_readouts))
    for action in range(geometry.n_actions):
        assert set(readouts[action, mentioned[action]].tolist()) == distinct(geometry, action)


@quick
@given(geometries(), st.integers(0, 1000))
def test_values_by_action_count_every_readout_once(geometry: Geometry, seed: int) -> None:
    values = torch.rand(2, geometry.n_readouts, generator=torch.Generator().manual_seed(seed))
    flags = random_bool(2, geometry.n_readouts, seed=seed)
    for action in range(geometry.n_actions):
        mine = sorted(distinct(geometry, action))
        expected = {
            "sum": values[:, mine].sum(dim=1),
            "mean": values[:, mine].mean(dim=1),
            "amin": values[:, mine].amin(dim=1),
            "amax": values[:, mine].amax(dim=1),
        }
        for how, value in expected.items():
            torch.testing.assert_close(geometry.by_action(values, how)[:, action], value)  # type: ignore[arg-type]
        assert torch.equal(geometry.by_action(flags, "any")[:, action], flags[:, mine].any(dim=1))
        assert torch.equal(geometry.by_action(flags, "all")[:, action], flags[:, mine].all(dim=1))


@quick
@given(geometries())
def test_values_of_actions_are_given_to_their_readouts(geometry: Geometry) -> None:
    values = torch.arange(1.0, 1 + geometry.n_actions)[None]
    spread = geometry.by_readout(values)
    sizes = geometry.by_action(torch.ones_like(spread), "sum")
    torch.testing.assert_close(geometry.by_action(spread, "sum"), values * sizes)


@quick
@given(on_a_grid)
def test_the_mirror_lies_opposite_and_back(geometry: Geometry) -> None:
    transform = cartesian(geometry.transform)
    offsets, mirror = transform.offsets, transform.mirror
    assert torch.equal(mirror[mirror], torch.arange(geometry.n_readouts))
    size = torch.tensor(transform.mask_shape)
    assert torch.equal((offsets + offsets[mirror]) % size, torch.zeros_like(offsets))
    centre = (offsets == 0).all(dim=1)
    assert torch.equal(offsets[mirror][centre], offsets[centre])


@pytest.mark.parametrize("width", [9, 10])
def test_conjugate_columns_come_in_opposite_pairs(width: int) -> None:
    geometry = make_geometry("conjugate-columns", (8, width))
    offsets = cartesian(geometry.transform).offsets[:, 1]
    for action in range(geometry.n_actions):
        pair = sorted(int(offsets[line]) for line in distinct(geometry, action))
        lonely = pair == [0] or (width % 2 == 0 and pair == [-width // 2])
        assert lonely or (len(pair) == 2 and pair[0] == -pair[1])


@pytest.mark.parametrize("width", [12, 24])
@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 7, 8, 11])
def test_centre_lines_are_the_block_that_fastmri_masks_have(width: int, n: int) -> None:
    ours = make_geometry("columns", (8, width)).center_lines(n).numpy()
    theirs = RandomMaskFunc([n / width], [1]).calculate_center_mask((1, width, 1), n)
    np.testing.assert_array_equal(ours, theirs.reshape(-1).astype(bool))


@pytest.mark.parametrize("width", [9, 12, 13])
@pytest.mark.parametrize("n", [1, 2, 5, 9])
def test_centre_lines_are_contiguous_around_the_centre(width: int, n: int) -> None:
    lines = make_geometry("columns", (8, width)).center_lines(n).nonzero().flatten().tolist()
    assert lines == list(range(lines[0], lines[0] + n))
    assert width // 2 in lines
    assert abs((lines[0] + lines[-1]) / 2 - width // 2) <= 0.5


@quick
@given(on_a_grid, st.integers(0, 40))
def test_centre_lines_are_the_nearest(geometry: Geometry, wanted: int) -> None:
    """Those of tiles fill squares, between the middle of the axes."""
    n = min(wanted, geometry.n_readouts)
    mask, offsets = geometry.center_lines(n), cartesian(geometry.transform).offsets.double()
    distance = offsets.norm(dim=1)
    if geometry.name == "tiles":
        distance = (offsets + 0.5).abs().amax(dim=1)
    assert int(mask.sum()) == n
    if 0 < n < geometry.n_readouts:
        assert distance[mask].max() <= distance[~mask].min()


def test_more_centre_lines_than_lines_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 0 to 10 centre lines; got 11"):
        make_geometry("columns", (8, 10)).center_lines(11)
    with pytest.raises(ValueError, match="got -1"):
        make_geometry("columns", (8, 10)).center_lines(-1)


@quick
@given(geometries(), st.integers(0, 1000), st.integers(0, 6))
def test_an_action_is_legal_if_it_brings_new_lines_within_the_budget(
    geometry: Geometry, seed: int, budget: int
) -> None:
    mask = random_bool(2, geometry.n_readouts, seed=seed)
    measurable = random_bool(2, geometry.n_readouts, seed=seed + 1, share=0.8)
    budgets = torch.tensor([budget, budget + 1])
    legal = geometry.legal(mask, measurable, budgets)
    for row in range(2):
        for action in range(geometry.n_actions):
            lines = distinct(geometry, action)
            fresh = sum(bool(measurable[row, line] and not mask[row, line]) for line in lines)
            assert bool(legal[row, action]) == (0 < fresh <= int(budgets[row]))


@quick
@given(geometries(), st.integers(0, 1000))
def test_acquiring_adds_the_lines_of_the_action_and_leaves_the_given_mask(
    geometry: Geometry, seed: int
) -> None:
    mask = random_bool(2, geometry.n_readouts, seed=seed)
    before, actions = mask.clone(), torch.tensor([0, geometry.n_actions - 1])
    after = geometry.acquire(mask, actions)
    assert torch.equal(mask, before)
    for row, action in enumerate(actions.tolist()):
        added = set(after[row].nonzero().flatten().tolist())
        old = set(before[row].nonzero().flatten().tolist())
        assert added == old | distinct(geometry, action)


@quick
@given(on_a_grid, st.integers(0, 3), st.integers(0, 3))
def test_a_smaller_scan_lies_in_the_centre_of_the_frame(
    geometry: Geometry, less_height: int, less_width: int
) -> None:
    """The same action means the same distance from the centre of k-space."""
    frame = cartesian(geometry.transform)
    transform = frame.fitted((geometry.shape[0] - less_height, geometry.shape[1] - less_width))
    exists = transform.measurable(torch.ones(1, *transform.shape, dtype=torch.bool))
    own = transform.own_shape
    assert int(exists.sum()) == own[0] * own[1]
    for readout in exists[0].nonzero().flatten().tolist():
        laid_out = transform.grid_mask(torch.eye(geometry.n_readouts)[readout][None] > 0)[0]
        (place,) = laid_out.nonzero().tolist()
        offset = [p - n // 2 for p, n in zip(place, own, strict=True)]
        assert offset == frame.offsets[readout].tolist()


def test_spokes_start_with_the_first_ones_and_lie_all_at_the_centre() -> None:
    geometry = make_geometry("radial", (8, 10), n_spokes=7, lines_per_action=3)
    assert (geometry.n_readouts, geometry.n_actions) == (7, 3)
    assert geometry.center_lines(2).nonzero().flatten().tolist() == [0, 1]
    assert not geometry.frequency.any()
    assert not geometry.has_lines and not geometry.are_rows
    assert isinstance(geometry.transform, Spokes)


@pytest.mark.parametrize(
    ("name", "lines", "rows"),
    [("columns", True, False), ("rows", True, True), ("points", False, False)],
)
def test_geometries_know_their_lines(name: str, lines: bool, rows: bool) -> None:
    geometry = make_geometry(name, (8, 10))
    assert (geometry.has_lines, geometry.are_rows) == (lines, rows)


@pytest.mark.parametrize("tile", [3, (2, 5), (8, 10)])
def test_tiles_are_blocks_of_neighbours(tile: int | tuple[int, int]) -> None:
    geometry = tiles((8, 10), tile=tile)
    down, right = (tile, tile) if isinstance(tile, int) else tile
    assert geometry.n_actions == -(-8 // down) * -(-10 // right)
    for action in range(geometry.n_actions):
        points = [divmod(point, 10) for point in distinct(geometry, action)]
        heights, widths = {row for row, _ in points}, {column for _, column in points}
        assert len(points) == len(heights) * len(widths)  # a block, whole but at the edges
        assert min(heights) % down == 0 and len(heights) == min(down, 8 - min(heights))
        assert min(widths) % right == 0 and len(widths) == min(right, 10 - min(widths))


def test_frequency_grows_from_the_centre_to_one_at_the_edge() -> None:
    frequency = make_geometry("columns", (8, 10)).frequency
    assert frequency.dtype == torch.float64
    assert frequency.tolist() == [1.0, 0.8, 0.6, 0.4, 0.2, 0.0, 0.2, 0.4, 0.6, 0.8]


def test_the_frequency_of_an_echo_train_is_the_mean_of_its_lines() -> None:
    train = make_geometry("columns", (8, 10), lines_per_action=4)
    assert train.n_actions == 3
    assert train.frequency.tolist() == pytest.approx([0.7, 0.2, 0.7])


@quick
@given(geometries(), st.integers(0, 2**32 - 1), st.integers(0, 5))
def test_random_lines_are_drawn_without_repeats_among_those_that_exist(
    geometry: Geometry, seed: int, n: int
) -> None:
    exists = random_bool(2, geometry.n_readouts, seed=seed % 1000, share=0.9)
    exists[:, geometry.center_lines(1)] = True
    n = min(n, int(exists.sum(dim=1).min()) - 1)

    def drawn() -> Tensor:
        generators = [np.random.default_rng([seed, row]) for row in range(2)]
        return geometry.start_masks(exists, 1, n_random=n, generators=generators)

    mask = drawn()
    assert mask.sum(dim=1).tolist() == [1 + n] * 2
    assert mask[:, geometry.center_lines(1)].all()
    assert not (mask & ~exists).any()
    assert torch.equal(mask, drawn())


def test_too_many_random_lines_and_missing_generators_are_refused() -> None:
    geometry, exists = make_geometry("columns", (8, 10)), torch.ones(1, 10, dtype=torch.bool)
    with pytest.raises(ValueError, match="at most 8 random lines; got 9"):
        geometry.start_masks(exists, 2, n_random=9, generators=[np.random.default_rng(0)])
    with pytest.raises(ValueError, match="one generator for each scan"):
        geometry.start_masks(exists, 2, n_random=1)


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("spirals", {}, "unknown geometry 'spirals'; choose from columns"),
        ("columns", {"lines_per_action": 11}, "expected 1 to 10 lines per action; got 11"),
        ("columns", {"tile": 2}, "takes no tile; it takes lines_per_action"),
        ("rows", {"n_spokes": 9}, "takes no n_spokes"),
        ("tiles", {"lines_per_action": 2}, "takes no lines_per_action; it takes tile"),
        ("tiles", {"tile": 9}, "a tile of 1 x 1 to 8 x 10 points; got 9"),
        ("tiles", {"tile": (2, 11)}, r"got \(2, 11\)"),
        ("tiles", {"tile": 0}, "got 0"),
        ("radial", {"n_spokes": 3, "lines_per_action": 4}, "expected 1 to 3 lines per action"),
        ("radial-uniform", {"tile": 2}, "takes no tile"),
        ("activemri.mri.geometry:spirals", {}, "cannot be imported"),
    ],
)
def test_what_geometries_do_not_know_is_refused(
    name: str, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        make_geometry(name, (8, 10), **options)


def test_geometries_for_other_shapes_and_of_other_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match=r"frames of \(8, 10\); the data has \(10, 8\)"):
        make_geometry(make_geometry("columns", (8, 10)), (10, 8))
    with pytest.raises(ValueError, match=r"geometry: expected a name.*got int"):
        make_geometry(3, (8, 10))  # type: ignore[arg-type]


def test_a_function_that_makes_a_geometry_is_found_by_its_path() -> None:
    made = make_geometry("activemri.mri.geometry:tiles", (8, 10), tile=2)
    assert (made.name, made.n_actions) == ("tiles", 20)


@pytest.mark.parametrize(
    "groups",
    [
        torch.arange(10),
        torch.arange(10.0)[:, None],
        torch.zeros(0, 1, dtype=torch.int64),
        torch.tensor([[10]]),
        torch.tensor([[-1]]),
    ],
)
def test_groups_that_name_no_readouts_are_refused(groups: Tensor) -> None:
    with pytest.raises(ValueError, match="geometry 'mine': groups must"):
        Geometry("mine", Cartesian((8, 10), (False, True)), groups)


def test_what_needs_a_grid_is_refused_without_one() -> None:
    with pytest.raises(ValueError, match="expected samples on a Cartesian grid; spokes have none"):
        cartesian(make_geometry("radial", (8, 10)).transform)
