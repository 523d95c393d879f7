"""Policies by name, by file, and as they are."""

from collections.abc import Callable
from pathlib import Path

import pytest

from activemri.agents import heuristic
from activemri.agents.oracles import ExchangeOracle
from activemri.agents.order import KINDS, Order, fit_order
from activemri.agents.policy import Policy
from activemri.agents.registry import POLICIES, make_policy, needs_fit, traits_of
from activemri.data.slices import Slice
from activemri.envs.scan import Scan


@pytest.fixture
def order(make_scan: Callable[..., Slice], make_protocol: Callable[..., Scan]) -> Order:
    return fit_order("lbcs", make_protocol(), [make_scan(0)], n_lines=2)


def made(name: str, **ingredients: Order) -> Policy:
    return make_policy(name, reconstructor="zero-filled", **ingredients)  # type: ignore[arg-type]


def test_names_are_those_of_the_policies(order: Order) -> None:
    for name in POLICIES:
        if needs_fit(name) in ("", order.kind):
            assert made(name, order=order).name == name


def test_oracles_are_marked(order: Order) -> None:
    marked = {n for n in POLICIES if not needs_fit(n) and made(n).traits.is_oracle}
    assert marked == {"oracle", "screened-oracle", "exchange-oracle"}


def test_only_learned_policies_need_a_fit(order: Order, tmp_path: Path) -> None:
    assert {name for name in POLICIES if needs_fit(name)} == set(KINDS)
    assert not needs_fit(order.save(tmp_path / "order"))
    assert not needs_fit(heuristic.random())


def test_a_file_is_a_policy_named_after_it(order: Order, tmp_path: Path) -> None:
    path = order.save(tmp_path / "my-order")
    for given in (path, str(path)):
        policy = make_policy(given)
        assert (policy.name, policy) == ("my-order", order)


def test_a_name_or_file_is_wrapped_by_what_follows_it(order: Order, tmp_path: Path) -> None:
    path = order.save(tmp_path / "my-order")
    for given, name in ((f"{path}", "my-order"), ("lbcs", "lbcs"), ("equispaced", "equispaced")):
        policy = made(f"{given}+re-acquire", order=order)
        assert isinstance(policy, heuristic.ReAcquiring)
        assert (policy.order.name, policy.name) == (name, f"{name}+re-acquire")
    assert needs_fit("lbcs+re-acquire") == "lbcs"
    assert not needs_fit(f"{path}+re-acquire")
    assert traits_of("lbcs+re-acquire") == heuristic.re_acquire(order).traits


def test_the_wrapper_alone_keeps_its_own_order(order: Order) -> None:
    policy = made("re-acquire", order=order)
    assert isinstance(policy, heuristic.ReAcquiring)
    assert policy.order.name == "low-frequency-first"


def test_a_policy_is_returned_as_it_is() -> None:
    policy = heuristic.equispaced()
    assert make_policy(policy) is policy


@pytest.mark.parametrize(("policy", "lacks"), [(3, "name, traits, act"), (lambda view: 0, "name")])
def test_what_is_no_policy_is_refused_with_what_it_lacks(policy: object, lacks: str) -> None:
    with pytest.raises(ValueError, match=f"policy: expected a name.* has no {lacks}"):
        make_policy(policy)  # type: ignore[arg-type]


def test_the_exchange_oracle_starts_from_the_order(order: Order) -> None:
    assert make_policy("exchange-oracle", metric="mse", order=order) == ExchangeOracle("mse", order)


def test_an_unknown_name_is_answered_with_those_that_exist() -> None:
    with pytest.raises(ValueError, match=r"'rnadom'; choose from random, .*activemri train"):
        make_policy("rnadom")


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.json"):
        make_policy(str(tmp_path / "nothing.json"))


def test_a_learned_policy_without_its_order_says_how_to_get_one(order: Order) -> None:
    with pytest.raises(ValueError, match="activemri train order --kind lbcs"):
        make_policy("lbcs")
    with pytest.raises(
        ValueError, match="'average-oracle' needs an order of that kind; got 'lbcs'"
    ):
        make_policy("average-oracle", order=order)


def test_looking_ahead_needs_the_reconstructor_of_the_scans() -> None:
    with pytest.raises(ValueError, match="give it as reconstructor"):
        make_policy("look-ahead")
