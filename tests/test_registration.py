import sys
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import pytest

from activemri import cli
from activemri.registration import (
    ENTRY_POINT,
    ENVIRONMENTS,
    Environment,
    find_spec,
    register_environments,
)

IDS = {
    "ActiveMRI/Phantom-v0",
    "ActiveMRI/PhantomMulticoil-v0",
    "ActiveMRI/SinglecoilKnee-v0",
    "ActiveMRI/MulticoilKnee-v0",
    "ActiveMRI/MulticoilBrain-v0",
    "ActiveMRI/Pineda2020-2L-v0",
    "ActiveMRI/Pineda2020-30L-v0",
    "ActiveMRI/Mixed-v0",
    "ActiveMRI/FreeBudget-v0",
    "ActiveMRI/Lesion-v0",
    "ActiveMRI/EchoTrain-v0",
    "ActiveMRI/LowField-v0",
    "ActiveMRI/Motion-v0",
    "ActiveMRI/Spikes-v0",
    "ActiveMRI/Radial-v0",
    "ActiveMRI/Volume-v0",
    "ActiveMRI/HDF5-v0",
}


def test_the_ids_that_others_rely_on_are_registered() -> None:
    assert {environment.id for environment in ENVIRONMENTS} == IDS
    assert set(gymnasium.registry) >= IDS


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda environment: environment.name)
def test_a_spec_survives_json(environment: Environment) -> None:
    spec = gymnasium.spec(environment.id)
    again = gymnasium.envs.registration.EnvSpec.from_json(spec.to_json())
    assert again.kwargs == spec.kwargs == environment.protocol.changes
    assert (again.entry_point, again.vector_entry_point) == (
        "activemri.envs.env:ActiveMRIEnv",
        "activemri.envs.vector_env:ActiveMRIVectorEnv",
    )


def test_registering_twice_keeps_the_first() -> None:
    before = gymnasium.spec("ActiveMRI/Phantom-v0")
    register_environments()
    assert gymnasium.spec("ActiveMRI/Phantom-v0") is before


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An id that a user's module registers."""
    (tmp_path / "my_scans.py").write_text(
        "import gymnasium\n"
        "gymnasium.register(\n"
        f"    'Mine/Rows-v3', entry_point={ENTRY_POINT!r}, max_episode_steps=7,\n"
        "    kwargs={'geometry': 'rows', 'budget': 9, 'matrix_size': 32},\n"
        ")\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "my_scans:Mine/Rows-v3"
    gymnasium.registry.pop("Mine/Rows-v3", None)
    sys.modules.pop("my_scans", None)


@pytest.mark.parametrize("prefix", ["", "activemri:"])
def test_an_id_is_found_with_and_without_its_module(prefix: str) -> None:
    spec = find_spec(f"{prefix}ActiveMRI/Phantom-v0")
    assert spec is gymnasium.spec("ActiveMRI/Phantom-v0")
    assert (spec.kwargs["reconstructor"], spec.kwargs["budget"]) == ("cresnet", 24)


def test_an_id_of_the_user_serves_every_command_and_stable_baselines(own: str) -> None:
    from activemri.agents.sb3 import make_sb3_env

    spec = find_spec(own)
    assert (spec.id, spec.max_episode_steps) == ("Mine/Rows-v3", 7)
    env = make_sb3_env(own, num_envs=2, reconstructor="zero-filled")
    assert env.env.max_episode_steps == 7 and env.env.episodes.geometry.name == "rows"
    protocol = cli.parse("benchmark", ["--env", own]).protocol
    assert (protocol.budget, protocol.geometry, protocol.matrix_size) == (9, "rows", 32)
    assert protocol.split == "test"  # the command's own
    protocol = cli.parse("train policy", ["--env", own]).protocol
    assert (protocol.budget, protocol.geometry, protocol.split) == (9, "rows", "train")


def test_the_class_itself_may_be_the_entry_point() -> None:
    from activemri.envs.env import ActiveMRIEnv

    gymnasium.register("ByClass-v0", entry_point=ActiveMRIEnv, kwargs={"budget": 3})  # type: ignore[arg-type]
    try:
        assert find_spec("ByClass-v0").kwargs == {"budget": 3}
    finally:
        del gymnasium.registry["ByClass-v0"]


@pytest.mark.parametrize(
    ("id", "reason"),
    [
        ("Phantom", "unknown environment 'Phantom'; expected one of ActiveMRI/Phantom-v0, "),
        ("activemri:ActiveMRI/Phantom-v9", "unknown environment 'activemri:ActiveMRI/Phantom-v9'"),
        ("no_such_module:Mine-v0", "cannot import 'no_such_module': No module named"),
        ("CartPole-v1", "'CartPole-v1' is made by gymnasium.*not by activemri.envs.env"),
    ],
)
def test_what_is_no_environment_of_this_package_is_refused(id: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        find_spec(id)
