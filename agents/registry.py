"""Policies by name: one line adds one."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

from activemri import checkpoints, plugins
from activemri.agents import heuristic
from activemri.agents.adaptive import (
    entropy_greedy,
    evaluator_greedy,
    look_ahead,
    principal_components,
    uncertainty_gradient,
    uncertainty_greedy,
)
from activemri.agents.networks import load_policy
from activemri.agents.oracles import ExchangeOracle, oracle, screened_oracle
from activemri.agents.order import KINDS, Order, may_repeat
from activemri.agents.policy import Policy, Traits
from activemri.envs.scanner import IDEAL, Scanner
from activemri.evaluator import Evaluator
from activemri.reconstruction.reconstructor import Reconstructor
from activemri.reconstruction.registry import WEIGHTS


def _learned(name: str, order: Order | None) -> Policy:
    if order is None:
        raise ValueError(
            f"policy {name!r} is learned from data: give its order, or the path of a file made "
            f"by 'activemri train order --kind {name}'"
        )
    if order.kind != name:
        raise ValueError(f"policy {name!r} needs an order of that kind; got {order.kind!r}")
    return replace(order, name=name)


#: Functions that make policies. Of the keywords of :func:`make_policy` they get those they name.
POLICIES: dict[str, Callable[..., Policy]] = {
    "random": heuristic.random,
    "low-frequency-first": heuristic.low_frequency_first,
    "high-frequency-first": heuristic.high_frequency_first,
    "equispaced": heuristic.equispaced,
    "variable-density": heuristic.variable_density,
    "conjugate-symmetric": heuristic.conjugate_symmetric,
    "repeat-centre": heuristic.repeat_centre,
    "re-acquire": heuristic.re_acquire,
    **{name: partial(_learned, name) for name in KINDS},
    "uncertainty-greedy": uncertainty_greedy,
    "uncertainty-gradient": uncertainty_gradient,
    "entropy-greedy": entropy_greedy,
    "principal-components": principal_components,
    "evaluator-greedy": evaluator_greedy,
    "look-ahead": look_ahead,
    "oracle": oracle,
    "screened-oracle": screened_oracle,
    "exchange-oracle": ExchangeOracle,
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
        policy = make_policy("runs/order/lbcs.json+re-acquire")
        policy = make_policy("my_package.policies:Mine")

    Args:
        policy: a registered name, the path of a learned policy (a checkpoint, an order's file, or
            the folder of a training), ``package.module:object`` of a policy, its class, or a
            function that makes one, each also with "+re-acquire" after it, which wraps it by
            :func:`activemri.agents.heuristic.re_acquire`; or a policy, which is returned.
        metric: what oracles and look-ahead maximise.
        order: what a learned policy (see :func:`needs_fit`) was fitted to, and where the exchange
            oracle starts.
        evaluator: what `evaluator-greedy` asks; None for the one that comes with the package.
        reconstructor: what the scans are reconstructed with, which `look-ahead` tries actions with.

    Raises:
        ValueError: neither a name nor a file nor a policy, a learned policy without its order, or
            `look-ahead` without a reconstructor.
    """
    if not isinstance(policy, str | Path):
        if lacking := _lacks(policy):
            raise ValueError(
                "policy: expected a name, a path, or an object with name, traits and act (see "
                f"agents/policy.py); {type(policy).__name__} has no {lacking}"
            )
        return policy
    name = str(policy)
    given = dict(metric=metric, order=order, evaluator=evaluator, reconstructor=reconstructor)
    if (inner := without_wrapper(name)) != name:
        return heuristic.re_acquire(make_policy(inner, **given))  # type: ignore[arg-type]
    if name in POLICIES:
        wanted = signature(POLICIES[name]).parameters
        return POLICIES[name](**{part: given[part] for part in given if part in wanted})
    if name in SHIPPED:
        return load_policy(SHIPPED[name], name=name)
    if isinstance(policy, Path) or "/" in name or "\\" in name or name.endswith(".json"):
        path = Path(policy)
        stem = path / "best" if path.is_dir() else checkpoints.without_suffix(path)
        label = stem.name if stem.name != "best" else stem.parent.name
        record = stem.with_name(stem.name + ".json")
        has_weights = stem.with_name(stem.name + ".safetensors").exists()
        if not has_weights and (record.exists() or name.endswith(".json")):
            return Order.load(record, name=label)  # a JSON file alone
        return load_policy(path, name=label)
    found: Any = plugins.find(
        name,
        {**POLICIES, **SHIPPED},
        what="policy",
        more=", or what 'activemri train policy' or 'activemri train order' has made",
    )
    return make_policy(found() if callable(found) and _lacks(found) else found)


def _lacks(found: object) -> str:
    """Parts of a policy that an object does not have; classes lack a state."""
    missing = [part for part in ("name", "traits", "act") if not hasattr(found, part)]
    return ", ".join(missing) or ("state: make one" if isinstance(found, type) else "")


def without_wrapper(name: str | Path) -> str:
    """The name or path of a policy without "+re-acquire" at its end."""
    return str(name).removesuffix(f"+{heuristic.RE_ACQUIRE}")


def needs_fit(policy: str | Path | Policy) -> str:
    """Kind of the order yet to be learned that a name stands for (`order.KINDS`); else empty."""
    kind = without_wrapper(policy) if isinstance(policy, str) else ""
    return kind if kind in KINDS else ""


def traits_of(policy: str | Path | Policy, *, scanner: Scanner = IDEAL) -> Traits:
    """Traits of a policy, also of one whose order is yet to be learned.

    Args:
        policy: as of :func:`make_policy`.
        scanner: of the scans that an order is yet to be learned for.

    Raises:
        ValueError: as :func:`make_policy`.
    """
    kind = needs_fit(policy)
    if kind and policy == kind:
        return Traits(is_order=True, repeats=may_repeat(kind, scanner))
    if kind:
        return heuristic.re_acquire().traits
    return make_policy(policy, reconstructor="zero-filled").traits
