"""The batched environment is as many single ones, in every autoreset mode, infos included.

Equal up to the rounding of single precision, which depends on where in a batch a pixel lies.
"""

import copy
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from activemri.data.slices import SliceList
from activemri.envs.env import ActiveMRIEnv
from activemri.envs.observation import OBSERVATIONS
from activemri.envs.vector_env import ActiveMRIVectorEnv
from tests.envs.scans import Unsure, equal_scans, mixed_scans, random_weights, scan

N = 5
modes = pytest.mark.parametrize("mode", AutoresetMode)


def options(**changes: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "data": mixed_scans(),
        "budget": 4,
        "n_center_lines": 3,
        "n_random_lines": 1,
    }
    return settings | changes


def both(mode: AutoresetMode | str, n: int = N, **changes: Any) -> tuple[Any, Any]:
    given = options(**changes)
    vector = ActiveMRIVectorEnv(num_envs=n, autoreset_mode=mode, **given)
    limit = given.pop("max_episode_steps", None)

    def single() -> gymnasium.Env[Any, Any]:
        env: gymnasium.Env[Any, Any] = ActiveMRIEnv(**given)
        return env if limit is None else gymnasium.wrappers.TimeLimit(env, limit)

    return vector, SyncVectorEnv([single for _ in range(n)], autoreset_mode=mode)


def assert_same(ours: Any, theirs: Any, path: str = "") -> None:
    """Equal in types, shapes, keys and values; intensities and scores up to rounding."""
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys(), path
        for key in theirs:
            assert_same(ours[key], theirs[key], f"{path}/{key}")
    elif isinstance(theirs, tuple):
        assert len(ours) == len(theirs), path
        for place, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(a, b, f"{path}/{place}")
    elif isinstance(theirs, np.ndarray) and theirs.dtype == object:
        assert ours.shape == theirs.shape, path
        for a, b in zip(ours, theirs, strict=True):
            assert_same(a, b, path)
    elif isinstance(theirs, np.ndarray):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), path
        if theirs.dtype == np.uint8:
            assert np.abs(ours.astype(int) - theirs.astype(int)).max(initial=0) <= 1, path
        elif np.issubdtype(theirs.dtype, np.floating):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7, err_msg=path)
        else:
            np.testing.assert_array_equal(ours, theirs, err_msg=path)
    else:
        assert type(ours) is type(theirs), path
        assert ours == theirs, path


def random_legal(env: ActiveMRIVectorEnv, rng: np.random.Generator) -> Any:
    choices = [rng.choice(np.flatnonzero(row)) if row.any() else 0 for row in env.action_masks()]
    return np.array(choices)


def assert_equal_runs(ours: Any, theirs: Any, *, steps: int = 16, seed: int = 3) -> None:
    assert_same(ours.reset(seed=seed), theirs.reset(seed=seed), "reset")
    rng, n_ended = np.random.default_rng(0), 0
    for step in range(steps):
        actions = random_legal(ours, rng)
        result = ours.step(actions)
        assert_same(result, theirs.step(actions), f"step {step}")
        ended = result[2] | result[3]
        n_ended += int(ended.sum())
        if ours.autoreset_mode is AutoresetMode.DISABLED and ended.any():
            again = {"reset_mask": ended}
            assert_same(ours.reset(options=again), theirs.reset(options=again), f"reset {step}")
    assert n_ended > 0


@pytest.mark.parametrize(
    ("mode", "kind"),
    [(AutoresetMode.SAME_STEP, kind) for kind in OBSERVATIONS]
    + [(mode, kind) for mode in ("NextStep", "Disabled") for kind in ("image", "flat")],
)
def test_it_equals_single_environments_for_every_observation(
    mode: AutoresetMode | str, kind: str
) -> None:
    ours, theirs = both(mode, observation=kind, stop_action=True)
    assert ours.single_observation_space == theirs.single_observation_space
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    assert ours.metadata["autoreset_mode"] is theirs.metadata["autoreset_mode"]
    assert_equal_runs(ours, theirs)


