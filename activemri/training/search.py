"""Search for the settings of a training: resumable, by several processes, with early stopping.

The study is optuna's, in a journal file (``study.log``), with its tree-structured Parzen
estimator (TPE). Each trial is a training in a folder of its own. A trial whose process was killed
is begun again with the same values and continues where its training stopped.
"""

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch

from activemri.data.slices import SliceDataset
from activemri.data.sources import open_dataset
from activemri.data.views import Remembered
from activemri.runs.folder import command
from activemri.settings import TrainReconstructorSettings, TuneSettings
from activemri.tables import format_table
from activemri.training.batches import InMemory
from activemri.training.masks import MaskSource
from activemri.training.reconstructor import TrainingResult, train_reconstructor
from activemri.training.search_space import Range, Space, apply, parse_space
from activemri.training.study_folder import (
    Claim,
    claim,
    described,
    locked,
    train_once,
    write_json,
)
from activemri.training.world import n_processes

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

MakeMasks = Callable[[SliceDataset], MaskSource]

N_SHOWN = 10  # trials in the table


@dataclass(frozen=True)
class SearchResult:
    """What a search has found.

    Attributes:
        best: settings of the best training.
        ssim: its validation SSIM.
        zero_filled_ssim: the same for the zero-filled reconstruction.
        table: the best trials.
        counts: trials by how they ended.
    """

    best: TrainReconstructorSettings
    ssim: float
    zero_filled_ssim: float
    table: str
    counts: Mapping[str, int]

    def text(self) -> str:
        """The table, how trials ended, and the command that trains the best one again."""
        counts = ", ".join(f"{n} {state}" for state, n in self.counts.items())
        return (
            f"{self.table}\n\n{counts}\nbest validation SSIM {self.ssim:.4f} (zero-filled "
            f"{self.zero_filled_ssim:.4f}), checkpoint {self.best.out / 'best'}\n"
            f"{command(self.best)}"
        )


def search(
    settings: TuneSettings,
    *,
    make_masks: MakeMasks,
    train: SliceDataset | None = None,
    validation: SliceDataset | None = None,
) -> SearchResult:
    """Run trials until there are `settings.trials` of them, by all processes together.

    Args:
        settings: see there.
        make_masks: what has been acquired when an image is asked for, for the scans of training.
        train: scans to learn from; None opens the train split of `settings.data`.
        validation: scans to compare by; None opens the val split. The test split is not opened.

    Raises:
        ValueError: unusable settings; a folder that is taken; no trial that could be finished.
        OSError: `settings.out` cannot be written.
    """
    if n_processes() > 1:
        raise ValueError(
            "a search is not started with torchrun: start the same command again with --resume "
            "for each process that shall help"
        )
    base = _training_settings(settings)
    space = parse_space(settings.space, base)
    claim(settings.out, "search", described=described(settings), resume=settings.resume)
    study = _open(settings)
    train = _kept(train if train is not None else _scans(settings, "train"))
    validation = _kept(validation if validation is not None else _scans(settings, "val"))
    masks = make_masks(train)

    def run(trained: TrainReconstructorSettings, on_validation: OnValidation) -> TrainingResult:
        return train_reconstructor(
            trained, masks=masks, train=train, validation=validation, on_validation=on_validation
        )

    searching = _Search(settings, study=study, space=space, base=base, train=run)
    while searching.step():
        pass
    return searching.result()


OnValidation = Callable[[int, float], None]
Train = Callable[[TrainReconstructorSettings, OnValidation], TrainingResult]


