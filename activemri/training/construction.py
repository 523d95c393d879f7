"""New reconstructors from the settings of a training."""

import torch

from activemri.construction import parse_arguments, seeded
from activemri.reconstruction.reconstructor import Reconstructor
from activemri.reconstruction.registry import RECONSTRUCTORS, make_reconstructor
from activemri.settings import TrainReconstructorSettings


def new_reconstructor(
    settings: TrainReconstructorSettings, *, device: torch.device | str = "cpu"
) -> Reconstructor:
    """The untrained reconstructor that settings describe, in training mode.

    Raises:
        ValueError: an unknown name, one that has nothing to train, or arguments that it refuses;
            a checkpoint to begin with that is none.
    """
    if settings.warm_start is not None:
        return make_reconstructor(settings.warm_start, device=device).requires_grad_(True).train()
    trainable = [name for name in RECONSTRUCTORS if name != "zero-filled"]
    if settings.name not in trainable:
        raise ValueError(
            f"--name {settings.name}: expected a reconstructor that can be trained, one of "
            f"{', '.join(trainable)}"
        )
    kind = RECONSTRUCTORS[settings.name]
    arguments = parse_arguments(kind, settings.network, option="--network", name=settings.name)
    return seeded(lambda: kind(**arguments), settings.seed).to(device).train()
