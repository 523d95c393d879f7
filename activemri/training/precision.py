"""Numbers of 32 or 16 bits."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

Precision = Literal["32", "bf16", "16"]

_TYPES = {"bf16": torch.bfloat16, "16": torch.float16}


def require_precision(precision: Precision, device: torch.device) -> None:
    """Refuse 16 bits where they are slower, or not there.

    Raises:
        ValueError: says what to do.
    """
    if precision != "32" and device.type != "cuda":
        raise ValueError(
            f"--precision {precision} needs a GPU (--device cuda); on the {device.type} leave it 32"
        )


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Let layers inside compute with 16 bits where that is safe."""
    if precision == "32":
        return nullcontext()
    return torch.autocast(device.type, dtype=_TYPES[precision])


def scaler(precision: Precision) -> torch.amp.GradScaler | None:
    """What keeps small gradients from vanishing; only 16-bit floats need one."""
    return torch.amp.GradScaler("cuda") if precision == "16" else None
