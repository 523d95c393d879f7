"""A U-Net that fills in what was not acquired, inside hard data consistency."""

import torch
from torch import Tensor, nn

from activemri.reconstruction.image_channels import (
    from_channels,
    normalised,
    pad_to_multiple,
    scale_and_phase,
    to_channels,
    works_one_by_one,
)
from activemri.reconstruction.reconstructor import Measurement, Reconstruction, Reconstructor


class UNet(Reconstructor):
    """x = z + s N(z / s) with z = A^H y, then the measured samples are put back.

    N is ``fastmri.models.Unet`` (Zbontar et al., fastMRI, arXiv:1811.08839) with real and
    imaginary part as two channels in and out. Ours differs from the published baseline: complex
    instead of magnitude images, a residual instead of the image itself, data consistency at the
    end, and no clamping. The complex scale s is the root mean square of the zero-filled image z
    times its mean phase, so nothing that was not acquired enters it. It makes the method follow the
    signal's scale and global phase exactly, and lets the network see how far the image is from
    real, that is, how much the line on the other side of k-space tells.

    Args:
        channels: width of the first level; doubled at each further one.
        pools: levels below the first. Images are padded to a multiple of ``2 ** pools``.
    """

    keeps_data = True

    def __init__(self, channels: int = 8, *, pools: int = 4) -> None:
        super().__init__()
        from fastmri.models.unet import Unet  # here, because it takes a second to import

        if channels < 1 or pools < 1:
            raise ValueError(
                f"expected channels and pools of at least 1; got channels={channels}, pools={pools}"
            )
        self.settings = {"channels": channels, "pools": pools}
        self.pools = pools
        network = Unet(2, 2, channels, pools)
        # The last layer, a 1 x 1 convolution, starts at zero: untrained, there is no residual and
        # the result is the zero-filled image. That saves hundreds of training steps.
        for parameter in network.up_conv[-1][-1].parameters():
            nn.init.zeros_(parameter)
        self.network: nn.Module = network

    def forward(self, measurement: Measurement) -> Reconstruction:
        zero_filled = measurement.zero_filled
        scale, phase = scale_and_phase(zero_filled)
        refined = self._refine(normalised(zero_filled, scale, phase))
        image = zero_filled + scale * phase * refined
        return Reconstruction(measurement.operator.data_consistency(image, zero_filled))

    def _refine(self, image: Tensor) -> Tensor:
        channels = to_channels(image)
        parts = (
            torch.split(channels, 1) if works_one_by_one(self.training, channels) else [channels]
        )
        return from_channels(torch.cat([self._padded(part) for part in parts]))

    def _padded(self, channels: Tensor) -> Tensor:
        """The network's answer to (batch, 2, height, width) of any size."""
        padded, (rows, columns) = pad_to_multiple(channels, 2**self.pools)
        answer: Tensor = self.network(padded)
        return answer[..., rows, columns]