@pytest.mark.parametrize(
    "changes",
    [
        {"reconstructor": "unet"},
        {"reconstructor": "unsure", "reward": "uncertainty_drop"},
        {"geometry": "rows", "lines_per_action": 2, "budget": 5},
        {"geometry": "conjugate-columns", "reward": "-delta_nmse", "step_cost": 0.01},
        {"geometry": "points", "budget": 9, "observation": "lines"},
        {"geometry": "tiles", "tile": (2, 3), "budget": 30, "observation": "kspace"},
        {"geometry": "radial", "n_spokes": 13, "observation": "kspace", "scanner": "noisy"},
        {"geometry": "radial-uniform", "lines_per_action": 2, "stop_action": True},
        {"scanner": "moving", "observation": "mask", "n_random_lines": 0},
        {"invalid_action": "noop", "data": equal_scans()},
        {"data": SliceList([scan(i, n_coils=2 + i % 2, maps=i < 2) for i in range(4)])},
        {"metrics": ("ssim_volume",), "reward": "delta_psnr_volume"},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_it_equals_single_environments_for_every_kind_of_task(changes: dict[str, Any]) -> None:
    named = {"unet": random_weights("unet"), "unsure": Unsure()}
    if "reconstructor" in changes:
        changes = changes | {"reconstructor": named[changes["reconstructor"]]}
    assert_equal_runs(*both(AutoresetMode.SAME_STEP, n=3, **changes), steps=10)


@modes
@pytest.mark.parametrize(
    "changes",
    [
        {"max_episode_steps": 3, "stop_action": True},
        {"max_episode_steps": 4, "data": equal_scans()},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_it_equals_single_environments_with_a_time_limit(
    mode: AutoresetMode, changes: dict[str, Any]
) -> None:
    assert_equal_runs(*both(mode, n=3, **changes), steps=10)


@modes
def test_illegal_actions_as_noops_equal_those_of_single_environments(mode: AutoresetMode) -> None:
    ours, theirs = both(mode, invalid_action="noop", stop_action=True, step_cost=0.1)
    assert_same(ours.reset(seed=0), theirs.reset(seed=0))
    rng = np.random.default_rng(1)
    for _ in range(12):
        actions = rng.integers(0, ours.single_action_space.n, N)
        result = ours.step(actions)
        assert_same(result, theirs.step(actions))
        ended = result[2]
        if mode is AutoresetMode.DISABLED and ended.any():
            again = {"reset_mask": ended}
            assert_same(ours.reset(options=again), theirs.reset(options=again))


@pytest.mark.parametrize("invalid_action", ["raise", "noop"])
@pytest.mark.parametrize("ignored", [-1, 10**6])
def test_the_action_of_a_scan_that_is_being_reset_is_ignored(
    invalid_action: str, ignored: int
) -> None:
    ours, theirs = both(AutoresetMode.NEXT_STEP, n=2, budget=1, invalid_action=invalid_action)
    ours.reset(seed=0)
    theirs.reset(seed=0)
    actions = random_legal(ours, np.random.default_rng(0))
    assert_same(ours.step(actions), theirs.step(actions))
    result = ours.step(np.full(2, ignored))
    assert_same(result, theirs.step(np.full(2, ignored)))
    assert (result[1] == 0).all()
    assert not (result[2] | result[3]).any()


def test_seeds_count_up_or_are_given_one_by_one_and_zero_is_a_seed() -> None:
    env = ActiveMRIVectorEnv(num_envs=3, **options())
    first = env.reset(seed=0)
    assert_same(env.reset(seed=[0, 1, 2]), first)
    single = ActiveMRIEnv(**options())
    for row in range(3):
        assert single.reset(seed=row)[1]["slice"] == first[1]["slice"][row]
        np.testing.assert_array_equal(single.reset(seed=row)[0]["mask"], first[0]["mask"][row])
    with pytest.raises(ValueError, match="expected 3 seeds; got 2"):
        env.reset(seed=[0, 1])


@modes
def test_every_observation_lies_in_the_space(mode: AutoresetMode) -> None:
    env = ActiveMRIVectorEnv(num_envs=N, autoreset_mode=mode, **options())
    observation, _ = env.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(6):
        assert env.observation_space.contains(observation)
        observation, _, ended, _, _ = env.step(random_legal(env, rng))
        if mode is AutoresetMode.DISABLED and ended.any():
            observation, _ = env.reset(options={"reset_mask": ended})


def test_rewards_flags_and_infos_have_gymnasiums_types() -> None:
    env = ActiveMRIVectorEnv(num_envs=N, **options())
    _, infos = env.reset(seed=0)
    n_actions = env.episodes.n_actions
    assert infos["action_mask"].dtype == np.int8
    assert infos["action_mask"].shape == (N, n_actions)
    assert infos["_action_mask"].tolist() == [True] * N
    _, rewards, terminated, truncated, _ = env.step(random_legal(env, np.random.default_rng(0)))
    assert rewards.shape == terminated.shape == truncated.shape == (N,)
    assert [str(a.dtype) for a in (rewards, terminated, truncated)] == ["float64", "bool", "bool"]
    assert env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    assert "autoreset_mode" not in ActiveMRIVectorEnv.metadata


@pytest.mark.parametrize("data", [equal_scans(), mixed_scans()], ids=["equal", "mixed"])
def test_one_illegal_action_is_refused_and_no_scan_goes_on(data: SliceList) -> None:
    env = ActiveMRIVectorEnv(num_envs=N, **options(data=data, invalid_action="raise"))
    env.reset(seed=3)
    before, infos = env.episodes.observe(), env.episodes.infos()
    for row in range(N):
        actions = random_legal(env, np.random.default_rng(0))
        mask = env.action_masks()[row]
        actions[row] = int(np.flatnonzero(~mask)[-1])
        with pytest.raises(ValueError, match="legal actions"):
            env.step(actions)
        assert_same(env.episodes.observe(), before)
        assert_same(env.episodes.infos(), infos)
        assert [len(taken) for taken in env.episodes.actions] == [0] * N
    env.step(random_legal(env, np.random.default_rng(0)))


@pytest.mark.parametrize(
    ("actions", "reason"),
    [
        ([0, 1], "expected 5 whole numbers"),
        (np.zeros(5), "expected 5 whole numbers; got float64"),
        ([0, 0, 0, 0, -1], "actions are 0 to 21; got -1"),
        ([0, 0, 0, 0, 22], "actions are 0 to 21; got 22"),
    ],
)
def test_impossible_actions_are_refused(actions: Any, reason: str) -> None:
    env = ActiveMRIVectorEnv(num_envs=N, **options())
    env.reset(seed=0)
    with pytest.raises(ValueError, match=reason):
        env.step(np.asarray(actions))


def test_scans_that_have_not_begun_or_have_ended_want_a_reset() -> None:
    env = ActiveMRIVectorEnv(num_envs=2, autoreset_mode="Disabled", **options(budget=1))
    with pytest.raises(gymnasium.error.ResetNeeded, match="have not begun"):
        env.step(np.zeros(2, dtype=np.int64))
    with pytest.raises(gymnasium.error.ResetNeeded, match="reset all scans before"):
        env.reset(options={"reset_mask": np.array([True, False])})
    env.reset(seed=0)
    env.step(random_legal(env, np.random.default_rng(0)))
    with pytest.raises(gymnasium.error.ResetNeeded, match=r"scans \[0, 1\] have ended"):
        env.step(np.zeros(2, dtype=np.int64))
    env.reset(options={"reset_mask": np.array([True, False])})
    with pytest.raises(gymnasium.error.ResetNeeded, match=r"scans \[1\] have ended"):
        env.step(np.zeros(2, dtype=np.int64))


@pytest.mark.parametrize("mask", [[True, False, True], np.array([1, 0]), np.zeros(2, bool)])
def test_an_impossible_reset_mask_is_refused(mask: Any) -> None:
    env = ActiveMRIVectorEnv(num_envs=2, **options())
    env.reset(seed=0)
    with pytest.raises(ValueError, match="reset_mask must be boolean with 2 entries"):
        env.reset(options={"reset_mask": mask})


def test_scans_and_starting_lines_may_be_chosen_one_by_one() -> None:
    env = ActiveMRIVectorEnv(num_envs=3, **options(data=equal_scans()))
    masks = np.zeros((3, 18), dtype=bool)
    masks[[0, 1, 2], [4, 9, 12]] = True
    observation, infos = env.reset(options={"index": [3, 0, 2], "initial_mask": masks})
    assert infos["slice"].tolist() == [3, 0, 2]
    np.testing.assert_array_equal(observation["mask"].astype(bool), masks)
    _, infos = env.reset(options={"index": 1, "initial_mask": masks[0]})
    assert infos["slice"].tolist() == [1, 1, 1]


def test_options_of_a_partial_reset_are_those_of_all_scans() -> None:
    env = ActiveMRIVectorEnv(num_envs=3, autoreset_mode="Disabled", **options(data=equal_scans()))
    env.reset(seed=0, options={"index": [0, 0, 0]})
    masks = np.zeros((3, 18), dtype=bool)
    masks[[0, 1, 2], [4, 9, 12]] = True
    again = {"reset_mask": np.array([False, True, True]), "index": [3, 1, 2]}
    observation, infos = env.reset(options=again | {"initial_mask": masks})
    assert [scan["slice"] for scan in _rows(env)] == [0, 1, 2]
    assert infos["_slice"].tolist() == [False, True, True]
    np.testing.assert_array_equal(observation["mask"][1:].astype(bool), masks[1:])


def _rows(env: ActiveMRIVectorEnv) -> list[dict[str, Any]]:
    infos = env.episodes.infos()
    return [{key: value[row] for key, value in infos.items()} for row in range(env.num_envs)]


@pytest.mark.parametrize("reconstructor", ["zero-filled", "unet"])
def test_simulating_equals_that_of_single_environments(reconstructor: str) -> None:
    given = options(reconstructor=random_weights(reconstructor))
    env = ActiveMRIVectorEnv(num_envs=3, **given)
    env.reset(seed=3)
    trials = np.tile(np.arange(6, 10), (3, 1))
    before = env.episodes.observe()
    scores = env.simulate(trials)
    assert_same(env.episodes.observe(), before)
    for row in range(3):
        single = ActiveMRIEnv(**given)
        single.reset(seed=3 + row)
        for name, values in single.simulate(trials[row]).items():
            np.testing.assert_allclose(scores[name][row], values, rtol=1e-5, atol=1e-7)


def test_a_saved_point_of_all_scans_comes_back_to_the_bit_with_its_future() -> None:
    env = ActiveMRIVectorEnv(num_envs=N, **options(stop_action=True))
    env.reset(seed=3)
    rng = np.random.default_rng(0)
    for _ in range(3):
        env.step(random_legal(env, rng))
    saved, here = env.state_dict(), env.episodes.observe()

    def future(one: ActiveMRIVectorEnv) -> tuple[Any, ...]:
        rng = np.random.default_rng(1)
        return tuple(one.step(random_legal(one, rng)) for _ in range(7))

    first = future(env)
    env.load_state_dict(saved)
    assert_same(env.episodes.observe(), here)
    assert_same(future(env), first)
    other = ActiveMRIVectorEnv(num_envs=N, **options(stop_action=True))
    other.load_state_dict(saved)
    assert_same(future(other), first)


@pytest.mark.parametrize("n", [2, N + 1])
def test_a_state_of_another_number_of_scans_is_refused_before_any_is_changed(n: int) -> None:
    env, other = (ActiveMRIVectorEnv(num_envs=m, **options()) for m in (N, n))
    for one in (env, other):
        one.reset(seed=3)
    before, randoms = env.episodes.observe(), env.state_dict()["random"]
    with pytest.raises(ValueError, match=f"of {n} scan.*, not of {N}"):
        env.load_state_dict(other.state_dict())
    assert_same(env.episodes.observe(), before)
    assert env.state_dict()["random"] == randoms


def test_a_state_whose_last_scan_is_another_is_refused_before_any_is_changed() -> None:
    env, other = (ActiveMRIVectorEnv(num_envs=N, **options()) for _ in range(2))
    env.reset(seed=3)
    other.reset(seed=4)
    state, before = other.state_dict(), env.state_dict()
    state["episodes"][-1]["scan"] = ("another", "subject", "0")
    with pytest.raises(ValueError, match=r"its scan is .*another"):
        env.load_state_dict(state)
    assert [one["index"] for one in env.state_dict()["episodes"]] == [
        one["index"] for one in before["episodes"]
    ]


def test_observations_handed_out_are_not_written_to_later() -> None:
    env = ActiveMRIVectorEnv(
        num_envs=N, autoreset_mode=AutoresetMode.SAME_STEP, **options(budget=2)
    )
    observation, _ = env.reset(seed=0)
    kept = {key: value.copy() for key, value in observation.items()}
    rng = np.random.default_rng(0)
    results = [env.step(random_legal(env, rng)) for _ in range(2)]
    final = results[-1][4]["final_obs"][0]
    kept_final = {key: value.copy() for key, value in final.items()}
    for _ in range(3):
        env.step(random_legal(env, rng))
    assert_same(observation, kept)
    assert_same(final, kept_final)


def test_torch_observations_stay_tensors() -> None:
    env = ActiveMRIVectorEnv(num_envs=N, **options(to_numpy=False))
    plain = ActiveMRIVectorEnv(num_envs=N, **options())
    observation, expected = env.reset(seed=0)[0], plain.reset(seed=0)[0]
    for key, value in observation.items():
        assert isinstance(value, torch.Tensor)
        np.testing.assert_array_equal(value.numpy(), expected[key])


def test_frames_and_texts_are_given_for_every_scan() -> None:
    for mode in ("rgb_array", "ansi"):
        env = ActiveMRIVectorEnv(num_envs=2, render_mode=mode, **options())
        env.reset(seed=0)
        frames = env.render()
        assert frames is not None
        assert len(frames) == 2
        assert all(isinstance(f, str if mode == "ansi" else np.ndarray) for f in frames)


def test_statistics_of_episodes_are_recorded_as_gymnasium_does() -> None:
    """The area is that of the truncated or finished episode; its length counts actions."""
    env = gymnasium.wrappers.vector.RecordEpisodeStatistics(
        ActiveMRIVectorEnv(num_envs=2, **options())
    )
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    total = np.zeros(2)
    for _ in range(4):
        _, rewards, _, _, infos = env.step(random_legal(env.unwrapped, rng))  # type: ignore[arg-type]
        total += rewards
    assert infos["episode"]["l"].tolist() == [4, 4]
    np.testing.assert_allclose(infos["episode"]["r"], total, rtol=1e-5)


def test_fewer_than_one_scan_is_refused() -> None:
    with pytest.raises(ValueError, match="num_envs must be at least 1; got 0"):
        ActiveMRIVectorEnv(num_envs=0, **options())


def test_scans_that_begin_anew_beside_others_are_shown_as_they_are() -> None:
    env = ActiveMRIVectorEnv(
        **options(data=equal_scans(), stop_action=True, observation="mask"),
        num_envs=N,
        autoreset_mode=AutoresetMode.SAME_STEP,
    )
    rng = np.random.default_rng(0)
    seen, _ = env.reset(seed=0)
    for _ in range(20):
        seen, *_ = env.step(random_legal(env, rng))
        view = env.episodes.locate(0)[0].view
        np.testing.assert_array_equal(seen["mask"], (view.log.n_measured > 0).numpy())
        np.testing.assert_array_equal(seen["budget"][:, 0], view.budget / view.start_budget)
        assert (view.start_budget >= view.budget).all()


def test_infos_and_observations_handed_out_are_not_written_to_later() -> None:
    env = ActiveMRIVectorEnv(num_envs=3, data=equal_scans(), budget=5, n_center_lines=3)
    handed = [env.reset(seed=0)]
    rng = np.random.default_rng(0)

    def some() -> Any:
        return (rng.random((3, env.episodes.n_actions)) * env.action_masks()).argmax(axis=1)

    for _ in range(2):
        observation, _, _, _, infos = env.step(some())
        handed.append((observation, infos))
    kept = copy.deepcopy(handed)
    env.reset(seed=5, options={"reset_mask": np.array([True, False, True])})
    env.step(some())
    env.reset(seed=6)
    env.step(some())
    for (seen, infos), (seen_then, infos_then) in zip(handed, kept, strict=True):
        assert_same(seen, seen_then)
        assert_same(infos, infos_then)
