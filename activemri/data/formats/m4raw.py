"""The M4Raw data set: brain at 0.3 T, every repetition of a scan a file (Lyu et al. 2023)."""

import re
from dataclasses import dataclass, replace
from typing import ClassVar

import h5py

from activemri.data.formats import stored
from activemri.data.formats.fastmri import FastMRIReader
from activemri.data.formats.stored import HEADER, header_text, read_header
from activemri.data.readers import HDF5, Container, UnreadableError, Volume
from activemri.data.slices import Slice

#: Study, contrast, repetition: "2022061003_T201" is the first repetition of T2.
FILE_NAME = re.compile(r"(?P<study>\d{6,})_(?P<contrast>T1|T2|FLAIR|GRE)\d{2}")
STUDY = "studyInformation/studyUID"
SCANNER = b"OPER-0.3"

#: Values are around 100; they need no scale as those of fastMRI do.
FASTMRI = FastMRIReader(scale=1.0)


@dataclass(frozen=True)
class M4RawReader:
    """Reads M4Raw files, laid out like those of fastMRI's multi-coil brain.

    - Each repetition is a volume, named like its file ("2022061003_T201"). The subject is the
      study ("2022061003"), so that no split divides the repetitions and contrasts of a person;
      `patient_id` is not used, as nothing says that it is the same in all files of a person.
    - The contrast is T1, T2 or FLAIR.
    - The reference is that of one repetition, noise included.
    - k-space is stored (slice, coil, readout, phase encode), 195 of 256 columns acquired, whatever
      the header's `kspaceDimension` says. A slice with padding along the height instead is
      refused.
    - The gradient-echo files (GRE) of version 1.5 have the readout along the width and the echo
      far from the centre, and are refused.
    """

    name: str = "m4raw"
    container: ClassVar[Container] = HDF5

    def recognises(self, file: h5py.File) -> bool:
        if "kspace" not in file or HEADER not in file:
            return False
        value = file[HEADER][()] if isinstance(file[HEADER], h5py.Dataset) else b""
        scanned = isinstance(value, bytes) and SCANNER in value
        return scanned or FILE_NAME.fullmatch(stored.stem(file)) is not None

    def describe(self, file: h5py.File) -> Volume:
        volume = FASTMRI.describe(file)
        named = FILE_NAME.fullmatch(stored.stem(file))
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
        study = header_text(read_header(file), STUDY) or (named and named["study"])
        if study is None:
            raise UnreadableError(
                "neither the header (studyUID) nor the file's name (as in 2022061003_T201.h5) says "
                "who was scanned: splits could divide the repetitions of one person"
            )
        return replace(volume, subject=study, contrast=contrast or "unknown")

    def read(self, file: h5py.File, volume: Volume, index: int) -> Slice:
        scan = FASTMRI.read(file, volume, index)
        if scan.measured.any(dim=0).all() and not scan.measured.any(dim=1).all():
            raise UnreadableError(
                "k-space is padded with zeros along the height alone; expected the readout there, "
                "in full, and the phase encodes along the width"
            )
        return scan
