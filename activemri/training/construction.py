"""New reconstructors to be trained."""

import inspect
from collections.abc import Mapping
from copy import deepcopy
from functools import cache, partial
from pathlib import Path
from typing import Any, get_type_hints

import torch

from activemri import checkpoints, plugins
from activemri.devices import seeded
from activemri.options import require_sizes
from activemri.reconstruction.reconstructor import Reconstructor
from activemri.reconstruction.registry import RECONSTRUCTORS, make_reconstructor, rebuild


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
        network: its arguments by name; those of a checkpoint may change what leaves its weights as
            they are, e.g. iterations of modl.

    Raises:
        ValueError: an unknown name, one that has nothing to train, or arguments that it refuses;
            a checkpoint that is none.
    """
    if isinstance(reconstructor, Reconstructor):
        made = deepcopy(reconstructor)
    elif (kind := _class_of(str(reconstructor))) is not None:
        require_arguments(network, kind, option="network", name=str(reconstructor))
        made = seeded(partial(kind, **network), seed)
        if not any(True for _ in made.parameters()):
            raise ValueError(f"--reconstructor {reconstructor}: {_expected()}")
    else:
        known = arguments_of(reconstructor)  # refuses what is no checkpoint
        found = checkpoints.load(reconstructor)
        if found.kind in RECONSTRUCTORS and any(known.get(k) != v for k, v in network.items()):
            kind = RECONSTRUCTORS[found.kind]
            require_arguments(network, kind, option="network", name=str(reconstructor))
            changed = {"kind": found.kind, "settings": {**found.settings, **network}}
            made = found.build(lambda: rebuild(changed), f"a {found.kind!r}")
        else:
            made = make_reconstructor(reconstructor)
    return made.to(device).requires_grad_(True).train()


def arguments_of(reconstructor: str | Path | Reconstructor) -> dict[str, Any]:
    """Arguments of a reconstructor's network by name, as they are if none is given.

    Errors are those of :func:`new_reconstructor`.
    """
    if isinstance(reconstructor, Reconstructor):
        return {}
    kind = _class_of(str(reconstructor))
    if kind is not None:
        return arguments_of_kind(kind)
    try:
        found = checkpoints.load(reconstructor)
    except checkpoints.CheckpointError as error:
        raise ValueError(f"--reconstructor {reconstructor}: {error}; {_expected()}") from error
    return dict(found.settings) if found.kind in trainable() else {}


def arguments_of_kind(kind: type) -> dict[str, Any]:
    """Arguments of a class that have defaults, with these, in the types that it declares."""
    hints = get_type_hints(kind.__init__)  # type: ignore[misc]
    return {
        name: float(p.default) if hints.get(name) is float else p.default
        for name, p in inspect.signature(kind).parameters.items()
        if p.default is not p.empty
    }


def require_arguments(given: Mapping[str, Any], kind: type, *, option: str, name: str) -> None:
    """Refuse arguments of a class by a ValueError with the option that gives them."""
    known = arguments_of_kind(kind)
    if unknown := [key for key in given if key not in known]:
        raise ValueError(
            f"--{option}.{unknown[0]}: expected an argument of {name}: {', '.join(known)}"
        )
    sizes = {key: size for key, size in given.items() if isinstance(size, int) and key != "seed"}
    require_sizes(**{f"{option}.{key}": size for key, size in sizes.items()})


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
