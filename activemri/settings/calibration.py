"""Settings of `activemri calibrate`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from activemri.settings.fields import (
    Data,
    OptionalInt,
    require,
    require_not_negative,
    require_positive,
)


@dataclass(frozen=True)
class CalibrateSettings:
    """Measure how well uncertainties foretell errors, and correct their size.

    Writes calibration.json (all numbers with intervals over subjects, before and after the
    correction), calibration.png, and the corrected reconstructor as a checkpoint,
    recalibrated.safetensors and recalibrated.json.
    """

    data: Data = "phantom"
    """Where the scans come from: built-in phantoms, or a folder of scans."""
    reconstructors: Annotated[
        tuple[str, ...], arg(metavar="NAME [NAME ...]", aliases=["--reconstructor"])
    ] = ("cresnet",)
    """Name or checkpoint of a reconstructor; several together are an ensemble."""
    dropout_samples: OptionalInt = None
    """Draw that many samples with Monte-Carlo dropout from each network; None draws none."""
    split: str = "test"
    """Subjects to measure on."""
    fit_split: str = "val"
    """Subjects to fit the correction on: others than those of --split."""
    n_knots: int = 32
    """Most knots of the correction, from 1 to 32; 1 is a single factor."""
    foreground: float = 0.1
    """Judge pixels where the target exceeds this share of its maximum; 0 takes all but black."""
    n_center_lines: int = 8
    """Centre lines that every scan starts with."""
    budget: int = 24
    """Longest episode in lines after the centre lines. Scans are judged at four moments of it."""
    sensitivity: str = "low-resolution"
    """How maps of several coils are estimated, as the reconstructor was trained."""
    matrix: OptionalInt = None
    """Crop or pad every scan to this many rows and columns; None keeps native sizes."""
    slices_per_volume: OptionalInt = None
    """Take this many evenly spaced slices of each volume; None takes all."""
    max_slices: OptionalInt = None
    """Take at most this many slices of each split, evenly; None takes all."""
    seed: int = 0
    """Seed of masks, dropout and resampled subjects."""
    n_bootstrap: int = 1000
    """Resamples of subjects behind every confidence interval."""
    threads: OptionalInt = None
    """CPU threads; None leaves the choice to torch."""
    device: str = "cpu"
    """Where to compute, e.g. cpu or cuda."""
    out: Path = Path("runs/calibration")
    """Folder for the results; made if missing."""

    def __post_init__(self) -> None:
        require(bool(self.reconstructors), "--reconstructors: expected at least one name")
        require(
            self.dropout_samples is None or self.dropout_samples >= 2,
            f"--dropout-samples: expected at least 2; got {self.dropout_samples}",
        )
        require(1 <= self.n_knots <= 32, f"--n-knots: expected 1 to 32; got {self.n_knots}")
        require(
            0 <= self.foreground < 1,
            f"--foreground: expected at least 0 and below 1; got {self.foreground}",
        )
        require_positive(
            budget=self.budget,
            matrix=self.matrix,
            slices_per_volume=self.slices_per_volume,
            max_slices=self.max_slices,
            n_bootstrap=self.n_bootstrap,
            threads=self.threads,
        )
        require_not_negative(n_center_lines=self.n_center_lines, seed=self.seed)
