"""Sweeps: folds, grids, ablations and searches of any command that trains."""

import json
import math
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from activemri.data.slices import SliceDataset, SliceList
from activemri.data.views import subjects_of
from activemri.options import RunOptions, described, with_values
from activemri.training.loop import DivergedError, OnValidation, Trained
from activemri.training.reconstructor import TrainReconstructorSettings, train_reconstructor
from activemri.training.sweep import Range, SweepSettings, parse_axis, run_sweep
from tests.training.scans import discs, random_moments, tiny

SUBJECTS = ["a", "bb", "ccc", "dddd", "eeeee"]
SEARCH = {"vary": ("lr=1e-3:1e-1:log", "batch_size=1|2")}


class FakeTraining:
    """Stands in for trainings: validates every 2 steps with a score that is made up."""

    def __init__(self) -> None:
        self.score: Callable[[Any, int], float] = lambda settings, step: 1 - settings.lr
        self.before: Callable[[Any], None] = lambda settings: None
        self.begun: list[Any] = []
        self.steps: list[int] = []
        self.splits: list[tuple[list[str], list[str]]] = []

    def __call__(
        self,
        settings: Any,
        *,
        train: SliceDataset,
        validation: SliceDataset,
        on_validation: OnValidation = lambda step, score: None,
    ) -> Trained:
        with settings.folder().open(described(settings)):
            pass
        self.begun.append(settings)
        self.splits.append((subjects_of(train), subjects_of(validation)))
        self.steps.append(0)
        self.before(settings)
        for step in range(0, settings.max_steps + 1, 2):
            self.steps[-1] = step
            on_validation(step, self.score(settings, step))
        score = self.score(settings, settings.max_steps)
        return Trained(
            checkpoint=settings.run.out / "best", best_step=4, best_score=score, baseline=0.125
        )


@pytest.fixture
def fake() -> FakeTraining:
    return FakeTraining()


def sweep(
    out: Path, train: Any, *, resume: bool = False, base: dict[str, Any] | None = None, **own: Any
) -> Any:
    """Sweep tiny trainings."""
    settings = SweepSettings(
        run=RunOptions(out=out, resume=resume),
        command="train reconstructor",
        base=tiny(Path("unused"), **{"max_steps": 4, **(base or {})}),
        train=train,
        **own,
    )
    scans = discs(SUBJECTS[:3]), discs(SUBJECTS)
    validation = SliceList([s for s in scans[1].slices if s.subject in SUBJECTS[3:]], "val")
    return run_sweep(settings, train=scans[0], validation=validation)


def summed_up(out: Path) -> Any:
    return json.loads((out / "sweep.json").read_text())


def counts(text: str) -> str:
    """The line of a search's text that counts trials."""
    return text.splitlines()[-3]


def test_every_fold_is_trained_with_other_subjects(fake: FakeTraining, tmp_path: Path) -> None:
    fake.score = lambda settings, step: float(len(fake.splits[-1][1])) / 10
    found = sweep(tmp_path, fake, folds=3)
    assert [one.run.out for one in fake.begun] == [tmp_path / f"fold-{n}" for n in range(3)]
    assert sorted(s for _, validation in fake.splits for s in validation) == SUBJECTS
    for train, validation in fake.splits:
        assert sorted(train + validation) == SUBJECTS
    written = summed_up(tmp_path)
    scores = [0.2, 0.2, 0.1]
    assert [one["best_score"] for one in written["members"].values()] == scores
    assert written["mean"]["best_score"] == pytest.approx(np.mean(scores))
    assert written["sd"]["best_score"] == pytest.approx(np.std(scores, ddof=1))
    assert written["mean"]["gain"] == pytest.approx(np.mean(scores) - 0.125)
    rows = [line.split() for line in found.splitlines()]
    assert rows[5][0] == "mean" and rows[5][-4:] == ["0.1250", "0.1667", "0.0417", "-"]
    assert rows[-1] == "3 of 3 trained".split()


