"""Cross-validation of trainings."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from activemri.data.slices import SliceDataset, SliceList
from activemri.data.views import subjects_of
from activemri.settings import StudySettings, TrainReconstructorSettings
from activemri.training.cross_validation import CrossValidation, cross_validate
from activemri.training.reconstructor import TrainingResult, train_reconstructor
from tests.training.mixture import HeuristicMasks

MakeScans = Callable[..., SliceList]
MakeSettings = Callable[..., TrainReconstructorSettings]
SUBJECTS = ["a", "bb", "ccc", "dddd", "eeeee"]


class FakeTraining:
    """Stands in for trainings; the score is the number of slices that validate."""

    def __init__(self) -> None:
        self.begun: list[tuple[TrainReconstructorSettings, list[str], list[str]]] = []
        self.interrupt_at = 0

    def __call__(
        self, settings: TrainReconstructorSettings, train: SliceDataset, validation: SliceDataset
    ) -> TrainingResult:
        settings.out.mkdir(parents=True, exist_ok=True)
        (settings.out / "settings.json").touch()
        self.begun.append((settings, subjects_of(train), subjects_of(validation)))
        if len(self.begun) == self.interrupt_at:
            raise KeyboardInterrupt
        return TrainingResult(settings.out / "best", 4, len(validation) / 10, 0.1)


@pytest.fixture
def fake() -> FakeTraining:
    return FakeTraining()


@pytest.fixture
def run(make_scans: MakeScans, make_settings: MakeSettings, fake: FakeTraining):  # type: ignore[no-untyped-def]
    def run(
        study: StudySettings, *, subjects: list[str] = SUBJECTS, **changes: object
    ) -> CrossValidation:
        settings = make_settings(study=study, **changes)
        return cross_validate(settings, scans=make_scans(subjects), train=fake)

    return run


Run = Callable[..., CrossValidation]


def train_for_real(
    settings: TrainReconstructorSettings, train: SliceDataset, validation: SliceDataset
) -> TrainingResult:
    masks = HeuristicMasks(settings.n_center_lines, budget=settings.budget)
    return train_reconstructor(settings, masks=masks, train=train, validation=validation)


def test_every_fold_is_trained_with_other_subjects(
    run: Run, fake: FakeTraining, tmp_path: Path
) -> None:
    found = run(StudySettings(folds=3))
    assert [settings.out for settings, *_ in fake.begun] == [
        tmp_path / "run" / f"fold-{number}" for number in range(3)
    ]
    assert sorted(s for _, _, validation in fake.begun for s in validation) == SUBJECTS
    for _, train, validation in fake.begun:
        assert sorted(train + validation) == SUBJECTS
    assert [len(v) for _, _, v in fake.begun] == [2, 2, 1]
    assert [r and r.best_ssim for r in found.results] == [0.4, 0.4, 0.2]


def test_mean_and_deviation_over_the_folds_are_written_and_shown(run: Run, tmp_path: Path) -> None:
    text = run(StudySettings(folds=3)).text()
    written = json.loads((tmp_path / "run" / "folds.json").read_text())
    assert written["mean"]["ssim"] == pytest.approx(1 / 3)
    assert written["sd"]["ssim"] == pytest.approx(np.std([0.4, 0.4, 0.2], ddof=1))
    assert written["mean"]["gain"] == pytest.approx(1 / 3 - 0.1)
    assert [fold["best_ssim"] for fold in written["folds"]] == [0.4, 0.4, 0.2]
    assert sorted(s for fold in written["folds"] for s in fold["validation"]) == SUBJECTS
    rows = [line.split() for line in text.splitlines()]
    assert rows[0][:3] == ["fold", "train", "validation"]
    assert rows[5][:1] + rows[5][-4:] == ["mean", "0.1000", "0.3333", "0.2333", "-"]
    assert rows[6][:1] + rows[6][-4:] == ["sd", "0.0000", "0.1155", "0.1155", "-"]
    assert "3 of 3 folds trained" in text


def test_one_subject_can_be_left_out_at_a_time(run: Run, fake: FakeTraining) -> None:
    found = run(StudySettings(leave_one_subject_out=True))
    assert [validation for _, _, validation in fake.begun] == [[s] for s in SUBJECTS]
    assert len(found.folds) == 5


def test_labels_are_balanced_over_the_folds(
    make_scans: MakeScans, make_settings: MakeSettings, fake: FakeTraining
) -> None:
    slices = make_scans([f"s{number}" for number in range(8)]).slices
    rare = ("s2", "s3")
    scans = SliceList([replace(s, scanner="AB"[s.subject in rare]) for s in slices])
    settings = make_settings(study=StudySettings(folds=2, stratify="scanner"))
    cross_validate(settings, scans=scans, train=fake)
    assert [len(set(rare) & set(validation)) for _, _, validation in fake.begun] == [1, 1]


def test_single_folds_are_trained_one_by_one_into_one_table(run: Run, fake: FakeTraining) -> None:
    whole = run(StudySettings(folds=3))
    expected = fake.begun[:]
    fake.begun.clear()
    first = run(StudySettings(folds=3, fold=2), out=expected[0][0].out.parents[1] / "parts")
    assert [r is None for r in first.results] == [True, True, False]
    assert "1 of 3 folds trained" in first.text()
    assert first.summary()["sd"] == {"zero_filled_ssim": None, "ssim": None, "gain": None}
    for number in (0, 1):
        out = expected[0][0].out.parents[1] / "parts"
        last = run(StudySettings(folds=3, fold=number), out=out)
    assert last.text() == whole.text()
    parts = {settings.out.name: rest for settings, *rest in fake.begun}
    assert parts == {settings.out.name: rest for settings, *rest in expected}


def test_the_settings_of_a_fold_say_which_one_it_is(run: Run, fake: FakeTraining) -> None:
    run(StudySettings(folds=2))
    assert [settings.study for settings, *_ in fake.begun] == [
        StudySettings(folds=2, fold=0),
        StudySettings(folds=2, fold=1),
    ]


def test_an_interrupted_cross_validation_trains_only_what_is_missing(
    run: Run, fake: FakeTraining
) -> None:
    fake.interrupt_at = 2
    with pytest.raises(KeyboardInterrupt):
        run(StudySettings(folds=3))
    found = run(StudySettings(folds=3), resume=True)
    names = [(settings.out.name, settings.resume) for settings, *_ in fake.begun]
    assert names == [("fold-0", False), ("fold-1", False), ("fold-1", True), ("fold-2", False)]
    assert run(StudySettings(folds=3), resume=True) == found
    assert len(fake.begun) == 4


def test_another_cross_validation_does_not_mix_with_the_one_that_is_there(
    run: Run, fake: FakeTraining
) -> None:
    with pytest.raises(ValueError, match=r"no cross-validation in .*run; leave --resume out"):
        run(StudySettings(folds=2), resume=True)
    run(StudySettings(folds=2))
    with pytest.raises(ValueError, match=r"holds a study already \(cross-validation\); add"):
        run(StudySettings(folds=2))
    with pytest.raises(ValueError, match=r"holds a study already \(cross-validation\); add"):
        run(StudySettings(folds=2, fold=1))
    with pytest.raises(ValueError, match=r"something else \(.*'folds': 2.*'folds': 3"):
        run(StudySettings(folds=3), resume=True)
    with pytest.raises(ValueError, match=r"lr: 0\.01 then, 0\.5 now"):
        run(StudySettings(folds=2), resume=True, lr=0.5)
    with pytest.raises(ValueError, match="members_of_folds"):
        run(StudySettings(folds=2), resume=True, subjects=SUBJECTS[:-1])
    assert len(fake.begun) == 2


@pytest.mark.parametrize(
    ("study", "message"),
    [
        (StudySettings(folds=6), "2 folds up to one for each of 5 subjects; got 6"),
        (StudySettings(folds=3, fold=3), "--fold: expected 0 to 2; got 3"),
        (StudySettings(folds=3, stratify="scanner"), "the files do not say it"),
        (StudySettings(), "expected --folds or --leave-one-subject-out"),
    ],
)
def test_folds_that_make_no_sense_are_refused_before_the_folder_is_made(
    run: Run, tmp_path: Path, study: StudySettings, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(study)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folds": 1}, "--folds: expected at least 2; got 1"),
        ({"folds": 3, "fold": -1}, "--fold: expected a number of at least 0; got -1"),
        ({"fold": 1}, "--fold is one of --folds or"),
        ({"stratify": "scanner"}, "--stratify balances --folds"),
        ({"leave_one_subject_out": True, "stratify": "scanner"}, "--stratify balances --folds"),
        ({"leave_one_subject_out": True, "folds": 3}, "choose one"),
        ({"ablate": "skips=off", "folds": 3}, "choose one"),
        ({"ablate_grid": True}, "--ablate-grid combines the components of --ablate"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        StudySettings(**changes)  # type: ignore[arg-type]


def test_folds_train_for_real_and_continue_with_the_same_bits(
    make_scans: MakeScans, make_settings: MakeSettings, tmp_path: Path
) -> None:
    scans = make_scans(SUBJECTS[:3])
    settings = make_settings(study=StudySettings(folds=3), max_steps=2)
    whole = cross_validate(settings, scans=scans, train=train_for_real)
    parts = replace(settings, out=tmp_path / "parts")

    def interrupted(one: TrainReconstructorSettings, *scans: SliceDataset) -> TrainingResult:
        if one.out.name == "fold-1":
            raise KeyboardInterrupt
        return train_for_real(one, *scans)

    with pytest.raises(KeyboardInterrupt):
        cross_validate(parts, scans=scans, train=interrupted)
    again = cross_validate(replace(parts, resume=True), scans=scans, train=train_for_real)
    assert again.text() == whole.text()
    for number in range(3):
        files = [out / f"fold-{number}" / "best.safetensors" for out in (settings.out, parts.out)]
        assert files[0].read_bytes() == files[1].read_bytes()
