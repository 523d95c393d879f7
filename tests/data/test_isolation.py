"""Files that crash, block or exhaust the process that reads them are left out."""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest

from activemri.cli import main
from activemri.data.formats.registry import all_readers
from activemri.data.index import index_path
from activemri.data.isolation import Isolated
from activemri.data.readers import Reader, UnreadableError, Volume, require_regular
from activemri.data.slices import Slice
from activemri.data.volumes import survey
from tests.data.files import write_image, write_kspace


@pytest.fixture(scope="module")
def isolated() -> Iterator[Isolated]:
    run = Isolated(5.0, 2.0)
    yield run
    run.stop()


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def mistake() -> None:
    raise AttributeError("ours")


@dataclass(frozen=True)
class HostileReader(Reader):
    """Does what damaged files make libraries do, when it reads or when it describes."""

    name: str = "hostile"

    def recognises(self, file: h5py.File) -> bool:
        return "does" in file.attrs

    def describe(self, file: h5py.File) -> Volume:
        if file.attrs["when"] == "describe":
            self.read(file, Volume("a", "b", 1, (8, 8), (8, 8)), 0)
        return Volume("a", "b", 1, (8, 8), (8, 8))

    def read(self, file: h5py.File, volume: Volume, index: int) -> Slice:
        match file.attrs["does"]:
            case "crash":
                crash()
            case "hang":
                time.sleep(3600)
            case "fill":
                np.ones(1 << 33)
        raise NotImplementedError


def test_results_and_errors_are_those_of_the_function(isolated: Isolated) -> None:
    assert isolated(sorted, [3, 1], reverse=True) == [3, 1]
    assert isolated(os.getpid) == isolated(os.getpid) != os.getpid()
    with pytest.raises(UnreadableError, match="expected a regular file"):
        isolated(require_regular, Path("/dev/null"))
    with pytest.raises(AttributeError, match="ours") as raised:
        isolated(mistake)
    assert "in mistake" in raised.value.__notes__[0]  # where it arose


def test_a_process_that_ends_is_started_anew(isolated: Isolated) -> None:
    first = isolated(os.getpid)
    with pytest.raises(UnreadableError, match=r"ended the process .* \(SIGSEGV\)"):
        isolated(crash)
    assert isolated(os.getpid) != first


def test_files_that_crash_hang_or_fill_the_memory_are_named(
    tmp_path: Path, isolated: Isolated
) -> None:
    for what, when in (("crash", "describe"), ("hang", "read"), ("fill", "read")):
        write_kspace(tmp_path / f"{what}.h5", does=what, when=when)
    write_kspace(tmp_path / "zero.h5")
    index = index_path(tmp_path, (HostileReader(), *all_readers()), run=isolated)
    assert [entry.file for entry in index.entries] == ["fill.h5", "hang.h5", "zero.h5"]
    assert "SIGSEGV" in index.problems["crash.h5"]
    fill, hang, zero = survey(tmp_path, index.entries, run=isolated)
    assert fill.problems == ((0, "not enough memory"),)
    assert hang.problems == ((0, "reading it takes more than 5 s (--max-seconds)"),)
    assert zero.usable == (0, 1)


def test_isolated_commands_find_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_kspace(tmp_path / "scans" / "a.h5")
    write_image(tmp_path / "scans" / "b.h5")
    (tmp_path / "scans" / "c.h5").write_text("not HDF5")
    commands = [
        ["data", "inspect", str(tmp_path / "scans")],
        ["data", "convert", str(tmp_path / "scans"), "--out", str(tmp_path / "out")],
    ]
    for command in commands:
        shown, converted = [], []
        for isolate in ([], ["--isolate", "--max-seconds", "60"]):
            monkeypatch.setenv("ACTIVEMRI_CACHE", str(tmp_path / f"cache {isolate}"))
            assert main([*command, *isolate]) == 0
            shown.append(capsys.readouterr().out)
            converted.append([path.read_bytes() for path in sorted(tmp_path.glob("out/*.h5"))])
            for path in tmp_path.glob("out/*.h5"):
                path.unlink()
        assert shown[0] == shown[1] and converted[0] == converted[1]


@pytest.mark.parametrize("option", ["--max-seconds", "--max-memory-gib"])
def test_limits_are_above_zero(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    assert main(["data", "inspect", str(tmp_path), option, "0"]) == 2
    assert f"{option}: expected" in capsys.readouterr().err
