import pytest
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from activemri import losses


def images(seed: int = 0, batch: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    target = (
        torch.rand(batch, 12, 17, generator=generator)
        * torch.tensor([1.0, 50.0, 1e-3])[:batch, None, None]
    )
    noise = torch.rand(target.shape, generator=generator)
    data_range = target.amax(dim=(-2, -1))
    return target + 0.2 * noise * data_range[:, None, None], target, data_range


@pytest.mark.parametrize("name", [*losses.LOSSES, "l1+ssim"])
def test_a_perfect_image_loses_nothing_and_a_worse_one_more(name: str) -> None:
    loss = losses.make_loss(name)
    image, target, data_range = images()
    perfect = loss(target, target, data_range=data_range)
    near = loss((image + 3 * target) / 4, target, data_range=data_range)
    far = loss(image, target, data_range=data_range)
    assert perfect.abs().max() < 1e-5
    assert (near > perfect + 1e-4).all()
    assert (far > near).all()


def test_ssim_is_one_minus_that_of_scikit_image() -> None:
    image, target, data_range = images()
    ours = losses.ssim(image, target, data_range=data_range)
    for x, y, extent, loss in zip(image, target, data_range, ours, strict=True):
        theirs = structural_similarity(x.numpy(), y.numpy(), data_range=extent.item())
        assert loss.item() == pytest.approx(1 - theirs, abs=1e-5)


def test_l1_and_mse_are_relative_to_the_data_range() -> None:
    target = torch.zeros(1, 8, 9)
    target[0, 4, 4] = 4.0
    image = target + 1.0
    data_range = torch.tensor([4.0])
    assert losses.l1(image, target, data_range=data_range).item() == pytest.approx(1 / 4)
    assert losses.mse(image, target, data_range=data_range).item() == pytest.approx(1 / 16)


@pytest.mark.parametrize("name", [*losses.LOSSES, "l1+ssim"])
def test_the_intensity_of_a_scan_does_not_change_its_loss(name: str) -> None:
    loss = losses.make_loss(name)
    image, target, data_range = images()
    scaled = loss(7 * image, 7 * target, data_range=7 * data_range)
    assert torch.allclose(scaled, loss(image, target, data_range=data_range), atol=1e-5)


@pytest.mark.parametrize("name", [*losses.LOSSES, "mse + l1 + ssim"])
def test_gradients_agree_with_finite_differences(name: str) -> None:
    image, target, data_range = (t[:1].double() for t in images())
    image = image[:, :8, :9].requires_grad_()

    def total(x: Tensor) -> Tensor:
        return losses.make_loss(name)(x, target[:, :8, :9], data_range=data_range)

    assert torch.autograd.gradcheck(total, (image,))


@pytest.mark.parametrize("name", [*losses.LOSSES, "l1+ssim"])
def test_black_targets_give_finite_losses_and_gradients(name: str) -> None:
    image = torch.zeros(2, 8, 9, requires_grad=True)
    black = torch.zeros(2, 8, 9)
    loss = losses.make_loss(name)(image, black, data_range=torch.zeros(2))
    torch.autograd.backward(loss.sum())
    assert torch.equal(loss, torch.zeros(2))
    assert image.grad is not None
    assert torch.isfinite(image.grad).all()


def test_a_sum_of_names_adds_the_losses() -> None:
    image, target, data_range = images()
    total = losses.make_loss("l1+ssim")(image, target, data_range=data_range)
    apart = losses.l1(image, target, data_range=data_range) + losses.ssim(
        image, target, data_range=data_range
    )
    assert torch.allclose(total, apart)


def test_a_loss_may_be_given_as_an_object() -> None:
    assert losses.make_loss(losses.l1) is losses.l1


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown loss 'sim' in 'l1\\+sim'; expected one of mse"):
        losses.make_loss("l1+sim")


def test_images_smaller_than_the_window_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 7 x 7 pixels; got 6 x 9"):
        losses.ssim(torch.ones(1, 6, 9), torch.ones(1, 6, 9), data_range=torch.ones(1))
