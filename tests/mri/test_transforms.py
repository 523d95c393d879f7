"""What every transform and operator promises, whatever its readouts are.

Truth is the whole matrix: images are small enough to send every unit image through.
"""

import math

import pytest
import torch
from torch import Tensor

from activemri.mri import fourier, trajectories
from activemri.mri.geometry import (
    GEOMETRIES,
    Cartesian,
    NonCartesian,
    Spokes,
    Transform,
    make_geometry,
)
from activemri.mri.operators import Operator

BATCH, COILS, SHAPE = 2, 3, (8, 10)
LARGER = (11, 14)
TRANSFORMS: dict[str, Transform] = {
    **{name: make_geometry(name, SHAPE).transform for name in GEOMETRIES},
    **{
        f"{name} in a larger frame": make_geometry(name, LARGER).transform.fitted(SHAPE)
        for name in GEOMETRIES
    },
}
TRANSFORMS["spiral"] = NonCartesian(SHAPE, trajectories.spiral(12, 40, size=10))
CARTESIAN = {name: t for name, t in TRANSFORMS.items() if isinstance(t, Cartesian)}
RADIAL = {name: t for name, t in TRANSFORMS.items() if isinstance(t, Spokes)}
over = pytest.mark.parametrize


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.complex64, generator=generator)


def images(seed: int = 0) -> Tensor:
    return normal(BATCH, COILS, *SHAPE, seed=seed)


def samples_of(transform: Transform, seed: int = 1) -> Tensor:
    samples = normal(BATCH, transform.n_readouts, COILS, transform.n_samples, seed=seed)
    return samples * measurable(transform)[:, :, None, None]


def measurable(transform: Transform) -> Tensor:
    return transform.measurable(torch.ones(BATCH, *SHAPE, dtype=torch.bool))


def some_readouts(transform: Transform, *, share: float = 0.5) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    drawn = torch.rand(BATCH, transform.n_readouts, generator=generator) < share
    drawn[:, transform.outwards[:2]] = True
    return drawn & measurable(transform)


def operator(transform: Transform, *, coils: bool) -> Operator:
    maps = normal(BATCH, COILS, *SHAPE, seed=9)
    unit = maps / maps.abs().square().sum(dim=1, keepdim=True).sqrt()
    return Operator(transform, some_readouts(transform), unit if coils else None)


def gap(a: Tensor, b: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-30))


def inner(a: Tensor, b: Tensor) -> complex:
    return complex(torch.vdot(a.flatten().to(torch.complex128), b.flatten().to(torch.complex128)))


def assert_adjoint(forward: Tensor, y: Tensor, x: Tensor, adjoint: Tensor) -> None:
    """<A x, y> is <x, A^H y>, to 1e-6 of what they could be."""
    size = float(forward.norm() * y.norm())
    assert abs(inner(forward, y) - inner(x, adjoint)) <= 1e-6 * size


@over("name", TRANSFORMS)
def test_the_adjoint_is_the_adjoint(name: str) -> None:
    transform, x = TRANSFORMS[name], images()
    y = samples_of(transform)
    assert transform.forward(x).shape == y.shape
    assert_adjoint(transform.forward(x), y, x, transform.adjoint(y))


@over("coils", [False, True])
@over("name", TRANSFORMS)
def test_an_operator_has_its_adjoint_gram_and_norm(name: str, coils: bool) -> None:
    transform = TRANSFORMS[name]
    a, x = operator(transform, coils=coils), images()[:, 0]
    y = samples_of(transform)[:, :, : COILS if coils else 1]
    assert_adjoint(a.forward(x), y, x, a.adjoint(y))
    assert not a.forward(x)[~a.mask].any()
    other = torch.where(a.mask[:, :, None, None], y, -7 * y)
    assert torch.equal(a.adjoint(other), a.adjoint(y))
    # The accuracy of the sums is 1e-5 on spokes.
    assert gap(a.gram(x), a.zero_filled(a.forward(x))) <= (1e-6 if transform.is_cartesian else 1e-4)
    if transform.is_cartesian:
        assert torch.equal(a.zero_filled(y), a.adjoint(y))
    n = math.prod(SHAPE)
    units = torch.eye(n, dtype=torch.complex64).reshape(n, *SHAPE)
    for row in range(BATCH):
        one = a.of_scan(row)
        maps = None if one.sensitivity is None else one.sensitivity.expand(n, -1, -1, -1)
        whole = Operator(transform, one.mask.expand(n, -1), maps).gram(units).flatten(1)
        assert gap(whole, whole.mH) <= 1e-4
        largest = float(torch.linalg.eigvalsh((whole + whole.mH).to(torch.complex128) / 2)[-1])
        assert largest <= float(a.norm[row]) * (1 + 1e-5)
        if not coils:
            assert float(a.norm[row]) <= 1.2 * largest
        assert gap(one.gram(x[row : row + 1])[0], a.gram(x)[row]) <= 1e-5
        kept = y[row : row + 1]
        assert gap(one.zero_filled(kept)[0], a.zero_filled(y)[row]) <= 1e-5


