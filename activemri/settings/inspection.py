"""Settings of the commands that look at data."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from activemri.settings.fields import (
    Flag,
    Label,
    OptionalInt,
    require,
    require_not_negative,
)

MOST_COILS = 32


@dataclass(frozen=True)
class InspectSettings:
    """List the files, subjects, shapes, contrasts, empty columns and problems of a data folder."""

    path: Positional[Path]
    """A folder of scans, or one file."""
    split_file: Annotated[Path | None, arg(metavar="PATH")] = None
    """JSON or CSV file with the split of every subject."""
    files: Flag = False
    """List every file with its subject, however many there are."""


@dataclass(frozen=True)
class CardSettings:
    """Write a data-set card in Markdown: subjects, contrasts, field strengths, splits, problems."""

    path: Positional[Path]
    """A folder of scans, or one file."""
    out: Annotated[Path | None, arg(metavar="PATH")] = None
    """Where to write; None prints it."""
    split_file: Annotated[Path | None, arg(metavar="PATH")] = None
    """JSON or CSV file with the split of every subject."""


@dataclass(frozen=True)
class ConvertSettings:
    """Write scans of any readable format in the layout that is read fastest.

    Finished files are kept, so that an interrupted conversion can be started again.
    """

    path: Positional[Path]
    """A folder of scans, or one file."""
    out: Annotated[Path, arg(metavar="PATH")]
    """Folder for the converted files; made if missing."""
    split_file: Annotated[Path | None, arg(metavar="PATH")] = None
    """JSON or CSV file with the split of every subject, which the files then name."""
    coils: OptionalInt = None
    """Let scans of one coil be seen by this many simulated coils, each with noise of its own."""

    def __post_init__(self) -> None:
        require(
            self.coils is None or 2 <= self.coils <= MOST_COILS,
            f"--coils: expected 2 to {MOST_COILS} coils to simulate; got {self.coils}",
        )


@dataclass(frozen=True)
class SplitSettings:
    """Draw which subjects train, validate and test (70 : 15 : 15), and write a split file."""

    path: Positional[Path]
    """A folder of scans."""
    stratify: Label | None = None
    """Balance the slices of every contrast, field strength or scanner over the splits."""
    out: Annotated[Path | None, arg(metavar="PATH")] = None
    """Where to write; None means splits.json in the folder, where every command finds it."""
    redraw: Flag = False
    """Draw although the data name splits of their own."""
    seed: int = 0
    """Seed of the draw."""

    def __post_init__(self) -> None:
        require_not_negative(seed=self.seed)
