import json
from dataclasses import asdict

import numpy as np
import pytest

from activemri.stopping import RuleError
from activemri.stopping.predictor import (
    Predictor,
    fit_error_predictor,
    fit_predictor,
    lines_predictor,
)


def observed(seed: int = 0, n: int = 400) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Features that tell the score, up to a little noise."""
    rng = np.random.default_rng(seed)
    score = rng.uniform(0.4, 0.98, n)
    features = {
        "acquired": rng.uniform(size=n),
        "flatness": np.full(n, 0.3),
        "uncertainty": 1 - score + 0.01 * rng.normal(size=n),
        "expected_ssim": score**2 + 0.01 * rng.normal(size=n),
        "expected_nmse": -2 * score + 0.01 * rng.normal(size=n),
        "evaluator_mean": np.sqrt(score) + 0.01 * rng.normal(size=n),
    }
    return features, score


@pytest.mark.parametrize("kind", ["regression", "uncertainty", "evaluator"])
@pytest.mark.parametrize("metric", ["ssim", "nmse"])
def test_scores_are_predicted_in_their_own_unit(kind: str, metric: str) -> None:
    features, score = observed()
    true = score if metric == "ssim" else (1 - score) / 5
    predictor = fit_predictor(kind, features, true, metric=metric, target=float(np.median(true)))
    new, new_score = observed(1)
    expected = new_score if metric == "ssim" else (1 - new_score) / 5
    error = np.sqrt(np.mean((predictor(new) - expected) ** 2))
    assert error < 0.15 * np.std(expected)


@pytest.mark.parametrize("kind", ["regression", "uncertainty", "evaluator"])
def test_a_record_brings_the_same_predictor_back(kind: str) -> None:
    features, score = observed()
    predictor = fit_predictor(kind, features, score, metric="ssim", target=0.8)
    again = Predictor.of(json.loads(json.dumps(asdict(predictor))))
    assert again == predictor
    assert np.array_equal(again(features), predictor(features))
    assert fit_predictor(kind, features, score, metric="ssim", target=0.8) == predictor


def test_curves_of_one_feature_never_turn() -> None:
    features, score = observed()
    x = np.linspace(-0.5, 1.5, 300)
    rising = fit_predictor("uncertainty", features, score, metric="ssim", target=0.8)
    values = rising({"expected_ssim": x})
    assert (np.diff(values) >= 0).all() and values[0] < 0.6 < 0.9 < values[-1]
    falling = fit_predictor("uncertainty", features, score, metric="psnr", target=0.8)
    assert (np.diff(falling({"expected_nmse": -2 * x})) >= 0).all()


def test_monotone_curves_equal_pooling_by_hand() -> None:
    features = {"evaluator_mean": np.array([3.0, 1.0, 2.0, 4.0, 2.0])}
    scores = np.array([0.2, 0.1, 0.5, 0.9, 0.3])
    # Equal places share 0.4 at 2, which then pools with 0.2 at 3 (weights 2 and 1): 1/3 at 7/3.
    head = fit_predictor("evaluator", features, scores, metric="ssim", target=0.5).head
    assert set(head) == {"x", "y"}
    np.testing.assert_allclose(head["x"], [1, 7 / 3, 4])
    np.testing.assert_allclose(head["y"], [0.1, 1 / 3, 0.9])


def test_the_regression_is_not_followed_beyond_what_was_seen() -> None:
    features, score = observed()
    predictor = fit_predictor("regression", features, score, metric="ssim", target=0.8)
    edge = {name: np.array([values.max()]) for name, values in features.items()}
    beyond = {name: np.array([values.max() + 100]) for name, values in features.items()}
    assert predictor(edge) == pytest.approx(predictor(beyond))


def test_the_regression_looks_closest_at_the_target() -> None:
    x = np.linspace(0, 1, 500)
    score = 0.2 + 0.7 * x**6  # no parabola
    errors = {}
    for target in (0.25, 0.85):
        predictor = fit_predictor(
            "regression", {"acquired": x}, score, metric="ssim", target=target
        )
        wrong = np.abs(predictor({"acquired": x}) - score)
        errors[target] = float(wrong[np.abs(score - 0.85) < 0.04].mean())
    assert errors[0.85] < 0.5 * errors[0.25]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("uncertainty", "the reconstructor gives no uncertainty.*Predictor regression"),
        ("evaluator", "there is no evaluator"),
        ("magic", "unknown predictor 'magic'; expected one of regression"),
    ],
)
def test_what_a_predictor_lacks_is_told(kind: str, message: str) -> None:
    with pytest.raises(RuleError, match=message):
        fit_predictor(kind, {"acquired": np.arange(3.0)}, np.arange(3.0), metric="ssim", target=0.5)


def test_the_regression_does_with_what_there_is() -> None:
    features, score = observed()
    few = {"acquired": features["acquired"], "something else": score}
    predictor = fit_predictor("regression", few, score, metric="ssim", target=0.5)
    assert predictor.features == ("acquired",)


def test_another_reconstructor_is_refused() -> None:
    features, score = observed()
    predictor = fit_predictor("uncertainty", features, score, metric="ssim", target=0.5)
    with pytest.raises(RuleError, match="needs expected_ssim; the scan gives only acquired"):
        predictor({"acquired": score})


def test_a_record_of_something_else_is_refused() -> None:
    with pytest.raises(RuleError, match="this is no predictor"):
        Predictor.of({"kind": "regression", "head": {"x": [1.0]}})


def test_the_size_of_errors_is_predicted_where_they_differ() -> None:
    features, score = observed()
    errors = np.random.default_rng(2).normal(0, 10 ** (2 * score - 3))
    predictor = fit_error_predictor("regression", features, errors, metric="ssim")
    new, new_score = observed(1)
    assert (predictor.estimates, predictor.sign) == ("error", -1)
    assert np.corrcoef(predictor(new), new_score)[0, 1] > 0.9
    assert Predictor.of(json.loads(json.dumps(asdict(predictor)))) == predictor


def test_signs_say_which_end_of_an_estimate_is_good() -> None:
    features, score = observed()
    for metric, sign in (("ssim", 1), ("nmse", -1)):
        fitted = fit_predictor("regression", features, score, metric=metric, target=0.5)
        assert (fitted.sign, lines_predictor(metric).sign) == (sign, 1)


def test_predictors_of_before_there_was_a_choice_estimate_scores() -> None:
    features, score = observed()
    predictor = fit_predictor("regression", features, score, metric="ssim", target=0.8)
    record = asdict(predictor)
    del record["estimates"]
    assert Predictor.of(record) == predictor
    with pytest.raises(RuleError, match="this is no predictor"):
        Predictor.of(record | {"estimates": "nothing"})
