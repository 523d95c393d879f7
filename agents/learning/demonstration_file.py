"""Demonstrations on disk: one Parquet file, one row a state, readable by anything.

Columns: `volume`, `slice`, `subject` (who was scanned), `start_lines` and `lines` (numbers of the
lines acquired at the start and until now), `budget` and `start_budget` (lines still to acquire),
`score` (before the action), `action` (the best of those tried), `actions` and `scores` (those
tried, and the score after each), `prospect` (what the rest of the episode gained at best). Errors
such as NMSE have their sign turned: higher is better. The file's metadata say which metric,
reconstructor, geometry and data these are.

Samples of scans are not stored: whoever reads the file has the scans, and
:meth:`activemri.envs.acquisition.Acquisition.resume` brings a scan to a state in one call.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from activemri.agents.learning.demonstrations import Demonstrations
from activemri.data.slices import SliceDataset
from activemri.files import write_together

_KEY = b"activemri-demonstrations"


class DemonstrationError(ValueError):
    """A file that holds no demonstrations, or those of other scans."""


@dataclass(frozen=True)
class About:
    """What demonstrations are about.

    Attributes:
        metric: what the oracle maximised.
        reconstructor: what made the images that were scored.
        data: where the scans come from.
        geometry: name of the geometry.
        n_lines: length of a mask.
        n_actions: actions of the geometry.
        horizon: lines after which the oracle compared scores.
    """

    metric: str
    reconstructor: str
    data: str
    geometry: str
    n_lines: int
    n_actions: int
    horizon: int


def write_demonstrations(
    path: str | Path, found: Demonstrations, *, scans: SliceDataset, about: About
) -> Path:
    """Write a Parquet file, completely or not at all. Returns its path, ending in .parquet.

    Raises:
        OSError: the file cannot be written.
        ModuleNotFoundError: pyarrow is not installed; the message says which extra has it.
    """
    arrow, parquet = _arrow()
    infos = [scans.describe(i) for i in found.index.tolist()]
    known = found.tried >= 0
    columns: Mapping[str, Any] = {
        "volume": [info.volume for info in infos],
        "slice": [info.index for info in infos],
        "subject": [info.subject for info in infos],
        "start_lines": [row.nonzero().squeeze(1).tolist() for row in found.start_mask],
        "lines": [row.nonzero().squeeze(1).tolist() for row in found.mask],
        "budget": found.budget.tolist(),
        "start_budget": found.start_budget.tolist(),
        "score": found.score.tolist(),
        "action": found.action.tolist(),
        "actions": [row[k].tolist() for row, k in zip(found.tried, known, strict=True)],
        "scores": [row[k].tolist() for row, k in zip(found.scores, known, strict=True)],
        "prospect": found.prospect.tolist(),
    }
    table = arrow.table(dict(columns)).replace_schema_metadata({_KEY: json.dumps(asdict(about))})
    sink = arrow.BufferOutputStream()
    parquet.write_table(table, sink)
    target = Path(path).with_suffix(".parquet")
    target.parent.mkdir(parents=True, exist_ok=True)
    write_together({target: sink.getvalue().to_pybytes()})
    return target


def read_demonstrations(path: str | Path, *, scans: SliceDataset) -> tuple[Demonstrations, About]:
    """Read a file that :func:`write_demonstrations` wrote.

    Args:
        path: of the file.
        scans: whom it is about, in any order.

    Raises:
        FileNotFoundError: if there is no such file.
        DemonstrationError: if it holds something else, or scans that are not among those given.
        ModuleNotFoundError: pyarrow is not installed.
    """
    arrow, parquet = _arrow()
    if not Path(path).is_file():
        raise FileNotFoundError(f"expected a file of demonstrations; none is at {path}")
    try:
        table = parquet.read_table(path)
    except arrow.ArrowInvalid as error:
        raise DemonstrationError(f"{path} is not a Parquet file: {error}") from error
    described = (table.schema.metadata or {}).get(_KEY)
    if described is None:
        raise DemonstrationError(
            f"{path} holds no demonstrations; make some with 'activemri demonstrate'"
        )
    about = About(**json.loads(described))
    rows = table.to_pydict()
    return _parsed(rows, about, index=_positions(rows, scans, path)), about


def _parsed(rows: Mapping[str, list[Any]], about: About, *, index: Tensor) -> Demonstrations:
    n_trials = max((len(actions) for actions in rows["actions"]), default=0)
    tried = torch.full((len(index), n_trials), -1)
    scores = torch.full((len(index), n_trials), -torch.inf, dtype=torch.float64)
    for row, (actions, values) in enumerate(zip(rows["actions"], rows["scores"], strict=True)):
        tried[row, : len(actions)] = torch.tensor(actions, dtype=torch.int64)
        scores[row, : len(values)] = torch.tensor(values, dtype=torch.float64)
    return Demonstrations(
        index=index,
        start_mask=_masks(rows["start_lines"], about.n_lines),
        mask=_masks(rows["lines"], about.n_lines),
        budget=torch.tensor(rows["budget"]),
        start_budget=torch.tensor(rows["start_budget"]),
        score=torch.tensor(rows["score"], dtype=torch.float64),
        tried=tried,
        scores=scores,
        prospect=torch.tensor(rows["prospect"], dtype=torch.float64),
    )


def _positions(rows: Mapping[str, list[Any]], scans: SliceDataset, path: str | Path) -> Tensor:
    infos = [scans.describe(position) for position in range(len(scans))]
    known = {(info.volume, info.index): at for at, info in enumerate(infos)}
    wanted = list(zip(rows["volume"], rows["slice"], strict=True))
    if missing := [scan for scan in wanted if scan not in known]:
        raise DemonstrationError(
            f"{path} is about scans that are not among those of {scans.name}, the first: slice "
            f"{missing[0][1]} of {missing[0][0]}; name the data that it was made from"
        )
    return torch.tensor([known[scan] for scan in wanted], dtype=torch.int64)


def _masks(lines: list[list[int]], n_lines: int) -> Tensor:
    masks = torch.zeros((len(lines), n_lines), dtype=torch.bool)
    for row, own in enumerate(lines):
        masks[row, np.array(own, dtype=np.int64)] = True
    return masks


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'demonstrations are Parquet files: pip install "activemri[benchmark]"', name=error.name
        ) from error
    return pyarrow, pyarrow.parquet
