"""Examples in the documents run, commands are those of the command line, links lead somewhere."""

import json
import pkgutil
import re
import shlex
from pathlib import Path

import h5py
import numpy as np
import pytest

from activemri import cli
from activemri.data.formats.registry import all_readers
from activemri.data.index import index_path
from activemri.data.volumes import survey
from activemri.reconstruction.modl import MoDL
from activemri.reconstruction.registry import make_reconstructor, save_reconstructor

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]


def examples(name: str) -> list[str]:
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def commands(path: Path) -> list[str]:
    """Commands of a document: lines that begin with one, continued ones joined, and inline ones.

    Left out are inline ones without an option, which only name a command, and those with "...".
    """
    text = path.read_text(encoding="utf-8").replace("$(BIN)/", "")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n".join("".join(cell["source"]) for cell in cells)
    text = re.sub(r" *\\\n\s*", " ", text)
    lines = re.findall(r"^\s*(activemri .*)$", text, flags=re.MULTILINE)
    inline = [
        " ".join(found.split()) for found in re.findall(r"`(activemri [^`]*\s--[^`]+)`", text)
    ]
    return [
        line for line in dict.fromkeys([*lines, *inline]) if not re.search(r"\.\.\.|--help", line)
    ]


README = ROOT / "README.md"
RUN_ELSEWHERE = ROOT / "docs" / "extending.md"  # in tests/test_extending.py
WITH_COMMANDS = [*DOCUMENTS, *sorted((ROOT / "notebooks").glob("*.ipynb")), ROOT / "Makefile"]
COMMANDS = [
    (path, line) for path in WITH_COMMANDS if path != RUN_ELSEWHERE for line in commands(path)
]


@pytest.mark.parametrize(("path", "line"), COMMANDS, ids=[f"{p.name}: {c}" for p, c in COMMANDS])
def test_commands_in_documents_are_those_of_the_command_line(
    path: Path, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = shlex.split(line, comments=True)[1:]
    name = cli._named_first(words)
    assert name is not None, f"{path.name}: {line}"
    if "runs/modl" in line:  # the checkpoint says which settings its network has
        trained = next(word for word in words if word.startswith("runs/modl"))
        save_reconstructor(trained, make_reconstructor(MoDL()), info={})
    cli.parse(name, words[len(name.split()) :])


def test_every_command_is_in_the_readme() -> None:
    named = {cli._named_first(shlex.split(line, comments=True)[1:]) for line in commands(README)}
    assert named == set(cli.COMMANDS)


def anchors(text: str) -> set[str]:
    """Names by which headings are linked to."""
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_python_in_documents_is_python(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for block in re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE):
        compile(block, path.name, "exec")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\((?!http)([^)]+)\)", path.read_text(encoding="utf-8"))
    for link in links:
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), link


@pytest.mark.parametrize(
    "path", [p for p in DOCUMENTS if p.name != "CHANGELOG.md"], ids=lambda path: path.name
)
def test_what_documents_name_is_there(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for name in re.findall(r"`((?:activemri|am)\.[\w.]+)`", text):
        full = re.sub(r"^am\.", "activemri.", name)
        assert pkgutil.resolve_name(full) is not None
    for name in re.findall(r"`((?:[\w.]+/)+(?:[\w-]+\.py)?)`", text):
        if name.split("/")[0] in ("activemri", "agents", "envs", "tests", "docs", "notebooks"):
            assert (ROOT / name).exists(), name


def test_scans_written_as_the_cookbook_says_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scans").mkdir()
    (example,) = (text for text in examples("data.md") if "volume-1.h5" in text)
    exec(compile(example, "data.md", "exec"), {"__name__": "example"})
    index = index_path(tmp_path / "scans", all_readers())
    (found,) = survey(index.root, index.entries)
    assert index.entries[0].volume.subject == "p-01"
    assert found.usable == (0, 1, 2, 3)


def test_the_reader_of_the_cookbook_reads(tmp_path: Path) -> None:
    (example,) = (text for text in examples("data.md") if "class PhantomLabReader" in text)
    names: dict[str, object] = {"__name__": "example"}
    exec(compile(example, "data.md", "exec"), names)
    reader = names["PhantomLabReader"]
    rng = np.random.default_rng(0)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["ksp"] = rng.normal(size=(3, 16, 12, 2)) + 0j
    index = index_path(tmp_path, (reader(), *all_readers()))  # type: ignore[operator]
    (found,) = survey(index.root, index.entries)
    assert index.entries[0].reader.name == "phantom-lab"
    assert index.entries[0].volume.shape == (16, 12)
    assert found.usable == (0, 1, 2)
