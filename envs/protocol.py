"""The scan protocol: what is acquired, how it is reconstructed, shown and scored.

Declared once. Gymnasium ids are named protocols, environments are made of them, and every command
takes ``--env ID`` and any field. The line below a field is its documentation, in editors and in
``--help`` alike. Nothing heavy is imported here.
"""

import math
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, Self, TypeAlias, TypeVar

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from activemri.data.regions import Box
    from activemri.data.slices import SliceDataset
    from activemri.envs.observation import Observation
    from activemri.envs.reward import Reward, RewardFunction
    from activemri.envs.scan import Scan
    from activemri.envs.scanner import Scanner
    from activemri.mri.geometry import Geometry
    from activemri.mri.sensitivity import CoilMaps
    from activemri.reconstruction.reconstructor import Reconstructor

    Data: TypeAlias = str | Path | SliceDataset | NDArray[Any] | torch.Tensor | None
    Annotations: TypeAlias = str | Path | None
    Region: TypeAlias = str | Box | None
    ReconstructorLike: TypeAlias = str | Path | Reconstructor
    GeometryLike: TypeAlias = str | Geometry
    ScannerLike: TypeAlias = str | Scanner
    CoilMapsLike: TypeAlias = str | CoilMaps | None
    ObservationLike: TypeAlias = str | Observation
    RewardLike: TypeAlias = str | Reward | RewardFunction
else:  # what the command line reads; objects can be given in Python alone
    Data = Annotations = Region = str | None
    CoilMapsLike = str | None
    ReconstructorLike = GeometryLike = ScannerLike = str
    ObservationLike = RewardLike = str

P = ParamSpec("P")
First = TypeVar("First")
Result = TypeVar("Result")

_OF_DATASETS = ("name", "shape", "n_coils", "describe", "__len__", "__getitem__")
STANDARD_METRICS = ("ssim", "psnr", "nmse", "nrmse", "mse")


