"""What every registered reconstructor promises."""

from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from activemri.mri.geometry import make_geometry
from activemri.mri.operators import Operator
from activemri.reconstruction.reconstructor import Measurement, Reconstructor, require_served
from activemri.reconstruction.registry import (
    RECONSTRUCTORS,
    WRAPPERS,
    describe,
    make_reconstructor,
    rebuild,
    save_reconstructor,
)
from tests.envs.scans import FEW_STEPS

PARTS = ("image", "uncertainty", "samples")

#: How one of each wrapper comes about, for the same tests as all others.
DROPS: dict[str, object] = {"channels": 4, "blocks": 2, "residual_blocks": 1, "dropout": 0.3}
SMALL: dict[str, object] = {"channels": 2, "pools": 2}
TWO = {"members": [{"kind": "unet", "settings": SMALL}, {"kind": "cresnet", "settings": DROPS}]}
WRAPPED: dict[str, dict[str, object]] = {
    "ensemble": dict(TWO),
    "dropout": {"reconstructor": {"kind": "cresnet", "settings": DROPS}, "n_samples": 3},
    "recalibrated": {
        "reconstructor": {"kind": "ensemble", "settings": TWO},
        "predicted": [0.01, 0.1],
        "observed": [0.05, 0.2],
    },
}


#: Few enough steps of conjugate gradients that they end before they have converged.
SETTINGS = {**WRAPPED, **FEW_STEPS, "modl": {"cg_steps": 3}}
KINDS = [*RECONSTRUCTORS, *WRAPPERS]
GEOMETRIES = ["columns", "points", "radial"]
#: Measured samples are in the image as they were measured, on a Cartesian grid of one coil.
KEEP_DATA = ["zero-filled", "unet", "cresnet", "kiki-net", "diffusion", *WRAPPERS]


@cache
def built(kind: str) -> Reconstructor:
    """With random weights, so that no promise hangs on training."""
    made: Reconstructor = rebuild({"kind": kind, "settings": SETTINGS.get(kind, {})})
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in made.parameters():
            # of about unit gain, so that deep stacks neither explode nor fall silent
            size = weight[0].numel() ** -0.5 if weight.ndim > 1 else 0.3
            weight.copy_(size * torch.randn(weight.shape, generator=generator))
    return made.eval()


def is_served(kind: str, geometry: str) -> bool:
    needs = RECONSTRUCTORS[kind].needs if kind in RECONSTRUCTORS else built(kind).needs
    return geometry != "radial" or "grid" not in needs


CASES = [(kind, geometry) for kind in KINDS for geometry in GEOMETRIES if is_served(kind, geometry)]


@pytest.fixture(params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest) -> tuple[str, str]:
    kind, geometry = request.param
    return kind, geometry


@pytest.fixture
def reconstructor(case: tuple[str, str]) -> Reconstructor:
    return built(case[0])


@pytest.fixture
def geometry(case: tuple[str, str]) -> str:
    return case[1]


def measured(
    reconstructor: Reconstructor,
    geometry: str,
    size: tuple[int, int] = (9, 14),
    *,
    batch: int = 2,
    n_coils: int = 1,
) -> tuple[Tensor, Operator]:
    """Every sample, and an operator that takes some readouts, others for each scan."""
    made = make_geometry(geometry, size)
    require_served(reconstructor, made)
    transform, generator = made.transform, torch.Generator().manual_seed(0)
    images = torch.randn(batch, n_coils, *size, dtype=torch.complex64, generator=generator)
    mask = torch.rand(batch, transform.n_readouts, generator=generator) < 0.4
    mask[:, transform.outwards[0]] = True
    mask[:, transform.outwards[-1]] = False
    sensitivity = None
    if n_coils > 1:
        maps = torch.randn(images.shape, dtype=torch.complex64, generator=generator)
        sensitivity = maps / maps.abs().square().sum(dim=1, keepdim=True).sqrt()
    return transform.forward(images), Operator(transform, mask, sensitivity)


def assert_close(one: Tensor | None, other: Tensor | None, *, tolerance: float = 1e-5) -> None:
    """In units of the largest value: sums of many steps round in units of what they hold."""
    assert (one is None) == (other is None)
    if one is not None and other is not None:
        torch.testing.assert_close(
            one, other, rtol=tolerance, atol=tolerance * float(other.abs().max())
        )


