"""New reconstructors from the settings of a training."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch

from activemri import checkpoints
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
        made = _continued(settings.warm_start, settings.network)
        return made.to(device).requires_grad_(True).train()
    if settings.name not in trainable():
        raise ValueError(
            f"--name {settings.name}: expected a reconstructor that can be trained, one of "
            f"{', '.join(trainable())}"
        )
    kind = RECONSTRUCTORS[settings.name]
    arguments = parse_arguments(kind, settings.network, option="--network", name=settings.name)
    return seeded(lambda: kind(**arguments), settings.seed).to(device).train()


def _continued(checkpoint: str | Path, network: Sequence[str]) -> Reconstructor:
    """A trained reconstructor, with other arguments where its weights allow that."""
    if not network:
        return make_reconstructor(checkpoint)
    found = checkpoints.load(checkpoint)
    if found.kind not in RECONSTRUCTORS:
        raise ValueError(
            f"--network: {checkpoint} holds a {found.kind!r}; expected one of "
            f"{', '.join(trainable())}"
        )
    kind = RECONSTRUCTORS[found.kind]
    arguments = parse_arguments(kind, network, option="--network", name=found.kind)
    made = kind(**{**found.settings, **arguments})
    found.fill(made)
    return made


@cache
def trainable() -> tuple[str, ...]:
    """Names of reconstructors that have weights."""
    return tuple(
        name
        for name, kind in RECONSTRUCTORS.items()
        if any(True for _ in seeded(kind, 0).parameters())
    )
