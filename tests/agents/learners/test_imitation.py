from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from activemri.agents import heuristic
from activemri.agents.learners.demonstrations import (
    Demonstrations,
    collect,
    outwards,
    write_demonstrations,
)
from activemri.agents.learners.imitation import (
    Imitation,
    ImitationLearner,
    ranking_loss,
    stopping_loss,
)
from activemri.agents.learners.learner import Problem
from activemri.agents.networks import LineNetwork
from activemri.agents.rollout import rollout
from activemri.data.slices import SliceList
from activemri.envs.line_features import N_FEATURES
from tests.agents.learners.problems import problem
from tests.envs.scans import scan


def place(**options: Any) -> Problem:
    scans = SliceList([scan(i) for i in range(8)], "scans")
    given: dict[str, Any] = {"budget": 6, "reward": "delta_ssim", **options}
    return problem(scans, seed=0, **given)


def learner(where: Problem | None = None, **changes: Any) -> ImitationLearner:
    small = {"max_steps": 40, "states": 48, "rounds": 2, "n_tried": 8, "channels": 8, "blocks": 1}
    return Imitation(**{**small, "batch": 16, **changes}).start(place() if where is None else where)


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
        features=torch.zeros(n, N_FEATURES, 18),
    )


def test_it_is_better_than_random_on_other_scans() -> None:
    where = place()
    made = learner(where, max_steps=150)
    made.learn(150)
    held_out = [scan(i) for i in range(20, 32)]
    learned, random = (
        rollout(where.scan, policy, held_out).area("ssim").mean()
        for policy in (made.policy(), heuristic.random())
    )
    assert learned > random + 0.02


def test_of_the_mask_alone_it_learns_an_order() -> None:
    made = learner(sees="mask")
    made.learn(4)
    policy = made.policy()
    assert policy.traits.is_order and not learner().policy().traits.is_order
    taken = rollout(place().scan, policy, [scan(i) for i in range(20, 24)]).actions
    assert bool((taken == taken[0]).all())
    with pytest.raises(ValueError, match=r"--warm-start: .* sees all, and the network mask"):
        learner(place(warm_start=policy))


def test_the_ranking_loss_is_least_for_the_gains_themselves() -> None:
    found = states()
    gain = found.scores - found.score[:, None]
    mean = gain.mean(dim=1, keepdim=True)
    normal = (gain - mean) / (gain.amax(dim=1, keepdim=True) - mean)
    perfect = torch.zeros(3, 18).scatter(1, found.tried, normal.float())
    least = ranking_loss(perfect, found, temperature=0.5)
    torch.testing.assert_close(ranking_loss(perfect + 3, found, temperature=0.5), least)
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        other = perfect + 0.3 * torch.randn(3, 18, generator=generator)
        assert ranking_loss(other, found, temperature=0.5) > least
    # Rows of fewer trials are padded with actions that were not tried and do not count.
    padded = Demonstrations.join([found, states(1, n_trials=7)]).select(torch.arange(3))
    torch.testing.assert_close(
        ranking_loss(other, padded, temperature=0.5),
        ranking_loss(other, found, temperature=0.5),
    )


def test_the_stopping_loss_falls_when_it_stops_where_nothing_is_to_be_gained() -> None:
    network = LineNetwork(N_FEATURES, 18, channels=4, blocks=1, stops=True)
    found = states()
    found.features[:, 1] = 1  # measurable
    scores = torch.zeros(3, 19)
    right, wrong = scores.clone(), scores.clone()
    right[:, -1] = torch.tensor([-1.0, 1.0, -1.0])
    wrong[:, -1] = torch.tensor([1.0, -1.0, 1.0])
    losses = [stopping_loss(s, found, network) for s in (right, scores, wrong)]
    assert losses[0] < losses[1] < losses[2]


@pytest.mark.parametrize(("price", "stops_at_once"), [(10.0, True), (1e-6, False)])
def test_it_learns_when_to_stop(price: float, stops_at_once: bool) -> None:
    where = place(step_cost=price, stop_action=True)
    made = learner(where, max_steps=60)
    made.learn(60)
    episodes = rollout(where.scan, made.policy(), [scan(i) for i in range(20, 24)])
    n_lines = (episodes.n_acquired[:, -1] - episodes.n_acquired[:, 0]).tolist()
    assert (n_lines == [0] * 4) if stops_at_once else (min(n_lines) >= 3)


def test_a_training_is_resumed_amid_a_round() -> None:
    straight, first, second = (learner() for _ in range(3))
    straight.learn(40)
    first.learn(23)
    second.restore(first.state())
    second.learn(17)
    for name, weight in straight.network.state_dict().items():
        assert torch.equal(weight, second.network.state_dict()[name]), name


def test_it_learns_from_a_file_alone(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    where = place()
    generator = np.random.default_rng(0)
    found = collect(where, 32, n_tried=6, priority=outwards, generator=generator)
    for place_of, name in ((where, "ssim"), (place(reward="delta_psnr"), "psnr")):
        write_demonstrations(tmp_path / name, found, place_of)
    made = learner(where, demonstrations=str(tmp_path / "ssim.parquet"), states=0)
    assert made.demonstrations is not None
    torch.testing.assert_close(made.demonstrations.features, found.features)
    assert made.learn(3)["states"] == len(found)
    with pytest.raises(ValueError, match=r"metric 'psnr'; this training needs 'ssim'"):
        learner(where, demonstrations=str(tmp_path / "psnr.parquet"), states=0)
    with pytest.raises(ValueError, match=r"--learner\.states 0: there is nothing to learn from"):
        Imitation(states=0)


def test_a_loss_that_is_not_finite_ends_it() -> None:
    with pytest.raises(FloatingPointError):
        learner(states=16, rounds=1, lr=1e30).learn(40)
