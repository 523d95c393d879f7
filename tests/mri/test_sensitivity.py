"""Coil maps estimated from the acquired centre: the same promises of every estimator."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from activemri.mri import fourier
from activemri.mri.coils import biot_savart_sensitivity, combine, root_sum_of_squares
from activemri.mri.sensitivity import (
    ESTIMATORS,
    SensitivityEstimator,
    espirit,
    walsh,
)

HEIGHT, WIDTH = 24, 30


@pytest.fixture(params=ESTIMATORS)
def estimate(request: pytest.FixtureRequest) -> SensitivityEstimator:
    return ESTIMATORS[request.param]


def object_and_kspace(
    n_coils: int, height: int = HEIGHT, width: int = WIDTH
) -> tuple[Tensor, Tensor, Tensor]:
    """A smooth object, coil maps, k-space: (h, w), (coil, h, w), (1, coil, h, w)."""
    y = (torch.arange(height) - height // 2)[:, None] / height
    x = (torch.arange(width) - width // 2)[None] / width
    image = torch.exp(-(((x - 0.1) / 0.2) ** 2) - (y / 0.25) ** 2) * torch.exp(1j * (x + 2 * y))
    sensitivity = biot_savart_sensitivity(
        n_coils, height, width, generator=np.random.default_rng(0)
    )
    return image, sensitivity, fourier.fft2(sensitivity * image)[None]


def masks() -> dict[str, Tensor]:
    columns = torch.zeros(1, 1, WIDTH, dtype=torch.bool)
    columns[..., WIDTH // 2 - 4 : WIDTH // 2 + 4] = True
    columns[..., 2] = True
    rows = torch.zeros(1, HEIGHT, 1, dtype=torch.bool)
    rows[:, HEIGHT // 2 - 3 : HEIGHT // 2 + 4] = True
    points = torch.rand(1, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0)) < 0.3
    points[:, HEIGHT // 2 - 4 : HEIGHT // 2 + 4, WIDTH // 2 - 4 : WIDTH // 2 + 4] = True
    single = torch.zeros(1, 1, WIDTH, dtype=torch.bool)
    single[..., WIDTH // 2] = True
    return {"columns": columns, "rows": rows, "points": points, "one line": single}


@pytest.mark.parametrize("kind", masks())
@pytest.mark.parametrize("rubbish", [1e6, math.nan])
def test_estimates_depend_on_acquired_samples_only(
    estimate: SensitivityEstimator, kind: str, rubbish: float
) -> None:
    mask = masks()[kind]
    _, _, kspace = object_and_kspace(3)
    spoilt = torch.where(mask.unsqueeze(1), kspace, torch.full_like(kspace, rubbish))
    assert torch.equal(estimate(kspace, mask), estimate(spoilt, mask))


def test_estimates_do_depend_on_the_acquired_centre(estimate: SensitivityEstimator) -> None:
    mask = masks()["columns"]
    _, _, kspace = object_and_kspace(3)
    changed = kspace.clone()
    changed[:, 0, HEIGHT // 2, WIDTH // 2] *= 2
    assert not torch.allclose(estimate(kspace, mask), estimate(changed, mask), atol=1e-2)


# Patches of 5 pixels are a fifth of this tiny image, over which maps change.
@pytest.mark.parametrize(
    ("name", "error"), [("low-resolution", 0.15), ("walsh", 0.25), ("espirit", 0.15)]
)
@pytest.mark.parametrize("kind", ["columns", "rows", "points"])
def test_estimates_are_near_the_truth_where_there_is_signal(
    name: str, error: float, kind: str
) -> None:
    image, sensitivity, kspace = object_and_kspace(4)
    found = ESTIMATORS[name](kspace, masks()[kind])[0]
    # alike but for a common phase: what is compared is the projection onto the true maps
    alike = combine(sensitivity, found).abs()[image.abs() > 0.2 * image.abs().max()]
    assert float((1 - alike.square()).clamp_min(0).sqrt().mean()) < error


@pytest.mark.parametrize("kind", masks())
def test_estimates_have_unit_norm_and_combine_to_the_whole_image(
    estimate: SensitivityEstimator, kind: str
) -> None:
    image, _, kspace = object_and_kspace(4)
    found = estimate(kspace, masks()[kind])
    assert torch.allclose(root_sum_of_squares(found), torch.ones(1, HEIGHT, WIDTH), atol=1e-5)
    if kind != "one line":
        error = combine(fourier.ifft2(kspace), found).abs()[0] - image.abs()
        assert float(error.abs().max()) < 0.05


def test_each_scan_of_a_batch_is_estimated_for_itself(estimate: SensitivityEstimator) -> None:
    _, _, kspace = object_and_kspace(3)
    several = torch.cat((kspace, kspace.flip(1)))
    mask = torch.cat((masks()["columns"], masks()["one line"]))
    together = estimate(several, mask)
    for i in range(2):
        assert torch.allclose(together[i], estimate(several[[i]], mask[[i]])[0], atol=1e-6)


@pytest.mark.parametrize("content", ["nothing", "no centre"])
def test_without_signal_or_centre_all_coils_count_equally(
    estimate: SensitivityEstimator, content: str
) -> None:
    _, _, kspace = object_and_kspace(4)
    mask = masks()["columns"]
    if content == "nothing":
        kspace = torch.zeros_like(kspace)
    else:
        mask = torch.roll(mask, WIDTH // 2, dims=-1)
    expected = torch.full_like(kspace, 0.5)
    assert torch.allclose(estimate(kspace, mask), expected)


def test_one_coil_is_estimated_as_ones(estimate: SensitivityEstimator) -> None:
    kspace = torch.randn(2, 1, 8, 10, dtype=torch.complex64)
    mask = torch.ones(2, 1, 10, dtype=torch.bool)
    assert torch.equal(estimate(kspace, mask), torch.ones_like(kspace))


def test_shapes_that_do_not_fit_are_refused(estimate: SensitivityEstimator) -> None:
    with pytest.raises(ValueError, match=r"expected kspace \(batch, coil, height, width\)"):
        estimate(torch.zeros(3, 8, 10, dtype=torch.complex64), torch.ones(1, 1, 10))


def test_espirit_is_that_of_sigpy_where_there_is_signal() -> None:
    app = pytest.importorskip("sigpy.mri.app")
    _, _, kspace = object_and_kspace(5, 36, 40)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(kspace.shape, dtype=kspace.dtype, generator=generator)
    kspace = kspace + 1e-3 * kspace.abs().max() * noise
    mask = torch.zeros(1, 1, 40, dtype=torch.bool)
    mask[..., 20 - 12 : 20 + 12] = True

    theirs = app.EspiritCalib(kspace[0].numpy(), calib_width=24, crop=0.95, show_pbar=False).run()

    expected = torch.from_numpy(theirs)
    support = expected.abs().sum(dim=0) > 0
    found = espirit(kspace, mask)[0]
    found = found * torch.exp(-1j * found[0].angle())  # theirs have the phase of the first coil
    assert 0.2 < float(support.float().mean()) < 1
    assert float((found - expected).abs().amax(dim=0)[support].max()) < 1e-3


def test_walsh_is_the_main_eigenvector_of_each_patch() -> None:
    _, _, kspace = object_and_kspace(3, 12, 14)
    mask = torch.ones(1, 1, 14, dtype=torch.bool)
    found = walsh(kspace, mask, patch=3)[0]
    low = fourier.ifft2(kspace * _window(12, 14))[0]
    for row, column in ((5, 6), (6, 8), (7, 7)):
        patch = low[:, row - 1 : row + 2, column - 1 : column + 2].flatten(1)
        _, vectors = torch.linalg.eigh(patch @ patch.conj().T)
        alike = torch.vdot(vectors[:, -1], found[:, row, column]).abs()
        assert float(alike) > 1 - 1e-5


def _window(height: int, width: int) -> Tensor:
    def hann(n: int) -> Tensor:
        return torch.cos(math.pi / 2 * (torch.arange(n) - n // 2).abs() / 16) ** 2

    return hann(height)[:, None] * hann(width)


@pytest.mark.parametrize("name", ["walsh", "espirit"])
@pytest.mark.parametrize("shape", [(261, 150), (96, 258)])
def test_interpolated_maps_make_the_images_of_exact_ones(name: str, shape: tuple[int, int]) -> None:
    _, _, kspace = object_and_kspace(4, *shape)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(kspace.shape, dtype=kspace.dtype, generator=generator)
    kspace = kspace + 2e-5 * kspace.abs().max() * noise
    mask = torch.zeros(1, 1, shape[1], dtype=torch.bool)
    mask[..., shape[1] // 2 - 10 : shape[1] // 2 + 10] = True
    fast, exact = (ESTIMATORS[each](kspace, mask) for each in (name, f"{name}-exact"))
    assert not torch.equal(fast, exact)
    assert torch.allclose(root_sum_of_squares(fast), torch.ones(1, *shape), atol=1e-5)
    for samples in (kspace, kspace * mask):
        image, expected = (combine(fourier.ifft2(samples), maps) for maps in (fast, exact))
        error = (image - expected).abs() / expected.abs().max()
        seen = expected.abs() > 0.1 * expected.abs().max()
        # Outside of the object maps of noise differ, and those of Walsh at its brim.
        worst = error[seen].max() if name == "espirit" else error[seen].square().mean().sqrt()
        assert float(worst) < 1e-4
        assert float(error.norm() * expected.abs().max() / expected.norm()) < 3e-3


def test_small_images_have_exact_maps() -> None:
    _, _, kspace = object_and_kspace(3, 100, 127)
    mask = torch.ones(1, 1, 127, dtype=torch.bool)
    assert torch.equal(ESTIMATORS["walsh"](kspace, mask), ESTIMATORS["walsh-exact"](kspace, mask))


def test_espirit_of_every_pixel_is_the_eigenvector_of_its_convolutions() -> None:
    _, _, kspace = object_and_kspace(3, 12, 14)
    mask = torch.ones(1, 1, 14, dtype=torch.bool)
    found = espirit(kspace, mask, kernel=3, calibration=8)[0]
    block = kspace[0, :, 2:10, 3:11]
    patches = block.unfold(1, 3, 1).unfold(2, 3, 1).permute(1, 2, 0, 3, 4).reshape(36, 27)
    _, values, basis = torch.linalg.svd(patches, full_matrices=False)
    kernels = basis[values > 0.02 * values[0]].reshape(-1, 3, 3, 3)
    padded = torch.zeros(len(kernels), 3, 12, 14, dtype=kspace.dtype)
    padded[..., 5:8, 6:9] = kernels  # around the origin
    transforms = fourier.ifft2(padded)
    for row, column in ((5, 6), (6, 8), (0, 13)):
        rows = transforms[:, :, row, column]
        _, vectors = torch.linalg.eigh(rows.T @ rows.conj())
        assert float(torch.vdot(vectors[:, -1], found[:, row, column]).abs()) > 1 - 1e-5


def test_maps_see_the_low_resolution_image_as_real(estimate: SensitivityEstimator) -> None:
    _, _, kspace = object_and_kspace(4)
    mask = masks()["columns"]
    image = combine(fourier.ifft2(kspace * mask), estimate(kspace, mask))[0]
    strong = image.abs() > 0.2 * image.abs().max()
    assert float(image[strong].angle().abs().max()) < 0.2


def test_senseless_settings_are_refused() -> None:
    kspace, mask = torch.zeros(1, 2, 8, 10, dtype=torch.complex64), torch.ones(1, 1, 10) > 0
    with pytest.raises(ValueError, match="odd patch"):
        walsh(kspace, mask, patch=4)
    with pytest.raises(ValueError, match=r"threshold in \[0, 1\)"):
        espirit(kspace, mask, threshold=1.0)
