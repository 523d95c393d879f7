import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

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


def test_the_oldest_versions_that_are_tried_are_the_lower_bounds() -> None:
    lines = (ROOT / "constraints-oldest.txt").read_text().splitlines()
    tried = dict(line.split("==") for line in lines if not line.startswith("#"))
    bounds = {requirement.name: requirement.specifier for requirement in requirements()}
    assert tried.pop("torch") == dict(pin.split("==") for pin in PINS)["torch"]
    for name, version in tried.items():
        (least,) = (bound.version for bound in bounds[name] if bound.operator == ">=")
        assert Version(least) == Version(version), name
    extras = PYPROJECT["project"]["optional-dependencies"]
    lines = [*PYPROJECT["project"]["dependencies"], *extras["benchmark"], *extras["formats"]]
    assert {Requirement(line).name for line in lines} == {*tried, "torch"}


def test_pins_can_be_installed_anywhere_and_are_in_order() -> None:
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", pin) for pin in PINS)
    names = [pin.split("==")[0] for pin in PINS]
    assert names == sorted(set(names))


def test_all_holds_every_extra_for_users_but_that_of_cuda() -> None:
    extras = PYPROJECT["project"]["optional-dependencies"]
    (everything,) = (Requirement(line) for line in extras["all"])
    assert everything.extras == set(extras) - {"all", "dev", "gpu"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, which lies beside it in the folder source."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    no_caches = shutil.ignore_patterns("__pycache__")
    for part in ("activemri", "agents", "envs"):
        shutil.copytree(ROOT / part, source / part, symlinks=True, ignore=no_caches)
    for file in ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    done = subprocess.run([*build, str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_every_file_of_the_package_once(wheel: Path) -> None:
    source = wheel.parent / "source"
    packed = [n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n]
    folders = {"activemri": "activemri"} | {n: f"activemri/{n}" for n in ("agents", "envs")}
    present = [
        f"{installed}/{path.relative_to(source / folder).as_posix()}"
        for folder, installed in folders.items()
        for path in (source / folder).rglob("*")
        if path.is_file()
    ]
    assert sorted(packed) == sorted(present)


EPISODE = """
import activemri, gymnasium
env = gymnasium.make("ActiveMRI/Phantom-v0", budget=2)
_, info = env.reset(seed=0)
ended = False
while not ended:
    _, _, ended, _, info = env.step(int(info["action_mask"].argmax()))
print(activemri.__file__)
"""


@pytest.mark.long
def test_the_wheel_runs_outside_of_the_repository(wheel: Path, tmp_path: Path) -> None:
    """In a fresh environment; what it depends on is read where it is installed already."""
    venv.create(tmp_path / "venv", with_pip=True)
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    commands = tmp_path / "venv" / "bin"
    free = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def run(*command: str | Path) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=free, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(commands / "python", "-m", "pip", "install", "--no-index", "--no-deps", wheel)
    assert run(commands / "python", "-c", EPISODE).startswith(f"{site}/activemri/")
    assert "benchmark" in run(commands / "activemri", "--help")
    shown = run(commands / "activemri", "demo", "--n-scans", "1", "--budget", "1")
    assert "imitation" in shown and (tmp_path / "demo" / "report.html").exists()


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


def test_environments_import_nothing_that_fastmri_brings_along() -> None:
    code = (
        "import activemri, gymnasium, sys\n"
        "gymnasium.make('ActiveMRI/Phantom-v0').reset(seed=0)\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    unwanted = (
        "fastmri aiohttp lightning_fabric lightning_utilities matplotlib pandas PIL pyarrow "
        "pytorch_lightning requests runstats skimage torchmetrics torchvision"
    )
    assert not set(unwanted.split()) & set(done.stdout.split())


#: Refuses connections, in this process and its children, and writes them down. Sockets within the
#: machine (AF_UNIX) stay: processes talk through them.
OFFLINE = """
import sys

def refuse(event, arguments):
    named = event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr")
    sent = event in ("socket.connect", "socket.sendto", "socket.sendmsg")
    if named or sent and arguments[0].family.name != "AF_UNIX":
        with open({log!r}, "a") as log:
            print(event, arguments[1:], sys.argv, file=log)
        raise OSError("no connections here")

sys.addaudithook(refuse)
"""


COMMANDS = {
    "commands": (
        "benchmark --matrix-size 16 --n-center-lines 4 --budget 2 --max-slices 1 --policies random "
        "--out benchmark",
        "train reconstructor --reconstructor unet --network.pools 1 --matrix-size 16 "
        "--n-center-lines 4 --max-steps 2 --validate-every 2 --out unet",
    ),
    "demonstration": ("demo --n-scans 1 --budget 1",),
    "policy": (
        "train policy --algo imitation --reconstructor zero-filled --matrix-size 16 --budget 2 "
        "--n-center-lines 4 --learner.states 8 --learner.rounds 1 --learner.max-steps 2 "
        "--validate-every 1 --validation-scans 2 --out policy",
    ),
}


@pytest.mark.parametrize(
    "name",
    [
        "connection",
        "commands",
        pytest.param("demonstration", marks=pytest.mark.long),
        pytest.param("policy", marks=pytest.mark.long),
    ],
)
def test_nothing_attempts_a_connection(name: str, tmp_path: Path) -> None:
    log, lines = tmp_path / "connections", COMMANDS.get(name, ())
    (tmp_path / "sitecustomize.py").write_text(OFFLINE.format(log=str(log)))
    code = f"{EPISODE}from activemri.cli import main\n" + "".join(
        f"assert main({line.split()}) == 0\n" for line in lines
    )
    if name == "connection":  # the test would see one
        code = "import socket; socket.create_connection(('192.0.2.1', 80), 1)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        capture_output=True,
        text=True,
    )
    assert (done.returncode != 0) == log.exists() == (name == "connection"), done.stderr


def test_the_bill_of_materials_names_all_that_is_installed(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("make_sbom", ROOT / "docs" / "make_sbom.py")
    assert spec is not None and spec.loader is not None
    make_sbom = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_sbom)
    installed = make_sbom.find_installed()
    bill = json.loads(json.dumps(make_sbom.bill(installed)))
    assert (bill["bomFormat"], bill["specVersion"], bill["version"]) == ("CycloneDX", "1.6", 1)
    assert re.fullmatch(r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", bill["serialNumber"])
    components = {part["bom-ref"]: part for part in bill["components"]}
    assert len(components) == len(bill["components"]) and set(components) == set(installed)
    for name, part in components.items():
        assert part["type"] == "library" and part["name"] and part["version"]
        assert re.fullmatch(rf"pkg:pypi/{name}@[0-9A-Za-z.%]+", part["purl"])
        assert part["licenses"][0]["license"]["name"] not in ("", "not stated"), name
    assert bill["metadata"]["component"]["version"] == activemri.__version__
    assert bill["metadata"]["component"]["bom-ref"] not in components
    known = {bill["metadata"]["component"]["bom-ref"], *components}
    needs = {one["ref"]: set(one["dependsOn"]) for one in bill["dependencies"]}
    assert set(needs) == known and all(own <= known for own in needs.values())
    assert {"torch", "fastmri", "tyro"} <= needs["activemri"]
    assert "numpy" in needs["scipy"]


def test_licences_are_listed_of_all_that_users_install() -> None:
    text = (ROOT / "docs" / "dependencies.md").read_text()
    listed = dict(re.findall(r"^\| (\S+) \| (\S+) \| .+ \| (?:activemri|extras) \|$", text, re.M))
    listed = {re.sub("[-_.]+", "-", name).lower(): version for name, version in listed.items()}
    pins = dict(pin.split("==") for pin in PINS)
    assert listed == {name: pins[name] for name in listed}
    names = {requirement.name for requirement in requirements() if requirement.name in pins}
    development = {
        Requirement(line).name for line in PYPROJECT["project"]["optional-dependencies"]["dev"]
    }
    assert names - development - {"cufinufft"} <= set(listed)
