"""Draws a split file for a folder of scans: `activemri data split PATH`."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg

from activemri.data.folds import Strata, count_strata, stratified_splits
from activemri.data.formats.registry import all_readers
from activemri.data.index import Index, index_path
from activemri.data.splits import SPLIT_FILES, split_of_name
from activemri.options import require_not_negative
from activemri.tables import format_table


@dataclass(frozen=True)
class SplitSettings:
    """Draw which subjects train, validate and test (70 : 15 : 15), and write a split file."""

    path: Positional[Path]
    """A folder of scans."""
    stratify: Literal["contrast", "field-strength", "scanner"] | None = None
    """Balance the slices of every contrast, field strength or scanner over the splits."""
    out: Annotated[Path | None, arg(metavar="PATH")] = None
    """File to write; None means splits.json in the folder, where every command finds it."""
    redraw: FlagCreatePairsOff[bool] = False
    """Draw although the data name splits of their own."""
    seed: int = 0
    """Seed of the draw."""

    def __post_init__(self) -> None:
        require_not_negative(seed=self.seed)


def draw_split_file(settings: SplitSettings) -> str:
    """Draw, write and describe the splits of a folder's subjects.

    Returns:
        A table: subjects and slices of every split, by label where it is stratified.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if the file is there already, the data name splits of their own and `redraw`
            is off, or no file says what to stratify by.
    """
    root = settings.path.expanduser()
    if root.is_file():
        raise ValueError(f"expected a folder of scans; {root} is a file")
    out = root / SPLIT_FILES[0] if settings.out is None else settings.out.expanduser()
    if out.exists():
        raise ValueError(f"{out} is there already; remove it, or choose another --out")
    index = index_path(root, all_readers())
    if not settings.redraw:
        _refuse_named_splits(index)
    volumes = [(entry.volume, entry.volume.n_slices) for entry in index.entries]
    subjects = {volume.subject for volume, _ in volumes}
    strata = None if settings.stratify is None else count_strata(volumes, settings.stratify)
    splits = stratified_splits(subjects, seed=settings.seed, strata=strata)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(splits, indent=2) + "\n", encoding="utf-8")
    slices = {s: Counter[str]() for s in subjects}
    for volume, n_slices in volumes:
        slices[volume.subject]["slices"] += n_slices
    return f"{_table(splits, strata or slices)}\n\n{out}"


def _refuse_named_splits(index: Index) -> None:
    """A test split that was published must not be drawn away by accident."""
    found = next((index.root / n for n in SPLIT_FILES if (index.root / n).is_file()), None)
    if found is not None:
        raise ValueError(f"the data have splits already: {found}; --redraw draws others")
    for entry in index.entries:
        split = entry.volume.split or split_of_name(entry.file, index.root)
        if split is not None:
            raise ValueError(
                f"the data name splits themselves ({entry.file}: {split}); --redraw draws others"
            )


def _table(splits: Mapping[str, str], strata: Strata) -> str:
    labels = sorted({label for counts in strata.values() for label in counts})
    lines = []
    for split in ("train", "val", "test"):
        members = [subject for subject, where in splits.items() if where == split]
        total = sum((Counter(strata[subject]) for subject in members), Counter[str]())
        lines.append((split, len(members), *(total[label] for label in labels)))
    return format_table(("split", "subjects", *labels), lines)
