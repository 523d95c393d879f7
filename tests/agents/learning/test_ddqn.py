"""Double DQN: its target by hand, legal actions only, and what is best in small worlds."""

import io
import math
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch

from activemri.agents.evaluator_network import EvaluatorNetwork
from activemri.agents.learned import ActionNetwork
from activemri.agents.learning.ddqn import (
    PAPER,
    PAPER_DATASET,
    DatasetDoubleDqnSettings,
    DoubleDqnLearner,
    DoubleDqnSettings,
    double_target,
    draw_legal,
)
from activemri.agents.learning.learner import DivergedError, Workplace
from activemri.agents.learning.legal_actions import ILLEGAL, LEGAL, LegalQNetwork
from activemri.agents.learning.run import evaluate
from activemri.agents.line_network import LineNetwork
from activemri.agents.rollout import rollout
from activemri.agents.schedule_network import ScheduleNetwork
from tests.agents.learning.told_apart import workplace
from tests.envs.scans import equal_scans

SMALL = DoubleDqnSettings(
    channels=8,
    blocks=1,
    batch=8,
    n_envs=3,
    updates=1,
    memory=64,
    burn_in=12,
    epsilon_decay=0.15,
    target_every=9,
)


def learner(settings: DoubleDqnSettings = SMALL, **options: Any) -> DoubleDqnLearner:
    return DoubleDqnLearner(workplace(**options), settings)


def test_the_target_lets_one_network_choose_and_the_other_judge() -> None:
    target = double_target(
        torch.tensor([[1.0], [2.0], [3.0]]),
        torch.tensor([[0.0], [0.0], [1.0]]),
        gamma=0.5,
        chooses=torch.tensor([[1.0, 5.0, 3.0], [7.0, 0.0, ILLEGAL], [ILLEGAL] * 3]),
        judges=torch.tensor([[10.0, 20.0, 90.0], [-4.0, 80.0, ILLEGAL], [ILLEGAL] * 3]),
    )
    # 1 + 20 / 2 (not 90 / 2, the largest), 2 - 4 / 2, and 3 alone where the episode ended.
    assert target.tolist() == [[11.0], [0.0], [3.0]]


class _Fixed(ActionNetwork):
    """The same values for every scan, the higher the later the action."""

    observation, n_actions, stops = "mask", 4, False

    def forward(self, observation: Any) -> torch.Tensor:
        return torch.arange(4.0).expand(len(observation["budget"]), 4)


def test_illegal_actions_are_never_the_best_neither_now_nor_in_the_target() -> None:
    made = learner()
    legal = torch.tensor([[1, 1, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0]], dtype=torch.int8)
    network = LegalQNetwork(_Fixed(), made.env.observation_space, made.env.action_space)  # type: ignore[arg-type]
    seen = {"budget": torch.ones(3, 1), LEGAL: legal}
    values = network(seen)
    assert values.argmax(dim=1).tolist() == [2, 1, 0]
    assert torch.equal(values == ILLEGAL, legal == 0)
    target = double_target(
        torch.zeros(3, 1), torch.zeros(3, 1), gamma=1.0, chooses=values, judges=values
    )
    assert target.tolist() == [[2.0], [1.0], [0.0]]


def test_random_actions_are_legal_and_all_as_likely() -> None:
    legal = np.array([[0, 1, 0, 1, 1, 0], [0, 0, 1, 0, 0, 0]], np.int8)
    rng = np.random.default_rng(0)
    drawn = np.array([draw_legal(legal, rng) for _ in range(1500)])
    assert (drawn[:, 1] == 2).all()
    counts = np.bincount(drawn[:, 0], minlength=6)
    assert counts[[0, 2, 5]].sum() == 0
    assert ((counts[[1, 3, 4]] - 500) ** 2 / 500).sum() < 14  # chi squared, 99.9 %


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
    made = learner(replace(SMALL, network=network), invalid_action="raise", **options)
    told = made.learn(60)
    assert made.step == 60
    assert math.isfinite(told["loss"])
    assert told["loss"] > 0
    assert 0.02 < told["epsilon"] < 0.1
    policy = made.policy()
    scans = [made.workplace.scans[i] for i in range(3)]
    assert policy.network.stops == ("stop_action" in options)
    rollout(made.workplace.acquisition, policy, scans)


