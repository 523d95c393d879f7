from dataclasses import replace

import pytest
import torch

from activemri.agents.learning.soft_masks import SoftMasks, lines_of, reconstruct
from activemri.data.slices import Slice
from activemri.envs.acquisition import Acquisition
from activemri.envs.imperfections import make_imperfection
from activemri.envs.state import State
from activemri.mri.geometry import make_geometry
from activemri.reconstruction.cresnet import CResNet
from activemri.reconstruction.reconstructor import Measurement, Reconstruction, Reconstructor
from activemri.reconstruction.unet import UNet
from activemri.reconstruction.zero_filled import ZeroFilled
from tests.agents.learning.toy import decaying

SHAPE = (16, 18)


def lively(reconstructor: Reconstructor) -> Reconstructor:
    """With random weights where training starts at zero."""
    generator = torch.Generator().manual_seed(0)
    for weight in reconstructor.parameters():
        if not bool(weight.any()):
            weight.data = 0.1 * torch.randn(weight.shape, generator=generator)
    return reconstructor.eval()


def reconstructors() -> dict[str, Reconstructor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return {
            "zero-filled": ZeroFilled(),
            "unet": lively(UNet(2, pools=2)),
            "cresnet": lively(CResNet(4, blocks=2)),
        }


def protocol(reconstructor: Reconstructor, geometry: str = "columns", **kwargs: int) -> Acquisition:
    made = make_geometry(geometry, SHAPE, **kwargs)
    return Acquisition(made, reconstructor, budget=6, n_center_lines=2, metrics=("mse", "ssim"))


def scans(n_coils: int = 1) -> list[Slice]:
    made = decaying(2, shape=SHAPE, n_coils=n_coils, maps=n_coils > 1, target_shape=(14, 15))
    return [made[0], made[1]]


def some_lines(state: State) -> torch.Tensor:
    lines = state.mask.float()
    lines[0, [3, 12]] = 1
    lines[1, [0, 7, 15]] = 1
    return lines


@pytest.mark.parametrize("n_coils", [1, 3])
@pytest.mark.parametrize("name", ["zero-filled", "unet", "cresnet"])
def test_a_mask_of_zeros_and_ones_gives_the_image_of_the_protocol(name: str, n_coils: int) -> None:
    acquisition = protocol(reconstructors()[name])
    state = acquisition.start(scans(n_coils))
    lines = some_lines(state)
    resumed = acquisition.resume(
        scans(n_coils),
        start_masks=state.start_mask,
        masks=lines > 0,
        budgets=torch.tensor([3, 3]),
    )
    image = reconstruct(acquisition.reconstructor, state, lines, acquisition.geometry)
    torch.testing.assert_close(image, resumed.reconstruction.image, rtol=1e-4, atol=1e-4)
    loss = SoftMasks(acquisition, "ssim")(state, lines)
    torch.testing.assert_close(1 - loss.double(), resumed.scores["ssim"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("metric", ["mse", "ssim_volume"])
@pytest.mark.parametrize("name", ["zero-filled", "unet", "cresnet"])
def test_the_gradient_is_the_slope_along_every_line(name: str, metric: str) -> None:
    acquisition = protocol(reconstructors()[name])
    state = acquisition.start(scans())
    losses = SoftMasks(acquisition, metric)
    # Away from 0 and 1, where a network with kinks is smooth.
    lines = (0.2 + 0.6 * some_lines(state)).requires_grad_(True)
    (gradient,) = torch.autograd.grad(losses(state, lines).sum(), lines)
    step = 0.02
    for line in (3, 6, 12, 16):
        shift = torch.zeros_like(lines)
        shift[:, line] = step
        with torch.no_grad():
            slope = (losses(state, lines + shift) - losses(state, lines - shift)) / (2 * step)
        largest = float(gradient.abs().max())
        torch.testing.assert_close(gradient[:, line], slope, rtol=0.05, atol=0.02 * largest)


def test_lines_that_were_not_acquired_have_a_gradient() -> None:
    acquisition = protocol(ZeroFilled())
    state = acquisition.start(scans())
    lines = some_lines(state).requires_grad_(True)
    SoftMasks(acquisition, "mse")(state, lines).sum().backward()
    assert lines.grad is not None
    assert bool((lines.grad[lines.detach() == 0] != 0).all())


@pytest.mark.parametrize(
    ("geometry", "lines_per_action"), [("columns", 1), ("columns", 4), ("conjugate-columns", 1)]
)
def test_actions_acquire_their_lines(geometry: str, lines_per_action: int) -> None:
    acquisition = protocol(ZeroFilled(), geometry, lines_per_action=lines_per_action)
    state = acquisition.start(scans())
    made, n_actions = acquisition.geometry, acquisition.geometry.n_actions
    for action in range(n_actions):
        taken = torch.zeros(2, n_actions)
        taken[:, action] = 1
        lines = lines_of(taken, state, made, state.mask.float())
        wanted = made.acquire(state.mask, torch.tensor([action, action])) & state.measurable
        assert torch.equal(lines, wanted.float())


def test_a_metric_without_a_gradient_is_refused() -> None:
    with pytest.raises(ValueError, match=r"--metric roi_ssim.*ssim, ssim_volume, mse"):
        SoftMasks(protocol(ZeroFilled()), "roi_ssim")


def test_scans_with_imperfections_are_refused() -> None:
    imperfection = make_imperfection("noise")
    with pytest.raises(ValueError, match="imperfections"):
        SoftMasks(replace(protocol(ZeroFilled()), imperfection=imperfection), "mse")


def test_a_reconstructor_without_a_gradient_is_refused() -> None:
    class Blind(ZeroFilled):
        def forward(self, measurement: Measurement) -> Reconstruction:
            return Reconstruction(measurement.zero_filled.detach())

    acquisition = protocol(Blind())
    state = acquisition.start(scans())
    with pytest.raises(ValueError, match="Blind lets no gradient pass"):
        SoftMasks(acquisition, "mse")(state, some_lines(state).requires_grad_(True))
