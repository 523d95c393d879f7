"""Uncertainty from one network: leave parts of it out, each time others."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from activemri.reconstruction.ensemble import pooled
from activemri.reconstruction.reconstructor import Measurement, Reconstruction, Reconstructor

_Layer = nn.Dropout | nn.Dropout1d | nn.Dropout2d | nn.Dropout3d


class MonteCarloDropout(Reconstructor):
    """An ensemble of thinned networks (Gal and Ghahramani, ICML 2016).

    Every sample is one network with units dropped as in training; all else of it is in evaluation
    mode. What a sample drops is drawn from the seed alone: it is the same for every scan, whatever
    its batch, on every device, and leaves the global random state untouched. So differences
    between masks of one scan are not blurred by other draws. The samples are combined as the
    members of an ensemble are (:func:`activemri.reconstruction.ensemble.pooled`).

    Args:
        reconstructor: a network with dropout layers.
        n_samples: thinned networks, at least two; time grows with them.
        seed: of what they drop.

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
        if not _dropout_layers(reconstructor):
            raise ValueError(
                f"Monte-Carlo dropout needs a network with dropout; this "
                f"{type(reconstructor).__name__} has no dropout layer that drops anything. Train "
                "one with a dropout above 0, or make an ensemble of several networks"
            )
        self.settings = {"reconstructor": reconstructor, "n_samples": n_samples, "seed": seed}
        self.reconstructor = reconstructor
        self.n_samples = n_samples
        self.seed = seed
        #: Measured samples are in the result as they were measured.
        self.keeps_data, self.needs = reconstructor.keeps_data, reconstructor.needs

    def forward(self, measurement: Measurement) -> Reconstruction:
        parts = []
        for sample in range(self.n_samples):
            with _thinned(self.reconstructor, (self.seed, sample)):
                parts.append(self.reconstructor(measurement))
        return pooled(parts)


@contextmanager
def _thinned(network: nn.Module, seed: tuple[int, ...]) -> Iterator[None]:
    """Within the block the network drops what this seed says."""
    handles = [
        layer.register_forward_hook(_Dropped(layer, (*seed, number)))
        for number, layer in enumerate(_dropout_layers(network))
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Dropped:
    """Takes the place of a dropout layer's answer; scans of a batch lose the same units."""

    def __init__(self, layer: _Layer, seed: tuple[int, ...]) -> None:
        self.p = layer.p
        self.by_channel = not isinstance(layer, nn.Dropout)
        self.seed = int(np.random.SeedSequence(seed).generate_state(1)[0])

    def __call__(self, layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        features: Tensor = inputs[0]
        shape = [1, *features.shape[1:]]
        if self.by_channel:
            shape[2:] = [1] * (features.ndim - 2)
        # On the CPU, because a seed means other numbers on other devices.
        generator = torch.Generator().manual_seed(self.seed)
        kept = torch.empty(shape).bernoulli_(1 - self.p, generator=generator) / (1 - self.p)
        return features * kept.to(features)


def _dropout_layers(network: nn.Module) -> list[_Layer]:
    """Those that drop something but not everything."""
    return [m for m in network.modules() if isinstance(m, _Layer) and 0 < m.p < 1]
