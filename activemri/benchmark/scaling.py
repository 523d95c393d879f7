"""Time of a step against scans side by side, their size, coils, and threads."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from activemri.benchmark.figures import STYLE, colours
from activemri.benchmark.throughput import duration, steps
from activemri.benchmark.timing import Ways, clock_of, timed
from activemri.devices import cores_and_load
from activemri.progress import Progress
from activemri.tables import Cell, Table

_SIDE = 128  # of images, where it is not what changes


@dataclass(frozen=True)
class Series:
    """One thing that changes: its values, and what is timed for each, on a device.

    `lines` name the ways: what ours, the baseline and the copy are.
    """

    what: str
    values: Sequence[int]
    ways: Callable[[int, str], Ways]
    lines: Mapping[str, str]


_STEP = {"seconds": "step", "copy_seconds": "copy of its bytes", "baseline_seconds": "baseline"}


def series() -> dict[str, Series]:
    """All that is measured; of threads, as many as there are cores."""
    cores, load = cores_and_load()
    numbers = sorted({1, *(n for n in (2, 4, 8, 16, 32) if n < cores), cores})
    square = (_SIDE, _SIDE)
    return {
        "n": Series(
            "scans side by side, 128 x 128",
            (1, 4, 16, 64, 256, 1024, 4096),
            lambda n, device: steps(square, square, device, n=n),
            _STEP,
        ),
        "size": Series(
            "height and width, 16 scans",
            (64, 128, 192, 256, 384, 512),
            lambda side, device: steps((side, side), (side, side), device, n=16),
            _STEP,
        ),
        "coils": Series(
            "coils, 8 scans, 128 x 128",
            (1, 2, 4, 8, 15),
            lambda coils, device: steps(square, square, device, n=8, n_coils=coils),
            {"seconds": "step", "copy_seconds": "copy of one coil's bytes"},
        ),
        "threads": Series(
            f"threads, 4 scans, 128 x 128 (load {load:.1f}, {cores} cores)",
            numbers,
            _threaded,
            {"seconds": "step with cresnet", "baseline_seconds": "zero-filled step"},
        ),
    }


def _threaded(n_threads: int, device: str) -> Ways:
    """Steps with a network, and zero-filled ones, on so many threads."""
    torch.set_num_threads(n_threads)
    square = (_SIDE, _SIDE)
    network = steps(square, square, device, n=4, reconstructor="cresnet")
    return Ways(network.ours, steps(square, square, device, n=4).ours)


def measure(device: str, seconds: float) -> dict[str, Any]:
    """Times of all series, with a third of the seconds for each way of each point.

    Returns:
        By series: "what" changes, "lines" by the name of a time, "points" with a "value" and the
        times of a step and scan, and "left_out", reasons by value, for want of memory.
    """
    chosen, n_threads = series(), torch.get_num_threads()
    found: dict[str, Any] = {}
    total = sum(len(one.values) for one in chosen.values())
    with Progress("scaling", total, unit="point") as progress:
        for name, one in chosen.items():
            points, left_out = list[dict[str, float]](), dict[int, str]()
            for value in one.values:
                progress.note(f"{name} {value}")
                progress(progress.at)
                try:
                    ways = one.ways(value, device)
                    clock = clock_of(device, max(one.values) if name == "threads" else n_threads)
                    points.append({"value": value, **timed(ways, seconds / 3, clock)})
                except ValueError as error:  # more scans than memory holds
                    left_out[value] = str(error)
                torch.set_num_threads(n_threads)
                progress(progress.at + 1)
            found[name] = {
                "what": one.what,
                "lines": dict(one.lines),
                "points": points,
                "left_out": left_out,
            }
    return found


def as_tables(scaling: Mapping[str, Any]) -> list[Table]:
    """Times of a step and scan as text, a table for each series."""
    return [
        Table(
            (one["what"], *one["lines"].values()),
            [
                (point["value"], *(Cell(duration(point[line])) for line in one["lines"]))
                for point in one["points"]
            ],
            notes=[f"{value} left out: {why}" for value, why in one["left_out"].items()],
        )
        for one in scaling.values()
    ]


@mpl.rc_context(STYLE)
def draw(scaling: Mapping[str, Any], title: str) -> Figure:
    """Times of a step and scan against what changes, each in a panel, on logarithmic axes."""
    figure = Figure(figsize=(9, 6.4), facecolor="white")
    palette = colours(("seconds", "baseline_seconds"), bounds=()) | {"copy_seconds": "#7f8288"}
    for axes, one in zip(figure.subplots(2, 2).flat, scaling.values(), strict=True):
        values = [point["value"] for point in one["points"]]
        for line, words in one["lines"].items():
            axes.plot(
                values,
                [point[line] for point in one["points"]],
                color=palette[line],
                marker="o",
                ms=4,
                lw=2 if line == "seconds" else 1.3,
                label=words,
            )
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.xaxis.set_major_locator(FixedLocator(values))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: duration(value)))
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_xlabel(one["what"])
        axes.grid(axis="y")
        axes.legend(frameon=False)
    figure.suptitle(f"Time of a step, for each scan. {title}", fontsize=11)
    return figure
