"""Strength of lines of k-space that is to be expected that were not acquired."""

import torch
from torch import Tensor

_SMALLEST = 1e-12  # share of the energy below which a line counts as empty: it has a logarithm


def line_distances(shape: tuple[int, int], device: torch.device | str = "cpu") -> Tensor:
    """Distance of every line from the centre of k-space, in lines: float64 (height * width,).

    The shape is that of a mask laid out for a scan: 1 along an axis that is read out completely.
    """
    down, right = (torch.arange(n, device=device).double() - n // 2 for n in shape)
    return torch.hypot(down[:, None], right[None, :]).flatten()


def power_law(energy: Tensor, acquired: Tensor, distance: Tensor) -> Tensor:
    """Expected energy of every line: least squares of log energy on log(1 + distance).

    Args:
        energy: of lines, as a share of the acquired energy, float64 (batch, line).
        acquired: which of them count, bool (batch, line).
        distance: of :func:`line_distances`, (line,).

    Returns:
        float64 (batch, line), in the unit of `energy`. It never rises outwards, whatever too few
        lines may say.
    """
    weight = acquired.double()
    x = torch.log1p(distance).expand(energy.shape)
    y = energy.clamp(min=_SMALLEST).log()
    n = weight.sum(dim=1, keepdim=True).clamp(min=1)
    mean_x = (weight * x).sum(dim=1, keepdim=True) / n
    mean_y = (weight * y).sum(dim=1, keepdim=True) / n
    spread = (weight * (x - mean_x) ** 2).sum(dim=1, keepdim=True)
    spread = torch.where(spread > 0, spread, 1)
    slope = (weight * (x - mean_x) * (y - mean_y)).sum(dim=1, keepdim=True) / spread
    expected: Tensor = (mean_y + slope.clamp(max=0) * (x - mean_x)).exp()
    return expected
