"""Where samples of non-Cartesian scans lie, and their density weights."""

import math

import pytest
import torch
from torch import Tensor

from activemri.mri import fourier, trajectories
from activemri.mri.nufft import NUFFT
from activemri.mri.solvers import conjugate_gradient, largest_eigenvalue

SIZE = 64
SHAPE = (SIZE, SIZE)


def all_of(angles: Tensor) -> Tensor:
    return torch.ones(1, len(angles), dtype=torch.bool)


def phantom(shape: tuple[int, int] = SHAPE) -> Tensor:
    """Overlapping ellipses with sharp edges and a smooth phase: complex64 (1, 1, *shape)."""
    down, across = (torch.linspace(-1, 1, n) for n in shape)
    y, x = down[:, None], across[None, :]
    image = torch.zeros(shape)
    for height, y0, x0, a, b in [
        (1, 0, 0, 0.9, 0.7),
        (-0.6, 0.1, 0.2, 0.5, 0.3),
        (0.8, -0.4, -0.2, 0.2, 0.15),
    ]:
        image += height * (((y - y0) / a) ** 2 + ((x - x0) / b) ** 2 <= 1)
    return torch.polar(image.abs(), 1.5 * x * y + 0 * image)[None, None]


def smooth_noise(n: int = 3) -> Tensor:
    """Random images within the disc of k-space and the round field of view."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(n, 1, *SHAPE, dtype=torch.complex64, generator=generator)
    places = torch.arange(SIZE) - SIZE // 2
    inside = torch.hypot(places[:, None].float(), places[None].float()) < 0.4 * SIZE
    return trajectories.limit_to_disc(images * inside)


def nmse(images: Tensor, truth: Tensor) -> float:
    return float((images - truth).abs().square().sum() / truth.abs().square().sum())


def test_spokes_of_nyquist_end_no_farther_apart_than_samples_of_the_grid() -> None:
    for size in (64, 128):
        n = trajectories.nyquist(size)
        assert math.pi / 2 / n <= 1 / size < math.pi / 2 / (n - 1)


def test_uniform_spokes_are_equally_spaced() -> None:
    torch.testing.assert_close(trajectories.uniform(4), math.pi / 4 * torch.arange(4).double())


@pytest.mark.parametrize(("order", "degrees"), [(1, 111.246), (2, 68.754), (7, 23.628)])
def test_golden_spokes_have_the_published_steps(order: int, degrees: float) -> None:
    angles = trajectories.golden(5, order=order)
    steps = torch.rad2deg(angles.diff()) % 180
    torch.testing.assert_close(steps, torch.full_like(steps, degrees), atol=1e-3, rtol=0)
    assert float(angles.min()) >= 0 and float(angles.max()) < math.pi


def test_spokes_pass_the_centre_and_reach_the_edge_at_their_angles() -> None:
    angles = trajectories.golden(7)
    lines = trajectories.spokes(angles, 10)
    assert lines.shape == (7, 10, 2) and lines.dtype == torch.float32
    assert not lines[:, 5].any()
    radii = lines.norm(dim=-1)
    torch.testing.assert_close(radii[:, 0], torch.full((7,), 0.5))
    torch.testing.assert_close(radii[:, -1], torch.full((7,), 0.4))
    found = torch.atan2(lines[:, -1, 0], lines[:, -1, 1]).double()
    torch.testing.assert_close(found, angles, atol=1e-6, rtol=0)


def test_spirals_have_equal_steps_and_turns_as_far_apart_as_samples_of_the_grid() -> None:
    curves = trajectories.spiral(4, 300, size=32)
    assert curves.shape == (4, 300, 2)
    assert not curves[:, 0].any()
    torch.testing.assert_close(curves[:, -1].norm(dim=-1), torch.full((4,), 0.5))
    steps = curves.diff(dim=1).norm(dim=-1)
    assert float(steps.max() / steps.min()) < 1.15  # chords of equal arcs
    torch.testing.assert_close(curves[1, :, 0], curves[0, :, 1], atol=1e-6, rtol=0)  # a quarter
    turns = 0.5 * 32 / 4  # of each: together 1/32 apart; the first step is not counted
    phase = torch.atan2(curves[0, 1:, 0], curves[0, 1:, 1]).diff() % (2 * math.pi)
    assert float(phase.sum() / (2 * math.pi)) == pytest.approx(turns, abs=0.2)


def test_wedges_are_half_of_the_gaps_to_acquired_neighbours() -> None:
    angles = torch.deg2rad(torch.tensor([10.0, 190.0 + 90, 40.0, 170.0]))  # 280 is 100
    acquired = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]).bool()
    expected = [[25, 65, 45, 45], [90, 90, 0, 0], [0, 0, 180, 0], [0, 0, 0, 0]]
    found = torch.rad2deg(trajectories.wedges(angles, acquired))
    torch.testing.assert_close(found, torch.tensor(expected).double(), atol=1e-4, rtol=0)


def test_spokes_of_the_same_angle_share_their_wedge() -> None:
    angles = torch.tensor([0.5, 0.5 + math.pi, 2.0, 0.5], dtype=torch.float64)
    found = trajectories.wedges(angles, all_of(angles))[0]
    assert float(found.sum()) == pytest.approx(math.pi)
    assert float(found[[0, 1, 3]].sum()) == pytest.approx(math.pi / 2)


@pytest.mark.parametrize("shape", [(12, 15), (16, 16)])
def test_weights_add_up_to_the_area_of_the_disc(shape: tuple[int, int]) -> None:
    angles = trajectories.golden(9)
    acquired = torch.rand(4, 9, generator=torch.Generator().manual_seed(0)) < 0.5
    weights = trajectories.density(angles, acquired, n_samples=30, shape=shape)
    assert weights.shape == (4, 9, 30) and weights.dtype == torch.float32
    assert not weights[~acquired].any() and bool((weights[acquired] > 0).all())
    area = math.pi / 4 * math.prod(shape)
    torch.testing.assert_close(weights.sum(dim=(1, 2)), torch.full((4,), area), rtol=0.01, atol=0)
    alone = [
        trajectories.density(angles, one, n_samples=30, shape=shape) for one in acquired.split(1)
    ]
    assert torch.equal(weights, torch.cat(alone))


def test_the_normal_operator_of_a_complete_scan_is_nearly_one_in_the_disc() -> None:
    angles = trajectories.uniform(trajectories.nyquist(SIZE))
    transform = NUFFT(trajectories.spokes(angles, 2 * SIZE), SHAPE)
    weights = trajectories.density(angles, all_of(angles), n_samples=2 * SIZE, shape=SHAPE)
    images = smooth_noise()
    seen = trajectories.limit_to_disc(transform.gram(images, transform.gram_kernel(weights)))
    assert nmse(seen, images) < 5e-3


@pytest.mark.parametrize(
    ("angles", "most"), [(trajectories.uniform(101), 0.005), (trajectories.golden(101), 0.008)]
)
def test_a_complete_scan_gives_its_target(angles: Tensor, most: float) -> None:
    image = phantom()
    target = trajectories.limit_to_disc(image)
    transform = NUFFT(trajectories.spokes(angles, 2 * SIZE), SHAPE)
    weights = trajectories.density(angles, all_of(angles), n_samples=2 * SIZE, shape=SHAPE)
    samples = transform.forward(image)
    gridded = transform.adjoint(samples * weights.flatten(1)[:, None])
    assert nmse(gridded, target) <= most
    kernel = transform.gram_kernel(weights)
    solved = conjugate_gradient(
        lambda x: transform.gram(x, kernel) + 1e-3 * x, gridded, max_steps=15
    )
    assert nmse(trajectories.limit_to_disc(solved), target) < 2e-4


def test_weights_by_iteration_agree_with_those_of_spokes() -> None:
    angles = trajectories.uniform(101)
    transform = NUFFT(trajectories.spokes(angles, 2 * SIZE), SHAPE)
    closed = trajectories.density(angles, all_of(angles), n_samples=2 * SIZE, shape=SHAPE)
    found = trajectories.pipe_menon(transform).reshape(closed.shape)
    inner = slice(SIZE // 2, 3 * SIZE // 2)  # a kernel sees no samples beyond the edge
    torch.testing.assert_close(found[..., inner].sum(), closed[..., inner].sum(), rtol=0.05, atol=0)
    image = phantom()
    seen = transform.adjoint(transform.forward(image) * found.flatten(1)[:, None])
    assert nmse(seen, trajectories.limit_to_disc(image)) <= 0.005


def test_weights_by_iteration_serve_spirals_and_parts_of_them() -> None:
    image = phantom()
    target = trajectories.limit_to_disc(image)
    transform = NUFFT(trajectories.spiral(32, 512, size=2 * SIZE), SHAPE)
    every_other = (torch.arange(32) % 2 == 0).repeat_interleave(512)
    acquired = torch.stack([torch.ones_like(every_other), every_other])
    weights = trajectories.pipe_menon(transform, acquired)
    assert weights.shape == acquired.shape and not weights[~acquired].any()
    samples = transform.forward(image)
    complete, half = transform.adjoint(samples * weights[:, None])[:, None].split(1)
    assert nmse(complete[0], target) <= 0.005
    assert nmse(half[0], target) <= 0.02
    alone = trajectories.pipe_menon(transform, acquired[1:])
    torch.testing.assert_close(weights[1:], alone, rtol=1e-5, atol=1e-6)


def test_weights_by_iteration_of_a_grid_are_one() -> None:
    axes = [(torch.arange(n) - n // 2) / n for n in (12, 15)]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    weights = trajectories.pipe_menon(NUFFT(grid, (12, 15)), steps=5)
    torch.testing.assert_close(weights, torch.ones_like(weights), rtol=0.1, atol=0)


def test_the_kernel_bounds_the_norm() -> None:
    angles = trajectories.golden(25)
    transform = NUFFT(trajectories.spokes(angles, 2 * SIZE), SHAPE)
    weights = trajectories.density(angles, all_of(angles), n_samples=2 * SIZE, shape=SHAPE)
    kernel = transform.gram_kernel(weights)
    start = smooth_noise(1)[:, 0]
    norm = largest_eigenvalue(lambda x: transform.gram(x[:, None], kernel)[:, 0], start, steps=50)
    assert float(norm) <= float(kernel.max())


@pytest.mark.parametrize("shape", [(12, 15), (16, 16)])
def test_the_disc_keeps_its_inside_and_drops_the_corners(shape: tuple[int, int]) -> None:
    # The transform of an image of one sample at the centre is constant.
    point = fourier.ifft2(torch.ones(1, *shape, dtype=torch.complex64))
    share = fourier.fft2(trajectories.limit_to_disc(point))[0].real
    radii = torch.hypot(
        *torch.meshgrid(*[(torch.arange(n) - n // 2) / n for n in shape], indexing="ij")
    )
    assert bool((share[radii >= 0.5] < 1e-6).all())
    assert bool((share[radii <= 0.5 - 2 / min(shape)] > 1 - 1e-6).all())
    assert float(share.min()) >= -1e-6 and float(share.max()) <= 1 + 1e-6
    images = torch.randn(2, 3, *shape, dtype=torch.complex64)
    expected = fourier.ifft2(fourier.fft2(images) * share)
    torch.testing.assert_close(trajectories.limit_to_disc(images), expected)
    torch.testing.assert_close(trajectories.limit_to_disc(images[0, 0]), expected[0, 0])


def test_impossible_wishes_are_refused() -> None:
    angles = trajectories.uniform(4)
    with pytest.raises(ValueError, match="at least one spoke"):
        trajectories.uniform(0)
    with pytest.raises(ValueError, match="at least one order"):
        trajectories.golden(3, order=0)
    with pytest.raises(ValueError, match="at least one interleave"):
        trajectories.spiral(0, 100, size=64)
    with pytest.raises(ValueError, match="at least one step"):
        trajectories.spiral(4, 1, size=64)
    with pytest.raises(ValueError, match="even"):
        trajectories.spokes(angles, 7)
    with pytest.raises(ValueError, match=r"0\.5 cycles per pixel"):
        trajectories.spiral(4, 100, size=64, reach=32)
