import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from activemri.benchmark.calibration import (
    FRACTIONS,
    NUMBERS,
    Calibration,
    Case,
    area,
    foreground,
    measure,
    sparsification,
)
from activemri.metrics import spearman


def gaussian_cases(
    n: int = 6, *, n_pixels: int = 3000, factor: float = 1.0, n_subjects: int = 3
) -> list[Case]:
    """Errors that are Gaussian with known deviation; `factor` times that is predicted."""
    rng = np.random.default_rng(0)
    cases = []
    for number in range(n):
        deviation = np.exp(rng.normal(-3, 0.7, n_pixels))
        error = np.abs(deviation * rng.standard_normal(n_pixels))
        subject = f"subject {number % n_subjects}"
        cases.append(Case("volume", number, subject, 0, factor * deviation, error))
    return cases


def value(found: Calibration, name: str) -> float:
    return found.numbers[name].value


def test_foreground_is_what_exceeds_a_tenth_of_the_maximum() -> None:
    assert foreground(np.array([[0.0, 1.0], [1.1, 10.0]])).tolist() == [[False, False], [True] * 2]
    assert foreground(np.array([1.0, 6.0, 10.0]), fraction=0.5).tolist() == [False, True, True]


def test_rank_correlation_is_that_of_scipy_with_equal_values() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, 500).astype(float), rng.integers(0, 9, 500).astype(float)
    assert spearman(a, a + b) == pytest.approx(stats.spearmanr(a, a + b).statistic)
    assert spearman(a, a**3) == pytest.approx(1)
    assert math.isnan(spearman(a, np.ones(500)))


def test_exact_gaussian_errors_are_calibrated() -> None:
    found = measure(gaussian_cases(n=12, n_pixels=10_000))
    assert value(found, "ece") < 0.02 * value(found, "rms_error")
    assert value(found, "coverage_1sd") == pytest.approx(0.683, abs=0.01)
    assert value(found, "coverage_2sd") == pytest.approx(0.954, abs=0.01)
    assert np.allclose(found.reliability["observed"], found.reliability["predicted"], rtol=0.1)
    assert found.reliability["share"].sum() == pytest.approx(1)
    assert value(found, "spearman") == pytest.approx(value(found, "spearman_if_gaussian"), abs=0.01)
    assert value(found, "spearman") < 0.65, "chance alone keeps it far below 1"
    # The mean variance of exp(N(m, s)) squared is exp(2 m + 2 s^2).
    assert value(found, "rms_predicted") == pytest.approx(math.exp(-3 + 0.49), rel=0.03)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_predictions_that_are_off_by_a_factor_are_off_by_the_expected_error(factor: float) -> None:
    true, off = measure(gaussian_cases()), measure(gaussian_cases(factor=factor))
    # In every bin the error is |factor - 1| times the deviation.
    deviation = (true.reliability["share"] * true.reliability["predicted"]).sum()
    assert value(off, "ece") == pytest.approx(abs(factor - 1) * deviation, rel=0.03)
    within = 2 * stats.norm.cdf(factor) - 1
    assert value(off, "coverage_1sd") == pytest.approx(within, abs=0.02)
    for unchanged in ("spearman", "spearman_pooled", "ause", "gain_over_random"):
        assert value(off, unchanged) == pytest.approx(value(true, unchanged), abs=1e-9)


def test_expected_calibration_error_is_that_of_a_slow_loop() -> None:
    cases = gaussian_cases(factor=1.4, n_pixels=500)
    predicted = np.concatenate([case.predicted for case in cases])
    error = np.concatenate([case.error for case in cases])
    order = np.argsort(predicted)
    total = 0.0
    for group in np.array_split(order, 20):
        sizes = [math.sqrt(np.mean(np.square(x[group]))) for x in (predicted, error)]
        total += len(group) / len(error) * abs(sizes[0] - sizes[1])
    assert value(measure(cases), "ece") == pytest.approx(total, rel=1e-6)


def test_pooled_rank_correlation_is_nearly_exact() -> None:
    cases = gaussian_cases()
    # A subject whose every deviation and error is larger: pooling sees it, the mean does not.
    cases[0] = replace(cases[0], predicted=9 * cases[0].predicted, error=9 * cases[0].error)
    predicted = np.concatenate([case.predicted for case in cases])
    error = np.concatenate([case.error for case in cases])
    found = measure(cases)
    exact = stats.spearmanr(predicted, error).statistic
    assert value(found, "spearman_pooled") == pytest.approx(exact, abs=1e-3)
    each = [stats.spearmanr(case.predicted, case.error).statistic for case in cases]
    assert value(found, "spearman") == pytest.approx(np.mean(each))
    assert np.allclose(found.spearman, each)
    assert abs(exact - np.mean(each)) > 0.02


