"""Scenarios where adaptivity should matter: what each option and id promises."""

from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from activemri import metrics
from activemri.agents.oracles import oracle
from activemri.agents.rollout import rollout
from activemri.data.regions import region_of
from activemri.data.slices import Slice, SliceList
from activemri.envs.env import ActiveMRIEnv
from activemri.envs.protocol import EnvOptions
from activemri.envs.reward import TaskLoss
from activemri.envs.scan import Scan, Truth
from activemri.envs.vector_env import ActiveMRIVectorEnv
from activemri.metrics.reference import center_crop
from activemri.mri.geometry import columns
from activemri.reconstruction.zero_filled import ZeroFilled
from tests.envs.scans import equal_scans, random_weights, scan
from tests.envs.test_no_leak import check_no_leak

PREFIX = "activemri:ActiveMRI/"


def marked(index: int = 0, **options: Any) -> Slice:
    """A scan with a region of interest of its own place."""
    one = scan(index, **options)
    height, width = one.target.shape
    box = (3 + index % 3, 4 + index % 5, 4, 5)
    return replace(one, roi=region_of([box], (height, width)))


def marked_scans(n: int = 3) -> SliceList:
    return SliceList([marked(i) for i in range(n)])


def protocol(**options: Any) -> Scan:
    known: dict[str, Any] = {"budget": 5, "n_center_lines": 3, "metrics": ("roi_ssim", "roi_nmse")}
    return Scan(columns((16, 18)), ZeroFilled(), **(known | options))


def magnitudes(state: Any) -> Tensor:
    image: Tensor = center_crop(state.view.reconstruction.image, state.view.target_shape).abs()
    return image


# --- region of interest ---


@pytest.mark.parametrize("reconstructor", ["zero-filled", "cresnet"])
def test_scores_of_the_region_are_those_of_the_image_shown_and_of_previews(
    reconstructor: str,
) -> None:
    made = protocol()
    if reconstructor != "zero-filled":
        made = replace(made, reconstructor=random_weights(reconstructor))
    scans = [marked(i, target_shape=(12, 14)) for i in range(3)]
    state = made.start(scans)
    target = torch.stack([one.target for one in scans])
    region = torch.stack([one.roi for one in scans if one.roi is not None])
    actions = torch.tensor([[1, 15]] * 3)
    tried = made.preview(state, actions)
    state = made.acquire(state, actions[:, 1])
    ranges = target.amax(dim=(1, 2))
    expected = metrics.roi_ssim(magnitudes(state), target, region=region, data_range=ranges)
    assert torch.allclose(state.scores["roi_ssim"], expected, atol=1e-6)
    assert torch.allclose(tried["roi_ssim"][:, 1], expected, atol=1e-5)
    expected = metrics.roi_nmse(magnitudes(state), target, region=region)
    assert torch.allclose(state.scores["roi_nmse"], expected, rtol=1e-5)
    assert torch.allclose(tried["roi_nmse"][:, 1], expected, rtol=1e-4)


def test_an_oracle_can_care_for_the_region_alone() -> None:
    scans = [marked(i) for i in range(4)]
    both = protocol(metrics=("roi_nmse", "nmse"))
    cares, ignores = (rollout(both, oracle(metric), scans) for metric in ("roi_nmse", "nmse"))
    assert float(cares.scores["roi_nmse"][:, 1].mean()) < float(
        ignores.scores["roi_nmse"][:, 1].mean()
    )
    assert float(cares.scores["nmse"][:, 1].mean()) > float(ignores.scores["nmse"][:, 1].mean())


def test_rewards_add_up_to_the_gain_within_the_region() -> None:
    env = ActiveMRIEnv(
        data=marked_scans(), budget=4, n_center_lines=3, reward="-delta_roi_nmse", step_cost=0.01
    )
    _, info = env.reset(seed=1)
    first, total, ended = info["roi_nmse"], 0.0, False
    while not ended:
        action = int(np.argmax(info["action_mask"]))
        _, reward, ended, _, info = env.step(action)
        total += reward
    assert total == pytest.approx(first - info["roi_nmse"] - 4 * 0.01)
    assert "roi_ssim" in info


def test_the_agent_may_see_where_the_region_is() -> None:
    data = SliceList([marked(0, target_shape=(12, 14)), marked(1, shape=(20, 22))])
    images = []
    for kind in ("image", "roi"):
        env = ActiveMRIEnv(data=data, observation=kind, n_center_lines=3)
        observation, _ = env.reset(options={"index": 0})
        assert env.observation_space.contains(observation)
        images.append(observation["image"])
    (plain, image), roi = images, data[0].roi
    assert roi is not None
    assert image.shape == (2, 20, 22)
    assert np.array_equal(image[:1], plain)
    expected = np.zeros((20, 22), np.uint8)
    expected[4:16, 4:18] = 255 * roi.numpy()
    assert np.array_equal(image[1], expected)


