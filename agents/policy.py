"""What every policy takes and gives."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from activemri.envs.acquisition import View
from activemri.envs.state import IDLE


class Policy(Protocol):
    """Chooses the next action of every scan of a batch.

    Policies remember nothing between calls: all that they need is in the view (the lines acquired,
    those that the scan began with, both budgets), so that episodes cannot leak into one another.

    Attributes:
        name: as in tables.
        is_oracle: asks for the truth: a bound, never a competitor.
        is_random: draws from the generators; else one seed shows all that it does.
    """

    @property
    def name(self) -> str: ...
    @property
    def is_oracle(self) -> bool: ...
    @property
    def is_random(self) -> bool: ...

    def act(self, view: View, generators: Sequence[np.random.Generator]) -> Tensor:
        """Choose.

        Args:
            view: what is known of the scans; with the truth if :attr:`is_oracle`.
            generators: one for each scan, so that an episode does not depend on its batch.

        Returns:
            int64 (batch,), legal for every scan that is not finished.
        """
        ...


def choose(priority: Tensor, legal: Tensor) -> Tensor:
    """The legal action of highest priority; of equals the first; IDLE where none is legal.

    Args:
        priority: float (batch, n_actions) or (n_actions,). NaN counts as lowest.
        legal: bool (batch, n_actions).

    Returns:
        int64 (batch,).
    """
    lowest = torch.finfo(torch.float64).min
    # Legal actions stay above illegal ones, whatever their priority.
    finite = priority.double().nan_to_num(nan=lowest, posinf=-lowest, neginf=lowest)
    best = torch.where(legal, finite, -torch.inf).argmax(dim=1)
    return best.masked_fill(~legal.any(dim=1), IDLE)
