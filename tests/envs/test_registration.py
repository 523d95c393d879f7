"""Every id, made as users make it: contracts, wrappers, learners."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import SyncVectorEnv
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from activemri.data.slices import SliceList
from activemri.reconstruction.registry import WEIGHTS
from activemri.registration import ENVIRONMENTS, Environment
from tests.data.files import write_fastmri, write_image, write_kspace
from tests.envs.scans import equal_scans, scan
from tests.envs.test_vector_env import assert_same

PREFIX = "activemri:ActiveMRI/"
SHIPPED = WEIGHTS / "unet.safetensors"
#: Starting lines and budgets of the published scenarios are for 368 columns.
SMALL: dict[str, Any] = {"n_center_lines": 4, "budget": 5}


def fastmri_files(folder: Path, *, n_coils: int | None, acquisition: str) -> Path:
    for seed, padding in ((0, (0, 0)), (1, (2, 1))):
        write_fastmri(
            folder / f"file{seed}.h5",
            n_coils=n_coils,
            shape=(24, 20 + 2 * seed),
            recon=(12, 14),
            padding=padding,
            patient=f"patient-{seed}",
            acquisition=acquisition,
            seed=seed,
        )
    return folder


def generic_files(folder: Path) -> Path:
    write_kspace(folder / "raw.h5", shape=(2, 3, 18, 20), seed=1, subject="a")
    write_image(folder / "image.h5", shape=(2, 16, 18), seed=2, subject="b")
    return folder


DATA: dict[str, Callable[[Path], Path]] = {
    "SinglecoilKnee": lambda f: fastmri_files(f, n_coils=None, acquisition="CORPD_FBK"),
    "MulticoilKnee": lambda f: fastmri_files(f, n_coils=3, acquisition="CORPDFS_FBK"),
    "MulticoilBrain": lambda f: fastmri_files(f, n_coils=3, acquisition="AXT2"),
    "Pineda2020-2L": lambda f: fastmri_files(f, n_coils=None, acquisition="CORPD_FBK"),
    "Pineda2020-30L": lambda f: fastmri_files(f, n_coils=None, acquisition="CORPD_FBK"),
    "HDF5": generic_files,
}


@pytest.fixture(params=ENVIRONMENTS, ids=lambda environment: environment.name)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, dict[str, Any]]:
    """An id and the arguments with which it can be made here."""
    environment: Environment = request.param
    options: dict[str, Any] = {}
    if environment.protocol.data is None:
        options = SMALL | {"data": str(DATA[environment.name](tmp_path / "data")), "split": "all"}
    elif environment.protocol.reconstructor == "unet" and not SHIPPED.is_file():
        pytest.skip("the package was built without the weights of its U-Net")
    elif environment.protocol.matrix_size is None:  # phantoms of 128 x 128 take four times as long
        options = {"matrix_size": 64}
    return PREFIX + f"{environment.name}-v{environment.version}", options


def test_the_checkers_of_gymnasium_and_sb3_pass_for_every_id(
    made: tuple[str, dict[str, Any]],
) -> None:
    name, options = made

    env = gymnasium.make(name, **options)
    check_env(env.unwrapped, skip_render_check=True)
    with warnings.catch_warnings():
        # Test images are smaller than SB3's convolutions want them.
        warnings.simplefilter("ignore", UserWarning)
        sb3_check_env(env.unwrapped)


def test_every_id_plays_to_the_end_in_its_spaces(made: tuple[str, dict[str, Any]]) -> None:
    name, options = made
    env = gymnasium.make(name, **options)
    observation, info = env.reset(seed=0)
    env.action_space.seed(0)
    protocol = env.get_wrapper_attr("options")
    budget, steps, ended = info["remaining"], 0, False
    while not ended:
        assert env.observation_space.contains(observation)
        legal = info["action_mask"]
        if protocol.stop_action:
            legal[-1] = 0
        observation, _, ended, truncated, info = env.step(env.action_space.sample(legal))
        assert not truncated
        steps += 1
    assert steps * env.get_wrapper_attr("episodes").geometry.readouts_per_action == budget
    assert info["auc"] < 1


def test_every_id_makes_a_native_vector_env_equal_to_single_ones(
    made: tuple[str, dict[str, Any]],
) -> None:
    name, options = made
    ours = gymnasium.make_vec(name, num_envs=2, **options)
    theirs = gymnasium.make_vec(name, num_envs=2, vectorization_mode="sync", **options)
    assert type(ours.unwrapped).__name__ == "ActiveMRIVectorEnv"
    assert isinstance(theirs.unwrapped, SyncVectorEnv)
    first = ours.reset(seed=0)
    assert_same(first, theirs.reset(seed=0))
    legal = first[1]["action_mask"]
    for _ in range(3):
        actions = np.array([np.flatnonzero(row)[0] for row in legal])
        step = ours.step(actions)
        assert_same(step, theirs.step(actions))
        legal = step[4]["action_mask"]


def test_torch_observations_go_with_the_passive_checker_off() -> None:
    options: dict[str, Any] = {"reconstructor": "zero-filled", "matrix_size": 16, "to_numpy": False}
    env = gymnasium.make(PREFIX + "Phantom-v0", **(SMALL | options), disable_env_checker=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        observation, info = env.reset(seed=0)
        assert isinstance(observation["image"], torch.Tensor)
        observation = env.step(int(np.flatnonzero(info["action_mask"])[0]))[0]
        assert isinstance(observation["mask"], torch.Tensor)


def test_ids_of_files_say_that_they_need_a_path() -> None:
    for environment in ENVIRONMENTS:
        if environment.protocol.data is None:
            with pytest.raises(ValueError, match="pass data=PATH"):
                gymnasium.make(f"activemri:{environment.id}")


def test_a_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        gymnasium.make(PREFIX + "HDF5-v0", data=str(tmp_path / "nowhere"))


def hdf5(tmp_path: Path, **options: Any) -> gymnasium.Env[Any, Any]:
    data = str(generic_files(tmp_path / "data"))
    given: dict[str, Any] = SMALL | {"data": data, "split": "all"}
    return gymnasium.make(PREFIX + "HDF5-v0", **(given | options))


def test_a_spec_with_options_survives_json(tmp_path: Path) -> None:
    env = hdf5(tmp_path, reward="delta_psnr", matrix_size=[16, 14])
    assert env.spec is not None
    again = gymnasium.make(EnvSpec.from_json(env.spec.to_json()))
    assert_same(again.reset(seed=0), env.reset(seed=0))
    assert again.unwrapped.options.reward == "delta_psnr"  # type: ignore[attr-defined]
    assert again.observation_space == env.observation_space


def test_a_quarter_of_the_lines_is_the_default_so_that_orders_differ(tmp_path: Path) -> None:
    data = str(generic_files(tmp_path / "data"))
    env = gymnasium.make(PREFIX + "HDF5-v0", data=data, split="all", n_center_lines=2)
    n_lines = int(env.action_space.n)  # type: ignore[attr-defined]

    def returns(order: int) -> float:
        _, info = env.reset(seed=0)
        assert info["remaining"] == round(n_lines / 4)
        total, ended = 0.0, False
        while not ended:
            action = np.flatnonzero(info["action_mask"])[::order][0]
            _, reward, ended, _, info = env.step(int(action))
            total += float(reward)
        return total

    assert returns(1) != pytest.approx(returns(-1), abs=1e-4)


@pytest.mark.parametrize(("budget", "lines"), [(0.25, 4), (0.5, 9), (0.01, 1), (7, 7)])
def test_a_budget_may_be_a_share_of_the_lines(budget: float, lines: int) -> None:
    env = gymnasium.make(PREFIX + "HDF5-v0", data=equal_scans(), n_center_lines=4, budget=budget)
    assert env.reset(seed=0)[1]["remaining"] == lines
    vector = gymnasium.make_vec(
        PREFIX + "HDF5-v0", 2, data=equal_scans(), n_center_lines=4, budget=budget
    )
    assert vector.reset(seed=0)[1]["remaining"].tolist() == [lines, lines]


def test_a_matrix_size_brings_all_scans_to_one_action_space(tmp_path: Path) -> None:
    env = hdf5(tmp_path, matrix_size=16)
    assert env.action_space == gymnasium.spaces.Discrete(16)
    assert {env.reset(options={"index": i})[0]["image"].shape for i in range(4)} == {(1, 16, 16)}


def test_a_time_limit_of_make_and_of_make_vec_is_the_same() -> None:
    given: dict[str, Any] = {"data": equal_scans(), "max_episode_steps": 2, **SMALL}
    single = gymnasium.make(PREFIX + "HDF5-v0", **given)
    vector = gymnasium.make_vec(PREFIX + "HDF5-v0", num_envs=1, **given)
    observation, _ = single.reset(seed=0)
    assert_same(vector.reset(seed=0)[0]["mask"][0], observation["mask"])
    for action, truncated in ((0, False), (1, True)):
        ours, theirs = vector.step(np.array([action])), single.step(action)
        assert (ours[2][0], ours[3][0]) == theirs[2:4] == (False, truncated)
        assert ours[1][0] == pytest.approx(theirs[1])


@pytest.mark.parametrize("render_mode", ["rgb_array", "ansi"])
def test_the_checker_of_rendering_passes(render_mode: str) -> None:
    env = gymnasium.make(
        PREFIX + "HDF5-v0",
        data=equal_scans(),
        render_mode=render_mode,
        invalid_action="noop",
        **SMALL,
    )
    with warnings.catch_warnings():
        # The data are objects here, which the checker's deep copy of the spec warns about.
        warnings.filterwarnings("ignore", message=".*deepcopy.*")
        check_env(env.unwrapped)


def test_videos_and_statistics_of_episodes_are_recorded(tmp_path: Path) -> None:
    pytest.importorskip("moviepy")
    env = gymnasium.make(
        PREFIX + "HDF5-v0", data=equal_scans(), render_mode="rgb_array", budget=3, n_center_lines=4
    )
    env = gymnasium.wrappers.RecordEpisodeStatistics(env)
    with warnings.catch_warnings():
        # moviepy 1 and its imageio use what newer Python and NumPy discourage.
        warnings.simplefilter("ignore")
        env = gymnasium.wrappers.RecordVideo(
            env, str(tmp_path / "video"), episode_trigger=lambda episode: True, disable_logger=True
        )
        env.reset(seed=0)
        for action in (0, 1, 2):
            info = env.step(action)[-1]
        env.close()  # type: ignore[no-untyped-call]
    assert info["episode"]["l"] == 3
    (video,) = (tmp_path / "video").glob("*.mp4")
    assert video.stat().st_size > 1000


def learnable(**options: Any) -> gymnasium.Env[Any, Any]:
    """Images as small as the convolutions of SB3 allow."""
    data = SliceList([scan(i, shape=(36, 40)) for i in range(2)])
    return gymnasium.make(PREFIX + "HDF5-v0", data=data, budget=4, n_center_lines=4, **options)


def test_sb3_learns_a_few_steps_with_the_default_observation() -> None:
    env = learnable(invalid_action="noop")
    sb3_check_env(env)
    settings: dict[str, Any] = {"seed": 0, "device": "cpu"}
    ppo = PPO("MultiInputPolicy", env, n_steps=8, batch_size=8, n_epochs=1, **settings)
    before = [weight.clone() for weight in ppo.policy.parameters()]
    ppo.learn(16)
    pairs = zip(before, ppo.policy.parameters(), strict=True)
    assert any(not torch.equal(old, new) for old, new in pairs)
    dqn = DQN("MultiInputPolicy", env, buffer_size=50, learning_starts=4, **settings)
    dqn.learn(12)
    observation = env.reset(seed=0)[0]
    assert 0 <= int(dqn.predict(observation, deterministic=True)[0]) < 40


def test_maskable_ppo_finds_the_masks_and_chooses_legal_actions_only() -> None:
    contrib = pytest.importorskip("sb3_contrib")
    env = learnable()  # illegal actions raise here
    model = contrib.MaskablePPO(
        "MultiInputPolicy", env, n_steps=8, batch_size=8, n_epochs=1, seed=0, device="cpu"
    )
    model.learn(16)
    observation, _ = env.reset(seed=0)
    for _ in range(4):
        masks = env.get_wrapper_attr("action_masks")()
        action, _ = model.predict(observation, action_masks=masks)
        assert masks[int(action)]
        observation = env.step(int(action))[0]


def test_real_scans_are_played_at_native_size_and_at_one_size(real_data: Path) -> None:
    for size in (None, 64):  # a file of the train split
        env = gymnasium.make(
            PREFIX + "HDF5-v0",
            data=str(real_data / "open" / "oms_p03_study1_FLAIR.h5"),
            matrix_size=size,
            budget=3,
        )
        observation, info = env.reset(seed=0)
        start, ended = info["ssim"], False
        while not ended:
            assert env.observation_space.contains(observation)
            # The legal action nearest to the centre surely helps.
            legal = np.flatnonzero(info["action_mask"])
            action = legal[np.abs(legal - len(info["action_mask"]) // 2).argmin()]
            observation, _, ended, _, info = env.step(action)
        assert info["psnr"] > 10
        assert info["ssim"] > start - 0.02


def test_a_human_may_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    with pytest.warns(UserWarning, match="HumanRendering wrapper"):
        env = gymnasium.make(
            PREFIX + "HDF5-v0", data=equal_scans(), render_mode="human", n_center_lines=4
        )
    env.reset(seed=0)
    env.step(0)
    env.close()
