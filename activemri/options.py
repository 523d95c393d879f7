"""Options that many commands share: where to compute, and where a run keeps its files.

Nothing heavy is imported here.
"""

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Compute:
    """Device and threads."""

    device: str = "cpu"
    """Device, e.g. cpu or cuda. Under torchrun cuda means one GPU a process."""
    threads: int | None = None
    """CPU threads; None leaves the choice to torch. More than one is often slower."""

    def __post_init__(self) -> None:
        require_positive(threads=self.threads)

    def prepare(self) -> "torch.device":
        """Set the number of threads of this process, and give the device.

        Raises:
            ValueError: for a device that is not there.
        """
        import torch

        from activemri.devices import usable

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        return usable(self.device)


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """A run: its folder and its seed."""

    out: Path
    """Folder for the results; made if missing."""
    seed: int = 0
    """Seed of everything that is drawn at random."""
    resume: FlagCreatePairsOff[bool] = False
    """Continue what is found in --out, with the same settings."""

    def __post_init__(self) -> None:
        require_not_negative(seed=self.seed)


def described(settings: Any) -> dict[str, object]:
    """Settings as JSON holds them, by option: what a continuation of a run must share.

    Left out is what does not change results: folder, device, threads, pictures. Objects that JSON
    cannot hold are given by the name of their class.

    Args:
        settings: of a command, a dataclass whose defaults work.
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
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            group, _, last = option.rpartition(".")
            prefix = f"{group}." if group else "--"
            words.append(option if value else f"{prefix}no-{last.removeprefix('--')}")
        else:
            values = value if isinstance(value, tuple) else (value,)
            words.append(" ".join([option, *(shlex.quote(_named(v)) for v in values)]))
    return " ".join(words)


def flat(settings: Any) -> list[tuple[str, Any, Any]]:
    """Name at the command line, value and default of every setting, nested ones included.

    Settings whose defaults depend on others say so by a method ``adapted(given)``, where
    ``given(name)`` is another option's value, or None: it returns them with these defaults.
    """
    usual = _usual(settings)
    if hasattr(usual, "adapted"):
        values = {name: value for name, value, _ in _flat(settings, usual, "")}
        usual = usual.adapted(values.get)
    return list(_flat(settings, usual, ""))


#: Options that may differ between a run and its continuation.
FREE = frozenset(("out", "resume", "device", "threads", "images", "tensorboard"))


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
                default = _usual(value)
            bare = is_bare(hints[field.name])
            yield from _flat(value, default, prefix if bare else f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, value, default


def _usual(settings: Any) -> Any:
    return type(settings)()


def is_bare(hint: Any) -> bool:
    """True if options of a nested dataclass are given without its name before them."""
    return _OMITS in getattr(hint, "__metadata__", ())


_OMITS = OmitArgPrefixes[int].__metadata__[0]  # type: ignore[attr-defined]


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, str | int | float | Path | tuple)


def _named(value: object) -> str:
    return str(value) if _is_plain(value) else type(value).__qualname__


def require_positive(**values: float | None) -> None:
    """Refuse numbers that are not above 0; None passes.

    Raises:
        ValueError: names the option.
    """
    for name, value in values.items():
        if value is not None and not value > 0:
            option = name.replace("_", "-")
            raise ValueError(f"--{option}: expected a number above 0; got {value}")


def require_not_negative(**values: float | None) -> None:
    """Refuse numbers below 0; None passes.

    Raises:
        ValueError: names the option.
    """
    for name, value in values.items():
        if value is not None and not value >= 0:
            option = name.replace("_", "-")
            raise ValueError(f"--{option}: expected a number of at least 0; got {value}")
