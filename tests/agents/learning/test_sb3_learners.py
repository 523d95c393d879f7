"""Algorithms of Stable-Baselines3 around networks of this package."""

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO

from activemri import cli
from activemri.agents.image_network import ImageNetwork
from activemri.agents.learned import LearnedPolicy, load_policy, observed
from activemri.agents.learning.learner import DivergedError
from activemri.agents.learning.ppo import PPOSettings
from activemri.agents.learning.sb3 import OwnDraws
from activemri.agents.line_network import LineNetwork
from activemri.agents.rollout import rollout
from activemri.agents.sb3 import make_sb3_env
from activemri.agents.sb3_policies import NetworkFeatures, finite, new_network
from activemri.envs.line_features import N_FEATURES
from activemri.mri.geometry import make_geometry
from tests.agents.learning.learners import (
    BUDGET,
    listed,
    small_learner,
    train_scans,
    validation_scans,
    workplace,
)

ROOT = Path(__file__).parents[3]
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


def line_policy(stops: bool = False, seed: int = 5) -> LearnedPolicy:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = LineNetwork(N_FEATURES, 18, channels=4, blocks=1, stops=stops)
    return LearnedPolicy(network, "warm", workplace().frame)


def test_a_new_policy_goes_outwards_from_the_centre(algo: str) -> None:
    place = workplace()
    episodes = rollout(
        place.acquisition, policy_of(small_learner(algo, place)), listed(validation_scans())
    )
    distance = (episodes.actions - 9).abs()
    assert (distance.diff(dim=1) >= 0).all() and distance[:, 0].max() <= 3


def test_a_warm_start_is_where_learning_begins(algo: str) -> None:
    warm = line_policy()
    learner = small_learner(algo, workplace(warm_start=warm))
    begun = policy_of(learner).network.state_dict()
    torch.testing.assert_close(begun, warm.network.state_dict(), rtol=0, atol=0)
    learner.learn(16)
    learned = policy_of(learner).network.state_dict()
    assert any(not torch.equal(learned[key], begun[key]) for key in begun)
    torch.testing.assert_close(warm.network.state_dict(), begun, rtol=0, atol=0)


@pytest.mark.parametrize("observation", ["image", "uncertainty", "complex"])
def test_images_are_learned_from_and_the_policy_needs_no_stable_baselines(
    algo: str, observation: str, tmp_path: Path
) -> None:
    if algo != "ppo" and observation != "uncertainty":
        pytest.skip("one algorithm shows it")
    learner = small_learner(algo, workplace(), f"observation={observation}")
    learner.learn(16)
    policy = policy_of(learner)
    assert isinstance(policy.network, ImageNetwork)
    policy.save(tmp_path / "best", info={})
    loaded = load_policy(tmp_path / "best")
    protocol, scans = workplace().acquisition, listed(validation_scans())
    mine, theirs = (rollout(protocol, one, scans) for one in (policy, loaded))
    assert torch.equal(mine.actions, theirs.actions)


