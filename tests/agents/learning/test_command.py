"""`activemri train policy` from the command line."""

from pathlib import Path

import pytest

from activemri import cli
from activemri.agents.learning.registry import ALGORITHMS
from activemri.agents.registry import make_policy
from activemri.settings import TrainPolicySettings
from tests.agents.learning.files import write_noise
from tests.agents.learning.scripted import SCRIPTED


@pytest.fixture(autouse=True)
def _scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ALGORITHMS, "scripted", SCRIPTED)


@pytest.fixture
def line(tmp_path: Path) -> str:
    """A training of a moment, on scans in files."""
    write_noise(tmp_path / "scans", n_slices=2)
    return (
        f"train policy --algo scripted --env ActiveMRI/HDF5-v0 --data {tmp_path / 'scans'} "
        f"--budget 3 --max-steps 2 --out {tmp_path / 'run'}"
    )


def run(line: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    status = cli.main(line.split())
    captured = capsys.readouterr()
    return status, captured.out, captured.err.splitlines()[-1] if captured.err else ""


def test_a_policy_is_trained_and_found_by_its_folder(
    line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, said, _ = run(line, capsys)
    assert status == 0 and said.startswith(f"{tmp_path / 'run' / 'best'}: best after ")
    assert make_policy(tmp_path / "run").name == "run"


def test_options_become_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[object] = []
    monkeypatch.setitem(cli.COMMANDS, TrainPolicySettings, given.append)
    cli.main(
        "train policy --algo maskable-ppo --learner lr=1e-4 gamma=0.5 --warm-start P --resume "
        "--reconstructor unet --select final --patience 3 --out O".split()
    )
    assert given == [
        TrainPolicySettings(
            algo="maskable-ppo",
            learner=("lr=1e-4", "gamma=0.5"),
            warm_start=Path("P"),
            resume=True,
            reconstructor="unet",
            select="final",
            patience=3,
            out=Path("O"),
        )
    ]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--algo alchemy", "--algo alchemy: expected one of imitation, "),
        ("--learner luck=1", "expected key=value, with an argument of scripted: good (str), "),
        ("--learner diverges_at=soon", "diverges_at of scripted takes a value of type int"),
        ("--algo ppo --learner batch=7", "a divisor of n_envs * n_steps"),
        ("--resume", "there is no training in"),
        ("--warm-start nowhere/at-all", "nowhere/at-all"),
    ],
)
def test_a_mistake_is_one_line(
    line: str, more: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, error = run(f"{line} {more}", capsys)
    assert status == 2 and error.startswith("activemri: error: ") and message in error


def test_a_diverging_training_says_what_is_kept(
    line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, error = run(f"{line} --learner diverges_at=2", capsys)
    assert status == 2
    assert f"The best policy, from step 0, is in {tmp_path / 'run' / 'best'}" in error
    assert make_policy(tmp_path / "run")


def test_a_taken_folder_and_other_settings_are_told(
    line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(line, capsys)[0] == 0
    status, _, error = run(line, capsys)
    assert status == 2 and "add --resume to continue it, or choose another --out" in error
    status, _, error = run(f"{line} --resume --budget 2", capsys)
    assert status == 2 and "(budget: 3 then, 2 now)" in error
    assert run(f"{line} --resume", capsys)[0] == 0


def test_an_interrupted_training_says_how_to_continue(
    line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, error = run(f"{line} --learner killed_at=2", capsys)
    assert status == 130
    assert error == "activemri: interrupted; start the same command with --resume to continue"
