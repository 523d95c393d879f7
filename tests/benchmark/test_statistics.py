"""Statistics of the long table, against slow loops, known distributions and scipy."""

import itertools
import json
import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from activemri.benchmark import resampling, statistics
from tests.benchmark.tables import long_table

POLICIES = ("random", "lbcs", "oracle")
N_SUBJECTS, N_SLICES, BUDGET = 3, 2, 4


def table_of(
    score: Callable[[str, int, int, int], float],
    *,
    policies: tuple[str, ...] = POLICIES,
    n_subjects: int = N_SUBJECTS,
    n_seeds: int = 2,
    metric: str = "ssim",
) -> pd.DataFrame:
    """A table whose values are ``score(policy, subject, slice, step)``, seeds 0.01 apart."""
    return long_table(
        lambda policy, subject, index, step, seed: (
            score(policy, subject, index, step) + 0.01 * seed
        ),
        policies=policies,
        n_subjects=n_subjects,
        n_slices=N_SLICES,
        n_steps=BUDGET,
        n_seeds=n_seeds,
        metric=metric,
    )


def rising(policy: str, subject: int, index: int, step: int) -> float:
    speed = {"random": 1.0, "lbcs": 2.0, "oracle": 3.0}[policy]
    return 0.3 + 0.02 * subject + 0.01 * index + 0.05 * speed * math.sqrt(step + 0.5 * subject)


@pytest.fixture
def table() -> pd.DataFrame:
    shuffled: pd.DataFrame = table_of(rising).sample(frac=1, random_state=1)
    return shuffled


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_area_is_the_trapezoid_over_steps_divided_by_their_number(table: pd.DataFrame) -> None:
    scores = statistics.slice_scores(table).set_index(["policy", "volume", "slice"])
    for policy, subject, index in itertools.product(POLICIES, range(N_SUBJECTS), range(N_SLICES)):
        curve = [rising(policy, subject, index, step) + 0.005 for step in range(BUDGET + 1)]
        row = scores.loc[(policy, f"v{subject}", index)]
        assert row["auc"] == pytest.approx(np.trapezoid(curve) / BUDGET)
        assert row["final"] == pytest.approx(curve[-1])
        assert row["n_seeds"] == 2


def test_an_episode_that_ended_early_keeps_its_last_score() -> None:
    table = table_of(lambda policy, subject, index, step: float(step))
    early = (table["policy"] == "random") & (table["subject"] == "s1") & (table["step"] > 2)
    scores = statistics.slice_scores(table[~early])
    stopped = scores[(scores["policy"] == "random") & (scores["subject"] == "s1")]
    assert stopped["final"].to_list() == pytest.approx([2.005, 2.005])
    heights = (np.trapezoid([0, 1, 2, 2, 2]) / 4) + 0.005
    assert stopped["auc"].to_list() == pytest.approx([heights, heights])


