from pathlib import Path

import numpy as np
import pytest
import torch

from activemri.agents import heuristic
from activemri.agents.learning.demonstration_file import About, write_demonstrations
from activemri.agents.learning.demonstrations import Collector, Demonstrations
from activemri.agents.learning.imitation import (
    Imitation,
    ImitationSettings,
    ranking_loss,
    stopping_loss,
)
from activemri.agents.learning.learner import DivergedError, Workplace
from activemri.agents.line_network import LineNetwork
from activemri.agents.rollout import rollout
from activemri.data.slices import SliceList
from activemri.envs.line_features import N_FEATURES
from activemri.envs.protocol import EnvOptions
from tests.envs.scans import scan

SMALL = ImitationSettings(states=48, rounds=2, n_tried=8, channels=8, blocks=1, batch=16)


def workplace(*, max_steps: int = 40, **options: object) -> Workplace:
    scans = SliceList([scan(i) for i in range(8)], "scans")
    task = EnvOptions.of({"data": scans, "n_center_lines": 2, "budget": 6, **options})
    return Workplace(
        task=task,
        scans=scans,
        acquisition=task.scan(scans),
        metric="ssim",
        max_steps=max_steps,
        seed=0,
        warm_start=None,
        name="mine",
    )


def states(n: int = 3, n_trials: int = 4) -> Demonstrations:
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(n, 18, dtype=torch.bool)
    return Demonstrations(
        index=torch.zeros(n, dtype=torch.int64),
        start_mask=mask,
        mask=mask,
        budget=torch.ones(n, dtype=torch.int64),
        start_budget=torch.ones(n, dtype=torch.int64),
        score=torch.rand(n, generator=generator).double(),
        tried=torch.stack([torch.randperm(18, generator=generator)[:n_trials] for _ in range(n)]),
        scores=1 + torch.rand(n, n_trials, generator=generator).double(),
        prospect=torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64)[:n],
    )


def test_it_finds_the_lines_that_matter() -> None:
    place = workplace(max_steps=150)
    learner = Imitation(place, SMALL)
    learner.learn(150)
    held_out = [scan(i) for i in range(20, 32)]
    learned, random = (
        rollout(place.acquisition, policy, held_out).area("ssim").mean()
        for policy in (learner.policy(), heuristic.random())
    )
    assert learned > random + 0.02


def test_the_ranking_loss_is_least_for_the_gains_themselves() -> None:
    found = states()
    gain = found.scores - found.score[:, None]
    mean = gain.mean(dim=1, keepdim=True)
    normal = (gain - mean) / (gain.amax(dim=1, keepdim=True) - mean)
    perfect = torch.zeros(3, 18).scatter(1, found.tried, normal.float())
    least = ranking_loss(perfect, found.tried, found, temperature=0.5)
    torch.testing.assert_close(
        ranking_loss(perfect + 3, found.tried, found, temperature=0.5), least
    )
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        other = perfect + 0.3 * torch.randn(3, 18, generator=generator)
        assert ranking_loss(other, found.tried, found, temperature=0.5) > least


def test_actions_that_were_not_tried_do_not_count() -> None:
    found = states()
    scores = torch.randn(3, 18, generator=torch.Generator().manual_seed(0))
    padded = found.padded(7)
    torch.testing.assert_close(
        ranking_loss(scores, padded.tried, padded, temperature=0.5),
        ranking_loss(scores, found.tried, found, temperature=0.5),
    )


def test_the_stopping_loss_falls_when_it_stops_where_nothing_is_to_be_gained() -> None:
    network = LineNetwork(N_FEATURES, 18, channels=4, blocks=1, stops=True)
    lines = torch.zeros(3, N_FEATURES, 18)
    lines[:, 1] = 1  # measurable
    scores = torch.zeros(3, 19)
    right, wrong = scores.clone(), scores.clone()
    right[:, -1] = torch.tensor([-1.0, 1.0, -1.0])
    wrong[:, -1] = torch.tensor([1.0, -1.0, 1.0])
    losses = [stopping_loss(s, lines, network, states()) for s in (right, scores, wrong)]
    assert losses[0] < losses[1] < losses[2]


