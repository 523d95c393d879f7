import ast
import importlib.util
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"activemri": ROOT / "activemri", "activemri.agents": ROOT / "agents"}
FOLDERS["activemri.envs"] = ROOT / "envs"

#: Parts that are not named here lie in layer 0: they import nothing above it.
LAYERS = {
    **dict.fromkeys(["data", "reconstruction", "evaluator", "checkpoints", "runs"], 1),
    **dict.fromkeys(["training", "envs"], 2),
    "agents": 3,
    "stopping": 4,
    **dict.fromkeys(["benchmark", "alternating"], 5),
    **dict.fromkeys(["cli", "__main__"], 5),
}
FORBIDDEN = {("envs", "training"), ("agents", "training")}


def modules() -> dict[str, Path]:
    """Every module's name and file; the links are not followed, their targets are read instead."""
    found = {}
    for package, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            if package == "activemri" and path.relative_to(folder).parts[0] in ("agents", "envs"):
                continue
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join([package, *parts]).removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imports(path: Path) -> Iterator[str]:
    """Modules of ours that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else str(node.module) for name in names]
        else:
            continue
        yield from (name for name in names if name in MODULES and name != "activemri")


def part(module: str) -> str:
    """First name below the package, e.g. mri for activemri.mri.fourier."""
    return [*module.split("."), ""][1]


@pytest.mark.parametrize("module", [name for name in MODULES if name != "activemri"])
def test_imports_go_down_only(module: str) -> None:
    for imported in imports(MODULES[module]):
        above, below = part(module), part(imported)
        assert LAYERS.get(above, 0) >= LAYERS.get(below, 0), f"{module} imports {imported}"
        assert (above, below) not in FORBIDDEN, f"{module} imports {imported}"


def test_no_module_imports_itself_by_a_detour() -> None:
    graph = {module: set(imports(path)) - {module} for module, path in MODULES.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError and names the modules


def test_a_file_has_at_most_400_lines() -> None:
    lengths = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
    assert {name: n for name, n in lengths.items() if n > 400} == {}


def test_every_folder_is_in_the_package_list() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    assert set(settings["packages"]) == folders
    assert settings["package-dir"] == {"activemri.agents": "agents", "activemri.envs": "envs"}


@pytest.mark.parametrize("package", ["agents", "envs"])
def test_the_top_folders_are_imported_as_parts_of_the_package(package: str) -> None:
    spec = importlib.util.find_spec(f"activemri.{package}")
    assert spec is not None and spec.origin is not None
    assert Path(spec.origin).resolve() == ROOT / package / "__init__.py"
