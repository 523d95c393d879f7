"""Reads and changes scans; writes small ones in the layout of fastMRI and the generic one."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from activemri.data.formats.registry import all_readers, reader_for
from activemri.data.readers import Reader, UnreadableError, Volume
from activemri.data.slices import Slice

Array = NDArray[np.complex64]


#: The parts of a header that matter here, as fastMRI and the format publish them.
HEADER = """<?xml version="1.0" encoding="UTF-8"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">
  <subjectInformation><patientID>{patient}</patientID></subjectInformation>
  <measurementInformation>
    <patientPosition>HFS</patientPosition>
    <protocolName>t1_fl2d</protocolName>
  </measurementInformation>
  <acquisitionSystemInformation>
    <systemVendor>{vendor}</systemVendor>
    <systemModel>{model}</systemModel>
    <systemFieldStrength_T>2.89362</systemFieldStrength_T>
  </acquisitionSystemInformation>
  <experimentalConditions>
    <H1resonanceFrequency_Hz>123249951</H1resonanceFrequency_Hz>
  </experimentalConditions>
  <encoding>
    <encodedSpace>
      <matrixSize><x>{shape[0]}</x><y>{shape[1]}</y><z>1</z></matrixSize>
      <fieldOfView_mm><x>{field[0]}</x><y>{field[1]}</y><z>5</z></fieldOfView_mm>
    </encodedSpace>
    <reconSpace>
      <matrixSize><x>{recon[0]}</x><y>{recon[1]}</y><z>1</z></matrixSize>
      <fieldOfView_mm><x>{recon_field[0]}</x><y>{recon_field[1]}</y><z>5</z></fieldOfView_mm>
    </reconSpace>
    <encodingLimits>{limits}</encodingLimits>
    <trajectory>{trajectory}</trajectory>
    {more}
  </encoding>
  {parameters}
</ismrmrdHeader>"""
LIMITS = """<kspace_encoding_step_1>
      <minimum>0</minimum><maximum>{last}</maximum><center>{center}</center>
    </kspace_encoding_step_1>"""


def ismrmrd_header(
    shape: tuple[int, int],
    *,
    recon: tuple[int, int] | None = None,
    center: int | None = None,
    last: int | None = None,
    limits: str = LIMITS,
    vendor: str = "SIEMENS",
    model: str = "Skyra",
    patient: str = "patient-1",
    trajectory: str = "cartesian",
    more: str = "",
    parameters: str = "",
) -> str:
    """A header of square pixels of 2 mm."""
    recon = recon or shape
    return HEADER.format(
        shape=shape,
        recon=recon,
        field=tuple(2 * n for n in shape),
        recon_field=tuple(2 * n for n in recon),
        limits=limits.format(
            last=shape[1] - 1 if last is None else last,
            center=shape[1] // 2 if center is None else center,
        ),
        vendor=vendor,
        model=model,
        patient=patient,
        trajectory=trajectory,
        more=more,
        parameters=parameters,
    )


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
    header = ismrmrd_header(
        shape, recon=recon, last=end - first - 1, center=width // 2 - first, model="Prisma_fit"
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