def test_a_table_with_the_first_scores_only_has_them_as_area() -> None:
    table = table_of(rising)
    row = statistics.summarise(table[table["step"] == 0])[0]
    assert row["auc"] == row["final"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda table: table.drop(columns="subject"), r"lacks the columns \['subject'\]"),
        (lambda table: table.iloc[:0], "no rows"),
        (lambda table: table.assign(value=np.nan), r"NaN entries in the columns \['value'\]"),
        (lambda table: table.assign(value=np.inf), "infinite scores"),
        (lambda table: table[table["step"] != 2], "steps 0, 1, 2"),
        (lambda table: table[table["step"] != 0], "steps 0, 1, 2"),
        (lambda table: pd.concat([table, table]), "once each"),
    ],
)
def test_a_spoilt_table_is_refused_with_what_is_wrong(
    table: pd.DataFrame, spoil: Callable[[pd.DataFrame], pd.DataFrame], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        statistics.summarise(spoil(table))


def test_summary_rows_have_the_agreed_keys_and_fit_into_json(table: pd.DataFrame) -> None:
    rows = statistics.summarise(table)
    agreed = "policy reconstructor metric auc auc_lo auc_hi final final_lo final_hi".split()
    for row in rows:
        assert set(agreed) | {"n_subjects", "n_slices"} <= set(row)
        assert (row["n_subjects"], row["n_slices"]) == (N_SUBJECTS, N_SUBJECTS * N_SLICES)
        assert row["auc_lo"] < row["auc"] < row["auc_hi"]  # type: ignore[operator]
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    assert [row["policy"] for row in rows if row["bound"]] == ["oracle"]


def test_policies_are_listed_as_they_first_appear() -> None:
    rows = statistics.summarise(table_of(rising, policies=("oracle", "random", "lbcs")))
    assert [row["policy"] for row in rows] == ["oracle", "random", "lbcs"]


def test_numbers_do_not_depend_on_the_order_of_rows_or_on_other_policies(
    table: pd.DataFrame,
) -> None:
    rows = {str(row["policy"]): row for row in statistics.summarise(table)}
    turned = table.iloc[::-1]
    for row in statistics.summarise(turned[turned["policy"] != "lbcs"]):
        assert row == rows[str(row["policy"])]


@pytest.mark.parametrize("n_subjects", [1, 2])
def test_too_few_subjects_give_no_interval_and_the_reason(n_subjects: int) -> None:
    table = table_of(rising, n_subjects=n_subjects)
    for row in statistics.summarise(table) + statistics.compare(table, "lbcs"):
        ends = [row[key] for key in row if key.endswith(("lo", "hi"))]
        assert ends and ends == [None] * len(ends)
    assert statistics.summarise(table)[0]["no_interval"] == "too few subjects"
    assert statistics.score_curves(table)[["lo", "hi"]].isna().all(axis=None)
    assert statistics.compare(table, "lbcs")[0]["p"] == 2.0 ** (1 - n_subjects)


def test_weighted_means_are_means_of_the_means_of_the_subjects_that_are_left(
    rng: np.random.Generator,
) -> None:
    subjects = np.array([0, 0, 1, 2, 2, 2, 3])
    values = rng.normal(size=(7, 2))
    means = resampling.weighted_means(values, subjects, weights=resampling.leave_one_out(4))
    own = np.array([values[subjects == subject].mean(axis=0) for subject in range(4)])
    left = [own, *(np.delete(own, subject, axis=0) for subject in range(4))]
    np.testing.assert_allclose(means, [some.mean(axis=0) for some in left])
    np.testing.assert_allclose(resampling.subject_means(values, subjects), own.mean(axis=0))


def test_slices_that_are_added_to_one_subject_alone_leave_its_weight_as_it_was() -> None:
    table = table_of(rising, n_seeds=1)
    more = table[table["subject"] == "s1"]
    grown = pd.concat([table, more.assign(slice=more["slice"] + 10)])
    before, after = (statistics.summarise(one) for one in (table, grown))
    assert [one["auc"] for one in after] == pytest.approx([one["auc"] for one in before])
    assert [one["auc_hi"] for one in after] == pytest.approx([one["auc_hi"] for one in before])
    assert [one["auc_iqm"] for one in after] == pytest.approx([one["auc_iqm"] for one in before])
    curves = [statistics.score_curves(one)["score"] for one in (table, grown)]
    np.testing.assert_allclose(*curves)
    for one in (statistics.lines_to_reach(t, {"ssim": 0.45}) for t in (table, grown)):
        assert one[0]["mean_at_least"] == pytest.approx(
            statistics.lines_to_reach(table, {"ssim": 0.45})[0]["mean_at_least"]
        )


def test_interquartile_mean_is_scipys_for_a_multiple_of_four(rng: np.random.Generator) -> None:
    values = rng.exponential(size=24)
    mean = resampling.interquartile_means(values[:, None], np.ones((1, 24)))[0, 0]
    assert mean == pytest.approx(scipy.stats.trim_mean(values, 0.25))


def test_interquartile_mean_with_weights_is_that_of_repeated_values(
    rng: np.random.Generator,
) -> None:
    values, weights = rng.normal(size=7), rng.integers(0, 4, size=7)
    repeated = np.repeat(values, weights * 4)  # any count, made a multiple of four
    mean = resampling.interquartile_means(values[:, None], weights[None].astype(float))[0, 0]
    assert mean == pytest.approx(scipy.stats.trim_mean(repeated, 0.25))


def test_interquartile_mean_ignores_outliers() -> None:
    values = np.array([[1.0, 1, 1, 1, 1, 1, 1000, -1000]]).T
    assert resampling.interquartile_means(values, np.ones((1, 8))) == pytest.approx(1)


def test_the_interval_of_equal_subjects_is_their_mean_and_standard_errors(
    rng: np.random.Generator,
) -> None:
    values = rng.normal(size=(7, 1))
    (found,) = resampling.mean_intervals(np.repeat(values, 3, axis=0), np.arange(21) // 3)
    half = scipy.stats.t.ppf(0.975, (7 + 1) / 3) * scipy.stats.sem(values[:, 0])
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half))


