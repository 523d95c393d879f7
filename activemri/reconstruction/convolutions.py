"""Plain stacks of convolutions, of which unrolled methods are made."""

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

from activemri.reconstruction.image_channels import from_channels, to_channels


class Convolutions(nn.Module):
    """A residual of complex images: 3 x 3 convolutions with ReLU between them, the last at zero.

    Untrained, the answer is zero, so that methods begin with what they do without a network.

    Args:
        channels: width.
        layers: how many convolutions, at least two.
    """

    def __init__(self, channels: int, layers: int) -> None:
        super().__init__()
        widths = [2, *[channels] * (layers - 1), 2]
        stack = [nn.Conv2d(before, after, 3, padding=1) for before, after in pairwise(widths)]
        for parameter in stack[-1].parameters():
            nn.init.zeros_(parameter)
        self.layers = nn.ModuleList(stack)

    def forward(self, image: Tensor) -> Tensor:
        """Complex (batch, height, width) to the same."""
        values = to_channels(image).contiguous()
        for layer in self.layers[:-1]:
            values = functional.relu(layer(values))
        return from_channels(self.layers[-1](values))


def require_sizes(**sizes: int) -> None:
    """Refuse networks of nothing.

    Raises:
        ValueError: a size below one, or fewer than two layers.
    """
    if any(size < (2 if name == "layers" else 1) for name, size in sizes.items()):
        given = ", ".join(f"{name}={size}" for name, size in sizes.items())
        raise ValueError(f"expected at least two layers, and all else of at least 1; got {given}")