@dataclass(frozen=True, kw_only=True, eq=False)
class ScanProtocol:
    """Scans, geometry, scanner, reconstruction, observation, reward.

    ::

        protocol = ScanProtocol(geometry="radial", budget=24, reconstructor="cg-sense")

    At the command line ``--env ID`` sets all fields as a registered environment has them, and
    single fields override it.

    Raises:
        ValueError: for numbers and names that make no sense, or do not fit together.
    """

    data: Data = "phantom"
    """Scans: phantom, phantom-multicoil, phantom-mixed, phantom-mixed-multicoil, phantom-lesion,
    the path of a file or folder, or (in Python) a data set, or images (n, height, width)."""
    split: str = "train"
    """Subjects: train, val, test, or another name that the data define."""
    matrix_size: int | tuple[int, int] | None = None
    """Rows and columns that every scan is brought to; None keeps native sizes, which legal actions
    then tell apart."""
    target: str = "combined"
    """Reference of several coils: combined with the maps of the fully sampled scan, or with those
    that it brings; or rss, the root of their sum of squares as fastMRI publishes it, which adds up
    noise so that no reconstruction reaches it. A target that a generic HDF5 file holds is its
    combined one. Scans of one coil have but one reference, and data sets given as such their own.
    """
    orientation: str = "stored"
    """Stored, or mixed: readout and phase encode exchanged in every other slice of a volume."""
    annotations: Annotations = None
    """CSV file of fastMRI+ with boxes of findings, for scans from files: only slices that have one
    are scanned, and it is their region of interest."""
    roi: Region = None
    """Region of interest of every slice instead of its own: center (half the height and width), or
    (in Python) a box: top, left, height, width in pixels of the target."""
    reconstructor: ReconstructorLike = "zero-filled"
    """Name, checkpoint, or package.module:object of the reconstructor."""
    geometry: GeometryLike = "columns"
    """Readouts of an action: columns, rows, points, tiles, conjugate-columns, radial,
    radial-uniform, or package.module:object."""
    lines_per_action: int = 1
    """Neighbouring readouts that one action acquires (an echo train)."""
    tile: int | tuple[int, int] | None = None
    """Points along both sides of a tile, or along its height and width; None for the usual."""
    n_spokes: int | None = None
    """Spokes that there are; None for as many as equally spaced ones would need (Nyquist)."""
    n_center_lines: int = 8
    """Readouts around the centre that a scan starts with."""
    n_random_lines: int = 0
    """Further readouts to start with, drawn at random in each episode."""
    budget: int | float | None = None
    """Readouts to acquire after the start, or a fraction between 0 and 1 of those of the frame that
    holds every scan; None for all that the scan has. Where readouts may be measured again, every
    measurement counts."""
    scanner: ScannerLike = "ideal"
    """Scanner between object and samples: ideal, noisy (low field), moving, spiking, or
    package.module:object. All but the ideal one let readouts be measured again."""
    severity: float | None = None
    """Strength of the scanner's artefacts, in its own units; None for the usual one."""
    repeats: int | None = None
    """How often a readout may be measured; None for the scanner's usual number."""
    processing: str | None = None
    """What is done to received samples before anybody sees them: none, despike (spiking), reject
    or correct (moving); None for the scanner's usual one: despike, reject."""
    navigator_noise: float | None = None
    """Noise of the moving scanner's navigators, over their root mean square; None for no noise."""
    sensitivity: CoilMapsLike = None
    """Coil maps: None for those that files bring (a calibration scan), else low-resolution. By
    name whatever the scans bring: low-resolution, walsh or espirit, estimated from the readouts of
    the start (walsh-exact, espirit-exact: without interpolation in large images); espirit-updated
    and so on, again as readouts arrive. known: those that files bring, or phantoms' true ones."""
    observation: ObservationLike = "image"
    """Observation: image, uncertainty, roi, complex, kspace, multicoil, mask, lines, flat, or
    package.module:object."""
    reward: RewardLike = "delta_ssim"
    """Reward: delta_ssim, delta_roi_ssim, -delta_nmse and so on, uncertainty_drop, or
    package.module:object."""
    metrics: tuple[str, ...] = STANDARD_METRICS
    """Scores in info."""
    stop_action: bool = False
    """Add a last action that ends the scan."""
    step_cost: float = 0.0
    """Price of every action but STOP, illegal ones included, in units of the score."""
    tr: float | None = None
    """Repetition time in seconds, from one shot to the next; every action is one shot, and so are
    the readouts of the start, lines_per_action at a time. Adds time to info. None: no time."""

    def __post_init__(self) -> None:
        if not math.isfinite(self.step_cost):
            raise ValueError(f"step_cost must be a finite number; got {self.step_cost!r}")
        if self.tr is not None and not (self.tr > 0 and math.isfinite(self.tr)):
            raise ValueError(f"tr must be a positive number of seconds; got {self.tr!r}")

    @property
    def changes(self) -> dict[str, Any]:
        """Fields that differ from their defaults, for JSON and for ``gymnasium.make``."""
        changed = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.default is MISSING or (value is not field.default and value != field.default):
                changed[field.name] = value
        return changed

    def dataset(self, split: str | None = None, **options: Any) -> "SliceDataset":
        """The scans of a split, by default the protocol's, by `open_dataset` and its options.

        Where one coil acquires readouts whole, with an ideal scanner and a geometry by name, they
        come without their oversampling.

        Raises:
            ValueError: without data, or for options that do not fit them.
        """
        import numpy as np
        from torch import Tensor

        from activemri.data.images import slices_of_images
        from activemri.data.sources import matrix_shape, open_dataset
        from activemri.data.views import oriented, with_region, without_oversampling

        if self.data is None:
            raise ValueError("this protocol needs scans: give data=PATH, a file or folder")
        if not isinstance(self.data, str | Path) and options.get("n_subjects") is not None:
            raise ValueError("n_subjects is for phantoms; given scans have the subjects they have")
        if isinstance(self.data, str | Path):
            dataset = open_dataset(
                self.data,
                split=split or self.split,
                matrix_size=self.matrix_size,
                annotations=self.annotations,
                target=self.target,
                known_maps=self.sensitivity == "known",
                **options,
            )
        elif self.annotations is not None:
            raise ValueError("annotations are for scans from files; give a data set's slices a roi")
        elif isinstance(self.data, np.ndarray | Tensor):
            dataset = slices_of_images(self.data, matrix_size=matrix_shape(self.matrix_size))
        elif not all(hasattr(self.data, name) for name in _OF_DATASETS):
            raise ValueError(
                "data: expected phantoms by name, a path, images (n, height, width), or a data set "
                f"such as a SliceList of Slice objects; got {type(self.data).__name__}"
            )
        else:
            dataset = self.data
        if self.roi is not None:
            dataset = with_region(dataset, self.roi)
        dataset = oriented(dataset, self.orientation)
        # Maps of several coils would be estimated from other samples.
        if self.scanner != "ideal" or not isinstance(self.geometry, str) or dataset.n_coils > 1:
            return dataset
        return without_oversampling(dataset, self.geometry_of(dataset.shape).readout_axes)

    def geometry_of(self, shape: tuple[int, int]) -> "Geometry":
        """The geometry for frames of that shape."""
        from activemri.mri.geometry import make_geometry

        return make_geometry(
            self.geometry,
            shape,
            lines_per_action=self.lines_per_action,
            tile=self.tile,
            n_spokes=self.n_spokes,
        )

    def scan(self, dataset: "SliceDataset", *, device: "torch.device | str" = "cpu") -> "Scan":
        """The scans of a data set under this protocol.

        Raises:
            ValueError: for parts that do not fit together or do not fit the scans.
        """
        from activemri.envs.scan import Scan

        return Scan.of(self, dataset, device=device)

    @property
    def metric(self) -> str:
        """The score that the reward is about; SSIM where it needs no target."""
        from activemri.envs.reward import make_reward

        rewarded = (name for name in make_reward(self.reward).scores if name != "uncertainty")
        return next(rewarded, "ssim")

    def lean(self, *metrics: str) -> Self:
        """The same with no other scores than these and those of the reward: each costs time."""
        return replace(self, metrics=tuple(dict.fromkeys(metrics)))


