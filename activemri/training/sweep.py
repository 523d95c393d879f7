"""Sweeps: several trainings of one command, over folds of subjects or over values of its settings.

``activemri sweep --folds 5 train reconstructor --max-steps 500`` cross-validates. With ``--vary
network.skips=true|false lr=1e-3|3e-3`` all combinations are trained, with ``--alone`` one change at
a time (an ablation), and with ``--trials 20`` the best values are searched for, see
:mod:`activemri.training.search`. Every training has a folder of its own below, with ``result.json``
in it when it is finished; ``sweep.json`` sums up. A sweep is continued as one.
"""

import inspect
import itertools
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Suppress, arg

from activemri import files
from activemri.data.slices import SliceDataset
from activemri.data.splits import k_fold, leave_one_subject_out, strata_of
from activemri.data.views import pooled, subjects_of, subset
from activemri.options import (
    FREE,
    RunOptions,
    command_line,
    described,
    flat,
    require_not_negative,
    require_positive,
    require_types,
    with_values,
)
from activemri.tables import Table
from activemri.training import processes
from activemri.training.batches import in_memory
from activemri.training.folder import WRITTEN, RunFolder
from activemri.training.loop import Trained

RESULT = "result.json"
LOCK = ".sweep"  # file that its processes lock in turn
_NUMBERS = ("best_step", "best_score", "score", "baseline")  # of a training, in that file
_COLUMNS = ("baseline", "best_score", "gain")

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
        require_not_negative(fold=self.fold)
        require_positive(trials=self.trials)
        n_folds, alone_out = self.folds, self.leave_one_subject_out
        folds, searches = n_folds is not None or alone_out, self.trials is not None
        wrong = {
            "--folds: expected at least 2": n_folds is not None and n_folds < 2,
            "--folds and --leave-one-subject-out: choose one": n_folds is not None and alone_out,
            "--fold is one of --folds; add them": self.fold is not None and not folds,
            "--stratify balances --folds; add them": self.stratify and n_folds is None,
            "--folds and --vary: choose one": folds and self.vary,
            "--alone and --trials are about --vary; add it": not self.vary
            and (self.alone or searches),
            "--alone and --trials: choose one": self.alone and searches,
        }
        for message, refused in wrong.items():
            if refused:
                raise ValueError(message)


@dataclass(frozen=True)
class Range:
    """All numbers from `low` to `high`, or all whole ones; `log` searches the logarithm."""

    low: float
    high: float
    log: bool
    whole: bool


#: Settings of one training of a sweep, scans to learn from, scans that choose the best weights.
Member = tuple[Any, SliceDataset, SliceDataset]


