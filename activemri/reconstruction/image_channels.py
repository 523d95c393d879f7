"""Between complex images of any size and the real channels that networks take."""

import torch
from torch import Tensor
from torch.nn import functional

_IMAGE = (-2, -1)  # (height, width)


def scale_and_phase(image: Tensor) -> tuple[Tensor, Tensor]:
    """Root mean square and mean phase (bright pixels count most), (batch, 1, 1) each.

    Networks that see ``image / (scale * phase)`` follow the signal's scale and global phase
    exactly.
    """
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


def pad_to_multiple(channels: Tensor, multiple: int) -> tuple[Tensor, tuple[slice, slice]]:
    """Surround (batch, channel, height, width) with zeros, equally on both sides.

    Sides become multiples, and at least twice as long, so that a normalisation at the lowest level
    of a network finds a variance.

    Returns:
        The padded channels, and where the old ones lie in them (height, width).
    """
    padding: list[int] = []
    inside: list[slice] = []
    for size in channels.shape[:1:-1]:  # width, then height, as functional.pad wants them
        missing = max(-size % multiple, 2 * multiple - size)
        padding += [missing // 2, missing - missing // 2]
        inside.append(slice(missing // 2, missing // 2 + size))
    return functional.pad(channels, padding), (inside[1], inside[0])


def works_one_by_one(training: bool, channels: Tensor) -> bool:
    """A network should see one image at a time.

    In evaluation on a CPU that makes the result of an image independent of its batch to the last
    bit, and at 128 x 128 it is no slower.
    """
    return not training and channels.device.type == "cpu"
