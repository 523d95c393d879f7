import json
from pathlib import Path

import pytest
import torch

from activemri.agents import heuristic
from activemri.agents.learning.learner import DivergedError
from activemri.agents.learning.loupe import Loupe, LoupeSettings
from activemri.agents.order import FixedOrder, Order
from activemri.agents.registry import make_policy
from tests.agents.learning.toy import CENTER, STRONG, workplace

FAST = LoupeSettings(lr=0.3, batch=4)


def test_it_finds_the_lines_that_hold_the_energy() -> None:
    learner = Loupe(workplace(), FAST)
    before = learner.policy().order
    assert set(before.actions[:2]) != set(STRONG)
    learner.learn(60)
    order = learner.policy().order
    assert set(order.actions[:2]) == set(STRONG)
    assert (order.kind, order.n_learned, order.n_scans) == ("loupe", 2, 6)


def test_lines_of_the_start_never_lead_the_order() -> None:
    order = Loupe(workplace(budget=None), FAST).policy().order
    assert order.n_learned == 14
    assert set(order.actions[-2:]) == set(CENTER)


def test_an_echo_train_counts_as_one_action() -> None:
    place = workplace(budget=3, lines_per_action=2)
    learner = Loupe(place, FAST)
    learner.learn(60)
    order = learner.policy().order
    assert {line // 2 for line in STRONG} == {order.actions[0]}
    assert (order.n_learned, order.lines_per_action) == (1, 2)


def test_it_begins_with_an_order() -> None:
    learned = Loupe(workplace(), FAST)
    learned.learn(20)
    policy = learned.policy()
    again = Loupe(workplace(warm_start=policy), FAST)
    assert again.policy().order.actions == policy.order.actions
    with pytest.raises(ValueError, match="got the policy 'random'"):
        Loupe(workplace(warm_start=heuristic.random()), FAST)


def test_a_resumed_training_ends_as_an_uninterrupted_one() -> None:
    whole, first, second = (Loupe(workplace(), FAST) for _ in range(3))
    log = whole.learn(6)
    first.learn(4)
    second.restore(first.state())
    assert second.step == 4
    second.learn(2)
    assert torch.equal(second.scores, whole.scores)
    assert set(log) == {"loss"}


def test_scores_that_are_no_numbers_stop_it() -> None:
    learner = Loupe(workplace(), FAST)
    with torch.no_grad():
        learner.scores.fill_(torch.nan)
    with pytest.raises(DivergedError, match="not a finite number"):
        learner.learn(1)


def test_its_order_is_read_wherever_a_policy_is_named(tmp_path: Path) -> None:
    policy = Loupe(workplace(), FAST).policy()
    policy.save(tmp_path / "best", info={"command": "activemri train policy"})
    for name in (tmp_path, tmp_path / "best.json"):
        loaded = make_policy(name)
        assert isinstance(loaded, FixedOrder)
        assert loaded.order == policy.order
        assert loaded.name == tmp_path.name
        assert loaded.order.info == {"command": "activemri train policy"}


def test_an_order_written_before_orders_had_info_is_read(tmp_path: Path) -> None:
    order = Loupe(workplace(), FAST).policy().order
    path = order.save(tmp_path / "old")
    record = json.loads(path.read_text())
    del record["info"]
    path.write_text(json.dumps(record))
    assert Order.load(path) == order
