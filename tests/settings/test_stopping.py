import pytest

from activemri.settings import BenchmarkSettings
from activemri.settings.stopping import StopSettings, parse_stop


def test_no_words_mean_no_stopping() -> None:
    assert parse_stop(()) is None


def test_words_are_read() -> None:
    assert parse_stop(["target=ssim:0.90", "alpha=0.1"]) == StopSettings("ssim", 0.9, 0.1)
    full = (
        "target=nmse:0.01 alpha=.2 predictor=uncertainty unit=slice calibration=crossfit "
        "max-slices=None calibration-subjects=60"
    )
    stop = parse_stop(full.split())
    assert stop == StopSettings(
        metric="nmse",
        target=0.01,
        alpha=0.2,
        predictor="uncertainty",
        unit="slice",
        calibration="crossfit",
        max_slices=None,
        calibration_subjects=60,
    )
    assert stop is not None and stop.splits == ("train", "val")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("alpha=0.1", "target missing; expected e.g. target=ssim:0.90 alpha=0.1"),
        ("target=ssim:0.9", "alpha missing"),
        ("target=ssim:0.9 alpha", "expected KEY=VALUE, e.g. alpha=0.1; got 'alpha'"),
        ("target=ssim:0.9 alpha=", "expected KEY=VALUE"),
        ("target=ssim:0.9 alpha=0.1 alpha=0.2", "expected each key once"),
        ("target=ssim:0.9 alpha=0.1 level=3", "unknown key level; expected some of target, alpha"),
        ("target=sism:0.9 alpha=0.1", "--stop target: unknown metric 'sism'; choose from ssim"),
        ("target=0.9 alpha=0.1", "unknown metric '0.9'"),
        ("target=ssim alpha=0.1", r"expected METRIC:VALUE, e.g. ssim:0.90; got 'ssim'"),
        ("target=ssim:high alpha=0.1", "expected METRIC:VALUE"),
        ("target=ssim:nan alpha=0.1", "expected METRIC:VALUE"),
        ("target=ssim:1.2 alpha=0.1", "expected a value between 0 and 1 for ssim; got 1.2"),
        ("target=nmse:-1 alpha=0.1", "expected a value above 0 for nmse; got -1"),
        ("target=ssim:0.9 alpha=1.5", "--stop alpha: expected a number between 0 and 1; got 1.5"),
        ("target=ssim:0.9 alpha=10%", "--stop alpha: expected a number between 0 and 1"),
        ("target=ssim:0.9 alpha=0.1 predictor=luck", "expected one of regression, uncertainty"),
        ("target=ssim:0.9 alpha=0.1 unit=pixel", "expected one of subject, volume, slice"),
        ("target=ssim:0.9 alpha=0.1 max-slices=0", "--stop max-slices: expected a whole number"),
        ("target=ssim:0.9 alpha=0.1 calibration=crossfit fit=train", "leave fit=train out"),
        ("target=ssim:0.9 alpha=0.1 fit=val", "must not be fitted to the split that it is calib"),
    ],
)
def test_mistakes_are_told_apart(words: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_stop(words.split())
    with pytest.raises(ValueError, match=message):
        BenchmarkSettings(stop=tuple(words.split()))