def test_sparsification_is_what_removing_pixels_one_by_one_leaves() -> None:
    rng = np.random.default_rng(0)
    score, error = rng.random(200), rng.random(200)
    curve = sparsification(score, error)
    for fraction, found in zip(FRACTIONS, curve, strict=True):
        left = sorted(zip(score, error, strict=True))[: round((1 - fraction) * 200)]
        assert found == pytest.approx(np.mean([e for _, e in left]) / error.mean())


def test_the_oracle_curve_of_uniform_errors_is_a_straight_line() -> None:
    error = np.linspace(0, 1, 10_001)
    assert np.allclose(sparsification(error, error), 1 - FRACTIONS, atol=1e-3)


def test_the_perfect_order_has_no_sparsification_error_and_a_useless_one_no_gain() -> None:
    perfect = [replace(case, predicted=case.error**3) for case in gaussian_cases()]
    assert value(measure(perfect), "ause") == pytest.approx(0, abs=1e-12)
    assert value(measure(perfect), "spearman") == pytest.approx(1)
    constant = [replace(case, predicted=np.ones_like(case.error)) for case in gaussian_cases()]
    found = measure(constant)
    assert value(found, "gain_over_random") == pytest.approx(0, abs=1e-12)
    assert np.allclose(found.sparsification, 1)
    assert math.isnan(value(found, "spearman"))
    assert found.numbers["spearman"].reason == "not defined for any scan"
    assert len(found.reliability["predicted"]) == 1


def test_pixels_of_equal_score_leave_in_random_order() -> None:
    score, error = np.array([1.0, 1.0, 1.0, 0.0]), np.array([6.0, 0.0, 3.0, 1.0])
    half = sparsification(score, error)[10]
    assert half == pytest.approx((1 + 3) / 2 / 2.5)


def test_area_is_a_mean_height() -> None:
    assert area(np.ones_like(FRACTIONS)) == pytest.approx(1)
    assert area(FRACTIONS) == pytest.approx(0.95 / 2)


def test_intervals_widen_with_differences_between_subjects() -> None:
    def width(cases: list[Case], name: str) -> float:
        found = measure(cases).numbers[name]
        assert found.low is not None and found.high is not None
        assert found.low <= found.value <= found.high
        return found.high - found.low

    alike = gaussian_cases()
    apart = [
        replace(case, predicted=case.predicted * (1 + number % 3))
        for number, case in enumerate(alike)
    ]
    for name in ("ece", "coverage_1sd", "rms_predicted"):
        assert width(apart, name) > 2 * width(alike, name), name


def test_the_interval_of_pooled_pixels_leaves_out_whole_subjects() -> None:
    cases = gaussian_cases(n=4, n_subjects=4, n_pixels=50)
    cases[1] = replace(cases[1], predicted=cases[1].predicted[:10], error=cases[1].error[:10])
    found = measure(cases).numbers["rms_error"]
    pooled = [
        math.sqrt(
            np.mean(np.square(np.concatenate([cases[i].error for i in range(4) if i != out])))
        )
        for out in (None, 0, 1, 2, 3)
    ]
    half = stats.t.ppf(0.975, 5 / 3) * math.sqrt(3 / 4 * sum((x - pooled[0]) ** 2 for x in pooled))
    assert (found.low, found.high) == pytest.approx((pooled[0] - half, pooled[0] + half))


def test_one_subject_has_no_interval() -> None:
    found = measure(gaussian_cases(n_subjects=1))
    assert all(one.low is None and one.reason for one in found.numbers.values())
    assert np.isnan(found.reliability["low"]).all()


def test_a_subject_without_pixels_in_a_bin_is_no_problem() -> None:
    cases = gaussian_cases(n=3, n_subjects=3)
    cases[0] = replace(cases[0], predicted=100 * cases[0].predicted)
    found = measure(cases)
    assert np.isfinite(found.reliability["low"]).all()
    assert np.isfinite(found.reliability["observed"]).all()


def test_perfect_images_are_left_out_of_means_over_scans() -> None:
    cases = gaussian_cases()
    perfect = replace(cases[0], subject="other", error=np.zeros_like(cases[0].error))
    found = measure([*cases, perfect])
    assert value(found, "spearman") == pytest.approx(value(measure(cases), "spearman"))
    assert np.isfinite(found.sparsification).all()
    assert math.isnan(found.spearman[-1])


def test_the_same_seed_gives_the_same_numbers() -> None:
    cases = gaussian_cases(n_subjects=6)
    one, two, other = (measure(cases, seed=seed).numbers for seed in (0, 0, 1))
    assert one == two != other
    assert list(one) == list(NUMBERS)


def test_nothing_to_measure_is_refused() -> None:
    with pytest.raises(ValueError, match="no scans"):
        measure([])


def test_curves_have_the_promised_lengths() -> None:
    found = measure(gaussian_cases())
    for curve in (found.sparsification, found.oracle):
        assert curve.shape == FRACTIONS.shape
        assert curve[0] == pytest.approx(1)
    assert (found.oracle <= found.sparsification + 1e-12).all()
