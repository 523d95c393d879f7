"""The adapter is what Stable-Baselines3 makes of as many single environments."""

import time
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import TimeLimit
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from activemri.agents.sb3 import ActiveMRIVecEnv, make_sb3_env
from activemri.envs.env import ActiveMRIEnv
from activemri.envs.vector_env import ActiveMRIVectorEnv
from tests.envs.scans import equal_scans, mixed_scans

N = 3


def options(**changes: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "data": mixed_scans(),
        "budget": 4,
        "n_center_lines": 3,
        "n_random_lines": 1,
        "observation": "lines",
    }
    return settings | changes


def adapted(n: int = N, **changes: Any) -> ActiveMRIVecEnv:
    return ActiveMRIVecEnv(
        ActiveMRIVectorEnv(num_envs=n, autoreset_mode=AutoresetMode.SAME_STEP, **options(**changes))
    )


def singles(n: int = N, *, limit: int | None = None, **changes: Any) -> DummyVecEnv:
    given = options(**changes)

    def one() -> Any:
        env: Any = ActiveMRIEnv(**given)
        return Monitor(env if limit is None else TimeLimit(env, limit))

    return DummyVecEnv([one] * n)


def assert_same(ours: Any, theirs: Any, path: str = "") -> None:
    """Equal in keys, shapes, types and values, up to rounding; seconds may differ."""
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys(), path
        for key in theirs.keys() - {"t"}:
            assert_same(ours[key], theirs[key], f"{path}/{key}")
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs), path
        for place, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(a, b, f"{path}/{place}")
    elif isinstance(theirs, np.ndarray):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype), path
        tolerance = 1.01 if theirs.dtype == np.uint8 else 1e-4
        np.testing.assert_allclose(
            ours.astype(float), theirs.astype(float), tolerance, tolerance, err_msg=path
        )
    elif isinstance(theirs, float):
        assert type(ours) is float and ours == pytest.approx(theirs, rel=1e-4, abs=1e-5), path
    else:
        assert type(ours) is type(theirs) and ours == theirs, path


@pytest.mark.parametrize(
    ("observation", "limit", "stop"),
    [("image", 3, False), ("lines", None, False), ("flat", None, True)],
)
def test_every_step_is_that_of_single_environments(
    observation: str, limit: int | None, stop: bool
) -> None:
    ours = adapted(observation=observation, max_episode_steps=limit, stop_action=stop)
    theirs = singles(observation=observation, limit=limit, stop_action=stop)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    for env in (ours, theirs):
        env.seed(5)
    assert_same(ours.reset(), theirs.reset())
    assert_same(ours.reset_infos, theirs.reset_infos)
    generator = np.random.default_rng(0)
    n_ended = 0
    for _ in range(9):
        masks = np.stack(ours.env_method("action_masks"))
        np.testing.assert_array_equal(masks, np.stack(theirs.env_method("action_masks")))
        actions = np.array([generator.choice(np.flatnonzero(mask)) for mask in masks])
        if generator.random() < 0.3:
            actions[0] = np.flatnonzero(~masks[0])[0]  # illegal: wastes a line
        mine, others = ours.step(actions), theirs.step(actions)
        assert_same(list(mine), list(others))
        assert_same(ours.reset_infos, theirs.reset_infos)
        n_ended += int(mine[2].sum())
    assert n_ended >= N


def test_seeds_and_options_serve_one_reset() -> None:
    ours, theirs = adapted(data=equal_scans()), singles(data=equal_scans())
    chosen = [{"index": i} for i in (2, 0, 1)]
    for env in (ours, theirs):
        env.seed(1)
        env.set_options(chosen)
    assert_same(ours.reset(), theirs.reset())
    assert [info["slice"] for info in ours.reset_infos] == [2, 0, 1]
    assert_same(ours.reset(), theirs.reset())
    assert_same(ours.reset_infos, theirs.reset_infos)


def test_options_that_scans_cannot_differ_in_are_refused() -> None:
    env = adapted(data=equal_scans())
    env.set_options([{"index": 0}, {}, {}])
    with pytest.raises(ValueError, match="to all scans, or to none"):
        env.reset()
    env.set_options([{"volume": f"volume-{i}", "slice": i} for i in range(N)])
    with pytest.raises(ValueError, match="only index, initial_mask may differ"):
        env.reset()


