"""The fastMRI data sets (knee and brain, prostate, breast), and M4Raw: brain at 0.3 T."""

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, replace
from typing import Any

import h5py
import torch
from torch import Tensor

from activemri.data.formats import stored
from activemri.data.formats.stored import header_number, header_text
from activemri.data.readers import MOST_TEXT, Reader, UnreadableError, Volume, require_size
from activemri.data.slices import COMBINED, RSS, Slice, measured_samples

KSPACE_AXES = "(slice, height, width) or (slice, coil, height, width)"
PROSTATE_AXES = "(average, slice, coil, readout, phase encode)"
IMAGE_AXES = "(slice, height, width)"
BREAST_NAME = re.compile(r"fastMRI_breast_\d+_\d+", flags=re.IGNORECASE)
#: Study, contrast, repetition: "2022061003_T201" is the first repetition of T2.
M4RAW_NAME = re.compile(r"(?P<study>\d{6,})_(?P<contrast>T1|T2|FLAIR|GRE)\d{2}")
SCALE = 4096.0  # images of fastMRI have values around 1e-4
#: A column beyond the header's limits counts as padding if its energy is below this share of the
#: strongest column's: remainders of scanner filters. Above it the data are believed.
PADDING_ENERGY = 1e-6


@dataclass(frozen=True)
class FastMRIReader(Reader):
    """Reads knee and brain files (Zbontar et al. 2018), k-space centred and orthonormal as here.

    The reference is `reconstruction_rss` (several coils, the target "rss") or `reconstruction_esc`
    (one coil). Where a file has none, or one that does not fit into the image, it is computed,
    cropped to the matrix size that the header gives. Columns of exact zeros, and columns beyond the
    header's encoding limits that hold next to nothing, were never acquired.

    Refused: undersampled files (the public test sets, which hold a `mask`), and fastMRI breast
    (Solomon et al. 2025): spokes at golden angles in a stack of stars, under a contrast agent.
    """

    scale: float = SCALE  # of all values
    name: str = "fastmri"

    def recognises(self, file: h5py.File) -> bool:
        signs = (stored.HEADER in file, "reconstruction_esc" in file, "acquisition" in file.attrs)
        return "kspace" in file and (any(signs) or _is_breast(file))

    def describe(self, file: h5py.File) -> Volume:
        if _is_breast(file):
            raise UnreadableError(
                "not Cartesian: radial k-space of fastMRI breast (stack of stars); expected "
                "k-space on a grid. Reconstruct images from it and store them as 'image' (slice, "
                "height, width) in an HDF5 file of their own, which the generic reader takes"
            )
        kspace = stored.samples(file, "kspace", ndim=(3, 4), axes=KSPACE_AXES, kind="complex")
        if "mask" in file:
            raise UnreadableError("undersampled (the file holds a mask): no fully sampled truth")
        header = stored.read_header(file)
        height, width = kspace.shape[-2:]
        encoded, place = _place(header)
        if place is not None:
            place = (max(place[0], 0), min(place[1], width)) if encoded == width else None
        reference = _reference(file)
        return Volume(
            n_slices=kspace.shape[0],
            shape=(height, width),
            target_shape=_target_shape(reference, header, (height, width)),
            target=COMBINED if reference is None else RSS,
            n_coils=kspace.shape[1] if kspace.ndim == 4 else 1,
            encoded_columns=place,
            **_labels(file, header),
        )

    def read(self, file: h5py.File, volume: Volume, index: int) -> Slice:
        kspace = stored.read(file["kspace"], index)
        kspace = kspace.unsqueeze(0) if kspace.ndim == 2 else kspace
        reference = _reference(file)
        target = None if reference is None else stored.read(reference, index)
        measured = measured_samples(kspace)
        if volume.encoded_columns is not None:
            beyond = measured.any(dim=0)
            beyond[slice(*volume.encoded_columns)] = False
            if beyond.any():
                energy = kspace.abs().square().sum(dim=(0, 1))
                measured &= ~(beyond & (energy < PADDING_ENERGY * energy.max()))
        return volume.slice(
            index, kspace=kspace, target=target, scale=self.scale, measured=measured
        )


UNSCALED = FastMRIReader(scale=1.0)  # values of M4Raw are around 100


