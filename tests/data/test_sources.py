"""Opening data by name or path."""

import multiprocessing
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from activemri.data import volumes
from activemri.data.formats.fastmri import SCALE
from activemri.data.images import slices_of_images
from activemri.data.slices import ACQUIRED, BARE, PHANTOM, SYNTHETIC, Slice, SliceList
from activemri.data.sources import open_dataset
from activemri.data.volumes import VolumeDataset, evenly_spaced
from activemri.envs.protocol import ScanProtocol
from tests.data.files import write_fastmri, write_image, write_kspace


def test_the_published_target_is_one_by_name_and_not_the_default(tmp_path: Path) -> None:
    write_fastmri(tmp_path / "knee.h5", n_coils=3)
    with h5py.File(tmp_path / "knee.h5") as file:
        published = torch.from_numpy(file["reconstruction_rss"][0]) * SCALE
    rss, combined = (
        open_dataset(tmp_path, split="all", target=name)[0] for name in ("rss", "combined")
    )
    torch.testing.assert_close(rss.target, published)
    assert torch.all(combined.target < published * 1.0001)
    assert not torch.allclose(combined.target, published)
    assert rss.volume_max > combined.volume_max
    with pytest.raises(ValueError, match="target must be one of combined, rss; got 'sos'"):
        open_dataset(tmp_path, target="sos")


def test_the_target_of_a_generic_file_is_what_its_maker_wants(folder: Path) -> None:
    with h5py.File(folder / "b.h5", "a") as file:
        file["target"] = np.full((4, 12, 8), 3, np.float32)
    own, rss = (
        open_dataset(folder, split="ood", target=name)[0].target for name in ("combined", "rss")
    )
    assert torch.all(own == 3) and not torch.any(rss == 3)


def test_slices_in_memory_keep_their_targets(folder: Path) -> None:
    scans = SliceList([open_dataset(folder, split="ood")[0]])
    assert ScanProtocol(data=scans, target="rss").dataset()[0].target is scans[0].target


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_image(tmp_path / "data" / "a.h5", shape=(5, 8, 10), subject_id="anna", split="train")
    write_kspace(
        tmp_path / "data" / "b.h5",
        shape=(4, 3, 12, 8),
        subject_id="bert",
        split="ood",
        scanner="MR-7",
    )
    return tmp_path / "data"


def equal(one: Slice, other: Slice) -> bool:
    return torch.equal(one.kspace, other.kspace) and torch.equal(one.target, other.target)


def test_every_split_holds_its_own_subjects(folder: Path) -> None:
    assert {s.subject for s in slices_of(open_dataset(folder))} == {"anna"}
    assert {s.subject for s in slices_of(open_dataset(folder, split="ood"))} == {"bert"}
    assert len(open_dataset(folder, split="all")) == 9


def slices_of(dataset: object) -> list[Slice]:
    return [dataset[i] for i in range(len(dataset))]  # type: ignore[index, arg-type]


def test_shape_is_the_smallest_frame_for_all(folder: Path) -> None:
    dataset = open_dataset(folder, split="all")
    assert (dataset.shape, dataset.n_coils, dataset.name) == ((12, 10), 3, "data")
    assert open_dataset(folder).shape == (8, 10)
    assert open_dataset(folder).name == "data train"


@pytest.mark.parametrize("size", [9, (9, 7), None])
def test_descriptions_agree_with_the_slices(folder: Path, size: int | None) -> None:
    dataset = open_dataset(folder, split="all", matrix_size=size)
    for position in range(len(dataset)):
        scan, info = dataset[position], dataset.describe(position)
        assert (info.volume, info.index, info.subject) == (scan.volume, scan.index, scan.subject)
        assert (info.shape, info.target_shape) == (scan.shape, tuple(scan.target.shape))
        assert (info.n_coils, info.contrast) == (scan.n_coils, scan.contrast)
        assert info.field_strength == scan.field_strength
        assert info.scanner == scan.scanner == {"a": "unknown", "b": "MR-7"}[scan.volume]


def test_preloaded_slices_are_the_same(folder: Path) -> None:
    lazy = open_dataset(folder, split="all", matrix_size=(9, 7))
    loaded = open_dataset(folder, split="all", matrix_size=(9, 7), preload=True)
    assert isinstance(loaded, SliceList)
    assert (loaded.name, loaded.shape, loaded.n_coils) == (lazy.name, lazy.shape, lazy.n_coils)
    for position in range(len(lazy)):
        assert equal(lazy[position], loaded[position])
        assert lazy.describe(position) == loaded.describe(position)


