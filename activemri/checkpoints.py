"""Weights on disk: NAME.safetensors, and NAME.json that says what they are.

The JSON file holds the kind of network, the settings that rebuild it, how it was trained, and the
SHA-256 of the weights, so that the two files cannot be mixed up and a damaged one is noticed.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from activemri import __version__
from activemri.files import NEXT, digest, json_text, read_json, write_together

FORMAT_VERSION = 1
LARGEST = 1e10  # weight; what training gives is far below, and products of few overflow
MOST = 10_000  # of whole numbers in settings; more only where there are as many weights

Network = TypeVar("Network", bound=nn.Module)

_WEIGHTS, _JSON = ".safetensors", ".json"


class CheckpointError(ValueError):
    """A checkpoint that is missing, incomplete, damaged, or meant for something else."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Contents of a checkpoint, see :func:`save`; the path is without suffix."""

    path: Path
    kind: str
    settings: dict[str, object]
    state_dict: dict[str, Tensor]
    info: dict[str, object]

    def build(self, make: Callable[[], Network], what: str) -> Network:
        """The network that `make` makes of the settings, with the weights.

        Raises:
            CheckpointError: the settings make no network, or the weights do not fit it.
            ModuleNotFoundError: the network needs an extra that is not installed.
        """
        try:
            most = max(MOST, sum(tensor.numel() for tensor in self.state_dict.values()))
            if large := [number for number in _sizes(self.settings) if abs(number) > most]:
                raise ValueError(f"{large[0]} is too large: expected at most {most}")
            with torch.device("meta"):  # without memory, of which settings may want any amount
                self._check(make())
            network = make()
        except (CheckpointError, ModuleNotFoundError):
            raise
        except Exception as error:  # what a file says may let constructors fail in any way
            raise CheckpointError(
                f"the settings in {self.path}.json do not make {what}: {error!s:.300}"
            ) from error
        self.fill(network)
        return network

    def fill(self, network: nn.Module) -> None:
        """Copy the weights into a network; a CheckpointError names a tensor that does not fit."""
        self._check(network)
        network.load_state_dict(self.state_dict)

    def _check(self, network: nn.Module) -> None:
        expected, found = _shapes(network.state_dict()), _shapes(self.state_dict)
        for name in [*expected, *found]:
            if expected.get(name) != found.get(name):
                raise CheckpointError(
                    f"the weights in {self.path}{_WEIGHTS} do not fit the settings "
                    f"{self.settings!r:.300} of a {self.kind!r}: tensor {name!r} should have shape "
                    f"{expected.get(name, 'none, it is unknown')}; found "
                    f"{found.get(name, 'no such tensor')}"
                )
        for name, weight in self.state_dict.items():
            if not bool((weight.abs() <= LARGEST).all()):
                raise CheckpointError(
                    f"the weights in {self.path}{_WEIGHTS} cannot be used: expected finite numbers "
                    f"up to {LARGEST:g}; tensor {name!r} holds others"
                )


def save(
    path: str | Path,
    *,
    kind: str,
    settings: Mapping[str, object],
    state_dict: Mapping[str, Tensor],
    info: Mapping[str, object],
) -> Path:
    """Write both files so that a kill or a full disk at any moment leaves a readable checkpoint.

    Both are first written whole beside the old ones. Then the weights take their place, then the
    JSON file; :func:`load` recognises the state between these two.

    Args:
        path: with or without suffix, which the result has not; missing folders are made.
        kind: name of the network in its registry.
        settings: arguments that rebuild it; anything JSON can hold.
        info: how it was trained; the package version is added.

    Raises:
        OSError: the files cannot be written; a checkpoint that was there before is intact.
    """
    from safetensors.torch import save as to_bytes

    stem = without_suffix(path)
    weights = to_bytes({n: t.detach().cpu().contiguous() for n, t in state_dict.items()})
    described = {
        "kind": kind,
        "format_version": FORMAT_VERSION,
        "settings": dict(settings),
        "sha256": digest(weights),
        "info": {"package_version": __version__, **info},
    }
    text = json_text(described, indent=2) + "\n"
    write_together({Path(f"{stem}{_WEIGHTS}"): weights, Path(f"{stem}{_JSON}"): text.encode()})
    return stem


def load(path: str | Path) -> Checkpoint:
    """Read and verify a checkpoint, or raise a CheckpointError that says what is wrong, and where.

    The path is that of either file, their common name without suffix, or a folder that holds
    exactly one checkpoint or one called ``best``.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    stem = without_suffix(path)
    if Path(path).is_dir():
        names = sorted(p.stem for p in Path(path).glob(f"*{_WEIGHTS}"))
        if "best" not in names and len(names) != 1:
            raise CheckpointError(
                f"expected one checkpoint, or one called 'best', in the folder {path}; "
                f"found {', '.join(names) or 'none'}"
            )
        stem = Path(path) / ("best" if "best" in names else names[0])
    file, about = Path(f"{stem}{_WEIGHTS}"), Path(f"{stem}{_JSON}")
    if not file.is_file() and not about.is_file():
        raise CheckpointError(
            f"found no checkpoint at {path}: expected {file.name} and {about.name} in {stem.parent}"
        )
    # The second one if a save was cut between its two renames.
    abouts = [one for one in (about, Path(f"{about}{NEXT}")) if one.is_file()]
    if not file.is_file() or not abouts:
        here, gone = (file, about) if file.is_file() else (about, file)
        raise CheckpointError(
            f"half of the checkpoint is missing: {here} is there, {gone} is not; copy both files"
        )
    weights = file.read_bytes()
    for one in abouts:
        described = _parsed(one)
        if described["sha256"] == digest(weights):
            break
    else:
        raise CheckpointError(
            f"the weights in {stem}{_WEIGHTS} are not those that {stem.name}{_JSON} describes: "
            f"expected SHA-256 {described['sha256']:.64}, found {digest(weights)}; the file was "
            "cut off or changed"
        )
    try:
        state_dict = from_bytes(weights)
    except SafetensorError as error:
        raise CheckpointError(
            f"{stem}{_WEIGHTS} is not a safetensors file: {error!s:.300}"
        ) from error
    return Checkpoint(stem, described["kind"], described["settings"], state_dict, described["info"])


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, str]:
    """Shapes by name, with the type of what is no real number."""
    return {
        name: f"{tuple(one.shape)}{'' if one.dtype.is_floating_point else f' of {one.dtype}'}"
        for name, one in weights.items()
    }


def _sizes(settings: object) -> Iterator[int]:
    """Whole numbers anywhere in settings, but for seeds."""
    if isinstance(settings, Mapping):
        for name, value in settings.items():
            yield from () if name.endswith("seed") else _sizes(value)
    elif isinstance(settings, list):
        for value in settings:
            yield from _sizes(value)
    elif isinstance(settings, int):
        yield settings


def without_suffix(path: str | Path) -> Path:
    """The part that the paths of both files of a checkpoint share."""
    path = Path(path)
    return path.with_suffix("") if path.suffix in (_WEIGHTS, _JSON) else path


def _parsed(path: Path) -> dict[str, Any]:
    wanted = {"kind": str, "format_version": int, "settings": dict, "sha256": str, "info": dict}
    try:
        described = read_json(path, wanted)
    except ValueError as error:
        raise CheckpointError(f"{error}; it does not describe a checkpoint") from error
    if described["format_version"] > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {described['format_version']}; this version of activemri "
            f"reads up to {FORMAT_VERSION}: install a newer one"
        )
    return described
