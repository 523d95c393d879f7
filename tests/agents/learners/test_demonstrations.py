from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from activemri import cli
from activemri.agents.learners.demonstrations import (
    DemonstrateSettings,
    Demonstrations,
    collect,
    demonstrate,
    outwards,
    read_demonstrations,
    write_demonstrations,
)
from activemri.agents.learners.learner import Problem
from activemri.agents.oracles import oracle
from activemri.agents.registry import make_policy
from activemri.data.slices import SliceList
from activemri.envs.protocol import ScanProtocol
from activemri.envs.scan import State, Truth, View
from activemri.options import RunOptions
from tests.agents.learners.problems import problem
from tests.envs.scans import scan


def scans(n: int = 4) -> SliceList:
    return SliceList([scan(i, shape=(9, 13)) for i in range(n)], "here")


def place(**options: Any) -> Problem:
    given: dict[str, Any] = {"scans": scans(), "budget": 5, "reward": "delta_ssim", **options}
    return problem(**given)


def without_ties(view: View) -> Tensor:
    return outwards(view) - 1e-3 * torch.arange(view.geometry.n_actions)


def collected(place: Problem, *, n: int = 8, **options: Any) -> Demonstrations:
    generator = np.random.default_rng(0)
    found = collect(place, n, priority=without_ties, generator=generator, **options)
    assert len(found) >= n
    return found


def state_of(place: Problem, one: Demonstrations) -> State:
    return place.scan.resume(
        [place.scans[i] for i in one.index.tolist()],
        start_masks=one.start_mask,
        masks=one.mask,
        budgets=one.budget,
    )


def test_actions_that_were_taken_and_tried_are_counted() -> None:
    where = place(budget=5)
    found = collected(where, n_tried=3)
    tried = int((found.tried >= 0).sum())
    taken = where.n_actions - tried
    assert tried > 0 and taken > 0
    assert taken % 5 == 0  # whole scans of five lines


@pytest.mark.parametrize(("horizon", "n_tried"), [(1, 5), (3, None)])
def test_scores_are_those_that_the_actions_lead_to(horizon: int, n_tried: int | None) -> None:
    """After the action, and after the lines that would come next with a longer horizon."""
    where = place()
    found = collected(where, n_tried=n_tried, horizon=horizon)
    start = where.scan.start([where.scans[0]]).view
    order = without_ties(start)[0].argsort(descending=True).tolist()
    for row in (0, 5):
        one = found.select(torch.tensor([row]))
        for action, score in zip(one.tried[0].tolist(), one.scores[0].tolist(), strict=True):
            if action < 0:
                assert score == -torch.inf
                continue
            state = state_of(where, one)
            assert float(state.scores["ssim"][0]) == pytest.approx(float(one.score[0]), abs=1e-6)
            later = [line for line in order if line != action and not bool(one.mask[0, line])]
            for line in [action, *later][: min(horizon, int(one.budget[0]))]:
                state = where.scan.acquire(state, torch.tensor([line]))
            assert float(state.scores["ssim"][0]) == pytest.approx(score, abs=1e-6)


def test_all_legal_actions_tried_give_the_oracles_choice() -> None:
    where = place()
    found = collected(where, n_tried=None)
    state = state_of(where, found)
    seen = replace(state.view, truth=Truth(where.scan, state))
    assert torch.equal(oracle("ssim").act(seen, []), found.action)


