"""Commands against each other's outputs, all with all: nothing is lost or replaced unasked."""

import hashlib
import itertools
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from activemri import cli, files
from activemri.options import RunOptions
from activemri.training.folder import RunFolder
from tests.data.files import write_image

SCAN = "--data DATA --matrix-size 16 --budget 3 --n-center-lines 2"
NETWORK = "--reconstructor cresnet --network.channels 2 --network.blocks 1"
TRAINING = "--max-steps 2 --validate-every 2 --images 0"
ORDER = "--n-fit-scans 2 --max-fit-slices 2"

#: A small run of every command that writes; OUT is a folder or a file, DATA a folder of scans, RUN
#: that of a training.
FOLDERS = {
    "benchmark": f"{SCAN} --policies random --reference random --out OUT",
    "calibrate": f"{SCAN} --reconstructor RUN --n-knots 1 --out OUT",
    "train reconstructor": f"{SCAN} {NETWORK} {TRAINING} --out OUT",
    "train joint": f"{SCAN} {NETWORK} {TRAINING} --evaluator.channels 2 --evaluator.layers 1 "
    "--evaluator-steps 1 --out OUT",
    "train order": f"{SCAN} {ORDER} --out OUT",
    "train policy": f"{SCAN} --learner.max-steps 2 --learner.states 2 --learner.rounds 1 "
    "--validate-every 2 --validation-scans 1 --out OUT",
    "train alternating": f"{SCAN} --reconstructor RUN --rounds 1 --reconstructor-steps 2 "
    "--recorded-scans 1 --validation-scans 1 --learner.max-steps 2 --learner.states 2 "
    "--learner.rounds 1 --out OUT",
    "sweep": f"--folds 2 --out OUT train reconstructor {SCAN} {NETWORK} {TRAINING}",
    "data convert": "DATA --out OUT",
}
FILES = {
    "demonstrate": (".parquet", f"{SCAN} --states 2 --out OUT"),
    "curves": (".png", "RUN --out OUT"),
    "data split": (".json", "DATA --redraw --out OUT"),
    "data card": (".md", "DATA --out OUT"),
    "throughput": (".png", "--only step_128x128 --seconds 0.01 --plot OUT"),
}
DEMO = "--n-scans 1 --budget 2 --out OUT"  # writes the folder of a benchmark


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the outputs of every command that makes a folder, by its name, and scans."""
    root = tmp_path_factory.mktemp("made")
    for number, split in enumerate(("train", "train", "train", "val", "val", "test")):
        about = {"subject_id": f"s{number}", "split": split}
        path = root / "data" / f"{number}.h5"
        write_image(path, shape=(1, 16, 16), seed=number, magnitude=False, **about)
    for name in ("train reconstructor", *(set(FOLDERS) - {"train reconstructor"})):
        assert run(root, name, FOLDERS[name], root / name) == 0, name
    return root


def run(root: Path, name: str, options: str, out: Path, more: str = "") -> int:
    """The exit status of a command."""
    words = {"DATA": root / "data", "RUN": root / "train reconstructor", "OUT": out}
    line = [str(words.get(word, word)) for word in options.split()]
    return cli.main([*name.split(), *more.split(), *line])


def contents(folder: Path) -> dict[str, str]:
    """Hashes of all files of a folder, by name."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in found}


def test_every_command_that_writes_is_tried() -> None:
    writing = {
        name
        for name, command in cli.COMMANDS.items()
        if {"run", "out", "plot"} & {field.name for field in fields(cli.load(command)[1])}
    }
    assert writing == {*FOLDERS, *FILES, "demo"}


