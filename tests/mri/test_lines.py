"""Lines as matrices of rank one: they must add up to the inverse Fourier transform."""

import pytest
import torch
from torch import Tensor

from activemri.mri import fourier, lines
from activemri.mri.geometry import GEOMETRIES, CartesianGeometry, make_geometry

BATCH, COILS = 2, 3
SIZES = [(8, 10), (7, 9), (8, 9)]


@pytest.fixture(params=GEOMETRIES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def random_kspace(size: tuple[int, int]) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(BATCH, COILS, *size, dtype=torch.complex64, generator=generator)


def contribution(kspace: Tensor, line: Tensor, geometry: CartesianGeometry) -> Tensor:
    readout = lines.readouts(kspace, geometry)
    taken = readout[torch.arange(BATCH)[:, None], line]
    size = (kspace.shape[-2], kspace.shape[-1])
    left, right = lines.factors(taken, line, geometry, size)
    return left @ right


@pytest.mark.parametrize("size", SIZES)
def test_all_lines_together_are_the_inverse_transform(name: str, size: tuple[int, int]) -> None:
    kspace, geometry = random_kspace(size), make_geometry(name, size)
    everything = torch.arange(geometry.n_lines).expand(BATCH, -1)
    total = contribution(kspace, everything, geometry)
    assert torch.allclose(total, fourier.ifft2(kspace), atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_some_lines_are_the_inverse_transform_of_those_lines(
    name: str, size: tuple[int, int]
) -> None:
    """Each scan of the batch takes lines of its own, in any order."""
    kspace, geometry = random_kspace(size), make_geometry(name, size)
    generator = torch.Generator().manual_seed(3)
    line = torch.stack([torch.randperm(geometry.n_lines, generator=generator)[:4] for _ in "ab"])
    mask = torch.zeros(BATCH, geometry.n_lines, dtype=torch.bool).scatter(1, line, True)
    expected = fourier.ifft2(kspace * geometry.kspace_mask(mask, size).unsqueeze(1))
    assert torch.allclose(contribution(kspace, line, geometry), expected, atol=1e-5)


def test_waves_of_long_axes_are_exact_to_single_precision() -> None:
    """Phases of a wide axis run to thousands of turns, in which rounding would show."""
    size = (7, 1025)
    generator = torch.Generator().manual_seed(0)
    kspace = torch.randn(1, 1, *size, dtype=torch.complex64, generator=generator)
    geometry = make_geometry("columns", size)
    line = torch.tensor([[0, 1024]])
    mask = torch.zeros(1, 1025, dtype=torch.bool).scatter(1, line, True)
    exact = fourier.ifft2((kspace * geometry.kspace_mask(mask, size)).to(torch.complex128))
    taken = lines.readouts(kspace, geometry)[:, line[0]]
    left, right = lines.factors(taken, line, geometry, size)
    assert ((left @ right) - exact).abs().max() < 1e-6 * exact.abs().max()


def test_k_space_laid_out_by_line_is_read_out_and_put_together_again(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    kspace = torch.randn(2, 3, 6, 9, dtype=torch.complex64, generator=generator)
    geometry = make_geometry(name, (6, 9))
    by_line = lines.lines_of(kspace, geometry)
    assert torch.equal(lines.kspace_of(by_line, geometry, (6, 9)), kspace)
    read = lines.read_out(by_line.contiguous(), geometry)
    torch.testing.assert_close(read, lines.readouts(kspace, geometry))
