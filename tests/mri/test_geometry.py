"""Sampling geometries: what actions acquire, what is legal, and scans smaller than the frame."""

import numpy as np
import pytest
import torch
from fastmri.data.subsample import RandomMaskFunc
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from activemri.mri.geometry import GEOMETRIES, CartesianGeometry, make_geometry

quick = settings(max_examples=40, deadline=None, derandomize=True)


@st.composite
def geometries(draw: st.DrawFn) -> CartesianGeometry:
    name = draw(st.sampled_from(sorted(GEOMETRIES)))
    shape = draw(st.tuples(st.integers(4, 13), st.integers(4, 13)))
    per_action = draw(st.integers(1, 3))
    return make_geometry(name, shape, lines_per_action=per_action)


def random_bool(*shape: int, seed: int, share: float = 0.5) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < share


def distinct(geometry: CartesianGeometry, action: int) -> set[int]:
    return set(geometry.groups[action].tolist())


@quick
@given(geometries())
def test_every_line_belongs_to_exactly_one_action(geometry: CartesianGeometry) -> None:
    lines = [line for action in range(geometry.n_actions) for line in distinct(geometry, action)]
    assert sorted(lines) == list(range(geometry.n_lines))


@quick
@given(geometries())
def test_a_line_is_mentioned_first_exactly_once(geometry: CartesianGeometry) -> None:
    for action in range(geometry.n_actions):
        first = geometry.groups[action][geometry.first_mention[action]].tolist()
        assert sorted(first) == sorted(distinct(geometry, action))


@quick
@given(geometries())
def test_the_mirror_of_the_mirror_is_the_line_itself(geometry: CartesianGeometry) -> None:
    mirror = geometry.mirror()
    assert torch.equal(mirror[mirror], torch.arange(geometry.n_lines))


@quick
@given(geometries())
def test_the_mirror_lies_opposite_unless_it_is_off_the_edge(geometry: CartesianGeometry) -> None:
    offsets, mirrored = geometry.offsets(), geometry.offsets()[geometry.mirror()]
    size = torch.tensor(geometry.mask_shape)
    assert torch.equal((offsets + mirrored) % size, torch.zeros_like(offsets))
    centre = (offsets == 0).all(dim=1)
    assert torch.equal(mirrored[centre], offsets[centre])


@pytest.mark.parametrize("width", [9, 10])
def test_conjugate_columns_come_in_opposite_pairs(width: int) -> None:
    geometry = make_geometry("conjugate-columns", (8, width))
    offsets = geometry.offsets()[:, 1]
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
@given(geometries(), st.integers(0, 40))
def test_centre_lines_are_the_nearest(geometry: CartesianGeometry, wanted: int) -> None:
    n = min(wanted, geometry.n_lines)
    mask = geometry.center_lines(n)
    distance = geometry.offsets().double().norm(dim=1)
    assert int(mask.sum()) == n
    if 0 < n < geometry.n_lines:
        assert distance[mask].max() <= distance[~mask].min()


def test_more_centre_lines_than_lines_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 0 to 10 centre lines; got 11"):
        make_geometry("columns", (8, 10)).center_lines(11)
    with pytest.raises(ValueError, match="got -1"):
        make_geometry("columns", (8, 10)).center_lines(-1)


@quick
@given(geometries(), st.integers(0, 1000), st.integers(0, 6))
def test_an_action_is_legal_if_it_brings_new_lines_within_the_budget(
    geometry: CartesianGeometry, seed: int, budget: int
) -> None:
    mask = random_bool(2, geometry.n_lines, seed=seed)
    measurable = random_bool(2, geometry.n_lines, seed=seed + 1, share=0.8)
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
    geometry: CartesianGeometry, seed: int
) -> None:
    mask = random_bool(2, geometry.n_lines, seed=seed)
    before, actions = mask.clone(), torch.tensor([0, geometry.n_actions - 1])
    after = geometry.acquire(mask, actions)
    assert torch.equal(mask, before)
    for row, action in enumerate(actions.tolist()):
        added = set(after[row].nonzero().flatten().tolist())
        old = set(before[row].nonzero().flatten().tolist())
        assert added == old | distinct(geometry, action)


