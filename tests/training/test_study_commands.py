"""Cross-validation, ablation and search from the command line, on tiny files."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from activemri import cli
from tests.data.files import write_image

TINY = "--matrix 16 --max-steps 2 --budget 4 --n-center-lines 2 --threads 1 --name unet"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three subjects to train, two to validate, one to test."""
    for number, split in enumerate(("train", "train", "train", "val", "val", "test")):
        write_image(
            tmp_path / "data" / f"{number}.h5",
            shape=(1, 16, 16),
            seed=number,
            magnitude=False,
            subject_id=f"s{number}",
            contrast="T1" if number % 2 else "T2",
            split=split,
        )
    return tmp_path / "data"


def run(command: str, data: Path, *more: str) -> int:
    return cli.main([*command.split(), "--data", str(data), *TINY.split(), *more])


def test_folds_are_trained_from_train_and_val_and_never_from_test(
    data: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    line = f"train reconstructor --network channels=2 pools=1 --folds 2 --fold 1 --out {out}"
    assert run(line, data) == 0
    assert "1 of 2 folds trained" in capsys.readouterr().out
    folds = json.loads((out / "folds.json").read_text())["folds"]
    for fold in folds:
        assert sorted(fold["train"] + fold["validation"]) == ["s0", "s1", "s2", "s3", "s4"]
    assert [(fold["best_ssim"] is not None) for fold in folds] == [False, True]
    assert "--folds 2 --fold 1" in (out / "fold-1" / "best.json").read_text()
    assert run(line, data) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("activemri: error: ")
    assert "holds a study already (cross-validation); add --resume" in message


def test_an_ablation_is_trained_and_continued(
    data: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    line = f"train joint --schedule alternating --network channels=2 pools=1 --out {out}"
    line += " --ablate augmentation=off,adversarial=off"
    assert run(line, data) == 0
    table = capsys.readouterr().out
    names = [row.split()[0] for row in table.splitlines()[2:]]
    assert names == ["full", "no-augmentation", "no-adversarial"]
    assert run(line, data, "--resume") == 0
    assert capsys.readouterr().out == table


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train reconstructor --ablate skips=off", "--ablate: cannot switch skips off: the netw"),
        ("train reconstructor --ablate colour=off", "--ablate: unknown component 'colour'"),
        ("train reconstructor --folds 9", "expected 2 folds up to one for each of 5 subjects"),
        ("tune --space lr=3:1", "--space lr=3:1: expected a smaller and a larger number"),
        ("tune --space size=3:4", "--space: cannot search 'size'"),
        ("tune --resume", "--resume: there is no search in"),
    ],
)
def test_a_mistake_is_one_line(
    data: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, line: str, message: str
) -> None:
    if line.startswith("tune"):
        pytest.importorskip("optuna")
    assert run(f"{line} --out {tmp_path / 'out'}", data) == 2
    shown = capsys.readouterr().err.splitlines()
    assert len(shown) == 1
    assert message in shown[0]


def test_a_search_ends_with_the_command_to_train_the_best(
    data: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("optuna")
    out = tmp_path / "out"
    space = "--space lr=1e-3:1e-1:log network.channels=2:4 --network pools=1 --trials 2"
    assert run(f"tune --out {out} {space}", data) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == json.loads((out / "best.json").read_text())["command"]
    assert cli.main([*last.split()[1:], "--out", str(tmp_path / "again"), "--threads", "1"]) == 0
    weights = [
        next(folder.glob("**/best.safetensors")).read_bytes()
        for folder in (Path(best_checkpoint(out)).parent, tmp_path / "again")
    ]
    assert weights[0] == weights[1]


def best_checkpoint(out: Path) -> str:
    return str(json.loads((out / "best.json").read_text())["checkpoint"])


def test_a_search_without_optuna_names_the_extra(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, "activemri.training.search", raising=False)
    assert run(f"tune --out {tmp_path / 'out'}", data) == 2
    assert 'pip install "activemri[hpo]"' in capsys.readouterr().err


def test_only_the_first_of_several_processes_speaks(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    line = f"train reconstructor --network channels=2 pools=1 --folds 2 --out {tmp_path / 'out'}"
    assert run(line, data) == 0
    assert "2 of 2 folds trained" in capsys.readouterr().out
    monkeypatch.setenv("RANK", "1")  # what it does is done already
    assert run(line, data, "--resume") == 0
    assert capsys.readouterr().out == ""


@pytest.mark.long
def test_two_processes_train_the_folds_that_one_would(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    line = f"train reconstructor --network channels=2 pools=1 --folds 2 --data {data} {TINY}"
    commands = {
        "one": [sys.executable, "-m", "activemri.cli"],
        "two": [
            sys.executable,
            *"-m torch.distributed.run --nproc-per-node 2 -m activemri.cli".split(),
        ],
    }
    for name, start in commands.items():
        done = subprocess.run(
            [*start, *line.split(), "--out", str(tmp_path / name)],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("2 of 2 folds trained") == 1
    one, two = (json.loads((tmp_path / name / "folds.json").read_text()) for name in commands)
    assert [fold.pop("best_ssim") for fold in two["folds"]] == pytest.approx(
        [fold.pop("best_ssim") for fold in one["folds"]], abs=1e-5
    )
    assert [fold["validation"] for fold in two["folds"]] == [
        fold["validation"] for fold in one["folds"]
    ]
    best = json.loads((tmp_path / "two" / "fold-1" / "best.json").read_text())
    assert best["info"]["processes"] == 2