def run_sweep(
    settings: SweepSettings,
    *,
    train: SliceDataset | None = None,
    validation: SliceDataset | None = None,
) -> str:
    """Train all members, and sum up; finished ones are kept, interrupted ones are continued.

    Processes with other `fold` may work in the same folder at the same time. Returned is a table;
    its numbers, commands and subjects are in ``sweep.json``, or for a search in ``best.json``.
    Scans to learn from and to compare by are by default those of the command's data.

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
        from activemri.training.search import search

        return search(settings, train, validation)
    members = (_grid if settings.vary else _folds)(settings, train, validation)
    chosen = list(members)
    if settings.fold is not None:
        if settings.fold >= len(members):
            raise ValueError(f"--fold: expected 0 to {len(members) - 1}; got {settings.fold}")
        chosen = [f"fold-{settings.fold}"]
    for name in chosen:
        check(members[name][0])
    begun = any((out / name).exists() for name in chosen)
    shared = "".join(f"{name}: {subjects_of(one[2])}\n" for name, one in members.items())
    claim(settings, members=shared, joins=settings.fold is not None and not begun, names=members)
    run = with_shared_moments(settings.train)
    for name in chosen:
        own, *scans = members[name]
        train_once(own, partial(run, train=scans[0], validation=scans[1]))
        _sum_up(settings, members)
    return _sum_up(settings, members)


def claim(
    settings: SweepSettings,
    *,
    members: str = "",
    joins: bool = False,
    names: Iterable[str] = ("trial-*",),
) -> None:
    """Begin a sweep in its folder, or make sure as :meth:`RunFolder.open` that it is the same.

    Trials may become more. A sweep that is there can be joined even without --resume. The names
    are those of its members' folders.
    """
    if processes.rank() > 0:  # the first process of a torchrun does it for all
        return
    out, free = settings.run.out, ("run", "fold", "trials", "base", "train")
    shared = {name: value for name, value in vars(settings).items() if name not in free}
    shared |= {"sweep_seed": settings.run.seed, "members": files.digest(members)[:12]}
    shared |= described(settings.base)
    files.require_claimable(out, "sweep")
    out.mkdir(parents=True, exist_ok=True)
    with files.locked(out / LOCK):
        joining = joins and (out / "settings.json").exists() and not settings.run.overwrite
        run = replace(settings.run, resume=settings.run.resume or joining)
        with RunFolder(run, "sweep").open(shared, shared=True, overwrite=(*WRITTEN, *names)):
            pass


def check(settings: Any) -> None:
    """Refuse what a training would refuse, if its settings can tell."""
    if hasattr(settings, "check"):
        begun = (settings.run.out / "settings.json").exists()
        replace(settings, run=replace(settings.run, resume=begun)).check()


def train_once(settings: Any, train: Callable[[Any], Trained]) -> Trained:
    """Train into the settings' folder; continue what was interrupted, keep what is finished."""
    out, device = settings.run.out, processes.join(settings.compute.device)
    done, begun = result_in(out), (out / "settings.json").exists()
    processes.barrier(device)  # until all have looked; then the first one writes
    if done is not None:
        return done
    result = train(replace(settings, run=replace(settings.run, resume=begun)))
    if processes.rank() == 0:
        files.write_json(out / RESULT, {name: getattr(result, name) for name in _NUMBERS})
    processes.barrier(device)
    return result


def result_in(folder: Path) -> Trained | None:
    """The result of a finished training, or None."""
    try:
        found = {"checkpoint": folder / "best", **files.read_json(folder / RESULT)}
        require_types(Trained, found)
        return Trained(**found)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{folder / RESULT} holds no result of a training: {error}") from error


def with_shared_moments(train: Train) -> Train:
    """The same, with the episodes that masks come from recorded once for all trainings.

    Reconstructors of one protocol, seed and data learn from the same; others are left alone.
    """
    if "moments" not in inspect.signature(train).parameters:
        return train
    from activemri.training.reconstructor import recorded_moments

    known: dict[tuple[object, ...], Any] = {}

    def run(settings: Any, **given: Any) -> Trained:
        scans = given["train"], given["validation"]
        protocol = replace(settings.protocol, reconstructor="")
        key = [settings.run.seed, *map(id, scans)]
        for value in vars(protocol).values():  # objects are told apart by identity
            plain = isinstance(value, str | int | float | tuple | Path | None)
            key.append(str(value) if plain else id(value))
        if tuple(key) not in known:
            known[tuple(key)] = recorded_moments(settings, *scans)
        return train(settings, moments=known[tuple(key)], **given)

    return run


def _folds(
    settings: SweepSettings, train: SliceDataset, validation: SliceDataset
) -> dict[str, Member]:
    scans = pooled([train, validation], name=train.name)
    subjects = subjects_of(scans)
    if settings.folds is None:
        folds = leave_one_subject_out(subjects)
    else:
        labels = [scans.describe(position) for position in range(len(scans))]
        strata = None if settings.stratify is None else strata_of(labels, settings.stratify)
        folds = k_fold(subjects, settings.folds, seed=settings.run.seed, strata=strata)
    members: dict[str, Member] = {}
    for number, fold in enumerate(folds):
        name = f"fold-{number}"
        parts = [
            subset(scans, people, name=f"{scans.name} {name} {part}")
            for part, people in zip(("train", "validation"), fold, strict=True)
        ]
        members[name] = (placed(settings, name, settings.base), parts[0], parts[1])
    return members


def _grid(
    settings: SweepSettings, train: SliceDataset, validation: SliceDataset
) -> dict[str, Member]:
    """All combinations of the values, or the settings as they are and each value alone."""
    pairs: list[list[tuple[str, str]]] = []
    for key, values in axes_of(settings).items():
        if isinstance(values, Range):
            raise ValueError(f"--vary {key}: a range is for a search; add --trials")
        pairs.append([(key, value) for value in values])
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
        members[name] = (placed(settings, name, changed), train, validation)
    return members


