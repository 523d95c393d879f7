import pytest

from activemri.progress import Progress, track


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr("activemri.progress.time.monotonic", lambda: now[0])
    return now


def test_a_log_file_gets_lines_with_counts_and_the_time_left(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress("acquire", 40, done=10, unit="scan") as shown:
        for at in (11, 12, 25, 26):
            clock[0] += 4
            shown.note("oracle")
            shown(at, ssim=0.5)
        shown(40)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "acquire: 12 of 40 scans, 0:08, about 1:52 left, ssim 0.5, oracle",
        "acquire: 26 of 40 scans, 0:16, about 0:14 left, ssim 0.5, oracle",
        "acquire: 40 of 40 scans, 0:16, ssim 0.5, oracle",
    ]


def test_work_that_has_no_unit_is_told_in_percent_and_can_be_silent(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    for show in (True, False):
        with Progress("learn", 2.5, unit="", show=show) as shown:
            clock[0] += 9
            shown(0.5)
    assert capsys.readouterr().err == "learn: 20 %, 0:09, about 0:36 left\n"
    assert list(track([3, 4], "load", unit="slice", show=False)) == [3, 4]