@pytest.mark.parametrize("n_subjects", [3, 4, 6, 10, 20, 40])
@pytest.mark.parametrize(
    ("kind", "least"), [("normal", 0.95), ("gamma", 0.94), ("exponential", 0.925)]
)
def test_intervals_hold_the_truth_as_often_as_they_say_with_few_and_skewed_subjects(
    kind: str, least: float, n_subjects: int, rng: np.random.Generator
) -> None:
    n_studies, n_layouts, held = 500, 16, 0
    for _ in range(n_layouts):  # of 1 to 8 slices a subject
        subjects = np.repeat(np.arange(n_subjects), rng.integers(1, 9, n_subjects))
        effects = {
            "normal": rng.normal(size=(n_subjects, n_studies)),
            "gamma": (rng.gamma(2, size=(n_subjects, n_studies)) - 2) / math.sqrt(2),
            "exponential": rng.exponential(size=(n_subjects, n_studies)) - 1,
        }[kind]
        values = effects[subjects] + 0.5 * rng.normal(size=(len(subjects), n_studies))
        for found in resampling.mean_intervals(values, subjects):
            assert found.low is not None and found.high is not None
            held += found.low <= 0 <= found.high
    assert least < held / (n_studies * n_layouts) < 0.995


def test_the_interval_of_a_ratio_holds_what_may_be_zero_when_taken_from_the_first(
    rng: np.random.Generator,
) -> None:
    values = np.stack([rng.normal(1, 1, size=9), rng.normal(3, 1, size=9)], axis=1)
    estimates = resampling.weighted_means(values, np.arange(9), weights=resampling.leave_one_out(9))
    ratio = resampling.ratio_interval(estimates)
    assert ratio.value == pytest.approx(values[:, 0].mean() / values[:, 1].mean())
    assert ratio.low is not None and ratio.high is not None
    rests = resampling.intervals(estimates @ np.array([[1, 1], [-ratio.low, -ratio.high]]))
    assert (rests[0].low, rests[1].high) == pytest.approx((0, 0), abs=1e-9)
    small = resampling.ratio_interval(estimates - [0, 2.9])
    assert small.low is small.high is None and "denominator" in str(small.reason)


def test_sign_flip_test_equals_trying_every_sign(rng: np.random.Generator) -> None:
    for n in (1, 2, 5, 9):
        differences = rng.normal(0.5, 1, size=n)
        sums = [abs(np.dot(signs, differences)) for signs in itertools.product((1, -1), repeat=n)]
        expected = np.mean(np.array(sums) >= abs(differences.sum()) - 1e-9)
        assert resampling.sign_flip_p_value(differences, rng=rng) == pytest.approx(expected)


