"""New reconstructors to be trained."""

import inspect
from collections.abc import Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

import torch

from activemri import checkpoints, plugins
from activemri.devices import seeded
from activemri.reconstruction.reconstructor import Reconstructor
from activemri.reconstruction.registry import RECONSTRUCTORS, make_reconstructor


def new_reconstructor(
    reconstructor: str | Path | Reconstructor,
    network: Mapping[str, Any],
    *,
    seed: int,
    device: torch.device | str = "cpu",
) -> Reconstructor:
    """A reconstructor to be trained, in training mode.

    Args:
        reconstructor: a name, or ``package.module:Class``, whose first weights follow from the
            seed; the path of a checkpoint, whose weights the training begins with; or an object, of
            which a copy is trained.
        network: arguments of the network by name; those of a checkpoint may change what leaves
            its weights as they are, e.g. iterations of modl.
        seed: of the first weights.
        device: where it shall run.

    Raises:
        ValueError: an unknown name, one that has nothing to train, or arguments that it refuses;
            a checkpoint that is none.
    """
    if isinstance(reconstructor, Reconstructor):
        made = deepcopy(reconstructor)
    elif (kind := _class_of(str(reconstructor))) is not None:
        chosen = _checked(network, kind, reconstructor)
        made = seeded(lambda: kind(**chosen), seed)
        if not any(True for _ in made.parameters()):
            raise ValueError(f"--reconstructor {reconstructor}: {_expected()}")
    else:
        made = _continued(str(reconstructor), network)
    return made.to(device).requires_grad_(True).train()


def arguments_of(reconstructor: str | Path | Reconstructor) -> dict[str, Any]:
    """Arguments of a reconstructor's network by name, as they are if none is given.

    Raises:
        ValueError: as :func:`new_reconstructor`.
    """
    if isinstance(reconstructor, Reconstructor):
        return {}
    kind = _class_of(str(reconstructor))
    if kind is None:
        try:
            found = checkpoints.load(reconstructor)
        except checkpoints.CheckpointError as error:
            raise ValueError(f"--reconstructor {reconstructor}: {error}; {_expected()}") from error
        return dict(found.settings) if found.kind in trainable() else {}
    return arguments_of_kind(kind)


def arguments_of_kind(kind: type) -> dict[str, Any]:
    """Arguments of a class that have defaults, with these, in the types that it declares."""
    hints = get_type_hints(kind.__init__)  # type: ignore[misc]
    return {
        name: float(p.default) if hints.get(name) is float else p.default
        for name, p in inspect.signature(kind).parameters.items()
        if p.default is not p.empty
    }


@cache
def trainable() -> tuple[str, ...]:
    """Names of reconstructors that have weights."""
    return tuple(
        name
        for name, kind in RECONSTRUCTORS.items()
        if any(True for _ in seeded(kind, 0).parameters())
    )


def _class_of(name: str) -> type[Reconstructor] | None:
    """The class of a name or of ``package.module:Class``; None for anything else."""
    if name in RECONSTRUCTORS:
        if name not in trainable():
            raise ValueError(f"--reconstructor {name}: {_expected()}")
        return RECONSTRUCTORS[name]
    if not plugins.is_object_path(name):
        return None
    found = plugins.load(name, what="--reconstructor")
    if not (isinstance(found, type) and issubclass(found, Reconstructor)):
        raise ValueError(
            f"--reconstructor {name}: expected a class of reconstructors; got {found!r}"
        )
    return found


def _expected() -> str:
    return (
        "expected a reconstructor that can be trained, one of "
        f"{', '.join(trainable())}, or a checkpoint of one"
    )


def _continued(checkpoint: str, network: Mapping[str, Any]) -> Reconstructor:
    """A trained reconstructor, with other arguments where its weights allow that."""
    known = arguments_of(checkpoint)
    found = checkpoints.load(checkpoint)
    if found.kind not in RECONSTRUCTORS or all(known.get(k) == v for k, v in network.items()):
        return make_reconstructor(checkpoint)
    kind = RECONSTRUCTORS[found.kind]
    made = kind(**{**found.settings, **_checked(network, kind, checkpoint)})
    found.fill(made)
    return made


def _checked(network: Mapping[str, Any], kind: type, name: object) -> dict[str, Any]:
    known = arguments_of_kind(kind)
    if unknown := [key for key in network if key not in known]:
        raise ValueError(
            f"--network.{unknown[0]}: expected an argument of {name}: {', '.join(known)}"
        )
    return dict(network)
