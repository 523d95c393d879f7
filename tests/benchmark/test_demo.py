from pathlib import Path

import pytest

from activemri import cli
from activemri.benchmark import demo


@pytest.mark.parametrize("train", [False, pytest.param(True, marks=pytest.mark.long)])
def test_the_demonstration_prints_a_table_and_writes_a_report_and_an_animation(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    train: bool,
) -> None:
    few = (*(name for name in demo._POLICIES if "lbcs" in name), "random", "imitation")
    monkeypatch.setattr(demo, "_POLICIES", few)
    monkeypatch.setattr(demo, "_N_WORKERS", 1)
    line = ["demo", "--n-scans", "2", "--budget", "2", "--out", str(tmp_path)]
    assert cli.main([*line, "--train"] if train else line) == 0
    printed = capsys.readouterr().out
    assert "SSIM area" in printed and "\nlbcs " in printed and "\nimitation " in printed
    assert ("\ntrained-now " in printed) == train
    assert (tmp_path / "report.html").as_uri() in printed
    assert (tmp_path / "episode.gif").read_bytes().startswith(b"GIF89a")
