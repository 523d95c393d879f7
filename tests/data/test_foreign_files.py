"""Files from anybody: nothing but the file itself is read, and nothing that it only declares."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from activemri.cli import main
from activemri.data.formats.registry import all_readers
from activemri.data.index import index_path
from activemri.data.readers import HDF5, MOST_OBJECTS, UnreadableError, guarded
from tests.data.files import (
    edit,
    ismrmrd_header,
    random_kspace,
    read,
    refused,
    write_fastmri,
    write_kspace,
)
from tests.data.image_files import bart_kspace, write_bart, write_dicom, write_nifti, write_series
from tests.data.published_files import write_ismrmrd

SECRET = np.full((2, 1, 8, 10), 42, np.complex64)


def external_link(file: h5py.File, secret: Path) -> None:
    file["kspace"] = h5py.ExternalLink(secret, "kspace")


def virtual(file: h5py.File, secret: Path) -> None:
    layout = h5py.VirtualLayout(SECRET.shape, SECRET.dtype)
    layout[:] = h5py.VirtualSource(str(secret), "kspace", SECRET.shape)
    file.create_virtual_dataset("kspace", layout)


def raw_external(file: h5py.File, secret: Path) -> None:
    file.create_dataset("kspace", SECRET.shape, SECRET.dtype, external=[(secret, 0, SECRET.nbytes)])


def deep_link(file: h5py.File, secret: Path) -> None:
    file["kspace"] = random_kspace((2, 1, 8, 10))
    file["one/circle"] = h5py.SoftLink("/one")
    file["one/two/back"] = file["one"]
    file["one/two/away"] = h5py.ExternalLink(secret, "kspace")


Maker = Callable[[h5py.File, Path], None]
FOREIGN: dict[Maker, str] = {
    external_link: "/kspace is a link to another file",
    virtual: "/kspace takes its samples from other files",
    raw_external: "/kspace takes its samples from other files",
    deep_link: "/one/two/away is a link to another file",
}


@pytest.mark.parametrize("suffix", HDF5.suffixes)
@pytest.mark.parametrize("make", FOREIGN)
def test_a_scan_cannot_show_other_files(tmp_path: Path, make: Maker, suffix: str) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET.tobytes())
    if make is not raw_external:
        with h5py.File(secret, "w") as file:
            file["kspace"] = SECRET
    with h5py.File(tmp_path / f"a{suffix}", "w") as file:
        make(file, secret)
    refused(tmp_path / f"a{suffix}", FOREIGN[make])


def test_links_within_a_file_and_in_circles_are_harmless(tmp_path: Path) -> None:
    write_kspace(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["group/again"] = file["/"]
        file["group/there"] = h5py.SoftLink("/kspace")
        file["group/nowhere"] = h5py.SoftLink("/nothing")
    assert read(tmp_path / "a.h5")[0].n_slices == 2


def test_a_file_of_too_many_objects_is_refused(tmp_path: Path) -> None:
    write_kspace(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        for number in range(MOST_OBJECTS):
            file[f"{number}"] = h5py.SoftLink("/kspace")
    refused(tmp_path / "a.h5", "at most 10,000 objects")


SUFFIXES = [suffix for kind in {r.container for r in all_readers()} for suffix in kind.suffixes]


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_nothing_but_regular_files_is_opened(tmp_path: Path, suffix: str) -> None:
    write_kspace(tmp_path / "good.h5")
    (tmp_path / f"link{suffix}").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / f"pipe{suffix}")  # opening it would block for ever
    (tmp_path / f"folder{suffix}").mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(tmp_path / f"socket{suffix}"))
    index = index_path(tmp_path, all_readers())
    assert [entry.file for entry in index.entries] == ["good.h5"]
    assert sorted(index.problems) == [f"{name}{suffix}" for name in ("link", "pipe", "socket")]
    assert all("expected a regular file" in reason for reason in index.problems.values())
    with pytest.raises(UnreadableError, match="expected a regular file"):
        index_path(tmp_path / f"pipe{suffix}", all_readers())


def test_links_to_regular_files_are_opened(tmp_path: Path) -> None:
    write_kspace(tmp_path / "there" / "a.h5")
    (tmp_path / "b.h5").symlink_to(tmp_path / "there" / "a.h5")
    assert read(tmp_path / "b.h5")[0].name == "b"


def test_a_series_is_found_beside_a_pipe(tmp_path: Path) -> None:
    write_series(tmp_path / "a.dcm")
    os.mkfifo(tmp_path / "b.dcm")
    index = index_path(tmp_path, all_readers())
    assert [entry.file for entry in index.entries] == ["a.dcm"]
    assert "expected a regular file" in index.problems["b.dcm"]


def test_failures_of_libraries_are_reasons_and_mistakes_of_ours_are_not() -> None:
    with pytest.raises(UnreadableError, match="damaged: not enough memory"), guarded("damaged: "):
        raise MemoryError
    with pytest.raises(UnreadableError, match="ZeroDivisionError"), guarded():
        raise ZeroDivisionError  # of a module that is not of the package
    ours: dict[str, Any] = {"__name__": "activemri.data.formats.own"}
    for mistake in ("[][1]", "None.shape", "1 / 0", "__import__('math').exp(1e4)"):
        code = compile(mistake, "own.py", "eval")
        with pytest.raises((LookupError, AttributeError, ArithmeticError)), guarded():
            eval(code, ours)
    with pytest.raises(UnreadableError, match="'x'"), guarded():
        eval("{}['x']", ours)  # as h5py raises it, out of C


def test_reasons_are_one_printable_line(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a\nb\x1b[2J" + "c" * 5000] = 1
    with pytest.raises(UnreadableError) as raised:
        read(tmp_path / "a.h5")
    reason = str(raised.value)
    assert reason.isprintable() and "a b [2Jccc" in reason and len(reason) <= 1000


def test_labels_of_a_file_are_printable_lines(tmp_path: Path) -> None:
    write_kspace(tmp_path / "a.h5", subject_id="a\nb\x1b[2J", contrast="T1\n| x |")
    volume, _ = read(tmp_path / "a.h5")
    assert volume.subject == "a b [2J" and volume.contrast.isprintable()


def sparse(path: Path) -> None:
    """8 TiB in a file of no blocks."""
    with h5py.File(path, "w") as file:
        made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        made.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        made.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        space = h5py.h5s.create_simple((2**16, 16, 1024, 1024))
        kind = h5py.h5t.py_create(np.dtype(np.complex64))
        h5py.h5d.create(file.id, b"kspace", kind, space, made)


def chunked(shape: tuple[int, ...], chunk: tuple[int, ...]) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        with h5py.File(path, "w") as file:
            file.create_dataset("kspace", shape, np.complex64, chunks=chunk, compression="gzip")
            file["padding"] = np.random.default_rng(0).random(1 << 16)

    return write


def filled(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("image", (3, 8, 10), np.float32, fillvalue=1, chunks=True)


def billion_laughs(path: Path) -> None:
    entities = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 10))
    write_ismrmrd(path)
    header = f'<!DOCTYPE x [<!ENTITY e0 "ha">{entities}]>' + ismrmrd_header((20, 14))[38:]
    with h5py.File(path, "a") as file:
        del file["dataset/xml"]
        file["dataset/xml"] = header.replace("t1_fl2d", "&e9;")


def with_header(old: str, new: str) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        write_ismrmrd(path)
        with h5py.File(path, "a") as file:
            del file["dataset/xml"]
            file["dataset/xml"] = ismrmrd_header((20, 14)).replace(old, new)

    return write


def long_header(path: Path) -> None:
    write_ismrmrd(path)
    with h5py.File(path, "a") as file:
        del file["dataset/xml"]
        file["dataset/xml"] = np.bytes_(b" " * (1 << 25))


def nifti_of(shape: tuple[int, ...]) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        write_nifti(path)
        content = bytearray(path.read_bytes())
        sizes = np.array([len(shape), *shape, *[1] * (7 - len(shape))], "<i2")
        content[40:56] = sizes.tobytes()
        path.write_bytes(content)

    return write


def dicom_of(**elements: Any) -> Callable[[Path], object]:
    pixels, series = np.ones((8, 10), np.uint16), f"1.2.{len(str(elements))}"
    return lambda path: write_dicom(path, pixels, series=series, **elements)


DECLARED: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "many slices": (".h5", chunked((2**31, 1, 8, 8), (1, 1, 8, 8)), "were never written"),
    "a sparse file": (".h5", sparse, "GiB for a part in 256 of the volume"),
    "fill values": (".h5", filled, "were never written"),
    "entities": (".h5", billion_laughs, "defines entities"),
    "an endless header": (".h5", long_header, "at most 16 MiB"),
    "a wide matrix": (".h5", with_header("<y>14<", "<y>999999999<"), "pixels in a slice"),
    "a number without end": (".h5", with_header("<y>14<", f"<y>{'9' * 5000}<"), "matrixSize y"),
    "an infinite field": (".h5", with_header("<x>40</x><y>28", "<x>1e999</x><y>1e999"), ""),
    "times": (".nii", nifti_of((8, 10, 3, 30000)), "cannot hold them"),
    "wide slices": (".nii", nifti_of((32767, 32767, 3)), "pixels in a slice"),
    "frames": (".dcm", dicom_of(NumberOfFrames="100000000000"), "slices"),
    "wide frames": (".dcm", dicom_of(Rows=65535, Columns=65535), "pixels in a slice"),
    "sizes": (
        ".cfl",
        lambda path: write_bart(path, bart_kspace(), header="# Dimensions\n8 10 1 2 9999999999\n"),
        "complex numbers, as the header says",
    ),
}


@pytest.mark.parametrize("case", DECLARED)
def test_declared_sizes_are_held_against_limits_before_anything_is_read(
    tmp_path: Path, case: str
) -> None:
    suffix, write, reason = DECLARED[case]
    write(tmp_path / f"a{suffix}")
    if reason:
        refused(tmp_path / f"a{suffix}", reason)
    else:  # it is no number, and done without
        read(tmp_path / f"a{suffix}")


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("ACTIVEMRI_MAX_SLICES", "1", r"2 slices, more than 1; .*set ACTIVEMRI_MAX_SLICES"),
        ("ACTIVEMRI_MAX_PIXELS", "79", "set ACTIVEMRI_MAX_PIXELS"),
        ("ACTIVEMRI_MAX_GIB", "1e-9", "set ACTIVEMRI_MAX_GIB"),
        ("ACTIVEMRI_MAX_GIB", "many", r"ACTIVEMRI_MAX_GIB: expected a number above 0; got 'many'"),
    ],
)
def test_limits_are_settable_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, reason: str
) -> None:
    write_kspace(tmp_path / "a.h5")
    monkeypatch.setenv(name, value)
    with pytest.raises(UnreadableError, match=reason):
        index_path(tmp_path, all_readers())


def test_large_real_volumes_pass_the_limits() -> None:
    from activemri.data.readers import Volume

    for n_slices, shape, n_coils in [
        (512, (640, 368), 15),  # knee, 3-D
        (1200 * 91, (109, 91), 1),  # functional
        (30, (2048, 2048), 64),
    ]:
        Volume("a", "b", n_slices, shape, shape, n_coils)


@pytest.mark.parametrize("kind", ["target", "sensitivity", "measured", "label"])
def test_groups_in_place_of_data_sets_are_named(tmp_path: Path, kind: str) -> None:
    write_kspace(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file.create_group(f"{kind}/0")
        file.create_group(f"{kind}/1")
    refused(tmp_path / "a.h5", kind)


def test_values_beyond_single_precision_are_infinite(tmp_path: Path) -> None:
    write_kspace(tmp_path / "a.h5")
    edit(tmp_path / "a.h5", kspace=np.full((2, 1, 8, 10), 1e300 + 0j))
    assert not read(tmp_path / "a.h5")[1].kspace.isfinite().any()


@pytest.mark.parametrize("name", [b"\xff.h5", b"a\nb.h5", b"a\x1b[2J.h5"])
def test_names_that_cannot_be_shown_are_problems_in_one_line(
    tmp_path: Path, name: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    write_kspace(tmp_path / "good.h5")
    (tmp_path / "good.h5").with_name(os.fsdecode(name)).write_bytes(b"")
    assert main(["data", "inspect", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "1 problem, left out" in text and "name in UTF-8" in text.splitlines()[-1]
    assert all(line.isprintable() for line in text.splitlines())


@pytest.mark.parametrize(("index", "length"), [(0, 0), (1, 2**64 - 16), (1, 2**20)])
def test_texts_that_the_library_would_read_for_ever_are_refused(
    index: int, length: int, tmp_path: Path
) -> None:
    path = tmp_path / "scan.h5"
    write_fastmri(path)
    content = bytearray(path.read_bytes())
    place = content.index(b"GCOL") + 16
    while content[place] != index:
        place += 16 + -(-int.from_bytes(content[place + 8 : place + 16], "little") // 8) * 8
    content[place + 8 : place + 16] = length.to_bytes(8, "little")
    path.write_bytes(content)
    with pytest.raises(UnreadableError, match="no end"):
        HDF5.open(path)