def test_where_no_region_is_its_channel_is_black() -> None:
    env = ActiveMRIEnv(data=equal_scans(), observation="roi", n_center_lines=3)
    assert not env.reset(seed=0)[0]["image"][1].any()


@pytest.mark.parametrize("reconstructor", ["zero-filled", "cresnet"])
def test_a_region_lets_nothing_be_seen_that_was_not_acquired(reconstructor: str) -> None:
    one = marked(0, shape=(11, 13), target_shape=(9, 10))
    made = Scan(
        columns((11, 13)),
        random_weights(reconstructor),
        budget=6,
        n_center_lines=4,
        metrics=("roi_ssim", "ssim"),
    )
    check_no_leak(made, one)


def test_slices_without_a_region_are_refused_where_it_is_scored() -> None:
    env = ActiveMRIEnv(data=equal_scans(), reward="delta_roi_ssim", n_center_lines=3)
    with pytest.raises(ValueError, match=r'need a region of interest.*roi="center"'):
        env.reset(seed=0)
    with pytest.raises(ValueError, match="must agree in size, coils, maps, roi and label"):
        protocol(metrics=("ssim",)).start([scan(0), marked(1)])


def test_any_data_can_be_given_a_region() -> None:
    options: dict[str, Any] = {"data": equal_scans(), "reward": "delta_roi_ssim"}
    center = ActiveMRIEnv(**options, roi="center", n_center_lines=3)
    center.reset(seed=0)
    region = center.episodes.locate(0)[0].view.region
    assert region is not None
    assert torch.equal(region[0], region_of([(4, 5, 8, 9)], (16, 18)))
    box = ActiveMRIEnv(**options, roi=(3, 4, 5, 6), n_center_lines=3)
    box.reset(seed=0)
    region = box.episodes.locate(0)[0].view.region
    assert region is not None
    assert torch.equal(region[0], region_of([(3, 4, 5, 6)], (16, 18)))
    with pytest.raises(ValueError, match="annotations are for scans from files"):
        ActiveMRIEnv(data=equal_scans(), annotations="a.csv")


def test_scans_with_and_without_a_region_share_a_vector_env() -> None:
    data = SliceList([scan(0), marked(1), scan(2), marked(3)])
    env = ActiveMRIVectorEnv(num_envs=4, data=data, n_center_lines=3, observation="roi")
    observation, _ = env.reset(options={"index": np.arange(4)})
    shown = observation["image"][:, 1].any(axis=(1, 2))
    assert shown.tolist() == [False, True, False, True]


# --- downstream networks ---


