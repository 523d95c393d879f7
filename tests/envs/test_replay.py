"""The compact memory rebuilds what was seen, from about a hundred bytes a transition."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from activemri.data.slices import SliceList
from activemri.envs.observation import OBSERVATIONS
from activemri.envs.replay import Batch, Replay, points_of
from activemri.envs.vector_env import ActiveMRIVectorEnv
from tests.envs.scans import mixed_scans, random_weights, scan

N = 4


def vector_env(**changes: Any) -> ActiveMRIVectorEnv:
    options: dict[str, Any] = {
        "data": mixed_scans(),
        "budget": 4,
        "n_center_lines": 3,
        "n_random_lines": 1,
    }
    options["autoreset_mode"] = AutoresetMode.SAME_STEP
    return ActiveMRIVectorEnv(num_envs=N, **(options | changes))


def fill(
    env: ActiveMRIVectorEnv, replay: Replay, *, steps: int, seed: int = 0
) -> list[dict[str, Any]]:
    """Play at random, and remember what was seen live beside the replay."""
    rng, live = np.random.default_rng(seed), []
    observation, _ = env.reset(seed=seed)
    for _ in range(steps):
        points = points_of(env.episodes)
        legal = env.action_masks()
        if env.options.invalid_action == "noop":
            actions = rng.integers(0, env.single_action_space.n, N)  # type: ignore[attr-defined]
        else:
            actions = np.array([rng.choice(np.flatnonzero(r)) if r.any() else 0 for r in legal])
        following, rewards, terminated, truncated, infos = env.step(actions)
        replay.add(points, actions, rewards=rewards, terminated=terminated)
        ended = terminated | truncated
        for row, final in enumerate(ended):
            live.append(
                {
                    "observation": _row(observation, row),
                    "next_observation": infos["final_obs"][row] if final else _row(following, row),
                    "legal": legal[row],
                    "next_legal": infos["final_info"]["action_mask"][row].astype(bool)
                    if final
                    else env.action_masks()[row],
                    "action": actions[row],
                    "reward": rewards[row],
                    "terminated": terminated[row],
                }
            )
        observation = following
    return live


def _row(observation: Any, row: int) -> Any:
    if isinstance(observation, dict):
        return {key: value[row] for key, value in observation.items()}
    return observation[row]


def _close(rebuilt: Any, seen: Any) -> None:
    if isinstance(seen, dict):
        assert rebuilt.keys() == seen.keys()
        for key in seen:
            _close(rebuilt[key], seen[key])
        return
    rebuilt = rebuilt.numpy()
    assert rebuilt.dtype == seen.dtype
    if seen.dtype == np.uint8:  # sums in another order round another way
        assert np.abs(rebuilt.astype(int) - seen.astype(int)).max() <= 1
    elif seen.dtype == np.float32:
        np.testing.assert_allclose(rebuilt, seen, atol=1.01 / 255)
    else:
        np.testing.assert_array_equal(rebuilt, seen)


def assert_rebuilt(batch: Batch, live: list[dict[str, Any]]) -> None:
    for place, seen in enumerate(live):
        _close(_row(batch.observation, place), seen["observation"])
        _close(_row(batch.next_observation, place), seen["next_observation"])
        np.testing.assert_array_equal(batch.legal[place].numpy(), seen["legal"])
        np.testing.assert_array_equal(batch.next_legal[place].numpy(), seen["next_legal"])
        assert int(batch.action[place]) == seen["action"]
        assert float(batch.reward[place]) == np.float32(seen["reward"])
        assert bool(batch.terminated[place]) == seen["terminated"]


@pytest.mark.parametrize("kind", OBSERVATIONS)
def test_what_was_seen_is_rebuilt_for_every_observation(kind: str) -> None:
    env = vector_env(observation=kind, stop_action=True)
    replay = Replay(100, env.episodes)
    live = fill(env, replay, steps=9)
    assert len(replay) == len(live)
    assert any(seen["terminated"] for seen in live)
    assert_rebuilt(replay.rebuild(np.arange(len(live))), live)


@pytest.mark.parametrize(
    "changes",
    [
        {"geometry": "rows", "lines_per_action": 2},
        {"geometry": "points", "budget": 9},
        {"geometry": "tiles", "tile": (2, 3), "budget": 30},
        {"geometry": "radial", "n_spokes": 13, "observation": "lines"},
        {"invalid_action": "noop", "stop_action": True},
        {"max_episode_steps": 2},
        {"reconstructor": "unet"},
        {"data": SliceList([scan(i, n_coils=3, maps=i < 2) for i in range(4)])},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_what_was_seen_is_rebuilt_for_every_kind_of_task(changes: dict[str, Any]) -> None:
    if "reconstructor" in changes:
        changes = {"reconstructor": random_weights("unet")}
    env = vector_env(**changes)
    replay = Replay(100, env.episodes)
    live = fill(env, replay, steps=8)
    assert_rebuilt(replay.rebuild(np.arange(len(live))), live)


def test_a_full_memory_overwrites_its_oldest_transitions() -> None:
    env = vector_env()
    replay = Replay(10, env.episodes)
    live = fill(env, replay, steps=8)
    assert len(replay) == 10
    assert replay.n_added == len(live) > 20
    newest = {place % 10: live[place] for place in range(len(live) - 10, len(live))}
    assert_rebuilt(replay.rebuild(np.arange(10)), [newest[place] for place in range(10)])


def test_more_rows_than_the_memory_holds_leave_the_last_of_them() -> None:
    env = vector_env()
    replay = Replay(3, env.episodes)
    live = fill(env, replay, steps=1)
    assert_rebuilt(replay.rebuild(np.array([0, 1, 2])), [live[3], live[1], live[2]])


@pytest.mark.parametrize("n_lines", [128, 368])
def test_a_transition_takes_less_than_two_hundred_bytes(n_lines: int) -> None:
    """Counted in real arrays, for as many columns as fastMRI's widest usual matrix has."""
    env = vector_env(data=SliceList([scan(0, shape=(16, n_lines))]))
    replay = Replay(1000, env.episodes)
    assert sum(value.nbytes for value in replay._columns.values()) < 200 * 1000
    arrays = [v for v in vars(replay).values() if isinstance(v, np.ndarray | torch.Tensor)]
    assert not arrays  # there is nothing beside the columns


