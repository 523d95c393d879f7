"""Reconstructors by name: one line adds one."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from activemri import checkpoints, plugins
from activemri.checkpoints import Checkpoint, CheckpointError
from activemri.reconstruction.adaptive_varnet import AdaptiveVarNet
from activemri.reconstruction.cg_sense import CGSense
from activemri.reconstruction.cresnet import CResNet
from activemri.reconstruction.diffusion import Diffusion
from activemri.reconstruction.dropout import MonteCarloDropout
from activemri.reconstruction.ensemble import Ensemble
from activemri.reconstruction.kiki import KIKINet
from activemri.reconstruction.modl import MoDL
from activemri.reconstruction.recalibrated import Recalibrated
from activemri.reconstruction.reconstructor import Reconstructor
from activemri.reconstruction.total_variation import TotalVariation
from activemri.reconstruction.unet import UNet
from activemri.reconstruction.varnet import VarNet
from activemri.reconstruction.wavelet import WaveletSensing
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

        reconstructor = make_reconstructor("cresnet")
        reconstructor = make_reconstructor("runs/unet/best")

    Args:
        reconstructor: a registered name (trained weights that come with the package are loaded),
            the path of a checkpoint, ``package.module:object`` of a reconstructor, its class, or a
            function that makes one; or a reconstructor, which is returned.
        device: where it shall run.

    Raises:
        ValueError: none of these.
    """
    if isinstance(reconstructor, Reconstructor):
        made = reconstructor
    elif not isinstance(reconstructor, str | Path):
        raise ValueError(
            "reconstructor: expected a name, a checkpoint's path, or an object of a subclass of "
            f"Reconstructor; got {type(reconstructor).__name__}"
        )
    elif str(reconstructor) in RECONSTRUCTORS:
        made = _by_name(str(reconstructor))
    elif _looks_like_path(reconstructor):
        made = from_checkpoint(checkpoints.load(reconstructor))
    else:
        found = plugins.find(
            str(reconstructor),
            RECONSTRUCTORS,
            what="reconstructor",
            more=", or the path of a checkpoint",
        )
        made = plugins.made_of(
            found, Reconstructor, what=f"reconstructor {reconstructor!r}", make=lambda kind: kind()
        )
    return made.to(device).eval()


def from_checkpoint(checkpoint: Checkpoint) -> Reconstructor:
    """The trained reconstructor that a checkpoint describes."""
    if _class_of(checkpoint.kind) is None:
        raise CheckpointError(
            f"{checkpoint.path} holds a {checkpoint.kind!r}, which is no known reconstructor; "
            f"expected one of {', '.join(RECONSTRUCTORS | WRAPPERS)}, or a class whose module was "
            "imported before, which files alone never do: at the command line --import MODULE"
        )
    try:
        made = rebuild({"kind": checkpoint.kind, "settings": checkpoint.settings})
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"the settings in {checkpoint.path}.json do not make a {checkpoint.kind!r}: {error}"
        ) from error
    checkpoint.fill(made)
    return made


def save_reconstructor(
    path: str | Path, reconstructor: Reconstructor, *, info: Mapping[str, object]
) -> Path:
    """Write a checkpoint of a reconstructor and of all that it is made of; see `checkpoints.save`.

    Raises:
        ValueError: something in it is of no registered kind.
    """
    described = describe(reconstructor)
    return checkpoints.save(
        path,
        kind=described["kind"],
        settings=described["settings"],
        state_dict=reconstructor.state_dict(),
        info=info,
    )


def describe(reconstructor: Reconstructor) -> dict[str, Any]:
    """Kind and settings for JSON; a reconstructor among the settings becomes kind and settings."""
    made_by = type(reconstructor)
    known = {registered: name for name, registered in (RECONSTRUCTORS | WRAPPERS).items()}
    kind = known.get(made_by, f"{made_by.__module__}:{made_by.__qualname__}")
    if _class_of(kind) is not made_by:
        raise ValueError(
            f"{made_by.__name__} can be found neither in a module nor among "
            f"{', '.join(RECONSTRUCTORS | WRAPPERS)}, so that a checkpoint could not be read again"
        )
    settings = {name: _described(value) for name, value in reconstructor.settings.items()}
    return {"kind": kind, "settings": settings}


def rebuild(described: Mapping[str, Any]) -> Reconstructor:
    """The inverse of :func:`describe`; weights are as they start out.

    Raises:
        ValueError: an unknown kind, or settings that make no sense.
        TypeError: settings of other names or types.
    """
    kind = _class_of(described["kind"])
    if kind is None:
        raise ValueError(
            f"unknown kind {described['kind']!r}; expected one of "
            f"{', '.join(RECONSTRUCTORS | WRAPPERS)}"
        )
    settings = {name: _rebuilt(value) for name, value in described["settings"].items()}
    return kind(**settings)


def _class_of(kind: str) -> type[Reconstructor] | None:
    """The class of a registered kind, or of an imported module."""
    if kind in RECONSTRUCTORS | WRAPPERS:
        return (RECONSTRUCTORS | WRAPPERS)[kind]
    module, _, name = kind.partition(":")
    found = getattr(sys.modules.get(module), name, None)
    return found if isinstance(found, type) and issubclass(found, Reconstructor) else None


def _described(value: object) -> object:
    if isinstance(value, Reconstructor):
        return describe(value)
    return [_described(item) for item in value] if isinstance(value, list) else value


def _rebuilt(value: object) -> object:
    if isinstance(value, dict) and set(value) == {"kind", "settings"}:
        return rebuild(value)
    return [_rebuilt(item) for item in value] if isinstance(value, list) else value


def _by_name(name: str) -> Reconstructor:
    kind = RECONSTRUCTORS[name]
    if (WEIGHTS / f"{name}.safetensors").is_file():
        return from_checkpoint(checkpoints.load(WEIGHTS / name))
    made = kind()
    if made.state_dict():
        raise ValueError(
            f"there are no trained weights of {name!r} in {WEIGHTS}; train it with 'activemri "
            "train reconstructor' and give the path of the checkpoint instead of the name"
        )
    return made


def _looks_like_path(name: str | Path) -> bool:
    text = str(name)
    if isinstance(name, Path) or "/" in text or "\\" in text:
        return True
    if text.endswith((".safetensors", ".json")) or Path(text).is_dir():
        return True
    return Path(f"{text}.safetensors").is_file()
