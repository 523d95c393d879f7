"""Traits for invented results tables."""

from collections.abc import Collection

import pandas as pd


def with_traits(
    table: pd.DataFrame,
    *,
    orders: Collection[str] = ("lbcs", "low-frequency-first", "equispaced"),
    oracles: Collection[str] = ("oracle", "exchange-oracle"),
) -> pd.DataFrame:
    """The table with the columns that say what its policies are."""
    return table.assign(
        is_order=table["policy"].isin(list(orders)),
        is_random=table["policy"] == "random",
        is_oracle=table["policy"].isin(list(oracles)),
        repeats=False,
    )
