from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from activemri.agents.greedy import oracle
from activemri.agents.learning.demonstration_file import (
    About,
    DemonstrationError,
    read_demonstrations,
    write_demonstrations,
)
from activemri.agents.learning.demonstrations import Collector, Demonstrations, view_states
from activemri.data.slices import SliceList
from activemri.envs.acquisition import Acquisition, View
from tests.agents.conftest import MakeProtocol, MakeScan

ABOUT = About("ssim", "zero-filled", "here", "columns", 13, 13, 1)


def outwards(view: View) -> Tensor:
    return -view.geometry.frequency().float().expand(len(view.mask), -1)


@pytest.fixture
def scans(make_scan: MakeScan) -> SliceList:
    return SliceList([make_scan(i) for i in range(4)], "here")


@pytest.fixture
def acquisition(make_protocol: MakeProtocol) -> Acquisition:
    return make_protocol()


def collect(
    acquisition: Acquisition, scans: SliceList, *, n: int = 8, **options: object
) -> Demonstrations:
    collector = Collector(acquisition, scans, batch_size=4, **options)  # type: ignore[arg-type]
    generator = np.random.default_rng(0)
    found, seen = collector.collect(
        n, priority=outwards, look=lambda view: view.mask, generator=generator
    )
    assert torch.equal(seen, found.mask)
    return found


def test_scores_are_those_that_the_actions_lead_to(
    acquisition: Acquisition, scans: SliceList
) -> None:
    found = collect(acquisition, scans, n_tried=5)
    assert len(found) >= 8
    for row in range(len(found)):
        one = found.select([row])
        for action, score in zip(one.tried[0].tolist(), one.scores[0].tolist(), strict=True):
            if action < 0:
                assert score == -torch.inf
                continue
            state = acquisition.resume(
                [scans[int(one.index[0])]],
                start_masks=one.start_mask,
                masks=one.mask,
                budgets=one.budget,
            )
            assert float(state.scores["ssim"][0]) == pytest.approx(float(one.score[0]), abs=1e-6)
            after = acquisition.acquire(state, torch.tensor([action]))
            assert float(after.scores["ssim"][0]) == pytest.approx(score, abs=1e-6)


def test_all_legal_actions_tried_give_the_oracles_choice(
    acquisition: Acquisition, scans: SliceList
) -> None:
    found = collect(acquisition, scans, n_tried=None)
    for rows, _ in view_states(acquisition, scans, found):
        part = found.select(rows)
        state = acquisition.resume(
            [scans[i] for i in part.index.tolist()],
            start_masks=part.start_mask,
            masks=part.mask,
            budgets=part.budget,
        )
        view = acquisition.view(state, for_oracle=True)
        assert torch.equal(oracle("ssim").act(view, []), part.action)


def test_a_longer_horizon_compares_after_the_lines_that_would_come_next(
    acquisition: Acquisition, scans: SliceList
) -> None:
    found = collect(acquisition, scans, n_tried=None, horizon=3)
    outward = acquisition.geometry.frequency().argsort(stable=True).tolist()
    row = int(found.budget.argmax())
    one = found.select([row])
    for action, score in zip(one.tried[0].tolist(), one.scores[0].tolist(), strict=True):
        if action < 0:
            continue
        taken = [action] + [
            line for line in outward if line != action and not bool(one.mask[0, line])
        ]
        state = acquisition.resume(
            [scans[int(one.index[0])]],
            start_masks=one.start_mask,
            masks=one.mask,
            budgets=one.budget,
        )
        for line in taken[: min(3, int(one.budget[0]))]:
            state = acquisition.acquire(state, torch.tensor([line]))
        assert float(state.scores["ssim"][0]) == pytest.approx(score, abs=1e-6)


def test_the_prospect_is_the_best_gain_to_come_after_its_price(
    acquisition: Acquisition, scans: SliceList
) -> None:
    options = {"states_per_episode": None, "exploration": (0.0,), "n_tried": 2}
    free = collect(acquisition, scans, n=20, **options)
    dear = collect(acquisition, scans, n=20, step_cost=1.0, **options)
    first = free.select((free.budget == free.start_budget).nonzero().squeeze(1))
    row = int(first.index[0])
    state = acquisition.start([scans[row]])
    scores = [float(state.scores["ssim"][0])]
    while not bool(state.finished.all()):
        view = acquisition.view(state)
        liking = outwards(view).masked_fill(~view.legal, -torch.inf)
        state = acquisition.acquire(state, liking.argmax(dim=1))
        scores.append(float(state.scores["ssim"][0]))
    assert float(first.prospect[0]) == pytest.approx(max(scores[1:]) - scores[0], abs=1e-6)
    assert (dear.prospect < 0).all()


def test_a_seed_gives_the_same_states(acquisition: Acquisition, scans: SliceList) -> None:
    one, same = (collect(acquisition, scans, n_tried=5) for _ in range(2))
    for field in fields(Demonstrations):
        assert torch.equal(getattr(one, field.name), getattr(same, field.name))


def test_a_file_gives_back_what_was_written(
    tmp_path: Path, acquisition: Acquisition, scans: SliceList
) -> None:
    found = collect(acquisition, scans, n_tried=5)
    path = write_demonstrations(tmp_path / "new" / "file", found, scans=scans, about=ABOUT)
    assert path.name == "file.parquet"
    shuffled = SliceList([scans[i] for i in (2, 0, 3, 1)], "shuffled")
    again, about = read_demonstrations(path, scans=shuffled)
    assert about == ABOUT
    assert [shuffled[i].volume for i in again.index] == [scans[i].volume for i in found.index]
    for row in range(len(found)):
        wanted = dict(zip(found.tried[row].tolist(), found.scores[row].tolist(), strict=True))
        got = dict(zip(again.tried[row].tolist(), again.scores[row].tolist(), strict=True))
        assert {k: v for k, v in wanted.items() if k >= 0} == {
            k: v for k, v in got.items() if k >= 0
        }
    for name in ("start_mask", "mask", "budget", "start_budget", "score", "action", "prospect"):
        assert torch.equal(getattr(again, name), getattr(found, name))


def test_files_that_hold_no_demonstrations_are_told(
    tmp_path: Path, acquisition: Acquisition, scans: SliceList
) -> None:
    with pytest.raises(FileNotFoundError, match="none is at"):
        read_demonstrations(tmp_path / "none.parquet", scans=scans)
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(DemonstrationError, match="is not a Parquet file"):
        read_demonstrations(tmp_path / "text.parquet", scans=scans)
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(DemonstrationError, match="holds no demonstrations"):
        read_demonstrations(tmp_path / "other.parquet", scans=scans)


def test_demonstrations_of_other_scans_are_told(
    tmp_path: Path, acquisition: Acquisition, scans: SliceList, make_scan: MakeScan
) -> None:
    found = collect(acquisition, scans, n_tried=2)
    path = write_demonstrations(tmp_path / "a.parquet", found, scans=scans, about=ABOUT)
    others = SliceList([replace(make_scan(9), volume="another")], "others")
    with pytest.raises(DemonstrationError, match="scans that are not among those of others"):
        read_demonstrations(path, scans=others)
