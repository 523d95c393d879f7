"""The reconstruction of adaptive VarNet: a choice of where measured samples are put back."""

from typing import Literal

from torch import Tensor, nn

from activemri.reconstruction.varnet import VarNet

ORDERS = ("first", "simul", "last")


class AdaptiveVarNet(VarNet):
    """The cascades of adaptive VarNet, for whatever has been acquired.

    Bakker et al., On learning adaptive acquisition policies for undersampled multi-coil MRI
    reconstruction, MIDL 2022, with ``fastmri.models.AdaptiveVarNetBlock``. There, policies between
    the cascades acquire lines; here any policy of an environment does, so that both can be
    compared with others: train the network with `activemri train reconstructor`, the policy with
    `activemri train policy --algo straight-through`, both in turns with `activemri train
    alternating`. In all else it is our :class:`activemri.reconstruction.varnet.VarNet`.

    Args:
        channels: width of the first level of a U-Net; doubled at each further one.
        pools: levels below the first.
        cascades: steps, each with a U-Net of its own.
        hard_dc: put the measured samples back as they are, instead of a learned share of them.
        dc_mode: do it "first", before a cascade's U-Net; "last", after it; or "simul", at once,
            as VarNet does.

    Raises:
        ValueError: for sizes below 1 or another mode.
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
        if dc_mode not in ORDERS:
            raise ValueError(f"dc_mode: expected {', '.join(ORDERS)}; got {dc_mode!r}")
        self._hard_dc, self._dc_mode = bool(hard_dc), dc_mode
        super().__init__(channels, pools=pools, cascades=cascades)
        self.settings |= {"hard_dc": self._hard_dc, "dc_mode": dc_mode}

    def _block(self, refined: nn.Module) -> nn.Module:
        return _Block(refined, hard_dc=self._hard_dc, dc_mode=self._dc_mode)


class _Block(nn.Module):
    """One cascade, with the arguments of `fastmri.models.VarNetBlock`."""

    def __init__(self, refined: nn.Module, *, hard_dc: bool, dc_mode: str) -> None:
        super().__init__()
        from fastmri.models.adaptive_varnet import AdaptiveVarNetBlock

        # Without `sparse_dc_gradients`, which calls an old form of torch.where; forward it is
        # the same.
        self.block: nn.Module = AdaptiveVarNetBlock(
            refined, hard_dc=hard_dc, dc_mode=dc_mode, sparse_dc_gradients=False
        )

    def forward(self, kspace: Tensor, measured: Tensor, mask: Tensor, maps: Tensor) -> Tensor:
        result: Tensor = self.block(kspace, measured, mask, maps, kspace=measured)
        return result


#: Sizes of the paper.
PAPER = {"channels": 18, "pools": 4, "cascades": 5, "hard_dc": False, "dc_mode": "simul"}
