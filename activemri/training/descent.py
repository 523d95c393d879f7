"""One step of an optimiser, the same for every network that is trained here."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from activemri.training.precision import Precision, scaler
from activemri.training.world import World

WARM_UP = 0.1  # share of the steps in which the learning rate rises
LARGEST_GRADIENT = 1.0  # norm to which larger gradients are shortened
SMALLEST_SCALE = 2.0**-10  # of 16-bit gradients: if they overflow with it, they are infinite


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
        world: the processes whose gradients are added up.
        precision: of the layers; "16" needs its gradients scaled.
        option: of the command line that sets the learning rate.
        betas: how long gradients and their squares are remembered.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        lr: float,
        n_steps: int,
        world: World,
        precision: Precision = "32",
        option: str = "--lr",
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        self.network = network
        self.lr = lr
        self.n_steps = n_steps
        self.world = world
        self.option = option
        self.optimizer = torch.optim.AdamW(network.parameters(), betas=betas, weight_decay=0.0)
        self.scaler = scaler(precision)

    def descend(self, losses: Mapping[str, Tensor], *, step: int) -> dict[str, float]:
        """Follow the gradient of the loss called "loss".

        Args:
            losses: one number each, the share that this process has in them; the others are only
                reported.
            step: which this is; sets the learning rate.

        Returns:
            All losses, of all processes together.

        Raises:
            NotFiniteError: instead of following a gradient that is not finite.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, n_steps=self.n_steps, largest=self.lr)
        self.optimizer.zero_grad()
        loss = losses["loss"]
        torch.autograd.backward(loss if self.scaler is None else self.scaler.scale(loss))
        values = torch.stack([value.detach().float() for value in losses.values()])
        values = self.world.sum_gradients(self.network, values)
        found = dict(zip(losses, values.tolist(), strict=True))
        self._step(found["loss"])
        return found

    def _step(self, loss: float) -> None:
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), LARGEST_GRADIENT).item()
        too_large = self.scaler is not None and self.scaler.get_scale() > SMALLEST_SCALE
        if not (math.isfinite(loss) and (math.isfinite(norm) or too_large)):
            raise NotFiniteError(f"loss {loss}, gradient norm {norm}", option=self.option)
        if self.scaler is None:
            self.optimizer.step()
            return
        self.scaler.step(self.optimizer)  # does nothing if the scale was too large
        self.scaler.update()

    def state(self) -> dict[str, Any]:
        """What :meth:`restore` needs to go on to the same weights, to the last bit."""
        state = self.optimizer.state_dict()
        return state if self.scaler is None else {**state, "scaler": self.scaler.state_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])
        kept = {name: value for name, value in state.items() if name != "scaler"}
        self.optimizer.load_state_dict(kept)


def learning_rate(step: int, *, n_steps: int, largest: float) -> float:
    """Linear rise over the first tenth of the steps, then half a cosine down to zero."""
    rise = max(1, round(WARM_UP * n_steps))
    if step < rise:
        return largest * (step + 1) / rise
    return largest * (1 + math.cos(math.pi * (step - rise) / max(1, n_steps - rise))) / 2
