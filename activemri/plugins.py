"""Names, and what they stand for: entries of a registry, or ``package.module:object``."""

import os
import sys
from collections.abc import Callable, Mapping
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


def made_of(
    found: Any, kind: type[T] | tuple[type[T], ...], *, what: str, make: Callable[[Any], Any]
) -> T:
    """The object found, or else one made of it; a ValueError says that neither is of the kind."""
    made = found if isinstance(found, kind) else make(found) if callable(found) else found
    if not isinstance(made, kind):
        names = kind.__name__ if isinstance(kind, type) else " or ".join(k.__name__ for k in kind)
        raise ValueError(
            f"{what}: expected a {names}, or a function that makes one; got {type(made).__name__}"
        )
    return made
