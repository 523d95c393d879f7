"""Folds and stratified splits, by subject."""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from activemri.data.slices import Slice, SliceList
from activemri.data.splits import (
    Fold,
    draw_splits,
    k_fold,
    leave_one_subject_out,
    strata_of,
    stratified_splits,
)

Strata = Mapping[str, Mapping[str, int]]

names = st.lists(st.text(min_size=1), unique=True, min_size=2, max_size=40)
labels = st.lists(st.sampled_from("xyz"), min_size=2, max_size=40)


def assert_everyone_validates_once(folds: Sequence[Fold], subjects: Sequence[str]) -> None:
    assert sorted(s for fold in folds for s in fold.validation) == sorted(subjects)
    for fold in folds:
        assert sorted(fold.train + fold.validation) == sorted(subjects)
        assert (list(fold.train), list(fold.validation)) == (
            sorted(fold.train),
            sorted(fold.validation),
        )


@given(names, st.integers(2, 40), st.integers())
def test_every_subject_validates_once_in_folds_of_equal_size(
    subjects: list[str], k: int, seed: int
) -> None:
    k = min(k, len(subjects))
    folds = k_fold(subjects, k, seed=seed)
    assert len(folds) == k
    assert_everyone_validates_once(folds, subjects)
    sizes = [len(fold.validation) for fold in folds]
    assert max(sizes) - min(sizes) <= 1


@given(names, st.randoms(), st.integers())
def test_folds_depend_on_the_names_and_the_seed_only(subjects: list[str], random, seed) -> None:  # type: ignore[no-untyped-def]
    shuffled = [*subjects, subjects[0]]
    random.shuffle(shuffled)
    strata = {name: {"x": 1 + len(name), "y": 2} for name in subjects}
    assert k_fold(shuffled, 2, seed=seed) == k_fold(subjects, 2, seed=seed)
    assert k_fold(shuffled, 2, seed=seed, strata=strata) == k_fold(
        subjects, 2, seed=seed, strata=strata
    )


def test_another_seed_draws_other_folds() -> None:
    subjects = [str(number) for number in range(12)]
    drawn = {tuple(k_fold(subjects, 3, seed=seed)) for seed in range(20)}
    assert len(drawn) == 20


@given(labels, st.integers(2, 6), st.integers())
@example(list("xxxxxyyzzzzz"), 3, 1)
def test_subjects_of_one_label_each_are_balanced_as_well_as_whole_subjects_can_be(
    labels: list[str], k: int, seed: int
) -> None:
    k = min(k, len(labels))
    strata = {f"s{number}": {label: 5} for number, label in enumerate(labels)}
    folds = k_fold(strata, k, seed=seed, strata=strata)
    assert_everyone_validates_once(folds, sorted(strata))
    sizes = [len(fold.validation) for fold in folds]
    assert max(sizes) - min(sizes) <= 1
    for label in set(labels):
        counts = [sum(label in strata[s] for s in fold.validation) for fold in folds]
        assert max(counts) - min(counts) <= 1


def imbalance(folds: Sequence[Fold], strata: Strata) -> float:
    """Sum over folds and labels of the squared distance of the label's share from 1 / k."""
    total = sum((Counter(counts) for counts in strata.values()), Counter())
    found = [sum((Counter(strata[s]) for s in f.validation), Counter()) for f in folds]
    return sum(
        (counts[label] / total[label] - 1 / len(folds)) ** 2 for counts in found for label in total
    )


def best_imbalance(strata: Strata, k: int) -> float:
    """A second, slower way: try every way to deal the subjects into k equal folds."""
    names = sorted(strata)
    best = float("inf")
    for dealt in itertools.product(range(k), repeat=len(names)):
        if max(Counter(dealt).values()) - min(dealt.count(f) for f in range(k)) <= 1:
            folds = [
                Fold((), tuple(n for n, g in zip(names, dealt, strict=True) if g == f))
                for f in range(k)
            ]
            best = min(best, imbalance(folds, strata))
    return best


MIXED = {
    "a": {"T1": 30, "T2": 10},
    "b": {"T1": 25},
    "c": {"T2": 12},
    "d": {"T1": 5, "T2": 5, "PD": 20},
    "e": {"PD": 18},
    "f": {"T2": 30},
    "g": {"T1": 28},
}


