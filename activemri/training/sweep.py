"""Sweeps: several trainings of one command, over folds of subjects or over values of its settings.

``activemri sweep --folds 5 train reconstructor --max-steps 500`` cross-validates. With ``--vary
network.skips=true|false lr=1e-3|3e-3`` all combinations are trained, with ``--alone`` one change at
a time (an ablation), and with ``--trials 20`` the best values are searched for, see
:mod:`activemri.training.search`. Every training has a folder of its own below, with ``result.json``
in it when it is finished; ``sweep.json`` sums up. A sweep is continued as one.
"""

import inspect
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Suppress, arg

from activemri import files
from activemri.data.slices import SliceDataset
from activemri.data.splits import k_fold, leave_one_subject_out, strata_of
from activemri.data.views import pooled, subjects_of, subset
from activemri.options import RunOptions, command_line, described
from activemri.tables import format_table
from activemri.training import processes
from activemri.training.axes import Range, parse_axis, with_values
from activemri.training.batches import in_memory
from activemri.training.folder import RunFolder
from activemri.training.loop import OnValidation, Trained

RESULT = "result.json"

#: Trains with settings of a command: ``(settings, *, train, validation, on_validation)``.
Train = Callable[..., Trained]


@dataclass(frozen=True, kw_only=True)
class SweepSettings:
    """Train several times: for every fold, for every value, or in search of the best values.

    activemri sweep [OPTIONS] COMMAND [OPTIONS OF THE COMMAND], e.g. activemri sweep --folds 5
    train reconstructor --reconstructor unet. Folds pool the subjects of train and val; the test
    split is never opened.
    """

    run: OmitArgPrefixes[RunOptions] = RunOptions(out=Path("runs/sweep"))
    folds: int | None = None
    """Cross-validate: train so many times, each time with other subjects for validation."""
    leave_one_subject_out: FlagCreatePairsOff[bool] = False
    """Cross-validate with as many folds as subjects."""
    fold: int | None = None
    """Train this fold only (the first one is 0), e.g. one on each machine."""
    stratify: Literal["contrast", "field-strength", "scanner"] | None = None
    """Balance the slices of every contrast, field strength or scanner over the folds."""
    vary: Annotated[tuple[str, ...], arg(metavar="KEY=VALUES [KEY=VALUES ...]")] = ()
    """Options of the command to vary: lr=1e-3|3e-3, network.skips=false, augment=flip,phase|none;
    in a search also lr=1e-4:1e-2:log or batch_size=2:8."""
    alone: FlagCreatePairsOff[bool] = False
    """Change one value at a time from the settings as they are (an ablation) instead of training
    all combinations."""
    trials: int | None = None
    """Search for the best values with so many trainings, also those that are stopped early.
    Several processes may help: start the command again with --resume."""
    pruner: Literal["median", "halving", "none"] = "median"
    """In a search, stop what is below the median at the same step, or by successive halving."""
    command: Suppress[str] = ""
    """Name of the command that is swept."""
    base: Suppress[Any] = None
    """Its settings; their folder is not used."""
    train: Suppress[Any] = None
    """Its function."""

    def __post_init__(self) -> None:
        folds = self.folds is not None or self.leave_one_subject_out
        wrong = [
            (self.folds is not None and self.folds < 2, "--folds: expected at least 2"),
            (self.fold is not None and self.fold < 0, "--fold: expected a number of at least 0"),
            (self.trials is not None and self.trials < 1, "--trials: expected at least 1"),
            (
                self.folds is not None and self.leave_one_subject_out,
                "--folds and --leave-one-subject-out: choose one",
            ),
            (self.fold is not None and not folds, "--fold is one of --folds; add them"),
            (
                self.stratify is not None and self.folds is None,
                "--stratify balances --folds; add them",
            ),
            (folds and bool(self.vary), "--folds and --vary: choose one"),
            (
                (self.alone or self.trials is not None) and not self.vary,
                "--alone and --trials are about --vary; add it",
            ),
            (self.alone and self.trials is not None, "--alone and --trials: choose one"),
        ]
        for refused, message in wrong:
            if refused:
                raise ValueError(message)


