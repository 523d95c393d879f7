"""fastMRI breast is radial: recognised, so that it is refused with what to do instead."""

import re
from dataclasses import dataclass
from typing import ClassVar, NoReturn

import h5py

from activemri.data.containers import HDF5, Container
from activemri.data.formats import stored
from activemri.data.readers import UnreadableError, Volume
from activemri.data.slices import Slice

FILE_NAME = re.compile(r"fastMRI_breast_\d+_\d+", flags=re.IGNORECASE)


@dataclass(frozen=True)
class FastMRIBreastReader:
    """Refuses the files of fastMRI breast (Solomon et al. 2025).

    Their `kspace`, real with real and imaginary part along the first of five axes, are spokes at
    golden angles in a stack of stars, under a contrast agent: there is no grid, and no fully
    sampled image at one time.
    """

    name: str = "fastmri-breast"
    container: ClassVar[Container] = HDF5

    def recognises(self, file: h5py.File) -> bool:
        kspace = file.get("kspace")
        if not isinstance(kspace, h5py.Dataset):
            return False
        parts = kspace.ndim == 5 and kspace.shape[0] == 2 and kspace.dtype.kind == "f"
        return parts or FILE_NAME.fullmatch(stored.stem(file)) is not None

    def describe(self, file: h5py.File) -> Volume:
        _refuse()

    def read(self, file: h5py.File, volume: Volume, index: int) -> Slice:
        _refuse()


def _refuse() -> NoReturn:
    raise UnreadableError(
        "not Cartesian: radial k-space of fastMRI breast (stack of stars); expected k-space on a "
        "grid. Reconstruct images from it and store them as 'image' (slice, height, width) in an "
        "HDF5 file of their own, which the generic reader takes"
    )
