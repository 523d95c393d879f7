"""The buffer gives back what was seen, from under 200 bytes a transition."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from numpy.typing import NDArray

from activemri.agents.learning.ddqn import DoubleDqnSettings, draw_legal, make_environment
from activemri.agents.learning.legal_actions import LEGAL
from activemri.agents.learning.networks import first_network
from activemri.agents.learning.replay_buffer import MaskReplayBuffer
from activemri.agents.sb3 import ActiveMRIVecEnv
from activemri.data.slices import SliceList
from tests.agents.learning.told_apart import told_apart, workplace
from tests.envs.scans import equal_scans, scan

N = 3
Seen = dict[str, NDArray[Any]]
_NUMBERS = ("actions", "rewards", "dones")


def environment(kind: str = "lines", **options: Any) -> ActiveMRIVecEnv:
    defaults: dict[str, Any] = {"scans": told_apart(4), "budget": 3}
    place = workplace(**(defaults | options))
    network = first_network(
        place, kind, channels=2, blocks=1, stops=bool(options.get("stop_action"))
    )
    return make_environment(place, network, n_envs=N)


def buffer(env: ActiveMRIVecEnv, size: int = 100, **options: Any) -> MaskReplayBuffer:
    return MaskReplayBuffer(
        size,
        env.observation_space,
        env.action_space,
        device="cpu",
        n_envs=N,
        episodes=env.env.episodes,
        generator=np.random.default_rng(0),
        **options,
    )


def play(env: ActiveMRIVecEnv, memory: MaskReplayBuffer, steps: int) -> list[dict[str, Any]]:
    """Act at random; what was seen live."""
    rng, live = np.random.default_rng(1), []
    seen: Any = env.reset()
    after: Any
    for _ in range(steps):
        actions = draw_legal(seen[LEGAL], rng)
        memory.look()
        after, rewards, done, infos = env.step(actions)
        memory.add(seen, after, actions, rewards, done, infos)
        for row in range(N):
            last: Any = infos[row].get("terminal_observation")
            live.append(
                {
                    "before": {key: value[row] for key, value in seen.items()},
                    "after": last or {key: value[row] for key, value in after.items()},
                    "action": actions[row],
                    "reward": rewards[row],
                    "done": float(done[row] and not infos[row]["TimeLimit.truncated"]),
                }
            )
        seen = after
    return live


def assert_seen(part: Any, row: int, seen: Seen, *, atol: float) -> None:
    assert part.keys() == seen.keys()
    for key, values in seen.items():
        torch.testing.assert_close(
            part[key][row].double(), torch.from_numpy(values).double(), rtol=atol, atol=atol
        )


@pytest.mark.parametrize(("cache_bytes", "atol"), [(0, 1e-5), (10_000_000, 2e-3), (12_000, 2e-3)])
@pytest.mark.parametrize(
    "options",
    [{}, {"stop_action": True, "step_cost": 0.01}, {"lines_per_action": 2, "budget": 4}],
    ids=["plain", "stop", "trains"],
)
def test_what_the_agent_saw_is_drawn(
    options: dict[str, Any], cache_bytes: int, atol: float
) -> None:
    """Rebuilt, from a cache that holds all of it, and from one that holds a part."""
    env = environment(**options)
    memory = buffer(env, cache_bytes=cache_bytes)
    live = play(env, memory, steps=9)
    assert memory.cache.size < 27 or cache_bytes > 100_000
    drawn = memory._get_samples(np.arange(memory.size()))
    assert memory.size() == len(live) == 27
    for row, seen in enumerate(live):
        assert_seen(drawn.observations, row, seen["before"], atol=atol)
        assert float(drawn.dones[row]) == seen["done"]
        if not seen["done"]:
            assert_seen(drawn.next_observations, row, seen["after"], atol=atol)
        assert int(drawn.actions[row]) == seen["action"]
        assert float(drawn.rewards[row]) == seen["reward"]


def test_the_cache_is_used_and_rebuilds_only_what_it_lacks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    env = environment()
    memory = buffer(env, cache_bytes=10_000_000)
    play(env, memory, steps=6)
    asked: list[int] = []
    rebuild = memory.memory.rebuild

    def noting(places: NDArray[np.int64]) -> Any:
        asked.extend(places.tolist())
        return rebuild(places)

    monkeypatch.setattr(memory.memory, "rebuild", noting)
    memory._get_samples(np.arange(6 * N))
    assert asked == [15, 16, 17]  # what follows the newest is not yet known


def test_overwritten_transitions_are_not_taken_from_the_cache() -> None:
    env = environment()
    memory = buffer(env, size=8, cache_bytes=10_000_000)
    live = play(env, memory, steps=7)
    newest = {place % 8: live[place] for place in range(len(live) - 8, len(live))}
    drawn = memory._get_samples(np.arange(8))
    for place, seen in newest.items():
        assert_seen(drawn.observations, place, seen["before"], atol=2e-3)
        if not seen["done"]:
            assert_seen(drawn.next_observations, place, seen["after"], atol=2e-3)


@pytest.mark.parametrize("cache_bytes", [0, 10_000_000])
def test_episodes_cut_off_in_time_go_on_in_the_memory(cache_bytes: int) -> None:
    env = environment()
    env.env.max_episode_steps = 2
    memory = buffer(env, cache_bytes=cache_bytes)
    live = play(env, memory, steps=6)
    assert not any(seen["done"] for seen in live)
    drawn = memory._get_samples(np.arange(len(live)))
    for row, seen in enumerate(live):
        assert_seen(drawn.next_observations, row, seen["after"], atol=2e-3)


@pytest.mark.parametrize("n_lines", [128, 368])
def test_a_million_transitions_take_less_than_200_megabytes(n_lines: int) -> None:
    """With the cache that the settings give by default, counted in arrays."""
    scans = SliceList([scan(0, shape=(16, n_lines))])
    env = environment(scans=scans)
    settings = DoubleDqnSettings()
    memory = buffer(env, 1_000_000, cache_bytes=settings.cache_mb * 1_000_000)
    held = [*memory.memory._columns.values(), *memory.cache.parts.values(), memory.cache.cut_off]
    assert memory.nbytes == sum(array.nbytes for array in held)
    assert memory.nbytes < 200e6
    assert memory.memory.bytes_per_transition < 200
    arrays = [v for v in vars(memory).values() if isinstance(v, np.ndarray | torch.Tensor)]
    assert not arrays  # the parent's buffers were not allocated


def test_rewards_are_in_units_of_the_first_ones_and_stay_so() -> None:
    env = environment()
    memory = buffer(env, unit_of=6)
    live = play(env, memory, steps=8)
    first = np.array([seen["reward"] for seen in live[:6]], np.float64)
    unit = float(np.sqrt(np.mean(first**2)))
    assert memory.reward_unit == pytest.approx(unit, rel=1e-6)
    drawn = memory._get_samples(np.arange(len(live)))
    expected = torch.tensor([[seen["reward"] / unit] for seen in live], dtype=torch.float32)
    torch.testing.assert_close(drawn.rewards, expected)


def test_draws_follow_from_the_generator_and_from_what_was_saved() -> None:
    env = environment()
    first = buffer(env, size=20, cache_bytes=20_000, unit_of=6)
    play(env, first, steps=8)
    second = buffer(env, size=20, cache_bytes=20_000, unit_of=6)
    second.restore(first.state())
    second.generator.bit_generator.state = first.generator.bit_generator.state
    a, b = first.sample(16), second.sample(16)
    assert all(torch.equal(getattr(a, name), getattr(b, name)) for name in _NUMBERS)
    for one, other in (
        (a.observations, b.observations),
        (a.next_observations, b.next_observations),
    ):
        assert all(torch.equal(part, other[key]) for key, part in one.items())


def test_a_step_that_nobody_looked_at_and_spaces_without_parts_are_refused() -> None:
    env = environment()
    memory = buffer(env)
    seen: Any = env.reset()
    memory.look()
    after, rewards, done, infos = env.step(draw_legal(seen[LEGAL], np.random.default_rng(0)))
    step = (seen, after, np.zeros(N), rewards, done, infos)
    memory.add(*step)
    with pytest.raises(ValueError, match=r"call look\(\) before every step"):
        memory.add(*step)
    env.observation_space = spaces.Box(0, 1, (3,))
    with pytest.raises(ValueError, match="observation space of several parts"):
        buffer(env)


def test_scans_of_several_kinds_are_drawn_in_one_batch() -> None:
    scans = SliceList([scan(0), scan(1, shape=(20, 22), padding=2), scan(2)])
    env = environment("schedule", scans=scans)
    memory = buffer(env)
    live = play(env, memory, steps=6)
    drawn = memory._get_samples(np.arange(len(live))[::-1].copy())
    for row, seen in enumerate(reversed(live)):
        assert_seen(drawn.observations, row, seen["before"], atol=1e-6)


def test_imperfect_scans_are_rebuilt_as_they_were_measured() -> None:
    env = environment(scans=equal_scans(3), scanner="noisy", budget=4)
    memory = buffer(env)
    live = play(env, memory, steps=6)
    drawn = memory._get_samples(np.arange(len(live)))
    for row, seen in enumerate(live):
        assert_seen(drawn.observations, row, seen["before"], atol=1e-4)


def test_a_reset_buffer_is_empty() -> None:
    env = environment()
    memory = buffer(env, unit_of=3)
    play(env, memory, steps=2)
    memory.reset()
    assert memory.size() == 0
    assert memory.reward_unit == 1.0
