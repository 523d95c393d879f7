"""A folder with a bad file of every kind beside good ones: these are used, those are named."""

import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from activemri.cli import main
from activemri.data.formats.registry import all_readers
from activemri.data.index import index_path
from activemri.data.sources import open_dataset
from tests.data.files import edit, random_kspace, write_kspace
from tests.data.image_files import bart_kspace, write_bart, write_dicom, write_nifti, write_series
from tests.data.published_files import write_ismrmrd
from tests.data.test_foreign_files import DECLARED, FOREIGN
from tests.data.test_readers import CASES, WRITERS, reader_of


def cifti(path: Path) -> None:
    """As in every folder of the Human Connectome Project."""
    from nibabel import cifti2

    axes: Any = cifti2.cifti2_axes
    kind: Any = cifti2.cifti2.Cifti2Image
    surface = axes.BrainModelAxis.from_surface(np.arange(4), 10, "CortexLeft")
    header = (axes.SeriesAxis(0, 1, 5), surface)
    kind(np.ones((5, 4), np.float32), header).to_filename(path)


def cut(write: Callable[[Path], object]) -> Callable[[Path], object]:
    def half(path: Path) -> None:
        write(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return half


def with_kspace(factor: float) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        write_kspace(path)
        with np.errstate(all="ignore"):
            edit(path, kspace=random_kspace((2, 3, 8, 10)) * np.complex64(factor))

    return write


def shown_from(make: Callable[[h5py.File, Path], None]) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        secret = path.with_name("secret")
        secret.write_bytes(bytes(1 << 12))
        with h5py.File(path, "w") as file:
            make(file, secret)

    return write


def bits(path: Path) -> None:
    """A damaged length of a value, which raises what only pydicom knows."""
    write_dicom(path, np.ones((8, 10), np.uint16), series="1.77")
    content = path.read_bytes()
    at = content.index(b"\x18\x00\x87\x00DS") + 6
    path.write_bytes(content[:at] + b"\xff\xff" + content[at + 2 :])


def odd_rows(path: Path) -> None:
    write_dicom(path, np.ones((8, 10), np.uint16), series="1.78")
    content = path.read_bytes()
    at = content.index(b"\x28\x00\x10\x00US") + 6
    path.write_bytes(content[:at] + b"\x03\x00" + content[at + 2 :])


def gzip_of(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(gzip.compress(content))


BAD: dict[str, Callable[[Path], object]] = {
    "text.h5": lambda path: path.write_text("not HDF5"),
    "empty.mat": lambda path: path.touch(),
    "cut.h5": cut(write_kspace),
    "cut.mrd": cut(write_ismrmrd),
    "cut.nii.gz": cut(write_nifti),
    "cut.nii": cut(write_nifti),
    "cut.dcm": cut(lambda path: write_dicom(path, np.ones((8, 10), np.uint16), series="1.79")),
    "cut.cfl": cut(lambda path: write_bart(path, bart_kspace())),
    "nothing.nii": lambda path: path.touch(),
    "zeros.nii.gz": gzip_of(bytes(1000)),
    "text.dcm": lambda path: path.write_text("not DICOM"),
    "brain.dtseries.nii": cifti,
    "bits.dcm": bits,
    "rows.ima": odd_rows,
    "pipe.h5": os.mkfifo,
    "pipe.dcm": os.mkfifo,
    "gone.h5": lambda path: path.symlink_to("/nothing"),
    "zero.h5": with_kspace(0),
    "nan.h5": with_kspace(np.nan),
    "large.h5": with_kspace(1e20),
    "small.h5": with_kspace(1e-30),
    **{f"{make.__name__}.h5": shown_from(make) for make in FOREIGN},
    **{
        f"{case.replace(' ', '-')}{suffix}": write
        for case, (suffix, write, reason) in DECLARED.items()
        if reason
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder, and the good files in it."""
    root, good = tmp_path_factory.mktemp("mixed"), []
    for number, (name, kind) in enumerate(CASES):
        suffix = reader_of(name).container.suffixes[0]
        good.append(f"good/{number}/scan{suffix}")
        WRITERS[name][kind](root / good[-1])
    write_series(root / "good.dcm")  # beside bad ones
    for name, write in BAD.items():
        write(root / name)
    return root, sorted([*good, "good.dcm"])


def test_good_files_are_used_and_every_bad_one_is_named(folder: tuple[Path, list[str]]) -> None:
    root, good = folder
    index = index_path(root, all_readers())
    assert set(good) <= {entry.file for entry in index.entries}
    dataset = open_dataset(root, split="all")
    used = {dataset.describe(i).volume for i in range(len(dataset))}
    stems = {entry.volume.name for entry in index.entries if entry.file in good}
    assert used == stems
    assert {scan.volume for scan in (dataset[i] for i in range(len(dataset)))} == stems


@pytest.mark.parametrize("command", ["inspect", "convert"])
def test_commands_name_every_bad_file_with_its_reason_in_one_line(
    folder: tuple[Path, list[str]],
    tmp_path: Path,
    command: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root, _good = folder
    monkeypatch.setattr("activemri.data.inspection.MAX_PROBLEMS", 1000)
    out = [] if command == "inspect" else ["--out", str(tmp_path / "out")]
    assert main(["data", command, str(root), *out]) == 0
    text = capsys.readouterr().out
    named = [line.strip() for line in text[text.index("problem") :].splitlines()[1:]]
    survives = {"zero.h5", "nan.h5", "large.h5", "small.h5"}  # bad values are the survey's
    for name in set(BAD) - (survives if command == "convert" else set()):
        lines = [line for line in named if line.startswith((f"{name}: ", f"{name}, slice"))]
        assert len(lines) == 1, (name, lines)
        assert len(lines[0]) > len(name) + 10 and lines[0].isprintable()
    assert not any(line.startswith("good") for line in named)