def test_files_below_the_window_of_ssim_are_left_out_and_named(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_kspace(folder / "tiny.h5", shape=(2, 1, 12, 6), subject_id="tina", split="train")
    assert {s.volume for s in slices_of(open_dataset(folder))} == {"a"}
    assert "left out 2 slice(s), the first: tiny.h5, slice 0: too small to be" in caplog.text
    assert "at least 7 x 7 pixels; got 12 x 6" in caplog.text
    padded = open_dataset(folder, matrix_size=8)  # large enough in the form asked for
    assert {s.volume for s in slices_of(padded)} == {"a", "tiny"}


def test_slices_per_volume_are_evenly_spaced(folder: Path) -> None:
    dataset = open_dataset(folder, split="all", slices_per_volume=2)
    found = [(dataset.describe(i).volume, dataset.describe(i).index) for i in range(len(dataset))]
    assert found == [("a", 1), ("a", 3), ("b", 1), ("b", 3)]
    whole = open_dataset(folder, split="all")
    assert dataset[0].volume_max == whole[0].volume_max


def test_evenly_spaced_positions_are_distinct_and_symmetric() -> None:
    for length in range(1, 12):
        for count in range(1, length + 1):
            found = evenly_spaced(range(length), count)
            assert len(set(found)) == count
            assert abs((found[0] + found[-1]) / 2 - (length - 1) / 2) <= 0.5
    with pytest.raises(ValueError, match="at least one"):
        evenly_spaced(range(3), 0)


def test_synthetic_phase_can_be_switched_off(folder: Path) -> None:
    with_phase, bare = open_dataset(folder)[0], open_dataset(folder, synthetic_phase=False)[0]
    assert with_phase.processing and not bare.processing
    assert not equal(with_phase, bare)


def test_a_split_file_is_obeyed(folder: Path) -> None:
    (folder.parent / "mine.csv").write_text("subject,split\nanna,night\n")
    dataset = open_dataset(folder, split="night", split_file=folder.parent / "mine.csv")
    assert {scan.subject for scan in slices_of(dataset)} == {"anna"}


def test_paths_may_be_text_and_files(folder: Path) -> None:
    assert len(open_dataset(str(folder / "a.h5"))) == 5


def test_mistakes_are_answered_with_what_is_possible(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"no split 'val'.*train \(1.*ood \(1"):
        open_dataset(folder, split="val")
    with pytest.raises(FileNotFoundError, match=r"expected phantom, phantom-.*, or the path"):
        open_dataset("fantom")
    with pytest.raises(ValueError, match="are for files; got phantom"):
        open_dataset("phantom", slices_per_volume=3)
    with pytest.raises(ValueError, match="matrix size must be 2 x 2 to"):
        open_dataset(folder, matrix_size=0)


def first_samples(dataset: VolumeDataset) -> bytes:
    return bytes(dataset[0].kspace.numpy().tobytes())


def test_data_sets_travel_to_other_processes(folder: Path) -> None:
    dataset = open_dataset(folder)
    assert isinstance(dataset, VolumeDataset)
    expected = first_samples(dataset)
    assert first_samples(pickle.loads(pickle.dumps(dataset))) == expected
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(first_samples, (dataset,)) == expected


def test_a_forked_process_opens_its_own_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = open_dataset(folder)
    assert isinstance(dataset, VolumeDataset)

    def handle() -> object:
        assert dataset[0].shape == dataset.describe(0).shape
        return dataset._files["a.h5"]

    mine = handle()
    assert handle() is mine
    monkeypatch.setattr("os.getpid", lambda: -5)
    assert handle() is not mine


def test_a_limited_number_of_files_stays_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volumes, "MAX_OPEN_FILES", 2)
    for number in range(4):
        write_kspace(tmp_path / f"{number}.h5", shape=(1, 3, 8, 10))
    dataset = open_dataset(tmp_path, split="all")
    assert isinstance(dataset, VolumeDataset)
    handles = []
    for position in range(4):
        dataset[position]
        handles.append(dataset._files[f"{position}.h5"])
    assert [bool(handle) for handle in handles] == [False, False, True, True]


def test_a_file_that_breaks_later_is_named(folder: Path) -> None:
    dataset = open_dataset(folder)
    (folder / "a.h5").unlink()
    with pytest.raises(ValueError, match=r"a\.h5, slice 0, was readable when it was indexed"):
        dataset[0]