def test_greedy_predictions_are_the_best_legal_actions() -> None:
    made = learner()
    seen: Any = made.env.reset()
    actions, _ = made.model.predict(seen, deterministic=True)
    with torch.no_grad():
        values = made.network({key: torch.from_numpy(part) for key, part in seen.items()})
    best = values.masked_fill(torch.from_numpy(seen[LEGAL]) == 0, -torch.inf).argmax(dim=1)
    assert actions.tolist() == best.tolist()


def exhaustive(place: Workplace, *, n: int = 2) -> tuple[float, float]:
    """Smallest mean error after n lines: each scan's own, and the same ones for all."""
    acquisition = place.acquisition
    scans = [place.scans[i] for i in range(len(place.scans))]
    state = acquisition.start(scans)
    pairs = list(combinations(range(acquisition.geometry.n_lines), n))
    masks = state.mask[:, None].repeat(1, len(pairs), 1)
    for row, pair in enumerate(pairs):
        masks[:, row, list(pair)] = True
    errors = acquisition.preview_masks(state, masks)["mse"]
    return float(errors.amin(dim=1).mean()), float(errors.mean(dim=0).amin())


def reached(made: DoubleDqnLearner) -> float:
    place = made.workplace
    return -evaluate(place.acquisition, made.policy(), place.scans, metric="mse")["final"]


def test_what_the_scan_shows_leads_to_the_best_lines_of_every_scan() -> None:
    place = workplace(max_steps=800)
    settings = replace(
        SMALL,
        channels=16,
        lr=3e-3,
        n_envs=8,
        batch=32,
        updates=5,
        memory=1000,
        burn_in=200,
        target_every=100,
        epsilon_decay=0.6,
    )
    made = DoubleDqnLearner(place, settings)
    own, common = exhaustive(place)
    assert reached(made) > common
    made.learn(800)
    assert reached(made) < 1.05 * own
    assert 1.05 * own < 0.1 * common


def test_time_alone_leads_to_the_best_line_for_all_scans() -> None:
    """One line: of several the second's value depends on the first, which it cannot see."""
    place = workplace(max_steps=800, budget=1)
    settings = DatasetDoubleDqnSettings(
        lr=3e-3, n_envs=8, updates=4, burn_in=400, target_every=100, epsilon_decay=1.0
    )
    made = DoubleDqnLearner(place, settings)
    own, common = exhaustive(place, n=1)
    made.learn(800)
    assert isinstance(made.network, ScheduleNetwork)
    assert own < 0.999 * common
    assert reached(made) == pytest.approx(common, rel=0.01)


