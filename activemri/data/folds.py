"""Who trains and who validates: folds and stratified splits, by subject.

Strata are counted in slices: a subject with 30 T1 and 10 T2 slices adds 30 to one contrast and 10
to the other. So a subject of several contrasts needs no label of its own, and what is balanced is
what scores are averaged over.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from activemri.data.slices import SliceDataset
from activemri.data.splits import in_drawn_order, split_sizes

Strata = Mapping[str, Mapping[str, int]]  # subject: label: number of slices


@dataclass(frozen=True)
class Fold:
    """Subjects of one training; both sorted, none in both.

    Attributes:
        train: to learn from.
        validation: to choose weights by, and to report.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]


class Labelled(Protocol):
    """A slice or a volume, as far as strata go."""

    @property
    def subject(self) -> str: ...
    @property
    def contrast(self) -> str: ...
    @property
    def field_strength(self) -> float | None: ...
    @property
    def scanner(self) -> str: ...


def k_fold(
    subjects: Iterable[str], k: int, *, seed: int, strata: Strata | None = None
) -> list[Fold]:
    """Every subject validates once; folds differ by at most one subject.

    Args:
        subjects: who may train and validate. The order and repetitions do not matter.
        k: number of folds, at least 2.
        seed: of the draw, which is the same on every machine.
        strata: balance these labels over the folds; see :func:`strata_of`. Subjects with large
            shares of a label are dealt first, each to where its labels are short.

    Raises:
        ValueError: if there are not 2 to as many folds as subjects.
    """
    names = set(subjects)
    if not 2 <= k <= len(names):
        raise ValueError(f"expected 2 folds up to one for each of {len(names)} subjects; got {k}")
    sizes = [len(names) // k + (fold < len(names) % k) for fold in range(k)]
    return [_fold(names, dealt) for dealt in _deal(names, sizes, seed=seed, strata=strata)]


def leave_one_subject_out(subjects: Iterable[str]) -> list[Fold]:
    """As many folds as subjects, in their order: each validates alone.

    Raises:
        ValueError: if there are fewer than two subjects.
    """
    names = set(subjects)
    if len(names) < 2:
        raise ValueError(f"expected at least 2 subjects to leave one out; got {len(names)}")
    return [_fold(names, [name]) for name in sorted(names)]


def stratified_splits(
    subjects: Iterable[str], *, seed: int, strata: Strata | None = None
) -> dict[str, str]:
    """Draw train, val and test with strata balanced over them: subject -> split.

    Sizes are those of :func:`activemri.data.splits.draw_splits`.
    """
    names = set(subjects)
    sizes = split_sizes(len(names))
    dealt = _deal(names, list(sizes.values()), seed=seed, strata=strata)
    return {
        name: split for split, members in zip(sizes, dealt, strict=True) for name in sorted(members)
    }


def strata_of(dataset: SliceDataset, by: str) -> dict[str, Counter[str]]:
    """Slices of every subject by label, without reading them.

    Args:
        dataset: of all subjects.
        by: "contrast", "field-strength" or "scanner".

    Raises:
        ValueError: if there is no such label, or no slice says it.
    """
    return count_strata(((dataset.describe(i), 1) for i in range(len(dataset))), by)


def count_strata(scans: Iterable[tuple[Labelled, int]], by: str) -> dict[str, Counter[str]]:
    """As :func:`strata_of`, from anything labelled and how many slices it stands for."""
    if by not in LABELS:
        raise ValueError(f"cannot stratify by {by!r}; expected one of {', '.join(LABELS)}")
    strata: dict[str, Counter[str]] = {}
    for scan, n_slices in scans:
        strata.setdefault(scan.subject, Counter())[LABELS[by](scan)] += n_slices
    if all(set(counts) == {UNKNOWN} for counts in strata.values()):
        raise ValueError(f"cannot stratify by {by}: the files do not say it")
    return strata


UNKNOWN = "unknown"


def _field_strength(scan: Labelled) -> str:
    """Nominal field strength: scanners of "3 T" have 2.89 T, those of "1.5 T" 1.49 T."""
    tesla = scan.field_strength
    if tesla is None:
        return UNKNOWN
    return f"{round(2 * tesla) / 2 if tesla > 0.75 else round(tesla, 2):g} T"


LABELS: dict[str, Callable[[Labelled], str]] = {
    "contrast": lambda scan: scan.contrast,
    "field-strength": _field_strength,
    "scanner": lambda scan: scan.scanner,
}


def _fold(names: set[str], validation: Sequence[str]) -> Fold:
    return Fold(tuple(sorted(names - set(validation))), tuple(sorted(validation)))


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
    shares = _shares(names, strata)

    def cost(group: int, name: str) -> tuple[float, float]:
        room = sizes[group] - len(groups[group])
        if room == 0:
            return math.inf, 0.0
        grown = sum(p * (2 * have[group][label] + p) for label, p in shares[name].items())
        # Rounded, so that equal costs stay equal whatever the order of the sums.
        return round(grown * len(names) / sizes[group], 9), -room / sizes[group]

    order = in_drawn_order(names, seed)

    def turn(name: str) -> tuple[float, list[tuple[str, float]]]:
        # Rare labels first. Subjects alike come one after the other: taken in turns with others,
        # the last ones would have to go where room was left.
        return -sum(shares[name].values()), list(shares[name].items())

    for name in sorted(order, key=turn):
        chosen = min(range(len(sizes)), key=lambda group: cost(group, name))
        groups[chosen].append(name)
        have[chosen].update(shares[name])
    return groups


def _shares(names: set[str], strata: Strata | None) -> dict[str, dict[str, float]]:
    """Of every subject, its part of all slices with a label."""
    if strata is None:
        return {name: {} for name in names}
    total: Counter[str] = Counter()
    for name in names:
        total.update(strata[name])
    return {
        name: {label: n / total[label] for label, n in sorted(strata[name].items())}
        for name in names
    }