def test_fastmri_folders_of_different_sizes_are_one_data_set(tmp_path: Path) -> None:
    root = tmp_path / "multicoil_train"
    write_fastmri(root / "one.h5", n_coils=2, patient="p1")
    write_fastmri(root / "two.h5", n_coils=4, shape=(24, 12), recon=(12, 12), patient="p2")
    dataset = open_dataset(root)
    assert (dataset.shape, dataset.n_coils, len(dataset)) == ((24, 14), 4, 6)
    standard = open_dataset(root, matrix_size=(8, 10))
    assert {scan.shape for scan in slices_of(standard)} == {(8, 10)}


def test_fastmri_folder_names_are_splits(tmp_path: Path) -> None:
    write_fastmri(tmp_path / "singlecoil_train" / "one.h5", patient="p1")
    write_fastmri(tmp_path / "singlecoil_val" / "two.h5", patient="p2")
    assert {s.subject for s in slices_of(open_dataset(tmp_path))} == {"p1"}
    assert {s.subject for s in slices_of(open_dataset(tmp_path, split="val"))} == {"p2"}


@pytest.mark.parametrize(("name", "n_coils"), [("phantom", 1), ("phantom-multicoil", 8)])
@pytest.mark.parametrize(
    ("size", "expected"), [(None, (128, 128)), (32, (32, 32)), ((24, 32), (24, 32))]
)
def test_phantoms_are_opened_by_name(
    name: str,
    n_coils: int,
    size: int | tuple[int, int] | None,
    expected: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from activemri.data.phantoms import dataset as phantoms

    asked: list[dict[str, object]] = []
    monkeypatch.setitem(vars(phantoms), "PhantomDataset", lambda **given: asked.append(given))
    open_dataset(name, split="val", matrix_size=size, n_subjects=60)
    wanted = {"split": "val", "matrix_size": expected, "n_coils": n_coils, "n_subjects": 60}
    wanted |= {"target": "combined", "known_maps": False}
    assert asked == [wanted]


def test_files_have_the_subjects_that_they_have(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="n_subjects is for phantoms"):
        open_dataset(tmp_path, n_subjects=60)


def test_phantoms_with_lesions_have_a_region_in_every_slice() -> None:
    dataset = open_dataset("phantom-lesion", n_subjects=1, matrix_size=32)
    assert all(dataset[i].roi is not None for i in range(len(dataset)))
    assert open_dataset("phantom", n_subjects=1, matrix_size=32)[0].roi is None


@pytest.mark.parametrize(
    ("name", "n_coils"), [("phantom-mixed", 1), ("phantom-mixed-multicoil", 8)]
)
def test_mixed_phantoms_have_all_anatomies_and_both_orientations_and_stay_in_their_split(
    name: str, n_coils: int
) -> None:
    train, val = (
        open_dataset(name, split=split, n_subjects=6, matrix_size=(16, 24))
        for split in ("train", "val")
    )
    assert {train[i].n_coils for i in range(2)} == {n_coils}
    infos = [train.describe(i) for i in range(len(train))]
    assert {info.shape for info in infos} == {(16, 24), (24, 16)}
    for info in infos:  # both in every subject
        assert len({other.shape for other in infos if other.subject == info.subject}) == 2
    assert {info.subject.split("-")[1] for info in infos} == {"brain", "knee", "abdomen"}
    others = {val.describe(i).subject for i in range(len(val))}
    assert not others & {info.subject for info in infos}
    assert train[1].shape == infos[1].shape


def test_a_scan_says_where_its_phase_comes_from(folder: Path) -> None:
    magnitudes = np.ones((1, 16, 16), np.float32)
    found = {
        ACQUIRED: slices_of_images(magnitudes * 1j),
        SYNTHETIC: slices_of_images(magnitudes),
        PHANTOM: open_dataset("phantom", matrix_size=16, n_subjects=1),
    }
    write_image(folder / "x.h5", magnitude=False)
    found |= {
        f"{ACQUIRED} file": open_dataset(folder / "x.h5"),
        f"{SYNTHETIC} file": open_dataset(folder / "a.h5"),
        BARE: open_dataset(folder / "a.h5", synthetic_phase=False),
    }
    for phase, dataset in found.items():
        assert dataset[0].phase == dataset.describe(0).phase == phase.removesuffix(" file")
