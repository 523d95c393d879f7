import pytest
import torch
from torch import Tensor

from activemri.reconstruction.ensemble import Ensemble, pooled
from activemri.reconstruction.reconstructor import Measurement, Reconstruction, Reconstructor
from activemri.reconstruction.zero_filled import ZeroFilled
from tests.reconstruction.scans import on_grid

SIZE = (5, 7)


class Fixed(Reconstructor):
    """Gives what it was made with, whatever was measured."""

    def __init__(self, image: Tensor, uncertainty: Tensor | None = None) -> None:
        super().__init__()
        self.settings = {"image": image, "uncertainty": uncertainty}
        self.result = Reconstruction(image, uncertainty)

    def forward(self, measurement: Measurement) -> Reconstruction:
        return self.result


def images(n: int, *, batch: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(batch, *SIZE, dtype=torch.complex64, generator=generator) for _ in range(n)]


def nothing() -> Measurement:
    mask = torch.ones(2, 1, SIZE[1], dtype=torch.bool)
    return on_grid(torch.zeros(2, 1, *SIZE, dtype=torch.complex64), mask)


def test_image_and_spread_are_those_of_the_members() -> None:
    members = images(3)
    result = Ensemble([Fixed(image) for image in members])(nothing())
    assert torch.allclose(result.image, (members[0] + members[1] + members[2]) / 3)
    assert result.samples is not None and result.uncertainty is not None
    assert torch.equal(result.samples, torch.stack(members, dim=1))
    pixel = torch.tensor([abs(complex(image[1, 2, 3])) for image in members])
    shown = abs(complex(result.image[1, 2, 3]))
    expected = ((pixel - shown).square().sum() / 3).sqrt()
    assert torch.isclose(result.uncertainty[1, 2, 3], expected)


def test_the_uncertainty_is_the_error_expected_under_a_mixture_of_gaussians() -> None:
    members = images(3)
    own = [torch.full((2, *SIZE), s) for s in (0.1, 0.2, 0.6)]
    result = Ensemble([Fixed(*pair) for pair in zip(members, own, strict=True)])(nothing())
    assert result.uncertainty is not None
    generator = torch.Generator().manual_seed(1)
    draws = [
        image[:1].abs() + s[:1] * torch.randn(100_000, *SIZE, generator=generator)
        for image, s in zip(members, own, strict=True)
    ]
    error = torch.cat(draws) - result.image[:1].abs()
    assert torch.allclose(result.uncertainty[0], error.square().mean(dim=0).sqrt(), rtol=0.02)


def test_members_without_uncertainty_of_their_own_do_not_count_as_certain() -> None:
    image = images(1)[0]
    own = torch.full((2, *SIZE), 0.3)
    result = pooled([Reconstruction(image, own), Reconstruction(image)])
    assert result.uncertainty is not None
    assert torch.allclose(result.uncertainty, own)


def test_samples_of_nested_ensembles_are_all_there() -> None:
    a, b, c = (Fixed(image) for image in images(3))
    result = Ensemble([Ensemble([a, b]), c])(nothing())
    assert result.samples is not None
    assert torch.equal(result.samples, torch.stack(images(3), dim=1))


def test_too_few_or_repeated_members_are_refused() -> None:
    one = ZeroFilled()
    with pytest.raises(ValueError, match="at least two members; got 1"):
        Ensemble([one])
    with pytest.raises(ValueError, match="there twice"):
        Ensemble([one, one])
