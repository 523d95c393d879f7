"""The batched scan: what it acquires, what it refuses, and what it leaves alone."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from activemri.data.slices import Slice
from activemri.envs import scan as scan_module
from activemri.envs.scan import IDLE, STOP, WASTE, Scan, State, Truth
from activemri.envs.scanner import Ideal
from activemri.mri.geometry import GEOMETRIES, make_geometry
from activemri.reconstruction.reconstructor import Reconstructor
from activemri.reconstruction.registry import RECONSTRUCTORS
from activemri.reconstruction.zero_filled import ZeroFilled
from tests.envs.scans import (
    Unsure,
    assert_same,
    full_kspace,
    full_samples,
    grouped,
    is_served,
    random_weights,
    scan,
)

FRAME = (18, 20)  # larger than the scans, so that frames and scans are told apart
COILS = pytest.mark.parametrize(("n_coils", "maps"), [(1, False), (3, True), (3, False)])


def protocol(
    geometry: str = "columns",
    reconstructor: Reconstructor | None = None,
    *,
    per_action: int = 1,
    budget: int | None = 7,
    n_random_lines: int = 0,
    metrics: tuple[str, ...] = ("ssim", "psnr", "nmse", "nrmse", "mse", "ssim_volume"),
) -> Scan:
    return Scan(
        grouped(geometry, FRAME, per_action),
        reconstructor or ZeroFilled(),
        budget=budget,
        n_center_lines=3,
        n_random_lines=n_random_lines,
        metrics=metrics,
    )


def batch(n_coils: int = 1, *, n: int = 3, maps: bool = False) -> list[Slice]:
    return [scan(i, padding=2, n_coils=n_coils, maps=maps) for i in range(n)]


def legal_actions(state: State, rng: np.random.Generator) -> Tensor:
    rows = state.view.legal.numpy()
    return torch.tensor([rng.choice(np.flatnonzero(r)) if r.any() else IDLE for r in rows])


def scan_to_the_end(acquisition: Scan, state: State, *, seed: int = 0) -> State:
    rng = np.random.default_rng(seed)
    while not bool(state.finished.all()):
        state = acquisition.acquire(state, legal_actions(state, rng))
    return state


@dataclass(frozen=True)
class Asked(Ideal):
    """An ideal scanner that does not say so, and is asked for every readout."""

    is_ideal: ClassVar[bool] = False


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("per_action", [1, 3])
@COILS
def test_compiled_steps_of_ideal_scanners_are_those_of_scanners_that_are_asked(
    geometry: str, per_action: int, n_coils: int, maps: bool
) -> None:
    fast = protocol(geometry, per_action=per_action, budget=12)
    slow, rng = replace(fast, scanner=Asked()), np.random.default_rng(3)
    ours, theirs = (one.start(batch(n_coils, maps=maps)) for one in (fast, slow))
    for step in range(6):
        actions = legal_actions(ours, rng)
        actions[step % 3] = (IDLE, WASTE, actions[2])[step % 3]
        trials = torch.stack([actions.clamp(min=0), legal_actions(ours, rng).clamp(min=0)], dim=1)
        expected = slow.preview(theirs, trials)
        for name, values in fast.preview(ours, trials).items():
            assert torch.allclose(values, expected[name], rtol=1e-5, atol=1e-6), name
        if step == 5:
            actions[1] = STOP
        ours, theirs = fast.acquire(ours, actions), slow.acquire(theirs, actions)
        for name in ("n_measured", "last_measured", "outlier_score", "samples"):
            assert torch.equal(getattr(ours.view.log, name), getattr(theirs.view.log, name)), name
        for name in ("legal", "budget", "mask"):
            assert torch.equal(getattr(ours.view, name), getattr(theirs.view, name)), name
        assert torch.equal(ours.stopped, theirs.stopped)
        for name, values in theirs.scores.items():
            assert torch.allclose(ours.scores[name], values, rtol=1e-5, atol=1e-6), name
        assert (ours.view.pixels.int() - theirs.view.pixels.int()).abs().max() <= 1


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("per_action", [1, 3])
@COILS
def test_step_by_step_gives_the_zero_filled_image_of_all_that_was_acquired(
    geometry: str, per_action: int, n_coils: int, maps: bool
) -> None:
    acquisition = protocol(geometry, per_action=per_action, budget=12)
    state = acquisition.start(batch(n_coils, maps=maps))
    state = scan_to_the_end(acquisition, state)
    view = state.view
    expected = view.operator.zero_filled(full_samples(state))
    assert torch.allclose(view.zero_filled, expected, atol=1e-5 * float(expected.abs().max()))
    assert torch.equal(view.reconstruction.image, view.zero_filled)
    assert torch.equal(view.n_acquired, (view.mask & view.measurable).sum(dim=1))
    assert torch.equal(view.start_budget - view.budget, (view.mask & ~view.start_mask).sum(dim=1))
    assert not (view.mask & ~view.measurable).any()


@pytest.mark.parametrize(
    ("reconstructor", "geometry"),
    [
        *(("zero-filled", g) for g in GEOMETRIES),
        *((r, g) for r in RECONSTRUCTORS for g in ("columns", "radial") if is_served(r, g)),
        ("cresnet", "points"),
        ("unet", "tiles"),
    ],
)
@pytest.mark.parametrize(("n_coils", "maps"), [(1, False), (3, False)])
def test_a_preview_is_what_acquiring_would_give_for_every_metric(
    reconstructor: str, geometry: str, n_coils: int, maps: bool
) -> None:
    acquisition = protocol(geometry, random_weights(reconstructor), per_action=2)
    state = acquisition.start(batch(n_coils, n=2, maps=maps))
    rng = np.random.default_rng(3)
    state = acquisition.acquire(state, legal_actions(state, rng))
    actions = torch.stack([legal_actions(state, rng), legal_actions(state, rng)], dim=1)
    before = state.clone()
    preview = acquisition.preview(state, actions)
    assert_same(state, before)
    for trial in range(2):
        taken = acquisition.acquire(state.clone(), actions[:, trial])
        for name in acquisition.metrics:
            assert torch.allclose(
                preview[name][:, trial], taken.scores[name], rtol=1e-4, atol=1e-5
            ), name


@pytest.mark.parametrize("geometry", [g for g in GEOMETRIES if not is_served("cresnet", g)])
@pytest.mark.parametrize("reconstructor", [r for r in RECONSTRUCTORS if not is_served(r, "radial")])
def test_reconstructors_of_grids_are_refused_where_there_is_none(
    reconstructor: str, geometry: str
) -> None:
    with pytest.raises(ValueError, match="needs samples on a Cartesian grid; geometry 'radial"):
        protocol(geometry, random_weights(reconstructor))


@pytest.mark.parametrize(
    ("reconstructor", "geometry"),
    [*((r, "columns") for r in RECONSTRUCTORS), *(("zero-filled", g) for g in GEOMETRIES)],
)
def test_whole_masks_score_as_the_scans_that_lead_to_them(
    reconstructor: str, geometry: str
) -> None:
    acquisition = protocol(geometry, random_weights(reconstructor))
    state = acquisition.start(batch())
    end = scan_to_the_end(acquisition, state.clone())
    before = state.clone()
    scores = acquisition.preview_masks(state, torch.stack([end.view.mask, state.view.mask], dim=1))
    assert_same(state, before)
    for name in acquisition.metrics:
        assert torch.allclose(scores[name][:, 0], end.scores[name], rtol=1e-4, atol=1e-6)
        assert torch.allclose(scores[name][:, 1], state.scores[name], rtol=1e-4, atol=1e-6)


def test_a_preview_of_acquired_and_of_padding_lines_keeps_the_score() -> None:
    acquisition = protocol()
    state = acquisition.start(batch())
    centre = acquisition.geometry.n_readouts // 2
    scores = acquisition.preview(state, torch.tensor([[centre, 0]] * 3))
    assert torch.allclose(scores["ssim"], state.scores["ssim"][:, None].expand(3, 2), atol=1e-7)


def test_a_preview_of_actions_that_do_not_exist_is_refused() -> None:
    acquisition = protocol()
    state = acquisition.start(batch())
    for wrong in (-1, 20):
        with pytest.raises(ValueError, match=f"actions must be in 0 to 19; got {wrong} to"):
            acquisition.preview(state, torch.full((3, 1), wrong))


@pytest.mark.parametrize("geometry", GEOMETRIES)
@COILS
def test_a_batch_is_its_scans_one_by_one(geometry: str, n_coils: int, maps: bool) -> None:
    slices = batch(n_coils, n=3, maps=maps)
    acquisition, rng = protocol(geometry, per_action=2), np.random.default_rng(0)
    together = acquisition.start(slices)
    alone = [acquisition.start([one]) for one in slices]
    while not bool(together.finished.all()):
        actions = legal_actions(together, rng)
        together = acquisition.acquire(together, actions)
        alone = [acquisition.acquire(s, a[None]) for s, a in zip(alone, actions, strict=True)]
    if acquisition.geometry.transform.is_cartesian:
        assert_same(State.join(alone), together)
        return
    joined = State.join(alone)
    assert torch.equal(joined.view.mask, together.view.mask)
    torch.testing.assert_close(joined.view.log.samples, together.view.log.samples)
    largest = float(together.view.zero_filled.abs().max())
    assert (joined.view.zero_filled - together.view.zero_filled).abs().max() < 1e-5 * largest
    torch.testing.assert_close(joined.scores, together.scores, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("geometry", ["columns", "rows", "points", "tiles", "conjugate-columns"])
def test_all_lines_of_one_coil_give_the_target(geometry: str) -> None:
    acquisition = protocol(geometry, per_action=4, budget=None)
    state = scan_to_the_end(acquisition, acquisition.start(batch()))
    assert (state.view.budget == 0).all()
    assert torch.equal(state.view.mask, state.view.measurable)
    assert (state.scores["ssim"] > 1 - 1e-6).all()


def test_all_spokes_come_near_to_the_target_within_reach() -> None:
    acquisition = protocol("radial", per_action=4, budget=None)
    state = acquisition.start(batch())
    first = state.scores["ssim"].clone()
    state = scan_to_the_end(acquisition, state)
    assert (state.scores["ssim"] > 0.8).all() and (state.scores["ssim"] > first).all()
    # What no spoke reaches is no part of the target.
    own = torch.stack([one.target for one in state.secret.slices])
    assert not torch.allclose(state.secret.reference.target, own, rtol=1e-2)


def test_stopping_idling_and_wasting_acquire_nothing() -> None:
    acquisition = protocol()
    state = acquisition.start(batch())
    before = state.clone().view
    after = acquisition.acquire(state, torch.tensor([STOP, IDLE, WASTE]))
    assert after.stopped.tolist() == [True, False, False]
    assert after.finished.tolist() == [True, False, False]
    assert after.view.budget.tolist() == [7, 7, 6]
    for name in ("mask", "n_acquired", "zero_filled", "start_mask", "scale"):
        assert torch.equal(getattr(after.view, name), getattr(before, name))


def test_wasting_the_budget_ends_the_scan() -> None:
    acquisition = protocol(budget=2)
    state = acquisition.start(batch(n=1))
    for _ in range(2):
        assert not state.finished.any()
        state = acquisition.acquire(state, torch.tensor([WASTE]))
    assert state.finished.all()
    assert not state.view.legal.any()


def test_the_budget_is_clipped_to_the_lines_that_there_are() -> None:
    state = protocol(budget=1000).start(batch())
    assert torch.equal(state.view.budget, (state.view.measurable & ~state.view.mask).sum(dim=1))


def test_an_echo_train_that_exceeds_the_budget_is_illegal() -> None:
    acquisition = protocol(per_action=4, budget=5)
    state = scan_to_the_end(acquisition, acquisition.start(batch()))
    assert (state.view.budget >= 0).all()
    fresh = state.view.measurable & ~state.view.mask
    n_fresh = acquisition.geometry.by_action(fresh, "sum")
    assert ((n_fresh == 0) | (n_fresh > state.view.budget[:, None])).all()


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        (10, "action 10 of scan 1 was acquired already; legal actions: 3, 4"),
        (0, "was never measured"),
        (20, "is out of range; there are 20 actions"),
        (10**6, "is out of range"),
    ],
)
def test_an_illegal_action_is_refused_with_its_reason_and_changes_nothing(
    action: int, reason: str
) -> None:
    acquisition = protocol()
    state = acquisition.start(batch())
    before = state.clone()
    with pytest.raises(ValueError, match=reason):
        acquisition.acquire(state, torch.tensor([4, action, 5]))
    assert_same(state, before)


def test_a_train_beyond_the_budget_is_refused_with_the_budget() -> None:
    acquisition = protocol(per_action=4, budget=3)
    state = acquisition.start(batch(n=1))
    with pytest.raises(ValueError, match=r"needs more lines than the budget has left \(3\)"):
        acquisition.acquire(state, torch.tensor([3]))


def test_actions_after_the_end_are_refused() -> None:
    acquisition = protocol(budget=1)
    state = acquisition.acquire(acquisition.start(batch(n=1)), torch.tensor([4]))
    with pytest.raises(ValueError, match="comes after the end of the scan"):
        acquisition.acquire(state, torch.tensor([5]))
    stopped = protocol()
    state = stopped.acquire(stopped.start(batch(n=1)), torch.tensor([STOP]))
    with pytest.raises(ValueError, match="comes after the end of the scan"):
        stopped.acquire(state, torch.tensor([5]))


def test_the_number_of_actions_must_be_that_of_the_scans() -> None:
    acquisition = protocol()
    with pytest.raises(ValueError, match=r"expected 3 actions; got shape \(2,\)"):
        acquisition.acquire(acquisition.start(batch()), torch.tensor([4, 5]))


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (torch.ones(3, 19, dtype=torch.bool), "boolean with 20 lines for each of 3 scans"),
        (torch.ones(3, 20), "boolean with 20 lines .* got torch.float32"),
        (torch.ones(3, 20, dtype=torch.bool), "never measured: 0, 1, 2, 17, 18, 19"),
    ],
)
def test_wrong_start_masks_are_refused(mask: Tensor, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        protocol().start(batch(), start_masks=mask)


def test_a_start_that_leaves_nothing_to_acquire_is_refused() -> None:
    acquisition = protocol()
    everything = acquisition.start(batch()).view.measurable
    with pytest.raises(ValueError, match="nothing is left to acquire"):
        acquisition.start(batch(), start_masks=everything)


def test_an_empty_scan_is_refused_and_not_scored_as_nan() -> None:
    one = scan(0)
    empty = replace(
        one, kspace=torch.zeros_like(one.kspace), measured=torch.zeros(one.shape, dtype=torch.bool)
    )
    with pytest.raises(ValueError, match=r"got \[0\] of \[0\] lines"):
        protocol().start([empty])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_kspace_that_is_not_finite_is_refused_by_name(bad: float) -> None:
    """Even a sample that is never acquired would spread: 0 * NaN = NaN."""
    slices = batch()
    kspace = slices[1].kspace.clone()
    kspace[0, 0, 0] = torch.tensor(complex(0, bad))
    slices[1] = replace(slices[1], kspace=kspace)
    with pytest.raises(ValueError, match="volume-1, slice 1 holds NaN or Inf"):
        protocol().start(slices)


def test_scans_of_different_kinds_do_not_share_a_batch() -> None:
    with pytest.raises(ValueError, match="must agree in size, coils, maps, roi and label"):
        protocol().start([scan(0), scan(1, shape=(16, 16))])


def test_protocols_that_make_no_sense_are_refused() -> None:
    geometry = make_geometry("columns", FRAME)
    with pytest.raises(ValueError, match="budget must be a whole number of at least 1; got 0"):
        Scan(geometry, ZeroFilled(), budget=0)
    with pytest.raises(ValueError, match="0 to 20 centre lines; got 21"):
        Scan(geometry, ZeroFilled(), n_center_lines=21)
    with pytest.raises(ValueError, match="unknown metric 'nsme'"):
        Scan(geometry, ZeroFilled(), metrics=("nsme",))
    with pytest.raises(ValueError, match="one generator for each scan"):
        Scan(geometry, ZeroFilled(), n_random_lines=2).start([scan(0)])


def test_scans_start_with_the_centre_and_random_lines_of_their_own() -> None:
    acquisition = protocol(n_random_lines=2)
    generators = [np.random.default_rng(seed) for seed in (0, 1, 0)]
    state = acquisition.start(batch(), generators=generators)
    centre = acquisition.geometry.center_lines(3)
    assert state.view.mask[:, centre].all()
    assert (state.view.mask.sum(dim=1) == 5).all()
    assert not (state.view.mask & ~state.view.measurable).any()
    assert torch.equal(state.view.mask[0], state.view.mask[2])
    assert not torch.equal(state.view.mask[0], state.view.mask[1])


def test_a_given_start_mask_replaces_the_protocols_and_is_left_alone() -> None:
    given = torch.zeros(3, 20, dtype=torch.bool)
    given[:, 5:9] = True
    kept = given.clone()
    acquisition = protocol()
    state = scan_to_the_end(acquisition, acquisition.start(batch(), start_masks=given))
    assert torch.equal(given, kept)
    assert torch.equal(state.view.start_mask, given)


def test_acceleration_counts_lines_that_the_scan_has() -> None:
    acquisition = protocol()
    view = acquisition.start(batch()).view
    assert view.acceleration.tolist() == pytest.approx([14 / 3] * 3)


def assert_rows(state: State, rows: list[int], other: State, places: list[int]) -> None:
    assert_same(state.select(rows), other.select(places))
    theirs = [other.secret.slices[place] for place in places]
    assert [state.secret.slices[row] for row in rows] == theirs


@pytest.mark.parametrize("geometry", ["columns", "radial"])
@COILS
def test_rows_can_be_selected_joined_and_put_back(geometry: str, n_coils: int, maps: bool) -> None:
    acquisition = protocol(geometry, Unsure())
    state = acquisition.start(batch(n_coils, maps=maps))
    state = acquisition.acquire(state, torch.tensor([4, 5, 6]))
    some = state.select([2, 0])
    assert_rows(some, [0, 1], state, [2, 0])
    both = State.join([some, state])
    assert len(both) == 5
    assert_rows(both, [0, 1], state, [2, 0])
    assert_rows(both, [2, 3, 4], state, [0, 1, 2])
    fresh = acquisition.start([scan(9, padding=2, n_coils=n_coils, maps=maps)])
    kept = state.clone()
    both.put([1], fresh)
    assert_rows(both, [1], fresh, [0])
    assert_rows(both, [0], kept, [2])
    assert_rows(state, [0, 1, 2], kept, [0, 1, 2])


def test_a_put_back_row_goes_on_as_if_it_had_been_there_from_the_start() -> None:
    acquisition = protocol()
    state = acquisition.start(batch())
    state = acquisition.acquire(state, torch.tensor([4, 5, 6]))
    fresh = scan(9, padding=2)
    assert state.view.mask[1, 5] and state.view.n_acquired[1] == 4  # known from now on
    state.put([1], acquisition.start([fresh]))
    assert not state.view.mask[1, 5] and state.view.n_acquired[1] == 3
    state = acquisition.acquire(state, torch.tensor([5, 7, 7]))
    alone = acquisition.acquire(acquisition.start([fresh]), torch.tensor([7]))
    assert torch.allclose(state.scores["ssim"][1], alone.scores["ssim"][0])
    assert torch.allclose(state.view.zero_filled[1], alone.view.zero_filled[0], atol=1e-5)


def test_a_clone_is_not_touched_by_what_happens_to_the_original() -> None:
    acquisition = protocol(reconstructor=Unsure())
    state = acquisition.start(batch())
    clone = state.clone()
    before = clone.clone()
    scan_to_the_end(acquisition, state)
    assert_same(clone, before)


def test_the_slices_are_never_written_to() -> None:
    slices = batch(3, maps=True)
    kept = [(s.kspace.clone(), s.target.clone()) for s in slices]
    acquisition = protocol()
    state = scan_to_the_end(acquisition, acquisition.start(slices))
    state.put([0], acquisition.start([scan(9, padding=2, n_coils=3, maps=True)]))
    for one, (kspace, target) in zip(slices, kept, strict=True):
        assert torch.equal(one.kspace, kspace)
        assert torch.equal(one.target, target)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_view_shows_acquired_samples_only(geometry: str) -> None:
    state = protocol(geometry).start(batch())
    samples, mask = state.view.log.samples, state.view.mask
    assert torch.equal(samples[mask], full_samples(state)[mask])
    assert not samples[~mask].any()
    assert state.view.truth is None
    if state.view.transform.is_cartesian:
        acquired = full_kspace(state) * state.view.operator.grid_mask.unsqueeze(1)
        assert torch.equal(state.view.measurement.kspace, acquired)


def test_an_uncertainty_is_kept_and_scored_as_its_mean_in_units_of_the_scale() -> None:
    acquisition = protocol(reconstructor=Unsure())
    state = acquisition.start(batch())
    first = state.scores["uncertainty"].clone()
    assert state.view.reconstruction.uncertainty is not None
    expected = state.view.reconstruction.uncertainty.double().mean(dim=(1, 2)) / state.view.scale
    assert torch.allclose(first, expected)
    state = scan_to_the_end(acquisition, state)
    assert (state.scores["uncertainty"] < first).all()


def test_the_truth_answers_as_previews_do() -> None:
    acquisition = protocol()
    state = acquisition.start(batch())
    truth = Truth(acquisition, state)
    trials = torch.tensor([[4, 5], [6, 7], [4, 13]])
    expected = acquisition.preview(state, trials, ("psnr",))["psnr"]
    assert torch.equal(truth.scores_of_actions(trials, "psnr"), expected)
    masks = acquisition.geometry.acquire(state.view.mask, trials[:, 0])[:, None]
    scores = truth.scores_of_masks(masks, "psnr")
    assert torch.allclose(scores[:, 0], expected[:, 0], rtol=1e-6)


@COILS
def test_trials_of_spokes_score_the_same_with_and_without_their_back_projections(
    n_coils: int, maps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    acquisition = protocol("radial", budget=12)
    state = acquisition.start(batch(n_coils, maps=maps))
    trials = torch.arange(acquisition.geometry.n_actions).expand(3, -1)
    fast = acquisition.preview(state, trials)
    assert state.secret.conditions.samples in scan_module._PROJECTED
    monkeypatch.setattr(scan_module, "_MOST_PROJECTED", 0)
    slow = acquisition.preview(state, trials)
    for name, values in slow.items():
        assert torch.allclose(fast[name], values, rtol=1e-4, atol=1e-5), name
