"""One 2-D scan, the unit of an episode, and collections of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

#: References of several coils, see :func:`activemri.data.standard.magnitude_reference`.
TARGETS = COMBINED, RSS = "combined", "rss"

#: Where the phase of samples comes from. Results on magnitudes do not hold for acquired data
#: (Shimron et al., PNAS 2022): tables keep them apart.
ACQUIRED, PHANTOM = "acquired complex", "phantom"
SYNTHETIC, BARE = "magnitude with synthetic phase", "magnitude without phase"


@dataclass(frozen=True, eq=False)
class Slice:
    """A fully sampled 2-D scan and what is known about it.

    ::

        scan = Slice(fft2(image)[None], image.abs(), "mine", 0, "me", float(image.abs().max()))

    Reconstructions are cropped around their centre to the target's size for scoring. `sensitivity`
    is known before the scan, as from a calibration; without it the map of one coil is one, and
    those of several are estimated from the lines that a scan starts with. The region of interest is
    known before the scan too, as what an operator draws on a localizer; agents may see it. The
    label is of one shape for all slices of a batch.
    """

    kspace: Tensor  # complex64 (coil, height, width); centred, orthonormal
    target: Tensor  # float32 magnitude (target height, target width), at most the size of k-space
    volume: str  # for files: the file's stem
    index: int  # of the slice within its volume
    subject: str  # splits never divide one
    volume_max: float  # largest target value within the volume: the data range of volume metrics
    contrast: str = "unknown"  # e.g. "T2"
    field_strength: float | None = None  # in tesla
    scanner: str = "unknown"  # maker and model, e.g. "SIEMENS Prisma_fit"
    sensitivity: Tensor | None = None  # complex64 coil maps like kspace, of unit norm over coils
    #: bool (height, width): False where the scanner never sampled (zero padding).
    measured: Tensor = field(default=None)  # type: ignore[assignment]  # filled in __post_init__
    processing: tuple[str, ...] = ()  # what was done to the stored data, in order
    roi: Tensor | None = None  # region of interest, bool like the target
    label: Tensor | None = None  # what a downstream network should find; None: the target itself
    phase: str = "unknown"  # ACQUIRED (raw, or complex images), SYNTHETIC, BARE or PHANTOM

    def __post_init__(self) -> None:
        if self.kspace.ndim != 3 or not self.kspace.is_complex():
            raise ValueError(
                "kspace must be complex with shape (coil, height, width); "
                f"got {self.kspace.dtype} {tuple(self.kspace.shape)}"
            )
        height, width = self.shape
        if self.target.ndim != 2 or self.target.shape[0] > height or self.target.shape[1] > width:
            raise ValueError(
                f"target must be 2-D and fit into {height} x {width}; "
                f"got {tuple(self.target.shape)}"
            )
        if self.sensitivity is not None and self.sensitivity.shape != self.kspace.shape:
            raise ValueError(
                f"sensitivity must have the shape of kspace {tuple(self.kspace.shape)}; "
                f"got {tuple(self.sensitivity.shape)}"
            )
        if self.roi is not None and (
            self.roi.shape != self.target.shape or self.roi.dtype != torch.bool
        ):
            raise ValueError(
                f"roi must be boolean with the shape of the target {tuple(self.target.shape)}; "
                f"got {self.roi.dtype} {tuple(self.roi.shape)}"
            )
        if self.measured is None:
            object.__setattr__(self, "measured", measured_samples(self.kspace))

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of k-space."""
        return self.kspace.shape[-2], self.kspace.shape[-1]

    @property
    def n_coils(self) -> int:
        return self.kspace.shape[0]


def measured_samples(kspace: Tensor) -> Tensor:
    """Samples of columns and rows that hold anything at all: bool (height, width).

    Zero padding leaves whole columns (or rows) of exact zeros in every coil.
    """
    present = kspace[0] != 0
    columns, rows = present.any(dim=0), present.any(dim=1)
    # The other coils are asked only about what the first does not show.
    columns[~columns] = (kspace[1:, :, ~columns] != 0).any(dim=0).any(dim=0)
    rows[~rows] = (kspace[1:, ~rows] != 0).any(dim=0).any(dim=1)
    return rows[:, None] & columns


class SliceDataset(Protocol):
    """Anything with a length that hands out slices by position.

    Its `shape` is the smallest (height, width) that holds every slice; smaller ones lie in the
    centre. `n_coils` is the largest number.
    """

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def n_coils(self) -> int: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Slice: ...
    def describe(self, index: int) -> "SliceInfo": ...


@dataclass(frozen=True)
class SliceInfo:
    """Labels and sizes of a slice, known without reading its samples."""

    volume: str
    index: int
    subject: str
    contrast: str
    shape: tuple[int, int]
    target_shape: tuple[int, int]
    n_coils: int
    field_strength: float | None = None
    scanner: str = "unknown"
    phase: str = "unknown"


class SliceList:
    """Slices held in memory.

    ::

        scans = SliceList([scan, another], name="mine")
    """

    def __init__(self, slices: Sequence[Slice], name: str = "slices") -> None:
        if not slices:
            raise ValueError("expected at least one slice; got an empty list")
        self.slices = list(slices)
        self.name = name
        self.shape = (max(s.shape[0] for s in slices), max(s.shape[1] for s in slices))
        self.n_coils = max(s.n_coils for s in slices)

    def __len__(self) -> int:
        return len(self.slices)

    def __getitem__(self, index: int) -> Slice:
        return self.slices[index]

    def describe(self, index: int) -> SliceInfo:
        scan = self.slices[index]
        height, width = scan.target.shape
        return SliceInfo(
            volume=scan.volume,
            index=scan.index,
            subject=scan.subject,
            contrast=scan.contrast,
            shape=scan.shape,
            target_shape=(height, width),
            n_coils=scan.n_coils,
            field_strength=scan.field_strength,
            scanner=scan.scanner,
            phase=scan.phase,
        )
