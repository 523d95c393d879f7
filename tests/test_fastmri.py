"""Equal to fastMRI where both have the same thing: its masks, transforms and LOUPE policy."""

import re
import sys
from collections.abc import Iterator
from math import comb
from pathlib import Path
from typing import Any

import fastmri
import numpy as np
import pytest
import torch
from fastmri import evaluate
from fastmri.data import transforms
from fastmri.data.subsample import EquispacedMaskFractionFunc, RandomMaskFunc
from fastmri.models.policy import LOUPEPolicy, ThresholdSigmoidMask

from activemri import ScanProtocol
from activemri.agents.registry import make_policy
from activemri.agents.relaxations import draw, probabilities
from activemri.agents.rollout import play, start_scans
from activemri.data.images import slices_of_images

PAGE = Path(__file__).parents[1] / "docs" / "fastmri.md"
FUNCTIONS = {"equispaced": EquispacedMaskFractionFunc, "random": RandomMaskFunc}
SIZE, CENTER = 64, 4


@pytest.fixture
def _their_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The file of the page in the working directory."""
    (block,) = re.findall(r"^```python\n(# fastmri_masks.*?)^```", PAGE.read_text(), re.S | re.M)
    (tmp_path / "fastmri_masks.py").write_text(block)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield
    sys.modules.pop("fastmri_masks", None)


@pytest.mark.usefixtures("_their_masks")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_their_masks_give_their_images_and_scores(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, SIZE, SIZE, dtype=torch.complex64, generator=generator)
    function: Any = FUNCTIONS[name]([CENTER / SIZE], [4])
    kspace = fastmri.fft2c(torch.view_as_real(image))
    masked, mask, n_center = transforms.apply_mask(kspace, function, seed=0)
    assert n_center == CENTER
    theirs = fastmri.complex_abs(fastmri.ifft2c(masked))

    scans = slices_of_images(image.numpy())
    n_lines = int(mask.sum())
    protocol = ScanProtocol(data=scans, n_center_lines=CENTER, budget=n_lines - CENTER)
    scan = protocol.scan(scans)
    policy, state = make_policy(f"fastmri_masks:{name}"), start_scans(scan, [scans[0]], seed=0)
    for _, last in play(scan, policy, state, [np.random.default_rng(0)]):
        state = last
    assert torch.equal(state.view.mask[0], mask.flatten().bool())
    torch.testing.assert_close(state.view.zero_filled.abs(), theirs, rtol=1e-4, atol=1e-5)
    target = image.abs().numpy()
    assert state.scores["nmse"].item() == pytest.approx(evaluate.nmse(target, theirs.numpy()), 1e-4)
    ssim = evaluate.ssim(target, theirs.numpy())
    assert state.scores["ssim"].item() == pytest.approx(float(ssim[0]), abs=1e-5)


def test_random_lines_are_their_random_masks_of_that_many_lines() -> None:
    """All sets of three of seven lines are equally likely: chi-squared with 34 degrees."""
    n, k, n_draws = 7, 3, 4000
    image = np.ones((1, 8, n + 1), np.complex64)
    scans = slices_of_images(image)
    scan = ScanProtocol(data=scans, n_center_lines=1, budget=k).scan(scans)
    ours: dict[bytes, int] = {}
    state = start_scans(scan, [scans[0]] * 500, seed=0)
    outside = ~state.view.mask[0]
    for seed in range(n_draws // 500):
        generators = [np.random.default_rng((seed, row)) for row in range(500)]
        for _, last in play(scan, make_policy("random"), state.clone(), generators):
            masks = last.view.mask[:, outside]
        for mask in masks.numpy():
            ours[mask.tobytes()] = ours.get(mask.tobytes(), 0) + 1
    theirs: dict[bytes, int] = {}
    function = RandomMaskFunc([1 / (n + 1)], [2])
    while sum(theirs.values()) < n_draws:
        mask = function((1, n + 1, 1))[0].flatten().bool()[outside].numpy()
        if mask.sum() == k:
            theirs[mask.tobytes()] = theirs.get(mask.tobytes(), 0) + 1
    expected = n_draws / comb(n, k)
    for counts in (ours, theirs):
        assert len(counts) == comb(n, k)
        chi_squared = sum((count - expected) ** 2 / expected for count in counts.values())
        assert chi_squared < 66  # exceeded by chance once in a thousand times


def test_lines_have_the_chances_that_their_loupe_policy_gives_them() -> None:
    n, k, n_draws = 20, 5, 4000
    torch.manual_seed(0)
    policy: Any = LOUPEPolicy(n, k, use_softplus=False, slope=1.0)
    policy.sampler.data = torch.linspace(-1.5, 1.5, n)[None]
    mask = torch.zeros(n_draws, 1, 1, n, 1)
    kspace = torch.ones(n_draws, 1, 1, n, 2)
    theirs, _, chances = policy(mask, kspace)
    chances = chances[0].flatten().detach()
    assert bool((theirs.sum(dim=3) == k).all())

    scores = torch.logit(chances).expand(n_draws, -1)
    allowed = torch.ones(n_draws, n, dtype=torch.bool)
    numbers = torch.full((n_draws,), k)
    ours = draw(scores, allowed, numbers, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(probabilities(scores[:1], allowed[:1], numbers[:1])[0], chances)
    frequency = theirs.mean(dim=0).flatten()
    torch.testing.assert_close(ours.mean(dim=0), chances, rtol=0, atol=0.03)
    torch.testing.assert_close(frequency.detach(), ours.mean(dim=0), rtol=0, atol=0.03)


def test_the_mean_gradient_of_their_draws_is_that_of_ours() -> None:
    """Theirs is slope s(1 - s), s = sigmoid(slope (p - U)), of mean 1: ours hands it on as it is.

    Near 0 and 1 the sigmoid reaches beyond the range of U, and theirs is smaller.
    """
    n_draws, slope = 4000, 10
    chances = torch.full((n_draws, 20), 0.5).requires_grad_(True)
    torch.manual_seed(0)
    drawn = ThresholdSigmoidMask.apply(chances, slope, False)
    (gradient,) = torch.autograd.grad(drawn.sum(), chances)
    assert gradient.mean().item() == pytest.approx(1, abs=0.03)

    scores = torch.zeros(1, 20, dtype=torch.float64, requires_grad=True)
    allowed, k = torch.ones(1, 20, dtype=torch.bool), torch.tensor([10])
    weight = torch.arange(20, dtype=torch.float64)
    hard = draw(scores, allowed, k, generator=torch.Generator().manual_seed(0))
    soft = probabilities(scores, allowed, k)
    (ours,) = torch.autograd.grad((hard * weight).sum(), scores)
    (expected,) = torch.autograd.grad((soft * weight).sum(), scores)
    torch.testing.assert_close(ours, expected)
