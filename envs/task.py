"""What an environment is made of, chosen by name or object."""

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from activemri.data.arrays import slices_of_images
from activemri.data.orientation import STORED, oriented
from activemri.data.regions import Box, WithRegion
from activemri.data.slices import SliceDataset
from activemri.data.sources import matrix_shape, open_dataset
from activemri.devices import usable
from activemri.envs.acquisition import STANDARD_METRICS, Acquisition
from activemri.envs.imperfections import Imperfection, make_imperfection
from activemri.envs.observation import Frame, Observation, make_observation
from activemri.envs.reward import Reward, RewardFunction, TaskLoss, make_reward
from activemri.metrics import REGION_METRICS, find_metric
from activemri.mri.geometry import CartesianGeometry, make_geometry
from activemri.mri.sensitivity import CoilMaps, make_coil_maps
from activemri.reconstruction.reconstructor import Reconstructor
from activemri.reconstruction.registry import make_reconstructor

_OF_DATASETS = ("name", "shape", "n_coils", "describe", "__len__", "__getitem__")


@dataclass(frozen=True, eq=False)
class Task:
    """Options that single and vector environments share.

    Attributes:
        data: phantoms by name ("phantom", "phantom-multicoil", "phantom-mixed",
            "phantom-mixed-multicoil", "phantom-lesion"), the path of a file or folder, see
            :func:`activemri.data.sources.open_dataset`; a data set; or images, an array or tensor
            (n, height, width), see :func:`activemri.data.arrays.slices_of_images`.
        split: which subjects: "train", "val", "test", or another name that the data define.
        matrix_size: bring every scan to this size; None keeps native sizes, which legal actions
            then tell apart.
        orientation: "stored", or "mixed" to exchange readout and phase encode in every other slice
            of a volume; see :mod:`activemri.data.orientation`.
        annotations: CSV file of fastMRI+ with boxes of findings, for scans from files: only slices
            that have one are scanned, and it is their region of interest.
        roi: region of interest of every slice instead of its own: "center" (half the height and
            width), or a box (top, left, height, width) in pixels of the target.
        reconstructor: name, checkpoint path, or object.
        geometry: what an action acquires: "columns", "rows", "points", "conjugate-columns", or an
            object.
        lines_per_action: neighbouring lines that one action acquires (an echo train).
        n_center_lines: lines around the centre that a scan starts with.
        n_random_lines: further starting lines, drawn at random in each episode.
        budget: lines to acquire; None for all that the scan has. Where lines may be measured again,
            every measurement counts.
        imperfection: "noise" (low field), "motion" or "spikes" between object and k-space, which
            lets lines be measured again; None for an ideal scanner; or an object. See
            :mod:`activemri.envs.imperfections`.
        severity: how strong the imperfection is, in its own units; None for the usual.
        repeats: how often a line may be measured; None for the usual.
        sensitivity: how maps of several coils are estimated from acquired lines, where the scans
            bring none: "low-resolution", "walsh" or "espirit", from the lines that a scan starts
            with; "espirit-updated" and so on estimate again as lines arrive; or an object, see
            :class:`activemri.mri.sensitivity.CoilMaps`.
        observation: "image", "uncertainty", "roi", "complex", "kspace", "multicoil", "mask",
            "lines", "flat", or an object; see :mod:`activemri.envs.observation`.
        reward: "delta_ssim", "delta_roi_ssim" and the like, "uncertainty_drop", an object such as
            a TaskLoss, or a function of the scores before and after; see
            :mod:`activemri.envs.reward`.
        metrics: scores in `info`.
        stop_action: add a last action that ends the scan.
        step_cost: subtracted from the reward of every action but STOP, in units of the score: what
            a line (an echo train) must bring to be worth its time. A price per second is
            ``step_cost / tr``, for every action takes one repetition.
        tr: repetition time in seconds, from one shot to the next. Every action is one shot, also
            if it acquires several lines; so are the start's lines, `lines_per_action` at a time.
            Adds `time` to `info`: seconds since the scan began. None: time is not told.
        invalid_action: make illegal actions a "noop" that costs one line of the budget, earns 0 and
            is told in `info`, as learners without masks need it; or "raise" an error.
        device: where scans are simulated and reconstructed.
        to_numpy: False leaves observations as torch tensors on the device. Gymnasium's passive
            checker warns of observations that are no arrays, so switch it off as well:
            ``gymnasium.make(..., to_numpy=False, disable_env_checker=True)``.
    """

    data: str | Path | SliceDataset | NDArray[Any] | Tensor | None = "phantom"
    split: str = "train"
    matrix_size: int | tuple[int, int] | None = None
    orientation: str = STORED
    annotations: str | Path | None = None
    roi: str | Box | None = None
    reconstructor: str | Path | Reconstructor = "zero-filled"
    geometry: str | CartesianGeometry = "columns"
    lines_per_action: int = 1
    n_center_lines: int = 8
    n_random_lines: int = 0
    budget: int | None = None
    imperfection: str | Imperfection | None = None
    severity: float | None = None
    repeats: int | None = None
    sensitivity: str | CoilMaps = "low-resolution"
    observation: str | Observation = "image"
    reward: str | Reward | RewardFunction = "delta_ssim"
    metrics: tuple[str, ...] = STANDARD_METRICS
    stop_action: bool = False
    step_cost: float = 0.0
    tr: float | None = None
    invalid_action: Literal["noop", "raise"] = "noop"
    device: str = "cpu"
    to_numpy: bool = True

    def __post_init__(self) -> None:
        if self.invalid_action not in ("raise", "noop"):
            raise ValueError(
                f'invalid_action must be "raise" or "noop"; got {self.invalid_action!r}'
            )
        if self.tr is not None and not (self.tr > 0 and math.isfinite(self.tr)):
            raise ValueError(f"tr must be a positive number of seconds; got {self.tr!r}")
        self._imperfection()
        make_coil_maps(self.sensitivity)
        usable(self.device)  # to be told before scans are opened

    @classmethod
    def of(cls, options: dict[str, Any]) -> Self:
        """A task from keyword arguments, as environments get them.

        Raises:
            ValueError: for an unknown option, or a missing path to the data.
        """
        known = [field.name for field in fields(cls)]
        if unknown := [name for name in options if name not in known]:
            raise ValueError(
                f"unknown option {', '.join(unknown)}; an environment takes {', '.join(known)}"
            )
        if options.get("data", "") is None:
            raise ValueError("this environment needs scans: pass data=PATH, an HDF5 file or folder")
        return cls(**options)

    def dataset(self) -> SliceDataset:
        """The scans of the split."""
        dataset = self._opened()
        if self.roi is not None:
            dataset = WithRegion(dataset, self.roi)
        return oriented(dataset, self.orientation)

    def acquisition(self, dataset: SliceDataset) -> Acquisition:
        """The scan protocol for those scans."""
        reward = make_reward(self.reward)
        wanted = [name for name in (*self.metrics, *reward.scores) if name != "uncertainty"]
        if any(find_metric(name).needs == "region" for name in wanted):
            wanted += REGION_METRICS  # one pass gives all of them
        return Acquisition(
            geometry=make_geometry(
                self.geometry, dataset.shape, lines_per_action=self.lines_per_action
            ),
            reconstructor=make_reconstructor(self.reconstructor, device=self.device),
            budget=self.budget,
            n_center_lines=self.n_center_lines,
            n_random_lines=self.n_random_lines,
            metrics=tuple(dict.fromkeys(wanted)),
            device=self.device,
            task=reward.loss if isinstance(reward, TaskLoss) else None,
            imperfection=self._imperfection(),
            coil_maps=make_coil_maps(self.sensitivity),
        )

    def _imperfection(self) -> Imperfection | None:
        return make_imperfection(self.imperfection, severity=self.severity, repeats=self.repeats)

    def _opened(self) -> SliceDataset:
        if isinstance(self.data, str | Path):
            return open_dataset(
                self.data,
                split=self.split,
                matrix_size=self.matrix_size,
                annotations=self.annotations,
            )
        if self.annotations is not None:
            raise ValueError("annotations are for scans from files; give a data set's slices a roi")
        if isinstance(self.data, np.ndarray | Tensor):
            return slices_of_images(self.data, matrix_size=matrix_shape(self.matrix_size))
        if not all(hasattr(self.data, name) for name in _OF_DATASETS):
            raise ValueError(
                "data: expected phantoms by name, a path, images (n, height, width), or a data set "
                f"such as a SliceList of Slice objects; got {type(self.data).__name__}"
            )
        assert self.data is not None
        return self.data

    def seen_by(
        self, dataset: SliceDataset, geometry: CartesianGeometry
    ) -> tuple[Observation, Frame]:
        """The observation, and the sizes that it needs to know."""
        targets = [dataset.describe(i).target_shape for i in range(len(dataset))]
        frame = Frame(
            shape=dataset.shape,
            target_shape=(max(h for h, _ in targets), max(w for _, w in targets)),
            n_coils=dataset.n_coils,
            n_lines=geometry.n_lines,
            repeats=1 if (imperfection := self._imperfection()) is None else imperfection.repeats,
        )
        return make_observation(self.observation), frame
