"""Options that many commands share: where to compute, and where a run keeps its files.

Nothing heavy is imported here.
"""

import json
import math
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from inspect import signature
from pathlib import Path
from types import UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Compute:
    """Device and threads."""

    device: str = "cpu"
    """Device, e.g. cpu or cuda. Under torchrun cuda means one GPU a process."""
    threads: int | None = 1
    """CPU threads; None leaves the choice to torch. More than one is often slower."""

    def __post_init__(self) -> None:
        require_positive(threads=self.threads)
        if (self.threads or 0) > _MOST_THREADS:  # of so many torch ends the process
            raise ValueError(f"--threads: expected at most {_MOST_THREADS}; got {self.threads}")

    def prepare(self) -> "torch.device":
        """Set up threads and memory of this process, and give the device, if it is there."""
        from activemri.devices import keep_freed_memory, take_threads, usable

        device = usable(self.device)
        keep_freed_memory()
        if self.threads is not None:
            take_threads(self.threads)
        return device


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """A run: its folder and its seed."""

    out: Path
    """Folder for the results; made if missing."""
    seed: int = 0
    """Seed of everything that is drawn at random."""
    resume: FlagCreatePairsOff[bool] = False
    """Continue what is found in --out, with the same settings."""
    overwrite: FlagCreatePairsOff[bool] = False
    """Delete what an earlier run of the same command left in --out, and start anew."""

    def __post_init__(self) -> None:
        require_not_negative(seed=self.seed)
        if self.resume and self.overwrite:
            raise ValueError("--resume continues a run, --overwrite starts it anew; choose one")


def described(settings: Any) -> dict[str, object]:
    """Settings as JSON holds them, by option: what a continuation of a run must share.

    Left out is what does not change results: folder, device, threads, pictures. Objects that JSON
    cannot hold are given by the name of their class.
    """
    return {
        name: json.loads(json.dumps(value, default=_named))
        for name, value, _ in flat(settings)
        if name not in FREE
    }


def command_line(command: str, settings: Any) -> str:
    """The command that runs with the same settings: those that are no defaults, as options."""
    words = [f"activemri {command}"]
    for name, value, usual in flat(settings):
        if name in FREE or value is usual or (_is_plain(value) and value == usual):
            continue
        group, dot, last = name.replace("_", "-").rpartition(".")
        if isinstance(value, bool):
            words.append(f"--{group}{dot}{'' if value else 'no-'}{last}")
        else:
            values = value if isinstance(value, tuple) else (value,)
            words += [f"--{group}{dot}{last}", *(shlex.quote(_named(v)) for v in values)]
    return " ".join(words)


#: Options that may differ between a run and its continuation.
FREE = frozenset(("out", "resume", "overwrite", "device", "threads", "images", "tensorboard"))


def flat(settings: Any) -> list[tuple[str, Any, Any]]:
    """Name at the command line, value and default of every setting, nested ones included.

    Settings whose defaults depend on others say so by a method ``adapted(given)``, where
    ``given(name)`` is another option's value, or None: it returns them with these defaults.
    """
    usual = type(settings)()
    if hasattr(usual, "adapted"):
        values = {name: value for name, value, _ in _flat(settings, usual, "")}
        usual = usual.adapted(values.get)
    return list(_flat(settings, usual, ""))


def _flat(settings: Any, usual: Any, prefix: str) -> Iterator[tuple[str, Any, Any]]:
    hints = get_type_hints(type(settings), include_extras=True)
    for field in fields(settings):
        value, default = getattr(settings, field.name), getattr(usual, field.name)
        if isinstance(value, dict) and isinstance(default, dict):
            for name in {**default, **value}:
                one = default.get(name)
                yield f"{prefix}{field.name}.{name}", value.get(name, one), one
        elif is_dataclass(default) and is_dataclass(value):
            if type(default) is not type(value):
                default = type(value)()  # type: ignore[misc]
            bare = _is_bare(hints[field.name])
            yield from _flat(value, default, prefix if bare else f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, value, default


def _is_bare(hint: Any) -> bool:
    """True if options of a nested dataclass are given without its name before them."""
    omits = OmitArgPrefixes[int].__metadata__[0]  # type: ignore[attr-defined]
    return omits in getattr(hint, "__metadata__", ())


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, str | int | float | Path | tuple)


def _named(value: object) -> str:
    return str(value) if _is_plain(value) else type(value).__qualname__


def with_values(settings: Any, values: Mapping[str, object]) -> Any:
    """The settings with other values, by option, e.g. "network.channels".

    Texts are read as the option's type.

    Raises:
        ValueError: an unknown option, or a value that it refuses.
    """
    for field in fields(settings):  # defaults may depend on what is changed
        arguments = getattr(settings, field.name)
        if isinstance(arguments, dict):
            usual = {name: default for name, _, default in flat(settings)}
            given = {k: v for k, v in arguments.items() if v != usual[f"{field.name}.{k}"]}
            settings = replace(settings, **{field.name: given})
    for key in sorted(values, key=lambda key: "." in key):
        known = {name: value for name, value, _ in flat(settings)}
        if key not in known:
            raise ValueError(f"unknown option {key!r}; expected one of {', '.join(known)}")
        try:
            settings = _with_value(settings, key, values[key], known[key])
        except ValueError as error:  # Python's own words for a text that is no number
            named = key.rpartition(".")[2].replace("_", "-") in str(error).replace("_", "-")
            raise error if named else ValueError(f"{_option(key)}: {error}") from error
    require_numbers(settings)
    return settings