@dataclass(frozen=True)
class _Search:
    """One process at work on a study."""

    settings: TuneSettings
    _: dataclasses.KW_ONLY
    study: optuna.Study
    space: Space
    base: TrainReconstructorSettings
    train: Train

    def step(self) -> bool:
        """Run one more trial; False when there are enough."""
        with ExitStack() as stack:
            trial = self._next(stack)
            if trial is not None:
                self._run(trial)
        return trial is not None

    def result(self) -> SearchResult:
        """What the study has found so far, by all processes."""
        trials = self._trials()
        finished = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        if not finished:
            reasons = [t.user_attrs["error"] for t in trials if "error" in t.user_attrs]
            first = f", the first: {reasons[0]}" if reasons else ""
            raise ValueError(f"no trial of the search in {self.settings.out} was finished{first}")
        best = max(finished, key=_value)
        return SearchResult(
            best=self._settings_of(best),
            ssim=_value(best),
            zero_filled_ssim=best.user_attrs["zero_filled_ssim"],
            table=_table(trials, self.space),
            counts=_counts(trials),
        )

    def _next(self, stack: ExitStack) -> optuna.Trial | None:
        """Begin a trial, and hold its claim until the stack is closed."""
        with locked(self.settings.out):
            self._recover()
            trials = self._trials()
            if sum(t.state != TrialState.WAITING for t in trials) >= self.settings.trials:
                return None
            self.study.sampler = _sampler(self.settings.seed, len(trials))
            trial = self.study.ask({key: _distribution(v) for key, v in self.space.items()})
            folder = trial.user_attrs.get("folder", f"trial-{len(trials):04}")
            trial.set_user_attr("folder", folder)
            stack.enter_context(self._claim(folder))
        return trial

    def _recover(self) -> None:
        """Queue again what nobody works on any more. Only one process at a time may do this."""
        trials = self.study.get_trials(deepcopy=False)
        continued = {trial.user_attrs.get("continues") for trial in trials}
        for trial in trials:
            if trial.state != TrialState.RUNNING:
                continue
            folder = trial.user_attrs.get("folder")  # None if it was killed as soon as it was begun
            if folder is not None:
                with self._claim(folder) as claimed:
                    if not claimed.held:
                        continue
            if trial.number not in continued:
                about = {"folder": folder} if folder is not None else {}
                self.study.enqueue_trial(trial.params, {**about, "continues": trial.number})
            self.study.tell(trial.number, state=TrialState.FAIL)

    def _run(self, trial: optuna.Trial) -> None:
        settings = self._settings_of(trial)
        try:
            result = train_once(settings, lambda s: self.train(s, self._reporter(trial)))
        except optuna.TrialPruned:
            self.study.tell(trial, state=TrialState.PRUNED)
        except (ValueError, torch.OutOfMemoryError) as error:
            # These values cannot be trained with; others may.
            trial.set_user_attr("error", " ".join(str(error).split()))
            self.study.tell(trial, state=TrialState.FAIL)
        else:
            trial.set_user_attr("zero_filled_ssim", result.zero_filled_ssim)
            self.study.tell(trial, result.best_ssim)
            self._save_best()

    def _reporter(self, trial: optuna.Trial) -> OnValidation:
        """Passes validations on to the study, those before a kill included."""
        before = self._reports_before(trial)
        for step, ssim in before.items():
            trial.report(ssim, step)

        def on_validation(step: int, ssim: float) -> None:
            if step == 0 or step in before:
                return
            trial.report(ssim, step)
            if step < self.settings.max_steps and trial.should_prune():
                raise optuna.TrialPruned

        return on_validation

    def _reports_before(self, trial: optuna.Trial) -> dict[int, float]:
        number = trial.user_attrs.get("continues")
        if number is None:
            return {}
        return dict(self.study.get_trials(deepcopy=False)[number].intermediate_values)

    def _save_best(self) -> None:
        with locked(self.settings.out):
            best = self.study.best_trial
            settings = self._settings_of(best)
            write_json(
                self.settings.out / "best.json",
                {
                    "trial": best.number,
                    "ssim": best.value,
                    "zero_filled_ssim": best.user_attrs["zero_filled_ssim"],
                    "values": best.params,
                    "command": command(settings),
                    "checkpoint": str(settings.out / "best"),
                    "settings": described(settings),
                },
            )

    def _settings_of(self, trial: optuna.Trial | FrozenTrial) -> TrainReconstructorSettings:
        folder = self.settings.out / trial.user_attrs["folder"]
        return dataclasses.replace(apply(self.base, trial.params), out=folder)

    def _claim(self, folder: str) -> Claim:
        (self.settings.out / folder).mkdir(exist_ok=True)
        return Claim(self.settings.out / folder / "lock")

    def _trials(self) -> list[FrozenTrial]:
        """All trials but those that were killed, which others continue."""
        trials = self.study.get_trials(deepcopy=False)
        continued = {trial.user_attrs.get("continues") for trial in trials}
        return [trial for trial in trials if trial.number not in continued]


def _open(settings: TuneSettings) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with locked(settings.out):
        return optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(settings.out / "study.log"))),
            study_name="activemri",
            pruner=_pruner(settings),
            direction="maximize",
            load_if_exists=True,
        )


def _sampler(seed: int, n_trials: int) -> optuna.samplers.BaseSampler:
    """Draws what depends on the seed, the trial's number and the results so far only.

    So neither a restart nor a second process draws what was drawn before.
    """
    state = np.random.SeedSequence([seed, n_trials]).generate_state(1)
    return optuna.samplers.TPESampler(seed=int(state[0]))


def _pruner(settings: TuneSettings) -> optuna.pruners.BasePruner:
    if settings.pruner == "none":
        return optuna.pruners.NopPruner()
    warm_up = max(settings.max_steps // 5, settings.validate_every)  # the rate rises for a tenth
    if settings.pruner == "halving":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=warm_up, reduction_factor=2)
    return optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=warm_up)


def _distribution(values: Range | tuple[str, ...]) -> BaseDistribution:
    if isinstance(values, tuple):
        return CategoricalDistribution(values)
    if values.whole:
        return IntDistribution(int(values.low), int(values.high), log=values.log)
    return FloatDistribution(values.low, values.high, log=values.log)


def _training_settings(settings: TuneSettings) -> TrainReconstructorSettings:
    """Those of all trials; what is searched is the default still."""
    names = {field.name for field in dataclasses.fields(TrainReconstructorSettings)}
    shared = {name: value for name, value in vars(settings).items() if name in names}
    return TrainReconstructorSettings(**{**shared, "resume": False, "images": 0})


def _scans(settings: TuneSettings, split: str) -> SliceDataset:
    return open_dataset(settings.data, split=split, matrix_size=settings.matrix)


def _kept(dataset: SliceDataset) -> SliceDataset:
    """All trials read the same scans: keep them if they fit into memory."""
    return Remembered(dataset) if InMemory(dataset).keeps else dataset


def _value(trial: FrozenTrial) -> float:
    return -float("inf") if trial.value is None else trial.value


def _counts(trials: list[FrozenTrial]) -> dict[str, int]:
    words = {
        TrialState.COMPLETE: "finished",
        TrialState.PRUNED: "stopped early",
        TrialState.FAIL: "failed",
        TrialState.RUNNING: "running",
    }
    counts = {word: sum(t.state == state for t in trials) for state, word in words.items()}
    return {word: n for word, n in counts.items() if n}


def _table(trials: list[FrozenTrial], space: Space) -> str:
    """The best finished trials, best first."""
    finished = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    best = sorted(finished, key=_value, reverse=True)[:N_SHOWN]
    lines = [
        (trial.user_attrs["folder"], trial.value, *(trial.params[key] for key in space))
        for trial in best
    ]
    return format_table(("trial", "validation SSIM", *space), lines)
