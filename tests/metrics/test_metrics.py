"""Metrics against scikit-image and fastmri.evaluate, and their conventions."""

import numpy as np
import pytest
import torch
from skimage.metrics import (
    mean_squared_error,
    normalized_root_mse,
    peak_signal_noise_ratio,
    structural_similarity,
)
from torch import Tensor

from activemri import metrics

SIZES = [(16, 20), (7, 7), (9, 31)]
sizes = pytest.mark.parametrize("size", SIZES)


def pair(size: tuple[int, int], *, scale: float = 1.0, n: int = 3) -> tuple[Tensor, Tensor]:
    """Images and targets, float32 magnitudes with structure and error."""
    rng = np.random.default_rng(1)
    target = rng.gamma(2.0, size=(n, *size)) + 3 * (np.arange(size[1]) > size[1] // 2)
    image = np.abs(target + 0.3 * rng.standard_normal(target.shape))
    return (
        torch.from_numpy((scale * image).astype(np.float32)),
        torch.from_numpy((scale * target).astype(np.float32)),
    )


@sizes
@pytest.mark.parametrize("scale", [1e-7, 1.0, 1e6])
def test_metrics_equal_scikit_image(size: tuple[int, int], scale: float) -> None:
    image, target = pair(size, scale=scale)
    ranges = target.amax(dim=(1, 2))
    ours = {
        "mse": metrics.mse(image, target),
        "nrmse": metrics.nrmse(image, target),
        "psnr": metrics.psnr(image, target, data_range=ranges),
        "ssim": metrics.ssim(image, target, data_range=ranges),
    }
    for i in range(len(image)):
        x, y = image[i].double().numpy(), target[i].double().numpy()
        largest = float(ranges[i])
        theirs = {
            "mse": mean_squared_error(y, x),
            "nrmse": normalized_root_mse(y, x),
            "psnr": peak_signal_noise_ratio(y, x, data_range=largest),
            "ssim": structural_similarity(y, x, data_range=largest),
        }
        for name, value in theirs.items():
            assert ours[name][i].item() == pytest.approx(value, rel=1e-6), name
            assert ours[name].dtype == torch.float64


def test_one_slice_with_its_own_range_is_fastmri_evaluate_of_that_slice() -> None:
    from fastmri import evaluate

    image, target = pair((16, 20), n=1)
    x, y = image.double().numpy(), target.double().numpy()
    ranges = target.amax(dim=(1, 2))
    assert metrics.nmse(image, target).item() == pytest.approx(float(evaluate.nmse(y, x)), rel=1e-6)
    ssim = metrics.ssim(image, target, data_range=ranges).item()
    assert ssim == pytest.approx(float(evaluate.ssim(y, x)[0]), rel=1e-6)


def test_the_volume_range_raises_psnr_by_its_ratio_and_changes_ssim() -> None:
    image, target = pair((16, 20))
    own = target.amax(dim=(1, 2))
    louder = metrics.psnr(image, target, data_range=10 * own)
    assert torch.allclose(louder, metrics.psnr(image, target, data_range=own) + 20)
    assert (
        metrics.ssim(image, target, data_range=10 * own)
        > metrics.ssim(image, target, data_range=own)
    ).all()


@pytest.mark.parametrize("size", [(16, 20), (9, 31)])
def test_scores_of_a_region_equal_scikit_image_and_numpy(size: tuple[int, int]) -> None:
    image, target = pair(size)
    region = torch.rand(target.shape, generator=torch.Generator().manual_seed(0)) < 0.3
    region[:, 4, 8] = True
    own = target.amax(dim=(1, 2))
    ours = metrics.roi_ssim(image, target, region=region, data_range=own)
    error = metrics.roi_nmse(image, target, region=region)
    for i in range(len(image)):
        x, y, within = image[i].double().numpy(), target[i].double().numpy(), region[i].numpy()
        _, values = structural_similarity(y, x, data_range=float(own[i]), full=True)
        inner = (slice(3, -3), slice(3, -3))  # where the whole window fits
        assert ours[i].item() == pytest.approx(values[inner][within[inner]].mean(), rel=1e-6)
        expected = ((x - y)[within] ** 2).sum() / (y[within] ** 2).sum()
        assert error[i].item() == pytest.approx(expected, rel=1e-6)


def test_higher_is_better_for_ssim_and_psnr_only() -> None:
    better = {name for name, metric in metrics.METRICS.items() if metric.higher_is_better}
    assert better == {"ssim", "psnr", "ssim_volume", "psnr_volume", "roi_ssim"}
    image, target = pair((16, 20))
    worse = target + 2 * (image - target)
    ranges = target.amax(dim=(1, 2))
    for name in ("mse", "nmse", "nrmse"):
        measure = getattr(metrics, name)
        assert (measure(worse, target) > measure(image, target)).all()
    for name in ("ssim", "psnr"):
        measure = getattr(metrics, name)
        got, good = (measure(x, target, data_range=ranges) for x in (worse, image))
        assert (got < good).all()


def test_an_image_that_equals_its_target_scores_perfectly() -> None:
    _, target = pair((16, 20))
    ranges = target.amax(dim=(1, 2))
    assert (metrics.nmse(target, target) == 0).all()
    assert torch.allclose(
        metrics.ssim(target, target, data_range=ranges), torch.ones(3, dtype=torch.float64)
    )
    assert (metrics.psnr(target, target, data_range=ranges) == torch.inf).all()


def test_a_black_target_gives_no_nan() -> None:
    black, image = torch.zeros(1, 16, 20), pair((16, 20), n=1)[0]
    nothing = torch.zeros(1)
    assert metrics.nmse(black, black).item() == 0
    assert metrics.nmse(image, black).item() == torch.inf
    assert metrics.ssim(black, black, data_range=nothing).item() == 1
    assert 0 <= metrics.ssim(image, black, data_range=nothing).item() < 1
    assert not metrics.psnr(image, black, data_range=nothing).isnan().any()


def test_images_of_a_batch_do_not_influence_each_other() -> None:
    image, target = pair((16, 20))
    alone = metrics.ssim(image[1:2], target[1:2], data_range=target[1:2].amax(dim=(1, 2)))
    together = metrics.ssim(image, target, data_range=target.amax(dim=(1, 2)))
    assert torch.allclose(alone, together[1:2], rtol=1e-12)


def test_what_cannot_be_compared_is_refused() -> None:
    image, target = pair((16, 20))
    with pytest.raises(ValueError, match=r"got \(3, 16, 19\) and \(3, 16, 20\)"):
        metrics.mse(image[..., 1:], target)
    with pytest.raises(ValueError, match=r"take \.abs\(\)"):
        metrics.mse(image.to(torch.complex64), target)
    with pytest.raises(ValueError, match="at least 7 x 7 pixels; got 16 x 6"):
        metrics.ssim(image[..., :6], target[..., :6], data_range=torch.ones(3))
    with pytest.raises(ValueError, match="unknown metric 'SSIM'; choose from ssim"):
        metrics.find_metric("SSIM")
