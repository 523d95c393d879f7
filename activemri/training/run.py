"""A training whose data are open and whose folder is claimed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from activemri.data.slices import SliceDataset
from activemri.mri.sensitivity import make_coil_maps
from activemri.runs.folder import RunFolder, command
from activemri.settings import TrainReconstructorSettings
from activemri.training.augmentation import make_augmentation
from activemri.training.batches import InMemory, TrainingBatches
from activemri.training.masks import MaskSource
from activemri.training.validation import Validation
from activemri.training.world import World


@dataclass(frozen=True, eq=False)
class Run:
    """What every training needs.

    Attributes:
        settings: of the training.
        folder: where it writes.
        batches: the batch of every step.
        checks: scans and masks of validations.
        world: the processes that work on it.
        state: to continue from; None to begin.
    """

    settings: TrainReconstructorSettings
    folder: RunFolder
    batches: TrainingBatches
    checks: Validation
    world: World
    state: dict[str, Any] | None

    def info(self, *, step: int, metrics: Mapping[str, object]) -> dict[str, object]:
        """What a checkpoint says about its training."""
        masks = self.batches.masks
        return {
            "data": self.settings.data,
            "matrix": self.settings.matrix,
            "n_train_slices": len(self.batches.scans),
            "n_center_lines": masks.n_center_lines,
            "budget": masks.budget,
            "sensitivity": self.settings.sensitivity,
            "masks": type(masks).__name__,
            "step": step,
            "supervision": self.settings.supervision,
            "metrics": dict(metrics),
            "torch_version": str(torch.__version__),
            "threads": torch.get_num_threads(),
            "processes": self.world.size,
            "command": command(self.settings),
        }


def open_run(
    settings: TrainReconstructorSettings,
    *,
    masks: MaskSource,
    train: SliceDataset | None,
    validation: SliceDataset | None,
    given: Mapping[str, object] | None = None,
) -> Run:
    """Open the data and claim the folder.

    Args:
        settings: of the training.
        masks: what has been acquired when an image is asked for.
        train: scans to learn from; None opens the train split of `settings.data`.
        validation: scans that choose the best weights; None opens the val split.
        given: what else must be the same when it is resumed.

    Raises:
        ValueError: unusable data; a folder that is taken; subjects in both splits.
        OSError: `settings.out` cannot be written.
    """
    world = World(settings.device)
    folder = RunFolder(settings.out)
    train_scans = InMemory(train if train is not None else _open(settings, "train"))
    validation_scans = InMemory(validation if validation is not None else _open(settings, "val"))
    _check_splits(train_scans, validation_scans)
    described = {
        "masks": type(masks).__name__,
        "n_train_scans": len(train_scans),
        "n_validation_scans": len(validation_scans),
        **(given or {}),
    }
    supervised = settings.supervision == "full"
    coil_maps = make_coil_maps(settings.sensitivity)
    batches = TrainingBatches(
        train_scans,
        masks,
        batch_size=settings.batch_size,
        seed=settings.seed,
        augment=make_augmentation(settings.augment if supervised else ("none",)),
        coil_maps=coil_maps,
        one_mask=not supervised,
        rank=world.rank,
        n_processes=world.size,
    )
    checks = Validation(
        validation_scans, masks, seed=settings.seed, device=world.device, coil_maps=coil_maps
    )
    state = _state(folder, settings, described, world)
    return Run(settings, folder, batches, checks, world, state)


def _state(
    folder: RunFolder,
    settings: TrainReconstructorSettings,
    given: Mapping[str, object],
    world: World,
) -> dict[str, Any] | None:
    """Claim the folder once, and let every process read what is there."""
    state = folder.open(settings, given=given) if world.is_first else None
    world.wait()
    if not world.is_first:
        state = folder.state()
    world.wait()  # the first process writes again only when all have read
    return state


def _open(settings: TrainReconstructorSettings, split: str) -> SliceDataset:
    from activemri.data.sources import open_dataset

    return open_dataset(settings.data, split=split, matrix_size=settings.matrix)


def _check_splits(train: InMemory, validation: InMemory) -> None:
    for name, scans in (("train", train), ("validation", validation)):
        if len(scans) == 0:
            raise ValueError(f"there are no {name} scans; give every split at least one subject")
    shared = {i.subject for i in train.infos} & {i.subject for i in validation.infos}
    if shared:
        raise ValueError(
            "train and validation scans must come from different subjects; found in both: "
            + ", ".join(sorted(shared)[:5])
        )
