"""Between complex images of any size and the real channels of networks; layers for these."""

from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

_IMAGE = (-2, -1)  # (height, width)

Layer = TypeVar("Layer", bound=nn.Module)


def scale_and_phase(image: Tensor) -> tuple[Tensor, Tensor]:
    """Root mean square and mean phase (bright pixels count most), (batch, 1, 1) each."""
    magnitude = image.abs()
    scale = magnitude.square().mean(dim=_IMAGE, keepdim=True).sqrt()
    phase = torch.sgn((image * magnitude).sum(dim=_IMAGE, keepdim=True))
    return scale, torch.where(phase == 0, torch.ones_like(phase), phase)


def normalised(image: Tensor, scale: Tensor, phase: Tensor) -> Tensor:
    """The image in units of its scale and phase; a black image stays black."""
    return image * phase.conj() / scale.clamp(min=torch.finfo(scale.dtype).tiny)


def to_channels(image: Tensor) -> Tensor:
    """Complex (batch, height, width) to real (batch, 2, height, width)."""
    return torch.view_as_real(image).permute(0, 3, 1, 2)


def from_channels(channels: Tensor) -> Tensor:
    """The inverse of :func:`to_channels`."""
    return torch.view_as_complex(channels.permute(0, 2, 3, 1).float().contiguous())


def padding(size: int, multiple: int) -> int:
    """Pixels that a side lacks to a multiple, and to twice as much as that."""
    return max(-size % multiple, 2 * multiple - size)


def pad_to_multiple(channels: Tensor, multiple: int) -> tuple[Tensor, tuple[slice, slice]]:
    """Surround (batch, channel, height, width) with zeros, equally on both sides.

    Sides become multiples, and at least twice as long, so that a normalisation at the lowest level
    of a network finds a variance. Also says where the old ones lie (height, width).
    """
    added: list[int] = []
    inside: list[slice] = []
    for size in channels.shape[:1:-1]:  # width, then height, as functional.pad wants them
        missing = padding(size, multiple)
        added += [missing // 2, missing - missing // 2]
        inside.append(slice(missing // 2, missing // 2 + size))
    return functional.pad(channels, added), (inside[1], inside[0])


def zeroed(layer: Layer) -> Layer:
    """The layer with weights of zero: untrained it adds nothing, which saves hundreds of steps."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def instance_norm(channels: int) -> nn.GroupNorm:
    """Instance normalisation as group normalisation with one channel a group.

    It is the same function without weights, and on a CPU four to five times as fast.
    """
    return nn.GroupNorm(channels, channels, affine=False)


class Convolutions(nn.Module):
    """A residual of complex images: 3 x 3 convolutions with ReLU between them, the last at zero."""

    def __init__(self, channels: int, layers: int) -> None:
        super().__init__()
        widths = [2, *[channels] * (layers - 1), 2]
        stack = [nn.Conv2d(before, after, 3, padding=1) for before, after in pairwise(widths)]
        zeroed(stack[-1])
        self.layers = nn.ModuleList(stack)

    def forward(self, image: Tensor) -> Tensor:
        """Complex (batch, height, width) to the same."""
        values = to_channels(image).contiguous()
        for layer in self.layers[:-1]:
            values = functional.relu(layer(values))
        return from_channels(self.layers[-1](values))


def checked_sizes(**sizes: int) -> dict[str, object]:
    """The sizes of a network; a ValueError for one below one, or fewer than two layers."""
    if any(size < (2 if name == "layers" else 1) for name, size in sizes.items()):
        given = ", ".join(f"{name}={size}" for name, size in sizes.items())
        raise ValueError(f"expected at least two layers, and all else of at least 1; got {given}")
    return dict(sizes)
