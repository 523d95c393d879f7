"""KIKI-net: networks in k-space and in the image, in turns."""

import torch
from torch import Tensor, nn

from activemri.mri import fourier
from activemri.reconstruction.image_channels import (
    Convolutions,
    checked_sizes,
    normalised,
    scale_and_phase,
)
from activemri.reconstruction.reconstructor import Measurement, Reconstruction, Reconstructor

_COMPANDING = 0.1  # in units of the root mean square sample: larger ones are drawn together


class KIKINet(Reconstructor):
    """K, I, K, I: each network adds to what it is given, then the measured samples are put back.

    Eo et al., KIKI-net: cross-domain convolutional neural networks for reconstructing undersampled
    magnetic resonance images, MRM 80:2188 (2018). A K network sees k-space (of several coils that
    of their combination), an I network the image. k-space spans orders of magnitude, so K networks
    see k / (|k| + c)^(1/2), which is undone after them. In the paper every network is trained after
    the ones before it; here all are at once, each cut off from those that made its input. The paper
    has 64 channels, 25 layers and 2 turns.

    Args:
        turns: pairs of K and I.
    """

    needs = frozenset({"grid"})
    is_differentiable = True

    def __init__(self, channels: int = 32, *, layers: int = 5, turns: int = 2) -> None:
        super().__init__()
        self.settings = checked_sizes(channels=channels, layers=layers, turns=turns)
        self.networks = nn.ModuleList(Convolutions(channels, layers) for _ in range(2 * turns))

    def solve(self, measurement: Measurement) -> Reconstruction:
        return Reconstruction(self._stages(measurement)[-1])

    def training_loss(self, measurement: Measurement, image: Tensor) -> Tensor:
        """Squared errors of all networks' images, in units of the image's energy: (batch,)."""
        energy = image.abs().square().mean(dim=(-2, -1)).clamp_min(torch.finfo(torch.float32).tiny)
        errors = [
            (stage - image).abs().square().mean(dim=(-2, -1)) / energy
            for stage in self._stages(measurement, apart=True)
        ]
        return torch.stack(errors).sum(dim=0)

    def _stages(self, measurement: Measurement, *, apart: bool = False) -> list[Tensor]:
        """The image after each network, complex (batch, height, width).

        Apart, no gradient goes from one network to those before it.
        """
        scale, phase = scale_and_phase(measurement.zero_filled)
        start = normalised(measurement.zero_filled, scale, phase)
        image, stages = start, []
        for position, network in enumerate(self.networks):
            image = image.detach() if apart else image
            if position % 2 == 0:
                companded = compand(fourier.fft2(image))
                image = fourier.ifft2(expand(companded + network(companded)))
            else:
                image = image + network(image)
            image = measurement.operator.data_consistency(image, start)
            stages.append(scale * phase * image)
        return stages


def compand(kspace: Tensor) -> Tensor:
    """k / (|k| + c)^(1/2): small samples grow in comparison, phases stay."""
    return kspace / torch.sqrt(kspace.abs() + _COMPANDING)


def expand(companded: Tensor) -> Tensor:
    """The inverse of :func:`compand`."""
    size = companded.abs()
    return companded * (size + torch.sqrt(size.square() + 4 * _COMPANDING)) / 2
