"""Learning curves: what validation said during trainings, seeds of one training together.

Runs whose settings differ only in seed and folder are one group. At each step its curve is the
inter-quartile mean over runs (Agarwal et al., Deep reinforcement learning at the edge of the
statistical precipice, NeurIPS 2021), the interval a percentile bootstrap that draws runs anew.
With the three to five seeds that are usual it is too narrow (see
:func:`activemri.benchmark.resampling.percentile_intervals`), so that each run is drawn as well.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tyro.conf import Positional, arg

from activemri.benchmark.figures import colours
from activemri.benchmark.resampling import TAILS, Floats, interquartile_means, resampling_weights

log = logging.getLogger(__name__)

#: Settings in which runs of one group may differ.
_FREE = ("seed", "out", "resume", "threads", "tensorboard", "max_steps", "device")
_PREFIX = "validation_"


@dataclass(frozen=True)
class CurvesSettings:
    """Draw learning curves of trainings, several seeds together.

    Runs whose settings differ only in seed and folder are one group: its curve is the
    inter-quartile mean over the runs, its band a bootstrap interval, and each run a thin line.
    """

    runs: Positional[Annotated[tuple[Path, ...], arg(metavar="RUN [RUN ...]")]]
    """Folders of trainings, as `activemri train policy` makes them."""
    out: Path = Path("curves.png")
    """Picture to write, as PNG or SVG."""
    metric: str | None = None
    """Entry of the log to draw, e.g. validation_final; None takes the first validation_
    entry that all runs have."""
    n_bootstrap: int = 2000
    """Resamples of runs behind the intervals."""
    seed: int = 0
    """Seed of the resamples."""

    def __post_init__(self) -> None:
        if not self.runs:
            raise ValueError("expected at least one folder of a training")
        if self.out.suffix not in (".png", ".svg"):
            raise ValueError(f"--out: expected a name that ends in .png or .svg; got {self.out}")
        if self.n_bootstrap < 1:
            raise ValueError(f"--n-bootstrap: expected a number above 0; got {self.n_bootstrap}")


@dataclass(frozen=True, eq=False)
class Run:
    """Log of one training.

    Attributes:
        folder: where.
        settings: of its start.
        entries: one for each validation, in order of steps.
    """

    folder: Path
    settings: dict[str, Any]
    entries: tuple[dict[str, Any], ...]

    @classmethod
    def read(cls, folder: str | Path) -> "Run":
        """The run in a folder.

        Raises:
            ValueError: the folder holds no training, or one without any validation.
        """
        folder = Path(folder)
        try:
            settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
            lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
            entries = [json.loads(line) for line in lines if line.strip()]
        except FileNotFoundError as error:
            raise ValueError(
                f"{folder} holds no training: {Path(error.filename).name} is missing"
            ) from error
        except json.JSONDecodeError as error:
            raise ValueError(f"{folder}: settings or log are damaged: {error}") from error
        if not entries:
            raise ValueError(f"{folder}: nothing was validated yet")
        return cls(folder, settings, tuple(sorted(entries, key=lambda entry: entry["step"])))

    def curve(self, metric: str) -> tuple[Floats, Floats]:
        """Steps and values, of the validations that have that value."""
        pairs = [(entry["step"], entry[metric]) for entry in self.entries if metric in entry]
        steps, values = np.array(pairs, np.float64).reshape(-1, 2).T
        return steps, values


@dataclass(frozen=True, eq=False)
class LearningCurve:
    """Runs of one group.

    Attributes:
        name: of the group.
        steps: (n_steps,).
        runs: value of each run, (n_runs, n_steps).
        iqm: inter-quartile mean over runs, (n_steps,).
        low: lower end of its interval, NaN with one run, (n_steps,).
        high: upper end.
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
        ValueError: a folder without a training, or a metric that runs lack.
        OSError: the picture cannot be written.
    """
    runs = [Run.read(folder) for folder in settings.runs]
    metric = settings.metric or _first_metric(runs)
    curves = [
        learning_curve(
            members,
            metric,
            name=name,
            rng=np.random.default_rng(settings.seed),
            n_resamples=settings.n_bootstrap,
        )
        for name, members in grouped(runs).items()
    ]
    figure = learning_figure(curves, metric=metric)
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(settings.out, dpi=150)
    return f"{_table(curves, metric)}\n\n{settings.out}"


def grouped(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs that differ only in seed and folder, under a name that says what sets them apart.

    Raises:
        ValueError: a group holds the same seed twice.
    """
    found: dict[str, list[Run]] = {}
    for run in runs:
        kept = {name: value for name, value in run.settings.items() if name not in _FREE}
        found.setdefault(json.dumps(kept, sort_keys=True), []).append(run)
    for members in found.values():
        seeds = [run.settings.get("seed") for run in members]
        if len(set(map(str, seeds))) < len(seeds):
            raise ValueError(
                f"these runs differ in nothing, their seeds included ({seeds}): "
                + ", ".join(str(run.folder) for run in members)
            )
    groups = list(found.values())
    return dict(zip(_names([group[0].settings for group in groups]), groups, strict=True))


