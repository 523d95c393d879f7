"""Measure docs/speed.png and the tables of docs/speed.md and README.md, which takes two minutes."""

import json
import re
from pathlib import Path

from activemri.benchmark.throughput import ThroughputSettings, as_table, run_throughput
from activemri.tables import Table

ROOT = Path(__file__).parents[1]
#: Rows of the README.
SHORT = ("step_", "oracle_", "screened_oracle", "decision", "cresnet_step", "learner")


def main() -> None:
    """Write the tables between their marks."""
    settings = ThroughputSettings(json=True, plot=ROOT / "docs" / "speed.png")
    found = json.loads(run_throughput(settings))
    rows, machine = found["rows"], found["machine"]
    whole = as_table(rows, machine)
    notes = "".join(f"\n- {note}" for note in whole.notes)
    versions = f"activemri {machine['activemri']}, torch {machine['torch']}"
    text = f"{whole.title}, {versions}:\n\n{whole.markdown()}\n{notes}"
    put(ROOT / "docs" / "speed.md", text)
    some = as_table({name: row for name, row in rows.items() if name.startswith(SHORT)}, machine)
    without_goals = Table(some.header[:-2], [line[:-2] for line in some.lines])
    put(ROOT / "README.md", without_goals.markdown())


def put(path: Path, text: str, *, by: str = "docs/make_speed.py") -> None:
    """Replace what is between the marks of a document, which say by what it is made."""
    begin, end = f"<!-- by {by} -->", "<!-- end -->"
    pattern = re.compile(f"(?<={begin}\n\n).*?(?=\n\n{end})", flags=re.DOTALL)
    old = path.read_text(encoding="utf-8")
    new, n_replaced = pattern.subn(lambda _: text, old)
    if n_replaced != 1:
        raise ValueError(f"{path}: expected one place between {begin} and {end}; got {n_replaced}")
    path.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
