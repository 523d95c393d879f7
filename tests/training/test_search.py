"""Searches for settings."""

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from activemri.data.slices import SliceDataset, SliceList
from activemri.settings import TrainReconstructorSettings, TuneSettings
from activemri.training.masks import MaskSource
from activemri.training.reconstructor import TrainingDivergedError, TrainingResult
from tests.training.mixture import HeuristicMasks

pytest.importorskip("optuna")
from activemri.training import search as module
from activemri.training.search import SearchResult, search

MakeScans = Callable[..., SliceList]
OnValidation = Callable[[int, float], None]
Score = Callable[[TrainReconstructorSettings, int], float]

SPACE = ("lr=1e-3:1e-1:log", "batch_size=1|2")
TINY: Mapping[str, object] = {
    "max_steps": 4,
    "validate_every": 2,
    "trials": 3,
    "n_center_lines": 4,
    "budget": 6,
    "threads": 1,
    "name": "unet",
    "space": (*SPACE, "loss=l1", "network.channels=2", "network.pools=1"),
}


def tiny(out: Path, **changes: object) -> TuneSettings:
    return TuneSettings(**{**TINY, "out": out, **changes})  # type: ignore[arg-type]


def heuristic(scans: SliceDataset) -> MaskSource:
    return HeuristicMasks(4, budget=6)


@pytest.fixture
def run(make_scans: MakeScans) -> Callable[[TuneSettings], SearchResult]:
    def run(settings: TuneSettings) -> SearchResult:
        return search(
            settings,
            make_masks=heuristic,
            train=make_scans(["a", "b"]),
            validation=make_scans(["dd"]),
        )

    return run


Run = Callable[[TuneSettings], SearchResult]


class FakeTraining:
    """Stands in for trainings: validates every 2 steps with a score that is made up."""

    def __init__(self, score: Score) -> None:
        self.score = score
        self.begun: list[TrainReconstructorSettings] = []
        self.steps: list[int] = []
        self.before: Callable[[TrainReconstructorSettings], None] = lambda settings: None

    def __call__(
        self, settings: TrainReconstructorSettings, *, on_validation: OnValidation, **_: object
    ) -> TrainingResult:
        (settings.out / "settings.json").touch()
        self.begun.append(settings)
        self.steps.append(0)
        self.before(settings)
        for step in range(0, settings.max_steps + 1, 2):
            self.steps[-1] = step
            on_validation(step, self.score(settings, step))
        return TrainingResult(settings.out / "best", 4, self.score(settings, 4), 0.125)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeTraining:
    training = FakeTraining(lambda settings, step: 1 - settings.lr)
    monkeypatch.setattr(module, "train_reconstructor", training)
    return training


def test_a_search_trains_and_leaves_the_best_settings_as_a_command(
    run: Run, tmp_path: Path
) -> None:
    result = run(tiny(tmp_path / "study"))
    best = json.loads((tmp_path / "study" / "best.json").read_text())
    assert best["ssim"] == result.ssim > result.zero_filled_ssim == best["zero_filled_ssim"]
    assert set(best["values"]) == {"lr", "batch_size", "loss", "network.channels", "network.pools"}
    assert best["settings"]["lr"] == best["values"]["lr"] == result.best.lr
    assert f"--lr {best['values']['lr']}" in best["command"]
    assert "--network channels=2 pools=1" in best["command"]
    text = result.text()
    assert best["command"] in text
    assert "3 finished" in text
    assert (Path(best["checkpoint"]).with_suffix(".safetensors")).is_file()
    rows = [line.split() for line in result.table.splitlines()[2:]]
    assert [float(row[1]) for row in rows] == sorted((float(row[1]) for row in rows), reverse=True)
    assert rows[0][0] == Path(best["checkpoint"]).parent.name


def test_the_best_trial_is_that_of_the_best_score(
    fake: FakeTraining, run: Run, tmp_path: Path
) -> None:
    result = run(tiny(tmp_path, trials=8, pruner="none"))
    rates = [settings.lr for settings in fake.begun]
    assert len(set(rates)) == 8
    assert all(1e-3 <= rate <= 1e-1 for rate in rates)
    assert result.best.lr == min(rates)
    assert result.ssim == 1 - min(rates)


class Slope:
    """A score that rises or falls with the learning rate."""

    def __init__(self, sign: int) -> None:
        self.sign = sign

    def __call__(self, settings: TrainReconstructorSettings, step: int) -> float:
        return self.sign * math.log(settings.lr)


