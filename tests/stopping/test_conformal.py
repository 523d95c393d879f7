"""The bound on misses: by brute force, by simulation, and where it must refuse."""

import numpy as np
import pytest

from activemri.stopping import RuleError
from activemri.stopping.conformal import check_units, choose_threshold, losses


def drawn(
    rng: np.random.Generator,
    *,
    n_units: int,
    n_slices: int = 3,
    n_steps: int = 12,
    noise: float = 0.4,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores that rise unsteadily, and predictions of them whose error differs between units."""
    n = n_units * n_slices
    units = np.repeat(np.arange(n_units), n_slices)
    hardness = rng.normal(0, 1.5, n_units)[units]
    true = np.linspace(0, 6, n_steps) - hardness[:, None] + 0.4 * rng.normal(size=(n, n_steps))
    bias = rng.normal(0, 0.7, n_units)[units]
    predicted = true + bias[:, None] + 0.3 * rng.normal(size=(n, n_steps))
    missed = true < 2
    missed[:, -1] = False  # everything acquired
    return predicted, missed, units


def share_missed(
    predicted: np.ndarray, missed: np.ndarray, units: np.ndarray, threshold: float
) -> np.ndarray:
    """Of every unit, slice by slice."""
    shares: dict[int, list[bool]] = {}
    for curve, miss, unit in zip(predicted, missed, units.tolist(), strict=True):
        stop = next((i for i, value in enumerate(curve) if value >= threshold), len(curve) - 1)
        shares.setdefault(unit, []).append(bool(miss[stop]))
    return np.array([np.mean(values) for values in shares.values()])


def test_losses_are_the_largest_share_at_this_or_any_higher_threshold() -> None:
    rng = np.random.default_rng(0)
    predicted, missed, units = drawn(rng, n_units=4)
    missed ^= rng.random(missed.shape) < 0.3  # scores fall again after lines that harm
    thresholds, found = losses(predicted, missed, units)
    plain = np.stack([share_missed(predicted, missed, units, t) for t in thresholds], axis=1)
    assert (np.diff(plain, axis=1) > 0).any()  # else nothing had to be made monotone
    expected = np.stack([plain[:, i:].max(axis=1) for i in range(plain.shape[1])], axis=1)
    np.testing.assert_allclose(found, expected)
    assert (np.diff(found, axis=1) <= 0).all()
    assert np.isinf(thresholds[-1])


def test_leaving_thresholds_out_hides_no_miss_between_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(1)
    predicted, missed, units = drawn(rng, n_units=4)
    missed ^= rng.random(missed.shape) < 0.3
    thresholds, every = losses(predicted, missed, units)
    monkeypatch.setattr("activemri.stopping.conformal._MOST", 5)
    fewer, some = losses(predicted, missed, units)
    assert len(fewer) == 6
    np.testing.assert_array_equal(some, every[:, np.searchsorted(thresholds, fewer)])


def test_the_threshold_is_the_lowest_that_is_safe() -> None:
    predicted, missed, units = drawn(np.random.default_rng(1), n_units=30)
    thresholds, found = losses(predicted, missed, units)
    chosen = choose_threshold(thresholds, found, alpha=0.1)
    for threshold, column in zip(thresholds, found.T, strict=True):
        is_safe = 30 / 31 * column.mean() + 1 / 31 <= 0.1
        assert is_safe == (threshold >= chosen)


def test_new_units_miss_at_most_alpha_on_average_and_a_plug_in_threshold_misses_more() -> None:
    rng, alpha = np.random.default_rng(2), 0.1
    conformal, plug_in = [], []
    for _ in range(300):
        predicted, missed, units = drawn(rng, n_units=15, n_steps=10)
        thresholds, found = losses(predicted, missed, units)
        naive = thresholds[int(np.argmax(found.mean(axis=0) <= alpha))]
        new = drawn(rng, n_units=15, n_steps=10)
        threshold = choose_threshold(thresholds, found, alpha=alpha)
        conformal.append(share_missed(*new, threshold).mean())
        plug_in.append(share_missed(*new, float(naive)).mean())
    error = np.std(conformal) / np.sqrt(len(conformal))
    assert np.mean(conformal) <= alpha + 2 * error
    assert np.mean(conformal) > 0.02  # it does stop
    assert np.mean(plug_in) > alpha + 2 * error


@pytest.mark.parametrize(("alpha", "needed"), [(0.1, 9), (0.05, 19), (0.02, 49), (0.3, 3)])
def test_one_over_alpha_minus_one_units_are_needed(alpha: float, needed: int) -> None:
    thresholds = np.array([0.0, np.inf])
    assert choose_threshold(thresholds, np.zeros((needed, 2)), alpha=alpha) == 0
    with pytest.raises(RuleError, match=rf"at least {needed} .*there are {needed - 1}"):
        choose_threshold(thresholds, np.zeros((needed - 1, 2)), alpha=alpha)


def test_the_alpha_that_is_suggested_instead_can_be_promised() -> None:
    with pytest.raises(RuleError, match=r"alpha of at least 0\.25") as refused:
        check_units(3, 0.1, unit="subject")
    assert "needs at least 9 calibration subjects" in str(refused.value)
    check_units(3, 0.25)


def test_a_budget_that_is_too_small_is_told_with_its_misses() -> None:
    predicted, missed, units = drawn(np.random.default_rng(3), n_units=20)
    missed[::2, -1] = True
    with pytest.raises(RuleError, match=r"50\.0 % .*--budget None"):
        choose_threshold(*losses(predicted, missed, units), alpha=0.1)


def test_many_values_are_rounded_to_safer_thresholds() -> None:
    rng = np.random.default_rng(4)
    predicted, missed, units = drawn(rng, n_units=40, n_slices=10, n_steps=40)
    thresholds, found = losses(predicted, missed, units)
    assert len(thresholds) == 4001
    chosen = choose_threshold(thresholds, found, alpha=0.1)
    shares = share_missed(predicted, missed, units, chosen)
    assert 40 / 41 * shares.mean() + 1 / 41 <= 0.1
