"""The public names, and a user's own parts in a file outside of the package."""

import ast
import re
import subprocess
import sys
from inspect import cleandoc
from pathlib import Path

import pytest

import activemri as am

NAMES = [name for name in am.__all__ if name not in ("ENVIRONMENTS", "__version__")]


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, activemri; print(sorted({'torch', 'numba', 'tyro'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_shows_its_use(name: str) -> None:
    doc = cleandoc(getattr(am, name).__doc__ or "")
    example = re.search(r"::\n\n((?: {4}.*\n|\n)+)", doc + "\n")
    assert example is not None, f"{name} has no example"
    ast.parse(cleandoc("\n" + example.group(1)))


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        am.nonsense  # noqa: B018
    assert set(dir(am)) >= set(am.__all__)


SCRIPT = """
import activemri as am

protocol = am.ScanProtocol(data="phantom", budget=24, {protocol})
env = am.make_env(protocol, render_mode="ansi", {option})
vec = am.make_sb3_env("ActiveMRI/Phantom-v0", num_envs=4, {option})
one = am.ActiveMRIEnv(data="phantom", {option})
"""


@pytest.mark.parametrize(
    ("protocol", "option", "n_errors"),
    [
        ('geometry="radial"', "lines_per_action=2", 0),
        ('geomtry="radial"', "lines_per_action=2", 1),
        ("tr=3.0", 'lines_per_action="two"', 3),
        ('tr="3"', "budgett=2", 4),
    ],
)
def test_a_type_checker_finds_wrong_options(
    protocol: str, option: str, n_errors: int, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(protocol=protocol, option=option))
    root = Path(__file__).parents[1]
    found = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--cache-dir",
            str(root / ".mypy_cache"),
            script,
        ],
        capture_output=True,
        text=True,
        cwd=root,
    )
    assert found.stdout.count("error:") == n_errors, found.stdout
