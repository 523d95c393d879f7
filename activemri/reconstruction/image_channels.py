"""Between complex images of any size and the real channels of networks; layers for these."""

from itertools import pairwise
from typing import TypeVar

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

_IMAGE = (-2, -1)  # (height, width)

Layer = TypeVar("Layer", bound=nn.Module)


def scale_and_phase(image: Tensor) -> tuple[Tensor, Tensor]:
    """Root mean square and mean phase (bright pixels count most), (batch, 1, 1) each."""
    magnitude = image.abs()
    power = magnitude.square().mean(dim=_IMAGE, keepdim=True)
    # of black images a gradient of 0, not the root's infinite one
    scale = torch.where(power > 0, power, 1).sqrt() * (power > 0)
    phase = torch.sgn((image * magnitude).sum(dim=_IMAGE, keepdim=True))
    return scale, torch.where(phase == 0, torch.ones_like(phase), phase)


def normalised(image: Tensor, scale: Tensor, phase: Tensor) -> Tensor:
    """The image in units of its scale and phase; a black image stays black."""
    return image * phase.conj() / scale.clamp(min=torch.finfo(scale.dtype).tiny)


def to_channels(image: Tensor) -> Tensor:
    """Complex (batch, height, width) to real (batch, 2, height, width)."""
    return torch.view_as_real(image).permute(0, 3, 1, 2)


def from_channels(channels: Tensor) -> Tensor:
    """The inverse of :func:`to_channels`, in single precision at least."""
    channels = channels.to(torch.promote_types(channels.dtype, torch.float32))
    return torch.view_as_complex(channels.permute(0, 2, 3, 1).contiguous())


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
    return laid_out(functional.pad(channels, added)), (inside[1], inside[0])


def zeroed(layer: Layer) -> Layer:
    """The layer with weights of zero: untrained it adds nothing, which saves hundreds of steps."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class InstanceNorm(nn.Module):
    """Instance normalisation without weights, then a leaky ReLU; a slope of 1 leaves that out.

    A group normalisation with one channel a group is the same function, and on a CPU four to five
    times as fast. Where no gradient is asked for, what has its channels last (:func:`laid_out`) is
    changed in place by one compiled pass: it should be the result of a convolution, that nobody
    else looks at.
    """

    def __init__(self, channels: int, slope: float = 1.0) -> None:
        super().__init__()
        self.channels, self.slope = channels, slope

    def forward(self, values: Tensor) -> Tensor:
        last = values.permute(0, 2, 3, 1)
        plain = values.device.type == "cpu" and values.dtype == torch.float32
        if plain and last.is_contiguous() and not values.requires_grad:
            _normalise(last.flatten(2).numpy(), self.channels, np.float32(self.slope))
            return values
        return functional.leaky_relu(functional.group_norm(values, self.channels), self.slope)


# Values that are not finite stay so.
@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract"}, error_model="numpy")
def _normalise(values: NDArray[np.float32], channels: int, slope: np.float32) -> None:
    """Normalise (batch, height, width * channel) in place, each channel of each item alone."""
    height, length = values.shape[1], values.shape[2]
    n = height * length // channels
    # Channels lie side by side: numbers for a whole row let several be worked on at a time.
    first, factor, shift = (
        np.empty(length, np.float32),
        np.empty(length, np.float32),
        np.empty(length, np.float32),
    )
    for i in range(len(values)):
        image = values[i]
        total, squares = np.zeros(channels), np.zeros(channels)
        factor[:], shift[:] = 0, 0
        for j in range(length):
            first[j] = image[0, j % channels]  # the variance of values near each other is exact
        for r in range(height):
            row = image[r]
            for j in range(length):
                d = row[j] - first[j]
                factor[j] += d
                shift[j] += d * d
        for j in range(length):
            total[j % channels] += factor[j]
            squares[j % channels] += shift[j]
        for c in range(channels):
            mean = total[c] / n
            variance = max(squares[c] / n - mean * mean, 0.0)
            total[c] = 1 / np.sqrt(variance + 1e-5)
            squares[c] = -(mean + first[c]) * total[c]
        for j in range(length):
            factor[j], shift[j] = total[j % channels], squares[j % channels]
        for r in range(height):
            row = image[r]
            for j in range(length):
                value = row[j] * factor[j] + shift[j]
                row[j] = value if value > 0 else slope * value


def laid_out(channels: Tensor) -> Tensor:
    """The same in the order of memory that networks are fastest with: channels last on a CPU.

    Not where they learn: there is no compiled normalisation with gradients.
    """
    if channels.device.type != "cpu" or torch.is_grad_enabled():
        return channels
    return channels.contiguous(memory_format=torch.channels_last)


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
