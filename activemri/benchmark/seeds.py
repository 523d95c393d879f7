"""Policies that were run with several seeds, or trained with several: how far these differ.

Elsewhere a scan counts with the mean over its seeds, and intervals tell how sure one may be about
other subjects. That says nothing about another training: this does.
"""

import pandas as pd

from activemri.benchmark.statistics import groups, seed_scores


def seed_spread(table: pd.DataFrame, *, budget: int | None = None) -> list[dict[str, object]]:
    """Mean over scans of each seed, and the spread of these means.

    Returns:
        Dictionaries ready for JSON, one per policy with several seeds, reconstructor, metric and
        quantity ("auc" or "final"): ``seeds``, their ``means`` in the same order, ``mean``, ``sd``
        (of means, n - 1 in the denominator), ``lowest``, ``highest``.
    """
    rows: list[dict[str, object]] = []
    scores = seed_scores(table, budget=budget)
    for result, part in groups(scores, ["policy", "reconstructor", "metric"]):
        means = part.groupby("seed")[["auc", "final"]].mean()
        if len(means) < 2:
            continue
        for quantity in means:
            column = means[quantity]
            rows.append(
                result
                | {"quantity": str(quantity), "seeds": [int(seed) for seed in means.index]}
                | {"means": column.tolist(), "mean": float(column.mean())}
                | {"sd": float(column.std()), "lowest": float(column.min())}
                | {"highest": float(column.max())}
            )
    return rows