@pytest.mark.parametrize(("size", "n_coils"), [((8, 10), 1), ((17, 13), 3)])
@torch.no_grad()
def test_images_are_complex_and_finite_and_samples_are_images_with_the_data_in_them(
    reconstructor: Reconstructor, geometry: str, size: tuple[int, int], n_coils: int
) -> None:
    known, operator = measured(reconstructor, geometry, size, n_coils=n_coils)
    result = reconstructor(Measurement.of(known, operator))
    assert result.image.shape == (2, *size)
    assert result.image.dtype == torch.complex64
    assert torch.isfinite(torch.view_as_real(result.image)).all()
    if result.uncertainty is not None:
        assert result.uncertainty.shape == (2, *size)
        assert (result.uncertainty >= 0).all()
    samples = result.samples
    if samples is None:
        return
    assert samples.shape[0] == 2 and samples.shape[1] > 1 and samples.shape[2:] == size
    assert not torch.equal(samples[:, 0], samples[:, 1])
    if operator.transform.is_cartesian and n_coils == 1:
        for drawn in samples.unbind(1):
            kept = known * operator.mask[:, :, None, None]
            assert (operator.forward(drawn) - kept).abs().max() < 1e-4


@pytest.mark.parametrize("n_coils", [1, 3])
@torch.no_grad()
def test_nothing_that_was_not_acquired_is_seen(
    reconstructor: Reconstructor, geometry: str, n_coils: int
) -> None:
    samples, operator = measured(reconstructor, geometry, n_coils=n_coils)
    other = torch.where(operator.mask[:, :, None, None], samples, 100 * samples.flip(0) + 3)
    assert not torch.equal(samples, other)
    result = reconstructor(Measurement.of(samples, operator))
    again = reconstructor(Measurement.of(other, operator))
    for name in PARTS:
        one, two = getattr(result, name), getattr(again, name)
        assert (one is None and two is None) or torch.equal(one, two), name


@pytest.mark.parametrize("n_coils", [1, 3])
@torch.no_grad()
def test_a_scan_is_reconstructed_alike_alone_and_in_any_batch(
    reconstructor: Reconstructor, geometry: str, n_coils: int
) -> None:
    samples, operator = measured(reconstructor, geometry, batch=3, n_coils=n_coils)
    together = reconstructor(Measurement.of(samples, operator))
    for i in range(3):
        result = reconstructor(Measurement.of(samples[i : i + 1], operator.of_scan(i)))
        for name in PARTS:
            all_ = getattr(together, name)
            assert_close(getattr(result, name), None if all_ is None else all_[i : i + 1])


@torch.no_grad()
def test_the_same_measurement_gives_the_same_image(
    reconstructor: Reconstructor, geometry: str
) -> None:
    measurement = Measurement.of(*measured(reconstructor, geometry))
    state = torch.get_rng_state()
    first, second = reconstructor(measurement), reconstructor(measurement)
    assert torch.equal(first.image, second.image)
    if first.uncertainty is not None and second.uncertainty is not None:
        assert torch.equal(first.uncertainty, second.uncertainty)
    assert torch.equal(torch.get_rng_state(), state), "the global random state was touched"


@pytest.mark.parametrize("kind", KEEP_DATA)
@pytest.mark.parametrize("geometry", ["columns", "points"])
@torch.no_grad()
def test_measured_samples_are_kept_where_promised(kind: str, geometry: str) -> None:
    reconstructor = built(kind)
    samples, operator = measured(reconstructor, geometry)
    image = reconstructor(Measurement.of(samples, operator)).image
    kept = samples * operator.mask[:, :, None, None]
    assert (operator.forward(image) - kept).abs().max() < 1e-4
    samples, operator = measured(reconstructor, geometry, n_coils=3)
    everything = replace(operator, mask=torch.ones_like(operator.mask))
    image = reconstructor(Measurement.of(samples, everything)).image
    assert torch.allclose(image, everything.adjoint(samples), atol=1e-4)


@torch.no_grad()
def test_silence_gives_a_black_image(reconstructor: Reconstructor, geometry: str) -> None:
    samples, operator = measured(reconstructor, geometry)
    result = reconstructor(Measurement.of(torch.zeros_like(samples), operator))
    assert torch.equal(result.image, torch.zeros_like(result.image))
    if result.uncertainty is not None:
        assert torch.equal(result.uncertainty, torch.zeros_like(result.uncertainty))


@pytest.mark.parametrize("factor", [1e-12, 1e9])
@torch.no_grad()
def test_the_image_scales_with_the_signal(
    reconstructor: Reconstructor, geometry: str, factor: float
) -> None:
    samples, operator = measured(reconstructor, geometry)
    result = reconstructor(Measurement.of(samples, operator))
    scaled = reconstructor(Measurement.of(factor * samples, operator))
    assert torch.allclose(scaled.image / factor, result.image, rtol=1e-3, atol=1e-4)
    if result.uncertainty is not None and scaled.uncertainty is not None:
        assert torch.allclose(scaled.uncertainty / factor, result.uncertainty, rtol=1e-2, atol=1e-4)


