"""Reads and changes scans; writes small ones in the layout of fastMRI and the generic one."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from activemri.data.formats.registry import all_readers, reader_for
from activemri.data.readers import Reader, UnreadableError, Volume
from activemri.data.slices import Slice

#: The parts of a fastMRI header that matter here, as the data set publishes them.
HEADER = """<?xml version="1.0" encoding="utf-8"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"
    xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xmlns:xs="http://www.w3.org/2001/XMLSchema"
    xsi:schemaLocation="http://www.ismrm.org/ISMRMRD ismrmrd.xsd">
  <studyInformation><studyTime>00:00:00</studyTime></studyInformation>
  <measurementInformation>
    <measurementID>41085_36229573_36229578_588</measurementID>
    <patientPosition>HFS</patientPosition>
    <protocolName>AXIAL FLAIR</protocolName>
  </measurementInformation>
  <acquisitionSystemInformation>
    <systemVendor>SIEMENS</systemVendor>
    <systemModel>Prisma_fit</systemModel>
    <systemFieldStrength_T>{tesla}</systemFieldStrength_T>
    <receiverChannels>20</receiverChannels>
  </acquisitionSystemInformation>
  <experimentalConditions>
    <H1resonanceFrequency_Hz>123249951</H1resonanceFrequency_Hz>
  </experimentalConditions>
  <encoding>
    <encodedSpace>
      <matrixSize><x>{height}</x><y>{width}</y><z>1</z></matrixSize>
      <fieldOfView_mm><x>440</x><y>220</y><z>7.5</z></fieldOfView_mm>
    </encodedSpace>
    <reconSpace>
      <matrixSize><x>{recon_height}</x><y>{recon_width}</y><z>1</z></matrixSize>
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

Array = NDArray[np.complex64]


def to_image(kspace: NDArray[np.complexfloating]) -> NDArray[np.complexfloating]:
    """A second way to transform: NumPy in double precision."""
    axes = (-2, -1)
    shifted = np.fft.ifftshift(kspace.astype(np.complex128), axes=axes)
    return np.fft.fftshift(np.fft.ifft2(shifted, axes=axes, norm="ortho"), axes=axes)


def rss(kspace: NDArray[np.complexfloating]) -> NDArray[np.floating]:
    """Root of the sum of squares over the third axis from the end."""
    image: NDArray[np.floating] = np.linalg.norm(to_image(kspace), axis=-3)
    return image


def random_kspace(shape: tuple[int, ...], seed: int = 0) -> Array:
    """Noise with a strong centre, as k-space has."""
    rng = np.random.default_rng(seed)
    kspace = (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)
    kspace[..., shape[-2] // 2, shape[-1] // 2] += 10
    return kspace


def write_fastmri(
    path: Path,
    *,
    n_slices: int = 3,
    n_coils: int | None = None,
    shape: tuple[int, int] = (20, 14),
    recon: tuple[int, int] = (10, 10),
    padding: tuple[int, int] = (0, 0),
    patient: str = "patient-1",
    acquisition: str = "AXFLAIR",
    reference: bool = True,
    mask: bool = False,
    seed: int = 0,
) -> Array:
    """A file as published, with values as small as published; returns its k-space."""
    coils = () if n_coils is None else (n_coils,)
    kspace = random_kspace((n_slices, *coils, *shape), seed) * np.complex64(1e-6)
    height, width = shape
    first, end = padding[0], width - padding[1]
    kspace[..., :first] = 0
    kspace[..., end:] = 0
    header = HEADER.format(
        tesla=2.8936200141906738,
        height=height,
        width=width,
        recon_height=recon[0],
        recon_width=recon[1],
        last_row=height - 1,
        center_row=height // 2,
        last=end - first - 1,
        center=width // 2 - first,
    )
    image = rss(kspace) if n_coils else np.abs(to_image(kspace))
    top, left = (height - recon[0]) // 2, (width - recon[1]) // 2
    target = image[:, max(top, 0) :, max(left, 0) :][:, : recon[0], : recon[1]]
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["kspace"] = kspace
        file["ismrmrd_header"] = header.encode()
        if reference:
            key = "reconstruction_rss" if n_coils else "reconstruction_esc"
            file[key] = target.astype(np.float32)
            file.attrs["max"] = target.max()
            file.attrs["norm"] = np.linalg.norm(target)
        if mask:
            file["mask"] = np.arange(width) % 4 == 0
        file.attrs["acquisition"] = acquisition
        file.attrs["patient_id"] = patient
    return kspace


def write_kspace(
    path: Path, *, shape: tuple[int, ...] = (2, 3, 8, 10), seed: int = 0, **attributes: object
) -> Array:
    """A raw file of the generic layout; returns its k-space."""
    kspace = random_kspace(shape, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["kspace"] = kspace
        file.attrs.update(attributes)
    return kspace


def write_image(
    path: Path,
    *,
    shape: tuple[int, int, int] = (2, 8, 10),
    seed: int = 0,
    magnitude: bool = True,
    **attributes: object,
) -> NDArray[np.generic]:
    """An image file of the generic layout; returns the stored image."""
    image = to_image(random_kspace(shape, seed)).astype(np.complex64)
    stored = np.abs(image) if magnitude else image
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["image"] = stored
        file.attrs["phase"] = "magnitude only" if magnitude else "complex"
        file.attrs.update(attributes)
    return stored


def read(path: Path, index: int = 0, reader: Reader | None = None) -> tuple[Volume, Slice]:
    """What a file says of its volume, and one slice; by default by the reader that takes it."""
    readers = [r for r in all_readers() if r.container.holds(path.name)]
    with readers[0].container.open(path) as file:
        reader = reader or reader_for(file, readers)
        volume = reader.describe(file)
        return volume, reader.read(file, volume, index)


def refused(path: Path, reason: str, index: int = 0) -> None:
    """Reading fails for a reason."""
    with pytest.raises(UnreadableError, match=reason):
        read(path, index)


def edit(path: Path, **data_sets: object) -> None:
    """Replace data sets of an HDF5 file, or by None delete them."""
    with h5py.File(path, "a") as file:
        for key, values in data_sets.items():
            if key in file:
                del file[key]
            if values is not None:
                file[key] = values
