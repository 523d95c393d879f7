"""The single environment: Gymnasium's contract, how episodes go and end, and what is refused."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from activemri.data.slices import SliceList
from activemri.envs.env import ActiveMRIEnv
from activemri.envs.observation import OBSERVATIONS
from activemri.envs.reward import REWARDS
from activemri.envs.scanner import SCANNERS
from activemri.mri.geometry import GEOMETRIES
from tests.envs.scans import Unsure, equal_scans, mixed_scans, random_weights, scan


def make(**options: Any) -> ActiveMRIEnv:
    settings: dict[str, Any] = {"data": equal_scans(), "budget": 5, "n_center_lines": 3}
    return ActiveMRIEnv(**(settings | options))


def play(env: ActiveMRIEnv, *, seed: int | None = 0, **reset: Any) -> list[tuple[Any, ...]]:
    """A whole episode of random legal actions."""
    steps: list[tuple[Any, ...]] = [env.reset(seed=seed, **reset)]
    env.action_space.seed(seed)
    ended = False
    while not ended:
        step = env.step(int(env.action_space.sample(steps[-1][-1]["action_mask"])))
        ended = step[2] or step[3]
        steps.append(step)
    return steps


def assert_same(a: Any, b: Any, path: str = "") -> None:
    """Equal to the bit, types included."""
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_same(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{path}/{i}")
    elif isinstance(a, np.ndarray | torch.Tensor):
        assert a.dtype == b.dtype, path
        assert a.shape == b.shape, path
        assert bool((a == b).all()), path
    else:
        assert type(a) is type(b), path
        assert a == b, path


@pytest.mark.parametrize("kind", OBSERVATIONS)
@pytest.mark.parametrize("data", [equal_scans, mixed_scans])
def test_the_checkers_of_gymnasium_and_sb3_pass(kind: str, data: Callable[[], SliceList]) -> None:
    env = make(data=data(), observation=kind, stop_action=True, invalid_action="noop")
    check_env(env, skip_render_check=True)
    with warnings.catch_warnings():
        # Images are smaller here than SB3 wants them for its convolutions.
        warnings.simplefilter("ignore", UserWarning)
        sb3_check_env(env)


@pytest.mark.parametrize("data", [equal_scans, mixed_scans])
@pytest.mark.parametrize("kind", OBSERVATIONS)
def test_every_observation_of_an_episode_lies_in_the_space(
    kind: str, data: Callable[[], SliceList]
) -> None:
    env = make(data=data(), observation=kind)
    for seed in range(3):
        for step in play(env, seed=seed):
            assert env.observation_space.contains(step[0])


def test_a_step_returns_plain_python_numbers_and_flags() -> None:
    _, reward, terminated, truncated, info = play(make())[-1]
    assert type(reward) is float
    assert (type(terminated), type(truncated)) == (bool, bool)
    assert type(info["ssim"]) is float
    assert type(info["slice"]) is int
    assert type(info["volume"]) is str


def test_info_tells_the_scan_the_scores_and_what_is_legal() -> None:
    env = make(stop_action=True)
    steps = play(env, options={"index": 2})
    expected = {"ssim", "psnr", "nmse", "nrmse", "mse", "action_mask", "volume", "slice"}
    expected |= {"subject", "n_acquired", "acceleration", "remaining", "scale"}
    expected |= {"illegal_action", "auc"}
    for step in steps:
        assert step[-1].keys() == expected
    first = steps[0][1]
    assert (first["volume"], first["slice"], first["subject"]) == ("volume-2", 2, "subject-2")
    assert (first["n_acquired"], first["remaining"]) == (3, 5)
    assert first["acceleration"] == pytest.approx(6)
    mask = first["action_mask"]
    assert mask.dtype == np.int8
    assert mask.shape == (19,)
    assert np.flatnonzero(mask == 0).tolist() == [8, 9, 10]


def test_action_masks_agree_with_info_through_an_episode() -> None:
    env = make(stop_action=True)
    _, info = env.reset(seed=1)
    for _ in range(4):
        masks = env.action_masks()
        assert masks.dtype == bool
        np.testing.assert_array_equal(masks, info["action_mask"].astype(bool))
        info = env.step(int(np.flatnonzero(masks)[0]))[-1]


def test_there_is_a_legal_action_as_long_as_the_episode_goes_on() -> None:
    env = make(data=mixed_scans(), budget=None, lines_per_action=3)
    for seed in range(4):
        steps = play(env, seed=seed)
        assert all(step[-1]["action_mask"].any() for step in steps[:-1])
        assert not steps[-1][-1]["action_mask"].any()


def test_padding_and_acquired_columns_are_never_legal() -> None:
    env = make(data=SliceList([scan(0, padding=3)]), budget=None)
    taken: set[int] = set()
    _, info = env.reset(seed=0)
    ended = False
    while not ended:
        legal = set(np.flatnonzero(info["action_mask"]).tolist())
        assert not legal & ({0, 1, 2, 15, 16, 17} | taken)
        taken.add(min(legal))
        _, _, ended, _, info = env.step(min(legal))
    assert len(taken) == 18 - 6 - 3


# Seeds


def test_the_same_seed_gives_the_same_episode_and_zero_is_a_seed() -> None:
    for seed in (0, 7):
        assert_same(
            play(make(n_random_lines=2), seed=seed), play(make(n_random_lines=2), seed=seed)
        )


def test_different_seeds_and_later_episodes_differ() -> None:
    env = make(data=equal_scans(4), n_random_lines=2)
    starts = {tuple(env.reset(seed=seed)[0]["mask"]) for seed in range(6)}
    assert len(starts) > 1
    env.reset(seed=0)
    order = [env.reset()[1]["slice"] for _ in range(12)]
    assert set(order) == {0, 1, 2, 3}
    assert order[:4] != order[4:8] or order[4:8] != order[8:]


def test_global_random_numbers_are_neither_used_nor_touched() -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    first = play(make(n_random_lines=2))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(4)
    assert_same(play(make(n_random_lines=2)), first)


def test_the_data_never_run_out() -> None:
    """After the last scan comes another one, and not an empty observation."""
    env = make(data=equal_scans(2), budget=1)
    for _ in range(5):
        observation, _ = env.reset()
        assert env.observation_space.contains(observation)


# Ends


def test_a_spent_budget_terminates() -> None:
    steps = play(make(budget=4))
    assert len(steps) == 1 + 4
    assert [step[2:4] for step in steps[1:]] == [(False, False)] * 3 + [(True, False)]
    assert steps[-1][-1]["remaining"] == 0


def test_all_lines_acquired_terminates() -> None:
    steps = play(make(budget=None))
    assert len(steps) == 1 + 18 - 3
    assert steps[-1][2:4] == (True, False)
    assert steps[-1][-1]["acceleration"] == 1
    assert steps[-1][-1]["ssim"] == pytest.approx(1, abs=1e-6)


def test_stopping_terminates_and_earns_nothing() -> None:
    env = make(stop_action=True, step_cost=0.1)
    before = env.reset(seed=0)
    assert env.action_space.n == 19  # type: ignore[attr-defined]
    observation, reward, terminated, truncated, info = env.step(18)
    assert (reward, terminated, truncated) == (0.0, True, False)
    assert_same(observation, before[0])
    assert info["ssim"] == before[1]["ssim"]
    assert (info["n_acquired"], info["remaining"]) == (3, 5)


def test_a_time_limit_truncates() -> None:
    env = gymnasium.wrappers.TimeLimit(make(), max_episode_steps=2)
    env.reset(seed=0)
    assert env.step(0)[2:4] == (False, False)
    assert env.step(1)[2:4] == (False, True)


def test_a_finished_or_fresh_environment_wants_a_reset() -> None:
    env = make(budget=1)
    with pytest.raises(gymnasium.error.ResetNeeded, match="call reset"):
        env.step(0)
    env.reset()
    env.step(0)
    with pytest.raises(gymnasium.error.ResetNeeded, match="call reset"):
        env.step(1)
    env.reset()
    env.step(1)


# Rewards


@pytest.mark.parametrize("name", REWARDS)
def test_rewards_add_up_to_the_whole_gain(name: str) -> None:
    region = {"roi": "center"} if "roi" in name else {}
    env = make(reward=name, reconstructor=Unsure(), **region)
    steps = play(env)
    score = env.episodes.score_name
    gain = steps[-1][-1][score] - steps[0][-1][score]
    sign = -1 if name.startswith("-") or name == "uncertainty_drop" else 1
    assert sum(step[1] for step in steps[1:]) == pytest.approx(sign * gain, abs=1e-9)
    assert gain != 0


def test_every_action_but_stop_costs_its_price() -> None:
    plain, dear = (play(make(step_cost=cost)) for cost in (0.0, 0.25))
    for ours, theirs in zip(plain[1:], dear[1:], strict=True):
        assert theirs[1] == pytest.approx(ours[1] - 0.25)


def test_the_area_under_the_curve_is_its_mean_height() -> None:
    steps = play(make(reward="delta_psnr"))
    curve = np.array([step[-1]["psnr"] for step in steps])
    assert steps[0][-1]["auc"] == curve[0]
    for n, step in enumerate(steps[1:], 1):
        assert step[-1]["auc"] == pytest.approx(np.trapezoid(curve[: n + 1]) / n)


def test_a_reward_that_the_reconstructor_cannot_serve_is_refused() -> None:
    with pytest.raises(ValueError, match="needs the score 'uncertainty', which the reconstructor"):
        make(reward="uncertainty_drop").reset()


# Illegal actions


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        (9, "was acquired already; legal actions: 0, 1"),
        (-1, "actions are 0 to 17; got -1"),
        (18, "actions are 0 to 17; got 18"),
        (1.0, "expected one whole number"),
        ([1, 2], "expected one whole number"),
        ("1", "expected one whole number"),
        (None, "expected one whole number"),
    ],
)
def test_impossible_actions_are_refused_and_change_nothing(action: Any, reason: str) -> None:
    env = make(invalid_action="raise")
    before = env.reset(seed=0)
    with pytest.raises(ValueError, match=reason):
        env.step(action)
    assert_same(env._seen(), before)
    env.step(0)


@pytest.mark.parametrize("action", [np.int64(3), np.array(3), np.array([3]), 3])
def test_actions_come_as_numbers_or_arrays_of_one(action: Any) -> None:
    env = make()
    env.reset(seed=0)
    assert env.step(action)[0]["mask"][3] == 1


@pytest.mark.parametrize("action", [-1, 18, 1.0, None])
def test_what_is_no_action_at_all_is_never_a_noop(action: Any) -> None:
    env = make(invalid_action="noop")
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"actions are 0 to 17|one whole number"):
        env.step(action)


def test_info_tells_illegal_actions_from_legal_ones() -> None:
    env = make()
    assert env.reset(seed=0)[1]["illegal_action"] is False
    assert env.step(9)[-1]["illegal_action"] is True
    assert env.step(0)[-1]["illegal_action"] is False
    env.step(9)
    assert env.reset()[1]["illegal_action"] is False


def test_as_a_noop_an_illegal_action_wastes_one_line_of_the_budget_and_costs_its_price() -> None:
    env = make(invalid_action="noop", budget=2, step_cost=0.1)
    start, info = env.reset(seed=0)
    observation, reward, terminated, _, after = env.step(9)
    assert (reward, terminated) == (-0.1, False)
    np.testing.assert_array_equal(observation["mask"], start["mask"])
    assert (after["remaining"], after["n_acquired"]) == (1, 3)
    assert after["ssim"] == info["ssim"]
    assert env.step(9)[2]
    for impossible in (-1, 18):
        env.reset(seed=0)
        with pytest.raises(ValueError, match="actions are 0 to 17"):
            env.step(impossible)


# Options of reset


def test_reset_chooses_the_scan_by_index_or_by_volume_and_slice() -> None:
    env = make(data=mixed_scans())
    for index in range(8):
        by_index = env.reset(seed=0, options={"index": index})
        assert by_index[1]["slice"] == index
        by_name = env.reset(seed=0, options={"volume": f"volume-{index}", "slice": index})
        assert_same(by_index, by_name)
    assert env.reset(options={"volume": "volume-3"})[1]["slice"] == 3
    assert env.reset(options={"index": np.int64(5)})[1]["slice"] == 5


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"index": 4}, "index must be in 0 to 3; got 4"),
        ({"index": -1}, "index must be in 0 to 3; got -1"),
        ({"index": 1.5}, r"index must be in 0 to 3; got 1\.5"),
        ({"index": "a"}, "index must be in 0 to 3; got 'a'"),
        ({"index": [1, 2]}, r"index must be one number, .* each of 1 scan.*; got \[1, 2\]"),
        ({"initial_mask": "abc"}, "initial_mask must be boolean with 18 lines; got 'abc'"),
        ({"volume": "nobody"}, "there is no volume 'nobody' in equal; e.g. volume-0"),
        ({"volume": "volume-1", "slice": 9}, r"volume 'volume-1' has the slices \[1\]; got 9"),
        ({"index": 0, "volume": "volume-1"}, "either an index or a volume"),
        ({"indx": 0}, "unknown reset option indx; choose from index"),
        ({"initial_mask": np.ones(17, bool)}, r"boolean with 18 lines; got torch.bool \(17,\)"),
        ({"initial_mask": np.ones(18)}, "boolean with 18 lines"),
        ({"initial_mask": np.ones(18, bool)}, "nothing is left to acquire"),
    ],
)
def test_impossible_reset_options_are_refused_and_the_scan_goes_on(
    options: dict[str, Any], reason: str
) -> None:
    env = make()
    env.reset(seed=0)
    expected = env._seen()
    with pytest.raises(ValueError, match=reason):
        env.reset(options=options)
    assert_same(env._seen(), expected)


def test_a_given_initial_mask_is_where_the_scan_starts_and_is_not_written_to() -> None:
    env = make()
    mask = np.zeros(18, dtype=bool)
    mask[[2, 3, 9]] = True
    kept = mask.copy()
    observation, info = env.reset(options={"initial_mask": mask})
    np.testing.assert_array_equal(observation["mask"].astype(bool), kept)
    env.step(5)
    np.testing.assert_array_equal(mask, kept)
    np.testing.assert_array_equal(info["action_mask"] == 0, kept)


def test_observations_handed_out_are_not_written_to_later() -> None:
    env = make()
    steps: list[Any] = [env.reset(seed=0)[0]]
    copies = [copy.deepcopy(steps[0])]
    for action in (0, 1, 2):
        steps.append(env.step(action)[0])
        copies.append(copy.deepcopy(steps[-1]))
    env.reset(seed=1)
    assert_same(steps, copies)


# What-if questions and saved points


@pytest.mark.parametrize("scanner", SCANNERS)
@pytest.mark.parametrize("geometry", [*GEOMETRIES, "columns of a U-Net"])
def test_simulating_tells_what_would_happen_and_changes_nothing(
    geometry: str, scanner: str
) -> None:
    name, _, of = geometry.partition(" of a ")
    reconstructor = random_weights("unet" if of else "zero-filled")
    env = make(reconstructor=reconstructor, geometry=name, scanner=scanner, budget=40)
    env.reset(seed=0)
    env.step(2)
    legal = np.flatnonzero(env.action_masks())
    trials = [int(action) for action in legal[[0, len(legal) // 2, -1]]]
    before = env._seen()
    scores = env.simulate([*trials, 2])
    assert_same(env._seen(), before)
    assert scores["ssim"].shape == (4,)
    if scanner == "ideal":
        assert scores["ssim"][3] == pytest.approx(before[1]["ssim"], abs=1e-6)
    saved = env.state_dict()
    for place, action in enumerate(trials):
        env.load_state_dict(saved)
        info = env.step(action)[-1]
        for name in ("ssim", "psnr", "nmse", "nrmse", "mse"):
            assert scores[name][place] == pytest.approx(info[name], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("reconstructor", ["zero-filled", "unet"])
def test_simulating_to_stop_keeps_the_scores(reconstructor: str) -> None:
    env = make(stop_action=True, reconstructor=random_weights(reconstructor))
    env.reset(seed=0)
    info = env.step(4)[-1]
    with_stop, without = env.simulate([0, 18, 3]), env.simulate([0, 3])
    for name, values in with_stop.items():
        assert values[1] == info[name]
        assert values[[0, 2]] == pytest.approx(without[name])


def test_simulating_refuses_what_it_cannot_try() -> None:
    env = make()
    with pytest.raises(gymnasium.error.ResetNeeded, match="no episode yet"):
        env.simulate([0])
    env.reset()
    with pytest.raises(ValueError, match="actions must be in 0 to 17; got 0 to 18"):
        env.simulate([0, 18])
    with pytest.raises(ValueError, match="expected a list of actions"):
        env.simulate(np.zeros((2, 2), dtype=np.int64))


@pytest.mark.parametrize("reconstructor", ["zero-filled", "unet", "unsure"])
@pytest.mark.parametrize("index", [0, 5, 7])
def test_a_saved_point_comes_back_to_the_bit_with_its_future(
    reconstructor: str, index: int
) -> None:
    method = Unsure() if reconstructor == "unsure" else random_weights(reconstructor)
    env = make(data=mixed_scans(), reconstructor=method, n_random_lines=1, stop_action=True)
    env.reset(seed=3, options={"index": index})
    env.step(int(np.flatnonzero(env.action_masks())[0]))
    saved = env.state_dict()
    here = env._seen()

    def future() -> list[Any]:
        taken = [env.step(int(np.flatnonzero(env.action_masks())[1])) for _ in range(4)]
        return [*taken, env.reset(), env.reset()]

    first = future()
    env.load_state_dict(saved)
    assert_same(env._seen(), here)
    assert_same(future(), first)
    other = make(data=mixed_scans(), reconstructor=method, n_random_lines=1, stop_action=True)
    other.load_state_dict(saved)
    assert_same(other._seen(), here)
    env = other
    assert_same(future(), first)


def saved_by(**options: Any) -> dict[str, Any]:
    env = make(**options)
    env.reset(seed=0, options={"index": 1})
    env.step(int(np.flatnonzero(env.action_masks())[0]))
    return env.state_dict()


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (lambda: saved_by(data=SliceList(mixed_scans().slices[4:])), "mask must be boolean"),
        (lambda: saved_by(data=SliceList([scan(20 + i) for i in range(3)])), "scan is|scale is"),
        (lambda: saved_by(geometry="rows"), "geometry|mask"),
        (lambda: saved_by(lines_per_action=2), r"is not \(1, 18\)"),
        (lambda: saved_by(budget=4), r"budget is \[4\], not \[5\]"),
        (lambda: saved_by(reconstructor=Unsure()), "set of scores"),
        (lambda: saved_by(reconstructor=random_weights("unet")), "ssim at the start"),
        (lambda: saved_by(scanner="noisy"), "scale|budget"),
        (lambda: saved_by() | {"episodes": [{}]}, "KeyError 'index'"),
        (lambda: saved_by() | {"random": [{"bit_generator": "MT19937"}]}, "state"),
        (lambda: saved_by() | {"ended": [False, False]}, "of 1 scan"),
        (lambda: changed_episode(index=99), "no scan 99"),
        (lambda: changed_episode(actions=[1, 2, 3]), "2 scores of 3 actions"),
        (lambda: changed_episode(view=None), "AttributeError"),
        (lambda: {}, "KeyError"),
    ],
)
def test_a_state_of_anything_else_is_refused_and_the_episode_goes_on(
    state: Callable[[], dict[str, Any]], reason: str
) -> None:
    env = make()
    env.reset(seed=5, options={"index": 0})
    here = env.state_dict()
    with pytest.raises(ValueError, match=f"state of the same protocol and scans.*({reason})"):
        env.load_state_dict(state())
    assert_same(env._seen(), saved_view(here))
    assert_same(env.state_dict()["random"], here["random"])


def changed_episode(**changes: Any) -> dict[str, Any]:
    state = saved_by()
    return state | {"episodes": [state["episodes"][0] | changes]}


def saved_view(state: dict[str, Any]) -> Any:
    env = make()
    env.load_state_dict(state)
    return env._seen()


def test_whether_the_last_action_was_illegal_is_saved() -> None:
    env = make()
    env.reset(seed=0)
    env.step(0)
    legal = env.state_dict()
    assert env.step(0)[-1]["illegal_action"] is True
    illegal = env.state_dict()
    env.load_state_dict(legal)
    assert env._seen()[1]["illegal_action"] is False
    env.load_state_dict(illegal)
    assert env._seen()[1]["illegal_action"] is True


def test_the_end_of_an_episode_is_saved_as_well() -> None:
    env = make(budget=1)
    env.reset(seed=0)
    env.step(0)
    saved = env.state_dict()
    env.reset()
    env.load_state_dict(saved)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(1)


# Torch and rendering


@pytest.mark.parametrize("kind", OBSERVATIONS)
def test_torch_observations_are_tensors_with_the_same_values(kind: str) -> None:
    for ours, theirs in zip(
        play(make(observation=kind, to_numpy=False)), play(make(observation=kind)), strict=True
    ):
        tensors = ours[0] if isinstance(ours[0], dict) else {"": ours[0]}
        arrays = theirs[0] if isinstance(theirs[0], dict) else {"": theirs[0]}
        for key, tensor in tensors.items():
            assert isinstance(tensor, torch.Tensor)
            np.testing.assert_array_equal(tensor.numpy(), arrays[key])


def test_torch_observations_never_pass_through_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    env = make(to_numpy=False)
    env.reset(seed=0)

    def refuse(self: torch.Tensor) -> None:
        raise AssertionError("an observation was copied to NumPy")

    monkeypatch.setattr(torch.Tensor, "cpu", refuse)
    assert isinstance(env.episodes.observe()["image"], torch.Tensor)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_frames_and_texts_show_every_step(geometry: str) -> None:
    pictures, texts = (
        make(render_mode=mode, data=mixed_scans(), geometry=geometry, budget=16)
        for mode in ("rgb_array", "ansi")
    )
    shapes = set()
    for index in (0, 5, 7):
        for env in (pictures, texts):
            env.reset(seed=0, options={"index": index})
            env.step(int(np.flatnonzero(env.action_masks())[0]))
        frame, text = pictures.render(), texts.render()
        shapes.add(frame.shape)
        assert frame.dtype == np.uint8
        assert frame.ndim == 3
        assert frame.shape[2] == 3
        assert f"volume-{index}" in text
        assert "SSIM" in text and "^" in text
    assert len(shapes) == 1


def test_rendering_without_a_mode_warns_and_an_unknown_mode_is_refused() -> None:
    env = make()
    env.reset()
    with pytest.warns(UserWarning, match="render_mode"):
        assert env.render() is None
    with pytest.raises(ValueError, match="unknown render mode 'human'; choose from rgb_array"):
        make(render_mode="human")


def test_closing_twice_does_no_harm() -> None:
    env = make()
    env.reset()
    env.close()
    env.close()


# Options of the task


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"data": None}, "pass data=PATH"),
        ({"budgt": 4}, "unknown option budgt; an environment takes data, split"),
        ({"observation": "picture"}, "unknown observation 'picture'"),
        ({"reward": "ssim"}, "unknown reward 'ssim'"),
        ({"geometry": "spirals"}, "unknown geometry 'spirals'"),
        ({"reconstructor": "magic"}, "unknown reconstructor 'magic'"),
        ({"invalid_action": "ignore"}, 'invalid_action must be "raise" or "noop"'),
        ({"budget": 0}, "budget must be a whole number of at least 1; got 0"),
        ({"budget": 2.5}, r"budget must be a whole number .*between 0 and 1 .*; got 2\.5"),
        ({"budget": 0.0}, r"budget must be a whole number .*between 0 and 1 .*; got 0\.0"),
        ({"budget": True}, "budget must be a whole number of at least 1; got True"),
        ({"n_random_lines": -3}, "n_random_lines must be a whole number of at least 0; got -3"),
        ({"n_center_lines": "8"}, "n_center_lines must be a whole number of at least 0; got '8'"),
        ({"data": "phantom", "matrix_size": "a"}, "matrix size must be a whole number.*; got 'a'"),
        ({"data": "phantom", "matrix_size": (8, 9, 9)}, "height and width as two; got .8, 9, 9"),
        ({"data": "phantom", "matrix_size": 8.5}, r"matrix size must be a .*; got 8\.5"),
        ({"device": "foo"}, "device 'foo' cannot be used here; there is: cpu"),
        ({"metrics": ("SSIM",)}, "unknown metric 'SSIM'"),
        ({"n_center_lines": 19}, "0 to 18 centre lines"),
        ({"lines_per_action": 0}, "1 to 18 lines per action; got 0"),
    ],
)
def test_impossible_options_are_refused_by_name(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        make(**options)


@pytest.mark.parametrize("prepared_gb", [0.0, 2e-5, 1.0])
def test_scans_that_come_again_start_as_they_did_whatever_is_kept(prepared_gb: float) -> None:
    kept, fresh = make(prepared_gb=prepared_gb), make(prepared_gb=0.0)
    order = [0, 1, 0, 2, 1, 0]
    for index in order:
        options = {"index": index}
        assert_same(kept.reset(seed=0, options=options), fresh.reset(seed=0, options=options))
        legal = np.flatnonzero(fresh.action_masks())
        for action in legal[:3].tolist():  # what was kept must not change with its episodes
            assert_same(kept.step(action), fresh.step(action))
    sizes = [state.nbytes for state in kept.episodes._prepared.values()]
    assert sum(sizes) <= prepared_gb * 2**30
    assert len(sizes) == {0.0: 0, 1.0: 3}.get(prepared_gb, len(sizes))


def test_scans_that_start_at_random_are_not_kept() -> None:
    for options in ({"n_random_lines": 2}, {"scanner": "noisy"}):
        env = make(**options)
        masks = [env.reset(seed=seed, options={"index": 0}) for seed in (0, 0, 1)]
        assert_same(masks[0], masks[1])
        assert not env.episodes._prepared


def test_a_copied_environment_goes_on_alone() -> None:
    env, twin = make(), make()
    for one in (env, twin):
        one.reset(seed=0)
        one.step(int(np.flatnonzero(one.action_masks())[0]))
    copied = copy.deepcopy(env)
    for action in np.flatnonzero(twin.action_masks())[:3].tolist():
        copied.step(action)
    for action in np.flatnonzero(twin.action_masks())[:3].tolist():
        assert_same(env.step(action), twin.step(action))
