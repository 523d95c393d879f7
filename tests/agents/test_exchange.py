"""The exchange oracle never ends below its starts, and finds what can be found by swaps."""

import gc
import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from activemri.agents import oracles
from activemri.agents.heuristic import low_frequency_first
from activemri.agents.oracles import ExchangeOracle, oracle
from activemri.agents.order import fit_order
from activemri.agents.policy import Policy
from activemri.agents.rollout import rollout
from activemri.data.slices import Slice
from activemri.envs.scan import Scan

MakeScan = Callable[..., Slice]
MakeProtocol = Callable[..., Scan]

GEOMETRIES = [("columns", 1), ("columns", 2), ("columns", 3), ("points", 1), ("rows", 2)]
GEOMETRIES += [("conjugate-columns", 1), ("conjugate-columns", 2)]


@pytest.mark.parametrize(
    ("geometry", "lines", "metric"),
    [*((*one, "ssim") for one in GEOMETRIES), ("columns", 2, "mse"), ("points", 1, "mse")],
)
def test_the_final_score_is_not_below_either_start(
    make_scan: MakeScan, make_protocol: MakeProtocol, geometry: str, lines: int, metric: str
) -> None:
    protocol = make_protocol(geometry, lines_per_action=lines, budget=6)
    scans = [make_scan(seed) for seed in range(3)]
    order = fit_order("lbcs", protocol, [make_scan(9), make_scan(8)], metric=metric)
    sign = 1 if metric == "ssim" else -1

    def final(policy: Policy) -> torch.Tensor:
        return sign * rollout(protocol, policy, scans).scores[metric][:, -1]

    for start, given in ((order, order), (low_frequency_first(), None)):
        best = torch.maximum(final(oracle(metric)), final(start))
        found = final(ExchangeOracle(metric, given))
        assert bool((found >= best - 1e-6 * best.abs()).all())


# Scans 20 and 23 are those of which neither start is a local optimum.
@pytest.mark.parametrize(("n_drops", "n_better"), [(1, 1), (4, 2)])
def test_swaps_improve_on_both_starts_somewhere(
    make_scan: MakeScan, make_protocol: MakeProtocol, n_drops: int, n_better: int
) -> None:
    protocol, scans = make_protocol(), [make_scan(seed) for seed in (20, 23)]
    finals = [
        rollout(protocol, policy, scans).scores["ssim"][:, -1]
        for policy in (ExchangeOracle(max_swaps=0), ExchangeOracle(n_drops=n_drops))
    ]
    assert int((finals[1] > finals[0] + 1e-4).sum()) >= n_better


def test_no_single_swap_of_the_result_helps(
    make_scan: MakeScan, make_protocol: MakeProtocol
) -> None:
    protocol, scans = make_protocol(), [make_scan(seed) for seed in range(18, 24)]
    episodes = rollout(protocol, ExchangeOracle(n_drops=5), scans)
    for row, scan in enumerate(scans):
        taken = episodes.actions[row].tolist()
        state = protocol.start([scan])
        others = [line for line in range(13) if not state.view.mask[0, line] and line not in taken]
        masks = state.view.mask.repeat(len(taken) * len(others), 1)
        for mask, (drop, add) in zip(masks, itertools.product(taken, others), strict=True):
            mask[[add, *(line for line in taken if line != drop)]] = True
        swapped = protocol.preview_masks(state, masks[None], ("ssim",))["ssim"]
        assert float(swapped.max()) <= float(episodes.scores["ssim"][row, -1]) + 1e-5


def test_plans_of_one_slice_from_two_start_masks_do_not_mix(
    make_scan: MakeScan, make_protocol: MakeProtocol
) -> None:
    protocol, scan = make_protocol(), make_scan(0)
    masks = torch.zeros(2, 13, dtype=torch.bool)
    masks[0, 6], masks[1, [0, 1, 2, 3]] = True, True
    for mask in masks:
        kept = rollout(protocol, ExchangeOracle(), [scan], start_masks=mask[None])
        anew = rollout(protocol, ExchangeOracle(), [make_scan(0)], start_masks=mask[None])
        assert torch.equal(kept.actions, anew.actions)


def test_the_plan_is_taken_best_line_first(
    make_scan: MakeScan, make_protocol: MakeProtocol
) -> None:
    protocol, scan = make_protocol(budget=4), make_scan(0)
    taken = rollout(protocol, ExchangeOracle(), [scan]).actions[0].tolist()
    scores = protocol.preview(protocol.start([scan]), torch.tensor([taken]), ("ssim",))["ssim"]
    assert int(scores.argmax()) == 0


def test_without_swaps_it_is_the_better_start(
    make_scan: MakeScan, make_protocol: MakeProtocol
) -> None:
    protocol, scans = make_protocol(), [make_scan(seed) for seed in range(3)]
    finals = [
        rollout(protocol, policy, scans).scores["ssim"][:, -1]
        for policy in (oracle(), low_frequency_first(), ExchangeOracle(max_swaps=0))
    ]
    torch.testing.assert_close(finals[2], torch.maximum(finals[0], finals[1]), rtol=0, atol=1e-6)


def test_plans_of_one_slice_under_two_protocols_do_not_mix(
    make_scan: MakeScan, make_protocol: MakeProtocol
) -> None:
    scan, policy = make_scan(0), ExchangeOracle()
    for protocol in (make_protocol(), make_protocol(budget=3), make_protocol(n_center_lines=5)):
        again = rollout(protocol, policy, [make_scan(0)]).actions.tolist()
        assert rollout(protocol, policy, [scan]).actions.tolist() == again


def test_slices_of_one_name_do_not_share_a_plan(
    make_scan: MakeScan, make_protocol: MakeProtocol
) -> None:
    protocol, policy, scan = make_protocol(), ExchangeOracle(), make_scan(0)
    other = replace(make_scan(1), volume=scan.volume, index=scan.index)
    assert not torch.equal(
        rollout(protocol, policy, [scan]).actions, rollout(protocol, policy, [other]).actions
    )


def test_plans_go_when_their_slice_does(make_scan: MakeScan, make_protocol: MakeProtocol) -> None:
    protocol, scan = make_protocol(), make_scan(0)
    rollout(protocol, ExchangeOracle(), [scan])
    gc.collect()
    assert scan in oracles._PLANS
    before = len(oracles._PLANS)
    del scan
    gc.collect()
    assert len(oracles._PLANS) == before - 1