@dataclass(frozen=True, kw_only=True, eq=False)
class EnvOptions(ScanProtocol):
    """A scan protocol as a Gymnasium environment: what is shown, and where it is computed."""

    invalid_action: Literal["noop", "raise"] = "noop"
    """Illegal actions: noop wastes one readout of the budget, costs step_cost, gains nothing and
    says so in info, as learners without masks need it; raise is an error."""
    device: str = "cpu"
    """Where scans are simulated and reconstructed."""
    to_numpy: bool = True
    """False leaves observations as torch tensors on the device. Gymnasium's passive checker warns
    of observations that are no arrays: pass disable_env_checker=True to gymnasium.make as well."""
    prepared_gb: float = 0.25
    """Memory for scans kept as they start, GiB, so that a slice that comes again is not prepared
    again; 0 for none."""
    render_mode: Literal["rgb_array", "ansi"] | None = None
    """rgb_array, ansi, or None. ("human" is what gymnasium.make puts on top of rgb_array.)"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.invalid_action not in ("raise", "noop"):
            raise ValueError(
                f'invalid_action must be "raise" or "noop"; got {self.invalid_action!r}'
            )
        if not self.prepared_gb >= 0:
            raise ValueError(
                f"prepared_gb must be a number of at least 0; got {self.prepared_gb!r}"
            )
        if self.render_mode not in ("rgb_array", "ansi", None):
            raise ValueError(
                f"unknown render mode {self.render_mode!r}; choose from rgb_array, ansi"
            )

    @classmethod
    def of(cls, options: dict[str, Any]) -> Self:
        """Options from keyword arguments; a ValueError names unknown ones, or asks for data."""
        known = [field.name for field in fields(cls)]
        if unknown := [name for name in options if name not in known]:
            raise ValueError(
                f"unknown option {', '.join(unknown)}; an environment takes {', '.join(known)}"
            )
        if options.get("data", "") is None:
            raise ValueError("this environment needs scans: pass data=PATH, an HDF5 file or folder")
        return cls(**options)


def typed_as(
    options: Callable[P, Any],
) -> Callable[[Callable[Concatenate[First, ...], Result]], Callable[Concatenate[First, P], Result]]:
    """Tell type checkers that ``**options`` of a function are the fields of a dataclass."""
    return lambda function: function
