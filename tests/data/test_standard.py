"""The standard form."""

from itertools import product

import numpy as np
import pytest
import torch

from activemri.data.phantoms.dataset import PhantomDataset
from activemri.data.slices import Slice, measured_samples
from activemri.data.standard import (
    magnitude_reference,
    resize_centered,
    to_matrix,
    with_target,
)
from activemri.mri import fourier
from tests.data.files import random_kspace

SIZES = [(8, 10), (7, 10), (8, 9), (12, 6), (5, 17)]
PAIRS = list(product(SIZES, SIZES))


def scan_of(kspace: torch.Tensor, *, rows: int | None = None, **known: object) -> Slice:
    shape = (rows or kspace.shape[-2], kspace.shape[-1])
    return Slice(
        kspace=kspace,
        target=magnitude_reference(kspace, shape),
        volume="v",
        index=0,
        subject="s",
        volume_max=1.0,
        **known,  # type: ignore[arg-type]
    )


def smooth(height: int, width: int) -> torch.Tensor:
    """A complex object without detail, sampled on any grid over the same field of view."""
    y = (torch.arange(height) - height // 2)[:, None] / height
    x = (torch.arange(width) - width // 2) / width
    wave = torch.polar(torch.ones(height, width), 2 * torch.pi * (y - 2 * x))
    return (2 + wave).to(torch.complex64)


@pytest.mark.parametrize(("old", "new"), PAIRS)
def test_resizing_keeps_the_origin(old: tuple[int, int], new: tuple[int, int]) -> None:
    values = torch.zeros(2, *old)
    values[:, old[0] // 2, old[1] // 2] = 1
    resized = resize_centered(values, new)
    assert resized.shape == (2, *new)
    assert (resized[:, new[0] // 2, new[1] // 2] == 1).all() and resized.sum() == 2


@pytest.mark.parametrize(("old", "new"), PAIRS)
def test_objects_without_detail_look_the_same_on_every_grid(
    old: tuple[int, int], new: tuple[int, int]
) -> None:
    scan = to_matrix(scan_of(fourier.fft2(smooth(*old)).unsqueeze(0)), new)
    torch.testing.assert_close(fourier.ifft2(scan.kspace)[0], smooth(*new), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scan.target, smooth(*new).abs(), rtol=1e-4, atol=1e-5)


def test_growing_and_shrinking_again_changes_nothing() -> None:
    kspace = torch.from_numpy(random_kspace((3, 8, 10)))
    scan = to_matrix(to_matrix(scan_of(kspace), (13, 16)), (8, 10))
    torch.testing.assert_close(scan.kspace, kspace)


def test_a_slice_of_the_right_size_stays_as_it_is() -> None:
    scan = scan_of(torch.from_numpy(random_kspace((3, 8, 10))))
    assert to_matrix(scan, (8, 10)) is scan


def test_padded_lines_are_never_acquired_and_known_padding_stays_known() -> None:
    kspace = torch.from_numpy(random_kspace((2, 8, 10)))
    kspace[..., 0] = 0
    grown = to_matrix(scan_of(kspace), (8, 14))
    assert grown.measured.any(dim=0).tolist() == [False] * 3 + [True] * 9 + [False] * 2
    shrunk = to_matrix(scan_of(kspace), (8, 6))
    assert shrunk.measured.all()


def test_removing_oversampling_crops_the_image_and_leaves_columns_alone() -> None:
    kspace = torch.from_numpy(random_kspace((3, 16, 10)))
    kspace[..., 7:] = 0
    scan = to_matrix(scan_of(kspace, rows=8), (8, 10))
    image = fourier.ifft2(kspace)[:, 4:12]
    torch.testing.assert_close(fourier.ifft2(scan.kspace), image)
    torch.testing.assert_close(scan.target, magnitude_reference(kspace, (8, 10)))
    assert scan.measured.any(dim=0).tolist() == [True] * 7 + [False] * 3
    assert torch.equal((scan.kspace.abs() > 1e-5).any(dim=0), scan.measured)


def test_rows_that_were_never_acquired_stay_unmeasured_when_oversampling_is_removed() -> None:
    kspace = torch.from_numpy(random_kspace((1, 16, 10)))
    kspace[:, :6] = 0  # partial echo: 6 of 16 rows, 3 of 8 without oversampling
    scan = to_matrix(scan_of(kspace, rows=8), (8, 10))
    assert scan.measured.any(dim=1).tolist() == [False] * 3 + [True] * 5


def test_everything_done_is_recorded() -> None:
    scan = scan_of(torch.from_numpy(random_kspace((1, 16, 10))), rows=8, processing=("before",))
    assert to_matrix(scan, (8, 6)).processing == (
        "before",
        "image cropped to 8 rows along the readout",
        "k-space brought to 8 x 6",
    )


def test_sensitivities_keep_unit_norm_and_combine_to_the_target() -> None:
    height, width = 32, 40
    y = torch.linspace(-1, 1, height)[:, None]
    maps = torch.stack([torch.exp(-((y - c) ** 2)).expand(height, width) for c in (-1, 0, 1)])
    maps = (maps / torch.linalg.vector_norm(maps, dim=0)).to(torch.complex64)
    maps = maps * torch.polar(torch.ones(3, 1, 1), torch.tensor([0.0, 1.0, 2.0])[:, None, None])
    scan = scan_of(fourier.fft2(maps * smooth(height, width)), sensitivity=maps)
    small = to_matrix(scan, (24, 26))
    assert small.sensitivity is not None
    norm = torch.linalg.vector_norm(small.sensitivity, dim=0)
    torch.testing.assert_close(norm, torch.ones(24, 26))
    # Away from the edge, where the Fourier crop rings because the maps do not wrap around.
    torch.testing.assert_close(small.target[5:-5], smooth(24, 26).abs()[5:-5], rtol=0.03, atol=0.03)


def test_the_result_does_not_depend_on_the_coil_order() -> None:
    kspace = torch.from_numpy(random_kspace((3, 8, 10)))
    np.testing.assert_allclose(
        to_matrix(scan_of(kspace), (6, 6)).target,
        to_matrix(scan_of(kspace.flip(0)), (6, 6)).target,
        rtol=1e-5,
    )


@pytest.mark.parametrize("seed", range(20))
def test_lines_that_any_coil_holds_count_as_measured(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    present = torch.rand(3, 6, 7, generator=generator) < 0.15
    present[0, :, :3] = False
    kspace = torch.randn(present.shape, dtype=torch.complex64, generator=generator) * present
    anywhere = present.any(dim=0)
    expected = anywhere.any(dim=0, keepdim=True) & anywhere.any(dim=1, keepdim=True)
    assert torch.equal(measured_samples(kspace), expected)


def test_the_combined_target_has_the_noise_of_one_image_and_rss_that_of_all_coils() -> None:
    scan = PhantomDataset(n_coils=8, matrix_size=(64, 64), n_subjects=1)[1]
    combined, rss = with_target(scan, "combined").target, with_target(scan, "rss").target
    air = scan.target < 0.05 * scan.target.max()
    # true maps and ESPIRiT's give nearly the same; eight coils add up the root of eight
    assert float((combined - scan.target).norm() / scan.target.norm()) < 0.02
    assert 2 < float(rss[air].mean() / combined[air].mean()) < 4


def test_scans_of_one_coil_have_one_target() -> None:
    scan = scan_of(torch.from_numpy(random_kspace((1, 8, 10))))
    assert with_target(scan, "rss") is scan
    targets = [magnitude_reference(scan.kspace, target=name) for name in ("combined", "rss")]
    assert torch.equal(*targets)
