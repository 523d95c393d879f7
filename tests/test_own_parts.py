"""Parts in a file outside of the package, used through ``module:object`` by its commands."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from activemri import cli

MINE = '''
import torch
import activemri as am
from activemri.agents.policy import choose


class Outermost:
    """Takes the legal action that lies farthest from everything acquired."""

    name = "outermost"
    traits = am.Traits()

    def act(self, view, generators):
        place = view.transform.coordinates
        apart = torch.cdist(place, place).masked_fill(~view.mask[:, None], torch.inf)
        return choose(view.geometry.by_action(apart.amin(dim=2), "amax"), view.legal)


def decibels(before, after):
    """Rise of the PSNR."""
    return after["psnr"] - before["psnr"]


decibels.scores = ("psnr",)


class Damped(am.Reconstructor):
    """One learned step of gradient descent."""

    def __init__(self, step=0.5):
        super().__init__()
        self.settings = {"step": step}
        self.step = torch.nn.Parameter(torch.tensor(float(step)))

    def forward(self, measurement):
        image = measurement.zero_filled
        residual = measurement.operator.gram(image) - image
        return am.Reconstruction(image * (1 + 0.1 * self.step) - self.step * residual)


def interleaved(shape, *, lines_per_action=2):
    """Columns that lie equally far apart."""
    n_actions = shape[1] // lines_per_action
    groups = torch.arange(n_actions * lines_per_action).reshape(lines_per_action, n_actions).T
    return am.Geometry("interleaved", am.Cartesian(shape, (False, True)), groups)
'''
PROTOCOL = (
    "--matrix-size 32 --n-center-lines 4 --budget 6 --geometry mine:interleaved "
    "--lines-per-action 2 --reward mine:decibels"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path


def run(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A command in a folder of the user's, as from a shell."""
    root = str(Path(__file__).parents[1])
    paths = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-m", "activemri", *line.split()],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.long
def test_own_parts_are_trained_and_compared(folder: Path) -> None:
    trained = run(
        f"train reconstructor {PROTOCOL} --reconstructor mine:Damped --max-steps 2 "
        "--validate-every 1 --images 0 --out runs/damped",
        folder,
    )
    assert trained.returncode == 0, trained.stderr
    policy = run(
        f"train policy {PROTOCOL} --reconstructor zero-filled --learner.states 16 "
        "--learner.max-steps 2 --validation-scans 2 --out runs/policy",
        folder,
    )
    assert policy.returncode == 0, policy.stderr
    compared = run(
        f"benchmark {PROTOCOL} --import mine --policies mine:Outermost runs/policy random "
        "--reconstructors mine:Damped runs/damped/best --max-slices 2 --reference random "
        "--out runs/compared",
        folder,
    )
    assert compared.returncode == 0, compared.stderr
    assert "Outermost" in compared.stdout
    assert json.loads((folder / "runs/compared/summary.json").read_text())


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("--reconstructor mine:Nothing", "has no attribute 'Nothing'"),
        ("--geometry nowhere:columns", "No module named 'nowhere'"),
        ("--geometry mine:decibels", "expected a function of the shape"),
        ("--reward mine:interleaved --scanner mine:Damped", "expected an object or class with"),
    ],
)
def test_parts_of_the_wrong_kind_are_refused_in_one_line(
    options: str,
    reason: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))  # the command adds the folder to it
    monkeypatch.setitem(sys.modules, "mine", None)
    monkeypatch.delitem(sys.modules, "mine")
    line = f"train order --matrix-size 32 --max-fit-slices 1 {options}"
    assert cli.main(line.split()) == 2
    assert reason in capsys.readouterr().err.splitlines()[-1]
