"""Slices made from images: of formats that hold what a scanner has reconstructed, not raw data."""

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from activemri.data.formats.stored import refuse_unusable
from activemri.data.phase import with_synthetic_phase
from activemri.data.readers import Volume
from activemri.data.slices import Slice
from activemri.metrics.reference import center_crop
from activemri.mri import fourier

#: Standard deviation of the noise that magnitude-only images get (real and imaginary part
#: together), as a share of the largest magnitude of the volume. Complex images that were published
#: with their noise have about 0.01.
NOISE = 0.01

#: Lines with less than this share of the strongest line's energy are the rounding of a float32
#: Fourier transform (about 1e-14), not samples.
EMPTY = 1e-12

CONTRASTS = {
    "FLAIR": r"\bFLAIR\b",
    "Dixon": r"\bDixon\b",
    "T2*": r"\bT2\*",
    "T1": r"\bT1",
    "T2": r"\bT2",
    "PD": r"\bPD\b|proton[- ]density",
}


def slice_of_image(
    volume: Volume,
    index: int,
    image: Tensor,
    *,
    file: str,
    synthetic_phase: bool,
    noise: float = NOISE,
    processing: tuple[str, ...] = (),
) -> Slice:
    """A slice of one coil, whose k-space is the centred orthonormal transform of an image.

    Magnitude-only images have conjugate-symmetric k-space, which gives half of the lines away.
    They get a smooth phase and complex noise, seeded by the volume's file and the slice's index,
    and recorded in `Slice.processing`. The reference then is the magnitude of the result, noise
    included: it is what a fully sampled scan of that object would give. On brain images this
    leaves a quarter to a third of the energy without a mirror image; raw scans have about a half
    (no symmetry at all), coil-combined complex images 0.01 to 0.2.

    Args:
        volume: with the `largest` magnitude, if it is magnitude-only.
        index: of the slice.
        image: (height, width), complex64 or float32.
        file: name of the file without its suffix, the seed.
        synthetic_phase: give magnitude-only images a phase and noise.
        noise: standard deviation of that noise as a share of the largest magnitude.
        processing: what has been done to the image before.

    Raises:
        UnreadableError: NaN, Inf or nothing but zeros.
    """
    refuse_unusable(image, "the image")
    if volume.magnitude_only:
        image = image.abs()
    if volume.magnitude_only and synthetic_phase:
        assert volume.largest is not None  # describe() sets it for magnitude-only volumes
        image = with_synthetic_phase(image, sigma=noise * volume.largest, name=file, index=index)
        processing += (
            "magnitude only: added a synthetic smooth phase and complex noise of "
            f"{noise:g} of the volume's largest magnitude, seeded by file and slice",
        )
    kspace = fourier.fft2(image if image.is_complex() else image + 0j).unsqueeze(0)
    return volume.slice(
        index,
        kspace=kspace,
        target=center_crop(image.abs(), volume.target_shape).contiguous(),
        processing=processing,
        measured=_measured(kspace),
    )


def largest_magnitude(values: NDArray[Any]) -> float:
    """Largest finite magnitude of an array of numbers."""
    magnitude = np.abs(values)
    return float(magnitude.max(where=np.isfinite(magnitude), initial=0))


def contrast_of(description: str | None) -> str:
    """Short name of the contrast in a description, so that results can be grouped by it."""
    if description is None or "not stated" in description:
        return "unknown"
    for name, pattern in CONTRASTS.items():
        if re.search(pattern, description, flags=re.IGNORECASE):
            return name
    return description.split(",")[0].strip()


def _measured(kspace: Tensor) -> Tensor:
    """Like `measured_samples`, for k-space computed from an image: rounding fills its padding."""
    energy = kspace.abs().square().sum(dim=0)
    columns, rows = energy.sum(dim=0), energy.sum(dim=1)
    return (columns > EMPTY * columns.max()) & (rows > EMPTY * rows.max()).unsqueeze(1)
