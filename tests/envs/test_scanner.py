"""Scanners: the physics of noise, motion and spikes, sample by sample."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from activemri.data.phantoms.dataset import PhantomDataset
from activemri.envs.scan import Scan, State
from activemri.envs.scanner import (
    IDEAL,
    SCANNERS,
    Moving,
    Noisy,
    Scanner,
    Spiking,
    make_scanner,
)
from activemri.mri import fourier
from activemri.mri.geometry import columns
from activemri.mri.motion import moved
from activemri.reconstruction.zero_filled import ZeroFilled
from tests.envs.scanners import SHAPE, begin, play, scan_with, scans
from tests.envs.scans import full_kspace, scan


def errors(state: State) -> torch.Tensor:
    """Measured minus true k-space, complex (batch, coil, height, width)."""
    return state.view.log.samples.permute(0, 2, 3, 1) - full_kspace(state)


@pytest.mark.parametrize("n_coils", [1, 3])
@pytest.mark.parametrize("n", [1, 2, 4])
def test_noise_falls_with_the_square_root_of_the_number_of_averages(n: int, n_coils: int) -> None:
    acquisition = scan_with(Noisy(0.3, repeats=4), budget=None)
    slices = [scan(i, shape=SHAPE, n_coils=n_coils, maps=n_coils > 1) for i in range(40)]
    state = begin(acquisition, slices)
    line = 2
    for _ in range(n):
        state = acquisition.acquire(state, torch.full((40,), line))
    start = fourier.ifft2(full_kspace(state) * state.view.start_mask[:, None, None, :])
    scale = start.abs().square().sum(dim=1).sqrt().amax(dim=(1, 2))
    noise = errors(state)[..., line] / scale[:, None, None]
    parts = torch.view_as_real(noise)
    deviation = float(noise.abs().square().mean().sqrt())
    n_samples = noise.numel()
    assert deviation == pytest.approx(0.3 / math.sqrt(n), rel=4 / math.sqrt(n_samples))
    # Circular: both parts have the same power and no mean.
    share = parts.square().mean(dim=(0, 1, 2))
    assert float(share[0] / share[1]) == pytest.approx(1, rel=8 / math.sqrt(n_samples))
    assert float(parts.mean().abs()) < 4 * deviation / math.sqrt(n_samples)


def test_noise_of_lines_repetitions_coils_and_episodes_is_independent() -> None:
    acquisition = scan_with(Noisy(0.3), n_center_lines=4)
    one = scan(0, shape=SHAPE, n_coils=2, maps=True)
    state = begin(acquisition, [one, one])
    first = errors(state)
    again = errors(play(acquisition, state.clone(), torch.tensor([[5, 5]])))
    second = 2 * again[..., 5] - first[..., 5]  # of the average of two, the later one
    draws = torch.stack([first[0, 0, :, 5], first[0, 1, :, 5], first[1, 0, :, 5]])
    draws = torch.cat([draws, first[0, 0, :, 6][None], second[0, 0][None]])
    unit = draws / draws.norm(dim=1, keepdim=True)
    correlation = (unit @ unit.conj().T).abs()
    assert float((correlation - torch.eye(5)).abs().max()) < 0.85  # 12 samples each
    assert len({round(float(abs(row).sum()), 5) for row in draws}) == 5


def test_without_severity_new_lines_are_those_of_an_ideal_scanner() -> None:
    slices, plan = scans(), torch.tensor([[1, 2], [9, 10], [13, 0]])
    ideal = scan_with(IDEAL)
    expected = play(ideal, ideal.start(slices), plan)
    for still in (Noisy(0.0), Moving(0.0), Spiking(0.0, processing="none")):
        acquisition = scan_with(still)
        state = play(acquisition, begin(acquisition, slices), plan)
        assert torch.equal(state.view.mask, expected.view.mask)
        torch.testing.assert_close(
            state.view.zero_filled, expected.view.zero_filled, atol=1e-4, rtol=1e-4
        )
        torch.testing.assert_close(state.scores["ssim"], expected.scores["ssim"])


def moving() -> tuple[Any, State, Any]:
    acquisition = scan_with(Moving(0.1, n_moves=1, duration=2, processing="none"), budget=8)
    state = begin(acquisition, scans(1))
    return acquisition, state, state.secret.conditions


def test_lines_are_those_of_the_object_as_it_lies_when_they_are_measured() -> None:
    acquisition, state, conditions = moving()
    when = int(conditions.moments[0, 0]) - 3  # three lines were measured at the start
    assert 0 <= when < 8
    moved_lines = conditions.samples[0, 1]  # (line, coil, samples)
    state = play(acquisition, state, torch.tensor([[1], [2], [3], [4], [9], [10], [11], [12]]))
    for step, line in enumerate([1, 2, 3, 4, 9, 10, 11, 12]):
        held = state.view.log.samples[0, line]
        if when <= step < when + 2:
            assert torch.equal(held, moved_lines[line])
            assert not torch.allclose(held[0], full_kspace(state)[0, 0, :, line], rtol=0.01)
        else:
            assert torch.equal(held[0], full_kspace(state)[0, 0, :, line])


def test_the_poses_are_the_object_rotated_and_shifted() -> None:
    _, state, conditions = moving()
    pose = conditions.samples[0, 1].permute(1, 2, 0)  # (coil, height, width)
    assert float(pose.norm()) == pytest.approx(float(full_kspace(state).norm()), rel=1e-4)
    # The same draws once more, from the seed.
    generator = np.random.default_rng(0)
    generator.integers(8, size=1)
    angle = float(generator.normal(0, 0.2, 1)[0])
    down, right = (generator.normal(0, 0.1, (1, 2)) * SHAPE)[0]
    expected = moved(full_kspace(state)[0], angle=angle, shift=(float(down), float(right)))
    assert torch.equal(pose, expected)


def test_a_line_measured_again_at_rest_is_repaired() -> None:
    acquisition, state, conditions = moving()
    conditions.moments[:] = 5  # three lines were measured at the start
    state = play(acquisition, state, torch.tensor([[1], [2], [3], [4]]))
    wrong = errors(state)[0, 0].abs().amax(dim=0)
    assert float(wrong[3]) > 1e-3
    assert int(state.view.log.last_measured[0, 3]) == 5
    budget = int(state.view.budget[0])
    state = play(acquisition, state, torch.tensor([[3]]))
    assert float(errors(state)[..., 3].abs().max()) == 0
    assert int(state.view.log.n_measured[0, 3]) == 2
    assert int(state.view.log.last_measured[0, 3]) == 7
    assert int(state.view.budget[0]) == budget - 1


def test_the_navigator_notices_what_changes_the_central_line() -> None:
    acquisition = scan_with(Moving(0.1, n_moves=3, duration=3, processing="none"))
    noticed: list[bool] = []
    for seed in range(6):
        state = begin(acquisition, scans(1), first_seed=seed)
        state = play(acquisition, state, torch.arange(4)[:, None])
        wrong = errors(state)[0, 0].abs().amax(dim=0) > 1e-3
        record = state.view.log
        assert bool((record.outlier_score[0][~wrong] < 1e-6).all())
        noticed += (record.outlier_score[0][wrong & state.view.mask[0]] > 1).tolist()
    assert len(noticed) > 5
    assert sum(noticed) > 0.8 * len(noticed)


def test_a_shift_along_the_phase_encode_escapes_the_navigator() -> None:
    acquisition, state, conditions = moving()
    shifted = moved(full_kspace(state)[0], angle=0.0, shift=(0.0, 2.0))
    conditions.samples[0, 1] = shifted.permute(2, 0, 1)
    conditions.moments[:] = 3
    state = play(acquisition, state, torch.tensor([[1]]))
    assert float(errors(state)[..., 1].abs().max()) > 1e-3
    assert float(state.view.log.outlier_score[0, 1]) < 1e-4


@pytest.mark.parametrize("n_coils", [1, 3])
def test_a_spike_changes_one_sample_of_a_line_in_all_coils(n_coils: int) -> None:
    acquisition = scan_with(Spiking(1.0, strength=0.5, processing="none"))
    slices = scans(n_coils=n_coils, maps=n_coils > 1)
    state = play(acquisition, begin(acquisition, slices), torch.tensor([[1, 2]]))
    for row, line in ((0, 1), (1, 2), (0, 6), (1, 7)):
        wrong = errors(state)[row, :, :, line].abs()
        level = 0.5 * float((full_kspace(state)[row] * state.view.start_mask[row]).abs().max())
        assert int((wrong.amax(dim=0) > 1e-3).sum()) == 1
        torch.testing.assert_close(
            wrong.amax(dim=1), torch.full((n_coils,), level), rtol=1e-4, atol=0
        )


def test_spikes_come_as_often_as_they_should() -> None:
    acquisition = scan_with(Spiking(0.3, processing="none"), budget=None, n_center_lines=1)
    state = begin(acquisition, [scan(i, shape=SHAPE) for i in range(50)])
    state = play(acquisition, state, torch.arange(7)[:, None].expand(-1, 50))
    hit = errors(state)[:, 0].abs().amax(dim=1)[state.view.mask] > 1e-3
    assert float(hit.float().mean()) == pytest.approx(0.3, abs=4 * math.sqrt(0.21 / len(hit)))


def test_strong_spikes_look_suspicious_and_clean_lines_do_not() -> None:
    slices = [PhantomDataset(split="val")[i] for i in range(0, 40, 10)]
    acquisition = Scan(
        columns((128, 128)),
        ZeroFilled(),
        scanner=Spiking(0.3, processing="none"),
        n_center_lines=40,
        metrics=(),
    )
    state = begin(acquisition, slices)
    hit = (errors(state)[:, 0].abs().amax(dim=1) > 1e-6)[state.view.mask]
    found = (state.view.log.outlier_score > 1)[state.view.mask]
    assert int(hit.sum()) > 20
    # On the lines next to the centre a spike is no larger than what is there.
    assert float(found[hit].float().mean()) > 0.8
    assert float(found[~hit].float().mean()) < 0.05


def test_scanners_are_made_by_name_with_their_numbers() -> None:
    assert set(SCANNERS) == {"ideal", "noisy", "moving", "spiking"}
    assert make_scanner("noisy", severity=0.1, repeats=2) == Noisy(0.1, 2)
    assert make_scanner("moving") == Moving()
    assert make_scanner("ideal") == IDEAL
    assert make_scanner("activemri.envs.scanner:Noisy", repeats=2) == Noisy(repeats=2)
    own = Spiking(0.5, strength=2.0)
    assert make_scanner(own) is own


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scanner": "rain"}, "unknown scanner 'rain'; choose from ideal, noisy"),
        ({"scanner": "ideal", "repeats": 2}, "repeats go with the name"),
        ({"scanner": Noisy(), "severity": 0.1}, "severity go with the name"),
        ({"scanner": "noisy", "repeats": 0}, "repeats must be a whole number"),
        ({"scanner": "noisy", "repeats": 1.5}, "repeats must be a whole number"),
        ({"scanner": "moving", "severity": -1.0}, "severity must be a finite"),
        ({"scanner": "spiking", "severity": 1.5}, "probability"),
        ({"scanner": "spiking", "processing": "reject"}, "expected none or despike"),
        ({"scanner": "moving", "processing": "despike"}, "expected none or reject or correct"),
        ({"scanner": "noisy", "processing": "despike"}, "processing.*moving and spiking"),
        ({"scanner": "ideal", "processing": "reject"}, "processing go with the name"),
        ({"scanner": "spiking", "navigator_noise": 0.1}, "navigator_noise.*moving"),
        ({"scanner": "moving", "navigator_noise": -0.1}, "navigator_noise must be a finite"),
    ],
)
def test_wrong_numbers_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_scanner(**arguments)


def test_motion_needs_a_movement() -> None:
    with pytest.raises(ValueError, match="n_moves and duration"):
        Moving(n_moves=0)


@pytest.mark.parametrize("scanner", [Noisy(), Spiking()])
def test_strengths_are_relative_to_the_start_which_must_hold_lines(
    scanner: Scanner,
) -> None:
    with pytest.raises(ValueError, match="every scan must start with one"):
        begin(scan_with(scanner, n_center_lines=0), scans(1))
