"""The XML header that ISMRMRD files carry, and fastMRI's and those modelled on them as well."""

import xml.etree.ElementTree as ElementTree

import h5py

from activemri.data.readers import UnreadableError

KEY = "ismrmrd_header"
FRAME = "encoding/reconSpace/matrixSize"
ENCODED = "encoding/encodedSpace/matrixSize"
LIMITS = "encoding/encodingLimits/kspace_encoding_step_1"
SYSTEM = "acquisitionSystemInformation"
FIELD_STRENGTH = f"{SYSTEM}/systemFieldStrength_T"


def read_header(file: h5py.File) -> ElementTree.Element:
    """The parsed data set `ismrmrd_header` of a fastMRI file.

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
    found = (header_text(header, f"{SYSTEM}/{name}") for name in ("systemVendor", "systemModel"))
    return " ".join(name for name in found if name) or "unknown"


def header_number(element: ElementTree.Element, path: str) -> int | None:
    """A whole number, or None where there is none."""
    value = header_text(element, path)
    return int(value) if value is not None and value.isdigit() else None


def header_text(element: ElementTree.Element, path: str) -> str | None:
    """The text at a path of names, "a/b", or None where no element is or nothing is in it."""
    found = element.findtext("/".join(f"{{*}}{name}" for name in path.split("/")))
    return (found or "").strip() or None
