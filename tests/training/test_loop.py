import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from activemri.options import RunOptions
from activemri.training.folder import RunFolder
from activemri.training.loop import DivergedError, ShowProgress, Trained, train


class Walk:
    """A random walk that is best at step 6, and diverges at a step if told so."""

    def __init__(self, *, diverges_at: int | None = None) -> None:
        self.step, self.place = 0, torch.zeros(2)
        self.generator = torch.Generator().manual_seed(3)
        self.diverges_at = diverges_at

    def learn(self, n_steps: int, progress: ShowProgress, /) -> Mapping[str, float]:
        for _ in range(n_steps):
            if self.step == self.diverges_at:
                raise DivergedError("loss nan; try a smaller --lr")
            self.place += torch.randn(2, generator=self.generator)
            self.step += 1
            progress(loss=float(self.step))
        return {"loss": float(self.step)}

    def validate(self, progress: ShowProgress, /) -> tuple[float, dict[str, Any]]:
        progress()
        return -abs(self.step - 6.0), {"validation_x": 1.0}

    def save(self, path: Path, entries: Mapping[str, Any], /) -> None:
        path.with_suffix(".json").write_text(json.dumps({"step": self.step, **entries}))

    def state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "place": self.place.clone(),
            "generator": self.generator.get_state(),
        }

    def restore(self, state: Mapping[str, Any], /) -> None:
        self.step, self.place = state["step"], state["place"].clone()
        self.generator.set_state(state["generator"])


def walk(
    path: Path,
    trainee: Walk,
    *,
    n_steps: int = 10,
    resume: bool = False,
    patience: int | None = None,
    **options: Any,
) -> Trained:
    folder = run_folder(path, resume=resume)
    with folder.open({"n_steps": 10}) as state:
        return train(
            trainee,
            folder,
            name="walk",
            n_steps=n_steps,
            validate_every=2,
            patience=patience,
            state=state,
            **options,
        )


def run_folder(path: Path, **options: bool) -> RunFolder:
    return RunFolder(RunOptions(out=path, **options), "train policy")


def opened(path: Path, settings: Mapping[str, object], **options: bool) -> Mapping[str, Any] | None:
    """The state that a run finds, which ends at once."""
    with run_folder(path, **options).open(settings) as state:
        return state


def entries(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "log.jsonl").read_text().splitlines()]


def test_the_best_weights_and_one_entry_for_each_validation_are_kept(tmp_path: Path) -> None:
    told: list[tuple[int, float]] = []
    best = walk(tmp_path, Walk(), n_steps=9, on_validation=lambda *x: told.append(x))
    assert (best.checkpoint, best.best_step, best.best_score) == (tmp_path / "best", 6, 0.0)
    assert json.loads((tmp_path / "best.json").read_text()) == {"step": 6, "validation_x": 1.0}
    assert [entry["step"] for entry in entries(tmp_path)] == [0, 2, 4, 6, 8, 9]
    assert [entry["best_step"] for entry in entries(tmp_path)] == [0, 2, 4, 6, 6, 6]
    assert told == [(step, -abs(step - 6.0)) for step in (0, 2, 4, 6, 8, 9)]


def test_a_killed_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    whole, killed, resumed = Walk(), Walk(), Walk()
    walk(tmp_path / "whole", whole)

    def kill(step: int, _: float) -> None:
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        walk(tmp_path / "other", killed, on_validation=kill)
    best = walk(tmp_path / "other", resumed, resume=True)
    assert (best.best_step, best.best_score) == (6, 0.0)
    assert torch.equal(whole.place, resumed.place)
    one, other = entries(tmp_path / "whole"), entries(tmp_path / "other")
    assert [e | {"seconds": 0} for e in one] == [e | {"seconds": 0} for e in other]


def test_patience_ends_a_run_that_no_longer_gets_better(tmp_path: Path) -> None:
    trainee = Walk()
    assert walk(tmp_path, trainee, n_steps=100, patience=2).best_step == 6
    assert trainee.step == 10


def test_divergence_is_one_error_that_says_where_the_best_weights_are(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"step 9.*smaller --lr.*from step 6") as caught:
        walk(tmp_path, Walk(diverges_at=9))
    assert str(tmp_path / "best") in str(caught.value)
    assert json.loads((tmp_path / "best.json").read_text())["step"] == 6


def test_progress_is_readable_in_a_log_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("activemri.progress.LINE_EVERY_S", 0.0)
    walk(tmp_path, Walk())
    shown = capsys.readouterr().err
    assert "\r" not in shown
    assert "train walk: 3 of 10 steps" in shown
    assert "loss 3" in shown


def test_a_folder_is_continued_with_the_same_settings_only(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with pytest.raises(ValueError, match="leave --resume out"):
        opened(path, {"lr": 1.0}, resume=True)
    assert opened(path, {"lr": 1.0, "sizes": (1, 2)}) is None
    run_folder(path).save({"step": 3, "weights": torch.ones(2)})
    with pytest.raises(ValueError, match="add --resume"):
        run_folder(path).check({"lr": 1.0})
    with pytest.raises(ValueError, match=r"lr: 1\.0 then, 2\.0 now"):
        opened(path, {"lr": 2.0}, resume=True)
    state = opened(path, {"lr": 1.0, "sizes": (1, 2)}, resume=True)
    assert state is not None
    assert state["step"] == 3
    (path / "last.pt").write_bytes(b"garbage")
    with pytest.raises(ValueError, match=r"last\.pt cannot be read"):
        opened(path, {"lr": 1.0}, resume=True)
    (path / "settings.json").write_text("[")
    with pytest.raises(ValueError, match=r"settings\.json cannot be read"):
        opened(path, {"lr": 1.0}, resume=True)


def test_a_run_that_is_overwritten_starts_anew_and_leaves_other_files(tmp_path: Path) -> None:
    walk(tmp_path / "run", Walk())
    own = tmp_path / "run" / "notes.md"
    own.write_text("mine")
    assert opened(tmp_path / "run", {"lr": 3.0}, overwrite=True) is None
    left = {path.name for path in own.parent.iterdir()}
    assert left == {"notes.md", ".lock", "activemri.json", "settings.json"}


def test_a_folder_that_belongs_to_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "best.safetensors").touch()
    with pytest.raises(ValueError, match=r"best\.safetensors"):
        run_folder(tmp_path, overwrite=True).check({})
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="cannot be written"):
        run_folder(tmp_path / "file").check({})


def test_an_earlier_entry_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    for name, step in (("a", 0), ("a", 5), ("b", 0), ("a", 5), ("a", 3)):
        folder.log({"training": name, "step": step, "x": math.pi})
    assert [(e["training"], e["step"]) for e in entries(tmp_path)] == [("a", 0), ("b", 0), ("a", 3)]
