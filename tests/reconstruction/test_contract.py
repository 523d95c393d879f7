"""What every registered reconstructor promises."""

import pytest
import torch
from torch import Tensor

from activemri.mri import fourier
from activemri.mri.operators import CartesianOperator
from activemri.reconstruction.reconstructor import Measurement, Reconstructor
from activemri.reconstruction.registry import RECONSTRUCTORS

SIZES = [(8, 10), (17, 13), (20, 33)]


@pytest.fixture(params=RECONSTRUCTORS)
def reconstructor(request: pytest.FixtureRequest) -> Reconstructor:
    """With random weights, so that no promise hangs on training."""
    made = RECONSTRUCTORS[request.param]().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in made.parameters():
            weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
    return made


def measured(
    size: tuple[int, int], *, batch: int = 2, n_coils: int = 1, seed: int = 0
) -> tuple[Tensor, CartesianOperator]:
    """Fully sampled k-space, and an operator that takes some columns, others for each scan."""
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    kspace = torch.randn(batch, n_coils, height, width, dtype=torch.complex64, generator=generator)
    mask = torch.rand(batch, 1, width, generator=generator) < 0.4
    mask[..., width // 2] = True
    mask[..., 0] = False
    sensitivity = None
    if n_coils > 1:
        maps = torch.randn(kspace.shape, dtype=torch.complex64, generator=generator)
        sensitivity = maps / maps.abs().square().sum(dim=1, keepdim=True).sqrt()
    return kspace, CartesianOperator(mask, sensitivity)


@pytest.mark.parametrize("n_coils", [1, 3])
@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_images_are_complex_finite_and_as_large_as_kspace(
    reconstructor: Reconstructor, size: tuple[int, int], n_coils: int
) -> None:
    result = reconstructor(Measurement.of(*measured(size, n_coils=n_coils)))
    assert result.image.shape == (2, *size)
    assert result.image.dtype == torch.complex64
    assert torch.isfinite(torch.view_as_real(result.image)).all()
    if result.uncertainty is not None:
        assert result.uncertainty.shape == (2, *size)
        assert (result.uncertainty >= 0).all()


@pytest.mark.parametrize("n_coils", [1, 3])
@torch.no_grad()
def test_nothing_that_was_not_acquired_is_seen(reconstructor: Reconstructor, n_coils: int) -> None:
    kspace, operator = measured((9, 14), n_coils=n_coils)
    other = torch.where(operator.mask.unsqueeze(1), kspace, 100 * kspace.flip(0) + 3)
    assert not torch.equal(kspace, other)
    image = reconstructor(Measurement.of(kspace, operator)).image
    assert torch.equal(reconstructor(Measurement.of(other, operator)).image, image)


@pytest.mark.parametrize("n_coils", [1, 3])
@torch.no_grad()
def test_a_scan_is_reconstructed_alike_alone_and_in_any_batch(
    reconstructor: Reconstructor, n_coils: int
) -> None:
    kspace, operator = measured((12, 19), batch=7, n_coils=n_coils)
    together = reconstructor(Measurement.of(kspace, operator)).image
    for i in range(7):
        maps = None if operator.sensitivity is None else operator.sensitivity[i : i + 1]
        alone = CartesianOperator(operator.mask[i : i + 1], maps)
        image = reconstructor(Measurement.of(kspace[i : i + 1], alone)).image
        assert torch.allclose(image, together[i : i + 1], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_same_measurement_gives_the_same_image(reconstructor: Reconstructor) -> None:
    measurement = Measurement.of(*measured((8, 10)))
    first, second = reconstructor(measurement).image, reconstructor(measurement).image
    assert torch.equal(first, second)


@torch.no_grad()
def test_measured_samples_are_kept_where_promised(reconstructor: Reconstructor) -> None:
    if not getattr(reconstructor, "keeps_data", False):
        pytest.skip(f"{type(reconstructor).__name__} does not promise data consistency")
    kspace, operator = measured((11, 16))
    image = reconstructor(Measurement.of(kspace, operator)).image
    difference = (fourier.fft2(image).unsqueeze(1) - kspace) * operator.mask.unsqueeze(1)
    assert difference.abs().max() < 1e-4


@torch.no_grad()
def test_a_completely_measured_scan_comes_back_where_data_is_kept(
    reconstructor: Reconstructor,
) -> None:
    if not getattr(reconstructor, "keeps_data", False):
        pytest.skip(f"{type(reconstructor).__name__} does not promise data consistency")
    kspace, operator = measured((9, 14), n_coils=3)
    everything = CartesianOperator(torch.ones_like(operator.mask), operator.sensitivity)
    image = reconstructor(Measurement.of(kspace, everything)).image
    assert torch.allclose(image, everything.adjoint(kspace), atol=1e-4)


@torch.no_grad()
def test_silence_gives_a_black_image(reconstructor: Reconstructor) -> None:
    kspace, operator = measured((8, 10))
    image = reconstructor(Measurement.of(torch.zeros_like(kspace), operator)).image
    assert torch.equal(image, torch.zeros_like(image))


@pytest.mark.parametrize("factor", [1e-12, 1e9])
@torch.no_grad()
def test_the_image_scales_with_the_signal(reconstructor: Reconstructor, factor: float) -> None:
    kspace, operator = measured((8, 10))
    image = reconstructor(Measurement.of(kspace, operator)).image
    scaled = reconstructor(Measurement.of(factor * kspace, operator)).image
    assert torch.allclose(scaled / factor, image, rtol=1e-3, atol=1e-4)


def test_the_settings_rebuild_the_reconstructor(reconstructor: Reconstructor) -> None:
    again = type(reconstructor)(**reconstructor.settings)
    shapes = {name: t.shape for name, t in reconstructor.state_dict().items()}
    assert {name: t.shape for name, t in again.state_dict().items()} == shapes
    assert again.settings == reconstructor.settings


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@torch.no_grad()
def test_the_image_stays_on_the_device_of_the_measurement(reconstructor: Reconstructor) -> None:
    kspace, operator = measured((8, 10))
    expected = reconstructor(Measurement.of(kspace, operator)).image
    on_gpu = CartesianOperator(operator.mask.cuda())
    image = reconstructor.cuda()(Measurement.of(kspace.cuda(), on_gpu)).image
    assert image.is_cuda
    assert torch.allclose(image.cpu(), expected, atol=1e-3)