@dataclass(frozen=True)
class Member:
    """One training of a sweep.

    Attributes:
        settings: of the training.
        train: scans to learn from.
        validation: scans that choose the best weights.
    """

    settings: Any
    train: SliceDataset
    validation: SliceDataset


@dataclass(frozen=True)
class Sweep:
    """Results of a sweep.

    Attributes:
        members: trainings by name.
        results: one each; None where it is not trained yet.
        summary: as in ``sweep.json``.
    """

    members: Mapping[str, Member]
    results: Mapping[str, Trained | None]
    summary: Mapping[str, Any]

    def __str__(self) -> str:
        """A table with a line for each training, and mean and deviation over folds."""
        folds = "mean" in self.summary
        lines: list[tuple[object, ...]] = []
        for name, member in self.members.items():
            row = self.summary["members"][name]
            who = (_shortened(subjects_of(member.validation)),) if folds else ()
            numbers = (row["baseline"], row["best_score"], row["gain"], row["best_step"])
            lines.append((name, *who, *numbers))
        if folds:
            lines += [(name, "", *self.summary[name].values(), None) for name in ("mean", "sd")]
        header = ("training", *(("validation",) if folds else ()), "baseline", "best score")
        header += ("gain" if folds else "difference", "best step")
        n_trained = sum(result is not None for result in self.results.values())
        return f"{format_table(header, lines)}\n\n{n_trained} of {len(self.members)} trained"


def _shortened(subjects: Sequence[str]) -> str:
    rest = f" and {len(subjects) - 3} more" if len(subjects) > 3 else ""
    return ", ".join(subjects[:3]) + rest


def run_sweep(
    settings: SweepSettings,
    *,
    train: SliceDataset | None = None,
    validation: SliceDataset | None = None,
) -> object:
    """Train all members, and sum up; finished ones are kept, interrupted ones are continued.

    Processes with other `fold` may work in the same folder at the same time.

    Args:
        settings: see there.
        train: scans to learn from; None opens the train split of the command's data.
        validation: scans to compare by; None opens the val split.

    Raises:
        ValueError: folds or values that make no sense, settings that the command refuses; a folder
            that is taken.
        OSError: the folder cannot be written.
    """
    if not (settings.vary or settings.folds or settings.leave_one_subject_out):
        raise ValueError(
            "a sweep is over something: add --folds, --leave-one-subject-out or --vary"
        )
    base, out = settings.base, settings.run.out
    train = in_memory(train if train is not None else base.protocol.dataset("train"))
    validation = in_memory(validation if validation is not None else base.protocol.dataset("val"))
    if settings.trials is not None:
        return _search(settings, train, validation)
    if settings.vary:
        members = _grid(settings, train, validation)
    else:
        members = _folds(settings, pooled([train, validation], name=train.name))
    chosen = list(members)
    if settings.fold is not None:
        if settings.fold >= len(members):
            raise ValueError(f"--fold: expected 0 to {len(members) - 1}; got {settings.fold}")
        chosen = [f"fold-{settings.fold}"]
    for name in chosen:
        check(members[name].settings)
    begun = any((out / name).exists() for name in chosen)
    shared = "".join(f"{name}: {subjects_of(one.validation)}\n" for name, one in members.items())
    claim(settings, members=shared, joins=settings.fold is not None and not begun)
    run = with_shared_moments(settings.train)
    for name in chosen:
        member = members[name]
        train_once(
            member.settings,
            lambda one, m=member: run(one, train=m.train, validation=m.validation),  # type: ignore[misc]
        )
        _write(settings, members)
    return _write(settings, members)


def claim(settings: SweepSettings, *, members: str = "", joins: bool = False) -> None:
    """Begin a sweep in its folder, or make sure that the one in it is the same.

    Args:
        settings: of the sweep; trials may become more.
        members: anything else that must be the same.
        joins: work on a sweep that is there even without --resume.

    Raises:
        ValueError: as :meth:`RunFolder.open`.
        OSError: the folder cannot be written.
    """
    if processes.rank() > 0:  # the first process of a torchrun does it for all
        return
    shared = {
        "command": settings.command,
        "folds": settings.folds,
        "leave_one_subject_out": settings.leave_one_subject_out,
        "stratify": settings.stratify,
        "vary": settings.vary,
        "alone": settings.alone,
        "pruner": settings.pruner,
        "sweep_seed": settings.run.seed,
        "members": files.digest(members)[:12],
        **described(settings.base),
    }
    out = settings.run.out
    files.make_writable(out)
    with files.locked(out / "lock"):
        joining = joins and (out / "settings.json").exists()
        RunFolder(out).open(shared, resume=settings.run.resume or joining)


