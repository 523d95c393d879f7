"""BART's files: a header of 16 sizes (.hdr) and samples (.cfl), column by column."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from activemri.data.images import largest_magnitude, slice_of_image
from activemri.data.readers import Container, OpenedFile, UnreadableError, Volume
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


BART = Container("BART", (".cfl",), lambda path: BARTFile(path))


@dataclass(frozen=True)
class BARTReader:
    """Reads k-space, or images if the name says so (`img`, `image`, `reco`, `rss`, `pics`).

    The plane of a slice is readout and phase 1 (sizes 0 and 1) or, where the readout has the size
    1, phase 1 and 2. Sizes 3 are coils, of images too; all others that are not 1 count the slices,
    the first the fastest. BART's Fourier transform is centred as here, with any scale: k-space is
    multiplied by a power of two that brings the centre of the first slice to about the square root
    of the number of pixels, so that images come to about 1.

    Refused: 3-D k-space; sensitivities, trajectories and masks, by name or sizes; and lines that
    all have the same energy, as the spokes of a radial scan.

    Files have no labels: the subject is the file's name, or its folder where that begins `sub-`.
    """

    name: str = "bart"
    container: ClassVar[Container] = BART

    def recognises(self, file: "BARTFile") -> bool:
        return True

    def describe(self, file: "BARTFile") -> Volume:
        stem, sizes = BART.stem(file.path.name), file.sizes
        is_image = _is_image(stem)
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
        height, width = (sizes[axis] for axis in file.plane_axes)
        if min(height, width) == 1:
            raise UnreadableError(f"expected a plane; got the sizes {sizes[:4]}")
        if is_image and sizes[COIL] > 1:
            raise UnreadableError(f"an image of {sizes[COIL]} coils; combine them, or give k-space")
        if file.plane_axes[0] == PHASE and not is_image:
            energy = np.sum(np.abs(file.slice(file.n_slices // 2)) ** 2, axis=(0, 1))
            if energy.max() < PEAKED * np.median(energy):
                raise UnreadableError(
                    "not Cartesian: all lines have about the same energy, as the spokes of a "
                    "radial scan; expected k-space on a grid"
                )
        folder = file.path.parent.name
        return Volume(
            name=stem,
            subject=folder if folder.startswith("sub-") else stem,
            n_slices=file.n_slices,
            shape=(height, width),
            target_shape=(height, width),
            n_coils=sizes[COIL],
            largest=_unit(file.slice(0), image=is_image),
        )

    def read(self, file: "BARTFile", volume: Volume, index: int) -> Slice:
        assert volume.largest is not None  # describe() sets it
        samples = torch.from_numpy(file.slice(index)) / volume.largest
        processing = (f"divided by {volume.largest:g}",)
        if _is_image(BART.stem(file.path.name)):
            return slice_of_image(
                volume,
                index,
                samples[0],
                file=BART.stem(file.path.name),
                synthetic_phase=False,
                processing=processing,
            )
        return volume.slice(index, kspace=samples, processing=processing)


class BARTFile(OpenedFile):
    """An open pair of files; samples stay on disk until they are asked for.

    Attributes:
        path: of the samples.
        sizes: of the 16 dimensions.
        plane_axes: which of them are height and width.
        n_slices: product of those that are neither plane nor coils.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sizes = _sizes(path.with_suffix(".hdr"))
        expected = 8 * math.prod(self.sizes)
        if path.stat().st_size != expected:
            shown = " x ".join(str(size) for size in self.sizes if size > 1)
            raise UnreadableError(
                f"{shown} complex numbers, as the header says, are {expected} bytes; "
                f"got {path.stat().st_size}"
            )
        self._samples: NDArray[np.complex64] = np.memmap(
            path, np.complex64, "r", shape=self.sizes, order="F"
        )
        self.plane_axes = (PHASE, PARTITION) if self.sizes[READOUT] == 1 else (READOUT, PHASE)
        self._others = [a for a in range(16) if a not in (*self.plane_axes, COIL)]
        self.n_slices = math.prod(self.sizes[axis] for axis in self._others)

    def slice(self, index: int) -> NDArray[np.complex64]:
        """One slice, (coil, height, width)."""
        chosen: list[slice | int] = [slice(None)] * 16
        for axis in self._others:
            index, chosen[axis] = divmod(index, self.sizes[axis])
        plane = self._samples[tuple(chosen)]  # (height, width, coil)
        return np.array(np.moveaxis(plane, -1, 0), order="C")


def _sizes(path: Path) -> tuple[int, ...]:
    if not path.is_file():
        raise UnreadableError(f"no header {path.name} beside it")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UnreadableError(f"the header {path.name} is not text: {error}") from error
    place = next((i for i, line in enumerate(lines) if line.strip() == "# Dimensions"), None)
    words = lines[place + 1].split() if place is not None and place + 1 < len(lines) else []
    if not words or not all(word.isdigit() and int(word) > 0 for word in words) or len(words) > 16:
        raise UnreadableError(f"the header {path.name} has no list of sizes after '# Dimensions'")
    return tuple(int(word) for word in words) + (1,) * (16 - len(words))


def _is_image(stem: str) -> bool:
    return IMAGES.search(stem.lower()) is not None


def _unit(samples: NDArray[np.complex64], *, image: bool) -> float:
    """A power of two: about the largest magnitude of an image, or k-space's at its centre."""
    if image:
        largest = largest_magnitude(samples)
    else:
        height, width = samples.shape[1:]
        rows = slice(max(height // 2 - 4, 0), height // 2 + 4)
        columns = slice(max(width // 2 - 4, 0), width // 2 + 4)
        # of a smooth object the centre has about the size of the image times its side
        largest = largest_magnitude(samples[:, rows, columns]) / math.sqrt(height * width)
    return 2.0 ** round(math.log2(largest)) if largest > 0 else 1.0
