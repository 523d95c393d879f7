"""Reading data sets and attributes of an HDF5 file, with reasons where something is missing."""

import re
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from activemri.data.readers import UnreadableError


def stem(file: h5py.File) -> str:
    """The file's name without folder and suffix."""
    return Path(file.filename).stem


def samples(file: h5py.File, key: str, *, ndim: tuple[int, ...], axes: str) -> h5py.Dataset:
    """The data set of that name.

    Args:
        file: the open file.
        key: name of the data set.
        ndim: numbers of axes that are understood.
        axes: how they are called, for the message.

    Raises:
        UnreadableError: if it is missing, of another kind, has other axes, or is empty.
    """
    if key not in file:
        raise UnreadableError(f"no data set {key!r}; found {', '.join(sorted(file)) or 'nothing'}")
    found = file[key]
    if not isinstance(found, h5py.Dataset) or found.dtype.kind not in "fciu":
        raise UnreadableError(f"{key!r} must be a numeric array; got {found!r}")
    if found.ndim not in ndim:
        raise UnreadableError(f"{key!r} must have the axes {axes}; got the shape {found.shape}")
    if 0 in found.shape:
        what = "no slices" if found.shape[0] == 0 else "an empty axis"
        raise UnreadableError(f"{key!r} has {what}: shape {found.shape}")
    return found


def read_slice(dataset: h5py.Dataset, index: int) -> Tensor:
    """One slice as complex64 or float32, straight into the memory that is handed out."""
    kind = np.complex64 if dataset.dtype.kind == "c" else np.float32
    out = np.empty(dataset.shape[1:], dtype=kind)
    dataset.read_direct(out, np.s_[index])
    return torch.from_numpy(out)


def read_part(dataset: h5py.Dataset, part: tuple[int | slice, ...]) -> Tensor:
    """A part of a data set as complex64 or float32; nothing else of it is read."""
    kind = np.complex64 if dataset.dtype.kind == "c" else np.float32
    return torch.from_numpy(np.asarray(dataset[part], dtype=kind))


def text(file: h5py.File, key: str) -> str | None:
    """An attribute as text, or None where it is missing or empty."""
    value = file.attrs.get(key)
    if value is None or isinstance(value, h5py.Empty):
        return None
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace")
    return str(value).strip() or None


def tesla(value: str | None) -> float | None:
    """Field strength out of text such as "3T (per the papers)" or "1.494 T"."""
    number = re.match(r"\s*(\d+(?:\.\d+)?)", value or "")
    return float(number.group(1)) if number else None


def refuse_unusable(values: Tensor, what: str) -> None:
    """Refuse NaN, Inf and slices of nothing but zeros.

    Raises:
        UnreadableError: with what was found.
    """
    flat = torch.view_as_real(values) if values.is_complex() else values
    if not bool(torch.isfinite(flat).all()):
        raise UnreadableError(f"NaN or Inf in {what}")
    if not bool(flat.any()):
        raise UnreadableError(f"{what} is all zero")