@over("name", TRANSFORMS)
def test_a_transform_is_linear_and_treats_every_scan_alone(name: str) -> None:
    transform = TRANSFORMS[name]
    x, z, y = images(), images(2), samples_of(transform)
    mixed = transform.forward(2j * x - 3 * z)
    assert gap(mixed, 2j * transform.forward(x) - 3 * transform.forward(z)) <= 2e-5
    assert gap(transform.forward(x[1:]), transform.forward(x)[1:]) <= 1e-6
    assert gap(transform.adjoint(y[1:]), transform.adjoint(y)[1:]) <= 1e-6


@over("name", TRANSFORMS)
def test_increments_are_the_adjoint_of_their_readouts(name: str) -> None:
    """Every scan takes readouts of its own, in any order; padding repeats one with zeros."""
    transform = TRANSFORMS[name]
    everything = samples_of(transform)
    generator = torch.Generator().manual_seed(3)
    order = [torch.randperm(transform.n_readouts, generator=generator)[:4] for _ in range(BATCH)]
    readouts = torch.stack(order)
    taken = everything[torch.arange(BATCH)[:, None], readouts]
    mask = torch.zeros(BATCH, transform.n_readouts).scatter(1, readouts, 1)
    expected = transform.adjoint(everything * mask[:, :, None, None])
    padded = torch.cat([readouts, readouts[:, -1:]], dim=1)
    padding = torch.cat([taken, torch.zeros_like(taken[:, :1])], dim=1)
    maps = images(9)
    for increment in (transform.increment(taken, readouts), transform.increment(padding, padded)):
        coils = increment.left if increment.right is None else increment.left @ increment.right
        assert gap(coils, expected) <= 1e-5
        combined = (maps.conj() * expected).sum(dim=1)
        assert gap(increment.image(maps), combined) <= 1e-5


def test_increments_of_long_axes_are_exact_to_single_precision() -> None:
    """Phases of a wide axis run to thousands of turns, in which rounding would show."""
    transform, kspace = Cartesian((7, 1025), (False, True)), normal(1, 1, 7, 1025)
    readouts = torch.tensor([[0, 1024]])
    mask = torch.zeros(1025).scatter(0, readouts[0], 1)
    exact = fourier.ifft2((kspace * mask).to(torch.complex128))
    taken = transform.of_grid(kspace)[:, readouts[0]]
    assert gap(transform.increment(taken, readouts).image(None), exact[:, 0]) < 1e-6


@over("name", TRANSFORMS)
def test_a_known_grid_is_seen_as_its_image_would_be(name: str) -> None:
    transform, x = TRANSFORMS[name], images()
    assert gap(transform.of_grid(fourier.fft2(x)), transform.forward(x)) <= 1e-6


@over("name", CARTESIAN)
def test_the_grid_is_laid_out_by_readout_and_put_together_again(name: str) -> None:
    transform, kspace = CARTESIAN[name], images()
    samples = transform.of_grid(kspace)
    assert torch.equal(transform.grid(samples), kspace)
    assert gap(transform.adjoint(samples), fourier.ifft2(kspace)) <= 1e-6
    mask = some_readouts(transform)
    on_grid = transform.grid_mask(mask)
    masked = transform.grid(samples * mask[:, :, None, None])
    assert torch.equal(masked, kspace * on_grid.unsqueeze(1))
    assert torch.equal(transform.of_grid_values(on_grid), mask)
    grid, known = transform.calibration(samples * mask[:, :, None, None], mask)
    assert torch.equal(grid, masked) and torch.equal(known, on_grid)


@over("name", TRANSFORMS)
def test_energies_of_readouts_are_those_of_their_samples(name: str) -> None:
    transform, x = TRANSFORMS[name], images()[:, 0]
    energy = transform.energy(x)
    expected = transform.forward(x.unsqueeze(1)).abs().square().sum(dim=(2, 3))
    assert energy.dtype == torch.float64
    torch.testing.assert_close(energy.float(), expected, rtol=1e-5, atol=1e-5)


@over("name", TRANSFORMS)
def test_places_are_where_a_single_sample_shows_on_the_grid(name: str) -> None:
    transform = TRANSFORMS[name]
    readouts = measurable(transform)[0].nonzero()[:, 0]
    places = transform.places(readouts)
    assert places.shape == (len(readouts), transform.n_samples, 2)
    assert bool(((places >= 0) & (places < torch.tensor(SHAPE))).all())
    for i, readout in enumerate(readouts.tolist()):
        lit = torch.zeros(transform.n_samples, transform.n_readouts, 1, transform.n_samples)
        lit[torch.arange(transform.n_samples), readout, 0, torch.arange(transform.n_samples)] = 1
        seen = fourier.fft2(transform.adjoint(lit.to(torch.complex64)))[:, 0].abs()
        at = seen[torch.arange(transform.n_samples), places[i, :, 0], places[i, :, 1]]
        share = at / seen.amax(dim=(1, 2))
        if isinstance(transform, NonCartesian):
            # Half a sample off along both axes leaves (2 / pi)^2; what lies on the edge wraps.
            inside = transform.trajectory[readout].abs().amax(dim=1) < 0.45
            assert bool((share[inside] > 0.4).all())
        else:
            assert bool((share > 0.99).all())


