"""How good an image is as a function of masks that may be differentiated.

A mask's entries are real numbers, 0 or 1 in value. With m the mask, y the k-space and R the frozen
reconstructor, the loss of R(m y, m) is differentiated with respect to m: through the samples that
R gets, through data consistency, (1 - m) F x + m y, and through any other use that R makes of m.
All of our reconstructors but `diffusion`, which draws, let gradients pass.
"""

import torch
from torch import Tensor

from activemri import losses
from activemri.envs.acquisition import Acquisition
from activemri.envs.state import State
from activemri.metrics.losses import Loss, Prediction
from activemri.metrics.reference import center_crop
from activemri.mri.geometry import CartesianGeometry
from activemri.mri.operators import CartesianOperator
from activemri.reconstruction.reconstructor import Measurement, Reconstructor

#: What stands for a metric while learning: a loss, and whether it goes by the volume's range.
_LOSSES: dict[str, tuple[Loss, bool]] = {
    "ssim": (losses.ssim, False),
    "ssim_volume": (losses.ssim, True),
    **dict.fromkeys(["mse", "nmse", "nrmse", "psnr", "psnr_volume"], (losses.mse, False)),
}


class SoftMasks:
    """Scans whose lines may be acquired in part.

    Args:
        acquisition: the scan protocol, of an ideal scanner.
        metric: what the loss stands for.

    Raises:
        ValueError: a metric without a loss that can be differentiated, or scans in which lines may
            be measured again.
    """

    def __init__(self, acquisition: Acquisition, metric: str) -> None:
        if metric not in _LOSSES:
            raise ValueError(
                f"--metric {metric}: gradients through the reconstructor need one of "
                f"{', '.join(_LOSSES)}"
            )
        if acquisition.imperfection is not None:
            raise ValueError(
                "gradients with respect to masks are for scans in which a line is measured once "
                "and well; these have imperfections: choose another --algo"
            )
        self.acquisition = acquisition
        self.loss, self.by_volume = _LOSSES[metric]

    def __call__(self, state: State, lines: Tensor) -> Tensor:
        """Loss of every scan with such a mask, float (batch,): 1 - SSIM, or relative mse.

        Args:
            state: whose scans they are.
            lines: float (batch, n_lines), 0 to 1; see :func:`lines_of`.

        Raises:
            ValueError: the reconstructor lets no gradient pass.
        """
        image = reconstruct(self.acquisition.reconstructor, state, lines, self.acquisition.geometry)
        if lines.requires_grad and not image.requires_grad:
            name = type(self.acquisition.reconstructor).__name__
            raise ValueError(
                f"{name} lets no gradient pass from images to masks; choose another reconstructor"
            )
        reference = state.reference
        unit = reference.data_range.float()[:, None, None]
        magnitude = center_crop(image, state.target_shape).abs() / unit
        data_range = torch.ones_like(reference.data_range)
        if self.by_volume:
            data_range = reference.volume_range / reference.data_range
        return self.loss(Prediction(magnitude, reference.target, data_range.float()))


def reconstruct(
    reconstructor: Reconstructor, state: State, lines: Tensor, geometry: CartesianGeometry
) -> Tensor:
    """Images of scans with a real-valued mask: complex (batch, height, width)."""
    mask = geometry.kspace_mask(lines, state.shape)
    kspace = state.scan * mask.unsqueeze(1)
    # The samples hold the mask once already; the adjoint with the same mask would square it, and
    # its derivative would be 0 where nothing has been acquired.
    everything = CartesianOperator(torch.ones_like(mask), state.sensitivity)
    operator = CartesianOperator(mask, state.sensitivity)
    return reconstructor(Measurement(kspace, operator, everything.adjoint(kspace))).image


def lines_of(taken: Tensor, state: State, geometry: CartesianGeometry, before: Tensor) -> Tensor:
    """Masks after actions: float (batch, n_lines).

    Args:
        taken: share of each action, float (batch, n_actions).
        state: scans before these actions.
        geometry: what each action acquires.
        before: mask before, float (batch, n_lines), for the sake of its gradient.
    """
    spread = (taken[:, :, None] * geometry.first_mention).flatten(1)
    lines = torch.zeros_like(before).index_add(1, geometry.groups.flatten(), spread)
    return torch.where(state.mask, before, lines.clamp(max=1) * state.measurable)
