import json
from pathlib import Path

import pytest

from activemri.agents import heuristic
from activemri.agents.learners.learner import Problem
from activemri.agents.learners.loupe import Loupe, LoupeLearner
from activemri.agents.order import Order
from activemri.agents.registry import make_policy
from tests.agents.learners.problems import CENTER, STRONG, problem


def learner(place: Problem | None = None) -> LoupeLearner:
    return Loupe(max_steps=100, lr=0.3, batch=4).start(problem() if place is None else place)


def test_lines_of_the_start_never_lead_the_order() -> None:
    order = learner(problem(budget=None)).policy()
    assert order.n_learned == 14
    assert set(order.actions[-2:]) == set(CENTER)


def test_an_echo_train_counts_as_one_action() -> None:
    made = learner(problem(budget=3, lines_per_action=2))
    made.learn(60)
    order = made.policy()
    assert {line // 2 for line in STRONG} == {order.actions[0]}
    assert (order.kind, order.n_scans, order.n_learned, order.lines_per_action) == (
        "loupe",
        6,
        1,
        2,
    )
    with pytest.raises(ValueError, match="got the policy 'random'"):
        learner(problem(warm_start=heuristic.random()))


def test_its_order_is_read_wherever_a_policy_is_named(tmp_path: Path) -> None:
    policy = learner().policy()
    policy.save(tmp_path / "best", info={"command": "activemri train policy"})
    for name in (tmp_path, tmp_path / "best.json"):
        loaded = make_policy(name)
        assert isinstance(loaded, Order)
        assert loaded == policy
        assert loaded.name == tmp_path.name
        assert loaded.info == {"command": "activemri train policy"}
    record = json.loads((tmp_path / "best.json").read_text())
    del record["info"]  # as orders were written before they had one
    (tmp_path / "best.json").write_text(json.dumps(record))
    assert Order.load(tmp_path / "best.json") == policy
