"""The network of the time alone: it counts lines, and sees nothing else."""

from pathlib import Path

import torch

from activemri.agents.learned import LearnedPolicy, load_policy
from activemri.agents.rollout import rollout
from activemri.agents.schedule_network import ScheduleNetwork
from activemri.data.slices import SliceList
from tests.agents.learning.told_apart import workplace
from tests.envs.scans import scan


def network(*, stops: bool = False) -> ScheduleNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ScheduleNetwork(7, 4, hidden=5, stops=stops)


def scores(made: ScheduleNetwork, left: list[float], *, mask: int = 0) -> torch.Tensor:
    given: torch.Tensor = made(
        {
            "mask": torch.full((len(left), 7), mask, dtype=torch.int8),
            "budget": torch.tensor(left)[:, None],
        }
    )
    return given


def test_scores_depend_on_how_many_lines_were_acquired_and_on_nothing_else() -> None:
    made, left = network(), [4 / 4, 3 / 4, 2 / 4, 1 / 4, 0.0]
    given = scores(made, left)
    assert given.shape == (5, 7)
    assert torch.equal(given, scores(made, left, mask=1))
    one_hot = torch.eye(5)  # row i says: i lines were acquired
    torch.testing.assert_close(given, made.network(one_hot))
    assert len(given.unique(dim=0)) == 5


def test_rounded_fractions_are_counted_right_for_any_budget() -> None:
    for budget in (3, 7, 24, 98):
        made = ScheduleNetwork(2, budget)
        first = torch.nn.Linear(budget + 1, 1, bias=False)
        first.weight.data = torch.arange(budget + 1.0)[None]
        made.network = torch.nn.Sequential(first)
        left = (torch.arange(budget, -1, -1) / budget).float()[:, None]
        counted = made({"budget": left}).squeeze(1)
        assert counted.tolist() == list(range(budget + 1))


def test_stop_is_one_more_score() -> None:
    assert scores(network(stops=True), [1.0]).shape == (1, 8)


def test_all_scans_are_acquired_in_one_order_also_after_saving(tmp_path: Path) -> None:
    scans = SliceList([scan(i, shape=(8, 7)) for i in range(4)])
    place = workplace(scans, budget=4)
    policy = LearnedPolicy(network(), "order", place.frame)
    loaded = load_policy(policy.save(tmp_path / "order", info={}))
    assert isinstance(loaded.network, ScheduleNetwork)
    for one in (policy, loaded):
        actions = rollout(place.acquisition, one, scans.slices).actions
        assert actions.unique(dim=0).shape == (1, 4)
        assert len(set(actions[0].tolist())) == 4
