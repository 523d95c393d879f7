"""The network of the diffusion model: what is left of an image if its noise is taken away."""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional

from activemri.reconstruction.cresnet import MaskEmbedding
from activemri.reconstruction.image_channels import pad_to_multiple

_FOLD = 2  # pixels of 2 x 2 become channels: a quarter of the work at full resolution
_GROUPS = 8  # of the normalisation
_FREQUENCIES = 8  # that a noise level is described with


class Denoiser(nn.Module):
    """A small U-Net, told the noise level and, if wanted, which lines have been acquired.

    Three levels with one residual block each on the way down and up, at a half, a fourth and an
    eighth of the resolution. Noise level and mask set scale and shift of every block (FiLM).

    Args:
        n_inputs: channels of the images that go in; two come out.
        width: channels of the first level, a multiple of 8; twice and three times that follow.
        mask_features: numbers that describe the mask; 0 tells nothing of it.
    """

    def __init__(self, n_inputs: int, width: int, *, mask_features: int) -> None:
        super().__init__()
        widths = [width, 2 * width, 3 * width]
        self.mask = MaskEmbedding(mask_features)
        self.condition = nn.Sequential(
            nn.Linear(2 * _FREQUENCIES + mask_features, 2 * width),
            nn.SiLU(),
            nn.Linear(2 * width, 2 * width),
            nn.SiLU(),
        )
        self.stem = nn.Conv2d(n_inputs * _FOLD**2, width, 3, padding=1)
        self.down = nn.ModuleList(_Block(w, w, n_conditions=2 * width) for w in widths)
        self.shrink = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in itertools.pairwise(widths)
        )
        self.middle = _Block(widths[-1], widths[-1], n_conditions=2 * width)
        self.grow = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in itertools.pairwise(widths))
        self.up = nn.ModuleList(_Block(2 * w, w, n_conditions=2 * width) for w in widths)
        self.head = nn.Sequential(
            nn.GroupNorm(_GROUPS, width),
            nn.SiLU(),
            _zero(nn.Conv2d(width, 2 * _FOLD**2, 3, padding=1)),
        )

    def forward(self, channels: Tensor, level: Tensor, mask: Tensor) -> Tensor:
        """Answer to noisy images.

        Args:
            channels: (batch, n_inputs, height, width), of any size.
            level: logarithm of the noise's standard deviation, (batch,).
            mask: bool (batch, height or 1, width or 1).

        Returns:
            (batch, 2, height, width).
        """
        condition = self._condition(level, mask)
        padded, (rows, columns) = pad_to_multiple(channels, _FOLD * 4)
        features = self.stem(functional.pixel_unshuffle(padded, _FOLD))
        kept = []
        for number, block in enumerate(self.down):
            features = block(features, condition)
            kept.append(features)
            if number < len(self.shrink):
                features = self.shrink[number](features)
        features = self.middle(features, condition)
        for number in reversed(range(len(self.up))):
            features = self.up[number](torch.cat([features, kept[number]], dim=1), condition)
            if number:
                features = functional.interpolate(self.grow[number - 1](features), scale_factor=2.0)
        answer = functional.pixel_shuffle(self.head(features), _FOLD)
        return answer[..., rows, columns]

    def _condition(self, level: Tensor, mask: Tensor) -> Tensor:
        octave = 2.0 ** torch.arange(-2, _FREQUENCIES - 2, device=level.device)
        angle = level[:, None] * octave / 2
        described = [angle.sin(), angle.cos(), self.mask(mask).flatten(1)]
        condition: Tensor = self.condition(torch.cat(described, dim=1))
        return condition


class _Block(nn.Module):
    """x + conv(SiLU(norm(FiLM(conv(SiLU(norm x)))))), the way past it a 1 x 1 convolution."""

    def __init__(self, n_inputs: int, width: int, *, n_conditions: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.GroupNorm(_GROUPS, n_inputs), nn.SiLU(), nn.Conv2d(n_inputs, width, 3, padding=1)
        )
        self.film = nn.Linear(n_conditions, 2 * width)
        self.norm = nn.GroupNorm(_GROUPS, width)
        self.second = _zero(nn.Conv2d(width, width, 3, padding=1))
        self.past = nn.Identity() if n_inputs == width else nn.Conv2d(n_inputs, width, 1)

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.film(condition)[:, :, None, None].chunk(2, dim=1)
        changed = self.norm(self.first(features)) * (1 + scale) + shift
        result: Tensor = self.past(features) + self.second(functional.silu(changed))
        return result


def _zero(layer: nn.Conv2d) -> nn.Conv2d:
    """Starts as nothing, so that an untrained block changes nothing."""
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer
