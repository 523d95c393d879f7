"""Learn a fixed order of actions from the train split: `activemri train order`."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tyro.conf import OmitArgPrefixes

from activemri.agents.fixed import LEARNERS
from activemri.data.slices import SliceList
from activemri.data.volumes import evenly_spaced
from activemri.envs.protocol import ScanProtocol
from activemri.files import make_writable
from activemri.options import Compute, RunOptions, require_positive
from activemri.progress import track


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


def train_order(settings: TrainOrderSettings) -> Path:
    """Learn an order and write it; the path of its file.

    Raises:
        ValueError: unusable settings or data.
        OSError: the output folder cannot be written.
    """
    device = settings.compute.prepare()
    make_writable(settings.run.out)  # an error comes now rather than after hours
    protocol, metric = settings.protocol, settings.protocol.metric
    scans = protocol.dataset("train", slices_per_volume=settings.slices_per_volume)
    scan = replace(protocol.scan(scans, device=device), metrics=(metric,))
    chosen = evenly_spaced(range(len(scans)), settings.max_fit_slices)
    order = LEARNERS[settings.kind](
        scan,
        SliceList([scans[i] for i in track(chosen, f"load {scans.name}", unit="slice")]),
        metric=metric,
        n_scans=settings.n_fit_scans,
        seed=settings.run.seed,
        progress=True,
        data=str(protocol.data) if isinstance(protocol.data, str) else scans.name,
    )
    return order.save(settings.run.out / settings.kind)
