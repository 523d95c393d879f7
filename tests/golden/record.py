"""Record today's behaviour: ``python -m tests.golden.record [GROUP ...]``.

Only a change of behaviour that is meant justifies it. Groups are the files in ``recorded``; all of
them without arguments.
"""

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

if __package__ is None or __package__ == "":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.golden import bench, play
from tests.golden.cases import GROUPS, Case
from tests.golden.files import write_scans


def main(groups: Sequence[str]) -> None:
    """Write the files of these groups."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ACTIVEMRI_CACHE"] = str(Path(folder) / "cache")
        for group in groups or (*GROUPS, *bench.COMMANDS):
            if group in bench.COMMANDS:
                record = bench.run(group, Path(folder) / group)
            else:
                follow = group == "ids"  # vector environments begin those
                record = {c.name: _record(c, Path(folder), follow) for c in GROUPS[group]}
            print(play.write(group, record))  # noqa: T201


def _record(case: Case, folder: Path, follow: bool) -> play.Record:
    data = None if case.files is None else write_scans(case.files, folder / case.files)
    env = play.make(case, data)
    return {str(seed): play.play(env, case, seed, follow=follow) for seed in case.seeds}


if __name__ == "__main__":
    main(sys.argv[1:])
