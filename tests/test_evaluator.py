"""The evaluator against the definition: one inverse transform a line, one real convolution."""

import itertools
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from activemri import checkpoints
from activemri.checkpoints import CheckpointError
from activemri.evaluator import (
    Evaluator,
    column_errors,
    kernel_targets,
    make_evaluator,
    save_evaluator,
)
from activemri.mri import fourier
from activemri.reconstruction.image_channels import normalised, scale_and_phase


def images(height: int, width: int, *, batch: int = 2, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, height, width, dtype=torch.complex64, generator=generator)


def masks(width: int, *, batch: int = 2, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, width, generator=generator) < 0.4


def naive_maps(image: Tensor) -> Tensor:
    """One inverse transform for every line."""
    kspace = fourier.fft2(image)
    n = image.shape[-1]
    single = [fourier.ifft2(kspace * (torch.arange(n) == i)) for i in range(n)]
    return torch.stack(single, dim=1)


def small(width: int, **changes: int) -> Evaluator:
    with torch.random.fork_rng():
        torch.manual_seed(width)
        return Evaluator(width, **{"channels": 3, "layers": 2, "line_channels": 4, **changes})


@pytest.mark.parametrize("size", [(12, 18), (13, 17), (16, 9), (9, 12)])
def test_the_first_layer_is_the_convolution_of_all_maps(size: tuple[int, int]) -> None:
    height, width = size
    evaluator = small(width, layers=1)
    image, mask = images(height, width), masks(width)
    maps = naive_maps(normalised(image, *scale_and_phase(image)))
    constant = evaluator.embedding(mask[:, None]).expand(-1, -1, height, width)
    slow = evaluator.first(torch.cat([maps.real, maps.imag, constant], dim=1))
    lines, acquired = evaluator._lines(image, mask)
    fast = evaluator._first_layer(lines, acquired)
    assert fast.shape == slow.shape
    assert (fast - slow).abs().max() < 1e-5


def test_gradients_of_the_first_layer_are_those_of_the_convolution() -> None:
    evaluator = small(18, layers=1, mask_features=0)
    image, mask = images(12, 18), masks(18)
    maps = naive_maps(normalised(image, *scale_and_phase(image)))
    evaluator.first(torch.cat([maps.real, maps.imag], dim=1)).square().sum().backward()
    slow = evaluator.first.weight.grad
    assert slow is not None
    slow = slow.clone()
    evaluator.zero_grad()
    evaluator._first_layer(*evaluator._lines(image, mask)).square().sum().backward()
    assert torch.allclose(evaluator.first.weight.grad, slow, rtol=1e-3, atol=1e-4)  # type: ignore[arg-type]


def test_an_error_of_one_line_is_found_in_that_column() -> None:
    reference = images(10, 12)
    kspace = fourier.fft2(reference)
    kspace[..., 4] += 2
    errors = column_errors(fourier.ifft2(kspace), reference)
    unit = reference.abs().square().mean(dim=(-2, -1))
    expected = torch.zeros(2, 12)
    expected[:, 4] = 2**2 / 2 / unit  # 1/2 H^-1 sum over H rows of |2|^2
    assert torch.allclose(errors, expected, atol=1e-5)


def test_column_errors_are_the_paper_formula_in_kspace() -> None:
    image, reference = images(7, 10, seed=1), images(7, 10, seed=2)
    difference = fourier.fft2(image) - fourier.fft2(reference)
    parts = torch.view_as_real(difference).square().sum(dim=(-3, -1))
    unit = reference.abs().square().mean(dim=(-2, -1))[:, None]
    assert torch.allclose(column_errors(image, reference), parts / (2 * 7) / unit, rtol=1e-4)


def test_targets_are_one_where_acquired_and_fall_with_the_error() -> None:
    errors = torch.tensor([[0.0, 0.1, 0.2, 0.3]])
    mask = torch.tensor([[False, False, False, True]])
    target = kernel_targets(errors, mask, gamma=10.0)
    assert torch.allclose(target, torch.tensor([[1.0, 0.36788, 0.13534, 1.0]]), atol=1e-4)


@torch.no_grad()
def test_scores_follow_neither_scale_nor_global_phase() -> None:
    evaluator, image, mask = small(18).eval(), images(12, 18), masks(18)
    turned = 300 * torch.exp(torch.tensor(1.2j)) * image
    assert torch.allclose(evaluator(turned, mask), evaluator(image, mask), atol=1e-4)


@torch.no_grad()
def test_an_image_is_scored_the_same_bits_in_every_batch() -> None:
    evaluator, image, mask = small(18).eval(), images(12, 18, batch=5), masks(18, batch=5)
    together = evaluator(image, mask)
    assert torch.equal(evaluator(image[3:4], mask[3:4])[0], together[3])
    assert torch.allclose(evaluator.train()(image, mask), together, atol=1e-4)


@torch.no_grad()
def test_a_narrower_image_is_one_with_empty_outer_lines() -> None:
    evaluator, image, mask = small(18).eval(), images(12, 13), masks(13)
    kspace = torch.zeros(2, 12, 18, dtype=torch.complex64)
    kspace[..., 3:16] = fourier.fft2(image)
    wide = torch.zeros(2, 18, dtype=torch.bool)
    wide[:, 3:16] = mask
    expected = evaluator(fourier.ifft2(kspace), wide)
    assert torch.allclose(evaluator(image, wide), expected, atol=1e-4)
    assert torch.allclose(evaluator(image, mask), expected[:, 3:16], atol=1e-4)


