"""Search for the settings of a training: resumable, by several processes, with early stopping.

The study is optuna's, in a journal file (``study.log``), with its tree-structured Parzen
estimator (TPE). Each trial is a training in a folder of its own. A trial whose process was killed
is begun again with the same values and continues where its training stopped.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from activemri import files
from activemri.options import command_line, described
from activemri.tables import format_table
from activemri.training.axes import Range, with_values
from activemri.training.loop import OnValidation, Trained

try:
    import optuna
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        'a search needs optuna, which is not installed: pip install "activemri[hpo]"',
        name=error.name,
    ) from error
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

N_SHOWN = 10  # trials in the table

_WORDS = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "stopped early",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
}


@dataclass(frozen=True)
class Found:
    """Result of a search.

    Attributes:
        best: settings of the best training.
        score: its validation score.
        baseline: the score that it should beat, if there is one.
        table: the best trials.
        counts: trials by how they ended.
        command: that trains the best one again.
    """

    best: Any
    score: float
    baseline: float | None
    table: str
    counts: Mapping[str, int]
    command: str

    def __str__(self) -> str:
        """The table, how trials ended, and the command that trains the best one again."""
        counts = ", ".join(f"{n} {state}" for state, n in self.counts.items())
        usual = "" if self.baseline is None else f" (baseline {self.baseline:.4f})"
        return (
            f"{self.table}\n\n{counts}\nbest validation score {self.score:.4f}{usual}, checkpoint "
            f"{self.best.run.out / 'best'}\n{self.command}"
        )


def search(
    out: Path,
    *,
    base: Any,
    command: str,
    axes: Mapping[str, Range | tuple[str, ...]],
    n_trials: int,
    seed: int,
    pruner: str,
    train: Callable[[Any, OnValidation], Trained],
) -> Found:
    """Run trials until there are so many of them, by all processes together.

    Args:
        out: folder of the study, claimed.
        base: settings of all trials.
        command: name of the command that they belong to.
        axes: options to vary.
        n_trials: trials in all, also those that are stopped early.
        seed: of the draws.
        pruner: "median", "halving" or "none".
        train: trains with settings, or continues, and passes validations on.

    Raises:
        ValueError: no trial that could be finished.
    """
    searching = _Search(
        out, base, command, axes, n_trials, seed, _study(out, _pruner(pruner, base)), train
    )
    while searching.step():
        pass
    return searching.found()


@dataclass(frozen=True)
class _Search:
    """One process at work on a study."""

    out: Path
    base: Any
    command: str
    axes: Mapping[str, Range | tuple[str, ...]]
    n_trials: int
    seed: int
    study: optuna.Study
    train: Callable[[Any, OnValidation], Trained]

    def step(self) -> bool:
        """Run one more trial; False when there are enough."""
        with ExitStack() as stack:
            trial = self._next(stack)
            if trial is not None:
                self._run(trial)
        return trial is not None

    def found(self) -> Found:
        """The best so far, of all processes."""
        trials = self._trials()
        finished = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        if not finished:
            reasons = [t.user_attrs["error"] for t in trials if "error" in t.user_attrs]
            first = f", the first: {reasons[0]}" if reasons else ""
            raise ValueError(f"no trial of the search in {self.out} was finished{first}")
        finished.sort(key=_value, reverse=True)
        lines = [
            (trial.user_attrs["folder"], trial.value, *(trial.params[key] for key in self.axes))
            for trial in finished[:N_SHOWN]
        ]
        counts = {word: sum(t.state == state for t in trials) for state, word in _WORDS.items()}
        best = self._settings_of(finished[0])
        return Found(
            best=best,
            score=_value(finished[0]),
            baseline=finished[0].user_attrs["baseline"],
            table=format_table(("trial", "validation", *self.axes), lines),
            counts={word: n for word, n in counts.items() if n},
            command=command_line(self.command, best),
        )

    def _next(self, stack: ExitStack) -> optuna.Trial | None:
        """Begin a trial, and hold its folder's lock until the stack is closed."""
        with files.locked(self.out / "lock"):
            self._recover()
            trials = self._trials()
            n_begun = sum(t.state != TrialState.WAITING for t in trials)
            if n_begun >= self.n_trials:
                return None
            self.study.sampler = _sampler(self.seed, len(trials))
            trial = self.study.ask({key: _distribution(v) for key, v in self.axes.items()})
            folder = trial.user_attrs.get("folder", f"trial-{len(trials):04}")
            trial.set_user_attr("folder", folder)
            stack.enter_context(self._held(folder))
        return trial

    def _recover(self) -> None:
        """Queue again the trials of killed processes. Only one process at a time may do this."""
        trials = self.study.get_trials(deepcopy=False)
        continued = {trial.user_attrs.get("continues") for trial in trials}
        for trial in trials:
            if trial.state != TrialState.RUNNING:
                continue
            folder = trial.user_attrs.get("folder")  # None if it was killed as soon as it was begun
            if folder is not None:
                with self._held(folder) as held:
                    if not held:
                        continue
            if trial.number not in continued:
                about = {"folder": folder} if folder is not None else {}
                self.study.enqueue_trial(trial.params, {**about, "continues": trial.number})
            self.study.tell(trial.number, state=TrialState.FAIL)

    def _run(self, trial: optuna.Trial) -> None:
        try:
            result = self.train(self._settings_of(trial), self._reporter(trial))
        except optuna.TrialPruned:
            self.study.tell(trial, state=TrialState.PRUNED)
        except (ValueError, torch.OutOfMemoryError) as error:
            # These values cannot be trained with; others may.
            trial.set_user_attr("error", " ".join(str(error).split()))
            self.study.tell(trial, state=TrialState.FAIL)
        else:
            trial.set_user_attr("baseline", result.baseline)
            self.study.tell(trial, result.best_score)
            self._save_best()

    def _reporter(self, trial: optuna.Trial) -> OnValidation:
        """Passes validations on to the study, those before a kill included."""
        continues = trial.user_attrs.get("continues")
        before: Mapping[int, float] = {}
        if continues is not None:
            before = dict(self.study.get_trials(deepcopy=False)[continues].intermediate_values)
        for step, score in before.items():
            trial.report(score, step)
        last = getattr(self.base, "max_steps", None)

        def on_validation(step: int, score: float) -> None:
            if step == 0 or step in before:
                return
            trial.report(score, step)
            if (last is None or step < last) and trial.should_prune():
                raise optuna.TrialPruned

        return on_validation

    def _save_best(self) -> None:
        with files.locked(self.out / "lock"):
            best = self.study.best_trial
            settings = self._settings_of(best)
            content = {
                "trial": best.number,
                "score": best.value,
                "baseline": best.user_attrs["baseline"],
                "values": best.params,
                "command": command_line(self.command, settings),
                "checkpoint": str(settings.run.out / "best"),
                "settings": described(settings),
            }
            files.write_json(self.out / "best.json", content)

    def _settings_of(self, trial: optuna.Trial | FrozenTrial) -> Any:
        changed = with_values(self.base, trial.params)
        out = self.out / trial.user_attrs["folder"]
        return replace(changed, run=replace(changed.run, out=out, resume=False))

    def _held(self, folder: str) -> Any:
        path = self.out / folder
        path.mkdir(exist_ok=True)
        return files.locked(path / "lock", wait=False)

    def _trials(self) -> list[FrozenTrial]:
        """All trials but those that were killed, which others continue."""
        trials = self.study.get_trials(deepcopy=False)
        continued = {trial.user_attrs.get("continues") for trial in trials}
        return [trial for trial in trials if trial.number not in continued]


