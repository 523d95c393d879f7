"""Images as scans: in memory, or of formats that hold what a scanner has reconstructed.

The k-space of a real image is conjugate-symmetric: each line is the mirror of another and half of
all lines come for free. Scans have phase (field inhomogeneity, coils, flow) and noise, which break
the symmetry. Results on bare magnitudes would flatter every method, so that images of which only
the magnitude was kept get a plausible phase and noise.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from activemri.data.formats.stored import refuse_unusable
from activemri.data.readers import Volume
from activemri.data.slices import ACQUIRED, SYNTHETIC, Slice, SliceList
from activemri.data.standard import to_matrix
from activemri.metrics import SSIM_WINDOW
from activemri.metrics.reference import center_crop
from activemri.mri import fourier
from activemri.mri.noise import complex_noise, smooth_phase

#: Standard deviation of the noise of magnitude-only images (real and imaginary part together), as a
#: share of the largest magnitude: about that of complex images that were published with theirs.
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


def slices_of_images(
    images: NDArray[Any] | Tensor,
    *,
    subjects: Sequence[str] | None = None,
    matrix_size: tuple[int, int] | None = None,
    name: str = "array",
) -> SliceList:
    """Scans of one coil whose k-space is the centred orthonormal transform of images.

    Args:
        images: complex (n, height, width), or real magnitudes, which get a smooth phase and a
            little noise.
        subjects: who was scanned, one for each image; default: somebody else in each.
        matrix_size: bring the scans to this size; see :func:`activemri.data.standard.to_matrix`.
        name: of the data set, and of its volumes.

    Raises:
        ValueError: for another shape or type, values that are not finite, or negative magnitudes.
    """
    expected = "data: expected images of shape (n, height, width), real or complex"
    numbers = isinstance(images, Tensor) or np.asarray(images).dtype.kind in "biufc"
    if not numbers or images.ndim != 3 or 0 in images.shape:
        hint = "; one image is images[None]" if images.ndim == 2 else ""
        hint = hint or "; raw data of several coils go into Slice objects of a SliceList"
        raise ValueError(f"{expected}; got {images.dtype} of shape {tuple(images.shape)}{hint}")
    if min(images.shape[1:]) < SSIM_WINDOW:
        raise ValueError(
            f"{expected}, each side at least {SSIM_WINDOW}; got shape {tuple(images.shape)}"
        )
    stack = torch.as_tensor(images).detach().cpu()
    stack = stack.to(torch.complex64 if stack.is_complex() else torch.float32)
    largest = stack.abs().flatten(1).amax(dim=1)
    unusable = (~(largest.isfinite() & (largest > 0))).nonzero().flatten().tolist()
    if unusable:
        first = unusable[0]
        raise ValueError(f"data: image {first} is all zero, or holds NaN or Inf; leave it out")
    if not stack.is_complex() and bool((stack < 0).any()):
        raise ValueError(
            "data: real images are magnitudes, and some are negative; pass complex images to keep "
            "signs, or their absolute values"
        )
    owners = [f"{name}-{i}" for i in range(len(stack))] if subjects is None else list(subjects)
    if len(owners) != len(stack):
        raise ValueError(
            f"subjects: expected one for each of {len(stack)} images; got {len(owners)}"
        )
    slices = []
    for position, (image, subject) in enumerate(zip(stack, owners, strict=True)):
        processing, phase = tuple[str, ...](), ACQUIRED
        if not image.is_complex():
            sigma = NOISE * float(image.max())
            image = with_synthetic_phase(image, sigma=sigma, name=name, index=position)
            processing = ("magnitude only: added a synthetic smooth phase and complex noise",)
            phase = SYNTHETIC
        target = image.abs()
        scan = Slice(
            fourier.fft2(image)[None],
            target,
            volume=f"{name}-{position}",
            index=0,
            subject=subject,
            volume_max=float(target.max()),
            measured=torch.ones(image.shape, dtype=torch.bool),
            processing=processing,
            phase=phase,
        )
        slices.append(scan if matrix_size is None else to_matrix(scan, matrix_size))
    return SliceList(slices, name)


def slice_of_image(
    volume: Volume,
    index: int,
    image: Tensor,
    *,
    file: str,
    synthetic_phase: bool,
    processing: tuple[str, ...] = (),
) -> Slice:
    """A slice of one coil, whose k-space is the centred orthonormal transform of an image.

    Magnitude-only images get a smooth phase and complex noise, seeded by the volume's file and the
    slice's index, and recorded in `Slice.processing`. The reference then is the magnitude of the
    result, noise included: it is what a fully sampled scan of that object would give. On brain
    images this leaves a quarter to a third of the energy without a mirror image; raw scans have
    about a half (no symmetry at all), coil-combined complex images 0.01 to 0.2. An image of zeros
    only, or with NaN or Inf, is an UnreadableError.

    Args:
        volume: with the `largest` magnitude, if it is magnitude-only.
        image: (height, width), complex64 or float32.
        file: name of the file without its suffix, the seed.
    """
    refuse_unusable(image, "the image")
    if volume.magnitude_only:
        image = image.abs()
    if volume.magnitude_only and synthetic_phase:
        assert volume.largest is not None  # describe() sets it for magnitude-only volumes
        image = with_synthetic_phase(image, sigma=NOISE * volume.largest, name=file, index=index)
        processing += (
            "magnitude only: added a synthetic smooth phase and complex noise of "
            f"{NOISE:g} of the volume's largest magnitude, seeded by file and slice",
        )
    kspace = fourier.fft2(image if image.is_complex() else image + 0j)
    # As `measured_samples` finds them, but that rounding fills the padding of transformed images.
    energy = kspace.abs().square()
    columns, rows = energy.sum(dim=0), energy.sum(dim=1)
    measured = (columns > EMPTY * columns.max()) & (rows > EMPTY * rows.max()).unsqueeze(1)
    return volume.slice(
        index,
        kspace=kspace.unsqueeze(0),
        target=center_crop(image.abs(), volume.target_shape).contiguous(),
        processing=processing,
        measured=measured,
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


def with_synthetic_phase(magnitude: Tensor, *, sigma: float, name: str, index: int) -> Tensor:
    """A magnitude image (height, width) with a smooth phase and complex noise: complex64.

    Name and index of the volume's slice are the seed, the same on every machine.
    """
    height, width = magnitude.shape
    generator = np.random.default_rng([stable_hash(name), index])
    image = torch.polar(magnitude, smooth_phase(height, width, generator=generator))
    return image + complex_noise((height, width), sigma=sigma, generator=generator)


def stable_hash(text: str) -> int:
    """64 bits of a text that do not change from process to process as ``hash`` does."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
