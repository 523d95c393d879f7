"""Variational networks: gradient descent with a U-Net of its own at every step."""

from typing import Literal

import torch
from torch import Tensor, nn

from activemri.mri import fourier
from activemri.reconstruction.image_channels import checked_sizes, normalised, scale_and_phase
from activemri.reconstruction.reconstructor import Measurement, Reconstruction, Reconstructor
from activemri.reconstruction.unet import make_unet, refine


class VarNet(Reconstructor):
    """k <- k - w_t M (k - y) - F S N_t(S^H F^H k), for all coils.

    Sriram et al., End-to-end variational networks for accelerated MRI reconstruction, MICCAI 2020,
    with ``fastmri.models.Unet`` for N_t. Ours differs: the coil maps are those of the scan instead
    of another network's, so that the evidence is the same for every method; images are normalised
    by their root mean square and mean phase; the result is the complex image S^H F^H k instead of a
    root of a sum of squares. The paper has 18 channels, 4 pools and 12 cascades.

    Args:
        channels, pools: as of :class:`activemri.reconstruction.unet.UNet`.
        cascades: steps, each with a U-Net of its own.
    """

    needs = frozenset({"grid"})
    is_differentiable = True
    hard_dc, dc_mode = False, "simul"  # as of AdaptiveVarNet

    def __init__(self, channels: int = 8, *, pools: int = 3, cascades: int = 4) -> None:
        super().__init__()
        from fastmri.models.adaptive_varnet import AdaptiveVarNetBlock  # takes a second to import

        self.settings = checked_sizes(channels=channels, pools=pools, cascades=cascades)
        # `sparse_dc_gradients` would call an old form of torch.where; forward it is the same.
        self.blocks = nn.ModuleList(
            AdaptiveVarNetBlock(
                Refined(channels, pools),
                hard_dc=self.hard_dc,
                dc_mode=self.dc_mode,
                sparse_dc_gradients=False,
            )
            for _ in range(cascades)
        )

    def solve(self, measurement: Measurement) -> Reconstruction:
        scale, phase = (value.unsqueeze(1) for value in scale_and_phase(measurement.zero_filled))
        maps = measurement.operator.sensitivity
        acquired = measurement.kspace
        maps = torch.ones_like(acquired) if maps is None else maps
        real_maps = torch.view_as_real(maps.resolve_conj())
        measured = torch.view_as_real(normalised(acquired, scale, phase).contiguous())
        mask = measurement.operator.grid_mask[:, None, :, :, None]
        kspace = measured
        for block in self.blocks:
            kspace = block(kspace, measured, mask, real_maps, kspace=measured)
        images = fourier.ifft2(torch.view_as_complex(kspace.contiguous()))
        return Reconstruction(torch.sum(maps.conj() * images * scale * phase, dim=1))


class AdaptiveVarNet(VarNet):
    """The cascades of adaptive VarNet: VarNet with a choice of where measured samples are put back.

    Bakker et al., On learning adaptive acquisition policies for undersampled multi-coil MRI
    reconstruction, MIDL 2022. There, policies between the cascades acquire lines; here any policy
    of an environment does: train the network with `activemri train reconstructor`, the policy with
    `activemri train policy --algo straight-through`, both in turns with `activemri train
    alternating`. The paper has 18 channels, 4 pools and 5 cascades, with soft data consistency.

    Args:
        hard_dc: put the measured samples back as they are, instead of a learned share of them.
        dc_mode: do it "first", before a cascade's U-Net; "last", after it; or "simul", at once,
            as VarNet does.
    """

    def __init__(
        self,
        channels: int = 8,
        *,
        pools: int = 3,
        cascades: int = 4,
        hard_dc: bool = False,
        dc_mode: Literal["first", "simul", "last"] = "last",
    ) -> None:
        self.hard_dc, self.dc_mode = bool(hard_dc), dc_mode
        super().__init__(channels, pools=pools, cascades=cascades)
        self.settings |= {"hard_dc": self.hard_dc, "dc_mode": dc_mode}


class Refined(nn.Module):
    """A U-Net on complex images of any size, (batch, 1, height, width, 2)."""

    def __init__(self, channels: int, pools: int) -> None:
        super().__init__()
        self.pools, self.network = pools, make_unet(channels, pools)

    def forward(self, image: Tensor) -> Tensor:
        image = torch.view_as_complex(image.squeeze(1).contiguous())
        return torch.view_as_real(refine(self.network, image, self.pools)).unsqueeze(1)
