"""Who takes part: labels of policies and reconstructors, and what their files hold."""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import nn

from activemri import checkpoints
from activemri.agents.registry import POLICIES
from activemri.evaluator import KIND as EVALUATOR
from activemri.evaluator import Evaluator, load_evaluator
from activemri.reconstruction.registry import RECONSTRUCTORS, WEIGHTS

log = logging.getLogger(__name__)

_SHIPS_WITH_EVALUATOR = "cresnet"


def label_reconstructors(names: Sequence[str]) -> dict[str, str]:
    """Short labels for names and paths.

    Raises:
        ValueError: for two of one label.
    """
    labels: dict[str, str] = {}
    for name in names:
        label = _label(name)
        if label in labels:
            raise _same_label(label, labels[label], name)
        labels[label] = name
    return labels


def label_policies(arguments: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Short labels for policies, and the names or paths that each stands for.

    ``LABEL=PATH,PATH,PATH`` stands for one policy that was trained with several seeds; so do
    ``LABEL=PATH LABEL=PATH LABEL=PATH``, which is what a shell makes of ``LABEL=run-{0,1,2}``.

    Raises:
        ValueError: for two policies of one label, and for built-in policies under another name.
    """
    found: dict[str, tuple[str, ...]] = {}
    grouped: set[str] = set()
    for argument in arguments:
        label, members = _parsed(argument)
        joins = "=" in argument and label in grouped
        if label in found and not joins:
            raise _same_label(label, ",".join(found[label]), argument)
        if label != argument and "=" in argument:
            grouped.add(label)
        found[label] = (*found.get(label, ()), *members)
        if len(set(found[label])) < len(found[label]):
            raise ValueError(f"{label!r} holds the same file twice: {', '.join(found[label])}")
    return found


def _parsed(argument: str) -> tuple[str, tuple[str, ...]]:
    """The label of a policy and what it stands for."""
    label, equals, paths = argument.partition("=")
    if not equals or "/" in label or "\\" in label:  # a path may hold an equals sign
        return _label(argument), (argument,)
    members = tuple(paths.split(","))
    if not label or not all(members):
        raise ValueError(f"expected LABEL=PATH or LABEL=PATH,PATH,PATH; got {argument!r}")
    known = [name for name in (label, *members) if name in POLICIES]
    if known:
        raise ValueError(
            f"{argument!r}: {known[0]!r} is a built-in policy, which keeps its name and has no "
            "other; a label stands for files of trained policies"
        )
    return label, members


def _label(name: str) -> str:
    """A name as it is; of a path the stem, or the folder if the file is just called best."""
    path = Path(name)
    stem = path.stem if path.suffix in (".safetensors", ".json") else path.name
    return path.parent.name if stem in ("best", "last") and path.parent.name else stem


def _same_label(label: str, first: str, second: str) -> ValueError:
    return ValueError(
        f"{first!r} and {second!r} would both be called {label!r} in the results; "
        "rename one of the files"
    )


def paired_evaluator(reconstructor: str, n_lines: int) -> Evaluator | None:
    """The evaluator trained with a reconstructor: the one beside its checkpoint, if it fits."""
    path = Path(reconstructor)
    if reconstructor in RECONSTRUCTORS:
        if reconstructor != _SHIPS_WITH_EVALUATOR:
            return None
        path = WEIGHTS / reconstructor
    folder = path if path.is_dir() else path.parent
    if not (folder / f"{EVALUATOR}.safetensors").is_file():
        return None
    found = load_evaluator(folder / EVALUATOR)
    if found.width >= n_lines:
        return found
    log.warning(
        "%s scores %d lines, and these scans have %d: it is left out",
        folder / EVALUATOR,
        found.width,
        n_lines,
    )
    return None


def digest_of_files(name: str) -> str:
    """What the files of an order or a checkpoint hold; empty for a built-in name."""
    if name in POLICIES:
        return ""
    content = b"".join(path.read_bytes() for path in _files(Path(name)) if path.is_file())
    return digest(content) if content else ""


def _files(path: Path) -> Iterator[Path]:
    """Where :func:`activemri.agents.registry.make_policy` may look."""
    if path.is_dir():
        yield from sorted([*path.glob("*.json"), *path.glob("*.safetensors")])
    else:
        stem = checkpoints.without_suffix(path)
        yield from (stem.with_name(stem.name + suffix) for suffix in (".json", ".safetensors"))


def digest_of_weights(network: nn.Module) -> str:
    """What a network's weights are."""
    weights = network.state_dict().values()
    return digest(b"".join(value.cpu().numpy().tobytes() for value in weights))


def digest(content: bytes) -> str:
    """A short name of some bytes."""
    return hashlib.sha256(content).hexdigest()[:16]
