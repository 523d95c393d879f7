"""The ISMRMRD header, XML, that the fastMRI data sets and those modelled on them carry."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence

import h5py

from activemri.data.readers import UnreadableError

KEY = "ismrmrd_header"
FRAME = ("encoding", "reconSpace", "matrixSize")
ENCODED = ("encoding", "encodedSpace", "matrixSize")
LIMITS = ("encoding", "encodingLimits", "kspace_encoding_step_1")
SYSTEM = "acquisitionSystemInformation"
FIELD_STRENGTH = (SYSTEM, "systemFieldStrength_T")


def read_header(file: h5py.File) -> ElementTree.Element:
    """The parsed data set `ismrmrd_header`.

    Raises:
        UnreadableError: if there is none, or it is not XML.
    """
    if KEY not in file:
        raise UnreadableError(f"no data set {KEY!r}; found {', '.join(sorted(file))}")
    try:
        return ElementTree.fromstring(file[KEY][()])
    except (ElementTree.ParseError, TypeError) as error:
        raise UnreadableError(f"{KEY} is not XML: {error}") from error


def scanner(header: ElementTree.Element) -> str:
    """Maker and model, or "unknown"."""
    found = (header_text(header, (SYSTEM, name)) for name in ("systemVendor", "systemModel"))
    return " ".join(name for name in found if name) or "unknown"


def header_number(header: ElementTree.Element, path: Sequence[str]) -> int | None:
    """A whole number, or None where the header has none there."""
    value = header_text(header, path)
    return int(value) if value is not None and value.isdigit() else None


def header_text(header: ElementTree.Element, path: Sequence[str]) -> str | None:
    """The text of an element, or None where there is no such element or nothing in it."""
    # Imported here: it takes a second (pandas), and indexing alone needs it.
    from fastmri.data.mri_data import et_query

    try:
        found = str(et_query(header, path)).strip()
    except RuntimeError:  # et_query: "Element not found"
        return None
    return None if found in ("", "None") else found  # et_query: "None" of an empty element