def test_masks_of_all_scans_take_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    env = adapted()
    env.reset()
    calls: list[int] = []
    legal = env.env.episodes.legal

    def counted() -> Any:
        calls.append(1)
        return legal()

    monkeypatch.setattr(env.env.episodes, "legal", counted)
    assert env.has_attr("action_masks") and not env.has_attr("nothing_of_the_kind")
    masks = env.env_method("action_masks")
    assert len(calls) == 1 and len(masks) == N
    np.testing.assert_array_equal(env.env_method("action_masks", indices=1)[0], masks[1])


def test_what_concerns_all_scans_is_not_asked_of_one() -> None:
    env = adapted()
    with pytest.raises(AttributeError, match=r"\.env\.simulate"):
        env.env_method("simulate")
    with pytest.raises(ValueError, match="for all of them"):
        env.set_attr("render_mode", None, indices=[0])
    env.set_attr("note", 3)
    assert env.get_attr("note", indices=[0, 2]) == [3, 3]


def test_environments_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="SameStep"):
        ActiveMRIVecEnv(ActiveMRIVectorEnv(num_envs=2, **options()))
    with pytest.raises(ValueError, match="to_numpy"):
        adapted(to_numpy=False)


def test_rewards_are_scaled_and_returns_are_not() -> None:
    plain, large = adapted(), adapted()
    large.reward_scale = 50.0
    for env in (plain, large):
        env.seed(0)
        env.reset()
    for _ in range(4):
        actions = np.array([int(np.flatnonzero(m)[0]) for m in plain.action_masks()])
        (_, small, _, infos), (_, big, _, others) = plain.step(actions), large.step(actions)
        np.testing.assert_allclose(big, 50 * small, rtol=1e-5)
    for info, other in zip(infos, others, strict=True):
        assert info["episode"]["r"] == other["episode"]["r"] != 0


def test_frames_are_drawn_for_all_scans() -> None:
    pytest.importorskip("matplotlib")
    env = adapted(render_mode="rgb_array", data=equal_scans())
    env.reset()
    frames = env.get_images()
    assert len(frames) == N and frames[0] is not None and frames[0].dtype == np.uint8


def test_a_registered_environment_learns_in_seconds_with_its_returns_logged() -> None:
    changes: dict[str, Any] = {"data": equal_scans(), "reconstructor": "zero-filled", "budget": 4}
    env = make_sb3_env("ActiveMRI/Phantom-v0", num_envs=4, observation="lines", **changes)
    model = PPO("MultiInputPolicy", env, n_steps=8, batch_size=16, n_epochs=1, seed=0, device="cpu")
    started = time.process_time()
    model.learn(64)
    assert time.process_time() - started < 5
    assert model.ep_info_buffer is not None
    assert len(model.ep_info_buffer) == 16 and all(e["l"] == 4 for e in model.ep_info_buffer)


def test_evaluation_and_monitors_of_stable_baselines_work_on_it() -> None:
    env = adapted()
    model = PPO("MultiInputPolicy", env, n_steps=8, batch_size=24, seed=0, device="cpu")
    returns, lengths = evaluate_policy(model, env, n_eval_episodes=4, return_episode_rewards=True)
    assert lengths == [4] * 4 and len(returns) == 4  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match="already wrapped with a `Monitor`"):
        monitored = VecMonitor(adapted())
    monitored.reset()
    for _ in range(4):
        *_, infos = monitored.step(np.zeros(N, dtype=int))
    assert infos[0]["episode"]["l"] == 4
    assert np.stack(monitored.env_method("action_masks")).shape[0] == N


def test_masked_learners_take_legal_actions_only() -> None:
    contrib = pytest.importorskip("sb3_contrib")
    env = adapted()
    illegal = []
    step = env.env.step

    def watched(actions: Any) -> Any:
        illegal.extend((~env.action_masks()[np.arange(N), actions]).tolist())
        return step(actions)

    env.env.step = watched  # type: ignore[method-assign]
    contrib.MaskablePPO("MultiInputPolicy", env, n_steps=8, batch_size=12, seed=0).learn(24)
    assert len(illegal) == 24 and not any(illegal)
