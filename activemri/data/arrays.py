"""Images in memory as scans."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from activemri.data.phase import with_synthetic_phase
from activemri.data.slices import Slice, SliceList
from activemri.data.standard import to_matrix
from activemri.metrics import SSIM_WINDOW
from activemri.mri import fourier

#: Standard deviation of the noise of magnitudes, as a share of the largest: as for files.
_NOISE = 0.01


def slices_of_images(
    images: NDArray[Any] | Tensor,
    *,
    subjects: Sequence[str] | None = None,
    matrix_size: tuple[int, int] | None = None,
    name: str = "array",
) -> SliceList:
    """Scans of one coil whose k-space is the centred orthonormal transform of images.

    Real images are taken for magnitudes. Their k-space would be conjugate-symmetric and give half
    of the lines away, so that they get a smooth phase and a little noise, as those of files do;
    see :mod:`activemri.data.phase`.

    Args:
        images: real or complex, (n, height, width).
        subjects: who was scanned, one for each image; default: somebody else in each.
        matrix_size: bring the scans to this size; see :func:`activemri.data.standard.to_matrix`.
        name: of the data set, and of its volumes.

    Raises:
        ValueError: for another shape or type, values that are not finite, or negative magnitudes.
    """
    stack = _checked(images)
    owners = [f"{name}-{i}" for i in range(len(stack))] if subjects is None else list(subjects)
    if len(owners) != len(stack):
        raise ValueError(
            f"subjects: expected one for each of {len(stack)} images; got {len(owners)}"
        )
    slices = [_slice(stack[i], i, owner, name) for i, owner in enumerate(owners)]
    if matrix_size is not None:
        slices = [to_matrix(one, matrix_size) for one in slices]
    return SliceList(slices, name)


def _checked(images: NDArray[Any] | Tensor) -> Tensor:
    """Images as complex64 or float32, (n, height, width)."""
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
    return stack


def _slice(image: Tensor, position: int, subject: str, name: str) -> Slice:
    processing: tuple[str, ...] = ()
    if not image.is_complex():
        sigma = _NOISE * float(image.max())
        image = with_synthetic_phase(image, sigma=sigma, name=name, index=position)
        processing = ("magnitude only: added a synthetic smooth phase and complex noise",)
    target = image.abs()
    return Slice(
        fourier.fft2(image)[None],
        target,
        volume=f"{name}-{position}",
        index=0,
        subject=subject,
        volume_max=float(target.max()),
        measured=torch.ones(image.shape, dtype=torch.bool),
        processing=processing,
    )
