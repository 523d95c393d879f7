"""The factor model: its conditioning, its fit, and what it is worth where the truth is known."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from activemri.agents.learners.factor import Factor, FactorLearner, fit
from activemri.agents.learners.learner import Problem
from activemri.agents.networks import FactorNetwork, LearnedPolicy, energies
from activemri.agents.rollout import rollout
from activemri.data.slices import Slice, SliceList
from activemri.mri import fourier
from activemri.mri.geometry import make_geometry
from tests.agents.learners.problems import STRONG, listed, problem, toy_scans
from tests.envs.scans import scan

SHAPE, STEADY, SHOWING = (8, 20), 10, slice(9, 12, 2)  # the start: one column, and its neighbours
COLUMNS = make_geometry("columns", SHAPE)


def truth() -> FactorNetwork:
    """Two factors say which columns are strong; two columns of the start show them.

    The third one has nearly all of its energy, always: relative to it is relative to the start.
    """
    generator = torch.Generator().manual_seed(1)
    network = FactorNetwork.of(COLUMNS, 2)
    loadings = 1.2 * torch.randn(20, 2, dtype=torch.float64, generator=generator)
    loadings[SHOWING], loadings[STEADY] = torch.eye(2, dtype=torch.float64), 0.0
    mean = -9.0 - COLUMNS.frequency
    mean[SHOWING], mean[STEADY] = -7.0, 0.0
    variance = torch.full((20,), 0.05, dtype=torch.float64)
    variance[STEADY] = 1e-3
    network.load_state_dict({"mean": mean, "loadings": loadings, "variance": variance})
    return network


def simulated(n: int, *, seed: int) -> SliceList:
    """Scans whose columns have energies drawn from the model, one a subject."""
    model, generator = truth(), torch.Generator().manual_seed(seed)
    scans = []
    for index in range(n):
        factors = torch.randn(2, dtype=torch.float64, generator=generator)
        own = torch.randn(20, dtype=torch.float64, generator=generator)
        with torch.no_grad():
            log_energy = model.mean + model.loadings @ factors + model.variance.sqrt() * own
        kspace = torch.randn(SHAPE, dtype=torch.complex64, generator=generator)
        kspace *= (log_energy.exp().sqrt() / kspace.norm(dim=0)).float()
        target = fourier.ifft2(kspace).abs()
        scans.append(Slice(kspace[None], target, f"v{index}", 0, f"s{index}", 1.0))
    return SliceList(scans, "simulated")


def fitted(place: Problem, **settings: float) -> LearnedPolicy:
    learner = FactorLearner(Factor(**{"subjects": 2, **settings}), place)  # type: ignore[arg-type]
    learner.learn(learner.settings.max_steps)
    return learner.policy()


def network_of(policy: LearnedPolicy) -> FactorNetwork:
    assert isinstance(policy.network, FactorNetwork)
    return policy.network


def drawn(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("n_factors", [0, 3])
def test_the_posterior_is_the_joint_gaussian_conditioned_directly(n_factors: int) -> None:
    network = FactorNetwork.of(COLUMNS, n_factors)
    with torch.no_grad():
        network.mean.copy_(drawn((20,)))
        network.loadings.copy_(drawn((20, n_factors), 1))
        network.variance.copy_(0.1 + drawn((20,), 2).square())
        acquired, energy = drawn((5, 20), 3) > 0.3, drawn((5, 20), 4)
        acquired[0] = False
        mean, deviation = network.posterior({"acquired": acquired, "energy": energy})
        joint = network.loadings @ network.loadings.T + network.variance.diag()
        for row, seen in enumerate(acquired):
            gain = joint[:, seen] @ torch.linalg.inv(joint[seen][:, seen])
            dense = network.mean + gain @ (energy[row] - network.mean)[seen]
            spread = (joint - gain @ joint[seen]).diagonal().clamp(min=0).sqrt()
            torch.testing.assert_close(mean[row], dense, rtol=0, atol=1e-9)
            torch.testing.assert_close(deviation[row], spread, rtol=0, atol=1e-6)


def test_it_gains_over_the_mean_order_about_what_the_true_model_does() -> None:
    place = problem(simulated(150, seed=0), n_center_lines=3, budget=6, reward="-delta_nmse")
    scans = listed(problem(simulated(100, seed=1)))

    def error(network: FactorNetwork) -> Tensor:
        policy = LearnedPolicy(network, "model", place.frame)
        return rollout(place.scan, policy, scans).scores["nmse"].mean(dim=1)

    learned = network_of(fitted(place, max_steps=4, prior=1))
    order = FactorNetwork.of(COLUMNS)
    total = learned.variance + learned.loadings.square().sum(dim=1)
    state = {"mean": learned.mean, "loadings": torch.zeros(20, 0), "variance": total}
    order.load_state_dict(state)
    assert LearnedPolicy(order, "order", place.frame).traits.is_order
    assert not LearnedPolicy(learned, "model", place.frame).traits.is_order
    fixed = error(order)
    best, gain = (fixed - error(truth())).mean(), (fixed - error(learned)).mean()
    assert best > 0.1 * fixed.mean()
    assert 0.9 * best < gain < 1.1 * best


def test_a_fit_finds_the_model_and_every_subject_counts_the_same() -> None:
    model, factors = truth(), drawn((4000, 2))
    with torch.no_grad():
        rows = model.mean + factors @ model.loadings.T
        rows += model.variance.sqrt() * drawn((4000, 20), 1)
    names = [str(n) for n in range(len(rows))]
    found = fit(rows, torch.ones_like(rows), names, prior=0)
    first = found["loadings"][:, :2]
    torch.testing.assert_close(found["mean"], model.mean.detach(), rtol=0, atol=0.1)
    covariance = (model.loadings @ model.loadings.T).detach()
    torch.testing.assert_close(first @ first.T, covariance, rtol=0.1, atol=0.1)
    torch.testing.assert_close(found["variance"], rows.var(dim=0))
    few = fit(rows[:12], torch.ones(12, 20), names[:12], prior=4)
    again = [*range(12), 3, 3, 7]
    repeated = fit(rows[again], torch.ones(15, 20), [names[row] for row in again], prior=4)
    for name in ("mean", "variance"):
        torch.testing.assert_close(repeated[name], few[name])
    one, other = (found["loadings"] @ found["loadings"].T for found in (few, repeated))
    torch.testing.assert_close(one, other)
    diagonal = torch.eye(20, dtype=torch.bool)
    expected = rows[:12].T.cov()[~diagonal] * 12 / 16
    torch.testing.assert_close(one[~diagonal], expected)


@pytest.mark.parametrize(
    ("geometry", "n_coils"), [("columns", 3), ("tiles", 1), ("radial", 2), ("conjugate-columns", 1)]
)
def test_energies_are_those_of_readouts_relative_to_the_start(geometry: str, n_coils: int) -> None:
    options: dict[str, Any] = {"tile": 3} if geometry == "tiles" else {}
    scans = SliceList([scan(index, n_coils=n_coils) for index in range(3)])
    place = problem(scans, geometry=geometry, n_center_lines=5, budget=9, **options)
    policy = fitted(place, max_steps=2)
    state = place.scan.start(listed(place))
    transform, geometry_ = state.view.transform, place.scan.geometry
    samples = transform.of_grid(torch.stack([one.kspace for one in scans.slices]))
    power = samples.abs().double().square()
    density = transform.density(torch.ones(1, geometry_.n_readouts, dtype=torch.bool))
    power = (power if density is None else power * density[:, :, None]).sum(dim=(2, 3))
    relative = power / (power * state.view.start_mask).sum(dim=1, keepdim=True)
    for _ in range(3):
        seen = energies(state.view)
        acquired = seen["acquired"] > 0
        expected = geometry_.by_action(relative, "sum").log()
        torch.testing.assert_close(seen["energy"][acquired], expected[acquired], rtol=1e-4, atol=0)
        complete = geometry_.by_action(state.view.mask, "all")
        assert torch.equal(acquired, complete) and torch.equal(seen["left"] == 0, complete)
        state = place.scan.acquire(state, policy.act(state.view, []))


def test_scans_that_lack_actions_teach_the_others() -> None:
    scans = SliceList([scan(i, shape=(12, 16)) for i in range(4)] + [scan(9, shape=(10, 12))])
    place = problem(scans)
    policy = fitted(place, max_steps=3)
    alone = network_of(fitted(problem(SliceList(scans.slices[:4])), max_steps=3))
    torch.testing.assert_close(network_of(policy).mean[:2], alone.mean[:2])  # only they have it
    assert not torch.allclose(network_of(policy).mean[2:-2], alone.mean[2:-2])
    assert bool((rollout(place.scan, policy, listed(place)).n_steps == 2).all())


def test_a_batch_equals_its_scans_one_by_one_and_seeds_change_nothing() -> None:
    place = problem(simulated(12, seed=3), budget=5)
    policy, scans = fitted(place), listed(place)
    together = rollout(place.scan, policy, scans, seed=1)
    for row, one in enumerate(scans):
        assert torch.equal(
            rollout(place.scan, policy, [one], seed=2).actions[0], together.actions[row]
        )
    assert torch.equal(rollout(place.scan, fitted(place), scans).actions, together.actions)
    assert len(together.actions.unique(dim=0)) > 1


def test_lines_are_measured_again_only_after_all_others() -> None:
    place = problem(toy_scans(), scanner="noisy", repeats=2, budget=20)
    policy = fitted(place)
    assert not policy.traits.repeats and not policy.traits.is_random
    actions = rollout(place.scan, policy, listed(place)).actions
    assert all(sorted(row[:14]) == [*range(7), *range(9, 16)] for row in actions.tolist())


def test_without_factors_it_is_the_order_of_mean_energy_and_equals_go_outwards() -> None:
    place = problem(budget=4)
    policy = FactorLearner(Factor(subjects=2), place).policy()
    assert policy.traits.is_order
    taken = rollout(place.scan, policy, listed(place)).actions
    assert all(set(row[:2]) == set(STRONG) for row in taken.tolist())
    unfitted = LearnedPolicy(FactorNetwork.of(place.scan.geometry), "unfitted", place.frame)
    actions = rollout(place.scan, unfitted, listed(place)).actions
    assert actions[0].tolist() == [9, 6, 10, 5]


def test_fewer_subjects_than_it_needs_are_refused() -> None:
    with pytest.raises(ValueError, match=r"--learner\.subjects 10: .* toy needs .* there are 6"):
        Factor().start(problem())
    scans = toy_scans()
    same = SliceList([replace(one, subject="only") for one in scans.slices], "toy")
    with pytest.raises(ValueError, match="there are 1"):
        Factor(subjects=2).start(problem(same))
    with pytest.raises(ValueError, match=r"--learner\.prior: .* -1"):
        Factor(prior=-1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"geometry": "rows"}, "geometry 'columns' of .12, 12.*'rows'"),
        ({"data": (14, 12)}, "14, 12"),
        ({"geometry": "conjugate-columns"}, "12 actions"),
        ({"lines_per_action": 2}, "12 actions"),
    ],
)
def test_scans_of_another_geometry_shape_or_echo_train_are_refused(
    options: dict[str, Any], words: str
) -> None:
    policy = fitted(problem(SliceList([scan(i, shape=(12, 12)) for i in range(3)])))
    shape = options.pop("data", (12, 12))
    other = problem(SliceList([scan(9, shape=shape)]), **options)
    with pytest.raises(ValueError, match=words):
        rollout(other.scan, policy, listed(other))


def test_choices_are_the_same_in_other_units() -> None:
    place = problem(simulated(12, seed=3), budget=5)
    policy, scans = fitted(place), listed(place)
    louder = [replace(one, kspace=1e3 * one.kspace, target=1e3 * one.target) for one in scans]
    quiet, loud = (rollout(place.scan, policy, some).actions for some in (scans, louder))
    assert np.array_equal(quiet, loud)