def test_the_first_ten_trials_are_drawn_and_results_steer_the_others(
    fake: FakeTraining, run: Run, tmp_path: Path
) -> None:
    rates = []
    for name, sign in (("up", 1), ("again", 1), ("down", -1)):
        fake.score = Slope(sign)
        run(tiny(tmp_path / name, trials=12, pruner="none"))
        rates.append([settings.lr for settings in fake.begun])
        fake.begun.clear()
    assert rates[0] == rates[1]
    assert rates[0][:10] == rates[2][:10]
    assert rates[0][10] > rates[2][10]


@pytest.mark.parametrize("pruner", ["median", "halving"])
def test_what_does_badly_is_stopped_early(
    fake: FakeTraining, run: Run, tmp_path: Path, pruner: str
) -> None:
    fake.score = lambda settings, step: step / 100 - len(fake.begun)  # ever worse
    result = run(tiny(tmp_path, trials=7, max_steps=8, pruner=pruner))
    assert fake.steps[0] == 8
    assert 2 <= fake.steps[-1] < 8
    assert result.counts["stopped early"] >= 1
    assert sum(result.counts.values()) == 7


def test_what_has_come_to_its_end_is_finished_however_bad_its_last_score(
    fake: FakeTraining, run: Run, tmp_path: Path
) -> None:
    fake.score = lambda settings, step: -len(fake.begun)  # ever worse
    assert run(tiny(tmp_path, trials=7, max_steps=2)).counts == {"finished": 7}


def test_nothing_is_stopped_early_without_a_pruner(
    fake: FakeTraining, run: Run, tmp_path: Path
) -> None:
    fake.score = lambda settings, step: step / 100 - len(fake.begun)
    run(tiny(tmp_path, trials=7, max_steps=8, pruner="none"))
    assert fake.steps == [8] * 7


def test_a_search_is_continued_as_if_it_had_not_been_interrupted(
    fake: FakeTraining, run: Run, tmp_path: Path
) -> None:
    whole = run(tiny(tmp_path / "whole", trials=6))
    expected = [settings.lr for settings in fake.begun]
    fake.begun.clear()
    run(tiny(tmp_path / "parts", trials=2))

    def interrupt(settings: TrainReconstructorSettings) -> None:
        if len(fake.begun) in (4, 5):
            raise KeyboardInterrupt

    fake.before = interrupt
    for _ in range(2):  # the second time in what was queued again
        with pytest.raises(KeyboardInterrupt):
            run(tiny(tmp_path / "parts", trials=6, resume=True))
    result = run(tiny(tmp_path / "parts", trials=6, resume=True))
    rates = [settings.lr for settings in fake.begun]
    assert rates == [*expected[:4], expected[3], expected[3], *expected[4:]]
    assert [settings.resume for settings in fake.begun] == [False] * 4 + [True] * 2 + [False] * 2
    assert len({settings.out for settings in fake.begun[3:6]}) == 1
    assert (result.ssim, result.table) == (whole.ssim, whole.table)
    assert result.counts == whole.counts


def test_what_was_reported_before_a_kill_still_counts(
    fake: FakeTraining, run: Run, tmp_path: Path
) -> None:
    scores: dict[str, float] = {}

    def interrupt(settings: TrainReconstructorSettings, step: int) -> float:
        if step == 4 and len(fake.begun) == 1:
            raise KeyboardInterrupt
        return scores.setdefault(f"{len(fake.begun)} {step}", step / 10)

    fake.score = interrupt
    with pytest.raises(KeyboardInterrupt):
        run(tiny(tmp_path, trials=1))
    run(tiny(tmp_path, trials=1, resume=True))
    entries = [json.loads(line) for line in (tmp_path / "study.log").read_text().splitlines()]
    reported = [(e["trial_id"], e["step"]) for e in entries if "step" in e]
    assert reported == [(0, 2), (1, 2), (1, 4)]


