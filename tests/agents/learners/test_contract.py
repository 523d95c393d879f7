"""What every learner promises: run over all that are registered."""

import ast
import io
import random
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from activemri.agents.learners import LEARNERS, find_learner, learner_name
from activemri.agents.networks import LearnedPolicy
from activemri.agents.order import Order
from activemri.agents.registry import make_policy
from activemri.agents.rollout import rollout
from activemri.data.slices import SliceList
from tests.agents.learners.problems import begun, listed, problem, small, strong_share, toy_scans
from tests.envs.scans import scan

#: Steps that a learner takes, in its own unit, and those whose steps are long.
STEPS = {name: 4 if name in ("loupe", "straight-through", "seqmri") else 16 for name in LEARNERS}
#: Settings that learn in seconds which lines matter; other learners do so by those of `small`.
LEARNING: Mapping[str, Mapping[str, Any]] = {
    "imitation": {"max_steps": 60, "states": 60, "batch": 16},
    "ppo": {"max_steps": 1200, "n_envs": 16, "n_steps": 4, "batch": 32, "lr": 1e-2, "spread": 1.0},
    "dqn": {"max_steps": 1200, "lr": 3e-3, "n_envs": 8, "burn_in": 200, "memory": 1000},
    "greedy-pg": {"max_steps": 200, "lr": 1e-2, "temperature": 0.25, "samples": 6, "batch": 4},
    "factor": {},
    "nearest-neighbour": {},
    "one-shot": {},
    "loupe": {"max_steps": 60, "lr": 0.3},
    "straight-through": {"max_steps": 60, "lr": 1e-2},
    "ddqn": {
        **{"max_steps": 800, "lr": 3e-3, "n_envs": 8, "burn_in": 200, "memory": 1000},
        **{"updates": 5, "batch": 32, "channels": 16, "target_every": 100},
    },
}
LEARNING = {
    **LEARNING,
    "maskable-ppo": LEARNING["ppo"],
    "qrdqn": LEARNING["dqn"],
    "seqmri": LEARNING["straight-through"],
    "ds-ddqn": LEARNING["ddqn"],
}

needs_contrib = pytest.mark.skipif(find_spec("sb3_contrib") is None, reason="needs sb3-contrib")
every = pytest.mark.parametrize(
    "algo",
    [
        pytest.param(name, marks=needs_contrib if name in ("maskable-ppo", "qrdqn") else ())
        for name in LEARNERS
    ],
)


@cache
def learned(algo: str) -> tuple[Any, bytes]:
    """A policy after a few steps, and the state of its learner."""
    learner = begun(algo, max_steps=2 * STEPS[algo])
    numbers = learner.learn(STEPS[algo])
    assert learner.step >= STEPS[algo]
    assert numbers and all(np.isfinite(value) for value in numbers.values())
    buffer = io.BytesIO()
    torch.save(learner.state(), buffer)
    return learner.policy(), buffer.getvalue()


def weights(policy: Any) -> Mapping[str, Any]:
    if isinstance(policy, LearnedPolicy):
        return policy.network.state_dict()
    assert isinstance(policy, Order)
    return {"actions": torch.tensor(policy.actions)}


def assert_same(one: Any, other: Any) -> None:
    torch.testing.assert_close(weights(one.policy()), weights(other.policy()), rtol=0, atol=0)


def global_states() -> tuple[Any, ...]:
    state: Any = np.random.get_state()  # noqa: NPY002
    return random.getstate(), state[1].tolist(), torch.get_rng_state().tolist()


def resumed(algo: str) -> Any:
    """A new learner brought to a state that went through a file."""
    learner = begun(algo, max_steps=2 * STEPS[algo])
    learner.restore(torch.load(io.BytesIO(learned(algo)[1]), weights_only=True))
    return learner


@pytest.mark.parametrize(
    "algo",
    [
        # The rest learn by the same code; test_ddqn has another test of what ddqn learns.
        pytest.param(param.values[0], marks=[*param.marks, pytest.mark.long])
        if param.values[0] in ("ddqn", "ds-ddqn", "dqn", "qrdqn", "ppo", "seqmri")
        else param
        for param in every.args[1]
    ],
)
def test_it_learns_which_lines_matter(algo: str) -> None:
    place = problem()
    learner = begun(algo, place, **LEARNING.get(algo, {}))
    # Imitation learns from mirror images of its states as well, so that it cannot tell the sides.
    wanted = 0.5 if algo == "imitation" else 1.0
    if algo != "factor":  # it begins as the best order
        assert strong_share(learner.policy(), place) < wanted
    learner.learn(learner.settings.max_steps)
    assert strong_share(learner.policy(), place) >= wanted


