"""What every algorithm promises: run over all that are registered."""

import io
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch

from activemri.agents.learned import LearnedPolicy
from activemri.agents.learning.learner import DivergedError
from activemri.agents.learning.registry import ALGORITHMS
from activemri.agents.order import FixedOrder
from activemri.agents.registry import make_policy
from activemri.agents.rollout import rollout
from tests.agents.learning.learners import (
    BUDGET,
    listed,
    small_learner,
    validation_scans,
    workplace,
)
from tests.training.conftest import discs

#: Their memory is not kept: it is filled again after a restart.
FORGETFUL = ("dqn", "qrdqn")
STEPS = 16

needs_contrib = pytest.mark.skipif(find_spec("sb3_contrib") is None, reason="needs sb3-contrib")
EVERY = [
    pytest.param(name, marks=needs_contrib if name in ("maskable-ppo", "qrdqn") else ())
    for name in ALGORITHMS
]
every = pytest.mark.parametrize("algo", EVERY)


@cache
def learned(algo: str) -> tuple[Any, bytes]:
    """A policy after a few steps, and the state of its learner."""
    learner = small_learner(algo, workplace(max_steps=2 * STEPS))
    losses = learner.learn(STEPS)
    assert learner.step >= STEPS
    assert losses and all(np.isfinite(value) for value in losses.values())
    buffer = io.BytesIO()
    torch.save(learner.state(), buffer)
    return learner.policy(), buffer.getvalue()


def numbers(policy: Any) -> Mapping[str, Any]:
    """All that a policy has learned."""
    if isinstance(policy, LearnedPolicy):
        return policy.network.state_dict()
    assert isinstance(policy, FixedOrder)
    return {"actions": torch.tensor(policy.order.actions)}


def resumed(algo: str, state: bytes) -> Any:
    """A new learner brought to a state that went through a file."""
    learner = small_learner(algo, workplace(max_steps=2 * STEPS))
    learner.restore(torch.load(io.BytesIO(state), weights_only=True))
    return learner


@every
def test_what_it_learned_is_saved_loaded_and_acts_legally(algo: str, tmp_path: Any) -> None:
    policy, _ = learned(algo)
    policy.save(tmp_path / "best", info={"algo": algo})
    loaded = make_policy(tmp_path)
    assert loaded.name == tmp_path.name and not loaded.traits.is_oracle
    scans = listed(validation_scans())
    protocol = workplace().acquisition
    mine, theirs = (rollout(protocol, one, scans) for one in (policy, loaded))
    assert torch.equal(mine.actions, theirs.actions)
    assert mine.n_steps.tolist() == [BUDGET] * len(scans)
    assert all(len(set(row)) == BUDGET for row in mine.actions.tolist())


@every
def test_scans_with_another_number_of_actions_are_refused(algo: str) -> None:
    policy, _ = learned(algo)
    wider = discs(["d"], shape=(12, 20))
    protocol = workplace(scans=wider).acquisition
    with pytest.raises(ValueError) as refusal:
        rollout(protocol, policy, listed(wider))
    assert "18" in str(refusal.value) and "20" in str(refusal.value)


@every
def test_learning_goes_on_from_a_saved_state(algo: str) -> None:
    policy, state = learned(algo)
    first, second = resumed(algo, state), resumed(algo, state)
    assert first.step >= STEPS
    torch.testing.assert_close(numbers(first.policy()), numbers(policy), rtol=0, atol=0)
    before = torch.get_rng_state()
    for learner in (first, second):
        learner.learn(STEPS)
    assert torch.equal(torch.get_rng_state(), before), "draws from the global generator"
    assert first.step == second.step >= 2 * STEPS
    torch.testing.assert_close(numbers(first.policy()), numbers(second.policy()), rtol=0, atol=0)


@every
def test_a_resumed_training_is_the_uninterrupted_one(algo: str) -> None:
    if algo in FORGETFUL:
        pytest.skip("its memory is filled again after a restart")
    learner = small_learner(algo, workplace(max_steps=2 * STEPS))
    learner.learn(STEPS)
    learner.learn(STEPS)
    other = resumed(algo, learned(algo)[1])
    other.learn(STEPS)
    torch.testing.assert_close(numbers(learner.policy()), numbers(other.policy()), rtol=0, atol=0)


@every
def test_an_endless_reward_is_told_as_divergence(algo: str) -> None:
    """Scans whose samples are no numbers make every loss one that is none."""
    broken = discs(["a", "b"])
    for scan in listed(broken):
        scan.target.fill_(float("nan"))
        scan.kspace.fill_(complex("nan"))
    try:
        learner = small_learner(algo, workplace(scans=broken))
        with pytest.raises(DivergedError):
            for _ in range(3):
                learner.learn(STEPS)
    except ValueError as error:
        assert "finite" in str(error) or "NaN" in str(error), error