def _with_value(settings: Any, key: str, value: object, now: object) -> Any:
    name, _, rest = key.partition(".")
    hints = get_type_hints(type(settings), include_extras=True)
    for field in fields(settings):
        current = getattr(settings, field.name)
        if field.name == name and isinstance(current, dict):
            return replace(settings, **{name: {**current, rest: _typed(value, type(now))}})
        if field.name == name and is_dataclass(current) and rest:
            return replace(settings, **{name: _with_value(current, rest, value, now)})
        if field.name == name:
            return replace(settings, **{name: _typed(value, hints[name])})
        if _is_bare(hints[field.name]) and any(f.name == name for f in fields(current)):
            return replace(settings, **{field.name: _with_value(current, key, value, now)})
    raise ValueError(f"unknown option {key!r}")


def _typed(value: object, hint: Any) -> object:
    """A text as a type says it; anything else as it is."""
    if not isinstance(value, str):
        return value
    kinds = _kinds(hint)
    if type(None) in kinds and value == "None":
        return None
    if tuple in kinds:
        parts = value.split(",")
        if int not in kinds:
            return tuple(parts)
        return int(value) if len(parts) == 1 else tuple(map(int, parts))
    if bool in kinds:
        if value.lower() not in ("true", "false"):
            raise ValueError(f"expected true or false; got {value}")
        return value.lower() == "true"
    for kind in (int, float, Path):
        if kind in kinds and str not in kinds:
            return kind(value)
    return value


def _kinds(hint: Any) -> set[Any]:
    """The plain types that an annotation allows."""
    origin = get_origin(hint)
    if origin is Annotated:
        return _kinds(get_args(hint)[0])
    if origin in (Union, UnionType):
        return set().union(*map(_kinds, get_args(hint)))
    return {str if origin is Literal else origin or hint}


def require_types(made: Callable[..., object], values: Mapping[str, object]) -> None:
    """Refuse arguments of a class that are missing, unknown, or of other types than it declares.

    Lists, as JSON has them, stand for sequences and tuples.

    Raises:
        ValueError: names the argument.
    """
    known = signature(made).parameters
    hints = get_type_hints(made.__init__ if isinstance(made, type) else made)  # type: ignore[misc]
    needed = [name for name, one in known.items() if one.default is one.empty]
    if wrong := [name for name in needed if name not in values] + [*(values.keys() - known)]:
        raise ValueError(f"missing or unknown entries: {', '.join(sorted(wrong)):.200}")
    for name, value in values.items():
        hint = hints.get(name, Any)
        if not _fits(value, hint):
            words = str(hint).replace("typing.", "").replace("collections.abc.", "")
            kind = hint.__name__ if isinstance(hint, type) else words
            raise ValueError(f"{name}: expected {kind}; got {value!r:.60}")


def _fits(value: Any, hint: Any) -> bool:
    kind, parts = get_origin(hint) or hint, get_args(hint)
    if kind in (Any, object, Annotated):
        return kind is not Annotated or _fits(value, parts[0])
    if kind in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if kind is Literal:
        return value in parts
    if kind is tuple and parts and parts[-1] is not ...:
        right = isinstance(value, list | tuple) and len(value) == len(parts)
        return right and all(map(_fits, value, parts))
    if kind in (tuple, list, Sequence):
        each = parts[0] if parts else Any
        return isinstance(value, list | tuple) and all(_fits(one, each) for one in value)
    if not isinstance(kind, type):
        return True  # nothing that JSON could hold
    if issubclass(kind, Mapping):
        each = parts[1] if parts else Any
        return isinstance(value, Mapping) and all(_fits(one, each) for one in value.values())
    if isinstance(value, bool) and kind in (int, float):
        return False
    return isinstance(value, int | float if kind is float else kind)


def require_numbers(settings: Any, prefix: str = "") -> None:
    """Refuse numbers, nested ones included, beyond those of 64 or, with a point, single precision.

    Raises:
        ValueError: for such a number, infinity or NaN; it names the option.
    """
    hints = get_type_hints(type(settings), include_extras=True)
    for field in fields(settings):
        value, name = getattr(settings, field.name), prefix + field.name
        if is_dataclass(value):
            require_numbers(value, prefix if _is_bare(hints[field.name]) else f"{name}.")
            continue
        parts = value if isinstance(value, dict) else {"": value}
        for key, part in parts.items():
            option = f"{name}.{key}" if key else name
            for number in part if isinstance(part, tuple) else (part,):
                if isinstance(number, int) and abs(number) > _MOST_WHOLE:
                    raise ValueError(
                        f"{_option(option)}: expected a whole number of 64 bits; got {number}"
                    )
                if isinstance(number, float) and not abs(number) <= _MOST_REAL:
                    raise ValueError(
                        f"{_option(option)}: expected a finite number of single precision; "
                        f"got {number}"
                    )


_MOST_THREADS, _MOST_LAYERS = 1024, 2048
_MOST_WHOLE, _MOST_REAL = (1 << 63) - 1, 3.4e38


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def require_positive(**values: float | None) -> None:
    """Refuse numbers that are not above 0 by a ValueError that names the option; None passes."""
    for name, value in values.items():
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{_option(name)}: expected a number above 0; got {value}")


def require_sizes(**values: int) -> None:
    """The same for more channels or layers than any network has: they would take hours to make."""
    for name, value in values.items():
        if value > _MOST_LAYERS:
            raise ValueError(f"{_option(name)}: expected at most {_MOST_LAYERS:,}; got {value}")


def require_not_negative(**values: float | None) -> None:
    """The same for numbers below 0."""
    for name, value in values.items():
        if value is not None and not 0 <= value < math.inf:
            raise ValueError(f"{_option(name)}: expected a number of at least 0; got {value}")
