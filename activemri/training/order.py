"""Learn a fixed order of actions from the train split: `activemri train order`."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from tyro.conf import OmitArgPrefixes

from activemri.agents.fixed import LEARNERS
from activemri.agents.order import FixedOrder
from activemri.data.slices import SliceList
from activemri.data.volumes import evenly_spaced
from activemri.envs.protocol import ScanProtocol
from activemri.files import make_writable
from activemri.options import Compute, RunOptions, require_positive
from activemri.progress import Progress, track


@dataclass(frozen=True, kw_only=True)
class TrainOrderSettings:
    """Learn a fixed order of actions from the train split and write it to a file.

    It is learned for --reconstructor, and for the score that --reward is about.
    """

    protocol: OmitArgPrefixes[ScanProtocol] = ScanProtocol(budget=24)
    run: OmitArgPrefixes[RunOptions] = RunOptions(out=Path("runs/order"))
    compute: OmitArgPrefixes[Compute] = Compute()
    kind: Literal["lbcs", "average-oracle"] = "lbcs"
    """Greedy order on the train scans (lbcs), or mean preference of their greedy oracles."""
    slices_per_volume: int | None = None
    """Take this many evenly spaced slices of each volume; None takes all."""
    n_fit_scans: int | None = 64
    """Scans that each step is decided on, drawn anew; None takes all."""
    max_fit_slices: int | None = 256
    """Train scans, spread evenly, that are seen at all; None takes all."""

    def __post_init__(self) -> None:
        require_positive(
            slices_per_volume=self.slices_per_volume,
            n_fit_scans=self.n_fit_scans,
            max_fit_slices=self.max_fit_slices,
        )
        if self.run.resume:
            raise ValueError("--resume: an order is learned in one go; leave --resume out")


def learn_order(
    kind: Literal["lbcs", "average-oracle"],
    protocol: ScanProtocol,
    *,
    seed: int = 0,
    n_fit_scans: int | None = 64,
    max_fit_slices: int | None = 256,
    slices_per_volume: int | None = None,
    device: torch.device | str = "cpu",
    show: bool = False,
) -> FixedOrder:
    """Learn a fixed order of actions from the train split.

    ::

        order = learn_order("lbcs", ScanProtocol(budget=24))

    Args:
        kind: greedy order on the train scans (lbcs), or mean preference of their greedy oracles.
        protocol: its reconstructor and the score of its reward are those that it is learned for.
        seed: of all draws.
        n_fit_scans: scans that each step is decided on, drawn anew; None takes all.
        max_fit_slices: train scans, spread evenly, that are seen at all; None takes all.
        slices_per_volume: take so many evenly spaced slices of each volume; None takes all.
        device: where to compute.
        show: show progress.

    Raises:
        ValueError: for data or parts that do not fit.
    """
    more = {} if slices_per_volume is None else {"slices_per_volume": slices_per_volume}
    scans = protocol.dataset("train", **more)
    chosen = evenly_spaced(range(len(scans)), max_fit_slices)
    loaded = [scans[i] for i in track(chosen, f"load {scans.name}", unit="slice", show=show)]
    with Progress("learn an order", 1, unit="", show=show) as progress:
        order = LEARNERS[kind](
            replace(protocol.scan(scans, device=device), metrics=(protocol.metric,)),
            SliceList(loaded),
            metric=protocol.metric,
            n_scans=n_fit_scans,
            seed=seed,
            on_step=lambda share: progress(progress.at + share),
            data=str(protocol.data) if isinstance(protocol.data, str) else scans.name,
        )
    return FixedOrder(order, kind)


def train_order(settings: TrainOrderSettings) -> Path:
    """Learn an order and write it; the path of its file.

    Raises:
        ValueError: unusable settings or data.
        OSError: the output folder cannot be written.
    """
    device = settings.compute.prepare()
    make_writable(settings.run.out)  # an error comes now rather than after hours
    policy = learn_order(
        settings.kind,
        settings.protocol,
        seed=settings.run.seed,
        n_fit_scans=settings.n_fit_scans,
        max_fit_slices=settings.max_fit_slices,
        slices_per_volume=settings.slices_per_volume,
        device=device,
        show=True,
    )
    return policy.order.save(settings.run.out / settings.kind)