@over("name", TRANSFORMS)
def test_the_same_readouts_of_other_sizes_have_the_same_numbers(name: str) -> None:
    transform = TRANSFORMS[name]
    assert transform.fitted(SHAPE) is transform
    other = transform.fitted((6, 7))
    assert (other.shape, other.n_readouts) == ((6, 7), transform.n_readouts)
    if isinstance(transform, Cartesian) and isinstance(other, Cartesian):
        assert torch.equal(other.offsets, transform.offsets)
        assert torch.equal(other.radius, other.coordinates.norm(dim=1))
        own = other.radius[other.measurable(torch.ones(1, 6, 7, dtype=torch.bool))[0]]
        assert float(own.amin()) == 0 and 1 <= float(own.amax()) <= 2**0.5  # at the scan's edge
    else:
        assert torch.equal(other.coordinates, transform.coordinates)
    # A point in the middle looks alike from everywhere.
    point = torch.zeros(1, 1, 6, 7, dtype=torch.complex64)
    point[..., 3, 3] = 1
    exists = other.measurable(torch.ones(1, 6, 7, dtype=torch.bool))
    seen = other.forward(point)
    flat = torch.full_like(seen, 42**-0.5) * exists[:, :, None, None]
    assert gap(seen, flat) <= 2e-5


@over("name", RADIAL)
def test_weighted_spokes_show_the_image_within_reach(name: str) -> None:
    transform = RADIAL[name]
    down, right = (torch.arange(n) - n // 2 for n in SHAPE)
    smooth = torch.exp(-((down[:, None] / 2.5) ** 2) - (right / 3) ** 2).to(torch.complex64)
    mask = torch.ones(1, transform.n_readouts, dtype=torch.bool)
    a = Operator(transform, mask)
    assert a.density is not None and bool((a.density > 0).all())
    assert gap(a.zero_filled(a.forward(smooth[None]))[0], smooth) < 0.1
    grid, known = transform.calibration(a.forward(smooth[None]), mask)
    expected = fourier.fft2(smooth)
    near = torch.hypot(down[:, None].float(), right.float()) <= 2
    assert bool(known[0][near].all())
    assert gap(grid[0, 0][near], expected[near]) < 0.1
    few = torch.zeros_like(mask)
    few[:, :2] = True
    assert int(transform.calibration_mask(few).sum()) == 9  # closer than two samples
    assert not transform.density(few)[~few].any()


@over("name", ["columns", "rows", "points"])
def test_a_scan_larger_than_the_frame_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        make_geometry(name, SHAPE).transform.fitted((9, 12))


def test_readouts_of_zero_padding_do_not_exist() -> None:
    measured = torch.ones(1, *SHAPE, dtype=torch.bool)
    measured[..., :2] = measured[..., -1:] = False
    exists = TRANSFORMS["columns"].measurable(measured)[0]
    assert exists.tolist() == [False] * 2 + [True] * 7 + [False]


@over("coils", [False, True])
@over("name", RADIAL)
def test_back_projections_add_up_to_zero_filled_images(name: str, coils: bool) -> None:
    transform = TRANSFORMS[name]
    a = operator(transform, coils=coils)
    y = samples_of(transform)[:, :, : COILS if coils else 1]
    images = transform.back_projections(y, a.sensitivity)
    assert images is not None
    total = (transform.shares(a.mask)[..., None, None] * images).sum(dim=1)
    assert gap(total, a.zero_filled(y)) <= 1e-4  # the accuracy of the sums is 1e-5


def test_other_readouts_have_no_back_projections() -> None:
    for transform in CARTESIAN.values():
        assert transform.back_projections(samples_of(transform), None) is None


@over("name", TRANSFORMS)
def test_acquired_readouts_are_seen_and_spokes_far_from_them_are_not(name: str) -> None:
    transform = TRANSFORMS[name]
    mask = some_readouts(transform, share=0.3)
    mask[:, 0] = True
    unseen = transform.unseen(mask)
    assert torch.equal(unseen == 0, mask)
    if not isinstance(transform, Spokes):
        assert torch.equal(unseen, (~mask).double())
        return
    n = transform.n_readouts
    for acquired, row in zip(mask, unseen, strict=True):
        turns = transform.angles[acquired][:, None] + math.pi * torch.arange(-n, n + 1).double()
        for angle, value in zip(transform.angles, row, strict=True):
            assert value == pytest.approx(float((turns - angle).abs().min()) * n / math.pi)
