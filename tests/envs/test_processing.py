"""Processing of received samples: what is dropped, undone or rejected before anybody sees it."""

import math
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from activemri.data.phantoms.dataset import PhantomDataset
from activemri.envs.env import ActiveMRIEnv
from activemri.envs.scan import Scan, State
from activemri.envs.scanner import IDEAL, Moving, Spiking, phase_slope
from activemri.envs.vector_env import ActiveMRIVectorEnv
from activemri.mri.geometry import columns
from activemri.mri.motion import moved
from activemri.reconstruction.zero_filled import ZeroFilled
from tests.envs.scanners import begin, play, scan_with, scans
from tests.envs.scans import Unsure, equal_scans, full_kspace

MOVING = Moving(0.1, repeats=3, n_moves=1, duration=2)


def moved_at_once(scanner: Moving, *, shift: tuple[float, float]) -> tuple[Scan, State]:
    """A scan whose object lies elsewhere during the first two measurements after the start."""
    acquisition = scan_with(scanner)
    state = begin(acquisition, scans(1))
    conditions = state.secret.conditions
    elsewhere = moved(full_kspace(state)[0], angle=0.0, shift=shift)
    conditions.samples[0, 1] = elsewhere.permute(2, 0, 1)
    conditions.moments[:] = 3
    return acquisition, state


def test_a_rejected_measurement_costs_its_budget_and_leaves_the_readout_as_it_was() -> None:
    acquisition, state = moved_at_once(MOVING, shift=(1.5, 0.0))
    before = state.clone()
    state = play(acquisition, state, torch.tensor([[1], [7]]))  # a new line, one of the start
    view = state.view
    assert bool((view.log.outlier_score[0, [1, 7]] > 1).all())
    assert torch.equal(view.mask, before.view.mask)
    assert torch.equal(view.log.samples, before.view.log.samples)
    assert torch.equal(view.zero_filled, before.view.zero_filled)
    torch.testing.assert_close(state.scores, before.scores, rtol=1e-6, atol=0)
    assert int(view.budget[0]) == int(before.view.budget[0]) - 2
    assert int(view.n_acquired[0]) == 5
    assert view.log.n_rejected[0].nonzero().flatten().tolist() == [1, 7]
    assert bool(view.legal[0, [1, 7]].all())
    state = play(acquisition, state, torch.tensor([[1]]))  # at rest again
    assert bool(state.view.mask[0, 1])
    assert torch.equal(state.view.log.samples[0, 1, 0], full_kspace(state)[0, 0, :, 1])


def test_a_readout_that_was_rejected_as_often_as_it_may_be_measured_is_illegal() -> None:
    acquisition, state = moved_at_once(replace(MOVING, repeats=2), shift=(1.5, 0.0))
    state = play(acquisition, state, torch.tensor([[1], [1]]))
    assert not bool(state.view.mask[0, 1])
    assert not bool(state.view.legal[0, 1])
    with pytest.raises(ValueError, match="as often as a line may be measured"):
        acquisition.acquire(state, torch.tensor([1]))


