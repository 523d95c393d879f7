"""What an environment is made of, chosen by name or object."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self

from activemri.data.slices import SliceDataset
from activemri.data.sources import open_dataset
from activemri.devices import usable
from activemri.envs.acquisition import STANDARD_METRICS, Acquisition
from activemri.envs.observation import Frame, Observation, make_observation
from activemri.envs.reward import Reward, make_reward
from activemri.mri.geometry import CartesianGeometry, make_geometry
from activemri.reconstruction.reconstructor import Reconstructor
from activemri.reconstruction.registry import make_reconstructor


@dataclass(frozen=True, eq=False)
class Task:
    """Options that single and vector environments share.

    Attributes:
        data: "phantom", "phantom-multicoil", the path of an HDF5 file or folder, or a data set.
        split: which subjects: "train", "val", "test", or another name that the data define.
        matrix_size: bring every scan to this size; None keeps native sizes, which legal actions
            then tell apart.
        reconstructor: name, checkpoint path, or object.
        geometry: what an action acquires: "columns", "rows", "points", "conjugate-columns", or an
            object.
        lines_per_action: neighbouring lines that one action acquires (an echo train).
        n_center_lines: lines around the centre that a scan starts with.
        n_random_lines: further starting lines, drawn at random in each episode.
        budget: lines to acquire; None for all that the scan has.
        observation: "image", "uncertainty", "complex", "kspace", "multicoil", "mask", "flat", or
            an object; see :mod:`activemri.envs.observation`.
        reward: "delta_ssim" and the like, "uncertainty_drop", or an object; see
            :mod:`activemri.envs.reward`.
        metrics: scores in `info`.
        stop_action: add a last action that ends the scan.
        step_cost: subtracted from the reward of every action but STOP.
        invalid_action: make illegal actions a "noop" that costs one line of the budget, earns 0 and
            is told in `info`, as learners without masks need it; or "raise" an error.
        device: where scans are simulated and reconstructed.
        to_numpy: False leaves observations as torch tensors on the device. Gymnasium's passive
            checker warns of observations that are no arrays, so switch it off as well:
            ``gymnasium.make(..., to_numpy=False, disable_env_checker=True)``.
    """

    data: str | Path | SliceDataset | None = "phantom"
    split: str = "train"
    matrix_size: int | tuple[int, int] | None = None
    reconstructor: str | Path | Reconstructor = "zero-filled"
    geometry: str | CartesianGeometry = "columns"
    lines_per_action: int = 1
    n_center_lines: int = 8
    n_random_lines: int = 0
    budget: int | None = None
    observation: str | Observation = "image"
    reward: str | Reward = "delta_ssim"
    metrics: tuple[str, ...] = STANDARD_METRICS
    stop_action: bool = False
    step_cost: float = 0.0
    invalid_action: Literal["noop", "raise"] = "noop"
    device: str = "cpu"
    to_numpy: bool = True

    def __post_init__(self) -> None:
        if self.invalid_action not in ("raise", "noop"):
            raise ValueError(
                f'invalid_action must be "raise" or "noop"; got {self.invalid_action!r}'
            )
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
        if isinstance(self.data, str | Path):
            return open_dataset(self.data, split=self.split, matrix_size=self.matrix_size)
        assert self.data is not None
        return self.data

    def acquisition(self, dataset: SliceDataset) -> Acquisition:
        """The scan protocol for those scans."""
        wanted = (*self.metrics, *make_reward(self.reward).scores)
        return Acquisition(
            geometry=make_geometry(
                self.geometry, dataset.shape, lines_per_action=self.lines_per_action
            ),
            reconstructor=make_reconstructor(self.reconstructor, device=self.device),
            budget=self.budget,
            n_center_lines=self.n_center_lines,
            n_random_lines=self.n_random_lines,
            metrics=tuple(dict.fromkeys(name for name in wanted if name != "uncertainty")),
            device=self.device,
        )

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
        )
        return make_observation(self.observation), frame
