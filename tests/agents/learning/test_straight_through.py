from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from activemri.agents import heuristic
from activemri.agents.learned import LearnedPolicy
from activemri.agents.learning.learner import DivergedError
from activemri.agents.learning.straight_through import (
    SeqMriSettings,
    StraightThrough,
    StraightThroughSettings,
)
from activemri.agents.registry import make_policy
from tests.agents.learning.toy import decaying, strong_share, toy_scans, workplace

SMALL = StraightThroughSettings(lr=1e-2, batch=6, channels=8, blocks=1)


@pytest.mark.parametrize("rounds", [1, 2])
def test_it_learns_which_lines_matter(rounds: int) -> None:
    place = workplace(max_steps=60)
    learner = StraightThrough(place, replace(SMALL, rounds=rounds))
    assert strong_share(learner.policy(), place) < 0.5
    learner.learn(60)
    assert strong_share(learner.policy(), place) == 1.0


def test_one_look_lowers_the_loss_too() -> None:
    learner = StraightThrough(workplace(max_steps=60), SMALL)
    first = learner.learn(10)["loss"]
    learner.learn(30)
    assert learner.learn(10)["loss"] < 0.8 * first


def test_seqmri_looks_four_times() -> None:
    assert SeqMriSettings().rounds == 4
    learner = StraightThrough(workplace(budget=6), SeqMriSettings(batch=2, channels=4, blocks=1))
    assert learner.learn(1)["loss"] > 0


def test_rounds_of_equal_shares_end_with_the_budget() -> None:
    learner = StraightThrough(workplace(), replace(SMALL, rounds=4, anywhere=False))
    ends = learner._ends(torch.tensor([24, 10]), np.random.default_rng(0))
    assert [end.tolist() for end in ends] == [[0, 0], [6, 2], [12, 5], [18, 7], [24, 10]]


def test_rounds_anywhere_grow_and_reach_every_number_of_lines() -> None:
    learner = StraightThrough(workplace(), replace(SMALL, rounds=2))
    generator = np.random.default_rng(0)
    seen = torch.stack(
        [torch.stack(learner._ends(torch.tensor([5, 3]), generator)) for _ in range(200)]
    )
    assert bool((seen.diff(dim=1) >= 1).all())
    for column, most in ((0, 5), (1, 3)):
        assert set(seen[:, 0, column].tolist()) == set(range(most - 1))
        assert set(seen[:, -1, column].tolist()) == set(range(2, most + 1))


def test_more_rounds_than_lines_are_as_many_as_there_are_lines() -> None:
    learner = StraightThrough(workplace(budget=2), replace(SMALL, rounds=9))
    assert len(learner._ends(torch.tensor([2, 2]), np.random.default_rng(0))) == 3
    learner.learn(1)


def test_a_warm_start_begins_with_the_same_scores() -> None:
    place = workplace()
    given = StraightThrough(place, SMALL)
    given.learn(3)
    policy = given.policy()
    warm = StraightThrough(workplace(warm_start=policy), SMALL)
    view = place.acquisition.view(place.acquisition.start([place.scans[0]]))
    assert torch.equal(warm.policy().scores(view), policy.scores(view))
    warm.learn(1)
    assert not torch.equal(warm.policy().scores(view), policy.scores(view))
    assert torch.equal(given.policy().scores(view), policy.scores(view))


def test_a_warm_start_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"with a network.*'random'"):
        StraightThrough(workplace(warm_start=heuristic.random()), SMALL)
    other = StraightThrough(workplace(lines_per_action=2), SMALL).policy()
    with pytest.raises(ValueError, match="scores 8 actions; these scans have 16"):
        StraightThrough(workplace(warm_start=other), SMALL)


@pytest.mark.parametrize("network", ["lines", "varnet"])
@pytest.mark.parametrize("geometry", ["columns", "rows", "conjugate-columns"])
def test_its_policy_is_read_again(tmp_path: Path, geometry: str, network: str) -> None:
    place = workplace(geometry=geometry)
    learner = StraightThrough(place, replace(SMALL, batch=2, network=network))
    learner.learn(1)
    policy = learner.policy()
    policy.save(tmp_path / "best", info={})
    loaded = make_policy(tmp_path)
    assert isinstance(loaded, LearnedPolicy)
    view = place.acquisition.view(place.acquisition.start([place.scans[0], place.scans[1]]))
    assert torch.equal(loaded.scores(view), policy.scores(view))
    assert loaded.network.n_actions == place.acquisition.geometry.n_actions


def test_the_paper_s_network_sees_the_image() -> None:
    place = workplace(decaying(2))
    policy = StraightThrough(place, replace(SMALL, network="varnet")).policy()
    view = place.acquisition.view(place.acquisition.start([place.scans[0], place.scans[1]]))
    scores = policy.scores(view)
    assert not torch.allclose(scores[0], scores[1], rtol=0, atol=1e-4)


def test_a_network_that_cannot_be_made_is_refused() -> None:
    with pytest.raises(ValueError, match="network=rnn: expected one of lines, varnet"):
        StraightThrough(workplace(), replace(SMALL, network="rnn"))
    with pytest.raises(ValueError, match="columns or rows"):
        StraightThrough(workplace(geometry="points"), replace(SMALL, network="varnet"))


@pytest.mark.parametrize("wrong", [{"rounds": 0}, {"batch": 0}, {"temperature": 0.0}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected at least one round"):
        replace(SMALL, **wrong)  # type: ignore[arg-type]


def test_a_resumed_training_ends_as_an_uninterrupted_one() -> None:
    whole, first, second = (StraightThrough(workplace(), SMALL) for _ in range(3))
    whole.learn(5)
    first.learn(3)
    second.restore(first.state())
    second.learn(2)
    for a, b in zip(whole.weights, second.weights, strict=True):
        assert torch.equal(a, b)


def test_weights_that_are_no_numbers_stop_it() -> None:
    learner = StraightThrough(workplace(), SMALL)
    learner.weights[0].data.fill_(torch.nan)
    with pytest.raises(DivergedError, match="not finite"):
        learner.learn(1)


def test_the_reconstructor_stays_as_it_is() -> None:
    place = workplace(toy_scans(4), reconstructor="unet", metric="ssim")
    frozen = place.acquisition.reconstructor
    before = [weight.clone() for weight in frozen.parameters()]
    StraightThrough(place, replace(SMALL, batch=1)).learn(1)
    for weight, old in zip(frozen.parameters(), before, strict=True):
        assert weight.grad is None and torch.equal(weight, old)
