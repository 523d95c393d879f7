"""Networks of this package inside the policies of Stable-Baselines3.

Every policy that learns here is an :class:`activemri.agents.learned.ActionNetwork`, which scores
every line with the same weights. Stable-Baselines3 only trains it: a network learned by imitation
can be its start, and what it has trained is saved without it. For its own policies there is
:class:`NetworkFeatures`:

    PPO("MultiInputPolicy", env, policy_kwargs={"features_extractor_class": NetworkFeatures})
"""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from torch import Tensor, nn

from activemri.agents.image_network import ImageNetwork
from activemri.agents.learned import Observations
from activemri.agents.learning.learner import DivergedError
from activemri.agents.learning.networks import copied
from activemri.agents.line_network import LineNetwork

#: Networks that know something of every line, and make scores of it.
ScoringNetwork = LineNetwork | ImageNetwork

_CRITIC_WIDTH = 64


class NetworkFeatures(BaseFeaturesExtractor):
    """Features of a scan: scores of all actions, and what is known of all lines together.

    For observations "lines", and for images with or without uncertainty; mask and budget are part
    of both. The last ``2 * network.channels`` features are mean and maximum over lines.

    Args:
        observation_space: of one scan.
        network: to begin with; a copy of it learns. None makes a new one that fits.
    """

    def __init__(
        self, observation_space: spaces.Dict, network: ScoringNetwork | None = None
    ) -> None:
        made = new_network(observation_space) if network is None else copied(network)
        assert isinstance(made, ScoringNetwork)
        n_scores = made.n_actions + made.stops
        super().__init__(observation_space, n_scores + 2 * made.channels)
        self.network = made

    def forward(self, observations: Observations) -> Tensor:
        hidden = self.network.embed(observations)
        scores = self.network.score(hidden, observations)
        return torch.cat([scores, hidden.mean(dim=-1), hidden.amax(dim=-1)], dim=1)


def new_network(observation_space: spaces.Dict) -> ScoringNetwork:
    """A network of the default size for what is observed.

    Raises:
        ValueError: neither features of lines nor an image.
    """
    parts = observation_space.spaces
    n_lines = int(np.prod(parts["mask"].shape or ())) if "mask" in parts else 0
    if n_lines and "lines" in parts:
        return LineNetwork((parts["lines"].shape or ())[0], n_lines, channels=32, blocks=2)
    if n_lines and "image" in parts:
        return ImageNetwork(parts["image"].shape or (), n_lines, repeats="repeats" in parts)
    raise ValueError(
        'expected an observation with "mask", and "lines" or "image"; got one with '
        + ", ".join(parts)
    )


class ScoringActorCritic(ActorCriticPolicy):
    """PPO's policy: a network's scores are the logits; another one like it gives the value.

    Args:
        observation_space: of one scan.
        action_space: of one scan.
        lr_schedule: learning rate by the share of the training that is left.
        network: to begin with.
        **options: of ``ActorCriticPolicy``.
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


def actor_critic(network: ScoringNetwork) -> dict[str, Any]:
    """What makes an actor-critic policy use a network, with :func:`build_heads`."""
    return {
        "net_arch": {"pi": [], "vf": []},
        "features_extractor_class": NetworkFeatures,
        "features_extractor_kwargs": {"network": network},
        # The value's gradients are larger than the actor's and would spoil a warm start.
        "share_features_extractor": False,
        "ortho_init": False,  # it would forget the network's weights
    }


def build_heads(policy: Any, lr_schedule: Schedule) -> None:
    """Take logits from the features of the actor as they are; the value from those of lines."""
    network = policy.features_extractor.network
    n_scores = network.n_actions + network.stops
    policy.action_net = _Part(0, n_scores)
    policy.value_net = nn.Sequential(
        _Part(n_scores, policy.features_dim),
        nn.Linear(2 * network.channels, _CRITIC_WIDTH),
        nn.SiLU(),
        nn.Linear(_CRITIC_WIDTH, 1),
    )
    learned = [weight for weight in policy.parameters() if weight.requires_grad]
    policy.optimizer = policy.optimizer_class(learned, lr=lr_schedule(1), **policy.optimizer_kwargs)


class ScoringDQNPolicy(DQNPolicy):
    """DQN's policy: a network's scores are the values.

    Args:
        observation_space: of one scan.
        action_space: of one scan.
        lr_schedule: learning rate by the share of the training that is left.
        network: to begin with.
        **options: of ``DQNPolicy``.
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

    def make_q_net(self) -> QNetwork:
        assert isinstance(self.action_space, spaces.Discrete)
        made = _ScoringQNetwork(self._first[0], self.observation_space, self.action_space)
        return made.to(self.device)


class _ScoringQNetwork(QNetwork):
    def __init__(
        self,
        network: ScoringNetwork,
        observation_space: spaces.Space[Any],
        action_space: spaces.Discrete,
    ) -> None:
        unused = FlattenExtractor(spaces.Box(0, 1, (1,)))  # the network sees the whole observation
        super().__init__(observation_space, action_space, unused, features_dim=1, net_arch=[])
        self.q_net = copied(network)  # type: ignore[assignment]  # a Sequential there

    def forward(self, obs: Any) -> Tensor:
        return finite(self.q_net(obs))


class _Part(nn.Module):
    """Some of the features as they are."""

    def __init__(self, first: int, end: int) -> None:
        super().__init__()
        self.first, self.end = first, end

    def forward(self, features: Tensor) -> Tensor:
        return finite(features[:, self.first : self.end])


def finite(values: Tensor) -> Tensor:
    """The same values.

    Raises:
        DivergedError: if one of them is no finite number.
    """
    if not bool(torch.isfinite(values).all()):
        raise DivergedError("the network gives values that are not finite numbers")
    return values
