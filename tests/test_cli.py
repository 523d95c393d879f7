import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

import activemri
from activemri import cli
from activemri.settings import (
    BenchmarkSettings,
    CalibrateSettings,
    InspectSettings,
    SplitSettings,
    StudySettings,
    ThroughputSettings,
    TrainJointSettings,
    TrainOrderSettings,
    TrainReconstructorSettings,
    TuneSettings,
)

ROOT = Path(__file__).parents[1]


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Settings of the commands that were started; the commands themselves do not run."""
    settings: list[object] = []
    for kind in cli.COMMANDS:
        monkeypatch.setitem(cli.COMMANDS, kind, settings.append)
    return settings


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], int]:
    """Run a command that ends with a given exception; returns the exit status."""

    def run(error: BaseException) -> int:
        def fail(settings: object) -> None:
            raise error

        monkeypatch.setitem(cli.COMMANDS, BenchmarkSettings, fail)
        return cli.main(["benchmark"])

    return run


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
    assert all(word in done.stdout for word in ("demo", "benchmark", "train", "tune", "data"))
    assert done.stdout.endswith("False\n")


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"activemri {activemri.__version__}\n"


def test_benchmark_takes_the_options_that_scripts_rely_on(parsed: list[object]) -> None:
    line = (
        "benchmark --data phantom-multicoil --split val --policies random lbcs order.json "
        "--reconstructors zero-filled unet --budget 7 --matrix 64 --seed 3 --out there "
        "--fit-data elsewhere"
    )
    assert cli.main(line.split()) == 0
    assert parsed == [
        BenchmarkSettings(
            data="phantom-multicoil",
            split="val",
            policies=("random", "lbcs", "order.json"),
            reconstructors=("zero-filled", "unet"),
            budget=7,
            matrix=64,
            seed=3,
            out=Path("there"),
            fit_data="elsewhere",
        )
    ]


def test_benchmark_takes_a_single_reconstructor_too(parsed: list[object]) -> None:
    assert cli.main(["benchmark", "--reconstructor", "unet"]) == 0
    assert parsed == [BenchmarkSettings(reconstructors=("unet",))]


def test_commas_separate_names_as_spaces_do(tmp_path: Path) -> None:
    path = tmp_path / "of,commas"
    path.mkdir()
    settings = BenchmarkSettings(
        reconstructors=("zero-filled,unet", str(path)), policies=("random,lbcs", "mine=a,b", "c,")
    )
    assert settings.reconstructors == ("zero-filled", "unet", str(path))
    assert settings.policies == ("random", "lbcs", "mine=a,b", "c")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "train reconstructor --data D --matrix 64 --max-steps 5 --out O --resume",
            TrainReconstructorSettings(
                data="D", matrix=64, max_steps=5, out=Path("O"), resume=True
            ),
        ),
        (
            "train reconstructor --folds 5 --fold 2 --stratify scanner",
            TrainReconstructorSettings(study=StudySettings(folds=5, fold=2, stratify="scanner")),
        ),
        (
            "train joint --ablate skips=off,cascade=off --ablate-grid",
            TrainJointSettings(
                study=StudySettings(ablate="skips=off,cascade=off", ablate_grid=True)
            ),
        ),
        (
            "tune --trials 3 --space lr=1:2 loss=l1|ssim --pruner none --resume",
            TuneSettings(trials=3, space=("lr=1:2", "loss=l1|ssim"), pruner="none", resume=True),
        ),
        (
            "train joint --data D --matrix 64 --max-steps 5 --out O --resume "
            "--network channels=4 blocks=2 --augment flip phase --schedule alternating",
            TrainJointSettings(
                data="D",
                matrix=64,
                max_steps=5,
                out=Path("O"),
                resume=True,
                network=("channels=4", "blocks=2"),
                augment=("flip", "phase"),
                schedule="alternating",
            ),
        ),
        (
            "train order --kind average-oracle --data D",
            TrainOrderSettings(kind="average-oracle", data="D"),
        ),
        (
            "calibrate --data D --reconstructor one two --dropout-samples 4 --matrix 64 --out O",
            CalibrateSettings(
                data="D",
                reconstructors=("one", "two"),
                dropout_samples=4,
                matrix=64,
                out=Path("O"),
            ),
        ),
        ("data inspect some/folder", InspectSettings(Path("some/folder"))),
        ("data inspect there --files", InspectSettings(Path("there"), files=True)),
        (
            "data split there --stratify field-strength --seed 2 --redraw",
            SplitSettings(Path("there"), stratify="field-strength", seed=2, redraw=True),
        ),
        ("throughput --json", ThroughputSettings(json=True)),
    ],
)
def test_a_command_line_becomes_settings(line: str, expected: object, parsed: list[object]) -> None:
    assert cli.main(line.split()) == 0
    assert parsed == [expected]


@pytest.mark.parametrize(
    ("line", "quoted"),
    [
        ("benchmark --bugdet 3", "--bugdet"),
        ("benchmark --budget many", "many"),
        ("benchmark --budget -2", "-2"),
        ("benchmark --policies", "--policies"),
        ("train order --kind best", "best"),
        ("bench", "bench"),
        ("", "demo"),
    ],
)
def test_a_wrong_command_line_is_quoted_and_ends_with_status_2(
    line: str, quoted: str, parsed: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(line.split())
    assert exit_.value.code == 2
    message = capsys.readouterr()
    assert quoted in message.out + message.err
    assert parsed == []


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (ValueError("expected this;\n  got that"), "expected this; got that"),
        (FileNotFoundError(2, "No such file", "x.h5"), "x.h5"),
        (PermissionError(13, "Permission denied", "/out"), "/out"),
        (OSError(), "OSError"),
        (ModuleNotFoundError("No module named 'pandas'", name="pandas"), "activemri[all]"),
    ],
)
def test_a_mistake_of_the_user_is_one_line(
    error: Exception,
    shown: str,
    failing: Callable[[BaseException], int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert failing(error) == 2
    message = capsys.readouterr().err
    assert message.startswith("activemri: error: ") and shown in message
    assert message.count("\n") == 1


def test_an_order_is_learned_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["kspace"] = np.arange(1, 2 * 16 * 16 + 1, dtype=np.complex64).reshape(2, 1, 16, 16)
        file.attrs["split"] = "train"
    line = f"train order --data {tmp_path} --budget 2 --n-center-lines 4 --out {tmp_path / 'new'}"
    assert cli.main(line.split()) == 0
    order = tmp_path / "new" / "lbcs.json"
    assert capsys.readouterr().out.strip() == str(order)
    assert sorted(json.loads(order.read_text())["actions"]) == list(range(16))


def test_an_output_folder_that_is_a_file_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert cli.main(["train", "order", "--out", str(tmp_path / "file")]) == 2
    assert f"output folder {tmp_path / 'file'}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "shown"),
    [
        ("--loss l3", "unknown loss 'l3'"),
        ("--device foo", "device 'foo' cannot be used here"),
        ("--network channels=x", "--network channels=x: channels of cresnet takes a value of type"),
        ("--augment flop", "--augment flop: expected some of flip"),
        ("--resume", "there is no training in"),
    ],
)
def test_a_training_is_refused_before_policies_play(
    wrong: str,
    shown: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def play(*_: object, **__: object) -> None:
        pytest.fail("policies have played")

    monkeypatch.setattr("activemri.agents.visits.visit_masks", play)
    line = f"train reconstructor --out {tmp_path} {wrong}"
    assert cli.main(line.split()) == 2
    assert shown in capsys.readouterr().err


def test_a_training_without_validation_subjects_is_refused_before_policies_play(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def play(*_: object, **__: object) -> None:
        pytest.fail("policies have played")

    (tmp_path / "scans" / "train").mkdir(parents=True)
    with h5py.File(tmp_path / "scans" / "train" / "one.h5", "w") as file:
        file["kspace"] = np.ones((1, 1, 16, 16), dtype=np.complex64)
    monkeypatch.setattr("activemri.agents.visits.visit_masks", play)
    for more in ("", " --ablate skips=off"):
        line = f"train reconstructor --data {tmp_path / 'scans'} --out {tmp_path / 'out'}{more}"
        assert cli.main(line.split()) == 2
        assert "no split 'val'" in capsys.readouterr().err


def test_every_file_is_listed_if_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(30):
        with h5py.File(tmp_path / f"{number}.h5", "w") as file:
            file["kspace"] = np.ones((1, 1, 8, 8), dtype=np.complex64)
            file.attrs["subject_id"] = f"subject-{number}"
    assert cli.main(["data", "inspect", str(tmp_path), "--files"]) == 0
    listed = capsys.readouterr().out
    assert all(f"{n}.h5 " in listed and f"subject-{n} " in listed for n in range(30))


def test_a_missing_folder_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "inspect", "no/such/folder"]) == 2
    assert "no/such/folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [
        TypeError("a bug"),
        KeyError("a bug"),
        AssertionError("a bug"),
        ModuleNotFoundError("a bug", name="activemri.missing"),
    ],
)
def test_a_mistake_of_ours_keeps_its_traceback(
    error: Exception, failing: Callable[[BaseException], int]
) -> None:
    with pytest.raises(type(error)):
        failing(error)


def test_the_traceback_can_be_asked_for(
    failing: Callable[[BaseException], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACTIVEMRI_TRACEBACK", "1")
    with pytest.raises(ValueError, match="why"):
        failing(ValueError("why"))


def test_an_interrupted_benchmark_says_how_to_continue(
    failing: Callable[[BaseException], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert failing(KeyboardInterrupt()) == 130
    assert "same command again" in capsys.readouterr().err


def test_a_reader_that_stops_reading_is_no_error() -> None:
    code = "import sys; from activemri import cli\n"
    code += "from activemri.settings import InspectSettings\n"
    code += "cli.COMMANDS[InspectSettings] = lambda settings: print('line\\n' * 100_000)\n"
    code += "sys.exit(cli.main(['data', 'inspect', '.']))"
    command = [sys.executable, "-c", code]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe) as writer:
        assert writer.stdout is not None and writer.stderr is not None
        writer.stdout.read(5)
        writer.stdout.close()
        assert writer.stderr.read() == b""
    assert writer.returncode == 0
