"""Boxes around findings, as fastMRI+ publishes them for fastMRI's knees and brains.

A CSV file with the columns ``file, slice, study_level, x, y, width, height, label``: the file's
stem, the slice from 0, and a box in pixels of the reference image (`reconstruction_rss`, mostly
320 x 320). The images were turned upside down before radiologists drew on them, so `y` counts from
the last row of the stored image. Rows about a whole study have no box. A box says that one
radiologist saw something there; a slice without one may hold findings all the same.

Zhao et al., fastMRI+, Clinical pathology annotations for knee and brain fully sampled magnetic
resonance imaging data, Scientific Data 9:152 (2022); https://github.com/microsoft/fastmri-plus.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from activemri.data.regions import Box

COLUMNS = ("file", "slice", "x", "y", "width", "height")


@dataclass(frozen=True)
class Finding:
    """A box in the image turned upside down, and what is seen in it."""

    x: int
    y: int
    width: int
    height: int
    label: str = ""

    def box(self, n_rows: int) -> Box:
        """The box in the stored image of so many rows."""
        return n_rows - self.y - self.height, self.x, self.height, self.width


#: Findings by volume (the file's stem) and slice.
Findings = Mapping[tuple[str, int], tuple[Finding, ...]]


def read_findings(path: str | Path) -> Findings:
    """Read a CSV file in the layout of fastMRI+.

    Args:
        path: of the file, e.g. `knee.csv` of fastMRI+.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if columns are missing, a number is none, or no row has a box.
    """
    found: dict[tuple[str, int], tuple[Finding, ...]] = {}
    with Path(path).expanduser().open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        if missing := [name for name in COLUMNS if name not in (rows.fieldnames or ())]:
            raise ValueError(
                f"{path}: expected the columns {', '.join(COLUMNS)}; {', '.join(missing)} missing"
            )
        for row in rows:
            if not (row["x"] or "").strip():
                continue  # about the whole study
            key, finding = _finding(row, f"{path}, line {rows.line_num}")
            found[key] = (*found.get(key, ()), finding)
    if not found:
        raise ValueError(f"{path}: expected at least one row with a box; found none")
    return found


def _finding(row: dict[str, str], place: str) -> tuple[tuple[str, int], Finding]:
    try:
        index = int(row["slice"])
        x, y, width, height = (round(float(row[name])) for name in COLUMNS[2:])
    except (TypeError, ValueError):
        raise ValueError(
            f"{place}: expected numbers for {', '.join(COLUMNS[1:])}; "
            f"got {', '.join(repr(row[name]) for name in COLUMNS[1:])}"
        ) from None
    return (row["file"].removesuffix(".h5"), index), Finding(x, y, width, height, row["label"])
