"""Data, rewards and reconstructors of the user's own: what is taken, and what is refused."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor

from activemri.data.images import slices_of_images
from activemri.envs.env import ActiveMRIEnv
from activemri.envs.reward import Scores
from activemri.reconstruction.reconstructor import Measurement, Reconstruction, Reconstructor
from tests.envs.scans import Unsure, equal_scans

ID = "activemri:ActiveMRI/Phantom-v0"


def made(**options: Any) -> ActiveMRIEnv:
    settings: dict[str, Any] = {"data": equal_scans(), "budget": 5, "n_center_lines": 3}
    return ActiveMRIEnv(**(settings | options))


def magnitudes(n: int = 3, shape: tuple[int, int] = (16, 18)) -> Any:
    return np.random.default_rng(0).random((n, *shape), dtype=np.float32)


# --- data ---


@pytest.mark.parametrize("torch_tensor", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8", "complex64", "complex128"])
def test_an_array_of_images_is_a_data_set(dtype: str, torch_tensor: bool) -> None:
    images = (200 * magnitudes()).astype(dtype)
    if images.dtype.kind == "c":
        images = images * np.exp(1j * magnitudes())
    given = torch.from_numpy(images) if torch_tensor else images
    env = gymnasium.make(ID, data=given, reconstructor="zero-filled", n_center_lines=3, budget=5)
    _, info = env.reset(seed=0, options={"index": 2})
    assert (info["volume"], info["subject"]) == ("array-2", "array-2")
    assert env.action_space == gymnasium.spaces.Discrete(18)
    _, reward, _, _, _ = env.step(int(np.flatnonzero(info["action_mask"])[0]))
    assert np.isfinite(float(reward))


def test_targets_are_the_magnitudes_of_complex_images_and_those_of_real_ones_have_noise() -> None:
    images = torch.from_numpy(magnitudes()) * torch.polar(torch.tensor(1.0), torch.tensor(0.4))
    scans = slices_of_images(images, subjects=["a", "a", "b"])
    assert [scans.describe(i).subject for i in range(3)] == ["a", "a", "b"]
    torch.testing.assert_close(scans[1].target, images[1].abs())
    assert scans[1].processing == ()
    real = slices_of_images(magnitudes())
    error = (real[1].target - torch.from_numpy(magnitudes()[1])).abs().mean()
    assert 0 < error < 0.02
    mirrored = real[1].kspace[0, 1:, 1:].flip(0, 1).conj()
    assert not torch.allclose(mirrored, real[1].kspace[0, 1:, 1:], atol=0.1)
    assert len(real[1].processing) == 1


def test_arrays_are_brought_to_the_matrix_size() -> None:
    env = made(data=magnitudes(), matrix_size=20)
    assert env.episodes.dataset.shape == (20, 20)


IMAGES = r"\(n, height, width\)"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (magnitudes()[0], IMAGES + r".*got float32 of shape \(16, 18\); .*images\[None\]"),
        (magnitudes()[None], IMAGES + r".*shape \(1, 3, 16, 18\).*SliceList"),
        (magnitudes()[:0], IMAGES + r".*shape \(0, 16, 18\)"),
        (magnitudes(shape=(5, 9)), "each side at least 7"),
        (np.full((2, 9, 9), np.nan), "image 0 is all zero, or holds NaN"),
        (np.zeros((2, 9, 9)), "image 0 is all zero"),
        (magnitudes() - 0.5, "some are negative"),
        (np.full((2, 9, 9), "a"), IMAGES),
        ([1, 2], "data: expected phantoms by name.*got list"),
        (7, "data: expected .*got int"),
        (equal_scans().slices, "a SliceList of Slice objects; got list"),
    ],
)
def test_what_is_no_data_is_refused_in_words(data: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        made(data=data)


def test_subjects_are_one_for_each_image() -> None:
    with pytest.raises(ValueError, match="one for each of 3 images; got 2"):
        slices_of_images(magnitudes(), subjects=["a", "b"])


# --- rewards ---


def test_a_function_is_a_reward() -> None:
    def squared(before: Scores, after: Scores) -> Tensor:
        return (after["ssim"] - before["ssim"]) ** 2

    env, plain = (
        gymnasium.make(ID, data=equal_scans(), reconstructor="zero-filled", reward=reward)
        for reward in (squared, "delta_ssim")
    )
    for one in (env, plain):
        one.reset(seed=0, options={"index": 1})
    assert env.step(2)[1] == pytest.approx(float(plain.step(2)[1]) ** 2)


def test_an_object_with_scores_of_its_own_keeps_them() -> None:
    @dataclass(frozen=True)
    class Falling:
        scores: tuple[str, ...] = ("nmse",)

        def __call__(self, before: Scores, after: Scores) -> Tensor:
            return before["nmse"] - after["nmse"]

    env = made(reward=Falling(), metrics=("psnr",))
    _, info = env.reset(seed=0)
    assert "nmse" in info and env.episodes.score_name == "nmse"


@pytest.mark.parametrize("reward", [3, None, ["ssim"], dict])
def test_what_cannot_be_called_is_no_reward(reward: Any) -> None:
    with pytest.raises(ValueError, match="reward: expected a name, or a function"):
        made(reward=reward)


def test_scores_of_a_reward_are_a_tuple() -> None:
    def mine(before: Scores, after: Scores) -> Tensor:
        return after["ssim"]

    mine.scores = "ssim"  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="its scores as a tuple of names; got 'ssim'"):
        made(reward=mine)


@pytest.mark.parametrize(
    ("reward", "came"),
    [
        (lambda before, after: after["ssim"].mean(), r"got \(\)"),
        (lambda before, after: 1.0, "got float"),
        (lambda before, after: torch.zeros(3), r"got \(3,\)"),
    ],
)
def test_a_reward_is_one_number_a_scan(reward: Any, came: str) -> None:
    env = made(reward=reward)
    _, info = env.reset(seed=0)
    with pytest.raises(ValueError, match=rf"reward: expected a tensor of shape \(1,\).*{came}"):
        env.step(int(np.flatnonzero(info["action_mask"])[0]))


# --- reconstructors ---


class Own(Reconstructor):
    """Zero-filled, in whatever form a function brings it."""

    def __init__(self, form: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.settings = {}
        self.form = form

    def forward(self, measurement: Measurement) -> Any:
        return self.form(measurement.zero_filled)


@pytest.mark.parametrize(
    "form",
    [
        lambda image: image,
        lambda image: image.to(torch.complex128),
        lambda image: Reconstruction(image.to(torch.complex128)),
        lambda image: Reconstruction(image, torch.ones(image.shape, dtype=torch.float64)),
        lambda image: image.abs(),
        lambda image: Reconstruction(image.abs().double()),
    ],
)
def test_what_is_unambiguous_is_taken_for_a_reconstruction(form: Any) -> None:
    env, plain = made(reconstructor=Own(form)), made(reconstructor="zero-filled")
    for one in (env, plain):
        _, info = one.reset(seed=0, options={"index": 1})
    action = int(np.flatnonzero(info["action_mask"])[0])
    assert env.step(action)[1] == pytest.approx(plain.step(action)[1], abs=1e-6)
    tried = env.simulate([3, 4])["ssim"]
    np.testing.assert_allclose(tried, plain.simulate([3, 4])["ssim"], atol=1e-6)
    reconstruction = env.episodes.locate(0)[0].view.reconstruction
    assert reconstruction.image.dtype == torch.complex64
    if reconstruction.uncertainty is not None:
        assert reconstruction.uncertainty.dtype == torch.float32


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        (lambda x: x[:, 1:], r"complex image of shape \(1, 16, 18\); got .*\(1, 15, 18\)"),
        (lambda x: x[:, None], r"got .*\(1, 1, 16, 18\)"),
        (lambda x: x * torch.nan, "expected finite values; got NaN or Inf"),
        (lambda x: x.abs() / 0, "expected finite values; got NaN or Inf"),
        (lambda x: x.abs().int(), "complex image .*got torch.int32"),
        (lambda x: x.numpy(), "expected a Reconstruction.*got ndarray"),
        (lambda x: (x, None), "expected a Reconstruction.*got tuple"),
        (lambda x: None, "expected a Reconstruction.*got NoneType"),
        (lambda x: Reconstruction(x, x), "a real uncertainty .*got torch.complex64"),
        (lambda x: Reconstruction(x, x.abs()[0]), r"uncertainty of shape \(1, 16, 18\)"),
        (lambda x: Reconstruction(x, x.abs() * torch.nan), "expected finite values"),
    ],
)
def test_anything_else_is_refused_with_the_name_of_the_reconstructor(
    form: Any, reason: str
) -> None:
    env = made(reconstructor=Own(form))
    with pytest.raises(ValueError, match=f"^reconstructor Own: .*{reason}") as caught:
        env.reset(seed=0)
    assert "\n" not in str(caught.value)


def test_a_result_in_the_right_form_is_passed_on_as_it_is() -> None:
    env = made(reconstructor=Unsure())
    env.reset(seed=0)
    assert env.episodes.locate(0)[0].view.reconstruction.uncertainty is not None


@pytest.mark.parametrize("reconstructor", [lambda measurement: measurement, torch.nn.Identity(), 5])
def test_what_is_no_reconstructor_is_refused(reconstructor: Any) -> None:
    with pytest.raises(ValueError, match="reconstructor: expected a name"):
        made(reconstructor=reconstructor)
