"""Which subject is for training, validation or testing. Splits never divide a subject.

In order of precedence:

1. a split file given by the user, or `splits.json` / `splits.csv` in the data folder: subject ->
   split. Subjects that it does not list form the split "unlisted", so that they leak nowhere;
2. what the files themselves say (HDF5 attribute `split`);
3. the name of the file or of a folder that ends in train, val or test (`singlecoil_train`);
4. a seeded draw by subject, 70 : 15 : 15. It goes by a hash of the subject, so that it is the same
   on every machine and hardly changes when subjects are added.

Any other name found in 1 and 2 (e.g. "ood") is a split too. "all" is every subject.
"""

import csv
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath

from activemri.data.index import Entry

ALL = "all"
UNLISTED = "unlisted"
SPLIT_FILES = ("splits.json", "splits.csv")
SHARES = {"val": 0.15, "test": 0.15}  # the rest is for training
SYNONYMS = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}
NAME_ENDING = re.compile(
    r"(?:^|[_\-. ])(train|training|val|valid|validation|test|testing)(?:_v\d+|_full)?$",
    flags=re.IGNORECASE,
)


def assign_splits(
    entries: Sequence[Entry], root: Path, *, split_file: Path | None = None, seed: int = 0
) -> dict[str, str]:
    """The split of every subject.

    Args:
        entries: files of an index.
        root: the index's root; its own name counts as a folder's name.
        split_file: JSON object or CSV (columns subject, split).
        seed: of the draw.

    Raises:
        ValueError: if a subject is in two splits, or the split file cannot be understood.
    """
    subjects = sorted({entry.volume.subject for entry in entries})
    if split_file is None:
        split_file = next((root / n for n in SPLIT_FILES if (root / n).is_file()), None)
    if split_file is not None:
        listed = read_split_file(split_file)
        return {subject: listed.get(subject, UNLISTED) for subject in subjects}
    splits = _one_split_each((e, e.volume.split) for e in entries)
    without = [e for e in entries if e.volume.subject not in splits]
    splits |= _one_split_each((e, split_of_name(e.file, root)) for e in without)
    return splits | draw_splits([s for s in subjects if s not in splits], seed)


def select(entries: Sequence[Entry], splits: Mapping[str, str], split: str) -> list[Entry]:
    """The files of one split.

    Raises:
        ValueError: if there is no such split, with those that there are.
    """
    if split == ALL:
        return list(entries)
    chosen = [entry for entry in entries if splits[entry.volume.subject] == split]
    if not chosen:
        raise ValueError(f"no split {split!r}; expected one of: {describe_splits(entries, splits)}")
    return chosen


def describe_splits(entries: Sequence[Entry], splits: Mapping[str, str]) -> str:
    """The splits with their numbers of subjects and volumes, in one line."""
    subjects = Counter(splits[s] for s in {entry.volume.subject for entry in entries})
    volumes = Counter(splits[entry.volume.subject] for entry in entries)
    found = [
        f"{name} ({subjects[name]} subjects, {volumes[name]} volumes)"
        for name in sorted(subjects, key=usual_order)
    ]
    return ", ".join([*found, ALL])


def read_split_file(path: Path) -> dict[str, str]:
    """Subject -> split, out of a JSON object or a CSV file with the columns subject and split.

    Raises:
        ValueError: if it is neither, or has a subject in two splits.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"split file {path} cannot be read: {error}") from error
    pairs = _csv_pairs(text, path) if path.suffix.lower() == ".csv" else _json_pairs(text, path)
    splits: dict[str, str] = {}
    for subject, split in pairs:
        if splits.setdefault(subject, split) != split:
            raise ValueError(f"split file {path}: {subject!r} is in {splits[subject]} and {split}")
    return splits


def split_of_name(file: str, root: Path) -> str | None:
    """The split that a file's name, or the nearest folder's, ends in."""
    path = PurePosixPath(file)
    for name in (path.stem, *(p.name for p in path.parents if p.name), root.resolve().name):
        if match := NAME_ENDING.search(name):
            ending = match.group(1).lower()
            return SYNONYMS.get(ending, ending)
    return None


def draw_splits(subjects: Sequence[str], seed: int) -> dict[str, str]:
    """Draw splits; from three subjects on no split is empty."""
    order = iter(in_drawn_order(subjects, seed))
    sizes = split_sizes(len(subjects))
    return {subject: split for split, size in sizes.items() for subject in islice(order, size)}


def in_drawn_order(subjects: Iterable[str], seed: int) -> list[str]:
    """Sort by a hash of seed and subject: the same on every machine."""

    def place(subject: str) -> bytes:
        return hashlib.blake2b(f"{seed}:{subject}".encode(), digest_size=8).digest()

    return sorted(subjects, key=place)


def split_sizes(n_subjects: int) -> dict[str, int]:
    """Number of subjects that a draw gives to val, test and train."""
    enough = n_subjects >= 3
    sizes = {name: max(round(share * n_subjects), 1) * enough for name, share in SHARES.items()}
    return {**sizes, "train": n_subjects - sum(sizes.values())}


def _one_split_each(found: Iterable[tuple[Entry, str | None]]) -> dict[str, str]:
    splits: dict[str, tuple[str, str]] = {}
    for entry, split in found:
        if split is None:
            continue
        first, file = splits.setdefault(entry.volume.subject, (split, entry.file))
        if first != split:
            raise ValueError(
                f"subject {entry.volume.subject!r} is in two splits: {first} ({file}) and {split} "
                f"({entry.file}); a split file ({SPLIT_FILES[0]}) can settle it"
            )
    return {subject: split for subject, (split, _) in splits.items()}


def _json_pairs(text: str, path: Path) -> list[tuple[str, str]]:
    try:
        # Pairs, because a plain dict would keep the last of two entries silently.
        pairs = json.loads(text, object_pairs_hook=list)
    except ValueError as error:
        raise ValueError(f"split file {path} is not JSON: {error}") from error
    if not text.lstrip().startswith("{") or not all(isinstance(v, str) for _, v in pairs):
        raise ValueError(f'split file {path}: expected {{"subject": "split", ...}}')
    return [(str(subject), str(split)) for subject, split in pairs]


def _csv_pairs(text: str, path: Path) -> list[tuple[str, str]]:
    rows = list(csv.DictReader(text.splitlines()))
    if not rows or not {"subject", "split"} <= set(rows[0]):
        raise ValueError(
            f"split file {path}: expected a header line with the columns subject,split"
        )
    return [((row["subject"] or "").strip(), (row["split"] or "").strip()) for row in rows]


def usual_order(name: str) -> tuple[int, str]:
    """Sorts train, val, test first, then the rest by name."""
    usual = ("train", "val", "test")
    return (usual.index(name) if name in usual else len(usual), name)
