"""Finding scans, remembering what was found, and leaving out what is broken."""

import errno
import json
import logging
import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from activemri.data.cache import cache_folder
from activemri.data.formats.registry import all_readers
from activemri.data.index import index_path
from activemri.data.readers import UnreadableError
from activemri.data.sources import open_dataset
from activemri.data.standard import to_matrix
from activemri.data.volumes import MAGNITUDES, survey
from activemri.envs.env import ActiveMRIEnv
from activemri.metrics import METRICS
from tests.data.files import edit, random_kspace, write_fastmri, write_image, write_kspace

READERS = all_readers()


class Opened:
    """Counts how often each file is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        original = h5py.File

        def counted(path: Path, mode: str) -> h5py.File:
            self.names.append(Path(path).name)
            return original(path, mode)

        monkeypatch.setattr(h5py, "File", counted)

    def since(self) -> list[str]:
        names, self.names = sorted(self.names), []
        return names


def cached_files() -> list[Path]:
    folder = cache_folder()
    assert folder is not None
    return list(folder.glob("index-*.json"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_image(tmp_path / "data" / "a.h5", subject_id="anna", split="train")
    write_kspace(tmp_path / "data" / "deep" / "b.hdf5", subject_id="bert", split="train")
    write_fastmri(tmp_path / "data" / "c.h5", patient="carl")
    return tmp_path / "data"


def test_all_files_below_a_folder_are_found_and_others_ignored(folder: Path) -> None:
    (folder / "notes.txt").write_text("no scan")
    (folder / "._a.h5").write_text("left by a file manager")
    index = index_path(folder, READERS)
    assert [entry.file for entry in index.entries] == ["a.h5", "c.h5", "deep/b.hdf5"]
    assert [entry.reader.name for entry in index.entries] == ["hdf5", "fastmri", "hdf5"]
    assert index.problems == {}


def test_links_are_followed_but_not_in_circles(folder: Path, tmp_path: Path) -> None:
    write_kspace(tmp_path / "elsewhere" / "linked.h5")
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (folder / "deep" / "circle").symlink_to(folder)
    files = [entry.file for entry in index_path(folder, READERS).entries]
    assert files == ["a.h5", "c.h5", "deep/b.hdf5", "link/linked.h5"]


def test_the_second_time_no_file_is_opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Opened(monkeypatch)
    first = index_path(folder, READERS)
    surveys = survey(folder, first.entries)
    assert opened.since() == sorted(["a.h5", "b.hdf5", "c.h5"] * 2)
    again = index_path(folder, READERS)
    assert again == first and survey(folder, again.entries) == surveys
    assert opened.since() == []


def test_only_changed_files_are_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    survey(folder, index_path(folder, READERS).entries)
    write_image(folder / "a.h5", shape=(3, 8, 10), subject_id="anna")
    status = (folder / "c.h5").stat()
    os.utime(folder / "c.h5", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    write_image(folder / "new.h5")
    opened = Opened(monkeypatch)
    index = index_path(folder, READERS)
    assert opened.since() == ["a.h5", "c.h5", "new.h5"]
    assert index.entries[0].volume.n_slices == 3


def test_other_settings_and_sizes_are_remembered_apart(folder: Path) -> None:
    entries = index_path(folder, READERS).entries
    native = survey(folder, entries)
    small = survey(folder, entries, matrix_size=(4, 4))
    bare = index_path(folder, all_readers(synthetic_phase=False)).entries
    assert native != small
    assert survey(folder, bare)[0].volume_max != native[0].volume_max
    assert survey(folder, entries) == native


@pytest.mark.parametrize("content", ["{", "[]", '{"files": 3}', '{"files": {"a.h5": 3}}', ""])
def test_a_corrupt_cache_is_rebuilt(folder: Path, content: str) -> None:
    first = index_path(folder, READERS)
    (path,) = cached_files()
    path.write_text(content)
    assert index_path(folder, READERS) == first
    assert "a.h5" in json.loads(path.read_text())["files"]


@pytest.mark.parametrize("facts", [{}, {"reader": "gone"}, {"reader": "hdf5", "volume": {"n": 1}}])
def test_facts_of_another_version_are_found_out_anew(folder: Path, facts: object) -> None:
    index = index_path(folder, READERS)
    surveys = survey(folder, index.entries)
    for path in cached_files():
        content = json.loads(path.read_text())
        for known in content["files"].values():
            known["facts"] = facts
        path.write_text(json.dumps(content))
    assert index_path(folder, READERS) == index
    assert survey(folder, index.entries) == surveys


def test_an_unwritable_cache_is_done_without(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ACTIVEMRI_CACHE", str(folder / "a.h5"))  # a file: nothing fits below
    with caplog.at_level(logging.WARNING):
        assert len(index_path(folder, READERS).entries) == 3
    assert "working without an index cache" in caplog.text


def test_without_a_cache_nothing_is_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ACTIVEMRI_CACHE", "")
    opened = Opened(monkeypatch)
    for _ in range(2):
        index_path(folder, READERS)
    assert len(opened.since()) == 6 and not (tmp_path / "cache").exists()


def test_nothing_is_written_into_the_data_folder(folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    open_dataset(folder, split="all")
    assert sorted(folder.rglob("*")) == before


def test_broken_files_are_named_and_the_others_used(folder: Path) -> None:
    whole = (folder / "a.h5").read_bytes()
    (folder / "truncated.h5").write_bytes(whole[: len(whole) // 2])
    (folder / "text.h5").write_text("not HDF5")
    (folder / "empty.h5").write_bytes(b"")
    with h5py.File(folder / "foreign.h5", "w") as file:
        file["weights"] = np.ones(3)
    with h5py.File(folder / "group.h5", "w") as file:
        file.create_group("image")
    (folder / "gone.h5").symlink_to(folder / "nothing")
    index = index_path(folder, READERS)
    assert len(index.entries) == 3
    reasons = dict(index.problems)
    assert set(reasons) == {
        "truncated.h5",
        "text.h5",
        "empty.h5",
        "foreign.h5",
        "group.h5",
        "gone.h5",
    }
    assert "holds weights" in reasons["foreign.h5"]
    assert "numeric array" in reasons["group.h5"]
    assert "damaged or not HDF5" in reasons["truncated.h5"]


def test_a_repaired_file_is_noticed_even_with_the_same_time(folder: Path) -> None:
    (folder / "d.h5").write_bytes(b"x")
    assert len(index_path(folder, READERS).problems) == 1
    write_image(folder / "d.h5")
    assert index_path(folder, READERS).problems == {}


def test_broken_slices_are_named_and_the_others_used(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_kspace(folder / "b2.h5", shape=(4, 1, 8, 10), subject_id="bert", split="train")
    with h5py.File(folder / "b2.h5", "a") as file:
        file["kspace"][0] = 0
        file["kspace"][2, 0, 3, 3] = np.nan
    entries = [e for e in index_path(folder, READERS).entries if e.file == "b2.h5"]
    (found,) = survey(folder, entries)
    assert found.usable == (1, 3)
    assert found.problems == ((0, "k-space is all zero"), (2, "NaN or Inf in k-space"))
    with caplog.at_level(logging.WARNING):
        dataset = open_dataset(folder / "b2.h5", split="all")
    assert len(dataset) == 2
    assert "left out 2 slice(s), the first: b2.h5, slice 0: k-space is all zero" in caplog.text


def test_a_damaged_chunk_spoils_its_slice_only(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    image = np.random.default_rng(0).random((3, 8, 10), dtype=np.float32) + 1
    with h5py.File(path, "w") as file:
        data = file.create_dataset("image", data=image, chunks=(1, 8, 10), fletcher32=True)
        offset = data.id.get_chunk_info(1).byte_offset
    content = bytearray(path.read_bytes())
    content[offset + 5] ^= 255
    path.write_bytes(content)
    (found,) = survey(tmp_path, index_path(path, READERS).entries)
    assert found.usable == (0, 2)
    ((index, reason),) = found.problems
    assert index == 1 and "read" in reason


def test_a_reference_that_is_not_the_image_of_its_kspace_is_noticed(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with h5py.File(folder / "c.h5", "a") as file:
        file["kspace"][...] = file["kspace"][...] * (-1.0) ** np.arange(
            14
        )  # moves the image by half its width
    with caplog.at_level(logging.WARNING):
        open_dataset(folder / "c.h5", split="all")
    assert "c.h5: the stored reference differs from the image of the k-space by" in caplog.text


def test_kspace_with_the_low_frequencies_at_the_border_is_noticed(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        open_dataset(folder, split="all")
        assert caplog.text == ""
        with h5py.File(folder / "deep" / "b.hdf5", "a") as file:
            file["kspace"][...] = np.fft.ifftshift(file["kspace"][...], axes=(-2, -1))
        open_dataset(folder, split="all")
    assert "deep/b.hdf5: the strongest sample lies 50% of a side away" in caplog.text


def test_nothing_usable_is_an_error_with_the_first_reasons(tmp_path: Path) -> None:
    for number in range(7):
        (tmp_path / f"{number}.h5").write_text("not HDF5")
    with pytest.raises(UnreadableError, match=r"nothing usable in .*0\.h5: damaged.*and 2 more"):
        index_path(tmp_path, READERS)
    with pytest.raises(UnreadableError, match=r"2\.h5: damaged"):
        index_path(tmp_path / "2.h5", READERS)


def test_a_volume_without_a_usable_slice_is_an_error(tmp_path: Path) -> None:
    write_kspace(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["kspace"][...] = 0
    with pytest.raises(UnreadableError, match="no usable slice"):
        open_dataset(tmp_path / "a.h5", split="all")


def test_an_empty_folder_and_a_missing_path_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match=r"expected files ending in \.h5"):
        index_path(tmp_path, READERS)
    with pytest.raises(FileNotFoundError, match="nothing is at"):
        index_path(tmp_path / "nowhere", READERS)


def test_volumes_of_one_name_are_told_apart_by_their_folder(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        write_kspace(tmp_path / folder / "scan.h5")
    names = [entry.volume.name for entry in index_path(tmp_path, READERS).entries]
    assert names == ["one/scan", "two/scan"]


def test_the_volumes_maximum_is_that_of_the_slices_as_handed_out(folder: Path) -> None:
    for size in (None, (9, 7)):
        dataset = open_dataset(folder, split="all", matrix_size=size)
        slices = [dataset[position] for position in range(len(dataset))]
        for scan in slices:
            same = [other.target.max() for other in slices if other.volume == scan.volume]
            assert scan.volume_max == pytest.approx(float(max(same)))
            assert size is None or to_matrix(scan, size) is scan


def problem_of(path: Path, **data_sets: object) -> str:
    """Why the first slice of a file with other data sets is left out."""
    edit(path, **data_sets)
    (found,) = survey(path.parent, index_path(path, READERS).entries)
    return dict(found.problems).get(0, "none")


KSPACE = random_kspace((2, 3, 32, 32))
LARGEST = np.abs(KSPACE[0].view(np.float32)).max()


@pytest.mark.parametrize("scale", [1e20, 1e11, 1e-12, 1e-30])
def test_slices_beyond_the_range_of_magnitudes_are_refused(tmp_path: Path, scale: float) -> None:
    write_kspace(tmp_path / "a.h5", shape=KSPACE.shape)
    reason = problem_of(tmp_path / "a.h5", kspace=KSPACE * np.complex64(scale / LARGEST))
    side = "below" if scale < 1 else "above"
    assert f"the largest value of k-space is {side} the range from 1e-10 to 1e+10" in reason
    target = np.full((2, 32, 32), scale, np.float32)
    reason = problem_of(tmp_path / "a.h5", kspace=KSPACE, target=target)
    assert "the largest value of the reference is" in reason


@pytest.mark.parametrize("reconstructor", ["zero-filled", "cg-sense", "wavelet"])
def test_within_the_range_scores_do_not_depend_on_the_scale(
    tmp_path: Path, reconstructor: str
) -> None:
    names = [name for name, metric in METRICS.items() if metric.needs is None and name != "mse"]
    scores, rewards = [], []
    least, most = MAGNITUDES
    for scale in (1.0, 10 * least, most / 10):
        kspace = KSPACE[:1] * np.complex64(scale / LARGEST)
        path = tmp_path / f"{scale}.h5"
        write_kspace(path, shape=kspace.shape)
        edit(path, kspace=kspace)
        dataset = open_dataset(path, split="all")
        env = ActiveMRIEnv(
            data=dataset, reconstructor=reconstructor, metrics=tuple(names), budget=3
        )
        env.reset(seed=0)
        for action in (5, 9, 25):
            _, reward, _, _, info = env.step(action)
            rewards.append(reward)
        scores.append([info[name] for name in names])
    np.testing.assert_allclose(scores, scores[:1] * 3, rtol=1e-4)
    np.testing.assert_allclose(rewards, rewards[:3] * 3, atol=1e-4)


def test_negative_references_are_refused(tmp_path: Path) -> None:
    write_kspace(tmp_path / "a.h5", shape=KSPACE.shape)
    target = np.ones((2, 32, 32), np.float32)
    target[0, 3, 3] = -1e-3
    assert "negative values" in problem_of(tmp_path / "a.h5", target=target)


def test_coil_maps_with_nan_are_refused(tmp_path: Path) -> None:
    write_kspace(tmp_path / "a.h5", shape=KSPACE.shape)
    maps = np.full(KSPACE.shape, np.nan + 0j, np.complex64)
    assert problem_of(tmp_path / "a.h5", sensitivity=maps) == "NaN or Inf in the coil maps"


@pytest.mark.parametrize(("name", "axis"), [("columns", -1), ("rows", -2)])
@pytest.mark.parametrize("n_measured", [1, 4, 5])
def test_slices_that_leave_nothing_to_choose_are_refused(
    tmp_path: Path, name: str, axis: int, n_measured: int
) -> None:
    write_kspace(tmp_path / "a.h5", shape=KSPACE.shape)
    there = np.abs(np.arange(32) - 16 + n_measured // 2 - 0.5) < n_measured / 2 + 0.01
    kspace = KSPACE * np.moveaxis(there[:, None], 0, axis)
    reason = problem_of(tmp_path / "a.h5", kspace=kspace)
    wanted = f"only {there.sum()} of 32 {name} were measured; expected at least 5"
    assert reason.startswith(wanted) if there.sum() < 5 else reason == "none"


def test_folders_that_cannot_be_listed_are_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = os.scandir

    def refusing(path: str) -> object:
        if Path(path).name == "deep":
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return listed(path)

    monkeypatch.setattr(os, "scandir", refusing)
    index = index_path(folder, READERS)
    assert [entry.file for entry in index.entries] == ["a.h5", "c.h5"]
    assert index.problems == {"deep": "the folder cannot be listed: Permission denied"}
