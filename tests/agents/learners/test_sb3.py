"""Algorithms of Stable-Baselines3 around networks of this package."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from activemri import cli
from activemri.agents.learners.sb3 import PPO
from activemri.agents.networks import ImageNetwork, LearnedPolicy, load_policy
from activemri.agents.rollout import rollout
from tests.agents.learners.problems import begun, listed, problem
from tests.test_structure import MODULES, imports

ALGOS = ["ppo", "maskable-ppo", "dqn", "qrdqn"]


@pytest.fixture(params=ALGOS)
def algo(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name in ("maskable-ppo", "qrdqn"):
        pytest.importorskip("sb3_contrib")
    return name


def policy_of(learner: Any) -> LearnedPolicy:
    policy = learner.policy()
    assert isinstance(policy, LearnedPolicy)
    return policy


def test_a_new_policy_goes_outwards_from_the_centre(algo: str) -> None:
    place = problem(budget=4)
    episodes = rollout(place.scan, policy_of(begun(algo, place, spread=20.0)), listed(place))
    distance = (episodes.actions - 8).abs()
    assert (distance.diff(dim=1) >= 0).all() and distance[:, 0].max() <= 2


@pytest.mark.parametrize(
    ("algo", "observation"),
    [("ppo", "image"), ("dqn", "uncertainty"), ("qrdqn", "complex")],
    indirect=["algo"],
)
def test_images_are_learned_from(algo: str, observation: str, tmp_path: Path) -> None:
    learner = begun(algo, observation=observation)
    learner.learn(16)
    policy = policy_of(learner)
    assert isinstance(policy.network, ImageNetwork)
    policy.save(tmp_path / "best", info={})
    loaded = load_policy(tmp_path / "best")
    place = problem()
    mine, theirs = (rollout(place.scan, one, listed(place)) for one in (policy, loaded))
    assert torch.equal(mine.actions, theirs.actions)


def test_a_policy_is_loaded_without_importing_stable_baselines() -> None:
    loaded, new = (
        set[str](),
        {"activemri.agents.registry", *imports(MODULES["activemri.agents.registry"])},
    )
    while new:
        loaded |= new
        new = {name for module in new for name in imports(MODULES[module])} - loaded
    texts = {name: MODULES[name].read_text() for name in loaded}
    assert len(loaded) > 20 and not [name for name in texts if "stable_baselines3" in texts[name]]


def test_scores_that_are_learned_are_those_that_act() -> None:
    """The logits of the actor are the scores of the exported network."""
    learner: Any = begun("ppo")
    learner.learn(16)
    policy = policy_of(learner)
    place = learner.problem
    view = place.scan.start(listed(place)).view
    seen = policy.network.observe(view, policy.frame)
    batch = {key: value.float() for key, value in seen.items()}
    with torch.no_grad():
        logits = learner.model.policy.get_distribution(batch).distribution.logits
    scores = torch.log_softmax(policy.scores(view), dim=1)
    torch.testing.assert_close(logits, scores)


def test_mean_quantiles_are_the_scores_of_the_network() -> None:
    pytest.importorskip("sb3_contrib")
    for stops in (False, True):
        place = problem(stop_action=stops)
        learner: Any = begun("qrdqn", place)
        learner.learn(16)
        view = place.scan.start(listed(place)).view
        policy = policy_of(learner)
        with torch.no_grad():
            quantiles = learner.model.quantile_net(dict(policy.network.observe(view, policy.frame)))
        assert quantiles.std(dim=1).min() > 0
        torch.testing.assert_close(quantiles.mean(dim=1), policy.scores(view))


def test_the_learning_rate_and_exploration_follow_the_whole_training() -> None:
    learner: Any = begun("dqn", max_steps=64, lr=0.01, exploration=0.5)
    rates, randoms = [], []
    for _ in range(4):
        learner.learn(16)
        rates.append(learner.model.policy.optimizer.param_groups[0]["lr"])
        randoms.append(learner.model.exploration_rate)
    assert rates == pytest.approx([0.0075, 0.005, 0.0025, 0.0005])
    assert randoms == pytest.approx([0.525, 0.05, 0.05, 0.05])


@pytest.mark.parametrize("memory", [20, 100])  # smaller than what is learned from, and larger
def test_a_learner_that_is_resumed_remembers_what_it_remembered(memory: int) -> None:
    learner: Any = begun("dqn", max_steps=64, memory=memory)
    for _ in range(3):
        learner.learn(16)
    other: Any = begun("dqn", max_steps=64, memory=memory)
    other.restore(learner.state())
    kept, again = learner.model.replay_buffer, other.model.replay_buffer
    assert (again.pos, again.full, again.size()) == (kept.pos, kept.full, kept.size())
    assert (again.actions == kept.actions).all() and (again.rewards == kept.rewards).all()
    for name, values in kept.next_observations.items():
        assert (again.next_observations[name] == values).all()
    assert len(other.state()["taken"]) == (2 if memory == 20 else 3)


def test_a_value_that_is_no_number_stops_the_training() -> None:
    learner: Any = begun("ppo", lr=1e30)
    with pytest.raises(FloatingPointError):
        for _ in range(4):
            learner.learn(16)


def test_what_does_not_fit_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="divisor of n_envs \\* n_steps = 64; got 20"):
        PPO(n_envs=4, n_steps=16, batch=20)
    with pytest.raises(ValueError, match="expected one of lines, image, uncertainty"):
        begun("ppo", observation="kspace")
    monkeypatch.setitem(sys.modules, "sb3_contrib", None)
    for algo in ("maskable-ppo", "qrdqn"):
        line = ["train", "policy", "--algo", algo, "--out", str(tmp_path / "run")]
        assert cli.main(line) == 2
        assert 'sb3-contrib, which is not installed: pip install "activemri[rl]"' in (
            capsys.readouterr().err
        )
    assert not (tmp_path / "run").exists()
