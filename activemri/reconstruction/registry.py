"""Reconstructors by name: one line adds one."""

from pathlib import Path

import torch

from activemri import checkpoints
from activemri.checkpoints import Checkpoint, CheckpointError
from activemri.reconstruction.cresnet import CResNet
from activemri.reconstruction.reconstructor import Reconstructor
from activemri.reconstruction.unet import UNet
from activemri.reconstruction.zero_filled import ZeroFilled

RECONSTRUCTORS: dict[str, type[Reconstructor]] = {
    "zero-filled": ZeroFilled,
    "unet": UNet,
    "cresnet": CResNet,
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
    try:
        kind = RECONSTRUCTORS[checkpoint.kind]
    except KeyError:
        raise CheckpointError(
            f"{checkpoint.path} holds a {checkpoint.kind!r}, which is no reconstructor; expected "
            f"one of {', '.join(RECONSTRUCTORS)}"
        ) from None
    try:
        made = kind(**checkpoint.settings)
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"the settings in {checkpoint.path}.json do not make a {checkpoint.kind!r}: {error}"
        ) from error
    checkpoint.fill(made)
    return made


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
