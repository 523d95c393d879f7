"""Types of settings, and what their values must be."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import FlagCreatePairsOff, arg

Data = Annotated[str, arg(metavar="phantom|phantom-multicoil|PATH")]
Names = Annotated[tuple[str, ...], arg(metavar="NAME [NAME ...]")]
KeyValues = Annotated[tuple[str, ...], arg(metavar="KEY=VALUE [KEY=VALUE ...]")]
OptionalInt = Annotated[int | None, arg(metavar="INT")]
OptionalFloat = Annotated[float | None, arg(metavar="FLOAT")]
OptionalText = Annotated[str | None, arg(metavar="TEXT")]
OptionalPath = Annotated[Path | None, arg(metavar="PATH")]
Flag = FlagCreatePairsOff[bool]
Label = Literal["contrast", "field-strength", "scanner"]


def split_at_commas(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names that were given apart from each other, also those that commas hold together.

    What has an equals sign stays: commas there belong to LABEL=PATH,PATH. So do paths that exist.
    """
    return tuple(
        part
        for name in names
        for part in ([name] if "=" in name or Path(name).exists() else name.split(","))
        if part
    )


def require_positive(**values: float | None) -> None:
    """Refuse numbers that are not above 0; None passes."""
    for name, value in values.items():
        require(
            value is None or value > 0,
            f"--{name.replace('_', '-')}: expected a number above 0; got {value}",
        )


def require_not_negative(**values: float) -> None:
    """Refuse numbers below 0."""
    for name, value in values.items():
        require(
            value >= 0, f"--{name.replace('_', '-')}: expected a number of at least 0; got {value}"
        )


def require(condition: bool, message: str) -> None:
    """Refuse settings with a message unless the condition holds."""
    if not condition:
        raise ValueError(message)
