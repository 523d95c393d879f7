"""Orders that the start of a scan chooses: nearest neighbour and one shot."""

from typing import Any

import pytest
import torch

from activemri.agents.learners.learner import Problem
from activemri.agents.learners.nearest_neighbour import NearestNeighbour
from activemri.agents.learners.one_shot import OneShot, OneShotLearner, fit_choice
from activemri.agents.networks import LearnedPolicy, StartNetwork, start_features
from activemri.agents.rollout import rollout
from activemri.data.slices import SliceList
from tests.agents.learners.problems import STRONG_OF_KIND, begun, listed, problem, two_kinds
from tests.envs.scans import scan


def fitted(algo: str, place: Problem, **settings: Any) -> LearnedPolicy:
    learner = begun(algo, place, **settings)
    learner.learn(learner.settings.max_steps)
    policy: LearnedPolicy = learner.policy()
    return policy


@pytest.mark.parametrize("algo", ["nearest-neighbour", "one-shot"])
def test_scans_of_two_kinds_get_the_orders_of_their_kinds(algo: str) -> None:
    scans = two_kinds(24).slices
    policy = fitted(algo, problem(SliceList(scans[:16])))
    assert not policy.traits.is_order and not policy.traits.is_random
    place = problem(SliceList(scans[16:]))
    taken = rollout(place.scan, policy, listed(place)).actions
    for row, actions in enumerate(taken.tolist()):
        assert set(actions) == set(STRONG_OF_KIND[row % 2])


@pytest.mark.parametrize("geometry", ["columns", "rows", "tiles", "radial"])
def test_the_look_of_the_start_stays_as_it_is_while_the_scan_goes_on(geometry: str) -> None:
    options: dict[str, Any] = {"tile": 3} if geometry == "tiles" else {}
    scans = SliceList([scan(index, n_coils=2) for index in range(3)])
    place = problem(scans, geometry=geometry, n_center_lines=5, budget=9, **options)
    state = place.scan.start(listed(place))
    first = start_features(state.view)
    torch.testing.assert_close(first.norm(dim=1), torch.ones(3, dtype=torch.float64))
    whole = place.scan.with_masks(state, state.view.measurable)
    assert torch.equal(start_features(whole.view), first)
    assert not torch.allclose(first[0], first[1])


def test_a_training_scan_is_its_own_neighbour() -> None:
    place = problem(SliceList([scan(index) for index in range(5)]))
    learner = begun("nearest-neighbour", place)
    learner.learn(5)
    network = learner.policy().network
    assert isinstance(network, StartNetwork)
    looks = start_features(place.scan.start(listed(place)).view)
    nearest = (looks @ network.weight.T + network.bias).argmax(dim=1)
    assert sorted(nearest.tolist()) == list(range(5))
    assert nearest[learner.positions].tolist() == list(range(5))


def test_exchanges_do_not_make_the_final_score_of_training_scans_worse() -> None:
    place = problem(two_kinds(8), budget=3)

    def error(swaps: int) -> float:
        policy = fitted("nearest-neighbour", place, swaps=swaps)
        return float(rollout(place.scan, policy, listed(place)).scores["mse"][:, -1].mean())

    assert error(5) <= error(0) + 1e-9


def test_one_round_or_one_order_is_the_fixed_order_of_all_scans() -> None:
    for settings in ({"max_steps": 1}, {"max_steps": 3, "orders": 1}):
        assert fitted("one-shot", problem(two_kinds()), **settings).traits.is_order


def test_every_scan_belongs_to_an_order_and_rounds_do_not_make_the_choice_worse() -> None:
    learner = begun("one-shot", problem(two_kinds(12)))
    assert isinstance(learner, OneShotLearner)
    room = [learner.learn(1)["room"] for _ in range(3)]
    assert room[0] == 0 and room[1] > 0 and room[2] >= room[1] - 1e-9
    assert set(learner.part.tolist()) <= {1, 2}


def test_a_choice_that_the_start_does_not_show_falls_back_to_the_best_single_order() -> None:
    generator = torch.Generator().manual_seed(0)
    features, noise = (
        torch.randn(40, n, generator=generator, dtype=torch.float64) for n in (256, 3)
    )
    names = [str(n) for n in range(40)]
    weight, bias = fit_choice(features, 0.1 * noise + torch.tensor([0.0, 1.0, 0.5]), names)
    assert bool(((features @ weight.T + bias).argmax(dim=1) == 1).all())
    worth = torch.stack([features[:, 0], -features[:, 0]], dim=1)
    few = features[:, :8]
    weight, bias = fit_choice(few, worth, names)
    right = (few @ weight.T + bias).argmax(dim=1) == worth.argmax(dim=1)
    assert float(right.double().mean()) > 0.9


@pytest.mark.parametrize("settings", [NearestNeighbour(), OneShot()])
def test_too_few_subjects_and_scans_without_a_start_are_refused(
    settings: NearestNeighbour | OneShot,
) -> None:
    with pytest.raises(ValueError, match=r"--learner\.subjects 10: .* there are 6"):
        settings.start(problem())
    with pytest.raises(ValueError, match="--n-center-lines 0"):
        settings.start(problem(two_kinds(), n_center_lines=0))


def test_impossible_numbers_of_exchanges_are_refused() -> None:
    with pytest.raises(ValueError, match=r"--learner\.swaps: .* -1"):
        NearestNeighbour(swaps=-1)


@pytest.mark.parametrize("options", [{"geometry": "rows"}, {"shape": (14, 12)}])
def test_scans_of_another_geometry_or_shape_are_refused(options: dict[str, Any]) -> None:
    policy = fitted("one-shot", problem(SliceList([scan(i, shape=(12, 12)) for i in range(3)])))
    shape = options.pop("shape", (12, 12))
    other = problem(SliceList([scan(9, shape=shape)]), **options)
    with pytest.raises(ValueError, match=r"was fitted for geometry 'columns' of \(12, 12\)"):
        rollout(other.scan, policy, listed(other))
