from dataclasses import replace

import numpy as np
import pytest
import torch

from activemri.data.slices import Slice
from activemri.mri import fourier
from activemri.reconstruction.zero_filled import ZeroFilled
from activemri.training.augmentation import AUGMENTATIONS, dephased, make_augmentation, turned
from tests.training.scans import discs, measured

EVERYTHING = torch.ones(16, dtype=torch.bool)


def changed(scan: Slice, names: list[str], n: int = 16) -> list[Slice]:
    generator = np.random.default_rng(0)
    draw = make_augmentation(names)
    return [draw(generator)(scan) for _ in range(n)]


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("n_coils", [1, 3])
def test_a_changed_scan_leads_to_its_changed_target(name: str, n_coils: int) -> None:
    scan = discs(["a"], shape=(16, 16), target_shape=(10, 10), n_coils=n_coils, maps=True)[0]
    scans = changed(scan, [name])
    for one in scans:
        batch = measured([one], EVERYTHING)
        image = batch.magnitude(ZeroFilled())
        assert torch.allclose(image, batch.target, atol=1e-5)
        assert one.volume_max == pytest.approx(one.target.max().item())
    assert any(not torch.equal(one.kspace, scan.kspace) for one in scans)


def test_a_turned_scan_measures_the_turned_object() -> None:
    scan = discs(["a"], shape=(16, 16), n_coils=2, maps=True)[0]
    once = turned(scan)
    assert torch.allclose(
        fourier.ifft2(once.kspace), fourier.ifft2(scan.kspace).rot90(-1, (-2, -1)), atol=1e-5
    )
    assert torch.equal(once.target, scan.target.rot90(-1))
    four = turned(turned(turned(once)))
    assert torch.allclose(four.kspace, scan.kspace, atol=1e-4)
    assert scan.sensitivity is not None and four.sensitivity is not None
    assert torch.equal(four.sensitivity, scan.sensitivity)


@pytest.mark.parametrize(
    ("shape", "target_shape"), [((12, 16), None), ((16, 16), (10, 8)), ((16, 16), (9, 9))]
)
def test_scans_that_cannot_be_turned_exactly_stay_as_they_are(
    shape: tuple[int, int], target_shape: tuple[int, int] | None
) -> None:
    scan = discs(["a"], shape=shape, target_shape=target_shape)[0]
    assert turned(scan) is scan


def test_a_scan_with_lines_that_were_never_measured_is_not_turned() -> None:
    scan = discs(["a"], shape=(16, 16))[0]
    measured = torch.ones(16, 16, dtype=torch.bool)
    measured[:, :2] = False
    padded = replace(scan, kspace=scan.kspace * measured, measured=measured)
    assert turned(padded) is padded


def test_a_phase_changes_no_magnitude_and_leaves_empty_lines_empty() -> None:
    scan = discs(["a"], shape=(16, 16))[0]
    kspace = scan.kspace.clone()
    kspace[..., :3] = 0
    scan = replace(scan, kspace=kspace, measured=(kspace != 0).any(dim=0))
    one, other = changed(scan, ["phase"], 2)
    assert torch.allclose(one.kspace.abs(), scan.kspace.abs(), rtol=1e-5)
    assert not torch.allclose(one.kspace, other.kspace)
    assert torch.equal((one.kspace != 0).any(dim=0), scan.measured)
    assert torch.equal(one.target, scan.target)


def test_flips_and_turns_make_eight_scans_of_one() -> None:
    scan = discs(["a"], shape=(16, 16))[0]
    seen = {tuple(s.target.flatten().tolist()) for s in changed(scan, ["flip", "rotate90"], 80)}
    assert len(seen) == 8


def test_none_changes_nothing() -> None:
    scan = discs(["a"])[0]
    assert all(one is scan for one in changed(scan, ["none"], 3))


def test_off_resonance_turns_pixels_of_all_coils_and_keeps_magnitudes() -> None:
    scan = discs(["a"], shape=(16, 16), n_coils=3, maps=True)[0]
    before = fourier.ifft2(scan.kspace)
    phases = []
    for one in changed(scan, ["off-resonance"], 8):
        after = fourier.ifft2(one.kspace)
        assert torch.allclose(after.abs(), before.abs(), atol=1e-5)
        assert torch.equal(one.target, scan.target)
        turn = (after * before.conj()).sum(0)
        assert torch.allclose(turn.abs(), before.abs().square().sum(0), rtol=1e-3, atol=1e-4)
        phases.append(turn.angle())
    assert torch.stack(phases).std(0).min() > 0.1  # every pixel is turned, and differently
    assert all(phase.std() > 0.01 for phase in phases)  # not all pixels by one angle


def test_off_resonance_has_edges_where_brightness_has() -> None:
    bright = torch.zeros(16, 16)
    bright[:, 8:] = 1
    image = torch.complex(0.3 + 0.7 * bright, torch.zeros(16, 16))
    scan = discs(["a"], shape=(16, 16))[0]
    scan = replace(scan, kspace=fourier.fft2(image[None]), target=image.abs())
    edges, rest = [], []
    for seed in range(20):
        after = fourier.ifft2(dephased(scan, np.random.default_rng(seed)).kspace)[0]
        turn = (after[8, 1:] * after[8, :-1].conj()).angle().abs()
        edges.append(turn[7])
        rest.append(turn[[5, 6, 8, 9]].mean())
    assert torch.stack(edges).mean() > 3 * torch.stack(rest).mean()


def test_off_resonance_leaves_scans_with_empty_lines_alone() -> None:
    scan = discs(["a"], shape=(16, 16))[0]
    measured = torch.ones(16, 16, dtype=torch.bool)
    measured[:, :2] = False
    padded = replace(scan, kspace=scan.kspace * measured, measured=measured)
    assert dephased(padded, np.random.default_rng(0)) is padded
