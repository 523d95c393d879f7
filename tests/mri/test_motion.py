import math

import pytest
import torch

from activemri.mri import fourier
from activemri.mri.motion import moved

SHAPE = (40, 48)


def blob(down: float, right: float, *, tall: float = 2.0, wide: float = 2.0) -> torch.Tensor:
    """A Gaussian at a place relative to the centre: band-limited for all that matters."""
    y = (torch.arange(SHAPE[0]) - SHAPE[0] // 2)[:, None].double() - down
    x = (torch.arange(SHAPE[1]) - SHAPE[1] // 2).double() - right
    return torch.exp(-(y**2) / (2 * tall**2) - x**2 / (2 * wide**2)).to(torch.complex64)


def some_kspace() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, *SHAPE, dtype=torch.complex64, generator=generator)


def moved_image(image: torch.Tensor, angle: float, shift: tuple[float, float]) -> torch.Tensor:
    return fourier.ifft2(moved(fourier.fft2(image), angle=angle, shift=shift))


def test_a_shift_puts_the_object_elsewhere_by_fractions_of_pixels() -> None:
    shifted = moved_image(blob(1, -2), 0.0, (2.5, 3.25))
    torch.testing.assert_close(shifted, blob(3.5, 1.25), atol=1e-4, rtol=0)


@pytest.mark.parametrize("angle", [-0.4, 0.1, 0.3])
def test_a_rotation_turns_from_right_to_down_about_the_centre(angle: float) -> None:
    turned = moved_image(blob(0, 9), angle, (0.0, 0.0))
    there = blob(9 * math.sin(angle), 9 * math.cos(angle))
    torch.testing.assert_close(turned, there, atol=1e-3, rtol=0)


def test_the_object_itself_turns_and_not_only_its_place() -> None:
    quarter = moved_image(blob(0, 0, tall=2, wide=4), math.pi / 2, (0.0, 0.0))
    torch.testing.assert_close(quarter, blob(0, 0, tall=4, wide=2), atol=1e-3, rtol=0)


def test_it_is_rotated_first_and_shifted_then() -> None:
    both = moved_image(blob(0, 5), 0.2, (3.0, -4.0))
    there = blob(3 + 5 * math.sin(0.2), -4 + 5 * math.cos(0.2))
    torch.testing.assert_close(both, there, atol=1e-3, rtol=0)


def test_energy_is_kept_and_motion_can_be_undone() -> None:
    kspace = some_kspace()
    there = moved(kspace, angle=0.3, shift=(0.0, 0.0))
    torch.testing.assert_close(there.norm(), kspace.norm(), rtol=1e-5, atol=0)
    assert float((there - kspace).norm() / kspace.norm()) > 0.5
    back = moved(there, angle=-0.3, shift=(0.0, 0.0))
    torch.testing.assert_close(back, kspace, atol=1e-4, rtol=0)
    shifted = moved(kspace, angle=0.0, shift=(1.3, -2.6))
    torch.testing.assert_close(shifted.abs(), kspace.abs(), atol=1e-4, rtol=0)
    back = moved(shifted, angle=0.0, shift=(-1.3, 2.6))
    torch.testing.assert_close(back, kspace, atol=1e-4, rtol=0)


def test_all_coils_move_alike() -> None:
    kspace = some_kspace()
    together = moved(kspace, angle=0.2, shift=(1.0, 2.0))
    for coil in range(3):
        alone = moved(kspace[coil], angle=0.2, shift=(1.0, 2.0))
        torch.testing.assert_close(together[coil], alone)
