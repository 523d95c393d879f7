"""Splits and folds, by subject."""

import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from activemri.data.formats.registry import all_readers
from activemri.data.index import Entry
from activemri.data.readers import Volume
from activemri.data.slices import Slice, SliceList
from activemri.data.sources import open_dataset
from activemri.data.splits import (
    Fold,
    SplitSettings,
    assign_splits,
    draw_split_file,
    draw_splits,
    k_fold,
    leave_one_subject_out,
    read_split_file,
    select,
    split_of_name,
    strata_of,
    stratified_splits,
)
from tests.data.files import write_image

NOWHERE = Path("nowhere")


def entry(file: str, subject: str, split: str | None = None) -> Entry:
    volume = Volume(
        name=Path(file).stem,
        subject=subject,
        n_slices=1,
        shape=(8, 10),
        target_shape=(8, 10),
        n_coils=1,
        split=split,
    )
    return Entry(file, all_readers()[0], volume)


subjects = st.lists(st.text(min_size=1), unique=True, max_size=60)


@given(subjects, st.integers())
def test_a_draw_puts_every_subject_in_one_split_in_the_usual_shares(
    names: list[str], seed: int
) -> None:
    splits = draw_splits(names, seed)
    assert set(splits) == set(names)
    found = list(splits.values())
    if len(names) >= 3:
        assert {"train", "val", "test"} == set(found)
    assert abs(found.count("val") - 0.15 * len(names)) <= 1
    assert abs(found.count("test") - 0.15 * len(names)) <= 1


@given(subjects, st.randoms())
def test_a_draw_depends_on_the_names_and_the_seed_only(names: list[str], random) -> None:  # type: ignore[no-untyped-def]
    shuffled = random.sample(names, len(names))
    assert draw_splits(names, 0) == draw_splits(shuffled, 0)


def test_a_draw_changes_with_the_seed() -> None:
    names = [f"s{i}" for i in range(30)]
    assert draw_splits(names, 0) != draw_splits(names, 1)


@given(subjects.filter(lambda names: len(names) >= 20), st.text(min_size=1))
def test_a_new_subject_moves_few_others(names: list[str], new: str) -> None:
    before, after = draw_splits(names, 0), draw_splits(sorted({*names, new}), 0)
    assert sum(before[name] != after[name] for name in names) <= 3


@given(
    st.lists(
        st.tuples(st.sampled_from("abcdef"), st.sampled_from(["x_train", "x_val", "y"])),
        min_size=1,
        max_size=12,
    )
)
def test_splits_never_divide_a_subject(files: list[tuple[str, str]]) -> None:
    entries = [entry(f"{folder}/{i}.h5", subject) for i, (subject, folder) in enumerate(files)]
    try:
        splits = assign_splits(entries, NOWHERE)
    except ValueError as error:
        assert "two splits" in str(error)
        folders = {(s, f) for s, f in files if f != "y"}
        assert len(folders) > len({s for s, _ in folders})
        return
    chosen = [set(e.file for e in select(entries, splits, s)) for s in set(splits.values())]
    assert sum(map(len, chosen)) == len(entries)
    assert set().union(*chosen) == {e.file for e in entries}


def test_what_a_file_says_goes_before_its_name() -> None:
    entries = [entry("x_train/1.h5", "a", "ood"), entry("x_train/2.h5", "b")]
    assert assign_splits(entries, NOWHERE) == {"a": "ood", "b": "train"}


def test_files_that_say_nothing_follow_their_subject() -> None:
    entries = [entry("1.h5", "a", "test"), entry("2.h5", "a")]
    assert assign_splits(entries, NOWHERE) == {"a": "test"}


def test_a_subject_in_two_splits_is_named_with_the_files() -> None:
    entries = [entry("1.h5", "anna", "train"), entry("2.h5", "anna", "test")]
    with pytest.raises(ValueError, match=r"'anna' is in two splits: train \(1.h5\) and test \(2"):
        assign_splits(entries, NOWHERE)