def check(settings: Any) -> None:
    """Refuse what a training would refuse, if its settings can tell."""
    if hasattr(settings, "check"):
        begun = (settings.run.out / "settings.json").exists()
        replace(settings, run=replace(settings.run, resume=begun)).check()


def train_once(settings: Any, train: Callable[[Any], Trained]) -> Trained:
    """Train into the settings' folder; continue what was interrupted, keep what is finished.

    Args:
        settings: of one training of a sweep; `resume` is set as needed.
        train: called unless the training is finished.
    """
    out, device = settings.run.out, processes.join(settings.compute.device)
    done, begun = result_in(out), (out / "settings.json").exists()
    processes.barrier(device)  # until all have looked; then the first one writes
    if done is not None:
        return done
    result = train(replace(settings, run=replace(settings.run, resume=begun)))
    if processes.rank() == 0:
        numbers = {name: getattr(result, name) for name in _NUMBERS}
        files.write_json(out / RESULT, numbers)
    processes.barrier(device)
    return result


_NUMBERS = ("best_step", "best_score", "score", "baseline")


def result_in(folder: Path) -> Trained | None:
    """The result of a finished training, or None."""
    try:
        return Trained(checkpoint=folder / "best", **files.read_json(folder / RESULT))
    except FileNotFoundError:
        return None


def with_shared_moments(train: Train) -> Train:
    """The same, with the episodes that masks come from recorded once for all trainings.

    Reconstructors of one protocol, seed and data learn from the same; others are left alone.
    """
    if "moments" not in inspect.signature(train).parameters:
        return train
    from activemri.training.reconstructor import recorded_moments

    known: dict[tuple[object, ...], Any] = {}

    def run(settings: Any, *, train_scans: SliceDataset, **more: Any) -> Trained:
        protocol = replace(settings.protocol, reconstructor="")
        key = (id(train_scans), id(more["validation"]), settings.run.seed, *described_all(protocol))
        if key not in known:
            known[key] = recorded_moments(settings, train_scans, more["validation"])
        return train(settings, train=train_scans, moments=known[key], **more)

    return lambda settings, *, train, **more: run(settings, train_scans=train, **more)


def described_all(protocol: Any) -> tuple[str, ...]:
    """A protocol as texts, objects told apart by identity."""
    values = [getattr(protocol, field.name) for field in fields(protocol)]
    return tuple(
        str(value) if isinstance(value, str | int | float | tuple | Path | None) else str(id(value))
        for value in values
    )


def _folds(settings: SweepSettings, scans: SliceDataset) -> dict[str, Member]:
    subjects = subjects_of(scans)
    if settings.folds is None:
        folds = leave_one_subject_out(subjects)
    else:
        strata = None if settings.stratify is None else strata_of(scans, settings.stratify)
        folds = k_fold(subjects, settings.folds, seed=settings.run.seed, strata=strata)
    members = {}
    for number, fold in enumerate(folds):
        name = f"fold-{number}"
        parts = [
            subset(scans, people, name=f"{scans.name} {name} {part}")
            for part, people in zip(("train", "validation"), fold, strict=True)
        ]
        members[name] = Member(_placed(settings, name), *parts)
    return members


