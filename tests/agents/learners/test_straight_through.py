from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from activemri.agents.learners.learner import Problem
from activemri.agents.learners.straight_through import (
    SeqMRI,
    StraightThrough,
    StraightThroughLearner,
)
from activemri.agents.networks import LearnedPolicy
from activemri.agents.registry import make_policy
from activemri.data.slices import SliceList
from tests.agents.learners.problems import problem, toy_scans
from tests.envs.scans import scan


def learner(place: Problem | None = None, **changes: Any) -> StraightThroughLearner:
    small = {"lr": 1e-2, "batch": 6, "channels": 8, "blocks": 1, "max_steps": 60}
    return StraightThrough(**{**small, **changes}).start(problem() if place is None else place)


def test_seqmri_looks_four_times() -> None:
    assert SeqMRI().rounds == 4
    made = SeqMRI(batch=2, channels=4, blocks=1).start(problem(budget=6))
    assert made.learn(1)["loss"] > 0


def test_rounds_of_equal_shares_end_with_the_budget() -> None:
    made = learner(rounds=4, anywhere=False)
    ends = made._ends(torch.tensor([24, 10]), np.random.default_rng(0))
    assert [end.tolist() for end in ends] == [[0, 0], [6, 2], [12, 5], [18, 7], [24, 10]]


def test_rounds_anywhere_grow_and_reach_every_number_of_lines() -> None:
    made = learner(rounds=2)
    generator = np.random.default_rng(0)
    seen = torch.stack(
        [torch.stack(made._ends(torch.tensor([5, 3]), generator)) for _ in range(200)]
    )
    assert bool((seen.diff(dim=1) >= 1).all())
    for column, most in ((0, 5), (1, 3)):
        assert set(seen[:, 0, column].tolist()) == set(range(most - 1))
        assert set(seen[:, -1, column].tolist()) == set(range(2, most + 1))


def test_more_rounds_than_lines_are_as_many_as_there_are_lines() -> None:
    made = learner(problem(budget=2), rounds=9)
    assert len(made._ends(torch.tensor([2, 2]), np.random.default_rng(0))) == 3
    made.learn(1)


@pytest.mark.parametrize("network", ["lines", "varnet"])
@pytest.mark.parametrize("geometry", ["columns", "rows", "conjugate-columns"])
def test_its_policy_is_read_again(tmp_path: Path, geometry: str, network: str) -> None:
    place = problem(geometry=geometry)
    made = learner(place, batch=2, network=network)
    made.learn(1)
    policy = made.policy()
    policy.save(tmp_path / "best", info={})
    loaded = make_policy(tmp_path)
    assert isinstance(loaded, LearnedPolicy)
    view = place.scan.start([place.scans[0], place.scans[1]]).view
    assert torch.equal(loaded.scores(view), policy.scores(view))
    assert loaded.network.n_actions == place.scan.geometry.n_actions


def test_the_paper_s_network_sees_the_image() -> None:
    place = problem(SliceList([scan(0), scan(1)]))
    policy = learner(place, network="varnet").policy()
    view = place.scan.start([place.scans[0], place.scans[1]]).view
    scores = policy.scores(view)
    assert not torch.allclose(scores[0], scores[1], rtol=0, atol=1e-4)


def test_a_network_that_cannot_be_made_is_refused() -> None:
    with pytest.raises(ValueError, match="network rnn: expected one of lines, varnet"):
        learner(network="rnn")
    with pytest.raises(ValueError, match="columns or rows"):
        learner(problem(geometry="points"), network="varnet")


def test_the_reconstructor_stays_as_it_is() -> None:
    place = problem(toy_scans(4), reconstructor="unet", reward="delta_ssim")
    frozen = place.scan.reconstructor
    before = [weight.clone() for weight in frozen.parameters()]
    learner(place, batch=1).learn(1)
    for weight, old in zip(frozen.parameters(), before, strict=True):
        assert weight.grad is None and torch.equal(weight, old)
