import pytest
import torch
from torch import nn

from activemri.reconstruction.cresnet import CResNet
from activemri.reconstruction.ensemble import MonteCarloDropout
from activemri.reconstruction.reconstructor import Measurement, Reconstruction, Reconstructor
from activemri.reconstruction.unet import UNet
from activemri.reconstruction.zero_filled import ZeroFilled
from tests.reconstruction.scans import on_grid


class Dropping(Reconstructor):
    """The zero-filled image as many channels, some dropped, averaged again."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.settings = {"layer": layer}
        self.layer = layer

    def forward(self, measurement: Measurement) -> Reconstruction:
        channels = torch.ones(len(measurement.zero_filled), 400, 6, 8)
        self.seen = self.layer(channels)
        return Reconstruction(measurement.zero_filled * self.seen.mean(dim=1))


def scans(batch: int = 3) -> Measurement:
    generator = torch.Generator().manual_seed(0)
    kspace = torch.randn(batch, 1, 6, 8, dtype=torch.complex64, generator=generator)
    return on_grid(kspace, torch.ones(batch, 1, 8, dtype=torch.bool))


@pytest.mark.parametrize("layer", [nn.Dropout(0.3), nn.Dropout2d(0.3)])
def test_units_are_dropped_as_in_training_and_alike_for_all_scans(layer: nn.Module) -> None:
    network = Dropping(layer).eval()
    MonteCarloDropout(network, 2).eval()(scans())
    seen = network.seen
    kept = seen != 0
    assert torch.allclose(seen[kept], torch.tensor(1 / 0.7))
    assert abs(kept.float().mean() - 0.7) < 0.08
    assert torch.equal(kept[0], kept[1]) and torch.equal(kept[0], kept[2])
    whole_channels = bool((kept[0] == kept[0, :, :1, :1]).all())
    assert whole_channels == isinstance(layer, nn.Dropout2d)


def test_samples_and_layers_drop_different_units() -> None:
    layers = nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.5))
    network = Dropping(layers)
    MonteCarloDropout(network, 2).eval()(scans())
    # Two layers that dropped the same would keep a half and not a quarter.
    assert abs((network.seen != 0).float().mean() - 0.25) < 0.02
    result = MonteCarloDropout(network, 2).eval()(scans())
    assert result.samples is not None
    assert not torch.equal(result.samples[:, 0], result.samples[:, 1])


def test_the_mean_tends_to_the_image_without_dropout() -> None:
    network = Dropping(nn.Dropout2d(0.5))
    measurement = scans()
    result = MonteCarloDropout(network, 200).eval()(measurement)
    assert torch.allclose(result.image, measurement.zero_filled, rtol=0.02)
    # The mean of 400 channels, each 0 or 2 with equal chance, deviates by 1 / sqrt(400).
    assert result.uncertainty is not None
    expected = measurement.zero_filled.abs() / 20
    assert torch.allclose(result.uncertainty, expected, rtol=0.15)


def test_the_network_is_left_as_it_was() -> None:
    network = Dropping(nn.Dropout2d(0.5)).eval()
    before = network(scans()).image
    MonteCarloDropout(network, 2).eval()(scans())
    assert torch.equal(network(scans()).image, before)
    assert not network.layer._forward_hooks


def test_the_seed_decides_what_is_dropped() -> None:
    network = Dropping(nn.Dropout2d(0.5)).eval()
    one, same, other = (MonteCarloDropout(network, 3, seed=s)(scans()).image for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    "network", [ZeroFilled(), UNet(2, pools=1), CResNet(2, blocks=1, dropout=0.0)]
)
def test_a_network_without_dropout_is_refused(network: Reconstructor) -> None:
    with pytest.raises(ValueError, match=r"no dropout layer.*ensemble"):
        MonteCarloDropout(network)


@pytest.mark.parametrize("wrong", [{"n_samples": 1}, {"seed": -1}])
def test_numbers_that_make_no_sense_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least two samples and a seed"):
        MonteCarloDropout(Dropping(nn.Dropout(0.5)), **wrong)
