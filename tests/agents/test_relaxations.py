from dataclasses import replace

import pytest
import torch

from activemri.agents.relaxations import (
    bounded,
    draw,
    lines_of,
    mask_loss,
    probabilities,
    reconstruct,
)
from activemri.data.slices import Slice
from activemri.envs.scan import Scan, State
from activemri.envs.scanner import make_scanner
from activemri.mri.geometry import make_geometry
from activemri.reconstruction.cresnet import CResNet
from activemri.reconstruction.ensemble import Ensemble
from activemri.reconstruction.reconstructor import Measurement, Reconstruction, Reconstructor
from activemri.reconstruction.registry import RECONSTRUCTORS
from activemri.reconstruction.unet import UNet
from activemri.reconstruction.zero_filled import ZeroFilled
from tests.envs.scans import random_weights, scan

ALLOWED = torch.tensor([[True] * 7, [True, False, True, True, False, True, True]])
K = torch.tensor([3, 2])


def some_scores(spread: float = 1.5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return spread * torch.randn(2, 7, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("spread", [0.0, 1.0, 30.0])
def test_probabilities_add_up_to_k(spread: float) -> None:
    found = probabilities(some_scores(spread), ALLOWED, K)
    torch.testing.assert_close(found.sum(dim=1), K.double())
    assert bool(((found >= 0) & (found <= 1)).all())
    assert bool((found[~ALLOWED] == 0).all())


def test_probabilities_of_equal_scores_are_equal() -> None:
    found = probabilities(torch.zeros(1, 7, dtype=torch.float64), ALLOWED[1:], K[1:])
    torch.testing.assert_close(found[ALLOWED[1:]], torch.full((5,), 0.4, dtype=torch.float64))


def test_everything_is_drawn_where_no_more_is_allowed() -> None:
    for k in (5, 9):
        found = probabilities(some_scores()[1:], ALLOWED[1:], torch.tensor([k]))
        assert torch.equal(found, ALLOWED[1:].double())


def test_the_gradient_of_probabilities_takes_the_threshold_along() -> None:
    scores = some_scores().requires_grad_(True)
    assert torch.autograd.gradcheck(lambda s: probabilities(s, ALLOWED, K), scores, atol=1e-6)


def test_a_draw_holds_exactly_k_allowed_actions() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        taken = draw(some_scores(), ALLOWED, K, generator=generator)
        assert taken.sum(dim=1).tolist() == K.tolist()
        assert bool((taken[~ALLOWED] == 0).all())
        assert set(taken.unique().tolist()) <= {0.0, 1.0}


def test_actions_are_drawn_as_often_as_their_probabilities_say() -> None:
    n, generator = 20_000, torch.Generator().manual_seed(0)
    for row in (0, 1):
        scores, allowed = some_scores()[[row]], ALLOWED[[row]].expand(n, -1)
        taken = draw(scores.expand(n, -1), allowed, K[row].expand(n), generator=generator)
        wanted = probabilities(scores, allowed[:1], K[[row]])[0]
        # Pareto sampling is not exact at 7 actions; noise of the count is 0.0035.
        torch.testing.assert_close(taken.mean(dim=0), wanted, rtol=0, atol=0.02)


def test_a_draw_has_the_gradient_of_the_probabilities() -> None:
    weight = torch.arange(14, dtype=torch.float64).view(2, 7)
    hard, soft = (some_scores().requires_grad_(True) for _ in range(2))
    (weight * draw(hard, ALLOWED, K, generator=torch.Generator())).sum().backward()
    (weight * probabilities(soft, ALLOWED, K)).sum().backward()
    assert soft.grad is not None and hard.grad is not None
    torch.testing.assert_close(hard.grad, soft.grad)
    assert float(soft.grad.abs().max()) > 0.1


def test_bounded_scores_keep_their_order() -> None:
    scores = torch.tensor([-1e6, -1.0, 0.0, 1.0, 1e6])
    assert bounded(scores).argsort().tolist() == [0, 1, 2, 3, 4]
    assert float(bounded(scores).abs().max()) == 4.0


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


def protocol(reconstructor: Reconstructor, geometry: str = "columns", **kwargs: int) -> Scan:
    made = make_geometry(geometry, SHAPE, **kwargs)
    return Scan(made, reconstructor, budget=6, n_center_lines=2, metrics=("mse", "ssim"))


def scans(n_coils: int = 1) -> list[Slice]:
    size = {"shape": SHAPE, "target_shape": (14, 15)}
    return [scan(i, n_coils=n_coils, maps=n_coils > 1, **size) for i in range(2)]  # type: ignore[arg-type]


def some_lines(state: State) -> torch.Tensor:
    lines = state.view.mask.float()
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
        start_masks=state.view.start_mask,
        masks=lines > 0,
        budgets=torch.tensor([3, 3]),
    )
    image = reconstruct(acquisition.reconstructor, state, lines)
    torch.testing.assert_close(image, resumed.view.reconstruction.image, rtol=1e-4, atol=1e-4)
    loss = mask_loss(acquisition, "ssim")(state, lines)
    torch.testing.assert_close(1 - loss.double(), resumed.scores["ssim"], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "metric"),
    [("zero-filled", "ssim_volume"), ("unet", "mse"), ("cresnet", "ssim_volume")],
)
def test_the_gradient_is_the_slope_along_every_line(name: str, metric: str) -> None:
    acquisition = protocol(reconstructors()[name])
    state = acquisition.start(scans())
    losses = mask_loss(acquisition, metric)
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
    mask_loss(acquisition, "mse")(state, lines).sum().backward()
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
        lines = lines_of(taken, state, state.view.mask.float())
        wanted = made.acquire(state.view.mask, torch.tensor([action, action]))
        wanted &= state.view.measurable
        assert torch.equal(lines, wanted.float())


def test_a_metric_without_a_gradient_is_refused() -> None:
    with pytest.raises(ValueError, match=r"roi_ssim.*ssim, ssim_volume, mse"):
        mask_loss(protocol(ZeroFilled()), "roi_ssim")


def test_other_scanners_and_geometries_are_refused() -> None:
    with pytest.raises(ValueError, match="--scanner"):
        mask_loss(replace(protocol(ZeroFilled()), scanner=make_scanner("noisy")), "mse")
    with pytest.raises(ValueError, match="--geometry radial"):
        mask_loss(protocol(ZeroFilled(), "radial", n_spokes=24), "mse")


@pytest.mark.parametrize("n_coils", [1, 2])
@pytest.mark.parametrize("name", [name for name in RECONSTRUCTORS if name != "diffusion"])
def test_every_line_has_a_finite_gradient_with_all_that_declare_one(
    name: str, n_coils: int
) -> None:
    acquisition = protocol(random_weights(name))
    state = acquisition.start(scans(n_coils))
    lines = some_lines(state).requires_grad_(True)
    mask_loss(acquisition, "ssim")(state, lines).sum().backward()
    assert lines.grad is not None and bool(lines.grad.isfinite().all())
    assert bool((lines.grad != 0).all())


def test_a_reconstructor_that_declares_no_gradient_is_refused() -> None:
    class Own(Reconstructor):
        def forward(self, measurement: Measurement) -> Reconstruction:
            return Reconstruction(measurement.zero_filled)

    for made in (Own(), random_weights("diffusion"), Ensemble([Own(), ZeroFilled()])):
        with pytest.raises(ValueError, match=f"{type(made).__name__}.*is_differentiable"):
            mask_loss(protocol(made), "mse")
