"""Headers and acquisitions of an ISMRMRD file (Inati et al., MRM 77:411, 2017)."""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from activemri.data.formats import stored
from activemri.data.formats.stored import header_number, header_text
from activemri.data.readers import UnreadableError
from activemri.mri.coils import noise_covariance, whitening

#: What de-identified files hold in place of a patient.
NOBODY = re.compile(r"anon|unknown|none|n/?a$|[x0\W_]*$", flags=re.IGNORECASE)

#: Flags of an acquisition; flag n is bit n - 1.
NOISE, CALIBRATION, CALIBRATION_AND_IMAGING, REVERSE = 19, 20, 21, 22
#: Noise, navigators, phase correction, feedback, dummy and surface coil scans, phase stabilization.
NO_IMAGE = (NOISE, 23, 24, 26, 27, 28, 29, 30, 31)

#: Counters that tell images apart, in the order in which they become slices of the volume.
IMAGE_COUNTERS = ("slice", "contrast", "phase", "repetition", "set")

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Header:
    """Parts of the XML header that matter for reading a scan.

    Attributes:
        shape: (readout, phase encodes) of the encoded space.
        target_shape: the same of the reconstructed field of view, in pixels of the encoded grid.
        square_shape: the same in pixels that are as wide as they are high, which is along the
            readout; the encoded grid of radial scans may have as many columns as there are spokes.
        center: number of the line that passes through the centre of k-space, or None.
        last: number of the last line, or None.
        chopped: whether every other line has to change its sign (GE, parameter ChopY of 0).
        trajectory: in lower case, e.g. "cartesian".
        patient: who was scanned, or None.
        labels: contrast, field strength and scanner, as fields of a volume.
    """

    shape: tuple[int, int]
    target_shape: tuple[int, int]
    square_shape: tuple[int, int]
    center: int | None
    last: int | None
    chopped: bool
    trajectory: str
    patient: str | None
    labels: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Acquisitions:
    """Headers of all imaging lines.

    Attributes:
        header: the XML header.
        n_coils: the same for all lines.
        lines: positions in the file, (line,).
        heads: the lines' own headers, (line,).
        images: for each slice of the volume, which lines belong to it.
        whitening: complex (coil, coil), or None without noise scans.
    """

    header: Header
    n_coils: int
    lines: Integers
    heads: NDArray[Any]
    images: tuple[Integers, ...]
    whitening: Tensor | None

    @property
    def sizes(self) -> Integers:
        """Numbers of samples, (line,)."""
        sizes: Integers = self.heads["number_of_samples"].astype(np.int64)
        return sizes

    @property
    def kept(self) -> Integers:
        """First and one past the last sample that is not to be discarded, (line, 2)."""
        pre, post = (self.heads[f"discard_{end}"].astype(np.int64) for end in ("pre", "post"))
        return np.stack([pre, np.maximum(self.sizes - post, 0)], axis=1)

    @property
    def reverse(self) -> NDArray[np.bool_]:
        """True for lines that were read backwards, (line,)."""
        return _flags(self.heads["flags"])(REVERSE)

    def samples(self, file: h5py.File, line: int) -> NDArray[np.complex64]:
        """The samples of one imaging line, (coil, sample)."""
        size = int(self.heads["number_of_samples"][line])
        return _samples(file, int(self.lines[line]), self.n_coils, size)


def groups(file: h5py.File) -> list[str]:
    """Groups that hold a header; the format's own name for them is `dataset`."""
    return [k for k in file if isinstance(file.get(k), h5py.Group) and "xml" in file[k]]


def read_header(file: h5py.File) -> Header:
    """The XML header of the only measurement: its first encoding, which imaging lines use.

    Zeros and blanks around the text, which some converters leave, do not matter.

    Raises:
        UnreadableError: if there are several measurements, the header is not XML or lacks the
            sizes, or what it says rules out a fully sampled truth.
    """
    found = groups(file)
    if len(found) > 1:
        raise UnreadableError(
            f"several measurements in one file ({', '.join(found)}); expected one: split the file"
        )
    texts = np.asarray(file[found[0]]["xml"][()]).ravel()
    xml = texts[0] if len(texts) else ""
    try:
        text = xml.decode("utf-8") if isinstance(xml, bytes) else xml
        root = ElementTree.fromstring(text.strip("\0 \t\r\n"))
    except (ElementTree.ParseError, ValueError) as error:
        raise UnreadableError(f"the ISMRMRD header is not XML: {error}") from error
    encoding = root.find("{*}encoding")
    if encoding is None:
        raise UnreadableError("the ISMRMRD header has no 'encoding'")
    if encoding.find("{*}multiband") is not None:
        raise UnreadableError("slices excited together (multiband); expected one at a time")
    factors = "parallelImaging/accelerationFactor/kspace_encoding_step_"
    undersampled = [header_number(encoding, f"{factors}{axis}") or 1 for axis in (1, 2)]
    if undersampled[0] * undersampled[1] > 1:
        raise UnreadableError(
            f"undersampled (acceleration factor {undersampled[0] * undersampled[1]} in the "
            "header): no fully sampled truth"
        )

    def size(space: str, axis: str) -> int:
        found = header_number(encoding, f"{space}/matrixSize/{axis}")
        if found is None or found < 1:
            raise UnreadableError(f"the ISMRMRD header has no {space} matrixSize {axis}")
        return found

    def millimetres(space: str, axis: str) -> float:
        try:
            return float(header_text(encoding, f"{space}/fieldOfView_mm/{axis}") or 0)
        except ValueError:
            return 0.0

    height, width = (size("encodedSpace", axis) for axis in "xy")
    whole, seen = ([millimetres(s, axis) for axis in "xy"] for s in ("encodedSpace", "reconSpace"))
    target_shape, square_shape = [], []
    for axis, encoded, all_of, part in zip("xy", (height, width), whole, seen, strict=True):
        known = min(all_of, part) > 0
        target = round(encoded * part / all_of) if known else size("reconSpace", axis)
        target_shape.append(max(1, min(target, encoded)))
        known = min(whole[0], *seen) > 0
        square = round(height * part / whole[0]) if known else size("reconSpace", axis)
        square_shape.append(max(1, square))
    chop = [
        header_text(parameter, "value")
        for parameter in root.iterfind("{*}userParameters/{*}userParameterLong")
        if header_text(parameter, "name") == "ChopY"
    ]
    patient = header_text(root, "subjectInformation/patientID")
    limits = "encodingLimits/kspace_encoding_step_1"
    return Header(
        shape=(height, width),
        target_shape=(target_shape[0], target_shape[1]),
        square_shape=(square_shape[0], square_shape[1]),
        center=header_number(encoding, f"{limits}/center"),
        last=header_number(encoding, f"{limits}/maximum") or None,
        chopped=chop[:1] == ["0"],
        trajectory=(header_text(encoding, "trajectory") or "not stated").lower(),
        patient=None if patient is None or NOBODY.match(patient) else patient,
        labels={
            "contrast": header_text(root, "measurementInformation/protocolName") or "unknown",
            **stored.scanner(root),
        },
    )