def test_a_policy_is_loaded_without_importing_stable_baselines(tmp_path: Path) -> None:
    line_policy().save(tmp_path / "best", info={})
    code = (
        "import sys; from activemri.agents.registry import make_policy\n"
        f"make_policy({str(tmp_path / 'best')!r})\n"
        "print(sorted(m for m in sys.modules if 'baselines' in m or 'sb3' in m))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize("geometry", ["columns", "rows"])
def test_stop_and_echo_trains_are_learned_too(algo: str, geometry: str) -> None:
    place = workplace(
        stop_action=True, step_cost=0.5, geometry=geometry, lines_per_action=2, budget=8
    )
    learner = small_learner(algo, place)
    learner.learn(16)
    policy = policy_of(learner)
    assert policy.network.stops
    groups = make_geometry(geometry, (12, 18), lines_per_action=2).groups
    assert policy.network.n_actions == len(groups)
    rollout(place.acquisition, policy, listed(validation_scans()))


def test_scores_that_are_learned_are_those_that_act() -> None:
    """The logits of the actor are the scores of the exported network."""
    learner: Any = small_learner("ppo", workplace())
    learner.learn(16)
    policy = policy_of(learner)
    place = learner.workplace
    view = place.acquisition.view(place.acquisition.start(listed(train_scans())))
    seen = observed(policy.network, view, policy.frame)
    batch = {key: value.float() for key, value in seen.items()}
    with torch.no_grad():
        logits = learner.model.policy.get_distribution(batch).distribution.logits
    scores = torch.log_softmax(policy.scores(view), dim=1)
    torch.testing.assert_close(logits, scores)


def test_mean_quantiles_are_the_scores_of_the_network() -> None:
    pytest.importorskip("sb3_contrib")
    for stops in (False, True):
        place = workplace(stop_action=stops)
        learner: Any = small_learner("qrdqn", place)
        learner.learn(16)
        view = place.acquisition.view(place.acquisition.start(listed(train_scans())))
        policy = policy_of(learner)
        with torch.no_grad():
            quantiles = learner.model.quantile_net(
                dict(observed(policy.network, view, policy.frame))
            )
        assert quantiles.std(dim=1).min() > 0
        torch.testing.assert_close(quantiles.mean(dim=1), policy.scores(view))


def test_the_learning_rate_and_exploration_follow_the_whole_training() -> None:
    learner: Any = small_learner("dqn", workplace(max_steps=64), "lr=0.01", "exploration=0.5")
    rates, randoms = [], []
    for _ in range(4):
        learner.learn(16)
        rates.append(learner.model.policy.optimizer.param_groups[0]["lr"])
        randoms.append(learner.model.exploration_rate)
    assert rates == pytest.approx([0.0075, 0.005, 0.0025, 0.0005])
    assert randoms == pytest.approx([0.525, 0.05, 0.05, 0.05])


def test_a_forgetful_learner_fills_its_memory_again() -> None:
    learner: Any = small_learner("dqn", workplace(max_steps=64))
    learner.learn(16)
    other: Any = small_learner("dqn", workplace(max_steps=64))
    other.restore(learner.state())
    assert other.step == 16 and other.model.replay_buffer.size() == 2  # 8 actions of 4 scans


def test_global_generators_are_left_alone() -> None:
    def drawn() -> tuple[Any, ...]:
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # type: ignore[index]  # noqa: NPY002

    before = drawn()
    small_learner("ppo", workplace()).learn(16)
    assert drawn() == before


def test_own_draws_go_on_from_a_state() -> None:
    def three(draws: OwnDraws) -> list[float]:
        with draws.in_place():
            return [random.random(), np.random.random(), float(torch.rand(()))]  # noqa: NPY002

    first, second = OwnDraws(4), OwnDraws(9)
    assert three(first) != three(first)
    second.restore(first.state())
    assert three(second) == three(first)


def test_a_value_that_is_no_number_stops_the_training() -> None:
    assert torch.equal(finite(torch.ones(2)), torch.ones(2))
    with pytest.raises(DivergedError):
        finite(torch.tensor([1.0, torch.nan]))
    learner: Any = small_learner("ppo", workplace(), "lr=1e30")
    with pytest.raises(DivergedError):
        for _ in range(4):
            learner.learn(16)


def test_a_batch_that_does_not_divide_the_actions_is_refused() -> None:
    with pytest.raises(ValueError, match="divisor of n_envs \\* n_steps = 64; got 20"):
        PPOSettings(n_envs=4, n_steps=16, batch=20)


def test_what_cannot_be_observed_is_refused() -> None:
    with pytest.raises(ValueError, match="expected one of lines, image, uncertainty"):
        small_learner("ppo", workplace(), "observation=kspace")
    with pytest.raises(ValueError, match="18 actions"):
        small_learner("ppo", workplace(warm_start=line_policy(), lines_per_action=2))


@pytest.mark.parametrize("algo_of_contrib", ["maskable-ppo", "qrdqn"])
def test_a_missing_extra_is_named_before_anything_begins(
    algo_of_contrib: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "sb3_contrib", None)
    for name in ("sb3_contrib_policies", "learning.maskable_ppo", "learning.qrdqn"):
        monkeypatch.delitem(sys.modules, f"activemri.agents.{name}", raising=False)
    line = ["train", "policy", "--algo", algo_of_contrib, "--out", str(tmp_path / "run")]
    assert cli.main(line) == 2
    assert capsys.readouterr().err == (
        "activemri: error: maskable-ppo and qrdqn come from sb3-contrib, which is not installed: "
        'pip install "activemri[rl]"\n'
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("observation", ["lines", "image"])
def test_features_plug_into_the_policies_of_stable_baselines(observation: str) -> None:
    env = make_sb3_env(
        "ActiveMRI/HDF5-v0", num_envs=2, data=train_scans(), budget=BUDGET, observation=observation
    )
    extractor = {"features_extractor_class": NetworkFeatures}
    model = PPO(
        "MultiInputPolicy", env, n_steps=4, batch_size=4, n_epochs=1, policy_kwargs=extractor
    )
    before = [weight.clone() for weight in model.policy.features_extractor.parameters()]
    model.learn(8)
    after = model.policy.features_extractor.parameters()
    assert any(not torch.equal(a, b) for a, b in zip(after, before, strict=True))


def test_features_of_anything_else_are_refused() -> None:
    space = spaces.Dict({"mask": spaces.MultiBinary(5), "budget": spaces.Box(0, 1, (1,))})
    with pytest.raises(ValueError, match='"lines" or "image"; got one with budget, mask'):
        new_network(space)
