"""Scans of one coil as an array of coils would have seen them.

Raw scans of several coils are rare, images are not. What is simulated is the reception alone:
anatomy, contrast and phase stay those of the scan. Noise that it had is seen by all coils alike;
each coil adds its own.
"""

from dataclasses import replace
from functools import lru_cache

import numpy as np
from torch import Tensor

from activemri.data.images import stable_hash
from activemri.data.slices import Slice
from activemri.data.standard import magnitude_reference
from activemri.mri import fourier
from activemri.mri.coils import biot_savart_sensitivity
from activemri.mri.noise import complex_noise

#: Noise of a coil as a share of the largest magnitude of the volume: from low to high.
NOISE = (0.002, 0.02)
#: Distance of the coils from the centre, in units of the smaller side: from tight to loose.
DISTANCE = (0.75, 1.1)


def with_coils(scan: Slice, n_coils: int, *, largest: float) -> Slice:
    """Let a scan of one coil be seen by several, each with noise of its own.

    Distance and places of the coils, and how strong their noise is, are drawn for the volume, the
    noise itself for the slice. All follow from the volume's name, the same on every machine. The
    noise is a share of the `largest` magnitude of the volume. The target combines the noisy coils
    with their true maps; those of the slice are to be estimated, as on a scanner.

    Raises:
        ValueError: if the scan has several coils already, or fewer than 2 are asked for.
    """
    if scan.n_coils != 1 or n_coils < 2:
        raise ValueError(
            f"expected a scan of one coil and at least 2 coils to see it; got {scan.n_coils} "
            f"coils in {scan.volume}[{scan.index}] and {n_coils}"
        )
    seed = stable_hash(f"{scan.volume}, {n_coils} coils")
    maps, share = _array(seed, n_coils, *scan.shape)
    generator = np.random.default_rng([seed, scan.index])
    noise = complex_noise(tuple(maps.shape), sigma=share * largest, generator=generator)
    kspace = (fourier.fft2(maps * fourier.ifft2(scan.kspace)) + noise) * scan.measured
    height, width = scan.target.shape
    return replace(
        scan,
        kspace=kspace,
        target=magnitude_reference(kspace, (height, width), sensitivity=maps),
        sensitivity=None,
        processing=(
            *scan.processing,
            f"seen by {n_coils} simulated coils (loops on a cylinder, law of Biot-Savart), each "
            f"with noise of {share:.2%} of the largest magnitude",
        ),
    )


@lru_cache(maxsize=1)  # the slices of a volume come one after the other
def _array(seed: int, n_coils: int, height: int, width: int) -> tuple[Tensor, float]:
    """Coil maps of a volume, (coil, height, width), and the share of the noise."""
    generator = np.random.default_rng([seed])
    distance = generator.uniform(*DISTANCE)
    share = float(np.exp(generator.uniform(*np.log(NOISE))))
    maps = biot_savart_sensitivity(n_coils, height, width, generator=generator, distance=distance)
    return maps, share