def _grid(
    settings: SweepSettings, train: SliceDataset, validation: SliceDataset
) -> dict[str, Member]:
    """All combinations of the values, or the settings as they are and each value alone."""
    choices = {}
    for word in settings.vary:
        key, values = parse_axis(word, settings.base)
        if not isinstance(values, tuple):
            raise ValueError(f"--vary {word}: a range is for a search; add --trials")
        if key in choices:
            raise ValueError(f"--vary: {key} is there twice")
        choices[key] = values
    pairs = [[(key, value) for value in values] for key, values in choices.items()]
    combinations: list[tuple[tuple[str, str], ...]] = list(itertools.product(*pairs))
    if settings.alone:
        combinations = [(), *((pair,) for axis in pairs for pair in axis)]
    members: dict[str, Member] = {}
    for combination in combinations:
        about = " ".join(f"{key}={value}" for key, value in combination)
        name = re.sub(r"[^\w.+=,-]+", "_", about) or "full"
        changed = with_values(settings.base, dict(combination))
        if combination and settings.alone and described(changed) == described(settings.base):
            raise ValueError(f"--vary {about}: it is so already")
        members[name] = Member(_placed(settings, name, changed), train, validation)
    return members


def _placed(settings: SweepSettings, name: str, base: Any = None) -> Any:
    """The command's settings with a folder of their own, without pictures."""
    base = settings.base if base is None else base
    return replace(base, run=replace(base.run, out=settings.run.out / name, resume=False))


def _write(settings: SweepSettings, members: Mapping[str, Member]) -> Sweep:
    out = settings.run.out
    with files.locked(out / "lock"):
        results = {name: result_in(out / name) for name in members}
        first = next(iter(results.values()))
        rows: dict[str, dict[str, Any]] = {}
        for name, member in members.items():
            result = results[name]
            row: dict[str, Any] = {name: getattr(result, name, None) for name in _NUMBERS}
            row["gain"] = None
            # Folds are compared with their own baselines, changed settings with the first ones.
            against = first if settings.vary else result
            usual = getattr(against, "best_score" if settings.vary else "baseline", None)
            if result is not None and usual is not None:
                row["gain"] = result.best_score - usual
            row["command"] = command_line(settings.command, member.settings)
            if not settings.vary:
                row["train"] = subjects_of(member.train)
                row["validation"] = subjects_of(member.validation)
            rows[name] = row
        summary: dict[str, Any] = {"members": rows}
        if not settings.vary:
            columns = ("baseline", "best_score", "gain")
            values = {
                name: np.array([row[name] for row in rows.values() if row[name] is not None], float)
                for name in columns
            }
            summary["mean"] = {k: float(v.mean()) if len(v) else None for k, v in values.items()}
            summary["sd"] = {
                k: float(v.std(ddof=1)) if len(v) > 1 else None for k, v in values.items()
            }
        if processes.rank() == 0:
            files.write_json(out / "sweep.json", summary)
    return Sweep(members, results, summary)


def _search(settings: SweepSettings, train: SliceDataset, validation: SliceDataset) -> object:
    from activemri.training.search import search

    if processes.world_size() > 1:
        raise ValueError(
            "a search is not started with torchrun: start the same command again with --resume "
            "for each process that shall help"
        )
    axes = _axes(settings)
    check(_placed(settings, "trial"))
    claim(settings)
    run = with_shared_moments(settings.train)

    def trial(member: Any, on_validation: OnValidation) -> Trained:
        return train_once(
            member,
            lambda one: run(one, train=train, validation=validation, on_validation=on_validation),
        )

    return search(
        settings.run.out,
        base=settings.base,
        command=settings.command,
        axes=axes,
        n_trials=settings.trials or 0,
        seed=settings.run.seed,
        pruner=settings.pruner,
        train=trial,
    )


def _axes(settings: SweepSettings) -> dict[str, Range | tuple[str, ...]]:
    """Axes of a search: options whose values change no validation score by themselves.

    Raises:
        ValueError: an option that says which scans and moments are scored, or how long it takes.
    """
    fixed = {field.name for field in fields(settings.base.protocol)} - {"reconstructor"}
    fixed |= {"seed", "max_steps", "validate_every", "patience"}
    axes: dict[str, Range | tuple[str, ...]] = {}
    for word in settings.vary:
        key, values = parse_axis(word, settings.base)
        if key in fixed:
            raise ValueError(
                f"--vary {word}: scores of trainings that differ in {key} cannot be compared"
            )
        if key in axes:
            raise ValueError(f"--vary: {key} is there twice")
        axes[key] = values
    return axes
