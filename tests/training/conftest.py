from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from activemri.data.slices import Slice, SliceList
from activemri.mri import fourier
from activemri.settings import TrainReconstructorSettings

MakeScans = Callable[..., SliceList]
MakeSettings = Callable[..., TrainReconstructorSettings]


def discs(
    subjects: Sequence[str],
    *,
    shape: tuple[int, int] = (12, 18),
    target_shape: tuple[int, int] | None = None,
    n_coils: int = 1,
    maps: bool = False,
) -> SliceList:
    """Two slices of a few soft ellipses for each subject."""
    slices = []
    for number, subject in enumerate(subjects):
        generator = torch.Generator().manual_seed(number + 100 * len(subject))
        for index in range(2):
            slices.append(_disc(generator, subject, index, shape, target_shape, n_coils, maps))
    return SliceList(slices, "discs")


def _disc(
    generator: torch.Generator,
    subject: str,
    index: int,
    shape: tuple[int, int],
    target_shape: tuple[int, int] | None,
    n_coils: int,
    maps: bool,
) -> Slice:
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in shape), indexing="ij")
    image = torch.zeros(shape, dtype=torch.complex64)
    for a, b, r, value, angle in torch.rand(4, 5, generator=generator).tolist():
        inside = ((x - a + 0.5) ** 2 + (y - b + 0.5) ** 2 - r) * 20
        phase = torch.exp(1j * (angle + 0.5 * x))
        image += (value + 0.2) * torch.sigmoid(-inside) * phase
    sensitivity = torch.stack([torch.exp(1j * (c + x)) * (1.2 + c - y) for c in range(n_coils)])
    sensitivity = sensitivity / torch.linalg.vector_norm(sensitivity, dim=0)
    if n_coils == 1:
        sensitivity = torch.ones(1, *shape, dtype=torch.complex64)
    height, width = target_shape or shape
    top, left = (shape[0] - height) // 2, (shape[1] - width) // 2
    target = image.abs()[top : top + height, left : left + width].contiguous()
    return Slice(
        kspace=fourier.fft2(sensitivity * image),
        target=target,
        volume=f"volume-{subject}",
        index=index,
        subject=subject,
        volume_max=target.max().item(),
        sensitivity=sensitivity if maps and n_coils > 1 else None,
    )


@pytest.fixture
def make_scans() -> MakeScans:
    return discs


@pytest.fixture
def make_settings(tmp_path: Path) -> MakeSettings:
    """Settings of a training of a second."""

    def made(**changes: object) -> TrainReconstructorSettings:
        tiny: dict[str, object] = {
            "out": tmp_path / "run",
            "max_steps": 6,
            "validate_every": 2,
            "batch_size": 2,
            "name": "unet",
            "network": ("channels=2", "pools=1"),
            "n_center_lines": 4,
            "budget": 6,
            "lr": 1e-2,
            "threads": 1,
            "images": 0,
        }
        return TrainReconstructorSettings(**{**tiny, **changes})  # type: ignore[arg-type]

    return made
