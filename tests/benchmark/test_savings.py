"""What stopping saves, against loops that count slice by slice."""

import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest

from activemri.agents.curves import Curves
from activemri.agents.prediction import Monotone, Predictor
from activemri.agents.stopping import StoppingRule
from activemri.benchmark.savings import savings, trade_off, wilson
from activemri.benchmark.stopping import Verdict, from_table, to_table
from activemri.benchmark.stopping_report import trade_off_figure
from activemri.data.slices import SliceInfo
from activemri.settings.stopping import StopSettings

STOP = StopSettings("ssim", 0.8, 0.1)
N_STEPS = 11


def invented(seed: int = 0, n_subjects: int = 7) -> Curves:
    """Subjects with one to three slices each, scores that rise unsteadily."""
    rng = np.random.default_rng(seed)
    scans = [
        SliceInfo(f"v{s}", i, f"s{s}", "T1", (8, 9), (8, 9), 1)
        for s in range(n_subjects)
        for i in range(1 + s % 3)
    ]
    n = len(scans)
    rise = np.cumsum(rng.uniform(-0.02, 0.1, (n, N_STEPS)), axis=1)
    scores = 0.5 + rise
    predicted = scores + rng.normal(0, 0.05, scores.shape)
    return Curves(
        tuple(scans),
        np.tile(4 + np.arange(N_STEPS), (n, 1)) + rng.integers(0, 2, (n, 1)),
        {"ssim": scores, "nmse": 1 - scores},
        {"acquired": predicted},
    )


def verdict(
    curves: Curves, threshold: float = 0.82, *, stop: StopSettings = STOP, n_units: int = 30
) -> Verdict:
    y = (0.0, 1.0) if stop.metric == "ssim" else (1.0, 0.0)
    predictor = Predictor("regression", stop.metric, ("acquired",), Monotone((0.0, 1.0), y))
    rule = StoppingRule(
        predictor=predictor,
        target=stop.target,
        threshold=threshold,
        alpha=stop.alpha,
        unit=stop.unit,
        n_units=n_units,
        policy="random",
        reconstructor="unet",
        data="invented",
        n_center_lines=4,
        budget=10,
    )
    predicted = predictor(curves.features)
    return Verdict("random", "unet", curves, rule, "", predicted, n_units)


def counted(curves: Curves, stops: list[int]) -> tuple[float, float]:
    """Mean lines over slices, and misses: mean over subjects of the share of their slices."""
    lines = [int(curves.n_acquired[row, step]) for row, step in enumerate(stops)]
    misses: dict[str, list[bool]] = {}
    for row, (scan, step) in enumerate(zip(curves.scans, stops, strict=True)):
        misses.setdefault(scan.subject, []).append(bool(curves.scores["ssim"][row, step] < 0.8))
    return float(np.mean(lines)), float(np.mean([np.mean(own) for own in misses.values()]))


def first(values: np.ndarray, level: float) -> int:
    return next((i for i, value in enumerate(values) if value >= level), N_STEPS - 1)


@pytest.mark.parametrize("threshold", [0.7, 0.78, 0.82, 0.9])
def test_a_row_equals_counting_slice_by_slice(threshold: float) -> None:
    curves = invented()
    row = savings(verdict(curves, threshold), STOP, n_resamples=200)
    rule = [first(values, threshold) for values in np.clip(curves.features["acquired"], 0, 1)]
    oracle = [first(values, 0.8) for values in curves.scores["ssim"]]
    fixed = [counted(curves, [step] * len(curves)) for step in range(N_STEPS)]
    lines, miss = counted(curves, rule)
    best = next((f for f in fixed if f[1] <= miss), fixed[-1])
    assert (row["lines"], row["miss"]) == pytest.approx((lines, miss))
    assert (row["oracle_lines"], row["oracle_miss"]) == pytest.approx(counted(curves, oracle))
    assert row["fixed_lines"] == pytest.approx(best[0])
    assert row["saved"] == pytest.approx(best[0] - lines)
    to_save = best[0] - counted(curves, oracle)[0]
    assert row["share"] == (pytest.approx((best[0] - lines) / to_save) if to_save > 0 else None)
    assert row["miss_lo"] <= row["miss"] <= row["miss_hi"]  # type: ignore[operator]
    assert row["holds"] == (row["miss_lo"] <= 0.1)  # type: ignore[operator]


def test_errors_are_mirror_images_of_scores() -> None:
    curves = invented()
    flipped = replace(STOP, metric="nmse", target=0.2)
    a = savings(verdict(curves, 0.82), STOP, n_resamples=50)
    b = savings(verdict(curves, 1 - 0.82, stop=flipped), flipped, n_resamples=50)
    for name in ("lines", "miss", "miss_lo", "miss_hi", "saved", "share", "oracle_lines", "rank"):
        assert a[name] == pytest.approx(b[name])


