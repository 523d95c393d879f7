"""Writes the small scans that recorded episodes acquire; needs NumPy and h5py alone."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

Complex = NDArray[np.complex128]

HEADER = """<?xml version="1.0" encoding="utf-8"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">
  <acquisitionSystemInformation>
    <systemVendor>SIEMENS</systemVendor>
    <systemFieldStrength_T>2.8936</systemFieldStrength_T>
  </acquisitionSystemInformation>
  <experimentalConditions><H1resonanceFrequency_Hz>123249951</H1resonanceFrequency_Hz></experimentalConditions>
  <encoding>
    <encodedSpace>
      <matrixSize><x>{height}</x><y>{width}</y><z>1</z></matrixSize>
      <fieldOfView_mm><x>440</x><y>220</y><z>7.5</z></fieldOfView_mm>
    </encodedSpace>
    <reconSpace>
      <matrixSize><x>{side}</x><y>{side}</y><z>1</z></matrixSize>
      <fieldOfView_mm><x>220</x><y>220</y><z>5</z></fieldOfView_mm>
    </reconSpace>
    <encodingLimits>
      <kspace_encoding_step_0><minimum>0</minimum><maximum>{last_row}</maximum><center>{center_row}</center></kspace_encoding_step_0>
      <kspace_encoding_step_1><minimum>0</minimum><maximum>{last}</maximum><center>{center}</center></kspace_encoding_step_1>
      <kspace_encoding_step_2><minimum>0</minimum><maximum>0</maximum><center>0</center></kspace_encoding_step_2>
    </encodingLimits>
    <trajectory>cartesian</trajectory>
  </encoding>
