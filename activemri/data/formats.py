"""The file formats that can be read.

Adding one is one file with a class that satisfies :class:`activemri.data.readers.Reader`, and one
line in :func:`all_readers`. The contract tests then run over it.
"""

import h5py

from activemri.data.fastmri import FastMRIReader
from activemri.data.hdf5 import HDF5Reader
from activemri.data.readers import Reader, UnreadableError


def all_readers(*, synthetic_phase: bool = True) -> tuple[Reader, ...]:
    """Every format, the most specific first: the first that recognises a file reads it.

    Args:
        synthetic_phase: give magnitude-only images a phase and noise; see
            :class:`activemri.data.hdf5.HDF5Reader`.
    """
    return (FastMRIReader(), HDF5Reader(synthetic_phase=synthetic_phase))


def reader_for(file: h5py.File, readers: tuple[Reader, ...]) -> Reader:
    """The first reader that recognises the file.

    Raises:
        UnreadableError: if none does, with what the file holds instead.
    """
    for reader in readers:
        if reader.recognises(file):
            return reader
    keys = ", ".join(sorted(file)[:6]) or "nothing"
    formats = ", ".join(reader.name for reader in readers)
    raise UnreadableError(f"no known layout ({formats}): the file holds {keys}")
