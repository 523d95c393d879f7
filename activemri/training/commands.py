"""Commands that train: data opened, masks recorded, then the training itself."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from activemri.settings import (
    TrainJointSettings,
    TrainOrderSettings,
    TrainReconstructorSettings,
    TuneSettings,
)

if TYPE_CHECKING:
    from activemri.data.slices import SliceDataset
    from activemri.training.masks import MaskSource
    from activemri.training.reconstructor import TrainingResult


def train_reconstructor_command(settings: TrainReconstructorSettings) -> str:
    """Train a reconstructor once, for every fold, or without each component."""
    from activemri.training.reconstructor import check_settings, train_reconstructor

    return _train(settings, check_settings, train_reconstructor)


def train_joint_command(settings: TrainJointSettings) -> str:
    """The same with its evaluator."""
    from activemri.training.joint import check_settings, train_joint

    return _train(settings, check_settings, train_joint)


def _train(
    settings: Any, check: Callable[[Any], None], train: "Callable[..., TrainingResult]"
) -> str:
    """Train once, or for every fold, or without each component."""
    if settings.study.cross_validates:
        return _cross_validate(settings, check, train)
    if settings.study.ablate is not None:
        return _ablate(settings, check, train)
    check(settings)  # an error comes now rather than after all policies have played
    scans, validation = (_open(settings, split) for split in ("train", "val"))
    masks = _visited_masks(settings, scans)
    return train(settings, train=scans, validation=validation, masks=masks).text()


def _cross_validate(
    settings: Any, check: Callable[[Any], None], train: "Callable[..., TrainingResult]"
) -> str:
    from activemri.data.views import pooled
    from activemri.training.cross_validation import cross_validate

    def fold(one: Any, scans: "SliceDataset", validation: "SliceDataset") -> "TrainingResult":
        check(one)
        masks = _visited_masks(one, scans)
        return train(one, train=scans, validation=validation, masks=masks)

    scans = pooled([_open(settings, split) for split in ("train", "val")], name=settings.data)
    return cross_validate(settings, scans=scans, train=fold).text()


def _ablate(
    settings: Any, check: Callable[[Any], None], train: "Callable[..., TrainingResult]"
) -> str:
    from activemri.training.ablation import ablate

    scans, validation = (_open(settings, split) for split in ("train", "val"))
    masks = cache(lambda: _visited_masks(settings, scans))  # not before they are needed

    def variant(one: Any) -> "TrainingResult":
        check(one)
        return train(one, train=scans, validation=validation, masks=masks())

    return ablate(settings, train=variant).text()


def tune_command(settings: TuneSettings) -> str:
    """Search for hyper-parameters."""
    from activemri.training.search import search

    return search(settings, make_masks=lambda scans: _visited_masks(settings, scans)).text()


def _open(settings: TrainReconstructorSettings, split: str) -> "SliceDataset":
    from activemri.data.sources import open_dataset

    return open_dataset(settings.data, split=split, matrix_size=settings.matrix)


def _visited_masks(
    settings: TrainReconstructorSettings | TuneSettings, scans: "SliceDataset"
) -> "MaskSource":
    """Masks that policies visit on these scans."""
    from activemri.agents.visits import visit_masks
    from activemri.training.masks import MASK_POLICIES

    return visit_masks(
        scans,
        n_center_lines=settings.n_center_lines,
        budget=settings.budget,
        policies=MASK_POLICIES,
        seed=settings.seed,
        progress=True,
    )


def train_order_command(settings: TrainOrderSettings) -> str:
    """Learn an order and write it to a file."""
    from activemri.agents.fixed import LEARNERS
    from activemri.data.slices import SliceList
    from activemri.data.sources import open_dataset
    from activemri.data.volumes import evenly_spaced
    from activemri.envs.protocol import ScanProtocol
    from activemri.progress import Progress, tracked

    _make_folder(settings.out)  # an error comes now rather than after hours
    scans = open_dataset(
        settings.data,
        split="train",
        matrix_size=settings.matrix,
        slices_per_volume=settings.slices_per_volume,
    )
    protocol = ScanProtocol(
        data=scans,
        reconstructor=settings.reconstructor,
        n_center_lines=settings.n_center_lines,
        budget=settings.budget,
        metrics=(settings.metric,),
    )
    chosen = evenly_spaced(range(len(scans)), settings.max_fit_slices)
    loaded = SliceList([scans[i] for i in tracked(chosen, f"Loading {scans.name}", unit="slice")])
    with Progress(1, "Learning an order") as progress:
        order = LEARNERS[settings.kind](
            protocol.scan(scans),
            loaded,
            metric=settings.metric,
            n_lines=settings.budget,
            n_scans=settings.n_fit_scans,
            seed=settings.seed,
            on_step=progress.update,
            data=settings.data,
        )
    return str(order.save(settings.out / settings.kind))


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"the output folder {path} cannot be made: {error.strerror}") from error