class Mean(nn.Module):
    """Predicts a number from an image; the loss is its distance from the label."""

    def forward(self, image: Tensor, label: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        return (image.mean(dim=(1, 2)) - label).abs()


def labelled(n: int = 3) -> SliceList:
    return SliceList([replace(scan(i), label=torch.tensor(0.1 * i)) for i in range(n)])


def test_a_networks_loss_is_rewarded_by_its_drop() -> None:
    env = ActiveMRIEnv(data=labelled(), reward=TaskLoss(Mean()), budget=4, n_center_lines=3)
    _, before = env.reset(options={"index": 2})
    _, reward, _, _, after = env.step(1)
    assert reward == pytest.approx(before["task_loss"] - after["task_loss"])
    state = env.episodes.locate(0)[0]
    unit = state.secret.slices[0].target.max()
    assert after["task_loss"] == pytest.approx(
        abs(float((magnitudes(state) / unit).mean()) - 0.2), rel=1e-5
    )


@pytest.mark.parametrize("reconstructor", ["zero-filled", "cresnet"])
def test_an_oracle_can_minimise_a_networks_loss(reconstructor: str) -> None:
    made = replace(
        protocol(metrics=("task_loss",), task=Mean()), reconstructor=random_weights(reconstructor)
    )
    state = made.start(labelled().slices)
    actions = torch.arange(18).repeat(3, 1)
    tried = made.preview(state, actions)["task_loss"].masked_fill(~state.view.legal, torch.inf)
    chosen = oracle("task_loss").act(replace(state.view, truth=Truth(made, state)), [])
    assert torch.equal(chosen, tried.argmin(dim=1))
    after = made.acquire(state, chosen).scores["task_loss"]
    assert torch.allclose(after, tried.amin(dim=1), atol=1e-5)


def test_a_loss_without_a_network_is_refused() -> None:
    with pytest.raises(ValueError, match="task_loss needs a downstream network"):
        ActiveMRIEnv(data=equal_scans(), metrics=("task_loss",), n_center_lines=3).reset(seed=0)


# --- time ---


@pytest.mark.parametrize(("lines", "at_start"), [(1, 6), (4, 2)])
def test_time_goes_by_shots_whatever_a_shot_acquires(lines: int, at_start: int) -> None:
    env = ActiveMRIEnv(
        data=equal_scans(),
        n_center_lines=6,
        lines_per_action=lines,
        tr=0.5,
        stop_action=True,
        budget=8,
    )
    _, info = env.reset(seed=0)
    assert info["time"] == 0.5 * at_start
    for shot in (1, 2):
        _, _, _, _, info = env.step(int(np.argmax(info["action_mask"])))
        assert info["time"] == pytest.approx(0.5 * (at_start + shot))
    _, _, terminated, _, info = env.step(env.action_space.n - 1)  # type: ignore[attr-defined]
    assert terminated
    assert info["time"] == pytest.approx(0.5 * (at_start + 2))  # stopping takes no time


def test_an_illegal_action_takes_its_shot_and_time_is_told_only_with_a_tr() -> None:
    env = ActiveMRIEnv(data=equal_scans(), n_center_lines=6, tr=2.0)
    env.reset(seed=0)
    info = env.step(9)[-1]
    assert info["illegal_action"]
    assert info["time"] == 14.0
    assert "time" not in ActiveMRIEnv(data=equal_scans(), n_center_lines=6).reset(seed=0)[1]


def test_saved_episodes_know_their_time() -> None:
    env = ActiveMRIEnv(data=equal_scans(), n_center_lines=6, tr=2.0)
    _, info = env.reset(seed=0)
    env.step(0)
    saved = env.state_dict()
    later = env.step(1)[-1]["time"]
    env.load_state_dict(saved)
    assert env.step(1)[-1]["time"] == later == info["time"] + 4.0


@pytest.mark.parametrize("tr", [0.0, -1.0, float("inf"), float("nan")])
def test_a_repetition_time_is_a_positive_number(tr: float) -> None:
    with pytest.raises(ValueError, match="tr must be a positive number of seconds"):
        EnvOptions(tr=tr)


# --- the registered ids ---


def small(name: str, **options: Any) -> gymnasium.Env[Any, Any]:
    """The id on small scans without the network, which is another test's matter."""
    return gymnasium.make(
        PREFIX + name,
        matrix_size=32,
        reconstructor="zero-filled",
        disable_env_checker=True,
        **options,
    )


def test_mixed_scans_come_in_both_orientations_of_every_split() -> None:
    scans = EnvOptions(data="phantom-mixed", matrix_size=(16, 24), split="val").dataset()
    assert {scans.describe(i).shape for i in range(len(scans))} == {(16, 24), (24, 16)}
    env = small("Mixed-v0")
    assert env.reset(seed=0)[0]["image"].shape == (1, 32, 32)


def test_users_data_can_be_mixed_as_well() -> None:
    task = EnvOptions(data=SliceList([scan(i, volume="v") for i in range(4)]), orientation="mixed")
    data = task.dataset()
    assert {data[i].shape for i in range(4)} == {(16, 18), (18, 16)}
    env = ActiveMRIVectorEnv(
        num_envs=4, data=task.data, orientation="mixed", roi="center", n_center_lines=3, budget=3
    )
    env.reset(options={"index": np.arange(4)})
    assert len(env.episodes.buckets) == 2
    env.step(np.zeros(4, np.int64) + 2)


def test_in_a_free_budget_a_line_has_a_price_and_stopping_has_none() -> None:
    env = small("FreeBudget-v0")
    _, info = env.reset(seed=0)
    assert info["remaining"] > 15
    before = info["ssim"]
    _, reward, _, _, info = env.step(int(np.argmax(info["action_mask"])))
    assert reward == pytest.approx(info["ssim"] - before - 0.0015)
    _, reward, terminated, _, _ = env.step(env.action_space.n - 1)  # type: ignore[attr-defined]
    assert terminated
    assert reward == 0


def test_a_lesion_is_shown_and_rewarded() -> None:
    env = small("Lesion-v0")
    observation, info = env.reset(seed=0)
    assert set(np.unique(observation["image"][1])) == {0, 255}
    _, reward, _, _, after = env.step(int(np.argmax(info["action_mask"])))
    assert reward == pytest.approx(after["roi_ssim"] - info["roi_ssim"])
    assert "roi_nmse" in after


def test_an_echo_train_acquires_four_lines_in_three_seconds() -> None:
    env = small("EchoTrain-v0")
    _, info = env.reset(seed=0)
    assert (info["n_acquired"], info["time"]) == (8, 6.0)
    _, _, _, _, after = env.step(int(np.argmax(info["action_mask"])))
    assert (after["n_acquired"], after["time"]) == (12, 9.0)
    assert env.action_space.n == 8  # type: ignore[attr-defined]
