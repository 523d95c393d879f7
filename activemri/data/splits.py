"""Splits and folds, by subject: none is ever divided.

In order of precedence, a split is given by

1. a split file of the user, or `splits.json` / `splits.csv` in the data folder: subject -> split.
   Subjects that it does not list form the split "unlisted", so that they leak nowhere;
2. the files themselves (HDF5 attribute `split`);
3. the name of the file or of a folder that ends in train, val or test (`singlecoil_train`);
4. a seeded draw by subject, 70 : 15 : 15. It goes by a hash of the subject, so that it is the same
   on every machine and hardly changes when subjects are added.

Any other name found in 1 and 2 (e.g. "ood") is a split too. "all" is every subject.

`activemri data split PATH` draws a split file. Strata are counted in slices, which scores are
averaged over: a subject with 30 T1 and 10 T2 slices adds 30 to one contrast and 10 to the other.
"""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg

from activemri import files
from activemri.data.formats.registry import all_readers
from activemri.data.index import Entry, index_path
from activemri.data.readers import Volume
from activemri.data.slices import SliceInfo
from activemri.options import require_not_negative
from activemri.tables import Table

Strata = Mapping[str, Mapping[str, int]]  # subject: label: number of slices
Fold = tuple[tuple[str, ...], tuple[str, ...]]  # subjects to learn from, and to choose weights by

ALL = "all"
UNLISTED = "unlisted"
SPLIT_FILES = ("splits.json", "splits.csv")
USUAL = ("train", "val", "test")
SHARES = {"val": 0.15, "test": 0.15}  # the rest is for training
SYNONYMS = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}
NAME_ENDING = re.compile(
    r"(?:^|[_\-. ])(train|training|val|valid|validation|test|testing)(?:_v\d+|_full)?$", re.I
)
UNKNOWN = "unknown"


@dataclass(frozen=True)
class SplitSettings:
    """Draw which subjects train, validate and test (70 : 15 : 15), and write a split file."""

    path: Positional[Path]
    """A folder of scans."""
    stratify: Literal["contrast", "field-strength", "scanner"] | None = None
    """Balance the slices of every contrast, field strength or scanner over the splits."""
    out: Annotated[Path | None, arg(metavar="PATH")] = None
    """Where to write; None means splits.json in the folder, where every command finds it."""
    overwrite: FlagCreatePairsOff[bool] = False
    """Replace the file where it is there already."""
    redraw: FlagCreatePairsOff[bool] = False
    """Draw although the data name splits of their own."""
    seed: int = 0
    """Seed of the draw."""

    def __post_init__(self) -> None:
        require_not_negative(seed=self.seed)


