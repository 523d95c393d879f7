"""The Calgary-Campinas multi-channel raw data: brain, 3-D, T1-weighted (Souza et al. 2018)."""

import math
import re
from dataclasses import dataclass

import h5py
import numpy as np
import torch
from torch import Tensor

from activemri.data.formats import stored
from activemri.data.formats.stored import refuse_undersampled
from activemri.data.readers import Reader, UnreadableError, Volume, require_size
from activemri.data.slices import Slice
from activemri.mri import fourier

KSPACE_AXES = "(slice, ky, kz, real and imaginary parts of the coils in turn)"
#: The scans stopped after this share of kz (of the slice encodes); the rest is filled.
ACQUIRED_PERCENT = 85
SCALE = 2.0**-10  # the scanner's integers lead to large values
EXAM = re.compile(r"(e\d+)s\d+_P\d+")


@dataclass(frozen=True)
class CalgaryCampinasReader(Reader):
    """Reads the multi-channel sets (12 or 32 channels) of the reconstruction challenge.

    A file holds one head that is Fourier transformed along the readout already. A slice is one
    place along it; its height is ky and its width kz, both of them phase encodes.

    The published code transforms with an FFT without shifts and so sees the head in the middle of
    the image. Samples are multiplied by the phase that gives the same image with the centred
    transform, and by :data:`SCALE`. The last 15 % of kz, and points that are zero in every coil,
    were never acquired. The middle slice shows whether a file keeps to all that.
    """

    name: str = "calgary-campinas"

    def recognises(self, file: h5py.File) -> bool:
        found = file.get("kspace")
        if not isinstance(found, h5py.Dataset) or found.ndim != 4 or found.dtype.kind != "f":
            return False
        _, height, width, n_parts = found.shape
        return bool(n_parts % 2 == 0 and n_parts < min(height, width))

    def describe(self, file: h5py.File) -> Volume:
        kspace = stored.samples(file, "kspace", ndim=(4,), axes=KSPACE_AXES)
        n_slices, height, width, n_parts = kspace.shape
        require_size(n_slices, (height, width), n_parts // 2)
        middle = _samples(file, n_slices // 2)
        if bool(torch.isfinite(torch.view_as_real(middle)).all() and middle.any()):
            _refuse_other_conventions(middle)  # else read() names the slice
        exam = EXAM.match(stored.stem(file))
        return Volume(
            name=stored.stem(file),
            subject=exam.group(1) if exam else stored.stem(file),
            n_slices=n_slices,
            shape=(height, width),
            target_shape=(height, width),
            n_coils=n_parts // 2,
            contrast="T1",
            field_strength=3.0,
            scanner="GE Discovery MR750",
            encoded_columns=(0, _acquired(width)),
        )

    def read(self, file: h5py.File, volume: Volume, index: int) -> Slice:
        kspace = _samples(file, index)
        kspace[:, :, _acquired(volume.shape[1]) :] = 0
        stored.refuse_unusable(kspace, "k-space")
        kspace = _centred(kspace)
        return volume.slice(
            index,
            kspace=kspace,
            scale=SCALE,
            measured=(kspace != 0).any(dim=0),
            processing=(
                "phase of a centred Fourier transform",
                f"beyond {ACQUIRED_PERCENT} % of kz set to zero",
            ),
        )


def _acquired(n_encodes: int) -> int:
    """Number of slice encodes that were acquired, rounded up."""
    return -(-n_encodes * ACQUIRED_PERCENT // 100)


def _samples(file: h5py.File, index: int) -> Tensor:
    """One slice as it is stored, complex64 (coil, height, width)."""
    parts = stored.read(file["kspace"], index)
    pairs = parts.reshape(*parts.shape[:2], -1, 2)
    return torch.view_as_complex(pairs).permute(2, 0, 1).contiguous()


def _centred(kspace: Tensor) -> Tensor:
    """Exchange the FFT's origin of the image, its corner, for its centre."""
    phases = []
    for n in kspace.shape[1:]:
        place = torch.arange(n) - n // 2
        # The product is taken modulo n in whole numbers: for even n phases are exactly 1 and -1.
        turns = ((place * (n // 2)) % n).double() / n
        phase = torch.polar(torch.ones_like(turns), 2 * math.pi * turns)
        phases.append((phase.real.round() + 0j if n % 2 == 0 else phase).to(torch.complex64))
    return kspace * torch.outer(*phases)


def _refuse_other_conventions(kspace: Tensor) -> None:
    refuse_undersampled(kspace)
    energy = kspace.abs().square().sum(dim=0).double()
    height, width = energy.shape
    row, column = divmod(int(energy.argmax()), width)
    if abs(row - height // 2) > height / 4 or abs(column - width // 2) > width / 4:
        raise UnreadableError(
            f"the strongest sample of the middle slice is at ({row}, {column}) of {height} x "
            f"{width}; expected low frequencies in the middle"
        )
    beyond = np.arange(_acquired(width), width)
    opposite = 2 * (width // 2) - beyond
    if energy[:, beyond].sum() > energy[:, opposite].sum() / 2:
        raise UnreadableError(
            f"the last {100 - ACQUIRED_PERCENT} % of kz hold as much as the opposite side; "
            "expected that they were never acquired"
        )
    image = fourier.ifft2(_centred(kspace)).abs().square().sum(dim=0).double()
    rows, columns = height // 4, width // 4
    middle = image[rows : height - rows, columns : width - columns].sum()
    wrapped = image.roll((height // 2, width // 2), (0, 1))
    if middle < wrapped[rows : height - rows, columns : width - columns].sum() / 2:
        raise UnreadableError(
            "the middle slice shows the object at the corners of the image; expected k-space whose "
            "FFT without shifts has it in the middle"
        )
