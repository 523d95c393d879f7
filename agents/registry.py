"""Policies by name: one line adds one."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from activemri import checkpoints, plugins
from activemri.agents import heuristic
from activemri.agents.adaptive import evaluator_greedy, uncertainty_greedy
from activemri.agents.entropy import entropy_greedy
from activemri.agents.exchange import ExchangeOracle
from activemri.agents.fixed import LEARNERS
from activemri.agents.greedy import oracle
from activemri.agents.learned import load_policy
from activemri.agents.lookahead import LookAhead
from activemri.agents.order import FixedOrder, Order
from activemri.agents.policy import Policy, Traits
from activemri.evaluator import Evaluator, make_evaluator
from activemri.reconstruction.reconstructor import Reconstructor
from activemri.reconstruction.registry import WEIGHTS, make_reconstructor


@dataclass(frozen=True)
class PolicyContext:
    """Parts that policies may be made with.

    Attributes:
        metric: what oracles and look-ahead maximise.
        order: a learned order; learned policies need one, the exchange oracle starts from it.
        evaluator: for policies that ask one; None for the one that comes with the package.
        reconstructor: that of the scans; look-ahead needs it.
    """

    metric: str = "ssim"
    order: Order | None = None
    evaluator: str | Path | Evaluator | None = None
    reconstructor: str | Path | Reconstructor | None = None


POLICIES: dict[str, Callable[[PolicyContext], Policy]] = {
    "random": lambda given: heuristic.random(),
    "low-frequency-first": lambda given: heuristic.low_frequency_first(),
    "high-frequency-first": lambda given: heuristic.high_frequency_first(),
    "equispaced": lambda given: heuristic.equispaced(),
    "variable-density": lambda given: heuristic.variable_density(),
    "conjugate-symmetric": lambda given: heuristic.conjugate_symmetric(),
    "repeat-centre": lambda given: heuristic.repeat_centre(),
    "re-acquire": lambda given: heuristic.re_acquire(),
    "lbcs": lambda given: _learned("lbcs", given),
    "average-oracle": lambda given: _learned("average-oracle", given),
    "uncertainty-greedy": lambda given: uncertainty_greedy(),
    "entropy-greedy": lambda given: entropy_greedy(),
    "evaluator-greedy": lambda given: evaluator_greedy(make_evaluator(given.evaluator)),
    "look-ahead": lambda given: _look_ahead(given),
    "oracle": lambda given: oracle(given.metric),
    "exchange-oracle": lambda given: ExchangeOracle(given.metric, given.order),
}


#: Policies that come with the package, trained on phantoms; they take scans of 128 columns.
SHIPPED: dict[str, Path] = {"imitation": WEIGHTS / "policy"}


def make_policy(
    policy: str | Path | Policy,
    *,
    metric: str = "ssim",
    order: Order | None = None,
    evaluator: str | Path | Evaluator | None = None,
    reconstructor: str | Path | Reconstructor | None = None,
) -> Policy:
    """A policy ready for use.

    ::

        policy = make_policy("low-frequency-first")
        policy = make_policy("my_package.policies:Mine")

    Args:
        policy: a registered name, the path of a learned policy (a checkpoint, an order's file, or
            the folder of a training), ``package.module:object`` of a policy, its class, or a
            function that makes one; or a policy, which is returned.
        metric: what oracles and look-ahead maximise.
        order: what a learned policy (see :func:`needs_fit`) was fitted to, and where the exchange
            oracle starts.
        evaluator: what `evaluator-greedy` asks: a checkpoint's path, an evaluator, or None for the
            one that comes with the package.
        reconstructor: what the scans are reconstructed with, which `look-ahead` tries actions with.

    Raises:
        ValueError: neither a name nor a file nor a policy, a learned policy without its order, or
            `look-ahead` without a reconstructor.
    """
    if not isinstance(policy, str | Path):
        if not _is_policy(policy):
            lacking = ", ".join(part for part in _PARTS if not hasattr(policy, part))
            raise ValueError(
                "policy: expected a name, a path, or an object with name, traits and act (see "
                f"agents/policy.py); {type(policy).__name__} has no {lacking or 'state: make one'}"
            )
        return policy
    if str(policy) in POLICIES:
        return POLICIES[str(policy)](PolicyContext(metric, order, evaluator, reconstructor))
    if str(policy) in SHIPPED:
        return load_policy(SHIPPED[str(policy)], name=str(policy))
    if _looks_like_path(policy):
        return _from_file(policy)
    found = plugins.find(
        str(policy),
        {**POLICIES, **SHIPPED},
        what="policy",
        more=", or what 'activemri train policy' or 'activemri train order' has made",
    )
    own: Any = found() if callable(found) and not _is_policy(found) else found
    return make_policy(own)


_PARTS = ("name", "traits", "act")


def _is_policy(found: object) -> bool:
    """Whether an object (not a class) has what every policy has."""
    return not isinstance(found, type) and all(hasattr(found, part) for part in _PARTS)


def needs_fit(policy: str | Path | Policy) -> bool:
    """Whether it is a name that stands for an order yet to be learned; see `fixed.LEARNERS`."""
    return isinstance(policy, str) and policy in LEARNERS


def traits_of(policy: str | Path | Policy) -> Traits:
    """Traits of a policy, also of one whose order is yet to be learned.

    Raises:
        ValueError: as :func:`make_policy`.
    """
    if needs_fit(policy):
        return FixedOrder.traits
    return make_policy(policy, reconstructor="zero-filled").traits


def _learned(name: str, given: PolicyContext) -> Policy:
    if given.order is None:
        raise ValueError(
            f"policy {name!r} is learned from data: give its order, or the path of a file made by "
            f"'activemri train order --kind {name}'"
        )
    if given.order.kind != name:
        raise ValueError(f"policy {name!r} needs an order of that kind; got {given.order.kind!r}")
    return FixedOrder(given.order, name)


def _look_ahead(given: PolicyContext) -> Policy:
    if given.reconstructor is None:
        raise ValueError(
            "policy 'look-ahead' tries actions with the reconstructor of the scans: give it as "
            "reconstructor"
        )
    return LookAhead(make_reconstructor(given.reconstructor), metric=given.metric)


def _from_file(path: str | Path) -> Policy:
    """A learned policy: weights in a checkpoint, or an order, which is a JSON file alone."""
    stem = checkpoints.without_suffix(path)
    if Path(path).is_dir():
        name, stem = Path(path).name, Path(path) / "best"
    else:
        name = stem.name if stem.name != "best" else stem.parent.name
    is_order = not stem.with_name(stem.name + ".safetensors").exists()
    if is_order and (stem.with_name(stem.name + ".json").exists() or str(path).endswith(".json")):
        return FixedOrder(Order.load(stem.with_name(stem.name + ".json")), name=name)
    return load_policy(path, name=name)


def _looks_like_path(name: str | Path) -> bool:
    text = str(name)
    return isinstance(name, Path) or "/" in text or "\\" in text or text.endswith(".json")
