"""Data sets, attributes and XML headers of HDF5 files, with reasons where something is missing."""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from types import EllipsisType
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from activemri.data.readers import MOST_TEXT, UnreadableError

HEADER = "ismrmrd_header"  # of fastMRI's files and those modelled on them
#: Scans of which only an ellipse was acquired lack 1 - pi / 4 = 0.21 of the samples; published
#: undersampled sets lack more than half.
MISSING = 0.3


def stem(file: h5py.File) -> str:
    """The file's name without folder and suffix."""
    return Path(file.filename).stem


def samples(
    file: h5py.File, key: str, *, ndim: tuple[int, ...], axes: str, kind: str = "number"
) -> h5py.Dataset:
    """A data set of a kind ("number" or "complex") and axes, or else an UnreadableError."""
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
    if kind == "complex" and found.dtype.kind != "c":
        raise UnreadableError(f"{key!r} must be complex; got {found.dtype}")
    return found


def require_shape(file: h5py.File, key: str, shape: tuple[int, ...]) -> None:
    """Refuse a data set that does not fit `kspace`."""
    found = file[key]
    if not isinstance(found, h5py.Dataset) or found.shape != shape:
        raise UnreadableError(
            f"{key!r} must have the shape {shape}, as 'kspace' has {file['kspace'].shape}; "
            f"got {found!r}"
        )


def read(dataset: h5py.Dataset, part: int | tuple[int | slice | EllipsisType, ...]) -> Tensor:
    """A part of a data set as complex64 or float32; nothing else of it is read."""
    kind = np.complex64 if dataset.dtype.kind == "c" else np.float32
    with np.errstate(over="ignore"):  # Inf, as which the survey finds them
        return torch.from_numpy(np.asarray(dataset[part], dtype=kind))


def text(file: h5py.File, key: str) -> str | None:
    """An attribute as text, or None where it is missing or empty."""
    if key not in file.attrs or file.attrs.get_id(key).get_storage_size() > MOST_TEXT:
        return None
    value = file.attrs[key]
    if isinstance(value, h5py.Empty):
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


def require_one_slice(check: Callable[[int], object], n_slices: int) -> None:
    """Raise the reason of the first slice if `check` raises UnreadableError for all of them."""
    reasons = []
    for index in range(n_slices):
        try:
            check(index)
        except UnreadableError as error:
            reasons.append(error)
        else:
            return
    raise reasons[0]


def refuse_unusable(values: Tensor, what: str) -> None:
    """Refuse NaN, Inf and slices of nothing but zeros by UnreadableError."""
    flat = torch.view_as_real(values) if values.is_complex() else values
    size = torch.linalg.vector_norm(flat, ord=1)  # one look; a sum that overflows needs another
    if not bool(size.isfinite()) and not bool(torch.isfinite(flat).all()):
        raise UnreadableError(f"NaN or Inf in {what}")
    if not bool(size > 0):
        raise UnreadableError(f"{what} is all zero")


def refuse_undersampled(kspace: Tensor) -> None:
    """Refuse k-space (coil, height, width) with columns or many samples missing in its midst.

    Zeros around what was acquired, by zero padding and partial Fourier, are all right.
    """
    present = (kspace != 0).any(dim=0)
    rows, columns = (present.any(dim=axis).nonzero().flatten() for axis in (1, 0))
    if len(columns) == 0:
        return
    within = present[int(rows[0]) : int(rows[-1]) + 1, int(columns[0]) : int(columns[-1]) + 1]
    empty = int((~within.any(dim=0)).sum())
    missing = 1 - float(within.double().mean())
    if empty or missing > MISSING:
        raise UnreadableError(
            f"undersampled ({empty} of {within.shape[1]} columns and {missing:.0%} of the samples "
            "within the acquired range are zero): no fully sampled truth"
        )


def read_header(file: h5py.File, key: str = HEADER) -> ElementTree.Element:
    """A parsed XML header; zeros and blanks around it, left by some converters, do not matter."""
    if key not in file:
        raise UnreadableError(f"no data set {key!r}; found {', '.join(sorted(file))}")
    found = file[key]
    if not isinstance(found, h5py.Dataset) or found.size is None or found.nbytes > MOST_TEXT:
        raise UnreadableError(f"{key} must be a text of at most {MOST_TEXT >> 20} MiB; {found!r}")
    try:
        texts = np.asarray(found[()]).ravel()
        xml = texts[0] if len(texts) else ""
        xml = xml.decode("utf-8") if isinstance(xml, bytes) else xml
        if "<!DOCTYPE" in xml or len(xml) > MOST_TEXT:  # entities may grow without limits
            raise UnreadableError(f"{key} defines entities or is too long; expected a plain header")
        return ElementTree.fromstring(xml.strip("\0 \t\r\n"))
    except UnreadableError:
        raise
    except (ElementTree.ParseError, ValueError, TypeError, AttributeError) as error:
        raise UnreadableError(f"{key} is not XML: {error}") from error


def header_number(element: ElementTree.Element, path: str) -> int | None:
    """A whole number, or None where there is none."""
    value = header_text(element, path) or ""
    return int(value) if re.fullmatch("[0-9]{1,9}", value) else None


def header_text(element: ElementTree.Element, path: str) -> str | None:
    """The text at a path of names, "a/b", or None where no element is or nothing is in it."""
    found = element.findtext("/".join(f"{{*}}{name}" for name in path.split("/")))
    return (found or "").strip() or None


def scanner(header: ElementTree.Element) -> dict[str, Any]:
    """Field strength in tesla or None, and maker and model or "unknown": fields of a volume."""
    system = "acquisitionSystemInformation"
    found = (header_text(header, f"{system}/{name}") for name in ("systemVendor", "systemModel"))
    return {
        "field_strength": tesla(header_text(header, f"{system}/systemFieldStrength_T")),
        "scanner": " ".join(name for name in found if name) or "unknown",
    }
