"""A U-Net that fills in what was not acquired, inside hard data consistency."""

from typing import Any

from torch import Tensor, nn

from activemri.reconstruction.image_channels import (
    InstanceNorm,
    checked_sizes,
    from_channels,
    normalised,
    pad_to_multiple,
    scale_and_phase,
    to_channels,
    zeroed,
)
from activemri.reconstruction.reconstructor import Measurement, Reconstruction, Reconstructor


class UNet(Reconstructor):
    """x = z + s N(z / s) with z = A^H y, then the measured samples are put back.

    N is ``fastmri.models.Unet`` (Zbontar et al., fastMRI, arXiv:1811.08839) with real and
    imaginary part as two channels in and out. Ours differs from the published baseline: complex
    instead of magnitude images, a residual instead of the image itself, data consistency at the
    end, and no clamping. The complex scale s is the root mean square of the zero-filled image z
    times its mean phase, so that the method follows the signal's scale and global phase exactly.

    Args:
        channels: width of the first level; doubled at each further one.
        pools: levels below the first. Images are padded to a multiple of ``2 ** pools``.
    """

    is_differentiable = True

    def __init__(self, channels: int = 8, *, pools: int = 4) -> None:
        super().__init__()
        self.settings = checked_sizes(channels=channels, pools=pools)
        self.pools, self.network = pools, make_unet(channels, pools)

    def solve(self, measurement: Measurement) -> Reconstruction:
        zero_filled = measurement.zero_filled
        scale, phase = scale_and_phase(zero_filled)
        refined = refine(self.network, normalised(zero_filled, scale, phase), self.pools)
        image = zero_filled + scale * phase * refined
        return Reconstruction(measurement.operator.data_consistency(image, zero_filled))


def make_unet(channels: int, pools: int) -> nn.Module:
    """``fastmri.models.Unet`` of two channels, whose last layer starts at zero."""
    from fastmri.models.unet import Unet  # here, because it takes a second to import

    network: Any = Unet(2, 2, channels, pools)
    zeroed(network.up_conv[-1][-1])
    for layers in [module for module in network.modules() if isinstance(module, nn.Sequential)]:
        for place, layer in enumerate(layers):
            if isinstance(layer, nn.InstanceNorm2d):
                slope: Any = layers[place + 1].negative_slope
                layers[place] = InstanceNorm(layer.num_features, slope)
                layers[place + 1] = nn.Identity()  # numbers of layers are names of their weights
    return network  # type: ignore[no-any-return]


def refine(network: nn.Module, image: Tensor, pools: int) -> Tensor:
    """The answer of a U-Net to complex images of any size, (batch, height, width)."""
    padded, (rows, columns) = pad_to_multiple(to_channels(image), 2**pools)
    return from_channels(network(padded)[..., rows, columns])
