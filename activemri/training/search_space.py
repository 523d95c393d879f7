"""What a search may vary, as short texts: ``lr=1e-4:1e-2:log``, ``loss=l1|ssim``."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import UnionType
from typing import Any, TypeVar, get_args, get_type_hints

from activemri.metrics.losses import make_loss
from activemri.settings import TrainReconstructorSettings
from activemri.training.construction import new_reconstructor

#: Settings that say which scans and moments are scored, how long, where and by whom. To compare
#: trainings that differ in them by validation SSIM would make no sense.
FIXED = frozenset(
    "data name resume matrix max_steps n_center_lines budget sensitivity validate_every patience "
    "images tensorboard seed threads device".split()
)
NETWORK = "network."

S = TypeVar("S", bound=TrainReconstructorSettings)


@dataclass(frozen=True)
class Range:
    """All numbers from `low` to `high`.

    Attributes:
        low: smallest.
        high: largest.
        log: search the logarithm.
        whole: whole numbers only.
    """

    low: float
    high: float
    log: bool
    whole: bool


Space = Mapping[str, Range | tuple[str, ...]]


def parse_space(words: Sequence[str], settings: TrainReconstructorSettings) -> Space:
    """Ranges and choices by key.

    Args:
        words: ``key=low:high``, ``key=low:high:log`` or ``key=a|b|c``. Keys are settings of
            ``activemri train reconstructor``, or ``network.`` and an argument of the network.
            ``key=a`` sets what is not to be varied.
        settings: that will be changed.

    Raises:
        ValueError: a text that is neither, an unknown key, or a value that its setting refuses.
    """
    space: dict[str, Range | tuple[str, ...]] = {}
    for word in words:
        key, equals, values = word.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not values.strip():
            raise ValueError(f"--space {word}: expected key=low:high, key=low:high:log or key=a|b")
        if key in space:
            raise ValueError(f"--space: {key} is there twice")
        kind = _kind(key, settings)
        space[key] = _parse(values.strip(), kind, word)
        for edge in _edges(space[key]):
            _try(settings, key, edge, word)
    if not space:
        raise ValueError("--space: expected at least one key=values")
    return space


def apply(settings: S, values: Mapping[str, object]) -> S:
    """The settings with other values.

    Args:
        settings: to change.
        values: by key, as numbers or as texts.

    Raises:
        ValueError: a value that its setting refuses.
    """
    network = {key.removeprefix(NETWORK): v for key, v in values.items() if key.startswith(NETWORK)}
    changes: dict[str, object] = {
        key: _KINDS[_kind(key, settings)](value)
        for key, value in values.items()
        if not key.startswith(NETWORK)
    }
    if network:
        kept = [word for word in settings.network if word.partition("=")[0] not in network]
        changes["network"] = (*kept, *(f"{key}={value}" for key, value in network.items()))
    return replace(settings, **changes)  # type: ignore[arg-type]


def _kind(key: str, settings: TrainReconstructorSettings) -> type:
    """The type of a setting; text for arguments of networks, which know it themselves."""
    if key.startswith(NETWORK) and len(key) > len(NETWORK):
        return str
    kinds = _searchable(type(settings))
    if key not in kinds:
        raise ValueError(
            f"--space: cannot search {key!r}; expected one of {', '.join(kinds)}, or "
            f"{NETWORK}ARGUMENT"
        )
    return kinds[key]


def _searchable(settings: type) -> dict[str, type]:
    """Settings that hold one number or text, and may be varied."""
    kinds = {}
    for name, hint in get_type_hints(settings).items():
        either = get_args(hint) if isinstance(hint, UnionType) else (hint,)  # int | None is int
        known = [kind for kind in either if kind in _KINDS]
        if known and name not in FIXED:
            kinds[name] = known[0]
    return kinds


def _truth(value: object) -> bool:
    if str(value).lower() not in ("true", "false"):
        raise ValueError(f"expected true or false; got {value}")
    return str(value).lower() == "true"


_KINDS: dict[type, Callable[[Any], object]] = {bool: _truth, int: int, float: float, str: str}


def _parse(values: str, kind: type, word: str) -> Range | tuple[str, ...]:
    match = re.fullmatch(r"([^:|]+):([^:|]+)(:log)?", values)
    if match is None:
        return tuple(value.strip() for value in values.split("|"))
    texts, log = match.groups()[:2], match.group(3) is not None
    whole = kind is int or (kind is str and all(re.fullmatch(r"\s*-?\d+\s*", t) for t in texts))
    try:
        low, high = (float(int(t)) if whole else float(t) for t in texts)
    except ValueError:
        expected = "whole numbers" if whole else "numbers"
        raise ValueError(f"--space {word}: expected {expected} around the colon") from None
    if not (low < high < float("inf")) or (log and low <= 0):
        above = " above 0" if log else ""
        raise ValueError(f"--space {word}: expected a smaller and a larger number{above}")
    return Range(low, high, log, whole)


def _edges(values: Range | tuple[str, ...]) -> Sequence[object]:
    if isinstance(values, tuple):
        return values
    return [int(v) if values.whole else v for v in (values.low, values.high)]


def _try(settings: TrainReconstructorSettings, key: str, value: object, word: str) -> None:
    try:
        one = apply(settings, {key: value})
        make_loss(one.loss)
        new_reconstructor(one)
    except ValueError as error:
        raise ValueError(f"--space {word}: {error}") from None