@dataclass(frozen=True)
class M4RawReader(Reader):
    """Reads M4Raw files (Lyu et al. 2023), laid out like those of fastMRI's multi-coil brain.

    A file, "2022061003_T201", is one repetition. The subject is the study ("2022061003"), so that
    no split divides the repetitions and contrasts of a person; nothing says that `patient_id` is
    the same in all of them. The phase encodes lie along the width, whatever `kspaceDimension` in
    the header says; slices with padding along the height and gradient-echo files are refused.
    """

    name: str = "m4raw"

    def recognises(self, file: h5py.File) -> bool:
        if "kspace" not in file or stored.HEADER not in file:
            return False
        found = file[stored.HEADER]
        is_text = isinstance(found, h5py.Dataset) and found.shape == () and found.nbytes < MOST_TEXT
        value = found[()] if is_text else b""
        scanned = isinstance(value, bytes) and b"OPER-0.3" in value
        return scanned or M4RAW_NAME.fullmatch(stored.stem(file)) is not None

    def describe(self, file: h5py.File) -> Volume:
        volume = UNSCALED.describe(file)
        named = M4RAW_NAME.fullmatch(stored.stem(file))
        contrast = stored.text(file, "acquisition")  # e.g. "AXT2"
        if contrast is not None:
            contrast = contrast.upper().removeprefix("AX")
        elif named:
            contrast = named["contrast"]
        if contrast == "GRE":
            raise UnreadableError(
                "gradient-echo scan of M4Raw: its readout lies along the width and its echo far "
                "from the centre of k-space; expected T1, T2 or FLAIR"
            )
        study = header_text(stored.read_header(file), "studyInformation/studyUID")
        study = study or (named and named["study"])
        if study is None:
            raise UnreadableError(
                "neither the header (studyUID) nor the file's name (as in 2022061003_T201.h5) says "
                "who was scanned: splits could divide the repetitions of one person"
            )
        return replace(volume, subject=study, contrast=contrast or "unknown")

    def read(self, file: h5py.File, volume: Volume, index: int) -> Slice:
        scan = UNSCALED.read(file, volume, index)
        if scan.measured.any(dim=0).all() and not scan.measured.any(dim=1).all():
            raise UnreadableError(
                "k-space is padded with zeros along the height alone; expected the readout there, "
                "in full, and the phase encodes along the width"
            )
        return scan


