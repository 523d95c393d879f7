"""K-fold and leave-one-subject-out cross-validation of a training."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from activemri.data.folds import Fold, k_fold, leave_one_subject_out, strata_of
from activemri.data.slices import SliceDataset
from activemri.data.views import subjects_of, subset
from activemri.settings import TrainReconstructorSettings
from activemri.tables import format_table
from activemri.training.reconstructor import TrainingResult
from activemri.training.study_folder import (
    claim,
    described,
    locked,
    result_in,
    train_once,
    write_json,
)
from activemri.training.world import rank

S = TypeVar("S", bound=TrainReconstructorSettings)


@dataclass(frozen=True)
class CrossValidation:
    """What the folds have reached.

    Attributes:
        folds: who trained and who validated.
        results: one a fold; None where it is not trained yet.
    """

    folds: Sequence[Fold]
    results: Sequence[TrainingResult | None]

    def summary(self) -> dict[str, object]:
        """Mean and standard deviation (of a sample) over the folds that are trained."""
        done = [result for result in self.results if result is not None]
        ssim = np.array([result.best_ssim for result in done])
        zero_filled = np.array([result.zero_filled_ssim for result in done])
        several = len(done) > 1
        columns = {"zero_filled_ssim": zero_filled, "ssim": ssim, "gain": ssim - zero_filled}
        return {
            "n_folds": len(self.folds),
            "n_trained": len(done),
            "mean": {name: float(v.mean()) if done else None for name, v in columns.items()},
            "sd": {name: float(v.std(ddof=1)) if several else None for name, v in columns.items()},
        }

    def text(self) -> str:
        """A table with one line a fold, and what they have in common."""
        lines: list[tuple[object, ...]] = [
            (str(number), len(fold.train), _who(fold), *_scores(result))
            for number, (fold, result) in enumerate(zip(self.folds, self.results, strict=True))
        ]
        summary = self.summary()
        for name in ("mean", "sd"):
            row = summary[name]
            assert isinstance(row, Mapping)
            lines.append((name, None, "", *row.values(), None))
        header = ("fold", "train", "validation", "zero-filled", "best SSIM", "gain", "best step")
        return (
            f"{format_table(header, lines)}\n\n{summary['n_trained']} of {summary['n_folds']} "
            "folds trained; train counts subjects, SSIM is that of the fold's validation subjects"
        )


def cross_validate(
    settings: S,
    *,
    scans: SliceDataset,
    train: Callable[[S, SliceDataset, SliceDataset], TrainingResult],
) -> CrossValidation:
    """Train the folds into ``fold-0``, ``fold-1``, ... and write ``folds.json``.

    Finished folds are kept, interrupted ones are continued. Processes with other `fold` may work
    in the same folder at the same time.

    Args:
        settings: of every fold; `settings.study` says which folds.
        scans: of all subjects that may train or validate; none of the test split.
        train: one training, with the scans to learn from and those to validate with.

    Raises:
        ValueError: folds that make no sense for these subjects; a folder that is taken.
        OSError: `settings.out` cannot be written.
    """
    study, out = settings.study, settings.out
    folds = _folds(settings, scans)
    if study.fold is not None and study.fold >= len(folds):
        raise ValueError(f"--fold: expected 0 to {len(folds) - 1}; got {study.fold}")
    chosen = range(len(folds)) if study.fold is None else [study.fold]
    _claim(settings, folds, begun=any((out / f"fold-{n}").exists() for n in chosen))
    for number in chosen:
        one = replace(settings, out=out / f"fold-{number}", study=replace(study, fold=number))
        parts = [
            subset(scans, subjects, name=f"{scans.name} fold {number} {name}")
            for name, subjects in vars(folds[number]).items()
        ]
        train_once(one, lambda s, parts=parts: train(s, *parts))  # type: ignore[misc]
        _write(out, folds)
    return _write(out, folds)


def _folds(settings: TrainReconstructorSettings, scans: SliceDataset) -> list[Fold]:
    study, subjects = settings.study, subjects_of(scans)
    if study.leave_one_subject_out:
        return leave_one_subject_out(subjects)
    if study.folds is None:
        raise ValueError("expected --folds or --leave-one-subject-out; got neither")
    strata = None if study.stratify is None else strata_of(scans, study.stratify)
    return k_fold(subjects, study.folds, seed=settings.seed, strata=strata)


def _claim(settings: TrainReconstructorSettings, folds: Sequence[Fold], *, begun: bool) -> None:
    """One fold of a study may be trained without `resume` as long as it is not begun."""
    study = {**dataclasses.asdict(settings.study), "fold": None}
    members = hashlib.blake2b(repr(folds).encode(), digest_size=6).hexdigest()
    claim(
        settings.out,
        "cross-validation",
        described={**described(settings), "study": study, "members_of_folds": members},
        resume=settings.resume,
        join=settings.study.fold is not None and not begun,
    )


def _write(out: Path, folds: Sequence[Fold]) -> CrossValidation:
    with locked(out):
        results = [result_in(out / f"fold-{number}") for number in range(len(folds))]
        found = CrossValidation(folds, results)
        if rank() == 0:
            write_json(out / "folds.json", {**found.summary(), "folds": _rows(found)})
    return found


def _rows(found: CrossValidation) -> list[dict[str, object]]:
    return [
        {
            "fold": number,
            "train": list(fold.train),
            "validation": list(fold.validation),
            "best_ssim": None if result is None else result.best_ssim,
            "best_step": None if result is None else result.best_step,
            "zero_filled_ssim": None if result is None else result.zero_filled_ssim,
        }
        for number, (fold, result) in enumerate(zip(found.folds, found.results, strict=True))
    ]


def _who(fold: Fold) -> str:
    shown = ", ".join(fold.validation[:3])
    rest = len(fold.validation) - 3
    return f"{shown} and {rest} more" if rest > 0 else shown


def _scores(result: TrainingResult | None) -> tuple[object, ...]:
    if result is None:
        return (None,) * 4
    gain = result.best_ssim - result.zero_filled_ssim
    return (result.zero_filled_ssim, result.best_ssim, gain, result.best_step)
