"""Search for the settings of a training: resumable, by several processes, with early stopping.

The study is optuna's, in a journal file (``study.log``), with its tree-structured Parzen
estimator (TPE). Each trial is a training in a folder of its own. A trial whose process was killed
is begun again with the same values and continues where its training stopped.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from activemri import files
from activemri.data.slices import SliceDataset
from activemri.options import command_line, described, with_values
from activemri.tables import Table
from activemri.training import processes
from activemri.training.loop import OnValidation
from activemri.training.sweep import (
    LOCK,
    SweepSettings,
    axes_of,
    check,
    claim,
    placed,
    train_once,
    with_shared_moments,
)

try:
    import optuna
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        'a search needs optuna, which is not installed: pip install "activemri[hpo]"',
        name=error.name,
    ) from error
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

N_SHOWN = 10  # trials in the table

_WORDS = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "stopped early",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
}


def search(settings: SweepSettings, train: SliceDataset, validation: SliceDataset) -> str:
    """Run trials until there are so many of them, by all processes together; their table.

    Raises:
        ValueError: values that make no sense or cannot be compared, settings that the command
            refuses, a folder that is taken, or no trial that could be finished.
    """
    if processes.world_size() > 1:
        raise ValueError(
            "a search is not started with torchrun: start the same command again with --resume "
            "for each process that shall help"
        )
    # Options that say which scans and moments are scored, or how long it takes.
    fixed = {field.name for field in fields(settings.base.protocol)} - {"reconstructor"}
    axes = axes_of(settings, fixed=fixed | {"seed", "max_steps", "validate_every", "patience"})
    check(placed(settings, "trial", settings.base))
    claim(settings)
    out, base = settings.run.out, settings.base
    # The learning rate rises for a tenth of the steps.
    warm_up = max((getattr(base, "max_steps", None) or 0) // 5, base.validate_every or 1)
    pruners: dict[str, optuna.pruners.BasePruner] = {
        "none": optuna.pruners.NopPruner(),
        "halving": optuna.pruners.SuccessiveHalvingPruner(min_resource=warm_up, reduction_factor=2),
        "median": optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=warm_up),
    }
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journal = JournalFileBackend(str(out / "study.log"), lock_obj=_JournalLock(out))
    with files.locked(out / LOCK):
        study = optuna.create_study(
            storage=JournalStorage(journal),
            study_name="activemri",
            pruner=pruners[settings.pruner],
            direction="maximize",
            load_if_exists=True,
        )
    run = with_shared_moments(settings.train)
    while True:
        with ExitStack() as stack:  # holds the lock of the trial's folder
            with files.locked(out / LOCK):
                _recover(study, settings)
                trials = _trials(study)
                n_begun = sum(t.state != TrialState.WAITING for t in trials)
                if n_begun >= (settings.trials or 0):
                    break
                # Draws depend on the seed, how many trials have begun, and the results so far only:
                # neither a restart nor a second process draws what was drawn before.
                state = np.random.SeedSequence([settings.run.seed, n_begun]).generate_state(1)
                study.sampler = optuna.samplers.TPESampler(seed=int(state[0]))
                trial = study.ask()
                for key, values in axes.items():
                    if isinstance(values, tuple):
                        trial.suggest_categorical(key, values)
                    elif values.whole:
                        trial.suggest_int(key, int(values.low), int(values.high), log=values.log)
                    else:
                        trial.suggest_float(key, values.low, values.high, log=values.log)
                folder = trial.user_attrs.get("folder", f"trial-{n_begun:04}")
                trial.set_user_attr("folder", folder)
                stack.enter_context(_held(settings, folder))
            report = _reporter(study, trial, getattr(base, "max_steps", None))
            one = partial(run, train=train, validation=validation, on_validation=report)
            try:
                result = train_once(_settings_of(settings, trial), one)
            except optuna.TrialPruned:
                study.tell(trial, state=TrialState.PRUNED)
            except (ValueError, torch.OutOfMemoryError) as error:
                # These values cannot be trained with; others may.
                trial.set_user_attr("error", " ".join(str(error).split()))
                study.tell(trial, state=TrialState.FAIL)
            else:
                trial.set_user_attr("baseline", result.baseline)
                study.tell(trial, result.best_score)
                with files.locked(out / LOCK):
                    files.write_json(out / "best.json", _summary(settings, study.best_trial))
    ended = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    finished = [(trial.value, trial) for trial in ended if trial.value is not None]
    if not finished:
        reasons = [t.user_attrs["error"] for t in trials if "error" in t.user_attrs]
        first = f", the first: {reasons[0]}" if reasons else ""
        raise ValueError(f"no trial of the search in {out} was finished{first}")
    finished.sort(key=lambda pair: pair[0], reverse=True)
    lines = [
        (trial.user_attrs["folder"], score, *(trial.params[key] for key in axes))
        for score, trial in finished[:N_SHOWN]
    ]
    counts = {word: sum(t.state == state for t in trials) for state, word in _WORDS.items()}
    best = _summary(settings, finished[0][1])
    with files.locked(out / LOCK):  # again: a kill may have come before the last one was written
        files.write_json(out / "best.json", best)
    usual = "" if best["baseline"] is None else f" (baseline {best['baseline']:.4f})"
    return (
        f"{Table(('trial', 'validation', *axes), lines).text()}\n\n"
        f"{', '.join(f'{n} {word}' for word, n in counts.items() if n)}\n"
        f"best validation score {best['score']:.4f}{usual}, checkpoint {best['checkpoint']}\n"
        f"{best['command']}"
    )


class _JournalLock(JournalFileOpenLock):
    """The lock of the journal: a process that is killed lets go of it, as it does not of optuna's.

    Other processes would wait half a minute for each such lock, and take it from whoever has it.
    """

    def __init__(self, folder: Path) -> None:
        self._path, self._held = folder / ".journal", ExitStack()

    def acquire(self) -> bool:
        return bool(self._held.enter_context(files.locked(self._path)))

    def release(self) -> None:
        self._held.close()


def _trials(study: optuna.Study) -> list[FrozenTrial]:
    """All trials but those that were killed, which others continue."""
    trials = study.get_trials(deepcopy=False)
    continued = {trial.user_attrs.get("continues") for trial in trials}
    return [trial for trial in trials if trial.number not in continued]


def _recover(study: optuna.Study, settings: SweepSettings) -> None:
    """Queue again the trials of killed processes. Only one process at a time may do this."""
    left = {trial.number for trial in _trials(study)}
    for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        about = {}
        if "folder" in trial.user_attrs:  # else it was killed as soon as it was begun
            about = {"folder": trial.user_attrs["folder"]}
            with _held(settings, about["folder"]) as held:
                if not held:
                    continue
        if trial.number in left:
            study.enqueue_trial(trial.params, {**about, "continues": trial.number})
        study.tell(trial.number, state=TrialState.FAIL)


def _held(settings: SweepSettings, folder: str) -> AbstractContextManager[bool]:
    """The lock of a trial's folder; False where another process holds it."""
    path = settings.run.out / folder
    path.mkdir(exist_ok=True)
    return files.locked(path / ".trial", wait=False)