DIFFERENTIABLE = [kind for kind in KINDS if built(kind).is_differentiable]


@pytest.mark.parametrize("kind", DIFFERENTIABLE)
@pytest.mark.parametrize("n_coils", [1, 2])
def test_the_gradient_with_respect_to_the_mask_of_a_silent_scan_is_finite(
    kind: str, n_coils: int
) -> None:
    samples, operator = measured(built(kind), "columns", n_coils=n_coils)
    mask = operator.mask.float().requires_grad_()
    measurement = Measurement.of(torch.zeros_like(samples), replace(operator, mask=mask))
    built(kind)(measurement).image.abs().sum().backward(inputs=[mask])
    assert mask.grad is not None and bool(mask.grad.isfinite().all())


@pytest.mark.parametrize("kind", DIFFERENTIABLE)
@pytest.mark.parametrize(
    ("geometry", "n_coils", "soft"),
    [("columns", 1, 0.0), ("columns", 2, 0.3), ("points", 2, 0.0), ("points", 1, 0.3)],
)
def test_the_gradient_with_respect_to_a_soft_mask_is_the_slope_of_what_is_computed(
    kind: str, geometry: str, n_coils: int, soft: float
) -> None:
    reconstructor = deepcopy(built(kind)).double()
    samples, operator = measured(reconstructor, geometry, (7, 10), batch=1, n_coils=n_coils)
    samples, maps = samples.to(torch.complex128), operator.sensitivity
    maps = None if maps is None else maps.to(torch.complex128)
    generator = torch.Generator().manual_seed(1)
    wanted = torch.randn(7, 10, dtype=torch.complex128, generator=generator)
    mask = operator.mask.double()  # 0 and 1, or between
    mask += soft * (torch.rand(mask.shape, generator=generator).double() - mask)

    def loss(mask: Tensor) -> Tensor:
        measurement = Measurement.of(samples, Operator(operator.transform, mask, maps))
        error = reconstructor(measurement).image - wanted
        return error.abs().square().sum()

    variable = mask.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(variable), variable)
    step = 1e-6
    readouts = range(0, mask.shape[1], 1 if geometry == "columns" else 7)
    slopes = []
    with torch.no_grad():
        for readout in readouts:
            shift = torch.zeros_like(mask)
            shift[:, readout] = step
            slopes.append((loss(mask + shift) - loss(mask - shift)) / (2 * step))
    found, slope = gradient[0, list(readouts)], torch.stack(slopes)
    assert torch.cosine_similarity(found, slope, dim=0) > 0.99
    assert 0.9 < found.norm() / slope.norm() < 1.1


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not is_served(kind, "radial")])
def test_methods_of_grids_are_refused_where_there_is_none(kind: str) -> None:
    with pytest.raises(ValueError, match="needs samples on a Cartesian grid"):
        require_served(built(kind), make_geometry("radial", (9, 14)))


@pytest.mark.parametrize("kind", KINDS)
def test_the_settings_rebuild_the_reconstructor(kind: str) -> None:
    reconstructor = built(kind)
    again = type(reconstructor)(**reconstructor.settings)
    shapes = {name: t.shape for name, t in reconstructor.state_dict().items()}
    assert {name: t.shape for name, t in again.state_dict().items()} == shapes
    assert describe(again) == describe(reconstructor)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_checkpoint_gives_the_same_images_again(kind: str, tmp_path: Path) -> None:
    reconstructor = built(kind)
    saved = save_reconstructor(tmp_path / "net", reconstructor, info={"data": "phantom"})
    again = make_reconstructor(saved)
    assert describe(again) == describe(reconstructor)
    measurement = Measurement.of(*measured(reconstructor, "columns"))
    result, expected = again(measurement), reconstructor(measurement)
    assert torch.equal(result.image, expected.image)
    if result.uncertainty is not None and expected.uncertainty is not None:
        assert torch.equal(result.uncertainty, expected.uncertainty)


def test_every_wrapper_is_tested_and_none_shares_a_name_with_a_method() -> None:
    assert set(WRAPPED) == set(WRAPPERS)
    assert not set(WRAPPERS) & set(RECONSTRUCTORS)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_image_stays_on_the_device_of_the_measurement(kind: str) -> None:
    reconstructor = deepcopy(built(kind))
    samples, operator = measured(reconstructor, "columns")
    expected = reconstructor(Measurement.of(samples, operator)).image
    on_gpu = replace(operator, transform=operator.transform.to("cuda"), mask=operator.mask.cuda())
    image = reconstructor.cuda()(Measurement.of(samples.cuda(), on_gpu)).image
    assert image.is_cuda
    assert torch.allclose(image.cpu(), expected, atol=1e-3)
