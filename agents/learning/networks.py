"""The network that a training begins with, and the policy that it becomes."""

from collections.abc import Callable

import torch
from torch import Tensor

from activemri.agents.evaluator_network import EvaluatorNetwork, most_layers
from activemri.agents.learned import ActionNetwork, LearnedPolicy, network_class
from activemri.agents.learning.learner import Workplace
from activemri.agents.line_network import LineNetwork
from activemri.agents.schedule_network import ScheduleNetwork
from activemri.construction import seeded
from activemri.envs.line_features import N_FEATURES

_LIMIT = 4.0


def first_network(
    workplace: Workplace, kind: str, *, channels: int, blocks: int, stops: bool
) -> ActionNetwork:
    """A copy of the warm start's network, or a new one of that kind.

    Args:
        workplace: what is learned with.
        kind: of a new network: "lines", "varnet", "evaluator" or "schedule".
        channels: of a new network of lines; of an evaluator's first layer; of a schedule's layers.
        blocks: of a new network of lines.
        stops: whether STOP shall be scored as well.

    Raises:
        ValueError: an unknown kind, or a warm start that does not fit.
    """
    if workplace.warm_start is not None:
        made = copied(_given(workplace, stops))
    else:
        made = seeded(_maker(workplace, kind, channels, blocks, stops), workplace.seed)
    return made.to(workplace.acquisition.device)


def policy_of(network: ActionNetwork, workplace: Workplace) -> LearnedPolicy:
    """The network as it stands, as a policy; learning on does not change it."""
    copy = copied(network).eval().requires_grad_(False)
    return LearnedPolicy(copy, workplace.name, workplace.frame)


def bounded(scores: Tensor) -> Tensor:
    """Scores to draw by, between -4 and 4, in the same order.

    So no action is ever out of the question: all go on to be tried now and then, and a policy that
    has become sure of itself too early can still be put right.
    """
    return _LIMIT * torch.tanh(scores / _LIMIT)


def copied(network: ActionNetwork) -> ActionNetwork:
    """Another network with the same weights, ready to learn."""
    copy = network_class(network.kind)(**network.settings)
    copy.load_state_dict(network.state_dict())
    device = next(network.parameters()).device
    return copy.to(device).train().requires_grad_(True)


def _given(workplace: Workplace, stops: bool) -> ActionNetwork:
    """The warm start's network."""
    given, n_actions = workplace.warm_start, workplace.acquisition.geometry.n_actions
    if not isinstance(given, LearnedPolicy):
        name = None if given is None else given.name
        raise ValueError(
            f"--warm-start: expected a policy with a network, as 'activemri train policy' makes; "
            f"got {name!r}"
        )
    network = given.network
    if network.n_actions != n_actions:
        raise ValueError(
            f"--warm-start: the network scores {network.n_actions} actions; these scans have "
            f"{n_actions}"
        )
    if stops != network.stops:
        raise ValueError(
            "--warm-start: the policy that is to be learned "
            + ("may stop, and the network never does" if stops else "never stops, the network may")
            + "; begin with one that was trained in the same way"
        )
    return network


def _maker(
    workplace: Workplace, kind: str, channels: int, blocks: int, stops: bool
) -> Callable[[], ActionNetwork]:
    """What makes a new network."""
    geometry = workplace.acquisition.geometry
    groups = None if geometry.groups.shape[1] == 1 else geometry.groups.tolist()
    if kind == "lines":
        return lambda: LineNetwork(
            N_FEATURES,
            geometry.n_lines,
            groups=groups,
            channels=channels,
            blocks=blocks,
            stops=stops,
        )
    if kind == "schedule":
        budget = workplace.acquisition.budget or geometry.n_lines
        return lambda: ScheduleNetwork(geometry.n_actions, budget, hidden=channels, stops=stops)
    if kind not in ("varnet", "evaluator"):
        raise ValueError(
            f"--learner network={kind}: expected one of lines, varnet, evaluator, schedule"
        )
    if stops or geometry.selected == (True, True):
        raise ValueError(
            f"--learner network={kind}: it scores columns or rows, and cannot stop; choose another "
            "network, or an environment without STOP"
        )
    if kind == "evaluator":
        return lambda: EvaluatorNetwork(
            geometry.n_lines,
            along_height=geometry.selected[0],
            groups=groups,
            channels=channels,
            layers=most_layers(geometry.n_lines),
        )
    from activemri.agents.varnet_network import VarNetNetwork, most_pools

    return lambda: VarNetNetwork(
        geometry.shape,
        along_height=geometry.selected[0],
        groups=groups,
        pools=most_pools(geometry.shape),
    )
