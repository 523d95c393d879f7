"""Small scans that hold random numbers, and every policy."""

from collections.abc import Callable

import pytest
import torch

from activemri.data.slices import Slice
from activemri.envs.scan import Scan
from activemri.mri import fourier
from activemri.reconstruction.zero_filled import ZeroFilled
from tests.envs.scans import Unsure, grouped

MakeScan = Callable[..., Slice]
MakeProtocol = Callable[..., Scan]


@pytest.fixture(scope="session")
def make_scan() -> MakeScan:
    """A scan of a random object, with k-space that is strongest at its centre."""

    def make(seed: int, shape: tuple[int, int] = (9, 13), n_coils: int = 1) -> Slice:
        generator = torch.Generator().manual_seed(seed)
        place = [torch.arange(n) - n // 2 for n in shape]
        distance = torch.cartesian_prod(*place).double().norm(dim=-1).reshape(shape)
        noise = torch.randn(n_coils, *shape, dtype=torch.complex64, generator=generator)
        kspace = noise / (1 + distance.float())
        target = fourier.ifft2(kspace).abs().square().sum(dim=0).sqrt()
        sensitivity = None
        if n_coils > 1:
            maps = torch.randn(n_coils, *shape, dtype=torch.complex64, generator=generator)
            sensitivity = maps / maps.abs().square().sum(dim=0, keepdim=True).sqrt()
        return Slice(
            kspace,
            target,
            f"volume{seed}",
            seed % 3,
            f"subject{seed}",
            float(target.max()),
            sensitivity=sensitivity,
        )

    return make


@pytest.fixture(scope="session")
def make_protocol() -> MakeProtocol:
    def make(
        geometry: str = "columns",
        frame: tuple[int, int] = (9, 13),
        *,
        lines_per_action: int = 1,
        budget: int | None = 5,
        n_center_lines: int = 2,
        n_random_lines: int = 0,
        unsure: bool = False,
    ) -> Scan:
        return Scan(
            grouped(geometry, frame, lines_per_action),
            Unsure() if unsure else ZeroFilled(),
            budget=budget,
            n_center_lines=n_center_lines,
            n_random_lines=n_random_lines,
        )

    return make