def test_a_kill_while_a_trial_is_queued_again_does_not_queue_it_twice(
    fake: FakeTraining, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    fake.before = interrupt
    with pytest.raises(KeyboardInterrupt):
        run(tiny(tmp_path, trials=2))
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("optuna.Study.tell", interrupt)
        run(tiny(tmp_path, trials=2, resume=True))
    fake.before = lambda settings: None
    assert run(tiny(tmp_path, trials=2, resume=True)).counts == {"finished": 2}
    assert [settings.out.name for settings in fake.begun] == ["trial-0000"] * 2 + ["trial-0001"]


def test_two_processes_share_a_study(fake: FakeTraining, run: Run, tmp_path: Path) -> None:
    other: list[SearchResult] = []
    settings_of_both = tiny(tmp_path, trials=6, pruner="none")

    def help_out(settings: TrainReconstructorSettings) -> None:
        if len(fake.begun) == 2:  # while the second trial runs, another process does the others
            other.append(run(replace(settings_of_both, resume=True)))

    fake.before = help_out
    result = run(settings_of_both)
    assert other[0].counts == {"finished": 5, "running": 1}
    assert result.counts == {"finished": 6}
    assert len({settings.lr for settings in fake.begun}) == 6
    assert len({settings.out for settings in fake.begun}) == 6


def test_values_that_cannot_be_trained_with_are_left_behind(
    fake: FakeTraining, run: Run, tmp_path: Path
) -> None:
    def diverge(settings: TrainReconstructorSettings) -> None:
        if len(fake.begun) == 1:
            raise TrainingDivergedError("loss nan")

    fake.before = diverge
    result = run(tiny(tmp_path))
    assert result.counts == {"finished": 2, "failed": 1}


def test_a_search_in_which_all_fail_says_why(fake: FakeTraining, run: Run, tmp_path: Path) -> None:
    def diverge(settings: TrainReconstructorSettings) -> None:
        raise TrainingDivergedError(f"loss nan in {len(fake.begun)}")

    fake.before = diverge
    with pytest.raises(ValueError, match=r"no trial .* was finished, the first: loss nan in 1"):
        run(tiny(tmp_path))


def test_a_folder_with_a_search_is_not_taken_by_accident(
    fake: FakeTraining, run: Run, tmp_path: Path
) -> None:
    settings = tiny(tmp_path / "study")
    with pytest.raises(ValueError, match=r"there is no search in .*study; leave --resume out"):
        run(replace(settings, resume=True))
    run(settings)
    with pytest.raises(ValueError, match=r"holds a study already \(search\); add"):
        run(settings)
    with pytest.raises(
        ValueError, match=r"with something else \(space: .*; max_steps: 4 then, 9 now\)"
    ):
        run(replace(settings, resume=True, max_steps=9, space=("lr=1:2",)))
    n_begun = len(fake.begun)
    assert run(replace(settings, resume=True)).counts == {"finished": 3}
    assert len(fake.begun) == n_begun


def test_a_space_that_makes_no_sense_is_refused_before_the_folder_is_made(
    run: Run, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="cannot search 'size'"):
        run(tiny(tmp_path / "study", space=("size=1:2",)))
    assert not (tmp_path / "study").exists()


def test_the_test_split_is_never_opened(
    fake: FakeTraining, make_scans: MakeScans, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    opened: list[tuple[object, object, object]] = []

    def open_dataset(data: str, *, split: str, matrix_size: int | None) -> SliceList:
        opened.append((data, split, matrix_size))
        return make_scans([split])

    monkeypatch.setattr(module, "open_dataset", open_dataset)
    search(tiny(tmp_path, data="D", matrix=12), make_masks=heuristic)
    assert opened == [("D", "train", 12), ("D", "val", 12)]


class KillingMasks(HeuristicMasks):
    """Kills its process when so many masks were drawn for training."""

    n_left = 11

    def __call__(self, *arguments: object, **named: object):  # type: ignore[no-untyped-def]
        self.n_left -= "step" not in named
        if self.n_left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(*arguments, **named)  # type: ignore[arg-type]


KillingMasks.__name__ = HeuristicMasks.__name__  # a resumed training must have the same masks


def test_a_search_killed_outright_ends_with_the_same_best_weights(run: Run, tmp_path: Path) -> None:
    changes = {"space": (*SPACE[:1], "batch_size=2", *TINY["space"][2:])}  # type: ignore[index]
    whole = run(tiny(tmp_path / "whole", **changes))
    killed = tiny(tmp_path / "killed", **changes)
    code = (
        "from pathlib import Path, PosixPath\n"
        "from activemri.settings import TuneSettings\n"
        "from activemri.training.search import search\n"
        "from tests.training.conftest import discs\n"
        "from tests.training.test_search import KillingMasks\n"
        f"search(TuneSettings(**{vars(killed)!r}), train=discs(['a', 'b']),\n"
        "    validation=discs(['dd']), make_masks=lambda scans: KillingMasks(4, budget=6))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert (tmp_path / "killed" / "trial-0001" / "last.pt").is_file()  # in the second training
    result = run(replace(killed, resume=True))
    assert (result.ssim, result.table) == (whole.ssim, whole.table)
    weights = [r.best.out.joinpath("best.safetensors").read_bytes() for r in (whole, result)]
    assert weights[0] == weights[1]
