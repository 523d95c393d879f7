"""A U-Net that fills in what was not acquired, inside hard data consistency."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from activemri.reconstruction.reconstructor import Measurement, Reconstruction, Reconstructor

_IMAGE = (-2, -1)  # (height, width)


class UNet(Reconstructor):
    """x = z + s N(z / s) with z = A^H y, then the measured samples are put back.

    N is ``fastmri.models.Unet`` (Zbontar et al., fastMRI, arXiv:1811.08839) with real and
    imaginary part as two channels in and out. Ours differs from the published baseline: complex
    instead of magnitude images, a residual instead of the image itself, data consistency at the
    end, and no clamping. The complex scale s is the root mean square of the zero-filled image z
    times its mean phase, so nothing that was not acquired enters it. It makes the method follow the
    signal's scale and global phase exactly, and lets the network see how far the image is from
    real, that is, how much the line on the other side of k-space tells.

    In evaluation on a CPU the network sees one image at a time. That makes the result of an image
    independent of its batch to the last bit, and at 128 x 128 it is no slower.

    Args:
        channels: width of the first level; doubled at each further one.
        pools: levels below the first. Images are padded to a multiple of ``2 ** pools``.
    """

    #: Measured samples are in the result as they were measured.
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
        scale, phase = _scale_and_phase(zero_filled)
        normalised = zero_filled * phase.conj() / scale.clamp(min=torch.finfo(scale.dtype).tiny)
        refined = zero_filled + scale * phase * self._refine(normalised)
        return Reconstruction(measurement.operator.data_consistency(refined, zero_filled))

    def _refine(self, image: Tensor) -> Tensor:
        channels = torch.view_as_real(image).permute(0, 3, 1, 2)
        one_by_one = not self.training and channels.device.type == "cpu"
        parts = torch.split(channels, 1) if one_by_one else (channels,)
        residual = torch.cat([self._padded(part) for part in parts])
        return torch.view_as_complex(residual.permute(0, 2, 3, 1).contiguous())

    def _padded(self, channels: Tensor) -> Tensor:
        """The network's answer to (batch, 2, height, width) of any size."""
        multiple = 2**self.pools
        padding: list[int] = []
        for size in reversed(channels.shape[-2:]):
            # Two pixels at the lowest level at least: its normalisation needs a variance.
            missing = max(-size % multiple, 2 * multiple - size)
            padding += [missing // 2, missing - missing // 2]
        left, _, top, _ = padding
        height, width = channels.shape[-2:]
        answer: Tensor = self.network(functional.pad(channels, padding))
        return answer[..., top : top + height, left : left + width]


def _scale_and_phase(image: Tensor) -> tuple[Tensor, Tensor]:
    """Root mean square and mean phase (bright pixels count most), (batch, 1, 1) each."""
    magnitude = image.abs()
    scale = magnitude.square().mean(dim=_IMAGE, keepdim=True).sqrt()
    phase = torch.sgn((image * magnitude).sum(dim=_IMAGE, keepdim=True))
    return scale, torch.where(phase == 0, torch.ones_like(phase), phase)
