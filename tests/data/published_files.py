"""Writes small scans in the layouts that data sets are published in."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from tests.data.files import Array, ismrmrd_header, random_kspace, rss, to_image

#: The compound types of an ISMRMRD file, version 1, as the format publishes them.
COUNTERS = np.dtype(
    [
        *((name, "<u2") for name in ("kspace_encode_step_1", "kspace_encode_step_2", "average")),
        *((name, "<u2") for name in ("slice", "contrast", "phase", "repetition", "set", "segment")),
        ("user", "<u2", (8,)),
    ]
)
HEAD = np.dtype(
    [
        ("version", "<u2"),
        ("flags", "<u8"),
        ("measurement_uid", "<u4"),
        ("scan_counter", "<u4"),
        ("acquisition_time_stamp", "<u4"),
        ("physiology_time_stamp", "<u4", (3,)),
        ("number_of_samples", "<u2"),
        ("available_channels", "<u2"),
        ("active_channels", "<u2"),
        ("channel_mask", "<u8", (16,)),
        ("discard_pre", "<u2"),
        ("discard_post", "<u2"),
        ("center_sample", "<u2"),
        ("encoding_space_ref", "<u2"),
        ("trajectory_dimensions", "<u2"),
        ("sample_time_us", "<f4"),
        ("position", "<f4", (3,)),
        ("read_dir", "<f4", (3,)),
        ("phase_dir", "<f4", (3,)),
        ("slice_dir", "<f4", (3,)),
        ("patient_table_position", "<f4", (3,)),
        ("idx", COUNTERS),
        ("user_int", "<i4", (8,)),
        ("user_float", "<f4", (8,)),
    ]
)
ACQUISITION = np.dtype(
    [
        ("head", HEAD),
        ("traj", h5py.vlen_dtype(np.dtype("<f4"))),
        ("data", h5py.vlen_dtype(np.dtype("<f4"))),
    ]
)


@dataclass
class Line:
    """One acquisition: samples (coil, sample), flags by number, counters and fields of its head.

    Its trajectory is (sample, axis), or None.
    """

    samples: Array
    flags: Sequence[int] = ()
    counters: dict[str, int] = field(default_factory=dict)
    head: dict[str, int] = field(default_factory=dict)
    trajectory: NDArray[np.floating] | None = None


def lines_of(
    kspace: Array,
    *,
    center: int | None = None,
    columns: Iterable[int] | None = None,
    **counters: int,
) -> list[Line]:
    """The lines of one image (coil, height, width), of which the header's centre is `center`."""
    height, width = kspace.shape[1:]
    first = 0 if center is None else width // 2 - center
    return [
        Line(
            np.ascontiguousarray(kspace[:, :, column]),
            counters={"kspace_encode_step_1": column - first, **counters},
            head={"center_sample": height // 2},
        )
        for column in (range(width) if columns is None else columns)
    ]


def write_acquisitions(path: Path, header: str, lines: Sequence[Line]) -> None:
    """An ISMRMRD file with these lines in this order."""
    records = np.zeros(len(lines), ACQUISITION)
    for number, line in enumerate(lines):
        head = records[number]["head"]
        head["version"], head["scan_counter"] = 1, number
        head["active_channels"], head["number_of_samples"] = line.samples.shape
        head["flags"] = sum(1 << (flag - 1) for flag in line.flags)
        if line.trajectory is not None:
            head["trajectory_dimensions"] = line.trajectory.shape[1]
        for name, value in line.counters.items():
            head["idx"][name] = value
        for name, value in line.head.items():
            head[name] = value
        records[number]["data"] = line.samples.astype(np.complex64).view(np.float32).ravel()
        positions = np.zeros((0, 0)) if line.trajectory is None else line.trajectory
        records[number]["traj"] = positions.astype(np.float32).ravel()
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        group = file.create_group("dataset")
        xml = group.create_dataset("xml", (1,), dtype=h5py.special_dtype(vlen=bytes))
        xml[0] = header.encode("utf-8", errors="surrogateescape")
        group.create_dataset("data", data=records, maxshape=(None,), chunks=(1,))


def write_ismrmrd(
    path: Path,
    *,
    n_slices: int = 3,
    n_coils: int = 2,
    shape: tuple[int, int] = (20, 14),
    recon: tuple[int, int] | None = None,
    noise: Array | None = None,
    unit: float = 1e-4,
    seed: int = 0,
    **header: Any,
) -> Array:
    """A scan whose slices come interleaved; returns its k-space (slice, coil, height, width).

    Values are as small as Siemens scanners give them.
    """
    kspace = random_kspace((n_slices, n_coils, *shape), seed) * np.complex64(unit)
    lines = [] if noise is None else [Line(noise, flags=[19])]
    each = [lines_of(image, slice=number) for number, image in enumerate(kspace)]
    lines += [line for together in zip(*each, strict=True) for line in together]
    write_acquisitions(path, ismrmrd_header(shape, recon=recon, **header), lines)
    return kspace


def write_calgary(
    path: Path,
    *,
    shape: tuple[int, int, int, int] = (3, 22, 20, 2),
    dtype: str = "<f4",
    seed: int = 0,
) -> Array:
    """A hybrid volume (x, ky, kz, parts of coils), with values as large as published.

    Returns:
        The images that the published transform gives, complex (slice, coil, height, width).
    """
    n_slices, height, width, n_coils = shape
    kspace = random_kspace((n_slices, n_coils, height, width), seed) * np.complex64(1e3)
    kspace[..., -(-width * 85 // 100) :] = 0
    parts = np.empty((n_slices, height, width, 2 * n_coils), dtype)
    parts[..., ::2] = kspace.real.transpose(0, 2, 3, 1)
    parts[..., 1::2] = kspace.imag.transpose(0, 2, 3, 1)
    write_parts(path, parts)
    images = np.fft.ifft2(parts[..., ::2] + 1j * parts[..., 1::2], axes=(1, 2))
    return images.transpose(0, 3, 1, 2).astype(np.complex64)


def write_parts(path: Path, parts: NDArray[np.generic]) -> None:
    """A Calgary-Campinas file that holds just these values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["kspace"] = parts


def write_matlab(path: Path, **arrays: NDArray[np.generic]) -> None:
    """A MATLAB file (version 7.3): axes reversed, complex values as (real, imag)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, values in arrays.items():
            stored: NDArray[Any] = values.T
            if np.iscomplexobj(values):
                real = values.real.dtype
                stored = np.empty(values.T.shape, [("real", real), ("imag", real)])
                stored["real"], stored["imag"] = values.T.real, values.T.imag
            file[name] = stored
            kind = {"f4": "single", "f8": "double"}.get(values.real.dtype.str[1:], "uint8")
            file[name].attrs["MATLAB_class"] = np.bytes_(kind)


def write_cmrxrecon(
    path: Path,
    *,
    key: str = "kspace_full",
    shape: tuple[int, ...] = (20, 14, 3, 2, 4),
    double: bool = False,
    seed: int = 0,
) -> Array:
    """A file with MATLAB's axes (kx, ky, coil, slice, frame), small values; returns its k-space."""
    order = (*range(len(shape) - 1, 1, -1), 0, 1)  # with kx and ky last
    kspace = random_kspace(tuple(shape[axis] for axis in order), seed) * np.complex64(1e-4)
    values = np.ascontiguousarray(kspace.transpose(np.argsort(order)))
    write_matlab(path, **{key: values.astype(np.complex128 if double else np.complex64)})
    return kspace


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
    header = ismrmrd_header(
        (height, width), recon=recon, last=n_lines - 1, center=center, model="Prisma_fit"
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
