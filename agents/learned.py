"""Policies that are networks: from an observation to a score for every action."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from activemri import checkpoints
from activemri.agents.networks import NETWORKS, ActionNetwork, Observations
from activemri.agents.policy import Traits, choose
from activemri.checkpoints import Checkpoint, CheckpointError
from activemri.envs.observation import Frame, make_observation
from activemri.envs.scan import STOP, View

_KIND = "policy/"


@dataclass(frozen=True, eq=False)
class LearnedPolicy:
    """Takes the legal action that a network scores highest.

    Attributes:
        network: scores actions.
        name: as in tables.
        frame: sizes that the network was made for.
    """

    network: ActionNetwork
    name: str
    frame: Frame

    @property
    def traits(self) -> Traits:
        """An order if all that the network sees is the mask, whose course does not vary."""
        repeats = self.frame.repeats > 1
        return Traits(
            is_order=self.network.observation == "mask" and not repeats,
            repeats=repeats,
            needs=self.network.needs,
        )

    def act(self, view: View, generators: Sequence[np.random.Generator]) -> Tensor:
        """See :class:`activemri.agents.policy.Policy`.

        Raises:
            ValueError: if it was trained for another number of actions.
        """
        scores = self.scores(view)
        n_actions = self.network.n_actions
        actions = choose(scores[:, :n_actions], view.legal)
        if not self.network.stops:
            return actions
        best = scores[:, :n_actions].masked_fill(~view.legal, -torch.inf).amax(dim=1)
        return torch.where(scores[:, n_actions] > best, STOP, actions)

    def scores(self, view: View) -> Tensor:
        """Scores of every action by the network: float (batch, n_actions + stops)."""
        self.check(view)
        network = self.network
        was_training = network.training
        network.eval()
        with torch.no_grad():
            scores: Tensor = network(observed(network, view, self.frame))
        network.train(was_training)
        return scores

    def check(self, view: View) -> None:
        """Refuse scans with other actions than those that were learned."""
        if view.geometry.n_actions != self.network.n_actions:
            raise ValueError(
                f"policy {self.name!r} was trained for {self.network.n_actions} actions; these "
                f"scans have {view.geometry.n_actions} (geometry {view.geometry.name!r}): bring "
                "them to the size that it was trained for, e.g. with --matrix, or train another"
            )

    def save(self, path: str | Path, *, info: Mapping[str, object]) -> Path:
        """Write weights and settings; the path without suffix. See :func:`load_policy`."""
        return checkpoints.save(
            path,
            kind=_KIND + self.network.kind,
            settings={
                "network": self.network.settings,
                "frame": asdict(self.frame),
                "name": self.name,
            },
            state_dict=self.network.state_dict(),
            info=info,
        )


def observed(network: ActionNetwork, view: View, frame: Frame) -> Observations:
    """The observation of scans that a network takes."""
    seen = make_observation(network.observation)(view, frame)
    return seen if isinstance(seen, Mapping) else {"observation": seen}


def load_policy(path: str | Path, *, name: str | None = None) -> LearnedPolicy:
    """The policy of a checkpoint.

    Args:
        path: what :meth:`LearnedPolicy.save` wrote; see :func:`activemri.checkpoints.load`.
        name: as in tables; None keeps the name it was saved with.

    Raises:
        CheckpointError: missing, damaged, or not a policy.
        ModuleNotFoundError: the network needs an extra that is not installed.
    """
    return policy_from(checkpoints.load(path), name=name)


def policy_from(checkpoint: Checkpoint, *, name: str | None = None) -> LearnedPolicy:
    """The policy that a checkpoint describes."""
    kind = checkpoint.kind.removeprefix(_KIND)
    if not checkpoint.kind.startswith(_KIND) or kind not in NETWORKS:
        raise CheckpointError(
            f"{checkpoint.path} holds a {checkpoint.kind!r}, which is no policy; expected one made "
            "by 'activemri train policy'"
        )
    try:
        settings: dict[str, Any] = dict(checkpoint.settings)
        network = NETWORKS[kind](**settings["network"])
        frame = _frame(settings["frame"])
        stored = str(settings["name"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"the settings in {checkpoint.path}.json do not make a policy: {error}"
        ) from error
    checkpoint.fill(network)
    return LearnedPolicy(network.eval().requires_grad_(False), name or stored, frame)


def _frame(values: Mapping[str, Any]) -> Frame:
    sizes: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return Frame(**sizes)
