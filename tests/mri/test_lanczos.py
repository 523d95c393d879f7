import pytest
import torch

from activemri.mri.lanczos import largest_eigenvalue


def test_the_norm_of_each_item_is_found() -> None:
    generator = torch.Generator().manual_seed(0)
    factors = torch.randn(3, 6, 4, dtype=torch.complex128, generator=generator)
    matrices = factors @ factors.mH
    start = torch.randn(3, 6, dtype=torch.complex128, generator=generator)

    def found(steps: int) -> torch.Tensor:
        return largest_eigenvalue(lambda x: (matrices @ x[..., None])[..., 0], start, steps=steps)

    expected = torch.linalg.eigvalsh(matrices)[:, -1]
    torch.testing.assert_close(found(6), expected)
    assert bool((found(3) <= expected * (1 + 1e-12)).all())
    torch.testing.assert_close(found(40), expected)


def test_the_norm_of_nothing_is_zero() -> None:
    assert largest_eigenvalue(lambda x: 0 * x, torch.ones(2, 3, 4)).tolist() == [0, 0]


def test_a_number_of_steps_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="step"):
        largest_eigenvalue(lambda x: x, torch.ones(1, 3), steps=0)