def test_an_image_that_is_too_wide_is_refused() -> None:
    with pytest.raises(ValueError, match=r"scores 12 lines.*got 18 lines"):
        small(12)(images(8, 18), masks(18))


@torch.no_grad()
@pytest.mark.parametrize("n_images", [1, 3])
def test_low_images_are_scored_too(n_images: int) -> None:
    scores = Evaluator(24).eval()(images(7, 24, batch=n_images), masks(24, batch=n_images))
    assert scores.shape == (n_images, 24)
    assert torch.isfinite(scores).all()


def test_features_are_those_of_every_convolution() -> None:
    evaluator = small(32, layers=3)
    shapes = [tuple(part.shape) for part in evaluator.features(images(32, 32), masks(32))]
    assert shapes == [(2, 3, 16, 16), (2, 6, 8, 8), (2, 6, 4, 4)]


def test_a_trained_evaluator_tells_wrong_lines_from_true_ones() -> None:
    """A few steps on images of one kind: lines that were zeroed score lower than the others."""
    evaluator = small(16, channels=8)
    optimizer = torch.optim.Adam(evaluator.parameters(), lr=3e-3)
    decay = 1 / (1 + (torch.arange(16) - 8).abs())
    for step in range(80):
        real = fourier.ifft2(fourier.fft2(images(16, 16, batch=8, seed=step)) * decay)
        mask = masks(16, batch=8, seed=step)
        broken = fourier.ifft2(fourier.fft2(real) * mask[:, None])
        target = kernel_targets(column_errors(broken, real), mask, gamma=3.0)
        loss = (evaluator(broken, mask) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    errors = column_errors(broken, real)
    with torch.no_grad():
        scores = evaluator.eval()(broken, mask)
    worst = scores.masked_fill(mask, 9).argmin(dim=1)
    share = errors.gather(1, worst[:, None])[:, 0] / errors.amax(dim=1)
    assert share.mean() > 0.6, share


def test_without_maps_the_scores_follow_from_the_energies_of_lines_alone() -> None:
    evaluator, image, mask = small(18, channels=0).eval(), images(12, 18), masks(18)
    scores = evaluator(image, mask)
    torch.testing.assert_close(evaluator(image.roll(3, dims=1), mask), scores)  # energies are equal
    assert not torch.allclose(evaluator(images(12, 18, seed=1), mask), scores)
    with pytest.raises(ValueError, match="channels above 0"):
        evaluator.features(image, mask)


def test_checkpoints_keep_every_score(tmp_path: Path) -> None:
    evaluator, image, mask = small(18).eval(), images(12, 18), masks(18)
    path = save_evaluator(tmp_path / "evaluator", evaluator, info={"data": "none"})
    with torch.no_grad():
        expected = evaluator(image, mask)
        assert torch.equal(make_evaluator(path)(image, mask), expected)
    assert make_evaluator(evaluator) is evaluator


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    from activemri.reconstruction.unet import UNet

    network = UNet(2, pools=1)
    checkpoints.save(
        tmp_path / "unet",
        kind="unet",
        settings=network.settings,
        state_dict=network.state_dict(),
        info={},
    )
    with pytest.raises(CheckpointError, match="'unet', not an evaluator"):
        make_evaluator(tmp_path / "unet")


def test_settings_that_make_no_evaluator_are_refused(tmp_path: Path) -> None:
    evaluator = small(18)
    evaluator.settings = {**evaluator.settings, "wheels": 4}
    save_evaluator(tmp_path / "evaluator", evaluator, info={})
    with pytest.raises(CheckpointError, match="do not make an evaluator"):
        make_evaluator(tmp_path / "evaluator")


@pytest.mark.parametrize(
    "wrong", [{"width": 0}, {"channels": 0, "line_channels": 0}, {"line_channels": -1}]
)
def test_impossible_sizes_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected width and layers"):
        Evaluator(**{"width": 16, **wrong})


def test_more_layers_than_the_width_has_room_for_are_refused() -> None:
    with pytest.raises(ValueError, match="need at least 16 lines; got width=12"):
        Evaluator(12, layers=4)


@pytest.mark.long
@torch.no_grad()
def test_the_first_layer_beats_the_convolution_of_maps_at_640_x_368() -> None:
    evaluator = Evaluator(368).eval()
    image, mask = images(640, 368, batch=1), masks(368, batch=1)
    waves = fourier.ifft(torch.eye(368, dtype=torch.complex64), (-1,))

    def naive() -> Tensor:
        maps = fourier.fft(image, (-1,)).transpose(1, 2).unsqueeze(-1) * waves[:, None]
        constant = evaluator.embedding(mask[:, None]).expand(-1, -1, 640, 368)
        result: Tensor = evaluator.first(torch.cat([maps.real, maps.imag, constant], dim=1))
        return result

    lines, acquired = evaluator._lines(image, mask)
    seconds = []
    for work in (naive, lambda: evaluator._first_layer(lines, acquired)):
        times = []
        for _ in range(3):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        seconds.append(min(times))
    slow, fast = seconds
    assert slow > 5 * fast, f"{slow:.3f} s against {fast:.3f} s"


def test_every_setting_rebuilds_the_same_network() -> None:
    for channels, layers in itertools.product((2, 3), (1, 2, 3)):
        evaluator = small(18, channels=channels, layers=layers)
        again = Evaluator(**evaluator.settings)  # type: ignore[arg-type]
        shapes = [tuple(p.shape) for p in evaluator.parameters()]
        assert [tuple(p.shape) for p in again.parameters()] == shapes
