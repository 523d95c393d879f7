"""Policies in scans where lines may be measured again."""

import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from activemri.agents import heuristic
from activemri.agents.adaptive import uncertainty_greedy
from activemri.agents.oracles import ExchangeOracle, oracle
from activemri.agents.order import KINDS, Order, fit_order, may_repeat, order_of
from activemri.agents.policy import Policy, Traits, require_played
from activemri.agents.registry import make_policy
from activemri.agents.rollout import PADDING, rollout
from activemri.data.slices import Slice
from activemri.envs.scan import Scan, State, View
from activemri.envs.scanner import Ideal, Noisy, Scanner, Spiking
from tests.envs.scanners import ARTEFACTS, SHAPE, scan_with, scans
from tests.envs.scans import Unsure, scan

GREEDY = ("lbcs", "lbcs-final")


def taken_again(policy: Policy, scanner: Scanner, **options: Any) -> list[int]:
    """Lines that a policy takes in one scan_with scan of 14 lines, from line 7 on."""
    acquisition = scan_with(scanner, **{"n_center_lines": 1, **options})
    return rollout(acquisition, policy, scans(1)).actions[0].tolist()


@pytest.mark.parametrize(
    "policy",
    [
        heuristic.low_frequency_first(),
        heuristic.high_frequency_first(),
        heuristic.equispaced(),
        heuristic.conjugate_symmetric(),
    ],
    ids=lambda policy: policy.name,
)
def test_orders_measure_every_line_before_they_measure_one_again(policy: Policy) -> None:
    taken = taken_again(policy, Noisy(repeats=2), budget=None)
    assert sorted(taken[:13]) == [line for line in range(14) if line != 7]
    assert sorted(taken[13:]) == list(range(14))


def test_repeating_the_centre_follows_the_density() -> None:
    taken = taken_again(heuristic.repeat_centre(), Noisy(repeats=4), budget=19)
    counts = np.bincount([7, *taken], minlength=14)
    right = counts[7:].tolist()
    assert right == sorted(right, reverse=True)
    assert right[0] == 4 > right[3] > right[6]


def test_without_repeats_the_centre_is_acquired_outwards() -> None:
    expected = rollout(scan_with(Ideal()), heuristic.low_frequency_first(), scans(1)).actions
    centre = rollout(scan_with(Ideal()), heuristic.repeat_centre(), scans(1)).actions
    assert torch.equal(centre, expected)


def some_order(actions: list[int]) -> Order:
    return order_of("mine", actions, scan_with(Ideal()), metric="ssim", data="here", n_scans=1)


def test_an_order_shares_out_measurements_that_the_start_begins() -> None:
    order = some_order([7, 7, 3, 9, 3, 7])
    assert order.traits.is_order and order.traits.repeats
    # The first 7 is there from the start. Then come the others, from the centre outwards.
    taken = taken_again(order, Noisy(repeats=3), budget=15)
    assert taken == [7, 3, 9, 3, 7, 6, 8, 5, 4, 10, 11, 2, 12, 1, 13]
    # Through with it, it goes on with what was measured least.
    assert taken_again(order, Noisy(repeats=3), budget=18)[15:] == [0, 9, 6]
    # What may not be measured so often is left out.
    assert taken_again(order, Noisy(repeats=2), budget=5) == [7, 3, 9, 3, 6]


def test_an_order_without_repeats_needs_none() -> None:
    assert some_order([3, 9]).traits == Traits(is_order=True)


@pytest.mark.parametrize("scanner", [Ideal(), Noisy(repeats=1)])
def test_an_order_with_repeats_is_refused_where_readouts_are_measured_once(
    scanner: Scanner,
) -> None:
    with pytest.raises(ValueError, match=r"'mine' needs readouts that may be measured again.*once"):
        taken_again(some_order([3, 3]), scanner)


@pytest.mark.parametrize("scanner", [Ideal(), Noisy()])
@pytest.mark.parametrize("name", ["re-acquire", "high-frequency-first+re-acquire"])
def test_re_acquiring_is_refused_where_the_scanner_never_objects(
    name: str, scanner: Scanner
) -> None:
    with pytest.raises(ValueError, match=f"'{re.escape(name)}' needs .*measure"):
        taken_again(make_policy(name), scanner)


def test_a_scanner_of_the_users_own_may_object_unless_it_says_that_it_never_does() -> None:
    class Objecting(Noisy):
        def outlier_score(self, conditions: Any, requests: Any, samples: torch.Tensor) -> Any:
            return samples.abs().amax(dim=(1, 2))

    class Quiet(Noisy):
        pass

    require_played(heuristic.re_acquire(), scan_with(Objecting()))
    with pytest.raises(ValueError, match="Quiet never does"):
        require_played(heuristic.re_acquire(), scan_with(Quiet()))


def test_re_acquiring_goes_on_with_its_order_where_nothing_is_objected_to() -> None:
    order = some_order([2, 11, 2])
    policy = heuristic.re_acquire(order)
    assert policy.name == "mine+re-acquire"
    assert not policy.traits.is_order and policy.traits.repeats
    clean = Spiking(0.0, repeats=3)  # a scan of noise may look suspicious all the same
    quiet = replace(scans(1)[0], kspace=torch.ones(1, *SHAPE, dtype=torch.complex64))
    acquisition = scan_with(clean)
    taken = [rollout(acquisition, one, [quiet]).actions for one in (order, policy)]
    assert torch.equal(*taken)


