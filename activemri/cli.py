"""The command line: parse one settings dataclass, call one function.

Mistakes of the user (a value that makes no sense, a file that is missing or broken, a folder that
cannot be written, an extra that is not installed) end with one line and status 2. Anything else
is a mistake of ours and keeps its traceback; with ACTIVEMRI_TRACEBACK=1 in the environment
every error keeps it.
"""

import os
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from tyro.conf import subcommand

import activemri
from activemri.settings import (
    BenchmarkSettings,
    CalibrateSettings,
    CardSettings,
    ConvertSettings,
    CurvesSettings,
    DemonstrateSettings,
    DemoSettings,
    InspectSettings,
    SplitSettings,
    ThroughputSettings,
    TrainAlternatingSettings,
    TrainJointSettings,
    TrainOrderSettings,
    TrainPolicySettings,
    TrainReconstructorSettings,
    TuneSettings,
)

if TYPE_CHECKING:
    from activemri.data.slices import SliceDataset
    from activemri.training.masks import MaskSource
    from activemri.training.reconstructor import TrainingResult

DESCRIPTION = "Acquire an MRI scan line by line. `activemri --version` prints the version."

Train = (
    Annotated[TrainReconstructorSettings, subcommand("reconstructor")]
    | Annotated[TrainJointSettings, subcommand("joint")]
    | Annotated[TrainOrderSettings, subcommand("order")]
    | Annotated[TrainPolicySettings, subcommand("policy")]
    | Annotated[TrainAlternatingSettings, subcommand("alternating")]
)
Data = (
    Annotated[InspectSettings, subcommand("inspect")]
    | Annotated[SplitSettings, subcommand("split")]
    | Annotated[ConvertSettings, subcommand("convert")]
    | Annotated[CardSettings, subcommand("card")]
)
Command = (
    Annotated[DemoSettings, subcommand("demo")]
    | Annotated[BenchmarkSettings, subcommand("benchmark")]
    | Annotated[CalibrateSettings, subcommand("calibrate")]
    | Annotated[CurvesSettings, subcommand("curves")]
    | Annotated[Train, subcommand("train", description="Train a reconstructor or a policy.")]
    | Annotated[DemonstrateSettings, subcommand("demonstrate")]
    | Annotated[TuneSettings, subcommand("tune")]
    | Annotated[Data, subcommand("data", description="Look at scans, split or convert them.")]
    | Annotated[ThroughputSettings, subcommand("throughput")]
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    Args:
        arguments: what follows the program's name; None means ``sys.argv[1:]``.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments == ["--version"]:
        print(f"activemri {activemri.__version__}")
        return 0
    settings = tyro.cli(Command, prog="activemri", description=DESCRIPTION, args=arguments)
    return _run(settings)


def _run(settings: Any) -> int:
    try:
        COMMANDS[type(settings)](settings)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print(f"\nactivemri: {_after_interrupt(settings)}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, e.g. `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, ModuleNotFoundError) as error:
        if os.environ.get("ACTIVEMRI_TRACEBACK") or _is_ours(error):
            raise
        print(f"activemri: error: {_one_line(error)}", file=sys.stderr)
        return 2
    return 0


def _benchmark(settings: BenchmarkSettings) -> None:
    from activemri.benchmark.run import run_benchmark

    print(run_benchmark(settings).text())


def _calibrate(settings: CalibrateSettings) -> None:
    from activemri.benchmark.calibrate import run_calibration

    print(run_calibration(settings))


def _curves(settings: CurvesSettings) -> None:
    from activemri.benchmark.learning_curves import draw_learning_curves

    print(draw_learning_curves(settings))


def _demo(settings: DemoSettings) -> None:
    from activemri.benchmark.demo import run_demo

    print(run_demo(settings))


def _train_reconstructor(settings: TrainReconstructorSettings) -> None:
    from activemri.training.reconstructor import check_settings, train_reconstructor

    _train(settings, check_settings, train_reconstructor)


def _train_joint(settings: TrainJointSettings) -> None:
    from activemri.training.joint import check_settings, train_joint

    _train(settings, check_settings, train_joint)


def _train(
    settings: Any, check: Callable[[Any], None], train: "Callable[..., TrainingResult]"
) -> None:
    """Train once, or for every fold, or without each component."""
    if settings.study.cross_validates:
        return _cross_validate(settings, check, train)
    if settings.study.ablate is not None:
        return _ablate(settings, check, train)
    check(settings)  # an error comes now rather than after all policies have played
    scans, validation = (_open(settings, split) for split in ("train", "val"))
    masks = _visited_masks(settings, scans)
    _print_once(train(settings, train=scans, validation=validation, masks=masks).text())


def _cross_validate(
    settings: Any, check: Callable[[Any], None], train: "Callable[..., TrainingResult]"
) -> None:
    from activemri.data.views import pooled
    from activemri.training.cross_validation import cross_validate

    def fold(one: Any, scans: "SliceDataset", validation: "SliceDataset") -> "TrainingResult":
        check(one)
        masks = _visited_masks(one, scans)
        return train(one, train=scans, validation=validation, masks=masks)

    scans = pooled([_open(settings, split) for split in ("train", "val")], name=settings.data)
    _print_once(cross_validate(settings, scans=scans, train=fold).text())


def _ablate(
    settings: Any, check: Callable[[Any], None], train: "Callable[..., TrainingResult]"
) -> None:
    from activemri.training.ablation import ablate

    scans, validation = (_open(settings, split) for split in ("train", "val"))
    masks = cache(lambda: _visited_masks(settings, scans))  # not before they are needed

    def variant(one: Any) -> "TrainingResult":
        check(one)
        return train(one, train=scans, validation=validation, masks=masks())

    _print_once(ablate(settings, train=variant).text())


def _print_once(text: str) -> None:
    """Let the first process of a torchrun speak for all."""
    if os.environ.get("RANK", "0") == "0":
        print(text)


def _tune(settings: TuneSettings) -> None:
    from activemri.training.search import search

    print(search(settings, make_masks=lambda scans: _visited_masks(settings, scans)).text())


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


def _train_order(settings: TrainOrderSettings) -> None:
    from activemri.agents.fixed import LEARNERS
    from activemri.data.index import progress
    from activemri.data.slices import SliceList
    from activemri.data.sources import open_dataset
    from activemri.data.volumes import evenly_spaced
    from activemri.envs.task import Task

    _make_folder(settings.out)  # an error comes now rather than after hours
    scans = open_dataset(
        settings.data,
        split="train",
        matrix_size=settings.matrix,
        slices_per_volume=settings.slices_per_volume,
    )
    task = Task(
        data=scans,
        reconstructor=settings.reconstructor,
        n_center_lines=settings.n_center_lines,
        budget=settings.budget,
        metrics=(settings.metric,),
    )
    chosen = evenly_spaced(range(len(scans)), settings.max_fit_slices)
    order = LEARNERS[settings.kind](
        task.acquisition(scans),
        SliceList([scans[i] for i in progress(chosen, f"Loading {scans.name}", unit="slice")]),
        metric=settings.metric,
        n_lines=settings.budget,
        n_scans=settings.n_fit_scans,
        seed=settings.seed,
        progress=True,
        data=settings.data,
    )
    print(order.save(settings.out / settings.kind))


def _train_policy(settings: TrainPolicySettings) -> None:
    from activemri.agents.learning.run import train_policy

    print(train_policy(settings).text())


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"the output folder {path} cannot be made: {error.strerror}") from error


def _train_alternating(settings: TrainAlternatingSettings) -> None:
    from activemri.alternating import train_alternating

    print(train_alternating(settings).text())


def _demonstrate(settings: DemonstrateSettings) -> None:
    from activemri.agents.learning.demonstrate import demonstrate

    print(demonstrate(settings))


def _inspect(settings: InspectSettings) -> None:
    from activemri.data.inspection import format_inspection, inspect

    found = inspect(settings.path, split_file=settings.split_file)
    print(format_inspection(found, files=settings.files))


def _split(settings: SplitSettings) -> None:
    from activemri.data.split_file import draw_split_file

    print(draw_split_file(settings))


def _convert(settings: ConvertSettings) -> None:
    from activemri.data.conversion import convert

    print(convert(settings).text())


def _card(settings: CardSettings) -> None:
    from activemri.data.card import write_card

    print(write_card(settings))


def _throughput(settings: ThroughputSettings) -> None:
    from activemri.benchmark.throughput import run_throughput

    print(run_throughput(settings))


COMMANDS: dict[type, Callable[[Any], None]] = {
    BenchmarkSettings: _benchmark,
    CalibrateSettings: _calibrate,
    CurvesSettings: _curves,
    DemoSettings: _demo,
    TrainReconstructorSettings: _train_reconstructor,
    TrainJointSettings: _train_joint,
    TrainOrderSettings: _train_order,
    TrainAlternatingSettings: _train_alternating,
    DemonstrateSettings: _demonstrate,
    TrainPolicySettings: _train_policy,
    TuneSettings: _tune,
    InspectSettings: _inspect,
    SplitSettings: _split,
    ConvertSettings: _convert,
    CardSettings: _card,
    ThroughputSettings: _throughput,
}


_RESUMABLE = (
    TrainReconstructorSettings,
    TrainPolicySettings,
    TrainAlternatingSettings,
    TuneSettings,
)


def _after_interrupt(settings: object) -> str:
    """What the user can do after Ctrl-C."""
    if isinstance(settings, BenchmarkSettings | ConvertSettings):
        return "interrupted; start the same command again to continue"
    if isinstance(settings, _RESUMABLE):
        return "interrupted; start the same command with --resume to continue"
    return "interrupted"


def _is_ours(error: Exception) -> bool:
    """Whether a module of this package is missing: no extra would help."""
    name = error.name if isinstance(error, ModuleNotFoundError) else None
    return name is not None and name.split(".")[0] == "activemri"


def _one_line(error: Exception) -> str:
    """The error's message on one line, with the way out where an extra is missing."""
    message = str(error)
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        message = f"{error.filename}: {error.strerror}"  # without the number
    message = " ".join(message.split()) or type(error).__name__
    if isinstance(error, ModuleNotFoundError) and "activemri[" not in message:
        message += '; pip install "activemri[all]" installs everything that a command may need'
    return message


if __name__ == "__main__":
    sys.exit(main())
