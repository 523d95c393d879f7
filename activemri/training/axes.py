"""Options of a command that are varied, as short texts: ``lr=1e-4:1e-2:log``, ``loss=l1|ssim``."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from activemri.options import FREE, flat, is_bare


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


def parse_axis(word: str, settings: Any) -> tuple[str, Range | tuple[str, ...]]:
    """Key and values of an axis: ``key=a|b|c``, ``key=low:high`` or ``key=low:high:log``.

    Args:
        word: text.
        settings: that will be changed.

    Raises:
        ValueError: a text that is neither, an unknown key, or a value that its setting refuses.
    """
    key, equals, text = (part.strip() for part in word.partition("="))
    key = key.removeprefix("--").replace("-", "_")
    if not equals or not text:
        raise ValueError(f"--vary {word}: expected KEY=A|B|C, KEY=LOW:HIGH or KEY=LOW:HIGH:log")
    known = {name: value for name, value, _ in flat(settings)}
    if key not in known or key in FREE:
        raise ValueError(
            f"--vary {word}: cannot vary {key!r}; expected one of "
            f"{', '.join(name for name in known if name not in FREE)}"
        )
    match = re.fullmatch(r"([^:|]+):([^:|]+)(:log)?", text)
    try:
        if match is None:
            values = tuple(value.strip() for value in text.split("|"))
            for value in values:
                with_values(settings, {key: value})
            return key, values
        low, high = match.group(1, 2)
        whole = isinstance(known[key], int)
        edges = [float(int(edge)) if whole else float(edge) for edge in (low, high)]
        if not edges[0] < edges[1] < math.inf or (match.group(3) and edges[0] <= 0):
            above = " above 0" if match.group(3) else ""
            raise ValueError(f"expected a smaller and a larger number{above}")
        for edge in (low, high):
            with_values(settings, {key: edge.strip()})
    except ValueError as error:
        raise ValueError(f"--vary {word}: {error}") from None
    return key, Range(edges[0], edges[1], match.group(3) is not None, whole)


def with_values(settings: Any, values: Mapping[str, object]) -> Any:
    """The settings with other values.

    Args:
        settings: of a command.
        values: by option, e.g. "network.channels"; texts are read as the option's type.

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
        settings = _with_value(settings, key, values[key], known[key])
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
        if is_bare(hints[field.name]) and any(f.name == name for f in fields(current)):
            return replace(settings, **{field.name: _with_value(current, key, value, now)})
    raise ValueError(f"unknown option {key!r}")


def _typed(value: object, hint: Any) -> object:
    """A text as a type says it; anything else as it is."""
    if not isinstance(value, str):
        return value
    kinds = list(_plain(hint))
    if type(None) in kinds and value == "None":
        return None
    if tuple in kinds:
        return tuple(value.split(","))
    if bool in kinds:
        if value.lower() not in ("true", "false"):
            raise ValueError(f"expected true or false; got {value}")
        return value.lower() == "true"
    for kind in (int, float, Path):
        if kind in kinds and str not in kinds:
            return kind(value)
    return value


def _plain(hint: Any) -> Iterator[Any]:
    """The plain types that an annotation allows."""
    origin = get_origin(hint)
    if origin is Annotated:
        yield from _plain(get_args(hint)[0])
    elif origin is UnionType or str(origin) == "typing.Union":
        for one in get_args(hint):
            yield from _plain(one)
    else:
        yield str if origin is Literal else origin or hint
