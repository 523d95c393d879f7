"""Invented results tables."""

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence

import pandas as pd


def long_table(
    value: Callable[..., float],
    *,
    policies: Sequence[str],
    n_subjects: int,
    n_slices: int = 1,
    n_steps: int,
    n_seeds: Mapping[str, int] | int = 1,
    metric: str = "ssim",
    reconstructor: str = "unet",
) -> pd.DataFrame:
    """Values of (policy, subject, slice, step, seed); every action takes the next line."""
    rows = [
        {
            "policy": policy,
            "reconstructor": reconstructor,
            "volume": f"v{subject}",
            "slice": index,
            "subject": f"s{subject}",
            "contrast": ("T1", "T2")[subject % 2],
            "step": step,
            "n_acquired": 8 + step,
            "action": step - 1,
            "metric": metric,
            "value": value(policy, subject, index, step, seed),
            "seed": seed,
        }
        for policy, subject, index in itertools.product(
            policies, range(n_subjects), range(n_slices)
        )
        for seed in range(n_seeds if isinstance(n_seeds, int) else n_seeds.get(policy, 1))
        for step in range(n_steps + 1)
    ]
    return with_traits(pd.DataFrame(rows))


def with_traits(
    table: pd.DataFrame,
    *,
    orders: Collection[str] = ("lbcs", "low-frequency-first", "equispaced"),
    oracles: Collection[str] = ("oracle", "screened-oracle", "exchange-oracle"),
) -> pd.DataFrame:
    """The table with the columns that say what its policies are."""
    return table.assign(
        is_order=table["policy"].isin(list(orders)),
        is_random=table["policy"] == "random",
        is_oracle=table["policy"].isin(list(oracles)),
        repeats=False,
    )
