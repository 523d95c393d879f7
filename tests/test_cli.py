import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import activemri
from activemri import cli
from activemri.options import command_line, described
from activemri.training.reconstructor import TrainReconstructorSettings
from tests.data.files import write_image

ROOT = Path(__file__).parents[1]
TINY = "--matrix-size 16 --max-steps 2 --budget 4 --n-center-lines 2 --threads 1 --images 0"
UNET = "--reconstructor unet --network.channels 2 --network.pools 1"


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], int]:
    """Run a command that ends with a given exception; returns the exit status."""

    def run(error: BaseException) -> int:
        def fail(settings: TrainReconstructorSettings) -> None:
            raise error

        monkeypatch.setattr("activemri.training.reconstructor.train_reconstructor", fail)
        return cli.main(["train", "reconstructor"])

    return run


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three subjects to train, two to validate, one to test."""
    for number, split in enumerate(("train", "train", "train", "val", "val", "test")):
        path = tmp_path / "data" / f"{number}.h5"
        about = {"subject_id": f"s{number}", "split": split}
        write_image(path, shape=(1, 16, 16), seed=number, magnitude=False, **about)
    return tmp_path / "data"


def test_the_package_can_be_run_as_a_module() -> None:
    command = [sys.executable, "-m", "activemri", "--version"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"activemri {activemri.__version__}\n")


def test_help_names_every_command_without_importing_torch() -> None:
    code = (
        "import sys; from activemri import cli\n"
        "try: cli.main(['--help'])\n"
        "finally: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(f"  {name} " in done.stdout for name in cli.COMMANDS)
    assert done.stdout.endswith("False\n")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main([*name.split(), "--help"])
    assert exit_.value.code == 0
    shown = capsys.readouterr().out
    assert f"usage: activemri {name}" in shown
    _, settings = cli.load(cli.COMMANDS[name])
    assert "--n-center-lines" in shown or "protocol" not in {f.name for f in fields(settings)}


def test_a_protocol_is_declared_once() -> None:
    """No command that takes a scan protocol has an option of its own for a part of it."""
    for name, command in cli.COMMANDS.items():
        _, settings = cli.load(command)
        nested = {"protocol", "run", "compute"} & {f.name for f in fields(settings)}
        default = settings() if "protocol" in nested else None
        for part in nested if default is not None else ():
            own = {f.name for f in fields(settings)}
            inner = getattr(default, part)
            assert is_dataclass(inner)
            assert not own & {f.name for f in fields(inner)}, name


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "train reconstructor --data D --matrix-size 64 --geometry rows --scanner moving "
            "--max-steps 5 --out O --resume --augment flip phase",
            {"data": "D", "matrix_size": 64, "geometry": "rows", "scanner": "moving"},
        ),
        (
            "train reconstructor --reconstructor=unet --network.channels 4",
            {"reconstructor": "unet", "network.channels": 4, "network.pools": 4},
        ),
        (
            "train joint --schedule alternating --evaluator.layers 2 --network.no-skips",
            {"schedule": "alternating", "evaluator.layers": 2, "network.skips": False},
        ),
        (
            "train order --env activemri:ActiveMRI/EchoTrain-v0 --budget 12 --kind average-oracle",
            {"lines_per_action": 4, "tr": 3.0, "budget": 12, "kind": "average-oracle"},
        ),
        ("train policy --algo ddqn --learner.lr 1e-4 --seed 3", {"learner.lr": 1e-4, "seed": 3}),
    ],
)
def test_a_command_line_becomes_settings_and_settings_a_command_line(
    line: str, expected: dict[str, Any]
) -> None:
    name = " ".join(line.split()[:2])
    settings = cli.parse(name, line.split()[2:])
    found = described(settings)
    assert {key: found[key] for key in expected} == expected
    again = command_line(name, settings).split()[3:]
    algo = ["--algo", "ddqn"] if "ddqn" in line else []
    assert described(cli.parse(name, [*algo, *again])) == found


def test_a_sweep_takes_a_command_and_its_options() -> None:
    line = "--folds 5 --fold 2 --stratify scanner --out O train reconstructor --lr 0.5"
    settings = cli.parse("sweep", line.split())
    assert (settings.folds, settings.fold, settings.stratify) == (5, 2, "scanner")
    assert (settings.command, settings.base.lr) == ("train reconstructor", 0.5)
    assert settings.run.out == Path("O")


@pytest.mark.parametrize(
    ("line", "quoted"),
    [
        ("benchmark --bugdet 3", "--bugdet"),
        ("benchmark --budget many", "many"),
        ("train order --kind best", "best"),
        ("train order --resume", "--resume"),
        ("train reconstructor --max-steps 0", "--max-steps"),
        ("train reconstructor --network.channels x", "x"),
        ("train reconstructor --reconstructor cg-sense", "cg-sense"),
        ("train reconstructor --env Nothing-v0", "Nothing-v0"),
        ("train policy --algo magic", "magic"),
        ("data inspect", "PATH"),
        ("data card --env ActiveMRI/Phantom-v0 x", "--env"),
        ("sweep --folds 2", "expected a command to sweep"),
        ("sweep train order", "expected a command to sweep"),
        ("sweep --folds 1 train joint", "--folds"),
    ],
)
def test_a_wrong_command_line_is_quoted_in_one_line_and_ends_with_status_2(
    line: str, quoted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(line.split()) == 2
    message = capsys.readouterr().err
    assert message.startswith("activemri: error: ") and quoted in message
    assert message.count("\n") == 1


@pytest.mark.parametrize("line", ["tune", "", "train"])
def test_commands_are_listed_where_none_is_named(
    line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status = cli.main(line.split())
    shown = capsys.readouterr()
    assert "train reconstructor" in shown.out + shown.err
    assert status == (0 if line == "" else 2)


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (ValueError("expected this;\n  got that"), "expected this; got that"),
        (FileNotFoundError(2, "No such file", "x.h5"), "x.h5"),
        (PermissionError(13, "Permission denied", "/out"), "/out"),
        (OSError(), "OSError"),
        (MemoryError("Unable to allocate 60 GiB"), "not enough memory: Unable to allocate 60 GiB"),
        (RuntimeError("can't allocate memory: 9 bytes"), "not enough memory: can't allocate"),
        (OSError(28, "No space left on device", "o/best.json"), "o/best.json: No space left"),
        (ModuleNotFoundError("No module named 'pandas'", name="pandas"), "activemri[all]"),
    ],
)
def test_a_mistake_of_the_user_is_one_line(
    error: Exception,
    shown: str,
    failing: Callable[[BaseException], int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert failing(error) == 2
    message = capsys.readouterr().err
    assert message.startswith("activemri: error: ") and shown in message
    assert message.count("\n") == 1
    monkeypatch.setenv("ACTIVEMRI_TRACEBACK", "1")
    with pytest.raises(type(error)):
        failing(error)


@pytest.mark.parametrize(
    "error",
    [
        TypeError("a bug"),
        RuntimeError("a bug"),
        KeyError("a bug"),
        ModuleNotFoundError("x", name="activemri.x"),
    ],
)
def test_a_mistake_of_ours_keeps_its_traceback(
    error: Exception, failing: Callable[[BaseException], int]
) -> None:
    with pytest.raises(type(error)):
        failing(error)


def test_an_interrupted_training_says_how_to_continue(
    failing: Callable[[BaseException], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert failing(KeyboardInterrupt()) == 130
    assert "--resume to continue" in capsys.readouterr().err


def test_a_reader_that_stops_reading_is_no_error() -> None:
    code = "import sys; from activemri import cli; from activemri.data import inspection\n"
    code += "def long(settings: inspection.CardSettings): return 'line\\n' * 100_000\n"
    code += "inspection.write_card = long\n"
    code += "sys.exit(cli.main(['data', 'card', '.']))"
    command, pipe = [sys.executable, "-c", code], subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe) as writer:
        assert writer.stdout is not None and writer.stderr is not None
        writer.stdout.read(5)
        writer.stdout.close()
        assert writer.stderr.read() == b""
    assert writer.returncode == 0


def test_an_order_is_learned_and_written(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = f"train order --data {data} --geometry rows --budget 2 --n-center-lines 4 --out"
    assert cli.main([*line.split(), str(tmp_path / "new")]) == 0
    order = tmp_path / "new" / "lbcs.json"
    assert capsys.readouterr().out.strip() == str(order)
    assert sorted(json.loads(order.read_text())["actions"]) == list(range(16))
    assert cli.main([*line.split(), str(tmp_path / "new"), "--kind", "lbcs-final"]) == 0
    assert capsys.readouterr().out.strip() == str(order.with_name("lbcs-final.json"))
    assert cli.main([*line.split(), str(order)]) == 2
    assert f"output folder {order}" in capsys.readouterr().err


def test_a_training_is_refused_before_policies_play(
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "activemri.training.reconstructor.record_episodes",
        lambda *_, **__: pytest.fail("policies have played"),
    )
    for wrong, shown in (
        ("--loss l3", "unknown loss 'l3'"),
        ("--device foo", "device 'foo' cannot be used here"),
        ("--augment flop", "--augment flop: expected some of flip"),
        ("--resume", "there is no run in"),
        (f"--data {data / '0.h5'}", "no split 'val'"),
    ):
        line = f"train reconstructor --out {tmp_path / 'out'} {wrong}"
        assert cli.main(line.split()) == 2
        assert shown in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_folds_come_from_train_and_val_and_never_from_test(
    data: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    line = f"sweep --folds 2 --out {out} train reconstructor --data {data} {TINY} {UNET}"
    assert cli.main(line.split()) == 0
    assert "2 of 2 trained" in capsys.readouterr().out
    for fold in json.loads((out / "sweep.json").read_text())["members"].values():
        assert sorted(fold["train"] + fold["validation"]) == ["s0", "s1", "s2", "s3", "s4"]
    assert cli.main(line.split()) == 2
    assert "add --resume" in capsys.readouterr().err
    monkeypatch.setenv("RANK", "1")  # under torchrun only the first process speaks
    assert cli.main(line.replace("--folds", "--resume --folds").split()) == 0
    assert capsys.readouterr().out == ""


def test_a_search_ends_with_the_command_that_trains_the_best_again(
    data: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("optuna")
    out, again = tmp_path / "out", tmp_path / "again"
    line = f"sweep --trials 2 --vary lr=1e-3:1e-1:log network.channels=2:4 --out {out}"
    line += f" train reconstructor --data {data} {TINY} --reconstructor unet --network.pools 1"
    assert cli.main(line.split()) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    best = json.loads((out / "best.json").read_text())
    assert last == best["command"]
    assert cli.main([*last.split()[1:], "--out", str(again), "--threads", "1"]) == 0
    weights = [Path(p).with_suffix(".safetensors") for p in (best["checkpoint"], again / "best")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_policy_is_swept_as_a_reconstructor_is(
    data: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    line = f"sweep --vary learner.lr=1e-3|1e-2 --out {tmp_path / 'out'} train policy --data {data}"
    line += " --matrix-size 16 --budget 4 --n-center-lines 2 --reconstructor zero-filled"
    line += " --learner.max-steps 2 --learner.states 8 --learner.rounds 1"
    assert cli.main(line.split()) == 0
    assert "2 of 2 trained" in capsys.readouterr().out


def test_a_search_without_optuna_names_the_extra(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, "activemri.training.search", raising=False)
    line = f"sweep --trials 2 --vary lr=1|2 --out {tmp_path / 'out'} train joint --data {data}"
    assert cli.main(line.split()) == 2
    assert 'pip install "activemri[hpo]"' in capsys.readouterr().err


def test_every_file_is_listed_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(30):
        with h5py.File(tmp_path / f"{number}.h5", "w") as file:
            file["kspace"] = np.ones((1, 1, 8, 8), dtype=np.complex64)
            file.attrs["subject_id"] = f"subject-{number}"
    assert cli.main(["data", "inspect", str(tmp_path), "--files"]) == 0
    listed = capsys.readouterr().out
    assert all(f"{n}.h5 " in listed and f"subject-{n} " in listed for n in range(30))
    assert cli.main(["data", "inspect", "no/such/folder"]) == 2
    assert "no/such/folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("data inspect FOLDER --split-file missing.json", "split file missing.json"),
        ("data card FOLDER --split-file missing.json", "split file missing.json"),
        ("data convert FOLDER --out O --split-file missing.json", "split file missing.json"),
        ("data inspect ~no-such-user/x", "~no-such-user/x: expected a user with a home folder"),
        ("data split ~no-such-user/x", "~no-such-user/x"),
        ("data convert FOLDER --out ~no-such-user/x", "~no-such-user/x"),
        ("train order --data ~no-such-user/x", "~no-such-user/x"),
        ("train order --data FOLDER --annotations ~no-such-user/x", "~no-such-user/x"),
    ],
)
def test_a_path_that_leads_nowhere_is_named_with_status_2(
    line: str, shown: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(line.replace("FOLDER", str(data)).split()) == 2
    *_, message = capsys.readouterr().err.splitlines()  # after the progress
    assert message.startswith("activemri: error: ") and shown in message
