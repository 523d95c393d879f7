"""Reconstructors by name: one line adds one."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from activemri import checkpoints, plugins
from activemri.checkpoints import Checkpoint, CheckpointError
from activemri.options import require_types
from activemri.reconstruction.cg_sense import CGSense
from activemri.reconstruction.compressed_sensing import TotalVariation, WaveletSensing
from activemri.reconstruction.cresnet import CResNet
from activemri.reconstruction.diffusion import Diffusion
from activemri.reconstruction.ensemble import Ensemble, MonteCarloDropout
from activemri.reconstruction.kiki import KIKINet
from activemri.reconstruction.modl import MoDL
from activemri.reconstruction.recalibrated import Recalibrated
from activemri.reconstruction.reconstructor import Reconstructor
from activemri.reconstruction.unet import UNet
from activemri.reconstruction.varnet import AdaptiveVarNet, VarNet
from activemri.reconstruction.zero_filled import ZeroFilled

RECONSTRUCTORS: dict[str, type[Reconstructor]] = {
    "zero-filled": ZeroFilled,
    "cg-sense": CGSense,
    "wavelet": WaveletSensing,
    "total-variation": TotalVariation,
    "unet": UNet,
    "cresnet": CResNet,
    "modl": MoDL,
    "varnet": VarNet,
    "adaptive-varnet": AdaptiveVarNet,
    "kiki-net": KIKINet,
    "diffusion": Diffusion,
}

#: Made around other reconstructors: kinds of checkpoints, but no names (around which others?).
WRAPPERS: dict[str, type[Reconstructor]] = {
    "ensemble": Ensemble,
    "dropout": MonteCarloDropout,
    "recalibrated": Recalibrated,
}

#: Checkpoints that come with the package, one per name that needs weights.
WEIGHTS = Path(__file__).parents[1] / "weights"


def make_reconstructor(
    reconstructor: str | Path | Reconstructor, *, device: str | torch.device = "cpu"
) -> Reconstructor:
    """A reconstructor ready for use, in evaluation mode.

    ::

        reconstructor = make_reconstructor("runs/unet/best")

    It is a registered name (with its trained weights), the path of a checkpoint,
    ``package.module:object`` of a reconstructor, its class, or a function that makes one.

    Raises:
        ValueError: none of these.
    """
    if isinstance(reconstructor, Reconstructor):
        return reconstructor.to(device).eval()
    if not isinstance(reconstructor, str | Path):
        raise ValueError(
            "reconstructor: expected a name, a checkpoint's path, or an object of a subclass of "
            f"Reconstructor; got {type(reconstructor).__name__}"
        )
    name = str(reconstructor)
    if name in RECONSTRUCTORS:
        if (WEIGHTS / f"{name}.safetensors").is_file():
            made = from_checkpoint(checkpoints.load(WEIGHTS / name))
        elif (made := RECONSTRUCTORS[name]()).state_dict():
            raise ValueError(
                f"there are no trained weights of {name!r} in {WEIGHTS}; train it with 'activemri "
                "train reconstructor' and give the path of the checkpoint instead of the name"
            )
    elif (
        isinstance(reconstructor, Path)
        or "/" in name
        or "\\" in name
        or name.endswith((".safetensors", ".json"))
        or Path(name).is_dir()
        or Path(f"{name}.safetensors").is_file()
    ):
        made = from_checkpoint(checkpoints.load(reconstructor))
    else:
        more = ", or the path of a checkpoint"
        found: Any = plugins.find(name, RECONSTRUCTORS, what="reconstructor", more=more)
        made = found() if callable(found) and not isinstance(found, Reconstructor) else found
        if not isinstance(made, Reconstructor):
            raise ValueError(
                f"reconstructor {name!r}: expected a Reconstructor, or a function that makes one; "
                f"got {type(made).__name__}"
            )
    return made.to(device).eval()


def from_checkpoint(checkpoint: Checkpoint) -> Reconstructor:
    """The trained reconstructor that a checkpoint describes."""
    if _class_of(checkpoint.kind) is None:
        raise CheckpointError(
            f"{checkpoint.path} holds a {checkpoint.kind!r:.60}, which is no known reconstructor; "
            f"expected one of {', '.join(RECONSTRUCTORS | WRAPPERS)}, or a class whose module was "
            "imported before, which files alone never do: at the command line --import MODULE"
        )
    described = {"kind": checkpoint.kind, "settings": checkpoint.settings}
    made: Reconstructor = checkpoint.build(lambda: rebuild(described), f"a {checkpoint.kind!r}")
    return made


def save_reconstructor(
    path: str | Path, reconstructor: Reconstructor, *, info: Mapping[str, object]
) -> Path:
    """Write a checkpoint (`checkpoints.save`) of a reconstructor and of all that it is made of."""
    described = describe(reconstructor)
    return checkpoints.save(path, **described, state_dict=reconstructor.state_dict(), info=info)


def describe(value: Any) -> Any:
    """A setting for JSON: a reconstructor becomes its kind and settings, also inside of lists."""
    if isinstance(value, list):
        return [describe(item) for item in value]
    if not isinstance(value, Reconstructor):
        return value
    made_by = type(value)
    known = {registered: name for name, registered in (RECONSTRUCTORS | WRAPPERS).items()}
    kind = known.get(made_by, f"{made_by.__module__}:{made_by.__qualname__}")
    if _class_of(kind) is not made_by:
        raise ValueError(
            f"{made_by.__name__} can be found neither in a module nor among "
            f"{', '.join(RECONSTRUCTORS | WRAPPERS)}, so that a checkpoint could not be read again"
        )
    return {"kind": kind, "settings": {k: describe(v) for k, v in value.settings.items()}}


def rebuild(described: Any) -> Any:
    """The inverse of :func:`describe`; weights are as they start out."""
    if isinstance(described, list):
        return [rebuild(item) for item in described]
    if not isinstance(described, dict) or set(described) != {"kind", "settings"}:
        return described
    kind = _class_of(described["kind"])
    if kind is None:
        raise ValueError(
            f"unknown kind {described['kind']!r}; expected one of "
            f"{', '.join(RECONSTRUCTORS | WRAPPERS)}"
        )
    settings = {name: rebuild(value) for name, value in described["settings"].items()}
    require_types(kind, settings)
    return kind(**settings)


def _class_of(kind: str) -> type[Reconstructor] | None:
    """The class of a registered kind, or of an imported module."""
    registered = RECONSTRUCTORS | WRAPPERS
    if kind in registered:
        return registered[kind]
    module, _, name = kind.partition(":")
    found = getattr(sys.modules.get(module), name, None)
    return found if isinstance(found, type) and issubclass(found, Reconstructor) else None
