"""Scans of noise in HDF5 files, for commands that read them."""

from pathlib import Path

import h5py
import numpy as np


def write_noise(folder: Path, *, n_slices: int) -> Path:
    """One volume of 16 x 16 in the train split and one in val; the folder."""
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        (folder / split).mkdir(parents=True)
        with h5py.File(folder / split / f"{split}.h5", "w") as file:
            parts = generator.normal(size=(2, n_slices, 1, 16, 16))
            file["kspace"] = (parts[0] + 1j * parts[1]).astype(np.complex64)
            file.attrs["subject_id"] = split
    return folder
