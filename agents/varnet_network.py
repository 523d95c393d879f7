"""The convolutional network of adaptive VarNet's policy, on complex images."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from activemri.agents.learned import ActionNetwork, Observations


class VarNetNetwork(ActionNetwork):
    """Convolutions and pooling over the image, then layers that give every line a score.

    ``fastmri.models.policy.LineConvSampler`` of Bakker et al., On learning adaptive acquisition
    policies for undersampled multi-coil MRI reconstruction, MIDL 2022: blocks of convolution,
    instance normalisation, ReLU and pooling that double the channels, and fully connected layers.
    Ours differs: its heat map is taken before it is squashed and rescaled, as
    :mod:`activemri.agents.learning.exact_k` does both. The network sees real and imaginary part of
    the current reconstruction, and neither mask nor budget, as in the paper.

    Args:
        shape: height and width of the frame.
        along_height: lines are rows; else columns.
        groups: lines of each action; None where action i acquires line i.
        channels: of the first block.
        pools: how often the image is halved; at least two pixels must be left.
        hidden: width of the fully connected layers.
    """

    kind = "varnet"
    observation = "complex"
    stops = False

    def __init__(
        self,
        shape: Sequence[int],
        *,
        along_height: bool = False,
        groups: Sequence[Sequence[int]] | None = None,
        channels: int = 16,
        pools: int = 4,
        hidden: int = 256,
    ) -> None:
        super().__init__()
        from fastmri.models.policy import LineConvSampler  # here: it takes a second to import

        height, width = shape
        if min(height, width) < 2 ** (pools + 1):
            raise ValueError(
                f"{pools} poolings need images of at least {2 ** (pools + 1)} pixels a side; got "
                f"{height} x {width}"
            )
        self.shape, self.along_height = (height, width), along_height
        self.groups = None if groups is None else [list(group) for group in groups]
        self.channels, self.pools, self.hidden = channels, pools, hidden
        size = (2, width, height) if along_height else (2, height, width)
        sampler = LineConvSampler(size, chans=channels, num_pool_layers=pools, fc_size=hidden)
        # These two are all that its heat map needs; the sampler holds the first one's parts twice.
        self.features: nn.Module = sampler.feature_extractor
        self.head: nn.Module = sampler.fc_out
        self.n_actions = size[-1] if groups is None else len(groups)

    @property
    def settings(self) -> dict[str, object]:
        return {
            "shape": list(self.shape),
            "along_height": self.along_height,
            "groups": self.groups,
            "channels": self.channels,
            "pools": self.pools,
            "hidden": self.hidden,
        }

    def forward(self, observation: Observations) -> Tensor:
        image = observation["image"].float()
        if self.along_height:
            image = image.transpose(-2, -1)
        scores: Tensor = self.head(self.features(image).flatten(1))
        if self.groups is None:
            return scores
        return scores[:, torch.tensor(self.groups, device=scores.device)].mean(dim=-1)


def most_pools(shape: Sequence[int], *, wanted: int = 4) -> int:
    """Poolings that images of a size allow, up to those of the paper."""
    return max(1, min(wanted, min(shape).bit_length() - 2))
