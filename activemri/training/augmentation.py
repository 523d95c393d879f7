"""Changes of scans that another scan might show just as well, exact in image and k-space."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce

import numpy as np
import torch

from activemri.data.slices import Slice
from activemri.mri import fourier
from activemri.mri.coils import root_sum_of_squares
from activemri.mri.noise import smooth_phase

Change = Callable[[Slice], Slice]
NONE = "none"


def make_augmentation(names: Sequence[str]) -> Callable[[np.random.Generator], Change]:
    """A function that draws a change of a scan: all kinds that are named, one after the other.

    Draws do not depend on the scan, so that they can be made without reading it.

    Raises:
        ValueError: an unknown name, or "none" beside others.
    """
    unknown = [name for name in names if name not in (*AUGMENTATIONS, NONE)]
    if unknown or (NONE in names and len(names) > 1):
        raise ValueError(
            f"--augment {' '.join(names)}: expected some of {', '.join(AUGMENTATIONS)}, or {NONE} "
            "alone"
        )
    kinds = [AUGMENTATIONS[name] for name in names if name != NONE]

    def draw(generator: np.random.Generator) -> Change:
        changes = [kind(generator) for kind in kinds]
        return lambda scan: reduce(lambda changed, change: change(changed), changes, scan)

    return draw


def flip(generator: np.random.Generator) -> Change:
    """Mirror along each axis half of the time."""
    axes = [axis for axis in fourier.IMAGE_AXES if generator.random() < 0.5]
    return lambda scan: reduce(mirrored, axes, scan)


def rotate90(generator: np.random.Generator) -> Change:
    """Turn by a quarter half of the time."""
    return turned if generator.random() < 0.5 else lambda scan: scan


def phase(generator: np.random.Generator) -> Change:
    """Multiply by a random phase, the same everywhere."""
    factor = complex(np.exp(2j * np.pi * generator.random()))
    return lambda scan: replace(scan, kspace=scan.kspace * factor, measured=scan.measured)


def scale(generator: np.random.Generator) -> Change:
    """Multiply the signal by 1/2 to 2."""
    factor = float(2.0 ** generator.uniform(-1, 1))
    return lambda scan: replace(
        scan,
        kspace=scan.kspace * factor,
        target=scan.target * factor,
        volume_max=scan.volume_max * factor,
    )


def off_resonance(generator: np.random.Generator) -> Change:
    """Multiply by a random phase that varies over the image, and that jumps at edges."""
    seed = int(generator.integers(2**63))  # how much is drawn next depends on what is drawn
    return lambda scan: dephased(scan, np.random.default_rng(seed))


AUGMENTATIONS: dict[str, Callable[[np.random.Generator], Change]] = {
    "flip": flip,
    "rotate90": rotate90,
    "phase": phase,
    "scale": scale,
    "off-resonance": off_resonance,
}


def mirrored(scan: Slice, axis: int) -> Slice:
    """The scan of the mirrored object, exactly, with empty lines still empty.

    A target whose crop is off-centre by half a pixel cannot be mirrored; its scan is returned as it
    is.
    """
    if not _is_centred(scan, axis):
        return scan
    n = scan.kspace.shape[axis]
    # Frequency k becomes -k. For even n the lowest frequency has no partner and stays, and the
    # mirror lies between two pixels, half a pixel from the origin, which is a linear phase.
    kspace, measured = scan.kspace.flip(axis), scan.measured.flip(axis)
    if n % 2 == 0:
        frequency = torch.arange(n, dtype=torch.float64) - n // 2
        ramp = torch.exp(2j * torch.pi * frequency / n).to(kspace.dtype)
        kspace = kspace.roll(1, axis) * (ramp[:, None] if axis == -2 else ramp)
        measured = measured.roll(1, axis)
    maps = scan.sensitivity
    return replace(
        scan,
        kspace=kspace,
        measured=measured,
        target=scan.target.flip(axis),
        sensitivity=None if maps is None else maps.flip(axis),
    )


def turned(scan: Slice) -> Slice:
    """The scan of the object turned by a quarter: rows and columns exchanged, then mirrored.

    Scans that would get another size, that the scanner did not sample completely (missing lines
    would become missing rows), or that cannot be mirrored are returned as they are.
    """
    (height, width), (rows, columns) = scan.shape, scan.target.shape
    exact = height == width and rows == columns and _is_centred(scan, -1)
    if not (exact and bool(scan.measured.all())):
        return scan
    maps = scan.sensitivity
    exchanged = replace(
        scan,
        kspace=scan.kspace.transpose(-2, -1).contiguous(),
        target=scan.target.T.contiguous(),
        sensitivity=None if maps is None else maps.transpose(-2, -1).contiguous(),
    )
    return mirrored(exchanged, -1)


def dephased(scan: Slice, generator: np.random.Generator) -> Slice:
    """The scan at another echo time, in an uneven field, with tissues that precess at own rates.

    The smooth part is that of :func:`activemri.mri.noise.smooth_phase`, of random strength. None,
    one or two steps of up to pi are added where the magnitude crosses a level, as between water and
    fat, for a network that has only seen smooth phase may take such edges for missing detail.
    Magnitudes, and with them the target, stay what they are. Scans that the scanner did not sample
    completely are returned as they are, for their empty lines would be filled.
    """
    if not bool(scan.measured.all()):
        return scan
    images = fourier.ifft2(scan.kspace)
    height, width = scan.shape
    angle = smooth_phase(height, width, generator=generator, strength=generator.uniform(0, 1.5))
    brightness = root_sum_of_squares(images)
    brightness = brightness / brightness.max().clamp(min=torch.finfo(torch.float32).tiny)
    for _ in range(generator.integers(3)):
        step, level = generator.uniform(-np.pi, np.pi), generator.uniform(0.1, 0.8)
        angle = angle + step * torch.sigmoid(generator.uniform(10, 80) * (brightness - level))
    turned_images = images * torch.polar(torch.ones_like(angle), angle)
    return replace(scan, kspace=fourier.fft2(turned_images), measured=scan.measured)


def _is_centred(scan: Slice, axis: int) -> bool:
    return (scan.kspace.shape[axis] - scan.target.shape[axis]) % 2 == 0