def test_the_calibrated_point_lies_on_the_curve_of_all_thresholds() -> None:
    curves = invented(n_subjects=12)
    found = trade_off(verdict(curves), STOP)
    assert found is not None
    points = np.stack([found.rule.lines, found.rule.misses], axis=1)
    chosen = np.array([found.chosen.lines[0], found.chosen.misses[0]])
    assert np.abs(points - chosen).sum(axis=1).min() < 1e-12
    assert (np.diff(found.rule.lines) >= 0).all()
    assert found.fixed.lines[0] == curves.n_acquired[:, 0].mean()
    assert found.rule.lines[-1] == found.fixed.lines[-1] == curves.n_acquired[:, -1].mean()
    assert found.oracle.misses[0] <= found.rule.misses.min() + 1e-12


def test_without_any_miss_the_interval_still_shows_doubt() -> None:
    curves = invented()
    perfect = replace(curves, scores={"ssim": np.ones_like(curves.scores["ssim"])})
    row = savings(verdict(perfect), STOP, n_resamples=50)
    assert (row["miss"], row["miss_lo"]) == (0, 0)
    assert row["miss_hi"] == pytest.approx(binomtest(0, 7).proportion_ci(method="exact").high)
    assert row["share"] is None or row["share"] <= 1  # type: ignore[operator]


def test_one_subject_gives_no_interval() -> None:
    one = invented().select([0])
    row = savings(verdict(one), STOP, n_resamples=50)
    assert row["miss_lo"] is row["miss_hi"] is row["saved_lo"] is row["holds"] is None


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 40), (40, 40)])
def test_wilson_intervals_are_those_of_scipy(k: int, n: int) -> None:
    expected = binomtest(k, n).proportion_ci(method="wilson")
    assert wilson(k / n, n) == pytest.approx((expected.low, expected.high))


def test_units_that_are_slices_have_both_intervals() -> None:
    by_slice = replace(STOP, unit="slice")
    row = savings(verdict(invented(), stop=by_slice), by_slice, n_resamples=50)
    n_slices = row["n_slices"]
    assert isinstance(n_slices, int) and isinstance(row["miss"], float)
    ends = wilson(row["miss"], n_slices)
    assert (row["miss_wilson_lo"], row["miss_wilson_hi"]) == pytest.approx(ends)


def test_a_refusal_has_no_numbers() -> None:
    refused = replace(verdict(invented()), rule=None, predicted=None, refusal="too few")
    row = savings(refused, STOP)
    assert (row["refused"], row["threshold"]) == ("too few", None)
    assert "lines" not in row and trade_off(refused, STOP) is None


def test_curves_come_back_from_their_table() -> None:
    curves = invented()
    again = from_table(to_table(curves), curves.scans)
    assert again.scans == curves.scans
    assert np.array_equal(again.n_acquired, curves.n_acquired)
    for name in ("scores", "features"):
        ours, theirs = getattr(curves, name), getattr(again, name)
        assert set(ours) == set(theirs)
        assert all(np.array_equal(ours[key], theirs[key]) for key in ours)


def test_curves_of_different_lengths_go_on_with_their_last_values() -> None:
    long = invented(n_subjects=2)
    short = Curves(
        long.scans,
        long.n_acquired[:, :3],
        {"ssim": long.scores["ssim"][:, :3]},
        {"acquired": long.features["acquired"][:, :3], "else": long.scores["ssim"][:, :3]},
    )
    both = Curves.join([replace(long, scores={"ssim": long.scores["ssim"]}), short])
    assert both.n_acquired.shape == (2 * len(long), N_STEPS)
    assert set(both.features) == {"acquired"}
    assert (both.scores["ssim"][len(long) :, 2:] == long.scores["ssim"][:, 2:3]).all()


def test_the_figure_names_everything_that_it_draws() -> None:
    panels = {
        name: trade_off(verdict(invented(seed), 0.75), STOP)
        for seed, name in enumerate(["random", "$lbcs$", "<greedy>"])
    }
    svg = trade_off_figure({k: v for k, v in panels.items() if v}, STOP, name="unet")
    words = " ".join(ET.fromstring(svg).itertext())
    for text in ("random", "$lbcs$", "<greedy>", "fixed budget", "stopping rule", "oracle stop"):
        assert text in words
    assert "alpha 0.1" in words and "share below SSIM 0.8" in words and " saved" in words
