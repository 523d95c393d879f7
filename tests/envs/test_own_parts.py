"""Data, rewards and reconstructors of the user's own: what is taken, and what is refused."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor

from activemri.agents.episode_masks import Moment
from activemri.data.images import slices_of_images
from activemri.envs.env import ActiveMRIEnv
from activemri.envs.observation import Frame
from activemri.envs.reward import Scores
from activemri.envs.scan import View
from activemri.envs.scanner import Conditions, Ideal, Requests
from activemri.envs.vector_env import ActiveMRIVectorEnv
from activemri.reconstruction.reconstructor import Measurement, Reconstruction, Reconstructor
from activemri.training.batches import make_batch
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


@pytest.mark.parametrize("gain", [torch.nan, torch.inf])
def test_a_reward_that_is_not_finite_is_refused_at_whatever_step_it_comes(gain: float) -> None:
    gains = [gain, 0.0, 0.0]
    env = made(reward=lambda before, after: torch.full_like(after["ssim"], gains.pop()))
    env.reset(seed=0)
    actions = np.flatnonzero(env.action_masks())
    for action in actions[:2]:
        assert env.step(int(action))[1] == 0
    with pytest.raises(
        ValueError, match=rf"reward: .*finite.*got {gain} after action {actions[2]}"
    ):
        env.step(int(actions[2]))


# --- scanners ---


class Radio(Ideal):
    """The ideal scanner, in whatever form a function brings its samples."""

    is_ideal = False
    form: Callable[[Tensor], Any] = staticmethod(lambda samples: samples)
    outlier: Callable[[Tensor], Any] = staticmethod(lambda samples: samples.real.mean(dim=(1, 2)))

    def measure(self, conditions: Conditions, requests: Requests) -> Any:
        return self.form(super().measure(conditions, requests))

    def outlier_score(self, conditions: Conditions, requests: Requests, samples: Tensor) -> Any:
        return self.outlier(samples)


@pytest.mark.parametrize(
    ("part", "form", "reason"),
    [
        ("form", lambda x: x[:, 0], r"complex samples of shape \(3, 1, 16\); got .*\(3, 16\)"),
        ("form", lambda x: x.abs(), "complex samples .*got torch.float32"),
        ("form", lambda x: x.numpy(), "complex samples .*got complex64"),
        ("form", lambda x: x * torch.nan, "finite samples; got NaN or Inf"),
        ("outlier", lambda x: x.abs(), r"outlier scores, .*got shape \(3, 1, 16\)"),
        ("outlier", lambda x: x.real.mean(dim=(1, 2)) * torch.nan, "outlier scores.*NaN"),
    ],
)
def test_what_no_scanner_can_receive_is_refused_with_its_name(
    part: str, form: Any, reason: str
) -> None:
    own = type("Own", (Radio,), {part: staticmethod(form)})()
    with pytest.raises(ValueError, match=f"scanner Own: expected .*{reason}"):
        made(scanner=own).reset(seed=0)


@pytest.mark.parametrize("scanner", [5, Conditions, object()])
def test_what_is_no_scanner_is_refused(scanner: Any) -> None:
    with pytest.raises(ValueError, match="expected an object or class with repeats, averages"):
        made(scanner=scanner)


# --- observations ---


@pytest.mark.parametrize(
    "form",
    [
        lambda mask: {"mask": mask},
        lambda mask: mask.double(),
        lambda mask: mask.float()[0],
        lambda mask: mask.float() * torch.nan,
        lambda mask: mask.float() + 5,
        lambda mask: mask.float().numpy(),
        lambda mask: None,
    ],
)
def test_an_observation_outside_of_its_own_space_is_refused_at_the_first_look(form: Any) -> None:
    class Own:
        def space(self, frame: Frame) -> gymnasium.Space[Any]:
            return gymnasium.spaces.Box(0, 1, (frame.n_lines,), np.float32)

        def __call__(self, view: View, frame: Frame) -> Any:
            return self.form(view.mask)

        form = staticmethod(lambda mask: mask.float())

    assert made(observation=Own()).reset(seed=0)[0].shape == (18,)
    Own.form = staticmethod(form)
    with pytest.raises(ValueError, match=r"observation '.*expected a tensor \(batch, ...\) in"):
        made(observation=Own()).reset(seed=0)


def test_what_is_no_observation_is_refused() -> None:
    with pytest.raises(ValueError, match="observation 5: expected an object with `space`"):
        made(observation=5)


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
        (lambda x: Reconstruction(x, x.abs().numpy()), "uncertainty .*got float32"),
        (lambda x: Reconstruction(x, [x]), "real uncertainty .*got list"),  # type: ignore[arg-type]
        (lambda x: Reconstruction(x, samples=x), r"\(1, samples, 16, 18\); .*\(1, 16, 18\)"),
        (lambda x: Reconstruction(x, samples=x[:, None] * torch.nan), "expected finite values"),
    ],
)
def test_anything_else_is_refused_with_the_name_of_the_reconstructor(
    form: Any, reason: str
) -> None:
    env = made(reconstructor=Own(form))
    with pytest.raises(ValueError, match=f"^reconstructor Own: .*{reason}") as caught:
        env.reset(seed=0)
    assert "\n" not in str(caught.value)


def test_a_method_that_solves_scan_by_scan_is_looked_at_in_the_same_way() -> None:
    class Solver(Own):
        forward = Reconstructor.forward

        def solve(self, measurement: Measurement) -> Any:
            return self.form(measurement.zero_filled)

    for form in (lambda x: x, lambda x: x.abs()):
        vector = ActiveMRIVectorEnv(num_envs=3, data=equal_scans(), reconstructor=Solver(form))
        assert np.isfinite(vector.reset(seed=0)[1]["ssim"]).all()
        assert np.isfinite(vector.simulate(np.array([[3, 4]] * 3))["ssim"]).all()
    with pytest.raises(
        ValueError, match=r"Solver: expected a complex image of shape \(1, 16, 18\)"
    ):
        made(reconstructor=Solver(lambda x: x[0])).reset(seed=0)


def test_an_image_that_is_not_finite_is_refused_at_whatever_step_it_comes() -> None:
    env = made(reconstructor=Own(lambda x: x if counted.pop() else x * torch.nan))
    counted = [0, 1, 1, 1]
    env.reset(seed=0)
    actions = np.flatnonzero(env.action_masks())
    for action in actions[:2]:
        env.step(int(action))
    with pytest.raises(ValueError, match=r"reconstructor Own: expected finite values"):
        env.step(int(actions[2]))


def test_a_training_looks_at_the_form_of_what_it_trains() -> None:
    network = Own(lambda x: x[:, 1:]).train()
    scans, nothing = equal_scans(), torch.empty(0, dtype=torch.int64)
    start = torch.arange(18) // 3 == 3
    batch = make_batch(
        made().episodes.scan,
        scans.slices,
        [Moment(start, nothing, nothing)] * len(scans),
    )
    with pytest.raises(ValueError, match="reconstructor Own: expected a complex image"):
        batch.magnitude(network)


def test_a_result_in_the_right_form_is_passed_on_as_it_is() -> None:
    env = made(reconstructor=Unsure())
    env.reset(seed=0)
    assert env.episodes.locate(0)[0].view.reconstruction.uncertainty is not None


@pytest.mark.parametrize("reconstructor", [lambda measurement: measurement, torch.nn.Identity(), 5])
def test_what_is_no_reconstructor_is_refused(reconstructor: Any) -> None:
    with pytest.raises(ValueError, match="reconstructor: expected a name"):
        made(reconstructor=reconstructor)