@pytest.mark.parametrize("n", [1, 5, 16, 17])
def test_smallest_p_value_is_reached_when_all_subjects_agree(
    n: int, rng: np.random.Generator
) -> None:
    p = resampling.sign_flip_p_value(np.full(n, 0.1), rng=rng)
    assert p == pytest.approx(resampling.smallest_p_value(n), rel=4)
    assert p >= resampling.smallest_p_value(n)
    if n <= 16:
        assert p == 2.0 ** -(n - 1)


def test_no_difference_has_p_one(rng: np.random.Generator) -> None:
    assert resampling.sign_flip_p_value(np.zeros(6), rng=rng) == 1


def test_random_sign_flips_agree_with_scipys_permutation_test(rng: np.random.Generator) -> None:
    differences = rng.normal(0.35, 1, size=20)
    theirs = scipy.stats.permutation_test(
        (differences,),
        lambda x, axis: np.mean(x, axis=axis),
        vectorized=True,
        permutation_type="samples",
        n_resamples=20000,
        rng=rng,
    ).pvalue
    assert 0.01 < theirs < 0.9
    assert resampling.sign_flip_p_value(differences, rng=rng) == pytest.approx(theirs, abs=0.02)


def test_holm_multiplies_the_smallest_by_their_number_and_never_falls() -> None:
    assert resampling.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert resampling.holm([0.7, 0.6]) == [1.0, 1.0]


def test_comparison_pairs_the_same_slices(table: pd.DataFrame) -> None:
    rows = statistics.compare(table, "lbcs")
    assert [(row["policy"], row["quantity"]) for row in rows] == [
        (policy, quantity)
        for quantity in ("auc", "final")
        for policy in table["policy"].unique()
        if policy != "lbcs"
    ]
    row = next(r for r in rows if r["policy"] == "oracle" and r["quantity"] == "final")
    gains = [
        rising("oracle", subject, index, BUDGET) - rising("lbcs", subject, index, BUDGET)
        for subject, index in itertools.product(range(N_SUBJECTS), range(N_SLICES))
    ]
    assert row["difference"] == pytest.approx(np.mean(gains))
    assert row["better"] is True and row["bound"] is True
    assert row["p"] == row["p_smallest"] == 2.0 ** -(N_SUBJECTS - 1)
    assert row["p_holm"] is None  # a bound is not tested
    rival = next(r for r in rows if r["policy"] == "random" and r["quantity"] == "final")
    assert rival["p_holm"] == rival["p"]  # the only competitor: nothing to correct for
    json.dumps(rows, allow_nan=False)


def test_a_larger_error_is_worse() -> None:
    rows = statistics.compare(table_of(rising, metric="nmse"), "lbcs")
    assert {row["policy"]: row["better"] for row in rows} == {"random": True, "oracle": False}


@pytest.mark.parametrize(
    ("metric", "expected"),
    [("ssim", True), ("psnr_volume", True), ("nmse", False), ("mse", False), ("nrmse", False)],
)
def test_direction_of_metrics(metric: str, expected: bool) -> None:
    assert statistics.higher_is_better(metric) is expected


def test_comparison_leaves_out_slices_without_a_partner(table: pd.DataFrame) -> None:
    lost = (table["policy"] == "lbcs") & (table["subject"] == "s0")
    assert {row["n_subjects"] for row in statistics.compare(table[~lost], "lbcs")} == {2}


def test_an_unknown_reference_is_refused_with_the_known_ones(table: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match=r"'best' is not in the results; there are: .*lbcs"):
        statistics.compare(table, "best")


def test_a_policy_without_common_slices_is_refused(table: pd.DataFrame) -> None:
    first = (table["policy"] == "random") == (table["subject"] == "s0")
    with pytest.raises(ValueError, match="random: no slice in common with 'lbcs'"):
        statistics.compare(table[first], "lbcs")


