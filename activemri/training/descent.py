"""One step of an optimiser, the same for every network that is trained here."""

import math
from typing import Any

import torch
from torch import Tensor, nn

WARM_UP = 0.1  # share of the steps in which the learning rate rises
LARGEST_GRADIENT = 1.0  # norm to which larger gradients are shortened


class NotFiniteError(ValueError):
    """A loss or its gradient is not a finite number; the network is as it was before.

    Attributes:
        option: of the command line that sets the learning rate.
    """

    def __init__(self, message: str, *, option: str) -> None:
        super().__init__(message)
        self.option = option


class Descent:
    """AdamW, with a learning rate that rises linearly and then falls to zero along a cosine.

    Args:
        network: whose parameters are trained.
        lr: largest learning rate.
        n_steps: after which it is zero.
        option: of the command line that sets the learning rate.
        betas: how long gradients and their squares are remembered.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        lr: float,
        n_steps: int,
        option: str = "--lr",
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        self.network = network
        self.lr = lr
        self.n_steps = n_steps
        self.option = option
        self.optimizer = torch.optim.AdamW(network.parameters(), betas=betas, weight_decay=0.0)

    def descend(self, loss: Tensor, *, step: int) -> float:
        """Follow the gradient of a loss (one number), and say what the loss was.

        Raises:
            NotFiniteError: instead of following a gradient that is not finite.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, n_steps=self.n_steps, largest=self.lr)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), LARGEST_GRADIENT)
        if not (torch.isfinite(loss) and torch.isfinite(norm)):
            raise NotFiniteError(
                f"loss {loss.item()}, gradient norm {norm.item()}", option=self.option
            )
        self.optimizer.step()
        return loss.item()

    def state(self) -> dict[str, Any]:
        """What :meth:`restore` needs to go on to the same weights, to the last bit."""
        return self.optimizer.state_dict()

    def restore(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state)


def learning_rate(step: int, *, n_steps: int, largest: float) -> float:
    """Linear rise over the first tenth of the steps, then half a cosine down to zero."""
    rise = max(1, round(WARM_UP * n_steps))
    if step < rise:
        return largest * (step + 1) / rise
    return largest * (1 + math.cos(math.pi * (step - rise) / max(1, n_steps - rise))) / 2
