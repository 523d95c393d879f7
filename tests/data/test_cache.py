"""The cache on disk: the same values with and without it, whatever state it is in."""

import logging
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from activemri import cli
from activemri.data import cache
from activemri.data.cache import Arrays, cache_folder, cached
from activemri.data.phantoms import dataset
from activemri.data.phantoms.dataset import PhantomDataset
from activemri.data.slices import Slice

KIB = 2**10


class Made:
    """Makes arrays of 16 KiB, and counts how often."""

    def __init__(self, n_bytes: int = 16 * KIB) -> None:
        self.calls, self.n_bytes = 0, n_bytes

    def __call__(self) -> Arrays:
        self.calls += 1
        return {"one": np.arange(self.n_bytes // 8), "two": np.array([True, False])}


@pytest.fixture(autouse=True)
def _new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_unchecked", {})
    monkeypatch.setattr(cache, "_passed_by", set())


def entries(folder: Path | None = None) -> list[Path]:
    folder = cache_folder() if folder is None else folder
    assert folder is not None
    return sorted((folder / "made").glob("*.npz"))


def damage(change: Callable[[bytes], bytes]) -> None:
    (path,) = entries()
    path.write_bytes(change(path.read_bytes()))


def phantoms(**settings: object) -> PhantomDataset:
    return PhantomDataset(**({"n_subjects": 3, "matrix_size": (20, 24)} | settings))  # type: ignore[arg-type]


def assert_same(one: Slice, other: Slice) -> None:
    for name, value in vars(one).items():
        same = getattr(other, name)
        alike = torch.equal(value, same) if isinstance(value, torch.Tensor) else value == same
        assert alike, name


def test_what_was_made_before_is_not_made_again() -> None:
    make = Made()
    first, second, other = (cached("kind", settings, make) for settings in (1, 1, (1, "two")))
    assert make.calls == 2 and len(entries()) == 2
    for name, array in first.items():
        assert array.dtype == second[name].dtype == other[name].dtype
        assert np.array_equal(array, second[name])


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: b"",
        lambda content: b"of another version",
        lambda content: content[:500] + bytes(4 * KIB) + content[500 + 4 * KIB :],
    ],
)
def test_a_damaged_entry_is_made_anew_with_a_word(
    change: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    make = Made()
    whole = cached("kind", 1, make)["one"]
    damage(change)
    for _ in range(2):
        assert np.array_equal(cached("kind", 1, make)["one"], whole)
    assert make.calls == 2 and len(caplog.records) == 1
    assert "making anew what is damaged" in caplog.text


def test_a_folder_that_cannot_be_written_is_passed_by_with_one_word(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ACTIVEMRI_CACHE", str(tmp_path / "file"))
    make = Made()
    with caplog.at_level(logging.WARNING):
        for settings in range(3):
            cached("kind", settings, make)
    assert make.calls == 3
    (said,) = [record.message for record in caplog.records]
    assert said.startswith(f"working without the cache {tmp_path / 'file'}: ")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write all")
def test_a_read_only_cache_is_still_read(caplog: pytest.LogCaptureFixture) -> None:
    make = Made()
    cached("kind", 1, make)
    (path,) = entries()
    path.chmod(stat.S_IREAD)
    path.parent.chmod(stat.S_IREAD | stat.S_IEXEC)
    try:
        cached("kind", 1, make)
        cached("kind", 2, make)
    finally:
        path.parent.chmod(stat.S_IRWXU)
    assert make.calls == 2 and len(caplog.records) == 1


def test_a_full_disk_leaves_nothing_half_written(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(file: object, **arrays: object) -> None:
        file.write(b"some")  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    make = Made()
    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full)
        for _ in range(2):
            cached("kind", 1, make)
    assert make.calls == 2 and "No space left on device" in caplog.text
    folder = cache_folder()
    assert folder is not None and list((folder / "made").iterdir()) == []


def test_what_was_not_used_for_longest_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACTIVEMRI_CACHE_GIB", str(60 * KIB / 2**30))
    make = Made()
    for settings in range(3):
        cached("kind", settings, make)
    for age, path in enumerate(sorted(entries(), key=lambda path: path.stat().st_mtime_ns)):
        os.utime(path, (time.time() - 100 + age,) * 2)
    cached("kind", 0, make)  # is now the one used last
    cached("kind", 3, make)
    assert len(entries()) == 3 and make.calls == 4
    cached("kind", 0, make)
    assert make.calls == 4
    cached("kind", 1, make)
    assert make.calls == 5


def test_what_is_larger_than_the_cache_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACTIVEMRI_CACHE_GIB", "0")
    cached("kind", 1, Made())
    assert entries() == []


@pytest.mark.parametrize("size", ["-1", "nan", "inf", "much"])
def test_a_senseless_size_is_refused(size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACTIVEMRI_CACHE_GIB", size)
    with pytest.raises(ValueError, match=f"ACTIVEMRI_CACHE_GIB: expected GiB.*got '{size}'"):
        cached("kind", 1, Made())


def test_files_of_an_interrupted_writing_are_taken_away_later() -> None:
    cached("kind", 1, Made())
    folder = entries()[0].parent
    old, new = folder / ".kind-1.npz.7-7.next", folder / ".kind-2.npz.8-8.next"
    for path, age in ((old, 7200), (new, 0)):
        path.touch()
        os.utime(path, (time.time() - age,) * 2)
    cache._unchecked.clear()
    cached("kind", 2, Made())
    assert not old.exists() and new.exists()


WRITE_OFTEN = """
import numpy as np
from activemri.data.cache import cache_folder, cached
for _ in range(20):
    for entry in (cache_folder() / "made").glob("*.npz"):
        entry.unlink(missing_ok=True)
    assert cached("kind", 1, lambda: {"one": np.arange(2**15)})["one"].sum() == 2**14 * (2**15 - 1)
"""


def test_two_processes_may_write_the_same_entry_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITE_OFTEN]
    writers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for writer in writers:
        assert writer.communicate()[1] == "" and writer.returncode == 0
    assert [path.suffix for path in (tmp_path / "cache" / "made").iterdir()] == [".npz"]


@pytest.mark.parametrize("settings", [{}, {"n_coils": 3}, {"lesions": True, "widest_view": 1.8}])
def test_phantoms_are_the_same_to_the_bit_with_and_without(
    settings: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = phantoms(**settings)[5]
    assert len(entries()) == 1
    with monkeypatch.context() as patch:
        patch.setattr(PhantomDataset, "_draw", None)  # may not be drawn again
        again = phantoms(**settings)[5]
    monkeypatch.setenv("ACTIVEMRI_CACHE", "")
    without = phantoms(**settings)[5]
    assert_same(again, first)
    assert_same(without, first)


@pytest.mark.parametrize(
    "change",
    [
        {"matrix_size": (24, 24)},
        {"n_coils": 2},
        {"snr": 20.0},
        {"phase": 0.5},
        {"widest_view": 1.2},
        {"lesions": True},
        {"slices_per_subject": 3},
        {"split": "val"},
        {"family": "knee"},
    ],
)
def test_other_phantoms_are_kept_apart(
    change: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    phantoms()[0]
    found = phantoms(**change)[0]
    assert len(entries()) == 2
    monkeypatch.setenv("ACTIVEMRI_CACHE", "")
    assert_same(phantoms(**change)[0], found)


def test_other_drawing_code_draws_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    phantoms()[0]
    monkeypatch.setattr(dataset, "_code", lambda: "other")
    phantoms()[0]
    assert len(entries()) == 2


def test_volumes_in_memory_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "MEMORY", 20 * 24 * (4 * (8 + 5)) * 2)  # two volumes
    scans = phantoms()
    first, second = scans[0], scans[4]
    assert scans[0] is first
    scans[8]
    assert scans[0] is first and scans[4] is not second
    assert_same(scans[4], second)


def test_the_command_line_turns_the_cache_off(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = cli.parse("train order", ["--data", "phantom", "--no-cache"])
    assert settings.protocol.data == "phantom" and cache_folder() is None
    phantoms()[0]
    assert not (tmp_path / "cache").exists()
