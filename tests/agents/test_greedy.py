"""The one-step oracle against trying every action for real."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from activemri.agents import policy
from activemri.agents.oracles import oracle
from activemri.agents.policy import Greedy, score_actions
from activemri.agents.rollout import rollout
from activemri.data.slices import Slice
from activemri.envs.scan import Scan, Truth
from activemri.metrics import METRICS

MakeScan = Callable[..., Slice]
MakeProtocol = Callable[..., Scan]


@pytest.mark.parametrize("metric", ["ssim", "nmse", "psnr_volume"])
@pytest.mark.parametrize(
    ("geometry", "lines"), [("columns", 1), ("rows", 2), ("points", 1), ("tiles", 2), ("radial", 1)]
)
def test_the_oracle_takes_the_action_after_which_the_score_is_best(
    make_scan: MakeScan, make_protocol: MakeProtocol, geometry: str, lines: int, metric: str
) -> None:
    protocol = make_protocol(geometry, lines_per_action=lines)
    state = protocol.start([make_scan(0), make_scan(1)])
    chosen = oracle(metric).act(replace(state.view, truth=Truth(protocol, state)), [])
    sign = 1 if METRICS[metric].higher_is_better else -1
    for row in range(2):
        tried = {}
        for action in state.view.legal[row].nonzero().flatten().tolist():
            mask = protocol.geometry.acquire(state.view.mask[row : row + 1], torch.tensor([action]))
            after = protocol.preview_masks(state.select([row]), mask[None], (metric,))[metric]
            tried[action] = sign * float(after)
        assert tried[int(chosen[row])] == pytest.approx(max(tried.values()), rel=1e-6)


def test_only_wanted_actions_have_scores(make_scan: MakeScan, make_protocol: MakeProtocol) -> None:
    protocol = make_protocol()
    state = protocol.start([make_scan(0), make_scan(1)])
    wanted = torch.zeros_like(state.view.legal)
    wanted[0, [0, 3, 9]] = True
    wanted[1, 12] = True
    scores = score_actions(Truth(protocol, state), wanted, "mse")
    assert torch.equal(scores.isfinite(), wanted)
    expected = protocol.preview(state, torch.tensor([[3], [12]]), ("mse",))["mse"]
    assert [float(scores[0, 3]), float(scores[1, 12])] == (-expected[:, 0]).tolist()


def test_no_wanted_action_has_no_score(make_scan: MakeScan, make_protocol: MakeProtocol) -> None:
    protocol = make_protocol()
    state = protocol.start([make_scan(0)])
    scores = score_actions(Truth(protocol, state), torch.zeros_like(state.view.legal), "ssim")
    assert scores.tolist() == [[-torch.inf] * 13]


def test_little_memory_gives_the_same_scores(
    make_scan: MakeScan, make_protocol: MakeProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol = make_protocol()
    state = protocol.start([make_scan(0), make_scan(1)])
    at_once = score_actions(Truth(protocol, state), state.view.legal, "ssim")
    monkeypatch.setattr(policy, "_MEMORY", 1.0)
    assert torch.equal(score_actions(Truth(protocol, state), state.view.legal, "ssim"), at_once)


def test_the_default_oracle_plays_a_single_scan(
    make_scan: MakeScan, make_protocol: MakeProtocol
) -> None:
    assert rollout(make_protocol(), oracle(), [make_scan(0)]).n_steps.tolist() == [5]


def test_an_oracle_without_the_truth_says_how_to_give_it(
    make_scan: MakeScan, make_protocol: MakeProtocol
) -> None:
    protocol = make_protocol()
    view = protocol.start([make_scan(0)]).view
    with pytest.raises(ValueError, match="an oracle needs the truth"):
        oracle().act(view, [])


def test_an_unknown_metric_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="unknown metric 'sim'; choose from ssim"):
        oracle("sim")


def test_any_scorer_makes_a_policy(make_scan: MakeScan, make_protocol: MakeProtocol) -> None:
    policy = Greedy("last", lambda view: torch.arange(13.0).expand(view.legal.shape))
    episodes = rollout(make_protocol(), policy, [make_scan(0), make_scan(1)])
    assert episodes.actions.tolist() == [[12, 11, 10, 9, 8]] * 2
