"""Whether policies look at the scan: information between image and action, and shared lines.

The mutual information of image and action at a step (Bakker, van Hoof and Welling, NeurIPS 2020),

    I = H(mean over images of pi) - mean over images of H(pi),

is for policies without chance the entropy of their actions over the scans: 0 bits where all scans
get the same action, log2 k where k actions are equally frequent. Entropies of few scans come out
too low; Miller and Madow's (m - 1) / (2 n ln 2) bits, for m actions seen in n scans, are added.
n scans cannot show more than log2 n bits: the sum is cut there, and values near it only say "many".

An order gives 0 where scans agree in size and start. Where they do not, its bits come from these
differences: read the policies' bits beside those of the orders. And bits tell of the moment of an
action: what the scans end up with is told by the lines that two of them share.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from activemri.benchmark.statistics import groups

Counts = NDArray[np.intp]


def adaptivity_of_actions(
    table: pd.DataFrame, *, drawn: Collection[str] = ()
) -> list[dict[str, object]]:
    """How the actions of each policy differ between scans.

    Args:
        table: the long table, with its column action (-1 where there is none).
        drawn: policies that act by chance: one draw does not tell their probabilities, so that
            they get no bits.

    Returns:
        Dictionaries ready for JSON, one per policy and reconstructor, seeds averaged:

        - ``bits`` after Miller and Madow and ``plug_in`` for every step (None with fewer than two
          scans under way), ``mean_bits`` over the steps, ``ceiling`` = log2 of the scans;
        - ``n_scans`` at the start and ``n_acting``, those not ended before each step;
        - ``taken``: actions of an episode, ``shared``: how many of them another scan's episode has
          as well, both averaged over pairs of scans at the end, and ``overlap`` = shared / taken.

    Raises:
        ValueError: the table has no actions.
    """
    rows: list[dict[str, object]] = []
    for result, part in groups(actions_of(table), ["policy", "reconstructor"]):
        seeds = [_Seed.of(own) for _, own in groups(part, ["seed"])]
        bits = _step_means([one.bits for one in seeds])
        plug_in = _step_means([one.plug_in for one in seeds])
        if result["policy"] in drawn:
            bits = plug_in = [None] * len(bits)
        n_scans = max(one.n_scans for one in seeds)
        taken, shared = _mean([one.taken for one in seeds]), _mean([one.shared for one in seeds])
        rows.append(
            result
            | {"bits": bits, "plug_in": plug_in, "mean_bits": _mean(bits)}
            | {"ceiling": float(np.log2(n_scans)), "n_scans": n_scans}
            | {"n_acting": _step_means([one.n_acting for one in seeds])}
            | {"taken": taken, "shared": shared}
            | {"overlap": shared / taken if shared is not None and taken else None}
        )
    return rows


def actions_of(table: pd.DataFrame) -> pd.DataFrame:
    """Every action once: columns policy, reconstructor, volume, slice, seed, step, action.

    Step 1 has the first action. Episodes without any are left out.
    """
    if "action" not in table or table.empty:
        raise ValueError("the results table has no actions: run the benchmark again")
    once = table[(table["metric"] == table["metric"].iloc[0]) & (table["action"] >= 0)]
    columns = ["policy", "reconstructor", "volume", "slice", "seed", "step", "action"]
    return once[columns]


def entropy_bits(counts: Counts) -> tuple[float, float]:
    """Entropy of what was counted, in bits: plug-in, and corrected, at most log2 of the count."""
    n, seen = counts.sum(), counts[counts > 0]
    share = seen / n
    plug_in = abs(float(-(share * np.log2(share)).sum()))  # abs: -0.0 is no number for people
    corrected = plug_in + (len(seen) - 1) / (2 * float(n) * float(np.log(2)))
    return plug_in, min(corrected, float(np.log2(n)))


def shared_actions(taken: NDArray[np.bool_]) -> float | None:
    """Mean over pairs of scans of how many actions both took: bool (n_scans, n_actions)."""
    n = len(taken)
    if n < 2:
        return None
    counts = taken.sum(axis=0).astype(np.float64)
    return float((counts * (counts - 1)).sum() / (n * (n - 1)))


@dataclass(frozen=True)
class _Seed:
    """One run over all scans: lists have a value for each step."""

    bits: list[float | None]
    plug_in: list[float | None]
    n_acting: list[float | None]
    n_scans: int
    taken: float
    shared: float | None

    @classmethod
    def of(cls, actions: pd.DataFrame) -> "_Seed":
        scan = actions.groupby(["volume", "slice"], observed=True, sort=False).ngroup().to_numpy()
        steps, chosen = actions["step"].to_numpy(), actions["action"].to_numpy()
        taken = np.zeros((int(scan.max()) + 1, int(chosen.max()) + 1), bool)
        taken[scan, chosen] = True
        counts = np.zeros((int(steps.max()), taken.shape[1]), np.intp)
        np.add.at(counts, (steps - 1, chosen), 1)
        entropies = [entropy_bits(row) if row.sum() > 1 else (None, None) for row in counts]
        return cls(
            bits=[corrected for _, corrected in entropies],
            plug_in=[plain for plain, _ in entropies],
            n_acting=[float(n) for n in counts.sum(axis=1)],
            n_scans=len(taken),
            taken=float(taken.sum(axis=1).mean()),
            shared=shared_actions(taken),
        )


def _step_means(seeds: Sequence[Sequence[float | None]]) -> list[float | None]:
    """Mean over those seeds that have a value at the step."""
    return [_mean(values) for values in zip_longest(*seeds)]


def _mean(values: Sequence[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return float(np.mean(numbers)) if numbers else None
