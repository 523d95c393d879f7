"""Policies in scans where lines may be measured again."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from activemri.agents import heuristic
from activemri.agents.adaptive import uncertainty_greedy
from activemri.agents.oracles import ExchangeOracle, oracle
from activemri.agents.order import KINDS, fit_order
from activemri.agents.policy import Policy
from activemri.agents.registry import make_policy
from activemri.agents.rollout import PADDING, rollout
from activemri.envs.scan import State, View
from activemri.envs.scanner import Ideal, Noisy, Scanner, Spiking
from tests.envs.scanners import ARTEFACTS, scan_with, scans
from tests.envs.scans import Unsure


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
    for policy in (heuristic.repeat_centre(), heuristic.re_acquire()):
        expected = rollout(scan_with(Ideal()), heuristic.low_frequency_first(), scans(1)).actions
        assert torch.equal(rollout(scan_with(Ideal()), policy, scans(1)).actions, expected)


def test_what_the_scanner_objects_to_is_measured_again_until_it_is_clean() -> None:
    acquisition = scan_with(Spiking(0.4, strength=50.0, repeats=5), budget=20, n_center_lines=1)
    ends: list[View] = []

    def keep(step: int, state: State) -> None:
        ends.append(state.clone().view)

    rollout(acquisition, heuristic.re_acquire(), scans(4), on_step=keep)
    for before, after in pairwise(ends):
        objected = before.log.outlier_score > 1
        again = after.log.n_measured - before.log.n_measured
        repaired = (again.bool() & objected).any(dim=1)
        assert bool((repaired == (objected & before.legal).any(dim=1))[before.budget > 0].all())
    assert bool((ends[-1].log.n_measured > 1).any())


@pytest.mark.parametrize("kind", ARTEFACTS)
@pytest.mark.parametrize("learner", KINDS)
def test_orders_are_learned_and_begun_anew(learner: str, kind: str) -> None:
    acquisition = scan_with(ARTEFACTS[kind], budget=20)
    order = fit_order(learner, acquisition, scans(3), n_lines=20)
    assert sorted(order.actions) == list(range(14))
    taken = rollout(acquisition, order, scans(1)).actions[0].tolist()
    started = (6, 7, 8)
    assert taken[:11] == [action for action in order.actions if action not in started]
    assert taken[11:] == list(order.actions[:9])


@pytest.mark.parametrize("kind", ARTEFACTS)
def test_every_episode_is_the_same_in_every_batch(kind: str) -> None:
    acquisition = scan_with(ARTEFACTS[kind], reconstructor=Unsure())
    slices = scans(2)
    policies = [make_policy(name) for name in ("random", "variable-density", "re-acquire")]
    for policy in [*policies, uncertainty_greedy(), oracle(), ExchangeOracle()]:
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