def _study(out: Path, pruner: optuna.pruners.BasePruner) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with files.locked(out / "lock"):
        return optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(out / "study.log"))),
            study_name="activemri",
            pruner=pruner,
            direction="maximize",
            load_if_exists=True,
        )


def _sampler(seed: int, n_trials: int) -> optuna.samplers.BaseSampler:
    """A sampler whose draws depend on the seed, the trial's number and the results so far only.

    So neither a restart nor a second process draws what was drawn before.
    """
    state = np.random.SeedSequence([seed, n_trials]).generate_state(1)
    return optuna.samplers.TPESampler(seed=int(state[0]))


def _pruner(name: str, base: Any) -> optuna.pruners.BasePruner:
    if name == "none":
        return optuna.pruners.NopPruner()
    # The learning rate rises for a tenth of the steps.
    warm_up = max((getattr(base, "max_steps", None) or 0) // 5, base.validate_every or 1)
    if name == "halving":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=warm_up, reduction_factor=2)
    return optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=warm_up)


def _distribution(values: Range | tuple[str, ...]) -> BaseDistribution:
    if isinstance(values, tuple):
        return CategoricalDistribution(values)
    if values.whole:
        return IntDistribution(int(values.low), int(values.high), log=values.log)
    return FloatDistribution(values.low, values.high, log=values.log)


def _value(trial: FrozenTrial) -> float:
    return -float("inf") if trial.value is None else trial.value
