"""The SKM-TEA data set: knee, 3-D double echo in steady state (Desai et al. 2021)."""

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from activemri.data.formats import stored
from activemri.data.formats.nifti import NIFTI
from activemri.data.readers import Reader, UnreadableError, Volume, require_size
from activemri.data.slices import Slice
from activemri.mri import coils, fourier

KSPACE_AXES = "(x, ky, kz, echo, coil)"
SCALE = 2.0**-20  # images have values around 1e7
#: Smallest correlation of the stored image with that of k-space and maps. The scanner's noise and
#: another scale leave it near 1; another Fourier convention, or maps of other coils, brings it to
#: about 0.
AGREEMENT = 0.5

#: Largest share of lines that may be missing between the first and the last: parallel imaging may
#: leave gaps at the rim. Without it half of the lines are missing.
MISSING = 0.25

#: Values of a segmentation, in order; 0 is everything else.
TISSUES = (
    "patellar cartilage",
    "femoral cartilage",
    "medial tibial cartilage",
    "lateral tibial cartilage",
    "medial meniscus",
    "lateral meniscus",
)


@dataclass(frozen=True)
class SKMTEAReader(Reader):
    """Reads the files of SKM-TEA's raw data track (`files_recon_calib-24`).

    They hold `kspace`, already transformed along the readout x, coil maps `maps` (x, ky, kz, coil,
    1) and the image `target` (x, ky, kz, echo, 1), which serves as a check. With n positions along
    x, slice i is the plane (ky, kz) at i % n in echo i // n. Corners and padding are zeros and were
    never measured. Every second line between them was filled in by parallel imaging (ARC) before
    publication; nothing in the files says which, so they count as measured.

    `Slice.label` is the segmentation, int64 (height, width): 0 or the number, from 1, of a tissue
    in :data:`TISSUES`, or None where `segmentation_masks/raw-data-track/NAME.nii.gz` is not beside
    the folder of the file.
    """

    name: str = "skm-tea"

    def recognises(self, file: h5py.File) -> bool:
        return "kspace" in file and "maps" in file

    def describe(self, file: h5py.File) -> Volume:
        kspace = stored.samples(file, "kspace", ndim=(5,), axes=KSPACE_AXES, kind="complex")
        n_x, height, width, n_echoes, n_coils = kspace.shape
        require_size(n_x * n_echoes, (height, width), n_coils)
        for key, last, size in (("maps", "coil", n_coils), ("target", "echo", n_echoes)):
            if key in file:
                axes = f"(x, ky, kz, {last}, map)"
                stored.samples(file, key, ndim=(5,), axes=axes, kind="complex")
                stored.require_shape(file, key, (n_x, height, width, size, 1))
        volume = Volume(
            name=stored.stem(file),
            subject=stored.stem(file),
            n_slices=n_x * n_echoes,
            shape=(height, width),
            target_shape=(height, width),
            n_coils=n_coils,
            contrast="qDESS",
        )
        # The middle slice of echo 0 shows what was not filled in or follows other conventions.
        scan = self.read(file, volume, n_x // 2)
        for axis, name in ((1, "ky"), (0, "kz")):
            lines = scan.measured.any(dim=axis).nonzero()
            extent = int(lines[-1] - lines[0]) + 1 if len(lines) else 0
            if extent - len(lines) > MISSING * extent:
                raise UnreadableError(
                    f"undersampled: of {extent} lines along {name} {extent - len(lines)} are "
                    "missing; expected k-space filled in by parallel imaging"
                )
        if "target" in file and scan.sensitivity is not None:
            target = stored.read(file["target"], (n_x // 2, ..., 0, 0))
            image = coils.combine(fourier.ifft2(scan.kspace), scan.sensitivity)
            norm = torch.linalg.vector_norm
            agreement = float(((target / norm(target)).conj() * (image / norm(image))).sum().abs())
            if agreement < AGREEMENT:
                raise UnreadableError(
                    f"the stored image correlates by only {agreement:.2f} with that of 'kspace' "
                    "and 'maps'; expected a centred Fourier transform and maps of these coils"
                )
        return volume

    def read(self, file: h5py.File, volume: Volume, index: int) -> Slice:
        echo, x = divmod(index, file["kspace"].shape[0])
        samples = stored.read(file["kspace"], (x, slice(None), slice(None), echo))
        kspace = samples.permute(2, 0, 1).contiguous()
        maps = stored.read(file["maps"], (x, ..., 0)).permute(2, 0, 1).contiguous()
        norm = coils.root_sum_of_squares(maps)
        if not bool(norm.any()):
            raise UnreadableError("the coil maps are all zero")
        tiny = torch.finfo(norm.dtype).tiny
        return volume.slice(
            index,
            kspace=kspace,
            scale=SCALE,
            measured=(kspace != 0).any(dim=0),
            sensitivity=torch.where(
                norm > tiny, maps / norm.clamp_min(tiny), torch.zeros_like(maps)
            ),
            label=_segmentation(file, x),
            processing=(
                "lines that parallel imaging had skipped were filled in before publication (ARC)",
                "coil maps divided by their norm",
            ),
        )


def _segmentation(file: h5py.File, x: int) -> Tensor | None:
    root = Path(file.filename).absolute().parent.parent
    path = root / "segmentation_masks" / "raw-data-track" / f"{stored.stem(file)}.nii.gz"
    if not path.exists():
        return None
    try:
        segmentation, shape = NIFTI.open(path), file["kspace"].shape[:3]
        if segmentation.stored_shape != shape:
            raise UnreadableError(
                f"expected the shape {shape}, as of 'kspace'; got {segmentation.stored_shape}"
            )
        values = segmentation.stored((x, slice(None), slice(None)))
        if not np.isin(values, range(len(TISSUES) + 1)).all():
            raise UnreadableError(f"expected whole numbers from 0 to {len(TISSUES)}")
        return torch.from_numpy(values).long()
    except UnreadableError as error:
        raise UnreadableError(f"the segmentation {path.name}: {error}") from error
