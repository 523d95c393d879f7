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

#: The longest prefix of a module's name counts. What is not named lies in layer 0.
LAYERS = {
    **dict.fromkeys(["data", "reconstruction", "evaluator", "checkpoints"], 1),
    **dict.fromkeys(["training.loop", "training.folder", "training.processes"], 1),
    **dict.fromkeys(["envs", "registration"], 2),
    "agents": 3,
    **dict.fromkeys(["training", "stopping"], 4),
    "benchmark": 5,
    **dict.fromkeys(["cli", "__main__"], 6),
}


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

#: Only they may know which readouts an action acquires: the geometry, and networks of lines, which
#: keep the groups that they were made for.
KNOW_GROUPS = {
    "activemri.mri.geometry",
    "activemri.agents.networks",
    "activemri.agents.sb3",
    "activemri.agents.learners.imitation",
}


def imports(path: Path, *, when_loaded: bool = False) -> Iterator[str]:
    """Modules of ours that a file imports, anywhere in it, or only as soon as it is loaded."""
    tree = ast.parse(path.read_text())
    for node in tree.body if when_loaded else ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else str(node.module) for name in names]
        else:
            continue
        yield from (name for name in names if name in MODULES and name != "activemri")


def layer(module: str) -> int:
    """Layer of a module, e.g. 2 for activemri.envs.env."""
    parts = module.split(".")[1:]
    names = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
    return next((LAYERS[name] for name in names if name in LAYERS), 0)


@pytest.mark.parametrize("module", [name for name in MODULES if name != "activemri"])
def test_imports_go_down_only(module: str) -> None:
    for imported in imports(MODULES[module]):
        assert layer(module) >= layer(imported), f"{module} imports {imported}"


def test_no_module_imports_itself_by_a_detour() -> None:
    graph = {
        module: set(imports(path, when_loaded=True)) - {module} for module, path in MODULES.items()
    }
    TopologicalSorter(graph).prepare()  # raises CycleError and names the modules


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


def test_only_the_geometry_and_networks_of_lines_know_where_readouts_lie() -> None:
    known = set()
    for module, path in MODULES.items():
        nodes = list(ast.walk(ast.parse(path.read_text())))
        methods = [node.func for node in nodes if isinstance(node, ast.Call)]  # re.Match.groups()
        attributes = [node for node in nodes if isinstance(node, ast.Attribute)]
        if any(n.attr in ("groups", "selected") and n not in methods for n in attributes):
            known.add(module)
    assert known == KNOW_GROUPS
