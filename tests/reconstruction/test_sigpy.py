"""Compressed sensing against sigpy: as near to the truth, nearly the same image, and faster."""

import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from activemri.data.phantoms.dataset import PhantomDataset
from activemri.reconstruction.compressed_sensing import TotalVariation, WaveletSensing
from activemri.reconstruction.reconstructor import Measurement, Reconstructor
from tests.reconstruction.scans import nmse, on_grid

WEIGHT = 2e-3
Solve = Callable[[Measurement, int], Tensor]


def four_times_undersampled(size: int, n_scans: int) -> tuple[Measurement, Tensor]:
    """Phantoms with 8 coils, and their targets."""
    dataset = PhantomDataset(
        split="val", matrix_size=(size, size), n_subjects=n_scans, n_coils=8, known_maps=True
    )
    slices = [dataset[position * len(dataset) // n_scans] for position in range(n_scans)]
    mask = torch.zeros(n_scans, 1, size, dtype=torch.bool)
    mask[..., ::6] = True
    mask[..., size // 2 - size // 22 : size // 2 + size // 22] = True
    maps = torch.stack([scan.sensitivity for scan in slices if scan.sensitivity is not None])
    kspace = torch.stack([scan.kspace for scan in slices])
    target = torch.stack([scan.target for scan in slices])
    return on_grid(kspace, mask, maps), target


def of_sigpy(app: str, *, max_iter: int) -> Solve:
    apps = pytest.importorskip("sigpy.mri.app")

    def solve(measurement: Measurement, row: int) -> Tensor:
        assert measurement.operator.sensitivity is not None
        found = getattr(apps, app)(
            measurement.kspace[row].numpy(),
            measurement.operator.sensitivity[row].numpy(),
            lamda=WEIGHT * float(measurement.zero_filled[row].abs().max()),
            max_iter=max_iter,
            show_pbar=False,
        ).run()
        return torch.from_numpy(found)

    return solve


CASES: dict[str, tuple[Reconstructor, str, int]] = {
    "wavelet": (WaveletSensing(WEIGHT, shifts=False), "L1WaveletRecon", 60),
    "wavelet, shifted": (WaveletSensing(WEIGHT), "L1WaveletRecon", 60),
    "total variation": (TotalVariation(WEIGHT), "TotalVariationRecon", 100),
}


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("case", CASES)
def test_the_error_is_at_most_that_of_sigpy_and_takes_less_time_a_slice(case: str) -> None:
    reconstructor, app, max_iter = CASES[case]
    measurement, target = four_times_undersampled(128, 8)
    solve = of_sigpy(app, max_iter=max_iter)
    reconstructor(measurement.of_scan(0))  # whatever is made once
    solve(measurement, 0)
    start = time.perf_counter()
    ours = reconstructor(measurement).image
    middle = time.perf_counter()
    theirs = torch.stack([solve(measurement, row) for row in range(8)])
    seconds = (middle - start, time.perf_counter() - middle)
    errors = nmse(ours.abs(), target), nmse(theirs.abs(), target)
    assert errors[0] < errors[1] + 0.01
    assert seconds[0] < seconds[1]
