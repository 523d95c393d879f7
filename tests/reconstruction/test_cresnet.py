import pytest
import torch
from torch import Tensor

from activemri.mri import fourier
from activemri.reconstruction import cresnet
from activemri.reconstruction.cresnet import LOG_VARIANCE, CResNet, MaskEmbedding
from activemri.reconstruction.reconstructor import Measurement
from tests.reconstruction.scans import on_grid


def small(**changes: object) -> CResNet:
    settings: dict[str, object] = {"channels": 4, "blocks": 2, "residual_blocks": 1, **changes}
    network = CResNet(**settings).eval()  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
    return network


def measurement(batch: int = 2, height: int = 12, width: int = 18) -> Measurement:
    generator = torch.Generator().manual_seed(1)
    kspace = torch.randn(batch, 1, height, width, dtype=torch.complex64, generator=generator)
    mask = torch.rand(batch, 1, width, generator=generator) < 0.5
    return on_grid(kspace, mask)


def uncertainty(network: CResNet, scans: Measurement) -> Tensor:
    result = network(scans).uncertainty
    assert result is not None
    return result


@torch.no_grad()
def test_an_untrained_network_gives_the_zero_filled_image_and_one_uncertainty() -> None:
    scans = measurement()
    result = CResNet(4, blocks=2).eval()(scans)
    assert torch.allclose(result.image, scans.zero_filled, atol=1e-5)
    assert result.uncertainty is not None
    rms = scans.zero_filled.abs().square().mean(dim=(-2, -1)).sqrt()
    assert torch.allclose(result.uncertainty / rms[:, None, None], torch.tensor(-3.0).exp())


@pytest.mark.parametrize("changes", [{}, {"skips": False}, {"mask_features": 0}, {"blocks": 1}])
@torch.no_grad()
def test_image_and_uncertainty_scale_with_the_signal_and_follow_its_phase(
    changes: dict[str, object],
) -> None:
    network, scans = small(**changes), measurement()
    factor = 50 * torch.exp(torch.tensor(2j))
    turned = network(Measurement.of_grid(scans.kspace * factor, scans.operator))
    result = network(scans)
    assert not torch.allclose(result.image, scans.zero_filled, atol=1e-2)
    assert torch.allclose(turned.image, result.image * factor, rtol=1e-3, atol=1e-2)
    assert turned.uncertainty is not None and result.uncertainty is not None
    assert torch.allclose(turned.uncertainty, 50 * result.uncertainty, rtol=1e-3)


@torch.no_grad()
def test_every_block_ends_with_the_measured_samples() -> None:
    network, scans = small(), measurement()
    for n_blocks in (1, 2):
        network.blocks = network.blocks[:n_blocks]
        kspace = fourier.fft2(network(scans).image)
        difference = (kspace - scans.kspace[:, 0]) * scans.operator.grid_mask
        assert difference.abs().max() < 1e-4


@torch.no_grad()
def test_without_data_consistency_measured_samples_are_changed() -> None:
    network, scans = small(data_consistency=False), measurement()
    difference = (
        fourier.fft2(network(scans).image) - scans.kspace[:, 0]
    ) * scans.operator.grid_mask
    assert difference.abs().max() > 1e-2


@torch.no_grad()
def test_uncertainty_stays_within_its_bounds() -> None:
    network, scans = small(), measurement()
    rms = scans.zero_filled.abs().square().mean(dim=(-2, -1)).sqrt()[:, None, None]
    for bias, bound in ((-100.0, LOG_VARIANCE[0]), (100.0, LOG_VARIANCE[1])):
        last = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)][-1]
        assert last.bias is not None
        last.bias.data[2] = bias
        expected = torch.tensor(bound / 2).exp() * rms.expand(-1, 12, 18)
        assert torch.allclose(uncertainty(network, scans), expected, rtol=1e-4)


@torch.no_grad()
def test_the_mask_tells_scans_with_equal_images_apart() -> None:
    """A line that is empty was either measured as zero or not measured: the image is the same."""
    kspace = measurement(1).kspace.clone()
    without = kspace.abs().sum(dim=(0, 1, 2)) > 0
    with_empty = without.clone()
    with_empty[(~without).nonzero()[0]] = True
    images = [small()(on_grid(kspace, mask[None, None])).image for mask in (without, with_empty)]
    assert not torch.allclose(images[0], images[1], atol=1e-4)


@torch.no_grad()
def test_training_in_whole_batches_computes_what_evaluation_does_one_by_one() -> None:
    network, scans = small(), measurement(5)
    one_by_one = network(scans)
    together = network.train()(scans)
    assert torch.allclose(together.image, one_by_one.image, atol=1e-4)
    assert one_by_one.uncertainty is not None and together.uncertainty is not None
    assert torch.allclose(together.uncertainty, one_by_one.uncertainty, rtol=1e-3)


@torch.no_grad()
def test_an_embedding_is_alike_for_like_masks_of_any_width() -> None:
    embedding = MaskEmbedding(3)
    place = torch.linspace(-1, 1, 128)
    embedding.weight.copy_(torch.stack([torch.ones(128), place + 2, torch.cos(2 * place)]) / 10)
    centre = [(torch.arange(n) - n / 2).abs()[None, None] < n / 8 for n in (64, 128, 256)]
    small_, middle, large = (embedding(mask).flatten() for mask in centre)
    # One line more or less at the edge of the centre is what widths differ by.
    assert torch.allclose(small_, middle, rtol=0.05)
    assert torch.allclose(large, middle, rtol=0.05)
    assert not torch.allclose(embedding(~centre[1]).flatten(), middle, rtol=0.5)
    assert embedding(centre[0].transpose(1, 2)).shape == (1, 3, 1, 1)


def test_the_papers_settings_make_a_network() -> None:
    with torch.device("meta"):
        network = CResNet(128, blocks=4, residual_blocks=5, dropout=0.2, skips=False)
    assert sum(p.numel() for p in network.parameters()) > 2e7


@pytest.mark.parametrize(
    "wrong", [{"channels": 3}, {"channels": 0}, {"blocks": 0}, {"mask_features": -1}]
)
def test_impossible_sizes_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected an even number of channels"):
        CResNet(**wrong)  # type: ignore[arg-type]


def test_an_impossible_dropout_is_refused() -> None:
    with pytest.raises(ValueError, match="below 1; got 1"):
        CResNet(dropout=1.0)


@torch.no_grad()
@pytest.mark.parametrize("skips", [False, True])
def test_what_a_mask_adds_to_every_pixel_alike_is_left_out_and_nobody_sees_the_difference(
    skips: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, scans = small(skips=skips), measurement(2, 16, 24)
    short = network(scans)
    monkeypatch.setattr(cresnet, "padding", lambda *_: 1)
    full = network(scans)
    assert torch.allclose(short.image, full.image, atol=1e-5 * float(full.image.abs().max()))
    assert short.uncertainty is not None and full.uncertainty is not None
    assert torch.allclose(short.uncertainty, full.uncertainty, rtol=1e-4)
