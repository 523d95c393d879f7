import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from activemri.agents.learners.greedy_pg import (
    GreedyPG,
    GreedyPGLearner,
    advantages,
    counted,
    in_units_of_size,
    signal_to_noise,
    worth_of,
)
from activemri.agents.learners.learner import Problem
from activemri.agents.rollout import rollout
from activemri.data.slices import SliceList
from tests.agents.learners.problems import listed, problem, strong_share, toy_scans
from tests.envs.scans import scan


def learner(place: Problem | None = None, **changes: Any) -> GreedyPGLearner:
    small = {"lr": 1e-2, "temperature": 0.25, "samples": 6, "channels": 8, "blocks": 1}
    return GreedyPG(**{**small, **changes}).start(problem() if place is None else place)


def logits(n: int) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(n, generator=generator, dtype=torch.float64).requires_grad_(True)


@pytest.mark.parametrize("k", [2, 3])
def test_the_greedy_estimate_is_right_on_average(k: int) -> None:
    """Every draw of k actions of a bandit, weighted by how likely it is."""
    scores, worth = logits(4), torch.tensor([0.3, -1.0, 2.0, 0.5], dtype=torch.float64)
    log_policy = scores.log_softmax(dim=0)
    exact = torch.autograd.grad((log_policy.exp() * worth).sum(), scores, retain_graph=True)[0]
    mean = torch.zeros_like(exact)
    for drawn in itertools.product(range(4), repeat=k):
        tried = torch.tensor(drawn)
        loss = -(log_policy[tried] * advantages(worth[tried])).sum()
        gradient = torch.autograd.grad(loss, scores, retain_graph=True)[0]
        mean -= log_policy[tried].sum().exp().detach() * gradient
    torch.testing.assert_close(mean, exact)


def test_the_full_estimate_is_right_on_average() -> None:
    """Every pair of two-step scans whose second reward depends on both actions."""
    scores = logits(6).view(3, 2)  # at the start, and after either first action
    first_reward = torch.tensor([0.2, -0.4], dtype=torch.float64)
    second_reward = torch.tensor([[1.0, 0.1], [-0.5, 3.0]], dtype=torch.float64)
    log_policy = scores.log_softmax(dim=1)
    paths = [(a, b) for a in range(2) for b in range(2)]
    log_path = {(a, b): log_policy[0, a] + log_policy[1 + a, b] for a, b in paths}
    values = [log_path[a, b].exp() * (first_reward[a] + second_reward[a, b]) for a, b in paths]
    exact = torch.autograd.grad(torch.stack(values).sum(), scores, retain_graph=True)[0]
    mean = torch.zeros_like(exact)
    for pair in itertools.product(paths, repeat=2):
        rewards = torch.stack(
            [
                torch.stack([first_reward[a] for a, _ in pair]),
                torch.stack([second_reward[a, b] for a, b in pair]),
            ]
        )
        weight = worth_of(rewards[:, None], gamma=1.0)[:, 0]
        chosen = torch.stack(
            [
                torch.stack([log_policy[0, a] for a, _ in pair]),
                torch.stack([log_policy[1 + a, b] for a, b in pair]),
            ]
        )
        gradient = torch.autograd.grad(-(chosen * weight).sum(), scores, retain_graph=True)[0]
        chance = (log_path[pair[0]] + log_path[pair[1]]).exp().detach()
        mean -= chance * gradient
    torch.testing.assert_close(mean, exact)


def test_later_rewards_are_discounted() -> None:
    rewards = torch.tensor([[[1.0, 0.0]], [[0.0, 4.0]], [[2.0, 0.0]]])
    worth = worth_of(rewards, gamma=0.5)
    # Advantages are half the difference: (0.5, -0.5), (-2, 2), (1, -1).
    wanted = torch.tensor([[[-0.25, 0.25]], [[-1.5, 1.5]], [[1.0, -1.0]]])
    torch.testing.assert_close(worth, wanted)


def test_advantages_in_units_of_their_size_leave_out_finished_scans() -> None:
    given = torch.tensor([[3.0, -3.0], [1.0, -1.0], [100.0, -100.0]])
    found = in_units_of_size(given, torch.tensor([True, True, False]))
    torch.testing.assert_close(found[:2].square().sum() / 2, torch.tensor(1.0))
    torch.testing.assert_close(found[0] / found[1], torch.tensor([3.0, 3.0]))
    nothing = torch.zeros(2, 2)
    assert torch.equal(in_units_of_size(nothing, torch.tensor([True, True])), nothing)


