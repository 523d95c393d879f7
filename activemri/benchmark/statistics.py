"""From the long results table to scores, intervals, comparisons and curves.

The table has one row per policy, reconstructor, volume, slice, seed, step and metric: ``COLUMNS``.
Oracles are bounds, never competitors. Step 0 is before the first action. An episode that ends early
keeps its last score up to the last step of the table, so that stopping early is neither punished
nor rewarded by a shorter average. Seeds are averaged per slice first, then the slices of each
subject; the mean and its interval run over subjects, each of equal weight
(:mod:`activemri.benchmark.resampling`). A row never depends on which other policies are in the
table (the Holm correction apart, which must).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from activemri.benchmark.resampling import (
    EXACT_SUBJECTS,
    Codes,
    Floats,
    holm,
    mean_intervals,
    sign_flip_p_value,
    smallest_p_value,
    subject_means,
    weighted_means,
)
from activemri.metrics import find_metric

#: Stands for a policy that acquires everything: what its reconstructor makes of a scan at best.
CEILING = "all readouts (ceiling)"
#: The metric of what a scan gained less what its actions cost.
RETURN = "return"

EPISODE = ["policy", "reconstructor", "metric", "volume", "slice", "seed"]
#: Traits of the policy, bool; see :class:`activemri.agents.policy.Traits`.
TRAITS = ["is_order", "is_random", "is_oracle", "repeats"]
COLUMNS = [*EPISODE, "subject", "contrast", "step", "n_acquired", "value", *TRAITS]
_SLICE = ["policy", "reconstructor", "metric", "volume", "slice", "subject", "contrast"]
_RESULT = ["policy", "reconstructor", "metric"]
_QUANTITIES = ["auc", "final"]
_ROUNDING = 1e-6  # scores that differ by a smaller share are one score


def higher_is_better(metric: str) -> bool:
    """True where a larger value of that metric is better."""
    return metric == RETURN or find_metric(metric).higher_is_better


def limits_of(metric: str) -> tuple[float, float]:
    """Lowest and highest value of a metric that there can be."""
    return (-np.inf, np.inf) if metric == RETURN else find_metric(metric).limits


def metric_name(metric: str) -> str:
    """For people: ``psnr_volume`` becomes "PSNR (volume range)"."""
    first, _, second = metric.partition("_")
    if first == "roi":
        return f"{second.upper()} (region of interest)"
    return f"{first.upper()} ({second} range)" if second == "volume" else metric.upper()


def direction(metric: str) -> str:
    """Better values in words, with the unit where there is one."""
    words = "higher is better" if higher_is_better(metric) else "lower is better"
    return f"dB, {words}" if metric.startswith("psnr") else words


def formatted(value: float | None, metric: str, *, signed: bool = False) -> str:
    """A number with the digits that suit its metric, a dash for None."""
    if value is None:
        return "\u2013"
    kind = metric.removeprefix("roi_").split("_")[0]
    form = {"psnr": ".2f", "ssim": ".4f"}.get(kind, "#.3g")
    return f"{value:{'+' if signed else ''}{form}}".rstrip(".").replace("-", "\u2212")


def policies_that(table: pd.DataFrame, trait: str) -> list[str]:
    """Labels of the policies that have a trait, as they first appear: those of ``TRAITS``."""
    if trait not in table:
        raise ValueError(
            f"the results table lacks the column {trait!r}, which this version writes: "
            "run the benchmark again; episodes that were played are only read"
        )
    return [str(label) for label in table[table[trait].to_numpy(bool)]["policy"].unique()]


def trajectories(table: pd.DataFrame) -> tuple[pd.DataFrame, Floats, Floats]:
    """Episodes of the long table, their scores and their acquired lines, up to one last step.

    Returns:
        Columns of ``EPISODE`` with subject, contrast; then (n_episodes, budget + 1) each.

    Raises:
        ValueError: a column is missing, a value is empty or not finite, the steps of an episode
            are not 0, 1, 2, ... once each, or rows used different data or processing.
    """
    missing = [column for column in COLUMNS if column not in table.columns]
    if missing:
        raise ValueError(f"the results table lacks the columns {missing}; it has {list(table)}")
    if table.empty:
        raise ValueError("the results table has no rows: there is nothing to summarise")
    empty = [column for column in COLUMNS if table[column].isna().any()]
    if empty:
        raise ValueError(f"the results table has empty or NaN entries in the columns {empty}")
    if (differing := _differing(table)) is not None:
        raise ValueError(f"rows of the table cannot be compared: {differing}")
    infinite = table[np.isinf(table["value"].to_numpy(np.float64))]
    if len(infinite):
        first = infinite.iloc[0][EPISODE].to_dict()
        raise ValueError(f"{len(infinite)} infinite scores, the first in {first}")
    # Policies, reconstructors and metrics stay as they first appear, all else is sorted.
    codes = [pd.factorize(table[key], sort=key not in _RESULT)[0] for key in EPISODE]
    table = table.iloc[np.lexsort((table["step"].to_numpy(), *reversed(codes)))]
    steps = table["step"].to_numpy()
    by_episode = table.groupby(EPISODE, observed=True, sort=False)
    wrong = np.flatnonzero(steps != by_episode.cumcount().to_numpy())
    if len(wrong):
        number = by_episode.ngroup().to_numpy()
        raise ValueError(
            "an episode needs the steps 0, 1, 2, ... once each; "
            f"{table[EPISODE].iloc[wrong[0]].to_dict()} has "
            f"{steps[number == number[wrong[0]]][:12].tolist()}"
        )
    starts = np.flatnonzero(steps == 0)
    lengths = np.diff(starts, append=len(steps))
    rows = starts[:, None] + np.minimum(np.arange(steps.max() + 1), lengths[:, None] - 1)
    return (
        table.iloc[starts][[*EPISODE, "subject", "contrast"]].reset_index(drop=True),
        table["value"].to_numpy(np.float64)[rows],
        table["n_acquired"].to_numpy(np.float64)[rows],
    )


def _differing(table: pd.DataFrame) -> str | None:
    """Differences between rows of several runs, in words; None where all is shared or unknown."""
    if "protocol" in table and len(found := table["protocol"].dropna().unique()) > 1:
        first, second = (json.loads(one) for one in found[:2])
        names = [n for n in {**first, **second} if first.get(n) != second.get(n)]
        words = (
            f"{n} is {first.get(n, 'the default')} and {second.get(n, 'the default')}"
            for n in names
        )
        return f"other processing: {'; '.join(words)}. Play them under one protocol"
    if "content" in table:
        scans = table[["volume", "content"]].drop_duplicates().dropna()
        if len(twice := scans[scans["volume"].duplicated()]):
            name = twice["volume"].iloc[0]
            return f"other data: the scan {name} of some rows has other samples than that of others"
    return None


def slice_scores(table: pd.DataFrame) -> pd.DataFrame:
    """Area under the curve (``auc``) and score at the budget (``final``) of every slice.

    The mean over seeds, counted in n_seeds, with policy, reconstructor, metric, volume, slice,
    subject, contrast.
    """
    by_slice = seed_scores(table).groupby(_SLICE, observed=True, sort=False)
    means = by_slice[_QUANTITIES].mean()
    return means.assign(n_seeds=by_slice.size()).reset_index()


def seed_scores(table: pd.DataFrame) -> pd.DataFrame:
    """As :func:`slice_scores`, with a row for each seed: column seed instead of n_seeds."""
    episodes, scores, _ = trajectories(table)
    heights = (scores[:, 1:] + scores[:, :-1]) / 2 if scores.shape[1] > 1 else scores
    return episodes.assign(auc=heights.mean(axis=1), final=scores[:, -1])


def summarise(table: pd.DataFrame) -> list[dict[str, object]]:
    """Rows of ``summary.json``: each policy with each reconstructor in each metric.

    Returns:
        Dictionaries ready for JSON. ``auc`` and ``final`` are means of subjects' means,
        ``auc_iqm`` and ``final_iqm`` means of the middle half of the slices, each subject's of
        equal weight in sum, ``_lo`` and ``_hi`` the ends of their intervals over subjects;
        ``no_interval`` says why they are None.
    """
    rows: list[dict[str, object]] = []
    bounds = policies_that(table, "is_oracle")
    for group, part in groups(slice_scores(table), _RESULT):
        values, subjects = part[_QUANTITIES].to_numpy(), subject_codes(part)
        limits = limits_of(str(group["metric"]))
        area, final, middle_area, middle_final = (
            interval.within(limits)
            for of_middle in (False, True)
            for interval in mean_intervals(values, subjects, of_middle=of_middle)
        )
        rows.append(
            {
                **group,
                **area.named("auc"),
                **final.named("final"),
                "n_subjects": int(subjects.max()) + 1,
                "n_slices": len(part),
                "n_seeds": int(part["n_seeds"].max()),
                **middle_area.named("auc_iqm"),
                **middle_final.named("final_iqm"),
                "no_interval": area.reason,
                "bound": group["policy"] in bounds,
                "higher_is_better": higher_is_better(str(group["metric"])),
            }
        )
    return rows


def ceilings(table: pd.DataFrame) -> list[dict[str, object]]:
    """Mean scores with all readouts, ready for JSON; none for a table without the column ceiling.

    Returns:
        Dictionaries for each reconstructor and metric, as of :func:`summarise`, without an area
        (None; the final score too, if it is not finite: no error at all). ``above``: policies
        whose mean area or final score is better than the mean ceiling of their scans, with
        ``quantity``, ``value``, ``ceiling``.
    """
    rows: list[dict[str, object]] = []
    if "ceiling" not in table:
        return rows
    keys = ["reconstructor", "metric", "volume", "slice"]
    of_scans = table[[*keys, "subject", "ceiling"]].dropna().drop_duplicates(keys)
    scores = slice_scores(table).merge(of_scans.drop(columns="subject"), on=keys)
    for group, part in groups(of_scans, ["reconstructor", "metric"]):
        metric, subjects = str(group["metric"]), subject_codes(part)
        sign, above = 1 if higher_is_better(metric) else -1, []
        same = (scores["reconstructor"] == group["reconstructor"]) & (scores["metric"] == metric)
        for policy, own in groups(scores[same], ["policy"]):
            values = own[[*_QUANTITIES, "ceiling"]].to_numpy()
            *reached, ceiling = subject_means(values, subject_codes(own)).tolist()
            above += [
                policy | {"quantity": quantity, "value": value, "ceiling": ceiling}
                for quantity, value in zip(_QUANTITIES, reached, strict=True)
                if sign * (value - ceiling) > _ROUNDING * abs(value)
            ]
        values = part[["ceiling"]].to_numpy(np.float64)
        row = {"policy": CEILING, **group, "bound": True, "above": above}
        row |= {q + end: None for q in _QUANTITIES for end in ("", "_lo", "_hi")}
        if np.isfinite(values).all():
            row |= mean_intervals(values, subjects)[0].named("final")
        rows.append(row | {"n_subjects": int(subjects.max()) + 1, "n_slices": len(part)})
    return rows


def differences(table: pd.DataFrame, reference: str) -> pd.DataFrame:
    """As :func:`slice_scores`, policy minus reference with the same reconstructor.

    Slices that one of the two lacks are left out.

    Raises:
        ValueError: the reference is not in the table, or shares no slice with a policy.
    """
    scores = slice_scores(table)
    theirs = scores[scores["policy"] == reference]
    if theirs.empty:
        known = ", ".join(map(str, scores["policy"].unique()))
        raise ValueError(
            f"reference policy {reference!r} is not in the results; there are: {known}"
        )
    ours = scores[scores["policy"] != reference]
    keys = [key for key in _SLICE if key != "policy"]
    both = ours.merge(theirs.drop(columns=["policy", "n_seeds"]), on=keys, suffixes=("", "_ref"))
    alone = set(map(str, ours["policy"])) - set(map(str, both["policy"]))
    if alone:
        raise ValueError(f"{', '.join(sorted(alone))}: no slice in common with {reference!r}")
    for quantity in _QUANTITIES:
        both[quantity] -= both.pop(f"{quantity}_ref")
    return both


def compare(table: pd.DataFrame, reference: str, *, seed: int = 0) -> list[dict[str, object]]:
    """Paired comparison of every policy with the reference policy, ready for JSON.

    ``difference`` is a mean of subjects' means, ``lo`` and ``hi`` are the ends of its interval over
    subjects (``better`` is None for no difference); ``p`` comes from flipping the signs of the
    subjects' mean differences (:func:`activemri.benchmark.resampling.sign_flip_p_value`, which
    draws signs by the seed where subjects are many; else it is ``exact``). ``p_holm`` is
    corrected over the policies of one reconstructor, metric and quantity ("auc" or "final"); bounds
    are left out of it (None). ``p_smallest`` is the least p that so many subjects can give: where
    it exceeds 0.05 nothing can be called significant.
    """
    rows: list[dict[str, object]] = []
    bounds = policies_that(table, "is_oracle")
    for family, members in groups(differences(table, reference), ["reconstructor", "metric"]):
        sign = 1 if higher_is_better(str(family["metric"])) else -1
        for quantity in _QUANTITIES:
            tests: list[dict[str, Any]] = []
            for one, part in groups(members, ["policy"]):
                subjects = subject_codes(part)
                gains = part[[quantity]].to_numpy()
                (found,) = mean_intervals(gains, subjects)
                each = np.eye(int(subjects.max()) + 1)
                means = weighted_means(gains, subjects, weights=each)[:, 0]
                tests.append(
                    {
                        "p_holm": None,
                        "policy": one["policy"],
                        "reference": reference,
                        **family,
                        "quantity": quantity,
                        "difference": found.value,
                        "lo": found.low,
                        "hi": found.high,
                        "better": None if found.value == 0 else sign * found.value > 0,
                        "p": sign_flip_p_value(means, rng=np.random.default_rng(seed)),
                        "p_smallest": smallest_p_value(len(means)),
                        "exact": len(means) <= EXACT_SUBJECTS,
                        "n_subjects": len(means),
                        "n_slices": len(part),
                        "bound": one["policy"] in bounds,
                    }
                )
            # Bounds are no competitors: they are not tested, and cost the others nothing.
            rivals = [test for test in tests if not test["bound"]]
            for test, p in zip(rivals, holm([test["p"] for test in rivals]), strict=True):
                test["p_holm"] = p
            rows += tests
    return rows


def seed_spread(table: pd.DataFrame) -> list[dict[str, object]]:
    """Spread between trainings, or draws: of the means over subjects of each seed, ready for JSON.

    One row per policy with several seeds, reconstructor, metric and quantity; ``sd`` has n - 1 in
    the denominator.
    """
    rows: list[dict[str, object]] = []
    for result, part in groups(seed_scores(table), _RESULT):
        means = part.groupby(["seed", "subject"])[_QUANTITIES].mean().groupby("seed").mean()
        if len(means) < 2:
            continue
        for quantity, column in means.items():
            rows.append(
                {
                    **result,
                    "quantity": str(quantity),
                    "seeds": [int(seed) for seed in means.index],
                    "means": column.tolist(),
                    "mean": float(column.mean()),
                    "sd": float(column.std()),
                    "lowest": float(column.min()),
                    "highest": float(column.max()),
                }
            )
    return rows


def lines_to_reach(table: pd.DataFrame, scores: Mapping[str, float]) -> list[dict[str, object]]:
    """Lines to acquire until a score is reached, which is given by metric; rows ready for JSON.

    ``share`` of the episodes reached it, and ``mean_at_least`` is the mean of their lines, where
    one that did not counts with those that it had acquired at the end: a lower bound unless
    ``share`` is 1; both are means of subjects' means. In the ``median`` over episodes one that did
    not counts as more than any other (None if it falls among those).
    """
    episodes, paths, n_acquired = trajectories(table)
    metrics = episodes["metric"].astype(str)
    levels = metrics.map(scores).to_numpy(np.float64)[:, None]
    sign = np.where(metrics.map(higher_is_better).to_numpy(bool), 1.0, -1.0)[:, None]
    reached: NDArray[np.bool_] = sign * paths >= sign * levels
    lines = np.take_along_axis(n_acquired, reached.argmax(axis=1, keepdims=True), axis=1)[:, 0]
    found = episodes.assign(lines=lines, reached=reached.any(axis=1), end=n_acquired[:, -1])
    rows: list[dict[str, object]] = []
    for group, part in groups(found[metrics.isin(list(scores))], _RESULT):
        median = float(np.median(part["lines"].where(part["reached"], np.inf)))
        known = part["lines"].where(part["reached"], part["end"])
        values = np.stack([part["reached"], known], axis=1).astype(np.float64)
        share, mean = subject_means(values, subject_codes(part)).tolist()
        rows.append(
            {
                **group,
                "score": float(scores[str(group["metric"])]),
                "share": share,
                "median": median if np.isfinite(median) else None,
                "mean_at_least": mean,
                "n_episodes": len(part),
            }
        )
    return rows


def score_curves(table: pd.DataFrame) -> pd.DataFrame:
    """Mean score after every step with its interval, for plots.

    Columns policy, reconstructor, metric, step, n_acquired (mean as the score's), score, lo, hi
    (NaN with too few subjects).
    """
    episodes, scores, n_acquired = trajectories(table)
    steps = range(scores.shape[1])
    heights, lines = ([f"{name}{step}" for step in steps] for name in ("score", "lines"))
    wide = pd.DataFrame(np.hstack([scores, n_acquired]), columns=[*heights, *lines])
    means = episodes.join(wide).groupby(_SLICE, observed=True, sort=False)[[*wide]].mean()
    parts = []
    for group, part in groups(means.reset_index(), _RESULT):
        subjects = subject_codes(part)
        limits = limits_of(str(group["metric"]))
        found = mean_intervals(part[heights].to_numpy(), subjects)
        intervals = [interval.within(limits) for interval in found]
        curve = {
            **group,
            "step": steps,
            "n_acquired": subject_means(part[lines].to_numpy(), subjects),
            "score": [interval.value for interval in intervals],
            "lo": np.array([interval.low for interval in intervals], np.float64),
            "hi": np.array([interval.high for interval in intervals], np.float64),
        }
        parts.append(pd.DataFrame(curve))
    return pd.concat(parts, ignore_index=True)


def subject_codes(frame: pd.DataFrame) -> Codes:
    """Numbers of the subjects of its rows, 0 .. n_subjects - 1 in their order as text."""
    return np.asarray(pd.factorize(frame["subject"], sort=True)[0])


def groups(
    frame: pd.DataFrame, keys: Sequence[str]
) -> Iterator[tuple[dict[str, object], pd.DataFrame]]:
    """Parts of a table that agree in some columns, and what they agree in."""
    for values, part in frame.groupby(list(keys), observed=True, sort=False):
        yield dict(zip(keys, values, strict=True)), part