</ismrmrdHeader>"""


def write_scans(kind: str, folder: Path) -> Path:
    """A folder with the scans of that kind; see :data:`KINDS`."""
    folder.mkdir(parents=True, exist_ok=True)
    KINDS[kind](folder)
    return folder


def _singlecoil_knee(folder: Path) -> None:
    _fastmri(folder / "knee0.h5", (48, 110), acquisition="CORPD_FBK", patient="p0", seed=10)
    _fastmri(folder / "knee1.h5", (48, 116), padding=3, acquisition="CORPDFS_FBK", patient="p1")


def _multicoil_knee(folder: Path) -> None:
    for coil in (3, 4):
        path = folder / f"knee{coil}.h5"
        _fastmri(path, (48, 110), n_coils=coil, acquisition="CORPD_FBK", patient=f"p{coil}")


def _multicoil_brain(folder: Path) -> None:
    _fastmri(folder / "t2.h5", (48, 110), n_coils=3, acquisition="AXT2", patient="p0", seed=20)
    _fastmri(folder / "flair.h5", (40, 96), n_coils=3, acquisition="AXFLAIR", patient="p1", seed=21)


def _generic(folder: Path) -> None:
    with h5py.File(folder / "raw.h5", "w") as file:
        file["kspace"] = _kspace((2, 3, 36, 40), seed=30).astype(np.complex64)
        file.attrs["subject"] = "a"
    with h5py.File(folder / "image.h5", "w") as file:
        image = _objects((2, 1, 32, 44), seed=31)[:, 0]
        file["image"] = np.abs(image).astype(np.float32)
        file.attrs.update({"phase": "magnitude only", "subject": "b"})


def _raw(folder: Path) -> None:
    with h5py.File(folder / "raw.h5", "w") as file:
        file["kspace"] = _kspace((3, 4, 40, 36), seed=40).astype(np.complex64)
        file.attrs["subject"] = "a"


#: Kinds of scans by name. Those of one kind differ in size, padding or coils wherever they may.
KINDS: dict[str, Callable[[Path], None]] = {
    "singlecoil-knee": _singlecoil_knee,
    "multicoil-knee": _multicoil_knee,
    "multicoil-brain": _multicoil_brain,
    "generic": _generic,
    "raw": _raw,
}


def _fastmri(
    path: Path,
    shape: tuple[int, int],
    *,
    acquisition: str,
    patient: str,
    n_coils: int | None = None,
    padding: int = 0,
    seed: int = 0,
) -> None:
    """A volume of two slices as fastMRI publishes them, with values as small as published.

    Args:
        padding: columns at each side that the scanner never measured.
        n_coils: None for the single-coil layout.
    """
    (height, width), side = shape, 32
    kspace = 1e-6 * _kspace((2, n_coils or 1, height, width), seed=seed)
    kspace[..., :padding] = kspace[..., width - padding :] = 0
    top, left = (height - side) // 2, (width - side) // 2
    image = np.linalg.norm(_inverse(kspace), axis=1)[:, top : top + side, left : left + side]
    header = HEADER.format(
        height=height,
        width=width,
        side=side,
        last_row=height - 1,
        center_row=height // 2,
        last=width - 2 * padding - 1,
        center=width // 2 - padding,
    )
    with h5py.File(path, "w") as file:
        file["kspace"] = (kspace if n_coils else kspace[:, 0]).astype(np.complex64)
        file["ismrmrd_header"] = header.encode()
        file["reconstruction_rss" if n_coils else "reconstruction_esc"] = image.astype(np.float32)
        file.attrs["max"] = image.max()
        file.attrs["norm"] = np.linalg.norm(image)
        file.attrs["acquisition"] = acquisition
        file.attrs["patient_id"] = patient


def _kspace(shape: tuple[int, int, int, int], *, seed: int) -> Complex:
    """K-space (slice, coil, height, width) of :func:`_objects` in noise."""
    rng = np.random.default_rng((seed, 1))
    images = np.fft.ifftshift(_objects(shape, seed=seed), axes=(-2, -1))
    kspace = np.fft.fftshift(np.fft.fft2(images, norm="ortho"), axes=(-2, -1))
    noise: Complex = rng.normal(size=shape) + 1j * rng.normal(size=shape)
    return kspace + 0.01 * noise


def _inverse(kspace: Complex) -> Complex:
    shifted = np.fft.ifftshift(kspace, axes=(-2, -1))
    image: Complex = np.fft.fftshift(np.fft.ifft2(shifted, norm="ortho"), axes=(-2, -1))
    return image


def _objects(shape: tuple[int, int, int, int], *, seed: int) -> Complex:
    """Ellipses with soft edges, seen by coils around them: (slice, coil, height, width)."""
    _, n_coils, height, width = shape
    rng = np.random.default_rng(seed)
    down = np.linspace(-1, 1, height)[:, None] * height / min(height, width)
    right = np.linspace(-1, 1, width)[None] * width / min(height, width)
    images = np.zeros(shape, dtype=np.complex128)
    for one in images:
        drawing = _ellipse(down, right, (0, 0), (0.62, 0.5))
        for _ in range(6):
            centre, radii = rng.uniform(-0.35, 0.35, 2), rng.uniform(0.06, 0.2, 2)
            drawing = drawing + rng.uniform(-0.5, 0.8) * _ellipse(down, right, centre, radii)
        turn = rng.uniform(-1, 1, 3)
        phase = np.exp(1j * (turn[0] + turn[1] * down + turn[2] * right))
        for coil in range(n_coils):
            angle = 2 * np.pi * coil / n_coils
            distance = (down - np.sin(angle)) ** 2 + (right - np.cos(angle)) ** 2
            one[coil] = drawing * phase * np.exp(-0.5 * distance + 0.7j * coil)
    return images


def _ellipse(
    down: NDArray[np.float64],
    right: NDArray[np.float64],
    centre: NDArray[np.float64] | tuple[float, float],
    radii: NDArray[np.float64] | tuple[float, float],
) -> NDArray[np.float64]:
    """1 inside, 0 outside, with an edge of a few hundredths."""
    radius = np.hypot((down - centre[0]) / radii[0], (right - centre[1]) / radii[1])
    inside: NDArray[np.float64] = 0.5 * (1 - np.tanh((radius - 1) / 0.15))
    return inside
