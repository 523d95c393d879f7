"""One step of an optimiser, the same for every network that is trained here."""

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from activemri.training.loop import DivergedError
from activemri.training.processes import sum_gradients

#: Bits of the numbers in layers.
Precision = Literal["32", "bf16", "16"]

WARM_UP = 0.1  # share of the steps in which the learning rate rises
LARGEST_GRADIENT = 1.0  # norm to which larger gradients are shortened
SMALLEST_SCALE = 2.0**-10  # of 16-bit gradients: if they overflow with it, they are infinite
_TYPES = {"bf16": torch.bfloat16, "16": torch.float16}


class Descent:
    """AdamW; the learning rate rises to `lr` and falls to zero after `n_steps` along a cosine.

    The option is that of the command line that sets the learning rate.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        lr: float,
        n_steps: int,
        precision: Precision = "32",
        option: str = "--lr",
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        self.network, self.lr, self.n_steps, self.option = network, lr, n_steps, option
        self.optimizer = torch.optim.AdamW(network.parameters(), betas=betas, weight_decay=0.0)
        # Keeps small gradients from vanishing; only 16-bit floats need that.
        self.scaler = torch.amp.GradScaler("cuda", enabled=precision == "16")

    def descend(self, losses: Mapping[str, Tensor], *, step: int) -> dict[str, float]:
        """Follow the gradient of the loss called "loss"; the others are only reported.

        Losses are one number each, the share that this process has in them; those of all processes
        together are returned. A gradient that is not finite is a DivergedError.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, n_steps=self.n_steps, largest=self.lr)
        self.optimizer.zero_grad()
        torch.autograd.backward(self.scaler.scale(losses["loss"]))
        values = torch.stack([value.detach().float() for value in losses.values()])
        values = sum_gradients(self.network, values)
        found = dict(zip(losses, values.tolist(), strict=True))
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), LARGEST_GRADIENT).item()
        too_large = self.scaler.is_enabled() and self.scaler.get_scale() > SMALLEST_SCALE
        if not (math.isfinite(found["loss"]) and (math.isfinite(norm) or too_large)):
            raise DivergedError(
                f"loss {found['loss']}, gradient norm {norm}; try a smaller {self.option}"
            )
        self.scaler.step(self.optimizer)  # does nothing if the scale was too large
        self.scaler.update()
        return found

    def state_dict(self) -> dict[str, Any]:
        """State from which :meth:`load_state_dict` goes on to the same weights, bit for bit."""
        scaler = {"scaler": self.scaler.state_dict()} if self.scaler.is_enabled() else {}
        return {**self.optimizer.state_dict(), **scaler}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state)
        self.scaler.load_state_dict(state.get("scaler", {}))


def learning_rate(step: int, *, n_steps: int, largest: float) -> float:
    """Linear rise over the first tenth of the steps, then half a cosine down to zero."""
    rise = max(1, round(WARM_UP * n_steps))
    if step < rise:
        return largest * (step + 1) / rise
    return largest * (1 + math.cos(math.pi * (step - rise) / max(1, n_steps - rise))) / 2


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Let layers inside compute with 16 bits where that is safe."""
    if precision == "32":
        return nullcontext()
    return torch.autocast(device.type, dtype=_TYPES[precision])
