import gymnasium
import pytest

from activemri.registration import ENVIRONMENTS, Environment, register_environments

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