@pytest.mark.parametrize(
    ("network", "options"),
    [
        ("lines", {}),
        ("schedule", {}),
        ("lines", {"stop_action": True, "step_cost": 0.001, "n_random_lines": 1}),
        ("schedule", {"scans": equal_scans(4), "scanner": "noisy"}),
    ],
)
def test_a_resumed_training_goes_on_as_if_it_had_never_stopped(
    network: str, options: dict[str, Any]
) -> None:
    settings = replace(SMALL, network=network, memory=40)
    options = {"budget": 3, **options}
    whole, first, second = (learner(settings, **options) for _ in range(3))
    whole.learn(24)
    first.learn(24)
    written = io.BytesIO()
    torch.save(first.state(), written)
    written.seek(0)
    second.restore(torch.load(written, weights_only=True))
    assert second.step == first.step == 24
    a, b = whole.learn(24), second.learn(24)
    assert a == b
    for one, other in zip(whole.network.parameters(), second.network.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_training_that_has_not_begun_can_be_resumed() -> None:
    first, second = learner(), learner()
    second.restore(first.state())
    assert first.learn(18) == second.learn(18)


def test_a_loss_that_is_not_finite_stops_the_training() -> None:
    made = learner()
    made.learn(15)
    with torch.no_grad():
        next(iter(made.network.parameters())).fill_(torch.nan)
    with pytest.raises(DivergedError, match="not a finite number"):
        made.learn(9)


def test_the_target_network_is_a_copy_of_some_time_ago() -> None:
    made = learner()

    def equal() -> bool:
        pairs = zip(
            made.model.q_net.parameters(), made.model.q_net_target.parameters(), strict=True
        )
        return all(torch.equal(one, other) for one, other in pairs)

    assert equal()
    made.learn(12)  # the burn-in, and a copy after 9 actions
    made.learn(3)
    assert not equal()
    made.learn(3)  # 18 actions: copied, then the learning network moves on by one step
    before = [weight.clone() for weight in made.model.q_net_target.parameters()]
    made.learn(6)
    after = list(made.model.q_net_target.parameters())
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    made.learn(3)
    assert not all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_exploration_falls_exponentially_over_the_whole_training() -> None:
    made = learner(replace(SMALL, epsilon_decay=0.5, epsilon_last=0.1), max_steps=60)
    for step in (15, 30, 60):
        epsilon = made.learn(15 if step < 60 else 30)["epsilon"]
        assert made.step == step
        assert epsilon == pytest.approx(0.1 + 0.9 * math.exp(-step / 30))


def test_the_numbers_of_the_paper() -> None:
    made = learner(replace(PAPER, channels=2), max_steps=5_000_000)
    assert isinstance(made.network, EvaluatorNetwork)
    assert made.model._epsilon(1 - 1e6 / 5e6) == pytest.approx(0.01 + 0.99 / math.e)
    assert made.model.lr_schedule(1.0) == 1e-4
    assert (made.model.gamma, made.model.batch_size, made.model.buffer_size) == (0.5, 2, 20_000)
    assert (made.model.learning_starts, made.model.target_update_interval) == (1000, 5000)
    assert made.model.replay_buffer.reward_unit == 1.0
    dataset = learner(PAPER_DATASET).network
    assert isinstance(dataset, ScheduleNetwork)
    assert (dataset.hidden, dataset.n_layers, dataset.n_actions) == (32, 3, 10)


def test_gradients_are_clipped_number_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    made = learner(replace(SMALL, in_units=False))
    made.learn(12)
    assert isinstance(made.network, LineNetwork)
    with torch.no_grad():
        made.network.leave.weight.mul_(1e4)  # what the layers before it do counts a lot
    seen: list[float] = []
    step = made.model.policy.optimizer.step

    def noting(*args: Any, **kwargs: Any) -> Any:
        seen.extend(float(w.grad.abs().max()) for w in made.network.parameters())  # type: ignore[union-attr]
        return step(*args, **kwargs)

    monkeypatch.setattr(made.model.policy.optimizer, "step", noting)
    made.learn(3)
    assert max(seen) == 1.0


def test_it_begins_with_the_network_of_the_warm_start() -> None:
    given = learner().policy()
    made = learner(replace(SMALL, channels=4), warm_start=given)
    assert isinstance(made.network, LineNetwork)
    assert made.network.channels == 8
    for one, other in zip(given.network.parameters(), made.network.parameters(), strict=True):
        assert torch.equal(one, other)
        assert other.requires_grad


def test_a_warm_start_that_sees_something_else_is_refused() -> None:
    """A network of lines would make the data-set-specific learner adapt to the scan."""
    given = learner().policy()
    with pytest.raises(ValueError, match="of the kind 'schedule'; got 'lines'"):
        learner(DatasetDoubleDqnSettings(), warm_start=given)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 0}, "batch: expected at least 1; got 0"),
        ({"gamma": 1.5}, "between 0 and 1; got 1.5"),
        ({"lr": 0.0}, "lr and epsilon_decay above 0"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DoubleDqnSettings(**changes)


def test_an_unknown_network_and_one_that_cannot_stop_are_refused() -> None:
    with pytest.raises(ValueError, match="network=unet: expected one of lines, varnet, evaluator"):
        learner(replace(SMALL, network="unet"))
    with pytest.raises(ValueError, match="cannot stop"):
        learner(replace(SMALL, network="evaluator"), stop_action=True)