@pytest.mark.parametrize(("price", "stops_at_once"), [(10.0, True), (1e-6, False)])
def test_it_learns_when_to_stop(price: float, stops_at_once: bool) -> None:
    place = workplace(max_steps=60, step_cost=price, stop_action=True)
    learner = Imitation(place, SMALL)
    learner.learn(60)
    episodes = rollout(place.acquisition, learner.policy(), [scan(i) for i in range(20, 24)])
    n_lines = (episodes.n_acquired[:, -1] - episodes.n_acquired[:, 0]).tolist()
    assert (n_lines == [0] * 4) if stops_at_once else (min(n_lines) >= 3)


def test_going_on_from_a_saved_state_changes_nothing() -> None:
    straight = Imitation(workplace(), SMALL)
    straight.learn(40)
    first = Imitation(workplace(), SMALL)
    first.learn(23)
    buffer = first.state()
    second = Imitation(workplace(), SMALL)
    second.restore(buffer)
    second.learn(17)
    assert second.step == straight.step == 40
    for name, weight in straight.network.state_dict().items():
        assert torch.equal(weight, second.network.state_dict()[name]), name


def test_the_state_is_made_of_tensors_and_plain_python(tmp_path: Path) -> None:
    learner = Imitation(workplace(), SMALL)
    learner.learn(2)
    torch.save(learner.state(), tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)
    Imitation(workplace(), SMALL).restore(loaded)


def test_it_learns_from_a_file_alone(tmp_path: Path) -> None:
    place = workplace()
    collector = Collector(place.acquisition, place.scans, n_tried=6)
    found, _ = collector.collect(
        32,
        priority=lambda view: -view.geometry.frequency().float().expand(len(view.mask), -1),
        look=lambda view: view.mask,
        generator=np.random.default_rng(0),
    )
    about = About("ssim", "zero-filled", "scans", "columns", 18, 18, 1)
    path = write_demonstrations(tmp_path / "d", found, scans=place.scans, about=about)
    learner = Imitation(place, ImitationSettings(demonstrations=str(path), states=0, channels=8))
    assert learner.learn(3)["states"] == len(found)
    other = About("psnr", "zero-filled", "scans", "columns", 18, 18, 1)
    path = write_demonstrations(tmp_path / "o", found, scans=place.scans, about=other)
    with pytest.raises(ValueError, match=r"\('psnr', 'columns', 18, 18\); this training needs"):
        Imitation(place, ImitationSettings(demonstrations=str(path), states=0))


def test_nothing_to_learn_from_is_refused() -> None:
    with pytest.raises(ValueError, match="states=0 needs demonstrations=FILE"):
        Imitation(workplace(), ImitationSettings(states=0))


def test_a_loss_that_is_not_finite_ends_it() -> None:
    learner = Imitation(workplace(), ImitationSettings(states=16, rounds=1, lr=1e30, channels=8))
    with pytest.raises(DivergedError, match="not a finite number"):
        learner.learn(40)


def test_it_goes_on_from_a_trained_policy() -> None:
    place = workplace()
    learner = Imitation(place, SMALL)
    learner.learn(5)
    warm = Workplace(**{**vars(place), "warm_start": learner.policy()})
    again = Imitation(warm, SMALL)
    for name, weight in learner.network.state_dict().items():
        assert torch.equal(weight, again.network.state_dict()[name])


def test_actions_of_several_lines_can_be_learned() -> None:
    place = workplace(max_steps=4, lines_per_action=2)
    learner = Imitation(place, SMALL)
    learner.learn(4)
    episodes = rollout(place.acquisition, learner.policy(), [scan(30)])
    assert int(episodes.n_acquired[0, -1]) == 2 + 6