def _reporter(study: optuna.Study, trial: optuna.Trial, last: int | None) -> OnValidation:
    """Passes validations on to the study, those before a kill included; may end the training."""
    before: Mapping[int, float] = {}
    if (continues := trial.user_attrs.get("continues")) is not None:
        before = dict(study.get_trials(deepcopy=False)[continues].intermediate_values)
    for step, score in before.items():
        trial.report(score, step)

    def on_validation(step: int, score: float) -> None:
        if step == 0 or step in before:
            return
        trial.report(score, step)
        if (last is None or step < last) and trial.should_prune():
            raise optuna.TrialPruned

    return on_validation


def _settings_of(settings: SweepSettings, trial: optuna.Trial | FrozenTrial) -> Any:
    member = with_values(settings.base, trial.params)
    return placed(settings, trial.user_attrs["folder"], member)


def _summary(settings: SweepSettings, trial: FrozenTrial) -> dict[str, Any]:
    """Content of ``best.json``."""
    member = _settings_of(settings, trial)
    return {
        "trial": trial.user_attrs["folder"],  # its number rises with every kill
        "score": trial.value,
        "baseline": trial.user_attrs["baseline"],
        "values": trial.params,
        "command": command_line(settings.command, member),
        "checkpoint": str(member.run.out / "best"),
        "settings": described(member),
    }
