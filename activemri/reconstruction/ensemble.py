"""Several reconstructions of one scan: how far they differ says how far to trust them."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from activemri.reconstruction.reconstructor import Measurement, Reconstruction, Reconstructor

_Layer = nn.Dropout | nn.Dropout1d | nn.Dropout2d | nn.Dropout3d


class Ensemble(Reconstructor):
    """x = mean of the images of two or more members of any kind; see :func:`pooled`.

    Deep ensembles of Lakshminarayanan et al., NeurIPS 2017: members trained from different seeds
    are the components of a mixture.
    """

    def __init__(self, members: Sequence[Reconstructor]) -> None:
        super().__init__()
        if len(members) < 2:
            raise ValueError(f"an ensemble needs at least two members; got {len(members)}")
        if len(set(members)) < len(members):
            raise ValueError("expected different members; one of them is there twice")
        self.settings = {"members": list(members)}
        self.members = nn.ModuleList(members)
        self.needs = frozenset().union(*(member.needs for member in members))
        self.is_differentiable = all(member.is_differentiable for member in members)

    def forward(self, measurement: Measurement) -> Reconstruction:
        return pooled([member(measurement) for member in self.members])


class MonteCarloDropout(Reconstructor):
    """An ensemble of thinned networks (Gal and Ghahramani, ICML 2016).

    Every one of `n_samples` is the network with units dropped as in training, all else of it in
    evaluation mode. What is dropped is drawn from the seed alone: it is the same for every scan, in
    any batch, on every device, so that other draws do not blur differences between masks.

    Raises:
        ValueError: there are no dropout layers, or they drop nothing.
    """

    def __init__(self, reconstructor: Reconstructor, n_samples: int = 8, *, seed: int = 0) -> None:
        super().__init__()
        if n_samples < 2 or seed < 0:
            raise ValueError(
                "expected at least two samples and a seed of at least 0; "
                f"got n_samples={n_samples}, seed={seed}"
            )
        # those that drop something but not everything
        self.layers = [m for m in reconstructor.modules() if isinstance(m, _Layer) and 0 < m.p < 1]
        if not self.layers:
            raise ValueError(
                f"Monte-Carlo dropout needs a network with dropout; this "
                f"{type(reconstructor).__name__} has no dropout layer that drops anything. Train "
                "one with a dropout above 0, or make an ensemble of several networks"
            )
        self.settings = {"reconstructor": reconstructor, "n_samples": n_samples, "seed": seed}
        self.reconstructor, self.n_samples, self.seed = reconstructor, n_samples, seed
        self.needs = reconstructor.needs
        self.is_differentiable = reconstructor.is_differentiable

    def forward(self, measurement: Measurement) -> Reconstruction:
        parts = []
        for sample in range(self.n_samples):
            with ExitStack() as hooks:
                for number, layer in enumerate(self.layers):
                    drop = _dropping(layer, (self.seed, sample, number))
                    hooks.callback(layer.register_forward_hook(drop).remove)
                parts.append(self.reconstructor(measurement))
        return pooled(parts)


def _dropping(layer: _Layer, seed: tuple[int, ...]) -> Callable[..., Tensor]:
    """Takes the place of a dropout layer's answer; scans of a batch lose the same units."""
    number = int(np.random.SeedSequence(seed).generate_state(1)[0])

    def answer(_: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        features: Tensor = inputs[0]
        shape = [1, *features.shape[1:]]
        if not isinstance(layer, nn.Dropout):  # it drops whole channels
            shape[2:] = [1] * (features.ndim - 2)
        # On the CPU, because a seed means other numbers on other devices.
        generator = torch.Generator().manual_seed(number)
        kept = torch.empty(shape).bernoulli_(1 - layer.p, generator=generator) / (1 - layer.p)
        return features * kept.to(features)

    return answer


def pooled(parts: Sequence[Reconstruction]) -> Reconstruction:
    """Equally likely reconstructions of one measurement as one.

    The image is the mean of the complex images. Its uncertainty is the root of the mean square of
    what the parts' magnitudes differ from it, plus the mean of their own variances, where they give
    one (law of total variance, about the image that is shown). Samples of the parts, or else their
    images, are the samples of the whole.
    """
    images = torch.stack([part.image for part in parts])
    image = images.mean(dim=0)
    variance = (images.abs() - image.abs()).square().mean(dim=0)
    own = [part.uncertainty.square() for part in parts if part.uncertainty is not None]
    if own:
        variance = variance + torch.stack(own).mean(dim=0)
    samples = [part.image[:, None] if part.samples is None else part.samples for part in parts]
    return Reconstruction(image, variance.sqrt(), torch.cat(samples, dim=1))
