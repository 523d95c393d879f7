"""A plausible phase and noise for images of which only the magnitude was kept.

The k-space of a real image is conjugate-symmetric: each line is the mirror of another and half of
all lines come for free. Scans have phase (field inhomogeneity, coils, flow) and noise, which break
the symmetry. Results on bare magnitudes would flatter every method.
"""

import hashlib

import numpy as np
import torch
from torch import Tensor

from activemri.mri import noise


def with_synthetic_phase(magnitude: Tensor, *, sigma: float, name: str, index: int) -> Tensor:
    """Give a magnitude image a smooth phase and complex noise.

    Args:
        magnitude: float32, (height, width).
        sigma: standard deviation of the noise, of real and imaginary part together.
        name: name of the volume; with `index` the seed, the same on every machine.
        index: position of the slice in the volume.

    Returns:
        complex64, (height, width).
    """
    height, width = magnitude.shape
    generator = np.random.default_rng([stable_hash(name), index])
    phase = noise.smooth_phase(height, width, generator=generator)
    image = torch.polar(magnitude, phase)
    return image + noise.complex_noise((height, width), sigma=sigma, generator=generator)


def stable_hash(text: str) -> int:
    """64 bits of a text that do not change from process to process as ``hash`` does."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
