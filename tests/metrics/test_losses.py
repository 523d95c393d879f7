import math

import pytest
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from activemri.metrics import losses
from activemri.metrics.losses import Prediction, losses_of, make_loss

#: Losses that are zero for a perfect image, and need nothing but images.
DISTANCES = [name for name in losses.LOSSES if name != "nll"]


def images(seed: int = 0, batch: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    target = (
        torch.rand(batch, 12, 17, generator=generator)
        * torch.tensor([1.0, 50.0, 1e-3])[:batch, None, None]
    )
    noise = torch.rand(target.shape, generator=generator)
    data_range = target.amax(dim=(-2, -1))
    return target + 0.2 * noise * data_range[:, None, None], target, data_range


@pytest.mark.parametrize("name", [*DISTANCES, "l1+ssim"])
def test_a_perfect_image_loses_nothing_and_a_worse_one_more(name: str) -> None:

    def loss(prediction: Prediction) -> Tensor:
        return losses_of(prediction, make_loss(name))["loss"]

    image, target, data_range = images()
    perfect = loss(Prediction(target, target, data_range))
    near = loss(Prediction((image + 3 * target) / 4, target, data_range))
    far = loss(Prediction(image, target, data_range))
    assert perfect.abs().max() < 1e-5
    assert (near > perfect + 1e-4).all()
    assert (far > near).all()


def test_ssim_is_one_minus_that_of_scikit_image() -> None:
    image, target, data_range = images()
    ours = losses.ssim(Prediction(image, target, data_range))
    for x, y, extent, loss in zip(image, target, data_range, ours, strict=True):
        theirs = structural_similarity(x.numpy(), y.numpy(), data_range=extent.item())
        assert loss.item() == pytest.approx(1 - theirs, abs=1e-5)


def test_l1_and_mse_are_relative_to_the_data_range() -> None:
    target = torch.zeros(1, 8, 9)
    target[0, 4, 4] = 4.0
    image = target + 1.0
    data_range = torch.tensor([4.0])
    assert losses.l1(Prediction(image, target, data_range)).item() == pytest.approx(1 / 4)
    assert losses.mse(Prediction(image, target, data_range)).item() == pytest.approx(1 / 16)


@pytest.mark.parametrize("name", [*DISTANCES, "l1+ssim"])
def test_the_intensity_of_a_scan_does_not_change_its_loss(name: str) -> None:

    def loss(prediction: Prediction) -> Tensor:
        return losses_of(prediction, make_loss(name))["loss"]

    image, target, data_range = images()
    scaled = loss(Prediction(7 * image, 7 * target, 7 * data_range))
    assert torch.allclose(scaled, loss(Prediction(image, target, data_range)), atol=1e-5)


@pytest.mark.parametrize("name", [*DISTANCES, "mse + l1 + ssim"])
def test_gradients_agree_with_finite_differences(name: str) -> None:
    image, target, data_range = (t[:1].double() for t in images())
    image = image[:, :8, :9].requires_grad_()

    def total(x: Tensor) -> Tensor:
        prediction = Prediction(x, target[:, :8, :9], data_range)
        return losses_of(prediction, make_loss(name))["loss"]

    assert torch.autograd.gradcheck(total, (image,))


@pytest.mark.parametrize("name", [*DISTANCES, "l1+ssim"])
def test_black_targets_give_finite_losses_and_gradients(name: str) -> None:
    image = torch.zeros(2, 8, 9, requires_grad=True)
    black = torch.zeros(2, 8, 9)
    loss = losses_of(Prediction(image, black, torch.zeros(2)), make_loss(name))["loss"]
    torch.autograd.backward(loss.sum())
    assert torch.equal(loss, torch.zeros(2))
    assert image.grad is not None
    assert torch.isfinite(image.grad).all()


def test_a_sum_of_names_adds_the_weighted_losses() -> None:
    image, target, data_range = images()
    prediction = Prediction(image, target, data_range)
    total = losses_of(prediction, make_loss("l1+ssim+0.1*mse"))["loss"]
    apart = losses.l1(prediction) + losses.ssim(prediction) + 0.1 * losses.mse(prediction)
    assert torch.allclose(total, apart)


def test_a_loss_may_be_given_as_an_object() -> None:
    prediction = Prediction(*images())
    found = losses_of(prediction, make_loss(losses.l1))
    assert found.keys() == {"loss"} and torch.equal(found["loss"], losses.l1(prediction))


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(
        ValueError, match=r"unknown loss 'sim' in 'l1\+sim'; expected one of standard"
    ):
        make_loss("l1+sim")


@pytest.mark.parametrize("given", ["x*l1", "-1*l1", "0*l1", "inf*l1", "nan*l1", "*l1"])
def test_a_weight_that_is_none_is_quoted(given: str) -> None:
    with pytest.raises(ValueError, match="expected a weight above 0 before"):
        make_loss(given)


def test_nll_is_the_likelihood_of_a_normal_distribution() -> None:
    image, target, data_range = images()
    unit = data_range[:, None, None]
    deviation = (0.05 + 0.1 * torch.rand(image.shape)) * unit
    ours = losses.nll(Prediction(image, target, data_range, deviation))
    normal = torch.distributions.Normal(image / unit, deviation / unit)
    theirs = -normal.log_prob(target / unit) - 0.5 * math.log(2 * math.pi)
    assert torch.allclose(ours, theirs.mean(dim=(-2, -1)), rtol=1e-4)


def test_nll_is_least_for_a_deviation_as_large_as_the_error() -> None:
    target = torch.zeros(1, 8, 9)
    prediction = [
        Prediction(target + 0.3, target, torch.tensor([2.0]), torch.full_like(target, s))
        for s in (0.2, 0.3, 0.4)
    ]
    below, at, above = (losses.nll(p).item() for p in prediction)
    assert at < below and at < above


def test_nll_of_a_certain_pixel_is_finite_and_its_gradients_are_right() -> None:
    image, target, data_range = (t[:1].double() for t in images())
    certain = Prediction(image, target, data_range, torch.zeros_like(image))
    assert torch.isfinite(losses.nll(certain)).all()
    deviation = (0.1 + torch.rand(1, 4, 5).double()).requires_grad_()
    small = image[:, :4, :5].clone().requires_grad_()

    def total(x: Tensor, s: Tensor) -> Tensor:
        return losses.nll(Prediction(x, target[:, :4, :5], data_range, s))

    assert torch.autograd.gradcheck(total, (small, deviation))


def test_nll_without_an_uncertainty_says_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"'nll' needs an uncertainty"):
        losses_of(Prediction(*images()), make_loss("l1+nll"))


def test_the_standard_loss_takes_an_uncertainty_where_there_is_one() -> None:
    image, target, data_range = images()
    without = Prediction(image, target, data_range)
    expected = losses_of(without, make_loss("l1+ssim"))["loss"]
    assert torch.equal(losses.standard(without), expected)
    known = Prediction(image, target, data_range, torch.ones_like(image))
    expected = losses_of(known, make_loss("l1+ssim+0.1*nll"))["loss"]
    assert torch.allclose(losses.standard(known), expected)


def test_images_smaller_than_the_window_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 7 x 7 pixels; got 6 x 9"):
        losses.ssim(Prediction(torch.ones(1, 6, 9), torch.ones(1, 6, 9), torch.ones(1)))


def test_parts_of_a_sum_are_given_without_their_weights() -> None:
    prediction = Prediction(*images())
    found = losses_of(prediction, make_loss("3*l1 + mse"))
    assert torch.equal(found["l1"], losses.l1(prediction))
    assert torch.allclose(found["loss"], 3 * found["l1"] + found["mse"])
