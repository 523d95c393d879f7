"""Small radial scans of a smooth object whose spectrum is known everywhere."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from tests.data.files import Array, ismrmrd_header
from tests.data.published_files import Line, write_acquisitions

GOLDEN = math.pi * (math.sqrt(5) - 1) / 2

#: Gaussians: height, centre and width in pixels (down, across) for an image of 24 x 24.
BLOBS = [
    (1.0 + 0.0j, (0.0, 0.0), (4.0, 3.0)),
    (0.6 - 0.3j, (3.0, -4.0), (1.2, 1.6)),
    (-0.4 + 0.2j, (-4.0, 2.0), (1.5, 1.0)),
]


def spokes(
    n: int = 40,
    *,
    samples: int = 48,
    reach: float = 0.5,
    step: float | None = None,
    half: bool = False,
) -> NDArray[np.float32]:
    """A trajectory (spoke, sample, 2) in cycles per pixel.

    Args:
        n: number of spokes.
        samples: of a spoke.
        reach: of a spoke.
        step: angle between one spoke and the next; evenly spread if None.
        half: from the centre outwards, over the whole turn.
    """
    angles = np.arange(n) * ((math.pi, 2 * math.pi)[half] / n if step is None else step)
    places = np.arange(samples) / (samples - 1) if half else np.arange(samples) / samples * 2 - 1
    along = reach * places
    trajectory = np.stack([np.sin(angles)[:, None] * along, np.cos(angles)[:, None] * along], -1)
    return trajectory.astype(np.float32)


def spectrum(
    positions: NDArray[np.floating], shape: tuple[int, int] = (24, 24), *, n_coils: int = 2
) -> Array:
    """Samples of the object at positions (..., 2), coil first; the coils see it shifted."""
    out = np.zeros((n_coils, *positions.shape[:-1]), np.complex128)
    for coil in range(n_coils):
        for height, center, width in BLOBS:
            shift = np.array(center) + np.array([0.0, 0.5 * coil])
            fall = (positions.astype(np.float64) * np.array(width)) ** 2
            phase = positions.astype(np.float64) @ shift
            area = 2 * math.pi * width[0] * width[1]
            out[coil] += height * area * np.exp(-2 * math.pi**2 * fall.sum(-1) - 2j * np.pi * phase)
    return (out / math.sqrt(shape[0] * shape[1])).astype(np.complex64)


def cartesian(shape: tuple[int, int] = (24, 24), *, n_coils: int = 2) -> Array:
    """The object's samples on a grid, (coil, height, width)."""
    return spectrum(grid_positions(shape), shape, n_coils=n_coils)


def grid_positions(shape: tuple[int, int]) -> NDArray[np.float64]:
    """Where the samples of a grid lie, (height, width, 2)."""
    axes = [(np.arange(n) - n // 2) / n for n in shape]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


def write_radial(
    path: Path,
    *,
    n_frames: int = 2,
    n_coils: int = 2,
    trajectory: NDArray[np.floating] | None = None,
    **attributes: object,
) -> NDArray[np.floating]:
    """A radial file of the generic layout, each frame half as strong; returns its trajectory."""
    one = spokes(samples=24) if trajectory is None else trajectory
    samples = spectrum(one, n_coils=n_coils)
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["kspace"] = np.stack([samples / np.float32(2**n) for n in range(n_frames)])
        file["trajectory"] = np.stack([one] * n_frames)
        file.attrs.update(attributes)
    return one


def spokes_of(
    trajectory: NDArray[np.floating],
    *,
    n_coils: int = 2,
    unit: float = 1,
    stored: NDArray[np.floating] | None = None,
    **counters: int,
) -> list[Line]:
    """The acquisitions of one image; the file may store the trajectory otherwise."""
    samples = spectrum(trajectory, n_coils=n_coils) * np.complex64(unit)
    written = trajectory if stored is None else stored
    return [
        Line(
            np.ascontiguousarray(samples[:, number]),
            counters={"kspace_encode_step_1": number, **counters},
            trajectory=written[number],
        )
        for number in range(len(trajectory))
    ]


def write_spokes(path: Path, lines: Sequence[Line], *, encoded: int = 24, **header: Any) -> None:
    """An ISMRMRD file whose header has as many columns as there are spokes."""
    settings = {"trajectory": "radial", "recon": (24, 24), **header}
    xml = ismrmrd_header((encoded, len(lines)), **settings)
    write_acquisitions(path, xml, lines)


def write_ismrmrd_radial(
    path: Path, *, n_slices: int = 2, noise: Array | None = None, **header: Any
) -> None:
    """A radial scan whose slices come interleaved; each is half as strong as the one before."""
    each = [
        spokes_of(spokes(step=GOLDEN), unit=1e-4 / 2**number, slice=number)
        for number in range(n_slices)
    ]
    lines = [] if noise is None else [Line(noise, flags=[19])]
    lines += [line for together in zip(*each, strict=True) for line in together]
    write_spokes(path, lines, **header)
