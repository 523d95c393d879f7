import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from activemri.agents.learning.greedy_pg import (
    PolicyGradient,
    PolicyGradientSettings,
    advantages,
    in_units_of_size,
    worth_of,
)
from activemri.agents.learning.learner import DivergedError
from activemri.agents.rollout import rollout
from activemri.data.slices import SliceList
from tests.agents.learning.toy import decaying, strong_share, toy_scans, workplace

SMALL = PolicyGradientSettings(lr=1e-2, temperature=0.25, samples=6, channels=8, blocks=1)


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


@pytest.mark.parametrize("horizon", ["greedy", "full"])
def test_it_learns_which_lines_matter(horizon: str) -> None:
    place = workplace(max_steps=240)
    learner = PolicyGradient(place, replace(SMALL, horizon=horizon))
    assert strong_share(learner.policy(), place) < 0.5
    log = learner.learn(40)
    learner.learn(100)
    assert strong_share(learner.policy(), place) == 1.0
    later = learner.learn(40)
    assert later["gain"] > log["gain"]
    assert {"gradient_snr", "gradient_snr_per_weight"} <= set(log)


def test_a_policy_that_is_sure_of_itself_still_tries_other_lines() -> None:
    learner = PolicyGradient(workplace(), SMALL)
    learner.network.forward = (  # type: ignore[method-assign]
        lambda observation: 1e6 * observation["mask"]
    )
    chances = learner._log_policy({"mask": torch.eye(16)}, torch.ones(16, 16).bool()).exp()
    assert float(chances.diagonal().min()) > 0.75
    assert float(chances.min()) > 0.01


def test_draws_that_are_all_the_same_teach_nothing() -> None:
    learner = PolicyGradient(workplace(n_center_lines=15), SMALL)  # one line is left to choose
    before = [weight.clone() for weight in learner.weights]
    assert set(learner.learn(8)) == {"gain"}
    assert all(torch.equal(a, b) for a, b in zip(before, learner.weights, strict=True))


def test_steps_are_scans() -> None:
    learner = PolicyGradient(workplace(), SMALL)
    learner.learn(8)
    assert learner.step == 8
    learner.learn(1)  # scans come in batches
    assert learner.step == 12


@pytest.mark.parametrize("horizon", ["greedy", "full"])
def test_it_learns_to_stop_where_no_line_is_worth_its_price(horizon: str) -> None:
    place = workplace(step_cost=10.0, stop_action=True, max_steps=100)
    learner = PolicyGradient(place, replace(SMALL, horizon=horizon, lr=3e-2))
    learner.learn(60)
    policy = learner.policy()
    assert policy.network.stops
    scans = [place.scans[i] for i in range(4)]
    assert rollout(place.acquisition, policy, scans).n_acquired[:, -1].tolist() == [2] * 4


@pytest.mark.parametrize("horizon", ["greedy", "full"])
def test_a_resumed_training_ends_as_an_uninterrupted_one(horizon: str) -> None:
    settings = replace(SMALL, horizon=horizon)
    whole, first, second = (PolicyGradient(workplace(), settings) for _ in range(3))
    whole.learn(12)
    first.learn(8)
    second.restore(first.state())
    second.learn(4)
    assert second.step == whole.step
    for a, b in zip(whole.weights, second.weights, strict=True):
        assert torch.equal(a, b)


def test_scans_of_several_sizes_share_a_batch() -> None:
    sizes = (decaying(2), toy_scans(2))
    mixed = SliceList([scans[i] for scans in sizes for i in range(2)], "mixed")
    learner = PolicyGradient(workplace(mixed), SMALL)
    assert learner.learn(8)["gain"] != 0


def test_a_warm_start_begins_with_the_same_scores() -> None:
    place = workplace()
    given = PolicyGradient(place, SMALL)
    given.learn(4)
    policy = given.policy()
    warm = PolicyGradient(workplace(warm_start=policy), SMALL)
    view = place.acquisition.view(place.acquisition.start([place.scans[0]]))
    assert torch.equal(warm.policy().scores(view), policy.scores(view))


def test_a_warm_start_that_cannot_stop_is_refused_where_lines_have_a_price() -> None:
    given = PolicyGradient(workplace(), SMALL).policy()
    with pytest.raises(ValueError, match="may stop, and the network never does"):
        PolicyGradient(workplace(stop_action=True, warm_start=given), SMALL)


def test_weights_that_are_no_numbers_stop_it() -> None:
    learner = PolicyGradient(workplace(), SMALL)
    learner.weights[0].data.fill_(torch.nan)
    with pytest.raises(DivergedError, match="not finite"):
        learner.learn(1)


def test_an_unknown_horizon_is_refused() -> None:
    with pytest.raises(ValueError, match="one of greedy, full; got long"):
        replace(SMALL, horizon="long")
    with pytest.raises(ValueError, match="at least two samples"):
        replace(SMALL, samples=1)
