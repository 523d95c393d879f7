"""Writes small scans in the layouts of published collections of raw data."""

from pathlib import Path

import h5py
import numpy as np

from tests.data.files import HEADER, Array, random_kspace, rss, to_image

#: The parts of an M4Raw header that matter here, as the data set publishes them. The namespace has
#: a prefix, and the order of the dimensions is not that of the samples.
M4RAW_HEADER = """<ns0:ismrmrdHeader xmlns:ns0="http://www.ismrm.org/ISMRMRD"
    xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
    xsi:schemaLocation="http://www.ismrm.org/ISMRMRD ismrmrd.xsd">
  <ns0:studyInformation>
    <ns0:studyUID>{study}</ns0:studyUID>
    <ns0:studyTime>165418</ns0:studyTime>
  </ns0:studyInformation>
  <ns0:measurementInformation>
    <ns0:measurementID>{study}_FSE01</ns0:measurementID>
    <ns0:protocolName>FSE(Sat) 5mmT--V</ns0:protocolName>
  </ns0:measurementInformation>
  <ns0:acquisitionSystemInformation>
    <ns0:systemVendor> XinGaoYi Medical Equipment Co.,Ltd.</ns0:systemVendor>
    <ns0:systemModel>XGY OPER-0.3</ns0:systemModel>
    <ns0:systemFieldStrength_T>0.3</ns0:systemFieldStrength_T>
    <ns0:receiverChannels>4</ns0:receiverChannels>
  </ns0:acquisitionSystemInformation>
  <ns0:encoding>
    <ns0:encodedSpace>
      <ns0:matrixSize><ns0:x>{height}</ns0:x><ns0:y>{width}</ns0:y><ns0:z>1</ns0:z></ns0:matrixSize>
    </ns0:encodedSpace>
    <ns0:reconSpace>
      <ns0:matrixSize><ns0:x>{height}</ns0:x><ns0:y>{width}</ns0:y><ns0:z>1</ns0:z></ns0:matrixSize>
    </ns0:reconSpace>
    <ns0:trajectory>cartesian</ns0:trajectory>
    <ns0:encodingLimits>
      <ns0:kspace_encoding_step_1>
        <ns0:minimum>0</ns0:minimum>
        <ns0:maximum>{last}</ns0:maximum>
        <ns0:center>{center}</ns0:center>
      </ns0:kspace_encoding_step_1>
    </ns0:encodingLimits>
  </ns0:encoding>
  <ns0:kspaceDimension>
    <ns0:Dim><ns0:DimName>PE</ns0:DimName><ns0:DimOrder>2</ns0:DimOrder></ns0:Dim>
    <ns0:Dim><ns0:DimName>FE</ns0:DimName><ns0:DimOrder>3</ns0:DimOrder></ns0:Dim>
  </ns0:kspaceDimension>
</ns0:ismrmrdHeader>"""


def write_m4raw(
    path: Path,
    *,
    shape: tuple[int, int, int, int] = (3, 4, 12, 14),
    padding: tuple[int, int] = (2, 1),
    study: str = "2022061003",
    acquisition: str = "AXT2",
    patient: str = "88448eec274d9248d1a2487a8548ee41",
    seed: int = 0,
) -> Array:
    """A repetition as M4Raw publishes it; returns its k-space (slice, coil, readout, encode).

    As in the published files the header's limits and the columns that were acquired differ by one.
    """
    kspace = random_kspace(shape, seed) * np.complex64(10)
    first, end = padding[0], shape[-1] - padding[1]
    kspace[..., :first] = 0
    kspace[..., end:] = 0
    header = M4RAW_HEADER.format(
        study=study,
        height=shape[-2],
        width=shape[-1],
        last=end - first,
        center=shape[-1] // 2 - first - 1,
    )
    target = rss(kspace)
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["kspace"] = kspace
        file["ismrmrd_header"] = header.encode()
        file["reconstruction_rss"] = target.astype(np.float32)
        file.attrs["acquisition"] = acquisition
        file.attrs["max"] = target.max()
        file.attrs["patient_id"] = patient
    return kspace


def write_skm_tea(
    path: Path,
    *,
    shape: tuple[int, int, int, int, int] = (3, 12, 10, 2, 4),
    padding: int = 1,
    norm: float = 0.5,
    target: bool = True,
    seed: int = 0,
) -> tuple[Array, Array]:
    """A file of SKM-TEA's raw data track; returns `kspace` and `maps` as they are stored.

    k-space is an ellipse inside of padding, the maps are not of unit norm and vanish in a corner.
    """
    n_x, height, width, n_echoes, n_coils = shape
    rng = np.random.default_rng(seed)
    maps_shape = (n_x, height, width, n_coils, 1)
    maps = (rng.normal(size=maps_shape) + 1j * rng.normal(size=maps_shape)).astype(np.complex64)
    maps *= norm / np.linalg.norm(maps, axis=3, keepdims=True)
    maps[:, :2, :2] = 0
    kspace = np.moveaxis(
        random_kspace((n_x, n_echoes, n_coils, height, width), seed), (1, 2), (3, 4)
    )
    y = (np.arange(height) - height // 2) / (height / 2 - padding)
    z = (np.arange(width) - width // 2) / (width / 2 - padding)
    outside = y[:, None] ** 2 + z**2 > 1
    kspace = np.ascontiguousarray(kspace * np.float32(1e7))
    kspace[:, outside] = 0
    images = np.moveaxis(to_image(np.moveaxis(kspace, (3, 4), (1, 2))), (1, 2), (3, 4))
    image = (maps[:, :, :, None, :, 0].conj() * images).sum(axis=-1)
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["kspace"] = kspace
        file["maps"] = maps
        if target:
            file["target"] = image[..., None].astype(np.complex64)
        file["masks/poisson_6.0x"] = rng.random((height, width)) < 1 / 6
    return kspace, maps


def write_prostate(
    path: Path,
    *,
    shape: tuple[int, int, int, int] = (3, 2, 20, 9),
    width: int = 14,
    center: int = 5,
    recon: tuple[int, int] = (10, 10),
    reference: bool = True,
    averages: int = 3,
    patient: str = "patient-1",
    seed: int = 0,
) -> Array:
    """A T2 file of fastMRI prostate; returns the lines (slice, coil, readout, phase encode).

    The first and third average have the odd lines, the second the even ones.
    """
    n_slices, n_coils, height, n_lines = shape
    lines = random_kspace(shape, seed) * np.complex64(1e-6)
    kspace = np.zeros((averages, *shape), np.complex64)
    for average in range(averages):
        start = 1 - average % 2
        kspace[average, ..., start::2] = lines[..., start::2]
    header = HEADER.format(
        tesla=2.8936200141906738,
        height=height,
        width=width,
        recon_height=recon[0],
        recon_width=recon[1],
        last_row=height - 1,
        center_row=height // 2,
        last=n_lines - 1,
        center=center,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["kspace"] = kspace
        file["calibration_data"] = random_kspace((n_slices, n_coils, height, 4), seed + 1)
        file["ismrmrd_header"] = header.encode()
        if reference:
            file["reconstruction_rss"] = np.ones((n_slices, *recon), np.float32)
            file.attrs["max"] = 1.0
            file.attrs["norm"] = 1.0
        file.attrs["acquisition"] = "AXT2"
        file.attrs["patient_id"] = patient
    return lines


def write_breast(path: Path) -> None:
    """A file of fastMRI breast: real and imaginary part of radial spokes."""
    rng = np.random.default_rng(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["kspace"] = rng.normal(size=(2, 5, 8, 3, 4)).astype(np.float32)
