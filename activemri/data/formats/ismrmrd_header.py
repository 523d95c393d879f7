"""The XML header of an ISMRMRD file: sizes, limits, labels (Inati et al., MRM 77:411, 2017)."""

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass

from activemri.data.formats import stored
from activemri.data.formats.headers import FIELD_STRENGTH, header_number, header_text, scanner
from activemri.data.readers import UnreadableError

#: What de-identified files hold in place of a patient.
NOBODY = re.compile(r"anon|unknown|none|n/?a$|[x0\W_]*$", flags=re.IGNORECASE)


@dataclass(frozen=True)
class Header:
    """What the header says that matters for reading a scan.

    Attributes:
        shape: (readout, phase encodes) of the encoded space.
        target_shape: the same of the reconstructed field of view, in pixels of the encoded grid.
        square_shape: the same in pixels that are as wide as they are high, which is along the
            readout; the encoded grid of radial scans may have as many columns as there are spokes.
        center: number of the line that passes through the centre of k-space, or None.
        last: number of the last line, or None.
        chopped: whether every other line has to change its sign (GE, parameter ChopY of 0).
        acceleration: by how much it was undersampled, the product over both directions.
        multiband: whether slices were excited together.
        trajectory: in lower case, e.g. "cartesian".
        patient: who was scanned, or None.
        contrast: name of the protocol; "unknown" where there is none.
        field_strength: in tesla, or None.
        scanner: maker and model; "unknown" where there is none.
    """

    shape: tuple[int, int]
    target_shape: tuple[int, int]
    square_shape: tuple[int, int]
    center: int | None
    last: int | None
    chopped: bool
    acceleration: int
    multiband: bool
    trajectory: str
    patient: str | None
    contrast: str
    field_strength: float | None
    scanner: str


def parse_header(xml: bytes | str) -> Header:
    """Read the first encoding, which imaging lines use, and the labels.

    Args:
        xml: as stored; zeros and blanks around it, which some converters leave, do not matter.

    Raises:
        UnreadableError: what is not XML, or lacks the sizes.
    """
    try:
        text = xml.decode("utf-8") if isinstance(xml, bytes) else xml
        root = ElementTree.fromstring(text.strip("\0 \t\r\n"))
    except (ElementTree.ParseError, ValueError) as error:
        raise UnreadableError(f"the ISMRMRD header is not XML: {error}") from error
    encoding = root.find("{*}encoding")
    if encoding is None:
        raise UnreadableError("the ISMRMRD header has no 'encoding'")
    shape = (_size(encoding, "encodedSpace", "x"), _size(encoding, "encodedSpace", "y"))
    factors = "parallelImaging/accelerationFactor/kspace_encoding_step_"
    return Header(
        shape=shape,
        target_shape=(_visible(encoding, "x", shape[0]), _visible(encoding, "y", shape[1])),
        square_shape=_square(encoding, shape[0]),
        center=header_number(encoding, "encodingLimits/kspace_encoding_step_1/center"),
        last=header_number(encoding, "encodingLimits/kspace_encoding_step_1/maximum") or None,
        chopped=_parameter(root, "ChopY") == "0",
        acceleration=(header_number(encoding, f"{factors}1") or 1)
        * (header_number(encoding, f"{factors}2") or 1),
        multiband=encoding.find("{*}multiband") is not None,
        trajectory=(header_text(encoding, "trajectory") or "not stated").lower(),
        patient=_patient(root),
        contrast=header_text(root, "measurementInformation/protocolName") or "unknown",
        field_strength=stored.tesla(header_text(root, FIELD_STRENGTH)),
        scanner=scanner(root),
    )


def _size(encoding: ElementTree.Element, space: str, axis: str) -> int:
    size = header_number(encoding, f"{space}/matrixSize/{axis}")
    if size is None or size < 1:
        raise UnreadableError(f"the ISMRMRD header has no {space} matrixSize {axis}")
    return size


def _visible(encoding: ElementTree.Element, axis: str, encoded: int) -> int:
    """How many pixels of the encoded grid the reconstructed field of view covers."""
    fields = [
        _length(encoding, f"{s}/fieldOfView_mm/{axis}") for s in ("encodedSpace", "reconSpace")
    ]
    if min(fields) > 0:
        size = round(encoded * fields[1] / fields[0])
    else:
        size = _size(encoding, "reconSpace", axis)
    return max(1, min(size, encoded))


def _square(encoding: ElementTree.Element, encoded: int) -> tuple[int, int]:
    """How many pixels the reconstructed field of view has, all as large as along the readout."""
    whole = _length(encoding, "encodedSpace/fieldOfView_mm/x")
    height, width = (_length(encoding, f"reconSpace/fieldOfView_mm/{axis}") for axis in "xy")
    if min(whole, height, width) <= 0:
        return _size(encoding, "reconSpace", "x"), _size(encoding, "reconSpace", "y")
    return max(1, round(encoded * height / whole)), max(1, round(encoded * width / whole))


def _patient(root: ElementTree.Element) -> str | None:
    patient = header_text(root, "subjectInformation/patientID")
    return None if patient is None or NOBODY.match(patient) else patient


def _parameter(root: ElementTree.Element, name: str) -> str | None:
    """What a vendor has to say in a whole number of its own."""
    for found in root.iterfind("{*}userParameters/{*}userParameterLong"):
        if header_text(found, "name") == name:
            return header_text(found, "value")
    return None


def _length(element: ElementTree.Element, path: str) -> float:
    """A length in millimetres; 0 where there is none."""
    try:
        return float(header_text(element, path) or 0)
    except ValueError:
        return 0.0