def test_subjects_of_several_labels_are_balanced_nearly_as_well_as_any_way_can() -> None:
    best = best_imbalance(MIXED, 2)
    stratified = [imbalance(k_fold(MIXED, 2, seed=s, strata=MIXED), MIXED) for s in range(10)]
    plain = [imbalance(k_fold(MIXED, 2, seed=s), MIXED) for s in range(10)]
    assert max(stratified) < best + 0.05
    assert sum(plain) / 10 > 5 * max(stratified)


def test_large_subjects_are_dealt_first_so_that_small_ones_even_them_out() -> None:
    strata = {name: {"T1": n} for name, n in zip("abcd", (30, 20, 20, 10), strict=True)}
    for seed in range(10):
        for fold in k_fold(strata, 2, seed=seed, strata=strata):
            assert sum(strata[name]["T1"] for name in fold.validation) == 40


def test_leaving_one_out_gives_every_subject_a_fold() -> None:
    folds = leave_one_subject_out(["b", "c", "a", "b"])
    assert folds == [Fold(("b", "c"), ("a",)), Fold(("a", "c"), ("b",)), Fold(("a", "b"), ("c",))]


@pytest.mark.parametrize("k", [-1, 0, 1, 4])
def test_a_number_of_folds_that_makes_no_sense_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match=f"2 folds up to one for each of 3 subjects; got {k}"):
        k_fold(["a", "b", "c"], k, seed=0)


def test_one_subject_cannot_be_left_out() -> None:
    with pytest.raises(ValueError, match="at least 2 subjects to leave one out; got 1"):
        leave_one_subject_out(["a", "a"])


@given(names, st.integers())
def test_stratified_splits_have_the_sizes_of_drawn_ones(subjects: list[str], seed: int) -> None:
    strata = {name: {"xyz"[len(name) % 3]: 3} for name in subjects}
    found = stratified_splits(subjects, seed=seed, strata=strata)
    assert set(found) == set(subjects)
    assert Counter(found.values()) == Counter(draw_splits(subjects, seed).values())


def test_splits_balance_a_label_that_few_have() -> None:
    strata = {f"s{n:02}": {"3 T" if n < 33 else "1.5 T": 10} for n in range(40)}
    for seed in range(5):
        found = stratified_splits(strata, seed=seed, strata=strata)
        rare = Counter(split for name, split in found.items() if "1.5 T" in strata[name])
        assert rare == {"train": 5, "val": 1, "test": 1}


def scans(*labels: tuple[str, dict[str, object]]) -> SliceList:
    return SliceList(
        [
            Slice(
                kspace=torch.ones(1, 8, 10, dtype=torch.complex64),
                target=torch.ones(8, 10),
                volume=subject,
                index=0,
                subject=subject,
                volume_max=1.0,
                **known,  # type: ignore[arg-type]
            )
            for subject, known in labels
        ]
    )


def test_strata_count_the_slices_of_every_label() -> None:
    data = scans(
        ("a", {"contrast": "T1", "field_strength": 2.8936, "scanner": "S1"}),
        ("a", {"contrast": "T2", "field_strength": 3.0, "scanner": "S1"}),
        ("a", {"contrast": "T2"}),
        ("b", {"field_strength": 1.494}),
        ("b", {"field_strength": 0.55, "scanner": "S2"}),
    )
    assert strata_of(data, "contrast") == {"a": {"T1": 1, "T2": 2}, "b": {"unknown": 2}}
    assert strata_of(data, "field-strength") == {
        "a": {"3 T": 2, "unknown": 1},
        "b": {"1.5 T": 1, "0.55 T": 1},
    }
    assert strata_of(data, "scanner") == {
        "a": {"S1": 2, "unknown": 1},
        "b": {"S2": 1, "unknown": 1},
    }


def test_strata_that_no_file_knows_are_refused() -> None:
    data = scans(("a", {}), ("b", {}))
    with pytest.raises(ValueError, match="cannot stratify by scanner: the files do not say it"):
        strata_of(data, "scanner")
    with pytest.raises(ValueError, match="'age'; expected one of contrast, field-strength, scan"):
        strata_of(data, "age")