def test_a_full_horizon_learns_which_lines_matter() -> None:
    place = problem()
    made = learner(place, horizon="full", max_steps=240)
    log = made.learn(40)
    made.learn(100)
    assert made.step == 140 and strong_share(made.policy(), place) == 1.0
    assert made.learn(40)["gain"] > log["gain"]
    assert {"gradient_snr", "gradient_snr_per_weight"} <= set(log)


@pytest.mark.parametrize("horizon", ["greedy", "full"])
def test_it_learns_to_stop_where_no_line_is_worth_its_price(horizon: str) -> None:
    place = problem(step_cost=10.0, stop_action=True)
    made = learner(place, horizon=horizon, lr=3e-2, max_steps=100)
    made.learn(60)
    episodes = rollout(place.scan, made.policy(), listed(place))
    assert episodes.n_acquired[:, -1].tolist() == [2] * 6
    with pytest.raises(ValueError, match="may stop, and the network never does"):
        learner(problem(stop_action=True, warm_start=learner().policy()))


@pytest.mark.parametrize("horizon", ["greedy", "full"])
def test_a_resumed_training_ends_as_an_uninterrupted_one(horizon: str) -> None:
    whole, first, second = (learner(horizon=horizon) for _ in range(3))
    whole.learn(12)
    first.learn(8)
    second.restore(first.state())
    second.learn(1)  # scans come in batches of four
    assert second.step == whole.step
    for a, b in zip(whole.weights, second.weights, strict=True):
        assert torch.equal(a, b)


def test_a_policy_that_is_sure_of_itself_still_tries_other_lines() -> None:
    made = learner()
    made.network.forward = lambda observation: 1e6 * observation["mask"]
    chances = made._log_policy({"mask": torch.eye(16)}, torch.ones(16, 16).bool()).exp()
    assert float(chances.diagonal().min()) > 0.75
    assert float(chances.min()) > 0.01


def test_draws_that_are_all_the_same_teach_nothing() -> None:
    made = learner(problem(n_center_lines=15))  # one line is left to choose
    before = [weight.clone() for weight in made.weights]
    assert set(made.learn(8)) == {"gain"}
    assert all(torch.equal(a, b) for a, b in zip(before, made.weights, strict=True))


def test_scans_of_several_sizes_share_a_batch() -> None:
    mixed = SliceList([*toy_scans(2).slices, scan(0), scan(1)], "mixed")
    assert learner(problem(mixed)).learn(8)["gain"] != 0


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="horizon: expected greedy or full; got 'long'"):
        learner(horizon="long")
    with pytest.raises(ValueError, match="samples: expected at least 2"):
        learner(samples=1)


def ratios(gradients: torch.Tensor) -> dict[str, float]:
    moments = (0, torch.zeros(()), torch.zeros(()))
    for gradient in gradients:
        moments = counted(moments, gradient)
    return dict(signal_to_noise(moments))


def normal(mean: float, *, n: int, size: int) -> torch.Tensor:
    return torch.from_numpy(mean + np.random.default_rng(0).normal(size=(n, size)))


def test_signal_to_noise_is_mean_over_deviation_as_numpy_has_it() -> None:
    gradients = normal(0.7, n=6, size=5) * torch.arange(1.0, 6.0)
    mean, deviation = gradients.numpy().mean(0), gradients.numpy().std(0, ddof=1)
    never_reached = torch.zeros(6, 4, dtype=torch.float64)
    for scale in (1.0, 1e-6, 1e6):
        found = ratios(scale * torch.cat([gradients, never_reached], dim=1))
        expected = np.mean(np.abs(mean) / deviation)
        assert found["gradient_snr_per_weight"] == pytest.approx(expected, rel=1e-9)
        signal = (mean**2).sum() - (deviation**2).sum() / 6
        expected = math.sqrt(signal / (deviation**2).sum())
        assert found["gradient_snr"] == pytest.approx(expected, rel=1e-9)
    offset = 1e8 + normal(0.0, n=50, size=20)  # does not hide the noise
    expected = np.mean(1e8 / offset.numpy().std(0, ddof=1))
    assert ratios(offset)["gradient_snr_per_weight"] == pytest.approx(expected, rel=1e-5)


def test_signal_to_noise_is_that_of_the_true_gradient() -> None:
    assert ratios(normal(0.5, n=8, size=4000))["gradient_snr"] == pytest.approx(0.5, abs=0.02)
    noise = ratios(normal(0.0, n=40, size=4000))
    assert noise["gradient_snr"] < 0.05
    floor = math.sqrt(2 / (math.pi * 40))
    assert noise["gradient_snr_per_weight"] == pytest.approx(floor, rel=0.05)
    assert ratios(torch.ones(3, 2))["gradient_snr"] == math.inf
    assert ratios(torch.ones(1, 2)) == {}
