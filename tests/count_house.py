"""Sizes of the package: ``python -m tests.count_house [--list]``.

``--list`` also names the docstrings that begin with a question word.
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("activemri", "agents", "envs")
QUESTIONS = ("What", "How", "Who", "Whose", "Whether", "Where")
#: Dataclasses whose fields are settings have names that end so.
SETTINGS = ("Settings", "Options", "ScanProtocol", "Compute")

Function = ast.FunctionDef | ast.AsyncFunctionDef
Documented = ast.Module | ast.ClassDef | Function


@dataclass(frozen=True)
class Module:
    """A source file.

    Attributes:
        path: relative to the repository.
        text: of the file.
        tree: of the text.
    """

    path: Path
    text: str
    tree: ast.Module

    @property
    def n_lines(self) -> int:
        return len(self.text.splitlines())

    @property
    def classes(self) -> list[ast.ClassDef]:
        return [node for node in ast.walk(self.tree) if isinstance(node, ast.ClassDef)]

    @property
    def public_functions(self) -> list[Function]:
        """Functions at the top of the file and methods of public classes there."""
        bodies = [self.tree.body]
        for node in self.tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                bodies.append(node.body)
        return [
            node
            for body in bodies
            for node in body
            if isinstance(node, Function) and not node.name.startswith("_")
        ]

    @property
    def docstring_lines(self) -> int:
        texts = (ast.get_docstring(node, clean=False) for node in self._documented())
        return sum(len(text.splitlines()) for text in texts if text is not None)

    @property
    def questions(self) -> list[str]:
        """Docstrings that begin with a question word, with their places."""
        found = []
        for node in self._documented():
            words = (ast.get_docstring(node) or "").split()
            if words and words[0].strip(",:;.'") in QUESTIONS:
                line = getattr(node, "lineno", 1)
                found.append(f"{self.path}:{line}: {' '.join(words[:8])}")
        return found

    def _documented(self) -> Iterator[Documented]:
        return (node for node in ast.walk(self.tree) if isinstance(node, Documented))


def modules(folder: str) -> list[Module]:
    """The files of a top folder; links to others are not followed."""
    top = ROOT / folder
    links = [path for path in top.iterdir() if path.is_symlink()]
    paths = [p for p in sorted(top.rglob("*.py")) if not any(p.is_relative_to(q) for q in links)]
    texts = [path.read_text(encoding="utf-8") for path in paths]
    pairs = zip(paths, texts, strict=True)
    return [Module(path.relative_to(ROOT), text, ast.parse(text)) for path, text in pairs]


def settings_fields(files: list[Module]) -> dict[str, list[str]]:
    """Names of the fields that settings declare themselves, by class."""
    return {
        node.name: [
            one.target.id
            for one in node.body
            if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)
        ]
        for module in files
        for node in module.classes
        if node.name.endswith(SETTINGS)
        and any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)
    }


def report(*, every_question: bool = False) -> str:
    """A table of all folders, and the settings."""
    heads = ("files", "lines", "docs", "classes", "public", "questions", "median")
    rows = [f"{'':10}" + "".join(f"{head:>10}" for head in heads)]
    found = {folder: modules(folder) for folder in FOLDERS}
    everything = [module for files in found.values() for module in files]
    for name, files in {**found, "together": everything}.items():
        lengths = sorted(module.n_lines for module in files)
        numbers = (
            len(files),
            sum(lengths),
            sum(module.docstring_lines for module in files),
            sum(len(module.classes) for module in files),
            sum(len(module.public_functions) for module in files),
            sum(len(module.questions) for module in files),
            lengths[len(lengths) // 2],
        )
        rows.append(f"{name:10}" + "".join(f"{number:10}" for number in numbers))
    declared = settings_fields(everything)
    fields = [field for own in declared.values() for field in own]
    rows.append(
        f"settings: {len(declared)} classes declare {len(fields)} fields, "
        f"{len(set(fields))} of them distinct"
    )
    if every_question:
        rows += [question for module in everything for question in module.questions]
    return "\n".join(rows)


if __name__ == "__main__":
    print(report(every_question="--list" in sys.argv[1:]))  # noqa: T201