def test_rebuilding_leaves_the_environment_as_it_is() -> None:
    env = vector_env()
    replay = Replay(100, env.episodes)
    fill(env, replay, steps=5)
    before = env.episodes.observe()
    replay.rebuild(np.arange(8))
    after = env.episodes.observe()
    assert all(np.array_equal(after[key], before[key]) for key in before)


def test_a_memory_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="capacity must be at least 1 transition; got 0"):
        Replay(0, vector_env().episodes)


def test_a_memory_comes_back_and_that_of_another_size_or_of_other_scans_is_refused() -> None:
    env = vector_env()
    replay, again = Replay(8, env.episodes), Replay(8, env.episodes)
    fill(env, replay, steps=3)
    state = replay.state()
    again.restore(state)
    assert_equal(again.rebuild(np.arange(8)), replay.rebuild(np.arange(8)))
    for other, reason in (
        (Replay(5, env.episodes), "a memory of 5 transitions"),
        (Replay(100, env.episodes), "a memory of 100 transitions"),
        (Replay(8, vector_env(geometry="points").episodes), "start_mask as uint8"),
        (Replay(8, vector_env(data=SliceList(mixed_scans().slices[:1])).episodes), "of 1 scans"),
    ):
        with pytest.raises(ValueError, match=reason):
            other.restore(state)
        assert len(other) == 0


def assert_equal(a: Batch, b: Batch) -> None:
    for name in ("action", "reward", "terminated", "legal"):
        assert torch.equal(getattr(a, name), getattr(b, name))