def axes_of(
    settings: SweepSettings, *, fixed: Collection[str] = ()
) -> dict[str, Range | tuple[str, ...]]:
    """Values or ranges of every option that is varied; those of `fixed` must not be."""
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


def parse_axis(word: str, settings: Any) -> tuple[str, Range | tuple[str, ...]]:
    """Key and values of an axis: ``key=a|b|c``, ``key=low:high`` or ``key=low:high:log``."""
    key, equals, text = (part.strip() for part in word.partition("="))
    key = key.removeprefix("--").replace("-", "_")
    if not equals or not text:
        raise ValueError(f"--vary {word}: expected KEY=A|B|C, KEY=LOW:HIGH or KEY=LOW:HIGH:log")
    known = {name: value for name, value, _ in flat(settings)}
    if key not in known or key in FREE:
        raise ValueError(
            f"--vary {word}: cannot vary {key!r}; expected one of "
            f"{', '.join(name for name in known if name not in FREE)}"
        )
    match = re.fullmatch(r"([^:|]+):([^:|]+)(:log)?", text)
    try:
        if match is None:
            values = tuple(value.strip() for value in text.split("|"))
            for value in values:
                with_values(settings, {key: value})
            return key, values
        low, high = match.group(1, 2)
        whole = isinstance(known[key], int)
        edges = [float(int(edge)) if whole else float(edge) for edge in (low, high)]
        if not edges[0] < edges[1] < math.inf or (match.group(3) and edges[0] <= 0):
            above = " above 0" if match.group(3) else ""
            raise ValueError(f"expected a smaller and a larger number{above}")
        for edge in (low, high):
            with_values(settings, {key: edge.strip()})
    except ValueError as error:
        raise ValueError(f"--vary {word}: {error}") from None
    return key, Range(edges[0], edges[1], match.group(3) is not None, whole)


def placed(settings: SweepSettings, name: str, member: Any) -> Any:
    """Settings of one training, with a folder of their own."""
    run = replace(member.run, out=settings.run.out / name, resume=False, overwrite=False)
    return replace(member, run=run)


def _sum_up(settings: SweepSettings, members: Mapping[str, Member]) -> str:
    """Write ``sweep.json``, and a table that over folds ends with mean and deviation."""
    out, folds = settings.run.out, not settings.vary
    rows: dict[str, dict[str, Any]] = {}
    lines: list[tuple[object, ...]] = []
    with files.locked(out / LOCK):
        results = {name: result_in(out / name) for name in members}
        first = next(iter(results.values()))
        for name, (own, train, validation) in members.items():
            result, people = results[name], subjects_of(validation)
            row = rows[name] = {key: getattr(result, key, None) for key in _NUMBERS}
            # Folds are compared with their own baselines, changed settings with the first ones.
            usual = getattr(result if folds else first, "baseline" if folds else "best_score", None)
            known = result is not None and usual is not None
            row["gain"] = row["best_score"] - usual if known else None
            row["command"] = command_line(settings.command, own)
            if folds:
                row |= {"train": subjects_of(train), "validation": people}
            rest = f" and {len(people) - 3} more" if len(people) > 3 else ""
            who = (", ".join(people[:3]) + rest,) if folds else ()
            lines.append((name, *who, *(row[key] for key in _COLUMNS), row["best_step"]))
        summary: dict[str, Any] = {"members": rows}
        if folds:
            summary |= {"mean": {}, "sd": {}}
            for key in _COLUMNS:
                values = [row[key] for row in rows.values() if row[key] is not None]
                summary["mean"][key] = float(np.mean(values)) if values else None
                summary["sd"][key] = float(np.std(values, ddof=1)) if len(values) > 1 else None
            lines += [(name, "", *summary[name].values(), None) for name in ("mean", "sd")]
        if processes.rank() == 0:
            files.write_json(out / "sweep.json", summary)
    header = ("training", *(("validation",) if folds else ()), "baseline", "best score")
    header += ("gain" if folds else "difference", "best step")
    n_trained = sum(result is not None for result in results.values())
    return f"{Table(header, lines).text()}\n\n{n_trained} of {len(rows)} trained"