@pytest.mark.parametrize("more", ["", "--overwrite"])
@pytest.mark.parametrize(
    ("owner", "intruder"),
    # Every command once in either place: the check is one function.
    [*itertools.pairwise([*FOLDERS, "demo"]), (next(reversed(FOLDERS)), next(iter(FOLDERS)))],
)
def test_no_command_writes_into_the_folder_of_another(
    owner: str, intruder: str, more: str, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(made / owner)
    status = run(made, intruder, FOLDERS.get(intruder, DEMO), made / owner, more)
    assert status == 2
    assert f"holds results of 'activemri {owner}'" in capsys.readouterr().err
    assert contents(made / owner) == before


@pytest.mark.parametrize("owner", [name for name in FOLDERS if name != "data convert"])
def test_no_command_replaces_its_own_results_unasked(
    owner: str, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(made / owner)
    options = FOLDERS[owner]
    if owner == "benchmark":  # it would continue
        options = options.replace("--budget 3", "--budget 2")
    assert run(made, owner, options, made / owner) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert contents(made / owner) == before


def test_a_conversion_replaces_files_of_another_source_only_if_asked(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "scans" / "0.h5", shape=(1, 16, 16), seed=9)
    for more, status in (("", 0), ("", 0), ("--coils 2", 2), ("--coils 2 --overwrite", 0)):
        before = contents(tmp_path / "out")
        options = f"{tmp_path / 'scans'} --out OUT"
        assert run(made, "data convert", options, tmp_path / "out", more) == status
        assert (contents(tmp_path / "out") == before) == (
            "--overwrite" not in more and before != {}
        )
    assert "--overwrite replaces it" in capsys.readouterr().err


@pytest.mark.parametrize("name", FOLDERS)
def test_no_command_takes_a_folder_with_files_of_the_users(
    name: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "thesis.tex").write_text("years")
    for more in ("", "--overwrite"):
        assert run(made, name, FOLDERS[name], out, more) == 2
        assert "thesis.tex" in capsys.readouterr().err
    assert list(contents(out)) == ["thesis.tex"]


@pytest.mark.parametrize("name", FILES)
def test_no_command_replaces_a_file_unasked(
    name: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suffix, options = FILES[name]
    out = tmp_path / f"mine{suffix}"
    out.write_text("years")
    assert run(made, name, options, out) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert out.read_text() == "years"
    (tmp_path / f"folder{suffix}").mkdir()
    assert run(made, name, options, tmp_path / f"folder{suffix}", "--overwrite") == 2
    assert "is a folder" in capsys.readouterr().err
    if name != "throughput":  # takes long
        assert run(made, name, options, out, "--overwrite") == 0
        assert out.read_bytes() != b"years"


@pytest.mark.parametrize("name", [n for n in FOLDERS if n not in ("data convert", "train order")])
def test_all_that_a_run_has_left_is_deleted_before_it_is_overwritten(
    name: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    shutil.copytree(made / name, out)
    claimed = files.claimed

    @contextmanager
    def claim_alone(folder: Path, *given: Any, **options: Any) -> Iterator[None]:
        with claimed(folder, *given, **options):
            raise ValueError("stop here")
        yield

    monkeypatch.setattr(files, "claimed", claim_alone)
    assert run(made, name, FOLDERS[name], out, "--overwrite") == 2
    assert [path.name for path in out.iterdir() if not path.name.startswith(".")] == [files.MARKER]


def test_a_run_that_is_overwritten_gives_the_results_of_a_new_one(
    made: Path, tmp_path: Path
) -> None:
    options = FOLDERS["train reconstructor"]
    out = tmp_path / "run"
    assert run(made, "train reconstructor", options, out, "--seed 3") == 0
    (out / "notes.md").write_text("mine")
    assert run(made, "train reconstructor", options, out, "--overwrite") == 0
    expected = contents(made / "train reconstructor")
    found = contents(out)
    assert found.pop("notes.md") and found.keys() == expected.keys()
    assert found["best.safetensors"] == expected["best.safetensors"]


def test_two_processes_do_not_write_to_one_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with files.claimed(folder, "train policy"):
        busy = pytest.raises(ValueError, match="another process is writing")
        with busy, files.claimed(folder, "train policy"):
            pass
        with busy, RunFolder(RunOptions(out=folder), "train policy").open({}):
            pass
    with files.claimed(folder, "train policy"):
        pass


def test_a_process_that_is_killed_lets_go_of_its_folder(tmp_path: Path) -> None:
    code = "import sys, time; from pathlib import Path; from activemri import files\n"
    code += "with files.claimed(Path(sys.argv[1]), 'benchmark'): print(flush=True); time.sleep(99)"
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        busy = pytest.raises(ValueError, match="another process is writing")
        with busy, files.claimed(tmp_path / "run", "benchmark"):
            pass
        process.kill()
    with files.claimed(tmp_path / "run", "benchmark"):
        pass


def test_a_marker_that_is_damaged_or_newer_is_named(tmp_path: Path) -> None:
    for text, shown in (("{", "expected JSON"), ('{"kind": "demo", "format": 2}', "newer version")):
        (tmp_path / files.MARKER).write_text(text)
        with pytest.raises(ValueError, match=shown):
            files.require_claimable(tmp_path, "demo")