def test_single_folds_are_trained_one_by_one_into_one_table(
    fake: FakeTraining, tmp_path: Path
) -> None:
    whole = sweep(tmp_path / "whole", fake, folds=3)
    parts = sweep(tmp_path / "parts", fake, folds=3, fold=2)
    assert "1 of 3 trained" in str(parts)
    assert summed_up(tmp_path / "parts")["sd"]["best_score"] is None
    for number in (0, 1):
        parts = sweep(tmp_path / "parts", fake, folds=3, fold=number)
    assert str(parts) == whole
    with pytest.raises(ValueError, match="add --resume"):
        sweep(tmp_path / "parts", fake, folds=3, fold=1)


def test_labels_are_balanced_and_single_subjects_left_out(
    fake: FakeTraining, tmp_path: Path
) -> None:
    sweep(tmp_path, fake, leave_one_subject_out=True)
    assert [validation for _, validation in fake.splits] == [[s] for s in SUBJECTS]
    rare = ("s2", "s3")
    slices = discs([f"s{number}" for number in range(8)]).slices
    scans = [replace(s, scanner="AB"[s.subject in rare]) for s in slices]
    settings = SweepSettings(
        run=RunOptions(out=tmp_path / "strata"),
        folds=2,
        stratify="scanner",
        base=tiny(Path("unused")),
        train=fake,
    )
    parts = SliceList(scans[:8]), SliceList(scans[8:])
    run_sweep(settings, train=parts[0], validation=parts[1])
    assert [len(set(rare) & set(validation)) for _, validation in fake.splits[-2:]] == [1, 1]


def test_values_are_varied_alone_or_in_all_combinations(fake: FakeTraining, tmp_path: Path) -> None:
    vary = ("lr=0.1|0.2", "network.channels=4")
    found = sweep(tmp_path / "alone", fake, vary=vary, alone=True)
    members = summed_up(tmp_path / "alone")["members"]
    assert list(members) == ["full", "lr=0.1", "lr=0.2", "network.channels=4"]
    assert [one.lr for one in fake.begun] == [0.01, 0.1, 0.2, 0.01]
    assert fake.begun[-1].network == {"channels": 4, "pools": 1}
    row = members["lr=0.2"]
    assert row["gain"] == pytest.approx(-0.19)
    assert "--lr 0.2" in row["command"] and "--network.channels 2" in row["command"]
    assert ["lr=0.1", "0.1250", "0.9000", "-0.0900", "4"] in [
        line.split() for line in found.splitlines()
    ]
    sweep(tmp_path / "grid", fake, vary=vary)
    assert list(summed_up(tmp_path / "grid")["members"]) == [
        "lr=0.1_network.channels=4",
        "lr=0.2_network.channels=4",
    ]
    with pytest.raises(ValueError, match=r"lr=0\.01: it is so already"):
        sweep(tmp_path / "same", fake, vary=("lr=0.01",), alone=True)


def test_an_interrupted_sweep_trains_only_what_is_missing(
    fake: FakeTraining, tmp_path: Path
) -> None:
    def interrupt(settings: Any) -> None:
        if len(fake.begun) == 2:
            raise KeyboardInterrupt

    fake.before = interrupt
    with pytest.raises(KeyboardInterrupt):
        sweep(tmp_path, fake, folds=3)
    found = sweep(tmp_path, fake, folds=3, resume=True)
    begun = [(one.run.out.name, one.run.resume) for one in fake.begun]
    assert begun == [("fold-0", False), ("fold-1", False), ("fold-1", True), ("fold-2", False)]
    assert str(sweep(tmp_path, fake, folds=3, resume=True)) == found
    assert len(fake.begun) == 4