@every
def test_it_is_saved_loaded_and_acts_legally(algo: str, tmp_path: Path) -> None:
    policy, _ = learned(algo)
    policy.save(tmp_path / "best", info={"algo": algo})
    loaded = make_policy(tmp_path)
    assert loaded.name == tmp_path.name and not loaded.traits.is_oracle
    place = problem()
    mine, theirs = (rollout(place.scan, one, listed(place)) for one in (policy, loaded))
    assert torch.equal(mine.actions, theirs.actions)
    assert all(len(set(row)) == 2 for row in mine.actions.tolist())


@every
def test_scans_with_another_number_of_actions_are_refused(algo: str) -> None:
    wider = problem(SliceList([scan(0, shape=(12, 20))]))
    with pytest.raises(ValueError) as refusal:
        rollout(wider.scan, learned(algo)[0], listed(wider))
    assert "16" in str(refusal.value) and "20" in str(refusal.value)


@every
def test_a_resumed_training_is_the_uninterrupted_one(algo: str) -> None:
    first, second = resumed(algo), resumed(algo)
    before = global_states()
    first.learn(STEPS[algo])
    second.learn(STEPS[algo])
    assert global_states() == before, "draws from global generators"
    assert_same(first, second)
    whole = begun(algo, max_steps=2 * STEPS[algo])
    whole.learn(STEPS[algo])
    whole.learn(STEPS[algo])
    assert whole.step == first.step >= 2 * STEPS[algo]
    assert_same(whole, first)


@every
def test_a_warm_start_is_where_learning_begins(algo: str) -> None:
    policy, _ = learned(algo)
    learner = begun(algo, problem(warm_start=policy))
    if isinstance(policy, Order):
        assert learner.policy().actions == policy.actions
        return
    torch.testing.assert_close(weights(learner.policy()), weights(policy), rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"--warm-start: .* 'random'"):
        begun(algo, problem(warm_start=make_policy("random")))
    with pytest.raises(ValueError, match=r"--warm-start: .* 16 actions; these scans have 8"):
        begun(algo, problem(warm_start=policy, lines_per_action=2))


@every
@pytest.mark.parametrize(
    "options",
    [
        {"geometry": "rows"},
        {"lines_per_action": 2, "budget": 4},
        {"scanner": "noisy", "budget": 3},
        {"stop_action": True, "step_cost": 0.01},
        {"n_random_lines": 1},
        {"geometry": "points"},
        {"geometry": "radial"},
    ],
    ids=["rows", "echo-train", "noisy", "stop", "random-start", "points", "radial"],
)
def test_other_protocols_are_learned_or_refused_when_it_begins(
    algo: str, options: dict[str, Any]
) -> None:
    place = problem(SliceList([scan(i) for i in range(4)]), **options)
    try:
        learner = begun(algo, place)
    except ValueError as error:
        assert {"scanner", "geometry"} & set(options), error
        assert str(options.get("geometry", "--scanner")) in str(error)
        return
    learner.learn(8)
    episodes = rollout(place.scan, learner.policy(), listed(place))
    if "stop_action" not in options:
        assert (episodes.n_steps > 0).all()


@every
@pytest.mark.parametrize("option", ["max_steps", "lr", "batch"])
def test_impossible_settings_are_refused_in_one_line(algo: str, option: str) -> None:
    if option not in {field.name for field in fields(find_learner(algo))}:  # type: ignore[arg-type]
        pytest.skip("it has no such setting")
    with pytest.raises(ValueError, match=rf"--learner\.{option.replace('_', '-')}.*0") as refusal:
        small(algo, **{option: 0})
    assert "\n" not in str(refusal.value)


@every
def test_samples_that_are_no_numbers_end_it(algo: str) -> None:
    broken = toy_scans()
    for one in broken.slices:
        one.target.fill_(float("nan"))
        one.kspace.fill_(complex("nan"))
    try:
        learner = begun(algo, problem(broken))
        for _ in range(3):
            learner.learn(STEPS[algo])
    except FloatingPointError:
        return
    except ValueError as error:
        assert "finite" in str(error) or "NaN" in str(error), error
        return
    raise AssertionError("it went on")


@every
def test_every_setting_says_what_it_is(algo: str) -> None:
    kind: Any = find_learner(algo)
    assert learner_name(kind()) == algo and kind.__doc__
    source = Path(find_spec(kind.__module__).origin).read_text()  # type: ignore[union-attr,arg-type]
    for field in fields(kind):
        assert f"\n    {field.name}: " in source and '"""' in source


@every
def test_a_learner_is_one_file_that_imports_at_most_five_of_ours(algo: str) -> None:
    path = find_spec(LEARNERS[algo].partition(":")[0]).origin  # type: ignore[union-attr]
    tree = ast.parse(Path(str(path)).read_text())
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    ours = {module for module in modules if str(module).startswith("activemri")}
    assert len(ours) <= 5, ours


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(ValueError, match="--algo alchemy: expected one of imitation, factor, "):
        find_learner("alchemy")
    with pytest.raises(ValueError, match=r"--algo .*No module named"):
        find_learner("no.module:Here")
    with pytest.raises(ValueError, match="with a method `start`"):
        find_learner("pathlib:Path")