def learning_curve(
    runs: Sequence[Run],
    metric: str,
    *,
    name: str,
    rng: np.random.Generator,
    n_resamples: int = 2000,
) -> LearningCurve:
    """Inter-quartile mean and interval of a group at every step that a run was validated at.

    Between a run's own validations values are interpolated. The curve ends with the shortest run.

    Raises:
        ValueError: a run never wrote that metric.
    """
    drawn = {run.folder: run.curve(metric) for run in runs}
    for folder, (steps, _) in drawn.items():
        if not len(steps):
            raise ValueError(f"{folder}: its log has no {metric}")
    first = max(steps[0] for steps, _ in drawn.values())
    last = min(steps[-1] for steps, _ in drawn.values())
    if any(steps[-1] > last for steps, _ in drawn.values()):
        ends = ", ".join(f"{folder.name} at {steps[-1]:g}" for folder, (steps, _) in drawn.items())
        log.warning("%s: runs end apart (%s); the curve ends with the first of them", name, ends)
    steps = np.unique(np.concatenate([steps for steps, _ in drawn.values()]))
    steps = steps[(steps >= first) & (steps <= last)]
    if not len(steps):
        raise ValueError(f"{name}: the runs have no step in common")
    values = np.stack([np.interp(steps, *curve) for curve in drawn.values()])
    even = np.ones((1, len(values)))
    iqm = np.array([interquartile_means(column, even)[0] for column in values.T])
    low = high = np.full(len(steps), np.nan)
    if len(values) > 1:
        weights = resampling_weights(len(values), rng=rng, n_resamples=n_resamples)
        resampled = np.stack([interquartile_means(column, weights) for column in values.T])
        low, high = np.quantile(resampled, TAILS, axis=1)
    return LearningCurve(name, steps, values, iqm, low, high)


#: Letters of a legend that fit beside each other.
_ROW = 80


def learning_figure(curves: Sequence[LearningCurve], *, metric: str) -> Figure:
    """One line and band a group, a thin line a run."""
    palette = colours([curve.name for curve in curves], bounds=())
    style: dict[Any, Any] = {
        "font.size": 10,
        "text.parse_math": False,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=(7.6, 4.6), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        for curve in curves:
            colour, n = palette[curve.name], len(curve.runs)
            if n > 1:
                axes.plot(curve.steps, curve.runs.T, color=colour, lw=0.7, alpha=0.45)
                band = (curve.low, curve.high)
                axes.fill_between(curve.steps, *band, color=colour, alpha=0.15, lw=0)
            label = f"{curve.name} ({n} seed{'' if n == 1 else 's'})"
            axes.plot(curve.steps, curve.iqm, color=colour, lw=2.2, label=label)
        axes.margins(x=0.01)
        axes.set_xlabel("steps of the training")
        axes.set_ylabel(metric.replace("_", " "))
        axes.grid(axis="y", color="black", alpha=0.12, lw=0.8)
        axes.set_ylim(*_limits(curves))
        words = sum(len(curve.name) + 14 for curve in curves)
        n_columns = len(curves) if words <= _ROW else 1
        figure.legend(loc="outside upper left", frameon=False, ncols=n_columns)
    return figure


def _limits(curves: Sequence[LearningCurve]) -> tuple[float | None, float | None]:
    """Of the vertical axis: untrained networks may lie below it, where they would flatten the rest.

    Values of errors fall, so that untrained ones may lie above.
    """
    first = np.concatenate([curve.runs[:, 0] for curve in curves])
    later = np.concatenate([curve.runs[:, 1:].ravel() for curve in curves])
    if not len(later):
        return None, None
    low, high = float(later.min()), float(later.max())
    margin = (high - low) / 8
    far = 2 * (high - low)
    return (
        low - margin if low - float(first.min()) > far else None,
        high + margin if float(first.max()) - high > far else None,
    )


def _names(settings: Sequence[dict[str, Any]]) -> list[str]:
    """Names that set groups apart: the algorithm, and the settings that differ."""
    keys = dict.fromkeys(key for one in settings for key in one if key not in (*_FREE, "algo"))
    differing = [key for key in keys if len({json.dumps(one.get(key)) for one in settings}) > 1]
    return [
        ", ".join([str(one.get("algo", "training")), *(_said(key, one) for key in differing)])
        for one in settings
    ]


def _said(key: str, settings: dict[str, Any]) -> str:
    value = settings.get(key)
    return " ".join(map(str, value)) if isinstance(value, list) and value else f"{key} {value}"


def _first_metric(runs: Sequence[Run]) -> str:
    common = set.intersection(*({key for entry in run.entries for key in entry} for run in runs))
    for entry in runs[0].entries:
        for key in entry:
            if key.startswith(_PREFIX) and key in common:
                return key
    raise ValueError(
        f"the logs have no {_PREFIX} entry in common; say with --metric what to draw: "
        + ", ".join(sorted(common))
    )


def _table(curves: Sequence[LearningCurve], metric: str) -> str:
    width = max(len(curve.name) for curve in curves) + 2
    lines = [f"{'training':{width}}{'seeds':>6}{'step':>10}{metric + ', inter-quartile mean':>40}"]
    for curve in curves:
        ends = "[one seed]"
        if len(curve.runs) > 1:
            ends = f"[{curve.low[-1]:.4f}, {curve.high[-1]:.4f}]"
        cell = f"{curve.iqm[-1]:.4f} {ends}"
        n = len(curve.runs)
        lines.append(f"{curve.name:{width}}{n:>6}{curve.steps[-1]:>10g}{cell:>40}")
    lines.append("Brackets: 95 % bootstrap interval over seeds, too narrow with few of them.")
    return "\n".join(lines)
