from typing import Any

import pytest
import torch
from fastmri.models.unet import Unet
from torch import nn

from activemri.reconstruction.image_channels import InstanceNorm, to_channels
from activemri.reconstruction.reconstructor import Measurement
from activemri.reconstruction.unet import UNet, make_unet, refine
from tests.reconstruction.scans import on_grid


def small_unet(seed: int = 0, *, channels: int = 2, pools: int = 2) -> UNet:
    network = UNet(channels, pools=pools).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
    return network


def measurement(batch: int, height: int = 12, width: int = 18) -> Measurement:
    generator = torch.Generator().manual_seed(1)
    kspace = torch.randn(batch, 1, height, width, dtype=torch.complex64, generator=generator)
    mask = torch.rand(batch, 1, width, generator=generator) < 0.5
    return on_grid(kspace, mask)


@torch.no_grad()
def test_an_untrained_network_gives_the_zero_filled_image() -> None:
    scans = measurement(2)
    image = UNet(2, pools=2).eval()(scans).image
    assert torch.allclose(image, scans.zero_filled, atol=1e-5)


@torch.no_grad()
def test_the_network_gives_an_image_the_same_bits_in_every_batch() -> None:
    network = small_unet()
    scans = measurement(5)
    together = network(scans).image
    assert torch.equal(network(scans.of_scan(3)).image[0], together[3])


@torch.no_grad()
def test_a_global_phase_of_the_signal_is_a_global_phase_of_the_image() -> None:
    network, scans = small_unet(), measurement(2)
    turn = torch.exp(torch.tensor(2j))
    turned = network(Measurement.of_grid(scans.kspace * turn, scans.operator)).image
    image = network(scans).image
    assert not torch.allclose(image, scans.zero_filled, atol=1e-2)
    assert torch.allclose(turned, image * turn, atol=1e-4)


@torch.no_grad()
def test_training_in_whole_batches_computes_what_evaluation_does_one_by_one() -> None:
    network = small_unet()
    images = measurement(5)
    one_by_one = network(images).image
    assert torch.allclose(network.train()(images).image, one_by_one, atol=1e-4)


@torch.no_grad()
def test_an_odd_size_is_padded_with_black_on_both_sides_and_cropped_back() -> None:
    network, seen = nn.Identity(), []
    network.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs))
    generator = torch.Generator().manual_seed(2)
    image = torch.randn(1, 13, 18, dtype=torch.complex64, generator=generator)
    framed = torch.zeros(1, 2, 16, 20)
    framed[..., 1:14, 1:19] = to_channels(image)
    assert torch.equal(refine(network, image, 2), image)
    assert torch.equal(seen[0], framed)


def test_every_weight_gets_a_gradient() -> None:
    network = small_unet().train()
    torch.autograd.backward(network(measurement(2)).image.abs().mean())
    for name, weight in network.named_parameters():
        assert weight.grad is not None, name
        assert torch.isfinite(weight.grad).all(), name
        assert weight.grad.abs().max() > 0, name


def test_black_scans_in_a_training_batch_do_not_spoil_the_gradients() -> None:
    network = small_unet().train()
    black = measurement(2)
    image = network(Measurement.of_grid(0 * black.kspace, black.operator)).image
    torch.autograd.backward(image.abs().mean())
    assert all(torch.isfinite(w.grad).all() for w in network.parameters() if w.grad is not None)


@pytest.mark.parametrize(("channels", "pools"), [(0, 2), (2, 0)])
def test_networks_without_channels_or_levels_are_refused(channels: int, pools: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        UNet(channels, pools=pools)


def test_the_network_is_that_of_fastmri_with_a_faster_instance_norm() -> None:
    ours = make_unet(4, 2)
    published = Unet(2, 2, 4, 2)
    last: Any = published.up_conv[-1]
    torch.nn.init.normal_(last[-1].weight)
    ours.load_state_dict(published.state_dict())
    image = torch.randn(3, 2, 24, 20, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(image), published(image), rtol=1e-4, atol=1e-5)
    assert not any(isinstance(layer, torch.nn.InstanceNorm2d) for layer in ours.modules())


@pytest.mark.parametrize("slope", [0.0, 0.2, 1.0])
def test_the_compiled_norm_is_that_of_torch_and_what_is_not_finite_stays_so(slope: float) -> None:
    values = 3 + torch.randn(2, 5, 7, 6, generator=torch.Generator().manual_seed(0))
    values[1, 2, 3, 4] = torch.nan
    last = values.contiguous(memory_format=torch.channels_last)
    norm = InstanceNorm(5, slope)
    expected = norm(values)
    torch.testing.assert_close(norm(last), expected, equal_nan=True, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(last, expected, equal_nan=True, rtol=1e-5, atol=1e-5)  # in place
    learning = values.contiguous(memory_format=torch.channels_last).requires_grad_()
    assert norm(learning).grad_fn is not None
    torch.testing.assert_close(learning, values, equal_nan=True, rtol=0, atol=0)
