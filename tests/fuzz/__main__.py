"""`python -m tests.fuzz`: damage files of every kind that is read, and count what becomes of them.

With ``--seed`` one case of one target runs here, in full view; its files stay in ``--out``.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from tests.fuzz import cases
from tests.fuzz.campaign import campaign, table


@dataclass(frozen=True, kw_only=True)
class FuzzSettings:
    """Use damaged files of every kind, within limits of time and memory."""

    count: int = 100_000
    """Inputs in all; those that --out counts already are not run again."""
    out: Path = Path("runs/fuzz")
    """Folder of the counts."""
    target: tuple[str, ...] = ()
    """Kinds of files; none takes all."""
    seed: int | None = None
    """Number of one case, of one target."""
    workers: int = 1
    """Processes side by side."""


def main() -> int:
    settings = tyro.cli(FuzzSettings, prog="python -m tests.fuzz")
    known = cases.known()
    if unknown := [name for name in settings.target if name not in known]:
        print(f"unknown target {unknown[0]!r}; expected one of: {', '.join(known)}")
        return 2
    names = settings.target or tuple(known)
    if settings.seed is not None:
        target, folder = known[names[0]], settings.out / "case"
        cases.put(cases.made(target, settings.seed), folder)
        print(f"{folder}: {', '.join(path.name for path in sorted(folder.iterdir()))}")
        target.use(target.load(folder))
        return 0
    tallies = campaign(names, settings.count, settings.out, workers=settings.workers)
    shown = {name: tallies[name] for name in names}
    print(table(shown).text())
    return int(any(tally.defects for tally in shown.values()))


if __name__ == "__main__":
    sys.exit(main())