def test_lines_to_reach_counts_those_that_never_did() -> None:
    table = table_of(lambda policy, subject, index, step: step * (0.3 - 0.1 * subject), n_seeds=1)
    row = statistics.lines_to_reach(table, {"ssim": 0.55})[0]
    # Subjects reach 0.55 after 2 and 3 steps; the last one, at 0.1 a step, never.
    assert row["share"] == pytest.approx(2 / 3)
    assert row["median"] == 11
    assert row["mean_at_least"] == pytest.approx((10 + 11 + 12) / 3)


def test_the_median_is_unknown_when_most_never_reach_the_score(table: pd.DataFrame) -> None:
    row = statistics.lines_to_reach(table, {"ssim": 5.0})[0]
    assert (row["share"], row["median"], row["mean_at_least"]) == (0, None, 8 + BUDGET)
    json.dumps(row, allow_nan=False)


def test_an_error_is_reached_from_above() -> None:
    table = table_of(lambda policy, subject, index, step: 1 - step / 4, metric="nmse", n_seeds=1)
    assert statistics.lines_to_reach(table, {"nmse": 0.5})[0]["median"] == 10


def test_curves_hold_the_mean_of_every_step(table: pd.DataFrame) -> None:
    curves = statistics.score_curves(table).set_index(["policy", "step"])
    for policy, step in itertools.product(POLICIES, range(BUDGET + 1)):
        expected = table[(table["policy"] == policy) & (table["step"] == step)]["value"].mean()
        assert curves.loc[(policy, step), "score"] == pytest.approx(expected)
        assert curves.loc[(policy, step), "n_acquired"] == 8 + step
    assert (curves["lo"] < curves["score"]).all() and (curves["score"] < curves["hi"]).all()
    final = statistics.summarise(table)[0]
    last = curves.loc[(final["policy"], BUDGET)]
    assert (last["lo"], last["hi"]) == pytest.approx((final["final_lo"], final["final_hi"]))


def test_columns_read_from_parquet_as_categories_give_the_same(table: pd.DataFrame) -> None:
    names = ["policy", "reconstructor", "volume", "subject", "contrast", "metric"]
    categories = table.astype(dict.fromkeys(names, "category"))
    assert statistics.summarise(categories) == statistics.summarise(table)
    assert statistics.compare(categories, "lbcs") == statistics.compare(table, "lbcs")
    statistics.score_curves(categories)
    statistics.lines_to_reach(categories, {"ssim": 0.5})


def test_what_is_above_its_ceiling_is_named_and_old_tables_have_none(table: pd.DataFrame) -> None:
    assert statistics.ceilings(table) == []
    (row,) = statistics.ceilings(table.assign(ceiling=0.5))
    assert (row["policy"], row["bound"]) == (statistics.CEILING, True)
    assert row["final"] == pytest.approx(0.5)
    found = {str(one["policy"]): one["final"] for one in statistics.summarise(table)}
    above = {one["policy"] for one in row["above"] if one["quantity"] == "final"}  # type: ignore
    assert above == {policy for policy, final in found.items() if final > 0.5}  # type: ignore
    assert above and above != set(POLICIES)
    (perfect,) = statistics.ceilings(table.assign(ceiling=np.inf))
    assert perfect["final"] is None and perfect["above"] == []


def test_an_interval_ends_where_no_score_can_be() -> None:
    finals = (0.99, 0.2, 0.9, 0.95)

    def score(policy: str, subject: int, index: int, step: int) -> float:
        return finals[subject] if step else 0.1

    table = table_of(score, policies=("lbcs",), n_subjects=4, n_seeds=1)
    (row,) = statistics.summarise(table)
    assert row["final_hi"] == statistics.score_curves(table)["hi"].max() == 1.0
    errors = table_of(
        lambda *place: 1 - score(*place), policies=("lbcs",), n_subjects=4, n_seeds=1, metric="nmse"
    )
    assert statistics.summarise(errors)[0]["final_lo"] == 0.0
