"""New objects from arguments given as texts, ``key=value``, and from seeds."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, get_type_hints

import torch
from torch import nn

N = TypeVar("N", bound=nn.Module)


def seeded(make: Callable[[], N], seed: int) -> N:
    """A module whose first weights come from a seed; the global random state is left alone."""
    with torch.random.fork_rng(devices=[]):  # layers draw their first weights from the global state
        torch.manual_seed(seed)
        return make()


def parse_arguments(
    kind: type, words: Sequence[str], *, option: str, name: str, hidden: Sequence[str] = ()
) -> dict[str, Any]:
    """Arguments of a class from texts, in the types that the class gives them.

    Args:
        kind: whose ``__init__`` is to be called.
        words: ``key=value`` each.
        option: of the command line that they were given to, for messages.
        name: of what is made, for messages.
        hidden: arguments that cannot be given.

    Raises:
        ValueError: a word of another form, an unknown key, one given twice, or a value of another
            type; the message lists the arguments that there are.
    """
    known = _arguments(kind, hidden)
    found: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or key not in known or key in found:
            twice = " once" if key in found else ""
            raise ValueError(
                f"{option} {word}: expected key=value{twice}, with an argument of {name}: "
                + ", ".join(f"{key} ({kind.__name__})" for key, kind in known.items())
            )
        try:
            found[key] = _PARSERS[known[key]](value.strip())
        except ValueError as error:
            raise ValueError(
                f"{option} {word}: {key} of {name} takes a value of type {known[key].__name__}; "
                f"got {value.strip()!r}"
            ) from error
    return found


def _arguments(kind: type, hidden: Sequence[str]) -> Mapping[str, type]:
    """Names and types of what can be given as text."""
    hints = get_type_hints(kind.__init__)  # type: ignore[misc]
    names = [name for name in inspect.signature(kind).parameters if name not in hidden]
    return {name: hints[name] for name in names if hints.get(name) in _PARSERS}


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError
    return text.lower() == "true"


_PARSERS: dict[type, Callable[[str], object]] = {int: int, float: float, bool: _truth, str: str}