@dataclass(frozen=True)
class FastMRIProstateReader(Reader):
    """Reads the T2-weighted files of fastMRI prostate (Tibrewala et al. 2024).

    Each of the three averages has every second line only: two have the odd lines, one the even
    ones. Every line becomes the mean of the averages that have it, at its place in the header's
    encoded matrix; columns beyond were never measured.

    The reference is computed in the size of the stored `reconstruction_rss`, which is not used: it
    is flipped, and was made by filling in lines of each average with GRAPPA.
    """

    name: str = "fastmri-prostate"

    def recognises(self, file: h5py.File) -> bool:
        return "kspace" in file and "calibration_data" in file

    def describe(self, file: h5py.File) -> Volume:
        if "coil_sens_maps" in file:
            raise UnreadableError(
                "diffusion-weighted scan of fastMRI prostate: its echo-planar k-space is not on a "
                "grid and undersampled; expected a T2 scan (file_prostate_AXT2_...)"
            )
        kspace = stored.samples(file, "kspace", ndim=(5,), axes=PROSTATE_AXES, kind="complex")
        n_averages, n_slices, n_coils, height, n_lines = kspace.shape
        require_size(n_slices, (height, n_lines), n_averages * n_coils)
        header = stored.read_header(file)
        width, place = _place(header)
        if width is None or place is None:
            raise UnreadableError(
                "ismrmrd_header: expected encodedSpace matrixSize y, and center and maximum of "
                "kspace_encoding_step_1, to place the lines"
            )
        first, end = place
        if end - first != n_lines or first < 0 or end > width:
            raise UnreadableError(
                f"{n_lines} lines do not fit the header: lines 0 to {end - first - 1} around "
                f"{width // 2 - first} in a matrix of {width}"
            )
        _averages_of_lines(stored.read(kspace, (slice(None), n_slices // 2, slice(0, 1))))
        key = "reconstruction_rss"
        reference = stored.samples(file, key, ndim=(3,), axes=IMAGE_AXES) if key in file else None
        return Volume(
            n_slices=n_slices,
            shape=(height, width),
            target_shape=_target_shape(reference, header, (height, width)),
            n_coils=n_coils,
            encoded_columns=place,
            **_labels(file, header),
        )

    def read(self, file: h5py.File, volume: Volume, index: int) -> Slice:
        averages = stored.read(file["kspace"], (slice(None), index))
        count = _averages_of_lines(averages)
        assert volume.encoded_columns is not None  # describe() sets it
        columns = slice(*volume.encoded_columns)
        kspace = averages.new_zeros((volume.n_coils, *volume.shape))
        kspace[..., columns] = averages.sum(dim=0) / count.clamp_min(1)
        measured = torch.zeros(volume.shape, dtype=torch.bool)
        measured[:, columns] = count > 0
        done = f"lines averaged over the {len(averages)} interleaved averages that have them"
        return volume.slice(
            index, kspace=kspace, scale=SCALE, measured=measured, processing=(done,)
        )


def _is_breast(file: h5py.File) -> bool:
    """By layout (real and imaginary part along the first of five axes) or by name."""
    kspace = file.get("kspace")
    if not isinstance(kspace, h5py.Dataset):
        return False
    parts = kspace.ndim == 5 and kspace.shape[0] == 2 and kspace.dtype.kind == "f"
    return parts or BREAST_NAME.fullmatch(stored.stem(file)) is not None


def _labels(file: h5py.File, header: ElementTree.Element) -> dict[str, Any]:
    return {
        "name": stored.stem(file),
        "subject": stored.text(file, "patient_id") or stored.stem(file),
        "contrast": stored.text(file, "acquisition") or "unknown",
        **stored.scanner(header),
    }


def _place(header: ElementTree.Element) -> tuple[int | None, tuple[int, int] | None]:
    """Width of the encoded matrix; first column and one past the last that was acquired."""
    limits = "encoding/encodingLimits/kspace_encoding_step_1"
    width = header_number(header, "encoding/encodedSpace/matrixSize/y")
    center = header_number(header, f"{limits}/center")
    last = header_number(header, f"{limits}/maximum")
    if width is None or center is None or last is None:
        return width, None
    return width, (width // 2 - center, width // 2 - center + last + 1)


def _reference(file: h5py.File) -> h5py.Dataset | None:
    """The stored reference that belongs to this k-space, if it fits into its image."""
    kspace = file["kspace"]
    key = "reconstruction_rss" if kspace.ndim == 4 else "reconstruction_esc"
    if key not in file:
        return None
    found = stored.samples(file, key, ndim=(3,), axes=IMAGE_AXES)
    if len(found) != len(kspace):
        raise UnreadableError(f"{key} has {len(found)} slices, k-space has {len(kspace)}")
    # fastMRI's central crop and ours, which keeps n // 2 at n // 2, must be the same.
    fits = (
        size <= frame and (frame - size) // 2 == frame // 2 - size // 2
        for size, frame in zip(found.shape[1:], kspace.shape[-2:], strict=True)
    )
    return found if all(fits) else None


def _target_shape(
    reference: h5py.Dataset | None, header: ElementTree.Element, shape: tuple[int, int]
) -> tuple[int, int]:
    """Size of the stored reference, else that of the header, within the frame."""
    if reference is not None:
        height, width = reference.shape[1:]
    else:
        recon = "encoding/reconSpace/matrixSize"
        height, width = (header_number(header, f"{recon}/{axis}") or 0 for axis in "xy")
    if min(height, width) < 1:
        raise UnreadableError("ismrmrd_header: no reconSpace matrixSize, and no reference stored")
    return min(height, shape[0]), min(width, shape[1])


def _averages_of_lines(averages: Tensor) -> Tensor:
    """Number of averages (average, coil, readout, phase encode) that have each line."""
    count = (averages != 0).any(dim=1).any(dim=1).sum(dim=0)
    present = (count > 0).nonzero()
    extent = int(present[-1] - present[0]) + 1 if len(present) else 0
    if extent > len(present):
        raise UnreadableError(
            f"undersampled: {extent - len(present)} of {extent} lines are in none of the "
            f"{len(averages)} averages; filling them in (GRAPPA) would be no measurement"
        )
    return count
