"""Networks of this package inside the policies of sb3-contrib: MaskablePPO and QR-DQN."""

from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn

from activemri.agents.learning.networks import copied
from activemri.agents.line_network import of_actions
from activemri.agents.sb3_policies import ScoringNetwork, actor_critic, build_heads, finite

try:  # the algorithms as well: whoever needs them learns here what is missing
    from sb3_contrib import QRDQN as QRDQN
    from sb3_contrib import MaskablePPO as MaskablePPO
    from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
    from sb3_contrib.qrdqn.policies import QRDQNPolicy, QuantileNetwork
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "maskable-ppo and qrdqn come from sb3-contrib, which is not installed: "
        'pip install "activemri[rl]"',
        name=error.name,
    ) from error


class MaskableScoringActorCritic(MaskableActorCriticPolicy):
    """MaskablePPO's policy: as :class:`activemri.agents.sb3_policies.ScoringActorCritic`.

    Args:
        observation_space: of one scan.
        action_space: of one scan.
        lr_schedule: learning rate by the share of the training that is left.
        network: to begin with.
        **options: of ``MaskableActorCriticPolicy``.
    """

    def __init__(
        self,
        observation_space: spaces.Dict,
        action_space: spaces.Discrete,
        lr_schedule: Schedule,
        *,
        network: ScoringNetwork,
        **options: Any,
    ) -> None:
        super().__init__(
            observation_space, action_space, lr_schedule, **actor_critic(network), **options
        )

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        build_heads(self, lr_schedule)


class ScoringQRDQNPolicy(QRDQNPolicy):
    """QR-DQN's policy: a network's scores are the means of the returns.

    The quantiles around the mean come from one more layer with the same weights for all lines. They
    have mean zero, so that the network alone is the policy.

    Args:
        observation_space: of one scan.
        action_space: of one scan.
        lr_schedule: learning rate by the share of the training that is left.
        network: to begin with.
        **options: of ``QRDQNPolicy``.
    """

    def __init__(
        self,
        observation_space: spaces.Dict,
        action_space: spaces.Discrete,
        lr_schedule: Schedule,
        *,
        network: ScoringNetwork,
        **options: Any,
    ) -> None:
        options.pop("use_sde", None)  # it is for continuous actions
        self._first = (network,)  # in a tuple, so that it is no part of this module
        super().__init__(observation_space, action_space, lr_schedule, **options)

    def make_quantile_net(self) -> QuantileNetwork:
        made = _ScoringQuantiles(
            self._first[0], self.observation_space, self.action_space, self.n_quantiles
        )
        return made.to(self.device)


class _ScoringQuantiles(QuantileNetwork):
    def __init__(
        self,
        network: ScoringNetwork,
        observation_space: spaces.Space[Any],
        action_space: Any,
        n_quantiles: int,
    ) -> None:
        unused = FlattenExtractor(spaces.Box(0, 1, (1,)))  # the network sees the whole observation
        super().__init__(observation_space, action_space, unused, 1, n_quantiles, net_arch=[])
        self.quantile_net = copied(network)  # type: ignore[assignment]  # a Sequential there
        self.around = nn.Conv1d(network.channels, n_quantiles, 1)

    def forward(self, obs: Any) -> Tensor:
        """Quantiles of the returns of all actions: (batch, n_quantiles, n_actions + stops)."""
        network: Any = self.quantile_net
        assert isinstance(network, ScoringNetwork)
        hidden = network.embed(obs)
        around = of_actions(self.around(hidden), network.groups)
        if network.stops:
            overall = self.around(hidden.mean(dim=-1, keepdim=True))
            around = torch.cat([around, overall], dim=-1)
        around = around - around.mean(dim=1, keepdim=True)
        return finite(network.score(hidden, obs)[:, None] + around)
