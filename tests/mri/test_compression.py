"""Coil compression, by its properties."""

import numpy as np
import pytest
import torch
from torch import Tensor

from activemri.mri import fourier
from activemri.mri.coils import (
    biot_savart_sensitivity,
    geometric_compression,
    mix_coils,
    root_sum_of_squares,
    svd_compression,
)

COILS, HEIGHT, WIDTH = 8, 20, 26


def coil_images() -> Tensor:
    """A smooth object seen by coils, complex (coil, height, width)."""
    y = (torch.arange(HEIGHT) - HEIGHT // 2)[:, None] / HEIGHT
    x = (torch.arange(WIDTH) - WIDTH // 2)[None] / WIDTH
    image = torch.exp(-((x / 0.25) ** 2) - (y / 0.3) ** 2)
    maps = biot_savart_sensitivity(COILS, HEIGHT, WIDTH, generator=np.random.default_rng(0))
    return maps * image


def test_all_virtual_coils_together_lose_nothing() -> None:
    kspace = fourier.fft2(coil_images())
    matrix = svd_compression(kspace, COILS)
    torch.testing.assert_close(matrix @ matrix.mH, torch.eye(COILS, dtype=matrix.dtype))
    virtual = root_sum_of_squares(fourier.ifft2(mix_coils(kspace, matrix)))
    torch.testing.assert_close(virtual, root_sum_of_squares(coil_images()), atol=1e-5, rtol=1e-4)


def test_the_first_virtual_coils_hold_as_much_energy_as_any_can() -> None:
    kspace = fourier.fft2(coil_images())
    energy = mix_coils(kspace, svd_compression(kspace, 3)).abs().square().sum()
    values = torch.linalg.svdvals(kspace.flatten(1))
    torch.testing.assert_close(energy, values[:3].square().sum())


def test_combinations_for_each_place_hold_more_energy_than_one_for_all() -> None:
    hybrid = fourier.fft(coil_images(), (-1,))
    one = mix_coils(hybrid, svd_compression(hybrid, 3)).abs().square().sum()
    many = torch.einsum("pvc,cpl->vpl", geometric_compression(hybrid, 3, window=1), hybrid)
    total = hybrid.abs().square().sum()
    lost_by_one, lost_by_many = total - one, total - many.abs().square().sum()
    assert float(lost_by_many) < 0.5 * float(lost_by_one)


def test_virtual_coils_of_neighbouring_places_are_alike() -> None:
    hybrid = fourier.fft(coil_images(), (-1,))
    matrices = geometric_compression(hybrid, 4)
    eye = torch.eye(4, dtype=matrices.dtype).expand(HEIGHT, 4, 4)
    torch.testing.assert_close(matrices @ matrices.mH, eye, atol=1e-5, rtol=0)
    # The nearest rotation leaves a Hermitian, positive overlap: no turn among virtual coils.
    overlap = matrices[:-1] @ matrices[1:].mH
    torch.testing.assert_close(overlap, overlap.mH, atol=1e-4, rtol=0)
    assert float(torch.linalg.eigvalsh(overlap).min()) > 0.5


def test_senseless_numbers_are_refused() -> None:
    hybrid = fourier.fft(coil_images(), (-1,))
    with pytest.raises(ValueError, match="1 to 8 virtual coils; got 9"):
        svd_compression(hybrid, 9)
    with pytest.raises(ValueError, match="odd window"):
        geometric_compression(hybrid, 2, window=4)
