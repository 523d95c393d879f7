"""Double DQN: target by hand, legal actions only, memory, and what is best in a small world."""

import math
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from activemri import cli
from activemri.agents.learners import ddqn
from activemri.agents.learners.ddqn import (
    ILLEGAL,
    DatasetDoubleDQN,
    DoubleDQN,
    DoubleDQNLearner,
    Memory,
    double_target,
    draw_legal,
    legal_values,
)
from activemri.agents.learners.learner import Problem
from activemri.agents.networks import ActionNetwork, EvaluatorNetwork, LineNetwork, ScheduleNetwork
from activemri.agents.training import evaluate
from activemri.data.slices import SliceList
from activemri.envs.replay import Batch, points_of
from activemri.envs.vector_env import ActiveMRIVectorEnv
from tests.agents.learners.problems import problem, two_kinds
from tests.envs.scans import equal_scans, scan

N = 3


def learner(place: Problem | None = None, **changes: Any) -> DoubleDQNLearner:
    small: dict[str, Any] = {
        **{"max_steps": 100, "channels": 8, "blocks": 1, "batch": 8, "n_envs": N, "updates": 1},
        **{"memory": 64, "burn_in": 12, "epsilon_decay": 0.15, "target_every": 9},
    }
    place = problem(two_kinds()) if place is None else place
    return DoubleDQN(**small | changes).start(place)


# The update


def test_the_target_lets_one_network_choose_and_the_other_judge() -> None:
    target = double_target(
        torch.tensor([1.0, 2.0, 3.0]),
        torch.tensor([False, False, True]),
        gamma=0.5,
        chooses=torch.tensor([[1.0, 5.0, 3.0], [7.0, 0.0, ILLEGAL], [ILLEGAL] * 3]),
        judges=torch.tensor([[10.0, 20.0, 90.0], [-4.0, 80.0, ILLEGAL], [ILLEGAL] * 3]),
    )
    # 1 + 20 / 2 (not 90 / 2, the largest), 2 - 4 / 2, and 3 alone where the episode ended.
    assert target.tolist() == [11.0, 0.0, 3.0]


class _Fixed(ActionNetwork):
    """The same values for every scan, the higher the later the action."""

    def forward(self, observation: Any) -> torch.Tensor:
        return torch.arange(4.0).expand(len(observation["budget"]), 4)


def test_illegal_actions_are_never_the_best() -> None:
    legal = torch.tensor([[1, 1, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0]], dtype=torch.bool)
    values = legal_values(_Fixed(4), {"budget": torch.ones(3, 1)}, legal)
    assert values.argmax(dim=1).tolist() == [2, 1, 0]
    assert torch.equal(values == ILLEGAL, ~legal)


def test_random_actions_are_legal_and_all_as_likely() -> None:
    legal = np.array([[0, 1, 0, 1, 1, 0], [0, 0, 1, 0, 0, 0]], bool)
    rng = np.random.default_rng(0)
    drawn = np.array([draw_legal(legal, rng) for _ in range(1500)])
    assert (drawn[:, 1] == 2).all()
    counts = np.bincount(drawn[:, 0], minlength=6)
    assert counts[[0, 2, 5]].sum() == 0
    assert ((counts[[1, 3, 4]] - 500) ** 2 / 500).sum() < 14  # chi squared, 99.9 %


def test_gradients_are_clipped_number_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    made = learner(in_units=False)
    made.learn(12)
    assert isinstance(made.network, LineNetwork)
    with torch.no_grad():
        made.network.leave.weight.mul_(1e4)  # what the layers before it do counts a lot
    seen: list[float] = []
    step = made.optimizer.step

    def noting() -> None:
        seen.extend(float(w.grad.abs().max()) for w in made.network.parameters())  # type: ignore[union-attr]
        step()

    monkeypatch.setattr(made.optimizer, "step", noting)
    made.learn(3)
    assert max(seen) == 1.0


# The loop


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stop_action": True, "step_cost": 0.01},
        {"geometry": "rows", "lines_per_action": 2, "budget": 4},
    ],
    ids=["plain", "stop", "trains"],
)
@pytest.mark.parametrize("network", ["lines", "schedule"])
def test_only_legal_actions_are_taken_while_learning(network: str, options: dict[str, Any]) -> None:
    """An illegal one would be refused; several epsilons come by."""
    made = learner(problem(two_kinds(), invalid_action="raise", **options), network=network)
    log = made.learn(60)
    assert made.step == 60 and math.isfinite(log["loss"]) and log["loss"] > 0
    assert made.policy().network.stops == ("stop_action" in options)


