import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.contents import contents, differences, left_over

ROOT = Path(__file__).parents[2]


def test_results_are_compared_without_times_and_unfinished_files(tmp_path: Path) -> None:
    def results(name: str, **files: str) -> Path:
        for file, text in files.items():
            path = tmp_path / name / file.replace("_", ".")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        return tmp_path / name

    first = results("first", a_json='{"x": 1, "seconds": 2}', b_txt="text", c_json="{}")
    same = results("same", a_json='{"x": 1, "seconds": 3}', b_txt="text", c_json="{}", d_next="")
    assert differences(contents(first), contents(same)) == []
    assert left_over(first) == [] and left_over(same) == ["d.next"]
    other = results("other", a_json='{"x": 2}', b_txt="text", c_json="{", e_txt="")
    assert differences(contents(first), contents(other)) == [
        "e.txt is there as well",
        "a.json differs",
        "c.json differs",
    ]


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_jobs_that_something_happens_to_end_with_the_same_result() -> None:
    jobs = ["train reconstructor", "train policy, dqn", "train order", "data"]
    command = [sys.executable, "-m", "tests.faults", "--kills", "3", "--jobs", *jobs]
    # In a process of its own: one whose threads have worked cannot be forked.
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("same result (3)") == 5 and "0 defect(s)" in done.stdout
