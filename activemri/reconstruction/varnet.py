"""The variational network: gradient descent with a U-Net of its own at every step."""

import torch
from torch import Tensor, nn

from activemri.mri import fourier
from activemri.reconstruction.convolutions import require_sizes
from activemri.reconstruction.image_channels import (
    from_channels,
    normalised,
    pad_to_multiple,
    scale_and_phase,
    to_channels,
)
from activemri.reconstruction.reconstructor import (
    Measurement,
    Reconstruction,
    Reconstructor,
    solved_one_by_one,
)


class VarNet(Reconstructor):
    """k <- k - w_t M (k - y) - F S N_t(S^H F^H k), for all coils.

    Sriram et al., End-to-end variational networks for accelerated MRI reconstruction, MICCAI 2020,
    with ``fastmri.models.VarNetBlock`` and ``fastmri.models.Unet`` for N_t. Ours differs: the coil
    maps are those of the scan instead of another network's, so that the evidence is the same for
    every method; images are normalised by their root mean square and mean phase; the result is the
    complex image S^H F^H k instead of a root of a sum of squares. :data:`PAPER` has its sizes.

    Args:
        channels: width of the first level of a U-Net; doubled at each further one.
        pools: levels below the first.
        cascades: steps, each with a U-Net of its own.
    """

    needs = frozenset({"grid"})

    def __init__(self, channels: int = 8, *, pools: int = 3, cascades: int = 4) -> None:
        super().__init__()
        sizes = {"channels": channels, "pools": pools, "cascades": cascades}
        require_sizes(**sizes)
        self.settings = dict(sizes)
        self.blocks = nn.ModuleList(self._block(Refined(channels, pools)) for _ in range(cascades))

    def _block(self, refined: nn.Module) -> nn.Module:
        from fastmri.models.varnet import VarNetBlock  # here, because it takes a second to import

        block: nn.Module = VarNetBlock(refined)
        return block

    def forward(self, measurement: Measurement) -> Reconstruction:
        if self.training:
            return Reconstruction(self._solve(measurement))
        return Reconstruction(solved_one_by_one(measurement, self._solve))

    def _solve(self, measurement: Measurement) -> Tensor:
        scale, phase = (value.unsqueeze(1) for value in scale_and_phase(measurement.zero_filled))
        maps = measurement.operator.sensitivity
        acquired = measurement.kspace
        maps = torch.ones_like(acquired) if maps is None else maps
        measured = torch.view_as_real(normalised(acquired, scale, phase).contiguous())
        mask = measurement.operator.grid_mask[:, None, :, :, None]
        kspace = measured
        for block in self.blocks:
            kspace = block(kspace, measured, mask, torch.view_as_real(maps.resolve_conj()))
        images = fourier.ifft2(torch.view_as_complex(kspace.contiguous()))
        return torch.sum(maps.conj() * images * scale * phase, dim=1)


class Refined(nn.Module):
    """A U-Net on complex images of any size, (batch, 1, height, width, 2)."""

    def __init__(self, channels: int, pools: int) -> None:
        super().__init__()
        from fastmri.models.unet import Unet

        self.pools = pools
        self.network: nn.Module = Unet(2, 2, channels, pools)
        # The last layer starts at zero: untrained, the result is the zero-filled image.
        for parameter in self.network.up_conv[-1][-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, image: Tensor) -> Tensor:
        channels = to_channels(torch.view_as_complex(image.squeeze(1).contiguous()))
        padded, (rows, columns) = pad_to_multiple(channels, 2**self.pools)
        answer = from_channels(self.network(padded)[..., rows, columns])
        return torch.view_as_real(answer).unsqueeze(1)


#: Sizes of the paper.
PAPER = {"channels": 18, "pools": 4, "cascades": 12}
