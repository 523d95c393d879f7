"""Notebooks run from top to bottom. They are plain Python, so that no Jupyter is needed here."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from matplotlib import pyplot

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))

#: Numbers of scans in the notebooks, and fewer of them that show as well that everything runs.
FEWER = {
    "range(1, 24, 4)": "range(1, 12, 4)",
    "range(1, 40, 4)": "range(1, 8, 4)",
    "n_fit_scans=12, max_fit_slices=12": "n_fit_scans=4, max_fit_slices=4",
    "[(0, 10), (10, 36), (36, 50)]": "[(0, 4), (4, 15), (15, 17)]",
}

notebooks = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
slow_notebooks = pytest.mark.parametrize(
    "notebook",
    [
        pytest.param(path, marks=pytest.mark.long if path.stem == "02_stop_when_enough" else ())
        for path in NOTEBOOKS
    ],
    ids=lambda path: path.stem,
)


def cells(notebook: Path) -> list[dict[str, Any]]:
    """All cells, in order; what they hold is described at nbformat.readthedocs.io."""
    found: list[dict[str, Any]] = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return found


def run(notebook: Path) -> dict[str, Any]:
    """Execute the code cells in one namespace, as a kernel does, and return it; with fewer scans.

    Tracebacks name the notebook and the cell, counted from 1 over cells of every kind.
    """
    namespace: dict[str, Any] = {"__name__": "notebook"}
    for number, cell in enumerate(cells(notebook), start=1):
        if cell["cell_type"] == "code":
            name = f"{notebook.name}, cell {number}"
            source = "".join(cell["source"])
            for usual, fewer in FEWER.items():
                source = source.replace(usual, fewer)
            exec(compile(source, name, "exec"), namespace)
    return namespace


@pytest.fixture
def _away_from_the_screen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Draw into memory, and write into an empty folder what a notebook writes."""
    monkeypatch.chdir(tmp_path)
    backend = matplotlib.get_backend()
    matplotlib.use("Agg")
    yield
    pyplot.close("all")
    matplotlib.use(backend)


def test_there_are_numbered_notebooks() -> None:
    numbers = [notebook.name[:3] for notebook in NOTEBOOKS]
    assert numbers == [f"{number:02}_" for number in range(1, len(NOTEBOOKS) + 1)] != []


@slow_notebooks
@pytest.mark.usefixtures("_away_from_the_screen")
def test_a_notebook_runs_from_top_to_bottom(notebook: Path) -> None:
    run(notebook)
    for number in pyplot.get_fignums():
        pyplot.figure(number).canvas.draw()  # figures are drawn when they are shown, not before


def test_what_is_made_smaller_is_in_the_notebooks() -> None:
    text = "".join(notebook.read_text(encoding="utf-8") for notebook in NOTEBOOKS)
    assert [usual for usual in FEWER if usual not in text] == []


@notebooks
def test_a_notebook_is_kept_without_outputs(notebook: Path) -> None:
    code = [cell for cell in cells(notebook) if cell["cell_type"] == "code"]
    assert code
    assert [cell for cell in code if cell["outputs"] or cell["execution_count"] is not None] == []


def test_a_cell_that_fails_is_named(tmp_path: Path) -> None:
    sources = [("markdown", ["Not code"]), ("code", ["a = 1\n", "b = 0"]), ("code", ["a / b"])]
    written = [{"cell_type": kind, "source": source} for kind, source in sources]
    broken = tmp_path / "broken.ipynb"
    broken.write_text(json.dumps({"cells": written}))
    with pytest.raises(ZeroDivisionError) as caught:
        run(broken)
    assert str(caught.traceback[-1].path) == "broken.ipynb, cell 3"
