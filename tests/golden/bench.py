"""Runs the benchmark command, and reads the area and the final score of every scan."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from activemri.cli import main

#: Columns of the results' long table, today's name -> name.
COLUMNS: dict[str, str] = {}

#: Arguments of the command, but for the folder; by the name of the record.
COMMANDS: dict[str, tuple[str, ...]] = {
    "benchmark": tuple(
        "--data phantom --matrix-size 32 --max-slices 5 --budget 8 --n-center-lines 4 --policies"
        " random low-frequency-first high-frequency-first equispaced variable-density"
        " conjugate-symmetric lbcs average-oracle oracle exchange-oracle"
        " --reconstructors zero-filled"
        " --n-seeds 2 --n-fit-scans 4 --max-fit-slices 4".split()
    ),
    # The weights that come with the package are made for 128 columns.
    "weights": tuple(
        "--env ActiveMRI/Phantom-v0 --policies imitation evaluator-greedy uncertainty-greedy"
        " low-frequency-first --max-slices 2 --budget 6 --reference low-frequency-first".split()
    ),
}


def run(name: str, out: Path) -> dict[str, Any]:
    """Actions, area and final score of every scan, by reconstructor, policy, seed and scan."""
    status = main(["benchmark", *COMMANDS[name], "--out", str(out)])
    assert status == 0, f"the command ended with status {status}"
    table = pd.read_parquet(out / "results.parquet").rename(
        columns={new: old for old, new in COLUMNS.items()}
    )
    keys = ["reconstructor", "policy", "seed", "volume", "slice"]
    record: dict[str, Any] = {}
    for key, rows in table.groupby(keys, sort=False):
        scores: dict[str, Any] = {}
        for metric, own in rows.groupby("metric", sort=False):
            ordered = own.sort_values("step")
            values = ordered["value"].to_numpy()
            scores[str(metric)] = {
                "area": float(np.trapezoid(values) / (len(values) - 1)),
                "final": float(values[-1]),
            }
            scores["actions"] = [int(action) for action in ordered["action"][1:]]
        record[" ".join(str(part) for part in key)] = scores
    return record