def assign_splits(
    entries: Sequence[Entry], root: Path, *, split_file: Path | None = None, seed: int = 0
) -> dict[str, str]:
    """The split of every subject.

    Raises:
        ValueError: if a subject is in two splits, or the split file cannot be understood.
    """
    subjects = sorted({entry.volume.subject for entry in entries})
    split_file = split_file or _file_in(root)
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
        ValueError: if there is no such split, with those that there are, and their sizes.
    """
    if split == ALL:
        return list(entries)
    chosen = [entry for entry in entries if splits[entry.volume.subject] == split]
    if not chosen:
        subjects = Counter(splits[s] for s in {entry.volume.subject for entry in entries})
        volumes = Counter(splits[entry.volume.subject] for entry in entries)
        found = [
            f"{name} ({subjects[name]} subjects, {volumes[name]} volumes)"
            for name in sorted(subjects, key=usual_order)
        ]
        raise ValueError(f"no split {split!r}; expected one of: {', '.join([*found, ALL])}")
    return chosen


def read_split_file(path: Path) -> dict[str, str]:
    """Subject -> split, out of a JSON object or a CSV file with the columns subject and split."""
    try:
        if path.suffix.lower() == ".csv":
            rows = files.read_csv(path, ("subject", "split"))
            pairs = [(row["subject"].strip(), row["split"].strip()) for _, row in rows]
        else:
            # Pairs, because a plain dict would keep the last of two entries silently.
            if not all(isinstance(split, str) for split in files.read_json(path).values()):
                raise ValueError(f'{path}: expected {{"subject": "split", ...}}')
            pairs = files.parse_json(path.read_bytes(), str(path), pairs=True)
    except OSError as error:
        raise ValueError(f"split file {path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ValueError(f"split file {error}") from error
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
    order = iter(_drawn_order(subjects, seed))
    sizes = _split_sizes(len(subjects))
    return {subject: split for split, size in sizes.items() for subject in islice(order, size)}


def usual_order(name: str) -> tuple[int, str]:
    """Sorts train, val, test first, then the rest by name."""
    return (USUAL.index(name) if name in USUAL else len(USUAL), name)


def k_fold(
    subjects: Iterable[str], k: int, *, seed: int, strata: Strata | None = None
) -> list[Fold]:
    """k folds in which every subject validates once; they differ by at most one subject.

    Order and repetitions of the subjects do not matter. The labels of `strata` are balanced over
    the folds, see :func:`strata_of`.

    Raises:
        ValueError: if there are not 2 to as many folds as subjects.
    """
    names = set(subjects)
    if not 2 <= k <= len(names):
        raise ValueError(f"expected 2 folds up to one for each of {len(names)} subjects; got {k}")
    sizes = [len(names) // k + (fold < len(names) % k) for fold in range(k)]
    dealt = _deal(names, sizes, seed=seed, strata=strata)
    return [(tuple(sorted(names - {*some})), tuple(sorted(some))) for some in dealt]


def leave_one_subject_out(subjects: Iterable[str]) -> list[Fold]:
    """As many folds as subjects, in their order: each validates alone."""
    names = set(subjects)
    if len(names) < 2:
        raise ValueError(f"expected at least 2 subjects to leave one out; got {len(names)}")
    return [(tuple(sorted(names - {name})), (name,)) for name in sorted(names)]


def stratified_splits(
    subjects: Iterable[str], *, seed: int, strata: Strata | None = None
) -> dict[str, str]:
    """As :func:`draw_splits`, with strata balanced over the splits."""
    names = set(subjects)
    sizes = _split_sizes(len(names))
    dealt = _deal(names, list(sizes.values()), seed=seed, strata=strata)
    return {
        name: split for split, members in zip(sizes, dealt, strict=True) for name in sorted(members)
    }


def strata_of(scans: Iterable[SliceInfo | Volume], by: str) -> dict[str, Counter[str]]:
    """Slices of every subject by "contrast", "field-strength" or "scanner".

    Raises:
        ValueError: if there is no such label, or no scan says it.
    """
    if by not in LABELS:
        raise ValueError(f"cannot stratify by {by!r}; expected one of {', '.join(LABELS)}")
    strata: dict[str, Counter[str]] = {}
    for scan in scans:
        n_slices = scan.n_slices if isinstance(scan, Volume) else 1
        strata.setdefault(scan.subject, Counter())[LABELS[by](scan)] += n_slices
    if all(set(counts) == {UNKNOWN} for counts in strata.values()):
        raise ValueError(f"cannot stratify by {by}: the files do not say it")
    return strata


def draw_split_file(settings: SplitSettings) -> str:
    """Draw and write the splits of a folder's subjects; gives a table of their slices.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if the file is there already, the data name splits of their own and `redraw`
            is off, or no file says what to stratify by.
    """
    root = files.expanded(settings.path)
    if root.is_file():
        raise ValueError(f"expected a folder of scans; {root} is a file")
    out = root / SPLIT_FILES[0] if settings.out is None else files.expanded(settings.out)
    files.require_free(out, overwrite=settings.overwrite)
    index = index_path(root, all_readers())
    if not settings.redraw:  # a published test split must not be drawn away by accident
        if found := _file_in(root):
            raise ValueError(f"the data have splits already: {found}; --redraw draws others")
        for entry in index.entries:
            split = entry.volume.split or split_of_name(entry.file, index.root)
            if split is not None:
                raise ValueError(
                    f"the data name splits themselves ({entry.file}: {split}); "
                    "--redraw draws others"
                )
    volumes = [entry.volume for entry in index.entries]
    subjects = {volume.subject for volume in volumes}
    strata = None if settings.stratify is None else strata_of(volumes, settings.stratify)
    splits = stratified_splits(subjects, seed=settings.seed, strata=strata)
    files.write_json(out, splits)
    if strata is None:
        strata = {subject: Counter[str]() for subject in subjects}
        for volume in volumes:
            strata[volume.subject]["slices"] += volume.n_slices
    labels = sorted({label for counts in strata.values() for label in counts})
    lines = []
    for split in USUAL:
        members = [subject for subject, where in splits.items() if where == split]
        totals = (sum(strata[subject][label] for subject in members) for label in labels)
        lines.append((split, len(members), *totals))
    return f"{Table(('split', 'subjects', *labels), lines).text()}\n\n{out}"


def _file_in(root: Path) -> Path | None:
    return next((root / name for name in SPLIT_FILES if (root / name).is_file()), None)


def _drawn_order(subjects: Iterable[str], seed: int) -> list[str]:
    """Sort by a hash of seed and subject: the same on every machine."""

    def place(subject: str) -> bytes:
        return hashlib.blake2b(f"{seed}:{subject}".encode(), digest_size=8).digest()

    return sorted(subjects, key=place)


def _split_sizes(n_subjects: int) -> dict[str, int]:
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


def _field_strength(scan: SliceInfo | Volume) -> str:
    """Nominal field strength: scanners of "3 T" have 2.89 T, those of "1.5 T" 1.49 T."""
    tesla = scan.field_strength
    if tesla is None:
        return UNKNOWN
    return f"{round(2 * tesla) / 2 if tesla > 0.75 else round(tesla, 2):g} T"


LABELS: dict[str, Callable[[SliceInfo | Volume], str]] = {
    "contrast": lambda scan: scan.contrast,
    "field-strength": _field_strength,
    "scanner": lambda scan: scan.scanner,
}


def _deal(
    names: set[str], sizes: Sequence[int], *, seed: int, strata: Strata | None
) -> list[list[str]]:
    """Deal subjects into groups of given sizes, each label in proportion to the sizes.

    Greedy. The imbalance is the sum over groups g and labels l of (p_gl - s_g)^2 / s_g, where p_gl
    is the share of the label's slices that the group has, s_g the share of subjects it shall have.
    Each subject goes where that grows least; among equals, where most places are left.
    """
    groups: list[list[str]] = [[] for _ in sizes]
    have: list[Counter[str]] = [Counter() for _ in sizes]
    own = {name: {} for name in names} if strata is None else {n: strata[n] for n in names}
    total = sum((Counter(counts) for counts in own.values()), Counter[str]())
    shares = {  # of every subject, its part of all slices with a label
        name: {label: n / total[label] for label, n in sorted(counts.items())}
        for name, counts in own.items()
    }

    def cost(group: int, name: str) -> tuple[float, float]:
        room = sizes[group] - len(groups[group])
        if room == 0:
            return math.inf, 0.0
        grown = sum(p * (2 * have[group][label] + p) for label, p in shares[name].items())
        # Rounded, so that equal costs stay equal whatever the order of the sums.
        return round(grown * len(names) / sizes[group], 9), -room / sizes[group]

    def turn(name: str) -> tuple[float, list[tuple[str, float]]]:
        # Rare labels first. Subjects alike come one after the other: taken in turns with others,
        # the last ones would have to go where room was left.
        return -sum(shares[name].values()), list(shares[name].items())

    for name in sorted(_drawn_order(names, seed), key=turn):
        chosen = min(range(len(sizes)), key=lambda group: cost(group, name))
        groups[chosen].append(name)
        have[chosen].update(shares[name])
    return groups