@pytest.mark.parametrize(
    "policy", [heuristic.re_acquire(), heuristic.re_acquire(some_order([2, 11, 2, 4]))]
)
def test_what_the_scanner_objects_to_is_measured_again_until_it_is_clean(policy: Policy) -> None:
    acquisition = scan_with(Spiking(0.4, strength=50.0, repeats=5), budget=20, n_center_lines=1)
    ends: list[View] = []

    def keep(step: int, state: State) -> None:
        ends.append(state.clone().view)

    rollout(acquisition, policy, scans(4), on_step=keep)
    for before, after in pairwise(ends):
        objected = before.log.outlier_score > 1
        again = after.log.n_measured - before.log.n_measured
        repaired = (again.bool() & objected).any(dim=1)
        assert bool((repaired == (objected & before.legal).any(dim=1))[before.budget > 0].all())
    assert bool((ends[-1].log.n_measured > 1).any())


@pytest.mark.parametrize("kind", ARTEFACTS)
@pytest.mark.parametrize("learner", KINDS)
def test_an_order_that_names_every_action_once_is_begun_anew(learner: str, kind: str) -> None:
    acquisition = scan_with(ARTEFACTS[kind], budget=20)
    if may_repeat(learner, acquisition.scanner):
        return
    order = fit_order(learner, acquisition, scans(3), n_lines=20)
    assert sorted(order.actions) == list(range(14))
    taken = rollout(acquisition, order, scans(1)).actions[0].tolist()
    started = (6, 7, 8)
    assert taken[:11] == [action for action in order.actions if action not in started]
    assert taken[11:] == list(order.actions[:9])


@pytest.mark.parametrize("learner", GREEDY)
def test_orders_learned_where_averages_count_measure_again(learner: str) -> None:
    acquisition = scan_with(ARTEFACTS["noise"], budget=20)
    order = fit_order(learner, acquisition, scans(3), n_lines=20)
    assert order.traits.repeats
    episodes = rollout(acquisition, order, scans(3))
    assert bool((episodes.actions == episodes.actions[0]).all())
    named = Counter(order.actions[: order.n_learned])
    # Of the start's lines the first measurement is named only where another one follows.
    started = Counter({line: 1 for line in (6, 7, 8) if named[line]})
    assert named == started + Counter(episodes.actions[0].tolist())


def test_for_a_single_scan_the_greedy_order_is_its_oracle_repeats_included() -> None:
    acquisition = scan_with(ARTEFACTS["noise"], budget=9)
    order = fit_order("lbcs", acquisition, scans(1))
    expected = rollout(acquisition, oracle(), scans(1)).actions
    assert torch.equal(rollout(acquisition, order, scans(1)).actions, expected)


@pytest.mark.parametrize("scanner", [Ideal(), *ARTEFACTS.values()])
@pytest.mark.parametrize(("metric", "sign"), [("ssim", 1), ("nmse", -1)])
def test_an_order_for_the_final_score_never_ends_below_the_greedy_one_on_its_scans(
    scanner: Scanner, metric: str, sign: int
) -> None:
    acquisition = scan_with(scanner, budget=6, metrics=(metric,))
    greedy, final = (ends(kind, acquisition, scans(4), metric) for kind in GREEDY)
    assert sign * final >= sign * greedy - 1e-9


@pytest.mark.parametrize(("scanner", "budget", "seed"), [(Ideal(), 6, 2), (Noisy(0.2, 3), 4, 0)])
def test_exchanges_improve_the_final_score(scanner: Scanner, budget: int, seed: int) -> None:
    acquisition = scan_with(scanner, budget=budget, n_center_lines=1)
    slices = [scan(seed, shape=SHAPE)]
    greedy, final = (ends(kind, acquisition, slices, "ssim") for kind in GREEDY)
    assert final > greedy + 1e-3


def ends(kind: str, acquisition: Scan, slices: list[Slice], metric: str) -> float:
    """Mean final score of an order that was learned on the same scans."""
    order = fit_order(kind, acquisition, slices, metric=metric)
    return float(rollout(acquisition, order, slices).scores[metric][:, -1].mean())


@pytest.mark.parametrize("kind", ARTEFACTS)
def test_every_episode_is_the_same_in_every_batch(kind: str) -> None:
    acquisition = scan_with(ARTEFACTS[kind], reconstructor=Unsure())
    slices = scans(2)
    names = ["random", "variable-density"] + ["re-acquire"] * (kind != "noise")
    for policy in [*map(make_policy, names), uncertainty_greedy(), oracle(), ExchangeOracle()]:
        together = rollout(acquisition, policy, slices, seed=3)
        assert not bool((together.actions == PADDING).any())
        for row, one in enumerate(slices):
            alone = rollout(acquisition, policy, [one], seed=3)
            assert torch.equal(alone.actions[0], together.actions[row]), policy.name


def test_all_policies_meet_the_same_noise() -> None:
    acquisition = scan_with(Noisy(0.5, repeats=2))
    first = [
        rollout(acquisition, make_policy(name), scans(2), seed=1).scores["ssim"][:, 0]
        for name in ("random", "low-frequency-first")
    ]
    other = rollout(acquisition, make_policy("random"), scans(2), seed=2).scores["ssim"][:, 0]
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], other)


def test_the_oracle_measures_again_what_was_spoilt_and_ends_above_all_others() -> None:
    acquisition = scan_with(Spiking(0.3, strength=1.0, processing="none"), budget=8)
    best = rollout(acquisition, oracle(), scans(4))
    assert any(len(set(row)) < len(row) for row in best.actions.tolist())
    for name in ("random", "low-frequency-first", "repeat-centre"):
        other = rollout(acquisition, make_policy(name), scans(4))
        assert float(best.area("ssim").mean()) > float(other.area("ssim").mean())