@pytest.mark.parametrize("reconstructor", [None, Unsure()])
def test_trying_a_measurement_that_is_rejected_gains_nothing(reconstructor: Any) -> None:
    acquisition, state = moved_at_once(MOVING, shift=(1.5, 0.0))
    acquisition = replace(acquisition, reconstructor=reconstructor or ZeroFilled())
    acquisition._update(state)
    actions = torch.tensor([[1, 4, 6]])
    masks = state.view.mask[:, None].repeat(1, 2, 1)
    masks[0, 1, 1] = True
    by_mask = acquisition.preview_masks(state, masks)
    for name, value in acquisition.preview(state, actions).items():
        expected = state.scores[name][:, None]
        torch.testing.assert_close(value, expected.expand_as(value), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(by_mask[name], expected.expand(1, 2), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("distance", [-3.3, 0.37, 2.5])
@pytest.mark.parametrize("geometry", ["columns", "rows"])
def test_a_shift_along_the_readout_is_undone(geometry: str, distance: float) -> None:
    scanner = replace(MOVING, processing="correct")
    acquisition = scan_with(scanner, geometry=geometry)
    state = begin(acquisition, scans(1, n_coils=3, maps=True))
    conditions = state.secret.conditions
    shift = (distance, 0.0) if geometry == "columns" else (0.0, distance)
    elsewhere = moved(full_kspace(state), angle=0.0, shift=shift)
    conditions.samples[:, 1] = state.view.transform.of_grid(elsewhere)[0]
    conditions.moments[:] = 3
    state = play(acquisition, state, torch.tensor([[1]]))
    line = 1
    assert bool(state.view.mask[0, line])
    torch.testing.assert_close(
        state.view.log.samples[0, line], conditions.samples[0, 0, line], rtol=1e-3, atol=1e-3
    )
    assert float(state.view.log.outlier_score[0, line]) < 1e-2


def test_what_a_shift_does_not_explain_is_rejected_after_correction() -> None:
    acquisition, state = moved_at_once(replace(MOVING, processing="correct"), shift=(0.0, 0.0))
    turned = moved(full_kspace(state)[0], angle=1.0, shift=(1.0, 0.0))
    state.secret.conditions.samples[0, 1] = turned.permute(2, 0, 1)
    state = play(acquisition, state, torch.tensor([[1]]))
    assert not bool(state.view.mask[0, 1])


def test_the_phase_slope_is_that_of_the_best_of_many_slopes() -> None:
    generator = torch.Generator().manual_seed(0)
    line = torch.randn(4, 2, 15, dtype=torch.complex128, generator=generator)
    noise = torch.randn(4, 2, 15, dtype=torch.complex128, generator=generator)
    k = torch.arange(15) - 7
    true = torch.tensor([-1.3, 0.004, 0.9, 3.0]).double()
    other = line * torch.exp(1j * true[:, None] * k)[:, None] + 0.1 * noise
    many = torch.linspace(-math.pi, math.pi, 40_001).double()
    fit = torch.einsum("ncs,ncs,ms->nm", other, line.conj(), torch.exp(-1j * many[:, None] * k))
    best = many[fit.real.argmax(dim=1)]
    difference = (phase_slope(other, line) - best + math.pi) % (2 * math.pi) - math.pi
    assert float(difference.abs().max()) < 0.01


@pytest.mark.parametrize("geometry", ["radial", "tiles"])
def test_shifts_are_corrected_where_readouts_run_in_one_direction_only(geometry: str) -> None:
    with pytest.raises(ValueError, match=r"processing='correct'.*processing='reject'"):
        begin(scan_with(replace(MOVING, processing="correct"), geometry=geometry), scans(1))


def test_a_noisy_navigator_objects_to_lines_at_rest_but_never_loses_the_start() -> None:
    acquisition = scan_with(Moving(0.0, navigator_noise=0.2))
    state = begin(acquisition, scans(2))
    assert torch.equal(state.view.mask, state.view.start_mask)
    state = play(acquisition, state, torch.tensor([[1, 2], [3, 4]]))
    assert bool((state.view.log.outlier_score[0, [1, 3]] > 1).all())
    assert torch.equal(state.view.mask, state.view.start_mask)
    again = play(acquisition, begin(acquisition, scans(2)), torch.tensor([[1, 2], [3, 4]]))
    assert torch.equal(again.view.log.outlier_score, state.view.log.outlier_score)


def test_spikes_are_dropped_and_true_samples_hardly_ever() -> None:
    slices = [PhantomDataset(split="val")[i] for i in range(0, 160, 10)]
    raw = Scan(
        columns((128, 128)),
        ZeroFilled(),
        scanner=Spiking(0.3, processing="none"),
        n_center_lines=40,
        metrics=(),
    )
    spoilt, kept = (
        begin(one, slices).view.log.samples for one in (raw, replace(raw, scanner=Spiking(0.3)))
    )
    true = begin(replace(raw, scanner=IDEAL), slices).view.log.samples
    spike = (spoilt - true).abs() > 1e-6
    assert int(spike.sum()) > 100
    dropped = (kept == 0) & (spoilt != 0)
    assert torch.equal(kept[~dropped], spoilt[~dropped])
    assert float(dropped[spike].float().mean()) > 0.8
    assert float(dropped[~spike].float().mean()) < 0.0002


def test_despiked_samples_are_those_that_a_slow_loop_leaves() -> None:
    acquisition = scan_with(Spiking(0.8, strength=5.0), n_center_lines=14, budget=3)
    raw = replace(acquisition, scanner=Spiking(0.8, strength=5.0, processing="none"))
    expected = begin(raw, scans(2, n_coils=2, maps=True)).view.log.samples.clone()
    for lines in expected:
        for line in lines:
            size = [float(s.abs().square().sum().sqrt()) for s in line.T]
            n = len(size)
            for k in range(n):
                around = max(size[(k + sign * far) % n] for far in (1, 2) for sign in (-1, 1))
                if size[k] > 5 * around:
                    line[:, k] = 0
    found = begin(acquisition, scans(2, n_coils=2, maps=True)).view.log.samples
    assert torch.equal(found, expected)
    assert bool((expected == 0).any())


def test_environments_show_a_rejected_measurement_as_one_that_may_be_repeated() -> None:
    options: dict[str, Any] = {
        "data": equal_scans(3),
        "scanner": Moving(0.3, repeats=2, n_moves=8, duration=4),
        "budget": 10,
        "n_center_lines": 3,
        "observation": "mask",
    }
    env, envs = ActiveMRIEnv(**options), ActiveMRIVectorEnv(num_envs=1, **options)
    env.reset(seed=0)
    envs.reset(seed=0)
    n_rejected = 0
    for step in range(10):
        action = int(np.flatnonzero(env.action_masks())[step % 3])
        observation, reward, _, _, info = env.step(action)
        together, rewards, *_ = envs.step(np.array([action]))
        assert isinstance(observation, dict)
        for key, value in observation.items():
            np.testing.assert_array_equal(value, together[key][0])
        assert reward == pytest.approx(rewards[0])
        assert info["remaining"] == 9 - step
        assert info["n_acquired"] == 4 + step
        if not observation["mask"][action]:
            n_rejected += 1
            assert reward == 0
            assert observation["repeats"][1, action] > 0.5  # of score 1
            share = observation["repeats"][0, action]
            assert bool(info["action_mask"][action]) == (share < 1 and step < 9)
    assert n_rejected > 1


@pytest.mark.parametrize("name", ["Motion", "Spikes", "LowField"])
def test_scenarios_have_a_row_for_the_ideal_scanner(name: str) -> None:
    env = gymnasium.make(f"activemri:ActiveMRI/{name}-v0", scanner="ideal", matrix_size=32)
    assert env.unwrapped.episodes.scan.scanner == IDEAL  # type: ignore[attr-defined]


@pytest.mark.parametrize(("name", "usual"), [("Motion", "reject"), ("Spikes", "despike")])
def test_scenarios_process_what_they_receive_unless_told_not_to(name: str, usual: str) -> None:
    chosen: tuple[tuple[dict[str, Any], str], ...] = (
        ({}, usual),
        ({"processing": "none"}, "none"),
    )
    for options, expected in chosen:
        env = gymnasium.make(f"activemri:ActiveMRI/{name}-v0", matrix_size=32, **options)
        assert env.unwrapped.episodes.scan.scanner.processing == expected  # type: ignore[attr-defined]