def test_the_prospect_is_the_best_gain_to_come_after_its_price() -> None:
    where = place()
    options: dict[str, Any] = {"exploration": (0.0,), "n_tried": 2}
    free = collected(where, n=20, **options)
    dear = collected(place(step_cost=1.0, stop_action=True), n=20, **options)
    first = free.select((free.budget == free.start_budget).nonzero().squeeze(1))
    state = where.scan.start([where.scans[int(first.index[0])]])
    scores = [float(state.scores["ssim"][0])]
    while not bool(state.finished.all()):
        view = state.view
        liking = without_ties(view).masked_fill(~view.legal, -torch.inf)
        state = where.scan.acquire(state, liking.argmax(dim=1))
        scores.append(float(state.scores["ssim"][0]))
    assert float(first.prospect[0]) == pytest.approx(max(scores[1:]) - scores[0], abs=1e-6)
    assert (dear.prospect < 0).all()


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    where = place()
    found, same = (collected(where, n_tried=5) for _ in range(2))
    for name, values in vars(found).items():
        assert torch.equal(values, getattr(same, name))
    path = write_demonstrations(tmp_path / "new" / "file", found, where)
    assert path.name == "file.parquet"
    shuffled = SliceList([where.scans[i] for i in (2, 0, 3, 1)], "shuffled")
    again = read_demonstrations(path, place(scans=shuffled))
    assert [shuffled[i].volume for i in again.index] == [where.scans[i].volume for i in found.index]
    for row in range(len(found)):
        wanted = zip(found.tried[row].tolist(), found.scores[row].tolist(), strict=True)
        given = zip(again.tried[row].tolist(), again.scores[row].tolist(), strict=True)
        assert sorted(pair for pair in wanted if pair[0] >= 0) == sorted(
            pair for pair in given if pair[0] >= 0
        )
    for name in ("start_mask", "mask", "budget", "start_budget", "score", "action", "prospect"):
        assert torch.equal(getattr(again, name), getattr(found, name))
    others = SliceList([scan(9, shape=(9, 13))], "others")
    with pytest.raises(ValueError, match="scans that are not among those of others"):
        read_demonstrations(path, place(scans=others))


def test_files_that_hold_no_demonstrations_are_refused(tmp_path: Path) -> None:
    pyarrow, parquet = (pytest.importorskip(name) for name in ("pyarrow", "pyarrow.parquet"))
    where = place()
    with pytest.raises(FileNotFoundError, match="none is at"):
        read_demonstrations(tmp_path / "none.parquet", where)
    (tmp_path / "text.parquet").write_text("hello")
    parquet.write_table(pyarrow.table({"a": [1]}), tmp_path / "other.parquet")
    for name, reason in (
        ("text", "is not such a Parquet file"),
        ("other", "holds no demonstrations"),
    ):
        with pytest.raises(ValueError, match=reason):
            read_demonstrations(tmp_path / f"{name}.parquet", where)


def write_noise(folder: Path) -> Path:
    """A volume of three slices of 16 x 16 in the train split, and one in val."""
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        (folder / split).mkdir(parents=True)
        with h5py.File(folder / split / f"{split}.h5", "w") as file:
            parts = generator.normal(size=(2, 3, 1, 16, 16))
            file["kspace"] = (parts[0] + 1j * parts[1]).astype(np.complex64)
            file.attrs["subject_id"] = split
    return folder


def test_the_command_writes_a_file_that_a_policy_learns_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "found.parquet"
    scanned = f"--data {write_noise(tmp_path / 'scans')} --n-center-lines 4 --budget 3"
    command = f"demonstrate --env ActiveMRI/HDF5-v0 {scanned} --states 6 --out {path}"
    assert cli.main(f"{command} --policy oracle".split()) == 2
    assert "the oracle judges anyway" in capsys.readouterr().err
    assert cli.main(f"{command} --scanner moving".split()) == 2
    assert "expected an ideal scanner" in capsys.readouterr().err
    assert not path.exists()
    assert cli.main(command.split()) == 0
    rows = parquet.read_table(path).to_pylist()
    assert len(rows) >= 6
    for row in rows:
        n_missing = 16 - len(row["lines"])
        assert len(row["actions"]) == len(row["scores"]) == n_missing, "all legal lines are tried"
        assert row["action"] == row["actions"][int(np.argmax(row["scores"]))]
    train = f"train policy --env ActiveMRI/HDF5-v0 {scanned} --out {tmp_path / 'run'}"
    learner = f"--learner.max-steps 2 --learner.states 0 --learner.demonstrations {path}"
    assert cli.main(f"{train} {learner}".split()) == 0
    assert make_policy(tmp_path / "run").name == "run"


def test_a_policy_that_cannot_play_on_the_geometry_is_refused(tmp_path: Path) -> None:
    settings = DemonstrateSettings(
        protocol=ScanProtocol(matrix_size=24, geometry="radial", budget=4),
        run=RunOptions(out=tmp_path / "found.parquet"),
        policy="conjugate-symmetric",
    )
    with pytest.raises(ValueError, match=r"'conjugate-symmetric' needs .* geometry 'radial'"):
        demonstrate(settings)
