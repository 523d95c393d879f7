"""Scans in which lines may be measured again: what the state machine promises."""

from typing import Any

import numpy as np
import pytest
import torch

from activemri.envs.env import ActiveMRIEnv
from activemri.envs.observation import OBSERVATIONS
from activemri.envs.replay import Replay, points_of
from activemri.envs.scan import WASTE, Scan, State
from activemri.envs.scanner import IDEAL, Noisy, Scanner
from activemri.envs.vector_env import ActiveMRIVectorEnv
from activemri.mri.geometry import GEOMETRIES
from tests.envs.scanners import ARTEFACTS, begin, legal_plan, play, scan_with, scans
from tests.envs.scans import (
    assert_same,
    equal_scans,
    full_kspace,
    mixed_scans,
    random_weights,
    scan,
)
from tests.envs.test_replay import assert_rebuilt, fill
from tests.envs.test_vector_env import assert_same as assert_same_steps

COILS = {"one coil": (1, False), "given maps": (3, True), "estimated maps": (3, False)}


@pytest.fixture(params=ARTEFACTS)
def scanner(request: pytest.FixtureRequest) -> Scanner:
    return ARTEFACTS[request.param]


def assert_close(a: State, b: State) -> None:
    """What was measured is bitwise the same; images are made in another order."""
    assert_same(a.view.log, b.view.log)
    for name in ("mask", "budget", "n_acquired", "legal"):
        assert torch.equal(getattr(a.view, name), getattr(b.view, name)), name
    torch.testing.assert_close(a.view.zero_filled, b.view.zero_filled, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(a.scores, b.scores, rtol=0, atol=1e-5)


@pytest.mark.parametrize("coils", COILS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_zero_filled_image_is_the_adjoint_of_what_was_measured(
    scanner: Scanner, geometry: str, coils: str
) -> None:
    n_coils, maps = COILS[coils]
    acquisition = scan_with(scanner, geometry=geometry, per_action=2, budget=16)
    state = begin(acquisition, scans(n_coils=n_coils, maps=maps))
    state = play(acquisition, state, legal_plan(acquisition, state, 3))
    view = state.view
    expected = view.operator.zero_filled(view.log.samples)
    torch.testing.assert_close(view.zero_filled, expected, rtol=1e-4, atol=1e-4)
    assert not bool(view.log.samples[~view.mask].any())


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("reconstructor", ["zero-filled", "unet"])
def test_a_preview_gives_what_the_action_then_gives(
    scanner: Scanner, geometry: str, reconstructor: str
) -> None:
    acquisition = scan_with(scanner, geometry=geometry, reconstructor=random_weights(reconstructor))
    state = begin(acquisition, scans())
    state = play(acquisition, state, legal_plan(acquisition, state, 3))
    fresh = state.view.legal & ~acquisition.geometry.legal(
        state.view.mask, state.view.measurable, state.view.budget
    )
    trials = torch.stack(  # measured before, and not
        [fresh.double().argmax(dim=1), (state.view.legal & ~fresh).double().argmax(dim=1)], dim=1
    )
    before = state.clone()
    scores = acquisition.preview(state, trials)
    assert_same(state, before)
    for trial in range(2):
        after = acquisition.acquire(state.clone(), trials[:, trial])
        for name, value in scores.items():
            torch.testing.assert_close(value[:, trial], after.scores[name], rtol=1e-5, atol=1e-5)


def test_a_preview_of_masks_is_that_of_their_lines_measured_from_the_centre_outwards(
    scanner: Scanner,
) -> None:
    acquisition = scan_with(scanner)
    state = begin(acquisition, scans())
    order = [5, 4, 10, 3]  # the centre is line 7
    masks = state.view.mask.clone()
    masks[:, order] = True
    scores = acquisition.preview_masks(state, masks[:, None])
    after = play(acquisition, state, torch.tensor(order)[:, None].expand(-1, 2))
    for name, value in scores.items():
        torch.testing.assert_close(value[:, 0], after.scores[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n_coils", [1, 3])
@pytest.mark.parametrize("geometry", ["columns", "tiles", "radial"])
def test_a_batch_equals_its_scans_one_by_one(scanner: Scanner, geometry: str, n_coils: int) -> None:
    acquisition = scan_with(scanner, geometry=geometry)
    slices = scans(3, n_coils=n_coils)
    together = begin(acquisition, slices)
    plan = legal_plan(acquisition, together, 5)
    together = play(acquisition, together, plan)
    for row, one in enumerate(slices):
        alone = play(acquisition, begin(acquisition, [one], first_seed=row), plan[:, row : row + 1])
        same = assert_same if acquisition.geometry.transform.is_cartesian else assert_close
        same(alone, together.select([row]))


def test_seeds_come_from_the_generators_and_make_the_difference(scanner: Scanner) -> None:
    acquisition = scan_with(scanner)

    def samples(seed: int) -> torch.Tensor:
        state = acquisition.start(scans(1), generators=[np.random.default_rng(seed)])
        state = play(acquisition, state, torch.arange(6)[:, None])
        return state.view.log.samples

    assert torch.equal(samples(1), samples(1))
    assert not torch.equal(samples(1), samples(2))
    with pytest.raises(ValueError, match="one generator, or one seed, for each scan"):
        acquisition.start(scans(1))


def test_resumed_scans_are_where_they_were(scanner: Scanner) -> None:
    acquisition = scan_with(scanner, per_action=2)
    slices = scans(n_coils=3)
    start = begin(acquisition, slices)
    state = play(acquisition, start.clone(), legal_plan(acquisition, start, 3))
    again = acquisition.resume(
        slices,
        start_masks=state.view.start_mask,
        masks=state.view.mask,
        budgets=state.view.budget,
        seeds=state.secret.conditions.seed,
        order=state.view.log.order,
    )
    assert_close(again, state)
    following = state.view.legal.double().argmax(dim=1)
    assert_close(
        acquisition.acquire(again, following),
        acquisition.acquire(state, following),
    )


def test_clones_selections_joins_and_replacements_are_independent(
    scanner: Scanner,
) -> None:
    acquisition = scan_with(scanner)
    start = begin(acquisition, scans(3))
    plan = legal_plan(acquisition, start, 4)
    middle = play(acquisition, start.clone(), plan[:2])
    kept = middle.clone()
    end = play(acquisition, middle, plan[2:])
    parts = [kept.select([0]), kept.select([1, 2])]
    joined = play(acquisition, State.join(parts), plan[2:])
    assert_same(joined, end)
    assert_same(play(acquisition, kept.clone(), plan[2:]), end)
    kept.put([1], start.select([1]))
    fresh = play(acquisition, start.select([1]), plan[:, 1:2])
    assert_same(play(acquisition, kept.select([1]), plan[:, 1:2]), fresh)
    assert_same(play(acquisition, kept.select([0]), plan[2:, :1]), end.select([0]))


def test_a_line_is_legal_until_it_was_measured_often_enough() -> None:
    acquisition = scan_with(Noisy(repeats=3), budget=8)
    state = begin(acquisition, scans(1))
    assert bool(state.view.legal.all())  # the starting lines as well
    for left in (True, True, False):
        state = acquisition.acquire(state, torch.tensor([2]))
        assert bool(state.view.legal[0, 2]) == left
    assert int(state.view.budget[0]) == 5
    assert int(state.view.n_acquired[0]) == 6
    assert int(state.view.mask.sum()) == 4
    with pytest.raises(ValueError, match="acquired as often as a line may be measured"):
        acquisition.acquire(state, torch.tensor([2]))
    state = acquisition.acquire(state, torch.tensor([WASTE]))
    assert int(state.view.budget[0]) == 4
    view = state.view
    assert view.log.n_measured[0].tolist() == [0, 0, 3, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0]
    assert float(view.acceleration) == 14 / 6


def test_without_a_budget_every_line_may_be_measured_as_often_as_possible() -> None:
    acquisition = scan_with(Noisy(repeats=2), budget=None)
    state = begin(acquisition, scans(1))
    assert int(state.view.budget[0]) == 2 * 14 - 3
    plan = legal_plan(acquisition, state, 25)
    state = play(acquisition, state, plan)
    assert bool(state.finished.all())
    assert bool((state.view.log.n_measured == 2).all())
    assert sorted([*plan[:, 0].tolist(), 6, 7, 8]) == sorted(2 * list(range(14)))


def test_lines_of_one_action_are_measured_one_after_the_other() -> None:
    acquisition = scan_with(Noisy(repeats=2), per_action=3, budget=11)
    state = play(acquisition, begin(acquisition, scans(1)), torch.tensor([[0], [2], [0]]))
    view = state.view
    assert view.log.last_measured[0, [0, 1, 2, 6, 7, 8]].tolist() == [9, 10, 11, 6, 7, 8]
    assert view.log.n_measured[0, :9].tolist() == [2, 2, 2, 0, 0, 0, 2, 2, 2]
    # Two measurements are left, and no action of three lines takes fewer, but the last.
    assert state.view.legal[0].nonzero().flatten().tolist() == [4]


def test_due_actions_go_through_all_lines_before_any_is_measured_again() -> None:
    acquisition = scan_with(Noisy(repeats=2), budget=None)
    state = begin(acquisition, scans(1))
    taken = []
    while not bool(state.finished.all()):
        due = state.view.due
        assert not bool((due & ~state.view.legal).any())
        taken.append(int(due.double().argmax()))
        state = acquisition.acquire(state, torch.tensor(taken[-1:]))
    unmeasured = [line for line in range(14) if line not in (6, 7, 8)]
    assert taken == unmeasured + list(range(14))


def test_in_ideal_scans_all_legal_actions_are_due() -> None:
    acquisition = scan_with(IDEAL)
    view = acquisition.start(scans()).view
    assert torch.equal(view.due, view.legal)
    assert torch.equal(view.log.n_measured, view.mask.long())


@pytest.mark.parametrize("kind", OBSERVATIONS)
def test_observations_tell_how_often_lines_were_measured(kind: str) -> None:
    env = ActiveMRIEnv(data=equal_scans(), scanner="spiking", repeats=3, budget=5, observation=kind)
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    observation, *_ = env.step(2)
    observation, _, _, _, info = env.step(2)
    assert env.observation_space.contains(observation)
    assert info["n_acquired"] == 10
    if isinstance(observation, dict):
        share = observation["repeats"][0]
        assert share[2] == pytest.approx(2 / 3)
        assert share[9] == pytest.approx(1 / 3)
        assert share[0] == 0
        assert observation["mask"].sum() == 9


def vector_options(kind: str) -> dict[str, Any]:
    return {
        "data": mixed_scans(),
        "scanner": ARTEFACTS[kind],
        "budget": 5,
        "n_center_lines": 3,
        "n_random_lines": 1,
    }


@pytest.mark.parametrize("kind", ARTEFACTS)
def test_a_saved_episode_goes_on_as_it_would_have(kind: str) -> None:
    env = ActiveMRIVectorEnv(num_envs=3, **vector_options(kind))
    env.reset(seed=0)
    plan = np.random.default_rng(0).integers(3, 9, (6, 3))  # repeats among them
    for actions in plan[:2]:
        env.step(actions)
    saved = env.state_dict()
    first = [env.step(actions) for actions in plan[2:]]
    env.load_state_dict(saved)
    for actions, before in zip(plan[2:], first, strict=True):
        assert_same_steps(before, env.step(actions))


@pytest.mark.parametrize("kind", ARTEFACTS)
def test_a_replay_rebuilds_what_was_seen(kind: str) -> None:
    env = ActiveMRIVectorEnv(num_envs=4, autoreset_mode="SameStep", **vector_options(kind))
    replay = Replay(40, env.episodes)
    live = fill(env, replay, steps=9)
    assert_rebuilt(replay.rebuild(np.arange(len(live))), live)


def test_protocols_of_ideal_scans_remember_no_log() -> None:
    env = ActiveMRIVectorEnv(num_envs=4, data=mixed_scans(), budget=4)
    env.reset(seed=0)
    assert points_of(env.episodes)["order"].shape == (4, 0)
    assert Scan(env.episodes.geometry, random_weights("zero-filled")).horizon == 0


def test_the_same_slice_meets_other_noise_in_other_episodes() -> None:
    env = ActiveMRIEnv(data=equal_scans(1), scanner="noisy", n_center_lines=4, budget=3)
    scores = [env.reset(seed=seed)[1]["ssim"] for seed in (0, 1, 0)]
    assert scores[0] == scores[2] != scores[1]


def test_scans_of_several_sizes_are_measured_line_by_line() -> None:
    acquisition = scan_with(Noisy(0.0))
    small = [scan(5, shape=(10, 11), padding=1)]
    state = begin(acquisition, small)
    state = play(acquisition, state, legal_plan(acquisition, state, 4))
    view = state.view
    expected = full_kspace(state) * view.operator.grid_mask.unsqueeze(1)
    torch.testing.assert_close(view.measurement.kspace, expected)
