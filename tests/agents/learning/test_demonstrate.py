"""`activemri demonstrate` from the command line."""

from pathlib import Path

import numpy as np
import pytest

from activemri import cli
from activemri.agents.registry import make_policy
from tests.agents.learning.files import write_noise


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_noise(tmp_path / "scans", n_slices=3)


def demonstrate(data: Path, out: Path, more: str = "", *, env: str = "HDF5") -> int:
    return cli.main(
        f"demonstrate --env ActiveMRI/{env}-v0 --data {data} --n-center-lines 4 --budget 3 "
        f"--states 6 --out {out} {more}".split()
    )


def test_a_row_says_what_every_line_of_a_state_would_lead_to(data: Path, tmp_path: Path) -> None:
    assert demonstrate(data, tmp_path / "found.parquet") == 0
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = parquet.read_table(tmp_path / "found.parquet").to_pylist()
    assert len(rows) >= 6
    for row in rows:
        n_missing = 16 - len(row["lines"])
        assert len(row["actions"]) == len(row["scores"]) == n_missing, "all legal lines are tried"
        assert row["action"] == row["actions"][int(np.argmax(row["scores"]))]


def test_a_policy_learns_from_the_file_alone(data: Path, tmp_path: Path) -> None:
    demonstrate(data, tmp_path / "found.parquet", "--n-tried 4")
    learned = cli.main(
        f"train policy --algo imitation --env ActiveMRI/HDF5-v0 --data {data} --n-center-lines 4 "
        f"--budget 3 --max-steps 2 --out {tmp_path / 'run'} "
        f"--learner states=0 demonstrations={tmp_path / 'found.parquet'}".split()
    )
    assert learned == 0
    assert make_policy(tmp_path / "run").name == "run"


def test_what_cannot_be_demonstrated_is_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "found.parquet"
    assert demonstrate(data, out, "--policy oracle") == 2
    assert "the oracle is asked anyway" in capsys.readouterr().err
    assert demonstrate(data, out, env="Motion") == 2
    assert "expected an environment without imperfection" in capsys.readouterr().err
    assert not out.exists()
