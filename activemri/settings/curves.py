"""Settings of `activemri curves`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from activemri.settings.fields import OptionalText, require, require_positive


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
    metric: OptionalText = None
    """What to draw of what the log has, e.g. validation_final; None takes the first validation_
    entry that all runs have."""
    n_bootstrap: int = 2000
    """Resamples of runs behind the intervals."""
    seed: int = 0
    """Seed of the resamples."""

    def __post_init__(self) -> None:
        require(bool(self.runs), "expected at least one folder of a training")
        require(
            self.out.suffix in (".png", ".svg"),
            f"--out: expected a name that ends in .png or .svg; got {self.out}",
        )
        require_positive(n_bootstrap=self.n_bootstrap)
