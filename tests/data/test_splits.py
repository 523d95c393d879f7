"""Splits by subject."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activemri.data.formats.registry import all_readers
from activemri.data.index import Entry
from activemri.data.readers import Volume
from activemri.data.splits import (
    assign_splits,
    describe_splits,
    draw_splits,
    read_split_file,
    select,
    split_of_name,
)

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
        ("a.json", "{", "not JSON"),
        ("a.json", '["train"]', "expected"),
        ("a.json", "[]", "expected"),
        ("a.json", '{"a": 1}', "expected"),
        ("a.json", '{"a": "train", "a": "test"}', "'a' is in train and test"),
        ("a.csv", "who,what\na,train", "columns subject,split"),
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
    assert describe_splits(entries, splits) == (
        "train (1 subjects, 2 volumes), test (1 subjects, 1 volumes), all"
    )
    with pytest.raises(ValueError, match=r"no split 'tset'; expected one of: train \(1"):
        select(entries, splits, "tset")
    assert len(select(entries, splits, "all")) == 3