def test_the_scan_leads_to_the_best_lines_of_every_scan() -> None:
    place = problem(two_kinds())
    scans = [place.scans[i] for i in range(len(place.scans))]
    state = place.scan.start(scans)
    pairs = list(combinations(range(place.scan.geometry.n_readouts), 2))
    masks = state.view.mask[:, None].repeat(1, len(pairs), 1)
    for row, pair in enumerate(pairs):
        masks[:, row, list(pair)] = True
    errors = place.scan.preview_masks(state, masks)["mse"]
    own, common = float(errors.amin(dim=1).mean()), float(errors.mean(dim=0).amin())
    made = learner(
        place,
        **{"max_steps": 800, "channels": 16, "lr": 3e-3, "n_envs": 8, "batch": 32, "updates": 5},
        **{"memory": 1000, "burn_in": 200, "target_every": 100, "epsilon_decay": 0.6},
    )
    made.learn(800)
    reached = -evaluate(place, made.policy(), place.scans)["final"]
    assert reached < 1.05 * own < 0.1 * common


@pytest.mark.parametrize(
    ("network", "options"),
    [
        ("lines", {"stop_action": True, "step_cost": 0.001, "n_random_lines": 1}),
        ("schedule", {"scans": equal_scans(4), "scanner": "noisy"}),
    ],
)
def test_a_training_is_resumed_amid_episodes(network: str, options: dict[str, Any]) -> None:
    scans = options.get("scans", two_kinds())
    place = problem(**{"scans": scans, "budget": 3} | options)
    whole, first, second = (learner(place, network=network, memory=40) for _ in range(3))
    second.restore(first.state())  # before it has begun
    whole.learn(24)
    first.learn(24)
    second.restore(first.state())
    assert second.step == first.step == 24
    assert whole.learn(24) == second.learn(24)
    for one, other in zip(whole.network.parameters(), second.network.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_target_network_is_a_copy_of_some_time_ago() -> None:
    made = learner()

    def equal() -> bool:
        pairs = zip(made.network.parameters(), made.target.parameters(), strict=True)
        return all(torch.equal(one, other) for one, other in pairs)

    assert equal()
    made.learn(15)  # the burn-in, a copy after 9 actions, and one step of descent
    assert not equal()
    made.learn(3)  # 18 actions: copied, then the learning network moves on by one step
    before = [weight.clone() for weight in made.target.parameters()]
    made.learn(6)
    assert all(torch.equal(*pair) for pair in zip(before, made.target.parameters(), strict=True))
    made.learn(3)
    assert not all(
        torch.equal(*pair) for pair in zip(before, made.target.parameters(), strict=True)
    )


def test_exploration_falls_exponentially_over_the_whole_training() -> None:
    made = learner(max_steps=60, epsilon_decay=0.5, epsilon_last=0.1)
    for step in (15, 30, 60):
        epsilon = made.learn(step - made.step)["epsilon"]
        assert epsilon == pytest.approx(0.1 + 0.9 * math.exp(-step / 30))


def test_the_numbers_of_the_paper() -> None:
    words = str(ddqn.__doc__).rpartition("::")[2].split()
    made = cli.parse("train policy", words).learner.start(problem(two_kinds()))
    assert isinstance(made.network, EvaluatorNetwork)
    made.step = 1_000_000
    assert made.epsilon == pytest.approx(0.01 + 0.99 / math.e)
    network = DatasetDoubleDQN(channels=32).start(problem(two_kinds())).network
    assert isinstance(network, ScheduleNetwork)
    settings = network.settings
    assert (settings["hidden"], settings["layers"], settings["n_actions"]) == (32, 3, 10)


def test_networks_that_do_not_fit_are_refused() -> None:
    given = learner().policy()
    with pytest.raises(ValueError, match=r"of the kind 'schedule'.*got 'lines'"):
        learner(problem(two_kinds(), warm_start=given), network="schedule")
    with pytest.raises(ValueError, match="network unet: expected one of lines, varnet, evaluator"):
        learner(network="unet")
    with pytest.raises(ValueError, match="cannot stop"):
        learner(problem(two_kinds(), stop_action=True), network="evaluator")
    with pytest.raises(ValueError, match=r"gamma.*from 0 to 1; got 1.5"):
        DoubleDQN(gamma=1.5)


# The memory


def environment(
    scans: SliceList | None = None, observation: str = "lines", **options: Any
) -> ActiveMRIVectorEnv:
    place = problem(two_kinds(4) if scans is None else scans, **{"budget": 3} | options)
    return place.environment(observation, num_envs=N)


def play(env: ActiveMRIVectorEnv, memory: Memory, steps: int = 7) -> list[dict[str, Any]]:
    """Act at random: transitions as they were seen."""
    rng, live = np.random.default_rng(1), []
    observation, _ = env.reset(seed=0)
    seen = {**observation, "legal": env.action_masks()}
    memory.keep(seen)
    for _ in range(steps):
        points, actions = points_of(env.episodes), draw_legal(seen["legal"], rng)
        after, rewards, terminated, _, _ = env.step(actions)
        memory.add(points, actions, rewards=rewards, terminated=terminated)
        after = {**after, "legal": env.action_masks()}
        memory.keep(after)
        for row in range(N):
            live.append(
                {
                    "before": {k: v[row] for k, v in seen.items()},
                    "after": {k: v[row] for k, v in after.items()},
                    "numbers": (actions[row], rewards[row], terminated[row]),
                }
            )
        seen = after
    return live


def assert_drawn(batch: Batch, live: list[dict[str, Any]], *, atol: float) -> None:
    def close(parts: Any, row: int, seen: dict[str, NDArray[Any]]) -> None:
        for name, values in seen.items():
            torch.testing.assert_close(
                parts[name][row].double(), torch.as_tensor(values).double(), rtol=atol, atol=atol
            )

    for row, one in enumerate(live):
        close({**batch.observation, "legal": batch.legal}, row, one["before"])
        action, reward, terminated = one["numbers"]
        assert (batch.action[row], batch.terminated[row]) == (action, terminated)
        assert float(batch.reward[row]) == pytest.approx(reward)
        if not terminated:
            close({**batch.next_observation, "legal": batch.next_legal}, row, one["after"])


@pytest.mark.parametrize("cache_mb", [0, 0.02, 10], ids=["rebuilt", "some", "kept"])
@pytest.mark.parametrize("stop", [False, True])
def test_the_memory_gives_back_what_was_seen(cache_mb: float, stop: bool) -> None:
    env = environment(stop_action=stop)
    memory = Memory(env, capacity=100, cache_mb=cache_mb)
    assert (memory.size > 0) == (cache_mb > 0)
    live = play(env, memory)
    assert_drawn(memory.take(np.arange(len(live))), live, atol=2e-3)


def test_a_cache_that_holds_the_whole_memory_rebuilds_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = learner(memory=30)
    monkeypatch.delattr("activemri.envs.replay.Replay.rebuild")
    made.learn(90)
    assert len(made.memory) == 30


def test_overwritten_transitions_are_not_taken_from_the_cache() -> None:
    env = environment()
    memory = Memory(env, capacity=8, cache_mb=10)
    live = play(env, memory)
    newest = {place % 8: live[place] for place in range(len(live) - 8, len(live))}
    assert_drawn(memory.take(np.arange(8)), [newest[place] for place in range(8)], atol=2e-3)


@pytest.mark.parametrize(
    ("scans", "options", "atol"),
    [
        (SliceList([scan(0), scan(1, shape=(20, 22), padding=2), scan(2)]), {}, 1e-6),
        (equal_scans(3), {"scanner": "noisy", "budget": 4}, 1e-4),
    ],
    ids=["sizes", "noisy"],
)
def test_other_scans_are_rebuilt_too(
    scans: SliceList, options: dict[str, Any], atol: float
) -> None:
    env = environment(scans, "mask", **options)
    memory = Memory(env, capacity=100, cache_mb=0)
    live = play(env, memory)
    assert_drawn(memory.take(np.arange(len(live))), live, atol=atol)


@pytest.mark.parametrize("n_lines", [128, 368])
def test_a_million_transitions_take_less_than_200_megabytes(n_lines: int) -> None:
    env = environment(SliceList([scan(0, shape=(16, n_lines))]))
    memory = Memory(env, capacity=1_000_000, cache_mb=DoubleDQN().cache_mb)
    held = [*memory._columns.values(), *memory.ring.values()]
    assert sum(array.nbytes for array in held) < 200e6


def test_rewards_are_in_units_of_the_first_ones() -> None:
    made = learner(burn_in=6)
    made.learn(6)
    first = made.memory.stored("reward", np.arange(6)).double()
    made.learn(18)
    assert made.reward_unit == pytest.approx(float(first.square().mean().sqrt()), rel=1e-6)
    assert learner(in_units=False).reward_unit == 1.0
