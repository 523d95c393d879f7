"""The CMRxRecon data sets: cardiac cine and mapping (doi 10.1038/s41597-024-03525-4)."""

import re
from dataclasses import dataclass
from math import prod
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from activemri.data.formats import stored
from activemri.data.formats.stored import refuse_undersampled
from activemri.data.readers import Reader, UnreadableError, Volume, require_size
from activemri.data.slices import Slice

#: Names of fully sampled k-space, and whether it has an axis of coils.
FULL = {"kspace_full": True, "kspace_single_full": False, "kspace": True}
KSPACE = re.compile(rf"kspace(_single)?_sub\d+|kus|{'|'.join(FULL)}")
MASK = re.compile(r"mask\d*")
#: Folders that tell people apart: numbers begin anew in each set, centre and scanner.
SUBJECT = re.compile(r"(Training|Validation|Test)Set|Center\d+|\w+_\d\dT_\w+|P\d+")
SCANNER = re.compile(r"([A-Za-z]+)_(\d)(\d)T_(\w+)")  # e.g. Siemens_30T_Vida
SCALE = 4096.0  # raw values of the scanners are small


@dataclass(frozen=True)
class CMRxReconReader(Reader):
    """Reads the fully sampled MATLAB files (version 7.3) of the challenges since 2023.

    MATLAB's axes are reversed in HDF5: (frame or weighting, slice, coil, ky, kx), `kspace_single_*`
    without coils; axes of length one at the front may be missing. A slice of the volume is one
    slice of one frame, all slices of the first frame first. Height is kx, the readout. The
    reference covers the whole field of view: nothing says how far the readout is oversampled.

    Undersampled k-space and sampling masks have no truth and are refused.

    The contrast is the file's name (`cine_sax`, `T1map`), the subject its folder (`P001`) with the
    set, centre and scanner that it is in.
    """

    name: str = "cmrxrecon"

    def recognises(self, file: h5py.File) -> bool:
        named = [key for key in file if KSPACE.fullmatch(key)]
        if named:
            return any(key != "kspace" or _has_parts(file[key]) for key in named)
        return len(file) > 0 and all(MASK.fullmatch(key) for key in file)

    def describe(self, file: h5py.File) -> Volume:
        kspace, lead, n_coils = _kspace(file)
        width, height = kspace.shape[-2:]
        n_slices = prod(lead)
        require_size(n_slices, (height, width), n_coils)
        refuse_undersampled(_samples(file, n_slices // 2))
        folders = Path(file.filename).resolve().parts[:-1]
        people = [folder for folder in folders if SUBJECT.fullmatch(folder)]
        is_named = any(re.fullmatch(r"P\d+", folder) for folder in people)
        # The sets of 2023 and 2024 had one scanner and do not name it; later ones have folders.
        known = kspace.name != "/kspace"
        field_strength, scanner = (3.0, "SIEMENS MAGNETOM Vida") if known else (None, "unknown")
        if match := next((m for f in reversed(folders) if (m := SCANNER.fullmatch(f))), None):
            maker, whole, tenth, model = match.groups()
            field_strength, scanner = float(f"{whole}.{tenth}"), f"{maker} {model}"
        return Volume(
            name=stored.stem(file),
            subject=" ".join(people) if is_named else stored.stem(file),
            n_slices=n_slices,
            shape=(height, width),
            target_shape=(height, width),
            n_coils=n_coils,
            contrast=stored.stem(file),
            field_strength=field_strength,
            scanner=scanner,
        )

    def read(self, file: h5py.File, volume: Volume, index: int) -> Slice:
        kspace = _samples(file, index)
        stored.refuse_unusable(kspace, "k-space")
        refuse_undersampled(kspace)
        return volume.slice(index, kspace=kspace, scale=SCALE)


def _has_parts(found: object) -> bool:
    if not isinstance(found, h5py.Dataset) or found.dtype.names != ("real", "imag"):
        return False
    return all(found.dtype[name].kind in "fiu" for name in found.dtype.names)


def _kspace(file: h5py.File) -> tuple[h5py.Dataset, tuple[int, ...], int]:
    """The one fully sampled k-space of a file, its numbers of frames and slices, and of coils."""
    found = [str(key) for key in file if KSPACE.fullmatch(key)]
    if not found:
        raise UnreadableError(
            f"a sampling mask without k-space; found {', '.join(sorted(file)) or 'nothing'}"
        )
    if len(found) > 1:
        raise UnreadableError(f"several k-spaces in one file ({', '.join(found)}); expected one")
    (name,) = found
    if name not in FULL:
        raise UnreadableError(f"undersampled ({name!r}): no fully sampled truth")
    kspace, with_coils = file[name], FULL[name]
    if not _has_parts(kspace):
        raise UnreadableError(f"{name!r} must have real and imaginary parts; {kspace!r}")
    most = 5 if with_coils else 4
    if not most - 2 <= kspace.ndim <= most:
        axes = "(frame, slice, coil, ky, kx)" if with_coils else "(frame, slice, ky, kx)"
        raise UnreadableError(f"{name!r} must have the axes {axes}; got the shape {kspace.shape}")
    if 0 in kspace.shape:
        raise UnreadableError(f"{name!r} has an empty axis: shape {kspace.shape}")
    if with_coils:
        return kspace, kspace.shape[:-3], kspace.shape[-3]
    return kspace, kspace.shape[:-2], 1


def _samples(file: h5py.File, index: int) -> Tensor:
    """One slice, complex64 (coil, kx, ky)."""
    kspace, lead, n_coils = _kspace(file)
    width, height = kspace.shape[-2:]
    parts = kspace[np.unravel_index(index, lead) if lead else ()]
    samples = np.empty((n_coils, height, width), np.complex64)
    swapped = parts.reshape(n_coils, width, height).swapaxes(1, 2)
    with np.errstate(over="ignore"):  # the survey finds Inf
        samples.real, samples.imag = swapped["real"], swapped["imag"]
    return torch.from_numpy(samples)
