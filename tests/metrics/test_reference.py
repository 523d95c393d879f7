"""The compiled scorer against the plain metrics, which are a second and slower way."""

import numpy as np
import pytest
import torch
from torch import Tensor

from activemri import metrics
from activemri.metrics.reference import Reference, _Trials, add_increment, center_crop, to_uint8
from activemri.mri.geometry import Increment

NAMES = tuple(name for name, metric in metrics.METRICS.items() if metric.needs is None)
REGION = ("roi_ssim", "roi_nmse")
# k-space and target: even, odd, cropped, cropped from odd to even, the smallest there is.
SHAPES = [
    ((16, 20), (16, 20)),
    ((15, 13), (15, 13)),
    ((20, 18), (11, 9)),
    ((21, 17), (10, 8)),
    ((7, 7), (7, 7)),
]
shapes = pytest.mark.parametrize(("shape", "target_shape"), SHAPES)


def scans(
    shape: tuple[int, int], target_shape: tuple[int, int], *, scale: float = 1.0, n: int = 3
) -> tuple[Tensor, Tensor, Tensor]:
    """Complex images, targets, and the largest values of the targets' volumes."""
    rng = np.random.default_rng(2)
    phase = np.exp(1j * rng.uniform(0, 6, size=(n, *shape)))
    magnitude = rng.gamma(2.0, size=(n, *shape)) + 3 * (np.arange(shape[1]) > shape[1] // 2)
    image = torch.from_numpy((scale * magnitude * phase).astype(np.complex64))
    noise = torch.from_numpy(rng.standard_normal((n, *target_shape)) * 0.3 * scale)
    target = (center_crop(image, target_shape).abs() + noise).abs().float()
    return image, target, target.amax(dim=(1, 2)) * torch.tensor([1.0, 1.3, 2.0])[:n]


def random_lines(
    n_trials: int, n_coils: int, shape: tuple[int, int], *, k: int, scale: float = 1.0
) -> Increment:
    generator = torch.Generator().manual_seed(7)
    left = torch.randn(n_trials, n_coils, shape[0], k, dtype=torch.complex64, generator=generator)
    right = torch.randn(n_trials, n_coils, k, shape[1], dtype=torch.complex64, generator=generator)
    return Increment(0.5 * scale * left, right)


def slow_scores(image: Tensor, target: Tensor, volume_range: Tensor) -> dict[str, Tensor]:
    magnitude = center_crop(image, (target.shape[1], target.shape[2])).abs()
    own = target.amax(dim=(1, 2))
    own = torch.where(own > 0, own, torch.ones_like(own))
    volume_range = torch.maximum(volume_range, own)
    return {
        "mse": metrics.mse(magnitude, target),
        "nmse": metrics.nmse(magnitude, target),
        "nrmse": metrics.nrmse(magnitude, target),
        "psnr": metrics.psnr(magnitude, target, data_range=own),
        "ssim": metrics.ssim(magnitude, target, data_range=own),
        "psnr_volume": metrics.psnr(magnitude, target, data_range=volume_range),
        "ssim_volume": metrics.ssim(magnitude, target, data_range=volume_range),
    }


def assert_same(fast: dict[str, Tensor], slow: dict[str, Tensor]) -> None:
    assert fast.keys() == slow.keys()
    for name, value in slow.items():
        assert fast[name].dtype == torch.float64
        if name.startswith("ssim"):
            assert torch.allclose(fast[name], value, atol=1e-6, rtol=0), name
        else:
            assert torch.allclose(fast[name], value, rtol=2e-6, atol=0), name


@shapes
@pytest.mark.parametrize("scale", [1e-7, 1.0, 1e7])
def test_scores_of_images_equal_the_plain_metrics(
    shape: tuple[int, int], target_shape: tuple[int, int], scale: float
) -> None:
    image, target, volume_range = scans(shape, target_shape, scale=scale)
    fast = Reference.of(target, volume_range).scores(image, NAMES)
    assert_same(fast, slow_scores(image, target, volume_range))


@shapes
@pytest.mark.parametrize("n_coils", [0, 3])
@pytest.mark.parametrize("k", [1, 2])
def test_scores_of_trials_equal_those_of_the_changed_images(
    shape: tuple[int, int], target_shape: tuple[int, int], n_coils: int, k: int
) -> None:
    image, target, volume_range = scans(shape, target_shape)
    maps = None
    if n_coils:
        generator = torch.Generator().manual_seed(1)
        maps = torch.randn(3, n_coils, *shape, dtype=torch.complex64, generator=generator)
    owner = torch.tensor([0, 1, 1, 2, 0])
    lines = random_lines(5, max(n_coils, 1), shape, k=k)
    kept = image.clone()
    reference = Reference.of(target, volume_range)
    fast = reference.scores(image, NAMES, owner=owner, increment=lines, sensitivity=maps)
    assert torch.equal(image, kept)
    changed = image[owner] + lines.image(None if maps is None else maps[owner])
    assert_same(fast, slow_scores(changed, target[owner], volume_range[owner]))


@shapes
@pytest.mark.parametrize("n_coils", [0, 3])
@pytest.mark.parametrize("k", [0, 1, 2])
def test_one_pass_adds_lines_in_place_and_scores_and_shows_the_images(
    shape: tuple[int, int], target_shape: tuple[int, int], n_coils: int, k: int
) -> None:
    image, target, volume_range = scans(shape, target_shape)
    maps, lines = None, None if k == 0 else random_lines(3, max(n_coils, 1), shape, k=k)
    if n_coils:
        generator = torch.Generator().manual_seed(1)
        maps = torch.randn(3, n_coils, *shape, dtype=torch.complex64, generator=generator)
    changed = image if lines is None else image + lines.image(maps)
    reference = Reference.of(target, volume_range, region=some_regions(target))
    gain = torch.tensor([1.0, 20.0, 0.0])
    scores, pixels = reference.advance(
        image, (*NAMES, *REGION), gain=gain, increment=lines, sensitivity=maps
    )
    assert torch.allclose(image, changed, rtol=1e-6, atol=1e-5)
    assert_same(scores, reference.scores(changed, (*NAMES, *REGION)))
    shown = to_uint8(changed, gain, target_shape)
    assert (pixels.int() - shown.int()).abs().max() <= 1


@pytest.mark.parametrize("names", [("ssim", "mse"), ("roi_ssim", "roi_nmse")])
def test_increments_given_as_images_score_as_their_factors(names: tuple[str, ...]) -> None:
    image, target, volume_range = scans((21, 17), (10, 8))
    owner, lines = torch.tensor([2, 0, 0]), random_lines(3, 1, (21, 17), k=2)
    assert lines.right is not None
    reference = Reference.of(target, volume_range, region=some_regions(target))
    factors = reference.scores(image, names, owner=owner, increment=lines)
    images = Increment(lines.left @ lines.right)
    assert_same(reference.scores(image, names, owner=owner, increment=images), factors)


@shapes
def test_the_form_for_other_devices_gives_the_same(
    shape: tuple[int, int], target_shape: tuple[int, int]
) -> None:
    image, target, volume_range = scans(shape, target_shape)
    reference, owner = Reference.of(target, volume_range), torch.tensor([2, 0])
    lines = random_lines(2, 1, shape, k=2)
    slow = reference._measure_with_torch(_Trials(image, owner, lines, None), None, None)
    fast = reference.scores(
        image, ("ssim", "mse", "nmse", "nrmse", "psnr"), owner=owner, increment=lines
    )
    for name, values in zip(fast, slow, strict=True):
        assert torch.allclose(fast[name], values, atol=1e-6, rtol=1e-5), name


def some_regions(target: Tensor) -> Tensor:
    """A different region for every target: the middle pixel, and random others."""
    generator = torch.Generator().manual_seed(3)
    region = torch.rand(target.shape, generator=generator) < 0.4
    region[:, target.shape[1] // 2, target.shape[2] // 2] = True
    return region


@shapes
@pytest.mark.parametrize("k", [0, 2])
def test_scores_of_regions_equal_the_plain_metrics(
    shape: tuple[int, int], target_shape: tuple[int, int], k: int
) -> None:
    image, target, volume_range = scans(shape, target_shape, scale=1e3)
    region, owner = some_regions(target), torch.tensor([2, 0, 1, 1])
    lines = random_lines(4, 1, shape, k=k, scale=1e3) if k else None
    reference = Reference.of(target, volume_range, region=region)
    names = ("roi_nmse", "ssim", "roi_ssim")
    fast = reference.scores(image, names, owner=owner, increment=lines, sensitivity=None)
    assert tuple(fast) == names
    trials = _Trials(image, owner, lines, None)
    magnitude = center_crop(trials.images(), target_shape).abs()
    within, own = region[owner], target.amax(dim=(1, 2))[owner]
    slow = metrics.roi_ssim(magnitude, target[owner], region=within, data_range=own)
    assert torch.allclose(fast["roi_ssim"], slow, atol=1e-6, rtol=0)
    slow = metrics.roi_nmse(magnitude, target[owner], region=within)
    assert torch.allclose(fast["roi_nmse"], slow, rtol=2e-6, atol=0)
    ssim = reference._measure_with_torch(trials, None, region)[0]
    assert torch.allclose(fast["roi_ssim"], ssim, atol=1e-6)
    alone = reference.scores(image, ("roi_ssim",), owner=owner, increment=lines, sensitivity=None)
    assert torch.equal(alone["roi_ssim"], fast["roi_ssim"])


@shapes
def test_a_region_that_is_the_whole_image_has_the_scores_of_the_image(
    shape: tuple[int, int], target_shape: tuple[int, int]
) -> None:
    image, target, volume_range = scans(shape, target_shape)
    everywhere = torch.ones_like(target, dtype=torch.bool)
    scores = Reference.of(target, volume_range, region=everywhere).scores(image, (*NAMES, *REGION))
    assert torch.allclose(scores["roi_ssim"], scores["ssim"], rtol=1e-6)  # single precision
    assert torch.allclose(scores["roi_nmse"], scores["nmse"], rtol=1e-12)


def test_scores_of_a_region_ignore_errors_far_from_it() -> None:
    image, target, volume_range = scans((24, 30), (24, 30))
    region = torch.zeros_like(target, dtype=torch.bool)
    region[:, 4:8, 5:9] = True
    reference = Reference.of(target, volume_range, region=region)
    before = reference.scores(image, REGION)
    image[:, 11:, :] += 5  # three pixels below the last window's centre, and further
    image[:, :, 12:] += 5
    after = reference.scores(image, REGION)
    assert all(torch.allclose(after[name], before[name], atol=1e-9) for name in REGION)
    image[:, 7, 8] += 5
    changed = reference.scores(image, REGION)
    assert bool((changed["roi_nmse"] > before["roi_nmse"]).all())


def test_scores_of_a_region_need_one_that_holds_a_window() -> None:
    image, target, volume_range = scans((16, 20), (16, 20))
    with pytest.raises(ValueError, match="need a region of interest in every slice"):
        Reference.of(target, volume_range).scores(image, ("roi_ssim",))
    region = torch.zeros_like(target, dtype=torch.bool)
    region[:2, 8, 8] = region[2, :3] = True
    with pytest.raises(ValueError, match=r"at least 3 away from the edges.*that of scan 2"):
        Reference.of(target, volume_range, region=region)


def test_a_task_sees_magnitudes_in_units_of_the_targets_largest_value() -> None:
    image, target, volume_range = scans((16, 20), (12, 14), scale=50.0)
    owner, lines = torch.tensor([1, 2, 2]), random_lines(3, 1, (16, 20), k=1, scale=50.0)
    seen = []

    def task(images: Tensor, label: Tensor) -> Tensor:
        seen.append((images, label))
        return (images - label[:, None, None]).abs().mean(dim=(1, 2))

    reference = Reference.of(target, volume_range, label=torch.tensor([1.0, 2.0, 3.0]))
    loss = reference.scores(
        image, ("task_loss",), owner=owner, increment=lines, sensitivity=None, task=task
    )["task_loss"]
    images = center_crop(_Trials(image, owner, lines, None).images(), (12, 14)).abs()
    images = images / target.amax(dim=(1, 2))[owner, None, None]
    assert torch.allclose(seen[0][0], images)
    assert seen[0][1].tolist() == [2.0, 3.0, 3.0]
    assert loss.dtype == torch.float64
    expected = (images - torch.tensor([2.0, 3.0, 3.0])[:, None, None]).abs().mean(dim=(1, 2))
    assert torch.allclose(loss, expected.double())


def test_a_task_without_labels_gets_the_targets_and_is_asked_in_parts() -> None:
    image, target, volume_range = scans((16, 20), (16, 20))
    sizes = []

    def task(images: Tensor, label: Tensor) -> Tensor:
        sizes.append(len(images))
        return (images - label).square().mean(dim=(1, 2))

    owner = torch.arange(150) % 3
    reference = Reference.of(target, volume_range)
    scores = reference.scores(
        image,
        ("task_loss", "nmse", "mse"),
        owner=owner,
        increment=None,
        sensitivity=None,
        task=task,
    )
    assert sizes == [64, 64, 22]
    expected = scores["mse"] / target.amax(dim=(1, 2))[owner].double() ** 2
    assert torch.allclose(scores["task_loss"], expected, rtol=1e-5)


def test_a_missing_task_and_one_loss_for_a_whole_batch_are_refused() -> None:
    image, target, volume_range = scans((16, 20), (16, 20))
    reference = Reference.of(target, volume_range)
    with pytest.raises(ValueError, match="task_loss needs a downstream network"):
        reference.scores(image, ("task_loss",))
    with pytest.raises(
        ValueError, match=r"one loss for each of 3 images; got Tensor of shape \(\)"
    ):
        reference.scores(image, ("task_loss",), task=lambda x, y: (x - y).square().mean())


@pytest.mark.parametrize("n_coils", [0, 3])
def test_lines_are_added_in_place(n_coils: int) -> None:
    image = scans((15, 18), (15, 18))[0]
    maps = None
    if n_coils:
        generator = torch.Generator().manual_seed(1)
        maps = torch.randn(3, n_coils, 15, 18, dtype=torch.complex64, generator=generator)
    lines = random_lines(3, max(n_coils, 1), (15, 18), k=2)
    expected = image + lines.image(maps)
    add_increment(image, lines, maps)
    assert torch.allclose(image, expected, atol=1e-5)


def test_a_black_target_gives_finite_ssim_and_no_nan() -> None:
    image = scans((16, 20), (16, 20), n=1)[0]
    black = Reference.of(torch.zeros(1, 16, 20), torch.zeros(1))
    scores = black.scores(image, NAMES)
    assert not any(bool(value.isnan().any()) for value in scores.values())
    assert 0 <= scores["ssim"].item() < 1
    exact = black.scores(torch.zeros_like(image), NAMES)
    assert exact["nmse"].item() == 0
    assert exact["ssim"].item() == pytest.approx(1)


def test_a_flat_target_is_scored_without_noise_from_rounding() -> None:
    """The window variance of a constant is zero, and must not become negative."""
    target = torch.full((1, 16, 20), 0.1)
    scores = Reference.of(target, torch.ones(1)).scores(target.to(torch.complex64), ("ssim",))
    assert scores["ssim"].item() == pytest.approx(1, abs=1e-6)


def test_a_volume_is_never_darker_than_its_slice() -> None:
    image, target, _ = scans((16, 20), (16, 20))
    wrong = Reference.of(target, torch.zeros(3)).scores(image, NAMES)
    assert torch.equal(wrong["ssim_volume"], wrong["ssim"])


def test_targets_smaller_than_a_window_are_refused() -> None:
    with pytest.raises(ValueError, match=r"at least 7 pixels wide and high; got \(16, 6\)"):
        Reference.of(torch.ones(1, 16, 6), torch.ones(1))


@pytest.mark.parametrize(
    ("shape", "crop"), [((8, 10), (4, 4)), ((9, 11), (4, 5)), ((9, 8), (3, 2))]
)
def test_a_crop_keeps_height_and_width_apart_and_the_centre_in_the_centre(
    shape: tuple[int, int], crop: tuple[int, int]
) -> None:
    image = torch.zeros(1, *shape)
    image[0, shape[0] // 2, shape[1] // 2] = 1
    small = center_crop(image, crop)
    assert small.shape == (1, *crop)
    assert small[0, crop[0] // 2, crop[1] // 2] == 1