def test_only_the_same_sweep_is_continued(fake: FakeTraining, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="leave --resume out"):
        sweep(tmp_path, fake, folds=2, resume=True)
    sweep(tmp_path, fake, folds=2)
    with pytest.raises(ValueError, match="add --resume"):
        sweep(tmp_path, fake, folds=2)
    with pytest.raises(ValueError, match="folds: 2 then, 3 now"):
        sweep(tmp_path, fake, folds=3, resume=True)
    with pytest.raises(ValueError, match=r"lr: 0\.01 then, 0\.5 now"):
        sweep(tmp_path, fake, folds=2, resume=True, base={"lr": 0.5})
    assert len(fake.begun) == 2


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({}, "a sweep is over something"),
        ({"folds": 1}, "--folds: expected at least 2"),
        ({"folds": 6}, "2 folds up to one for each of 5 subjects; got 6"),
        ({"folds": 3, "fold": 3}, "--fold: expected 0 to 2; got 3"),
        ({"folds": 3, "stratify": "scanner"}, "the files do not say it"),
        ({"fold": 1}, "--fold is one of --folds"),
        ({"stratify": "scanner"}, "--stratify balances --folds"),
        ({"leave_one_subject_out": True, "folds": 3}, "choose one"),
        ({"vary": ("lr=1|2",), "folds": 3}, "choose one"),
        ({"alone": True}, "about --vary"),
        ({"vary": ("lr=1:2",)}, "a range is for a search; add --trials"),
        ({"vary": ("lr=1|2", "lr=3")}, "lr is there twice"),
        ({"vary": ("loss=l1|l9",)}, "unknown loss 'l9'"),
        ({"vary": ("network.channels=0",)}, "channels"),
        ({"vary": ("budget=4:8",), "trials": 2}, "differ in budget cannot be compared"),
        ({"vary": ("size=1:2",), "trials": 2}, "cannot vary 'size'"),
    ],
)
def test_sweeps_that_make_no_sense_are_refused_before_the_folder_is_made(
    fake: FakeTraining, tmp_path: Path, own: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        sweep(tmp_path / "run", fake, **own)
    assert not (tmp_path / "run").exists()
    assert fake.begun == []


def test_axes_are_ranges_or_choices() -> None:
    settings = TrainReconstructorSettings()
    assert parse_axis("lr=1e-4:1e-2:log", settings) == ("lr", Range(1e-4, 1e-2, True, False))
    assert parse_axis("batch-size=2:8", settings) == ("batch_size", Range(2, 8, False, True))
    assert parse_axis("network.blocks=1:4", settings)[1] == Range(1, 4, False, True)
    assert parse_axis("network.dropout=0.0:0.5", settings)[1] == Range(0.0, 0.5, False, False)
    assert parse_axis("loss=l1+ssim|l1", settings) == ("loss", ("l1+ssim", "l1"))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("lr", "expected KEY=A|B|C"),
        ("lr=", "expected KEY=A|B|C"),
        ("lr=a:b", "could not convert"),
        ("batch_size=1:2.5", "invalid literal"),
        ("lr=2:1", "expected a smaller and a larger number$"),
        ("lr=0:1:log", "a smaller and a larger number above 0"),
        ("lr=nan:1", "a smaller and a larger number"),
        ("lr=0:1", r"--lr: expected a number above 0; got 0\.0"),
        ("batch_size=2|x", "invalid literal"),
        ("network.skips=maybe", "expected true or false"),
        ("network.=1:2", "cannot vary 'network.'"),
        ("out=1|2", "cannot vary 'out'"),
    ],
)
def test_axes_that_make_no_sense_are_quoted(word: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse_axis(word, TrainReconstructorSettings())
    assert f"--vary {word}" in str(caught.value)


def test_values_are_read_as_the_types_of_their_options() -> None:
    texts = {"lr": "0.25", "batch_size": "7", "patience": "3", "augment": "flip,phase"}
    found = with_values(TrainReconstructorSettings(), {**texts, "network.skips": "false"})
    assert (found.lr, found.batch_size, found.patience) == (0.25, 7, 3)
    assert (found.augment, found.network) == (("flip", "phase"), {"skips": False})
    adapted = TrainReconstructorSettings().adapted(lambda option: None)  # as the command line does
    values = {"network.pools": 2, "reconstructor": "unet", "patience": "None"}
    other = with_values(adapted, values)
    assert (other.protocol.reconstructor, other.patience) == ("unet", None)
    assert other.network == {"pools": 2}


def test_folds_train_for_real_and_continue_with_the_same_bits(tmp_path: Path) -> None:
    def train(settings: Any, **given: Any) -> Trained:
        return train_reconstructor(settings, moments=random_moments(), **given)

    def interrupted(settings: Any, **given: Any) -> Trained:
        if settings.run.out.name == "fold-1":
            raise KeyboardInterrupt
        return train(settings, **given)

    whole = sweep(tmp_path / "whole", train, folds=2)
    with pytest.raises(KeyboardInterrupt):
        sweep(tmp_path / "parts", interrupted, folds=2)
    assert str(sweep(tmp_path / "parts", train, folds=2, resume=True)) == whole
    for name in ("fold-0", "fold-1"):
        files = [tmp_path / out / name / "best.safetensors" for out in ("whole", "parts")]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_episodes_are_recorded_once_for_all_trainings_of_a_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded: list[int] = []

    def record(settings: Any, train: SliceDataset, validation: SliceDataset) -> Any:
        recorded.append(settings.protocol.budget)
        return random_moments()

    monkeypatch.setattr("activemri.training.reconstructor.recorded_moments", record)
    sweep(tmp_path, train_reconstructor, vary=("lr=0.1|0.2", "budget=5|6"), base={"max_steps": 1})
    assert sorted(recorded) == [5, 6]


# Searches


@pytest.fixture
def search(fake: FakeTraining, tmp_path: Path) -> Callable[..., Any]:
    pytest.importorskip("optuna")

    def run(name: str = "study", *, trials: int = 3, **own: Any) -> Any:
        return sweep(tmp_path / name, own.pop("train", fake), trials=trials, **{**SEARCH, **own})

    return run


def test_the_best_trial_is_that_of_the_best_score(
    fake: FakeTraining, search: Callable[..., Any], tmp_path: Path
) -> None:
    result = search(trials=8, pruner="none")
    rates = [settings.lr for settings in fake.begun]
    assert len(set(rates)) == 8
    assert all(1e-3 <= rate <= 1e-1 for rate in rates)
    best = json.loads((tmp_path / "study" / "best.json").read_text())
    assert counts(result) == "8 finished"
    assert best["settings"]["lr"] == best["values"]["lr"] == min(rates)
    assert best["score"] == 1 - min(rates)
    assert f"--lr {min(rates)}" in best["command"] and best["command"] in result
    rows = [float(line.split()[1]) for line in result.splitlines()[2:10]]
    assert rows == sorted(rows, reverse=True)


def test_the_first_ten_trials_are_drawn_and_results_steer_the_others(
    fake: FakeTraining, search: Callable[..., Any]
) -> None:
    rates = []
    for name, sign in (("up", 1), ("again", 1), ("down", -1)):
        fake.score = lambda settings, step, sign=sign: sign * math.log(settings.lr)  # type: ignore[misc]
        search(name, trials=11, pruner="none")
        rates.append([settings.lr for settings in fake.begun])
        fake.begun.clear()
    assert rates[0] == rates[1]
    assert rates[0][:10] == rates[2][:10]
    assert rates[0][10] > rates[2][10]


@pytest.mark.parametrize("pruner", ["median", "halving", "none"])
def test_trainings_that_do_badly_are_stopped_early(
    fake: FakeTraining, search: Callable[..., Any], pruner: str
) -> None:
    fake.score = lambda settings, step: step / 100 - len(fake.begun)  # ever worse
    result = search(trials=7, base={"max_steps": 8}, pruner=pruner)
    assert fake.steps[0] == 8
    assert (fake.steps[-1] < 8) == (pruner != "none")
    assert ("stopped early" in counts(result)) == (pruner != "none")
    assert sum(map(int, re.findall(r"\d+", counts(result)))) == 7


def test_trainings_that_came_to_their_end_are_finished_however_bad(
    fake: FakeTraining, search: Callable[..., Any]
) -> None:
    fake.score = lambda settings, step: -len(fake.begun)  # ever worse
    assert counts(search(trials=7, base={"max_steps": 2})) == "7 finished"


def test_a_search_is_continued_as_if_it_had_not_been_interrupted(
    fake: FakeTraining, search: Callable[..., Any]
) -> None:
    whole = search("whole", trials=6)
    expected = [settings.lr for settings in fake.begun]
    fake.begun.clear()
    search("parts", trials=2)

    def interrupt(settings: Any) -> None:
        if len(fake.begun) in (4, 5):
            raise KeyboardInterrupt

    fake.before = interrupt
    for _ in range(2):  # the second time in what was queued again
        with pytest.raises(KeyboardInterrupt):
            search("parts", trials=6, resume=True)
    result = search("parts", trials=6, resume=True)
    rates = [settings.lr for settings in fake.begun]
    assert rates == [*expected[:4], expected[3], expected[3], *expected[4:]]
    assert [one.run.resume for one in fake.begun] == [False] * 4 + [True] * 2 + [False] * 2
    assert len({one.run.out for one in fake.begun[3:6]}) == 1
    assert result.replace("parts", "whole") == whole


def test_reports_from_before_a_kill_still_count(
    fake: FakeTraining, search: Callable[..., Any], tmp_path: Path
) -> None:
    def interrupt(settings: Any, step: int) -> float:
        if step == 4 and len(fake.begun) == 1:
            raise KeyboardInterrupt
        return step / 10

    fake.score = interrupt
    with pytest.raises(KeyboardInterrupt):
        search(trials=1)
    search(trials=1, resume=True)
    log = (tmp_path / "study" / "study.log").read_text().splitlines()
    entries = [json.loads(line) for line in log]
    reported = [(e["trial_id"], e["step"]) for e in entries if "step" in e]
    assert reported == [(0, 2), (1, 2), (1, 4)]


def test_a_kill_while_a_trial_is_queued_again_does_not_queue_it_twice(
    fake: FakeTraining, search: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    fake.before = interrupt
    with pytest.raises(KeyboardInterrupt):
        search(trials=2)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("optuna.Study.tell", interrupt)
        search(trials=2, resume=True)
    fake.before = lambda settings: None
    assert counts(search(trials=2, resume=True)) == "2 finished"
    assert [one.run.out.name for one in fake.begun] == ["trial-0000"] * 2 + ["trial-0001"]


def test_two_processes_share_a_search(fake: FakeTraining, search: Callable[..., Any]) -> None:
    other: list[Any] = []

    def help_out(settings: Any) -> None:
        if len(fake.begun) == 2:  # while the second trial runs, another process does the others
            other.append(search(trials=6, pruner="none", resume=True))

    fake.before = help_out
    assert counts(search(trials=6, pruner="none")) == "6 finished"
    assert counts(other[0]) == "5 finished, 1 running"
    assert len({one.lr for one in fake.begun}) == len({one.run.out for one in fake.begun}) == 6


def test_values_that_cannot_be_trained_with_are_left_behind(
    fake: FakeTraining, search: Callable[..., Any]
) -> None:
    diverges = 1

    def diverge(settings: Any) -> None:
        if len(fake.begun) <= diverges:
            raise DivergedError(f"loss nan in {len(fake.begun)}")

    fake.before = diverge
    assert counts(search("some")) == "2 finished, 1 failed"
    diverges = 9
    with pytest.raises(ValueError, match=r"no trial .* was finished, the first: loss nan in 4"):
        search("all")


@pytest.mark.long
def test_a_search_killed_outright_ends_with_the_same_best_weights(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    whole = real_search(tmp_path / "whole")
    code = (
        "from pathlib import Path\n"
        "from tests.training.test_sweep import real_search\n"
        f"real_search(Path({str(tmp_path / 'killed')!r}), kill_at=6)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert (tmp_path / "killed" / "trial-0001" / "last.pt").is_file()  # in the second training
    result = real_search(tmp_path / "killed", resume=True)
    assert result.replace(str(tmp_path / "killed"), str(tmp_path / "whole")) == whole
    bests = [json.loads((tmp_path / n / "best.json").read_text()) for n in ("whole", "killed")]
    paths = [Path(best["checkpoint"]) for best in bests]
    weights = [path.with_suffix(".safetensors").read_bytes() for path in paths]
    assert weights[0] == weights[1]


def real_search(out: Path, *, kill_at: int = -1, resume: bool = False) -> Any:
    """Search with trainings; the process is killed at that validation."""
    n_validated = 0

    def train(settings: Any, *, on_validation: OnValidation, **given: Any) -> Trained:
        def watched(step: int, score: float) -> None:
            nonlocal n_validated
            n_validated += 1
            if n_validated == kill_at:
                signal.raise_signal(signal.SIGKILL)
            on_validation(step, score)

        return train_reconstructor(
            settings, moments=random_moments(), on_validation=watched, **given
        )

    return sweep(out, train, trials=3, vary=("lr=1e-3:1e-1:log",), resume=resume)
