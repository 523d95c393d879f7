"""Examples in `docs/` run, and what they link to is there."""

import re
from pathlib import Path

import h5py
import numpy as np
import pytest

from activemri.data.formats.registry import all_readers
from activemri.data.index import index_path
from activemri.data.volumes import survey

DOCUMENTS = sorted((Path(__file__).parents[1] / "docs").glob("*.md"))


def examples(name: str) -> list[str]:
    text = (Path(__file__).parents[1] / "docs" / name).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def anchors(text: str) -> set[str]:
    """What a heading is linked to by."""
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\((?!http)([^)]+)\)", path.read_text(encoding="utf-8"))
    for link in links:
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), link


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
