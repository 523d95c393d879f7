import pytest

from activemri.agents import heuristic
from activemri.agents.networks import LearnedPolicy
from activemri.agents.registry import SHIPPED, make_policy
from activemri.agents.rollout import rollout
from activemri.data.sources import open_dataset
from activemri.envs.protocol import EnvOptions


@pytest.mark.parametrize("name", SHIPPED)
def test_a_policy_that_ships_beats_low_frequency_first_on_validation_phantoms(name: str) -> None:
    policy = make_policy(name)
    assert isinstance(policy, LearnedPolicy)
    assert policy.name == name
    scans = open_dataset("phantom", split="val", matrix_size=128)
    task = EnvOptions(data=scans, reconstructor="cresnet", budget=12, metrics=("ssim",))
    slices = [scans[index] for index in (0, 18)]
    ours, theirs = (
        rollout(task.scan(scans), one, slices).area("ssim").mean()
        for one in (policy, heuristic.low_frequency_first())
    )
    assert ours > theirs + 0.01
