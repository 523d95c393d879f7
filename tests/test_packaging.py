import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import activemri

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PINS = [
    line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")
]


def requirements() -> list[Requirement]:
    """Direct dependencies, extras included."""
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *(line for extra in extras.values() for line in extra)]
    return [Requirement(line) for line in lines if not line.startswith("activemri")]


@pytest.mark.parametrize("requirement", requirements(), ids=lambda requirement: requirement.name)
def test_every_dependency_has_a_pin_within_its_bounds(requirement: Requirement) -> None:
    pins = dict(pin.split("==") for pin in PINS)
    assert requirement.specifier.contains(pins[requirement.name])


def test_pins_can_be_installed_anywhere_and_are_in_order() -> None:
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", pin) for pin in PINS)
    names = [pin.split("==")[0] for pin in PINS]
    assert names == sorted(set(names))


def test_all_holds_every_extra_for_users_but_that_of_cuda() -> None:
    extras = PYPROJECT["project"]["optional-dependencies"]
    (everything,) = (Requirement(line) for line in extras["all"])
    assert everything.extras == set(extras) - {"all", "dev", "gpu"}


def test_the_wheel_holds_every_file_of_the_package_once(tmp_path: Path) -> None:
    source = tmp_path / "source"
    no_caches = shutil.ignore_patterns("__pycache__")
    for folder in ("activemri", "agents", "envs"):
        shutil.copytree(ROOT / folder, source / folder, symlinks=True, ignore=no_caches)
    for file in ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path)]
    done = subprocess.run([*build, str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    packed = [n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n]
    folders = {"activemri": "activemri"} | {n: f"activemri/{n}" for n in ("agents", "envs")}
    present = [
        f"{installed}/{path.relative_to(source / folder).as_posix()}"
        for folder, installed in folders.items()
        for path in (source / folder).rglob("*")
        if path.is_file()
    ]
    assert sorted(packed) == sorted(present)


def test_the_version_is_the_same_everywhere() -> None:
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {activemri.__version__}\n" in citation


def test_importing_the_package_and_its_folders_is_light() -> None:
    # activemri.metrics is functions of tensors, and no folder of files.
    packages = {*PYPROJECT["tool"]["setuptools"]["packages"]} - {"activemri.metrics"}
    heavy = ("torch", "torchvision", "stable_baselines3", "fastmri", "numba", "matplotlib", "tyro")
    code = f"import {', '.join(packages)}, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
