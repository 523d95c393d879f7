"""The file formats that can be read.

Adding one is one file with a class that satisfies :class:`activemri.data.readers.Reader`, and one
line in :func:`all_readers`. The contract tests then run over it.
"""

from collections.abc import Sequence
from typing import Any

from activemri.data.formats.bart import BARTReader
from activemri.data.formats.calgary_campinas import CalgaryCampinasReader
from activemri.data.formats.cmrxrecon import CMRxReconReader
from activemri.data.formats.dicom import DICOMReader
from activemri.data.formats.fastmri import FastMRIProstateReader, FastMRIReader, M4RawReader
from activemri.data.formats.hdf5 import HDF5Reader
from activemri.data.formats.ismrmrd import ISMRMRDReader
from activemri.data.formats.nifti import NIfTIReader
from activemri.data.formats.skm_tea import SKMTEAReader
from activemri.data.readers import Reader, UnreadableError


def all_readers(*, synthetic_phase: bool = True) -> tuple[Reader, ...]:
    """Every format, the most specific first: the first that recognises a file reads it."""
    return (
        SKMTEAReader(),
        M4RawReader(),
        FastMRIProstateReader(),
        FastMRIReader(),
        ISMRMRDReader(),
        CMRxReconReader(),
        CalgaryCampinasReader(),
        HDF5Reader(synthetic_phase=synthetic_phase),
        NIfTIReader(synthetic_phase=synthetic_phase),
        DICOMReader(synthetic_phase=synthetic_phase),
        BARTReader(),
    )


def reader_for(file: Any, readers: Sequence[Reader]) -> Reader:
    """The first reader, all of one container, that recognises a file which that has opened.

    Raises:
        UnreadableError: if none does, with what the file holds instead.
    """
    for reader in readers:
        if reader.recognises(file):
            return reader
    formats = ", ".join(reader.name for reader in readers)
    keys = ", ".join(sorted(file)[:6]) or "nothing"
    raise UnreadableError(f"no known layout ({formats}): the file holds {keys}")
