"""Contract of every registered reader."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from activemri.data.formats.registry import all_readers, reader_for
from activemri.data.formats.stored import refuse_unusable
from activemri.data.index import index_path
from activemri.data.readers import HDF5, Reader, UnreadableError
from activemri.data.standard import magnitude_reference
from activemri.metrics.reference import center_crop
from tests.data.files import random_kspace, write_fastmri, write_image, write_kspace
from tests.data.image_files import (
    bart_kspace,
    random_images,
    write_bart,
    write_dicom,
    write_nifti,
    write_series,
)
from tests.data.published_files import (
    write_calgary,
    write_cmrxrecon,
    write_ismrmrd,
    write_m4raw,
    write_prostate,
    write_skm_tea,
)
from tests.data.radial_scans import write_ismrmrd_radial, write_radial

NOISE = random_kspace((2, 8, 8)).reshape(2, 64) * np.complex64(1e-6)

WRITERS: dict[str, dict[str, Callable[[Path], object]]] = {
    "fastmri": {
        "single-coil": lambda path: write_fastmri(path),
        "multi-coil": lambda path: write_fastmri(path, n_coils=3, acquisition="CORPD_FBK"),
        "no reference": lambda path: write_fastmri(path, n_coils=3, reference=False),
    },
    "m4raw": {"as published": lambda path: write_m4raw(path)},
    "skm-tea": {
        "as published": lambda path: write_skm_tea(path),
        "no reference": lambda path: write_skm_tea(path, target=False),
    },
    "fastmri-prostate": {
        "as published": lambda path: write_prostate(path),
        "no reference": lambda path: write_prostate(path, reference=False),
    },
    "ismrmrd": {
        "oversampled": lambda path: write_ismrmrd(path, recon=(10, 14)),
        "noise scan": lambda path: write_ismrmrd(path, noise=NOISE),
        "another vendor": lambda path: write_ismrmrd(path, vendor="GE", unit=1),
        "radial": lambda path: write_ismrmrd_radial(path),
        "radial with a noise scan": lambda path: write_ismrmrd_radial(path, noise=NOISE),
    },
    "nifti": {
        "magnitude": lambda path: write_nifti(path),
        "complex": lambda path: write_nifti(path, random_images((8, 10, 3)).astype(np.complex64)),
        "times": lambda path: write_nifti(path, np.abs(random_images((8, 10, 3, 2)))),
    },
    "dicom": {
        "a file a slice": lambda path: write_series(path),
        "many frames": lambda path: write_dicom(
            path, np.arange(1, 241, dtype=np.uint16).reshape(3, 8, 10), series="1.2"
        ),
    },
    "bart": {"k-space": lambda path: write_bart(path, bart_kspace())},
    "cmrxrecon": {
        "multi-coil": lambda path: write_cmrxrecon(path),
        "single-coil": lambda path: write_cmrxrecon(
            path, key="kspace_single_full", shape=(20, 14, 2, 4)
        ),
        "without frames": lambda path: write_cmrxrecon(path, key="kspace", shape=(20, 14, 3, 2)),
    },
    "calgary-campinas": {
        "two channels": lambda path: write_calgary(path),
        "three channels": lambda path: write_calgary(path, shape=(3, 22, 20, 3)),
    },
    "hdf5": {
        "magnitude": lambda path: write_image(path),
        "complex image": lambda path: write_image(path, magnitude=False),
        "k-space": lambda path: write_kspace(path),
        "oversampled": lambda path: write_kspace(
            path, shape=(2, 3, 16, 10), readout_oversampling=2.0
        ),
        "radial": lambda path: write_radial(path),
    },
}
CASES = [(name, kind) for name, kinds in WRITERS.items() for kind in kinds]


def test_every_reader_is_held_to_the_contract() -> None:
    assert {reader.name for reader in all_readers()} == set(WRITERS)


def reader_of(name: str) -> Reader:
    return next(reader for reader in all_readers() if reader.name == name)


@pytest.fixture(scope="module", params=CASES, ids=": ".join)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file, alone in its folder."""
    name, kind = request.param
    path: Path = (
        tmp_path_factory.mktemp("scans") / name / f"scan{reader_of(name).container.suffixes[0]}"
    )
    path.parent.mkdir()
    WRITERS[name][kind](path)
    return path