def read_acquisitions(file: h5py.File, header: Header) -> Acquisitions:
    """The headers of all lines, and the noise of the coils.

    Raises:
        UnreadableError: if there are no imaging lines, or they do not fit together.
    """
    heads = acquisitions(file).fields("head")[:]
    flagged = _flags(heads["flags"])
    calibrating = flagged(CALIBRATION) & ~flagged(CALIBRATION_AND_IMAGING)
    aside = reduce(np.logical_or, (flagged(flag) for flag in NO_IMAGE), calibrating)
    lines = np.flatnonzero(~aside & (heads["encoding_space_ref"] == 0))
    if len(lines) == 0:
        raise UnreadableError(f"no imaging lines among {len(heads)} acquisitions")
    chosen = heads[lines]
    counters = chosen["idx"]
    partitions = len(np.unique(counters["kspace_encode_step_2"]))
    if partitions > 1:
        raise UnreadableError(
            f"3-D: {partitions} values of kspace_encode_step_2; expected a 2-D scan (convert it: "
            "Fourier transform one axis and store the others as slices of 'kspace')"
        )
    keys = np.stack([counters[name] for name in IMAGE_COUNTERS], axis=1)
    which = np.unique(keys, axis=0, return_inverse=True)[1].ravel()
    order = np.argsort(which, kind="stable")
    n_coils = one_value(chosen["active_channels"], "channels")
    return Acquisitions(
        header=header,
        n_coils=n_coils,
        lines=lines,
        heads=chosen,
        images=tuple(np.split(order, np.flatnonzero(np.diff(which[order])) + 1)),
        whitening=_whitening(file, np.flatnonzero(flagged(NOISE)), heads, n_coils),
    )


def acquisitions(file: h5py.File) -> h5py.Dataset:
    """The list of acquisitions, each with `head`, `traj` and `data`."""
    group = file[groups(file)[0]]
    found = group.get("data")
    if found is None:
        raise UnreadableError(f"no acquisitions 'data'; found {', '.join(sorted(group))}")
    names = found.dtype.names if isinstance(found, h5py.Dataset) else None
    if names is None or not {"head", "data"} <= set(names) or found.ndim != 1:
        raise UnreadableError(
            f"'data' must be a list of acquisitions (head, traj, data); {found!r}"
        )
    return found


def one_value(values: NDArray[Any], what: str) -> int:
    """The number above 0 that all lines share."""
    found = np.unique(values)
    if len(found) > 1 or found[0] == 0:
        raise UnreadableError(f"lines differ in their {what}, or have none: {found.tolist()}")
    return int(found[0])


def _flags(words: NDArray[Any]) -> Callable[[int], NDArray[np.bool_]]:
    return lambda flag: (words >> np.uint64(flag - 1)) & np.uint64(1) == 1


def _whitening(
    file: h5py.File, lines: Integers, heads: NDArray[Any], n_coils: int
) -> Tensor | None:
    if len(lines) == 0:
        return None
    channels = one_value(heads["active_channels"][lines], "channels of the noise scans")
    if channels != n_coils:
        raise UnreadableError(f"noise scans have {channels} channels, imaging lines {n_coils}")
    sizes = heads["number_of_samples"].astype(np.int64)
    noise = np.concatenate([_samples(file, i, n_coils, int(sizes[i])) for i in lines], axis=1)
    try:
        return whitening(noise_covariance(torch.from_numpy(noise)))
    except ValueError as error:
        raise UnreadableError(f"noise scans cannot be used: {error}") from error


def _samples(file: h5py.File, line: int, n_coils: int, size: int) -> NDArray[np.complex64]:
    """The samples of one acquisition, (coil, sample)."""
    flat = np.asarray(acquisitions(file).fields("data")[line], np.float32)
    if flat.shape != (2 * n_coils * size,):
        raise UnreadableError(
            f"acquisition {line} holds {flat.size} numbers; expected 2 x {n_coils} channels x "
            f"{size} samples"
        )
    return flat.view(np.complex64).reshape(n_coils, size)
