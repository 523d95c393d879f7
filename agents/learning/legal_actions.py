"""Legal actions where Stable-Baselines3's DQN knows none: in observations, and in networks."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from torch import Tensor
from torch.nn import functional

from activemri.agents.learned import ActionNetwork
from activemri.envs.acquisition import View
from activemri.envs.observation import Frame, Observation

#: Part of an observation: 1 for actions that may be taken.
LEGAL = "legal"
#: The value of actions that may not.
ILLEGAL = -1e10


class WithLegal:
    """Another observation, and `legal` (n_actions,): 1 for actions that may be taken.

    For learners whose networks have nowhere else to take it from, as in Stable-Baselines3's DQN,
    which must leave illegal actions out of its targets.

    Args:
        observation: of several parts.
        n_actions: of the geometry.
        stops: whether one more action, the last, is STOP; it may be taken at any time.
    """

    def __init__(self, observation: Observation, *, n_actions: int, stops: bool) -> None:
        self.observation, self.n_actions, self.stops = observation, n_actions, stops

    def space(self, frame: Frame) -> spaces.Dict:
        inner = self.observation.space(frame)
        if not isinstance(inner, spaces.Dict):
            raise ValueError(f"expected an observation of several parts; got {inner}")
        return spaces.Dict({**inner.spaces, LEGAL: spaces.MultiBinary(self.n_actions + self.stops)})

    def __call__(self, view: View, frame: Frame) -> dict[str, Tensor]:
        seen = self.observation(view, frame)
        assert isinstance(seen, Mapping)
        legal = functional.pad(view.legal, (0, int(self.stops)), value=True)
        return {**seen, LEGAL: legal.to(torch.int8)}


class LegalQNetwork(QNetwork):
    """Values of all actions, those that are illegal far below all others.

    Args:
        network: gives values; observations hold the legal actions as "legal".
        observation_space: of one scan.
        action_space: of one scan.
    """

    def __init__(
        self,
        network: ActionNetwork,
        observation_space: spaces.Space[Any],
        action_space: spaces.Discrete,
    ) -> None:
        extractor = FlattenExtractor(spaces.Box(0, 1, (1,)))  # not used: the network sees it all
        super().__init__(observation_space, action_space, extractor, features_dim=1, net_arch=[])
        self.q_net = network  # type: ignore[assignment]  # a Sequential there

    def forward(self, obs: Any) -> Tensor:
        values: Tensor = self.q_net(obs)
        return values.masked_fill(obs[LEGAL] == 0, ILLEGAL)


class LegalDQNPolicy(DQNPolicy):
    """Two copies of a network, as DQN wants them: one that learns, and one for the targets."""

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Discrete,
        lr_schedule: Schedule,
        *,
        network: ActionNetwork,
        use_sde: bool = False,
    ) -> None:
        del use_sde  # Stable-Baselines3 tells every policy; it is for continuous actions
        self._first = [network]  # in a list, so that it is no part of this module
        super().__init__(observation_space, action_space, lr_schedule)

    def make_q_net(self) -> QNetwork:
        network = copy.deepcopy(self._first[0])
        assert isinstance(self.action_space, spaces.Discrete)
        return LegalQNetwork(network, self.observation_space, self.action_space).to(self.device)
