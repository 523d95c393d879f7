"""BART's files: a header of 16 sizes (.hdr) and samples (.cfl), column by column."""

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from activemri.data.images import largest_magnitude, slice_of_image
from activemri.data.readers import (
    MOST_TEXT,
    Container,
    OpenedFile,
    Reader,
    UnreadableError,
    Volume,
    require_size,
)
from activemri.data.slices import Slice

READOUT, PHASE, PARTITION, COIL, MAPS = range(5)

#: Files do not say what they hold. By name, images; other things than scans; else k-space.
IMAGES = re.compile(r"(^|[_\-.\d])(img|imgs|image|images|reco|recon|rss|pics)([_\-.\d]|$)")
NO_SCAN = re.compile(
    r"(^|[_\-.\d])(traj|trajectory|sens|maps?|coils?|mask|pat|pattern|weights|dcf)([_\-.\d]|$)"
)

#: The strongest line of a Cartesian scan has at least this many times the energy of a middling one.
#: Every spoke of a radial scan passes through the centre: there it is about 1.
PEAKED = 4.0

BART = Container("BART", (".cfl",), OpenedFile, parts=lambda path: (path.with_suffix(".hdr"), path))


@dataclass(frozen=True)
class BARTReader(Reader):
    """Reads k-space, or images if the name says so (`img`, `image`, `reco`, `rss`, `pics`).

    The plane of a slice is readout and phase 1 (sizes 0 and 1) or, where the readout has the size
    1, phase 1 and 2. Sizes 3 are coils; all others that are not 1 count the slices, the first the
    fastest. BART's Fourier transform is centred as here, with any scale.

    The subject is the file's name, or its folder where that begins `sub-`.
    """

    name: str = "bart"
    container = BART

    def describe(self, file: OpenedFile) -> Volume:
        stem, folder = BART.stem(file.path.name), file.path.parent.name
        is_image = IMAGES.search(stem.lower()) is not None
        samples = _samples(file.path)
        sizes, planes = samples.shape, _planes(samples)
        if found := NO_SCAN.search(stem.lower()):
            raise UnreadableError(f"named {found.group(2)!r}; expected k-space or images")
        if sizes[MAPS] > 1:
            raise UnreadableError(
                f"{sizes[MAPS]} sets of maps (size 4); expected k-space or images"
            )
        if sizes[READOUT] > 1 and sizes[PARTITION] > 1 and not is_image:
            raise UnreadableError(
                "3-D k-space; transform the readout and make it slices: `bart fft -u -i 1 in tmp`, "
                "`bart transpose 0 13 tmp out`"
            )
        *others, _, height, width = planes.shape
        require_size(math.prod(others), (height, width), sizes[COIL])
        if min(height, width) == 1:
            raise UnreadableError(f"expected a plane; got the sizes {sizes[:4]}")
        if is_image and sizes[COIL] > 1:
            raise UnreadableError(f"an image of {sizes[COIL]} coils; combine them, or give k-space")
        n_slices = math.prod(others)
        if sizes[READOUT] == 1 and not is_image:
            with np.errstate(all="ignore"):  # the survey finds NaN and Inf
                energy = np.sum(np.abs(_slice(planes, n_slices // 2)) ** 2, axis=(0, 1))
            if energy.max() < PEAKED * np.median(energy):
                raise UnreadableError(
                    "not Cartesian: all lines have about the same energy, as the spokes of a "
                    "radial scan; expected k-space on a grid"
                )
        # A power of two: about the largest magnitude of an image, or k-space's at its centre, which
        # of a smooth object has about the size of the image times its side.
        first = _slice(planes, 0)
        if is_image:
            largest = largest_magnitude(first)
        else:
            middle = (slice(max(size // 2 - 4, 0), size // 2 + 4) for size in (height, width))
            largest = largest_magnitude(first[:, *middle]) / math.sqrt(height * width)
        return Volume(
            name=stem,
            subject=folder if folder.startswith("sub-") else stem,
            n_slices=n_slices,
            shape=(height, width),
            target_shape=(height, width),
            n_coils=sizes[COIL],
            largest=2.0 ** round(math.log2(largest)) if largest > 0 else 1.0,
        )

    def read(self, file: OpenedFile, volume: Volume, index: int) -> Slice:
        assert volume.largest is not None  # describe() sets it
        planes = _planes(_samples(file.path))
        samples = torch.from_numpy(_slice(planes, index)) / volume.largest
        processing = (f"divided by {volume.largest:g}",)
        stem = BART.stem(file.path.name)
        if IMAGES.search(stem.lower()):
            image = samples[0]
            return slice_of_image(
                volume, index, image, file=stem, synthetic_phase=False, processing=processing
            )
        return volume.slice(index, kspace=samples, processing=processing)


def _samples(path: Path) -> NDArray[np.complex64]:
    """The 16 axes of a file, which stay on disk until they are asked for."""
    header = path.with_suffix(".hdr")
    if not header.is_file():
        raise UnreadableError(f"no header {header.name} beside it")
    if header.stat().st_size > MOST_TEXT:
        raise UnreadableError(f"the header {header.name} is larger than {MOST_TEXT >> 20} MiB")
    try:
        lines = [line.strip() for line in header.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise UnreadableError(f"the header {header.name} is not text: {error}") from error
    place = lines.index("# Dimensions") + 1 if "# Dimensions" in lines else len(lines)
    words = " ".join(lines[place : place + 1]).split()
    if not words or not all(word.isdigit() and int(word) > 0 for word in words) or len(words) > 16:
        raise UnreadableError(f"the header {header.name} has no list of sizes after '# Dimensions'")
    sizes = tuple(int(word) for word in words) + (1,) * (16 - len(words))
    if path.stat().st_size != 8 * math.prod(sizes):
        shown = " x ".join(str(size) for size in sizes if size > 1)
        raise UnreadableError(
            f"{shown} complex numbers, as the header says, are {8 * math.prod(sizes)} bytes; "
            f"got {path.stat().st_size}"
        )
    return np.memmap(path, np.complex64, "r", shape=sizes, order="F")


def _planes(samples: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """The axes (..., coil, height, width); those in front count the slices, the first fastest."""
    plane = (PHASE, PARTITION) if samples.shape[READOUT] == 1 else (READOUT, PHASE)
    return np.moveaxis(samples, (COIL, *plane), (-3, -2, -1))


def _slice(planes: NDArray[np.complex64], index: int) -> NDArray[np.complex64]:
    """One slice, (coil, height, width)."""
    return np.array(planes[np.unravel_index(index, planes.shape[:-3], order="F")], order="C")
