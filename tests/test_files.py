import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from activemri import files

BAD = {
    "deep": "[" * 100_000,
    "deep object": '{"a":' * 100_000,
    "infinite": '{"a": 1e400}',
    "nan": '{"a": NaN}',
    "huge": '{"a": 1' + "0" * 5000 + "}",
    "over 64 bits": '{"a": 9223372036854775808}',
    "a list": "[1, 2]",
    "nothing": "",
    "no text": "\udcff",
    "cut off": '{"a": ',
}


@pytest.mark.parametrize("kind", BAD)
def test_json_that_cannot_be_used_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(BAD[kind].encode("utf-8", errors="surrogateescape"))
    with pytest.raises(ValueError, match=r"file\.json cannot be read") as raised:
        files.read_json(path)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 300


def test_json_beyond_the_limit_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.json"
    with path.open("wb") as file:
        file.truncate(files.MOST_JSON + 1)
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail("read"))
    with pytest.raises(ValueError, match="at most 256 MiB"):
        files.read_json(path)


@pytest.mark.parametrize("value", ["true", '"3"', "1.5", "null", "{}"])
def test_a_field_of_another_type_is_refused(value: str, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text(f'{{"n": {value}}}')
    with pytest.raises(ValueError, match="'n' to be a whole number"):
        files.read_json(path, {"n": int})
    with pytest.raises(ValueError, match="'m' to be text; got none"):
        files.read_json(path, {"m": str})


def test_what_is_written_is_strict_json_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    content = {"a": np.arange(2), "b": (math.nan, math.inf, 1.5), "c": {"d": np.float32(0.5)}}
    files.write_json(path, content | {"e": tmp_path})
    assert files.read_json(path) == {
        "a": [0, 1], "b": [None, None, 1.5], "c": {"d": 0.5}, "e": str(tmp_path),
    }  # fmt: skip


def test_what_a_killed_command_left_does_not_keep_it_from_its_folder(tmp_path: Path) -> None:
    (tmp_path / "activemri.json.next").write_text("{")  # killed while it took the folder
    (tmp_path / "inner").mkdir()
    with pytest.raises(ValueError, match="inner"), files.claimed(tmp_path, "demo"):
        pass
    (tmp_path / "inner").rmdir()
    with files.claimed(tmp_path, "demo"):
        (tmp_path / "inner").mkdir()
        (tmp_path / "inner" / ".table.parquet.12ab.next").write_text("cut")
    with files.claimed(tmp_path, "demo"):
        assert not list(tmp_path.rglob("*.next"))


FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="no device that is always full")
@pytest.mark.parametrize("write", ["write_together", "replacing", "elsewhere", "hdf5"])
def test_a_full_disk_names_the_file(
    write: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "best.json"
    path.write_text("old")
    real = Path.open

    def full(self: Path, *arguments: Any, **options: Any) -> Any:
        return real(FULL if self.name.endswith(files.NEXT) else self, *arguments, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OSError, match=r"No space left on device: .*best\.json"):
        if write == "write_together":
            files.write(path, "new")
        else:
            with files.replacing(path) as partial, partial.open("w") as stream:
                stream.write("new")
                if write == "elsewhere":
                    raise OSError(28, "No space left on device")
                if write == "hdf5":
                    raise RuntimeError("Can't close (error message = 'No space left on device')")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["best.json"]


def test_a_home_that_there_is_not_is_refused() -> None:
    assert files.expanded("~") == Path.home()
    with pytest.raises(ValueError, match="~no-such-user/x: expected a user with a home folder"):
        files.expanded("~no-such-user/x")