def test_a_split_file_goes_before_everything_and_settles_conflicts(tmp_path: Path) -> None:
    entries = [
        entry("1.h5", "anna", "train"),
        entry("2.h5", "anna", "test"),
        entry("3.h5", "bert", "train"),
    ]
    (tmp_path / "splits.json").write_text(json.dumps({"anna": "val", "nobody": "test"}))
    assert assign_splits(entries, tmp_path) == {"anna": "val", "bert": "unlisted"}
    (tmp_path / "mine.csv").write_text("subject,split\nanna,test\nbert,train\n")
    found = assign_splits(entries, tmp_path, split_file=tmp_path / "mine.csv")
    assert found == {"anna": "test", "bert": "train"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{", "expected JSON"),
        ("a.json", '["train"]', "expected"),
        ("a.json", "[]", "expected"),
        ("a.json", '{"a": 1}', "expected"),
        ("a.json", '{"a": "train", "a": "test"}', "'a' is in train and test"),
        ("a.csv", "who,what\na,train", "columns subject, split"),
        ("a.csv", "subject,split\na,train\na,val\n", "'a' is in train and val"),
    ],
)
def test_broken_split_files_are_explained(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        read_split_file(tmp_path / name)


def test_a_missing_split_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone\.json cannot be read"):
        assign_splits([entry("1.h5", "a")], tmp_path, split_file=tmp_path / "gone.json")


@pytest.mark.parametrize(
    ("file", "root", "split"),
    [
        ("singlecoil_train/file1.h5", "knee", "train"),
        ("multicoil_val/file1.h5", "knee", "val"),
        ("singlecoil_test_v2/file1.h5", "knee", "test"),
        ("file1.h5", "multicoil_test_full", "test"),
        ("validation/deep/file1.h5", "data", "val"),
        ("train/scan_test.h5", "data", "test"),
        ("file1.h5", "data", None),
        ("contest/restrain.h5", "data", None),
    ],
)
def test_names_that_end_in_a_split_give_it(file: str, root: str, split: str | None) -> None:
    assert split_of_name(file, Path(root)) == split


def test_unknown_splits_are_answered_with_those_that_there_are() -> None:
    entries = [entry("1.h5", "a", "test"), entry("2.h5", "b", "train"), entry("3.h5", "b")]
    splits = assign_splits(entries, NOWHERE)
    sizes = r"train \(1 subjects, 2 volumes\), test \(1 subjects, 1 volumes\), all"
    with pytest.raises(ValueError, match=rf"no split 'tset'; expected one of: {sizes}"):
        select(entries, splits, "tset")
    assert len(select(entries, splits, "all")) == 3


Strata = Mapping[str, Mapping[str, int]]

some_names = st.lists(st.text(min_size=1), unique=True, min_size=2, max_size=40)
labels = st.lists(st.sampled_from("xyz"), min_size=2, max_size=40)


def assert_everyone_validates_once(folds: Sequence[Fold], subjects: Sequence[str]) -> None:
    assert sorted(s for _, validation in folds for s in validation) == sorted(subjects)
    for train, validation in folds:
        assert sorted(train + validation) == sorted(subjects)
        assert (list(train), list(validation)) == (sorted(train), sorted(validation))


@given(some_names, st.integers(2, 40), st.integers())
def test_every_subject_validates_once_in_folds_of_equal_size(
    subjects: list[str], k: int, seed: int
) -> None:
    k = min(k, len(subjects))
    folds = k_fold(subjects, k, seed=seed)
    assert len(folds) == k
    assert_everyone_validates_once(folds, subjects)
    sizes = [len(validation) for _, validation in folds]
    assert max(sizes) - min(sizes) <= 1


@given(some_names, st.randoms(), st.integers())
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
    sizes = [len(validation) for _, validation in folds]
    assert max(sizes) - min(sizes) <= 1
    for label in set(labels):
        counts = [sum(label in strata[s] for s in validation) for _, validation in folds]
        assert max(counts) - min(counts) <= 1


def imbalance(folds: Sequence[Fold], strata: Strata) -> float:
    """Sum over folds and labels of the squared distance of the label's share from 1 / k."""
    total = sum((Counter(counts) for counts in strata.values()), Counter())
    found = [sum((Counter(strata[s]) for s in some), Counter()) for _, some in folds]
    return sum(
        (counts[label] / total[label] - 1 / len(folds)) ** 2 for counts in found for label in total
    )


def best_imbalance(strata: Strata, k: int) -> float:
    """A second, slower way: try every way to deal the subjects into k equal folds."""
    some_names = sorted(strata)
    best = float("inf")
    for dealt in itertools.product(range(k), repeat=len(some_names)):
        if max(Counter(dealt).values()) - min(dealt.count(f) for f in range(k)) <= 1:
            folds = [
                ((), tuple(n for n, g in zip(some_names, dealt, strict=True) if g == f))
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
        for _, validation in k_fold(strata, 2, seed=seed, strata=strata):
            assert sum(strata[name]["T1"] for name in validation) == 40


def test_leaving_one_out_gives_every_subject_a_fold() -> None:
    folds = leave_one_subject_out(["b", "c", "a", "b"])
    assert folds == [(("b", "c"), ("a",)), (("a", "c"), ("b",)), (("a", "b"), ("c",))]


@pytest.mark.parametrize("k", [-1, 0, 1, 4])
def test_a_number_of_folds_that_makes_no_sense_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match=f"2 folds up to one for each of 3 subjects; got {k}"):
        k_fold(["a", "b", "c"], k, seed=0)


def test_one_subject_cannot_be_left_out() -> None:
    with pytest.raises(ValueError, match="at least 2 subjects to leave one out; got 1"):
        leave_one_subject_out(["a", "a"])


@given(some_names, st.integers())
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
    labels = [data.describe(position) for position in range(len(data))]
    assert strata_of(labels, "contrast") == {"a": {"T1": 1, "T2": 2}, "b": {"unknown": 2}}
    assert strata_of(labels, "field-strength") == {
        "a": {"3 T": 2, "unknown": 1},
        "b": {"1.5 T": 1, "0.55 T": 1},
    }
    assert strata_of(labels, "scanner") == {
        "a": {"S1": 2, "unknown": 1},
        "b": {"S2": 1, "unknown": 1},
    }


def test_strata_that_no_file_knows_are_refused() -> None:
    data = scans(("a", {}), ("b", {}))
    labels = [data.describe(position) for position in range(len(data))]
    with pytest.raises(ValueError, match="cannot stratify by scanner: the files do not say it"):
        strata_of(labels, "scanner")
    with pytest.raises(ValueError, match="'age'; expected one of contrast, field-strength, scan"):
        strata_of(labels, "age")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six subjects with T1, three with T2 and twice the slices."""
    for number in range(9):
        shape = (4, 8, 10) if number < 3 else (2, 8, 10)
        write_image(
            tmp_path / "data" / f"{number}.h5",
            shape=shape,
            seed=number,
            subject_id=f"s{number}",
            contrast="T2" if number < 3 else "T1",
        )
    return tmp_path / "data"


def test_the_file_is_found_by_every_command_and_balances_the_contrasts(folder: Path) -> None:
    text = draw_split_file(SplitSettings(folder, stratify="contrast"))
    splits = json.loads((folder / "splits.json").read_text())
    assert sorted(splits) == [f"s{number}" for number in range(9)]
    for split, n_subjects in (("train", 7), ("val", 1), ("test", 1)):
        dataset = open_dataset(folder, split=split)
        found = {dataset.describe(i).subject for i in range(len(dataset))}
        assert found == {subject for subject, name in splits.items() if name == split}
        assert len(found) == n_subjects
    assert text.splitlines()[0].split() == ["split", "subjects", "T1", "T2"]
    assert text.splitlines()[2].split()[:2] == ["train", "7"]


def test_without_strata_the_table_counts_slices(folder: Path) -> None:
    out = folder.parent / "new" / "mine.json"
    text = draw_split_file(SplitSettings(folder, out=out, seed=3))
    rows = [line.split() for line in text.splitlines()]
    assert rows[0] == ["split", "subjects", "slices"]
    assert sum(int(row[2]) for row in rows[2:5]) == 3 * 4 + 6 * 2
    assert text.splitlines()[-1] == str(out)
    assert out.is_file()


def test_an_existing_file_is_not_overwritten(folder: Path) -> None:
    draw_split_file(SplitSettings(folder))
    before = (folder / "splits.json").read_bytes()
    with pytest.raises(ValueError, match=r"splits\.json is there already; add --overwrite"):
        draw_split_file(SplitSettings(folder, redraw=True, seed=1))
    assert (folder / "splits.json").read_bytes() == before


def test_splits_that_the_data_name_are_kept_unless_asked_otherwise(folder: Path) -> None:
    write_image(folder / "x_val.h5", subject_id="x")
    with pytest.raises(ValueError, match=r"name splits themselves \(x_val.h5: val\); --redraw"):
        draw_split_file(SplitSettings(folder))
    (folder / "splits.csv").write_text("subject,split\nx,test\n")
    out = folder.parent / "mine.json"
    with pytest.raises(ValueError, match=r"have splits already: .*splits\.csv; --redraw"):
        draw_split_file(SplitSettings(folder, out=out))
    draw_split_file(SplitSettings(folder, out=out, redraw=True))
    assert len(json.loads(out.read_text())) == 10


def test_a_file_or_nothing_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"expected a folder of scans; .*0\.h5 is a file"):
        draw_split_file(SplitSettings(folder / "0.h5"))
    with pytest.raises(FileNotFoundError, match="nothing is at"):
        draw_split_file(SplitSettings(folder / "nowhere"))
