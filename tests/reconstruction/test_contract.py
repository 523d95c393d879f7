"""What every registered reconstructor promises."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from activemri.mri import fourier
from activemri.mri.operators import Operator
from activemri.reconstruction.reconstructor import Measurement, Reconstructor
from activemri.reconstruction.registry import (
    RECONSTRUCTORS,
    WRAPPERS,
    describe,
    make_reconstructor,
    rebuild,
    save_reconstructor,
)

SIZES = [(8, 10), (17, 13), (20, 33)]

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


@pytest.fixture(params=[*RECONSTRUCTORS, *WRAPPERS])
def reconstructor(request: pytest.FixtureRequest) -> Reconstructor:
    """With random weights, so that no promise hangs on training."""
    kind = request.param
    made = rebuild({"kind": kind, "settings": WRAPPED.get(kind, {})}).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in made.parameters():
            # of about unit gain, so that deep stacks neither explode nor fall silent
            size = weight[0].numel() ** -0.5 if weight.ndim > 1 else 0.3
            weight.copy_(size * torch.randn(weight.shape, generator=generator))
    return made


def measured(
    size: tuple[int, int], *, batch: int = 2, n_coils: int = 1, seed: int = 0
) -> tuple[Tensor, Operator]:
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
    return kspace, Operator(mask, sensitivity)


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
def test_samples_are_whole_images_with_the_measured_data_in_them(
    reconstructor: Reconstructor, n_coils: int
) -> None:
    kspace, operator = measured((11, 16), n_coils=n_coils)
    samples = reconstructor(Measurement.of(kspace, operator)).samples
    if samples is None:
        pytest.skip(f"{type(reconstructor).__name__} draws no samples")
    assert samples.shape[0] == 2 and samples.shape[1] > 1 and samples.shape[2:] == (11, 16)
    assert not torch.equal(samples[:, 0], samples[:, 1])
    if getattr(reconstructor, "keeps_data", False) and n_coils == 1:
        difference = (fourier.fft2(samples) - kspace) * operator.mask.unsqueeze(1)
        assert difference.abs().max() < 1e-4


@pytest.mark.parametrize("n_coils", [1, 3])
@torch.no_grad()
def test_nothing_that_was_not_acquired_is_seen(reconstructor: Reconstructor, n_coils: int) -> None:
    kspace, operator = measured((9, 14), n_coils=n_coils)
    other = torch.where(operator.mask.unsqueeze(1), kspace, 100 * kspace.flip(0) + 3)
    assert not torch.equal(kspace, other)
    result = reconstructor(Measurement.of(kspace, operator))
    again = reconstructor(Measurement.of(other, operator))
    for name in ("image", "uncertainty", "samples"):
        one, two = getattr(result, name), getattr(again, name)
        assert (one is None and two is None) or torch.equal(one, two), name


@pytest.mark.parametrize("n_coils", [1, 3])
@torch.no_grad()
def test_a_scan_is_reconstructed_alike_alone_and_in_any_batch(
    reconstructor: Reconstructor, n_coils: int
) -> None:
    kspace, operator = measured((12, 19), batch=7, n_coils=n_coils)
    together = reconstructor(Measurement.of(kspace, operator))
    for i in range(7):
        maps = None if operator.sensitivity is None else operator.sensitivity[i : i + 1]
        alone = Operator(operator.mask[i : i + 1], maps)
        result = reconstructor(Measurement.of(kspace[i : i + 1], alone))
        for name in ("image", "uncertainty", "samples"):
            one, all_ = getattr(result, name), getattr(together, name)
            # in units of the largest value: sums of many steps round in units of what they hold
            assert (one is None and all_ is None) or torch.allclose(
                one, all_[i : i + 1], rtol=1e-5, atol=1e-5 * float(all_.abs().max())
            ), name


@torch.no_grad()
def test_the_same_measurement_gives_the_same_image(reconstructor: Reconstructor) -> None:
    measurement = Measurement.of(*measured((8, 10)))
    state = torch.get_rng_state()
    first, second = reconstructor(measurement), reconstructor(measurement)
    assert torch.equal(first.image, second.image)
    if first.uncertainty is not None and second.uncertainty is not None:
        assert torch.equal(first.uncertainty, second.uncertainty)
    assert torch.equal(torch.get_rng_state(), state), "the global random state was touched"


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
    everything = Operator(torch.ones_like(operator.mask), operator.sensitivity)
    image = reconstructor(Measurement.of(kspace, everything)).image
    assert torch.allclose(image, everything.adjoint(kspace), atol=1e-4)


@torch.no_grad()
def test_silence_gives_a_black_image(reconstructor: Reconstructor) -> None:
    kspace, operator = measured((8, 10))
    result = reconstructor(Measurement.of(torch.zeros_like(kspace), operator))
    assert torch.equal(result.image, torch.zeros_like(result.image))
    if result.uncertainty is not None:
        assert torch.equal(result.uncertainty, torch.zeros_like(result.uncertainty))


@pytest.mark.parametrize("factor", [1e-12, 1e9])
@torch.no_grad()
def test_the_image_scales_with_the_signal(reconstructor: Reconstructor, factor: float) -> None:
    kspace, operator = measured((8, 10))
    result = reconstructor(Measurement.of(kspace, operator))
    scaled = reconstructor(Measurement.of(factor * kspace, operator))
    assert torch.allclose(scaled.image / factor, result.image, rtol=1e-3, atol=1e-4)
    if result.uncertainty is not None and scaled.uncertainty is not None:
        assert torch.allclose(scaled.uncertainty / factor, result.uncertainty, rtol=1e-2, atol=1e-4)


def test_the_settings_rebuild_the_reconstructor(reconstructor: Reconstructor) -> None:
    again = type(reconstructor)(**reconstructor.settings)
    shapes = {name: t.shape for name, t in reconstructor.state_dict().items()}
    assert {name: t.shape for name, t in again.state_dict().items()} == shapes
    assert describe(again) == describe(reconstructor)


@torch.no_grad()
def test_a_checkpoint_gives_the_same_images_again(
    reconstructor: Reconstructor, tmp_path: Path
) -> None:
    saved = save_reconstructor(tmp_path / "net", reconstructor, info={"data": "phantom"})
    again = make_reconstructor(saved)
    assert describe(again) == describe(reconstructor)
    measurement = Measurement.of(*measured((12, 18)))
    result, expected = again(measurement), reconstructor(measurement)
    assert torch.equal(result.image, expected.image)
    if result.uncertainty is not None and expected.uncertainty is not None:
        assert torch.equal(result.uncertainty, expected.uncertainty)


def test_every_wrapper_is_tested_and_none_shares_a_name_with_a_method() -> None:
    assert set(WRAPPED) == set(WRAPPERS)
    assert not set(WRAPPERS) & set(RECONSTRUCTORS)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@torch.no_grad()
def test_the_image_stays_on_the_device_of_the_measurement(reconstructor: Reconstructor) -> None:
    kspace, operator = measured((8, 10))
    expected = reconstructor(Measurement.of(kspace, operator)).image
    on_gpu = Operator(operator.mask.cuda())
    image = reconstructor.cuda()(Measurement.of(kspace.cuda(), on_gpu)).image
    assert image.is_cuda
    assert torch.allclose(image.cpu(), expected, atol=1e-3)