@quick
@given(geometries(), st.integers(0, 3), st.integers(0, 3))
def test_a_smaller_scan_lies_in_the_centre_of_the_frame(
    geometry: CartesianGeometry, less_height: int, less_width: int
) -> None:
    """The same action means the same distance from the centre of k-space."""
    size = (geometry.shape[0] - less_height, geometry.shape[1] - less_width)
    exists = geometry.lines_of(torch.ones(1, *size, dtype=torch.bool))
    own_size = [n if s else 1 for n, s in zip(size, geometry.selected, strict=True)]
    assert int(exists.sum()) == own_size[0] * own_size[1]
    for line in exists[0].nonzero().flatten().tolist():
        laid_out = geometry.kspace_mask(torch.eye(geometry.n_lines)[line][None] > 0, size)[0]
        (place,) = laid_out.nonzero().tolist()
        offset = [p - n // 2 for p, n in zip(place, own_size, strict=True)]
        assert offset == geometry.offsets()[line].tolist()


@quick
@given(geometries(), st.integers(0, 1000))
def test_masks_survive_being_laid_out_and_read_back(geometry: CartesianGeometry, seed: int) -> None:
    mask = random_bool(2, geometry.n_lines, seed=seed)
    laid_out = geometry.kspace_mask(mask, geometry.shape).expand(2, *geometry.shape)
    assert torch.equal(geometry.lines_of(laid_out), mask)


def test_a_scan_larger_than_the_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        make_geometry("columns", (8, 10)).lines_of(torch.ones(1, 8, 12, dtype=torch.bool))


def test_lines_of_zero_padding_do_not_exist() -> None:
    measured = torch.ones(1, 8, 10, dtype=torch.bool)
    measured[..., :2] = measured[..., -1:] = False
    exists = make_geometry("columns", (8, 10)).lines_of(measured)[0]
    assert exists.tolist() == [False] * 2 + [True] * 7 + [False]


def test_frequency_grows_from_the_centre_to_one_at_the_edge() -> None:
    frequency = make_geometry("columns", (8, 10)).frequency()
    assert frequency.dtype == torch.float64
    assert frequency.tolist() == [1.0, 0.8, 0.6, 0.4, 0.2, 0.0, 0.2, 0.4, 0.6, 0.8]


def test_the_frequency_of_an_echo_train_is_the_mean_of_its_lines() -> None:
    train = make_geometry("columns", (8, 10), lines_per_action=4)
    assert train.n_actions == 3
    assert train.frequency().tolist() == pytest.approx([0.7, 0.2, 0.7])


@quick
@given(geometries(), st.integers(0, 2**32 - 1), st.integers(0, 5))
def test_random_lines_are_drawn_without_repeats_among_those_given(
    geometry: CartesianGeometry, seed: int, n: int
) -> None:
    among = random_bool(geometry.n_lines, seed=seed % 1000, share=0.9)
    n = min(n, int(among.sum()))
    mask = geometry.random_lines(n, among=among, generator=np.random.default_rng(seed))
    again = geometry.random_lines(n, among=among, generator=np.random.default_rng(seed))
    assert int(mask.sum()) == n
    assert not (mask & ~among).any()
    assert torch.equal(mask, again)


def test_too_many_random_lines_are_refused() -> None:
    geometry = make_geometry("columns", (8, 10))
    with pytest.raises(ValueError, match="at most 2 random lines; got 3"):
        among = geometry.center_lines(2)
        geometry.random_lines(3, among=among, generator=np.random.default_rng(0))


def test_unknown_geometries_and_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown geometry 'spirals'; choose from columns"):
        make_geometry("spirals", (8, 10))
    with pytest.raises(ValueError, match=r"frames of \(8, 10\); the data has \(10, 8\)"):
        make_geometry(make_geometry("columns", (8, 10)), (10, 8))
    with pytest.raises(ValueError, match="expected 1 to 10 lines per action; got 11"):
        make_geometry("columns", (8, 10), lines_per_action=11)
