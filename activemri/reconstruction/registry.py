"""Reconstructors by name: one line adds one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from activemri import checkpoints
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

    Args:
        reconstructor: a registered name (trained weights that come with the package are loaded),
            the path of a checkpoint, or a reconstructor, which is returned.
        device: where it shall run.

    Raises:
        ValueError: neither a name nor a checkpoint.
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
        raise ValueError(
            f"unknown reconstructor {reconstructor!r}; expected one of "
            f"{', '.join(RECONSTRUCTORS)}, or the path of a checkpoint"
        )
    return made.to(device).eval()


def from_checkpoint(checkpoint: Checkpoint) -> Reconstructor:
    """The trained reconstructor that a checkpoint describes."""
    if checkpoint.kind not in RECONSTRUCTORS | WRAPPERS:
        raise CheckpointError(
            f"{checkpoint.path} holds a {checkpoint.kind!r}, which is no reconstructor; expected "
            f"one of {', '.join(RECONSTRUCTORS | WRAPPERS)}"
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
    kinds = (RECONSTRUCTORS | WRAPPERS).items()
    kind = next((name for name, made_by in kinds if type(reconstructor) is made_by), None)
    if kind is None:
        raise ValueError(
            f"{type(reconstructor).__name__} is of no registered kind, so that a checkpoint could "
            f"not be read again; expected one of {', '.join(RECONSTRUCTORS | WRAPPERS)}"
        )
    settings = {name: _described(value) for name, value in reconstructor.settings.items()}
    return {"kind": kind, "settings": settings}


def rebuild(described: Mapping[str, Any]) -> Reconstructor:
    """The inverse of :func:`describe`; weights are as they start out.

    Raises:
        ValueError: an unknown kind, or settings that make no sense.
        TypeError: settings of other names or types.
    """
    kinds = RECONSTRUCTORS | WRAPPERS
    if described["kind"] not in kinds:
        raise ValueError(f"unknown kind {described['kind']!r}; expected one of {', '.join(kinds)}")
    settings = {name: _rebuilt(value) for name, value in described["settings"].items()}
    return kinds[described["kind"]](**settings)


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
