"""Learning curves: what validation said during trainings, seeds of one training together.

Runs whose settings differ only in seed and folder are one group. At each step its curve is the
inter-quartile mean over runs (Agarwal et al., Deep reinforcement learning at the edge of the
statistical precipice, NeurIPS 2021), with its interval
(:func:`activemri.benchmark.resampling.intervals`, runs in place of subjects). With the three to
five seeds that are usual it is wide, so that each run is drawn as well.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from tyro.conf import FlagCreatePairsOff, Positional, arg

from activemri import files
from activemri.benchmark.figures import STYLE, colours
from activemri.benchmark.resampling import FEWEST_SUBJECTS, Floats, mean_intervals
from activemri.tables import Cell, Table
from activemri.training.folder import read_log

log = logging.getLogger(__name__)

#: Entries of a log, one for each validation.
Entries = Sequence[Mapping[str, Any]]

#: Settings in which runs of one group may differ.
_FREE = ("seed", "out", "resume", "threads", "tensorboard", "max_steps", "device")
_PREFIX = "validation_"


@dataclass(frozen=True)
class CurvesSettings:
    """Draw learning curves of trainings, several seeds together.

    Runs whose settings differ only in seed and folder are one group: its curve is the
    inter-quartile mean over the runs, its band a 95 % interval, and each run a thin line.
    """

    runs: Positional[Annotated[tuple[Path, ...], arg(metavar="RUN [RUN ...]")]]
    """Folders of trainings, as `activemri train policy` makes them."""
    out: Path = Path("curves.png")
    """Picture to write, as PNG or SVG."""
    overwrite: FlagCreatePairsOff[bool] = False
    """Replace the picture where it is there already."""
    metric: str | None = None
    """Entry of the log to draw, e.g. validation_final; None takes the first validation_
    entry that all runs have."""

    def __post_init__(self) -> None:
        if not self.runs:
            raise ValueError("expected at least one folder of a training")
        if len(set(self.runs)) < len(self.runs):
            raise ValueError("expected different folders; got one of them twice")
        if self.out.suffix not in (".png", ".svg"):
            raise ValueError(f"--out: expected a name that ends in .png or .svg; got {self.out}")


@dataclass(frozen=True, eq=False)
class LearningCurve:
    """Values of the runs of one group, (n_runs, n_steps), and what all of them say, (n_steps,).

    That is the inter-quartile mean, with the ends of its interval, NaN with too few runs.
    """

    name: str
    steps: Floats
    runs: Floats
    iqm: Floats
    low: Floats
    high: Floats


def draw_learning_curves(settings: CurvesSettings) -> str:
    """Read runs, draw them, and say where they end: the text that the command prints.

    Raises:
        ValueError: a folder without a training, a metric that runs lack, a picture that is there.
        OSError: the picture cannot be written.
    """
    files.require_free(settings.out, overwrite=settings.overwrite)
    runs = {folder: read_run(folder) for folder in settings.runs}
    logs = {folder: entries for folder, (_, entries) in runs.items()}
    common = set.intersection(*({key for entry in one for key in entry} for one in logs.values()))
    written = (key for entry in next(iter(logs.values())) for key in entry)
    metric = settings.metric or next(
        (key for key in written if key.startswith(_PREFIX) and key in common), None
    )
    if metric is None:
        raise ValueError(
            f"the logs have no {_PREFIX} entry in common; say with --metric what to draw: "
            + ", ".join(sorted(common))
        )
    curves = [
        learning_curve({folder: logs[folder] for folder in folders}, metric, name=name)
        for name, folders in grouped({folder: own for folder, (own, _) in runs.items()}).items()
    ]
    figure = learning_figure(curves, metric=metric)
    with files.replacing(settings.out) as partial:
        figure.savefig(partial, format=settings.out.suffix[1:], dpi=150)
    lines = []
    for curve in curves:
        enough = len(curve.runs) >= FEWEST_SUBJECTS
        ends = f"{curve.low[-1]:.4f}, {curve.high[-1]:.4f}" if enough else "too few seeds"
        end = Cell(f"{curve.iqm[-1]:.4f}", ends)
        lines.append([curve.name, len(curve.runs), Cell(f"{curve.steps[-1]:g}"), end])
    table = Table(
        ["training", "seeds", "step", f"{metric}, inter-quartile mean"],
        lines,
        notes=["Brackets: 95 % interval over seeds, wide with few of them."],
    )
    return f"{table.text()}\n\n{settings.out}"


def read_run(folder: Path) -> tuple[dict[str, Any], Entries]:
    """Settings of the training in a folder, and its validations in order of steps.

    Raises:
        ValueError: the folder holds no training, or one without any validation.
    """
    try:
        settings = files.read_json(folder / "settings.json")
        entries = read_log(folder / "log.jsonl")
    except FileNotFoundError as error:
        raise ValueError(
            f"{folder} holds no training: {Path(error.filename).name} is missing"
        ) from error
    if not entries:
        raise ValueError(f"{folder}: nothing was validated yet")
    return settings, sorted(entries, key=lambda entry: entry["step"])


def grouped(settings: Mapping[Path, Mapping[str, Any]]) -> dict[str, list[Path]]:
    """Runs that differ only in seed and folder, under a name that says what sets them apart.

    Raises:
        ValueError: a group holds the same seed twice.
    """
    found: dict[str, list[Path]] = {}
    for folder, own in settings.items():
        kept = {name: value for name, value in own.items() if name not in _FREE}
        found.setdefault(json.dumps(kept, sort_keys=True), []).append(folder)
    for folders in found.values():
        seeds = [settings[folder].get("seed") for folder in folders]
        if len(set(map(str, seeds))) < len(seeds):
            raise ValueError(
                f"these runs differ in nothing, their seeds included ({seeds}): "
                + ", ".join(map(str, folders))
            )
    firsts = [settings[folders[0]] for folders in found.values()]
    keys = dict.fromkeys(key for one in firsts for key in one if key not in (*_FREE, "algo"))
    differing = [key for key in keys if len({json.dumps(one.get(key)) for one in firsts}) > 1]
    names = []
    for one in firsts:
        words = [str(one.get("algo", "training"))]
        for key in differing:
            value, word = one.get(key), f"{key} {one.get(key)}"
            words.append(" ".join(map(str, value)) if isinstance(value, list) and value else word)
        names.append(", ".join(words))
    return dict(zip(names, found.values(), strict=True))


def learning_curve(logs: Mapping[Path, Entries], metric: str, *, name: str) -> LearningCurve:
    """Inter-quartile mean and interval of a group at every step that a run was validated at.

    Between a run's own validations values are interpolated. The curve ends with the shortest run.

    Raises:
        ValueError: a run never wrote that metric.
    """
    drawn, ends = [], []
    for folder, entries in logs.items():
        pairs = [(entry["step"], entry[metric]) for entry in entries if metric in entry]
        if not pairs:
            raise ValueError(f"{folder}: its log has no {metric}")
        if not all(isinstance(value, int | float) for _, value in pairs):
            raise ValueError(f"{folder}: expected numbers for {metric} in its log")
        drawn.append(np.array(pairs, np.float64).T)
        ends.append(f"{folder.name} at {pairs[-1][0]:g}")
    first = max(steps[0] for steps, _ in drawn)
    last = min(steps[-1] for steps, _ in drawn)
    if any(steps[-1] > last for steps, _ in drawn):
        log.warning(
            "%s: runs end apart (%s); the curve ends with the first of them", name, ", ".join(ends)
        )
    steps = np.unique(np.concatenate([steps for steps, _ in drawn]))
    steps = steps[(steps >= first) & (steps <= last)]
    if not len(steps):
        raise ValueError(f"{name}: the runs have no step in common")
    values = np.stack([np.interp(steps, *curve) for curve in drawn])
    found = mean_intervals(values, np.arange(len(values)), of_middle=True)
    iqm, low, high = np.array([(one.value, one.low, one.high) for one in found], np.float64).T
    return LearningCurve(name, steps, values, iqm, low, high)


@mpl.rc_context(STYLE)
def learning_figure(curves: Sequence[LearningCurve], *, metric: str) -> Figure:
    """One line and band a group, a thin line a run."""
    palette = colours([curve.name for curve in curves])
    figure = Figure(figsize=(7.6, 4.6))
    axes = figure.subplots()
    for curve in curves:
        colour, n = palette[curve.name], len(curve.runs)
        if n > 1:
            axes.plot(curve.steps, curve.runs.T, color=colour, lw=0.7, alpha=0.45)
            axes.fill_between(curve.steps, curve.low, curve.high, color=colour, alpha=0.15, lw=0)
        label = f"{curve.name} ({n} seed{'' if n == 1 else 's'})"
        axes.plot(curve.steps, curve.iqm, color=colour, lw=2.2, label=label)
    axes.margins(x=0.01)
    axes.set_xlabel("steps of the training")
    axes.set_ylabel(metric.replace("_", " "))
    axes.grid(axis="y")
    # Untrained networks may lie below the rest, or above with errors, and would flatten it.
    first = np.concatenate([curve.runs[:, 0] for curve in curves])
    later = np.concatenate([curve.runs[:, 1:].ravel() for curve in curves])
    if len(later):
        low, high = later.min(), later.max()
        margin, far = (high - low) / 8, 2 * (high - low)
        axes.set_ylim(
            low - margin if low - first.min() > far else None,
            high + margin if first.max() - high > far else None,
        )
    in_a_row = sum(len(curve.name) + 14 for curve in curves) <= 80  # letters
    figure.legend(loc="outside upper left", frameon=False, ncols=len(curves) if in_a_row else 1)
    return figure
