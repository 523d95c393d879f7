"""Several reconstructions of one scan: how far they differ says how far to trust them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from activemri.reconstruction.reconstructor import Measurement, Reconstruction, Reconstructor


class Ensemble(Reconstructor):
    """x = mean of the members' images, with what they disagree on as uncertainty.

    Deep ensembles of Lakshminarayanan et al., NeurIPS 2017: members trained from different seeds
    are the components of a mixture; see :func:`pooled`. The mean of images with the measured
    samples in them has the measured samples too.

    Args:
        members: at least two, each a different object. They may be of different kinds.
    """

    def __init__(self, members: Sequence[Reconstructor]) -> None:
        super().__init__()
        if len(members) < 2:
            raise ValueError(f"an ensemble needs at least two members; got {len(members)}")
        if len(set(members)) < len(members):
            raise ValueError("expected different members; one of them is there twice")
        self.settings = {"members": list(members)}
        self.members = nn.ModuleList(members)
        self.keeps_data = all(member.keeps_data for member in members)
        self.needs = frozenset().union(*(member.needs for member in members))

    def forward(self, measurement: Measurement) -> Reconstruction:
        return pooled([member(measurement) for member in self.members])


def pooled(parts: Sequence[Reconstruction]) -> Reconstruction:
    """Equally likely reconstructions of one measurement as one.

    The image is the mean of the complex images. Its uncertainty is the root of the error to be
    expected of its magnitude: the mean square of what the parts' magnitudes differ from it, plus
    the mean of their own variances, where they give one (law of total variance, about the image
    that is shown; where phases disagree that is darker than the mean of the magnitudes). Samples
    of the parts, or else their images, are the samples of the whole.
    """
    images = torch.stack([part.image for part in parts])
    image = images.mean(dim=0)
    variance = (images.abs() - image.abs()).square().mean(dim=0)
    own = [part.uncertainty.square() for part in parts if part.uncertainty is not None]
    if own:
        variance = variance + torch.stack(own).mean(dim=0)
    samples = torch.cat([_samples(part) for part in parts], dim=1)
    return Reconstruction(image, variance.sqrt(), samples)


def _samples(part: Reconstruction) -> Tensor:
    return part.image.unsqueeze(1) if part.samples is None else part.samples