@pytest.fixture(scope="module")
def case(path: Path) -> Iterator[tuple[Reader, Any]]:
    """A reader and an open file of its own."""
    reader = reader_of(path.parent.name)
    with reader.container.open(path) as file:
        yield reader, file


def test_the_first_reader_that_recognises_a_file_is_its_own(case: tuple[Reader, Any]) -> None:
    reader, file = case
    rivals = [other for other in all_readers() if other.container == reader.container]
    assert reader_for(file, rivals) == reader


def test_slices_are_as_described(case: tuple[Reader, Any]) -> None:
    reader, file = case
    volume = reader.describe(file)
    assert volume.n_slices >= 2
    for index in range(volume.n_slices):
        scan = reader.read(file, volume, index)
        assert scan.kspace.shape == (volume.n_coils, *volume.shape)
        assert scan.target.shape == volume.target_shape
        assert (scan.kspace.dtype, scan.target.dtype) == (torch.complex64, torch.float32)
        assert scan.target.is_contiguous() and scan.kspace.is_contiguous()
        assert (scan.volume, scan.index, scan.subject) == ("scan", index, volume.subject)
        assert scan.contrast == volume.contrast
        assert scan.field_strength == volume.field_strength
        assert scan.scanner == volume.scanner
        assert scan.volume_max == scan.target.max()
        assert scan.measured.shape == volume.shape


def test_the_target_is_the_cropped_image_of_the_kspace(case: tuple[Reader, Any]) -> None:
    reader, file = case
    volume = reader.describe(file)
    scan = reader.read(file, volume, 1)
    shape = (scan.target.shape[0], scan.target.shape[1])
    expected = magnitude_reference(
        scan.kspace, shape, sensitivity=scan.sensitivity, target=volume.target
    )
    torch.testing.assert_close(scan.target, expected, rtol=1e-4, atol=1e-4)


def test_reading_twice_gives_the_same(case: tuple[Reader, Any]) -> None:
    reader, file = case
    volume = reader.describe(file)
    first, again = reader.read(file, volume, 1), reader.read(file, volume, 1)
    other = reader.read(file, volume, 0)
    assert torch.equal(first.kspace, again.kspace) and torch.equal(first.target, again.target)
    assert not torch.equal(first.kspace, other.kspace)


def test_values_are_far_from_the_limits_of_float32(case: tuple[Reader, Any]) -> None:
    reader, file = case
    scan = reader.read(file, reader.describe(file), 0)
    assert 1e-4 < scan.target.max() < 1e4
    assert scan.target.square().mean().square() > 1e-12


def test_descriptions_are_remembered_as_they_were(
    case: tuple[Reader, Any], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, _file = case
    first = index_path(path.parent, all_readers())
    assert [entry.reader for entry in first.entries] == [reader]
    monkeypatch.setattr(type(reader), "describe", None)  # the second time it is not called
    assert index_path(path.parent, all_readers()) == first


def test_no_two_containers_take_the_same_file() -> None:
    kinds = {reader.container for reader in all_readers()}
    suffixes = [suffix for kind in kinds for suffix in kind.suffixes]
    assert len(set(suffixes)) == len(suffixes)
    assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in suffixes)


def test_unknown_layouts_are_named_with_what_they_hold(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["weights"] = np.ones(3)
        with pytest.raises(UnreadableError, match=r"fastmri, .*hdf5.*holds weights"):
            reader_for(file, [r for r in all_readers() if r.container == HDF5])


def test_central_crops_keep_the_origin() -> None:
    for size in range(1, 9):
        for new in range(1, size + 1):
            row = torch.arange(size).expand(2, size)
            assert center_crop(row, (1, new))[0, new // 2] == size // 2


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_no_numbers_are_refused_and_large_or_small_ones_are_not(
    value: float,
) -> None:
    refuse_unusable(torch.full((10,), 3e38), "k-space")  # the sum of these is not finite
    refuse_unusable(torch.tensor([0.0, -1e-45]), "k-space")
    with pytest.raises(UnreadableError, match="NaN or Inf in k-space"):
        refuse_unusable(torch.tensor([1.0, complex(0, value)]), "k-space")
    with pytest.raises(UnreadableError, match="k-space is all zero"):
        refuse_unusable(torch.zeros(3), "k-space")
