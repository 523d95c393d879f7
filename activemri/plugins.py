"""Names, and what they stand for: entries of a registry, or ``package.module:object``."""

import os
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any, TypeVar

T = TypeVar("T")


def find(name: str, registry: Mapping[str, T], *, what: str, more: str = "") -> T:
    """The entry of that name, or the object that ``package.module:object`` names.

    Raises:
        ValueError: for an unknown name, or an object that cannot be imported; `what` is the noun
            for that, e.g. "policy", and `more` says what else the caller takes.
    """
    if name in registry:
        return registry[name]
    if is_object_path(name):
        return load(name, what=what)  # type: ignore[no-any-return]
    raise ValueError(
        f"unknown {what} {name!r}; choose from {', '.join(registry)}, or give "
        f"package.module:object{more}"
    )


def load(path: str, *, what: str) -> Any:
    """The object at ``package.module:object``; a ValueError says why it cannot be imported."""
    module, _, name = path.partition(":")
    found = load_module(module, what=what)
    try:
        for part in name.split("."):
            found = getattr(found, part)
    except AttributeError as error:
        raise ValueError(f"{what} {path!r} cannot be imported: {error}") from error
    return found


def load_module(module: str, *, what: str) -> Any:
    """A module of the user's own, which may lie in the working directory; errors as above."""
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return import_module(module)
    except (ImportError, SyntaxError) as error:
        raise ValueError(f"{what} {module!r} cannot be imported: {error}") from error


def is_object_path(name: str) -> bool:
    """A text has the form ``package.module:object``."""
    module, colon, attribute = name.partition(":")
    words = [*module.split("."), *attribute.split(".")]
    return bool(colon) and all(word.isidentifier() for word in words)
